"""
Delay from a triggerer's failure until its waits are polled again by another triggerer.

The waits run in a complete Airflow with PostgreSQL. The benchmark reads the time of each move from the database, ten times
a second, and the time of the next poll from the emulator's records.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_manxue.testing import Emulator, Script
from benchmarks.from_trigger import DAGS, REPOSITORY
from benchmarks.table import print_table
from benchmarks.tasklog import moments
from dev.local_airflow import LocalAirflow, postgres_database

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).parent / "failover.json"
POSTGRES = os.environ.get("BENCHMARK_POSTGRES", "postgresql+psycopg2://postgres@127.0.0.1:5432")
WAITS = 100
RUNS = (("both", 10), ("both", 30), ("normal", 10), ("normal", 30))
KINDS = {"both": "begun in the triggerer", "normal": "deferred by a worker"}

FIRST_POLL = 2.0
"""Target: seconds from the first move to the first poll, and from each move to the wait's poll beyond an interval."""

LOOK_EVERY = 0.1
"""Seconds between two queries of Airflow's database."""

PATIENCE = 90.0
"""Seconds, plus the interval, after which a wait without a poll counts as lost."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """
    Measurements of one failover.

    :param kind: start of the waits: both (in the triggerer), or normal (deferred by a worker).
    :param interval: seconds between two polls of a wait.
    :param what: the triggerer that was killed, and the one that took its waits.
    :param moved: number of its waits.
    :param detection: seconds from the kill until Airflow moved the first wait to another triggerer.
    :param moving: seconds from the first move to the last.
    :param start: median of the seconds from a wait's move until Airflow started its trigger.
    :param first_poll: seconds from the first move to the first poll.
    :param last_poll: seconds from a wait's move to its poll, the longest.
    :param first_own: seconds from the first start of a trigger to the first poll.
    :param last_own: seconds from the start of a wait's trigger to its poll, the longest.
    """

    kind: str
    interval: float
    what: str
    moved: int
    detection: float
    moving: float
    start: float
    first_poll: float
    last_poll: float
    first_own: float
    last_own: float


class Waits:
    """
    A hundred endless waits in an Airflow whose triggerers can be killed.

    :param airflow: a running Airflow with the Dag.
    :param emulator: the service.
    :param kind: start of the waits, as in `Figures`.
    :param interval: seconds between two polls of a wait.
    """

    def __init__(self, airflow: LocalAirflow, emulator: Emulator, kind: str, interval: float) -> None:
        self.airflow = airflow
        self.emulator = emulator
        self.kind = kind
        self.interval = interval
        videos = [emulator.add_task(script=Script.by_hand("processing")) for _ in range(WAITS)]
        self.videos = {f"wait_{number}": video for number, video in enumerate(videos)}
        self.run_id = airflow.trigger("waits", conf={"videos": videos})
        airflow.wait_until(self._all_wait, f"triggerers have {WAITS} waits", timeout=20.0 * WAITS)
        # Until each wait has been polled in its triggerer, as in a system that has run for a while.
        emulator.clear_requests()
        airflow.wait_until(
            lambda: set(videos) <= self.polls().keys(), "all are polled", timeout=10 * PATIENCE
        )

    def _all_wait(self) -> bool:
        if self.airflow.run_state("waits", self.run_id) == "failed":
            raise RuntimeError(self.airflow.describe_run("waits", self.run_id))
        return len(self.owners()) == WAITS

    def owners(self) -> dict[str, int]:
        """Return the job id of the triggerer of each wait."""
        rows = self.airflow.query(
            "SELECT ti.task_id, t.triggerer_id FROM task_instance ti JOIN trigger t ON t.id = ti.trigger_id"
            " WHERE ti.run_id = ? AND t.triggerer_id IS NOT NULL",
            self.run_id,
        )
        return dict(rows)

    def polls(self) -> dict[str, float]:
        """Return the time of each video's first poll in the emulator's records."""
        polls: dict[str, float] = {}
        for request in self.emulator.requests:
            polls.setdefault(str(request.task_id), request.time)
        return polls

    def kill(self, name: str, job: int, what: str, *, restart: bool = False) -> Figures:
        """
        Kill a triggerer, and measure until each of its waits is polled again.

        :param name: name of the component.
        :param job: id of its job.
        :param what: description of the case.
        :param restart: restart the triggerer immediately; otherwise another triggerer takes its waits.
        """
        lost = {task: self.videos[task] for task, owner in self.owners().items() if owner == job}
        killed_at = time.time()
        self.airflow.kill(name)
        self.emulator.clear_requests()
        if restart:
            self.airflow.start(name)
        moves: dict[str, float] = {}
        while not (lost.keys() <= moves.keys() and set(lost.values()) <= self.polls().keys()):
            if time.time() > killed_at + PATIENCE + self.interval:
                raise RuntimeError(f"not all of {len(lost)} waits are polled again")
            time.sleep(LOOK_EVERY)
            now = time.time()
            for task, owner in self.owners().items():
                if owner != job:
                    moves.setdefault(task, now)
        all_polls = self.polls()
        polls = {task: all_polls[video] for task, video in lost.items()}
        starts = {task: self.started_again(task, killed_at) for task in lost}
        first_move = min(moves[task] for task in lost)
        return Figures(
            kind=self.kind,
            interval=self.interval,
            what=what,
            moved=len(lost),
            detection=first_move - killed_at,
            moving=max(moves[task] for task in lost) - first_move,
            start=statistics.median(starts[task] - moves[task] for task in lost),
            first_poll=min(polls.values()) - first_move,
            last_poll=max(polls[task] - moves[task] for task in lost),
            first_own=min(polls.values()) - min(starts.values()),
            last_own=max(polls[task] - starts[task] for task in lost),
        )

    def started_again(self, task: str, since: float) -> float:
        """Return when the trigger of a wait was first started after a time, from the task's log."""
        log = self.airflow.task_log("waits", self.run_id, task)
        for began_at in moments(log, r"trigger .* starting"):
            if began_at > since:
                return began_at
        raise RuntimeError(f"The log of {task} contains no further start of its trigger.")


