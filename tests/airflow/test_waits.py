"""Waits on a real Airflow: results, endings, outages and key rotation."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Emulator, Script
from tests.support.airflow_runs import VIDEO_URL

if TYPE_CHECKING:
    from dev.local_airflow import LocalAirflow


def test_result_is_the_same_in_every_mode(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    video = emulator.add_task(script=Script.timed(queued=3, processing=6), actual_duration=5.17)
    run_id = local_airflow.trigger("wait_in_every_mode", conf={"video": video})
    assert local_airflow.wait_for_run("wait_in_every_mode", run_id) == "success"

    seen = {
        mode: local_airflow.xcom("wait_in_every_mode", run_id, f"use_{mode}")
        for mode in ("deferred", "poke", "reschedule")
    }
    for mode, result in seen.items():
        # Each response has a URL with another signature, so the URLs differ.
        url = result.pop("video_url")
        assert VIDEO_URL.fullmatch(url), mode
        assert result["task"].pop("video_url") == url
        assert result["by_argument"].pop("video_url") == url
        assert result["actualDuration"] == 5.17
        assert result["by_template"] == "5.17"
        assert result["by_argument"] == result["task"]
        assert result["task"]["id"] == video
        assert result["task"]["status"] == "completed"
    assert seen["deferred"] == seen["poke"] == seen["reschedule"]


def test_example_dag_orders_once_and_uses_the_video(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    emulator.default_script = Script.timed(queued=1, processing=4)
    billed = emulator.ledger.billed
    run_id = local_airflow.trigger("manxue_wait_for_video")
    assert local_airflow.wait_for_run("manxue_wait_for_video", run_id) == "success"
    assert emulator.ledger.billed == billed + 1
    assert local_airflow.xcom("manxue_wait_for_video", run_id, "wait", key="actualDuration") == 5.0
    assert local_airflow.xcom("manxue_wait_for_video", run_id, "use") == 5.0


ENDINGS = {
    "failed": (
        Script.failing("the prompt is not allowed"),
        "the prompt is not allowed",
        {"soft_fail", "never_fail"},
    ),
    "timeout": (
        Script.by_hand("processing"),
        "Last status from the service: processing",
        {"soft_fail", "never_fail"},
    ),
    "wrong kind": (Script.named("object_image_generation"), "image.generation", {"never_fail"}),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_ending_is_the_same_in_every_mode(
    local_airflow: LocalAirflow, emulator: Emulator, ending: str
) -> None:
    script, message, skipped_by = ENDINGS[ending]
    run_id = local_airflow.trigger("wait_for_an_ending", conf={"video": emulator.add_task(script=script)})
    local_airflow.wait_for_run("wait_for_an_ending", run_id)
    seen = local_airflow.task_states("wait_for_an_ending", run_id)
    expected = {
        f"{mode}_{option}": "skipped" if option in skipped_by else "failed"
        for mode in ("deferred", "poke", "reschedule")
        for option in ("plain", "soft_fail", "never_fail")
    }
    assert seen == expected, local_airflow.describe_run("wait_for_an_ending", run_id)
    tries = dict(
        local_airflow.query(
            "SELECT task_id, try_number FROM task_instance WHERE dag_id = 'wait_for_an_ending' AND run_id = ?",
            run_id,
        )
    )
    for task, tried in tries.items():
        # Airflow can fail a try of a rescheduled task itself (https://github.com/apache/airflow/issues/71172).
        assert tried == 1 or task.startswith("reschedule"), "an ending is not retried"
        logs = [local_airflow.task_log("wait_for_an_ending", run_id, task, n) for n in range(1, tried + 1)]
        assert [message in log for log in logs] == [False] * (tried - 1) + [True]
    error = "ManxueTimeoutError" if ending == "timeout" else "Manxue"
    assert error in local_airflow.task_log("wait_for_an_ending", run_id, "deferred_plain")


@pytest.mark.heavy
def test_execution_timeout_bounds_the_wait(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    video = emulator.add_task(script=Script.by_hand("processing"))
    run_id = local_airflow.trigger("wait_with_execution_timeout", conf={"video": video})
    local_airflow.wait_for_run("wait_with_execution_timeout", run_id)
    seen = local_airflow.task_states("wait_with_execution_timeout", run_id)
    assert (seen["deferred_plain"], seen["poke_plain"], seen["poke_soft_fail"]) == (
        "failed",
        "failed",
        "skipped",
    )
    if local_airflow.is_3:
        # Airflow 2 ends a resumed task whose execution_timeout has passed before our code runs.
        assert seen["deferred_soft_fail"] == "skipped"
    assert "AirflowTaskTimeout" in local_airflow.task_log(
        "wait_with_execution_timeout", run_id, "deferred_plain"
    )


@pytest.mark.heavy
def test_outage_is_survived_with_backoff(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    video = emulator.add_task(script=Script.by_hand("processing", "completed"))
    run_id = local_airflow.trigger("wait_for_many", conf={"videos": [video]})
    local_airflow.wait_until(lambda: len(emulator.polls(video)) >= 2)
    with emulator.outage("refuse"):
        local_airflow.wait_until(
            lambda: (
                "connection refused" in local_airflow.task_log("wait_for_many", run_id, "wait", map_index=0)
            ),
            "a poll was refused",
        )
    polls = len(emulator.polls(video))
    began = time.monotonic()
    with emulator.outage("503"):
        local_airflow.wait_until(lambda: len(emulator.polls(video)) > polls)
    with emulator.outage("html"):
        local_airflow.wait_until(lambda: len(emulator.polls(video)) > polls + 1)
    assert len(emulator.polls(video)) - polls <= (time.monotonic() - began) / 5 + 2
    emulator.set_status(video, "completed")
    assert local_airflow.wait_for_run("wait_for_many", run_id) == "success"
    log = local_airflow.task_log("wait_for_many", run_id, "wait", map_index=0)
    for message in ("connection refused", "HTTP 503", "not a JSON object", "completed"):
        assert message in log


def test_outage_on_resumption_is_survived(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    # The second poll, of the triggerer, finds the video. The worker that resumes starts an interpreter before it reads it.
    video = emulator.add_task(script=Script.polls("processing", "completed"))
    run_id = local_airflow.trigger("wait_for_many", conf={"videos": [video]})
    local_airflow.wait_until(lambda: len(emulator.polls(video)) == 2, "the triggerer has seen it completed")
    with emulator.outage("refuse"):
        local_airflow.wait_until(
            lambda: (
                local_airflow.task_log("wait_for_many", run_id, "wait", map_index=0).count(
                    "Waiting for the video"
                )
                == 2
            ),
            "the worker has deferred again",
        )
    assert local_airflow.wait_for_run("wait_for_many", run_id) == "success"


def test_batch_with_a_failed_video_returns_the_others(
    local_airflow: LocalAirflow, emulator: Emulator
) -> None:
    good = [emulator.add_task(script=Script.timed(processing=n), actual_duration=4.0 + n) for n in range(3)]
    bad = emulator.add_task(script=Script.failing("the prompt is not allowed"))
    videos = [good[0], bad, *good[1:]]
    run_id = local_airflow.trigger("wait_for_a_batch", conf={"videos": videos})
    local_airflow.wait_for_run("wait_for_a_batch", run_id)
    assert local_airflow.task_states("wait_for_a_batch", run_id)["wait"] == "failed"
    assert local_airflow.xcom("wait_for_a_batch", run_id, "use") == {
        "urls": 4,
        "lengths": [4.0, None, 5.0, 6.0],
        "ids": videos,
    }
    log = local_airflow.task_log("wait_for_a_batch", run_id, "wait")
    assert "the prompt is not allowed" in log
    assert "3 of 4 videos completed, 1 ended otherwise" in log


class TestKeys:
    """Rotated and wrong keys, with an emulator for each test, since a key belongs to all tasks of an emulator."""

    @pytest.fixture
    def service(self, local_airflow: LocalAirflow):
        with Emulator() as service:
            connection = json.loads(service.airflow_connection_json())
            local_airflow.set_connection("rotating", **connection)
            yield service

    def wait_until_deferred(self, airflow, run_id):
        airflow.wait_for_tasks("wait_in_every_mode", run_id, {"deferred": "deferred"})

    def test_rotated_key_is_used(self, local_airflow, service) -> None:
        video = service.add_task(script=Script.by_hand("processing", "completed"))
        run_id = local_airflow.trigger("wait_in_every_mode", conf={"video": video, "connection": "rotating"})
        self.wait_until_deferred(local_airflow, run_id)
        connection = json.loads(service.airflow_connection_json())
        local_airflow.set_connection("rotating", **{**connection, "password": "the-new-key"})
        service.api_key = "the-new-key"
        polls = len(service.polls(video))
        local_airflow.wait_until(lambda: len(service.polls(video)) > polls + 6)
        service.set_status(video, "completed")
        assert local_airflow.wait_for_run("wait_in_every_mode", run_id) == "success"
        assert any(record.status == 401 for record in service.polls(video))

    @pytest.mark.heavy
    def test_wrong_key_fails_with_the_remedy(self, local_airflow, service) -> None:
        service.api_key = "the-new-key"
        video = service.add_task(script=Script.by_hand("processing", "completed"))
        run_id = local_airflow.trigger("wait_in_every_mode", conf={"video": video, "connection": "rotating"})
        assert local_airflow.wait_for_run("wait_in_every_mode", run_id) == "failed"
        log = local_airflow.task_log("wait_in_every_mode", run_id, "deferred")
        assert "ManxueAuthenticationError" in log
        assert "Put a valid key into the connection's field 'API key'" in log
