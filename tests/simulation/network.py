"""
The edge that moves bytes, in virtual time: between the shipped transports and the emulator's own service.

Both HTTP libraries are replaced at their sessions, so that everything on our side of them is the shipped code, and
everything on the other side is the emulator's.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
import requests
import urllib3

from airflow_provider_manxue.testing._account import Account
from airflow_provider_manxue.testing._faults import Faults, RandomFaults
from airflow_provider_manxue.testing._media import UrlSigner
from airflow_provider_manxue.testing._response import Response
from airflow_provider_manxue.testing._service import Service
from tests.simulation.schedule import YOUR_KEY

_REGULAR = Response()
_GONE = Response.named("http_401")
_FLAKY = Response.named("http_500")
_PIECE = 65536


class _Minutes:
    """A limit for each minute, in the place of the emulator's bucket."""

    def __init__(self, most, now):
        self.limit = SimpleNamespace(retry_after="seconds")
        self._most, self._now = most, now
        self._minute, self._count = 0, 0

    def take(self):
        """Let a request through and return 0, or return the seconds until the next minute."""
        minute, since = divmod(self._now(), 60.0)
        if minute != self._minute:
            self._minute, self._count = minute, 0
        self._count += 1
        return 0.0 if self._count <= self._most else 60.0 - since


@dataclass(eq=False)
class Exchange:
    """One request: when it was sent, to whom it belongs, and what came back."""

    process: object
    at: float
    method: str
    task_id: str | None = None
    accepted: bool = False
    status: int | None = None
    body: bytes = b""
    ended_at: float | None = None
    pause: float = 0.0
    session: object = None
    waits_in: object = None
    is_whole: bool = False
    """Whether the body was read to its end."""

    def __str__(self):
        answer = (
            "no answer"
            if self.status is None
            else f"{self.status} {self.body[:200].decode(errors='replace')}"
        )
        return f"{self.method} {self.task_id or ''} since {self.at:.1f}: {answer}"


@dataclass
class FaultPlan:
    """
    What goes wrong on the way, and when; times are seconds since the start of the schedule.

    :param windows: from, until, target, answer; "refused" closes the port, "slow" makes every step of a request slow.
    :param dice: random faults for single requests.
    :param random: source of delays.
    """

    windows: list
    dice: RandomFaults
    random: object

    def at(self, now, *targets):
        for begin, end, target, answer in self.windows:
            if begin <= now < end and target in targets:
                return answer
        return None


class WindowedFaults(Faults):
    """The emulator's faults, and before them those of the schedule's windows."""

    def __init__(self, weather, now):
        super().__init__(weather.dice)
        self._weather, self._now = weather, now

    def meet(self, record):
        answer = self._weather.at(self._now(), record.place, "all")
        return answer if isinstance(answer, Response) else super().meet(record)


@dataclass
class Arrival:
    """What the service sends back: nothing at all, or a head after ``delay`` and pieces of a body."""

    delay: float
    hang: bool = False
    reset: bool = False
    status: int = 200
    headers: dict = field(default_factory=dict)
    pieces: list = field(default_factory=list)
    cut: bool = False


