"""
The connection cache of the triggerer, in virtual time.

The reasons are in the docstring of ``_client/connection_cache.py``.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging

import pytest

from airflow_provider_manxue._client.async_client import shared_client
from airflow_provider_manxue._client.connection_cache import (
    CONNECTION_TTL,
    FAILED_LOOKUP_TTL,
    GRACE_TIME,
    LOOKUP_TIMEOUT,
)
from airflow_provider_manxue._core.connection import missing_connection
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueConnectionNotFoundError,
    ManxueTransientError,
)
from tests.support.simulated_service import PROCESSING, START, FakeService, loop_time, task_log
from tests.support.virtual_time import run

OUTAGE = ManxueTransientError("Airflow is unavailable")


@pytest.fixture
def service(monkeypatch):
    service = FakeService()
    service.install(monkeypatch)
    return service


async def poll_until(client, moment, conn_id="c", interval=1.0):
    """Poll until a moment; return the errors with the times at which they were raised."""
    errors = []
    while loop_time() < moment:
        try:
            await client.query(conn_id, "v")
        except (ManxueConfigurationError, ManxueTransientError, ManxueAuthenticationError) as error:
            errors.append((loop_time(), error))
        await asyncio.sleep(interval)
    return errors


def polling(moment, act=None, act_at=0.0, **options):
    """Poll over one client in virtual time, and call ``act`` at a moment."""

    async def main():
        async with shared_client() as client:
            if act is not None:
                asyncio.get_running_loop().call_later(act_at, act)
            return await poll_until(client, moment, **options)

    return run(main())


class TestEdit:
    def test_edit_takes_effect_within_the_cache_ttl(self, service):
        def edit():
            service.connect("c", "https://two.example.com", "new-key")

        assert polling(200, edit, 100) == []
        old = [at for at, _, key in service.requests if key == "key"]
        new = [(at, host) for at, host, key in service.requests if key == "new-key"]
        assert max(old) < min(new)[0] <= 100 + CONNECTION_TTL
        assert {host for _, host in new} == {"https://two.example.com"}

    def test_edit_updates_the_limiter_in_place(self, service):
        async def main():
            async with shared_client() as client:
                before = await client.limiter("c")
                service.connect("c", requests_per_second=3, max_connections=2)
                await poll_until(client, CONNECTION_TTL)
                return before is await client.limiter("c"), before.rate

        assert run(main()) == (True, 3)

    def test_edit_is_logged_without_values(self, service, caplog):
        def edit():
            service.connect(
                "c", "https://two.example.com", "new-key", proxy="http://u:hidden@p:1", max_connections=3
            )

        with caplog.at_level(logging.INFO):
            polling(100, edit, 10)
        [line] = [record.getMessage() for record in caplog.records if "edited" in record.getMessage()]
        assert line == "Connection 'c' was edited: base URL, API key, limits, proxy."

    def test_edit_resets_has_worked(self, service):
        """The new settings have not worked yet, so an error of theirs has no grace period."""

        async def main():
            async with shared_client() as client:
                seen = [client.has_worked("c")]
                await client.query("c", "v")
                seen.append(client.has_worked("c"))
                await poll_until(client, CONNECTION_TTL)
                seen.append(client.has_worked("c"))
                service.connect("c", key="new-key")
                service.respond = lambda url, key: (500, {})
                await poll_until(client, 2 * CONNECTION_TTL)
                return [*seen, client.has_worked("c")]

        assert run(main()) == [False, True, True, False]


class TestLookup:
    def test_lookup_runs_once_per_half_ttl(self, service):
        polling(300)
        assert len(service.look_ups) == 300 / (CONNECTION_TTL / 2)

    def test_lookup_is_awaited_after_the_ttl(self, service):
        """No request has refreshed the entry in the meantime."""

        async def main():
            async with shared_client() as client:
                await client.limiter("c")
                service.connect("c", key="new-key")
                await asyncio.sleep(CONNECTION_TTL)
                await client.limiter("c")
                await client.query("c", "v")

        run(main())
        assert [key for _, _, key in service.requests] == ["new-key"]

    def test_hanging_refresh_delays_no_request(self, service):
        """An outage of Airflow's API server must not stop polls, whose settings are known."""

        def hang():
            service.look_up_takes = 1e9

        assert polling(200, hang, 10, interval=0.95) == []
        pauses = [b[0] - a[0] for a, b in itertools.pairwise(service.requests)]
        assert max(pauses) < 1.01
        starts = [at for at, _ in service.look_ups[1:]]
        assert min(b - a for a, b in itertools.pairwise(starts)) > LOOKUP_TIMEOUT + FAILED_LOOKUP_TTL - 0.01

    def test_hanging_first_lookup_is_transient(self, service):
        service.look_up_takes = 1e9
        (at, error), *_ = polling(LOOKUP_TIMEOUT + 1)
        assert at == LOOKUP_TIMEOUT
        assert str(error) == "Airflow did not return the connection 'c' within 10 s"

    def test_lookup_survives_the_wait_that_started_it(self, service):
        """Other waits await the same look-up, so the end of the first wait must not cancel it."""
        service.look_up_takes = 5

        async def main():
            async with shared_client() as client:
                first = asyncio.create_task(client.query("c", "v"))
                await asyncio.sleep(1)
                second = asyncio.create_task(client.query("c", "v"))
                await asyncio.sleep(1)
                first.cancel()
                return await second

        assert run(main()).id == "v"
        assert len(service.look_ups) == 1

    def test_lookup_runs_without_the_log_context_of_a_task(self, service):
        """The look-up serves all waits, so its log lines belong to no single task."""

        async def main():
            task_log.set("the log of one task")
            async with shared_client() as client:
                await poll_until(client, 100)

        run(main())
        assert set(service.contexts) == {None}

    def test_failure_is_cached_for_all_requests(self, service):
        """A hundred waits must not look up a failing connection a hundred times."""
        service.connections["c"] = OUTAGE

        async def main():
            async with shared_client() as client:
                polls = (client.query("c", "v") for _ in range(100))
                results = await asyncio.gather(*polls, return_exceptions=True)
                service.connect("c")
                await asyncio.sleep(FAILED_LOOKUP_TTL)
                return results, await client.query("c", "v")

        results, later = run(main())
        assert {type(result) for result in results} == {ManxueTransientError}
        assert later.id == "v"
        assert len(service.look_ups) == 2

    def test_missing_connection_raises_with_its_start(self, service):
        service.connections["c"] = missing_connection("c")
        errors = polling(20)
        assert {type(error) for _, error in errors} == {ManxueConnectionNotFoundError}
        assert {error.since for _, error in errors} == {START + service.look_up_takes}

    def test_internal_error_is_raised(self, service):
        service.connections["c"] = KeyError("a bug")
        with pytest.raises(KeyError):
            polling(1)


