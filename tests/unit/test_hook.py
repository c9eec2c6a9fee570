"""The hook: orders, the connection test, and sessions."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
import requests

from airflow_provider_manxue._client import sync_client
from airflow_provider_manxue._client.sync_client import BearerAuth
from airflow_provider_manxue.exceptions import ManxueInputError, ManxueOrderUnknownError
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.models import TaskStatus
from airflow_provider_manxue.testing import Emulator, Response, Script
from tests.support.fake_airflow import ManualClock


@pytest.fixture
def emulator(monkeypatch):
    with Emulator() as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", emulator.airflow_connection_json())
        yield emulator


@pytest.fixture
def hook():
    return ManxueHook()


def test_order_request_matches_the_documentation(emulator, hook):
    task = hook.create_video(
        prompt="a cat",
        model="sd2_manxue_video_720p",
        duration=8,
        ratio="9:16",
        reference_videos=("https://example.com/a.mp4",),
    )
    assert task.status is TaskStatus.QUEUED
    [order] = emulator.ledger.orders
    assert order.id == task.id
    assert json.loads(emulator.requests[-1].body) == {
        "prompt": "a cat",
        "model": "sd2_manxue_video_720p",
        "duration": 8,
        "ratio": "9:16",
        "referenceVideos": ["https://example.com/a.mp4"],
    }


@pytest.mark.parametrize("name", ["create_envelope_project_id", "http_202_on_create"])
def test_older_order_responses_are_parsed(emulator, hook, name):
    emulator.respond_with(Response.named(name))
    task = hook.create_video(prompt="a cat", model="sd2_manxue_720p")
    assert task.id == emulator.ledger.orders[-1].id
    assert task.status is TaskStatus.QUEUED


@pytest.mark.parametrize(
    "response", [Response(reset="after"), Response(status=500), Response(body="")], ids=str
)
def test_order_is_sent_once_after_a_failure(emulator, hook, response):
    emulator.respond_with(response)
    with pytest.raises(ManxueOrderUnknownError):
        hook.create_video(prompt="a cat", model="sd2_manxue_720p")
    assert [record.method for record in emulator.requests] == ["POST"]


def test_connection_is_reused_between_polls(emulator, hook):
    emulator.add_task(id="task-1", script=Script.polls("completed"))
    for _ in range(3):
        hook.get_video_task("task-1")
    assert len({record.connection_id for record in emulator.requests}) == 1


def test_request_timeout_includes_the_connect(emulator, hook, monkeypatch):
    """The body gets the part of the timeout that the connect and the head have left."""
    bounds = []
    clock = ManualClock()

    class SocketDeadline(sync_client.SocketDeadline):
        def __init__(self, sock, seconds):
            bounds.append(seconds)
            super().__init__(sock, seconds)

    def request(session, *arguments, timeout, **options):
        bounds.append(timeout.total)
        clock.sleep(12)
        return requests.Session.request(session, *arguments, timeout=timeout, **options)

    session = hook.get_conn()
    monkeypatch.setattr(session, "request", partial(request, session))
    monkeypatch.setattr(sync_client, "SocketDeadline", SocketDeadline)
    monkeypatch.setattr(sync_client, "time", SimpleNamespace(time=clock.time, monotonic=clock.time))
    emulator.add_task(id="task-1", script=Script.polls("completed"))
    hook.get_video_task("task-1")
    assert hook.settings.request_timeout == 30
    assert bounds == [30, 18]


def test_bad_id_is_rejected_before_the_connection_lookup():
    with pytest.raises(ManxueInputError):
        ManxueHook("no_such_connection").get_video_task("")


def test_repr_of_the_auth_hides_the_key():
    assert "secret" not in repr(BearerAuth("secret"))


class TestConnectionTest:
    def test_connection_test_accepts_an_unknown_id(self, emulator, hook):
        ok, message = hook.test_connection()
        assert ok
        assert "was reached and did not refuse the key" in message
        assert "HTTP 404" in message
        assert not emulator.ledger.orders

    def test_connection_test_reports_a_refused_key(self, emulator, hook, monkeypatch):
        connection = json.loads(emulator.airflow_connection_json()) | {"password": "wrong"}
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", json.dumps(connection))
        ok, message = hook.test_connection()
        assert not ok
        assert "refused the API key" in message

    @pytest.mark.parametrize(
        ("response", "words"),
        [
            (Response.named("http_200_business_error"), "does not know the path"),
            (Response.named("http_404_no_handler"), "does not know the path"),
            (Response(status=503), "HTTP 503"),
            (Response(status=403), "forbids"),
            (Response(body="<html>"), "not a JSON object"),
        ],
        ids=str,
    )
    def test_connection_test_reports_other_errors(self, emulator, hook, response, words):
        emulator.respond_with(response)
        ok, message = hook.test_connection()
        assert not ok
        assert words in message

    def test_connection_test_accepts_an_existing_id(self, emulator, hook):
        emulator.add_task(id="airflow-connection-test", script=Script.polls("completed"))
        assert hook.test_connection()[0]

    def test_connection_test_reports_an_unreachable_host(self, emulator, hook):
        with emulator.outage("refuse"):
            ok, message = hook.test_connection()
        assert not ok
        assert "connection refused" in message

    def test_connection_test_reports_a_bad_field(self, hook, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", json.dumps({"conn_type": "manxue"}))
        ok, message = hook.test_connection()
        assert not ok
        assert "field 'password'" in message
