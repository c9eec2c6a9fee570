"""The fuzzer's targets. Each decodes bytes into values and checks a property."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_manxue._core.media import Validators
from airflow_provider_manxue._core.polling import PollPolicy
from tests.fuzz.byte_reader import ByteReader, json_of
from tests.fuzz.properties import (
    KEY,
    RESPONSES,
    check_address,
    check_connection,
    check_event,
    check_mp4,
    check_order,
    check_order_record,
    check_order_response,
    check_part,
    check_redirect,
    check_reference,
    check_response,
    check_retry_after,
    check_template,
    check_text,
    check_video_task_id,
    check_wait,
)

_TASK_WORDS = (
    "id", "object", "created", "model", "status", "video_url", "actualDuration", "error", "data", "code", "msg",
    "message", "projectId", "videoUrl", "url", "video", "video.generation", "image.generation", "queued", "completed",
    "Success", "failed", "https://x/a.mp4?sig=1", "0", "200", "500", KEY,
)  # fmt: skip
_EVENT_WORDS = (
    "version", "status", "message", "video_task_id", "last_answer", "started_at", "errors", "reason", "completed",
    "ended", "begin", "failed", "timeout", "unauthorized", "error", "input", "polled", "ids", "states", "table",
    "has_worked", "final_poll",
)  # fmt: skip
_EXTRA_WORDS = (
    "request_timeout", "requests_per_second", "max_connections", "verify", "ca_bundle", "proxy", "allow_http", "true",
    "False", "0.1", "10", "1e3", "nan", "http://proxy.example.com:3128", "http://a:b@c", "/",
)  # fmt: skip
_ORDER_WORDS = (
    "prompt", "model", "duration", "ratio", "first_image", "last_image", "reference_images", "reference_videos",
    "reference_audios", "sd2_manxue_1080p", "sd2_manxue_video_720p", "16:9", "5", "15.0", "https://x/a.png",
    "asset://a", '["https://x/a.mp4"]', "[", "[]",
)  # fmt: skip
_RECORD_WORDS = (
    "state", "id", "since", "max_tries", "fingerprint", "intent", "ordered", "done", "failed", "prompt", "model", "proj_1",
)  # fmt: skip
_REFERENCE_WORDS = (
    "xcom_task_id",
    "xcom_key",
    "xcom_is_mapped",
    "id",
    "data",
    "projectId",
    "order",
    "return_value",
)
_HEADERS = (
    "Content-Range", "Content-Type", "Content-Encoding", "ETag", "Last-Modified", "Date", "Retry-After", "Location",
)  # fmt: skip
_HEADER_VALUES = (
    "", "bytes 5-9/10", "bytes 5-9/*", "bytes */5", "bytes 0-4/10", "identity", "gzip", '"a"', 'W/"a"', "120",
    "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:05 GMT",
)  # fmt: skip
_RETRY_AFTERS = (
    "",
    "0",
    "1",
    "7",
    "120",
    "900",
    "3600",
    "999999999999999",
    "Fri, 15 Jan 2027 08:01:00 GMT",
    "soon",
)
_LATE = (0.0, 0.0, 0.5, 3.0, 29.0, 700.0, -0.5, -60.0)
_VERSIONS = (
    None, Validators(), Validators(size=10), Validators('"a"', None, 10), Validators(None, "Wed, 21 Oct 2026 07:28:00 GMT", 10),
    Validators('"b"', None, 5),
)  # fmt: skip


def answer(data: bytes) -> None:
    """Check a response to a query. Its lines are status, ``Retry-After`` and body."""
    check_response(*_exchange(data))


def order_answer(data: bytes) -> None:
    """Check a response to an order."""
    check_order_response(*_exchange(data))


def _exchange(data: bytes) -> tuple[int, bytes, list[str]]:
    status, _, rest = data.partition(b"\n")
    retry_after, _, body = rest.partition(b"\n")
    if body[:1] == b"\0":
        body = json.dumps(ByteReader(body[1:]).json(_TASK_WORDS), ensure_ascii=False).encode(
            "utf-8", "surrogatepass"
        )
    return int(status) if status.isdigit() and len(status) < 4 else 200, body, _header(retry_after)


def _header(value: bytes) -> list[str]:
    return [value.decode("latin-1")] if value else []


def retry_after(data: bytes) -> None:
    """Check ``Retry-After`` headers, one per line."""
    check_retry_after([line.decode("latin-1") for line in data.split(b"\n")])


def text(data: bytes) -> None:
    """Check text of the service for a log."""
    check_text(data.decode("utf-8", "surrogateescape"))


def video_task_id(data: bytes) -> None:
    """Check an id: text, or any JSON value."""
    if data[:1] in {b"{", b"[", b"\0"}:
        check_video_task_id(json_of(data, _TASK_WORDS))
    else:
        check_video_task_id(data.decode("utf-8", "surrogateescape"))


def connection(data: bytes) -> None:
    """Check a connection. Its lines are host, port, schema, API key and extra fields."""
    host, port, schema, password, extra = [*data.split(b"\n", 4), b"", b"", b"", b"", b""][:5]
    fields = json_of(extra, _EXTRA_WORDS) if extra else None
    if KEY in json.dumps(fields):
        return  # an error quotes the values of these fields, which never contain the key
    check_connection(
        host.decode("utf-8", "surrogateescape"),
        int(port) if port.isdigit() and len(port) < 7 else None,
        schema.decode("latin-1"),
        KEY + password.decode("utf-8", "surrogateescape"),
        fields,
    )


def order(data: bytes) -> None:
    """Check the parameters of an order."""
    value = json_of(data, _ORDER_WORDS)
    names = set(_ORDER_WORDS[:9])
    check_order(
        {name: inner for name, inner in value.items() if name in names} if isinstance(value, Mapping) else {}
    )


def order_record(data: bytes) -> None:
    """Check a record in the task state store. The first byte is ``max_tries`` of the task."""
    now = {"prompt": "0123456789abcdef", "model": "fedcba9876543210"}
    check_order_record(json_of(data[1:], _RECORD_WORDS), now, data[0] % 4 if data else 0)


def event(data: bytes) -> None:
    """Check the event of a trigger."""
    check_event(json_of(data, _EVENT_WORDS))


def reference(data: bytes) -> None:
    """Check an argument of a trigger, and the XCom that it refers to, on two lines."""
    argument, _, pulled = data.partition(b"\n")
    check_reference(json_of(argument, _REFERENCE_WORDS), json_of(pulled, _REFERENCE_WORDS))


def template(data: bytes) -> None:
    """Check a template in an argument of a trigger."""
    check_template(data.decode("utf-8", "surrogateescape"))


def wait(data: bytes) -> None:
    """Check a wait through a history of polls."""
    reader = ByteReader(data)
    interval = reader.pick((0.0, 1.0, 10.0, 30.0, 60.0, 400.0))
    policy = PollPolicy(
        interval, exponential_backoff=reader.pick((False, True)), max_wait=reader.pick((None, 0.0, 45.0))
    )
    usual = interval if policy.max_wait is None else min(interval, policy.max_wait)
    timeout = (
        max(usual, 1.0) * (reader.number() % 128) / 8
    )  # so that a history takes some tens of polls at most
    jitter = reader.take(2).ljust(2, b"\0")
    steps = reader.take(60) or b"\0\0\0"
    history = [
        (step % len(RESPONSES), _RETRY_AFTERS[pause % len(_RETRY_AFTERS)], _LATE[late % len(_LATE)])
        for step, pause, late in zip(*[iter(steps + b"\0\0")] * 3, strict=False)
    ]
    chances = itertools.cycle(chance / 256 for chance in jitter)
    check_wait(policy, timeout, history, chances.__next__)


def media_answer(data: bytes) -> None:
    """Check a response of a media host."""
    reader = ByteReader(data)
    status = reader.pick((200, 206, 416, 404, 429, 503))
    length = reader.pick((None, 5, 10, reader.number()))
    offset = reader.pick((0, 5, 10, reader.number()))
    known = reader.pick(_VERSIONS)
    headers: list[tuple[str, str]] = []
    while reader.more and len(headers) < 8:
        name = reader.pick(_HEADERS)
        if name == "Content-Range" and reader.number() % 2:
            value = f"bytes {reader.number()}-{reader.number()}/{reader.number()}"
        else:
            value = reader.pick(_HEADER_VALUES) or reader.take(reader.number() % 64).decode("latin-1")
        headers.append((name, value.translate({10: " ", 13: " "})))
    check_part(status, headers, length, offset, known)


def mp4(data: bytes) -> None:
    """Check the body of a video. The first byte selects the announced length."""
    announced = {0: None, 1: len(data) - 1, 2: len(data)}.get(data[0] % 4 if data else 0, 0)
    check_mp4(data[1:], announced)


def redirect(data: bytes) -> None:
    """Check the URL of a video, and the target of a redirect, on two lines."""
    url, _, location = data.partition(b"\n")
    check_redirect(url.decode("utf-8", "surrogateescape"), location.decode("latin-1") if location else None)


def address(data: bytes) -> None:
    """Check a host in the URL of a video."""
    check_address(data.decode("utf-8", "surrogateescape"))


TARGETS: dict[str, Callable[[bytes], Any]] = {
    target.__name__: target
    for target in (
        answer, order_answer, retry_after, text, video_task_id, connection, order, order_record, event, reference,
        template, wait, media_answer, mp4, redirect, address,
    )
}  # fmt: skip
"""All targets by name."""
