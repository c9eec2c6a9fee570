"""The service on a socket: HTTP by aiohttp, and faults of the connection."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import logging
import socket
import struct
import weakref
from http.client import responses
from typing import TYPE_CHECKING, NoReturn

from aiohttp import web

from airflow_provider_manxue.testing._reply import Reply, VideoPart
from airflow_provider_manxue.testing._response import Response

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable

    from airflow_provider_manxue.testing._record import RequestRecord
    from airflow_provider_manxue.testing._service import Service

log = logging.getLogger("airflow_provider_manxue.testing")

CONTROL = "/_emulator/"
_BACKLOG = 4096
_SMALL = 1024 * 1024
_CHUNK = 64 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)
_REGULAR = Response()


class Server:
    """
    An HTTP server that reserves its port while it does not listen.

    :param service: the emulated service.
    :param control: handler of requests to the control API.
    :param host: address to listen on.
    :param port: port to listen on; 0 for a free one.
    :param ssl_context: serve TLS.
    :raises OSError: if the port cannot be opened.
    """

    def __init__(
        self,
        service: Service,
        control: Callable[[web.BaseRequest], Awaitable[web.Response]],
        *,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._service = service
        self._control = control
        self._host = host
        self._ssl_context = ssl_context
        if port:
            # The sockets below set SO_REUSEPORT, so only a socket without it detects a port in use.
            _bound(host, port, shared=False).close()
        # This socket never listens. It reserves the port while the listening socket is closed.
        self._reservation = _bound(host, port, shared=True)
        self.port: int = self._reservation.getsockname()[1]
        self._connections: weakref.WeakKeyDictionary[asyncio.Transport, int] = weakref.WeakKeyDictionary()
        self._connection_ids = itertools.count(1)
        # Cancel the handler when its client disconnects, so that hanging and endless responses do not accumulate.
        self._http = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._listener: asyncio.Server | None = None

    async def listen(self) -> None:
        """Accept connections."""
        if self._listener is None:
            self._listener = await asyncio.get_running_loop().create_server(
                self._http,
                sock=_bound(self._host, self.port, shared=True),
                backlog=_BACKLOG,
                ssl=self._ssl_context,
            )

    async def refuse(self) -> None:
        """Close the listening socket and all connections, but reserve the port."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in self._http.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def close(self) -> None:
        """Close all sockets, including those with a hanging response."""
        await self.refuse()
        # Let the cancelled handlers end.
        await self._http.shutdown(timeout=0.01)
        self._reservation.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.startswith(CONTROL):
            return await self._control(request)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("The client has disconnected.")
        record, fault = self._service.arrive(
            request.method, request.raw_path, request.headers, self._connection_id(transport)
        )
        if fault is not None and fault.reset == "before":
            return self._reset(transport, record)
        if request.can_read_body:
            record.body = await request.read()
        reply, response = self._service.reply(record, fault)
        return await self._send(request, transport, record, reply, response or _REGULAR)

    def _connection_id(self, transport: asyncio.Transport) -> int:
        known = self._connections.get(transport)
        if known is None:
            known = self._connections[transport] = next(self._connection_ids)
        return known

    def _reset(self, transport: asyncio.Transport, record: RequestRecord) -> web.Response:
        """Cut the connection with a TCP reset."""
        _log(record, "reset")
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()
        return web.Response()

    async def _send(
        self,
        request: web.BaseRequest,
        transport: asyncio.Transport,
        record: RequestRecord,
        reply: Reply,
        response: Response,
    ) -> web.StreamResponse:
        if response.delay:
            await asyncio.sleep(response.delay)
        if response.hang:
            _log(record, "hangs")
            await asyncio.get_running_loop().create_future()
        if response.reset and response.truncate is None:
            return self._reset(transport, record)
        record.status = reply.status
        _log(record, responses.get(reply.status, ""))
        body = reply.body()
        if response.gzip:
            body = gzip.compress(body if isinstance(body, bytes) else body.video.read(body.start, body.stop))
            reply.headers["Content-Encoding"] = "gzip"
        if not _is_plain(response) or len(body) > _SMALL:
            return await self._stream(request, transport, record, reply, body, response)
        if isinstance(body, VideoPart):
            body = body.video.read(body.start, body.stop)
        return web.Response(status=reply.status, body=body, headers=reply.headers)

    async def _stream(
        self,
        request: web.BaseRequest,
        transport: asyncio.Transport,
        record: RequestRecord,
        reply: Reply,
        body: bytes | VideoPart,
        response: Response,
    ) -> web.StreamResponse:
        """Send a body in chunks, with the faults of the response."""
        stream = web.StreamResponse(status=reply.status, headers=reply.headers)
        size = len(body)
        end = size if response.truncate is None else min(response.truncate, max(size - 1, 0))
        if response.chunked or response.endless:
            stream.enable_chunked_encoding()
        else:
            stream.content_length = max(size + response.length_error, 0)
        await stream.prepare(request)
        if request.method == "HEAD":
            return stream
        if response.endless:
            await _repeat(stream, body)
        for piece in _pieces(body, end, response.bytes_per_second):
            if response.length_error < 0:
                # aiohttp does not send bytes that exceed `Content-Length`.
                transport.write(piece)
            else:
                await stream.write(piece)
            if response.bytes_per_second:
                await asyncio.sleep(len(piece) / response.bytes_per_second)
        if response.truncate is not None and response.reset:
            # A reset discards unsent bytes, so wait until they are sent.
            await asyncio.sleep(0.01)
            return self._reset(transport, record)
        if response.truncate is not None or response.length_error:
            transport.close()
        return stream


async def _repeat(stream: web.StreamResponse, body: bytes | VideoPart) -> NoReturn:
    """Repeat a body until the client disconnects, which cancels the handler."""
    if not isinstance(body, bytes):
        body = body.video.read(body.start, min(body.stop, body.start + _SMALL))
    # Repeat short bodies in large pieces; replace an empty body by a space.
    piece = (body or b" ") * (1 + _CHUNK // (len(body) + 1))
    while True:
        await stream.write(piece)


def _is_plain(response: Response) -> bool:
    """Return whether the body is sent without faults of the connection."""
    return not (
        response.truncate is not None
        or response.chunked
        or response.endless
        or response.length_error
        or response.bytes_per_second
    )


def _pieces(body: bytes | VideoPart, end: int, rate: float | None) -> Iterable[bytes]:
    """Split the first ``end`` bytes of a body; at a given rate, into pieces of 50 ms."""
    if isinstance(body, bytes):
        chunks: Iterable[bytes] = (body[:end],)
    else:
        chunks = body.video.chunks(body.start, body.start + end)
    if rate is None:
        return chunks
    step = max(1, int(rate / 20))
    return (chunk[start : start + step] for chunk in chunks for start in range(0, len(chunk), step))


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    """Return a bound socket that does not listen; shared sockets may have the same port."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _log(record: RequestRecord, outcome: str) -> None:
    # Without the query string: the signature of a video URL is a secret.
    log.info("%d %s %s %s %s", record.number, record.method, record.path, record.status or "-", outcome)
