"""Many concurrent waits on a real Airflow, and a killed triggerer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Emulator, Script
from tests.support.airflow_runs import mapped_states

if TYPE_CHECKING:
    from dev.local_airflow import LocalAirflow

pytestmark = pytest.mark.heavy


def test_waits_share_a_pool_of_one_slot(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    videos = [emulator.add_task(script=Script.by_hand("processing", "completed")) for _ in range(8)]
    run_id = local_airflow.trigger("wait_for_many", conf={"videos": videos})
    local_airflow.wait_for_tasks("wait_for_many", run_id, {("wait", n): "deferred" for n in range(8)})
    assert local_airflow.occupied_slots("one") == 0
    for video in videos:
        emulator.set_status(video, "completed")
    assert local_airflow.wait_for_run("wait_for_many", run_id) == "success"
    for index, video in enumerate(videos):
        task = local_airflow.xcom("wait_for_many", run_id, "wait", map_index=index)
        assert task["id"] == video
        assert local_airflow.xcom("wait_for_many", run_id, "wait", "video_url", index) == task["video_url"]
        assert local_airflow.xcom("wait_for_many", run_id, "wait", "actualDuration", index) == 5.0


def test_killed_triggerer_costs_at_most_one_poll_each(
    local_airflow: LocalAirflow, emulator: Emulator
) -> None:
    videos = [emulator.add_task(script=Script.by_hand("processing", "completed")) for _ in range(5)]
    run_id = local_airflow.trigger("wait_for_many", conf={"videos": videos})
    local_airflow.wait_for_tasks("wait_for_many", run_id, {("wait", n): "deferred" for n in range(5)})
    deadlines = local_airflow.query("SELECT id, kwargs FROM trigger ORDER BY id")
    local_airflow.wait_until(lambda: all(len(emulator.polls(video)) >= 2 for video in videos))
    local_airflow.kill("triggerer")
    before = {video: len(emulator.polls(video)) for video in videos}
    killed_at = time.monotonic()
    local_airflow.start("triggerer")
    local_airflow.wait_until(lambda: all(len(emulator.polls(video)) > before[video] for video in videos))
    assert local_airflow.query("SELECT id, kwargs FROM trigger ORDER BY id") == deadlines
    for video in videos:
        # Each wait continues at its interval of 5 s, so that the restart adds at most one poll.
        assert len(emulator.polls(video)) - before[video] <= (time.monotonic() - killed_at) / 4.5 + 1
        emulator.set_status(video, "completed")
    assert local_airflow.wait_for_run("wait_for_many", run_id) == "success"


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.volume)])
def test_waits_with_defaults_succeed(local_airflow: LocalAirflow, emulator: Emulator, count: int) -> None:
    """A trigger that fires before the deferral is stored would fail its task."""
    videos = [emulator.add_task(script=Script.polls("processing", "completed")) for _ in range(count)]
    run_id = local_airflow.trigger("wait_for_many_by_default", conf={"videos": videos})
    assert local_airflow.wait_for_run("wait_for_many_by_default", run_id, timeout=900) == "success"
    assert mapped_states(local_airflow, "wait_for_many_by_default", run_id) == ["success"] * count
