"""
Orders of the hook over real HTTP: each failure, and how many requests the service received.

The rules and their reasons are in docs/ordering.md.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from unittest.mock import Mock

import pytest

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout

from airflow_provider_manxue._client import sync_client
from airflow_provider_manxue._core.order_timing import MAX_ATTEMPTS
from airflow_provider_manxue._core.orders import parse_video_request
from airflow_provider_manxue.exceptions import (
    ManxueConfigurationError,
    ManxueInputError,
    ManxueOrderNotAcceptedError,
    ManxueOrderRejectedError,
    ManxueOrderUnknownError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.hooks import manxue as hook_module
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.testing import Emulator, Response
from tests.support.orders import ORDER, posts


class Pauses:
    """Stands in for the ``time`` module of the hook. Records each pause instead of sleeping."""

    def __init__(self, monkeypatch):
        import time

        self.seconds = []
        self.time, self.monotonic = time.time, time.monotonic
        monkeypatch.setattr(hook_module, "time", self)

    def sleep(self, seconds):
        self.seconds.append(seconds)


@pytest.fixture
def pauses(monkeypatch):
    return Pauses(monkeypatch)


@pytest.fixture
def connect(monkeypatch):
    """Return a function that sets the connection of an emulator, with changes."""

    def connect(emulator, host=None, **extra):
        connection = json.loads(emulator.airflow_connection_json())
        connection["host"] = host or connection["host"]
        connection["extra"] = {**connection.get("extra", {}), **extra}
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", json.dumps(connection))

    return connect


@pytest.fixture
def emulator(connect, pauses):
    with Emulator() as emulator:
        connect(emulator)
        yield emulator


UNKNOWN = {
    "reset after the body": Response(reset="after"),
    "reset before the order": Response(reset="before"),
    "body that ends early": Response(truncate=5),
    "empty body": Response(body=""),
    "html": Response(body="<html>"),
    "compressed": Response(body=b"\x0b\x02\x80ab\x03", headers={"Content-Encoding": "br"}),
    "endless": Response(endless=True),
    "302": Response(status=302, headers={"Location": "http://127.0.0.1:9/"}),
    "307": Response(status=307, headers={"Location": "http://127.0.0.1:9/"}),
    "accepted under another code": Response(json={"code": 1, "msg": "success", "data": {"taskId": "proj_1"}}),
    "429 beside a task": Response(json={"id": "proj_1", "status": "queued"}, status=429),
    "business error 500": Response(json={"code": 500, "data": None, "msg": "busy"}),
    **{str(status): Response(status=status) for status in (408, 409, 500, 502, 503, 504)},
    "500 after the order": Response(status=500, processed=True),
}
REJECTED = {
    **{str(status): Response(status=status) for status in (400, 401, 402, 403, 404, 413, 422)},
    "business error 400": Response(json={"code": 400, "data": None, "msg": "prompt not allowed"}),
    "business error 1001": Response(json={"code": 1001, "data": None, "msg": "cannot fetch"}),
    "400 with an endless body": Response(status=400, endless=True),
    "400 with a compressed body": Response(
        status=400, body=b"\x0b\x02\x80ab\x03", headers={"Content-Encoding": "br"}
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_order_with_unknown_outcome_is_sent_once(emulator, name):
    """The service may have accepted and billed it."""
    emulator.respond_with(UNKNOWN[name], on="create")
    with pytest.raises(ManxueOrderUnknownError, match="Check with the service") as caught:
        ManxueHook().create_video(**ORDER)
    assert isinstance(caught.value, AirflowFailException)
    assert posts(emulator) == 1
    assert emulator.ledger.billed <= 1


def test_compressed_response_is_parsed(emulator):
    emulator.respond_with(Response(gzip=True), on="create")
    task = ManxueHook().create_video(**ORDER)
    assert (task.id, emulator.ledger.billed) == ("proj_sd2manxue_1", 1)


def test_order_without_response_in_time_is_unknown(emulator, connect):
    connect(emulator, request_timeout=1)
    emulator.respond_with(Response(hang=True), on="create")
    with pytest.raises(ManxueOrderUnknownError, match="timed out"):
        ManxueHook().create_video(**ORDER)
    assert posts(emulator) == 1


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_order_is_sent_once(emulator, name):
    emulator.respond_with(REJECTED[name], on="create")
    with pytest.raises(
        ManxueOrderRejectedError, match=r"nothing was ordered: .*\. Remove the cause, then order again\."
    ):
        ManxueHook().create_video(**ORDER)
    assert posts(emulator) == 1


@pytest.mark.parametrize("status", [425, 429])
def test_unaccepted_order_is_sent_up_to_max_attempts(emulator, pauses, status):
    emulator.respond_with(Response(status=status), on="create")
    with pytest.raises(ManxueOrderNotAcceptedError, match=f"HTTP {status}"):
        ManxueHook().create_video(**ORDER)
    assert posts(emulator) == MAX_ATTEMPTS
    assert pauses.seconds == sorted(pauses.seconds)
    assert emulator.ledger.billed == 0


@pytest.mark.parametrize("status", [425, 429])
def test_order_waits_for_retry_after_until_accepted(emulator, pauses, status):
    emulator.fail_next(2, Response(status=status, retry_after=40), on="create")
    task = ManxueHook().create_video(**ORDER)
    assert [order.id for order in emulator.ledger.orders] == [task.id]
    assert len(pauses.seconds) == 2
    assert all(40 <= pause <= 50 for pause in pauses.seconds)


def test_unknown_outcome_ends_the_retries(emulator):
    emulator.fail_next(1, Response(status=429), on="create")
    emulator.fail_next(1, Response(status=500, processed=True), on="create")
    with pytest.raises(ManxueOrderUnknownError):
        ManxueHook().create_video(**ORDER)
    assert posts(emulator) == 2
    assert emulator.ledger.billed == 1


def test_refused_connection_is_not_accepted(emulator, pauses):
    with (
        emulator.outage("refuse"),
        pytest.raises(ManxueOrderNotAcceptedError, match="connection refused"),
    ):
        ManxueHook().create_video(**ORDER)
    assert len(pauses.seconds) == MAX_ATTEMPTS - 1
    assert posts(emulator) == 0


def test_order_is_accepted_after_an_outage(emulator, pauses):
    hook = ManxueHook()
    outage = emulator.outage("refuse")
    outage.__enter__()
    pauses.sleep = lambda seconds: outage.__exit__(None, None, None)
    assert hook.create_video(**ORDER).id == emulator.ledger.orders[0].id


def test_unknown_host_name_is_not_accepted(emulator, connect, monkeypatch):
    connect(emulator, host="https://no-such-host.invalid/kyyReactApiServer")

    def no_such_name(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(ManxueOrderNotAcceptedError, match="host name was not found"):
        ManxueHook().create_video(**ORDER)


def test_untrusted_certificate_is_not_accepted(connect, pauses):
    with Emulator(tls=True) as emulator:
        connect(emulator, ca_bundle=None)
        with pytest.raises(ManxueOrderNotAcceptedError, match="certificate was not accepted"):
            ManxueHook().create_video(**ORDER)
        assert posts(emulator) == 0


def test_tls_to_a_plain_http_server_is_not_accepted(emulator, connect):
    connect(emulator, host=emulator.base_url.replace("http://", "https://"))
    with pytest.raises(ManxueOrderNotAcceptedError, match="TLS failed"):
        ManxueHook().create_video(**ORDER)
    assert posts(emulator) == 0


@contextlib.contextmanager
def server(serve):
    """Run a server that calls ``serve`` for each connection. Yields its port and the list of connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connections.append(connection)
                    with connection:
                        serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], connections


