"""The state of one simulated deployment, and the patches that run the shipped code in it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import importlib
import json
import logging
import random
import re
from unittest.mock import patch

import aiohttp
from greenlet import getcurrent

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_manxue import sensors, triggers  # noqa: F401
from airflow_provider_manxue._airflow import (
    batch_wait,
    order_store,
    ordered_wait,
    single_wait,
    waiting,
    xcoms,
)
from airflow_provider_manxue._airflow import task_trigger as task_trigger_module
from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue._airflow.waiting import ManxueWaitBase
from airflow_provider_manxue._client import (
    airflow_metrics,
    async_client,
    connection_cache,
    credentials,
    drivers,
    endpoint,
    rate_limiter,
    sync_client,
    threaded,
)
from airflow_provider_manxue.hooks import manxue as hook_module
from airflow_provider_manxue.testing import _response as response_module
from airflow_provider_manxue.testing import _tasks as emulated_tasks
from airflow_provider_manxue.triggers import manxue as trigger_module
from tests.simulation import network as network_module
from tests.simulation.grants import Grants, ObservedLimiter
from tests.simulation.network import AsyncSession, Session, SocketDeadline
from tests.support.virtual_time import Worker, run_until_complete, sleep

START = 1_800_000_000.0
"""Time at the start of a schedule, in seconds since the epoch."""

PROCESS = contextvars.ContextVar("process", default=None)
"""The process that the current code on the event loop runs in."""

RUN = contextvars.ContextVar("run", default=None)
"""The trigger run that the current code belongs to. A `Process` too, since it has its own start, end and task."""

_PROGRESS = re.compile(r"(\d+) of (\d+) videos completed")


class ProcessKilled(BaseException):
    """Kill of a process: nothing that its code does afterwards has any effect."""


class Clock:
    """
    The clocks of a schedule. The service's clock and all sleeps follow the loop; Airflow's clock is stepped.

    :param loop: the event loop.
    :param steps: pairs: the time of a step of Airflow's clock, and the seconds to add.
    """

    def __init__(self, loop, steps=()):
        self._loop = loop
        self.steps = sorted(steps)

    def elapsed(self):
        return self._loop.time()

    def now(self):
        """Return the service's time; the emulator calls this."""
        return START + self._loop.time()

    def time(self):
        """Return the time of Airflow's machines."""
        return self.at(self._loop.time())

    def at(self, elapsed):
        if not self.steps:
            return START + elapsed
        return START + elapsed + sum(by for moment, by in self.steps if moment <= elapsed)

    def before(self, moment):
        """Return the time of Airflow's machines just before a step."""
        return START + moment + sum(by for earlier, by in self.steps if earlier < moment)

    def until(self, wall):
        """Return the seconds until Airflow's clock first reaches a time."""
        now = begin = self._loop.time()
        for end in [*(moment for moment, _ in self.steps if moment > now), float("inf")]:
            due = begin + max(0.0, wall - self.at(begin))
            if due < end:
                return due - now
            begin = end
        raise AssertionError("the clock never reaches this time")


class Process:
    """
    A process of Airflow.

    :param simulation: the simulation.
    :param name: name in the trace.
    :param meet: called at each boundary; may raise or mark the process as dead.
    :param task_id: its task; None for a triggerer, which serves many.
    """

    def __init__(self, simulation, name, meet=lambda process, what: None, task_id=None):
        self.name, self.task_id = name, task_id
        self.alive = True
        self.was_interrupted = False
        self.begun_at = simulation.loop.time()
        self.lost_at = None  # time at which Airflow lost contact with it
        self.ended_at = float("inf")
        self._simulation, self._meet = simulation, meet

    def boundary(self, what):
        """Pass a boundary: a point at which the process may be killed or interrupted."""
        if self.alive:
            self._meet(self, what)
        if not self.alive:
            raise ProcessKilled(what)

    def sleep(self, seconds):
        self.boundary("sleep")
        sleep(seconds)


