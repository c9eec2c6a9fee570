"""Fixtures of a world in which time is driven by hand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from types import SimpleNamespace

import pytest

from airflow_provider_manxue._airflow import task_trigger as task_trigger_module
from airflow_provider_manxue._airflow import waiting as waiting_module
from airflow_provider_manxue._airflow import xcoms as xcoms_module
from airflow_provider_manxue._client import async_client as transport_module
from airflow_provider_manxue._core.connection import parse_connection
from airflow_provider_manxue._core.responses import parse_video_task_id
from airflow_provider_manxue.exceptions import ManxueError
from airflow_provider_manxue.hooks import manxue as hook_module
from airflow_provider_manxue.sensors import manxue as sensor_module
from airflow_provider_manxue.triggers import manxue as trigger_module
from asking import ask_from_triggerer, ask_from_worker
from world import ManualClock, ScriptedService, World, link_into, to_xcoms


def pytest_addoption(parser):
    parser.addoption("--write-golden", metavar="VERSION", help="write the forms of test_golden.py anew")


@pytest.fixture(params=[ask_from_worker, ask_from_triggerer], ids=["worker", "triggerer"])
def ask(request):
    """Ask the service for a video, by each of the transports."""
    return request.param


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def service(clock):
    return ScriptedService(clock)


def play(monkeypatch, world):
    """Replace everything that touches time or the network; every decision is the real one."""
    clock = world.clock

    class Hook:
        settings = SimpleNamespace(base_url="https://service.example/api", request_timeout=30.0)
        read_settings = None

        def __init__(self, conn_id):
            self.conn_id = conn_id

        def get_video_task(self, video_task_id):
            return world.service.ask(parse_video_task_id(video_task_id), "worker")

    class Transport:
        prepare = staticmethod(lambda conn_id: None)

        async def get_video_task(self, conn_id, video_task_id, poke_interval):
            return world.service.ask(video_task_id, "triggerer")

    @contextlib.asynccontextmanager
    async def shared_transport():
        yield Transport()

    async def ask_for_all(read_settings, video_task_ids, until=None):
        outcomes = {}
        for video_task_id in video_task_ids:
            try:
                outcomes[video_task_id] = world.service.ask(video_task_id, "worker")
            except ManxueError as error:
                outcomes[video_task_id] = error
        return outcomes

    async def sleep_until(moment):
        clock.now = max(clock.now, moment)
        await asyncio.sleep(0)  # the other waits of a batch have their turn

    for module in (sensor_module, waiting_module, trigger_module, task_trigger_module):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(hook_module, "ManxueHook", Hook)
    monkeypatch.setattr(xcoms_module, "XCom", to_xcoms(world))
    monkeypatch.setattr(xcoms_module.XComs, "push_link", link_into(world))
    monkeypatch.setattr(transport_module, "ask_for_all", ask_for_all)
    monkeypatch.setattr(trigger_module, "shared_transport", shared_transport)
    monkeypatch.setattr(trigger_module, "_sleep_until", sleep_until)
    monkeypatch.setattr(random, "random", itertools.cycle([0.5]).__next__)


@pytest.fixture
def world(monkeypatch, clock, service):
    world = World(clock, service)
    play(monkeypatch, world)
    return world


@pytest.fixture(name="play")
def play_fixture():
    return play


@pytest.fixture
def settings_of():
    """Make settings for an emulator, or for any base URL on loopback."""

    def make(base_url, api_key="emulator-key", **extra):
        return parse_connection("test", host=base_url, password=api_key, extra=extra)

    return make
