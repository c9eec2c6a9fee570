"""A StatsD server that keeps what it receives."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from dev.statsd_exporter import parse_line, receiving

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

    :ivar port: its port.
    :ivar values: the received values, in their order.
    """

    port: int

    def __init__(self) -> None:
        self.values: list[Value] = []

    def receive(self, packet: str, port: int) -> None:
        """Keep the values of a packet."""
        for sample in map(parse_line, packet.splitlines()):
            self.values.append(Value(sample.name, sample.value, sample.kind, port))

    def ports(self, name: str) -> set[int]:
        """Return the ports of the processes that sent a metric."""
        return {one.port for one in self.values if one.name == name}

    def named(self, prefix: str) -> list[Value]:
        return [one for one in self.values if one.name.startswith(prefix)]


@contextlib.contextmanager
def statsd_server() -> Iterator[StatsdServer]:
    server = StatsdServer()
    with receiving(server.receive) as server.port:
        yield server
