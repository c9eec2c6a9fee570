"""Probes of refused credentials: after a 401 the requests of a connection are held, except a few."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from airflow_provider_manxue._core.polling import (
    GRACE_TIME,
    LATE_PROBE_INTERVAL,
    next_credential_probe,
)
from airflow_provider_manxue.exceptions import ManxueAuthenticationError

if TYPE_CHECKING:
    from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter


class CredentialProbes:
    """
    Schedule of probes after a 401: one request each after 30, 60, 120 and 300 s.

    The grace period belongs to the connection and its key, not to a wait. Once it is over, requests fail without being sent,
    except those of one round trip every ``LATE_PROBE_INTERVAL`` seconds.

    :param limiter: the rate limiter of the connection.
    """

    def __init__(self, limiter: AdaptiveRateLimiter) -> None:
        self._limiter = limiter
        self._refused_at: float | None = None
        self._since: float | None = None
        self._next_probe_at = 0.0
        self._message = ""

    def check(self) -> None:
        """
        Check whether a request may be sent.

        :raises ManxueAuthenticationError: if the credentials were refused for the whole grace period.
        """
        if self._refused_at is None or not self._is_final:
            return
        # Only a response postpones the next probe: others would fail from memory while it is in flight.
        if asyncio.get_running_loop().time() < self._next_probe_at:
            raise self._error()

    def check_accepted(self) -> None:
        """
        Check whether the present credentials were refused.

        :raises ManxueAuthenticationError: if they were.
        """
        if self._refused_at is not None:
            raise self._error()

    def refused(self, error: ManxueAuthenticationError) -> ManxueAuthenticationError:
        """
        Record a 401, and hold further requests.

        :return: the error, with the time of the first refusal.
        """
        now = asyncio.get_running_loop().time()
        if self._refused_at is None:
            self._refused_at, self._since = now, time.time()
        self._message = str(error)
        probe = next_credential_probe(now - self._refused_at)
        if probe is None:
            self._next_probe_at = now + LATE_PROBE_INTERVAL
            self._limiter.resume()
        else:
            self._next_probe_at = self._refused_at + probe
            self._limiter.hold(self._next_probe_at)
        return self._error()

    def accepted(self) -> None:
        """Release all requests: the credentials were accepted, or have changed."""
        if self._refused_at is not None:
            self._refused_at = self._since = None
            self._limiter.resume()

    @property
    def _is_final(self) -> bool:
        """Whether the last probe of the grace period was refused."""
        return self._refused_at is not None and self._next_probe_at > self._refused_at + GRACE_TIME

    def _error(self) -> ManxueAuthenticationError:
        error = ManxueAuthenticationError(self._message)
        error.since = self._since
        return error
