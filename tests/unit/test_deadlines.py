"""
How late after its deadline a wait is decided, in virtual time, whatever the service does and however long it takes.

Everything that is shipped is real, up to the single request: the turns and the timeouts around it as well.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from datetime import UTC, datetime, timedelta

import pytest

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue._client import async_client, connection_cache, credentials
from airflow_provider_manxue._client.async_client import AsyncClient, shared_client
from airflow_provider_manxue._client.endpoint import Endpoint
from airflow_provider_manxue._client.endpoint import Session as ClientSession
from airflow_provider_manxue._core.connection import parse_connection
from airflow_provider_manxue._core.deadline import DEFER_TIMEOUT_MARGIN, FINAL_POLL_WINDOW, MAX_OVERSHOOT
from airflow_provider_manxue._core.polling import GRACE_TIME
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueRateLimitError,
    ManxueRefusedError,
    ManxueTimeoutError,
    ManxueTransientError,
)
from airflow_provider_manxue.hooks import manxue as hook_module
from airflow_provider_manxue.models import TaskStatus, VideoTask
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.triggers import manxue as trigger_module
from tests.support.fake_airflow import START, FakeAirflow

REQUEST_TIMEOUT = 5.0
LATEST = {
    "single": FINAL_POLL_WINDOW + 3 * REQUEST_TIMEOUT,
    "batch": FINAL_POLL_WINDOW + 12 * REQUEST_TIMEOUT,
}
"""Seconds after the deadline in which a wait must be decided, unless the service wants a pause or refuses the key. The final
polls of a batch share the connection's limits: there are three times as many as may be in flight."""

VIDEOS = [f"proj_{number}" for number in range(30)]
"""More than the connection's limits let be asked for within a request's timeout."""

PROCESSING = VideoTask("", TaskStatus.PROCESSING)
WITHOUT_URL = VideoTask("", TaskStatus.COMPLETED)

# What the service does after so many seconds: how long it takes, and what comes then.
SERVICES = {
    "answers": lambda now: (0.1, PROCESSING),
    "is slow": lambda now: (0.99 * REQUEST_TIMEOUT, PROCESSING),
    "hangs": lambda now: (math.inf, None),
    "hangs after a while": lambda now: (0.1 if now < 30 else math.inf, PROCESSING),
    "hangs now and then": lambda now: (math.inf if now % 40 < 20 else 0.1, PROCESSING),
    "refuses": lambda now: (0.0, ManxueTransientError("connection refused")),
    "says 429": lambda now: (0.1, ManxueRateLimitError("HTTP 429")),
    "says 429, a short pause": lambda now: (0.1, ManxueRateLimitError("HTTP 429", retry_after=7)),
    "says 429, a long pause": lambda now: (0.1, ManxueRateLimitError("HTTP 429", retry_after=1e6)),
    "says 429 now and then": lambda now: (
        0.1,
        ManxueRateLimitError("HTTP 429", retry_after=60) if now % 50 > 30 else PROCESSING,
    ),
    "knows no such id": lambda now: (0.1, ManxueRefusedError("HTTP 404")),
    "has no URL": lambda now: (0.1, WITHOUT_URL),
    "refuses the key in the end": lambda now: (
        2.0,
        ManxueAuthenticationError("401") if now > 60 else PROCESSING,
    ),
}
MODES = {
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
    "deferred": {},
    "in the triggerer": {"start_from_trigger": True, "end_from_trigger": True},
}
KINDS = {
    "single": lambda **options: ManxueVideoSensor(task_id="wait", video_task_id=VIDEOS[0], **options),
    "batch": lambda **options: ManxueVideoBatchSensor(task_id="wait", video_task_ids=VIDEOS, **options),
}
POLICIES = [
    {"exponential_backoff": backoff, "max_wait": max_wait}
    for backoff, max_wait in itertools.product([False, True], [None, timedelta(seconds=20)])
]
TIMEOUTS = {"single": (0, 3, 100, 400), "batch": (3, 100)}


