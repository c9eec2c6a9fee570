"""
The async client of all waits of an event loop.

This module imports nothing heavy, since the triggerer imports triggers on its event loop. The HTTP library is
imported, and certificates are loaded, in a thread when the first wait needs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._client.airflow_metrics import LoopMetrics, triggerer_stats
from airflow_provider_manxue._client.background import cancel_and_wait, spawn_background
from airflow_provider_manxue._client.connection_cache import ConnectionCache
from airflow_provider_manxue._client.connection_loader import load_connection
from airflow_provider_manxue._client.credentials import CredentialProbes
from airflow_provider_manxue._client.endpoint import Endpoint, Session
from airflow_provider_manxue._client.network import (
    JSON_BODY,
    MAX_HEADER_LINE,
    MAX_HEADERS,
    append_bounded,
    no_service_response,
    proxy_for,
    request_headers,
    session_key,
    ssl_context,
    unusable_address,
)
from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
from airflow_provider_manxue._core.content_coding import decode_body
from airflow_provider_manxue._core.responses import MAX_BODY
from airflow_provider_manxue._core.subjects import VIDEO, Polled, Subject
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueTransientError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp import ClientResponse

    from airflow_provider_manxue.models import ManxueSettings

KEEP_ALIVE = 75.0
"""Seconds for which an idle connection to the service stays open: longer than the usual interval between polls."""


class Throttle:
    """
    The rate limiter of a connection, and the state of its credentials.

    It outlives the client, which is closed after its last wait, so that the next wait respects a pause.

    :param settings: the settings of the connection.
    :param name: id of the connection, for the log.
    """

    def __init__(self, settings: ManxueSettings, name: str) -> None:
        self._settings = settings
        self.limiter = AdaptiveRateLimiter(settings.requests_per_second, settings.max_connections, name=name)
        self.credentials = CredentialProbes(self.limiter)

    def apply(self, settings: ManxueSettings) -> None:
        """Apply the settings of an edited connection. Clears a refusal of the previous settings."""
        self.limiter.configure(settings.requests_per_second, settings.max_connections)
        if settings != self._settings:
            self._settings = settings
            self.credentials.accepted()


_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = weakref.WeakKeyDictionary()
_throttles: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Throttle]] = (
    weakref.WeakKeyDictionary()
)


@contextlib.asynccontextmanager
async def shared_client() -> AsyncIterator[AsyncClient]:
    """Yield the client of this event loop. It is created for the first user and closed after the last."""
    loop = asyncio.get_running_loop()
    client = _clients.setdefault(loop, AsyncClient(load_connection, _throttles.setdefault(loop, {})))
    client.users += 1
    try:
        yield client
    finally:
        client.users -= 1
        if not client.users:
            del _clients[loop]
            # The last wait may end by cancellation. Its sockets must be closed in that case, too.
            await asyncio.shield(spawn_background(client.close()))


class AsyncClient:
    """
    Client that polls the service for many waits, over few connections.

    It sends each request at once. The caller acquires the connection's rate limiter before, and reports the outcome to it.

    :param load_connection: reads an Airflow connection by its id.
    :param throttles: throttles of earlier clients, by connection id; None for none.
    :param metrics: the metrics of its waits; None for those of a triggerer.
    """

    def __init__(
        self,
        load_connection: Callable[[str], Awaitable[ManxueSettings]],
        throttles: dict[str, Throttle] | None = None,
        metrics: LoopMetrics | None = None,
    ) -> None:
        self.users = 0
        self.metrics = metrics or LoopMetrics(triggerer_stats, has_gauges=True)
        self._cache = ConnectionCache(load_connection, _open_endpoint, self._apply_settings)
        self._throttles = {} if throttles is None else throttles
        self._import: asyncio.Task[Any] | None = None

    def prepare(self, conn_id: str) -> None:
        """
        Import the HTTP library and load a connection, in the background.

        This takes seconds in a triggerer that has just started. A failure is raised at the first request.
        """
        if self._import is None:
            self._import = spawn_background(_import_http_library())
        self._cache.prepare(conn_id)

    async def limiter(self, conn_id: str) -> AdaptiveRateLimiter:
        """
        Return the rate limiter of a connection, with the connection's limits.

        The same instance serves the event loop until it closes. An edit of the limits changes it in place.

        :raises ManxueConfigurationError: if the connection is missing or cannot be used, and has not worked before.
        :raises ManxueTransientError: if the connection could not be loaded just now, or the session could not be opened.
        """
        await self._cache.get(conn_id)
        return self._throttles[conn_id].limiter

    def _apply_settings(self, conn_id: str, endpoint: Endpoint) -> None:
        if conn_id in self._throttles:
            self._throttles[conn_id].apply(endpoint.settings)
        else:
            self._throttles[conn_id] = Throttle(endpoint.settings, conn_id)
        self.metrics.limiters[conn_id] = self._throttles[conn_id].limiter

    def has_worked(self, conn_id: str) -> bool:
        """Return whether a response was parsed as a task over this connection, with its present settings."""
        endpoint = self._cache.peek(conn_id)
        return endpoint is not None and endpoint.has_worked

    async def query(self, conn_id: str, item_id: str, subject: Subject = VIDEO) -> Polled:
        """
        Request the state of a video task, or of an asset, once.

        After a 401 the Airflow connection is read again. If it was edited, a second request uses the new settings.

        :raises ManxueError: of the kind that fits, if the response does not describe it.
        """
        # With an endpoint, nothing is awaited between the grant of the rate limiter and the request.
        endpoint = self._cache.current(conn_id) or await self._cache.get(conn_id)
        credentials = self._throttles[conn_id].credentials
        credentials.check()
        try:
            state = await self._query(endpoint, item_id, subject)
        except ManxueAuthenticationError as error:
            edited = await self._cache.after_refusal(conn_id, endpoint)
            if edited is None:
                raise credentials.refused(error) from None
            try:
                state = await self._query(edited, item_id, subject)
            except ManxueAuthenticationError as second:
                raise credentials.refused(second) from None
        credentials.accepted()
        return state

    async def _query(self, endpoint: Endpoint, item_id: str, subject: Subject) -> Polled:
        import aiohttp
        from yarl import URL

        settings, session = endpoint.settings, endpoint.session
        query = subject.query(settings.base_url, item_id)
        session.in_flight += 1
        try:
            response = await session.client.request(
                query.method,
                URL(query.url, encoded=True),
                data=query.body,
                headers=endpoint.headers if query.body is None else {**endpoint.headers, **JSON_BODY},
                allow_redirects=False,
                proxy=endpoint.proxy,
                timeout=endpoint.timeout,
            )
            try:
                body = await _read_body(response)
            finally:
                response.release()
        # The library's own errors hold the whole request, so the cause is not chained.
        except aiohttp.InvalidURL:
            raise unusable_address(settings) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise no_service_response(settings, error) from None
        except ValueError:  # also a UnicodeError: a host name that cannot be encoded
            raise unusable_address(settings) from None
        finally:
            session.in_flight -= 1
            if session.retired:
                session.close_if_unused()
        state = subject.parse(
            response.status,
            body,
            item_id,
            retry_after=() if response.status == 200 else response.headers.getall("Retry-After", []),
            now=time.time(),
            secret=settings.api_key,
        )
        endpoint.has_worked = True
        endpoint.key_refused = False
        return state

    async def close(self) -> None:
        """Cancel background tasks, and close all connections to the service."""
        await cancel_and_wait([] if self._import is None else [self._import])
        await self._cache.close()


async def _import_http_library() -> Any:
    """Import aiohttp in a thread. Importing the package before any of its modules cannot race another thread."""
    try:
        return await asyncio.to_thread(importlib.import_module, "aiohttp")
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: no thread could be started
        raise _set_up_error(error) from None


async def _open_endpoint(settings: ManxueSettings, present: Endpoint | None) -> Endpoint:
    """Create the endpoint for settings. Uses the present session if its key is the same."""
    aiohttp = await _import_http_library()
    key = await asyncio.to_thread(session_key, settings)
    session = present.session if present is not None and present.session.key == key else None
    if present is not None and session is not None and present.settings == settings:
        return present
    from multidict import CIMultiDict
    from yarl import URL

    proxy = proxy_for(settings)
    try:
        endpoint = Endpoint(
            settings=settings,
            session=session or await _open_session(aiohttp, settings, key),
            headers=CIMultiDict(Authorization=f"Bearer {settings.api_key}"),
            proxy=URL(proxy) if proxy else None,
            timeout=aiohttp.ClientTimeout(total=settings.request_timeout),
        )
    except (OSError, RuntimeError) as error:
        raise _set_up_error(error) from None
    except ValueError:
        raise unusable_address(settings) from None
    if present is not None and present.settings == settings:
        endpoint.has_worked, endpoint.key_refused = present.has_worked, present.key_refused
    return endpoint


async def _open_session(aiohttp: Any, settings: ManxueSettings, key: tuple[object, ...]) -> Session:
    context = await asyncio.to_thread(ssl_context, settings)
    # No limit here: the rate limiter bounds the number of connections.
    client = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=KEEP_ALIVE),
        headers=request_headers(),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        max_line_size=MAX_HEADER_LINE,
        max_field_size=MAX_HEADER_LINE,
        max_headers=MAX_HEADERS,
    )
    return Session(client, key)


def _set_up_error(error: Exception) -> ManxueTransientError:
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number).lower() if number else type(error).__name__
    return ManxueTransientError(f"The HTTP client could not be set up: {reason}")


async def _read_body(response: ClientResponse) -> bytes:
    """Read a body up to ``MAX_BODY``, and decode it if it is compressed in spite of the request."""
    body = bytearray()
    while chunk := await response.content.readany():
        append_bounded(body, chunk, response.status)
    codings = response.headers.getall("Content-Encoding", None)
    return decode_body(bytes(body), ",".join(codings), MAX_BODY) if codings else bytes(body)
