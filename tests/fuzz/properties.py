"""
What holds whatever the service, a media host, a database or an author hands over.

Each function takes plain values, made up by Hypothesis in the unit tests and by a coverage-guided fuzzer in
``make soak``, and fails if one of the package's promises is broken for them. Only errors of this package are caught,
so that any other exception is a finding.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import yarl

from airflow_provider_manxue._airflow.start_from_trigger import parse_reference, to_trigger_argument
from airflow_provider_manxue._airflow.xcoms import XComs
from airflow_provider_manxue._core.connection import is_loopback, parse_connection
from airflow_provider_manxue._core.deadline import MAX_OVERSHOOT, deadline_to_read
from airflow_provider_manxue._core.events import parse_batch_event, parse_event, says_begin, start_of
from airflow_provider_manxue._core.ids import parse_video_task_id, parse_video_task_ids
from airflow_provider_manxue._core.media import (
    BrokenTransferError,
    Container,
    Part,
    Validators,
    check_head,
    containers_of,
    judge,
    parse_part,
)
from airflow_provider_manxue._core.media_urls import (
    is_public,
    literal_address,
    next_hop,
    parse_url,
    request_target,
)
from airflow_provider_manxue._core.mp4 import State
from airflow_provider_manxue._core.order_outcomes import parse_order_response
from airflow_provider_manxue._core.order_record import (
    OrderState,
    TaskInstanceRef,
    parse_record,
    resumable_order,
)
from airflow_provider_manxue._core.orders import RATIOS, parse_video_request
from airflow_provider_manxue._core.poller import Outcome, Poller
from airflow_provider_manxue._core.polling import GRACE_TIME, MAX_RETRY_AFTER, PollPolicy
from airflow_provider_manxue._core.responses import (
    MAX_DEPTH,
    clean_text,
    parse_retry_after,
    parse_task,
    result_url,
)
from airflow_provider_manxue._core.templates import (
    WorkerOnlyTemplateError,
    find_xcom_pull,
)
from airflow_provider_manxue._core.templates import check_template as check_for_triggerer
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueError,
    ManxueInputError,
    ManxueOrderError,
    ManxueOrderNotAcceptedError,
    ManxueOrderRejectedError,
    ManxuePermissionError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTimeoutError,
    ManxueTransientError,
    ManxueUnsafeUrlError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.models import ManxueSettings, TaskStatus, VideoTask

KEY = "sk-very-secret-key"
NOW = 1_800_000_000.0
COMPLETED_WORDS = frozenset(
    [
        "completed",
        "complete",
        "completion",
        "succeeded",
        "succeed",
        "success",
        "successful",
        "done",
        "finished",
        "finish",
        "ready",
        "ok",
        "已完成",
        "完成",
        "成功",
        "生成成功",
    ]
)


# --- answers of the service -----------------------------------------------------------------------------


def check_answer(http_status: int, body: bytes, retry_after: Sequence[str]) -> None:
    """An answer is a task that can be stored, or an error that can be shown."""
    try:
        task = parse_task(http_status, body, video_task_id="p", retry_after=retry_after, now=NOW, secret=KEY)
    except ManxueError as error:
        _check_error(error)
        return
    assert 200 <= http_status < 300
    _check_task(task, body)


def check_order_answer(http_status: int, body: bytes, retry_after: Sequence[str]) -> None:
    """An answer to an order is a task with an id, or an error that says what is known of the order."""
    try:
        task = parse_order_response(http_status, body, retry_after=retry_after, now=NOW, secret=KEY)
    except (ManxueOrderError, ManxueOrderNotAcceptedError) as error:
        _check_error(error)
        if isinstance(error, (ManxueOrderRejectedError, ManxueOrderNotAcceptedError)):
            assert not 200 <= http_status < 300 or not _names_a_task(_json(body))
            assert http_status < 500
        return
    except ManxueVideoFailedError as error:
        _check_error(error)
        return
    assert 200 <= http_status < 300
    assert task.status is not TaskStatus.FAILED
    assert parse_video_task_id(task.id) == task.id
    _check_task(task, body)


def _check_error(error: ManxueError) -> None:
    text = str(error)
    assert KEY not in text
    assert text.isprintable()
    assert 0 < len(text) < 2000
    pause = getattr(error, "retry_after", None)
    assert pause is None or (pause >= 0 and math.isfinite(pause))


def _check_task(task: VideoTask, body: bytes) -> None:
    fields = task.to_dict()
    stored = json.dumps(fields, allow_nan=False, ensure_ascii=False)
    stored.encode("utf-8")
    assert KEY not in stored
    assert "\\u0000" not in stored
    assert _depth(fields) <= MAX_DEPTH + 1
    assert fields["status"] in set(TaskStatus)
    assert KEY not in task.status_word
    if task.status is TaskStatus.COMPLETED:
        assert _status_words(_json(body)) & COMPLETED_WORDS
    assert task.video_url is None or task.video_url.lower().startswith(("http://", "https://"))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _places(answer: Any) -> list[Mapping[str, Any]]:
    if not isinstance(answer, Mapping):
        return []
    data = answer.get("data")
    places = [answer, *(data if isinstance(data, list) else [data])]
    return [place for place in places if isinstance(place, Mapping)]


def _names_a_task(answer: Any) -> bool:
    ids = (place.get("id") for place in _places(answer))
    return any(isinstance(task_id, str) and re.fullmatch(r"\w+", task_id, re.ASCII) for task_id in ids)


def _status_words(answer: Any) -> set[str]:
    """Return each text under a key ``status``, in the answer itself or in its ``data``, without separators."""
    words = (str(place["status"]).replace("\0", "") for place in _places(answer) if "status" in place)
    plain = (re.sub(r"[\s_.-]+", "", word).lower() for word in words)
    return {re.sub("^(task|job)?(status|state)(?=.)", "", word) for word in plain}


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [
        inner
        for outer in level
        if isinstance(outer, (dict, list))
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
    return depth


def check_retry_after(values: Sequence[str]) -> None:
    """``Retry-After`` is a finite pause, or nothing; plain seconds are what they say."""
    pause = parse_retry_after(values, NOW)
    assert pause is None or (pause >= 0 and math.isfinite(pause))
    seconds = [int(value) for value in values if re.fullmatch("[0-9]{1,15}", value)]
    if seconds:
        assert pause is not None
        assert pause >= max(seconds)


def check_text(text: str) -> None:
    """Foreign text becomes one bounded line without the key and without a signature."""
    clean = clean_text(text, KEY)
    assert clean.isprintable()
    assert len(clean) <= 500
    assert KEY not in clean
    for url in re.findall(r"https?://[^\s?#\"'<>]+[?#](?!\*\*\*)\S*", clean):
        raise AssertionError(url)


# --- ids, connections, orders ---------------------------------------------------------------------------


def check_video_task_id(value: Any) -> None:
    """What is given as an id is one segment of a path, as every URL library reads it, or refused."""
    try:
        task_id = parse_video_task_id(value)
    except ManxueInputError as error:
        assert str(error).isprintable()
        return
    url = result_url("https://x/base", task_id)
    assert _prepared(url) == url
    assert str(yarl.URL(url, encoded=True)) == url
    parts = urlsplit(url)
    assert parts.path.count("/") == "/base/v1/result/p".count("/")
    assert not parts.query + parts.fragment
    assert unquote(url.rpartition("/")[2]) == task_id


def _prepared(url: str) -> str | None:
    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    return request.url


def check_connection(
    host: str | None, port: int | None, schema: str | None, password: str | None, extra: Any
) -> None:
    """A connection is usable, or refused with the field named; its key is never shown."""
    try:
        settings = parse_connection("c", host=host, port=port, schema=schema, password=password, extra=extra)
    except ManxueConfigurationError as error:
        assert str(error).startswith("Connection 'c', field ")
        assert KEY not in str(error)
        return
    _check_url(settings, allows_http=isinstance(extra, Mapping) and bool(extra.get("allow_http")))
    assert re.fullmatch("[!-~]+", settings.api_key)
    assert 0.1 <= settings.request_timeout <= 600
    assert 0.01 <= settings.requests_per_second <= 10_000
    assert 1 <= settings.max_connections <= 1000
    assert KEY not in repr(settings)


def _check_url(settings: ManxueSettings, *, allows_http: bool) -> None:
    url = urlsplit(settings.base_url)
    assert url.hostname
    assert url.scheme == "https" or (url.scheme == "http" and (allows_http or is_loopback(url.hostname)))
    assert url.username is url.password is None
    assert url.port is None or 1 <= url.port <= 65535
    assert not url.query + url.fragment
    assert url.path.startswith("/")
    assert not url.path.endswith("/")
    asked = result_url(settings.base_url, "p")
    assert asked.isascii()
    assert asked.isprintable()
    # Both libraries go to that very host, whatever they make of its spelling.
    assert (yarl.URL(asked, encoded=True).host or "").lower() == url.hostname.lower()


def check_order(parameters: Mapping[str, Any]) -> None:
    """An order keeps to the documented rules, or is refused."""
    try:
        order = parse_video_request(**{"prompt": None, "model": None, **parameters})
    except ManxueInputError as error:
        assert str(error).startswith("The order was not sent.")
        return
    fields = json.loads(order.body)
    assert fields["prompt"].strip()
    assert fields["model"].strip()
    assert fields.get("duration", 5) in range(4, 16)
    assert fields.get("ratio", "1:1") in RATIOS
    assert "last_image" not in fields or "first_image" in fields
    references = [fields[name] for name in ("referenceImages", "referenceVideos", "referenceAudios") if name in fields]  # fmt: skip
    assert not references or "first_image" not in fields
    assert all(0 < len(urls) <= 9 and all("://" in url for url in urls) for urls in references)
    assert set(order.fingerprint()) == set(fields)
    assert all(doubt.isprintable() for doubt in order.cautions)


def check_order_record(value: Any, fingerprint: Mapping[str, str], max_tries: int) -> None:
    """A stored order, perhaps edited by hand, is gone on with or stops the task; only a clear orders anew."""
    try:
        record = parse_record(value)
    except ManxueInputError as error:
        assert str(error).isprintable()
        return
    if record is None:
        assert value is None
        return
    kept = record.to_dict()
    assert parse_record(json.loads(json.dumps(kept))) == record
    ref = TaskInstanceRef("dag", "run", "task", -1, max_tries)
    try:
        resumable = resumable_order(record, lambda scheme: fingerprint, ref)
    except ManxueError as error:
        assert isinstance(error, ManxueOrderError | ManxueVideoFailedError)
        return
    if resumable is None and record.state is OrderState.NOT_ACCEPTED:
        return
    if resumable is None:
        assert record.state in {OrderState.DONE, OrderState.FAILED}
        assert record.max_tries is not None
        assert record.max_tries != max_tries
    else:
        assert resumable.id == record.id
        assert parse_video_task_id(resumable.id) == resumable.id
        assert resumable.caution.isprintable() or not resumable.caution


# --- what a trigger gets and hands over -----------------------------------------------------------------


def check_event(event: Any) -> None:
    """No event is a success that does not say so, and one that is has all that the worker goes on with."""
    error = parse_event(event)
    if error is None:
        assert event["version"] == 1
        assert event["status"] == "completed"
        assert parse_video_task_id(event["video_task_id"])
    else:
        assert isinstance(error, ManxueError)
        assert str(error)
    started_at = start_of(event)
    assert started_at is None or math.isfinite(started_at)
    assert not (says_begin(event) and error is None)
    try:
        states = parse_batch_event(event, _IDS)
    except ManxueError:
        return
    assert event["version"] == 1
    assert event["status"] in {"polled", "ended", "timeout"}
    assert sorted([*states.errors, *states.to_read, *states.to_poll]) == sorted(_IDS)
    assert all(isinstance(inner, ManxueError) and str(inner) for inner in states.errors.values())


_IDS = ("a", "b", "c")


class _Pulled(XComs):
    """XComs that are not asked for, but made up; it counts how many are."""

    def __init__(self, pulled: Any) -> None:
        self._ti = None
        self.pulled = pulled
        self.pulls = 0

    async def _pull(self, task_id: str, key: str, map_index: int) -> Any:
        self.pulls += 1
        return self.pulled

    async def _pull_all(self, task_id: str, key: str) -> list[Any]:
        return [await self._pull(task_id, key, 0)]


def check_reference(value: Any, pulled: Any) -> None:
    """A trigger's argument, references to XComs in it, becomes ids; what is pulled is data, and not looked into."""
    xcoms = _Pulled(pulled)
    argument = to_trigger_argument(value)
    coroutine = xcoms.resolve(argument)
    try:
        coroutine.send(None)
        raise AssertionError("nothing is awaited")
    except StopIteration as end:
        resolved = end.value
    except (LookupError, TypeError, ValueError, OverflowError):
        # A reference that is not whole, or whose subscripts do not fit: the trigger leaves it to a worker.
        assert "xcom_task_id" in json.dumps(argument)
        return
    assert xcoms.pulls <= json.dumps(argument).count("xcom_task_id")
    for read in (parse_video_task_id, parse_video_task_ids):
        try:
            ids = read(resolved)
        except ManxueInputError:
            continue
        assert ids
        assert all(isinstance(one, str) for one in ids)


