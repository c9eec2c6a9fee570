"""
URLs of the service, and the parser of its responses: a task, or a typed error. No I/O happens here.

Both clients, ``requests`` in a worker and ``aiohttp`` in the triggerer, pass the bytes of a response to
:func:`parse_task`. The rules come from the service's page *query task*. Where it has none, they come from responses
that clients of this service and of its relays have received.
"""

from __future__ import annotations

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_manxue._core.bodies import clean_text, mask_in_body, parse_json
from airflow_provider_manxue._core.ids import inner_object, is_id, objects_in, own_id, task_id_in
from airflow_provider_manxue._core.reasons import (
    code_in,
    code_number,
    is_success_code,
    raw_code_in,
    reason_in_body,
    reason_in_response,
    reason_in_task,
)
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueMediaTypeError,
    ManxuePermissionError,
    ManxueRateLimitError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_BODY = 1024 * 1024
"""Maximum number of bytes of a response that are read. A task has less than 10 KiB."""

_STATUSES = {
    TaskStatus.QUEUED: (
        "queued queueing queuing in_queue enqueued pending submitted submitting waiting created accepted received "
        "scheduled preparing not_started not_start throttled 排队中 等待中 待处理"
    ),
    TaskStatus.PROCESSING: (
        "processing running run in_process in_progress generating started starting working executing rendering "
        "encoding uploading ongoing 处理中 生成中 进行中"
    ),
    TaskStatus.COMPLETED: (
        "completed complete completion succeeded succeed success successful done finished finish ready ok 已完成 完成 成功 "
        "生成成功"
    ),
    TaskStatus.FAILED: (
        "failed fail failure cancelled canceled cancel expired error errored rejected reject refused denied timeout "
        "timed_out time_out aborted abort blocked terminated killed unsuccessful content_moderated request_moderated "
        "失败 已失败 生成失败 已取消 已过期"
    ),
}
_STATUS_WORDS = {
    word.replace("_", ""): status for status, words in _STATUSES.items() for word in words.split()
}
"""Status words, lower case and without separators: those of the documentation, and those of clients and relays."""

_STATUS_PREFIX = re.compile("(?:task|job)?(?:status|state)(?=.)")
"""Prefix that is removed from status words such as ``TASK_STATUS_SUCCEED`` and ``JOB_STATE_RUNNING``."""

_MAX_STATUS_LENGTH = 100
"""Maximum number of characters of a status word that are compared."""

_UNFINISHED = frozenset({TaskStatus.QUEUED, TaskStatus.PROCESSING})

_ENVELOPE_ERRORS = frozenset({"error", "fail"})
"""Status words that error responses have most often. Beside nothing of a task, they do not mean that a video failed."""

_TRANSIENT_CODES = frozenset({408, 425, 429, 502, 503, 504})
"""Codes of an envelope with the meaning of that HTTP status. 500 is none: the service sends it for a path that it does not know."""

TASK_FIELDS = ("object", "created", "model", "actualDuration", "progress")
"""Fields of a task, without its id and its URL. An error response has none of them."""

_URL = re.compile(r"https?://[^\s/?#\\]+(?:[/?#][^\x00-\x1f\x7f-\x9f\u2028\u2029]*)?", re.IGNORECASE)
URL_FIELDS = ("video_url", "videoUrl", "result_url", "url")
_KNOWN_FIELDS = {"id", "object", "created", "model", "status", "actualDuration", "error", *URL_FIELDS}


# --- URLs of the service --------------------------------------------------------------------------------


def result_url(base_url: str, video_task_id: str) -> str:
    """
    Return the URL of one task.

    :param base_url: the service's base URL, without ``/v1``.
    :param video_task_id: the id. All but unreserved characters (RFC 3986, section 2.3) are percent-encoded, so that an
        id cannot leave its path segment.
    """
    return f"{base_url}/v1/result/{quote(video_task_id, safe='')}"


def create_url(base_url: str) -> str:
    """Return the URL for orders."""
    return f"{base_url}/v1/sd2_manxue/videos"


# --- reading --------------------------------------------------------------------------------------------


