"""The emulator without its socket: the state that tests set and read, in the same process or over HTTP."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing._faults import check_target
from airflow_provider_manxue.testing._record import POLLS
from airflow_provider_manxue.testing._scenarios import SCENARIOS, SHORT_NAMES
from airflow_provider_manxue.testing._script import REJECTED, Script, Step, as_response, as_script
from airflow_provider_manxue.testing._service import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_manxue.testing._assets import Asset
    from airflow_provider_manxue.testing._faults import PlayedFault, Target
    from airflow_provider_manxue.testing._ledger import Ledger
    from airflow_provider_manxue.testing._record import RequestRecord
    from airflow_provider_manxue.testing._response import Response
    from airflow_provider_manxue.testing._service import Service
    from airflow_provider_manxue.testing._tasks import Task


class BaseEmulator:
    """
    The emulator without its socket.

    All methods may be called from any thread.

    :param service: the emulated service.
    """

    def __init__(self, service: Service) -> None:
        self.clock = service.clock
        self._service = service

    @property
    def url(self) -> str:
        """
        The server's URL, without the service's path prefix.

        :raises RuntimeError: if the emulator has no port yet.
        """
        if not self._service.origin:
            raise RuntimeError("The emulator has no port yet. Call start() first.")
        return self._service.origin

    @property
    def base_url(self) -> str:
        """The base URL for the connection, without ``/v1``."""
        return self.url + PREFIX

    @property
    def ca_bundle(self) -> str | None:
        """Path of the certificate authority's certificate, while the emulator serves TLS."""
        return None

    @property
    def api_key(self) -> str:
        """The valid API key. Assign a new key to rotate it; the old key is rejected from then on."""
        return self._service.api_key

    @api_key.setter
    def api_key(self, key: str) -> None:
        self._service.api_key = key

    def airflow_connection_json(self) -> str:
        """Return the value for ``AIRFLOW_CONN_MANXUE_DEFAULT``."""
        extra = {"ca_bundle": self.ca_bundle} if self.ca_bundle else {}
        connection = {"conn_type": "manxue", "host": self.base_url, "password": self.api_key, "extra": extra}
        return json.dumps(connection)

    def add_task(
        self,
        script: Script | str | None = None,
        *,
        id: str | None = None,  # noqa: A002
        actual_duration: float | None = None,
        model: str = "sd2_manxue_720p",
        size: int | None = None,
    ) -> str:
        """
        Add a task without an order; it is not in the ledger.

        :param script: script of the task, or its name; :attr:`default_script` if left out.
        :param id: id of the task; a new one if left out.
        :param actual_duration: length of its video in seconds; 5 if neither this nor the script sets it.
        :param model: name of the model.
        :param size: size of its video in bytes; the natural one (some kilobytes) if left out.
        :returns: the id.
        :raises ValueError: if the id exists already, the script is unknown, or the video cannot be made.
        """
        script = self.default_script if script is None else as_script(script)
        task = self._service.add_task(
            script, task_id=id, actual_duration=actual_duration, model=model, size=size
        )
        return task.id

    def add_asset(
        self,
        script: Script | str | None = None,
        *,
        id: str | None = None,  # noqa: A002
        kind: str = "image",
        url: str = "https://files.example/face.png",
    ) -> str:
        """
        Add an asset without an upload; it is not in the ledger.

        :param script: script of its review, or its name; :attr:`default_asset_script` if left out.
        :param id: id of the asset; a new one if left out.
        :param kind: ``image``, ``video`` or ``audio``.
        :param url: URL of its file.
        :returns: the id.
        :raises ValueError: if the id exists already, or the script or the kind is unknown.
        """
        script = self.default_asset_script if script is None else as_script(script)
        with self._service.lock:
            return self._service.review.add(kind, url, script, id).id

    def refuse_file(self, url: str, entry: Any = "the file was refused") -> None:
        """
        Make no asset of a file from now on.

        :param url: URL of the file.
        :param entry: the entry of ``failedItems`` in the response to an upload, any JSON value: its real form is unknown.
        """
        self._service.review.refusals[url] = entry

    def set_script(self, task_id: str, script: Script | str) -> None:
        """
        Start another script for a task or an asset now.

        :raises KeyError: if there is neither.
        """
        script = as_script(script)
        with self._service.lock:
            self._service.scripted(task_id).follow(script)

    def set_status(self, task_id: str, status: str, *, error: str = REJECTED) -> None:
        """
        Set the status of a task or an asset, for good.

        :param task_id: id of the task or the asset.
        :param status: queued, processing, completed or failed.
        :param error: text of the field ``error`` of a failed task.
        :raises KeyError: if there is no such task.
        """
        self.set_script(task_id, Script((Step(status=status, error=error),)))

    def advance(self, task_id: str) -> None:
        """
        End the current step of a task or an asset.

        :raises KeyError: if there is neither.
        """
        with self._service.lock:
            self._service.scripted(task_id).advance()

    def replace_video(self, task_id: str) -> None:
        """
        Replace a task's video by another one, with a new ``ETag``.

        :raises KeyError: if there is no such task.
        """
        with self._service.lock:
            self._service.task(task_id).replace_video()

    def video_url(self, task_id: str) -> str:
        """
        Return a newly signed URL of a task's video.

        :raises KeyError: if there is no such task.
        """
        return self.url + self._service.signer.sign(self._service.task(task_id).id)

    @property
    def default_script(self) -> Script:
        """The script of each new order. Assign a script, or its name."""
        return self._service.default_script

    @default_script.setter
    def default_script(self, script: Script | str) -> None:
        self._service.default_script = as_script(script)

    @property
    def default_asset_script(self) -> Script:
        """The script of each new asset. Its statuses are sent as submitted, Processing, Active and Failed."""
        return self._service.review.default_script

    @default_asset_script.setter
    def default_asset_script(self, script: Script | str) -> None:
        self._service.review.default_script = as_script(script)

    @property
    def assets(self) -> dict[str, Asset]:
        """All assets by id."""
        return dict(self._service.review.assets)

    @property
    def tasks(self) -> dict[str, Task]:
        """All tasks by id."""
        return dict(self._service.tasks)

    def task(self, task_id: str) -> Task:
        """
        Return a task.

        :raises KeyError: if there is no such task.
        """
        return self._service.task(task_id)

    @property
    def requests(self) -> list[RequestRecord]:
        """All requests so far, in order of arrival, without those to the control API."""
        return list(self._service.requests)

    def polls(self, task_id: str) -> list[RequestRecord]:
        """Return the polls of one task or asset."""
        return [record for record in self.requests if record.place in POLLS and record.task_id == task_id]

    def clear_requests(self) -> None:
        """Delete the records of the requests so far."""
        self._service.requests.clear()

    @property
    def ledger(self) -> Ledger:
        """The orders so far, and which of them were billed."""
        return self._service.ledger

    @property
    def seed(self) -> int:
        """Seed of the random faults."""
        return self._service.faults.random_faults.seed

    @property
    def faults_played(self) -> list[PlayedFault]:
        """The random faults so far."""
        return list(self._service.faults.random_faults.played)

    def fail_next(self, count: int, response: Response | str, *, on: Target | None = None) -> None:
        """
        Send this response to the next requests, after responses that are already queued.

        :param count: number of requests.
        :param response: a response, or the name of a scenario; three digits are an HTTP status.
        :param on: the requests that count: ``query``, ``create``, ``upload``, ``asset_status``, ``media``, ``api`` (all
            except ``media``) or ``all``. Left out, a scenario of orders or videos meets those requests, and any other response
            means ``api``.
        :raises ValueError: for an unknown name or target.
        """
        target = _target(response, on, "api")
        with self._service.lock:
            self._service.faults.respond_to_next(count, target, as_response(response))

    def respond_with(self, response: Response | str | None, *, on: Target | None = None) -> None:
        """
        Send this response to every request, until this method is called with None.

        :param response: a response, the name of a scenario, or None.
        :param on: as in :meth:`fail_next`, but ``all`` where that means ``api``.
        :raises ValueError: for an unknown name or target.
        """
        with self._service.lock:
            if response is None and on is None:
                self._service.faults.respond_regularly()
            else:
                chosen = None if response is None else as_response(response)
                self._service.faults.respond_to_all(_target(response, on, "all"), chosen)

    @contextlib.contextmanager
    def outage(self, kind: Response | str, *, on: Target | None = None) -> Iterator[None]:
        """Send this response to every request during the ``with`` block."""
        target = _target(kind, on, "all")
        before = self._service.faults.response_to_all(target)
        self.respond_with(kind, on=target)
        try:
            yield
        finally:
            self.respond_with(before, on=target)

    def clear_faults(self) -> None:
        """Remove all faults except random ones."""
        with self._service.lock:
            self._service.faults.clear()


def _target(response: Response | str | None, on: str | None, default: Target) -> Target:
    """Return the requests that a response is for."""
    if on is not None:
        return check_target(on)
    if isinstance(response, str):
        scenario = SCENARIOS.get(SHORT_NAMES.get(response, response))
        if scenario is not None and scenario.place in ("create", "media"):
            return check_target(scenario.place)
    return default
