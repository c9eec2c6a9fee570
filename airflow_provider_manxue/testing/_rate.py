"""The rate limit: a token bucket on the emulator's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from airflow_provider_manxue.testing._clock import Clock


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """
    A limit of requests per second.

    :param rate: requests per second in the long run.
    :param burst: requests that may arrive at the same time.
    :param retry_after: write ``Retry-After`` as ``"seconds"`` or as an HTTP ``"date"``.
    :raises ValueError: for a value out of range.
    """

    rate: float
    burst: int = 1
    retry_after: Literal["seconds", "date"] = "seconds"

    def __post_init__(self) -> None:
        """Reject a limit that allows no request."""
        if not self.rate > 0:
            raise ValueError(f"rate is {self.rate!r}. Set a positive number of requests per second.")
        if self.burst < 1:
            raise ValueError(f"burst is {self.burst!r}. Set 1 or more.")
        if self.retry_after not in ("seconds", "date"):
            raise ValueError(f"retry_after is {self.retry_after!r}. Set 'seconds' or 'date'.")


class TokenBucket:
    """
    The token bucket of a rate limit.

    :param limit: the limit.
    :param clock: the emulator's clock.
    """

    def __init__(self, limit: RateLimit, clock: Clock) -> None:
        self.limit = limit
        self._clock = clock
        self._tokens = float(limit.burst)
        self._counted_at = clock.now()

    def take(self) -> float:
        """Take a token and return 0, or return the seconds until the next token."""
        now = self._clock.now()
        self._tokens = min(self.limit.burst, self._tokens + (now - self._counted_at) * self.limit.rate)
        self._counted_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.limit.rate
