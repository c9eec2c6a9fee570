"""The bounds of a pass in which a worker polls: how long it may hold its slot. No I/O happens here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_manxue._core.polling import FINAL_POLL_WINDOW

if TYPE_CHECKING:
    from airflow_provider_manxue._core.poller import Poller

PATIENCE = 30.0
"""Seconds without a usable response after which a worker gives its slot back."""

MAX_EXTRA_TIME = 60.0
"""Seconds that a pass may take beyond the time that one poll of each video takes at the connection's limit."""


class WorkerPass:
    """
    One bounded pass of a worker over the videos of its task.

    The pass ends when each video has been polled and no quick retry is pending, or at its bounds.

    :param started_at: when it began, in seconds since the epoch.
    :param videos: the number of videos.
    :param rate: requests per second that the connection allows.
    """

    def __init__(self, started_at: float, videos: int, rate: float) -> None:
        self.longest = videos / rate + MAX_EXTRA_TIME
        """Seconds that the pass may take by a clock that nobody sets: the worker's own may be set back meanwhile."""
        self._ends_at = started_at + self.longest
        self._last_response_at = started_at
        self.has_response = False
        """Whether there was a usable response."""

    def note_response(self, now: float) -> None:
        """Take note of a usable response."""
        self._last_response_at = now
        self.has_response = True

    @property
    def ends_at(self) -> float:
        """When the worker leaves at the latest, unless another usable response arrives."""
        return min(self._ends_at, self._last_response_at + PATIENCE)

    def was_in_vain(self, now: float, deadline: float, resumes_at: float) -> bool:
        """
        Return whether final polls got no usable response for as long as they are retried, although no pause was asked for.

        :param now: the current time, at the end of the pass.
        :param deadline: the wait's deadline.
        :param resumes_at: when the next poll is due.
        """
        is_away = now >= max(self._last_response_at, deadline) + FINAL_POLL_WINDOW
        return is_away and resumes_at <= now + FINAL_POLL_WINDOW

    def is_over(
        self, poller: Poller, now: float, *, is_polling: bool = False, next_grant_at: float = 0.0
    ) -> bool:
        """
        Return whether the worker leaves.

        :param poller: the engine.
        :param now: the current time.
        :param is_polling: whether requests are queued or in flight.
        :param next_grant_at: when the rate limiter lets the next request go.
        """
        if now >= self.ends_at or next_grant_at > self.ends_at:
            return True
        next_due = poller.next_due
        if is_polling or (next_due is not None and next_due <= now):
            return False
        return not poller.is_retrying or next_due is None or next_due > self.ends_at
