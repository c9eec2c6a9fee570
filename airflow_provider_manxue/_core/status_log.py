"""The log lines of a wait: status changes and new errors, not every poll. No I/O happens here."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_manxue.exceptions import ManxueError, ManxueTimeoutError
from airflow_provider_manxue.models import TaskStatus, VideoTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_manxue.models import Asset

REPEAT_AFTER = 600.0
"""Seconds after which trouble of the same kind is logged again."""

PROGRESS_INTERVAL = 10.0
"""Seconds between two lines about the progress of a batch. A change is logged at most this much later."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line for the task log, with its level of :mod:`logging`."""

    level: int
    text: str


@dataclass(slots=True)
class _TroubleLog:
    """Filter that passes each kind of trouble at intervals of ``REPEAT_AFTER``."""

    _logged_at: dict[str, float] = field(default_factory=dict)

    def is_due(self, error: ManxueError, now: float) -> bool:
        # The text of the service may differ in each response. The kind of trouble is the part before it.
        kind = str(error).partition(":")[0]
        if now - self._logged_at.get(kind, -math.inf) < REPEAT_AFTER:
            return False
        self._logged_at[kind] = now
        return True

    @staticmethod
    def describe(error: ManxueError) -> str:
        if error.retry_after is None:
            return str(error)
        return f"{str(error).removesuffix('.')}, requested a pause of {error.retry_after:g} s"


class StatusLog:
    """
    The log lines of a wait for one video.

    :param video_task_id: id of the task.
    :param started_at: when the wait began, in seconds since the epoch.
    :param last_status: the last status that was logged.
    """

    next_line_at = math.inf
    """Moment of the next line without another response: never."""

    def __init__(self, video_task_id: str, started_at: float, last_status: str = "") -> None:
        self._video_task_id = video_task_id
        self._started_at = started_at
        self._last_status = "unknown" if last_status.startswith("unknown") else last_status
        self._trouble = _TroubleLog()
        self._failures = 0

    def lines_for(
        self, video_task_id: str, outcome: VideoTask | Asset | ManxueError, now: float
    ) -> tuple[LogLine, ...]:
        """Process the outcome of a poll, and return its log lines."""
        if isinstance(outcome, ManxueError):
            self._failures += 1
            if not self._trouble.is_due(outcome, now):
                return ()
            text = f"no usable response yet: {self._trouble.describe(outcome)}"
            return (self._line(logging.WARNING, text, now),)
        recovered, self._failures = self._failures > 1, 0
        # Unknown statuses are one status here, since their text may contain a counter.
        status = describe(outcome)
        key = outcome.status.value if outcome.status is TaskStatus.UNKNOWN else status
        if key == self._last_status and not recovered:
            return ()
        self._last_status = key
        level = logging.WARNING if outcome.status is TaskStatus.UNKNOWN else logging.INFO
        return (self._line(level, status, now),)

    def lines_for_end(self, video_task_id: str, error: ManxueError | None, now: float) -> tuple[LogLine, ...]:
        """Return the log lines for the end of the wait: none, since the task itself reports it."""
        return ()

    def progress(self, now: float) -> tuple[LogLine, ...]:
        """Return the log lines that are due without another response: none."""
        return ()

    def _line(self, level: int, text: str, now: float) -> LogLine:
        return LogLine(
            level, f"Video {self._video_task_id}: {text} (after {elapsed(now - self._started_at)})"
        )


