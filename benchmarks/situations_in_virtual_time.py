"""
Situations that take hours, played in virtual time with the shipped code: ``python -m benchmarks.situations_in_virtual_time``.

Single tasks run in the simulation (:mod:`tests.simulation`). Crowds of waits run only their triggers, with a client whose
responses are computed.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from airflow_provider_manxue._client import credentials, drivers
from airflow_provider_manxue._client.airflow_metrics import LoopMetrics, triggerer_stats
from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
from airflow_provider_manxue.models import TaskStatus, VideoTask
from airflow_provider_manxue.testing._response import Response
from airflow_provider_manxue.triggers import manxue as triggers
from benchmarks.situations import play_selected, report
from tests.simulation.play import play
from tests.simulation.schedule import Plan, Schedule, Video
from tests.simulation.simulation import installed
from tests.support.virtual_time import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from airflow_provider_manxue._core.subjects import Subject

START = 1_800_000_000.0


# --- whole tasks ----------------------------------------------------------------------------------------------


def batch(name: str, videos: int, *, ready: float, timeout: float = 3 * 3600.0, **changes: Any) -> None:
    """Play one batch sensor in deferred mode, and report how it ended."""
    plan = Plan(
        "task_1", "batch", "deferred", 0.0, tuple(Video(ready, completes=True) for _ in range(videos)), 30.0, timeout,
        None, False, None, False, False, 0, 5.0, True,
    )  # fmt: skip
    extra = {"requests_per_second": 10.0, "max_connections": 10, "request_timeout": 30.0}
    with installed():
        _, simulation, _ = play(1, Schedule(1, (plan,), extra, absences=[[]], **changes))
    task = simulation.instances["task_1"]
    exchanges = simulation.network.exchanges
    urls = task.xcom.get("video_url") or []
    held = collections.defaultdict(list)
    for exchange in exchanges:
        if "worker" in exchange.process.name:
            held[exchange.process].append(exchange.at)
    report(
        name,
        state=task.state,
        urls=f"{sum(url is not None for url in urls)} of {videos}",
        requests_for_each_video=round(len(exchanges) / videos, 2),
        seconds=round(task.attempts[-1].ended_at),
        longest_on_a_worker=f"{max((times[-1] - times[0] for times in held.values()), default=0.0):.0f} s",
    )


def flaky_thousand() -> None:
    """1,000 videos, 1 % of the responses are faults."""
    batch("1,000 videos, 1 % of faults", 1000, ready=60.0, fault_rate=0.01)


def long_throttling() -> None:
    """429 for 3 minutes while the worker reads 50 finished videos."""
    window = (21.0, 201.0, "query", Response(status=429))
    batch("429 for 3 min while the worker reads 50", 50, ready=5.0, windows=[window])


def one_long_pause() -> None:
    """One 429 with Retry-After: 900 while the worker reads 100 finished videos."""
    window = (30.0, 30.3, "query", Response(status=429, headers={"Retry-After": "900"}))
    batch(
        "one 429 with Retry-After: 900 while the worker reads 100",
        100,
        ready=5.0,
        timeout=600.0,
        windows=[window],
    )


# --- crowds of waits ------------------------------------------------------------------------------------------


class Client:
    """Replaces the async client. Responds after 50 ms, limited by the real rate limiter."""

    def __init__(self, rate: float, status: Callable[[float], TaskStatus]) -> None:
        self._limiter = AdaptiveRateLimiter(rate, 10)
        self._status = status
        self.metrics = LoopMetrics(triggerer_stats, has_gauges=True)
        self.polls = 0

    def prepare(self, conn_id: str) -> None:
        """Do nothing."""

    async def limiter(self, conn_id: str) -> AdaptiveRateLimiter:
        return self._limiter

    def has_worked(self, conn_id: str) -> bool:
        return True

    async def query(self, conn_id: str, video_task_id: str, subject: Subject) -> VideoTask:
        self.polls += 1
        await asyncio.sleep(0.05)
        now = asyncio.get_running_loop().time()
        return VideoTask(video_task_id, self._status(now), video_url="https://media.example/v.mp4")


def crowd() -> None:
    """10,000 waits at 10/s, timeout 15 min, ready after 5 min."""
    client = Client(10.0, lambda now: TaskStatus.COMPLETED if now >= 300 else TaskStatus.PROCESSING)

    @contextlib.asynccontextmanager
    async def lent() -> AsyncIterator[Client]:
        yield client

    async def wait(number: int) -> Any:
        trigger = triggers.ManxueVideoTrigger(
            video_task_id=f"v{number}",
            manxue_conn_id="c",
            poke_interval=30.0,
            started_at=START,
            deadline=START + 900,
            first_poll_at=START + 10,
            has_worked=True,
            defer_timeout_margin=1800.0,
        )
        return [event.payload["status"] async for event in trigger.run()][0]  # noqa: RUF015 - an async generator

    async def main() -> Any:
        return collections.Counter(await asyncio.gather(*map(wait, range(10_000))))

    clock = SimpleNamespace(time=lambda: START + asyncio.get_running_loop().time())
    with contextlib.ExitStack() as stack:
        for module in (triggers, drivers, credentials):
            stack.enter_context(patch.object(module, "time", clock))
        stack.enter_context(patch("airflow_provider_manxue._airflow.task_trigger.time", clock))
        stack.enter_context(patch.object(triggers, "shared_client", lent))
        ended = run(main())
    report("10,000 waits at 10/s", ended=dict(ended), lost=10_000 - ended["completed"], polls=client.polls)


SITUATIONS = (flaky_thousand, long_throttling, one_long_pause, crowd)


if __name__ == "__main__":
    play_selected(SITUATIONS)
