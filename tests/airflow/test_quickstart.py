"""The commands of the pages for users, in a shell, as a reader types them: the quickstart, the page on tests, then the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_provider_manxue.testing import Emulator
from tests.support.pages import ROOT, SHELL, blocks

QUICKSTART = ROOT / "docs/quickstart.md"
TESTING = ROOT / "docs/testing.md"
PORT = "127.0.0.1:8765"
"""Address of the emulator in the pages."""

STORE = '{"conn_type": "aws", "login": "key", "password": "secret", "extra": {"endpoint_url": "http://127.0.0.1:9"}}'
"""A store that refuses connections, for commands that name one."""


def shell_blocks(page, *, in_chapter=None):
    """Return the shell blocks of a page, or of its numbered chapter, without those that are marked as not run."""
    lines = page.read_text().splitlines()
    chapter = {
        number: next(
            (found[1] for line in lines[number::-1] if (found := re.match(r"## (\d)\.", line))), None
        )
        for number in range(len(lines))
    }
    return [
        block
        for block in blocks(page, *SHELL)
        if not block.not_run and in_chapter in (None, chapter[block.line - 1])
    ]


@dataclass
class Reader:
    """A reader with a shell in the folder of the quickstart."""

    home: Path
    emulator: Emulator

    @property
    def folder(self) -> Path:
        return self.home / "manxue-quickstart"

    def runs(self, commands: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run commands in a new shell, after the settings that the quickstart exports."""
        (settings,) = shell_blocks(QUICKSTART, in_chapter="3")
        script = f"set -e\n{settings.typed}\n{commands}".replace("/tmp/manxue", str(self.home / "videos"))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        return subprocess.run(
            ["bash", "-c", script.replace(PORT, self.emulator.url.removeprefix("http://"))],
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=900,
            env=inherited | variables,
        )


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A reader who has installed the package, which is an environment that is there already."""
    home = tmp_path_factory.mktemp("reader")
    activate = home / "manxue-quickstart/venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")
    with Emulator() as emulator:
        yield Reader(home, emulator)


@pytest.fixture(scope="module")
def trial(reader):
    """The output of the chapter that tries the Dag in one process."""
    (dag,) = blocks(QUICKSTART, "python")
    dags = reader.folder / "airflow/dags"
    dags.mkdir(parents=True)
    (dags / "first_video.py").write_text(dag.code.replace("/tmp/manxue", str(reader.home / "videos")))
    (commands,) = shell_blocks(QUICKSTART, in_chapter="4")
    return reader.runs(commands.typed)


def test_quickstart_commands_save_a_video(reader, trial):
    assert trial.returncode == 0, trial.stdout + trial.stderr
    (saved,) = (reader.home / "videos").iterdir()
    assert saved.name in trial.stdout.splitlines()[-1]
    assert saved.read_bytes()[4:8] == b"ftyp"
    assert reader.emulator.ledger.billed == 1


def test_quickstart_names_the_errors_that_airflow_logs(trial):
    count, line = re.search(r"(\w+) lines? with \*([^*]+)\*", QUICKSTART.read_text()).groups()
    words = {"One": 1, "Two": 2, "Three": 3}

    assert (trial.stdout + trial.stderr).count(line) == words[count]


def test_tests_of_the_page_pass(reader, trial):
    """The whole Dag runs in one of them, with the metadata database of the quickstart."""
    folder = reader.folder / "tests"
    folder.mkdir()
    code = "\n\n".join(block.code for block in blocks(TESTING, "python"))
    (folder / "test_first_video.py").write_text(code)
    (record,) = [
        block.code for block in blocks(ROOT / "docs/doctor.md", "json") if '"recorded_at"' in block.code
    ]
    (reader.folder / "manxue-record.json").write_text(record)
    (command,) = shell_blocks(TESTING)

    run = reader.runs(command.typed)

    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{code.count('def test_')} passed" in run.stdout


OTHERS = {
    "connection.md": {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled"},
    "doctor.md": {},
    "on-call.md": {},
    "recipes.md": {},
}
"""Further pages with commands, and the settings that their text asks for."""

FINDINGS = {"manxue", "airflow_provider_manxue"}
"""Commands whose exit code is that of the findings: here no triggerer runs."""


@pytest.mark.heavy
@pytest.mark.parametrize("page", OTHERS)
def test_commands_of_a_page_run(page, reader, trial):
    found = [line for block in shell_blocks(ROOT / "docs" / page) for line in block.typed.splitlines()]
    connection = reader.emulator.airflow_connection_json()

    assert found
    for line in found:
        run = reader.runs(line, AIRFLOW_CONN_FILMS=connection, AIRFLOW_CONN_STORE=STORE, **OTHERS[page])
        allowed = {0, 1} if FINDINGS & set(line.split()) else {0}
        assert run.returncode in allowed, run.stdout + run.stderr
        assert "Traceback" not in run.stderr


@pytest.mark.heavy
def test_commands_that_trigger_the_dag_run(reader, trial):
    """Without the components of Airflow: the run is queued."""
    *_, trigger, _ = shell_blocks(QUICKSTART)

    run = reader.runs(trigger.typed)

    assert run.returncode == 0, run.stdout + run.stderr
    assert "queued" in run.stdout