class BatchLog:
    """
    The log lines of a wait for many videos: progress as counts, one line for trouble of several videos, each failed
    video.

    :param statuses: the known status of each video by its id; empty if it was not polled.
    :param started_at: when the wait began, in seconds since the epoch.
    :param ended_before: number of other videos of the batch that have ended, by status: "completed" or "failed".
    :param noun: name of one that is awaited.
    """

    def __init__(
        self,
        statuses: Mapping[str, str],
        started_at: float,
        ended_before: Mapping[str, int] | None = None,
        *,
        noun: str = "video",
    ) -> None:
        self._noun = noun
        self._statuses = dict(statuses)
        self._counts = Counter(self._statuses.values()) + Counter(ended_before or {})
        self._total = self._counts.total()
        self._started_at = started_at
        self._trouble = _TroubleLog()
        self._logged_at = started_at
        self.next_line_at = math.inf

    def lines_for(
        self, video_task_id: str, outcome: VideoTask | Asset | ManxueError, now: float
    ) -> tuple[LogLine, ...]:
        """Process the outcome of a poll, and return its log lines."""
        if not isinstance(outcome, ManxueError):
            self._set(video_task_id, outcome.status.value, now)
            return self.progress(now)
        if not self._trouble.is_due(outcome, now):
            return self.progress(now)
        text = (
            f"No usable response yet for some of the {self._total} {self._noun}s, such as {video_task_id}: "
            f"{self._trouble.describe(outcome)} (after {elapsed(now - self._started_at)})"
        )
        return (LogLine(logging.WARNING, text), *self.progress(now))

    def lines_for_end(self, video_task_id: str, error: ManxueError | None, now: float) -> tuple[LogLine, ...]:
        """Return the log lines for the end of the wait for a video. Timeouts get none, since the task's error names them."""
        self._set(video_task_id, "completed" if error is None else "failed", now)
        if error is None or isinstance(error, ManxueTimeoutError):
            return self.progress(now)
        others = self._total - self._ended
        text = f"{error} {others} others are still awaited." if others else str(error)
        return (LogLine(logging.WARNING, text), *self.progress(now))

    @property
    def counts(self) -> dict[str, int]:
        """Number of videos by status; "" for those that were not polled."""
        return dict(self._counts)

    @property
    def _ended(self) -> int:
        return self._counts["completed"] + self._counts["failed"]

    def progress(self, now: float) -> tuple[LogLine, ...]:
        """Return the line for the progress, if the progress changed and the line is due."""
        if now < self.next_line_at:
            return ()
        self._logged_at, self.next_line_at = now, math.inf
        return (LogLine(logging.INFO, f"{self._counted()} (after {elapsed(now - self._started_at)})"),)

    def _set(self, video_task_id: str, status: str, now: float) -> None:
        before = self._statuses[video_task_id]
        if status == before:
            return
        self._statuses[video_task_id] = status
        self._counts[before] -= 1
        self._counts[status] += 1
        was_set_back = now < self._logged_at  # the wall clock
        is_immediate = was_set_back or self._ended == self._total
        due_at = now if is_immediate else max(now, self._logged_at + PROGRESS_INTERVAL)
        self.next_line_at = min(self.next_line_at, due_at)

    def _counted(self) -> str:
        counts = self._counts
        parts = [f"{counts['completed']} of {self._total} {self._noun}s completed"]
        if counts["failed"]:
            parts.append(f"{counts['failed']} ended otherwise")
        parts += [
            f"{counts[status]} {status or 'not polled yet'}" for status in ("processing", "queued", "unknown", "")
            if counts[status]
        ]  # fmt: skip
        return ", ".join(parts)


def announcement(
    what: str, where: str, how: str, *, interval: float, started_at: float, deadline: float
) -> str:
    """
    Describe the start of a wait for the log.

    :param what: the video or videos.
    :param where: the host or the connection.
    :param how: the process that polls.
    """
    end = datetime.fromtimestamp(deadline, tz=UTC).isoformat(sep=" ", timespec="seconds")
    return (
        f"Waiting for {what} {where}, {how}: every {interval:g} s, for {elapsed(deadline - started_at)} at most, "
        f"until {end}."
    )


def describe(task: VideoTask | Asset) -> str:
    """Describe the status of a task for the log."""
    if task.status is TaskStatus.UNKNOWN:
        reason = f": {task.error}" if task.error else ""
        return f"unknown status {task.status_word!r}{reason}"
    if (
        isinstance(task, VideoTask)
        and task.status is TaskStatus.COMPLETED
        and task.actual_duration is not None
    ):
        return f"completed, {task.actual_duration:g} s long"
    if task.status is TaskStatus.FAILED and task.error:
        return f"failed: {task.error}"
    return task.status.value


def elapsed(seconds: float) -> str:
    """Format a duration as h:mm:ss."""
    return str(timedelta(seconds=max(0, round(seconds))))
