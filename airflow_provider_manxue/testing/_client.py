"""A client for an emulator in another process."""

from __future__ import annotations

import contextlib
import json
import ssl
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from airflow_provider_manxue.testing._ledger import Ledger, Order, Upload
from airflow_provider_manxue.testing._record import POLLS, RequestRecord
from airflow_provider_manxue.testing._script import REJECTED, Script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_manxue.testing._response import Response

_TIMEOUT = 30.0


class EmulatorClient:
    """
    The methods of :class:`~airflow_provider_manxue.testing.Emulator`, over HTTP.

    :param url: a URL that the emulator printed; its path is ignored.
    :param ca_bundle: path of the certificate authority's certificate, for an emulator with TLS.
    :raises ValueError: if the URL has no scheme http or https.
    """

    def __init__(self, url: str, *, ca_bundle: str | None = None) -> None:
        scheme, separator, rest = url.partition("://")
        if scheme not in ("http", "https") or not separator:
            raise ValueError(f"url is {url!r}. Set the URL that the emulator printed.")
        self._url = f"{scheme}://{rest.partition('/')[0]}"
        self._context = ssl.create_default_context(cafile=ca_bundle) if ca_bundle else None
        self.clock = RemoteClock(self)

    def call(self, command: str, **arguments: Any) -> Any:
        """
        Run a command of the control API, and return its result.

        :raises ValueError: if the emulator rejects it; the error text has the reason.
        :raises KeyError: if the task or the command is unknown.
        """
        return self._send(command, json.dumps(arguments).encode())

    def read(self, name: str) -> Any:
        """Read from the control API, such as ``health`` or ``scenarios``."""
        return self._send(name, None)

    def _send(self, path: str, body: bytes | None) -> Any:
        # __init__ checks the scheme.
        request = Request(f"{self._url}/_emulator/{path}", data=body)  # noqa: S310
        request.add_header("Content-Type", "application/json")
        try:
            with urlopen(request, timeout=_TIMEOUT, context=self._context) as response:  # noqa: S310
                return json.load(response)
        except HTTPError as error:
            with error:
                text = json.load(error)["error"]
            raise (KeyError if error.code == 404 else ValueError)(text) from None

    @property
    def base_url(self) -> str:
        """The base URL for the connection, without ``/v1``."""
        return str(self.read("health")["base_url"])

    @property
    def api_key(self) -> str:
        """The valid API key. Assign a new key to rotate it; the old key is rejected from then on."""
        return str(self.read("connection")["password"])

    @api_key.setter
    def api_key(self, key: str) -> None:
        self.call("set_api_key", api_key=key)

    def airflow_connection_json(self) -> str:
        """Return the value for ``AIRFLOW_CONN_MANXUE_DEFAULT``."""
        return json.dumps(self.read("connection"))

    def add_task(self, script: Script | str | None = None, **options: Any) -> str:
        """Add a task without an order; the options are those of ``Emulator.add_task``."""
        return str(self.call("add_task", script=_as_json(script), **options))

    def add_asset(self, script: Script | str | None = None, **options: Any) -> str:
        """Add an asset without an upload; the options are those of ``Emulator.add_asset``."""
        return str(self.call("add_asset", script=_as_json(script), **options))

    def refuse_file(self, url: str, entry: Any = "the file was refused") -> None:
        """Make no asset of a file from now on."""
        self.call("refuse_file", url=url, entry=entry)

    def set_default_asset_script(self, script: Script | str) -> None:
        """Set the script of each new asset."""
        self.call("set_default_asset_script", script=_as_json(script))

    @property
    def assets(self) -> dict[str, dict[str, Any]]:
        """All assets by id, as JSON objects."""
        return {asset["id"]: asset for asset in self.read("assets")}

    def set_script(self, task_id: str, script: Script | str) -> None:
        """Start another script for a task now."""
        self.call("set_script", task_id=task_id, script=_as_json(script))

    def set_default_script(self, script: Script | str) -> None:
        """Set the script of each new order."""
        self.call("set_default_script", script=_as_json(script))

    def set_status(self, task_id: str, status: str, *, error: str = REJECTED) -> None:
        """Set the status of a task, for good."""
        self.call("set_status", task_id=task_id, status=status, error=error)

    def advance(self, task_id: str) -> None:
        """End the current step of a task."""
        self.call("advance", task_id=task_id)

    def replace_video(self, task_id: str) -> None:
        """Replace a task's video by another one, with a new ``ETag``."""
        self.call("replace_video", task_id=task_id)

    def video_url(self, task_id: str) -> str:
        """Return a newly signed URL of a task's video."""
        return str(self.call("video_url", task_id=task_id))

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """All tasks by id, as JSON objects."""
        return {task["id"]: task for task in self.read("tasks")}

    @property
    def requests(self) -> list[RequestRecord]:
        """All requests so far."""
        return [RequestRecord.from_json(record) for record in self.read("requests")]

    def polls(self, task_id: str) -> list[RequestRecord]:
        """Return the polls of one task or asset."""
        return [record for record in self.requests if record.place in POLLS and record.task_id == task_id]

    def clear_requests(self) -> None:
        """Delete the records of the requests so far."""
        self.call("clear_requests")

    @property
    def ledger(self) -> Ledger:
        """The orders and uploads so far, and which of them were billed."""
        ledger = self.read("ledger")
        return Ledger(
            tuple(Order(**order) for order in ledger["orders"]),
            tuple(Upload(**{**one, "asset_ids": tuple(one["asset_ids"])}) for one in ledger["uploads"]),
        )

    def fail_next(self, count: int, response: Response | str, *, on: str | None = None) -> None:
        """Send this response to the next requests; see ``Emulator.fail_next``."""
        self.call("fail_next", count=count, response=_as_json(response), on=on)

    def respond_with(self, response: Response | str | None, *, on: str | None = None) -> None:
        """Send this response to every request, until this method is called with None."""
        self.call("respond_with", response=_as_json(response), on=on)

    @contextlib.contextmanager
    def outage(self, kind: Response | str, *, on: str | None = None) -> Iterator[None]:
        """Emulate an outage during the ``with`` block; use :meth:`refuse_for` for a closed port."""
        if kind == "refuse":
            raise ValueError(
                "kind is 'refuse', but a client cannot open a closed port. Call refuse_for(seconds)."
            )
        self.respond_with(kind, on=on)
        try:
            yield
        finally:
            self.respond_with(None, on=on)

    def refuse_for(self, seconds: float) -> None:
        """Close the port for some real seconds."""
        self.call("refuse_for", seconds=seconds)

    def clear_faults(self) -> None:
        """Remove all faults except random ones."""
        self.call("clear_faults")


class RemoteClock:
    """
    The clock of an emulator in another process.

    :param client: client of that emulator.
    """

    def __init__(self, client: EmulatorClient) -> None:
        self._client = client

    def now(self) -> float:
        """Return the current time in Unix seconds."""
        return float(self._client.read("health")["now"])

    def advance(self, seconds: float) -> float:
        """Move the clock forward by some seconds, and return the new time."""
        return float(self._client.call("advance_clock", seconds=seconds))


def _as_json(value: Script | Response | str | None) -> Any:
    return value if value is None or isinstance(value, str) else value.to_json()
