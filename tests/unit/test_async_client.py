"""The shared client of an event loop, in virtual time."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from airflow_provider_manxue._client import async_client
from airflow_provider_manxue._client.async_client import shared_client
from airflow_provider_manxue._client.connection_cache import CONNECTION_TTL
from airflow_provider_manxue._core.connection import missing_connection
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueConnectionNotFoundError,
    ManxueTransientError,
)
from tests.support.simulated_service import PROCESSING, FakeService, loop_time
from tests.support.virtual_time import run


@pytest.fixture
def service(monkeypatch):
    service = FakeService()
    service.install(monkeypatch)
    return service


def test_granted_request_is_sent_without_a_suspension(service):
    """Otherwise a pause could begin between the grant of the rate limiter and the request."""

    async def main():
        async with shared_client() as client:
            await client.limiter("c")
            poll = client.query("c", "v")
            poll.send(None)
            sent = len(service.requests)
            poll.close()
            return sent

    assert run(main()) == 1


def test_request_carries_the_key_of_its_connection(service):
    service.connect("d", "https://two.example.com", "key-of-d")

    async def main():
        async with shared_client() as client:
            await asyncio.gather(*(client.query("cd"[n % 2], f"v{n}") for n in range(200)))

    run(main())
    assert {request[1:] for request in service.requests} == {
        ("https://one.example.com", "key"),
        ("https://two.example.com", "key-of-d"),
    }


def test_limiter_uses_the_limits_of_its_connection(service):
    service.connect("c", requests_per_second=3, max_connections=2)

    async def main():
        async with shared_client() as client:
            limiter = await client.limiter("c")
            return limiter.rate, limiter.max_concurrency, limiter is await client.limiter("c")

    assert run(main()) == (3, 2, True)


def test_limiter_of_a_missing_connection_raises(service):
    service.connections["c"] = missing_connection("c")

    async def main():
        async with shared_client() as client:
            await client.limiter("c")

    with pytest.raises(ManxueConnectionNotFoundError):
        run(main())


@pytest.mark.parametrize(
    ("raised", "error", "words"),
    [
        (aiohttp.InvalidURL("http://x"), ManxueConfigurationError, "field 'host'"),
        (UnicodeError("label empty or too long"), ManxueConfigurationError, "field 'host'"),
        (ValueError("port out of range"), ManxueConfigurationError, "field 'host'"),
        (aiohttp.ServerDisconnectedError(), ManxueTransientError, "no response from one.example.com"),
        (TimeoutError(), ManxueTransientError, "timed out"),
        (OSError(24, "Too many open files"), ManxueTransientError, "too many open files"),
    ],
)
def test_library_error_becomes_a_typed_error(service, raised, error, words):
    def respond(url, key):
        raise raised

    service.respond = respond

    async def main():
        async with shared_client() as client:
            await client.query("c", "v")

    with pytest.raises(error, match=words) as caught:
        run(main())
    assert caught.value.__suppress_context__


def test_internal_error_is_raised_unchanged(service):
    """The caller decides what an internal error means for its wait."""

    def respond(url, key):
        raise KeyError("a bug")

    service.respond = respond

    async def main():
        async with shared_client() as client:
            await client.query("c", "v")

    with pytest.raises(KeyError):
        run(main())


def test_edited_connection_is_not_polled_during_a_pause(service):
    """The second request after a 401 is not granted by the rate limiter, which another response has paused."""
    service.respond = lambda url, key: (401, {}) if key == "key" else (200, PROCESSING)

    async def main():
        async with shared_client() as client:
            limiter = await client.limiter("c")
            service.connect("c", key="new-key")
            limiter.on_throttled(loop_time(), 3.0)
            with pytest.raises(ManxueTransientError, match="was edited while") as caught:
                await client.query("c", "v")
            assert 2 < caught.value.retry_after < 3
            await asyncio.sleep(caught.value.retry_after)
            await client.query("c", "v")

    run(main())
    assert [key for *_, key in service.requests] == ["key", "new-key"]


def test_edited_connection_that_was_refused_meanwhile_is_not_polled(service):
    """Nobody has requested a pause. The hold after a 401 is none of the service."""
    service.respond = lambda url, key: (401, {})

    async def main():
        async with shared_client() as client:
            await client.limiter("c")
            service.connect("c", key="also-wrong")
            service.request_takes = 2.0
            late = asyncio.create_task(client.query("c", "b"))
            await asyncio.sleep(0.001)
            service.request_takes = 0.05
            for query in (client.query("c", "a"), late):
                with pytest.raises(ManxueAuthenticationError):
                    await query

    run(main())
    assert [key for *_, key in service.requests] == ["key", "key", "also-wrong"]


class TestPrepare:
    """Preparation for the first request, which takes seconds in a triggerer that has just started."""

    def test_preparation_runs_in_the_background(self, service):
        async def main():
            async with shared_client() as client:
                client.prepare("c")
                await asyncio.sleep(5)
                await client.query("c", "v")

        run(main())
        assert service.look_ups == [(0, "c")]
        assert service.sessions[0].opened_at < 1
        assert [at for at, *_ in service.requests] == [5]

    def test_preparation_runs_once_per_connection(self, service):
        service.connect("other", "https://two.example.com", "other-key")

        async def main():
            async with shared_client() as client:
                for conn_id in ["c", "c", "other", "c"]:
                    client.prepare(conn_id)
                    await asyncio.sleep(CONNECTION_TTL)

        run(main())
        assert [conn_id for _, conn_id in service.look_ups] == ["c", "other"]

    def test_failure_is_raised_by_the_request(self, service):
        service.connections["c"] = ManxueConfigurationError("no such field")

        async def main():
            async with shared_client() as client:
                client.prepare("c")
                await asyncio.sleep(1)
                await client.query("c", "v")

        with pytest.raises(ManxueConfigurationError, match="no such field"):
            run(main())
        assert len(service.look_ups) == 1

    def test_preparation_leaves_nothing_open(self, service):
        service.look_up_takes = 0

        async def main(turns):
            async with shared_client() as client:
                client.prepare("c")
                for _ in range(turns):
                    await asyncio.sleep(0)
            await asyncio.sleep(1)
            return asyncio.all_tasks() - {asyncio.current_task()}

        left = [run(main(turns)) for turns in range(16)]
        assert service.sessions
        assert all(session.closed_at is not None for session in service.sessions)
        assert not any(left)


class TestSharedClient:
    def test_shared_client_survives_the_end_of_one_wait(self, service):
        async def main():
            async with shared_client() as outer:
                async with shared_client() as inner:
                    pass
                return outer is inner, (await outer.query("c", "v")).id

        assert run(main()) == (True, "v")

    def test_shared_client_leaves_nothing_open(self, service):
        async def wait(client, number):
            try:
                async with shared_client() as client:
                    while loop_time() < 50:
                        await client.query("c", f"v{number}")
                        await asyncio.sleep(number % 7 + 1)
            finally:
                await asyncio.sleep(0)

        async def main():
            tasks = [asyncio.create_task(wait(None, number)) for number in range(1000)]
            await asyncio.sleep(35)
            for task in tasks[::4]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(1)
            return asyncio.all_tasks() - {asyncio.current_task()}, dict(async_client._clients)

        assert run(main()) == (set(), {})
        assert all(session.closed_at is not None for session in service.sessions)

    def test_each_loop_has_its_own_client(self, service):
        async def mine():
            async with shared_client() as client:
                await client.query("c", "v")
                return client

        assert run(mine()) is not run(mine())