class TestFailedRefresh:
    def test_transient_error_is_never_raised(self, service, caplog):
        """The cached settings are used for as long as Airflow is unavailable."""

        def fail():
            service.connections["c"] = OUTAGE

        assert polling(2 * GRACE_TIME, fail, 10) == []
        logged = [record for record in caplog.records if "could not be refreshed" in record.getMessage()]
        assert len(logged) == 1

    def test_log_has_one_full_stop_after_the_error(self, service, caplog):
        def fail():
            service.connections["c"] = ManxueTransientError("Airflow is away.")

        polling(2 * GRACE_TIME, fail, 10)
        assert "could not be refreshed: Airflow is away. Its last settings stay in use." in caplog.text

    @pytest.mark.parametrize(
        "error", [missing_connection("c"), ManxueConfigurationError("field"), ManxueConfigurationError("CA")]
    )
    def test_configuration_error_is_raised_after_grace(self, service, error):
        def fail():
            service.connections["c"] = error

        errors = polling(2 * GRACE_TIME, fail, 10)
        began = next(at for at, _ in service.look_ups if at >= 10) + service.look_up_takes
        assert errors[0][0] == pytest.approx(began + GRACE_TIME, abs=1.1)
        assert {raised for _, raised in errors} == {error}
        assert error.since == pytest.approx(START + began)

    def test_repair_within_the_grace_period_is_silent(self, service):
        def fail():
            service.connections["c"] = missing_connection("c")
            asyncio.get_running_loop().call_later(GRACE_TIME / 2, service.connect, "c")

        assert polling(3 * GRACE_TIME, fail, 10) == []

    def test_repair_after_the_grace_period_ends_errors(self, service):
        def fail():
            service.connections["c"] = missing_connection("c")
            asyncio.get_running_loop().call_later(2 * GRACE_TIME, service.connect, "c")

        errors = polling(4 * GRACE_TIME, fail, 10)
        assert errors
        assert errors[-1][0] < 10 + 2 * GRACE_TIME + FAILED_LOOKUP_TTL + 1

    def test_repair_without_requests_raises_nothing(self, service):
        async def main():
            async with shared_client() as client:
                await client.limiter("c")
                service.connections["c"] = missing_connection("c")
                await poll_until(client, CONNECTION_TTL)
                service.connect("c")
                await asyncio.sleep(2 * GRACE_TIME)
                await client.limiter("c")
                return await client.query("c", "v")

        assert run(main()).id == "v"


