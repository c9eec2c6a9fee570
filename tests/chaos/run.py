"""One night: a run of twenty videos, while what its schedule says goes wrong."""

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

DAG_ID = "night"
CONNECTION = "manxue_default"
REQUESTS_PER_SECOND = 1
ORDERED = {"ordered_and_awaited": 5, "ordered": 4}
"""The groups of tasks that order their videos, and how many."""
AWAITED = {"batch": 8, "single": 1, "end_in_triggerer": 1, "all_in_triggerer": 1}
"""Those that wait for videos that are ordered already."""
FAILING = {("ordered_and_awaited", 1), ("ordered", 2), ("batch", 3), ("batch", 6)}
MAX_RUNNING = 6
"""Ordered videos that the account runs at a time: fewer than are ordered at once, so that some orders wait for room."""
VIDEOS = sum(ORDERED.values()) + sum(AWAITED.values())
LONGEST_RUN = 1500.0
TICK = 0.2
DAY = 86400.0
TASKS_AT_ONCE = 3


DAGS = Path(__file__).parent / "dags"

# Airflow notices within seconds what it notices within minutes by default, so that a night is short.
CONFIG: dict[str, object] = {
    "scheduler.task_instance_heartbeat_timeout": 30,
    "scheduler.task_instance_heartbeat_timeout_detection_interval": 5,
    "scheduler.scheduler_health_check_threshold": 15,
    "scheduler.orphaned_tasks_check_interval": 10,
    "scheduler.task_queued_timeout": 90,
    "scheduler.task_queued_timeout_check_interval": 10,
    "scheduler.num_stuck_in_queued_retries": 10,
    # The machine is busy, and its API server is one process.
    "workers.execution_api_timeout": 20,
}


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[tuple[DistributedAirflow, Emulator]]:
    """
    Run a deployment and the service, for any number of nights.

    :param folder: where everything is kept.
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
    One of the twenty.

    :param group: the tasks that it goes through.
    :param index: which of the group.
    :param ready_at: when the service is done with it, in seconds since the run was triggered.
    :param id: its id, as soon as the service has it.
    :param is_ready: whether the service was told that it is done.
    """

    group: str
    index: int
    ready_at: float
    id: str | None = None
    is_ready: bool = False

    @property
    def fails(self) -> bool:
        """Whether the service cannot make it."""
        return (self.group, self.index) in FAILING

    @property
    def is_ordered(self) -> bool:
        """Whether the run orders it."""
        return self.group in ORDERED


@dataclass
class ChaosRun:
    """
    What happens in a night.

    :param schedule: what goes wrong.
    :param airflow: the deployment.
    :param emulator: the service.
    :param destination: the folder for the videos.
    :param say: told what goes wrong, when it does.
    :param videos: the twenty, as soon as it is played.
    :param keys: the API keys that were valid in it, the last one at the end.
    """

    schedule: Schedule
    airflow: DistributedAirflow
    emulator: Emulator
    destination: Path
    say: Callable[[str], None]
    videos: list[Video] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Name the run and its orders so that no other night has them."""
        self.name = f"night-{self.schedule.seed}-{secrets.token_hex(3)}"
        self._mending: dict[Fault, contextlib.ExitStack] = {}
        self._to_come = list(self.schedule.faults)

    def play(self) -> list[str]:
        """Trigger the run, let everything go wrong, and wait until the run has ended; say if it does not."""
        self._prepare()
        conf: dict[str, Any] = {"destination": f"file://{self.destination}/"}
        for group in ORDERED:
            conf[group] = [self.prompt(video) for video in self._of(group)]
        for group in AWAITED:
            conf[group] = [video.id for video in self._of(group)]
        self.airflow.trigger(DAG_ID, conf=conf, run_id=self.name)
        self.started = time.monotonic()
        try:
            self.airflow.wait_until(self._tick, LONGEST_RUN, "the run has ended")
        except LocalAirflowError as error:
            return [f"{error}\n{self.airflow.describe_run(DAG_ID, self.name)}"]
        finally:
            for stack in self._mending.values():
                stack.close()
            self.took = time.monotonic() - self.started
        return []

    def prompt(self, video: Video) -> str:
        """Return the prompt by which an order is known again."""
        return f"{self.name} {video.group} {video.index}"

    def _of(self, group: str) -> list[Video]:
        return [video for video in self.videos if video.group == group]

    def _prepare(self) -> None:
        self.emulator.clear_faults()
        self.emulator.clear_requests()
        # What a video does is said here, by real time: the emulator's clock is one of the things that go wrong.
        self.emulator.default_script = Script.by_hand("processing")
        self._make_room()
        self._rotate_key()()
        groups = [(group, index) for group, count in {**ORDERED, **AWAITED}.items() for index in range(count)]
        spread = self.schedule.end / len(groups)
        for place, (group, index) in enumerate(groups):
            # Some are ready while things go wrong, the last ones afterwards.
            video = Video(group, index, ready_at=20 + spread * ((place * 7) % len(groups)))
            if not video.is_ordered:
                video.id = self.emulator.add_task()
            self.videos.append(video)

    def _make_room(self) -> None:
        """End the videos of earlier nights that no task awaits any more: they take room in the account."""
        for order in self.emulator.ledger.orders:
            if self.emulator.task(order.id).status == "processing":
                self.emulator.set_status(order.id, "completed")

    # --- while it lasts ---------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return time.monotonic() - self.started

    def _tick(self) -> bool:
        for fault in [fault for fault in self._to_come if fault.at <= self._now]:
            self._to_come.remove(fault)
            self._begin(fault)
        for fault in [fault for fault in self._mending if fault.until <= self._now]:
            self.say(f"  {self._now:6.1f} s  mended: {fault.kind}")
            self._mending.pop(fault).close()
        self._work_of_the_service()
        if self._to_come or self._mending:
            return False
        return self.airflow.run_state(DAG_ID, self.name) in FINISHED

    def _work_of_the_service(self) -> None:
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
        self._mending[fault] = stack
        stack.callback(self._break(fault))

    def _break(self, fault: Fault) -> Callable[[], object]:
        """Let something go wrong, and return what mends it."""
        servers, lost = self.airflow.servers, _LOST.get(fault.kind)
        if lost:
            names = lost if fault.kind.startswith("both") else lost[fault.which % len(lost) :][:1]
            for name in names:
                self.airflow.lose(name)
            return lambda: self._start_again(names)
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

    def _start_again(self, names: Sequence[str]) -> None:
        for name in names:
            self.airflow.launch(name)

    def _rotate_key(self) -> Callable[[], object]:
        """Make the old key invalid; the new one comes into the connection when this is mended."""
        self.keys.append(f"key-{self.schedule.seed}-{secrets.token_hex(12)}")
        self.emulator.api_key = self.keys[-1]
        return self._tell_airflow_the_key

    def _tell_airflow_the_key(self) -> None:
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