def check_template(text: str) -> None:
    """A template is allowed, a reference to an XCom, or left to a worker; the form that a warning names is a reference."""
    reference = parse_reference(to_trigger_argument(text))
    try:
        check_for_triggerer(text)
    except WorkerOnlyTemplateError as reason:
        assert reference is None
        form = re.search(r"Write (\{\{ .* \}\}) and nothing else", str(reason), re.DOTALL)
        # The id of a task has no braces, so a text with further braces is no template that ever worked.
        assert form is None or "..." in form[1] or "{{" in form[1][2:] or find_xcom_pull(form[1]) is not None
    else:
        assert (reference is not None) == (find_xcom_pull(text) is not None)


# --- whole waits ----------------------------------------------------------------------------------------


ANSWERS: tuple[tuple[str, int, bytes], ...] = (
    ("goes on", 200, b'{"id":"p","object":"video","status":"queued"}'),
    ("goes on", 200, b'{"id":"p","object":"video","status":"processing"}'),
    ("goes on", 200, b'{"id":"p","object":"video","status":"reviewing"}'),
    ("completed", 200, b'{"id":"p","status":"completed","video_url":"https://x/a.mp4","actualDuration":5}'),
    ("no url", 200, b'{"id":"p","status":"completed","video_url":null}'),
    ("failed", 200, b'{"id":"p","status":"failed","error":"prompt"}'),
    ("refused", 404, b'{"message":"No handler found for GET"}'),
    ("refused", 200, b'{"code":500,"data":null,"msg":"No handler found"}'),
    ("unauthorized", 401, b""),
    ("forbidden", 403, b"{}"),
    ("fatal", 302, b""),
    ("fatal", 200, b'{"id":"p","object":"image.generation","status":"completed"}'),
    ("trouble", 429, b""),
    ("trouble", 500, b"<html>"),
    ("trouble", 503, b""),
    ("trouble", 200, b"<html>"),
    ("trouble", 200, b'{"id":"p","status":'),
)
"""What the service may say, and what it means for a wait."""


