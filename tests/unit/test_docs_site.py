"""The site: its order, its list of pages for programs, and words that lead to a page."""

import re
import runpy

import pytest

from dev.parameters import public_classes
from tests.support.pages import ROOT

DOCS = ROOT / "docs"
CONF = runpy.run_path(str(DOCS / "conf.py"))
INDEX = (DOCS / "index.md").read_text()
TREES = {
    caption: pages.split()
    for caption, pages in re.findall(r"```\{toctree\}\n:caption: (.*)\n:hidden:\n\n((?:.*\n)*?)```", INDEX)
}
LIST = (DOCS / "llms.txt").read_text()


def test_each_page_is_in_one_part_of_the_tree():
    listed = [page for pages in TREES.values() for page in pages]

    assert sorted(listed) == sorted(page.stem for page in DOCS.glob("*.md") if page.stem != "index")
    assert [*TREES] == [
        "Start", "Guides", "Operate", "Reference", "Design", "How it is tested and measured",
    ]  # fmt: skip


def test_list_for_programs_has_the_same_order():
    parts = re.findall(r"^## (.*)\n\n((?:- .*\n)*)", LIST, re.MULTILINE)

    assert {caption: re.findall(r"\((.*?)\.html\)", lines) for caption, lines in parts} == TREES
    assert CONF["html_extra_path"] == ["llms.txt"]


def test_list_for_programs_has_the_titles_of_the_pages():
    for title, page in re.findall(r"^- \[(.*?)\]\((.*?)\.html\)", LIST, re.MULTILINE):
        assert page == "changelog" or (DOCS / f"{page}.md").read_text().startswith(f"# {title}\n")


def test_list_for_programs_names_classes_that_exist():
    named = set(re.findall(r"`(Manxue\w+)`", LIST))

    assert named <= {public.__name__ for public in public_classes()}


def test_each_example_dag_is_on_the_site():
    shown = re.findall(r"literalinclude\} \.\./example_dags/(\w+)\.py", (DOCS / "examples.md").read_text())

    assert sorted(shown) == sorted(path.stem for path in (ROOT / "example_dags").glob("*.py"))


@pytest.mark.parametrize("page", CONF["SEARCH_WORDS"])
def test_page_has_the_words_that_lead_to_it(page):
    text = " ".join((DOCS / f"{page}.md").read_text().lower().split())

    assert [word for word in CONF["SEARCH_WORDS"][page] if word.lower() not in text] == []


@pytest.mark.parametrize("word", ["429", "timeout", "deferred", "duplicate", "S3"])
def test_frequent_word_leads_to_a_page(word):
    assert word in {each for words in CONF["SEARCH_WORDS"].values() for each in words}
