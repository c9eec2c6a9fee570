"""
Difficult situations for waits, played in real time against the emulator: ``python -m benchmarks.situations``.

Tasks run through ``execute``, ``serialize``, ``run`` and ``resume_execution`` as in Airflow, with one event loop as the
triggerer. Arguments select situations by name.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.testing import Emulator, Response, Script
from benchmarks.waiters import tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_provider_manxue._core.subjects import Subject


CONN_ID = "manxue_default"


@dataclass
class TaskInstance:
    """The part of a task instance that tasks use."""

    task_id: str
    dag_id: str = "dag"
    run_id: str = "run"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0
    xcom: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcom[key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        return self.xcom.get(key)

    def get_first_reschedule_date(self, context: Any) -> None:
        return None


class Triggerer:
    """An event loop in a thread that runs all triggers. It can be paused."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.is_back = threading.Event()
        self.is_back.set()
        self.lags: list[float] = []
        self.own_lags: list[float] = []
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(tick(self.lags, self.own_lags), self.loop)

    def fire(self, stored: tuple[str, dict[str, Any]]) -> Any:
        """Run a trigger in its stored form, and return its event's payload."""
        self.is_back.wait()
        return asyncio.run_coroutine_threadsafe(self._fire(*stored), self.loop).result()

    @staticmethod
    async def _fire(path: str, kwargs: dict[str, Any]) -> Any:
        module, _, name = path.rpartition(".")
        trigger = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(kwargs)))
        (payload,) = [event.payload async for event in trigger.run()]
        return payload


@dataclass
class Played:
    """The result of a task."""

    ti: TaskInstance
    result: Any = None
    error: BaseException | None = None
    deferrals: int = 0
    longest_on_worker: float = 0.0
    events: list[Any] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        return self.error is None


def play(task: Any, triggerer: Triggerer) -> Played:
    """Run a task until it ends."""
    played = Played(TaskInstance(task.task_id))
    context = {"ti": played.ti}
    deferral = _on_worker(played, lambda: task.execute(context))
    while deferral is not None:
        event = triggerer.fire(deferral.trigger.serialize())
        played.events.append(event)
        vars(task).pop("hook", None)  # the next worker is a new process
        resumed = json.loads(json.dumps({**(deferral.kwargs or {}), "event": event}))
        resume = partial(task.resume_execution, deferral.method_name, resumed, context)
        deferral = _on_worker(played, resume)
    return played


def _on_worker(played: Played, work: Callable[[], Any]) -> TaskDeferred | None:
    """Run the work of a worker process. Return its deferral, or None if the task has ended."""
    begun = time.monotonic()
    try:
        played.result = work()
    except TaskDeferred as deferral:
        played.deferrals += 1
        return deferral
    except Exception as error:  # noqa: BLE001 - a task fails in any way
        played.error = error
    finally:
        played.longest_on_worker = max(played.longest_on_worker, time.monotonic() - begun)
    return None


def connect(emulator: Emulator, conn_id: str = CONN_ID, **extra: Any) -> None:
    connection = json.loads(emulator.airflow_connection_json())
    connection["extra"] = {**(connection.get("extra") or {}), **extra}
    os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(connection)


def play_all(tasks: list[Any], triggerer: Triggerer) -> list[Played]:
    with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
        return list(pool.map(lambda task: play(task, triggerer), tasks))


def report(name: str, **figures: Any) -> None:
    print(
        f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in figures.items()),
        flush=True,
    )


# --- the situations -------------------------------------------------------------------------------------------


def flaky_batch(triggerer: Triggerer) -> None:
    """200 videos in one sensor, 3 % of the responses are 500, 100 requests/s, ready after 5 s."""
    with Emulator(seed=7, fault_rate=0.03, random_faults=("http_500",)) as emulator:
        connect(emulator, requests_per_second=100, max_connections=20)
        ids = [emulator.add_task(script=Script.timed(processing=5)) for _ in range(200)]
        begun = time.monotonic()
        played = play(ManxueVideoBatchSensor(task_id="wait", video_task_ids=ids, poke_interval=10), triggerer)
        urls = [url for url in played.ti.xcom.get("video_url", []) if url]
        report(
            "200 videos, 3 % of 500",
            completed=len(urls),
            deferrals=played.deferrals,
            requests=len(emulator.requests),
            seconds=round(time.monotonic() - begun, 1),
            error=played.error,
        )


