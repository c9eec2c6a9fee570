"""Code in the documentation: each block runs or at least parses, and each name in the text exists."""

import ast
import configparser
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import subprocess
import tomllib
import types
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from airflow.providers.common.compat.sdk import DAG

import airflow_provider_manxue
from airflow_provider_manxue import testing
from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue.get_provider_info import get_provider_info
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoSensor

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/*.md")])
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(airflow_provider_manxue.__path__, "airflow_provider_manxue.")
    # The form needs the web server of Airflow 2, and __main__ is a command.
    if not module.name.endswith(("._form", ".__main__"))
]

DIRECTIVES = {"toctree", "eval-rst", "include", "literalinclude", "image", "figure"}
SHELL = {"shell", "bash", "console"}
PARSED_ONLY = {
    "def test_the_dag_survives_the_incident(manxue_emulator):": "needs a record file",
    "from dags.first_video import dag  # your Dag file": "needs a Dag of the reader and a metadata database",
}
NEEDS_3_3 = "# Airflow 3.3 and later"
"""First line of a block that older versions of Airflow only parse."""

INTERNAL = {"video_link_xcom"}
"""Names without an underscore that only the package uses."""


def blocks(*languages):
    """Return each fenced block in one of the languages as a test parameter."""
    found = [
        pytest.param(page, match["code"], id=f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}")
        for page in PAGES
        for text in [page.read_text()]
        for match in re.finditer(r"^```(?P<language>\S*).*\n(?P<code>(?:.*\n)*?)^```$", text, re.MULTILINE)
        if match["language"].strip("{}") in languages
    ]
    assert found, languages
    return found


def all_languages():
    return {
        (page.name, language.strip("{}"))
        for page in PAGES
        for language in re.findall(r"^```(\S+)", page.read_text(), re.MULTILINE)
    }


def commands(code):
    """Return the commands of a shell block, without prompts and output."""
    lines = code.splitlines()
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return "\n".join(typed or lines)


def code_in(page):
    """Return all code on a page, in blocks and in sentences."""
    found = re.findall(r"^```.*\n((?:.*\n)*?)^```$|`([^`\n]+)`", page.read_text(), re.MULTILINE)
    return "\n".join(block or words for block, words in found)


def test_each_block_language_is_checked():
    assert {
        (page, name)
        for page, name in all_languages()
        if name not in DIRECTIVES | SHELL | {"ini", "json", "python", "yaml"}
    } == set()


@pytest.fixture
def readers_dag():
    with DAG("readers_dag", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
        yield


@pytest.fixture
def namespace(readers_dag, manxue_emulator):
    """The names that blocks use without a definition, with an emulator that has accepted one order."""
    ManxueHook().create_video(prompt="A lighthouse", model="sd2_manxue_720p")

    def run_my_dag(video_task_id):
        while ManxueHook().get_video_task(video_task_id).status != "completed":
            pass

    return {
        "__name__": "namespace",
        "os": types.SimpleNamespace(environ={}),
        "emulator": manxue_emulator,
        "manxue_emulator": manxue_emulator,
        "run_my_dag": run_my_dag,
        "order": ManxueCreateVideoOperator(
            task_id="earlier_order", prompt="A lighthouse", model="sd2_manxue_720p"
        ),
        "wait": ManxueVideoSensor(task_id="earlier_wait", video_task_id="proj_1"),
        **{name: getattr(testing, name) for name in testing.__all__},
    }


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_blocks_run(page, code, namespace):
    code = code.replace("http://127.0.0.1:8765", namespace["emulator"].url)
    compiled = compile(code, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    first = code.splitlines()[0]
    if first in PARSED_ONLY or (first == NEEDS_3_3 and not CAN_START_AND_END):
        return
    known = set(namespace)

    exec(compiled, namespace)

    for name in set(namespace) - known:
        if name.startswith("test_"):
            with testing.Emulator() as emulator, pytest.MonkeyPatch.context() as patch:
                patch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", emulator.airflow_connection_json())
                namespace[name](emulator)


@pytest.mark.parametrize(("page", "code"), blocks("json"))
def test_json_blocks_parse(page, code):
    json.loads(code)


@pytest.mark.parametrize(("page", "code"), blocks("yaml"))
def test_yaml_blocks_parse(page, code):
    assert yaml.safe_load(code)


@pytest.mark.parametrize(("page", "code"), blocks("ini"))
def test_ini_blocks_parse(page, code):
    parser = configparser.ConfigParser()
    parser.read_string(code)

    assert parser.sections()


@pytest.mark.parametrize(("page", "code"), blocks(*SHELL))
def test_shell_blocks_parse(page, code):
    run = subprocess.run(["bash", "-n"], input=commands(code), text=True, capture_output=True)

    assert (run.returncode, run.stderr) == (0, "")


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
