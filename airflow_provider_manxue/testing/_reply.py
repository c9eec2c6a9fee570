"""The regular reply of the service, before a response changes it and the server sends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing._response import dump

if TYPE_CHECKING:
    from airflow_provider_manxue.testing._mp4 import Video
    from airflow_provider_manxue.testing._response import Response

_JSON = {"Content-Type": "application/json"}


@dataclass
class Reply:
    """
    The reply to one request.

    :param status: HTTP status.
    :param json: the regular JSON body, which a response may change.
    :param content: the body as bytes, or a part of a video; the JSON body if None.
    :param headers: HTTP headers, without those that frame the body.
    """

    status: int
    json: dict[str, Any] = field(default_factory=dict)
    content: bytes | VideoPart | None = None
    headers: dict[str, str] = field(default_factory=lambda: dict(_JSON))

    @classmethod
    def assumed(cls, status: int, json: dict[str, Any]) -> Reply:
        """Return a reply of the emulator's invention, and mark it as such."""
        return cls(status, json, headers={**_JSON, "X-Emulator-Origin": "assumed"})

    def changed_by(self, response: Response) -> Reply:
        """Return this reply with the changes of a response."""
        if response.has_own_body:
            # Nothing of the regular reply remains, not even its status or a `Content-Range`.
            body = response.own_body(self.json)
            return Reply(response.status or 200, self.json, body, response.changed_headers(_JSON))
        content = self.content
        if content is None and self.status < 400:
            content = response.changed(self.json)
        return Reply(
            response.status or self.status, self.json, content, response.changed_headers(self.headers)
        )

    def body(self) -> bytes | VideoPart:
        """Return the body to send."""
        return dump(self.json, {}) if self.content is None else self.content


@dataclass(frozen=True)
class VideoPart:
    """The bytes of a video from ``start`` up to, not including, ``stop``."""

    video: Video
    start: int
    stop: int

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self.stop - self.start
