"""
Waits of one kind in a separate process: ``python -m benchmarks.waiters PLAN REPORT``, two JSON files.

Each kind is used as a user would use it. Asynchronous waits share one event loop, as in the triggerer.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TICK = 0.02
"""Seconds between two measurements of the event loop's lag."""

IDLE = 1.0
"""Seconds of the measurement of an idle process."""

LATE = 1.0
"""Seconds: maximum delay of a plan on a busy machine. Later, its figures would be wrong."""


@dataclass(frozen=True)
class Plan:
    """
    Parameters of a measurement. Times are seconds since the epoch.

    :param kind: ``manxue``, ``manxue_metrics``, ``http_sensor``, ``aiohttp`` or ``threads``.
    :param base_url: base URL of the service.
    :param api_key: its key.
    :param ca_bundle: file of its certificate authority.
    :param tasks: completion time of each id.
    :param interval: seconds between two polls.
    :param begins_at: start of the waits.
    :param measured_from: start of the measurement of CPU time.
    :param measured_until: end of it; memory is measured at this time.
    :param ends_at: timeout of the waits.
    :param extra: extra fields of the Airflow connection of ``manxue``.
    """

    kind: str
    base_url: str
    api_key: str
    ca_bundle: str
    tasks: dict[str, float]
    interval: float
    begins_at: float
    measured_from: float
    measured_until: float
    ends_at: float
    extra: dict[str, Any] = field(default_factory=dict)

    def url(self, task_id: str) -> str:
        """Return the URL of a task."""
        return f"{self.base_url}/{self.endpoint(task_id)}"

    def endpoint(self, task_id: str) -> str:
        """Return the URL of a task without the base URL."""
        return f"v1/result/{task_id}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of each request."""
        return {"Authorization": f"Bearer {self.api_key}"}


@dataclass
class Report:
    """
    Measurements.

    :param cpu: CPU seconds of the measured time, minus those of the idle process.
    :param resident: bytes of resident memory at its end.
    :param lags: seconds of the event loop's lag at each tick.
    :param own_lags: the same without the time of Python's garbage collector, which depends on Airflow's whole heap.
    :param look_ups: number of look-ups of the Airflow connection.
    :param delays: seconds from completion to event.
    :param refused_at: times of received 429 responses.
    """

    cpu: float = 0.0
    resident: int = 0
    lags: list[float] = field(default_factory=list)
    own_lags: list[float] = field(default_factory=list)
    look_ups: int = 0
    delays: list[float] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)


def main() -> None:
    """Run the waits of the plan, and write the report."""
    plan_file, report_file = map(Path, sys.argv[1:])
    plan = Plan(**json.loads(plan_file.read_text()))
    report = Report()
    if plan.kind == "threads":
        wait_in_threads(plan, report)
    else:
        asyncio.run(wait_on_loop(plan, report))
    report_file.write_text(json.dumps(dataclasses.asdict(report)))


# --- kinds of waits -----------------------------------------------------------------------------------------


async def manxue(plan: Plan, report: Report) -> Callable[[str], Awaitable[None]]:
    """Return a wait by the trigger of this package. Its planned first poll has passed, as after a restart."""
    from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
    from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger

    on_throttled = AdaptiveRateLimiter.on_throttled

    def noted(limiter: AdaptiveRateLimiter, sent_at: float, retry_after: float | None) -> None:
        report.refused_at.append(time.time())
        on_throttled(limiter, sent_at, retry_after)

    AdaptiveRateLimiter.on_throttled = noted  # type: ignore[assignment, method-assign]
    _connection("manxue_default", plan, extra={"ca_bundle": plan.ca_bundle, **plan.extra})

    async def wait(task_id: str) -> None:
        trigger = ManxueVideoTrigger(
            video_task_id=task_id,
            manxue_conn_id="manxue_default",
            poke_interval=plan.interval,
            started_at=plan.begins_at,
            deadline=plan.ends_at + 3600,
            first_poll_at=0.0,
        )
        async for _ in trigger.run():
            return

    return wait


async def manxue_metrics(plan: Plan, report: Report) -> Callable[[str], Awaitable[None]]:
    """Return the same wait in a process that sends metrics to StatsD, set up as in a triggerer of Airflow 3.3."""
    os.environ["AIRFLOW__METRICS__STATSD_ON"] = "True"
    import statsd  # noqa: F401 - without it, Airflow sends nothing and only logs that

    from airflow.observability import stats
    from airflow.observability.metrics.stats_utils import get_stats_factory

    from airflow_provider_manxue._client.airflow_metrics import triggerer_stats

    # Nobody has to listen on the port of StatsD: sending to it costs the same.
    stats.initialize(factory=get_stats_factory(), export_legacy_names=True)
    # Airflow 3.3 parses its own list of metrics at the first use in a process, which takes 27 ms: once, not for each poll.
    triggerer_stats().incr("manxue.polls.queued")
    return await manxue(plan, report)


