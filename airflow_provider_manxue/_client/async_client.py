"""
The triggerer's side of the network: one transport per event loop, shared by all waits on it.

Nothing heavy is imported with this module, since the triggerer imports triggers on its event loop: the HTTP
library is imported, and certificates are loaded, in a thread when the first wait needs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import logging
import math
import os
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from airflow_provider_manxue._client.rate_limiter import Pace
from airflow_provider_manxue._core.connection import is_loopback, missing_connection, parse_connection
from airflow_provider_manxue._core.polling import MAX_RETRY_AFTER
from airflow_provider_manxue._core.responses import MAX_BODY, no_answer, parse_task, result_url, user_agent
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueRateLimitError,
    ManxueTransientError,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable

    from aiohttp import ClientResponse, ClientSession

    from airflow_provider_manxue.models import ManxueSettings, VideoTask

CONNECTION_TTL = 60.0
"""Seconds for which an Airflow connection that was read is used without reading it again."""

VAIN_LOOK_UP_TTL = 5.0
"""Seconds for which a look-up stands that failed or found the refused key again, so that a thousand waits do not
repeat it at once."""

TURNED_AWAY_TRIES = 10
"""How often a worker that reads many tasks asks for one of them, while the service says 429."""

TURNED_AWAY_PAUSE = 30.0
"""Seconds of a pause that a worker makes for it at most; a longer one is left to its caller."""

KEEP_ALIVE = 75.0
"""Seconds for which an idle connection to the service is kept: longer than the usual interval between polls."""

log = logging.getLogger(__name__)

T = TypeVar("T")


@contextlib.asynccontextmanager
async def shared_transport() -> AsyncIterator[Transport]:
    """Lend the transport of this event loop; it is made for the first user and closed after the last."""
    loop = asyncio.get_running_loop()
    transport = _transports.setdefault(loop, Transport(load_connection))
    transport.users += 1
    try:
        yield transport
    finally:
        transport.users -= 1
        if not transport.users:
            del _transports[loop]
            # The last wait may be leaving because it was cancelled; sockets are closed all the same.
            await asyncio.shield(_detached(transport.close()))


async def ask_for_all(
    read_settings: Callable[[], ManxueSettings], video_task_ids: Iterable[str], until: float | None = None
) -> dict[str, VideoTask | ManxueError]:
    """
    Ask for each of many tasks, from a worker, with the same manners as the triggerer.

    A worker does not know how fast the service lets itself be asked, and finds out by being turned away: whoever
    was is asked for again, at the pace that this has taught. A long pause is one for all, and left to the caller.

    :param read_settings: reads the connection; called in a thread.
    :param video_task_ids: ids of the tasks.
    :param until: when to give up those that have not been answered, in seconds since the epoch; None for never.
    """
    outcomes: dict[str, VideoTask | ManxueError] = {}
    of_the_others: ManxueError = ManxueTransientError("no answer before the deadline")

    async def read(conn_id: str) -> ManxueSettings:
        return await asyncio.to_thread(read_settings)

    async def ask(video_task_id: str) -> None:
        nonlocal of_the_others
        for _ in range(TURNED_AWAY_TRIES):
            try:
                outcomes[video_task_id] = await transport.get_video_task("", video_task_id, float("inf"))
                return
            except ManxueRateLimitError as error:
                outcomes[video_task_id] = error
                if (error.retry_after or 0.0) > TURNED_AWAY_PAUSE:
                    of_the_others = error
                    if not end.expired():
                        end.reschedule(min(end.when() or math.inf, loop.time() + TURNED_AWAY_PAUSE))
                    return
            except ManxueError as error:
                outcomes[video_task_id] = error
                return

    loop = asyncio.get_running_loop()
    transport = Transport(read)
    ids = list(video_task_ids)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if until is None else until - time.time()) as end:
                await asyncio.gather(*map(ask, ids))
    finally:
        await transport.close()
    return {video_task_id: outcomes.get(video_task_id, of_the_others) for video_task_id in ids}


class Transport:
    """
    Asks the service for many waits, over few connections.

    :param parse_connection: reads an Airflow connection by its id.
    """

    def __init__(self, parse_connection: Callable[[str], Coroutine[Any, Any, ManxueSettings]]) -> None:
        self.users = 0
        self._connections = ConnectionCache(parse_connection)
        self._paces: dict[str, Pace] = {}
        self._stretched: set[str] = set()
        self._sessions: dict[tuple[Any, ...], asyncio.Task[ClientSession]] = {}
        self._preparations: dict[str, asyncio.Task[None]] = {}

    def prepare(self, conn_id: str) -> None:
        """
        Begin with what the first request over a connection needs, while its wait does something else.

        In a triggerer that has just been started, that takes seconds. What fails is told at the request.

        :param conn_id: id of the Airflow connection.
        """
        if conn_id not in self._preparations:
            self._preparations[conn_id] = _detached(self._prepare(conn_id))

    async def _prepare(self, conn_id: str) -> None:
        settings, _ = await asyncio.gather(self._connections.get(conn_id), _import_http_library())
        await self._session(settings)

    async def get_video_task(self, conn_id: str, video_task_id: str, poke_interval: float) -> VideoTask:
        """
        Ask for the state of a task, when it is this wait's turn.

        If the key is refused, the Airflow connection is read again, and a new key is tried once.

        :param conn_id: id of the Airflow connection.
        :param video_task_id: id of the task.
        :param poke_interval: seconds between two polls of this wait, to say so if the limit stretches them.
        :raises ManxueError: of the kind that fits, if the answer is not a task's description.
        """
        settings = await self._connections.get(conn_id)
        # Before the turn: turns that pile up while a session is opened would all be used at once.
        session = await self._session(settings)
        pace = self._pace_of(conn_id, settings, poke_interval)
        # Nothing is awaited between the turn and the request: a pause may begin at any moment.
        async with pace.turn() as asked_at:
            try:
                return await self._ask(pace, session, settings, video_task_id, asked_at)
            except ManxueAuthenticationError:
                fresh = await self._connections.get(conn_id, refused=settings)
                if fresh.api_key == settings.api_key:
                    raise
        session = await self._session(fresh)
        async with pace.turn() as asked_at:
            return await self._ask(pace, session, fresh, video_task_id, asked_at)

    def _pace_of(self, conn_id: str, settings: ManxueSettings, poke_interval: float) -> Pace:
        limits = (settings.requests_per_second, settings.max_connections)
        pace = self._paces.get(conn_id)
        if pace is None or (pace.limit, pace.at_once) != limits:
            pace = self._paces[conn_id] = Pace(*limits)
        if pace.queue_time > poke_interval and conn_id not in self._stretched:
            self._stretched.add(conn_id)
            # Not into the log of the one wait that happens to notice: it concerns the whole triggerer.
            contextvars.Context().run(
                log.warning,
                "Connection %r: %.3g requests per second are too few for its waits. Each is asked about every "
                "%.0f s or so instead of every %.0f s. More triggerers, a longer poke_interval or a higher "
                "'requests_per_second' help.",
                conn_id,
                pace.rate,
                pace.queue_time + poke_interval,
                poke_interval,
            )
        return pace

    async def _ask(
        self,
        pace: Pace,
        session: ClientSession,
        settings: ManxueSettings,
        video_task_id: str,
        asked_at: float,
    ) -> VideoTask:
        try:
            task = await self._query(session, settings, video_task_id)
        except ManxueRateLimitError as error:
            pause = error.retry_after
            pace.was_refused(asked_at, None if pause is None else min(pause, MAX_RETRY_AFTER))
            raise
        pace.went_well()
        return task

    async def _query(self, session: ClientSession, settings: ManxueSettings, video_task_id: str) -> VideoTask:
        import aiohttp
        from yarl import URL

        try:
            async with session.get(
                URL(result_url(settings.base_url, video_task_id), encoded=True),
                headers={"Authorization": f"Bearer {settings.api_key}"},
                allow_redirects=False,
                proxy=settings.proxy or _proxy_of_environment(settings.base_url),
                timeout=aiohttp.ClientTimeout(total=settings.request_timeout),
            ) as response:
                return parse_task(
                    response.status,
                    await _read_body(response),
                    video_task_id=video_task_id,
                    retry_after=response.headers.getall("Retry-After", []),
                    now=time.time(),
                    secret=settings.api_key,
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The library's own errors hold the whole request, so the cause is not chained.
            raise no_answer(error, urlsplit(settings.base_url).hostname or "") from None

    async def _session(self, settings: ManxueSettings) -> ClientSession:
        """Return the session for this way out. It holds no key, so that sharing it mixes no credentials."""
        way_out = (settings.verify, settings.ca_bundle, settings.proxy)
        if way_out not in self._sessions:
            self._sessions[way_out] = _detached(_open_session(settings))
        return await asyncio.shield(self._sessions[way_out])

    async def close(self) -> None:
        """Close every connection to the service, and end what is under way and nobody waits for."""
        await _end(self._preparations.values())
        await self._connections.close()
        for opening in self._sessions.values():
            with contextlib.suppress(Exception):
                await (await opening).close()
        self._sessions.clear()


_transports: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Transport] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class _LookUp:
    begun_at: float
    after_refusal: bool
    task: asyncio.Task[ManxueSettings]

    def serves(self, refused: ManxueSettings | None, now: float) -> bool:
        if not self.task.done():
            return True
        age = now - self.begun_at
        if self.task.cancelled() or self.task.exception() is not None:
            return age < VAIN_LOOK_UP_TTL
        if refused and self.task.result().api_key == refused.api_key:
            return self.after_refusal and age < VAIN_LOOK_UP_TTL
        return age < CONNECTION_TTL


class ConnectionCache:
    """
    Reads Airflow connections, each at most once at a time and once in a while.

    :param parse_connection: reads one by its id.
    """

    def __init__(self, parse_connection: Callable[[str], Coroutine[Any, Any, ManxueSettings]]) -> None:
        self.load_connection = parse_connection
        self._look_ups: dict[str, _LookUp] = {}

    async def get(self, conn_id: str, refused: ManxueSettings | None = None) -> ManxueSettings:
        """
        Return the settings of a connection.

        :param conn_id: id of the Airflow connection.
        :param refused: a value whose key the service has refused. If no other is known here, the connection is
            read again, but not by each of a thousand waits that are refused at once.
        :raises ManxueConfigurationError: if the connection is missing or cannot be used.
        :raises ManxueTransientError: if Airflow could not be asked.
        """
        now = asyncio.get_running_loop().time()
        look_up = self._look_ups.get(conn_id)
        if look_up is None or not look_up.serves(refused, now):
            look_up = self._look_ups[conn_id] = _LookUp(
                now, refused is not None, _detached(self.load_connection(conn_id))
            )
        # Shielded: the look-up serves others too, and outlives the wait that began it.
        return await asyncio.shield(look_up.task)

    async def close(self) -> None:
        """End the look-ups that are under way."""
        tasks = [look_up.task for look_up in self._look_ups.values()]
        self._look_ups.clear()
        await _end(tasks)


async def load_connection(conn_id: str) -> ManxueSettings:
    from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    try:
        connection = await get_async_connection(conn_id)
        extra = await get_async_extra_dejson(connection)
    except AirflowNotFoundException:
        raise missing_connection(conn_id) from None
    except Exception as error:  # noqa: BLE001
        # Whatever keeps Airflow from answering just now may be over at the next poll. Its text is left out,
        # as it may hold a part of the connection.
        raise ManxueTransientError(
            f"Airflow could not read the connection {conn_id!r}: {type(error).__name__}"
        ) from None
    return await asyncio.to_thread(
        parse_connection,
        conn_id,
        host=connection.host,
        password=connection.password,
        port=connection.port,
        schema=connection.schema,
        extra=extra,
    )


async def _import_http_library() -> Any:
    return await asyncio.to_thread(importlib.import_module, "aiohttp")


async def _open_session(settings: ManxueSettings) -> ClientSession:
    aiohttp = await _import_http_library()
    trust = await asyncio.to_thread(_trust, settings)
    # How many connections there are is decided by the pace of each Airflow connection.
    session: ClientSession = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust, limit=0, keepalive_timeout=KEEP_ALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": user_agent(), "Accept": "application/json", "Accept-Encoding": "identity"},
        auto_decompress=False,
    )
    return session


@functools.lru_cache
def _proxy_of_environment(base_url: str) -> str | None:
    """
    Return the proxy that the environment names for a host, chosen as the hook does.

    It is looked up once: the session's own ``trust_env`` would do so in two threads for every single request.
    """
    from requests.utils import get_environ_proxies, select_proxy

    if is_loopback(urlsplit(base_url).hostname or ""):
        return None
    proxy = select_proxy(base_url, get_environ_proxies(base_url))
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _trust(settings: ManxueSettings) -> ssl.SSLContext | bool:
    """Return whom to trust: the same authorities as the hook, so that both sides agree about a certificate."""
    import ssl

    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    if not settings.verify and not settings.ca_bundle:
        return False
    usual = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    path = settings.ca_bundle or usual
    if Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)


async def _read_body(response: ClientResponse) -> bytes:
    """Read a body that may be endless or compressed against our wish, within bounds."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ManxueTransientError(f"HTTP {response.status} with a body in a coding that was not asked for")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            raise ManxueTransientError(f"HTTP {response.status} with a body of more than {MAX_BODY} bytes")
    return bytes(body)


def _detached(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """
    Start work that belongs to no single wait.

    It runs in an empty context, since Airflow binds the task log of a trigger to the context that the trigger
    runs in, and a task begun there would write into that log for ever.
    """
    task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel work that belongs to no single wait, and see it end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
