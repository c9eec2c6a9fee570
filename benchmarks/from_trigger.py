"""
Cost of a wait that starts and ends in the triggerer, compared with waits that start two worker processes.

Each figure comes from a fresh Airflow with all its components. The videos complete only after all waits have begun, so
that every wait defers. CPU time is that of all processes of Airflow, including those that have ended.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from airflow_provider_manxue.testing import Emulator, Response, Script, Step
from benchmarks.table import print_table
from dev.local_airflow import LocalAirflow

REPOSITORY = Path(__file__).parents[1]
DAGS = Path(__file__).parent / "dags"
RESULTS = Path(__file__).parent / "from_trigger.json"
BLOCKED = re.compile(r"async thread was blocked for ([\d.]+) seconds")
TICKS = os.sysconf("SC_CLK_TCK")
SIZES = (20, 120)
"""The two numbers of waits from which the cost of an additional wait is computed."""

PATIENCE = 300.0
"""Seconds: the part of a timeout that does not depend on the number of waits."""

SETTLE = 10.0
"""Seconds from the last deferral to the completion of the videos, for HttpSensor."""

RUNS = (
    *((kind, size) for kind in ("both", "normal", "http", "floor") for size in SIZES),
    ("both", 300),
    *(("batch", size) for size in (300, 1000)),
)


@dataclasses.dataclass(frozen=True)
class Figures:
    """
    Measurements of one run.

    :param kind: both, normal (deferral), http (the peer), floor (the cheapest task in a triggerer), or batch (one task
        for all).
    :param waits: number of awaited videos.
    :param worker_starts: number of worker processes started for the waits.
    :param cpu: CPU seconds of all of Airflow, from the start of the Dag run to its end.
    :param wall: seconds from the start of the Dag run to its end.
    :param blocks: number of blocks of the triggerer's loop of 0.2 s or longer.
    :param longest_block: seconds of the longest block.
    """

    kind: str
    waits: int
    worker_starts: int
    cpu: float
    wall: float
    blocks: int
    longest_block: float


def measure(kind: str, waits: int) -> Figures:
    """Wait for this many videos in a fresh Airflow."""
    with Emulator(record_requests=False) as emulator, tempfile.TemporaryDirectory() as home:
        # HttpSensor ends its wait at any response except 404.
        pending = Step(status="processing", response=Response(status=404) if kind == "http" else None)
        videos = [emulator.add_task(script=Script((pending,))) for _ in range(waits)]
        ready = Path(home, "ready")
        connection = json.loads(emulator.airflow_connection_json())
        with LocalAirflow(
            home,
            dags_folder=DAGS,
            env={
                "AIRFLOW_CONN_MANXUE_DEFAULT": json.dumps(
                    {**connection, "extra": {"requests_per_second": 1000, "max_connections": 50}}
                ),
                "AIRFLOW_CONN_SERVICE": json.dumps(
                    {"conn_type": "http", "host": emulator.base_url, "password": emulator.api_key}
                ),
                "BENCHMARK_KIND": kind,
                "BENCHMARK_WAITS": str(waits),
                "BENCHMARK_FILE": str(ready),
                "PYTHONPATH": str(REPOSITORY),
            },
            config={"core.max_active_tasks_per_dag": 10_000},
        ) as airflow:
            airflow.wait_for_dag("waits")
            before = cpu_seconds(airflow)
            run_id = airflow.trigger("waits", conf={"videos": videos})
            tasks = 1 if kind == "batch" else waits
            airflow.wait_until(
                lambda: list(airflow.task_states("waits", run_id).values()).count("deferred") == tasks,
                f"{tasks} tasks are deferred",
                timeout=PATIENCE + 20.0 * tasks,
            )
            if kind == "http":
                # Its trigger polls immediately. A task that resumes right after its deferral can lose a race in Airflow's
                # scheduler, which then fails the task as killed: without this pause most tasks fail.
                time.sleep(SETTLE)
            ready.touch()
            for video in videos:
                emulator.set_status(video, "completed")
            state = airflow.wait_for_run("waits", run_id, timeout=PATIENCE + 20.0 * tasks)
            cpu = cpu_seconds(airflow) - before
            if state != "success":
                raise RuntimeError(airflow.describe_run("waits", run_id))
            [(wall,)] = airflow.query(
                "SELECT 86400 * (julianday(end_date) - julianday(start_date)) FROM dag_run WHERE run_id = ?",
                run_id,
            )
            blocks = [
                float(block) for block in BLOCKED.findall(airflow.processes["triggerer"].output.read_text())
            ]
            return Figures(
                kind=kind,
                waits=waits,
                worker_starts=sum(
                    airflow.task_log("waits", run_id, task).count("DAG bundles loaded")
                    for task in airflow.task_states("waits", run_id)
                    if isinstance(task, str) and task.startswith("wait")
                ),
                cpu=cpu,
                wall=wall,
                blocks=len(blocks),
                longest_block=max(blocks, default=0.0),
            )


def cpu_seconds(airflow: LocalAirflow) -> float:
    """Return the CPU seconds of all processes of an Airflow, including their children that have ended."""
    total = 0
    for pid in airflow.leftover_processes():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has just ended, and its parent's time includes it
        total += sum(map(int, fields[11:15]))
    return total / TICKS


def slope(runs: dict[tuple[str, int], Figures], kind: str) -> float:
    """Return the CPU seconds of an additional wait."""
    few, many = SIZES
    return (runs[kind, many].cpu - runs[kind, few].cpu) / (many - few)


def targets(runs: dict[tuple[str, int], Figures]) -> list[tuple[str, str, str, str]]:
    """Return the figures and their targets."""

    def row(figure: str, target: str, measured: str, reached: bool) -> tuple[str, str, str, str]:
        return figure, target, measured, "reached" if reached else "MISSED"

    many, normal = runs["both", 300], runs["normal", 120]
    ours, theirs, peer, floor = (slope(runs, kind) for kind in ("both", "normal", "http", "floor"))
    wall = runs["both", 120].wall / normal.wall
    batch = runs["batch", 1000]
    return [
        row(
            "worker processes for 300 waits",
            f"0 (normal deferral: {normal.worker_starts} for 120)",
            f"{many.worker_starts}",
            many.worker_starts == 0,
        ),
        row(
            "CPU per further wait, beside normal deferral",
            "at most 1/20",
            f"{ours:.3f} s : {theirs:.2f} s = 1/{theirs / ours:.0f}",
            ours <= theirs / 20,
        ),
        row(
            "CPU per further wait, beside HttpSensor(deferrable=True)",
            "at most 1/20",
            f"{ours:.3f} s : {peer:.2f} s = 1/{peer / ours:.0f}",
            ours <= peer / 20,
        ),
        (
            "CPU per further task of the cheapest kind that Airflow knows in the triggerer",
            "none: the floor",
            f"{floor:.3f} s = 1/{theirs / floor:.0f} of normal deferral, 1/{peer / floor:.0f} of HttpSensor",
            "",
        ),
        row(
            "wall time of a Dag run with 120 waits, beside normal deferral",
            "at most 1/3",
            f"{runs['both', 120].wall:.0f} s : {normal.wall:.0f} s = 1/{1 / wall:.1f}",
            wall <= 1 / 3,
        ),
        row(
            "one batch sensor with 1,000 ids: worker processes; longest block of the triggerer's loop",
            "0; under 0.2 s",
            f"{batch.worker_starts}; "
            + (f"{batch.longest_block:.2f} s" if batch.blocks else "none of 0.2 s or more"),
            batch.worker_starts == 0 and batch.longest_block < 0.2,
        ),
    ]


def main() -> int:
    """Measure, print and write the figures. The exit status is 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.from_trigger", description=__doc__)
    parser.add_argument(
        "--only", nargs=2, metavar=("KIND", "WAITS"), action="append", help="one run, and no table of targets"
    )
    only = parser.parse_args().only
    runs = {}
    for kind, waits in [(kind, int(waits)) for kind, waits in only] if only else RUNS:
        began = time.monotonic()
        runs[kind, waits] = figures = measure(kind, waits)
        print(f"{figures} ({time.monotonic() - began:.0f} s in all)", file=sys.stderr, flush=True)
    print_table(
        ("kind", "waits", "worker starts", "CPU s", "CPU s per wait", "wall s", "blocks", "longest s"),
        [
            (
                one.kind, f"{one.waits:,}", f"{one.worker_starts}", f"{one.cpu:.1f}", f"{one.cpu / one.waits:.3f}",
                f"{one.wall:.0f}", f"{one.blocks}", f"{one.longest_block:.2f}",
            )
            for one in runs.values()
        ],
    )  # fmt: skip
    if only:
        return 0
    RESULTS.write_text(json.dumps([dataclasses.asdict(one) for one in runs.values()], indent=2) + "\n")
    rows = targets(runs)
    print_table(("figure", "target", "measured", ""), rows)
    return int(any(row[-1] == "MISSED" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
