"""Hostile HTTP responses of the service, against both clients."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time

import pytest

from airflow_provider_manxue.exceptions import ManxueTransientError
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.testing import Emulator, Response, Script
from tests.support.clients import CONN_ID, write_connection

TASK = b'{"id": "task-1", "status": "queued"}'


def slowly(text):
    for byte in text:
        time.sleep(0.02)
        yield bytes([byte])


def head(*lines):
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])


WHOLE = head(b"Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n" % (len(TASK), TASK)
"""A response up to its trailers."""


def endless(piece, *before):
    return [*before, itertools.repeat(piece)]


ENDLESS = {
    "interim responses": lambda: endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "many headers": lambda: endless(b"X-Header: value\r\n" * 4000, b"HTTP/1.1 200 OK\r\n"),
    "long header": lambda: endless(b"x" * 65536, b"HTTP/1.1 200 OK\r\nX: "),
    "long status line": lambda: endless(b"x" * 65536, b"HTTP/1.1 200 "),
    "slow header": lambda: slowly(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000),
    "long chunk length": lambda: endless(b"0" * 65536, head(b"Transfer-Encoding: chunked")),
    "slow chunk length": lambda: [head(b"Transfer-Encoding: chunked"), slowly(b"0" * 10_000)],
    "many trailers": lambda: endless(b"X-Trailer: value\r\n" * 4000, WHOLE),
    "slow trailers": lambda: [WHOLE, slowly(b"X-Trailer: " + b"x" * 10_000)],
}


def flat(pieces):
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
        else:
            yield from piece


class Service:
    """A server that sends the pieces to one client, and counts the bytes."""

    def __init__(self, pieces):
        self._pieces = pieces
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            with client:
                client.recv(65536)
                for piece in flat(self._pieces):
                    client.sendall(piece)
                    self.sent += len(piece)

    def close(self):
        self._listener.close()


@pytest.fixture
def connect(monkeypatch):
    def write(host, password="the-key", **extra):
        write_connection(monkeypatch, {"host": host, "password": password, "extra": extra})

    return write


@pytest.mark.parametrize("pieces", ENDLESS)
def test_endless_response_ends_at_the_request_timeout(poll, connect, pieces):
    service = Service(ENDLESS[pieces]())
    connect(service.url, request_timeout=0.5)
    with pytest.raises(ManxueTransientError, match=r"no response from|took longer than|HTTP 200") as caught:
        poll()
    assert len(str(caught.value)) < 600
    service.close()


@pytest.mark.parametrize("pieces", ["many headers", "long header", "long status line"])
def test_header_size_is_limited(poll, connect, pieces):
    """The buffers of the operating system add to what is read."""
    service = Service(ENDLESS[pieces]())
    connect(service.url, request_timeout=5)
    with pytest.raises(ManxueTransientError):
        poll()
    assert service.sent < 16 * 1024**2
    service.close()


@pytest.fixture
def emulator():
    with Emulator() as emulator:
        emulator.add_task(id="task-1", script=Script.polls("completed"))
        yield emulator


def test_cookies_are_not_stored(emulator, connect):
    connect(emulator.base_url, emulator.api_key)
    emulator.respond_with(Response(headers={"Set-Cookie": "a=b; Path=/"}))
    hook = ManxueHook(CONN_ID)
    hook.get_video_task("task-1")
    hook.get_video_task("task-1")

    assert "Cookie" not in emulator.requests[-1].headers
    assert list(hook.get_conn().cookies) == []


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_loopback_key_is_not_sent_to_environment_proxy(emulator, poll, connect, monkeypatch, variable):
    """Plain HTTP is allowed to loopback only, and a proxy is another machine."""
    with Emulator() as proxy:
        for name in (
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "no_proxy",
            "HTTP_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
        ):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(variable, proxy.url)
        connect(emulator.base_url, emulator.api_key)
        poll()

        assert proxy.requests == []
    assert len(emulator.requests) == 1
