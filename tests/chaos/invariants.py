"""Invariants of a chaos run, checked from outside: in Airflow's database, the folders, and the emulator's ledger."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dev.distributed_airflow import TRIGGERERS
from dev.local_airflow import is_listening
from tests.chaos.run import DAG_ID, ORDERED, REQUESTS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dev.distributed_airflow import DistributedAirflow
    from tests.chaos.run import ChaosRun, Video

MAY_BE_BOUGHT = ("The outcome of the order is unknown", "The outcome of the order sent at")
"""Messages of orders whose outcome only a person can find out."""
NOT_BOUGHT = ("The order was rejected, and nothing was ordered",)
WAITS_FOR_ROOM = "The order waits in the triggerer"
WINDOW = 10.0
LATE = 3.0
"""Seconds by which a fault may be delayed on a busy machine."""


class Invariants:
    """
    The checks of a chaos run that has ended.

    :param run: the run.
    """

    def __init__(self, run: ChaosRun) -> None:
        self.run = run
        self.states = run.airflow.task_states(DAG_ID, run.name)
        self.excused: list[str] = []
        """Orders whose outcome only a person can find out."""
        self.busiest = 0.0
        """Highest number of polls per second from the triggerers, over 10 seconds."""
        rows = run.airflow.query(
            "SELECT task_id, map_index, key, value FROM xcom WHERE dag_id = ? AND run_id = ?",
            DAG_ID,
            run.name,
        )
        self._xcoms: dict[tuple[str, int, str], list[Any]] = {}
        for task_id, index, key, value in rows:
            self._xcoms.setdefault((task_id, index, key), []).append(value)

    def broken(self) -> list[str]:
        """Return the broken invariants."""
        checks = (
            self._orders(),
            self._waits(),
            self._batch(),
            self._saved(),
            self._requests(),
            self._files(),
            self._secrets(),
        )
        return [text for check in checks for text in check]

    @property
    def waited_for_room(self) -> int:
        """Number of orders that released their worker slot until the account had room."""
        return sum(WAITS_FOR_ROOM in self._log(video, "order") for video in self._videos(*ORDERED))

    # --- videos -----------------------------------------------------------------------------------------

    def _orders(self) -> Iterator[str]:
        """Check that no order is bought twice, and that each order is known or its task's error explains the failure."""
        for video in self._videos(*ORDERED):
            prompt = self.run.prompt(video)
            bought = [one.id for one in self.run.emulator.ledger.orders if one.request["prompt"] == prompt]
            if len(bought) > 1:
                yield f"{prompt} was bought {len(bought)} times: {bought}"
            state = self._state(video, "order")
            if state == "success":
                if self._values(video, "order", "video_task_id") != bought:
                    yield f"{prompt}: XCom {self._values(video, 'order', 'video_task_id')}, bought {bought}"
            elif state != "failed":
                yield f"{prompt}: the order ended as {state}"
            elif not (
                video.fails and video.group == "ordered_and_awaited" and self._reports_failure(video, "order")
            ):
                yield from self._unless_excused(video, len(bought))

    def _unless_excused(self, video: Video, bought: int) -> Iterator[str]:
        prompt, log = self.run.prompt(video), self._log(video, "order")
        unknown = any(text in log for text in MAY_BE_BOUGHT)
        rejected = bought == 0 and any(text in log for text in NOT_BOUGHT)
        if not unknown and not rejected:
            yield f"{prompt}: the order failed without a known reason:\n{log[-3000:]}"
        elif not self._met_a_fault(prompt):
            yield f"{prompt}: the order was given up without a fault:\n{log[-3000:]}"
        else:
            self.excused.append(f"{prompt}: {'unknown' if unknown else 'rejected'}, bought {bought}")

    def _met_a_fault(self, prompt: str) -> bool:
        """Return whether a fault of the service overlapped the order, or a fault may have hit its worker."""
        faults = self.run.schedule.faults
        if any(fault.kind == "worker killed" or fault.kind.startswith("PostgreSQL") for fault in faults):
            return True
        # A request that was reset immediately has no body, so it may be any order's.
        sent = [
            one.monotonic - self.run.started
            for one in self.run.emulator.requests
            if one.place == "create" and (one.body is None or prompt.encode() in one.body)
        ]
        return any(fault.at - LATE <= at <= fault.until + LATE for fault in faults for at in sent)

    def _waits(self) -> Iterator[str]:
        """Check the state and the XComs of each wait for a single video."""
        for video in self._videos(
            "ordered_and_awaited", "ordered", "single", "end_in_triggerer", "all_in_triggerer"
        ):
            task = "order" if video.group == "ordered_and_awaited" else "wait"
            where = f"{video.group}[{video.index}].{task}"
            if video.is_ordered and self._is_lost(video):
                if task == "wait" and self._state(video, "wait") != "upstream_failed":
                    yield f"{where} is {self._state(video, 'wait')} without an order"
                continue
            expected = "failed" if video.fails else "success"
            if self._state(video, task) != expected:
                yield f"{where} is {self._state(video, task)}, not {expected}:\n{self._log(video, task)[-3000:]}"
            elif video.fails:
                if not self._reports_failure(video, task) or self._values(video, task, "video_url"):
                    yield f"{where} failed without reporting that the video failed"
            else:
                yield from self._result(video, task)

    def _result(self, video: Video, task: str) -> Iterator[str]:
        where = f"{video.group}[{video.index}].{task}"
        values = {
            key: self._values(video, task, key) for key in ("return_value", "video_url", "actualDuration")
        }
        if any(len(found) != 1 for found in values.values()):
            yield f"{where} has { ({key: len(found) for key, found in values.items()}) } XComs"
            return
        [returned], [url], [duration] = values.values()
        length = self._task(video).actual_duration
        right = returned["id"] == video.id and returned["status"] == "completed"
        right = right and urlsplit(url).path == f"/media/{video.id}.mp4" and url == returned["video_url"]
        if not right or duration != length or returned["actualDuration"] != length:
            yield f"{where} pushed {returned}, {duration}"

    def _batch(self) -> Iterator[str]:
        """Check that the batch returned the result of each video, in order."""
        videos = self._videos("batch")
        states = {self.states.get(f"batch.{task}") for task in ("wait", "completed")}
        if states != {"success"}:
            yield f"the batch is {states}:\n{self._log_of('batch.wait', -1)[-3000:]}"
            return
        [returned] = self._xcoms["batch.wait", -1, "return_value"]
        [urls] = self._xcoms["batch.wait", -1, "video_url"]
        expected = [(video.id, "failed" if video.fails else "completed") for video in videos]
        if [(one["id"], one["status"]) for one in returned] != expected:
            yield f"the batch returned {returned}"
        if [url is None for url in urls] != [video.fails for video in videos]:
            yield f"the batch has the URLs {urls}"

    def _saved(self) -> Iterator[str]:
        """Check that each completed video of a known order is saved, byte for byte."""
        for video in self.run.videos:
            if video.fails or (video.is_ordered and self._is_lost(video)):
                continue
            file = self.run.destination / f"{video.id}.mp4"
            made = self._task(video).video
            content = made.read(0, made.size)
            state = self._state_of_save(video)
            if state != "success":
                yield f"{video.group}[{video.index}].save is {state}:\n{self._log(video, 'save')[-3000:]}"
            elif not file.exists() or file.read_bytes() != content:
                yield f"{video.group}[{video.index}] is not saved completely"
            elif self._sha256_of_save(video) != [hashlib.sha256(content).hexdigest()]:
                yield f"{video.group}[{video.index}].save has the checksum {self._sha256_of_save(video)}"

    # --- requests, files, secrets -----------------------------------------------------------------------

    def _requests(self) -> Iterator[str]:
        """Check the rate limit, and that only requests to the API carry the key."""
        records = self.run.emulator.requests
        if leaks := [
            one.raw_path.partition("?")[0] for one in records if one.place == "media" and one.carries_key
        ]:
            yield f"the key was sent to the media host: {leaks}"
        # aiohttp in the triggerer does not send this header; requests on a worker does.
        times = [one.monotonic for one in records if one.place == "query" and "Connection" not in one.headers]
        busiest = max((sum(at <= other < at + WINDOW for other in times) for at in times), default=0)
        # The limit applies per process: each triggerer, and the worker that reads the batch. A restarted process may
        # send its first request immediately.
        restarts = sum("triggerer" in fault.kind for fault in self.run.schedule.faults) * len(TRIGGERERS)
        most = (len(TRIGGERERS) + 1) * (REQUESTS_PER_SECOND * WINDOW + 1) + restarts
        self.busiest = busiest / WINDOW
        if busiest > most:
            yield f"{busiest} requests in {WINDOW:g} s, and {most:g} are allowed"

    def _files(self) -> Iterator[str]:
        """Check that the folder for videos contains only videos, and that no temporary file of the package is left."""
        known = {f"{video.id}.mp4" for video in self.run.videos if not video.fails}
        found = {path.name for path in self.run.destination.iterdir()}
        if any(fault.kind == "worker killed" for fault in self.run.schedule.faults):
            # A killed worker cannot remove the temporary file of a save.
            found = {name for name in found if not fnmatch(name, ".manxue-*.part")}
        strange = sorted(found - known)
        if strange:
            yield f"in the folder for the videos: {strange}"
        if remains := sorted(str(path) for path in self.run.airflow.temporary.rglob("*manxue*")):
            yield f"in the folder for temporary files: {remains}"

    def _secrets(self) -> Iterator[str]:
        """Search all files and database tables for the API keys of the run."""
        for key in self.run.keys:
            for file in self.run.airflow.home.rglob("*"):
                if file.is_file() and key.encode() in file.read_bytes():
                    yield f"a key is in {file}"
            for table in tables(self.run):
                sql = f'SELECT count(*) FROM "{table}" AS row WHERE position(? IN row::text) > 0'
                text, hexadecimal = (
                    self.run.airflow.query(sql, form)[0][0] for form in (key, key.encode().hex())
                )
                if text or hexadecimal:
                    yield f"a key is in the table {table}"

    # --- states, XComs, logs ----------------------------------------------------------------------------

    def _videos(self, *groups: str) -> list[Video]:
        return [video for video in self.run.videos if video.group in groups]

    def _task(self, video: Video) -> Any:
        return self.run.emulator.task(str(video.id))

    def _is_lost(self, video: Video) -> bool:
        """Return whether the run does not know the order; `_orders` checks the reason."""
        if video.group == "ordered_and_awaited":
            return not self._values(video, "order", "video_task_id")
        return self._state(video, "order") != "success"

    def _index(self, video: Video) -> int:
        return video.index if video.is_ordered else -1

    def _state(self, video: Video, task: str) -> str | None:
        task_id, index = f"{video.group}.{task}", self._index(video)
        return self.states.get(task_id if index < 0 else (task_id, index))

    def _values(self, video: Video, task: str, key: str) -> list[Any]:
        return self._xcoms.get((f"{video.group}.{task}", self._index(video), key), [])

    def _index_in_batch(self, video: Video) -> int:
        return [one.id for one in self._videos("batch") if not one.fails].index(video.id)

    def _state_of_save(self, video: Video) -> str | None:
        if video.group != "batch":
            return self._state(video, "save")
        return self.states.get(("batch.save", self._index_in_batch(video)))

    def _sha256_of_save(self, video: Video) -> list[Any]:
        if video.group != "batch":
            return self._values(video, "save", "sha256")
        return self._xcoms.get(("batch.save", self._index_in_batch(video), "sha256"), [])

    def _reports_failure(self, video: Video, task: str) -> bool:
        return "ManxueVideoFailedError" in self._log(video, task)

    def _log(self, video: Video, task: str) -> str:
        index = (
            self._index_in_batch(video) if (video.group, task) == ("batch", "save") else self._index(video)
        )
        return self._log_of(f"{video.group}.{task}", index)

    def _log_of(self, task_id: str, index: int) -> str:
        return self.run.airflow.task_log(DAG_ID, self.run.name, task_id, None, index)


def leftovers(airflow: DistributedAirflow) -> list[str]:
    """Return the remains of a stopped deployment: processes, ports, folders of servers."""
    left = [f"the process {pid} is left" for pid in airflow.leftover_processes()]
    left += [
        f"the server {server.name} is left"
        for server in airflow.servers.values()
        if server.is_running or server.folder.exists() or is_listening(server.port)
    ]
    if is_listening(int(str(airflow.base_url).rpartition(":")[2])):
        left.append("the port of the API server is left")
    return left


def tables(run: ChaosRun) -> list[str]:
    """Return the names of all tables of the metadata database."""
    sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
    return [name for (name,) in run.airflow.query(sql)]
