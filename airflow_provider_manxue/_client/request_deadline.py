"""
A deadline for reading a response.

The timeout of a socket starts again with each packet, and ``http.client`` reads headers, interim responses and trailers for
as long as they come. A server that sends one byte now and then could hold a worker without end.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    from urllib3 import HTTPResponse, PoolManager, ProxyManager


class SocketDeadline(threading.Timer):
    """
    Timer that cuts a connection, unless it is cancelled before.

    :param sock: the connection's socket.
    :param seconds: seconds until then.
    """

    def __init__(self, sock: Any, seconds: float) -> None:
        super().__init__(min(max(0.0, seconds), threading.TIMEOUT_MAX), self._cut)
        # TLS inside of TLS, as with a proxy that is reached over TLS, is no socket, but has one.
        self._sock = getattr(sock, "socket", sock)
        self.expired = False
        self.daemon = True
        self.start()

    def _cut(self) -> None:
        self.expired = True
        with contextlib.suppress(OSError):
            # Below TLS, whose state remains: the next read sees an end, and never plain text.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


class DeadlineAdapter(HTTPAdapter):
    """
    Adapter of ``requests`` that bounds the wait for the head of a response by the timeout of the request.

    The raw response has the socket, as ``sock``, so that reading the body can be bounded as well.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        _bound(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> ProxyManager:
        """Make the pools of the connections to a proxy."""
        manager: ProxyManager = super().proxy_manager_for(*args, **kwargs)
        _bound(manager)
        return manager


def _bound(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


def _response_in_time(connection: HTTPConnection) -> HTTPResponse:
    # Taken here, since http.client drops it once the last response has begun.
    sock = connection.sock
    if connection.timeout is None:
        return HTTPConnection.getresponse(connection)
    cutoff = SocketDeadline(sock, float(connection.timeout))
    try:
        response = HTTPConnection.getresponse(connection)
    except (OSError, HTTPException):
        if not cutoff.expired:
            raise
    finally:
        cutoff.cancel()
    if cutoff.expired:
        # Also where nothing was raised: an end in the middle of the headers is taken for their end.
        raise TimeoutError
    response.sock = sock  # type: ignore[attr-defined]
    return response


class _HttpConnection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3 itself
        return _response_in_time(self)


class _HttpsConnection(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3 itself
        return _response_in_time(self)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
