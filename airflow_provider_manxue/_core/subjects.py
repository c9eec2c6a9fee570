"""
What a wait polls: videos, or assets in their review. A subject is a parameter of the engine. No I/O happens here.

``docs/engine.md`` has a table of both subjects.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from airflow_provider_manxue._core.responses import parse_task, result_url
from airflow_provider_manxue._core.wait_errors import (
    result_missing,
    timed_out,
    video_failed,
    with_likely_causes,
)
from airflow_provider_manxue.exceptions import ManxueFailedError, ManxueVideoFailedError
from airflow_provider_manxue.models import Asset, VideoTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_manxue.exceptions import ManxueError, ManxueTimeoutError

Polled = VideoTask | Asset
"""The state of a video or an asset, from a response."""


class Query(NamedTuple):
    """The request of a poll. It changes nothing at the service, so that it may be repeated."""

    method: str
    url: str
    body: bytes | None = None


class Subject(abc.ABC):
    """
    The protocol and the texts of what is polled.

    :cvar noun: name of one, for the log.
    :cvar failure: error of one that has ended without a result.
    """

    noun: ClassVar[str]
    failure: ClassVar[type[ManxueFailedError]]

    @abc.abstractmethod
    def query(self, base_url: str, item_id: str) -> Query:
        """Return the request of a poll."""

    @abc.abstractmethod
    def parse(
        self,
        http_status: int,
        body: bytes,
        item_id: str,
        *,
        retry_after: Sequence[str],
        now: float,
        secret: str,
    ) -> Polled:
        """Parse the response to a poll. For the parameters and errors see ``parse_task``."""

    @abc.abstractmethod
    def load(self, fields: Mapping[str, Any]) -> Polled:
        """Return the state from the fields that its ``to_dict`` has returned."""

    @abc.abstractmethod
    def failed(self, item_id: str, reason: str) -> ManxueFailedError:
        """Return the error of one that has ended without a result."""

    @abc.abstractmethod
    def timed_out(self, item_id: str, waited: float, status: str, trouble: str) -> ManxueTimeoutError:
        """Return the error of one that was not ready in time. For the parameters see ``wait_errors``."""

    @abc.abstractmethod
    def result_missing(self, item_id: str, reason: str | None) -> ManxueError:
        """Return the error of one that is completed, but has no result."""

    @abc.abstractmethod
    def with_likely_causes(self, error: ManxueError, item_id: str) -> ManxueError:
        """Add the likely causes to the error of an id that the service refuses."""


class _VideoSubject(Subject):
    """Videos."""

    noun = "video"
    failure = ManxueVideoFailedError

    def query(self, base_url: str, item_id: str) -> Query:
        return Query("GET", result_url(base_url, item_id))

    def parse(
        self,
        http_status: int,
        body: bytes,
        item_id: str,
        *,
        retry_after: Sequence[str],
        now: float,
        secret: str,
    ) -> VideoTask:
        return parse_task(
            http_status, body, video_task_id=item_id, retry_after=retry_after, now=now, secret=secret
        )

    def load(self, fields: Mapping[str, Any]) -> VideoTask:
        return VideoTask.from_dict(fields)

    def failed(self, item_id: str, reason: str) -> ManxueVideoFailedError:
        return video_failed(item_id, reason)

    def timed_out(self, item_id: str, waited: float, status: str, trouble: str) -> ManxueTimeoutError:
        return timed_out(item_id, waited, status, trouble)

    def result_missing(self, item_id: str, reason: str | None) -> ManxueError:
        return result_missing(item_id, reason)

    def with_likely_causes(self, error: ManxueError, item_id: str) -> ManxueError:
        return with_likely_causes(error, item_id)


VIDEO = _VideoSubject()
