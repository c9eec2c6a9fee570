"""The record of one request, for assertions."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Place = Literal["query", "create", "media", "unknown"]


@dataclass(slots=True)
class RequestRecord:
    """
    One request as it arrived, and what became of it.

    :param number: counts from 1.
    :param time: when it arrived, in Unix seconds of the emulator's clock.
    :param monotonic: the same in real time, in seconds of ``time.monotonic()``.
    :param method: HTTP method.
    :param path: the decoded path, without the query string.
    :param raw_path: path and query string, byte for byte as they arrived.
    :param headers: case-insensitive.
    :param connection_id: distinct for each TCP connection.
    :param place: what it was for: ``query``, ``create``, ``media``, or ``unknown`` for any other route.
    :param task_id: the task it names or, for an order, the one it created.
    :param authorized: whether it carried the valid key.
    :param carries_key: whether any header or the URL holds a key or other credentials. True for a request
        to ``media`` is a leak.
    :param body: the body, or None if there was none or it was not read.
    :param status: the HTTP status that was responded to, or None if there was no response.
    :param fault: the name of the random fault it met, if any.
    """

    number: int
    time: float
    monotonic: float
    method: str
    path: str
    raw_path: str
    headers: Mapping[str, str]
    connection_id: int
    place: Place
    task_id: str | None = None
    authorized: bool = False
    carries_key: bool = False
    body: bytes | None = field(default=None, repr=False)
    status: int | None = None
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values; the body in Base64."""
        value = {name: getattr(self, name) for name in self.__slots__}
        value["headers"] = list(self.headers.items())
        value["body"] = None if self.body is None else base64.b64encode(self.body).decode()
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RequestRecord:
        """Return the record that :meth:`to_json` wrote."""
        from multidict import CIMultiDict

        body = value["body"]
        return cls(
            **{
                **value,
                "headers": CIMultiDict(value["headers"]),
                "body": None if body is None else base64.b64decode(body),
            }
        )