class Connection:
    """
    An Airflow connection that a schedule may edit.

    :param password: the API key.
    :param extra: extra fields.
    """

    host, port, schema = "https://service.example", None, None

    def __init__(self, password, extra):
        self.password = password
        self.extra_dejson = extra

    @property
    def extra(self):
        """The extra fields as JSON text."""
        return json.dumps(self.extra_dejson)


class Simulation:
    """
    The state that the processes of a schedule share.

    :param loop: the event loop.
    :param steps: steps of Airflow's clock.
    :param make_network: function that makes the network from the clock.
    :param key: API key in the connection.
    :param extra: extra fields of the connection.
    """

    def __init__(self, loop, steps, make_network, key, extra):
        self.loop = loop
        self.clock = Clock(loop, steps)
        self.network = make_network(self.clock)
        self.connection = Connection(key, extra)
        self.look_ups = []  # start, end, and kind of each failure of Airflow's connection look-up
        self.sessions = []
        self.clients = {}
        self.throttles = {}
        self.grants = []
        self.least = None  # lowest requests_per_second and max_connections of the schedule
        self.instances = {}
        self.lines = []
        self.progress = {}
        self.trace = []
        self.findings = []
        self.at_boundary = lambda number, what: None

    def record(self, who, what):
        self.trace.append((self.loop.time(), getattr(who, "name", who), what))

    def record_progress(self, process, line):
        """Store a log line about the progress of a batch, under the process that waits."""
        if process is not None and (match := _PROGRESS.match(line)):
            at, (done, total) = self.loop.time(), map(int, match.groups())
            self.progress.setdefault(RUN.get() or process, []).append((at, done, total))

    def begin(self, method, session=None):
        """Begin a request of the current process."""
        process = self.process_here()
        exchange = self.network.begin(process, method)
        exchange.session, exchange.waits_in = session, RUN.get() or process
        return exchange

    @staticmethod
    def process_here():
        here = getcurrent()
        return here.process if isinstance(here, Worker) else PROCESS.get()


# --- patches of the shipped code ----------------------------------------------------------------------------

_simulations: list[Simulation] = []


def here():
    """Return the current simulation."""
    return _simulations[-1]


@contextlib.contextmanager
def current(simulation, seed):
    """Make this the current simulation, and seed the random choices of the shipped code."""
    _simulations.append(simulation)
    random.seed(seed)
    try:
        yield simulation
    finally:
        _simulations.pop()


class _Time:
    """Replaces the module ``time``."""

    @staticmethod
    def time():
        return here().clock.time()

    @staticmethod
    def monotonic():
        return here().loop.time()

    @staticmethod
    def sleep(seconds):
        here().process_here().sleep(seconds)


class _Log:
    """Replaces all loggers."""

    @staticmethod
    def log(level, text, *args):
        process = here().process_here()
        here().lines.append(text % args if args else text)
        here().record(process, f"log: {here().lines[-1]}")
        here().record_progress(process, here().lines[-1])
        if isinstance(getcurrent(), Worker):
            process.boundary("after a line in the log")

    def info(self, text, *args):
        self.log(0, text, *args)

    debug = warning = error = exception = info


class _Clients:
    """Replaces the table of clients by event loop: all processes of a schedule run on one loop, but share no client."""

    def setdefault(self, loop, client):
        return here().clients.setdefault(PROCESS.get(), client)

    def __delitem__(self, loop):
        del here().clients[PROCESS.get()]


class _Throttles:
    """Replaces the table of throttles by event loop."""

    def setdefault(self, loop, throttles):
        return here().throttles.setdefault(PROCESS.get(), throttles)


def _limiter(rate, max_concurrency, *, name):
    grants = Grants(here().process_here, *here().least)
    here().grants.append(grants)
    return ObservedLimiter(rate, max_concurrency, name=name, grants=grants)


class XCom:
    """Replaces Airflow's XCom model."""

    @staticmethod
    def get_one(*, key, dag_id, run_id, task_id, map_index):
        upstream = here().instances[task_id.removeprefix("before_")].upstream
        return upstream if map_index < 0 else upstream[map_index]

    @staticmethod
    def set(*, key, value, dag_id, run_id, task_id, map_index):
        here().instances[task_id].keep_xcom(key, value)

    @staticmethod
    def delete(*, key, dag_id, run_id, task_id, map_index):
        here().instances[task_id].xcom.pop(key, None)


