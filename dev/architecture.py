"""The table of modules in docs/architecture.md, made from the first lines of their docstrings.

``python -m dev.architecture`` writes it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "airflow_provider_manxue"
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- modules: python -m dev.architecture -->\n", "<!-- end of modules -->\n"
HEAD = ["| folder | module | contains |", "|---|---|---|"]


def main() -> None:
    """Write the table into the page."""
    before, _, after = parts(PAGE.read_text())
    PAGE.write_text(before + BEGIN + "\n".join([*HEAD, *rows()]) + "\n" + END + after)


def listed() -> list[str]:
    """Return the rows of the table in the page."""
    _, table, _ = parts(PAGE.read_text())
    return table.splitlines()[len(HEAD) :]


def rows() -> list[str]:
    """Return a row for each folder and each module of the package, in the order of their paths."""
    paths = set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"}
    in_order = sorted(paths, key=lambda path: (path.parent, path.stem != "__init__", path.stem))
    return [row(path) for path in in_order]


def row(path: Path) -> str:
    """Return the row of a module; the row of a folder comes from its ``__init__``."""
    folder = path.parent.relative_to(PACKAGE)
    names = [
        f"`{folder}/`" if folder.name else "",
        "" if path.stem == "__init__" else f"`{path.stem}`",
        description(path),
    ]
    return f"| {' | '.join(names)} |"


def description(path: Path) -> str:
    """Return the first sentence of a module's docstring, in Markdown."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    sentence, _, _ = " ".join(docstring.partition("\n\n")[0].split()).partition(". ")
    return re.sub(r"`+", "`", sentence.removesuffix(".")).replace("|", r"\|")


def parts(text: str) -> tuple[str, str, str]:
    """Return the text before the table, the table, and the text after it."""
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    return before, table, after


if __name__ == "__main__":
    main()
