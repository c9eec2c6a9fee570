"""Fixtures of the unit tests: the fake Airflow, its clock and service, and connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from airflow_provider_manxue._airflow import batch_wait as batch_module
from airflow_provider_manxue._airflow import single_wait as single_module
from airflow_provider_manxue._airflow import task_trigger as task_trigger_module
from airflow_provider_manxue._airflow import waiting as waiting_module
from airflow_provider_manxue._airflow import xcoms as xcoms_module
from airflow_provider_manxue._client import async_client as client_module
from airflow_provider_manxue._client import credentials as credentials_module
from airflow_provider_manxue._client import dialer
from airflow_provider_manxue._client import drivers as drivers_module
from airflow_provider_manxue._client import recorder as recorder_module
from airflow_provider_manxue._client import threaded as threaded_module
from airflow_provider_manxue._client.airflow_metrics import SentMetrics, worker_stats
from airflow_provider_manxue._core.connection import parse_connection
from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue.hooks import manxue as hook_module
from airflow_provider_manxue.testing import Clock, Emulator
from airflow_provider_manxue.triggers import manxue as trigger_module
from tests.support import records
from tests.support.clients import poll_from_triggerer, poll_from_worker
from tests.support.fake_airflow import (
    FakeAirflow,
    FakeClient,
    ManualClock,
    ScriptedService,
    link_into,
    to_xcoms,
)


def pytest_addoption(parser):
    parser.addoption("--write-golden", metavar="VERSION", help="write new golden files for a release")


@pytest.fixture(params=[poll_from_worker, poll_from_triggerer], ids=["worker", "triggerer"])
def poll(request):
    """Poll for a video, by each of the two clients."""
    return request.param


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def service(clock):
    return ScriptedService(clock)


def install_fakes(monkeypatch, fake_airflow):
    """Replace the clock, the network and Airflow's database. All decisions of the package are real."""
    clock = fake_airflow.clock

    class Hook:
        settings = SimpleNamespace(
            base_url="https://service.example/api", request_timeout=30.0, requests_per_second=10.0
        )
        read_settings = None

        def __init__(self, conn_id):
            self.conn_id = conn_id
            self.metrics = SentMetrics(worker_stats)

        def get_video_task(self, video_task_id):
            return fake_airflow.service.poll(parse_video_task_id(video_task_id), "worker")

    @contextlib.asynccontextmanager
    async def shared_client():
        yield FakeClient(fake_airflow, "triggerer")

    async def in_this_thread(function, *args, **kwargs):
        return function(*args, **kwargs)  # virtual time cannot wait for another thread

    modules = (batch_module, single_module, waiting_module, trigger_module, task_trigger_module)
    for module in (*modules, drivers_module, credentials_module):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(asyncio, "to_thread", in_this_thread)
    monkeypatch.setattr(hook_module, "ManxueHook", Hook)
    monkeypatch.setattr(xcoms_module, "XCom", to_xcoms(fake_airflow))
    monkeypatch.setattr(xcoms_module.XComs, "push_link", link_into(fake_airflow))
    monkeypatch.setattr(
        client_module,
        "AsyncClient",
        lambda load_connection, metrics: FakeClient(fake_airflow, "worker", metrics),
    )
    monkeypatch.setattr(trigger_module, "shared_client", shared_client)
    monkeypatch.setattr(threaded_module, "run_interruptibly", lambda work: fake_airflow.run_loop(work))
    monkeypatch.setattr(random, "random", itertools.cycle([0.5]).__next__)


@pytest.fixture
def fake_airflow(monkeypatch, clock, service):
    fake_airflow = FakeAirflow(clock, service)
    install_fakes(monkeypatch, fake_airflow)
    return fake_airflow


@pytest.fixture(name="install_fakes")
def install_fakes_fixture():
    return install_fakes


@pytest.fixture
def settings_of():
    """Return a function that creates settings for an emulator, or for any base URL on loopback."""

    def make(base_url, api_key="emulator-key", **extra):
        return parse_connection("test", host=base_url, password=api_key, extra=extra)

    return make


@pytest.fixture
def waited(monkeypatch):
    """The seconds that each connection attempt waits. All addresses are silent, and time is simulated."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    seconds = []

    def be_silent(address, timeout):
        seconds.append(timeout)
        clock.now += timeout
        raise TimeoutError("timed out")

    monkeypatch.setattr(dialer, "time", clock)
    monkeypatch.setattr(socket, "create_connection", be_silent)
    return seconds


@pytest.fixture
def dripping_proxy():
    """A proxy that sends the head of its response to ``CONNECT`` byte by byte, endlessly."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=_drip, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _drip(server):
    with contextlib.suppress(OSError):
        sock, _ = server.accept()
        with sock:
            sock.sendall(b"HTTP/1.1 200 ")
            while True:
                sock.sendall(b"x")
                time.sleep(0.02)


# --- the doctor -------------------------------------------------------------------------------------------


@pytest.fixture
def no_proxies(monkeypatch):
    """Remove the proxies of the environment."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def start_emulator():
    """Return a function that starts an emulator whose clock stands still."""
    started = []

    def start():
        clock = Clock(start=1_800_000_000, frozen=True)
        started.append(Emulator(api_key=records.KEY, clock=clock).start())
        return started[-1]

    yield start
    for emulator in started:
        emulator.stop()


@pytest.fixture
def use_emulator(monkeypatch, no_proxies):
    """Return a function that sets the connection to an emulator, and lets sleeps advance its clock."""

    def use(emulator, **fields):
        # A busy machine must not let a response time out.
        connection = {**json.loads(emulator.airflow_connection_json()), "extra": {"request_timeout": 300}}
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", json.dumps({**connection, **fields}))
        clock = emulator.clock
        # Retry-After as a date is in real time.
        monkeypatch.setattr(
            recorder_module, "time", SimpleNamespace(monotonic=clock.now, time=time.time, sleep=clock.advance)
        )

    return use


@pytest.fixture
def record_tasks(use_emulator, tmp_path, capsys):
    """Return a function that records tasks of an emulator. It returns the file, and what was printed."""
    numbers = iter(range(100))

    def record(emulator, *ids, every=30, duration=0, **fields):
        use_emulator(emulator, **fields)
        path = tmp_path / f"record-{next(numbers)}.json"
        code, printed = records.run(
            capsys, *ids, "--file", str(path), "--every", str(every), "--for", str(duration)
        )
        assert code == 0, printed
        return path, printed

    return record
