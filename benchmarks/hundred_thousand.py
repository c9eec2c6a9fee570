"""
100,000 videos in ten batches on one event loop, as in one triggerer: ``python -m benchmarks.hundred_thousand``.

Measures memory per video, the lag of the event loop, and whether each video is polled as often as the limit of the
connection allows. The service is the emulator in a separate process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import time

from airflow_provider_manxue.triggers.manxue import ManxueVideoBatchTrigger
from benchmarks.service import service
from benchmarks.table import print_table
from benchmarks.waiters import resident_memory, tick
from benchmarks.waits import percentiles

BATCHES = 10
INTERVAL = 30.0
ROUNDS = 2.1
"""Number of polls of each video that the limit allows during the measurement."""


async def wait_for(ids: list[str], until: float) -> tuple[list[float], list[float]]:
    """Wait for these videos in ten batches. Return the lags of the loop, with and without garbage collection."""
    lags: list[float] = []
    own_lags: list[float] = []
    ticking = asyncio.create_task(tick(lags, own_lags))
    now = time.time()
    size = len(ids) // BATCHES
    triggers = [
        ManxueVideoBatchTrigger(
            video_task_ids=ids[first : first + size],
            manxue_conn_id="manxue_default",
            poke_interval=INTERVAL,
            started_at=now,
            deadline=until + 3600,
            first_poll_at=0.0,
            has_worked=True,
        )
        for first in range(0, len(ids), size)
    ]
    runs = [asyncio.create_task(anext(trigger.run())) for trigger in triggers]
    await asyncio.wait(runs, timeout=until - time.time())
    for task in (*runs, ticking):
        task.cancel()
    await asyncio.gather(*runs, ticking, return_exceptions=True)
    return lags, own_lags


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hundred_thousand", description=__doc__)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--limit", type=float, default=200.0, help="requests per second")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    one_round = arguments.videos / arguments.limit
    with service() as running:
        base_url, api_key, ca_bundle = running.address()
        begun = time.time()
        far = begun + 10 * ROUNDS * one_round
        ids = list(running.add_tasks(arguments.videos, far, far, hidden=False))
        extra = {"ca_bundle": ca_bundle, "requests_per_second": arguments.limit, "max_connections": 20}
        os.environ["AIRFLOW_CONN_MANXUE_DEFAULT"] = json.dumps(
            {"conn_type": "manxue", "host": base_url, "password": api_key, "extra": extra}
        )
        # The first wait loads libraries. Their memory, and that of the ids, does not count.
        asyncio.run(wait_for(ids[:BATCHES], time.time() + 3))
        idle, begun = resident_memory(), time.time()
        lags, own_lags = asyncio.run(wait_for(ids, begun + ROUNDS * one_round))
        weight = (resident_memory() - idle) / arguments.videos
        gap, polled = running.longest_gap(begun)
        times = [one.time for one in running.queries() if one.time >= begun]
        used = len(times) / (times[-1] - times[0])
    _, p99, longest = percentiles(lags)
    print_table(
        ("figure", "target", "measured"),
        [
            ("videos polled", f"{arguments.videos:,}", f"{polled:,}"),
            ("requests per second", f"{arguments.limit:g}", f"{used:.1f}"),
            ("longest time without a poll of a video", f"{1.05 * one_round:.0f} s", f"{gap:.0f} s"),
            ("memory per video", "under 4 KiB", f"{weight / 1024:.2f} KiB"),
            ("event-loop lag, p99", "under 50 ms", f"{1000 * p99:.1f} ms"),
            ("event-loop lag, maximum", "", f"{1000 * longest:.0f} ms"),
            ("the same without Python's garbage collector", "", f"{1000 * max(own_lags):.0f} ms"),
        ],
    )


if __name__ == "__main__":
    main()
