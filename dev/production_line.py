"""
A production line in one process: it orders, awaits and saves videos over and over, and sends metrics through Airflow's own facility.

It stands in for the triggerer and the workers of an Airflow, to try the files of ``docs/monitoring`` on real data: the waits are
triggers on one event loop, and orders and saves run in threads. Connection, StatsD and all else come from Airflow's environment
variables. It runs until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTION = "manxue_default"
MODELS = ("sd2_manxue_720p", "sd2_manxue_1080p")
TIMEOUT = 3 * 3600.0
THREADS = 8
DISK_FULL_EVERY = 20
"""One save of so many fails, as when a disk is full."""

orders, saves = itertools.count(1), itertools.count(1)


@dataclass(frozen=True)
class Plan:
    """
    The parameters of a line.

    :param videos: number of videos that are in work at a time.
    :param interval: seconds between two polls of a wait.
    :param begin_within: seconds within which the first videos are ordered.
    :param folder: folder for the saved videos.
    :param speed: how many times faster than usual metrics are sent, pauses end, and the rate recovers.
    """

    videos: int
    interval: float
    begin_within: float
    folder: str
    speed: float

    @classmethod
    def from_command_line(cls) -> Plan:
        """Return the plan in the arguments of the command."""
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--videos", type=int, required=True)
        parser.add_argument("--interval", type=float, required=True)
        parser.add_argument("--begin-within", type=float, required=True)
        parser.add_argument("--folder", required=True)
        parser.add_argument("--speed", type=float, default=1.0)
        return cls(**vars(parser.parse_args()))


def main() -> None:
    """Run the line."""
    plan = Plan.from_command_line()
    set_up_metrics()
    set_speed(plan.speed)
    asyncio.run(run(plan))


def set_up_metrics() -> None:
    """Set up both copies of Airflow's facility: that of a triggerer and that of a task."""
    from airflow.observability import stats as of_triggerer
    from airflow.observability.metrics import stats_utils as triggerer_factories
    from airflow.sdk.observability import stats as of_task
    from airflow.sdk.observability.metrics import stats_utils as task_factories

    of_triggerer.initialize(factory=triggerer_factories.get_stats_factory(), export_legacy_names=True)
    of_task.initialize(factory=task_factories.get_stats_factory(), export_legacy_names=True)


def set_speed(speed: float) -> None:
    """Shorten the times that the alert rules and a test depend on."""
    from airflow_provider_manxue._client import airflow_metrics, rate_limiter

    airflow_metrics.INTERVAL /= speed
    rate_limiter.RECOVERY_TIME /= speed
    rate_limiter.MAX_PAUSE /= speed


async def run(plan: Plan) -> None:
    """Keep the planned number of videos in work."""
    with ThreadPoolExecutor(THREADS) as workers:
        places = (
            keep_busy(plan, workers, plan.begin_within * place / plan.videos) for place in range(plan.videos)
        )
        await asyncio.gather(*places)


async def keep_busy(plan: Plan, workers: ThreadPoolExecutor, delay: float) -> None:
    """Order, await and save one video after the other."""
    await asyncio.sleep(delay)
    while True:
        video = await on_worker(workers, order)
        if video is None:
            await asyncio.sleep(plan.interval)
            continue
        await wait(video.id, plan.interval)
        await on_worker(workers, partial(save, video.id, plan.folder))


async def on_worker(workers: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
    """Return the result of work in a thread; None if it failed."""
    from airflow_provider_manxue.exceptions import ManxueError

    try:
        return await asyncio.get_running_loop().run_in_executor(workers, work)
    except ManxueError:
        return None


def order() -> Any:
    """Order a video."""
    from airflow_provider_manxue.hooks.manxue import ManxueHook

    number = next(orders)
    return ManxueHook(CONNECTION).create_video(prompt=f"Shot {number}", model=MODELS[number % len(MODELS)])


async def wait(video_task_id: str, interval: float) -> None:
    """Wait as a task that has deferred."""
    from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger

    now = time.time()
    trigger = ManxueVideoTrigger(
        video_task_id=video_task_id,
        manxue_conn_id=CONNECTION,
        poke_interval=interval,
        started_at=now,
        deadline=now + TIMEOUT,
        first_poll_at=now + 0.8 * interval,
    )
    async for _ in trigger.run():
        return


def save(video_task_id: str, folder: str) -> None:
    """Save a video. After a failure, count it as Airflow does for each failed try."""
    from airflow.sdk.observability.stats import Stats

    from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

    is_full = next(saves) % DISK_FULL_EVERY == 0
    operator = ManxueToObjectStorageOperator(
        task_id="save",
        video_task_id=video_task_id,
        destination="file:///dev/full/" if is_full else f"file://{folder}/",
        do_xcom_push=False,
    )
    try:
        operator.execute({})
    except Exception:
        # `_finalize_task_failure` in airflow/sdk/execution_time/task_runner.py
        tags = {"dag_id": "line", "task_id": "save", "operator_name": type(operator).__name__}
        Stats.incr("operator_failures", tags=tags)
        raise


if __name__ == "__main__":
    main()
