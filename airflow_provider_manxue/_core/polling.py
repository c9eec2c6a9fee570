"""
When to ask again, and when to stop: every decision of a wait, as a function of time and answer.

A wait lives in a worker that pokes, in a worker that is rescheduled, or in the triggerer. Each of them asks
the service in its own way, hands what came back to :meth:`Wait.after`, and does what the decision says.
Times are seconds since the epoch, since a wait outlives the process that began it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_manxue._core.status_log import LogLine, StatusLog, elapsed
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTimeoutError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_POKE_INTERVAL = 30.0
"""Seconds; the service's page recommends 30 to 60."""

DEFAULT_TIMEOUT = 3 * 60 * 60.0
"""Seconds; the most patient clients of the service wait that long."""

GRACE_TIME = 300.0
"""Seconds for which an unknown id or a missing URL may be a write that is not visible yet; and for which a video that
the triggerer has seen completed is read beyond the deadline."""

MAX_RETRY_AFTER = 900.0
"""Seconds; a longer ``Retry-After`` is cut, so that one wrong header cannot lose a paid video."""

MAX_ERROR_BACKOFF = 300.0
"""Seconds; an outage is asked about at least this often, so that its end is noticed."""

MIN_FIRST_POLL_DELAY = 10.0
"""Seconds from a worker's poll to the first one elsewhere, in the triggerer or in a rescheduled process. A task
that comes back earlier can lose a race against the scheduler, which then takes it for killed."""

DEFER_TIMEOUT_MARGIN = 900.0
"""Seconds by which Airflow's own timeout of a deferral lies after ours; it only matters if the trigger is dead."""

MIN_INTERVAL = 1.0
"""Seconds; no setting makes a wait ask more often than that."""

JITTER = 0.1
"""Part of an interval by which polls are spread, so that waits that began together drift apart."""


@dataclass(frozen=True, slots=True)
class PollTimes:
    """
    The times of a wait, in seconds since the epoch.

    :param started_at: when it began.
    :param deadline: when it ends at the latest.
    :param first_poll_at: when the triggerer asks first.
    :param resumed_at: when the triggerer took up the wait; if that was later, it was restarted.
    """

    started_at: float
    deadline: float
    first_poll_at: float
    resumed_at: float


def poll_times_from_end(
    ends_at: float,
    now: float,
    *,
    timeout: float,
    margin: float,
    execution_timeout: float | None,
    interval: float,
) -> PollTimes:
    """
    Return the times of a wait that began in the triggerer, where only the time at which Airflow ends it is known.

    :param ends_at: that time: the start plus ``timeout`` and ``margin``, or plus ``execution_timeout`` if that is
        shorter.
    :param now: the moment of the look. Within one interval of the start, the first poll is due at once.
    :param timeout: seconds that the wait may take.
    :param margin: seconds after that at which Airflow ends it.
    :param execution_timeout: seconds that the task may take, or None.
    :param interval: seconds between two polls.
    """
    bound = float("inf") if execution_timeout is None else execution_timeout
    started_at = ends_at - min(timeout + margin, bound)
    is_new = now <= started_at + interval
    first_poll_at = max(now, started_at) if is_new else started_at
    return PollTimes(started_at, started_at + min(timeout, bound), first_poll_at, resumed_at=now)


@dataclass(frozen=True, slots=True)
class PollPolicy:
    """
    How often to ask.

    :param interval: seconds between two polls.
    :param exponential_backoff: let the interval grow with the time waited.
    :param max_wait: longest interval in seconds; None for no bound of its own.
    """

    interval: float = DEFAULT_POKE_INTERVAL
    exponential_backoff: bool = False
    max_wait: float | None = None

    def next_interval(self, waited: float) -> float:
        """
        Return the interval that follows after ``waited`` seconds.

        With backoff it equals the time waited so far, which doubles it from poll to poll and needs no
        counter: none survives a reschedule or a restart of the triggerer.
        """
        return self._bounded(self.interval + max(0.0, waited) if self.exponential_backoff else self.interval)

    def error_interval(self, failures: int) -> float:
        """Return the interval after so many failures in a row; it doubles, and is never below the usual one."""
        doubled = self.interval * 2.0 ** min(failures - 1, 32)
        return self._bounded(max(self.interval, min(doubled, MAX_ERROR_BACKOFF)))

    def _bounded(self, interval: float) -> float:
        longest = interval if self.max_wait is None else min(interval, self.max_wait)
        return max(longest, MIN_INTERVAL)