def _connection(conn_id):
    process = here().process_here()
    if isinstance(getcurrent(), Worker):
        process.boundary("connection")
    match _look_up_trouble():
        case "missing":
            raise AirflowNotFoundException(conn_id)
        case "error" | "hangs":  # Airflow bounds a look-up on a worker
            raise ConnectionError(conn_id)
    return copy.copy(here().connection)


def _look_up_trouble():
    now = here().loop.time()
    return next((kind for begin, end, kind in here().look_ups if begin <= now < end), None)


async def _async_connection(conn_id):
    await asyncio.sleep(1000.0 if _look_up_trouble() == "hangs" else 0.01)
    return _connection(conn_id)


async def _async_extra(connection):
    await asyncio.sleep(0.001)
    return connection.extra_dejson


async def _to_thread(function, *args, **kwargs):
    await asyncio.sleep(0.001)
    return function(*args, **kwargs)


def _run(coroutine):
    context = contextvars.copy_context()
    context.run(PROCESS.set, here().process_here())
    return run_until_complete(coroutine, context)


@contextlib.contextmanager
def installed():
    """Patch time, network and Airflow's database. All decisions remain those of the shipped code."""
    compat = importlib.import_module("airflow.providers.common.compat.connection")
    replaced = [
        *(
            (module, "time", _Time)
            for module in (
                response_module,
                network_module,
                async_client,
                connection_cache,
                credentials,
                drivers,
                hook_module,
                sync_client,
                ordered_wait,
                order_store,
                batch_wait,
                task_trigger_module,
                trigger_module,
                single_wait,
                waiting,
            )
        ),
        *(
            (cls, "log", _Log())
            for cls in (ManxueWaitBase, hook_module.ManxueHook, task_trigger_module.StartFromTrigger)
        ),
        # They are off; each process would read that from the configuration anew, which takes 7 % of the time.
        (airflow_metrics.SentMetrics, "is_on", False),
        (connection_cache, "log", _Log()),
        (rate_limiter, "log", _Log()),
        (async_client, "_clients", _Clients()),
        (async_client, "_throttles", _Throttles()),
        (async_client, "AdaptiveRateLimiter", _limiter),
        (endpoint, "ssl_context", lambda settings: True),
        (endpoint, "session_key", lambda settings: (settings.verify, settings.ca_bundle)),
        (endpoint, "proxy_for", lambda settings: settings.proxy),
        (sync_client, "proxy_for", lambda settings: settings.proxy),
        (sync_client, "ca_path", lambda settings: None),
        (aiohttp, "TCPConnector", lambda **options: None),
        (aiohttp, "ClientSession", lambda **options: AsyncSession(here())),
        (sync_client, "SocketDeadline", SocketDeadline),
        (hook_module, "new_session", lambda: Session(here())),
        (hook_module.ManxueHook, "get_connection", staticmethod(_connection)),
        (compat, "get_async_connection", _async_connection),
        (compat, "get_async_extra_dejson", _async_extra),
        (asyncio, "to_thread", _to_thread),
        (threaded, "run_interruptibly", _run),
        (xcoms, "XCom", XCom),
        (emulated_tasks, "_video", lambda *arguments: None),  # no schedule downloads a video
    ]
    if CAN_START_AND_END:
        base = importlib.import_module("airflow.sdk.bases.xcom").BaseXCom
        replaced.append((base, "set", XCom.set))
    state = random.getstate()
    with contextlib.ExitStack() as stack:
        for target, name, value in replaced:
            stack.enter_context(patch.object(target, name, value))
        stack.enter_context(_quiet_service())
        yield
    random.setstate(state)


@contextlib.contextmanager
def _quiet_service():
    """Silence the emulator's log of faults."""
    logger = logging.getLogger("airflow_provider_manxue.testing")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def as_stored(value):
    """Round-trip a value through JSON, as the metadata database does."""
    return json.loads(json.dumps(value, allow_nan=False))
