"""Control an emulator that runs in another process."""

from __future__ import annotations

import contextlib
import json
import ssl
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from airflow_provider_manxue.testing._ledger import Ledger, Order
from airflow_provider_manxue.testing._record import RequestRecord
from airflow_provider_manxue.testing._script import REJECTED, Script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_manxue.testing._response import Response

_TIMEOUT = 30.0


class EmulatorClient:
    """
    The methods of :class:`~airflow_provider_manxue.testing.Emulator`, over HTTP.

    :param url: URL of the emulator, as it printed it; whatever path it has is ignored.
    :param ca_bundle: path of the certificate authority's certificate, if it serves TLS.
    :raises ValueError: if the URL is not one.
    """

    def __init__(self, url: str, *, ca_bundle: str | None = None) -> None:
        scheme, separator, rest = url.partition("://")
        if scheme not in ("http", "https") or not separator:
            raise ValueError(f"url is {url!r}; give the URL that the emulator printed")
        self._url = f"{scheme}://{rest.partition('/')[0]}"
        self._context = ssl.create_default_context(cafile=ca_bundle) if ca_bundle else None
        self.clock = RemoteClock(self)

    def call(self, command: str, **arguments: Any) -> Any:
        """
        Run a command that changes something, and return its result.

        :raises ValueError: if the emulator refuses it; the text says why.
        :raises KeyError: if it names an unknown task or command.
        """
        return self._send(command, json.dumps(arguments).encode())

    def read(self, name: str) -> Any:
        """Return what the emulator knows under a name, such as ``health`` or ``scenarios``."""
        return self._send(name, None)

    def _send(self, path: str, body: bytes | None) -> Any:
        # The scheme was checked above.
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
        """The base URL for clients."""
        return str(self.read("health")["base_url"])

    @property
    def api_key(self) -> str:
        """The valid key; assigning another one makes the old one invalid at once."""
        return str(self.read("connection")["password"])

    @api_key.setter
    def api_key(self, key: str) -> None:
        self.call("set_api_key", api_key=key)

    def airflow_connection_json(self) -> str:
        """Return the value for ``AIRFLOW_CONN_MANXUE_DEFAULT``."""
        return json.dumps(self.read("connection"))

    def add_task(self, script: Script | str | None = None, **options: Any) -> str:
        """Add a task that nobody ordered; the options are those of ``Emulator.add_task``."""
        return str(self.call("add_task", script=_as_json(script), **options))

    def set_script(self, task_id: str, script: Script | str) -> None:
        """Let a task begin another script now."""
        self.call("set_script", task_id=task_id, script=_as_json(script))

    def set_default_script(self, script: Script | str) -> None:
        """Choose what orders follow."""
        self.call("set_default_script", script=_as_json(script))

    def set_status(self, task_id: str, status: str, *, error: str = REJECTED) -> None:
        """Put a task into a status, where it stays."""
        self.call("set_status", task_id=task_id, status=status, error=error)

    def advance(self, task_id: str) -> None:
        """End the current step of a task."""
        self.call("advance", task_id=task_id)

    def replace_video(self, task_id: str) -> None:
        """Put another video in the place of a task's video."""
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
        """Return the status queries of one task."""
        return [one for one in self.requests if one.place == "query" and one.task_id == task_id]

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self.call("clear_requests")

    @property
    def ledger(self) -> Ledger:
        """What was ordered and billed so far."""
        return Ledger(tuple(Order(**order) for order in self.read("ledger")["orders"]))

    def fail_next(self, count: int, response: Response | str, *, on: str | None = None) -> None:
        """Give this response to the next requests."""
        self.call("fail_next", count=count, response=_as_json(response), on=on)

    def respond_with(self, response: Response | str | None, *, on: str | None = None) -> None:
        """Give this response to every request, until it is called with None."""
        self.call("respond_with", response=_as_json(response), on=on)

    @contextlib.contextmanager
    def outage(self, kind: Response | str, *, on: str | None = None) -> Iterator[None]:
        """Play an outage as long as the ``with`` block lasts; for a closed port, :meth:`refuse_for`."""
        if kind == "refuse":
            raise ValueError("a closed port cannot be opened from outside; call refuse_for(seconds)")
        self.respond_with(kind, on=on)
        try:
            yield
        finally:
            self.respond_with(None, on=on)

    def refuse_for(self, seconds: float) -> None:
        """Close the port for some real seconds."""
        self.call("refuse_for", seconds=seconds)

    def clear_faults(self) -> None:
        """End all faults but the random ones."""
        self.call("clear_faults")


class RemoteClock:
    """
    The clock of an emulator in another process.

    :param client: the way to it.
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
