"""Times of an order that was not accepted: when it is sent again, and until when. Pure functions, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from airflow_provider_manxue._core.polling import MAX_RETRY_AFTER, MIN_FIRST_POLL_DELAY
from airflow_provider_manxue.exceptions import ManxueOrderTimeoutError

MAX_ATTEMPTS = 5
"""How often ``create_video`` sends an order at most. An operator sends until its ``order_timeout``."""

MAX_DELAY_ON_WORKER = MIN_FIRST_POLL_DELAY
"""Seconds; a longer delay is waited for in the triggerer. A shorter deferral can lose a race against the scheduler."""

_FIRST_DELAY = 2.0
_MIN_ROOM_DELAY, _MAX_ROOM_DELAY = 30.0, 240.0
"""Seconds; jitter adds up to a quarter."""


def quick_resend_delay(attempts: int, retry_after: float | None, chance: float) -> float:
    """
    Return the seconds before a caller that waits itself sends an order again: 2, 4, 8, 16.

    :param attempts: how often it was sent.
    :param retry_after: the delay that the service asked for; a longer one than 15 minutes is cut.
    :param chance: a number from 0 to 1. Orders that were turned away together drift apart by it.
    """
    return _with_jitter(_FIRST_DELAY**attempts, retry_after, chance)


def resend_delay(attempts: int, retry_after: float | None, chance: float) -> float:
    """
    Return the seconds before a task sends its order again: 2, then 30 to 300.

    For the parameters see :func:`quick_resend_delay`.
    """
    if attempts == 1:
        return _with_jitter(_FIRST_DELAY, retry_after, chance)
    doubled = _MIN_ROOM_DELAY * 2.0 ** min(attempts - 2, 8)
    return _with_jitter(min(doubled, _MAX_ROOM_DELAY), retry_after, chance)


def _with_jitter(delay: float, retry_after: float | None, chance: float) -> float:
    return max(delay, min(retry_after or 0.0, MAX_RETRY_AFTER)) * (1 + chance / 4)


@dataclass(frozen=True, slots=True)
class OrderProgress:
    """
    What is known of an order that waits for room. It travels in the arguments of a deferral.

    :param started_at: first start of this try, in seconds since the epoch.
    :param attempts: how often the order was sent and not accepted.
    :param since: time of the last intent, as in the record; None if nothing is persisted.
    """

    started_at: float
    attempts: int = 0
    since: str | None = None


@dataclass(frozen=True, slots=True)
class OrderBounds:
    """
    Until when an order may be sent.

    :param order_timeout: seconds from the first start within which an attempt begins.
    :param execution_timeout: seconds from the first start that the whole task may take.
    :param reserve: seconds of ``execution_timeout`` that an attempt needs: for its request, and for the first polls.
    """

    order_timeout: float
    execution_timeout: float
    reserve: float

    def check(self, started_at: float, now: float) -> None:
        """
        Refuse an attempt for which too little time is left: a paid video could not be awaited.

        :raises ManxueOrderTimeoutError: if it is too late.
        """
        if now > self._last_attempt_at(started_at):
            raise self.timeout_error("it was not sent")

    def next_attempt_at(
        self, started_at: float, now: float, attempts: int, retry_after: float | None, chance: float
    ) -> float | None:
        """
        Return when the order is sent again; None if it is not. The last attempt is moved to the end of the time.

        For the other parameters see :func:`quick_resend_delay`.

        :param started_at: first start of the try.
        :param now: the current time.
        """
        at, last = now + resend_delay(attempts, retry_after, chance), self._last_attempt_at(started_at)
        if at <= last:
            return at
        earliest = now + max(MAX_DELAY_ON_WORKER, min(retry_after or 0.0, MAX_RETRY_AFTER))
        return last if last >= earliest else None

    def timeout_error(self, reason: str) -> ManxueOrderTimeoutError:
        """
        Return the error of an order for which the time is over.

        :param reason: why it was not accepted so far.
        """
        if self._is_cut:
            bound = (
                f"while execution_timeout ({_duration(self.execution_timeout)}) left the {self.reserve:g} s that its request "
                f"and the first polls need"
            )
        else:
            bound = f"within order_timeout ({_duration(self.order_timeout)})"
        return ManxueOrderTimeoutError(
            f"No order was accepted {bound}: {reason}. Nothing was ordered. A retry or a clear of the task orders; "
            f"raise {'execution_timeout' if self._is_cut else 'order_timeout'} if it takes longer."
        )

    @property
    def _is_cut(self) -> bool:
        return self.execution_timeout - self.reserve < self.order_timeout

    def _last_attempt_at(self, started_at: float) -> float:
        return started_at + min(self.order_timeout, self.execution_timeout - self.reserve)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
