"""
Deadlines for setting a connection up, and for reading a response.

The timeout of a socket starts again with each address and each packet, and ``http.client`` reads headers, interim responses
and trailers for as long as they come. A server that sends one byte now and then could block a worker forever.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import LocationParseError

from airflow_provider_manxue._client.dialer import dial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3 import HTTPResponse, PoolManager, ProxyManager


class SocketDeadline(threading.Timer):
    """
    Timer that shuts a connection down.

    :param sock: the connection's socket.
    :param seconds: seconds until the connection is shut down, unless the timer is cancelled.
    """

    def __init__(self, sock: Any, seconds: float) -> None:
        super().__init__(min(max(0.0, seconds), threading.TIMEOUT_MAX), self._expire)
        # TLS inside TLS, as over an https proxy, is not a socket, but has one.
        self._sock = getattr(sock, "socket", sock)
        self.expired = False
        self.daemon = True
        self.start()

    def _expire(self) -> None:
        self.expired = True
        with contextlib.suppress(OSError):
            # Below TLS, whose state is unchanged: the next read sees an end, never plain text.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


@contextlib.contextmanager
def _bounded(sock: Any, seconds: float) -> Iterator[None]:
    deadline = SocketDeadline(sock, seconds)
    try:
        yield
    except (OSError, HTTPException):
        if not deadline.expired:
            raise
    finally:
        deadline.cancel()
    if deadline.expired:
        # Also without an exception: http.client takes an end within the headers for the end of the headers.
        raise TimeoutError("timed out")


@contextlib.contextmanager
def setup_deadline(sock: socket.socket, seconds: float) -> Iterator[None]:
    """
    Bound the set-up of a new connection, such as a proxy's response to ``CONNECT`` and the TLS handshake.

    :param sock: the connection's socket.
    :param seconds: seconds until the connection is cut.
    :raises TimeoutError: if the connection was cut.
    """
    # TLS detaches the socket, so the timer needs a duplicate of its descriptor.
    with sock.dup() as duplicate, _bounded(duplicate, seconds):
        yield


class DeadlineAdapter(HTTPAdapter):
    """
    Adapter of ``requests`` that applies the timeout of a request to connecting, and to the head of the response.

    Sets the socket as ``sock`` on the raw response, so that reading the body can be bounded as well.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        _use_bounded_pools(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> ProxyManager:
        """Make the pools of the connections to a proxy."""
        manager: ProxyManager = super().proxy_manager_for(*args, **kwargs)
        _use_bounded_pools(manager)
        return manager


def _use_bounded_pools(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


def _bounded_response(connection: HTTPConnection) -> HTTPResponse:
    # Taken here, since http.client drops it once the last response has begun.
    sock = connection.sock
    if connection.timeout is None:
        return HTTPConnection.getresponse(connection)
    with _bounded(sock, float(connection.timeout)):
        response = HTTPConnection.getresponse(connection)
    response.sock = sock  # type: ignore[attr-defined]
    return response


class _BoundedConnection(HTTPConnection):
    """Connection that is set up within one timeout: the look-up, all addresses, a proxy's response to ``CONNECT``, and TLS."""

    def connect(self) -> None:
        with contextlib.ExitStack() as self._setup:
            super().connect()

    def _new_conn(self) -> socket.socket:
        if self.timeout is None:
            return super()._new_conn()
        timeout = float(self.timeout)
        ends_at = time.monotonic() + timeout
        try:
            sock = dial(self._dns_host, self.port, timeout)
        except UnicodeError as error:
            raise LocationParseError(self.host) from error  # as urllib3 itself
        for option in self.socket_options or ():
            sock.setsockopt(*option)
        self._setup.enter_context(setup_deadline(sock, ends_at - time.monotonic()))
        return sock


class _HttpConnection(_BoundedConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3 itself
        return _bounded_response(self)


class _HttpsConnection(_BoundedConnection, HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3 itself
        return _bounded_response(self)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
