"""The metrics: their catalogue, and their values until they are sent. No I/O happens here."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueOrderNotAcceptedError,
    ManxueOrderRejectedError,
    ManxueOrderUnknownError,
    ManxuePermissionError,
    ManxueRateLimitError,
    ManxueRefusedError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_manxue._core.orders import VideoRequest
    from airflow_provider_manxue.models import Asset

PREFIX = "manxue."

MAX_GENERATION_TIME = 30 * 86_400
"""Seconds. A creation time that is further away, or in the future, is no usable one."""

MAX_MODELS = 50
"""Names of models in the metrics of one process. The service sends them, and each new one is a new time series."""

OTHER_MODEL = "other"

MAX_LABEL = 64
"""Characters of a connection id, a host name or a model in the name of a metric. StatsD and OpenTelemetry limit the name."""


MAX_TIMINGS = 10_000
"""Timings that are kept until they are sent, in a process whose facility is off or does not respond."""


class Kind(StrEnum):
    """The type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    TIMING = "timing"


class Tag(StrEnum):
    """A tag of a metric."""

    CONN_ID = "conn_id"
    MODEL = "model"
    HOSTNAME = "hostname"


@dataclass(frozen=True, slots=True)
class Metric:
    """
    A metric of the catalogue.

    :param name: its name, without the prefix.
    :param tags: its tags.
    :param in_name: the tags whose values form the end of a second name, for plain StatsD, which drops tags. Gauges of two
        connections or two processes would replace each other under one name.
    """

    name: str
    kind: Kind
    unit: str
    tags: tuple[Tag, ...] = (Tag.CONN_ID,)
    in_name: tuple[Tag, ...] = ()


_PLACE = (Tag.CONN_ID, Tag.HOSTNAME)
_MODEL = (Tag.CONN_ID, Tag.MODEL)

_POLL_ERRORS: tuple[tuple[type[ManxueError], str], ...] = (
    (ManxueRateLimitError, "throttled"),
    (ManxueTransientError, "no_response"),
    (ManxueAuthenticationError, "unauthorized"),
    (ManxuePermissionError, "forbidden"),
    (ManxueRefusedError, "refused"),
    (ManxueError, "error"),
)
"""Outcomes of polls without a task. The first type that fits decides."""

_ORDER_ERRORS: tuple[tuple[type[ManxueError], str], ...] = (
    (ManxueVideoFailedError, "failed"),
    (ManxueOrderNotAcceptedError, "not_accepted"),
    (ManxueOrderRejectedError, "rejected"),
    (ManxueOrderUnknownError, "unknown"),
)
"""Outcomes of orders that were not simply accepted. After any other error nothing was sent."""

_UPLOAD_OUTCOMES = ("accepted", "not_accepted", "rejected", "unknown")
"""Outcomes of uploads of assets, by the same errors."""

_ACCEPTED = ("accepted", "failed")
"""Outcomes of the orders that the service accepted."""

CATALOGUE = {
    metric.name: metric
    for metric in (
        *(
            Metric(f"polls.{outcome}", Kind.COUNTER, "polls")
            for outcome in (*TaskStatus, *(name for _, name in _POLL_ERRORS))
        ),
        Metric("throttling.episodes", Kind.COUNTER, "episodes"),
        *(
            Metric(f"orders.{outcome}", Kind.COUNTER, "orders", _MODEL)
            for outcome in ("accepted", *(name for _, name in _ORDER_ERRORS))
        ),
        Metric("orders.seconds", Kind.COUNTER, "seconds", _MODEL),
        *(Metric(f"uploads.{outcome}", Kind.COUNTER, "uploads") for outcome in _UPLOAD_OUTCOMES),
        Metric("saves.saved", Kind.COUNTER, "videos"),
        Metric("saves.bytes", Kind.COUNTER, "bytes"),
        Metric("saves.seconds", Kind.COUNTER, "seconds"),
        Metric("rate", Kind.GAUGE, "requests per second", _PLACE, _PLACE),
        Metric("limit", Kind.GAUGE, "requests per second", _PLACE, _PLACE),
        Metric("waits", Kind.GAUGE, "waits", _PLACE, _PLACE),
        Metric("videos", Kind.GAUGE, "videos", _PLACE, _PLACE),
        Metric("oldest_poll", Kind.GAUGE, "seconds", _PLACE, _PLACE),
        Metric("queue_time", Kind.TIMING, "milliseconds"),
        Metric("detection_delay", Kind.TIMING, "milliseconds"),
        Metric("generation_time", Kind.TIMING, "milliseconds", _MODEL, (Tag.MODEL,)),
    )
}


