"""The time limits of a worker's pass, which holds a slot. No I/O happens here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_manxue._core.deadline import final_polls_failed

if TYPE_CHECKING:
    from airflow_provider_manxue._core.poller import Poller

PATIENCE = 30.0
"""Seconds without a usable response after which a worker releases its slot: an outage must not hold slots."""

MAX_EXTRA_TIME = 60.0
"""Seconds that a pass may take in addition to one poll of each video at the connection's limit."""


class WorkerPass:
    """
    A bounded pass of a worker over the videos of its task.

    The pass ends when each video has been polled and no quick retry is pending, or at its time limits.

    :param started_at: when it began, in seconds since the epoch.
    :param videos: the number of videos.
    :param rate: requests per second that the connection allows.
    """

    def __init__(self, started_at: float, videos: int, rate: float) -> None:
        self.longest = videos / rate + MAX_EXTRA_TIME
        """Seconds that the pass may take. For a monotonic clock, since the wall clock may be set back meanwhile."""
        self._ends_at = started_at + self.longest
        self._last_response_at = started_at
        self._has_response = False

    def note_response(self, now: float) -> None:
        """Record a usable response."""
        self._last_response_at = now
        self._has_response = True

    @property
    def ends_at(self) -> float:
        """The latest end of the pass, unless another usable response arrives."""
        return min(self._ends_at, self._last_response_at + PATIENCE)

    def end_overdue(self, poller: Poller, now: float, *, is_rescheduled: bool) -> None:
        """
        End the videos with a timeout that the next pass must not poll.

        :param is_rescheduled: whether the task reschedules. The next pass has no state of this one then, and would
            begin its final polls again. After a deferral, the next pass continues this one.
        """
        if is_rescheduled and final_polls_failed(
            now, poller.deadline, self._last_response_at, poller.resumes_at
        ):
            poller.give_up(now)
        if is_rescheduled or not self._has_response:
            poller.give_up_overdue(now)

    def is_over(
        self, poller: Poller, now: float, *, is_polling: bool = False, next_grant_at: float = 0.0
    ) -> bool:
        """
        Return whether the pass is over.

        :param is_polling: whether requests are queued or in flight.
        :param next_grant_at: when the rate limiter grants the next request.
        """
        if now >= self.ends_at or next_grant_at > self.ends_at:
            return True
        next_due = poller.next_due
        if is_polling or (next_due is not None and next_due <= now):
            return False
        return not poller.is_retrying or next_due is None or next_due > self.ends_at
