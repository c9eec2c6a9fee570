"""
One batch sensor with thousands of ids on a real Airflow: memory in the triggerer, requests per second, blocks of the
triggerer's event loop, and the reading time of the worker that resumes.

Each case starts a fresh Airflow with an SQLite database. The figures of requests come from the emulator's records.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from bisect import bisect_left
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_manxue.testing import Emulator, Script
from benchmarks.table import print_table
from benchmarks.triggerer import BLOCKED, resident
from dev.local_airflow import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Sequence

DAGS = Path(__file__).parent / "dags"
DAG = "wait_for_a_batch"
CASES = ("10000@200", "1000@200", "1000@10")
STEADY = 20.0
"""Seconds of further polling, once each video has been polled, before the triggerer's memory is read."""


@dataclass(frozen=True)
class Figures:
    """
    Measurements of one case.

    :param until_deferred: seconds from the trigger of the run to the deferral.
    :param growth: bytes of resident memory that the triggerer has added since a wait for one video, once it has polled all.
    :param blocks: seconds of each block of the triggerer's loop that Airflow reports (0.2 s or longer).
    :param polls: times of the triggerer's requests in seconds, sorted.
    :param reads: times of the resuming worker's requests.
    :param until_success: seconds from the last video's completion to the end of the run.
    """

    until_deferred: float
    growth: int
    blocks: list[float]
    polls: list[float]
    reads: list[float]
    until_success: float


def measure(videos: int, limit: float) -> Figures:
    """Run one sensor with this many videos, over a connection with this limit in requests per second."""
    with Emulator() as emulator, tempfile.TemporaryDirectory() as home:
        ids = [emulator.add_task(script=Script.by_hand("processing", "completed")) for _ in range(videos)]
        connection = json.loads(emulator.airflow_connection_json())
        connection["extra"]["requests_per_second"] = limit
        with LocalAirflow(
            home, dags_folder=DAGS, env={"AIRFLOW_CONN_MANXUE_DEFAULT": json.dumps(connection)}
        ) as airflow:
            # The first wait loads libraries, whose memory does not count.
            warm_up = airflow.trigger(DAG, conf={"videos": [emulator.add_task("completed")]})
            airflow.wait_for_run(DAG, warm_up)
            emulator.clear_requests()
            idle = resident(airflow)
            began = time.monotonic()
            run_id = airflow.trigger(DAG, conf={"videos": ids})
            airflow.wait_for_tasks(DAG, run_id, {"wait": "deferred"})
            until_deferred = time.monotonic() - began
            # Videos are polled in order, so the last video's first poll ends the first pass.
            airflow.wait_until(
                lambda: len(emulator.requests) >= videos, "all are polled", timeout=60 + 2 * videos / limit
            )
            time.sleep(STEADY)
            growth = resident(airflow) - idle
            completed = time.monotonic()
            for video in ids:
                emulator.set_status(video, "completed")
            state = airflow.wait_for_run(DAG, run_id, timeout=120 + 4 * videos / limit)
            until_success = time.monotonic() - completed
            if state != "success" or len(airflow.xcom(DAG, run_id, "wait", "video_url")) != videos:
                raise RuntimeError(airflow.describe_run(DAG, run_id))
            output = airflow.processes["triggerer"].output.read_text()
        polls, reads = split_requests(emulator, videos, completed)
        blocks = [float(block) for block in BLOCKED.findall(output)]
        return Figures(until_deferred, growth, blocks, polls, reads, until_success)


def split_requests(emulator: Emulator, videos: int, completed: float) -> tuple[list[float], list[float]]:
    """Return the times of the triggerer's polls and of the worker's reads. The worker reads last, each video once."""
    times = sorted(record.monotonic for record in emulator.requests)
    polls, reads = times[:-videos], times[-videos:]
    last = {record.task_id for record in emulator.requests[-videos:]}
    if len(last) != videos or polls[-1] < completed:
        raise RuntimeError("the worker did not read each video once, after the triggerer had polled all")
    return polls, reads


def most(times: Sequence[float], seconds: float) -> int:
    """Return the highest number of these times within any span of this length in seconds."""
    return max(bisect_left(times, at + seconds) - index for index, at in enumerate(times))


def rows(videos: int, limit: float, figures: Figures) -> list[tuple[str, str, str]]:
    """Return rows of figure, target and measured value."""
    polls, reads = figures.polls, figures.reads
    first_pass = polls[videos - 1] - polls[0]
    return [
        ("seconds until the task is deferred", "", f"{figures.until_deferred:.1f}"),
        (
            "triggerer: requests per second, most in any 10 s",
            f"at most {limit:g}",
            f"{most(polls, 10) / 10:.1f}",
        ),
        ("triggerer: requests in any second", f"at most {ceil(limit * 1.05)}", f"{most(polls, 1)}"),
        (
            "triggerer: seconds for the first pass",
            f"{videos / limit:g} by the limit",
            f"{first_pass:.1f}",
        ),
        ("triggerer: blocks of 0.2 s and more", "0", f"{len(figures.blocks)}"),
        ("triggerer: longest block, seconds", "", f"{max(figures.blocks, default=0):.2f}"),
        ("triggerer: growth of resident memory, MiB", "", f"{figures.growth / 2**20:.1f}"),
        ("triggerer: growth per video, KiB", "under 10", f"{figures.growth / 2**10 / videos:.1f}"),
        ("worker: requests in any second", f"at most {ceil(limit * 1.05)}", f"{most(reads, 1)}"),
        (
            "worker: seconds to read all again",
            f"{videos / limit:g} by the limit",
            f"{reads[-1] - reads[0]:.1f}",
        ),
        ("seconds from the last completion to success", "", f"{figures.until_success:.1f}"),
    ]


def main() -> int:
    """Measure, and print a table for each case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", default=CASES, help=f"videos@limit; {' '.join(CASES)} if left out"
    )
    for case in parser.parse_args().cases:
        videos, limit = re.fullmatch(r"(\d+)@([\d.]+)", case).groups()  # type: ignore[union-attr]
        print(f"{int(videos):,} videos in one sensor, {limit} requests per second", flush=True)
        figures = measure(int(videos), float(limit))
        print_table(("figure", "target", "measured"), rows(int(videos), float(limit), figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
