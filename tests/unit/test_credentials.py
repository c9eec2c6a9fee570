"""Probes of refused credentials, shared by all waits of a connection."""

from __future__ import annotations

import asyncio

import pytest

from airflow_provider_manxue._client.credentials import CredentialProbes
from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
from airflow_provider_manxue.exceptions import ManxueAuthenticationError
from tests.support.virtual_time import run


class Crowd:
    """Many waits of one connection that poll again immediately after each result."""

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
    crowd = Crowd().run(590)

    assert crowd.sent_at == pytest.approx([0, 30, 60, 120, 300], abs=0.1)


def test_probes_are_rare_after_the_grace_period():
    crowd = Crowd().run(1250)

    assert crowd.sent_at[5:] == pytest.approx([600, 900, 1200], abs=2)
    assert min(crowd.unsent_at) == pytest.approx(300, abs=1)
    assert len(set(crowd.since)) == 1


def test_accepted_probe_resumes_all_waits():
    crowd = Crowd()

    async def cure():
        await asyncio.sleep(70)
        crowd.is_refused = False

    crowd.run(123, cure)

    assert crowd.sent_at[:4] == pytest.approx([0, 30, 60, 120], abs=0.1)
    assert len(crowd.sent_at) > 4 + 20


def test_new_settings_end_the_pause_immediately():
    crowd = Crowd()

    async def edit():
        await asyncio.sleep(5)
        crowd.is_refused = False
        crowd.credentials.accepted()

    crowd.run(7, edit)

    assert crowd.sent_at[1] == pytest.approx(5, abs=0.01)
    assert len(crowd.sent_at) >= 20


def test_later_refusal_starts_a_new_grace_period():
    crowd = Crowd(1)

    async def cure_and_break():
        await asyncio.sleep(20)
        crowd.is_refused = False
        await asyncio.sleep(31)
        crowd.is_refused = True

    crowd.run(300, cure_and_break)

    assert crowd.sent_at[-4:] == pytest.approx([51, 81, 111, 171], abs=0.1)


def test_concurrent_refusals_count_as_one():
    async def main():
        limiter = AdaptiveRateLimiter(100.0, 10)
        credentials = CredentialProbes(limiter)
        errors = [credentials.refused(ManxueAuthenticationError("HTTP 401")) for _ in range(10)]
        credentials.check()
        return limiter.resumes_at, {error.since for error in errors}

    resumes_at, since = run(main())
    assert resumes_at == 30
    assert len(since) == 1
