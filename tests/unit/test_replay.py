"""Records of an emulator, played by a second one: the same responses, and the same ends of waits."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from airflow_provider_manxue._airflow import single_wait, waiting
from airflow_provider_manxue._client import drivers
from airflow_provider_manxue.exceptions import ManxueError
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.sensors.manxue import ManxueVideoSensor
from airflow_provider_manxue.testing import SCENARIOS, Response, Script, Step
from airflow_provider_manxue.testing._script import recorded_scripts
from tests.support.records import KEY, PROMPT, SECRET_URL, entries

pytestmark = pytest.mark.once


@pytest.fixture
def service(start_emulator):
    return start_emulator()


def replay(path, emulator):
    """Add the tasks of a record file to an emulator, and return their ids."""
    return [emulator.add_task(script, id=task_id) for task_id, script in recorded_scripts(path).items()]


# --- a replay equals the record ---------------------------------------------------------------------------

SLOW = {"slow_body", "delayed", "hang"}
"""The first two only differ in real time. The last one has a test of its own, with a short timeout."""

PLAYED = [one.name for one in SCENARIOS.values() if one.place == "query" and one.name not in SLOW]
ODD = {
    "nested": Response(json={"data": [{"data": {"id": "x", "status": "done", "url": SECRET_URL}}]}),
    "envelope_error": Response(json={"code": 401, "msg": PROMPT, "data": {"error": {"detail": [PROMPT]}}}),
    "text": Response(status=502, body="upstream request timeout"),
    "unknown_with_url": Response(overrides={"status": "reviewing", "video_url": SECRET_URL}),
    "headers": Response(status=429, headers={"Retry-After": f"{PROMPT.encode()!r} {KEY}"}),
}


def test_second_record_equals_the_first(start_emulator, record_tasks):
    """One of each scenario is recorded, played by another emulator, and recorded again."""
    service, second = start_emulator(), start_emulator()
    ids = [service.add_task(name, id=name) for name in PLAYED]
    ids += [service.add_task(Script.always(response), id=name) for name, response in ODD.items()]

    path, _ = record_tasks(service, *ids, every=300, duration=3000)
    copied = replay(path, second)
    again, _ = record_tasks(second, *copied, every=300, duration=3000)

    assert copied == [f"task-{number}" for number in range(1, len(ids) + 1)]
    # The date in a Retry-After is rounded to a second.
    dated = f"task-{ids.index('http_429_date') + 1}"
    first, other = ({**entries(one), dated: None} for one in (path, again))
    assert other == first
    dated_entries = [entries(one, without=["retry_after"])[dated] for one in (path, again)]
    assert dated_entries[0] == dated_entries[1]


def test_refused_connection_is_replayed_as_a_reset(service, start_emulator, record_tasks):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    path, _ = record_tasks(service, "film", host=f"http://127.0.0.1:{port}")
    second = start_emulator()
    again, _ = record_tasks(second, *replay(path, second))

    assert entries(path, without=["at", "until"]) == {"task-1": [{"no_response": "refused"}]}
    assert entries(again, without=["at", "until"]) == {"task-1": [{"no_response": "reset"}]}


def test_response_that_never_comes_is_replayed_as_such(service, start_emulator, record_tasks):
    timeout = {"extra": {"request_timeout": 0.3}}

    path, _ = record_tasks(service, service.add_task(Script.always("hang")), **timeout)
    second = start_emulator()
    again, _ = record_tasks(second, *replay(path, second), **timeout)

    assert entries(path, without=["at", "until"]) == {"task-1": [{"no_response": "timeout"}]}
    assert entries(again) == entries(path)


# --- an incident, and a wait during it --------------------------------------------------------------------


def steps_of(*parts):
    """Return a script of parts: seconds, status, response."""
    last = len(parts) - 1
    return Script(
        tuple(
            Step(status=status, seconds=None if number == last else seconds, response=response)
            for number, (seconds, status, response) in enumerate(parts)
        )
    )


NO_URL = Response(overrides={"video_url": None})
OUTAGE = Response(status=502, body="<html>Bad Gateway</html>", headers={"Content-Type": "text/html"})
UNKNOWN = Response(overrides={"status": "reviewing"})
INCIDENTS = {
    "outage": steps_of(
        (100, "queued", None),
        (200, "processing", OUTAGE),
        (200, "processing", Response(status=429, retry_after=45)),
        (100, "processing", UNKNOWN),
        (150, "completed", NO_URL),
        (0, "completed", None),
    ),
    "failed": steps_of(
        (100, "queued", None),
        (150, "processing", Response(reset="before")),
        (0, "failed", Response(overrides={"error": {"message": PROMPT}})),
    ),
    "refused id": steps_of((100, "processing", None), (0, "processing", Response(status=404))),
    "refused key": steps_of((100, "processing", None), (0, "processing", Response(status=401))),
    "another kind": steps_of(
        (100, "processing", None), (0, "completed", Response(overrides={"object": "image.generation"}))
    ),
    "never a URL": steps_of((100, "processing", None), (0, "completed", NO_URL)),
    "timeout": steps_of((100, "queued", None), (0, "processing", None)),
}


@pytest.fixture
def wait(use_emulator, monkeypatch):
    """Return a function that waits with the sensor for a task. It returns the changes that it saw, and the outcome."""

    def wait(emulator, task_id):
        use_emulator(emulator)
        clock = emulator.clock
        fake = SimpleNamespace(monotonic=clock.now, time=clock.now, sleep=clock.advance)
        for module in (drivers, single_wait, waiting):
            monkeypatch.setattr(module, "time", fake)
        seen = []
        query = ManxueHook._query

        def watched(*arguments):
            try:
                task = query(*arguments)
            except ManxueError as error:
                seen.append(type(error))
                raise
            seen.append((task.status, bool(task.video_url)))
            return task

        with monkeypatch.context() as patch:
            patch.setattr(ManxueHook, "_query", watched)
            outcome = outcome_of(task_id)
        return [one for number, one in enumerate(seen) if not number or one != seen[number - 1]], outcome

    return wait


def outcome_of(task_id):
    sensor = ManxueVideoSensor(
        task_id="wait", video_task_id=task_id, deferrable=False, do_xcom_push=False, timeout=1500
    )
    try:
        task = sensor.execute({})
    except ManxueError as error:
        return type(error)
    return task["status"], task["model"], task["created"], task["actualDuration"], task["id"] == task_id


@pytest.mark.parametrize("incident", INCIDENTS)
def test_wait_ends_on_the_replay_as_in_the_incident(start_emulator, record_tasks, wait, incident):
    service, second = start_emulator(), start_emulator()
    for task_id in ("recorded", "awaited"):
        service.add_task(INCIDENTS[incident], id=task_id)
    expected = wait(service, "awaited")
    service.set_script("recorded", INCIDENTS[incident])
    service.task("recorded").created = service.task("awaited").created
    path, _ = record_tasks(service, "recorded", duration=1500)

    [copy] = replay(path, second)

    assert wait(second, copy) == expected
    assert len(expected[0]) > 1


def test_replay_starts_with_the_first_poll(start_emulator, record_tasks):
    service, second = start_emulator(), start_emulator()
    service.add_task(steps_of((100, "queued", None), (0, "completed", None)), id="film")
    path, _ = record_tasks(service, "film", duration=600)
    replay(path, second)

    second.clock.advance(3600)
    again, _ = record_tasks(second, "task-1", duration=600)

    assert entries(again) == entries(path)