class TestSession:
    """The HTTP session of a connection. A new one costs TLS handshakes, so it is opened only for new settings."""

    def test_failed_opening_is_retried(self, service):
        """The lack of file descriptors passes, so it ends no wait."""
        service.open_error = OSError(errno.EMFILE, "Too many open files")

        def mend():
            service.open_error = None

        errors = polling(30, mend, 1)
        assert {str(error) for _, error in errors} == {
            "The HTTP client could not be set up: too many open files"
        }
        assert errors[-1][0] <= FAILED_LOOKUP_TTL
        assert service.requests

    def test_replaced_ca_file_opens_a_new_session(self, service):
        """A session trusts the certificates that it was opened with."""

        def replace():
            service.ca_version = 2

        assert polling(100, replace, 10) == []
        old, new = service.sessions
        assert 10 < new.opened_at <= 10 + CONNECTION_TTL / 2
        assert old.closed_at == pytest.approx(new.opened_at, abs=0.1)

    def test_session_survives_an_edit_of_the_key(self, service):
        """Each request carries the key, so the session and its open connections remain usable."""
        polling(100, lambda: service.connect("c", key="new-key"), 10)
        assert len(service.sessions) == 1

    def test_replaced_session_closes_after_its_last_request(self, service):
        """The slow request begins at 29 s and takes 50 s. The new session is opened in the meantime."""

        async def main():
            async with shared_client() as client:
                await client.query("c", "v")
                service.ca_version = 2
                service.request_takes = 50
                await asyncio.sleep(29)
                slow = asyncio.create_task(client.query("c", "v"))
                await asyncio.sleep(2)
                service.request_takes = 0.05
                await poll_until(client, 60)
                before = service.sessions[0].closed_at
                await slow
                await asyncio.sleep(1)
                return before, service.sessions[0].closed_at

        before, after = run(main())
        assert before is None
        assert after == pytest.approx(79, abs=0.1)

    def test_all_sessions_are_closed_at_the_end(self, service):
        polling(100, lambda: setattr(service, "ca_version", 2), 10)
        assert all(session.closed_at is not None for session in service.sessions)


class TestRefusedKey:
    """
    The connection is looked up again after a 401, since its key may have been edited while the entry was cached.

    A request is then sent again with the new settings, so that a rotation of the key is no error.
    """

    @pytest.fixture
    def revoked(self, service):
        """The service, which accepts only another key from 100 s on."""
        service.respond = lambda url, key: (
            (200, PROCESSING) if (key == "new-key") == (loop_time() >= 100) else (401, {})
        )
        return service

    def test_request_retries_with_an_edited_key(self, revoked):
        assert polling(200, lambda: revoked.connect("c", key="new-key"), 100) == []

    def test_request_retries_with_an_edited_host(self, service):
        service.respond = lambda url, key: (
            (200, PROCESSING) if "two" in url or loop_time() < 100 else (401, {})
        )
        assert polling(200, lambda: service.connect("c", "https://two.example.com"), 100) == []

    def test_thousand_refusals_cause_one_lookup(self, service):
        """A thousand look-ups at a time would overload Airflow's API server. The other look-up is the first one."""
        service.respond = lambda url, key: (401, {})

        async def main():
            async with shared_client() as client:
                polls = (client.query("c", "v") for _ in range(1000))
                return await asyncio.gather(*polls, return_exceptions=True)

        assert {type(error) for error in run(main())} == {ManxueAuthenticationError}
        assert len(service.look_ups) == 2

    def test_refusal_is_raised_while_airflow_is_unavailable(self, revoked):
        """The refusal, not the failed look-up, names the cause."""

        def fail():
            revoked.connections["c"] = OUTAGE

        errors = polling(110, fail, 100)
        assert {type(error) for _, error in errors} == {ManxueAuthenticationError}

    def test_refresh_runs_without_a_request(self, revoked):
        """The rate limiter holds back requests after a refusal. New settings end that."""

        async def main():
            async with shared_client() as client:
                limiter = await client.limiter("c")
                await poll_until(client, 99)
                await asyncio.sleep(1)
                with pytest.raises(ManxueAuthenticationError):
                    await client.query("c", "v")
                revoked.connect("c", key="new-key", requests_per_second=7)
                await asyncio.sleep(CONNECTION_TTL)
                return limiter.rate

        assert run(main()) == 7

    def test_other_connections_are_unaffected(self, service):
        service.connect("other", "https://two.example.com", "other-key")
        service.respond = lambda url, key: (401, {}) if key == "key" else (200, PROCESSING)

        async def main():
            async with shared_client() as client:
                await client.query("other", "v")
                with pytest.raises(ManxueAuthenticationError):
                    await client.query("c", "v")
                await client.query("other", "v")

        run(main())
        assert [conn_id for _, conn_id in service.look_ups] == ["other", "c", "c"]
