"""
The endpoint of a connection: its settings, and an HTTP session that was set up from them.

This module imports aiohttp, so ``async_client`` imports it in a thread, when the first wait needs it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from airflow_provider_manxue._client.background import spawn_background
from airflow_provider_manxue._client.network import (
    JSON_BODY,
    MAX_HEADER_LINE,
    MAX_HEADERS,
    append_bounded,
    needs_body,
    no_service_response,
    proxy_for,
    request_headers,
    session_key,
    set_up_error,
    ssl_context,
    unusable_address,
)
from airflow_provider_manxue._core.content_coding import decode_body
from airflow_provider_manxue._core.responses import MAX_BODY
from airflow_provider_manxue.exceptions import ManxueTransientError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_manxue._core.subjects import Query
    from airflow_provider_manxue.models import ManxueSettings

KEEP_ALIVE = 75.0
"""Seconds for which an idle connection to the service stays open: longer than the usual interval between polls."""


class Response(NamedTuple):
    """
    A response: its status, its decoded body, and the values of its ``Retry-After`` headers.

    An error whose body could not be read has an empty one.
    """

    status: int
    body: bytes
    retry_after: Sequence[str]


class Session:
    """
    HTTP session that closes once it is retired and its last request has ended.

    :param client: the session of the HTTP library.
    :param key: identifies the settings and files that it was set up from.
    """

    __slots__ = ("_closing", "client", "in_flight", "key", "retired")

    def __init__(self, client: aiohttp.ClientSession, key: tuple[object, ...]) -> None:
        self.client = client
        self.key = key
        self.in_flight = 0
        self.retired = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the session has finished closing."""
        return self._closing is not None and self._closing.done()

    def retire(self) -> None:
        """Mark the session as replaced."""
        self.retired = True
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """Close the session in the background if it is retired and nothing is in flight."""
        if self.retired and not self.in_flight and self._closing is None:
            self._closing = spawn_background(self.client.close())

    async def close(self) -> None:
        """Close the session, requests in flight included."""
        if self._closing is None:
            self._closing = spawn_background(self.client.close())
        await asyncio.gather(self._closing, return_exceptions=True)


@dataclass(slots=True, eq=False)
class Endpoint:
    """
    Prepared parts of each request over a connection.

    :param settings: the connection.
    :param session: the session set up from it.
    :param headers: headers of each request besides those of the session: the API key.
    :param proxy: the proxy, if one is used.
    :param timeout: the request timeout in the HTTP library's form.
    :param has_worked: whether a response was parsed as a task.
    :param key_refused: whether the last response was a 401.
    """

    settings: ManxueSettings
    session: Session
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    proxy: URL | None = dataclasses.field(repr=False)
    timeout: aiohttp.ClientTimeout
    has_worked: bool = False
    key_refused: bool = False

    async def send(self, query: Query) -> Response:
        """
        Send the request of a poll, and read its response.

        :raises ManxueConfigurationError: if the address of the service or of the proxy is not usable.
        :raises ManxueTransientError: if there is no response, or if a success could not be read.
        """
        session = self.session
        session.in_flight += 1
        try:
            response = await session.client.request(
                query.method,
                URL(query.url, encoded=True),
                data=query.body,
                headers=self.headers if query.body is None else {**self.headers, **JSON_BODY},
                allow_redirects=False,
                proxy=self.proxy,
                timeout=self.timeout,
            )
            try:
                body = await _read_body(response)
            except (aiohttp.ClientError, TimeoutError, OSError, ManxueTransientError):
                if needs_body(response.status):
                    raise
                body = b""
            finally:
                response.release()
        # The library's own errors hold the whole request, so the cause is not chained.
        except aiohttp.InvalidURL:
            raise unusable_address(self.settings) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise no_service_response(self.settings, error) from None
        except ValueError:  # also a UnicodeError: a host name that cannot be encoded
            raise unusable_address(self.settings) from None
        finally:
            session.in_flight -= 1
            if session.retired:
                session.close_if_unused()
        return Response(response.status, body, response.headers.getall("Retry-After", ()))


async def open_endpoint(settings: ManxueSettings, present: Endpoint | None) -> Endpoint:
    """
    Create the endpoint for settings. Uses the present session if its key is the same.

    :raises ManxueConfigurationError: if an address in the settings is not usable.
    :raises ManxueTransientError: if the session could not be opened just now.
    """
    key = await asyncio.to_thread(session_key, settings)
    session = present.session if present is not None and present.session.key == key else None
    if present is not None and session is not None and present.settings == settings:
        return present
    proxy = proxy_for(settings)
    try:
        endpoint = Endpoint(
            settings=settings,
            session=session or await _open_session(settings, key),
            headers=CIMultiDict(Authorization=f"Bearer {settings.api_key}"),
            proxy=URL(proxy) if proxy else None,
            timeout=aiohttp.ClientTimeout(total=settings.request_timeout),
        )
    except (OSError, RuntimeError) as error:
        raise set_up_error(error) from None
    except ValueError:
        raise unusable_address(settings) from None
    if present is not None and present.settings == settings:
        endpoint.has_worked, endpoint.key_refused = present.has_worked, present.key_refused
    return endpoint


async def _open_session(settings: ManxueSettings, key: tuple[object, ...]) -> Session:
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


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read a body up to ``MAX_BODY``, and decode it if it is compressed in spite of the request."""
    body = bytearray()
    while chunk := await response.content.readany():
        append_bounded(body, chunk, response.status)
    codings = response.headers.getall("Content-Encoding", None)
    return decode_body(bytes(body), ",".join(codings), MAX_BODY) if codings else bytes(body)
