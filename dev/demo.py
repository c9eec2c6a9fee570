"""Watch a real Airflow wait for a video without holding a worker slot.

Everything is real but the service, which is the package's own emulator: the scheduler, the triggerer, the
connection, the HTTP requests and the Dag in ``example_dags``. It runs below the folder ``.demo``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from airflow_provider_manxue.testing import Emulator, Script
from dev.distributed_airflow import distributed_airflow
from dev.local_airflow import FINISHED, LocalAirflow, LocalAirflowError, TaskKey, installed_version
from dev.servers import ServerError

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".demo"
DAG_ID = "manxue_wait_for_video"
RUN_ID = "demo"
AWAITING_TASK = "wait"
XCOM_KEYS = ("video_url", "actualDuration")

SECONDS_QUEUED = 4
SECONDS_PROCESSING = 26
RUN_TIMEOUT = 300


@dataclass
class Watcher:
    """Print each change of the run, with the worker slots that are occupied just then."""

    airflow: LocalAirflow
    started: float = field(default_factory=time.monotonic)
    states: dict[TaskKey, str | None] = field(default_factory=dict)
    slots_while_waiting: list[int] = field(default_factory=list)

    def look(self) -> bool:
        """Look once; true when the run has ended."""
        ended = self.airflow.run_state(DAG_ID, RUN_ID) in FINISHED
        states, slots = self._snapshot()
        for task, state in states.items():
            if state and state != self.states.get(task):
                say(f"  {time.monotonic() - self.started:5.1f} s   {task!s:<8} {state:<12} {slots}")
        if states.get(AWAITING_TASK) == "deferred":
            self.slots_while_waiting.append(slots)
        self.states = states
        return ended

    def _snapshot(self) -> tuple[dict[TaskKey, str | None], int]:
        """Read states and slots that belong together: repeated if something changed in between."""
        while True:
            states = self.airflow.task_states(DAG_ID, RUN_ID)
            slots = self.airflow.occupied_slots()
            if states == self.airflow.task_states(DAG_ID, RUN_ID):
                return states, slots


def show_run(airflow: LocalAirflow) -> None:
    """Run the Dag, show what happens, and raise unless it went as promised."""
    airflow.trigger(DAG_ID, run_id=RUN_ID)
    say(f"\nA run of {DAG_ID}:\n\n     time   task     state        occupied worker slots")
    watcher = Watcher(airflow)
    airflow.wait_until(watcher.look, RUN_TIMEOUT, f"{DAG_ID} has ended")
    if airflow.run_state(DAG_ID, RUN_ID) != "success":
        raise LocalAirflowError(airflow.describe_run(DAG_ID, RUN_ID))
    slots = max(watcher.slots_while_waiting, default=None)
    say(f"\nWorker slots occupied while the video was awaited: {slots}")
    if slots != 0:
        raise LocalAirflowError("the wait did not leave all worker slots free")
    say(f"\nXComs of the task {AWAITING_TASK}:\n")
    for key in XCOM_KEYS:
        say(f"  {key:<16} {airflow.xcom(DAG_ID, RUN_ID, AWAITING_TASK, key=key)}")


def keep_running(airflow: LocalAirflow) -> None:
    """Leave everything as it is until Ctrl-C."""
    say(
        f"\nAirflow's pages (no login): {airflow.base_url}/dags/{DAG_ID}/runs/{RUN_ID}\nCtrl-C ends everything."
    )
    airflow.wait_until(lambda: False, timeout=float("inf"))


def demo(*, with_ui: bool, distributed: bool) -> None:
    """Start the emulator and Airflow, show the run, and end both."""
    shutil.rmtree(HOME, ignore_errors=True)
    with Emulator() as emulator:
        emulator.default_script = Script.timed(queued=SECONDS_QUEUED, processing=SECONDS_PROCESSING)
        connection = {"AIRFLOW_CONN_MANXUE_DEFAULT": emulator.airflow_connection_json()}
        deployment = distributed_airflow if distributed else LocalAirflow
        version = ".".join(map(str, installed_version(sys.executable)))
        say(f"Airflow {version} is starting below {HOME.name}/ (half a minute, or a whole one) ...")
        started = time.monotonic()
        with deployment(HOME, dags_folder=ROOT / "example_dags", env=connection) as airflow:
            say(f"Airflow is ready after {time.monotonic() - started:.0f} s: {', '.join(airflow.processes)}.")
            show_run(airflow)
            if with_ui:
                keep_running(airflow)
    say("\nDone; nothing was left running.")


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def main() -> int:
    """Run the demo; the exit code says whether all went well."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo", description=__doc__)
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="with PostgreSQL, Celery on Redis, two workers, two triggerers",
    )
    parser.add_argument("--ui", action="store_true", help="keep Airflow running until Ctrl-C")
    arguments = parser.parse_args()
    try:
        demo(with_ui=arguments.ui, distributed=arguments.distributed)
    except (LocalAirflowError, ServerError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("\nStopped; nothing was left running.")
        return 0 if arguments.ui else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
