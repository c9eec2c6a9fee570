"""The page for a person on call, and troubleshooting: each metric, text and test that they name exists."""

import re
from pathlib import Path

import pytest

from airflow_provider_manxue._core.metrics import CATALOGUE, PREFIX
from tests.support.named_tests import exists, named_in
from tests.support.package_texts import is_package_text

DOCS = Path(__file__).parents[2] / "docs"
ON_CALL = (DOCS / "on-call.md").read_text()
TRIED = (DOCS / "tried-pages.md").read_text()
OTHERS = {
    "Data too long for column",
    "Executor ... reported that the task instance finished with state success, but the task instance's state attribute is queued",
    "No handler found",
    "ilesystem",
    "which is incompatible with ObjectStoragePath",
}
"""Texts of Airflow, of databases and of the service in troubleshooting."""


def quotations(page):
    """Return the quoted texts of a page, without those in code."""
    text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`([^`\n]*)`", lambda code: "" if '"' in code[1] else code[1], text)
    return sorted(set(re.findall(r'"([^"]+)"', text)))


@pytest.mark.parametrize(
    ("page", "text"),
    [(page, text) for page in ("on-call.md", "troubleshooting.md") for text in quotations(page)],
)
def test_each_quoted_text_is_one_of_the_package(page, text):
    assert is_package_text(text) or text in OTHERS


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(manxue\.[\w.]+)`", ON_CALL))))
def test_each_metric_is_in_the_catalogue(name):
    assert name.removeprefix(PREFIX) in CATALOGUE


def sections(page):
    return re.findall(r"^## (.*)$", page, re.MULTILINE)


def test_each_section_has_a_symptom():
    index = ON_CALL.partition("\n## ")[0]

    assert re.findall(r"\[([^]]+)\]\(#[\w-]+\)", index) == sections(ON_CALL)


@pytest.mark.parametrize("page", ["on-call.md", "recipes.md"])
def test_each_section_has_a_test(page):
    tried = {
        section: named_in(tests)
        for section, tests in re.findall(r"^\| ([^|]+) \| (.*) \|$", TRIED, re.MULTILINE)
    }

    assert [section for section in sections((DOCS / page).read_text()) if not tried.get(section)] == []


def test_each_named_test_exists():
    assert [name for name in named_in(TRIED) if not exists(name)] == []
