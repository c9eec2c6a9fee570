"""Both clients, the hook and the async client, over real HTTP."""

from __future__ import annotations

import asyncio
import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_provider_manxue import __version__
from airflow_provider_manxue._client import async_client, connection_cache, dialer
from airflow_provider_manxue._client.async_client import shared_client
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueConnectionNotFoundError,
    ManxueMediaTypeError,
    ManxuePermissionError,
    ManxueRateLimitError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueTransientError,
)
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.models import TaskStatus
from airflow_provider_manxue.testing import Emulator, Response, Script
from tests.support.clients import CONN_ID, write_connection


@pytest.fixture
def connect(monkeypatch):
    """Return a function that sets the Airflow connection of an emulator, with changes. A slow machine must not end a request."""

    def write(emulator, *, password=None, host=None, **extra):
        connection = json.loads(emulator.airflow_connection_json())
        connection["extra"] = {"request_timeout": 60, **(connection.get("extra") or {}), **extra}
        connection |= {"password": password or emulator.api_key, "host": host or emulator.base_url}
        write_connection(monkeypatch, connection)

    return write


@pytest.fixture
def emulator(connect):
    with Emulator() as emulator:
        emulator.add_task(id="task-1", script=Script.polls("completed"))
        connect(emulator)
        yield emulator


def test_completed_video_is_parsed(emulator, poll):
    task = poll()
    assert task.status is TaskStatus.COMPLETED
    assert task.video_url.startswith("http://127.0.0.1")
    assert task.actual_duration == 5.0


def test_request_sends_key_and_versions(emulator, poll):
    poll()
    headers = emulator.requests[-1].headers
    assert headers["Authorization"] == f"Bearer {emulator.api_key}"
    assert f"airflow-provider-manxue/{__version__} apache-airflow/" in headers["User-Agent"]
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers


@pytest.mark.parametrize(
    "video_task_id", ["global task/2", "a?b=c#d", "../../admin", "%2e%2e", "视频-1", "a b", "a+b&c", "..%2f"]
)
def test_id_is_sent_as_one_path_segment(emulator, poll, video_task_id):
    emulator.add_task(id=video_task_id, script=Script.polls("completed"))
    assert poll(video_task_id).id == video_task_id


@pytest.mark.parametrize(
    ("response", "error", "words"),
    [
        (Response(status=403), ManxuePermissionError, "403"),
        (Response(status=404), ManxueRefusedError, "404"),
        (Response(status=410), ManxueRefusedError, "410"),
        (Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), ManxueRedirectError, "redirect"),
        (Response(status=308, headers={"Location": "/elsewhere"}), ManxueRedirectError, "redirect"),
        (Response(status=408), ManxueTransientError, "408"),
        (Response(status=425), ManxueTransientError, "425"),
        (Response(status=429), ManxueRateLimitError, "429"),
        (Response(status=500), ManxueTransientError, "500"),
        (Response(status=503, body="<html>busy</html>"), ManxueTransientError, "503"),
        (Response(body="<html>welcome</html>"), ManxueTransientError, "not a JSON object"),
        (Response(body=""), ManxueTransientError, "not a JSON object"),
        (Response(json=[1, 2]), ManxueTransientError, "not a JSON object"),
        (Response(json={}), ManxueTransientError, "does not describe a task"),
        (Response.named("http_200_business_error"), ManxueRefusedError, "No handler found"),
        (Response.named("object_image_generation"), ManxueMediaTypeError, "image.generation"),
        (Response(reset="before"), ManxueTransientError, "no response from 127.0.0.1"),
        (Response(reset="after"), ManxueTransientError, "no response from 127.0.0.1"),
        (Response(truncate=10), ManxueTransientError, "HTTP 200|no response"),
        (Response(truncate=10, chunked=True), ManxueTransientError, "HTTP 200|no response"),
        (Response(hang=True), ManxueTransientError, "timed out"),
        (Response(endless=True), ManxueTransientError, "more than 1048576 bytes"),
        (
            Response(body=b"\x0b\x02\x80ab\x03", headers={"Content-Encoding": "br"}),
            ManxueTransientError,
            "'br', which was not requested",
        ),
        (Response(bytes_per_second=30), ManxueTransientError, "longer than 1 s|timed out"),
    ],
    ids=lambda value: str(value) if not isinstance(value, Response) else repr(value.to_json()),
)
def test_unusable_response_becomes_a_typed_error(emulator, poll, connect, response, error, words):
    emulator.respond_with(response)
    if response.hang or response.bytes_per_second:
        connect(emulator, request_timeout=1)
    with pytest.raises(error, match=words) as raised:
        poll()
    assert emulator.api_key not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__cause__ is None


