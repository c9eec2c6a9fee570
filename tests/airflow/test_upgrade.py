"""Resumption of deferrals from older and newer versions of the package, on a real Airflow."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Emulator, Script

if TYPE_CHECKING:
    from dev.local_airflow import LocalAirflow

DAG = "wait_that_began_with_another_version"
GOLDEN = Path(__file__).parents[1] / "unit" / "golden"
VERSIONS = sorted(folder.name for folder in GOLDEN.iterdir())
BEGAN = 1_800_000_000.0
"""Start of the waits in the golden files, in seconds since the epoch."""


def moved(form, video: str, began: float):
    """Return golden data with another video and start, and with a first poll within two seconds."""
    if isinstance(form, dict):
        moved_form = {name: moved(inner, video, began) for name, inner in form.items()}
        return moved_form | ({"poke_interval": 2.0} if "poke_interval" in form else {})
    if isinstance(form, list):
        return [video]
    if isinstance(form, float) and form >= BEGAN:
        return form - BEGAN + began
    return video if form == "proj_1" else form


class Wait:
    """A run with one task of each class that defers, whose triggerer is stopped."""

    TASKS = ("one", "batch", "order")

    def __init__(self, airflow: LocalAirflow, emulator: Emulator, folder: Path) -> None:
        if airflow.version < (3, 2):
            pytest.skip("this Airflow keeps deferrals in another form than the script writes")
        self.airflow, self.emulator, self.folder = airflow, emulator, folder
        emulator.default_script = Script.by_hand("processing", "completed")
        video = emulator.add_task(script=emulator.default_script, actual_duration=5.17)
        airflow.kill("triggerer")
        self.run_id = airflow.trigger(DAG, conf={"video": video})
        airflow.wait_for_tasks(DAG, self.run_id, dict.fromkeys(self.TASKS, "deferred"))
        self.videos = {"one": video, "batch": video, "order": self.xcom("order", key="video_task_id")}

    def replace_deferrals(self, golden) -> None:
        """Store other deferrals by their tasks, as if they had begun ten minutes ago."""
        began = time.time() - 600
        file = self.folder / "deferrals.json"
        file.write_text(
            json.dumps({task: moved(golden[task], self.videos[task], began) for task in self.TASKS})
        )
        script = Path(__file__).with_name("store_deferrals.py")
        self.airflow.run_python(str(script), DAG, self.run_id, str(file))

    def complete(self) -> None:
        for video in set(self.videos.values()):
            self.emulator.set_status(video, "completed")

    def clear(self) -> None:
        body = {"dry_run": False, "dag_run_id": self.run_id, "only_failed": True}
        self.airflow._api("POST", f"/api/v2/dags/{DAG}/clearTaskInstances", body)

    def xcom(self, task: str, key: str = "return_value"):
        return self.airflow.xcom(DAG, self.run_id, task, key=key)

    def log(self, task: str) -> str:
        return self.airflow.task_log(DAG, self.run_id, task)


@pytest.fixture
def wait(local_airflow: LocalAirflow, emulator: Emulator, tmp_path: Path) -> Wait:
    return Wait(local_airflow, emulator, tmp_path)


def golden_deferrals(version: str):
    return json.loads((GOLDEN / version / "deferrals.json").read_text())


@pytest.mark.parametrize("version", VERSIONS)
def test_deferral_of_an_older_version_ends_correctly(wait: Wait, version: str) -> None:
    wait.replace_deferrals(golden_deferrals(version))
    wait.complete()
    wait.airflow.start("triggerer")

    assert wait.airflow.wait_for_run(DAG, wait.run_id) == "success"
    for task in ("one", "order"):
        result = wait.xcom(task)
        assert result["id"] == wait.videos[task]
        assert result["video_url"] == wait.xcom(task, key="video_url")
        assert "completed, 5" in wait.log(task)
    assert [one["id"] for one in wait.xcom("batch")] == [wait.videos["batch"]]
    assert wait.xcom("batch", key="actualDuration") == [5.17]
    for task in Wait.TASKS:
        # The elapsed time counts from the start in the replaced deferral; a busy machine adds to the ten minutes.
        assert re.search(r"\(after 0:1\d:", wait.log(task))


@pytest.mark.heavy
def test_deferral_of_a_newer_version_fails_and_a_clear_waits_again(wait: Wait) -> None:
    """After a way back. A task that orders continues with its order where Airflow has a task state store."""
    golden = golden_deferrals(VERSIONS[-1])
    for task in Wait.TASKS:
        golden[task]["kwargs"]["argument_of_a_newer_version"] = True
    wait.replace_deferrals(golden)
    orders = len(wait.emulator.ledger.orders)
    wait.airflow.start("triggerer")

    assert wait.airflow.wait_for_run(DAG, wait.run_id) == "failed"
    assert wait.airflow.task_states(DAG, wait.run_id) == dict.fromkeys(Wait.TASKS, "failed")
    for task in Wait.TASKS:
        assert "Airflow ended the deferral" in wait.log(task)

    # Airflow 3.3.2 runs no trigger with the id of one that it could not create, and SQLite gives ids again.
    wait.airflow.kill("triggerer")
    wait.airflow.start("triggerer")
    wait.complete()
    wait.clear()
    wait.airflow.wait_until(
        lambda: wait.airflow.run_state(DAG, wait.run_id) != "failed", "the cleared tasks are scheduled"
    )

    assert wait.airflow.wait_for_run(DAG, wait.run_id) == "success"
    assert wait.xcom("one")["id"] == wait.videos["one"]
    if wait.airflow.version >= (3, 3):
        assert wait.xcom("order")["id"] == wait.videos["order"]
        assert len(wait.emulator.ledger.orders) == orders
