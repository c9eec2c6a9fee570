"""
The deadline of a wait, and the bounds derived from it. Pure functions of time, without I/O.

Theory of operation. The deadline is the moment after which no regular poll begins. A final poll follows it, and only its
response decides a timeout. Each activity after the deadline has a bound:

- A final poll that gets a transient error is retried for ``FINAL_POLL_WINDOW``.
- A pause that the service requested moves final polls, by ``MAX_OVERSHOOT`` at most.
- A video that was seen completed is read for ``GRACE_TIME``, and within ``MAX_OVERSHOOT``.
- A connection that cannot be used ends the wait ``GRACE_TIME`` after the deadline.
- The trigger stops ``EVENT_MARGIN`` before Airflow ends the deferral, ``DEFER_TIMEOUT_MARGIN`` after the deadline.
- A batch on a worker stops after one round at the connection's limit, and ``MAX_OVERSHOOT``.
- ``execution_timeout`` bounds all of that where the task defers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from airflow_provider_manxue._core.polling import GRACE_TIME, MAX_RETRY_AFTER, MIN_FIRST_POLL_DELAY

FINAL_POLL_WINDOW = 15.0
"""Duration of the retries of a final poll in seconds: its requests in flight and the delays between them."""

MAX_OVERSHOOT = MAX_RETRY_AFTER + GRACE_TIME
"""Seconds after the deadline. No pause moves a final poll further."""

DEFER_TIMEOUT_MARGIN = 1800.0
"""Seconds added to the timeout that is passed to ``defer()``. The trigger sends final polls within it."""

LEGACY_DEFER_TIMEOUT_MARGIN = 900.0
"""Seconds; the margin of the deferrals of version 0.1.0, which do not name it."""

EVENT_MARGIN = 60.0
"""Seconds of ``DEFER_TIMEOUT_MARGIN`` that are reserved for Airflow to handle the trigger's event."""


def to_seconds(value: timedelta | float) -> float:
    """Convert a duration to seconds. A value of another type is returned unchanged, for the caller to refuse."""
    return value.total_seconds() if isinstance(value, timedelta) else value


# --- bounds of the engine -----------------------------------------------------------------------------------


def latest_final_poll(deadline: float) -> float:
    """Return the latest moment of a final poll, after any pause."""
    return deadline + MAX_OVERSHOOT


def deadline_to_read(deadline: float, now: float) -> float:
    """
    Return the deadline of a video that was seen completed.

    Its grace period begins now, with the first attempt, and ends with the latest final poll at the latest.
    """
    return max(deadline, min(now + GRACE_TIME, latest_final_poll(deadline)))


def final_polls_failed(now: float, deadline: float, last_response_at: float, resumes_at: float) -> bool:
    """Return whether the final polls have failed: no usable response within their window, and no pause was requested."""
    is_away = now >= max(last_response_at, deadline) + FINAL_POLL_WINDOW
    return is_away and resumes_at <= now + FINAL_POLL_WINDOW


def latest_on_worker(deadline: float, now: float, round_time: float) -> float:
    """
    Return the end of the final polls of a batch on a worker.

    :param now: start of the worker's polls.
    :param round_time: seconds that one poll of each video takes at the connection's limit. The rest is for pauses.
    """
    return latest_final_poll(max(now, deadline) + round_time)


def latest_in_trigger(deadline: float, ends_at: float, resumed_at: float) -> float:
    """
    Return the end of the final polls of a trigger.

    :param ends_at: when Airflow ends the deferral.
    :param resumed_at: when the trigger started. A trigger that starts after its end still polls once.
    """
    return max(ends_at - EVENT_MARGIN, deadline + FINAL_POLL_WINDOW, resumed_at + EVENT_MARGIN)


def latest_after_end_by_airflow(first_ended_at: float) -> float:
    """
    Return the latest moment at which a wait defers again, after Airflow itself has ended a deferral.

    The starts of pauses and grace periods are lost each time that Airflow ends a deferral; on some versions also the start of
    the wait. Without this bound, a wait whose deferrals all end like that would never end.

    :param first_ended_at: when a worker first resumed after such an end.
    """
    return latest_final_poll(first_ended_at) + DEFER_TIMEOUT_MARGIN