@dataclass(frozen=True, slots=True)
class Sample:
    """
    A value to send.

    :param value: the value; of a timing, seconds.
    """

    metric: Metric
    value: float
    conn_id: str
    model: str = ""

    def names(self, hostname: str) -> Iterable[tuple[str, dict[str, str]]]:
        """Return each name to send the value under, with its tags."""
        values = {Tag.CONN_ID: self.conn_id, Tag.MODEL: self.model, Tag.HOSTNAME: hostname}
        labels = {str(tag): label(values[tag]) for tag in self.metric.tags}
        name = PREFIX + self.metric.name
        yield name, labels
        if self.metric.in_name:
            # A dot begins the next part of a name.
            yield ".".join([name, *(labels[tag].replace(".", "_") for tag in self.metric.in_name)]), {}


def label(text: str) -> str:
    """Return a text as a tag or a part of a name: Airflow refuses a name with other characters, and logs that each time."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text[:MAX_LABEL]) or "_"


class Metrics:
    """Counts and timings of one process, or of one event loop, until they are sent."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, str, str], float] = defaultdict(float)
        self._timings: deque[Sample] = deque(maxlen=MAX_TIMINGS)
        self._models: set[str] = set()

    def count(self, name: str, conn_id: str, value: float = 1, model: str = "") -> None:
        self._counts[name, conn_id, model] += value

    def add_timing(self, name: str, conn_id: str, seconds: float, model: str = "") -> None:
        self._timings.append(Sample(CATALOGUE[name], seconds, conn_id, model))

    def add_poll(
        self,
        conn_id: str,
        outcome: VideoTask | Asset | ManxueError,
        unfinished_at: float | None,
        now: float,
    ) -> None:
        """
        Count a poll of a wait. If it shows the end of the video, record how late, and how long the video took.

        The service does not say when a video ended. Both times are thus upper bounds, at most one interval too long.

        :param unfinished_at: when an earlier poll last showed the video unfinished; None if none did.
        """
        if isinstance(outcome, ManxueError):
            self.count(f"polls.{_first(_POLL_ERRORS, outcome)}", conn_id)
            return
        self.count(f"polls.{outcome.status}", conn_id)
        has_completed = outcome.status is TaskStatus.COMPLETED
        if unfinished_at is None or not (has_completed or outcome.status is TaskStatus.FAILED):
            return
        self.add_timing("detection_delay", conn_id, max(0.0, now - unfinished_at))
        if not isinstance(outcome, VideoTask):
            return
        seconds = int(now) - (outcome.created or 0)  # whole numbers, since the service may send any
        if has_completed and 0 <= seconds <= MAX_GENERATION_TIME:
            self.add_timing("generation_time", conn_id, seconds, self._model(outcome.model))

    def add_order(self, conn_id: str, request: VideoRequest, error: ManxueError | None = None) -> None:
        """
        Count an order and, if it was accepted, its seconds of video.

        :param error: the error that the order ended with; None if it was accepted.
        """
        outcome = "accepted" if error is None else _first(_ORDER_ERRORS, error)
        if outcome is None:
            return
        model = self._model(request.fields["model"])
        self.count(f"orders.{outcome}", conn_id, model=model)
        if outcome in _ACCEPTED:
            self.count("orders.seconds", conn_id, request.counted_seconds, model)

    def add_upload(self, conn_id: str, error: ManxueError | None = None) -> None:
        """
        Count an upload of assets.

        :param error: the error that it ended with; None if it was accepted.
        """
        outcome = "accepted" if error is None else _first(_ORDER_ERRORS, error)
        if outcome in _UPLOAD_OUTCOMES:
            self.count(f"uploads.{outcome}", conn_id)

    def add_save(self, conn_id: str, size: int, seconds: float) -> None:
        """Count a saved video, its bytes, and the seconds that the save took."""
        self.count("saves.saved", conn_id)
        self.count("saves.bytes", conn_id, size)
        self.count("saves.seconds", conn_id, seconds)

    def take(self) -> list[Sample]:
        """Return and remove all values."""
        counts, self._counts = self._counts, defaultdict(float)
        samples = [Sample(CATALOGUE[name], value, *labels) for (name, *labels), value in counts.items()]
        samples += self._timings
        self._timings.clear()
        return samples

    def _model(self, name: str | None) -> str:
        known = label(name or OTHER_MODEL)
        if known not in self._models:
            if len(self._models) >= MAX_MODELS:
                return OTHER_MODEL
            self._models.add(known)
        return known


def _first(outcomes: tuple[tuple[type[ManxueError], str], ...], error: ManxueError) -> str | None:
    return next((name for kind, name in outcomes if isinstance(error, kind)), None)