def test_reset_before_the_body_is_unknown(emulator, connect):
    """The kernel may already hold the body, so it is uncertain whether the service has read it."""

    def reset(connection):
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with server(reset) as (port, connections):
        connect(emulator, host=f"http://127.0.0.1:{port}")
        with pytest.raises(ManxueOrderUnknownError):
            ManxueHook().create_video(**ORDER)
        assert len(connections) == 1


def test_order_opens_a_new_connection(emulator):
    """On a connection that the service has closed in the meantime, the outcome of the order would be unknown."""
    hook = ManxueHook()
    emulator.add_task(id="proj_1")
    hook.get_video_task("proj_1")
    hook.create_video(**ORDER)
    query, order = emulator.requests
    assert order.connection_id != query.connection_id


def test_reset_on_a_warm_session_sends_the_order_once(emulator):
    """A client should not repeat a POST automatically (RFC 9110, section 9.2.2)."""
    hook = ManxueHook()
    emulator.add_task(id="proj_1")
    hook.get_video_task("proj_1")
    emulator.respond_with(Response(reset="after"), on="create")
    with pytest.raises(ManxueOrderUnknownError):
        hook.create_video(**ORDER)
    assert posts(emulator) == 1
    assert emulator.ledger.billed == 1


def test_task_timeout_during_the_response_is_unknown(emulator, monkeypatch):
    def end(*args):
        raise AirflowTaskTimeout("execution_timeout")

    monkeypatch.setattr(sync_client, "_read_body", end)
    with pytest.raises(ManxueOrderUnknownError):
        ManxueHook().create_video(**ORDER)
    assert emulator.ledger.billed == 1


