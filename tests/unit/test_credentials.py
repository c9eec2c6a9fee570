"""
Probes of refused credentials, shared by all waits of a connection.

A service may block a client that repeats a refused key, so a 401 holds all requests of the connection, except for one probe
at a time. The probes are 30, 60, 120 and 300 s after the 401; the last one is the end of the grace period.
"""

from __future__ import annotations

import asyncio

import pytest

from airflow_provider_manxue._client.credentials import CredentialProbes
from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
from airflow_provider_manxue.exceptions import ManxueAuthenticationError
from tests.support.virtual_time import run


class Crowd:
    """
    Many waits of one connection that poll again one second after each result.

    ``sent_at`` has the times of requests, ``unsent_at`` those of polls that failed without one, and ``since`` the start of the
    refusals that their errors name. Times are in seconds from the start.
    """

    def __init__(self, waits=20):
        self.limiter = AdaptiveRateLimiter(100.0, 1)
        self.credentials = CredentialProbes(self.limiter)
        self.sent_at, self.unsent_at, self.since = [], [], []
        self.is_refused = True
        self.waits = waits

    async def wait(self, number):
        while True:
            await self.limiter.acquire(number)
            now = asyncio.get_running_loop().time()
            try:
                self.credentials.check()
            except ManxueAuthenticationError as error:
                self.unsent_at.append(now)
                self.since.append(error.since)
            else:
                self.sent_at.append(now)
                if self.is_refused:
                    self.credentials.refused(ManxueAuthenticationError("HTTP 401"))
                else:
                    self.credentials.accepted()
            self.limiter.release()
            await asyncio.sleep(1)

    def run(self, seconds, act=None):
        async def main():
            tasks = [asyncio.create_task(self.wait(number)) for number in range(self.waits)]
            if act is not None:
                await act()
            await asyncio.sleep(seconds - asyncio.get_running_loop().time())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        run(main())
        return self


def test_refused_credentials_are_probed_five_times():
    """The first request and four probes, not one request for each of the twenty waits."""
    crowd = Crowd().run(350)

    assert crowd.sent_at == pytest.approx([0, 30, 60, 120, 300], abs=0.1)


def test_probes_are_rare_after_the_grace_period():
    """The waits then fail without a request. Each error names the first refusal, so that no grace period begins again."""
    crowd = Crowd().run(550)

    assert crowd.sent_at[5:] == pytest.approx([360, 420, 480, 540], abs=4)
    assert min(crowd.unsent_at) == pytest.approx(300, abs=1)
    assert len(set(crowd.since)) == 1


def test_accepted_probe_resumes_all_waits():
    """The key is valid from 70 s on, which the probe at 120 s finds."""
    crowd = Crowd()

    async def cure():
        await asyncio.sleep(70)
        crowd.is_refused = False

    crowd.run(123, cure)

    assert crowd.sent_at[:4] == pytest.approx([0, 30, 60, 120], abs=0.1)
    assert len(crowd.sent_at) > 4 + 20


def test_new_settings_end_the_pause_immediately():
    """A person has entered a new key, so the refusal of the old one means nothing."""
    crowd = Crowd()

    async def edit():
        await asyncio.sleep(5)
        crowd.is_refused = False
        crowd.credentials.accepted()

    crowd.run(7, edit)

    assert crowd.sent_at[1] == pytest.approx(5, abs=0.01)
    assert len(crowd.sent_at) >= 20


def test_later_refusal_starts_a_new_grace_period():
    """An accepted probe ends the first refusals, so the probes begin again: 30, 60 and 120 s after the 401 at 51 s."""
    crowd = Crowd(1)

    async def cure_and_break():
        await asyncio.sleep(20)
        crowd.is_refused = False
        await asyncio.sleep(31)
        crowd.is_refused = True

    crowd.run(300, cure_and_break)

    assert crowd.sent_at[-4:] == pytest.approx([51, 81, 111, 171], abs=0.1)


def test_concurrent_refusals_count_as_one():
    """Ten requests were in flight when the key expired. Their 401s must not postpone the first probe."""

    async def main():
        limiter = AdaptiveRateLimiter(100.0, 10)
        credentials = CredentialProbes(limiter)
        errors = [credentials.refused(ManxueAuthenticationError("HTTP 401")) for _ in range(10)]
        credentials.check()
        return limiter.resumes_at, {error.since for error in errors}

    resumes_at, since = run(main())
    assert resumes_at == 30
    assert len(since) == 1


def test_requests_beside_a_late_probe_are_sent():
    """A batch has several polls in flight. One that failed from memory would end the batch, and cancel the probe."""

    async def main():
        credentials = CredentialProbes(AdaptiveRateLimiter(100.0, 10))
        refused = ManxueAuthenticationError("HTTP 401")
        credentials.refused(refused)
        await asyncio.sleep(300)
        credentials.refused(refused)
        with pytest.raises(ManxueAuthenticationError):
            credentials.check()
        await asyncio.sleep(61)
        credentials.check()
        credentials.check()
        credentials.refused(refused)
        with pytest.raises(ManxueAuthenticationError):
            credentials.check()

    run(main())
