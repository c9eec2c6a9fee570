"""The recorder of the doctor: free queries of real tasks, and the file with their reduced responses."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_manxue._client.network import unusable_address
from airflow_provider_manxue._client.sync_client import (
    UNUSABLE_ADDRESS,
    exchange,
    new_session,
    parse_query_response,
    response_to_query,
)
from airflow_provider_manxue._core.network_errors import trouble_of
from airflow_provider_manxue._core.polling import MAX_RETRY_AFTER, MIN_INTERVAL
from airflow_provider_manxue._core.recording import Recording
from airflow_provider_manxue._core.responses import result_url
from airflow_provider_manxue.exceptions import ManxueConfigurationError, ManxueError
from airflow_provider_manxue.models import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    import requests

    from airflow_provider_manxue._client.sync_client import ServiceResponse
    from airflow_provider_manxue.models import ManxueSettings


class RecordFile:
    """
    A new file that only its owner can read. Each save replaces its content as a whole, so that a kill leaves the last one.

    :param path: its path.
    :raises FileExistsError: if there is a file, a folder or a link of that name.
    :raises OSError: if the file cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def save(self, text: str) -> None:
        """Replace the content."""
        descriptor, draft = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(draft).replace(self._path)
        except BaseException:
            Path(draft).unlink()
            raise

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the file if nothing was saved."""
        if not self._path.stat().st_size:
            self._path.unlink()


class Recorder:
    """
    Recorder of the responses to queries of some tasks.

    It sends one query after another, at most ``requests_per_second`` of the connection, and never an order.

    :param settings: the connection.
    :param video_task_ids: ids of the tasks, each once.
    :param save: stores the content of the file, after each change and each round of queries.
    :param report: prints a line for each response that differs from the one before.
    """

    def __init__(
        self,
        settings: ManxueSettings,
        video_task_ids: Sequence[str],
        save: Callable[[str], None],
        report: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._waiting = list(video_task_ids)
        self._save = save
        self._report = report
        self._started = time.monotonic()
        self._recording = Recording(video_task_ids, time.time())
        self._next_request_at = 0.0

    def run(self, interval: float, duration: float) -> None:
        """
        Query each task once, and again until it has ended or the duration is over.

        :param interval: seconds from one round of queries to the next, at least ``MIN_INTERVAL``.
        :param duration: seconds after which no round begins; 0 for a single round.
        :raises ManxueConfigurationError: if no request can be sent.
        """
        with new_session() as session:
            while True:
                next_round_at = self._elapsed() + max(interval, MIN_INTERVAL)
                pause = self._query_all(session)
                self._save(self._recording.to_json())
                next_round_at = max(next_round_at, self._elapsed() + pause)
                if not self._waiting or next_round_at > duration:
                    return
                self._sleep_until(next_round_at)

    def _query_all(self, session: requests.Session) -> float:
        """Query each task that has not ended. Return the longest pause that the service requested."""
        pause = 0.0
        for video_task_id in list(self._waiting):
            self._sleep_until(self._next_request_at)
            self._next_request_at = self._elapsed() + 1 / self._settings.requests_per_second
            if self._query(session, video_task_id):
                self._waiting.remove(video_task_id)
            pause = max(pause, self._recording.retry_after(video_task_id))
        return min(pause, MAX_RETRY_AFTER)

    def _query(self, session: requests.Session, video_task_id: str) -> bool:
        """Send one query, and record its response. Return whether the task has ended."""
        at, has_ended = self._elapsed(), False
        response = self._send(session, video_task_id)
        if isinstance(response, str):
            change = self._recording.add_trouble(video_task_id, at, response)
        else:
            change = self._recording.add_response(
                video_task_id,
                at,
                http_status=response.http_status,
                body=response.body,
                retry_after=response.retry_after,
                now=time.time(),
                secret=self._settings.api_key,
            )
            has_ended = self._has_ended(response, video_task_id)
        if change:
            self._save(self._recording.to_json())
            self._report(f"{at:9.1f} s  {video_task_id} ({self._recording.alias(video_task_id)}): {change}")
        return has_ended

    def _send(self, session: requests.Session, video_task_id: str) -> ServiceResponse | str:
        """Send one query. Return its response, or the kind of trouble."""
        url = result_url(self._settings.base_url, video_task_id)
        try:
            response = exchange(session, self._settings, "GET", url)
        # The library's texts repeat the whole request, so the cause is not chained.
        except UNUSABLE_ADDRESS:
            raise unusable_address(self._settings) from None
        except ManxueConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - a recording must survive the exceptions of a library
            return trouble_of(error)
        try:
            return response_to_query(response)
        except Exception:  # noqa: BLE001 - as above
            return "cut"

    def _has_ended(self, response: ServiceResponse, video_task_id: str) -> bool:
        with contextlib.suppress(ManxueError):
            task = parse_query_response(response, self._settings, video_task_id)
            return task.status is TaskStatus.FAILED or (
                task.status is TaskStatus.COMPLETED and task.video_url is not None
            )
        return False

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _sleep_until(self, elapsed: float) -> None:
        time.sleep(max(0.0, elapsed - self._elapsed()))
