"""Many waits in a real triggerer of Airflow: blocks of its event loop, and memory per wait.

For comparison, the same number of tasks waits with Airflow's own ``DateTimeTrigger``.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path

from airflow_provider_manxue.testing import Emulator, Script
from benchmarks.table import print_table
from dev.local_airflow import LocalAirflow

DAGS = Path(__file__).parent / "dags"
BLOCKED = re.compile(r"async thread was blocked for ([\d.]+) seconds")
SETTLE = 45.0
"""Seconds after the last deferral: longer than an interval, so that each wait has been polled in the triggerer."""


def measure(dag_id: str, waits: int) -> dict[str, float | int]:
    """Defer this many tasks of a Dag in a fresh Airflow, and measure its triggerer."""
    with Emulator(record_requests=False) as emulator, tempfile.TemporaryDirectory() as home:
        videos = [emulator.add_task(script=Script.by_hand("processing")) for _ in range(waits)]
        with LocalAirflow(
            home,
            dags_folder=DAGS,
            env={"AIRFLOW_CONN_MANXUE_DEFAULT": emulator.airflow_connection_json()},
            pools={},
            config={"core.max_active_tasks_per_dag": waits, "core.parallelism": 4},
        ) as airflow:
            idle = resident(airflow)
            run_id = airflow.trigger(dag_id, conf={"videos": videos})
            began = time.monotonic()
            airflow.wait_until(
                lambda: list(airflow.task_states(dag_id, run_id).values()).count("deferred") == waits,
                f"{waits} tasks are deferred",
                timeout=20.0 * waits,
            )
            took = time.monotonic() - began
            time.sleep(SETTLE)
            blocks = [
                float(block) for block in BLOCKED.findall(airflow.processes["triggerer"].output.read_text())
            ]
            return {
                "waits": waits,
                "seconds until all are deferred": round(took),
                "blocks of 0.2 s and more": len(blocks),
                "longest block (s)": max(blocks, default=0.0),
                "resident memory per wait (KiB)": round((resident(airflow) - idle) / waits / 1024, 1),
            }


def resident(airflow: LocalAirflow) -> int:
    """Return the resident memory, in bytes, of the triggerer and its children."""
    group = airflow.processes["triggerer"].process.pid
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if int((status.parent / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                total += int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) * 1024  # type: ignore[index]
        except (OSError, TypeError):
            continue  # the process has ended
    return total


def main() -> None:
    """Measure both Dags, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triggerer", description=__doc__)
    parser.add_argument("--waits", type=int, default=200)
    arguments = parser.parse_args()
    figures = {
        dag_id: measure(dag_id, arguments.waits) for dag_id in ("waits_for_videos", "waits_for_a_moment")
    }
    head = ("Dag", *next(iter(figures.values())))
    print_table(head, [(dag_id, *map(str, figure.values())) for dag_id, figure in figures.items()])


if __name__ == "__main__":
    main()