def test_compressed_response_is_parsed(emulator, poll):
    emulator.respond_with(Response(gzip=True))
    assert poll().status is TaskStatus.COMPLETED


def test_retry_after_of_a_429_is_parsed(emulator, poll):
    emulator.respond_with(Response(status=429, retry_after=90))
    with pytest.raises(ManxueRateLimitError) as raised:
        poll()
    assert raised.value.retry_after == 90


def test_code_429_in_a_success_has_its_retry_after(emulator, poll):
    emulator.respond_with(
        Response(json={"code": 429, "msg": "busy", "data": None}, headers={"Retry-After": "90"})
    )
    with pytest.raises(ManxueRateLimitError, match="HTTP 200 with the error code 429: busy") as raised:
        poll()
    assert raised.value.retry_after == 90


UNREADABLE = {
    "cut off": Response(truncate=3),
    "chunks cut off": Response(truncate=3, chunked=True),
    "reset": Response(truncate=3, reset="after"),
    "too long": Response(endless=True),
    "too slow": Response(bytes_per_second=1),
    "damaged": Response(body=b"\x1f\x8b no gzip", headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize(
    ("status", "error", "body"),
    [
        (308, ManxueRedirectError, "cut off"),
        (401, ManxueAuthenticationError, "cut off"),
        (403, ManxuePermissionError, "cut off"),
        (404, ManxueRefusedError, "cut off"),
        (503, ManxueTransientError, "cut off"),
        *((429, ManxueRateLimitError, body) for body in UNREADABLE),
    ],
)
def test_error_whose_body_cannot_be_read_counts_by_its_status(emulator, poll, connect, status, error, body):
    """Otherwise the next request would be sent into the pause that the service has requested."""
    emulator.respond_with(replace(UNREADABLE[body], status=status, retry_after=90))
    if body == "too slow":
        connect(emulator, request_timeout=2)
    with pytest.raises(error, match=str(status)) as raised:
        poll()
    if status in {429, 503}:
        assert raised.value.retry_after == 90


def test_redirect_is_not_followed(emulator, poll):
    emulator.add_task(id="elsewhere", script=Script.polls("completed"))
    emulator.respond_with(
        Response(status=307, headers={"Location": f"{emulator.base_url}/v1/result/elsewhere"})
    )
    with pytest.raises(ManxueRedirectError):
        poll()
    assert len(emulator.requests) == 1


def test_refused_connection_has_a_short_message(emulator, poll):
    with emulator.outage("refuse"), pytest.raises(ManxueTransientError) as raised:
        poll()
    assert str(raised.value) == "no response from 127.0.0.1: connection refused"


def test_unknown_host_is_reported(emulator, poll, connect):
    connect(emulator, host="https://no-such-host.invalid")
    with pytest.raises(
        ManxueTransientError, match=r"no-such-host\.invalid: .*(not found|resolution|timed out)"
    ):
        poll()


def test_wrong_key_raises_after_one_request(emulator, poll, connect):
    connect(emulator, password="wrong-key")
    with pytest.raises(ManxueAuthenticationError, match=r"field .API key.") as raised:
        poll()
    assert len(emulator.requests) == 1
    assert "wrong-key" not in str(raised.value)


def test_missing_connection_is_reported(poll, monkeypatch):
    monkeypatch.delenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", raising=False)
    with pytest.raises(ManxueConnectionNotFoundError, match=f"{CONN_ID}.*does not exist"):
        poll()


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
def test_bad_field_is_reported_before_any_request(emulator, poll, connect, change, field):
    """A request would send the API key to an address that may be a mistake."""
    connect(emulator, **change)
    with pytest.raises(ManxueConfigurationError, match=f"field '{field}'"):
        poll()
    assert not emulator.requests


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ('{"proxy": "http://proxy.invalid:3128",}', "it is not JSON"),
        ("proxy=http://proxy.invalid:3128", "it is not JSON"),
        ('["proxy"]', "it is not a JSON object"),
    ],
)
def test_extra_that_is_not_an_object_sends_nothing(emulator, poll, monkeypatch, extra, problem):
    """Airflow reads such an extra field as empty. The request would then bypass the configured proxy."""
    write_connection(monkeypatch, {"host": emulator.base_url, "password": emulator.api_key, "extra": extra})
    # Airflow 3.0 rejects such a connection itself and reports it as missing.
    refused = f"field 'extra': {problem}|does not exist"
    with pytest.raises(ManxueConfigurationError, match=refused) as raised:
        poll()
    assert "proxy.invalid" not in str(raised.value)
    assert not emulator.requests


