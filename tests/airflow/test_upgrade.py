"""Resumption of deferrals from older versions of the package, on a real Airflow."""

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


@pytest.mark.parametrize("version", sorted(folder.name for folder in GOLDEN.iterdir()))
def test_deferral_of_an_older_version_ends_correctly(
    local_airflow: LocalAirflow,
    emulator: Emulator,
    tmp_path: Path,
    version: str,
) -> None:
    if local_airflow.version < (3, 2):
        pytest.skip("this Airflow keeps deferrals in another form than the script writes")
    golden = json.loads((GOLDEN / version / "deferrals.json").read_text())
    emulator.default_script = Script.by_hand("processing", "completed")
    video = emulator.add_task(script=emulator.default_script, actual_duration=5.17)
    local_airflow.kill("triggerer")
    run_id = local_airflow.trigger(DAG, conf={"video": video})
    tasks = ("one", "batch", "order")
    local_airflow.wait_for_tasks(DAG, run_id, dict.fromkeys(tasks, "deferred"))

    videos = {
        "one": video,
        "batch": video,
        "order": local_airflow.xcom(DAG, run_id, "order", key="video_task_id"),
    }
    began = time.time() - 600
    file = tmp_path / "deferrals.json"
    file.write_text(json.dumps({task: moved(golden[task], videos[task], began) for task in tasks}))
    local_airflow.run_python(str(Path(__file__).with_name("store_deferrals.py")), DAG, run_id, str(file))
    for one in set(videos.values()):
        emulator.set_status(one, "completed")
    local_airflow.start("triggerer")

    assert local_airflow.wait_for_run(DAG, run_id) == "success"
    for task in ("one", "order"):
        result = local_airflow.xcom(DAG, run_id, task)
        assert result["id"] == videos[task]
        assert result["video_url"] == local_airflow.xcom(DAG, run_id, task, key="video_url")
        assert "completed, 5" in local_airflow.task_log(DAG, run_id, task)
    assert [one["id"] for one in local_airflow.xcom(DAG, run_id, "batch")] == [video]
    assert local_airflow.xcom(DAG, run_id, "batch", key="actualDuration") == [5.17]
    for task in tasks:
        # The elapsed time counts from the start in the replaced deferral; a busy machine adds to the ten minutes.
        assert re.search(r"\(after 0:1\d:", local_airflow.task_log(DAG, run_id, task))
