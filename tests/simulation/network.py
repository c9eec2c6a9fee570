"""
A network in virtual time, between the shipped clients and the emulator's service.

The sessions of both HTTP libraries are replaced. The code on the client's side is the shipped code; the code on the
service's side is the emulator's.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
import requests
import urllib3

from airflow_provider_manxue._core.polling import MAX_RETRY_AFTER
from airflow_provider_manxue._core.responses import MAX_BODY, parse_retry_after
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
    """A rate limit per calendar minute. Replaces the emulator's token bucket."""

    def __init__(self, most, now):
        self.limit = SimpleNamespace(retry_after="seconds")
        self._most, self._now = most, now
        self._minute, self._count = 0, 0

    def take(self):
        """Return 0 if a request is allowed, otherwise the seconds until the next minute."""
        minute, since = divmod(self._now(), 60.0)
        if minute != self._minute:
            self._minute, self._count = minute, 0
        self._count += 1
        return 0.0 if self._count <= self._most else 60.0 - since


@dataclass(eq=False)
class Exchange:
    """One request and its response."""

    process: object
    at: float
    method: str
    task_id: str | None = None
    accepted: bool = False
    ids: tuple = ()
    """Ids of the video or the assets that an accepted request has paid."""
    status: int | None = None
    body: bytes = b""
    ended_at: float | None = None
    pause: float = 0.0
    """Seconds of its ``Retry-After``, if that is a number."""
    longest_pause: float = 0.0
    """The same, also if it is a date. The client has received it a little later."""
    session: object = None
    waits_in: object = None
    length: int = 0
    """Bytes of the body that the client has read."""
    counts: bool = False
    """Whether the client has a response that it can use: a whole one, or an error whose body could not be read."""

    @property
    def is_poll(self):
        """Whether this is a poll. Only workers send what may be paid, and these with their own session."""
        return self.method == "GET" or self.session is not None

    @property
    def requested_pause(self):
        """Seconds of the pause that the response to a poll requests: an error, except a 401, whose probes have their own times."""
        is_error = self.counts and self.status >= 300 and self.status != 401
        return min(self.pause, MAX_RETRY_AFTER) if is_error else 0.0

    def read(self, piece):
        """Return a piece of the body, which the client reads."""
        self.length += len(piece)
        if self.length > MAX_BODY:
            self.breaks_off()
        return piece

    def breaks_off(self):
        """Record that the body cannot be read to its end. A success needs it, an error does not."""
        self.counts = self.status >= 300

    def __str__(self):
        response = (
            "no response"
            if self.status is None
            else f"{self.status} {self.body[:200].decode(errors='replace')}"
        )
        return f"{self.method} {self.task_id or ''} since {self.at:.1f}: {response}"


@dataclass
class FaultPlan:
    """
    The faults of a schedule. Times are seconds since its start.

    :param windows: start, end, target and response; "refused" closes the port, "slow" delays each step of a request.
    :param random_faults: random faults of single requests.
    :param random: source of delays.
    """

    windows: list
    random_faults: RandomFaults
    random: object

    def at(self, now, *targets):
        for begin, end, target, response in self.windows:
            if begin <= now < end and target in targets:
                return response
        return None


class WindowedFaults(Faults):
    """The faults of the schedule's windows, then those of the emulator."""

    def __init__(self, fault_plan, now):
        super().__init__(fault_plan.random_faults)
        self._fault_plan, self._now = fault_plan, now

    def meet(self, record):
        place = {"upload": "create", "asset_status": "query"}.get(record.place, record.place)
        response = self._fault_plan.at(self._now(), place, "all")
        return response if isinstance(response, Response) else super().meet(record)


@dataclass
class Arrival:
    """The service's response as the client receives it: nothing, or a head after ``delay`` and pieces of a body."""

    delay: float
    hang: bool = False
    reset: bool = False
    status: int = 200
    headers: dict = field(default_factory=dict)
    pieces: list = field(default_factory=list)
    cut: bool = False


