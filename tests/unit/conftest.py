"""Fixtures of a world in which time is driven by hand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random

import pytest

from airflow_provider_manxue import waiting as waiting_module
from airflow_provider_manxue.connection import read_connection
from airflow_provider_manxue.hooks import manxue as hook_module
from airflow_provider_manxue.protocol import read_video_task_id
from airflow_provider_manxue.sensors import manxue as sensor_module
from airflow_provider_manxue.triggers import manxue as trigger_module
from world import ManualClock, ScriptedService, World


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def service(clock):
    return ScriptedService(clock)


@pytest.fixture
def world(monkeypatch, clock, service):
    """Everything that touches time or the network is replaced; every decision is the real one."""

    class Hook:
        def __init__(self, conn_id):
            self.conn_id = conn_id

        def get_video_task(self, video_task_id):
            return service.ask(read_video_task_id(video_task_id), "worker")

    class Transport:
        async def get_video_task(self, conn_id, video_task_id, poke_interval):
            return service.ask(video_task_id, "triggerer")

    @contextlib.asynccontextmanager
    async def shared_transport():
        yield Transport()

    async def sleep_until(moment):
        clock.now = max(clock.now, moment)
        await asyncio.sleep(0)  # the other waits of a batch have their turn

    monkeypatch.setattr(hook_module, "ManxueHook", Hook)
    monkeypatch.setattr(sensor_module, "time", clock)
    monkeypatch.setattr(waiting_module, "time", clock)
    monkeypatch.setattr(trigger_module, "time", clock)
    monkeypatch.setattr(trigger_module, "shared_transport", shared_transport)
    monkeypatch.setattr(trigger_module, "_sleep_until", sleep_until)
    monkeypatch.setattr(random, "random", itertools.cycle([0.5]).__next__)
    return World(clock, service)


@pytest.fixture
def settings_of():
    """Make settings for an emulator, or for any base URL on loopback."""

    def make(base_url, api_key="emulator-key", **extra):
        return read_connection("test", host=base_url, password=api_key, extra=extra)

    return make
