"""The intervals and grace periods of a wait. Pure functions of time, without I/O."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_POKE_INTERVAL = 30.0
"""Seconds. The service recommends 30 to 60."""

DEFAULT_TIMEOUT = 3 * 60 * 60.0
"""Seconds. Other clients of the service wait up to that long."""

GRACE_TIME = 300.0
"""Seconds of a grace period: temporary trouble shorter than that does not end a wait. The polling engine in
``poller.py`` decides for which errors, such as a 404. A completed video is also read for that long after the deadline."""

NOT_FOUND_GRACE_TIME = 25.0
"""Seconds of the grace period of a wait that has not worked, if the connection is missing: Airflow's clients report an
outage of a secrets backend as a missing connection."""

MAX_RETRY_AFTER = 900.0
"""Seconds. A longer ``Retry-After`` is limited, so that one wrong header cannot lose a paid video."""

MAX_ERROR_BACKOFF = 300.0
"""Seconds. The longest interval during an outage, so that its end is noticed."""

MIN_FIRST_POLL_DELAY = 10.0
"""Seconds from a worker's poll to the first poll of the trigger or of a rescheduled process. A task that resumes
earlier can lose a race against the scheduler, which then takes the task for killed (seen on Airflow 3.3.2)."""

MAX_URL_AGE = 300.0
"""Maximum age of a video's URL in seconds. An older one is read again, since it may expire soon."""

CREDENTIAL_PROBES = (30.0, 60.0, 120.0, GRACE_TIME)
"""Times of the probes of refused credentials, in seconds after the 401."""

LATE_PROBE_INTERVAL = 60.0
"""Seconds between two probes of credentials that were refused for the whole grace period. A wait that begins when the service
accepts the same key again must not fail from memory for long."""

MIN_INTERVAL = 1.0
"""Seconds. The shortest interval with any settings."""

JITTER = 0.1
"""Jitter, as a fraction of the interval, so that waits that began together drift apart."""

MAX_QUICK_RETRY_DELAY = 60.0
"""Seconds. The longest delay between two quick retries. The first delay is one second."""


@dataclass(frozen=True, slots=True)
class PollPolicy:
    """
    The intervals between polls.

    :param interval: seconds between two polls.
    :param exponential_backoff: let the interval grow with the time waited.
    :param max_wait: longest interval in seconds; None for no limit.
    """

    interval: float = DEFAULT_POKE_INTERVAL
    exponential_backoff: bool = False
    max_wait: float | None = None

    def next_interval(self, waited: float) -> float:
        """
        Return the interval after a wait of ``waited`` seconds.

        Backoff adds the time waited so far. That doubles the interval with each poll and needs no counter, since none
        survives a reschedule or a restart of the triggerer.
        """
        return self._bounded(self.interval + max(0.0, waited) if self.exponential_backoff else self.interval)

    def error_interval(self, failures: int) -> float:
        """Return the interval after failures in a row. It doubles with each failure, and is at least the regular one."""
        doubled = self.interval * 2.0 ** min(failures - 1, 32)
        return self._bounded(max(self.interval, min(doubled, MAX_ERROR_BACKOFF)))

    def _bounded(self, interval: float) -> float:
        longest = interval if self.max_wait is None else min(interval, self.max_wait)
        return max(longest, MIN_INTERVAL)


def bounded_pause(retry_after: float | None) -> float:
    """
    Return the seconds of a pause that the service requested: at most ``MAX_RETRY_AFTER``.

    :param retry_after: the requested seconds; None for no pause.
    """
    return min(retry_after or 0.0, MAX_RETRY_AFTER)


def quick_retry_delay(failures: int) -> float:
    """
    Return the delay before a quick retry in seconds: 1, 2, 4 ... 60.

    :param failures: failures in a row.
    """
    return float(min(2.0 ** min(failures - 1, 32), MAX_QUICK_RETRY_DELAY))


def next_credential_probe(refused_for: float) -> float | None:
    """
    Return the moment of the next probe of refused credentials, in seconds after the first refusal.

    :param refused_for: seconds since then.
    :return: None if the grace period is over.
    """
    # A probe that begins slightly early counts as that probe.
    return next((probe for probe in CREDENTIAL_PROBES if probe > refused_for + MIN_INTERVAL), None)