class SimulatedNetwork:
    """
    The network of one schedule, with the service.

    :param clock: the service's clock.
    :param fault_plan: the faults of the schedule.
    :param api_key: the valid API key.
    :param rate_limit: rate limit of the service, or None.
    :param per_minute: requests allowed per minute, or None.
    :param worker_fault_rate: share of the workers' requests that get a 500.
    :param max_running: videos that the account runs at a time, or None.
    """

    def __init__(
        self,
        clock,
        fault_plan,
        api_key,
        rate_limit=None,
        per_minute=None,
        worker_fault_rate=0.0,
        max_running=None,
    ):
        self._now = clock.elapsed
        self._worker_fault_rate = worker_fault_rate
        self.gone_host = None
        self._fault_plan = fault_plan
        self.random = fault_plan.random
        self.exchanges = []
        self.scripts = {}  # the emulator's script of each order, by prompt, and of each asset, by the URL of its file
        self.service = Service(
            clock=clock,
            api_key=api_key,
            faults=WindowedFaults(fault_plan, clock.elapsed),
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
        """Return the seconds that a step of a request takes."""
        slow = self._fault_plan.at(self._now(), "all") == "slow"
        chance = self._fault_plan.random.random()
        return chance * 40.0 if slow else 0.01 + 0.1 * chance

    @property
    def is_closed(self):
        return self._fault_plan.at(self._now(), "all") == "refused"

    def arrive(self, exchange, url, headers, body):
        """Send a request to the service and return the response."""
        service = self.service
        record, fault = service.arrive(exchange.method, urlsplit(url).path, headers, 1)
        exchange.task_id = record.task_id
        if record.place == "asset_status":
            [exchange.task_id] = json.loads(body)["assetIds"]
        is_sent_once = record.place in {"create", "upload"}
        if urlsplit(url).hostname == self.gone_host:
            fault = _GONE
        elif (
            "worker" in exchange.process.name
            and not is_sent_once
            and self.random.random() < self._worker_fault_rate
        ):
            fault = _FLAKY
        if fault is not None and fault.reset == "before":
            return Arrival(self.lag(), reset=True)
        record.body = body
        if record.place == "create":
            service.default_script = self.scripts[json.loads(body)["prompt"]]
        orders = len(service.orders) + len(service.review.uploads)
        reply, response = service.reply(record, fault)
        if len(service.orders) + len(service.review.uploads) > orders:
            exchange.accepted, exchange.task_id = True, record.task_id
            is_order = record.place == "create"
            exchange.ids = (record.task_id,) if is_order else service.review.uploads[-1].asset_ids
            self._follow_scripts(exchange.ids)
        return self._with_faults(exchange, reply, response or _REGULAR, headers["Authorization"])

    def _follow_scripts(self, ids):
        """Start the scripts of assets that were just uploaded."""
        for asset_id in ids:
            if asset_id in self.service.review.assets:
                asset = self.service.review.assets[asset_id]
                asset.follow(self.scripts[asset.url])

    def _with_faults(self, exchange, reply, response, authorization):
        delay = self.lag() + response.delay
        if response.hang or (response.reset and response.truncate is None):
            return Arrival(delay, hang=response.hang, reset=bool(response.reset))
        body = reply.body().replace(YOUR_KEY.encode(), authorization.removeprefix("Bearer ").encode())
        exchange.status, exchange.body = reply.status, body
        retry_after = reply.headers.get("Retry-After", "")
        exchange.pause = float(retry_after) if retry_after.isdigit() else 0.0
        exchange.longest_pause = parse_retry_after((retry_after,), time.time()) or 0.0
        body = gzip.compress(exchange.body) if response.gzip else exchange.body
        headers = {**reply.headers, **({"Content-Encoding": "gzip"} if response.gzip else {})}
        if response.truncate is not None:
            body = body[: response.truncate]
        pieces = [(self.lag(), body)]
        if response.endless:
            pieces = [(0.0, (body or b" ") * (_PIECE // max(len(body), 1)))] * 40
        elif response.bytes_per_second:
            pieces = [(len(body) / response.bytes_per_second, body)]
        return Arrival(
            delay, status=reply.status, headers=headers, pieces=pieces, cut=response.truncate is not None
        )


# --- aiohttp ------------------------------------------------------------------------------------------------


class AsyncSession:
    """Replaces ``aiohttp.ClientSession``."""

    def __init__(self, simulation):
        self._simulation = simulation
        self.closed = False
        self.exchanges = []
        simulation.sessions.append(self)

    async def request(self, method, url, *, data, headers, allow_redirects, proxy, timeout):  # noqa: ASYNC109 - as in aiohttp
        assert not allow_redirects
        assert not self.closed
        response = _AsyncResponse(self._simulation, method, str(url), data, headers, timeout.total, self)
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
    """A request through aiohttp, and its response."""

    def __init__(self, simulation, method, url, data, headers, timeout, session):
        self._simulation, self._url, self._data, self._headers = simulation, url, data, headers
        self._loop = simulation.loop
        self._until = simulation.loop.time() + timeout
        self._exchange = simulation.begin(method, session)
        session.exchanges.append(self._exchange)

    def release(self):
        exchange = self._exchange
        exchange.ended_at = self._loop.time()
        self._simulation.record(exchange.process, exchange)

    async def begin(self):
        network = self._simulation.network
        await self._lapse(network.lag())
        if network.is_closed:
            raise aiohttp.ClientOSError(errno.ECONNREFUSED, "refused")
        arrival = network.arrive(self._exchange, self._url, self._headers, self._data)
        await self._lapse(float("inf") if arrival.hang else arrival.delay)
        if arrival.reset:
            raise aiohttp.ClientOSError(errno.ECONNRESET, "reset")
        self._arrival, self._pieces = arrival, iter(arrival.pieces)
        self.status = arrival.status
        self.headers = _Headers(arrival.headers)
        self.content = self

    async def _lapse(self, seconds):
        left = self._until - self._loop.time()
        await asyncio.sleep(min(seconds, left))
        if seconds >= left:
            raise TimeoutError

    async def readany(self):
        try:
            for delay, piece in self._pieces:
                if delay:
                    await self._lapse(delay)
                if piece:
                    return self._exchange.read(piece)
            if self._arrival.cut:
                raise aiohttp.ClientPayloadError("cut short")
        except (aiohttp.ClientError, TimeoutError):
            self._exchange.breaks_off()
            raise
        self._exchange.counts = True
        return b""


class _Headers(dict):
    def getall(self, name, default):
        return [self[name]] if name in self else default

    def getlist(self, name):
        return self.getall(name, [])


# --- requests -----------------------------------------------------------------------------------------------


class Session:
    """Replaces ``requests.Session``. Each wait for the network is a boundary of the worker."""

    def __init__(self, simulation):
        self._simulation = simulation

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def request(self, method, url, *, data, headers, auth, timeout, allow_redirects, stream, verify, proxies):
        assert not allow_redirects
        assert stream
        simulation, process = self._simulation, self._simulation.process_here()
        process.boundary(f"before {method}")
        exchange = simulation.begin(method)
        request = auth(SimpleNamespace(headers=dict(headers or {})))
        try:
            return self._exchanged(exchange, url, request, data, timeout)
        finally:
            exchange.ended_at = simulation.loop.time()
            simulation.record(process, exchange)

    def _exchanged(self, exchange, url, request, data, timeout):
        network, process, method = self._simulation.network, exchange.process, exchange.method
        socket = _Socket(process, timeout, self._simulation.loop.time)
        socket.lapse(network.lag(), requests.ConnectTimeout, "connect")
        socket.connected()
        if network.is_closed:
            raise requests.ConnectionError("refused") from ConnectionRefusedError(
                errno.ECONNREFUSED, "refused"
            )
        body = b"".join(data) if data is not None else None
        arrival = network.arrive(exchange, url, request.headers, body)
        process.boundary(f"after {method} was received")
        socket.lapse(float("inf") if arrival.hang else arrival.delay, requests.ReadTimeout, "response")
        process.boundary(f"after the response to {method}")
        if arrival.reset:
            raise requests.ConnectionError("reset") from ConnectionResetError(errno.ECONNRESET, "reset")
        return _Response(arrival, socket, exchange)


class _Socket:
    """The socket of a request on a worker, with its timeouts for each step and for the whole request."""

    def __init__(self, process, timeout, now):
        self._process, self._now = process, now
        self._until = now() + timeout.total
        self._longest = timeout.total
        self._cutoff = None
        self._cut_at = float("inf")

    def connected(self):
        """Limit the following steps to the remaining time."""
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
    """Replaces the thread that closes a connection at its deadline."""

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
        try:
            if self._pieces:
                delay, piece = self._pieces.pop(0)
                if delay:
                    self.sock.lapse(delay, _read_timed_out, "body")
                if piece:
                    return self._exchange.read(piece)
            if self._cut:
                raise urllib3.exceptions.ProtocolError("cut short")
        except urllib3.exceptions.HTTPError:
            self._exchange.breaks_off()
            raise
        self._exchange.counts = True
        return b""


def _read_timed_out(text):
    return urllib3.exceptions.ReadTimeoutError(None, "", text)