def test_internal_error_during_parsing_is_unknown(emulator, monkeypatch):
    monkeypatch.setattr(hook_module, "parse_order_response", Mock(side_effect=RuntimeError("a mistake")))
    with pytest.raises(ManxueOrderUnknownError):
        ManxueHook().create_video(**ORDER)
    assert emulator.ledger.billed == 1


def test_task_timeout_before_sending_is_raised(emulator, monkeypatch):
    def end(*args, **kwargs):
        raise AirflowTaskTimeout("execution_timeout")

    monkeypatch.setattr(socket, "create_connection", end)
    with pytest.raises(AirflowTaskTimeout):
        ManxueHook().create_video(**ORDER)
    assert posts(emulator) == 0


def test_status_decides_after_a_timeout_in_the_body(emulator, monkeypatch):
    def end(*args):
        raise AirflowTaskTimeout("execution_timeout")

    monkeypatch.setattr(sync_client, "_read_body", end)
    emulator.respond_with(Response(status=429), on="create")
    with pytest.raises(ManxueOrderNotAcceptedError):
        ManxueHook().create_video(**ORDER)


def test_busy_code_of_the_connection_is_retried(emulator, connect, pauses):
    connect(emulator, busy_codes="1302, queue_full")
    emulator.fail_next(2, Response(json={"code": 1302, "data": None, "msg": "full"}), on="create")
    assert ManxueHook().create_video(**ORDER).id == emulator.ledger.orders[-1].id
    assert len(pauses.seconds) == 2


def test_response_with_another_id_field_is_accepted(emulator):
    emulator.respond_with(Response(json={"code": 0, "data": {"task": {"task_id": "t9"}}}), on="create")
    assert ManxueHook().create_video(**ORDER).id == "t9"


def test_truncated_response_is_quoted(emulator):
    """The quoted part may hold the id of an accepted order."""
    emulator.respond_with(Response(truncate=30), on="create")
    with pytest.raises(ManxueOrderUnknownError, match=r"\(response: .*proj_sd2"):
        ManxueHook().create_video(**ORDER)


def test_reference_on_a_private_host_is_rejected(emulator, connect, monkeypatch):
    connect(emulator, host="https://service.example/kyyReactApiServer")
    monkeypatch.setattr(socket, "getaddrinfo", None)
    with pytest.raises(ManxueInputError, match="not public"):
        ManxueHook().create_video(**ORDER, first_image="http://localhost:9000/a.png")


def test_private_service_accepts_private_references(emulator):
    ManxueHook().create_video(**ORDER, first_image="http://localhost:9000/a.png")
    assert emulator.ledger.billed == 1


def test_send_order_sends_once(emulator, pauses):
    emulator.respond_with(Response(status=429), on="create")
    with pytest.raises(ManxueOrderNotAcceptedError):
        ManxueHook().send_order(parse_video_request(**ORDER))
    assert posts(emulator) == 1
    assert pauses.seconds == []


def test_order_that_fails_immediately_is_a_failed_video(emulator):
    emulator.respond_with(Response.named("create_answers_failed"))
    with pytest.raises(ManxueVideoFailedError):
        ManxueHook().create_video(**ORDER)
    assert posts(emulator) == 1


def test_invalid_request_sends_nothing(emulator):
    with pytest.raises(ManxueInputError, match=r"duration is 3.*ratio is 'x'"):
        ManxueHook().create_video(**ORDER, duration=3, ratio="x")
    assert not emulator.requests


def test_missing_connection_raises(monkeypatch):
    with pytest.raises(ManxueConfigurationError):
        ManxueHook("no_such_connection").create_video(**ORDER)


def test_unknown_model_is_ordered_with_a_warning(emulator, monkeypatch):
    log = Mock()
    monkeypatch.setattr(ManxueHook, "log", log)
    ManxueHook().create_video(prompt="a cat", model="sd3_manxue_8k")
    assert "sd3_manxue_8k" in str(log.warning.call_args)
    assert emulator.ledger.billed == 1
