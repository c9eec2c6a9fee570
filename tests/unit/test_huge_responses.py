"""Answers of a gigabyte, of whatever form: both transports hang up early, and hold little of them in memory."""

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
from tests.support.clients import CONN_ID, ask_from_triggerer, ask_from_worker, write_connection

GIB = 2**30
PIECE = 2**16

MOST_SENT = 16 * 2**20
"""Bytes that a server gets rid of at most: what is read, and what the buffers of both systems take."""

MOST_HELD = 8 * 2**20
"""Bytes of memory that an answer takes at most: the longest body, and what it is put together from."""


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
    """Sends one answer to one client, and counts the bytes that it got rid of."""

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
            # A system tries for minutes to send to someone who has hung up with a full buffer.
            self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def order_from_worker():
    ManxueHook(CONN_ID).create_video(prompt="a lighthouse", model="sd2_manxue_1080p")


WAYS = {
    "query on a worker": (ask_from_worker, ManxueTransientError),
    "query in the triggerer": (ask_from_triggerer, ManxueTransientError),
    "order on a worker": (order_from_worker, (ManxueOrderUnknownError, ManxueOrderRejectedError)),
}


@pytest.fixture
def measure(monkeypatch):
    """Let a server answer; return the bytes that it got rid of, and the most memory that was held meanwhile."""

    def answered(pieces, way):
        ask, error = WAYS[way]
        with Server(pieces) as server:
            connection = {"host": server.url, "password": "k", "extra": {"request_timeout": 2}}
            write_connection(monkeypatch, connection)
            tracemalloc.start()
            try:
                with pytest.raises(error):
                    ask()
                held = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        return server.sent, held

    return answered


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", HUGE)
def test_huge_answer_is_cut_off(form, way, measure):
    sent, held = measure(HUGE[form](), way)

    assert sent < MOST_SENT
    assert held < MOST_HELD


def test_nothing_is_read_after_the_cut_that_was_received_before_it():
    """It could be a million chunks of one byte."""
    deadline = SimpleNamespace(expired=False)

    def read1(amount, decode_content):
        assert not deadline.expired
        deadline.expired = True
        return b"x"

    content = bytearray()
    response = SimpleNamespace(raw=SimpleNamespace(read1=read1), status_code=200)
    _read_bounded(response, content, deadline)
    assert content == b"x"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", DROPPED)
def test_what_a_parser_drops_as_it_comes_is_bounded_in_memory(form, way, measure):
    """In time too, by the timeout of the request; but until then all of it is received."""
    _, held = measure(DROPPED[form](), way)

    assert held < MOST_HELD