@pytest.mark.parametrize("host", ["https://api..example.com", f"https://{'a' * 64}.example.com"])
def test_host_with_an_invalid_label_is_rejected(poll, connect, emulator, host):
    connect(emulator, host=host)
    with pytest.raises(ManxueConfigurationError, match="field 'host'"):
        poll()


@pytest.mark.parametrize(
    "host", ["https://[fe80::1%25]", "https://xn--a.example.invalid", "https://-.invalid"]
)
def test_host_rejected_by_a_library_is_a_typed_error(poll, connect, emulator, host):
    connect(emulator, host=host)
    with pytest.raises((ManxueConfigurationError, ManxueTransientError)):
        poll()


def test_worker_uses_a_rotated_key_after_a_401(emulator, connect):
    hook = ManxueHook(CONN_ID)
    hook.get_video_task("task-1")
    emulator.api_key = "new-key"
    connect(emulator)
    assert hook.get_video_task("task-1").status is TaskStatus.COMPLETED
    assert [record.status for record in emulator.requests] == [200, 401, 200]


def test_triggerer_uses_a_rotated_key_after_a_401(emulator, connect):
    async def poll_before_and_after():
        async with shared_client() as client:
            await client.query(CONN_ID, "task-1")
            emulator.api_key = "new-key"
            connect(emulator)
            return await client.query(CONN_ID, "task-1")

    assert asyncio.run(poll_before_and_after()).status is TaskStatus.COMPLETED
    assert [record.status for record in emulator.requests] == [200, 401, 200]


class TestMovedService:
    """A connection whose base URL and key were edited together. All settings are reloaded, not only the key."""

    @pytest.fixture
    def moved(self, emulator, connect):
        with Emulator() as new_home:
            new_home.add_task(id="task-1", script=Script.polls("completed"))

            def move():
                emulator.api_key = "revoked"
                connect(new_home)

            yield move, new_home

    def test_worker_uses_the_new_host_after_a_401(self, moved):
        move, new_home = moved
        hook = ManxueHook(CONN_ID)
        hook.get_video_task("task-1")
        move()
        assert hook.get_video_task("task-1").status is TaskStatus.COMPLETED
        assert len(new_home.requests) == 1

    def test_triggerer_uses_the_new_host_after_a_401(self, moved):
        move, new_home = moved

        async def poll_before_and_after():
            async with shared_client() as client:
                await client.query(CONN_ID, "task-1")
                move()
                return await client.query(CONN_ID, "task-1")

        assert asyncio.run(poll_before_and_after()).status is TaskStatus.COMPLETED
        assert len(new_home.requests) == 1


