"""
Check of the built documentation: each link and each picture of a page leads to a file of the site, each anchor exists.

Of external addresses only the form is checked, so no network is needed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SITE = Path(__file__).parent.parent / "docs" / "_build"
PAGES_OF_THE_THEME = {"search.html"}
"""Pages whose headings are made by the theme's script."""


@dataclass
class Page:
    """What a page of the site has, and where its links lead."""

    titles: list[str] = field(default_factory=list)
    headings: int = 0
    anchors: set[str] = field(default_factory=set)
    targets: list[str] = field(default_factory=list)
    pictures_without_text: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.page.headings += tag == "h1"
        self._in_title = tag == "title"
        self.page.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        self.page.targets += [value for name in ("href", "src") if (value := given.get(name)) is not None]
        if tag == "img" and not given.get("alt"):
            self.page.pictures_without_text.append(str(given.get("src")))

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.page.titles.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        self._in_title = self._in_title and tag != "title"


def read_pages(site: Path) -> dict[Path, Page]:
    """Return the pages of a site by their resolved paths."""
    pages = {}
    for path in sorted(site.resolve().rglob("*.html")):
        reader = _Reader()
        reader.feed(path.read_text())
        pages[path] = reader.page
    return pages


def problems(site: Path) -> list[str]:
    """Return what is wrong with the pages of a site, one line for each problem."""
    pages = read_pages(site)
    if not pages:
        return [f"{site}: no pages. Build them with: make docs"]
    root = site.resolve()
    found = {
        path: [*_problems_of_page(path, page), *_problems_of_targets(path, root, pages)]
        for path, page in pages.items()
    }
    return [f"{path.relative_to(root)}: {problem}" for path, lines in found.items() for problem in lines]


def _problems_of_page(path: Path, page: Page) -> list[str]:
    found = [f"the picture {source} has no text" for source in page.pictures_without_text]
    if not any(page.titles):
        found.append("it has no title")
    if page.headings != 1 and path.name not in PAGES_OF_THE_THEME:
        found.append(f"it has {page.headings} headings of the first level")
    return found


def _problems_of_targets(path: Path, root: Path, pages: dict[Path, Page]) -> list[str]:
    judged = {target: _problem_of_target(target, path, root, pages) for target in pages[path].targets}
    return [f"{target} {problem}" for target, problem in judged.items() if problem]


def _problem_of_target(target: str, path: Path, root: Path, pages: dict[Path, Page]) -> str | None:
    parts = urlsplit(target)
    if parts.scheme in {"http", "https"}:
        return None if parts.hostname and not set(target) & set(" <>{}") else "is not an address"
    if parts.scheme == "data":
        return None
    if parts.scheme or parts.netloc or parts.path.startswith("/"):
        return "is neither relative, as each link within the site, nor HTTP"
    file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not file.is_relative_to(root) or not file.is_file():
        return "does not exist"
    # "#" alone leads to the top of the page.
    if parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].anchors:
        return "does not exist on that page"
    return None


def main() -> int:
    """Print the problems of the built documentation."""
    found = problems(SITE)
    print("\n".join(found) or f"{len(read_pages(SITE))} pages: all links and pictures lead somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