def parse_task(
    http_status: int,
    body: bytes,
    *,
    video_task_id: str = "",
    retry_after: Sequence[str] = (),
    now: float = 0.0,
    secret: str = "",
) -> VideoTask:
    """
    Parse a response of the service to a query or an order.

    :param body: the response's body, decoded from any transfer coding.
    :param video_task_id: the requested id, which becomes the id of the task. Another id in the response goes into
        ``reported_id``. Empty for the response to an order, which has a new id.
    :param retry_after: values of the ``Retry-After`` headers of the response.
    :param now: seconds since the epoch, for a ``Retry-After`` that is a date.
    :param secret: the API key, which is masked in errors.
    :raises ManxueError: if the response does not describe a task.
    """
    payload = parse_object(http_status, body, retry_after=retry_after, now=now, secret=secret)
    pause = parse_retry_after(retry_after, now)
    return _task_of(_unwrap(payload, http_status, secret, pause), payload, video_task_id, secret)


def parse_object(
    http_status: int, body: bytes, *, retry_after: Sequence[str], now: float, secret: str
) -> dict[str, Any]:
    """
    Return the JSON object of a success response. For the parameters see :func:`parse_task`.

    :raises ManxueError: if it is no success, or has no such body.
    """
    payload = parse_json(body, secret)
    is_success = 200 <= http_status < 300
    if is_success and isinstance(payload, dict):
        return payload
    message = _reason_of_error(payload, body, secret)
    pause = parse_retry_after(retry_after, now)
    if is_success:
        raise ManxueTransientError(
            f"HTTP {http_status} with a body that is not a JSON object{tail_of(message)}", pause
        )
    if retry_after and pause is None:
        junk = clean_text(retry_after[0], secret)
        message = f"{message} (its Retry-After {junk!r} is neither seconds nor a date)".strip()
    raise _error_of_status(http_status, f"HTTP {http_status}{tail_of(message)}", pause)


def error_of_code(
    payload: Mapping[str, Any], http_status: int, secret: str, pause: float | None
) -> ManxueError | None:
    """
    Return the error that the ``code`` of a success response means; None if it means success, or is missing.

    :param pause: the ``Retry-After`` of the response, in seconds.
    """
    code = payload.get("code")
    if is_success_code(code):
        return None
    message = clean_text(reason_in_response(payload), secret)
    seen = f"HTTP {http_status} with the error code {clean_text(code, secret)}{tail_of(message)}"
    return _error_of_code(code, seen, pause)


def error_without(
    subject: str,
    payload: Mapping[str, Any],
    http_status: int,
    secret: str,
    pause: float | None,
    reason: str = "",
) -> ManxueError:
    """
    Return the error of a success response that describes no task and no assets, though its ``code`` may mean success.

    :param subject: what it should describe.
    :param pause: the ``Retry-After`` of the response, in seconds.
    :param reason: why it does not, if the response has no reason.
    """
    code = clean_text(raw_code_in(payload), secret)
    message = clean_text(reason_in_response(payload) or reason, secret)
    if message or code_number(code) in _TRANSIENT_CODES:
        what = f"the error code {code}" if code and code not in message else f"an error instead of {subject}"
        return _error_of_code(code, f"HTTP {http_status} with {what}{tail_of(message)}", pause)
    return ManxueTransientError(
        f"HTTP {http_status} with a JSON body that does not describe {subject}", pause
    )


def _error_of_code(code: Any, seen: str, pause: float | None) -> ManxueError:
    number = code_number(str(code))
    if number in _TRANSIENT_CODES:
        return _error_of_status(number, seen, pause)
    return ManxueRefusedError(seen, pause)