def test_netrc_does_not_replace_the_key(emulator, poll, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert poll().status is TaskStatus.COMPLETED
    assert emulator.requests[-1].headers["Authorization"] == f"Bearer {emulator.api_key}"


@pytest.mark.parametrize("size", [9000, 60_000])
def test_long_header_is_accepted(emulator, poll, size):
    """Gateways add long headers such as a content security policy. The default limit of aiohttp is 8,190 bytes."""
    emulator.respond_with(Response(headers={"X-Long": "x" * size}))
    assert poll().status is TaskStatus.COMPLETED


def test_header_beyond_the_limit_is_transient(emulator, poll):
    emulator.respond_with(Response(headers={"X-Long": "x" * 70_000}))
    with pytest.raises(ManxueTransientError):
        poll()


def test_90_headers_are_accepted(emulator, poll):
    emulator.respond_with(Response(headers={f"X-{number}": "x" for number in range(90)}))
    assert poll().status is TaskStatus.COMPLETED


def test_100_headers_are_transient(emulator, poll):
    emulator.respond_with(Response(headers={f"X-{number}": "x" for number in range(100)}))
    with pytest.raises(ManxueTransientError):
        poll()


def test_missing_ca_file_is_ignored_over_http(emulator, poll, monkeypatch):
    """Plain HTTP verifies no certificate."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/ca.pem")
    assert poll().status is TaskStatus.COMPLETED


class TestTls:
    @pytest.fixture
    def emulator(self, connect):
        with Emulator(tls=True) as emulator:
            emulator.add_task(id="task-1", script=Script.polls("completed"))
            connect(emulator)
            yield emulator

    def test_certificate_is_verified_with_the_ca_bundle(self, emulator, poll):
        assert emulator.base_url.startswith("https://")
        assert poll().status is TaskStatus.COMPLETED

    def test_request_fails_without_the_ca_bundle(self, emulator, poll, connect):
        connect(emulator, ca_bundle=None)
        with pytest.raises(ManxueTransientError, match="certificate was not accepted"):
            poll()
        assert not emulator.requests

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_verification_can_be_disabled(self, emulator, poll, connect):
        connect(emulator, ca_bundle=None, verify=False)
        assert poll().status is TaskStatus.COMPLETED

    def test_ca_bundle_of_the_environment_is_used(self, emulator, poll, connect, monkeypatch):
        bundle = json.loads(emulator.airflow_connection_json())["extra"]["ca_bundle"]
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        connect(emulator, ca_bundle=None)
        assert poll().status is TaskStatus.COMPLETED

    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    @pytest.mark.parametrize(
        ("content", "problem"),
        [(None, "no such file"), ("", "holds no certificate"), ("no PEM", "holds no certificate")],
    )
    def test_bad_ca_file_of_the_environment_is_reported(
        self, emulator, poll, connect, monkeypatch, tmp_path, variable, content, problem
    ):
        bundle = tmp_path / "ca.pem"
        if content is not None:
            bundle.write_text(content)
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.setenv(variable, str(bundle))
        connect(emulator, ca_bundle=None)
        with pytest.raises(ManxueConfigurationError, match=problem) as raised:
            poll()
        assert repr(variable) in str(raised.value)
        assert str(bundle) in str(raised.value)
        assert not emulator.requests

    def test_ca_bundle_without_a_certificate_is_reported(self, emulator, poll, connect, tmp_path):
        bundle = tmp_path / "ca.pem"
        bundle.write_text("")
        connect(emulator, ca_bundle=str(bundle))
        with pytest.raises(ManxueConfigurationError, match=r"'ca_bundle': .*holds no certificate"):
            poll()
        assert not emulator.requests

    def test_triggerer_loads_a_replaced_ca_file(self, emulator, connect, monkeypatch, tmp_path):
        """
        The file may be empty while it is being written.

        The current session stays in use until the new file is complete.
        """
        monkeypatch.setattr(connection_cache, "CONNECTION_TTL", 0.1)
        monkeypatch.setattr(connection_cache, "FAILED_LOOKUP_TTL", 0.05)
        bundle = tmp_path / "ca.pem"
        good = Path(json.loads(emulator.airflow_connection_json())["extra"]["ca_bundle"]).read_bytes()
        bundle.write_bytes(good)
        connect(emulator, ca_bundle=str(bundle))

        async def poll_repeatedly():
            async with shared_client() as client:
                first = await client.limiter(CONN_ID)
                for content in (b"", good + b"\n"):
                    bundle.write_bytes(content)
                    for _ in range(5):
                        await client.query(CONN_ID, "task-1")
                        await asyncio.sleep(0.05)
                return first is await client.limiter(CONN_ID)

        assert asyncio.run(poll_repeatedly())
        assert len({record.connection_id for record in emulator.requests}) == 2


def test_failed_import_is_retried(emulator, monkeypatch):
    """A thread may see a partially initialized module while another thread imports it."""
    monkeypatch.setattr(connection_cache, "FAILED_LOOKUP_TTL", 0.0)
    real, calls = importlib.import_module, []

    def fails_once(name):
        calls.append(name)
        if len(calls) == 1:
            raise ImportError("cannot import name 'x' from partially initialized module")
        return real(name)

    monkeypatch.setattr(async_client.importlib, "import_module", fails_once)

    async def poll_twice():
        async with shared_client() as client:
            with pytest.raises(ManxueTransientError, match="could not be set up: ImportError"):
                await client.query(CONN_ID, "task-1")
            return await client.query(CONN_ID, "task-1")

    assert asyncio.run(poll_twice()).status is TaskStatus.COMPLETED


def test_failed_lookup_on_a_worker_is_transient(emulator, monkeypatch):
    """
    For example, when a secrets backend is unreachable.

    The text of its error may hold a secret, so only its type is reported.
    """

    def fail(conn_id):
        raise ConnectionError("vault: token s.secret refused")

    monkeypatch.setattr(ManxueHook, "get_connection", staticmethod(fail))
    with pytest.raises(ManxueTransientError, match=r"could not read the connection .*: ConnectionError$"):
        ManxueHook(CONN_ID).get_video_task("task-1")


PROXY_VARIABLES = [
    prefix + suffix for prefix in ("http", "https", "all", "no") for suffix in ("_proxy", "_PROXY")
]
PROXY_VARIABLES += [name.upper() for name in PROXY_VARIABLES[::2]]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://u:hidden@127.0.0.1:9",
        "socks5h://u:hidden@127.0.0.1:9",
        "https://u:hidden@127.0.0.1:9",
        "http://u:hidden@127.0.0.1:port",
        "http://u:hidden@127.0.0.1:99999",
        "http://u:hidden@[::1:9",
        "http://u:hidden@a..b:9",
    ],
)
def test_bad_proxy_of_the_environment_is_reported(poll, connect, emulator, monkeypatch, variable, proxy):
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, proxy)
    connect(emulator, host="https://service.example")
    with pytest.raises(ManxueConfigurationError, match=f"Environment variable '{variable}'") as raised:
        poll()
    assert "hidden" not in str(raised.value)


def test_proxy_password_may_hold_a_percent_sign(poll, connect, emulator, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:p%@127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    connect(emulator, host="https://service.example")
    with pytest.raises(ManxueTransientError, match="connection refused"):
        poll()


def test_proxy_of_the_connection_is_used(emulator, poll, connect):
    # The emulator stands in for the proxy. It has no route for an absolute URL in the request line.
    connect(
        emulator, host="http://videos.example.com", allow_http=True, proxy=emulator.base_url.rsplit("/", 1)[0]
    )
    with pytest.raises((ManxueRefusedError, ManxueTransientError)):
        poll()
    assert "videos.example.com" in str(emulator.requests[-1].headers)


def test_proxy_of_the_environment_is_used(emulator, poll, connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", emulator.base_url.rsplit("/", 1)[0].removeprefix("http://"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    connect(emulator, host="http://environment.example.com", allow_http=True)
    with pytest.raises((ManxueRefusedError, ManxueTransientError)):
        poll()
    assert "environment.example.com" in str(emulator.requests[-1].headers)


def test_host_in_no_proxy_is_reached_directly(emulator, poll, connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    connect(emulator)
    assert poll().status is TaskStatus.COMPLETED


def test_request_timeout_covers_head_and_body(emulator, connect):
    connect(emulator, request_timeout=0.6)
    # Each part alone would be in time: the head after 0.4 s, and the body within another 0.4 s.
    emulator.respond_with(Response(delay=0.4, body=b"{" + b" " * 398 + b"}", bytes_per_second=1000))
    with pytest.raises(ManxueTransientError, match=r"longer than 0\.6 s|timed out"):
        ManxueHook(CONN_ID).get_video_task("a")


class TestConnectOnWorker:
    def test_connecting_shares_one_timeout_among_all_addresses(self, connect, emulator, monkeypatch, waited):
        """A timeout for each of fifteen silent addresses would add up to fifteen timeouts."""
        connect(emulator, host="http://service.example", request_timeout=8, allow_http=True)
        addresses = [f"192.0.2.{number}" for number in range(1, 16)]
        monkeypatch.setattr(dialer, "_look_up", lambda host, port, timeout: addresses)
        with pytest.raises(ManxueTransientError, match=r"service\.example: timed out"):
            ManxueHook(CONN_ID).get_video_task("a")
        assert len(waited) == dialer.MAX_ADDRESSES
        assert sum(waited) == pytest.approx(8)

    def test_timeout_covers_the_response_of_a_proxy(self, connect, emulator, dripping_proxy):
        connect(emulator, host="https://service.example", request_timeout=0.3, proxy=dripping_proxy)
        with pytest.raises(ManxueTransientError, match="timed out"):
            ManxueHook(CONN_ID).get_video_task("a")