def slow_limit(triggerer: Triggerer) -> None:
    """60 sensors, 1 request/s, timeout 45 s, ready after 15 s."""
    with Emulator() as emulator:
        connect(emulator, requests_per_second=1)
        ids = [emulator.add_task(script=Script.timed(processing=15)) for _ in range(60)]
        tasks = [
            ManxueVideoSensor(task_id=f"wait_{n}", video_task_id=video, timeout=45, poke_interval=10)
            for n, video in enumerate(ids)
        ]
        played = play_all(tasks, triggerer)
        report(
            "60 sensors at 1/s",
            completed=sum(p.succeeded for p in played),
            requests=len(emulator.requests),
            errors={str(p.error)[:90] for p in played if p.error},
        )


def late_triggerer(triggerer: Triggerer) -> None:
    """The triggerer is back 6 s after the deadline, 30 sensors, 1 request/s, all ready."""
    with Emulator() as emulator:
        connect(emulator, requests_per_second=1)
        ids = [emulator.add_task(script=Script.timed(processing=3)) for _ in range(30)]
        tasks = [
            ManxueVideoSensor(task_id=f"wait_{n}", video_task_id=video, timeout=12, poke_interval=10)
            for n, video in enumerate(ids)
        ]
        triggerer.is_back.clear()
        threading.Timer(18.0, triggerer.is_back.set).start()
        played = play_all(tasks, triggerer)
        report(
            "triggerer back after the deadline",
            completed=sum(p.succeeded for p in played),
            requests=len(emulator.requests),
            errors={str(p.error)[:90] for p in played if p.error},
        )


def moved_host(triggerer: Triggerer) -> None:
    """The host moves, and the old one returns 401; 60 waits with the same key."""
    with Emulator() as old, Emulator(api_key=old.api_key) as new:
        connect(old, requests_per_second=50)
        ids = [old.add_task(script=Script.by_hand("processing")) for _ in range(60)]
        for video in ids:
            new.add_task(id=video, script=Script.timed(processing=1))
        tasks = [
            ManxueVideoSensor(task_id=f"wait_{n}", video_task_id=video, timeout=300, poke_interval=10)
            for n, video in enumerate(ids)
        ]

        def move() -> None:
            connect(new, requests_per_second=50)
            old.respond_with(Response.named("http_401"), on="query")

        threading.Timer(20.0, move).start()
        played = play_all(tasks, triggerer)
        refused = sum(record.status == 401 for record in old.requests)
        report(
            "host moved",
            completed=sum(p.succeeded for p in played),
            refused=refused,
            errors={str(p.error)[:90] for p in played if p.error},
        )


def large_batch_at_its_deadline(triggerer: Triggerer) -> None:
    """A batch of 10,000 videos that are not ready at its deadline."""
    from unittest.mock import patch

    from airflow_provider_manxue._client.async_client import AsyncClient
    from airflow_provider_manxue.models import TaskStatus, VideoTask
    from airflow_provider_manxue.triggers.manxue import ManxueVideoBatchTrigger

    async def processing(self: AsyncClient, conn_id: str, video_task_id: str, subject: Subject) -> VideoTask:
        await asyncio.sleep(0.01)  # a service in this process would block the loop itself
        return VideoTask(video_task_id, TaskStatus.PROCESSING)

    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(
        {
            "conn_type": "manxue",
            "password": "key",
            "extra": {"requests_per_second": 1000, "max_connections": 50},
        }
    )
    now = time.time()
    trigger = ManxueVideoBatchTrigger(
        video_task_ids=[f"video_{number:032d}" for number in range(10_000)],
        manxue_conn_id=CONN_ID,
        poke_interval=30.0,
        started_at=now,
        deadline=now + 25,
        first_poll_at=now + 1,
        has_worked=True,
    )
    with patch.object(AsyncClient, "query", processing):
        event = triggerer.fire(trigger.serialize())
    lags = sorted(triggerer.lags)
    report(
        "10,000 at the deadline",
        event_bytes=len(json.dumps(event)),
        lag_p99=f"{lags[int(len(lags) * 0.99)] * 1000:.0f} ms",
        lag_max=f"{lags[-1] * 1000:.0f} ms",
        lag_max_but_garbage_collection=f"{max(triggerer.own_lags) * 1000:.0f} ms",
        seconds=round(time.time() - now, 1),
    )


SITUATIONS = (flaky_batch, slow_limit, late_triggerer, moved_host, large_batch_at_its_deadline)


def play_selected(situations: Iterable[Callable[..., None]], **fixtures: Callable[[], Any]) -> None:
    """
    Play the situations that the command line names, or all.

    :param situations: functions that play a situation and report its figures.
    :param fixtures: make arguments of each of them.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    selected = sys.argv[1:]
    for situation in situations:
        if not selected or situation.__name__ in selected:
            situation(**{name: make() for name, make in fixtures.items()})


if __name__ == "__main__":
    play_selected(SITUATIONS, triggerer=Triggerer)
