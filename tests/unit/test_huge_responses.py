"""Responses of one gibibyte: both clients disconnect early and use little memory."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import socket
import threading
import tracemalloc
from types import SimpleNamespace

import pytest

from airflow_provider_manxue._client.sync_client import _read_bounded
from airflow_provider_manxue.exceptions import (
    ManxueOrderRejectedError,
    ManxueOrderUnknownError,
    ManxueTransientError,
)
from airflow_provider_manxue.hooks.manxue import ManxueHook
from tests.support.clients import CONN_ID, poll_from_triggerer, poll_from_worker, write_connection

GIB = 2**30
PIECE = 2**16

MOST_SENT = 16 * 2**20
"""Most bytes that a server can send: those that are read, and those in the buffers of both systems."""

MOST_HELD = 8 * 2**20
"""Most bytes of memory for a response: the longest body, and the pieces that it is joined from."""


def head(*lines):
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])


def a_gibibyte(piece=b" " * PIECE):
    return itertools.repeat(piece, GIB // len(piece))


def bomb():
    """A gibibyte of spaces, compressed to a thousandth of it."""
    member = gzip.compress(b" " * 2**24)
    return member * (GIB // 2**24)


HUGE = {
    "no length": lambda: [[head(b"Connection: close")], a_gibibyte()],
    "a length of two bytes": lambda: [[head(b"Content-Length: 2")], a_gibibyte()],
    "its true length": lambda: [[head(b"Content-Length: %d" % GIB)], a_gibibyte()],
    "a length beyond all numbers": lambda: [[head(b"Content-Length: " + b"9" * 30)], a_gibibyte()],
    "a negative length": lambda: [[head(b"Content-Length: -1")], a_gibibyte()],
    "a length that is no number": lambda: [[head(b"Content-Length: huge")], a_gibibyte()],
    "chunks": lambda: [
        [head(b"Transfer-Encoding: chunked")],
        a_gibibyte(b"%x\r\n%s\r\n" % (PIECE, b" " * PIECE)),
    ],
    "one chunk": lambda: [[head(b"Transfer-Encoding: chunked"), b"%x\r\n" % GIB], a_gibibyte()],
    "chunks of one byte": lambda: [[head(b"Transfer-Encoding: chunked")], a_gibibyte(b"1\r\n \r\n" * 10_000)],
    "compression": lambda: [[head(b"Content-Encoding: gzip", b"Content-Length: %d" % len(bomb())), bomb()]],
    "compression in the transfer": lambda: [[head(b"Transfer-Encoding: gzip"), bomb()]],
    "one header": lambda: [[b"HTTP/1.1 200 OK\r\nX-Header: "], a_gibibyte(b"x" * PIECE)],
    "headers": lambda: [[b"HTTP/1.1 200 OK\r\n"], a_gibibyte(b"X-Header: value\r\n" * 4000)],
    "large headers": lambda: [[b"HTTP/1.1 200 OK\r\n"], a_gibibyte(b"X-Header: %s\r\n" % (b"v" * 8000))],
}
DROPPED = {
    "blanks before a header's value": lambda: [[b"HTTP/1.1 200 OK\r\nX-Header: "], a_gibibyte()],
    "trailers": lambda: [
        [head(b"Transfer-Encoding: chunked"), b"2\r\n{}\r\n0\r\n"],
        a_gibibyte(b"X-Trailer: value\r\n" * 4000),
    ],
}


class Server:
    """Sends one response to one client, and counts the bytes that it has sent."""

    def __init__(self, pieces):
        self._pieces = itertools.chain.from_iterable(pieces)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def _serve(self):
        with contextlib.suppress(OSError):
            self._client, _ = self._listener.accept()
            with self._client as client:
                client.recv(65536)
                for piece in self._pieces:
                    client.sendall(piece)
                    self.sent += len(piece)
                client.shutdown(socket.SHUT_WR)
                client.recv(1)

    def __exit__(self, *exception):
        self._listener.close()
        with contextlib.suppress(OSError):
            # Otherwise the system tries for minutes to send the rest to a client that has disconnected.
            self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def order_from_worker():
    ManxueHook(CONN_ID).create_video(prompt="a lighthouse", model="sd2_manxue_1080p")


REQUESTS = {
    "poll on a worker": (poll_from_worker, ManxueTransientError),
    "poll in the triggerer": (poll_from_triggerer, ManxueTransientError),
    "order on a worker": (order_from_worker, (ManxueOrderUnknownError, ManxueOrderRejectedError)),
}


@pytest.fixture
def measure(monkeypatch):
    """Return a function that polls a server and returns the bytes that it sent and the peak memory."""

    def measure_request(pieces, kind):
        poll, error = REQUESTS[kind]
        with Server(pieces) as server:
            connection = {"host": server.url, "password": "k", "extra": {"request_timeout": 2}}
            write_connection(monkeypatch, connection)
            tracemalloc.start()
            try:
                with pytest.raises(error):
                    poll()
                held = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        return server.sent, held

    return measure_request


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("form", HUGE)
def test_huge_response_is_cut_off(form, kind, measure):
    sent, held = measure(HUGE[form](), kind)

    assert sent < MOST_SENT
    assert held < MOST_HELD


def test_nothing_is_read_after_the_deadline():
    """The socket buffer may still hold a million chunks of one byte."""
    deadline = SimpleNamespace(expired=False)

    def read1(amount, decode_content):
        assert not deadline.expired
        deadline.expired = True
        return b"x"

    content = bytearray()
    response = SimpleNamespace(raw=SimpleNamespace(read1=read1), status_code=200)
    _read_bounded(response, content, deadline)
    assert content == b"x"


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("form", DROPPED)
def test_discarded_data_uses_bounded_memory(form, kind, measure):
    """
    HTTP parsers discard trailers and blanks while they receive them.

    Only the request timeout bounds their amount.
    """
    _, held = measure(DROPPED[form](), kind)

    assert held < MOST_HELD