# --- first polls --------------------------------------------------------------------------------------------


def first_poll_at(due_at: float, now: float, deadline: float) -> float:
    """
    Return the moment of the first poll after a worker defers or reschedules.

    :param due_at: when the next poll is due. A time after the deadline is the end of a pause.
    :param deadline: the wait's deadline. It takes precedence over ``MIN_FIRST_POLL_DELAY``.
    """
    if due_at > deadline:
        return due_at
    return min(max(due_at, now + MIN_FIRST_POLL_DELAY), max(deadline, now))


def first_polls(planned: float, now: float, interval: float, deadline: float) -> tuple[float, float]:
    """
    Return the start and end of the first polls of a trigger.

    :param planned: the moment that the worker planned.
    :param now: the moment of the start. If it is later than planned, the triggerer was restarted, perhaps with
        thousands of waits at once, and their first polls are spread over the interval.
    :param interval: seconds between two polls.
    """
    if now <= planned:
        return planned, planned
    return now, max(now, min(now + interval, deadline))


# --- times of a whole wait ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """
    The limits of a wait, as its author has set them.

    :param timeout: seconds that the wait may take.
    :param execution_timeout: seconds that the task may take; infinite if there is no such limit. Also infinite where
        the task does not defer, since Airflow itself ends it there.
    """

    timeout: float
    execution_timeout: float = math.inf

    @property
    def wait_timeout(self) -> float:
        """Seconds from the start of the wait to its deadline."""
        return min(self.timeout, self.execution_timeout)

    def is_over(self, started_at: float, now: float) -> bool:
        """Return whether ``execution_timeout`` has passed. No pause of the service extends it."""
        return now >= started_at + self.execution_timeout

    def deadline(self, started_at: float, now: float, ended_by_airflow: str) -> float:
        """
        Return the deadline for a worker.

        Airflow ends a deferral after the deadline, later than any pause moves a final poll. This worker sends the first
        final poll then, so that the deadline is now.

        :param ended_by_airflow: why Airflow has ended the deferral, or an empty text.
        """
        deadline = started_at + self.wait_timeout
        if not ended_by_airflow:
            return deadline
        return now if _is_timeout(ended_by_airflow) else max(now, deadline)

    def latest_start(self, now: float, ended_by_airflow: str) -> float:
        """Return the latest possible start of a wait, if Airflow has just ended its deferral."""
        return now - (self.wait_timeout if _is_timeout(ended_by_airflow) else 0.0)

    def defer_timeout_margin(self, started_at: float, deadline: float, now: float) -> float:
        """
        Return the seconds from the deadline to Airflow's own timeout of the deferral.

        The trigger sends final polls within it. ``execution_timeout`` bounds them, and a wait that defers after its
        deadline gets the same time from now on.
        """
        left = max(0.0, started_at + self.execution_timeout - max(deadline, now))
        margin = min(DEFER_TIMEOUT_MARGIN, left + FINAL_POLL_WINDOW + EVENT_MARGIN)
        return max(0.0, now - deadline) + margin


def _is_timeout(reason: str) -> bool:
    return "timeout" in reason.lower()


def airflow_timeout(deadline: float, defer_timeout_margin: float, now: float) -> float:
    """Return the seconds after which Airflow itself ends a deferral that begins now."""
    return max(deadline + defer_timeout_margin - now, EVENT_MARGIN)


@dataclass(frozen=True, slots=True)
class PollTimes:
    """
    The times of a wait, in seconds since the epoch.

    :param started_at: when the wait began.
    :param deadline: the moment after which no regular poll begins.
    :param first_poll_at: when the trigger polls first.
    :param resumed_at: when the trigger started. If that is later than ``first_poll_at``, it was restarted.
    """

    started_at: float
    deadline: float
    first_poll_at: float
    resumed_at: float