class SimulatedNetwork:
    """
    The network of one schedule, with the service at its end.

    :param clock: the service's clock; nothing steps it.
    :param weather: what goes wrong.
    :param api_key: the valid key.
    :param rate_limit: limit of the service, or None.
    :param per_minute: requests that it takes in each minute, or None.
    :param worker_fault_rate: part of the workers' requests that get a 500.
    :param max_running: videos that the account runs at a time, or None.
    """

    def __init__(
        self,
        clock,
        weather,
        api_key,
        rate_limit=None,
        per_minute=None,
        worker_fault_rate=0.0,
        max_running=None,
    ):
        self._now = clock.elapsed
        self._worker_fault_rate = worker_fault_rate
        self.gone_host = None
        self._weather = weather
        self.random = weather.random
        self.exchanges = []
        self.scripts = {}  # what becomes of an order, by its prompt
        self.service = Service(
            clock=clock,
            api_key=api_key,
            faults=WindowedFaults(weather, clock.elapsed),
            signer=UrlSigner(clock, 86400.0, exact=True),
            rate_limit=rate_limit,
            record_requests=False,
            account=Account(max_running),
        )
        self.service.origin = "https://media.example"
        if per_minute:
            self.service._bucket = _Minutes(per_minute, clock.elapsed)

    def begin(self, process, method):
        exchange = Exchange(process, self._now(), method)
        self.exchanges.append(exchange)
        return exchange

    def lag(self):
        """Return how long a step of a request takes."""
        slow = self._weather.at(self._now(), "all") == "slow"
        chance = self._weather.random.random()
        return chance * 40.0 if slow else 0.01 + 0.1 * chance

    @property
    def is_closed(self):
        return self._weather.at(self._now(), "all") == "refused"

    def arrive(self, exchange, url, headers, body):
        """Hand a request to the service, and return what it sends back."""
        service = self.service
        record, fault = service.arrive(exchange.method, urlsplit(url).path, headers, 1)
        exchange.task_id = record.task_id
        if urlsplit(url).hostname == self.gone_host:
            fault = _GONE
        elif (
            "worker" in exchange.process.name
            and body is None
            and self.random.random() < self._worker_fault_rate
        ):
            fault = _FLAKY
        if fault is not None and fault.reset == "before":
            return Arrival(self.lag(), reset=True)
        record.body = body
        if body is not None:
            service.default_script = self.scripts[json.loads(body)["prompt"]]
        orders = len(service.orders)
        reply, answer = service.reply(record, fault)
        if len(service.orders) > orders:
            exchange.accepted, exchange.task_id = True, record.task_id
        return self._spoilt(exchange, reply, answer or _REGULAR, headers["Authorization"])

    def _spoilt(self, exchange, reply, answer, authorization):
        delay = self.lag() + answer.delay
        if answer.hang or (answer.reset and answer.truncate is None):
            return Arrival(delay, hang=answer.hang, reset=bool(answer.reset))
        body = reply.body().replace(YOUR_KEY.encode(), authorization.removeprefix("Bearer ").encode())
        exchange.status, exchange.body = reply.status, body
        retry_after = reply.headers.get("Retry-After", "")
        exchange.pause = float(retry_after) if retry_after.isdigit() else 0.0
        body = gzip.compress(exchange.body) if answer.gzip else exchange.body
        headers = {**reply.headers, **({"Content-Encoding": "gzip"} if answer.gzip else {})}
        if answer.truncate is not None:
            body = body[: answer.truncate]
        pieces = [(self.lag(), body)]
        if answer.endless:
            pieces = [(0.0, (body or b" ") * (_PIECE // max(len(body), 1)))] * 40
        elif answer.bytes_per_second:
            pieces = [(len(body) / answer.bytes_per_second, body)]
        return Arrival(
            delay, status=reply.status, headers=headers, pieces=pieces, cut=answer.truncate is not None
        )


# --- in the triggerer, and wherever else asyncio runs -------------------------------------------------------


class AsyncSession:
    """In the place of aiohttp's session."""

    def __init__(self, world):
        self._world = world
        self.closed = False
        self.exchanges = []
        world.sessions.append(self)

    async def get(self, url, *, headers, allow_redirects, proxy, timeout):  # noqa: ASYNC109 - as in aiohttp
        assert not allow_redirects
        assert not self.closed
        response = _AsyncResponse(self._world, str(url), headers, timeout.total, self)
        try:
            await response.begin()
        except BaseException:
            response.release()
            raise
        return response

    async def close(self):
        await asyncio.sleep(0)
        self.closed = True


class _AsyncResponse:
    """A request over aiohttp, and its response."""

    def __init__(self, world, url, headers, timeout, session):
        self._world, self._url, self._headers = world, url, headers
        self._loop = world.loop
        self._until = world.loop.time() + timeout
        self._exchange = world.begin("GET", session)
        session.exchanges.append(self._exchange)

    def release(self):
        exchange = self._exchange
        exchange.ended_at = self._loop.time()
        self._world.note(exchange.process, exchange)

    async def begin(self):
        wire = self._world.wire
        await self._lapse(wire.lag())
        if wire.is_closed:
            raise aiohttp.ClientOSError(errno.ECONNREFUSED, "refused")
        arrival = wire.arrive(self._exchange, self._url, self._headers, None)
        await self._lapse(float("inf") if arrival.hang else arrival.delay)
        if arrival.reset:
            raise aiohttp.ClientOSError(errno.ECONNRESET, "reset")
        self._arrival = arrival
        self.status = arrival.status
        self.headers = _Headers(arrival.headers)
        self.content = self

    async def _lapse(self, seconds):
        left = self._until - self._loop.time()
        await asyncio.sleep(min(seconds, left))
        if seconds >= left:
            raise TimeoutError

    async def iter_any(self):
        for delay, piece in self._arrival.pieces:
            if delay:
                await self._lapse(delay)
            yield piece
        if self._arrival.cut:
            raise aiohttp.ClientPayloadError("cut short")
        self._exchange.is_whole = True


class _Headers(dict):
    def getall(self, name, default):
        return [self[name]] if name in self else default

    def getlist(self, name):
        return self.getall(name, [])


# --- on a worker --------------------------------------------------------------------------------------------


class Session:
    """In the place of a session of ``requests``; each wait for the network is a boundary of the worker."""

    def __init__(self, world):
        self._world = world

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def request(self, method, url, *, data, headers, auth, timeout, allow_redirects, stream, verify, proxies):
        assert not allow_redirects
        assert stream
        world, process = self._world, self._world.process_here()
        process.boundary(f"before {method}")
        exchange = world.begin(method)
        request = auth(SimpleNamespace(headers=dict(headers or {})))
        try:
            return self._exchanged(exchange, url, request, data, timeout)
        finally:
            exchange.ended_at = world.loop.time()
            world.note(process, exchange)

    def _exchanged(self, exchange, url, request, data, timeout):
        wire, process, method = self._world.wire, exchange.process, exchange.method
        socket = _Socket(process, timeout, self._world.loop.time)
        socket.lapse(wire.lag(), requests.ConnectTimeout, "connect")
        socket.connected()
        if wire.is_closed:
            raise requests.ConnectionError("refused") from ConnectionRefusedError(
                errno.ECONNREFUSED, "refused"
            )
        body = b"".join(data) if data is not None else None
        arrival = wire.arrive(exchange, url, request.headers, body)
        process.boundary(f"after {method} was taken")
        socket.lapse(float("inf") if arrival.hang else arrival.delay, requests.ReadTimeout, "answer")
        process.boundary(f"after {method} was answered")
        if arrival.reset:
            raise requests.ConnectionError("reset") from ConnectionResetError(errno.ECONNRESET, "reset")
        return _Response(arrival, socket, exchange)


class _Socket:
    """The socket of a request on a worker: what it may wait for, in each step and in all."""

    def __init__(self, process, timeout, now):
        self._process, self._now = process, now
        self._until = now() + timeout.total
        self._longest = timeout.total
        self._cutoff = None
        self._cut_at = float("inf")

    def connected(self):
        """Leave to the following steps what connecting has left of the time."""
        self._longest = max(0.0, self._until - self._now())

    def cut_later(self, cutoff, at):
        self._cutoff, self._cut_at = cutoff, at

    def lapse(self, seconds, error, what):
        left = min(self._longest, self._cut_at - self._now())
        if seconds < left:
            self._process.sleep(seconds)
            return
        self._process.sleep(max(0.0, left))
        if left < self._longest:
            self._cutoff.expired = True
        raise error(f"{what} timed out")


class SocketDeadline:
    """In the place of the thread that cuts a connection."""

    def __init__(self, sock, seconds):
        self.expired = False
        self._sock = sock
        sock.cut_later(self, sock._now() + seconds)

    def cancel(self):
        self._sock.cut_later(None, float("inf"))


class _Response:
    def __init__(self, arrival, socket, exchange):
        self._exchange = exchange
        self.sock = socket
        self.status_code = arrival.status
        self._pieces, self._cut = list(arrival.pieces), arrival.cut
        self.headers = _Headers(arrival.headers)
        self.raw = self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def read1(self, amount, *, decode_content):
        assert not decode_content
        if self._pieces:
            delay, piece = self._pieces.pop(0)
            if delay:
                self.sock.lapse(delay, _read_timed_out, "body")
            if piece:
                return piece
        if self._cut:
            raise urllib3.exceptions.ProtocolError("cut short")
        self._exchange.is_whole = True
        return b""


def _read_timed_out(text):
    return urllib3.exceptions.ReadTimeoutError(None, "", text)