def measure(kind: str, interval: float) -> Iterator[Figures]:
    """Start a hundred waits in a fresh Airflow, and kill its triggerers one after another."""
    with (
        Emulator() as emulator,
        postgres_database(POSTGRES) as url,
        tempfile.TemporaryDirectory() as home,
        LocalAirflow(
            home,
            dags_folder=DAGS,
            env={
                "AIRFLOW_CONN_MANXUE_DEFAULT": emulator.airflow_connection_json(),
                "BENCHMARK_KIND": kind,
                "BENCHMARK_WAITS": str(WAITS),
                "BENCHMARK_INTERVAL": str(interval),
                "PYTHONPATH": str(REPOSITORY),
            },
            config={"core.max_active_tasks_per_dag": 10_000},
            postgres=url,
        ) as airflow,
    ):
        one = newest_triggerer(airflow)
        airflow.start("triggerer:2")
        two = newest_triggerer(airflow)
        waits = Waits(airflow, emulator, kind, interval)
        yield waits.kill("triggerer", one, "one of two that share the waits")
        airflow.start("triggerer")
        one = newest_triggerer(airflow)
        yield waits.kill("triggerer:2", two, "the one with all waits, another is idle")
        yield waits.kill("triggerer", one, "the only one, restarted immediately", restart=True)


def newest_triggerer(airflow: LocalAirflow) -> int:
    """Return the id of the job of the triggerer that was started last."""
    [(job,)] = airflow.query("SELECT max(id) FROM job WHERE job_type = 'TriggererJob'")
    return int(job)


def targets(runs: list[Figures]) -> list[tuple[str, str, str, str]]:
    """Return the worst figures of all failovers, with their targets."""
    first = max(one.first_poll for one in runs)
    beyond = max(one.last_poll - one.interval for one in runs)
    return [
        (
            "first poll of a moved wait, after the move",
            f"within {FIRST_POLL:g} s",
            f"{first:.1f} s",
            "reached" if first <= FIRST_POLL else "MISSED",
        ),
        (
            "last poll of a moved wait, after its move",
            f"within {FIRST_POLL:g} s and an interval",
            f"an interval and {beyond:.1f} s",
            "reached" if beyond <= FIRST_POLL else "MISSED",
        ),
    ]


def main() -> int:
    """Measure, print and write the figures. The exit status is 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument(
        "--only", nargs=2, metavar=("KIND", "INTERVAL"), action="append", help="one run; nothing is written"
    )
    only = parser.parse_args().only
    runs = []
    for kind, interval in [(kind, float(interval)) for kind, interval in only] if only else RUNS:
        for figures in measure(kind, interval):
            print(figures, file=sys.stderr, flush=True)
            runs.append(figures)
    print_table(
        (
            "waits", "interval", "the triggerer that died", "moved", "detection s", "moving s", "start s",
            "first poll s", "last poll s", "first, own s", "last, own s",
        ),
        [
            (
                KINDS[one.kind], f"{one.interval:g} s", one.what, f"{one.moved}", f"{one.detection:.1f}",
                f"{one.moving:.1f}", f"{one.start:.1f}", f"{one.first_poll:.1f}", f"{one.last_poll:.1f}",
                f"{one.first_own:.1f}", f"{one.last_own:.1f}",
            )
            for one in runs
        ],
    )  # fmt: skip
    if not only:
        RESULTS.write_text(json.dumps([dataclasses.asdict(one) for one in runs], indent=2) + "\n")
    rows = targets(runs)
    print_table(("figure", "target", "measured", ""), rows)
    return 0 if all(row[-1] == "reached" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