class SlowService:
    """Answers in its own time, to a worker and to a triggerer."""

    def __init__(self, clock):
        self.clock = clock
        self.answer = SERVICES["answers"]

    def exchange(self):
        """Return how long a request takes, and what comes of it."""
        takes, outcome = self.answer(self.clock.time() - START)
        if takes > REQUEST_TIMEOUT:
            return REQUEST_TIMEOUT, ManxueTransientError("no answer: timed out")
        return takes, outcome

    def ask(self, video_task_id, side):
        takes, outcome = self.exchange()
        self.clock.sleep(takes)
        return given(outcome)

    async def query(self, client, endpoint, video_task_id):
        takes, outcome = self.exchange()
        await asyncio.sleep(takes)
        task = given(outcome)
        endpoint.has_worked = True
        return task


def given(outcome):
    if isinstance(outcome, ManxueError):
        raise outcome
    return outcome


SETTINGS = parse_connection(
    "c", host="https://service.example", password="key", extra={"request_timeout": REQUEST_TIMEOUT}
)


class Session:
    async def close(self):
        pass


async def load_connection(conn_id):
    return SETTINGS


async def open_endpoint(settings, present):
    session = ClientSession(Session(), ())
    return present or Endpoint(settings, session, headers={}, proxy=None, timeout=None)


async def at_once(function, *arguments):
    return function(*arguments)


@pytest.fixture
def service(clock):
    return SlowService(clock)


@pytest.fixture
def world(monkeypatch, play, clock, service):
    """A world in which requests take time: the limits and timeouts around them are the real ones."""
    world = FakeAirflow(clock, service)
    shipped = [(async_client, "AsyncClient", AsyncClient), (trigger_module, "shared_client", shared_client)]
    play(monkeypatch, world)
    replaced = [
        (AsyncClient, "_query", lambda client, *arguments: service.query(client, *arguments)),
        (async_client, "_open_endpoint", open_endpoint),
        (async_client, "_import_http_library", lambda: asyncio.sleep(0)),
        (async_client, "load_connection", load_connection),
        *((module, "time", clock) for module in (async_client, connection_cache, credentials)),
        (hook_module.ManxueHook, "settings", SETTINGS),
        (hook_module.ManxueHook, "read_settings", lambda hook: SETTINGS),
        (asyncio, "to_thread", at_once),
        (random, "random", itertools.cycle([0.5, 0.0, 0.9, 0.2]).__next__),
    ]
    for module, name, value in shipped + replaced:
        monkeypatch.setattr(module, name, value)
    return world


def overshoot(kind, answer):
    """Return the seconds after the deadline in which a wait is decided at the latest, as docs/engine.md has it."""
    if answer.startswith("says 429"):
        # A batch polls through the limiter of the trigger for as long as Airflow's own timeout of the deferral allows.
        return LATEST[kind] + MAX_OVERSHOOT + (DEFER_TIMEOUT_MARGIN if kind == "batch" else 0.0)
    if answer in {"has no URL", "refuses the key in the end"}:
        return LATEST[kind] + GRACE_TIME
    return LATEST[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("answer", SERVICES)
def test_wait_is_decided_soon_after_its_deadline(world, service, clock, mode, kind, answer):
    if mode == "in the triggerer" and not CAN_START_AND_END:
        pytest.skip("this Airflow starts and ends tasks on workers only")
    service.answer = SERVICES[answer]
    for policy, timeout in itertools.product(POLICIES, TIMEOUTS[kind]):
        clock.now = START
        world.fired_at, world.reschedules, world.ti.first_start = [], [], None
        with DAG("dag", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
            sensor = KINDS[kind](timeout=timeout, **policy, **MODES[mode])
        with pytest.raises(ManxueError) as raised:
            world.run(sensor)
        decided_after = (world.fired_at or [clock.now])[-1] - START
        what = f"{policy}, timeout={timeout}: {raised.type.__name__} after {decided_after:g} s"
        latest = timeout + overshoot(kind, answer)
        assert all(at <= START + latest for at in world.reschedules), what
        assert decided_after <= latest, what
        if raised.type is ManxueTimeoutError:
            assert decided_after >= timeout, what
