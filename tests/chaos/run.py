"""One chaos run: a Dag run of twenty videos during the faults of a schedule."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing import Emulator, Script
from dev.distributed_airflow import TRIGGERERS, WORKERS, DistributedAirflow, distributed_airflow
from dev.local_airflow import FINISHED, LocalAirflowError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.chaos.schedule import Fault, Schedule

DAG_ID = "chaos_run"
CONNECTION = "manxue_default"
REQUESTS_PER_SECOND = 1
ORDERED = {"ordered_and_awaited": 5, "ordered": 4}
"""Number of videos in each group of tasks that orders its videos."""
AWAITED = {"batch": 8, "single": 1, "end_in_triggerer": 1, "all_in_triggerer": 1}
"""Number of videos in each group of tasks that waits for existing videos."""
FAILING = {("ordered_and_awaited", 1), ("ordered", 2), ("batch", 3), ("batch", 6)}
MAX_RUNNING = 6
"""Videos that the account runs at a time: fewer than the run orders, so that some orders wait for room."""
VIDEOS = sum(ORDERED.values()) + sum(AWAITED.values())
LONGEST_RUN = 1500.0
TICK = 0.2
DAY = 86400.0
TASKS_AT_ONCE = 3


DAGS = Path(__file__).parent / "dags"

# Shorter than Airflow's defaults, which are minutes, so that a run is short.
CONFIG: dict[str, object] = {
    "scheduler.task_instance_heartbeat_timeout": 30,
    "scheduler.task_instance_heartbeat_timeout_detection_interval": 5,
    "scheduler.scheduler_health_check_threshold": 15,
    "scheduler.orphaned_tasks_check_interval": 10,
    "scheduler.task_queued_timeout": 90,
    "scheduler.task_queued_timeout_check_interval": 10,
    "scheduler.num_stuck_in_queued_retries": 10,
    # The machine is busy, and the API server is one process.
    "workers.execution_api_timeout": 20,
}


@contextlib.contextmanager
def deployment(folder: Path) -> Iterator[tuple[DistributedAirflow, Emulator]]:
    """
    Start a deployment and the emulator, for any number of chaos runs.

    :param folder: folder for all files.
    """
    with (
        Emulator(max_running=MAX_RUNNING) as emulator,
        distributed_airflow(
            folder / "airflow", dags_folder=DAGS, concurrency=TASKS_AT_ONCE, config=CONFIG
        ) as airflow,
    ):
        yield airflow, emulator


@dataclass
class Video:
    """
    One of the twenty videos.

    :param group: its group of tasks.
    :param index: its number in the group.
    :param ready_at: when the service ends it, in seconds since the run was triggered.
    :param id: its id; None until it is ordered.
    :param is_ready: whether it has ended.
    """

    group: str
    index: int
    ready_at: float
    id: str | None = None
    is_ready: bool = False

    @property
    def fails(self) -> bool:
        """Whether the video fails."""
        return (self.group, self.index) in FAILING

    @property
    def is_ordered(self) -> bool:
        """Whether the run orders the video."""
        return self.group in ORDERED


@dataclass
class ChaosRun:
    """
    One chaos run.

    :param schedule: its faults.
    :param airflow: the deployment.
    :param emulator: the service.
    :param destination: folder for the videos.
    :param say: function that prints each fault when it begins and ends.
    :param videos: the twenty videos; empty before the run.
    :param keys: the API keys that were valid during the run; the last one is the current key.
    """

    schedule: Schedule
    airflow: DistributedAirflow
    emulator: Emulator
    destination: Path
    say: Callable[[str], None]
    videos: list[Video] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Choose a unique name for the run. The name is part of its prompts."""
        self.name = f"chaos-{self.schedule.seed}-{secrets.token_hex(3)}"
        self._active: dict[Fault, contextlib.ExitStack] = {}
        self._pending = list(self.schedule.faults)

    def play(self) -> list[str]:
        """Trigger the run, inject the faults, and wait for the end. Return an error message if the run does not end."""
        self._prepare()
        conf: dict[str, Any] = {"destination": f"file://{self.destination}/"}
        for group in ORDERED:
            conf[group] = [self.prompt(video) for video in self._of(group)]
        for group in AWAITED:
            conf[group] = [video.id for video in self._of(group)]
        self.airflow.trigger(DAG_ID, conf=conf, run_id=self.name)
        self.started = time.monotonic()
        try:
            self.airflow.wait_until(self._tick, "the run has ended", timeout=LONGEST_RUN)
        except LocalAirflowError as error:
            return [f"{error}\n{self.airflow.describe_run(DAG_ID, self.name)}"]
        finally:
            for stack in self._active.values():
                stack.close()
            self.took = time.monotonic() - self.started
        return []

    def prompt(self, video: Video) -> str:
        """Return the prompt of a video, which identifies its order."""
        return f"{self.name} {video.group} {video.index}"

    def _of(self, group: str) -> list[Video]:
        return [video for video in self.videos if video.group == group]

    def _prepare(self) -> None:
        self.emulator.clear_faults()
        self.emulator.clear_requests()
        # This class ends the videos by real time, since a fault may step the emulator's clock.
        self.emulator.default_script = Script.by_hand("processing")
        self._make_room()
        self._rotate_key()()
        groups = [(group, index) for group, count in {**ORDERED, **AWAITED}.items() for index in range(count)]
        spread = self.schedule.end / len(groups)
        for place, (group, index) in enumerate(groups):
            # Some videos end during the faults, the last ones afterwards.
            video = Video(group, index, ready_at=20 + spread * ((place * 7) % len(groups)))
            if not video.is_ordered:
                video.id = self.emulator.add_task()
            self.videos.append(video)

    def _make_room(self) -> None:
        """End the videos left by earlier runs, which take room in the account."""
        for order in self.emulator.ledger.orders:
            if self.emulator.task(order.id).status == "processing":
                self.emulator.set_status(order.id, "completed")

    # --- during the run ---------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return time.monotonic() - self.started

    def _tick(self) -> bool:
        for fault in [fault for fault in self._pending if fault.at <= self._now]:
            self._pending.remove(fault)
            self._begin(fault)
        for fault in [fault for fault in self._active if fault.until <= self._now]:
            self.say(f"  {self._now:6.1f} s  ended: {fault.kind}")
            self._active.pop(fault).close()
        self._end_videos()
        if self._pending or self._active:
            return False
        return self.airflow.run_state(DAG_ID, self.name) in FINISHED

    def _end_videos(self) -> None:
        orders = {order.request["prompt"]: order.id for order in self.emulator.ledger.orders}
        for video in self.videos:
            if video.id is None:
                video.id = orders.get(self.prompt(video))
            elif not video.is_ready and video.ready_at <= self._now:
                self.emulator.set_status(video.id, "failed" if video.fails else "completed")
                video.is_ready = True

    def _begin(self, fault: Fault) -> None:
        self.say(f"  {self._now:6.1f} s  {fault.kind}")
        stack = contextlib.ExitStack()
        self._active[fault] = stack
        stack.callback(self._inject(fault))

    def _inject(self, fault: Fault) -> Callable[[], object]:
        """Begin a fault, and return the function that ends it."""
        servers, lost = self.airflow.servers, _LOST.get(fault.kind)
        if lost:
            names = lost if fault.kind.startswith("both") else lost[fault.which % len(lost) :][:1]
            for name in names:
                self.airflow.lose(name)
            return lambda: self._restart(names)
        if fault.kind.startswith("PostgreSQL"):
            servers["postgres"].stop(signal.SIGQUIT if "crashed" in fault.kind else signal.SIGINT)
            return servers["postgres"].start
        if fault.kind == "key rotated":
            return self._rotate_key()
        if fault.kind == "emulator restarted":
            self.emulator.stop()
            return self.emulator.start
        if fault.kind == "clock step":
            self.emulator.clock.advance(3600 if fault.which else 2 * DAY)
            return lambda: None
        outage = self.emulator.outage(fault.kind)
        outage.__enter__()
        return lambda: outage.__exit__(None, None, None)

    def _restart(self, names: Sequence[str]) -> None:
        for name in names:
            self.airflow.launch(name)

    def _rotate_key(self) -> Callable[[], object]:
        """Replace the service's API key, and return the function that updates the connection."""
        self.keys.append(f"key-{self.schedule.seed}-{secrets.token_hex(12)}")
        self.emulator.api_key = self.keys[-1]
        return self._update_connection

    def _update_connection(self) -> None:
        self.airflow.put_connection(
            CONNECTION,
            conn_type="manxue",
            host=self.emulator.base_url,
            password=self.emulator.api_key,
            extra=json.dumps({"requests_per_second": REQUESTS_PER_SECOND, "request_timeout": 5}),
        )


_LOST = {
    "triggerer killed": TRIGGERERS,
    "both triggerers down": TRIGGERERS,
    "worker killed": WORKERS,
    "scheduler killed": ("scheduler",),
}
