"""
The async client of all waits of an event loop.

This module imports nothing heavy, since the triggerer imports triggers on its event loop. The HTTP library is
imported, and certificates are loaded, in a thread when the first wait needs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
import weakref
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._client.airflow_metrics import LoopMetrics, triggerer_stats
from airflow_provider_manxue._client.background import cancel_and_wait, spawn_background
from airflow_provider_manxue._client.connection_cache import ConnectionCache
from airflow_provider_manxue._client.connection_loader import load_connection
from airflow_provider_manxue._client.credentials import CredentialProbes
from airflow_provider_manxue._client.network import set_up_error
from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
from airflow_provider_manxue._core.subjects import VIDEO, Polled, Subject
from airflow_provider_manxue.exceptions import ManxueAuthenticationError, ManxueTransientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from airflow_provider_manxue._client.endpoint import Endpoint
    from airflow_provider_manxue.models import ManxueSettings


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

    def check_pause(self) -> None:
        """
        Check whether a request may be sent that the rate limiter has not granted.

        :raises ManxueAuthenticationError: if the present settings were refused meanwhile.
        :raises ManxueTransientError: during a pause, with the rest of it.
        """
        self.credentials.check_accepted()
        rest = self.limiter.resumes_at - asyncio.get_running_loop().time()
        if rest > 0:
            raise ManxueTransientError("the connection was edited while the service requested a pause", rest)


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

        After a 401 the Airflow connection is read again. If it was edited, a second request uses the new settings, unless the
        service has requested a pause meanwhile.

        :raises ManxueError: of the kind that fits, if the response does not describe it.
        """
        # With an endpoint, nothing is awaited between the grant of the rate limiter and the request.
        endpoint = self._cache.current(conn_id) or await self._cache.get(conn_id)
        throttle = self._throttles[conn_id]
        credentials = throttle.credentials
        credentials.check()
        try:
            state = await self._query(endpoint, item_id, subject)
        except ManxueAuthenticationError as error:
            edited = await self._cache.after_refusal(conn_id, endpoint)
            if edited is None:
                raise credentials.refused(error) from None
            throttle.check_pause()
            try:
                state = await self._query(edited, item_id, subject)
            except ManxueAuthenticationError as second:
                raise credentials.refused(second) from None
        credentials.accepted()
        return state

    async def _query(self, endpoint: Endpoint, item_id: str, subject: Subject) -> Polled:
        settings = endpoint.settings
        response = await endpoint.send(subject.query(settings.base_url, item_id))
        state = subject.parse(
            response.status,
            response.body,
            item_id,
            retry_after=response.retry_after,
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
    """
    Import aiohttp in a thread, and return the module that uses it.

    Importing the package before any of its modules cannot race another thread.
    """
    try:
        return await asyncio.to_thread(importlib.import_module, "airflow_provider_manxue._client.endpoint")
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: no thread could be started
        raise set_up_error(error) from None


async def _open_endpoint(settings: ManxueSettings, present: Endpoint | None) -> Endpoint:
    library = await _import_http_library()
    endpoint: Endpoint = await library.open_endpoint(settings, present)
    return endpoint
