"""Names in the documentation: targets, modules, classes and links on each page exist."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import tomllib

import pytest

from airflow.providers.common.compat.sdk import DAG, BaseOperator, BaseSensorOperator

import airflow_provider_manxue
from airflow_provider_manxue import testing
from airflow_provider_manxue.get_provider_info import get_provider_info
from dev.parameters import public_classes
from tests.support.pages import PAGES, ROOT, blocks, code_spans

MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(airflow_provider_manxue.__path__, "airflow_provider_manxue.")
    # The form needs the web server of Airflow 2, and __main__ is a command.
    if not module.name.endswith(("._form", ".__main__"))
]

INTERNAL = {"video_link_xcom"}
"""Names without an underscore that only the package uses."""


def code_in(page):
    """Return all code on a page, in blocks and in sentences."""
    return "\n".join([*(block.code for block in blocks(page)), *code_spans(page)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_make_target_exists(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    cells = set(re.findall(r"(?:unit|examples)-[a-z0-9.]+-py[0-9.]+", makefile))

    assert set(re.findall(r"\bmake ([a-z][a-z0-9.-]+)", code_in(page))) <= targets | cells


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_module_in_a_command_exists(page):
    named = re.findall(r"python3? -m ([\w.]+)", code_in(page))

    assert [name for name in named if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_dotted_name_resolves(page):
    for name in set(re.findall(r"airflow_provider_manxue(?:\.\w+)+", page.read_text())):
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_named_class_exists(page):
    classes = {name for module in MODULES for name in vars(module)}

    assert set(re.findall(r"\bManxue[A-Z]\w+", page.read_text())) <= classes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_extra_in_a_command_exists(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(rf"{project['name']}\[([^\]]+)\]", page.read_text())

    assert {extra for names in named for extra in names.split(",")} <= set(project["optional-dependencies"])


def parameters(*functions):
    return {name for function in functions for name in inspect.signature(function).parameters}


EMULATOR = [getattr(testing, name) for name in testing.__all__ if callable(getattr(testing, name))]
EMULATOR += [
    method
    for each in EMULATOR
    for name, method in inspect.getmembers(each, inspect.isroutine)
    if not name.startswith("_")
]
OF_AIRFLOW = parameters(BaseOperator.__init__, BaseSensorOperator.__init__, DAG.__init__)
OF_CLASSES = {public.__name__: parameters(public) | OF_AIRFLOW for public in public_classes()}
KEYWORDS = set().union(OF_AIRFLOW, *OF_CLASSES.values(), *(parameters(each) for each in EMULATOR))
OF_OTHERS = {
    "defaults",
    "ifGenerationMatch",
    "key",
    "map_indexes",
    "mode",
    "overwrite",
    "retry_if_failed",
    "state",
}
"""Keywords of Airflow's `HITLOperator`, of `xcom_pull`, of stores, of tools that saves are compared with, and in a log line."""


def keywords_in(span):
    """Return the keywords in code within a sentence, such as ``retries=0``, each with the class that it is passed to."""
    if " = " in span:  # a setting of Airflow
        return
    try:
        tree = ast.parse(span)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield "", node.targets[0].id
        if isinstance(node, ast.Call):
            called = next((one.id for one in ast.walk(node.func) if isinstance(one, ast.Name)), "")
            yield from ((called, keyword.arg) for keyword in node.keywords if keyword.arg)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_keyword_in_a_sentence_is_a_parameter(page):
    for span in code_spans(page):
        for called, keyword in keywords_in(span):
            known = OF_CLASSES.get(called, KEYWORDS | OF_OTHERS)
            assert keyword in known or keyword.isupper(), f"{span}: {keyword}"


def anchors(page):
    """Return the anchors that a Markdown viewer makes from a page's headings."""
    headings = re.findall(r"^#{1,6} (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_local_link_resolves(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_table_has_a_line_below_its_head(page):
    """Without it, the rows are shown as one paragraph."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"(?:\A|^(?!\|).*\n)(\|.*\n)(.*)$", text, re.MULTILINE)

    assert [head for head, line in heads if not re.fullmatch(r"\|(?: *:?-+:? *\|)+", line)] == []


def public_modules():
    """Return the modules in the provider info, and that of the errors."""
    info = get_provider_info()
    groups = (info[kind] for kind in ("hooks", "operators", "sensors", "triggers"))
    return [
        *(module for group in groups for entry in group for module in entry["python-modules"]),
        *(entry["python-module"] for entry in info["transfers"]),
        *{path.rpartition(".")[0] for path in info.get("extra-links", [])},
        "airflow_provider_manxue.exceptions",
    ]


@pytest.mark.parametrize("module", public_modules())
def test_each_public_name_is_in_the_api_reference(module):
    """``automodule`` shows each member that has a docstring, or the listed ones."""
    text = (ROOT / "docs/api.md").read_text()
    shown = re.search(rf"automodule:: {re.escape(module)}\n(?:   :members: (.*)\n)?", text)
    public = {
        name
        for name, value in vars(importlib.import_module(module)).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module
        and not name.startswith("_")
    }

    assert shown, f"{module} is missing in docs/api.md"
    listed = set(shown[1].split(", ")) if shown[1] else public
    assert listed == public - INTERNAL


def test_each_emulator_name_is_in_its_reference():
    text = (ROOT / "docs/api-emulator.md").read_text()

    assert set(re.findall(r"^\.\. (?:auto\w+|py:data):: (?:.*\.)?(\w+)$", text, re.MULTILINE)) - {
        "testing"
    } == set(testing.__all__)


def test_no_page_contains_a_local_path():
    assert [page.name for page in PAGES if f"{ROOT}/" in page.read_text()] == []
