"""The times of a wait: intervals, deadlines, grace periods. Pure functions of time, without I/O."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_POKE_INTERVAL = 30.0
"""Seconds; the service's page recommends 30 to 60."""

DEFAULT_TIMEOUT = 3 * 60 * 60.0
"""Seconds; the most patient clients of the service wait that long."""

GRACE_TIME = 300.0
"""Seconds for which trouble that may pass does not end a wait, and a video that was seen completed is read after the
deadline."""

NOT_FOUND_GRACE_TIME = 25.0
"""Seconds for which a missing connection does not end a wait that has not worked: Airflow's clients report an outage of a
secrets backend as a missing connection."""

MAX_RETRY_AFTER = 900.0
"""Seconds; a longer ``Retry-After`` is cut, so that one wrong header cannot lose a paid video."""

MAX_OVERSHOOT = MAX_RETRY_AFTER + GRACE_TIME
"""Seconds after the deadline to which a pause can move the final poll."""

MAX_ERROR_BACKOFF = 300.0
"""Seconds; during an outage the service is polled at least this often, so that its end is noticed."""

MIN_FIRST_POLL_DELAY = 10.0
"""Seconds from a worker's poll to the first poll of the trigger or of a rescheduled process. A task that resumes earlier can
lose a race against the scheduler, which then takes the task for killed (seen on Airflow 3.3.2)."""

LEGACY_DEFER_TIMEOUT_MARGIN = 900.0
"""Seconds; the margin of deferrals that name none, which version 0.1.0 has made."""

DEFER_TIMEOUT_MARGIN = 1800.0
"""Seconds added to the timeout that is passed to ``defer()``. The trigger sends final polls within it."""

MAX_URL_AGE = 300.0
"""Seconds for which a video's URL is handed over as it was read; an older one is read again, so that it lasts."""

EVENT_MARGIN = 60.0
"""Seconds of that margin that are left for Airflow to handle the trigger's event."""

FINAL_POLL_WINDOW = 15.0
"""Seconds for which a final poll is retried after transient errors: in flight, and in the delays between."""

CREDENTIAL_PROBES = (30.0, 60.0, 120.0, GRACE_TIME)
"""Seconds after a 401 at which one request tries the credentials again."""

MIN_INTERVAL = 1.0
"""Seconds; no setting makes a wait poll more often."""

JITTER = 0.1
"""Fraction of an interval by which polls are spread, so that waits that began together drift apart."""

MAX_QUICK_RETRY_DELAY = 60.0
"""Seconds; the longest delay between two quick retries, which begin with one second."""


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
    :param now: the current time. Within one interval of the start, the first poll is due at once.
    :param timeout: seconds that the wait may take.
    :param margin: seconds after that at which Airflow ends the trigger.
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
    How often to poll.

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


def quick_retry_delay(failures: int) -> float:
    """
    Return the seconds before a quick retry: 1, 2, 4 ... 60.

    :param failures: failures in a row.
    """
    return float(min(2.0 ** min(failures - 1, 32), MAX_QUICK_RETRY_DELAY))


def next_credential_probe(refused_for: float) -> float | None:
    """
    Return when credentials are tried again, in seconds after they were first refused.

    :param refused_for: seconds since then.
    :return: None if the grace period is over.
    """
    # A probe that fires a moment early still counts as that probe.
    return next((probe for probe in CREDENTIAL_PROBES if probe > refused_for + MIN_INTERVAL), None)


def first_poll_at(due_at: float, now: float, deadline: float) -> float:
    """
    Return when a wait that leaves its worker is polled first, by a trigger or by a rescheduled process.

    :param due_at: when the next poll is due. A time after the deadline is the end of a pause.
    :param now: the moment at which the wait leaves the worker.
    :param deadline: the wait's deadline. It wins over the delay that the scheduler needs.
    """
    if due_at > deadline:
        return due_at
    return min(max(due_at, now + MIN_FIRST_POLL_DELAY), max(deadline, now))


def deadline_to_read(deadline: float, now: float) -> float:
    """
    Return until when a video is read that was seen completed.

    :param deadline: the wait's deadline.
    :param now: the moment of the first attempt. The grace period begins then, but ends where no pause can move a final poll
        any further.
    """
    return max(deadline, min(now + GRACE_TIME, deadline + MAX_OVERSHOOT))


def spread_first_poll(planned: float, now: float, interval: float, deadline: float, chance: float) -> float:
    """
    Return when a trigger polls first, given when it starts.

    :param planned: the moment that the worker planned.
    :param now: the moment of the start. If it is later than planned, the triggerer was restarted, perhaps with
        thousands of waits at once, and their first polls are spread over the interval.
    :param interval: seconds between two polls.
    :param deadline: the wait's deadline.
    :param chance: a number from 0 to 1.
    """
    if now <= planned:
        return planned
    return min(now + interval * chance, max(now, deadline))