@lru_cache
def _outcome(number: int, retry_after: str) -> VideoTask | ManxueError:
    _, http_status, body = ANSWERS[number]
    try:
        return parse_task(
            http_status, body, video_task_id="p", retry_after=[retry_after] if retry_after else (), now=NOW
        )
    except ManxueError as error:
        return error


def check_wait(
    policy: PollPolicy,
    timeout: float,
    history: Sequence[tuple[int, str, float]],
    random: Callable[[], float],
) -> None:
    """
    A wait is polite, ends in time, and ends with what a simple model of it expects.

    :param policy: how often to poll.
    :param timeout: seconds that the wait may take.
    :param history: what happens at each poll, again and again: the number of an answer, its ``Retry-After``, and by
        how many seconds the poll is late; a negative number is a clock that was set back.
    :param random: source of numbers from 0 to 1.
    """
    deadline = NOW + timeout
    poller = Poller(["p"], policy, started_at=NOW, deadline=deadline, first_poll_at=NOW, chance=random)
    model = _Model(deadline)
    now = NOW
    set_back, times_set_back = 0.0, 0
    for poll, (number, retry_after, late) in enumerate(itertools.cycle(history)):
        # A clock that is set back makes a wait longer by just that.
        assert poll <= timeout + set_back + times_set_back + _FINAL_POLLS, (
            "it went on after its deadline, or polled too often"
        )
        assert [video for video, _ in poller.take_due(now)] == ["p"]
        meaning, outcome = ANSWERS[number][0], _outcome(number, retry_after)
        poller.handle("p", outcome, sent_at=now, now=now)
        expected = model.expected(meaning, now)
        if poller.done:
            assert _kind(poller.outcomes["p"]) in expected, (poller.outcomes["p"], expected)
            return
        assert None in expected, expected
        at = poller.next_due
        assert at is not None
        assert poller.take_due(at - 0.001) == []
        assert at >= min(now + 0.999, model.deadline, model.grace_ends) or meaning == "unauthorized"
        pause = min(getattr(outcome, "retry_after", None) or 0.0, MAX_RETRY_AFTER)
        assert at >= now + pause - 0.001
        assert at <= max(model.deadline + MAX_OVERSHOOT, now + GRACE_TIME)
        assert at <= now + pause + max(1.1 * max(policy.interval + timeout, 300.0), 1.0)
        if late < 0 and set_back < timeout:
            set_back, times_set_back = set_back - late, times_set_back + 1
            now = max(at + late, NOW)
            at = poller.next_due or at
        now = max(at, now) if late < 0 else at + late


