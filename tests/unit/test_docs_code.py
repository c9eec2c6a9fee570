"""
Code in the documentation: the blocks of a page run in its order, as a reader types them.

A mark above a block, ``<!-- not run: reason -->``, is an exemption. ``tests/airflow/test_quickstart.py`` runs the commands of the
pages for users; here all commands are parsed.
"""

import argparse
import ast
import configparser
import contextlib
import importlib.util
import inspect
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime

import pytest
import yaml

from airflow.cli import cli_parser
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_manxue import testing
from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue._core.ids import parse_video_task_id
from tests.support.airflow_settings import newest
from tests.support.pages import PAGES, ROOT, SHELL, blocks

MAX_EXEMPTIONS = 10
DIRECTIVES = {"toctree", "eval-rst", "include", "literalinclude", "image", "figure"}
ALL = [block for page in PAGES for block in blocks(page)]
COMMANDS = [block for block in ALL if block.language in SHELL]
OF_THE_EMULATOR = "http://127.0.0.1:8765"
"""Address of the emulator in all pages."""


def parametrize(*languages):
    found = [pytest.param(block, id=str(block)) for block in ALL if block.language in languages]
    return pytest.mark.parametrize("block", found)


def test_each_block_language_is_checked():
    known = DIRECTIVES | SHELL | {"ini", "json", "python", "yaml", ""}  # without a language: a diagram

    assert [str(block) for block in ALL if block.language not in known] == []


def test_exemptions_are_few_and_have_a_reason():
    marks = [mark for page in PAGES for mark in re.findall(r"<!-- not run.*", page.read_text())]
    exempt = [str(block) for block in ALL if block.not_run]

    assert len(marks) == len(exempt), "a mark is not directly above a block, or has no reason"
    assert len(exempt) <= MAX_EXEMPTIONS, exempt


# --- Python -----------------------------------------------------------------------------------------


def first_video():
    """Return the Dag of the quickstart, which the page on tests imports."""
    (dag,) = blocks(ROOT / "docs/quickstart.md", "python")
    return dag.code


def record():
    """Return the record of an incident, as the page of the doctor shows it."""
    return next(
        block.code for block in blocks(ROOT / "docs/doctor.md", "json") if '"recorded_at"' in block.code
    )


@pytest.fixture
def reader(manxue_emulator, monkeypatch, tmp_path):
    """The folder of a reader who has followed the quickstart, and the emulator."""
    (tmp_path / "first_video.py").write_text(first_video())
    (tmp_path / "manxue-record.json").write_text(record())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield manxue_emulator
    sys.modules.pop("first_video", None)


def run_tests(namespace, tmp_path):
    """Run the tests that a page has defined, except those that need a metadata database."""
    for name, test in [*namespace.items()]:
        if name.startswith("test_") and "dag.test()" not in inspect.getsource(test):
            with testing.Emulator() as emulator, pytest.MonkeyPatch.context() as patch:
                patch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", emulator.airflow_connection_json())
                fixtures = {"manxue_emulator": emulator, "tmp_path": tmp_path}
                test(**{parameter: fixtures[parameter] for parameter in inspect.signature(test).parameters})


def is_for_this_airflow(block):
    return CAN_START_AND_END or not block.code.startswith("# Airflow 3.3 and later\n")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
def test_python_blocks_of_a_page_run_in_order(page, reader, tmp_path, monkeypatch):
    code = "\n\n".join(
        block.code for block in blocks(page, "python") if not block.not_run and is_for_this_airflow(block)
    )
    file = tmp_path / "page.py"
    file.write_text(code.replace(OF_THE_EMULATOR, reader.url))

    with DAG("page", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)) as dag:
        namespace = runpy.run_path(str(file))

    try:
        run_tests(namespace, tmp_path)
    finally:
        for value in namespace.values():
            if isinstance(value, testing.Emulator):
                value.stop()
    for each in [dag, *(value for value in namespace.values() if isinstance(value, DAG))]:
        for task in each.tasks:
            check_templates(task)


class Ti:
    """A task instance whose upstream task has pushed the id of its video, and the whole task."""

    def xcom_pull(self, task_ids=None, key="return_value", map_indexes=None):
        if key == "video_task_id":
            return "proj_1"
        return {"id": "proj_1", "status": "completed", "video_url": "https://media.example/1.mp4?signature=1"}