@dataclass(frozen=True, slots=True)
class Completed:
    """The video is there."""

    task: VideoTask
    news: tuple[LogLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """The wait is over without a video."""

    error: ManxueError
    news: tuple[LogLine, ...] = ()


@dataclass(frozen=True, slots=True)
class AskAgain:
    """
    Ask again at ``at``, in seconds since the epoch.

    A time beyond the deadline means that the service does not want to be asked before it: the wait then ends
    at the deadline without another request.
    """

    at: float
    news: tuple[LogLine, ...] = ()


Decision = Completed | Ended | AskAgain


@dataclass(slots=True)
class Wait:
    """
    One wait for one video.

    :param video_task_id: id of the task.
    :param policy: how often to ask.
    :param started_at: when the wait began.
    :param deadline: when it ends at the latest.
    :param grace_since: since when the service refuses the id, or leaves out the URL; None if it does not.
    :param last_answer: what the service said last, in a few words.
    :param random: source of numbers from 0 to 1, for the jitter.
    """

    video_task_id: str
    policy: PollPolicy
    started_at: float
    deadline: float
    grace_since: float | None = None
    last_answer: str = ""
    random: Callable[[], float] = field(default_factory=lambda: random.random, repr=False)
    _failures: int = field(default=0, init=False)
    _journal: StatusLog = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._journal = StatusLog(self.video_task_id, self.started_at, self.last_answer)

    def after(self, outcome: VideoTask | ManxueError, now: float) -> Decision:
        """Decide what follows from an answer, or from the lack of one."""
        if (
            isinstance(outcome, VideoTask)
            and outcome.status is TaskStatus.COMPLETED
            and not outcome.video_url
        ):
            outcome = ManxueResultMissingError(
                f"The task {self.video_task_id!r} is completed, but its answer holds no URL of the video. "
                f"Ask the service's support with this id."
            )
        news = self._journal.lines_for(outcome, now)
        self.last_answer = self._journal.last_answer
        if isinstance(outcome, VideoTask):
            return self._after_task(outcome, now, news)
        return self._after_error(outcome, now, news)

    def _after_task(self, task: VideoTask, now: float, news: tuple[LogLine, ...]) -> Decision:
        self._failures = 0
        self.grace_since = None
        if task.status is TaskStatus.COMPLETED:
            return Completed(task, news)
        if task.status is TaskStatus.FAILED:
            return Ended(video_failed(self.video_task_id, task.error or f"status {task.status_word!r}"), news)
        return self._ask_again(self.policy.next_interval(now - self.started_at), now, news)

    def _after_error(self, error: ManxueError, now: float, news: tuple[LogLine, ...]) -> Decision:
        if isinstance(error, ManxueTransientError):
            self._failures += 1
            interval = self.policy.error_interval(self._failures)
            return self._ask_again(interval, now, news, floor=min(error.retry_after or 0.0, MAX_RETRY_AFTER))
        if not isinstance(error, (ManxueRefusedError, ManxueResultMissingError)):
            return Ended(error)
        if self.grace_since is None:
            self.grace_since = now
        grace_left = self.grace_since + GRACE_TIME - now
        if grace_left <= 0:
            return Ended(_with_likely_causes(error, self.video_task_id))
        return self._ask_again(min(self.policy.next_interval(now - self.started_at), grace_left), now, news)

    def _ask_again(
        self, interval: float, now: float, news: tuple[LogLine, ...], floor: float = 0.0
    ) -> Decision:
        if now >= self.deadline:
            return Ended(self.timed_out(), news)
        spread = interval * JITTER
        at = now + max(interval + (2 * self.random() - 1) * spread, MIN_INTERVAL)
        if floor:
            # After a pause that all waits were told to make, they come back one by one.
            at = max(at, now + floor + self.random() * spread)
        return AskAgain(at if now + floor > self.deadline else min(at, self.deadline), news)

    def timed_out(self) -> ManxueTimeoutError:
        """Return the error of a wait whose deadline has passed."""
        return ManxueTimeoutError(
            f"The video {self.video_task_id!r} was not ready after {elapsed(self.deadline - self.started_at)}. "
            f"Last answer of the service: {self.last_answer or 'none'}. The task may still end: a longer "
            f"'timeout', or a sensor on the same id, can pick it up."
        )


def video_failed(video_task_id: str, reason: str) -> ManxueVideoFailedError:
    """Return the error of a video that the service could not generate."""
    return ManxueVideoFailedError(
        f"The service could not generate the video {video_task_id!r}: {reason}. Usual causes are a prompt that "
        f"is not allowed and reference material that is not supported; a new order is needed."
    )


def _with_likely_causes(error: ManxueError, video_task_id: str) -> ManxueError:
    if isinstance(error, ManxueResultMissingError):
        return error
    return type(error)(
        f"The service does not answer for the video {video_task_id!r}: {error}. Likely causes: the id is not one "
        f"that the create call returned, it belongs to another API key, the task is older than the service keeps "
        f"its records (about a day), or the connection's host holds a wrong path."
    )


def first_poll_at(decision: AskAgain, now: float, deadline: float) -> float:
    """
    Return when a wait that leaves its worker is polled first, by a trigger or by a rescheduled process.

    :param decision: what followed from the worker's own poll.
    :param now: the moment at which the wait leaves the worker.
    :param deadline: end of the wait; it wins over the pause that the scheduler needs.
    """
    if decision.at > deadline:
        return decision.at
    return min(max(decision.at, now + MIN_FIRST_POLL_DELAY), deadline)


def deadline_to_read(deadline: float, now: float) -> float:
    """
    Return until when a worker tries to read what the triggerer has seen completed.

    :param deadline: end of the wait.
    :param now: the moment of the first try. From then on there is a time of grace, even if the deadline lies within
        it or has passed; but it is counted from the deadline at the latest, so that it ends.
    """
    return max(deadline, min(now, deadline) + GRACE_TIME)


def spread_first_poll(planned: float, now: float, interval: float, deadline: float, chance: float) -> float:
    """
    Return when a trigger polls first, given when it starts.

    :param planned: the moment that the worker planned.
    :param now: the moment of the start. If it is later than planned, the triggerer was restarted, perhaps with
        thousands of waits at once, and their first polls are spread over the interval.
    :param interval: seconds between two polls.
    :param deadline: end of the wait.
    :param chance: a number from 0 to 1.
    """
    if now <= planned:
        return planned
    return min(now + interval * chance, max(now, deadline))
