"""Both transports, the worker's and the triggerer's, over real HTTP: they read every answer alike."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from airflow_provider_manxue import __version__
from airflow_provider_manxue._client import async_client as transport_module
from airflow_provider_manxue._client.async_client import ask_for_all, shared_transport
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueMediaTypeError,
    ManxuePermissionError,
    ManxueRateLimitError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueTransientError,
)
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.models import TaskStatus
from airflow_provider_manxue.testing import Answer, Emulator, RateLimit, Script, Step
from asking import CONN_ID, write_connection


@pytest.fixture
def connect(monkeypatch):
    """Write the Airflow connection of an emulator into the environment, with changes."""

    def write(emulator, *, password=None, host=None, **extra):
        connection = json.loads(emulator.airflow_connection_json())
        connection["extra"] = {"request_timeout": 1, **(connection.get("extra") or {}), **extra}
        connection |= {"password": password or emulator.api_key, "host": host or emulator.base_url}
        write_connection(monkeypatch, connection)

    return write


@pytest.fixture
def emulator(connect):
    with Emulator() as emulator:
        emulator.add_task(id="task-1", script=Script.polls("completed"))
        connect(emulator)
        yield emulator


def test_finished_video_is_read(emulator, ask):
    task = ask()
    assert task.status is TaskStatus.COMPLETED
    assert task.video_url.startswith("http://127.0.0.1")
    assert task.actual_duration == 5.0


def test_key_is_sent_and_versions_are_told(emulator, ask):
    ask()
    headers = emulator.requests[-1].headers
    assert headers["Authorization"] == f"Bearer {emulator.api_key}"
    assert f"airflow-provider-manxue/{__version__} apache-airflow/" in headers["User-Agent"]
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers


@pytest.mark.parametrize(
    "video_task_id", ["global task/2", "a?b=c#d", "../../admin", "%2e%2e", "视频-1", "a b", "a+b&c", "..%2f"]
)
def test_id_reaches_the_service_as_one_path_segment(emulator, ask, video_task_id):
    emulator.add_task(id=video_task_id, script=Script.polls("completed"))
    assert ask(video_task_id).id == video_task_id


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Answer(status=403), ManxuePermissionError, "403"),
        (Answer(status=404), ManxueRefusedError, "404"),
        (Answer(status=410), ManxueRefusedError, "410"),
        (Answer(status=302, headers={"Location": "http://127.0.0.1:1/"}), ManxueRedirectError, "redirect"),
        (Answer(status=308, headers={"Location": "/elsewhere"}), ManxueRedirectError, "redirect"),
        (Answer(status=408), ManxueTransientError, "408"),
        (Answer(status=425), ManxueTransientError, "425"),
        (Answer(status=429), ManxueRateLimitError, "429"),
        (Answer(status=500), ManxueTransientError, "500"),
        (Answer(status=503, body="<html>busy</html>"), ManxueTransientError, "503"),
        (Answer(body="<html>welcome</html>"), ManxueTransientError, "not a JSON object"),
        (Answer(body=""), ManxueTransientError, "not a JSON object"),
        (Answer(json=[1, 2]), ManxueTransientError, "not a JSON object"),
        (Answer(json={}), ManxueTransientError, "describes no task"),
        (Answer.named("http_200_business_error"), ManxueRefusedError, "No handler found"),
        (Answer.named("object_image_generation"), ManxueMediaTypeError, "image.generation"),
        (Answer(reset="before"), ManxueTransientError, "no answer from 127.0.0.1"),
        (Answer(reset="after"), ManxueTransientError, "no answer from 127.0.0.1"),
        (Answer(truncate=10), ManxueTransientError, "HTTP 200|no answer"),
        (Answer(truncate=10, chunked=True), ManxueTransientError, "HTTP 200|no answer"),
        (Answer(hang=True), ManxueTransientError, "timed out"),
        (Answer(endless=True), ManxueTransientError, "more than 1048576 bytes"),
        (Answer(gzip=True), ManxueTransientError, "coding that was not asked for"),
        (Answer(bytes_per_second=30), ManxueTransientError, "longer than 1 s|timed out"),
    ],
    ids=lambda value: str(value) if not isinstance(value, Answer) else repr(value.to_json()),
)
def test_answer_that_is_no_task_becomes_a_typed_error(emulator, ask, answer, error, words):
    emulator.answer_all_with(answer)
    with pytest.raises(error, match=words) as raised:
        ask()
    assert emulator.api_key not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__cause__ is None


def test_pause_that_the_service_asks_for_is_read(emulator, ask):
    emulator.answer_all_with(Answer(status=429, retry_after=90))
    with pytest.raises(ManxueRateLimitError) as raised:
        ask()
    assert raised.value.retry_after == 90


def test_redirect_is_not_followed(emulator, ask):
    emulator.add_task(id="elsewhere", script=Script.polls("completed"))
    emulator.answer_all_with(
        Answer(status=307, headers={"Location": f"{emulator.base_url}/v1/result/elsewhere"})
    )
    with pytest.raises(ManxueRedirectError):
        ask()
    assert len(emulator.requests) == 1


def test_refused_connection_is_named_shortly(emulator, ask):
    with emulator.outage("refuse"), pytest.raises(ManxueTransientError) as raised:
        ask()
    assert str(raised.value) == "no answer from 127.0.0.1: connection refused"


def test_unknown_host_is_named(emulator, ask, connect):
    connect(emulator, host="https://no-such-host.invalid")
    with pytest.raises(
        ManxueTransientError, match=r"no-such-host\.invalid: .*(not found|resolution|timed out)"
    ):
        ask()


def test_wrong_key_is_refused_after_one_request(emulator, ask, connect):
    connect(emulator, password="wrong-key")
    with pytest.raises(ManxueAuthenticationError, match="password") as raised:
        ask()
    assert len(emulator.requests) == 1
    assert "wrong-key" not in str(raised.value)


def test_missing_connection_names_the_remedy(ask, monkeypatch):
    monkeypatch.delenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", raising=False)
    with pytest.raises(ManxueConfigurationError, match=f"{CONN_ID}.*does not exist"):
        ask()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"password": " "}, "password"),
        ({"host": "http://videos.example.com"}, "host"),
        ({"host": "ftp://127.0.0.1"}, "host"),
        ({"request_timeout": "soon"}, "request_timeout"),
        ({"proxi": "http://127.0.0.1"}, "proxi"),
    ],
)
def test_bad_field_is_named_before_any_request(emulator, ask, connect, change, field):
    connect(emulator, **change)
    with pytest.raises(ManxueConfigurationError, match=f"field '{field}'"):
        ask()
    assert not emulator.requests


def test_worker_uses_a_rotated_key_after_a_refusal(emulator, connect):
    hook = ManxueHook(CONN_ID)
    hook.get_video_task("task-1")
    emulator.api_key = "new-key"
    connect(emulator)
    assert hook.get_video_task("task-1").status is TaskStatus.COMPLETED
    assert [record.status for record in emulator.requests] == [200, 401, 200]


def test_triggerer_uses_a_rotated_key_after_a_refusal(emulator, connect):
    async def ask_before_and_after():
        async with shared_transport() as transport:
            await transport.get_video_task(CONN_ID, "task-1", 30)
            emulator.api_key = "new-key"
            connect(emulator)
            return await transport.get_video_task(CONN_ID, "task-1", 30)

    assert asyncio.run(ask_before_and_after()).status is TaskStatus.COMPLETED
    assert [record.status for record in emulator.requests] == [200, 401, 200]


class TestTls:
    @pytest.fixture
    def emulator(self, connect):
        with Emulator(tls=True) as emulator:
            emulator.add_task(id="task-1", script=Script.polls("completed"))
            connect(emulator)
            yield emulator

    def test_is_trusted_through_the_ca_bundle(self, emulator, ask):
        assert emulator.base_url.startswith("https://")
        assert ask().status is TaskStatus.COMPLETED

    def test_is_refused_without_it(self, emulator, ask, connect):
        connect(emulator, ca_bundle=None)
        with pytest.raises(ManxueTransientError, match="certificate was not accepted"):
            ask()
        assert not emulator.requests

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_check_can_be_switched_off(self, emulator, ask, connect):
        connect(emulator, ca_bundle=None, verify=False)
        assert ask().status is TaskStatus.COMPLETED

    def test_trusts_what_the_environment_names(self, emulator, ask, connect, monkeypatch):
        bundle = json.loads(emulator.airflow_connection_json())["extra"]["ca_bundle"]
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        connect(emulator, ca_bundle=None)
        assert ask().status is TaskStatus.COMPLETED


def test_proxy_of_the_connection_is_used(emulator, ask, connect):
    # The emulator answers as the proxy would: with an absolute address in the request line it finds no route.
    connect(
        emulator, host="http://videos.example.com", allow_http=True, proxy=emulator.base_url.rsplit("/", 1)[0]
    )
    with pytest.raises((ManxueRefusedError, ManxueTransientError)):
        ask()
    assert "videos.example.com" in str(emulator.requests[-1].headers)


def test_proxy_of_the_environment_is_used(emulator, ask, connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", emulator.base_url.rsplit("/", 1)[0].removeprefix("http://"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    connect(emulator, host="http://environment.example.com", allow_http=True)
    with pytest.raises((ManxueRefusedError, ManxueTransientError)):
        ask()
    assert "environment.example.com" in str(emulator.requests[-1].headers)


def test_host_that_the_environment_excepts_is_asked_without_its_proxy(emulator, ask, connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    connect(emulator)
    assert ask().status is TaskStatus.COMPLETED


def test_worker_asks_for_many_at_once_within_the_limits(emulator, connect):
    connect(emulator, requests_per_second=500, max_connections=3)
    ids = [emulator.add_task(script=Script.polls("completed")) for _ in range(20)]
    hook = ManxueHook(CONN_ID)
    outcomes = asyncio.run(ask_for_all(hook.read_settings, [*ids, "unknown"]))
    assert [outcomes[video].status for video in ids] == [TaskStatus.COMPLETED] * 20
    assert isinstance(outcomes["unknown"], ManxueRefusedError)
    assert len({record.connection_id for record in emulator.requests}) <= 3


def test_worker_asks_again_for_those_that_were_turned_away(connect):
    with Emulator(rate_limit=RateLimit(rate=50, burst=2)) as emulator:
        connect(emulator, requests_per_second=2000, max_connections=10)
        ids = [emulator.add_task(script=Script.polls("completed")) for _ in range(8)]
        outcomes = asyncio.run(ask_for_all(ManxueHook(CONN_ID).read_settings, ids))
        assert any(record.status == 429 for record in emulator.requests)
    assert [outcomes[video].status for video in ids] == [TaskStatus.COMPLETED] * 8


def test_worker_leaves_a_long_pause_to_the_triggerer(emulator, connect):
    connect(emulator)
    emulator.answer_all_with(Answer(status=429, retry_after=3600))
    outcomes = asyncio.run(ask_for_all(ManxueHook(CONN_ID).read_settings, ["a"]))
    assert isinstance(outcomes["a"], ManxueRateLimitError)
    assert len(emulator.requests) == 1


def test_worker_does_not_wait_for_the_end_of_a_long_pause(emulator, connect, monkeypatch):
    monkeypatch.setattr(transport_module, "TURNED_AWAY_PAUSE", 0.3)
    connect(emulator, max_connections=1)
    emulator.answer_all_with(Answer(status=429, retry_after=3600))
    outcomes = asyncio.run(ask_for_all(ManxueHook(CONN_ID).read_settings, ["a", "b", "c"]))
    assert [error.retry_after for error in outcomes.values()] == [3600, 3600, 3600]
    assert len(emulator.requests) == 1


def test_answer_that_is_under_way_when_a_long_pause_begins_is_not_lost(emulator, connect):
    connect(emulator, requests_per_second=1000)
    slow = emulator.add_task(script=Script((Step(status="completed", answer=Answer(delay=0.3)),)))
    paused = emulator.add_task(
        script=Script((Step(status="processing", answer=Answer(status=429, retry_after=3600)),))
    )
    outcomes = asyncio.run(ask_for_all(ManxueHook(CONN_ID).read_settings, [slow, paused]))
    assert outcomes[slow].status is TaskStatus.COMPLETED
    assert outcomes[paused].retry_after == 3600


def test_worker_stops_asking_for_many_when_it_shall(emulator, connect):
    connect(emulator, request_timeout=60, max_connections=1)
    emulator.answer_all_with(Answer(hang=True))
    outcomes = asyncio.run(ask_for_all(ManxueHook(CONN_ID).read_settings, ["a", "b"], time.time() + 0.2))
    assert {str(outcome) for outcome in outcomes.values()} == {"no answer before the deadline"}


def test_time_of_a_request_is_that_of_all_of_its_parts(emulator, connect):
    connect(emulator, request_timeout=0.6)
    # Each part on its own would be in time: the head after 0.4 s, and then the body within 0.4 s.
    emulator.answer_all_with(Answer(delay=0.4, body=b"{" + b" " * 398 + b"}", bytes_per_second=1000))
    with pytest.raises(ManxueTransientError, match=r"longer than 0\.6 s|timed out"):
        ManxueHook(CONN_ID).get_video_task("a")
