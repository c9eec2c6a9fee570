"""
Delay between the deadline of a wait and its end, in virtual time, for each behavior of the service.

Single requests are replaced. The rate limiter and all timeouts around them are real.
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
"""
Seconds from the deadline to the latest end of a wait, unless the service throttles or refuses the key.

The final polls of a batch share the limits of the connection, which allow a third of them in flight.
"""

VIDEOS = [f"proj_{number}" for number in range(30)]
"""More videos than the connection limits allow to poll within one request timeout."""

PROCESSING = VideoTask("", TaskStatus.PROCESSING)
WITHOUT_URL = VideoTask("", TaskStatus.COMPLETED)

# Behaviour of the service: functions of the elapsed seconds that return delay and outcome of a request.
SERVICES = {
    "responds": lambda now: (0.1, PROCESSING),
    "is slow": lambda now: (0.99 * REQUEST_TIMEOUT, PROCESSING),
    "hangs": lambda now: (math.inf, None),
    "hangs after a while": lambda now: (0.1 if now < 30 else math.inf, PROCESSING),
    "hangs now and then": lambda now: (math.inf if now % 40 < 20 else 0.1, PROCESSING),
    "refuses connections": lambda now: (0.0, ManxueTransientError("connection refused")),
    "throttles": lambda now: (0.1, ManxueRateLimitError("HTTP 429")),
    "throttles with a short Retry-After": lambda now: (0.1, ManxueRateLimitError("HTTP 429", retry_after=7)),
    "throttles with a long Retry-After": lambda now: (0.1, ManxueRateLimitError("HTTP 429", retry_after=1e6)),
    "throttles now and then": lambda now: (
        0.1,
        ManxueRateLimitError("HTTP 429", retry_after=60) if now % 50 > 30 else PROCESSING,
    ),
    "does not know the id": lambda now: (0.1, ManxueRefusedError("HTTP 404")),
    "completes without a URL": lambda now: (0.1, WITHOUT_URL),
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
    """Responds to a worker and to a triggerer, each time after a delay."""

    def __init__(self, clock):
        self.clock = clock
        self.behavior = SERVICES["responds"]

    def exchange(self):
        """Return the delay and the outcome of a request."""
        takes, outcome = self.behavior(self.clock.time() - START)
        if takes > REQUEST_TIMEOUT:
            return REQUEST_TIMEOUT, ManxueTransientError("no response: timed out")
        return takes, outcome

    def poll(self, video_task_id, side):
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


async def in_this_thread(function, *arguments):
    return function(*arguments)


@pytest.fixture
def service(clock):
    return SlowService(clock)


@pytest.fixture
def fake_airflow(monkeypatch, install_fakes, clock, service):
    """The fake Airflow with slow requests. The rate limiter and the timeouts around them are real."""
    fake_airflow = FakeAirflow(clock, service)
    shipped = [(async_client, "AsyncClient", AsyncClient), (trigger_module, "shared_client", shared_client)]
    install_fakes(monkeypatch, fake_airflow)
    replaced = [
        (AsyncClient, "_query", lambda client, *arguments: service.query(client, *arguments)),
        (async_client, "_open_endpoint", open_endpoint),
        (async_client, "_import_http_library", lambda: asyncio.sleep(0)),
        (async_client, "load_connection", load_connection),
        *((module, "time", clock) for module in (async_client, connection_cache, credentials)),
        (hook_module.ManxueHook, "settings", SETTINGS),
        (hook_module.ManxueHook, "read_settings", lambda hook: SETTINGS),
        (asyncio, "to_thread", in_this_thread),
        (random, "random", itertools.cycle([0.5, 0.0, 0.9, 0.2]).__next__),
    ]
    for module, name, value in shipped + replaced:
        monkeypatch.setattr(module, name, value)
    return fake_airflow


def overshoot(kind, behavior):
    """Return the seconds from the deadline to the latest end of a wait, as documented in docs/engine.md."""
    if behavior.startswith("throttles"):
        # A batch polls through the limiter of the trigger for as long as Airflow's own timeout of the deferral allows.
        return LATEST[kind] + MAX_OVERSHOOT + (DEFER_TIMEOUT_MARGIN if kind == "batch" else 0.0)
    if behavior in {"completes without a URL", "refuses the key in the end"}:
        return LATEST[kind] + GRACE_TIME
    return LATEST[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("behavior", SERVICES)
def test_wait_ends_soon_after_its_deadline(fake_airflow, service, clock, mode, kind, behavior):
    if mode == "in the triggerer" and not CAN_START_AND_END:
        pytest.skip("this Airflow starts and ends tasks on workers only")
    service.behavior = SERVICES[behavior]
    for policy, timeout in itertools.product(POLICIES, TIMEOUTS[kind]):
        clock.now = START
        fake_airflow.fired_at, fake_airflow.reschedules, fake_airflow.ti.first_start = [], [], None
        with DAG("dag", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
            sensor = KINDS[kind](timeout=timeout, **policy, **MODES[mode])
        with pytest.raises(ManxueError) as raised:
            fake_airflow.run(sensor)
        decided_after = (fake_airflow.fired_at or [clock.now])[-1] - START
        what = f"{policy}, timeout={timeout}: {raised.type.__name__} after {decided_after:g} s"
        latest = timeout + overshoot(kind, behavior)
        assert all(at <= START + latest for at in fake_airflow.reschedules), what
        assert decided_after <= latest, what
        if raised.type is ManxueTimeoutError:
            assert decided_after >= timeout, what
