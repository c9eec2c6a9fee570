"""The check of the built documentation, and pictures in the sources that only a forge would show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dev.check_site import problems

ROOT = Path(__file__).parents[2]
GOOD = {
    "index.html": '<title>A</title><h1 id="a">A</h1><a href="#a"></a><a href="#"></a><a href="b/c.html#d%C3%A9"></a>'
    '<img src="i.svg?v=1" alt="I"><a href="https://example.com/x#y"></a><a href="http://localhost:8080"></a>',
    "b/c.html": '<title>C</title><h1>C</h1><p id="dé"></p><a href="../index.html"></a><img src="data:," alt="D">',
    "i.svg": "<svg/>",
}


@pytest.fixture
def site(tmp_path):
    """Return a function that writes a site and returns its problems."""

    def check(**changes):
        for name, text in (GOOD | changes).items():
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        return problems(tmp_path)

    return check


def test_site_with_all_its_targets_has_no_problem(site):
    assert site() == []


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ('<a href="x.html"></a>', "x.html does not exist"),
        ('<a href="b/"></a>', "b/ does not exist"),
        ('<a href="../outside.html"></a>', "../outside.html does not exist"),
        ('<a href="#x"></a>', "#x does not exist on that page"),
        ('<a href="b/c.html#x"></a>', "b/c.html#x does not exist on that page"),
        ('<img src="x.png" alt="X">', "x.png does not exist"),
        ('<script src="x.js"></script>', "x.js does not exist"),
        ('<a href="/b/c.html"></a>', "/b/c.html is neither relative, as each link within the site, nor HTTP"),
        ('<a href="file:///b"></a>', "file:///b is neither relative, as each link within the site, nor HTTP"),
        ('<a href="https:///b"></a>', "https:///b is not an address"),
        ('<a href="https://host/{id}"></a>', "https://host/{id} is not an address"),
        ('<img src="i.svg">', "the picture i.svg has no text"),
        ("<h1>B</h1>", "it has 2 headings of the first level"),
    ],
)
def test_problem_is_reported_with_its_page(site, extra, problem):
    assert site(**{"index.html": GOOD["index.html"] + extra}) == [f"index.html: {problem}"]


def test_page_without_a_title_is_reported(site):
    assert site(**{"i.html": "<title> </title><h1>I</h1>"}) == ["i.html: it has no title"]


def test_site_without_pages_is_reported(tmp_path):
    assert problems(tmp_path) == [f"{tmp_path}: no pages. Build them with: make docs"]


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_each_file_named_in_html_exists(page):
    """A forge shows these; ``tests/unit/test_docs.py`` has the links of Markdown."""
    for target in re.findall(r'\b(?:src|srcset|href)="(?!https?:)([^"#]+)', page.read_text()):
        assert (page.parent / target).is_file(), target
