"""A StatsD server that keeps what it receives."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Value(NamedTuple):
    """A received value, and the port of the process that sent it."""

    name: str
    value: float
    kind: str
    port: int


class StatsdServer:
    """
    Server on a free UDP port of this machine.

    :ivar values: the received values, in their order.
    """

    def __init__(self) -> None:
        self.values: list[Value] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def receive(self) -> None:
        """Receive until the socket is shut down."""
        while packet := self._socket.recvfrom(65_536):
            text, (_, port) = packet
            if not text:
                return
            for line in text.decode().splitlines():
                name, _, rest = line.rpartition(":")
                value, kind, *_ = rest.split("|")
                self.values.append(Value(name, float(value), kind, port))

    def stop(self) -> None:
        with contextlib.closing(self._socket), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", ("127.0.0.1", self.port))

    def ports(self, name: str) -> set[int]:
        """Return the ports of the processes that sent a metric."""
        return {one.port for one in self.values if one.name == name}

    def named(self, prefix: str) -> list[Value]:
        return [one for one in self.values if one.name.startswith(prefix)]


@contextlib.contextmanager
def statsd_server() -> Iterator[StatsdServer]:
    server = StatsdServer()
    thread = threading.Thread(target=server.receive, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
