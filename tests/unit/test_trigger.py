"""What a trigger hands to the database, and what it does with a world that has moved on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

import pytest

from airflow_provider_manxue.exceptions import ManxueTransientError
from airflow_provider_manxue.testing import Emulator, Script
from airflow_provider_manxue.triggers.manxue import ManxueVideoBatchTrigger, ManxueVideoTrigger
from world import START, first_event, restored

ARGUMENTS = {
    "video_task_id": "proj_1",
    "manxue_conn_id": "manxue_default",
    "poke_interval": 30.0,
    "started_at": START,
    "deadline": START + 600,
    "first_poll_at": START + 30,
    "exponential_backoff": False,
    "max_wait": None,
    "grace_since": None,
    "last_answer": "queued",
}
DONE = {"status": "completed", "video_url": "https://cdn.example.com/v.mp4"}


def trigger_with(**changes):
    return ManxueVideoTrigger(**{**ARGUMENTS, **changes})


COMMON = {
    name: value
    for name, value in ARGUMENTS.items()
    if name not in {"video_task_id", "grace_since", "last_answer"}
}
BEGINS_HERE = {
    **COMMON,
    "started_at": None,
    "deadline": None,
    "first_poll_at": None,
    "timeout": 600.0,
    "execution_timeout": 300.0,
    "end_from_trigger": True,
    "do_xcom_push": False,
}
REFERENCE = {"xcom_task_id": "order", "xcom_key": "return_value", "xcom_is_mapped": False}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ManxueVideoTrigger, ARGUMENTS),
        (ManxueVideoBatchTrigger, {"video_task_ids": ["proj_1", "proj_2"], **COMMON}),
        (ManxueVideoBatchTrigger, {"video_task_ids": [REFERENCE, "{{ params.id }}"], **BEGINS_HERE}),
        (
            ManxueVideoTrigger,
            {"video_task_id": REFERENCE, "grace_since": None, "last_answer": "", **BEGINS_HERE},
        ),
    ],
)
def test_what_is_given_is_serialized(kind, arguments):
    path = f"airflow_provider_manxue.triggers.manxue.{kind.__name__}"
    assert kind(**arguments).serialize() == (path, arguments)


def test_restart_moves_no_deadline(world, service, clock):
    service.answers("processing")
    clock.now = START + 500
    event = asyncio.run(first_event(restored(trigger_with())))
    assert event["status"] == "timeout"
    assert clock.now == pytest.approx(START + 600, abs=1)


def test_video_that_was_finished_while_the_triggerer_was_down_beyond_the_deadline_is_found(
    world, service, clock
):
    service.answers(DONE)
    clock.now = START + 5000
    assert asyncio.run(first_event(trigger_with()))["status"] == "completed"


def test_deadline_that_passed_while_the_triggerer_was_down_ends_the_wait_after_one_look(
    world, service, clock
):
    service.answers("processing")
    clock.now = START + 5000
    assert asyncio.run(first_event(trigger_with()))["status"] == "timeout"
    assert len(service.asked_at) == 1


def test_grace_goes_on_after_a_restart(world, service, clock):
    service.answers({"status": "completed"})
    clock.now = START + 400
    assert asyncio.run(first_event(trigger_with(grace_since=START)))["status"] == "result_missing"


def test_event_tells_the_trouble_that_was_last(world, service):
    service.answers(ManxueTransientError("HTTP 503"))
    event = asyncio.run(first_event(trigger_with()))
    assert (event["status"], event["video_task_id"]) == ("timeout", "proj_1")
    assert "HTTP 503" in event["message"]


def test_thousand_real_waits_leave_no_socket_behind(monkeypatch):
    def sockets():
        names = []
        for file in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the one that lists the folder is gone by now
                names.append(str(file.readlink()))
        return sum(name.startswith("socket:") for name in names)

    async def main(videos):
        now = time.time()

        async def one(video, cancelled):
            trigger = trigger_with(
                video_task_id=video,
                started_at=now,
                deadline=now + 60,
                first_poll_at=now,
                poke_interval=1.0,
                manxue_conn_id="manxue_default",
            )
            task = asyncio.create_task(first_event(trigger))
            if cancelled:
                await asyncio.sleep(0.01)
                task.cancel()
            return (await asyncio.gather(task, return_exceptions=True))[0]

        return await asyncio.gather(*(one(video, n % 3 == 0) for n, video in enumerate(videos)))

    with Emulator(record_requests=False) as emulator:
        connection = json.loads(emulator.airflow_connection_json())
        connection["extra"] = {"requests_per_second": 2000, "max_connections": 50}
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", json.dumps(connection))
        video = emulator.add_task(script=Script.polls("completed"))
        asyncio.run(main([video]))
        before = sockets()
        results = asyncio.run(main([video] * 1000))
        assert sum(isinstance(result, dict) and result["status"] == "completed" for result in results) >= 600
        assert len(results) == 1000
        # The emulator lives in this process too: its ends of the connections close a moment later.
        emulator.stop()
        assert sockets() <= before
