"""The service and Airflow's connections in virtual time, without sockets, threads and a metadata database."""

from __future__ import annotations

import asyncio
import contextvars
import json
from types import SimpleNamespace

from multidict import CIMultiDict

from airflow_provider_manxue._client import async_client, connection_cache, endpoint
from airflow_provider_manxue._client.endpoint import Session
from airflow_provider_manxue._core.connection import parse_connection
from tests.support.fake_airflow import START

PROCESSING = {"id": "v", "status": "processing"}

task_log = contextvars.ContextVar("task_log", default=None)
"""Stands in for the context variables to which Airflow binds the log of a task."""


def loop_time():
    return asyncio.get_running_loop().time()


class FakeResponse:
    def __init__(self, status, fields):
        self.status = status
        self.headers = CIMultiDict()
        self.content = self
        self._body = json.dumps(fields).encode()

    async def readany(self):
        body, self._body = self._body, b""
        return body

    def release(self):
        pass


class FakeSession:
    """Stands in for a session of aiohttp."""

    def __init__(self, service):
        self._service = service
        self.opened_at = loop_time()
        self.closed_at = None

    async def request(self, method, url, *, headers, **options):
        assert self.closed_at is None
        return await self._service.request(str(url), headers["Authorization"].removeprefix("Bearer "))

    async def close(self):
        await asyncio.sleep(0.001)
        self.closed_at = loop_time()


class FakeService:
    """
    Responds to requests and to connection look-ups.

    :ivar respond: function of base URL and API key that returns status and fields, or raises.
    """

    def __init__(self):
        self.connections = {}
        self.look_ups = []
        self.look_up_takes = 0.01
        self.contexts = []
        self.requests = []
        self.request_takes = 0.05
        self.sessions = []
        self.ca_version = 1
        self.open_error = None
        self.respond = lambda url, key: (200, PROCESSING)
        self.connect("c")

    def connect(self, conn_id, host="https://one.example.com", key="key", **extra):
        self.connections[conn_id] = parse_connection(conn_id, host=host, password=key, extra=extra)

    async def load_connection(self, conn_id):
        self.look_ups.append((loop_time(), conn_id))
        self.contexts.append(contextvars.copy_context().get(task_log))
        await asyncio.sleep(self.look_up_takes)
        found = self.connections[conn_id]
        if isinstance(found, Exception):
            raise found
        return found

    async def open_session(self, settings, key):
        if self.open_error is not None:
            raise self.open_error
        self.sessions.append(FakeSession(self))
        return Session(self.sessions[-1], key)

    async def request(self, url, key):
        self.requests.append((loop_time(), url.partition("/kyy")[0], key))
        response = self.respond(url, key)
        await asyncio.sleep(self.request_takes)
        return FakeResponse(*response)

    def install(self, monkeypatch):
        async def to_thread(function, *arguments, **options):
            await asyncio.sleep(0)
            return function(*arguments, **options)

        monkeypatch.setattr(async_client, "load_connection", self.load_connection)
        monkeypatch.setattr(endpoint, "session_key", lambda settings: (settings.verify, self.ca_version))
        monkeypatch.setattr(endpoint, "_open_session", self.open_session)
        monkeypatch.setattr(
            connection_cache, "time", SimpleNamespace(time=lambda: START + asyncio.get_running_loop().time())
        )
        monkeypatch.setattr(asyncio, "to_thread", to_thread)
