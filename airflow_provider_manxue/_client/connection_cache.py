"""
The connection cache: Airflow connections and the sessions for them, refreshed in the background.

An entry is an :class:`Endpoint`: the settings of a connection together with a session that was set up from them. Both are
replaced together, so that sending a request never waits for Airflow, for TLS or for a file.

A request that finds its entry older than half of ``CONNECTION_TTL`` starts a look-up, and uses the entry as it is. The
look-up is bounded in time, reads the connection, and opens another session only if the files or fields that a session is
set up from have changed. If it fails, the entry stays in use: without limit if Airflow could not load the connection, for
``GRACE_TIME`` if the connection does not exist or cannot be used. Only a connection without any entry fails at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_manxue._client.background import cancel_and_wait, spawn_background
from airflow_provider_manxue._core.polling import GRACE_TIME
from airflow_provider_manxue.exceptions import ManxueConfigurationError, ManxueError, ManxueTransientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from airflow_provider_manxue._client.endpoint import Endpoint, Session
    from airflow_provider_manxue.models import ManxueSettings

CONNECTION_TTL = 60.0
"""Seconds within which an edit of a connection reaches its waits. Entries are refreshed at half of it."""

LOOKUP_TIMEOUT = 10.0
"""Seconds that Airflow may take to return a connection."""

FAILED_LOOKUP_TTL = 5.0
"""Seconds before a look-up that failed, or that followed a refused key, is repeated."""

_FIELD_NAMES = {
    "base_url": "base URL",
    "api_key": "API key",
    "request_timeout": "request timeout",
    "requests_per_second": "limits",
    "max_connections": "limits",
    "verify": "verify",
    "ca_bundle": "CA bundle",
    "proxy": "proxy",
}

log = logging.getLogger(__name__)


class ConnectionCache:
    """
    Cache of an endpoint for each Airflow connection in use.

    :param load_connection: reads an Airflow connection by its id.
    :param open_endpoint: makes the endpoint for settings, given the present one. It returns the present one if nothing
        has changed.
    :param on_change: called with the id of a connection and its new endpoint, when that takes effect.
    """

    def __init__(
        self,
        load_connection: Callable[[str], Awaitable[ManxueSettings]],
        open_endpoint: Callable[[ManxueSettings, Endpoint | None], Awaitable[Endpoint]],
        on_change: Callable[[str, Endpoint], None],
    ) -> None:
        self._load_connection = load_connection
        self._open_endpoint = open_endpoint
        self._on_change = on_change
        self._connections: dict[str, _CachedConnection] = {}
        self._retired: set[Session] = set()

    def _connection(self, conn_id: str) -> _CachedConnection:
        connection = self._connections.get(conn_id)
        if connection is None:
            connection = self._connections[conn_id] = _CachedConnection(conn_id, self._look_up)
        return connection

    def prepare(self, conn_id: str) -> None:
        """Start the first look-up of a connection. A failure is raised at the first request."""
        connection = self._connection(conn_id)
        if connection.endpoint is None:
            connection.refresh_if_due()

    def current(self, conn_id: str) -> Endpoint | None:
        """
        Return the endpoint without waiting; None if there is none yet. Starts a refresh that is due.

        :raises ManxueConfigurationError: if the connection has not been usable for ``GRACE_TIME``.
        """
        return self._connection(conn_id).current()

    def peek(self, conn_id: str) -> Endpoint | None:
        """Return the endpoint, if there is one. Starts nothing."""
        connection = self._connections.get(conn_id)
        return None if connection is None else connection.endpoint

    async def get(self, conn_id: str) -> Endpoint:
        """
        Return the endpoint. Waits for a look-up if there is none yet, or if it was not used for ``CONNECTION_TTL``.

        :raises ManxueConfigurationError: if the connection is missing or cannot be used.
        :raises ManxueTransientError: if the connection could not be loaded just now, or the session could not be opened.
        """
        return await self._connection(conn_id).get()

    async def after_refusal(self, conn_id: str, refused: Endpoint) -> Endpoint | None:
        """
        Return an endpoint with other settings than the refused ones; None if there is none.

        Reads the connection at most once per ``FAILED_LOOKUP_TTL``, since many requests may be refused at the same time.
        Until the settings change, the connection is read again every half of ``CONNECTION_TTL``.

        :param refused: the endpoint whose request was refused.
        """
        return await self._connection(conn_id).after_refusal(refused)

    async def close(self) -> None:
        """Cancel all look-ups and close all sessions."""
        connections = list(self._connections.values())
        self._connections.clear()
        await cancel_and_wait([task for connection in connections for task in connection.stop()])
        sessions = {connection.endpoint.session for connection in connections if connection.endpoint}
        for session in sessions | self._retired:
            await session.close()

    async def _look_up(self, connection: _CachedConnection) -> None:
        started_at = asyncio.get_running_loop().time()
        present = connection.endpoint
        try:
            settings = await self._load(connection.conn_id)
            endpoint = await self._open_endpoint(settings, present)
        except Exception as error:  # noqa: BLE001 - raised at the next request, or logged
            connection.failed(error)
            return
        connection.succeeded(endpoint, started_at)
        if endpoint is not present:
            self._on_change(connection.conn_id, endpoint)
        if present is not None and present.session is not endpoint.session:
            self._retired = {session for session in self._retired if not session.is_closed}
            self._retired.add(present.session)
            present.session.retire()

    async def _load(self, conn_id: str) -> ManxueSettings:
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT):
                return await self._load_connection(conn_id)
        except TimeoutError:
            raise ManxueTransientError(
                f"Airflow did not return the connection {conn_id!r} within {LOOKUP_TIMEOUT:g} s"
            ) from None


class _CachedConnection:
    """One connection of the cache: its endpoint, its look-up, and the time since look-ups fail."""

    def __init__(self, conn_id: str, look_up: Callable[[_CachedConnection], Any]) -> None:
        self.conn_id = conn_id
        self.endpoint: Endpoint | None = None
        self._start = look_up
        self._look_up: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loaded_at = self._refusal_checked_at = self._refresh_at = -math.inf
        self._grace_ends = math.inf
        self._error: Exception | None = None
        # Start of the present series of failures, in seconds since the epoch.
        self._failing_since: float | None = None
        self._unusable_since: float | None = None
        self._unusable_from = math.inf  # the same by the loop's clock

    def refresh_if_due(self) -> float:
        """Start a look-up if one is due; return the loop's time."""
        now = asyncio.get_running_loop().time()
        if now >= self._refresh_at:
            self._refresh()
        return now

    def _refresh(self) -> None:
        if self._look_up is None:
            self._refresh_at = math.inf
            self._look_up = spawn_background(self._start(self))

    def current(self) -> Endpoint | None:
        if self.refresh_if_due() >= self._grace_ends:
            self._raise()
        return self.endpoint

    async def get(self) -> Endpoint:
        now = self.refresh_if_due()
        is_outdated = self._error is None and now - self._loaded_at >= CONNECTION_TTL
        if self.endpoint is None or is_outdated or now >= self._grace_ends:
            await self._wait_for_look_up()
        endpoint = self.current()
        if endpoint is None:
            self._raise()
        return endpoint

    async def _wait_for_look_up(self) -> None:
        if self._look_up is not None:
            # Shielded: the look-up serves other waits too, and outlives the wait that started it.
            await asyncio.shield(self._look_up)

    def _raise(self) -> NoReturn:
        error = self._error or ManxueTransientError(f"The connection {self.conn_id!r} is no longer in use")
        # Many waits raise the same instance: each would add its traceback.
        raise error.with_traceback(None)

    async def after_refusal(self, refused: Endpoint) -> Endpoint | None:
        if self.endpoint is not None and self.endpoint.settings == refused.settings:
            self.endpoint.key_refused = True
            now = asyncio.get_running_loop().time()
            if now - self._refusal_checked_at >= FAILED_LOOKUP_TTL:
                self._refusal_checked_at = now
                self._refresh()
            await self._wait_for_look_up()
        endpoint = self.endpoint
        return endpoint if endpoint is not None and endpoint.settings != refused.settings else None

    def succeeded(self, endpoint: Endpoint, started_at: float) -> None:
        """Store the endpoint of a look-up."""
        present, self.endpoint = self.endpoint, endpoint
        self._error = self._failing_since = self._unusable_since = None
        self._grace_ends = self._unusable_from = math.inf
        self._loaded_at = started_at
        self._finished(CONNECTION_TTL / 2)
        if present is not None and (changed := changed_fields(present.settings, endpoint.settings)):
            log.info("Connection %r was edited: %s.", self.conn_id, ", ".join(changed))

    def failed(self, error: Exception) -> None:
        """Store the error of a look-up for the next request."""
        now = time.time()
        self._failing_since = self._failing_since or now
        since = self._failing_since
        self._grace_ends = math.inf
        if isinstance(error, ManxueConfigurationError):
            since = self._unusable_since = self._unusable_since or now
            self._unusable_from = min(self._unusable_from, asyncio.get_running_loop().time())
            if self.endpoint is not None:
                self._grace_ends = self._unusable_from + GRACE_TIME
        if isinstance(error, ManxueError):
            error.since = since
        if self.endpoint is not None and self._error is None:
            log.warning(
                "Connection %r could not be refreshed: %s. Its last settings stay in use.",
                self.conn_id,
                str(error).removesuffix(".") if isinstance(error, ManxueError) else type(error).__name__,
            )
        self._error = error
        self._finished(FAILED_LOOKUP_TTL)

    def _finished(self, next_in: float) -> None:
        loop = asyncio.get_running_loop()
        self._look_up = None
        self._refresh_at = loop.time() + next_in
        if self.endpoint is not None and self.endpoint.key_refused:
            # After a 401 requests are held, so none of them would start the next look-up.
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_later(CONNECTION_TTL / 2, self._refresh_refused)

    def _refresh_refused(self) -> None:
        if self.endpoint is not None and self.endpoint.key_refused:
            self._refresh()

    def stop(self) -> list[asyncio.Task[None]]:
        """Stop refreshing; return the look-up to cancel, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
        return [] if self._look_up is None else [self._look_up]


def changed_fields(present: ManxueSettings, new: ManxueSettings) -> list[str]:
    """Return the names of the fields that differ, each once, without their values."""
    names = (name for name in _FIELD_NAMES if getattr(present, name) != getattr(new, name))
    return list(dict.fromkeys(_FIELD_NAMES[name] for name in names))