def _unwrap(payload: dict[str, Any], http_status: int, secret: str, pause: float | None) -> Mapping[str, Any]:
    """
    Return the fields of the task, from the top or from ``data``.

    A task with a status is parsed, with any ``code`` of its envelope. Without a status, the code decides. A word for success alone
    is that of an envelope, if an object with more has a status, too.
    """
    inner = inner_object(payload)
    with_status = [obj for obj in (inner, payload) if "status" in obj and _is_status_of_task(obj, payload)]
    if with_status:
        return next((obj for obj in with_status if not _is_acknowledgement(obj)), with_status[0])
    further_inside = [obj for obj in objects_in(payload) if "status" in obj and own_id(obj)]
    if len(further_inside) == 1:
        return further_inside[0]
    if error := error_of_code(payload, http_status, secret, pause):
        raise error
    failures = [
        obj for obj in (inner, payload) if parse_status(str(obj.get("status", ""))) is TaskStatus.FAILED
    ]
    message = clean_text(reason_in_response(payload), secret)
    for obj in (inner, payload):
        if obj not in failures and (own_id(obj) or (not message and video_url_in(obj))):
            return obj
    reason = (reason_in_task(payload, inner) or "a failure without a reason") if failures else ""
    raise error_without("a task", payload, http_status, secret, pause, reason)


def _is_status_of_task(obj: Mapping[str, Any], payload: Mapping[str, Any]) -> bool:
    """
    Return whether ``status`` is that of a task.

    Error responses have a ``status``, too: ``{"status": "error", "message": ...}``, or the HTTP status as a number.
    Parsed as a failed video, an error response would end the wait for a paid video. So a word for failure needs an id or
    another field of a task beside it. The id may be in the envelope, except for the words that gateways use.
    """
    word = obj["status"]
    is_word = isinstance(word, str) and not word.strip().isdigit()
    if is_word and parse_status(word) is not TaskStatus.FAILED:
        return True
    may_have_id_outside = is_word and word.strip().lower() not in _ENVELOPE_ERRORS
    return _describes_task(obj) or (may_have_id_outside and bool(own_id(payload)))


def _is_acknowledgement(obj: Mapping[str, Any]) -> bool:
    return parse_status(str(obj["status"])) is TaskStatus.COMPLETED and not _describes_task(obj)


def _describes_task(obj: Mapping[str, Any]) -> bool:
    has_field = any(obj.get(name) is not None for name in TASK_FIELDS)
    return has_field or bool(own_id(obj) or video_url_in(obj))


def _task_of(
    fields: Mapping[str, Any], payload: Mapping[str, Any], video_task_id: str, secret: str
) -> VideoTask:
    kind = fields.get("object") or None
    if kind is not None and not _is_video(kind):
        raise ManxueMediaTypeError(
            f"The id {video_task_id!r} belongs to an object of type {clean_text(kind, secret)!r}, not to a video. "
            f"Pass the id of a video task."
        )
    inner = inner_object(fields)
    url = video_url_in(fields) or video_url_in(inner)
    word = _status_word(fields, is_order=not video_task_id, has_url=bool(url))
    status = parse_status(word)
    reported_id = _reported_id(fields, payload, video_task_id)
    return VideoTask(
        id=video_task_id or reported_id,
        status=status,
        status_word=clean_text(word, secret),
        object=kind,
        created=_whole_number(fields.get("created")),
        model=_text(fields.get("model")),
        video_url=url,
        actual_duration=parse_number(fields.get("actualDuration")),
        error=clean_text(_reason_of_task(fields, payload, status, url), secret) or None,
        extra={name: value for name, value in fields.items() if name not in _KNOWN_FIELDS},
        reported_id=reported_id if video_task_id and reported_id not in {"", video_task_id} else None,
    )


def _reported_id(fields: Mapping[str, Any], payload: Mapping[str, Any], video_task_id: str) -> str:
    """Return the id in a response; empty if there is none, or if it is not usable in a path and a log."""
    task_id = task_id_in(fields)
    if task_id is None and not video_task_id:
        task_id = task_id_in(payload)
    task_id = (task_id or "").strip()
    return task_id if task_id == video_task_id or is_id(task_id) else ""


def _reason_of_task(
    fields: Mapping[str, Any], payload: Mapping[str, Any], status: TaskStatus, url: str | None
) -> str:
    """Find the reason in ``error``. If the video failed, or its URL is missing, search other fields, too."""
    if status is TaskStatus.FAILED or not (url or status in _UNFINISHED):
        return reason_in_task(fields, payload, inner_object(fields))
    error = fields.get("error")
    return reason_in_task({"error": error}) if error else ""


