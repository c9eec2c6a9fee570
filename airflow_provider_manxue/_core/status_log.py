"""What of a wait is worth a line in the task log: a change, not a poll."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from airflow_provider_manxue.exceptions import ManxueError, ManxueTransientError
from airflow_provider_manxue.models import TaskStatus, VideoTask

REPEAT_AFTER = 600.0
"""Seconds after which trouble of the same kind is worth another line."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line for the task log, with its level of :mod:`logging`."""

    level: int
    text: str


@dataclass(slots=True)
class StatusLog:
    """
    Tells what changed from answer to answer of one wait.

    :param video_task_id: id of the task.
    :param started_at: when the wait began, in seconds since the epoch.
    :param last_answer: what the service said last, in a few words.
    """

    video_task_id: str
    started_at: float
    last_answer: str = ""
    _status: str = field(init=False)
    _told_at: dict[str, float] = field(default_factory=dict, init=False)
    _failures: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._status = self.last_answer

    def lines_for(self, outcome: VideoTask | ManxueError, now: float) -> tuple[LogLine, ...]:
        """Take in an answer, and return the lines that it is worth."""
        self.last_answer = describe(outcome)
        if isinstance(outcome, ManxueError):
            return self._news_of_trouble(outcome, now)
        return self._news_of_status(outcome, now)

    def _news_of_status(self, task: VideoTask, now: float) -> tuple[LogLine, ...]:
        recovered, self._failures = self._failures > 1, 0
        # One line for all unknown words, since one of them may hold a number that counts.
        status = task.status.value if task.status is TaskStatus.UNKNOWN else self.last_answer
        if status == self._status and not recovered:
            return ()
        self._status = status
        level = logging.WARNING if task.status is TaskStatus.UNKNOWN else logging.INFO
        return (self._line(level, self.last_answer, now),)

    def _news_of_trouble(self, error: ManxueError, now: float) -> tuple[LogLine, ...]:
        self._failures += 1
        # The service's own words may differ in every answer, so the kind is what stands before them.
        kind = self.last_answer.partition(":")[0]
        if now - self._told_at.get(kind, float("-inf")) < REPEAT_AFTER:
            return ()
        self._told_at[kind] = now
        pause = error.retry_after if isinstance(error, ManxueTransientError) else None
        wish = "" if pause is None else f", asked for a pause of {pause:g} s"
        return (self._line(logging.WARNING, f"no answer about the video yet: {self.last_answer}{wish}", now),)

    def _line(self, level: int, text: str, now: float) -> LogLine:
        return LogLine(level, f"Video {self.video_task_id}: {text} (after {elapsed(now - self.started_at)})")


def announcement(
    what: str, where: str, how: str, *, interval: float, started_at: float, deadline: float
) -> str:
    """
    Say what is awaited, and for how long at most.

    :param what: the video or videos.
    :param where: at which host, or over which connection.
    :param how: on which process.
    :param interval: seconds between two polls.
    :param started_at: when the wait began, in seconds since the epoch.
    :param deadline: when it ends at the latest.
    """
    end = datetime.fromtimestamp(deadline, tz=UTC).isoformat(sep=" ", timespec="seconds")
    return (
        f"Waiting for {what} {where}, {how}: every {interval:g} s, for {elapsed(deadline - started_at)} at most, "
        f"until {end}."
    )


def describe(outcome: VideoTask | ManxueError) -> str:
    """Say in a few words what the service answered."""
    if isinstance(outcome, ManxueError):
        return str(outcome)
    if outcome.status is TaskStatus.UNKNOWN:
        return f"unknown status {outcome.status_word!r}"
    if outcome.status is TaskStatus.COMPLETED and outcome.actual_duration is not None:
        return f"completed, {outcome.actual_duration:g} s long"
    if outcome.status is TaskStatus.FAILED and outcome.error:
        return f"failed: {outcome.error}"
    return outcome.status.value


def elapsed(seconds: float) -> str:
    """Write a length of time as h:mm:ss."""
    return str(timedelta(seconds=max(0, round(seconds))))
