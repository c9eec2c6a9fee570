"""The Dags on the page *Patterns*."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Script

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow

pytestmark = pytest.mark.heavy


def run(airflow: LocalAirflow, dag_id: str, **conf: object) -> str:
    run_id = airflow.trigger(dag_id, conf=conf)
    assert airflow.wait_for_run(dag_id, run_id) == "success", airflow.describe_run(dag_id, run_id)
    return run_id


def test_hook_in_a_task(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    video = emulator.add_task(script="completed")
    run_id = run(local_airflow, "report_of_a_video", video_task_id=video)
    assert local_airflow.xcom("report_of_a_video", run_id, "report") == f"{video} is completed"


def test_sensor_with_the_hook(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    videos = [emulator.add_task(script=Script.by_hand("processing")), emulator.add_task(script="completed")]
    run_id = run(local_airflow, "first_video_of_many", video_task_ids=videos)
    assert local_airflow.xcom("first_video_of_many", run_id, "first_completed") == videos[1:]


def test_task_for_each_video(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    emulator.default_script = Script.failing("the prompt is not allowed")
    run_id = run(local_airflow, "caption_each_video")
    captions = [local_airflow.xcom("caption_each_video", run_id, "caption", map_index=n) for n in range(2)]
    assert all("the prompt is not allowed" in caption for caption in captions)


def test_task_group_for_each_shot(local_airflow: LocalAirflow, emulator: Emulator, tmp_path: Path) -> None:
    emulator.default_script = Script.timed(processing=1)
    run_id = run(local_airflow, "shots_in_groups", destination=f"{tmp_path.as_uri()}/")
    clips = local_airflow.xcom("shots_in_groups", run_id, "saved_clips")
    assert sorted(clips) == sorted(path.as_uri() for path in tmp_path.glob("*.mp4"))
    assert len(clips) == 2


@pytest.mark.parametrize(("seconds", "taken", "skipped"), [(5.17, "short", "long"), (8.0, "long", "short")])
def test_branch_on_the_length(
    local_airflow: LocalAirflow, emulator: Emulator, seconds: float, taken: str, skipped: str
) -> None:
    video = emulator.add_task(script="completed", actual_duration=seconds)
    run_id = run(local_airflow, "branch_on_the_length", video_task_id=video)
    states = local_airflow.task_states("branch_on_the_length", run_id)
    assert (states[taken], states[skipped]) == ("success", "skipped")