async def http_sensor(plan: Plan, _: Report) -> Callable[[str], Awaitable[None]]:
    """
    Return a wait by the trigger of the http provider.

    It ends at any response except 404, so the service returns 404 until the completion. It polls immediately, so the
    starts of its waits are spread.
    """
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    _connection("http_default", plan)

    async def wait(task_id: str) -> None:
        await asyncio.sleep(random.random() * plan.interval)
        trigger = HttpSensorTrigger(
            endpoint=plan.endpoint(task_id), headers=plan.headers, poke_interval=plan.interval
        )
        async for _ in trigger.run():
            return

    return wait


async def aiohttp_loop(plan: Plan, _: Report) -> Callable[[str], Awaitable[None]]:
    """Return the simplest wait: a shared session, a GET, the status, a sleep."""
    import aiohttp

    # The session lives as long as the process.
    session = aiohttp.ClientSession(headers=plan.headers)

    async def wait(task_id: str) -> None:
        url = plan.url(task_id)
        await asyncio.sleep(random.random() * plan.interval)
        while True:
            async with session.get(url) as response:
                if (await response.json())["status"] == "completed":
                    return
            await asyncio.sleep(plan.interval)

    return wait


LOOPS = {
    "manxue": manxue,
    "manxue_metrics": manxue_metrics,
    "http_sensor": http_sensor,
    "aiohttp": aiohttp_loop,
}


def wait_in_threads(plan: Plan, report: Report) -> None:
    """Wait for each task in its own thread with its own ``requests`` session."""
    import requests

    def wait(task_id: str, completed_at: float) -> None:
        with requests.Session() as session:
            session.headers.update(plan.headers)
            session.verify = plan.ca_bundle
            time.sleep(random.random() * plan.interval)
            while session.get(plan.url(task_id), timeout=30).json()["status"] != "completed":
                time.sleep(plan.interval)
        report.delays.append(time.time() - completed_at)

    _sleep_until(plan.begins_at)
    threads = [threading.Thread(target=wait, args=task, daemon=True) for task in plan.tasks.items()]
    for thread in threads:
        thread.start()
    _sleep_until(plan.measured_from)
    used = time.process_time()
    _sleep_until(plan.measured_until)
    report.cpu = time.process_time() - used
    report.resident = resident_memory()
    for thread in threads:
        thread.join(max(0.0, plan.ends_at - time.time()))


# --- measurements on the event loop -------------------------------------------------------------------------


async def wait_on_loop(plan: Plan, report: Report) -> None:
    """Start the waits one after another like the triggerer, and measure until all have ended."""
    wait = await LOOPS[plan.kind](plan, report)
    _count_look_ups(report)
    ticking = asyncio.create_task(tick(report.lags, report.own_lags))
    idle = await _idle_load()
    await _async_sleep_until(plan.begins_at)
    report.lags.clear()
    report.own_lags.clear()

    async def one(task_id: str, completed_at: float) -> None:
        await wait(task_id)
        report.delays.append(time.time() - completed_at)

    tasks = []
    for task in plan.tasks.items():
        tasks.append(asyncio.create_task(one(*task)))
        await asyncio.sleep(0)
    await _async_sleep_until(plan.measured_from)
    used = time.process_time()
    await _async_sleep_until(plan.measured_until)
    report.cpu = time.process_time() - used - idle * (plan.measured_until - plan.measured_from)
    report.resident = resident_memory()
    await asyncio.wait(tasks, timeout=max(0.0, plan.ends_at - time.time()))
    ticking.cancel()


async def tick(lags: list[float], own_lags: list[float]) -> None:
    """Measure the lag of the event loop in seconds at each tick, with and without garbage collection."""
    loop = asyncio.get_running_loop()
    collector = CollectorTime()
    gc.callbacks.append(collector)
    while True:
        collected, due = collector.seconds, loop.time() + TICK
        await asyncio.sleep(TICK)
        lags.append(loop.time() - due)
        own_lags.append(max(0.0, lags[-1] - (collector.seconds - collected)))


class CollectorTime:
    """Callback of the garbage collector that sums the seconds of its runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began_at = 0.0

    def __call__(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began_at = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._began_at


async def _idle_load() -> float:
    """Return the CPU seconds per second of a process that only ticks."""
    used = time.process_time()
    await asyncio.sleep(IDLE)
    return (time.process_time() - used) / IDLE


def _count_look_ups(report: Report) -> None:
    from airflow.providers.common.compat import connection

    look_up = connection.get_async_connection

    async def counted(*arguments: Any, **options: Any) -> Any:
        report.look_ups += 1
        return await look_up(*arguments, **options)

    connection.get_async_connection = counted


def _connection(conn_id: str, plan: Plan, extra: dict[str, Any] | None = None) -> None:
    connection = {
        "conn_type": "generic",
        "host": plan.base_url,
        "password": plan.api_key,
        "extra": extra or {},
    }
    os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(connection)


def resident_memory() -> int:
    """Return the bytes of resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _async_sleep_until(moment: float) -> None:
    await asyncio.sleep(_left_until(moment))


def _sleep_until(moment: float) -> None:
    time.sleep(_left_until(moment))


def _left_until(moment: float) -> float:
    left = moment - time.time()
    if left < -LATE:
        raise TimeoutError(f"The machine is too slow for the plan: {-left:.1f} s late.")
    return max(0.0, left)


if __name__ == "__main__":
    main()
