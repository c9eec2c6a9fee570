"""Records of requests, for assertions."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Place = Literal["query", "create", "media", "upload", "asset_status", "unknown"]

POLLS = ("query", "asset_status")
"""Endpoints of polls."""


@dataclass(slots=True)
class RequestRecord:
    """
    The record of one request and its response.

    :param number: number of the request, from 1.
    :param time: time of arrival, in Unix seconds of the emulator's clock.
    :param monotonic: the same in real time, in seconds of ``time.monotonic()``.
    :param method: HTTP method.
    :param path: the decoded path, without the query string.
    :param raw_path: path and query string, unchanged.
    :param headers: headers, with case-insensitive names.
    :param connection_id: distinct for each TCP connection.
    :param place: endpoint of the request: ``query``, ``create``, ``media``, ``upload``, ``asset_status``, or ``unknown`` for any
        other route.
    :param task_id: id of its task; for an order, of the task that it created; for ``asset_status``, of the first asset.
    :param authorized: whether it has the valid API key.
    :param carries_key: whether a header or the URL contains an API key, old or new, or other credentials. True
        for a request to ``media`` means a leak.
    :param body: the body, or None without one or if it was not read.
    :param status: HTTP status of the response, or None without a response.
    :param fault: the name of the random fault that it met, if any.
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
        """Parse the result of :meth:`to_json`."""
        from multidict import CIMultiDict

        body = value["body"]
        return cls(
            **{
                **value,
                "headers": CIMultiDict(value["headers"]),
                "body": None if body is None else base64.b64decode(body),
            }
        )
