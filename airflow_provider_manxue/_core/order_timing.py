"""Retry times of orders that were not accepted. Pure functions, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from airflow_provider_manxue._core.order_kinds import VIDEO_ORDER, OrderKind
from airflow_provider_manxue._core.polling import MIN_FIRST_POLL_DELAY, bounded_pause
from airflow_provider_manxue.exceptions import ManxueOrderTimeoutError

MAX_ATTEMPTS = 5
"""Maximum number of attempts of ``create_video``. An operator sends until its ``order_timeout``."""

MAX_DELAY_ON_WORKER = MIN_FIRST_POLL_DELAY
"""Seconds. The task defers for a longer delay. A shorter deferral can lose a race against the scheduler."""

_FIRST_DELAY = 2.0
_MIN_ROOM_DELAY, _MAX_ROOM_DELAY = 30.0, 240.0
"""Shortest and longest delay while the service has no capacity, in seconds. Jitter adds up to a quarter."""


def quick_resend_delay(attempts: int, retry_after: float | None, chance: float) -> float:
    """
    Return the delay before ``create_video`` sends an order again, in seconds: 2, 4, 8, 16.

    :param attempts: the number of attempts so far.
    :param retry_after: pause that the service requested, in seconds. It is limited to 15 minutes.
    :param chance: a number from 0 to 1, for the jitter. It spreads orders that were refused together.
    """
    return _with_jitter(_FIRST_DELAY**attempts, retry_after, chance)


def resend_delay(attempts: int, retry_after: float | None, chance: float) -> float:
    """
    Return the delay before a task sends its order again, in seconds: 2, then 30 to 300.

    For the parameters see :func:`quick_resend_delay`.
    """
    if attempts == 1:
        return _with_jitter(_FIRST_DELAY, retry_after, chance)
    doubled = _MIN_ROOM_DELAY * 2.0 ** min(attempts - 2, 8)
    return _with_jitter(min(doubled, _MAX_ROOM_DELAY), retry_after, chance)


def _with_jitter(delay: float, retry_after: float | None, chance: float) -> float:
    return max(delay, bounded_pause(retry_after)) * (1 + chance / 4)


@dataclass(frozen=True, slots=True)
class OrderProgress:
    """
    Progress of an order that waits for capacity, part of the arguments of a deferral.

    :param started_at: first start of this try, in seconds since the epoch.
    :param attempts: the number of attempts that were not accepted.
    :param since: ``since`` of the last intent in the record; None if there is no record.
    """

    started_at: float
    attempts: int = 0
    since: str | None = None


@dataclass(frozen=True, slots=True)
class OrderBounds:
    """
    The time limits of an order.

    :param order_timeout: seconds from the first start until the last attempt begins.
    :param execution_timeout: seconds from the first start that the whole task may take.
    :param reserve: seconds of ``execution_timeout`` reserved for the request of an attempt and the first polls.
    :param kind: the kind of the order.
    """

    order_timeout: float
    execution_timeout: float
    reserve: float
    kind: OrderKind = VIDEO_ORDER

    def check(self, started_at: float, now: float) -> None:
        """Raise ``ManxueOrderTimeoutError`` if too little time is left to wait for the paid video."""
        if now > self._last_attempt_at(started_at):
            raise self.timeout_error("it was not sent")

    def next_attempt_at(
        self, started_at: float, now: float, attempts: int, retry_after: float | None, chance: float
    ) -> float | None:
        """
        Return the moment of the next attempt; None if there is none. The last attempt begins when the time ends.

        ``started_at`` is the first start of the try. For the other parameters see :func:`quick_resend_delay`.
        """
        at, last = now + resend_delay(attempts, retry_after, chance), self._last_attempt_at(started_at)
        if at <= last:
            return at
        earliest = now + max(MAX_DELAY_ON_WORKER, bounded_pause(retry_after))
        return last if last >= earliest else None

    def timeout_error(self, reason: str) -> ManxueOrderTimeoutError:
        """Return the error of an order that was not accepted in time, with the reason why not."""
        if self._is_cut:
            bound = (
                f"while execution_timeout ({_duration(self.execution_timeout)}) left the {self.reserve:g} s that its request "
                f"and the first polls need"
            )
        else:
            bound = f"within order_timeout ({_duration(self.order_timeout)})"
        return ManxueOrderTimeoutError(
            f"No {self.kind.noun} was accepted {bound}: {reason}. Nothing was {self.kind.past}. A retry or a clear sends the "
            f"{self.kind.noun} again; "
            f"raise {'execution_timeout' if self._is_cut else 'order_timeout'} if it takes longer."
        )

    @property
    def _is_cut(self) -> bool:
        return self.execution_timeout - self.reserve < self.order_timeout

    def _last_attempt_at(self, started_at: float) -> float:
        return started_at + min(self.order_timeout, self.execution_timeout - self.reserve)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
