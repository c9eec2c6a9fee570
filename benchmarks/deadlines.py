"""
Delay from the deadline of a wait until it times out on a real Airflow: until a worker raises the error, or the trigger
fires.

Airflow's own delays, such as the start of the worker that fails the task, do not count. The service returns
"processing", or hangs; then a request takes up to 5 seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.deadline import DEFER_TIMEOUT_MARGIN
from airflow_provider_manxue.testing import Emulator, Response, Script, Step
from benchmarks.failover import POSTGRES
from benchmarks.from_trigger import DAGS, REPOSITORY
from benchmarks.table import print_table
from benchmarks.tasklog import moments
from dev.local_airflow import LocalAirflow, postgres_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

RESULTS = Path(__file__).parent / "deadlines.json"
DAG = "deadlines"
MODES = ("poke", "reschedule", "deferred", "triggerer")
EACH = 3
TIMEOUT = 30.0
REQUEST_TIMEOUT = 5.0
LATEST = 1.0 + REQUEST_TIMEOUT
"""Target: seconds from the deadline to the timeout."""


class Run:
    """One run of the Dag, with its times in the database and the logs."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self.airflow = airflow
        self.trigger_timeouts: dict[str, datetime] = {}
        self.run_id = airflow.trigger(DAG)
        airflow.wait_until(self._ended, "the run has ended", timeout=900)

    def _ended(self) -> bool:
        # Airflow forgets when a trigger is to end as soon as it has fired.
        self.trigger_timeouts |= dict(
            self.airflow.query(
                "SELECT task_id, trigger_timeout FROM task_instance WHERE run_id = ? AND state = 'deferred'",
                self.run_id,
            )
        )
        return self.airflow.run_state(DAG, self.run_id) in ("success", "failed")

    def lateness(self, mode: str, task: str) -> float:
        """Return how many seconds after its deadline a wait was decided, or its last reschedule lies."""
        log = self.airflow.task_log(DAG, self.run_id, task)
        if "ManxueTimeoutError" not in log:
            raise RuntimeError(f"{task} did not end with its timeout:\n{log[-3000:]}")
        match mode:
            case "reschedule":
                [(first, last)] = self.airflow.query(
                    "SELECT min(r.start_date), max(r.reschedule_date) FROM task_reschedule r"
                    " JOIN task_instance ti ON ti.id = r.ti_id WHERE ti.run_id = ? AND ti.task_id = ?",
                    self.run_id,
                    task,
                )
                return float((last - first).total_seconds() - TIMEOUT)
            case "triggerer":
                deadline = self.trigger_timeouts[task].timestamp() - DEFER_TIMEOUT_MARGIN
            case _:
                deadline = next(moments(log, "The wait begins")) + TIMEOUT
        return next(moments(log, "Task failed" if mode == "poke" else "Trigger fired event")) - deadline


def measure() -> Iterator[dict[str, Any]]:
    """Let all waits run into their deadline, and yield how late each mode was at each service."""
    with Emulator() as emulator, postgres_database(POSTGRES) as url, tempfile.TemporaryDirectory() as home:
        emulator.add_task(id="answers", script=Script.by_hand("processing"))
        emulator.add_task(
            id="hangs", script=Script((Step(status="processing", response=Response(hang=True)),))
        )
        connection = json.loads(emulator.airflow_connection_json())
        connection["extra"] = {**connection.get("extra", {}), "request_timeout": REQUEST_TIMEOUT}
        with LocalAirflow(
            home,
            dags_folder=DAGS,
            env={
                "AIRFLOW_CONN_MANXUE_DEFAULT": json.dumps(connection),
                "BENCHMARK_TIMEOUT": str(TIMEOUT),
                "BENCHMARK_WAITS": str(EACH),
                "PYTHONPATH": str(REPOSITORY),
            },
            postgres=url,
        ) as airflow:
            run = Run(airflow)
            for mode in MODES:
                for service in ("answers", "hangs"):
                    late = [run.lateness(mode, f"{mode}_{service}_{number}") for number in range(EACH)]
                    yield {"mode": mode, "service": service, "waits": EACH, "late": max(late)}


def reached(row: dict[str, Any]) -> bool:
    """Return whether a mode is decided in time."""
    return bool(row["late"] <= (0.0 if row["mode"] == "reschedule" else LATEST))


def main() -> int:
    """Measure, print and write the figures. The exit status is 1 if a target was missed."""
    rows = list(measure())
    print_table(
        ("mode", "the service", "waits", "target", "latest", ""),
        [
            (
                row["mode"],
                row["service"],
                f"{row['waits']}",
                "no reschedule beyond" if row["mode"] == "reschedule" else f"within {LATEST:g} s",
                f"{row['late']:+.2f} s",
                "reached" if reached(row) else "MISSED",
            )
            for row in rows
        ],
    )
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(map(reached, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
