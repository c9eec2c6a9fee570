"""Check that the built documentation has an index entry for each word of ``SEARCH_WORDS`` in docs/conf.py.

``python -m dev.search_words docs/_build``
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main(folder: Path) -> int:
    """Return 1 if the search of the site would not lead from a word to its page."""
    text = (folder / "searchindex.js").read_text()
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    pages = index["docnames"]
    missing = [
        f"{word} -> {page}"
        for page, words in runpy.run_path(str(ROOT / "docs/conf.py"))["SEARCH_WORDS"].items()
        for word in words
        if page not in {pages[number] for number, *_ in index["indexentries"].get(word.lower(), ())}
    ]
    print("\n".join(["The search does not find:", *missing]) if missing else "The search finds all words.")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