def _status_word(fields: Mapping[str, Any], *, is_order: bool, has_url: bool) -> str:
    word = fields.get("status", "")
    # The older form of a response to an order has only the id: the video is queued.
    if word == "" and is_order and not has_url:
        return TaskStatus.QUEUED.value
    return str(word)


def parse_status(word: str) -> TaskStatus:
    """Return the status that a word means."""
    return _STATUS_WORDS.get(word) or _STATUS_WORDS.get(_normalized(word), TaskStatus.UNKNOWN)


def _normalized(word: str) -> str:
    """Return a status word in lower case, without separators and a prefix: ``timedout`` for ``STATUS_TIMED-OUT``."""
    word = re.sub(r"[\s_.-]+", "", word[:_MAX_STATUS_LENGTH]).lower()
    prefix = _STATUS_PREFIX.match(word)
    return word[prefix.end() :] if prefix else word


def video_url_in(fields: Mapping[str, Any]) -> str | None:
    """Return the URL of the video among the fields of a task; None if there is none."""
    for name in URL_FIELDS:
        value = fields.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value and (url := parse_video_url(value)):
            return url
    return None


def _is_video(kind: Any) -> bool:
    kind = kind.strip().lower() if isinstance(kind, str) else None
    return kind is not None and (kind in {"", "video"} or kind.startswith("video."))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def parse_video_url(value: Any) -> str | None:
    """
    Return a URL unchanged, since a signature covers its spelling; None if the value is not a URL.

    Spaces and other characters that a client has to percent-encode are allowed. Control characters are not.
    """
    if isinstance(value, str) and _URL.fullmatch(value.strip()):
        return value.strip()
    return None


def parse_number(value: Any) -> float | None:
    """Return a number that is finite and not negative, also from text; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _whole_number(value: Any) -> int | None:
    number = parse_number(value)
    return None if number is None else int(number)


# --- errors ---------------------------------------------------------------------------------------------


def _error_of_status(http_status: int, seen: str, retry_after: float | None) -> ManxueError:
    """Return the error that a status means, with the requested pause. A 401 has none: refused credentials have their own probes."""
    if http_status == 401:
        return ManxueAuthenticationError(
            f"The service refused the API key ({seen}). Put a valid key into the connection's field 'API key'."
        )
    if http_status == 403:
        return ManxuePermissionError(
            f"The service forbids this request with this API key ({seen}). Check what the key is allowed to do.",
            retry_after,
        )
    if http_status == 429:
        return ManxueRateLimitError(seen, retry_after)
    if http_status in {408, 425} or not 300 <= http_status < 500:
        return ManxueTransientError(seen, retry_after)
    if http_status < 400:
        return ManxueRedirectError(
            f"The service responded with a redirect (HTTP {http_status}), which is not followed because the API "
            f"key would travel with it. Put the final address into the connection's field 'Base URL'.",
            retry_after,
        )
    return ManxueRefusedError(seen, retry_after)


def parse_retry_after(values: Sequence[str], now: float) -> float | None:
    """
    Parse ``Retry-After`` (RFC 9110, section 10.2.3): seconds or a date. Invalid and negative values are ignored.

    :param values: the values of all headers of that name. The longest pause is returned.
    :param now: seconds since the epoch.
    :return: the pause in seconds (0 for a date in the past); None if there is no valid value.
    """
    if not values:  # as in most responses
        return None
    pauses = [pause for pause in (_one_retry_after(value, now) for value in values) if pause is not None]
    return max(pauses, default=None)


def _one_retry_after(value: str, now: float) -> float | None:
    value = value.strip()
    if re.fullmatch(r"\d{1,15}(\.\d{0,15})?", value, re.ASCII):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)


def _reason_of_error(payload: Any, body: bytes, secret: str) -> str:
    """Find the service's reason in a response without a task: in its JSON, or in its text body."""
    if payload is not None:
        code = code_in(payload) if isinstance(payload, dict) else ""
        return clean_text(reason_in_response(payload) or code, secret)
    return clean_text(reason_in_body(mask_in_body(body, secret)), secret)


def tail_of(message: str) -> str:
    """Return the end of an error with the reason of the service. The errors of waits and orders go on after it."""
    return f": {message.removesuffix('.')}" if message else ""
