"""Asset events on a real Airflow: the cut starts by itself, once, when all shots of an episode are saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_manxue.testing import Script

if TYPE_CHECKING:
    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow

EPISODE, CUT, ON_SHOT = "manxue_episode_events", "manxue_cut", "on_shot"
FIELDS = {"video_task_id", "uri", "size", "duration", "sha256"}


def test_outlets_of_mapped_saves_have_details(
    local_airflow: LocalAirflow, emulator: Emulator, tmp_path: Path
) -> None:
    """An asset and an alias, on each version. In Airflow 2 they are datasets."""
    videos = [emulator.add_task("completed") for _ in range(2)]
    conf = {"videos": videos, "destination": f"file://{tmp_path}/"}
    run_id = local_airflow.trigger("mapped_saves", conf=conf)
    assert local_airflow.wait_for_run("mapped_saves", run_id) == "success"

    kind = "asset" if local_airflow.is_3 else "dataset"
    sql = (
        f"SELECT {kind}.uri, {kind}_event.extra FROM {kind}_event "
        f"JOIN {kind} ON {kind}.id = {kind}_event.{kind}_id WHERE {kind}_event.source_run_id = ?"
    )
    events = [(uri, json.loads(extra)) for uri, extra in local_airflow.query(sql, run_id)]
    files = {video: f"file://{tmp_path}/{video}.mp4" for video in videos}
    assert sorted((uri, extra["video_task_id"]) for uri, extra in events) == sorted(
        (uri, video) for video, file in files.items() for uri in ("mapped-shot", file)
    )
    for _, extra in events:
        assert set(extra) == FIELDS
        assert extra["uri"] == files[extra["video_task_id"]]


@pytest.fixture
def airflow(local_airflow: LocalAirflow) -> LocalAirflow:
    if local_airflow.version < (3, 3):
        pytest.skip(
            "Airflow 2 has no triggering_asset_events, and the triggerer of 3.1 and 3.2 can crash when several waits begin "
            "(apache/airflow#64620)"
        )
    return local_airflow


def runs(airflow: LocalAirflow, dag: str) -> list[str]:
    return [run_id for (run_id,) in airflow.query("SELECT run_id FROM dag_run WHERE dag_id = ?", dag)]


def is_due(airflow: LocalAirflow, dag: str) -> bool:
    """Return whether an event waits to start a run. Airflow stores that together with the success of the task."""
    return bool(airflow.query("SELECT 1 FROM asset_dag_run_queue WHERE target_dag_id = ?", dag))


def extras(airflow: LocalAirflow, asset: str, run_id: str) -> list[dict[str, Any]]:
    """Return the details in the events of an asset that a run has emitted."""
    sql = (
        "SELECT asset_event.extra FROM asset_event JOIN asset ON asset.id = asset_event.asset_id "
        "WHERE asset.name = ? AND asset_event.source_run_id = ? ORDER BY asset_event.source_map_index"
    )
    return [json.loads(extra) for (extra,) in airflow.query(sql, asset, run_id)]


def test_example_dag_cut_starts_once_after_all_shots(
    airflow: LocalAirflow, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.default_script = Script.by_hand("processing", "completed")
    lengths = {"shot 0": 4.01, "shot 1": 5.02, "shot 2": 6.03}
    before = len(emulator.ledger.orders)
    for dag in (CUT, ON_SHOT):
        airflow.wait_for_dag(dag)
    conf = {"shots": list(lengths), "destination": f"file://{tmp_path}/"}
    run_id = airflow.trigger(EPISODE, conf=conf)
    airflow.wait_until(lambda: len(emulator.ledger.orders) == before + 3, "all shots are ordered")
    ids = {order.request["prompt"]: order.id for order in emulator.ledger.orders[before:]}
    for prompt, task_id in ids.items():
        emulator.task(task_id).actual_duration = lengths[prompt]

    emulator.set_status(ids["shot 0"], "completed")
    airflow.wait_for_tasks(EPISODE, run_id, {("shot.save", 0): "success"})
    assert not is_due(airflow, CUT)
    airflow.wait_until(lambda: runs(airflow, ON_SHOT), "the consumer of the shots has started")
    assert [extra["video_task_id"] for extra in extras(airflow, "manxue-shot", run_id)] == [ids["shot 0"]]
    assert runs(airflow, CUT) == []

    for prompt in ("shot 1", "shot 2"):
        emulator.set_status(ids[prompt], "completed")
    assert airflow.wait_for_run(EPISODE, run_id) == "success"
    airflow.wait_until(lambda: runs(airflow, CUT), "the cut has started")
    [cut] = runs(airflow, CUT)
    assert airflow.wait_for_run(CUT, cut) == "success"

    [episode] = extras(airflow, "manxue-episode", run_id)
    assert airflow.xcom(CUT, cut, "episodes") == [episode]
    assert episode["shots"] == extras(airflow, "manxue-shot", run_id)
    assert [set(shot) for shot in episode["shots"]] == [FIELDS] * 3
    assert "signature" not in json.dumps(episode)
    assert Path(tmp_path, "cut.ffconcat").read_text().splitlines() == [
        "ffconcat version 1.0",
        *(
            line
            for prompt in lengths
            for line in (f"file '{ids[prompt]}.mp4'", f"duration {lengths[prompt]}")
        ),
    ]
    assert runs(airflow, CUT) == [cut]
    assert not is_due(airflow, CUT)


@pytest.mark.heavy
def test_event_with_a_partition_key_starts_partitioned_dags_only(airflow: LocalAirflow) -> None:
    """The page says so. It is Airflow's behaviour, which an author may not expect."""
    for dag in ("partitioned_cut", "unpartitioned_cut", "partition_control"):
        airflow.wait_for_dag(dag)
    run_id = airflow.trigger("partitioned_episode", conf={"episode": "episode-7"})
    assert airflow.wait_for_run("partitioned_episode", run_id) == "success"

    airflow.wait_until(lambda: runs(airflow, "partitioned_cut"), "the partitioned Dag has started")
    airflow.wait_until(lambda: runs(airflow, "partition_control"), "a Dag without partitions has started")
    [cut] = runs(airflow, "partitioned_cut")
    assert airflow.wait_for_run("partitioned_cut", cut) == "success"
    assert airflow.xcom("partitioned_cut", cut, "cut") == ["episode-7", {"shots": []}]
    assert runs(airflow, "unpartitioned_cut") == []