def check_templates(task):
    """Render each literal template of a task: an id has to be one, and no text has the URL of a video."""
    for name in task.template_fields:
        value = getattr(task, name, None)
        if isinstance(value, str) and "{{" in value:
            rendered = task.get_template_env().from_string(value).render(ti=Ti(), params=defaultdict(str))
            assert "signature" not in rendered, f"{task.task_id}: {value} puts the URL into the database"
            if name == "video_task_id":
                assert parse_video_task_id(rendered) == "proj_1"


# --- commands ---------------------------------------------------------------------------------------


@parametrize(*SHELL)
def test_shell_block_parses(block):
    run = subprocess.run(["bash", "-n"], input=block.typed, text=True, capture_output=True)

    assert (run.returncode, run.stderr) == (0, "")


def command_lines():
    """Return the simple commands of all shell blocks, without comments and assignments before them."""
    for block in COMMANDS:
        for line in block.typed.replace("\\\n", " ").splitlines():
            for command in re.split(r"\s&&\s", line):
                words = shlex.split(command, comments=True)
                while words and re.match(r"\w+=", words[0]):
                    words = words[1:]
                if words:
                    yield pytest.param(words, id=f"{block}: {' '.join(words)[:60]}")


class Parsed(Exception):  # noqa: N818
    """A module has parsed its arguments."""


def check_arguments(module, arguments, monkeypatch):
    """Run a module until it has parsed its arguments. Exits if it refuses them."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    # Not run_module: it cannot run a module whose assertions pytest rewrites.
    spec = importlib.util.find_spec(module)
    is_package = spec.submodule_search_locations is not None
    path = importlib.util.find_spec(f"{module}.__main__").origin if is_package else spec.origin
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    with contextlib.suppress(Parsed):
        try:
            runpy.run_path(path, run_name="__main__")
        except ModuleNotFoundError as error:
            pytest.skip(f"{module} needs {error.name}, which `make` installs for its target only")
        pytest.fail(f"{module} has parsed no arguments")


@newest
@pytest.mark.parametrize("words", [*command_lines()])
def test_command_accepts_its_arguments(words, monkeypatch):
    program, *arguments = words
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            if program == "airflow":
                cli_parser.get_parser().parse_args(arguments)
            elif program.rpartition("/")[2] in ("python", "python3") and arguments[0] == "-m":
                check_python(arguments[1], arguments[2:], monkeypatch)
            elif program == "make":
                check_make(arguments)
            else:
                assert program in KNOWN, f"nothing checks {program}"
        except SystemExit as error:
            pytest.fail(f"{' '.join(words)}: {errors.getvalue() or error}")


KNOWN = {".", "cd", "curl", "export", "ls", "mkdir", "pip", "pytest"}
"""Programs without a check of their arguments."""

OTHER_PARSERS = {"venv", "pytest"}
"""Modules that are not of this repository."""


def check_python(module, arguments, monkeypatch):
    if module not in OTHER_PARSERS:
        check_arguments(module, arguments, monkeypatch)


def check_make(targets):
    run = subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, text=True)

    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "block", [pytest.param(each, id=str(each)) for each in COMMANDS if "$ " in each.code and not each.not_run]
)
def test_console_block_shows_what_the_emulator_prints(block, tmp_path):
    tasks = json.loads(record())["tasks"]
    recorded = {**json.loads(record()), "tasks": {**tasks, "task-2": tasks["task-1"]}}
    (tmp_path / "manxue-record-20251028T021155Z.json").write_text(json.dumps(recorded))
    _, *expected = block.code.splitlines()
    command = shlex.split(block.typed.replace("--port 8765", "--port 0"))[1:]

    process = subprocess.Popen([sys.executable, *command], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        printed = [process.stdout.readline().rstrip() for _ in expected]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    port = re.search(r":(\d+)/", printed[0])[1]
    assert [line.replace(port, "8765") for line in printed] == expected


# --- data -------------------------------------------------------------------------------------------


@parametrize("json")
def test_json_block_parses(block):
    json.loads(block.code)


@parametrize("yaml")
def test_yaml_block_parses(block):
    assert yaml.safe_load(block.code)


@parametrize("ini")
def test_ini_block_parses(block):
    parser = configparser.ConfigParser()
    parser.read_string(block.code)

    assert parser.sections()


def test_python_of_exempt_blocks_compiles():
    for block in ALL:
        if block.language == "python" and block.not_run:
            ast.parse(block.code)
