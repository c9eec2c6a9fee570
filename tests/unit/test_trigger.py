"""
Triggers: serialization, restarts, events, and errors that are not of this package.

The rules and their reasons are in docs/how-a-wait-travels.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from pathlib import Path

import pytest

from airflow_provider_manxue._core.deadline import EVENT_MARGIN
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueRateLimitError,
    ManxueTransientError,
)
from airflow_provider_manxue.testing import Emulator, Script
from airflow_provider_manxue.triggers.manxue import ManxueVideoBatchTrigger, ManxueVideoTrigger
from tests.support.fake_airflow import START, FakeClient, first_event, restored

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
        (ManxueVideoTrigger, {**ARGUMENTS, "has_worked": True, "defer_timeout_margin": 1800.0}),
        (ManxueVideoBatchTrigger, {"video_task_ids": [REFERENCE, "{{ params.id }}"], **BEGINS_HERE}),
        (
            ManxueVideoTrigger,
            {"video_task_id": REFERENCE, "grace_since": None, "last_answer": "", **BEGINS_HERE},
        ),
    ],
)
def test_serialize_returns_the_arguments(kind, arguments):
    path = f"airflow_provider_manxue.triggers.manxue.{kind.__name__}"
    assert kind(**arguments).serialize() == (path, arguments)


def test_restart_does_not_move_the_deadline(fake_airflow, service, clock):
    service.respond_with("processing")
    clock.now = START + 500
    event = fake_airflow.run_loop(first_event(restored(trigger_with())))
    assert event["status"] == "timeout"
    assert clock.now == pytest.approx(START + 600, abs=1)


def test_video_completed_while_triggerer_was_down_is_found(fake_airflow, service, clock):
    service.respond_with(DONE)
    clock.now = START + 5000
    assert fake_airflow.run_loop(first_event(trigger_with()))["status"] == "completed"


def test_deadline_passed_while_triggerer_was_down_is_final(fake_airflow, service, clock):
    service.respond_with("processing")
    clock.now = START + 5000
    assert fake_airflow.run_loop(first_event(trigger_with()))["status"] == "timeout"
    assert len(service.polled_at) == 1


def test_grace_period_continues_after_a_restart(fake_airflow, service, clock):
    service.respond_with({"status": "completed"})
    clock.now = START + 400
    assert fake_airflow.run_loop(first_event(trigger_with(grace_since=START)))["status"] == "result_missing"


def test_event_names_the_last_error(fake_airflow, service):
    service.respond_with(ManxueTransientError("HTTP 503"))
    event = fake_airflow.run_loop(first_event(trigger_with()))
    assert (event["status"], event["video_task_id"]) == ("timeout", "proj_1")
    assert "HTTP 503" in event["message"]


def test_thousand_real_waits_leave_no_open_socket(monkeypatch):
    def sockets():
        names = []
        for file in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the descriptor that listed the folder is closed by now
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
        # The emulator runs in this process too, and closes its ends of the connections a little later.
        emulator.stop()
        assert sockets() <= before


# --- times of Airflow -------------------------------------------------------------------------------------


def test_throttled_final_poll_is_retried_to_the_defer_timeout(fake_airflow, service, clock):
    service.respond_with("processing", ManxueRateLimitError("HTTP 429"))
    event = fake_airflow.run_loop(first_event(trigger_with(defer_timeout_margin=300.0)))
    assert (event["status"], event["final_poll"]) == ("timeout", False), "the worker polls"
    assert clock.now == pytest.approx(START + 600 + 300 - EVENT_MARGIN, abs=1)


def test_event_says_that_the_final_poll_was_made(fake_airflow, service, clock):
    service.respond_with("processing")
    event = fake_airflow.run_loop(first_event(trigger_with()))
    assert (event["status"], event["final_poll"], event["has_worked"]) == ("timeout", True, True)
    assert "Last status from the service: processing." in event["message"]


@pytest.mark.parametrize("has_worked", [True, False])
def test_refused_key_has_grace_after_a_response(fake_airflow, service, clock, has_worked):
    service.respond_with(ManxueAuthenticationError("401"))
    event = fake_airflow.run_loop(first_event(restored(trigger_with(has_worked=has_worked))))
    assert event["status"] == "unauthorized"
    assert clock.now - START == pytest.approx(30 + (300 if has_worked else 0), abs=1)
    assert event.get("has_worked", False) is has_worked


@pytest.mark.parametrize("moment", ["poll", "connection"])
def test_unexpected_exception_is_neither_raised_nor_shown(
    fake_airflow, service, monkeypatch, caplog, capsys, moment
):
    """Exceptions of HTTP libraries hold headers and URLs."""
    caplog.set_level(logging.DEBUG)
    error = RuntimeError("Authorization: Bearer secret")

    async def fail(self, conn_id):
        raise error

    if moment == "connection":
        monkeypatch.setattr(FakeClient, "limiter", fail)
    service.respond_with(error)
    event = fake_airflow.run_loop(first_event(trigger_with(deadline=START + 3600)))
    assert (event["status"], event["version"]) == ("internal", 1)
    assert "builtins.RuntimeError" in event["message"]
    # Airflow 3 logs to stdout, Airflow 2 also through logging.
    printed = next(text for text in (capsys.readouterr().out, caplog.text) if "Unexpected" in text)
    assert "secret" not in printed + str(event)
    assert printed.count("Unexpected builtins.RuntimeError") == 1


@pytest.mark.parametrize(
    "trigger", [trigger_with(), ManxueVideoBatchTrigger(video_task_ids=["proj_1"], **COMMON)]
)
def test_bug_in_the_trigger_becomes_an_event(fake_airflow, monkeypatch, caplog, capsys, trigger):
    async def fail(self, *args):
        raise KeyError("Authorization: Bearer secret")

    monkeypatch.setattr(type(trigger), "_drive", fail)
    event = fake_airflow.run_loop(first_event(trigger))
    assert event["status"] == "internal"
    # Airflow 3 logs to stdout, Airflow 2 also through logging.
    printed = next(text for text in (capsys.readouterr().out, caplog.text) if "Unexpected" in text)
    assert "secret" not in printed + str(event)
    assert printed.count("Unexpected builtins.KeyError in the trigger, at: ") == 1


class Ended(BaseException):
    """An exception that ends the process."""


def test_base_exception_passes_through(fake_airflow, service):
    service.respond_with(Ended())
    with pytest.raises(Ended):
        fake_airflow.run_loop(first_event(trigger_with()))


def test_cancelled_request_is_retried(fake_airflow, service):
    service.respond_with(asyncio.CancelledError(), DONE)
    assert fake_airflow.run_loop(first_event(trigger_with()))["status"] == "completed"
    assert len(service.polled_at) == 2
    assert service.polled_at[1] <= 61


def test_cancelled_trigger_ends(fake_airflow, service):
    service.respond_with("processing")

    async def main():
        task = asyncio.create_task(first_event(trigger_with()))
        await asyncio.sleep(100)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks())

    assert fake_airflow.run_loop(main()) == 1
