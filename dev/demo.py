"""Run an example Dag on a real Airflow: order a video, wait for it without a worker slot, and save it.

Airflow, the connection, the HTTP requests and the Dag in ``example_dags`` are real; the service is the package's
emulator. All files are in the folder ``.demo``.
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
VIDEOS = HOME / "videos"
DAG_ID = "manxue_order_wait_save"
RUN_ID = "demo"
AWAITING_TASK = "order"
XCOM_KEYS = ("video_task_id", "video_url", "actualDuration")
VIDEO_TAB = "plugin/manxue_video"

SECONDS_QUEUED = 4
SECONDS_PROCESSING = 26
RUN_TIMEOUT = 300


@dataclass
class Watcher:
    """Prints each change of a task's state, with the number of occupied worker slots at that time."""

    airflow: LocalAirflow
    started: float = field(default_factory=time.monotonic)
    states: dict[TaskKey, str | None] = field(default_factory=dict)
    slots_while_waiting: list[int] = field(default_factory=list)

    def poll(self) -> bool:
        """Print changes since the last call. Return whether the run has ended."""
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
        """Return states and slots of the same moment: reads again if a state changed in between."""
        while True:
            states = self.airflow.task_states(DAG_ID, RUN_ID)
            slots = self.airflow.occupied_slots()
            if states == self.airflow.task_states(DAG_ID, RUN_ID):
                return states, slots


def show_run(airflow: LocalAirflow) -> None:
    """
    Run the Dag and print its progress.

    :raises LocalAirflowError: if the run failed, or the wait occupied a worker slot.
    """
    airflow.trigger(DAG_ID, conf={"destination": f"{VIDEOS.as_uri()}/"}, run_id=RUN_ID)
    say(f"\nRunning the Dag {DAG_ID}:\n\n     time   task     state        occupied worker slots")
    watcher = Watcher(airflow)
    airflow.wait_until(watcher.poll, f"{DAG_ID} has ended", timeout=RUN_TIMEOUT)
    if airflow.run_state(DAG_ID, RUN_ID) != "success":
        raise LocalAirflowError(airflow.describe_run(DAG_ID, RUN_ID))
    slots = max(watcher.slots_while_waiting, default=None)
    say(f"\nOccupied worker slots while the task {AWAITING_TASK} was deferred: {slots}")
    if slots != 0:
        raise LocalAirflowError(
            f"The deferred task {AWAITING_TASK} occupied a worker slot, or was never deferred."
        )
    say(f"\nResults of the task {AWAITING_TASK} (XComs):\n")
    for key in XCOM_KEYS:
        say(f"  {key:<16} {airflow.xcom(DAG_ID, RUN_ID, AWAITING_TASK, key=key)}")
    for file in VIDEOS.iterdir():
        say(f"\nSaved: {file.relative_to(ROOT)}, {file.stat().st_size:,} bytes. Any player plays it.")


def keep_running(airflow: LocalAirflow) -> None:
    """Keep Airflow running until Ctrl-C."""
    run = f"{airflow.base_url}/dags/{DAG_ID}/runs/{RUN_ID}"
    say(
        f"""
Open in a browser (no login):

  {run}/tasks/order/{VIDEO_TAB}
      the Video tab of the order: the player, the length, and where the video is saved
  {run}
      the run: click a task for its log, XComs and Details
  {airflow.base_url}/dags/{DAG_ID}
      click Trigger to order another video, and open the Video tab of its task while it waits

Press Ctrl-C to stop."""
    )
    airflow.wait_until(lambda: False, timeout=float("inf"))


def demo(*, with_ui: bool, distributed: bool) -> None:
    """Start the emulator and Airflow, show the run, and stop both."""
    shutil.rmtree(HOME, ignore_errors=True)
    with Emulator() as emulator:
        emulator.default_script = Script.timed(queued=SECONDS_QUEUED, processing=SECONDS_PROCESSING)
        connection = {"AIRFLOW_CONN_MANXUE_DEFAULT": emulator.airflow_connection_json()}
        deployment = distributed_airflow if distributed else LocalAirflow
        version = ".".join(map(str, installed_version(sys.executable)))
        say(f"Starting Airflow {version} in {HOME.name}/ (30 to 60 seconds) ...")
        started = time.monotonic()
        examples = ROOT / "example_dags"
        config = {"core.plugins_folder": examples / "plugins", "manxue.video_tab": True}
        with deployment(HOME, dags_folder=examples, env=connection, config=config) as airflow:
            say(f"Started in {time.monotonic() - started:.0f} s: {', '.join(airflow.processes)}.")
            show_run(airflow)
            if with_ui:
                keep_running(airflow)
    say("\nFinished. All processes were stopped.")


def say(text: str) -> None:
    """Print a line and flush it."""
    print(text, flush=True)


def main() -> int:
    """Run the demo. The exit status is 0 on success, 1 on failure, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo", description=__doc__)
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="use PostgreSQL, Celery on Redis, two workers and two triggerers",
    )
    parser.add_argument("--ui", action="store_true", help="keep Airflow running until Ctrl-C")
    arguments = parser.parse_args()
    try:
        demo(with_ui=arguments.ui, distributed=arguments.distributed)
    except (LocalAirflowError, ServerError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("\nStopped. All processes were stopped.")
        return 0 if arguments.ui else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
