"""OpenLineage events of tasks on a real Airflow with the OpenLineage listener."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Emulator, Script
from dev.local_airflow import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

DAG = "manxue_order_wait_save"
REFUSED = """
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_manxue.sensors.manxue import ManxueVideoSensor

with DAG("refused", schedule=None):
    ManxueVideoSensor(task_id="wait", video_task_id="proj_1", start_from_trigger=True, end_from_trigger=True)
"""


@pytest.fixture
def airflow(emulator: Emulator, tmp_path: Path) -> Iterator[LocalAirflow]:
    """An Airflow that writes OpenLineage events to a file."""
    dags = tmp_path / "dags"
    dags.mkdir()
    example = Path(__file__).parents[2] / "example_dags" / f"{DAG}.py"
    (dags / example.name).symlink_to(example)
    (dags / "refused.py").write_text(REFUSED)
    transport = {"type": "file", "log_file_path": str(tmp_path / "events.json"), "append": True}
    with LocalAirflow(
        tmp_path / "airflow",
        dags_folder=dags,
        env={"AIRFLOW_CONN_MANXUE_DEFAULT": emulator.airflow_connection_json()},
        config={"openlineage.transport": json.dumps(transport), "openlineage.namespace": "test"},
    ) as airflow:
        if airflow.version < (3, 3):
            pytest.skip("tested on one version only: the events do not depend on it")
        yield airflow


@pytest.mark.heavy
def test_lineage_has_video_and_file_but_no_url(
    airflow: LocalAirflow, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.default_script = Script.timed(queued=1, processing=4)
    airflow.wait_until(
        lambda: airflow.query("SELECT 1 FROM serialized_dag WHERE dag_id = ?", DAG), "the Dag is parsed"
    )
    # The listener would miss a task that ends in the triggerer, so that Dag is refused at import, with the remedy.
    airflow.wait_until(lambda: airflow.query("SELECT 1 FROM import_error"), "a Dag is refused")
    [(filename, trace)] = airflow.query("SELECT filename, stacktrace FROM import_error")
    assert filename.endswith("refused.py")
    assert "Set end_from_trigger=False to use listeners" in trace

    run_id = "lineage"
    body = {"dag_run_id": run_id, "conf": {"destination": f"file://{tmp_path}/films/"}, "logical_date": None}
    airflow._api("POST", f"/api/v2/dags/{DAG}/dagRuns", body)
    assert airflow.wait_for_run(DAG, run_id) == "success"

    def ends() -> dict[str, dict]:
        lines = (tmp_path / "events.json").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return {event["job"]["name"]: event for event in events if event["eventType"] == "COMPLETE"}

    airflow.wait_until(lambda: {f"{DAG}.order", f"{DAG}.save"} <= set(ends()), "both tasks have events")
    video = airflow.xcom(DAG, run_id, "order", "video_task_id")
    for task in ("order", "save"):
        [video_facet] = ends()[f"{DAG}.{task}"]["run"]["facets"]["manxue_videos"]["videos"]
        assert video_facet == {
            "id": video,
            "model": "sd2_manxue_720p",
            "status": "completed",
            "actualDuration": 5.0,
        }
    [saved] = ends()[f"{DAG}.save"]["outputs"]
    assert (saved["namespace"], saved["name"]) == ("file", f"{tmp_path}/films/{video}.mp4")
    assert "signature=" not in (tmp_path / "events.json").read_text()