_FINAL_POLLS = 450
"""Polls after the deadline at most, of a service that wants many short pauses or forbids all."""


class _Model:
    """A simple model of a wait: which ends a response may have."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.given_up_at = deadline + GRACE_TIME
        self.has_worked = False
        self.grace_since: float | None = None
        self.refused_since: float | None = None
        self.is_read = False

    @property
    def grace_ends(self) -> float:
        """When a grace period is over, at which the wait polls once more."""
        return math.inf if self.grace_since is None else self.grace_since + GRACE_TIME

    def expected(self, meaning: str, now: float) -> set[type | None]:
        """Return the kinds of ends that may follow; None is a wait that goes on."""
        if meaning in {"completed", "failed"}:
            return {VideoTask if meaning == "completed" else ManxueVideoFailedError}
        if meaning == "fatal":
            return {ManxueError}
        if meaning in {"goes on", "no url"}:
            self.has_worked, self.refused_since = True, None
        if meaning == "goes on":
            self.grace_since = None
            return {ManxueTimeoutError} if now >= self.deadline else {None}
        if meaning == "trouble":
            return {None, ManxueTimeoutError} if now >= self.deadline else {None}
        if meaning == "unauthorized":
            return self._unauthorized(now)
        return self._in_grace(meaning, now)

    def _unauthorized(self, now: float) -> set[type | None]:
        self.refused_since = now if self.refused_since is None else self.refused_since
        if not self.has_worked or now >= self.refused_since + GRACE_TIME:
            return {ManxueAuthenticationError}
        return {None, ManxueTimeoutError} if now >= self.given_up_at else {None}

    def _in_grace(self, meaning: str, now: float) -> set[type | None]:
        self.grace_since = now if self.grace_since is None else self.grace_since
        if meaning == "forbidden" and not self.has_worked:
            return {ManxuePermissionError}
        at_end: type = {
            "refused": ManxueRefusedError, "no url": ManxueResultMissingError, "forbidden": ManxuePermissionError
        }[meaning]  # fmt: skip
        if meaning == "no url" and not self.is_read:
            self.is_read, self.deadline = True, deadline_to_read(self.deadline, now)
        if now >= self.grace_ends:
            return {at_end}
        if now >= self.deadline and meaning != "forbidden":
            return {ManxueTimeoutError}
        return {None}


def _kind(outcome: Outcome) -> type:
    named = (
        VideoTask,
        ManxueVideoFailedError,
        ManxueTimeoutError,
        ManxueAuthenticationError,
        ManxuePermissionError,
        ManxueRefusedError,
        ManxueResultMissingError,
        ManxueTransientError,
    )
    return next((kind for kind in named if isinstance(outcome, kind)), ManxueError)


# --- media hosts ----------------------------------------------------------------------------------------


def check_part(
    status: int,
    headers: Sequence[tuple[str, str]],
    length: int | None,
    offset: int,
    known: Validators | None,
) -> None:
    """A part of a video belongs where it is put, to the version that is there; anything else is broken."""
    message = Message()
    for name, value in headers:
        message[name] = value
    try:
        part = parse_part(status, message, length, offset=offset, known=known, now=NOW)
    except BrokenTransferError as error:
        assert error.retry_after is None or (error.retry_after >= 0 and math.isfinite(error.retry_after))
        return
    assert status in {200, 206, 416}
    assert part.start in {0, offset}
    assert status != 200 or part.start == 0
    if part.start:
        _check_continued(part, message, length, known or Validators())


def _check_continued(part: Part, message: Message, length: int | None, known: Validators) -> None:
    said = part.validators
    assert known.size in (None, said.size)
    assert (said.etag, said.modified, said.coding) == (known.etag, known.modified, known.coding)
    numbers = [int(number) for number in re.findall(r"\d+", message["Content-Range"])]
    if "-" in message["Content-Range"]:
        assert numbers[0] == part.start
        assert length in (None, numbers[1] - numbers[0] + 1)
        assert said.size is None or numbers[1] < said.size
    else:
        assert numbers == [part.start]
        assert said.size == part.start


def check_mp4(body: bytes, announced: int | None) -> None:
    """A body is a whole video only if its length is the announced one, or the container shows its end."""
    reads = 0

    def read_at(position: int, count: int) -> bytes:
        nonlocal reads
        reads += 1
        assert position >= 0
        assert 0 <= count <= 8 * 2**20
        return body[position : position + count]

    try:
        check_head(body[:512], "video/mp4", "")
    except BrokenTransferError:
        assert not containers_of(body[:512])
        return
    found = judge(read_at, len(body), announced, frozenset(Container))
    assert reads <= 4 * len(body) + 16
    assert found.reason.isprintable()
    assert bool(found.reason) is (found.state is not State.WHOLE)
    if found.state is State.WHOLE:
        assert announced in (None, len(body))
        assert containers_of(body[:512])
        if announced is None and Container.WEBM not in containers_of(body[:512]):
            assert b"moov" in body


def check_redirect(url: str, location: str | None) -> None:
    """A download goes to a plain URL of the web, byte for byte, and never from https to http, or is refused."""
    try:
        before = parse_url(url)
        target = next_hop(url, location)
        after = parse_url(target)
    except ManxueUnsafeUrlError as error:
        assert str(error).isprintable()
        return
    assert after.scheme in {"http", "https"}
    assert not (before.scheme == "https" and after.scheme == "http")
    assert "@" not in after.netloc
    line = request_target(target)
    assert re.fullmatch("/[!-~]*", line)
    assert "#" not in line
    check_address(after.hostname or "")


def check_address(host: str) -> None:
    """A host that is an address is recognised in every notation, and one inside of a network is not public."""
    address = literal_address(host)
    if address is None:
        return
    ip = ipaddress.ip_address(address)
    if is_public(address) and _is_inside(ip):
        # Versions of Python differ in what they say of an IPv6 address that wraps an IPv4 one.
        wrapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
        assert wrapped is not None
        assert not _is_inside(wrapped)


def _is_inside(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified
