"""
What the service says and how it is asked: URLs, answers, errors. No I/O happens here.

Both transports, ``requests`` in a worker and ``aiohttp`` in the triggerer, hand the bytes of an answer to
:func:`parse_task`; what an answer means is decided here and nowhere else. The rules come from the service's
*query task* page, and, where it is silent, from what was seen of the service in the wild.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from airflow_provider_manxue import __version__
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueInputError,
    ManxueMediaTypeError,
    ManxuePermissionError,
    ManxueRateLimitError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

MAX_BODY = 1024 * 1024
"""Bytes of an answer that are read at most; a task's answer is well below 10 KiB."""

MAX_DEPTH = 100
"""Levels of lists and objects in an answer at most; Airflow fails to store an XCom of some hundred."""

_MAX_MESSAGE = 500
"""Characters of the service's own words that are shown at most."""

_MOST_READ = 4 * _MAX_MESSAGE
"""Characters of them that are read at most: looking for URLs takes time by the square of the length."""

_LONGEST_ID = 1000


_STATUS_WORDS = {
    **dict.fromkeys(("queued", "pending", "submitted"), TaskStatus.QUEUED),
    **dict.fromkeys(("processing", "running", "in_progress", "generating"), TaskStatus.PROCESSING),
    **dict.fromkeys(("completed", "succeeded", "success", "done"), TaskStatus.COMPLETED),
    **dict.fromkeys(("failed", "failure", "cancelled", "canceled", "expired"), TaskStatus.FAILED),
}
_URL_FIELDS = ("video_url", "videoUrl", "result_url", "url")
_DOCUMENTED_FIELDS = ("id", "object", "created", "model", "status", "video_url", "actualDuration", "error")
_KNOWN_FIELDS = frozenset({*_DOCUMENTED_FIELDS, *_URL_FIELDS})
_SUCCESS_CODES = frozenset({"0", "200"})


# --- asking ---------------------------------------------------------------------------------------------


def parse_video_task_id(value: Any) -> str:
    """
    Take the id of a task out of what an author passed: the id itself, or a whole create answer.

    :param value: a string, or a mapping with ``id`` or ``data.projectId`` (the answer of the create call).
    :raises ManxueInputError: if there is no usable id in it.
    """
    task_id = _id_of_answer(value) if isinstance(value, Mapping) else value
    if not isinstance(task_id, str):
        raise ManxueInputError(
            f"video_task_id must be the id of a video task (text) or the answer of a create call with an "
            f"'id', not {_kind_of(value)}. For several ids use .expand(video_task_id=[...])."
        )
    task_id = task_id.strip()
    if not task_id:
        raise ManxueInputError("video_task_id is empty. Pass the 'id' that the create call returned.")
    if not _may_be_id(task_id):
        raise ManxueInputError(
            f"video_task_id {task_id[:100]!r} is not an id of the service. Pass the 'id' that the create call "
            f"returned."
        )
    return task_id


def names_a_task(value: Any) -> bool:
    """Return whether a value is an id that can be asked for, or an answer that holds one."""
    try:
        return bool(parse_video_task_id(value))
    except ManxueInputError:
        return False


def _may_be_id(text: str) -> bool:
    """Return whether a text is fit for a path and a log; ids are opaque otherwise."""
    # URL libraries resolve dot segments even when they are percent-encoded, so these could leave the path.
    return text.strip() not in {"", ".", ".."} and text.isprintable() and len(text) <= _LONGEST_ID


def _id_of_answer(answer: Mapping[str, Any]) -> Any:
    inner = answer.get("data")
    for place in (answer, inner if isinstance(inner, Mapping) else {}):
        for name in ("id", "projectId"):
            task_id = place.get(name)
            if isinstance(task_id, int) and not isinstance(task_id, bool):
                return str(task_id)
            if task_id:
                return task_id
    return None


def _kind_of(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with the keys {sorted(map(str, value))}"
    return f"a value of type {type(value).__name__}"


def result_url(base_url: str, video_task_id: str) -> str:
    """
    Return the address that answers for one task.

    :param base_url: the service's base URL, without ``/v1``.
    :param video_task_id: the id; every character outside of RFC 3986's unreserved ones is percent-encoded,
        so that an id cannot leave its path segment.
    """
    return f"{base_url}/v1/result/{quote(video_task_id, safe='')}"


def create_url(base_url: str) -> str:
    """Return the address that takes orders."""
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
    Read an answer of the service to a query or an order.

    :param http_status: HTTP status of the answer.
    :param body: the answer's body, decoded from any transfer coding.
    :param video_task_id: the id that was asked for; it stands in where the answer names none.
    :param retry_after: values of the ``Retry-After`` headers of the answer.
    :param now: seconds since the epoch, for a ``Retry-After`` that is a date.
    :param secret: the API key, so that no error text can repeat it.
    :raises ManxueError: of the kind that fits, if the answer is not a task's description.
    """
    answer = _parse_json(body, secret)
    if not 200 <= http_status < 300:
        message = clean_text(_message_of(answer), secret)
        pause = parse_retry_after(retry_after, now)
        if retry_after and pause is None:
            junk = clean_text(retry_after[0], secret)
            message = f"{message} (its Retry-After {junk!r} is neither seconds nor a date)".strip()
        raise _http_error(http_status, message, pause)
    if not isinstance(answer, dict):
        raise ManxueTransientError(f"HTTP {http_status} with a body that is not a JSON object")
    return _task_of(_unwrap(answer, http_status, secret), video_task_id, secret)


def _parse_json(body: bytes, secret: str) -> Any:
    """
    Read JSON, without what must not be stored: the API key, should the service repeat it, and what JSON columns
    of databases refuse (NaN and infinities, NUL and lone surrogates in text). What is nested too deep is no answer.
    """
    try:
        answer = _JSON.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_too_deep(answer):
            return None
        return answer if _is_plain(body, secret) else _storable(answer, secret)
    except (ValueError, RecursionError):
        return None


def _is_too_deep(answer: Any) -> bool:
    level = [answer]
    for _ in range(MAX_DEPTH):
        containers = [value for value in level if isinstance(value, (dict, list))]
        if not containers:
            return False
        level = [
            inner for value in containers for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return any(isinstance(value, (dict, list)) for value in level)


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


_JSON = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)


def _is_plain(body: bytes, secret: str) -> bool:
    """Return whether no text in a body can need care, as in most answers; a wait reads thousands of them."""
    signs = (b"\\", b"\0", *(form.encode() for form in _forms_of(secret)))
    return body.isascii() and not any(sign in body for sign in signs)


@lru_cache(maxsize=16)
def _forms_of(secret: str) -> tuple[str, ...]:
    """Return how a secret may be repeated: as it is, or in a URL."""
    return tuple({secret, quote(secret, safe="")} - {""})


def _without(secret: str, text: str) -> str:
    for form in _forms_of(secret):
        text = text.replace(form, "***")
    return text


def _storable(value: Any, secret: str) -> Any:
    if isinstance(value, dict):
        return {_storable(name, secret): _storable(inner, secret) for name, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner, secret) for inner in value]
    if isinstance(value, str):
        return _without(secret, value.replace("\0", "").encode("utf-8", "replace").decode("utf-8"))
    return value


def _unwrap(answer: dict[str, Any], http_status: int, secret: str) -> dict[str, Any]:
    """Return the task's own fields, whether they came flat or inside of ``data``."""
    data = answer.get("data")
    if _looks_like_task(answer) and not (isinstance(data, dict) and "status" in data):
        return answer
    code = answer.get("code")
    if code is not None and str(code) not in _SUCCESS_CODES:
        message = clean_text(_message_of(answer), secret)
        raise ManxueRefusedError(
            f"HTTP {http_status} with the error code {clean_text(code, secret)}{_tail(message)}"
        )
    for place in (data, answer):
        if isinstance(place, dict) and ("status" in place or _id_of_answer(place)):
            return place
    message = clean_text(_message_of(answer), secret)
    if message:
        raise ManxueRefusedError(f"HTTP {http_status} with an error instead of a task{_tail(message)}")
    raise ManxueTransientError(f"HTTP {http_status} with a JSON body that describes no task")


def _looks_like_task(answer: Mapping[str, Any]) -> bool:
    return "status" in answer or ("id" in answer and "code" not in answer)


def _task_of(answer: dict[str, Any], video_task_id: str, secret: str) -> VideoTask:
    kind = answer.get("object")
    if kind is not None and not _is_video(kind):
        raise ManxueMediaTypeError(
            f"The id {video_task_id!r} belongs to an object of type {clean_text(kind, secret)!r}, not to a video. "
            f"Pass the id of a video task."
        )
    task_id = _id_of_answer(answer)
    # An order is answered without a status by the service's older version: it waits in the queue.
    word = answer.get("status", "queued" if answer.get("projectId") else "")
    word = word if isinstance(word, str) else str(word)
    status = _STATUS_WORDS.get(word.strip().lower(), TaskStatus.UNKNOWN)
    return VideoTask(
        id=task_id.strip() if isinstance(task_id, str) and _may_be_id(task_id) else video_task_id,
        status=status,
        status_word=clean_text(word, secret),
        object=kind,
        created=_whole_number(answer.get("created")),
        model=_text(answer.get("model")),
        video_url=next(filter(None, (_url(answer.get(name)) for name in _URL_FIELDS)), None),
        actual_duration=_number(answer.get("actualDuration")),
        error=clean_text(_error_text(answer.get("error")), secret) or None,
        extra={name: value for name, value in answer.items() if name not in _KNOWN_FIELDS},
    )


def _is_video(kind: Any) -> bool:
    return isinstance(kind, str) and (kind.lower() == "video" or kind.lower().startswith("video."))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _url(value: Any) -> str | None:
    if isinstance(value, str) and re.fullmatch(r"https?://[^\s/]\S*", value.strip(), re.IGNORECASE):
        return value.strip()
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _whole_number(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


# --- errors ---------------------------------------------------------------------------------------------


def _http_error(http_status: int, message: str, retry_after: float | None) -> ManxueError:
    """Decide what an HTTP status other than 2xx means."""
    seen = f"HTTP {http_status}{_tail(message)}"
    if http_status == 401:
        return ManxueAuthenticationError(
            f"The service refused the API key ({seen}). Put a valid key into the connection's password."
        )
    if http_status == 403:
        return ManxuePermissionError(
            f"The service forbids this request with this API key ({seen}). Check what the key is allowed to do."
        )
    if http_status == 429:
        return ManxueRateLimitError(seen, retry_after)
    if http_status in {408, 425} or http_status >= 500 or http_status < 200:
        return ManxueTransientError(seen, retry_after)
    if http_status < 400:
        return ManxueRedirectError(
            f"The service answered with a redirect (HTTP {http_status}), which is not followed because the API "
            f"key would travel with it. Put the final address into the connection's host."
        )
    return ManxueRefusedError(seen)


def parse_retry_after(values: Sequence[str], now: float) -> float | None:
    """
    Read ``Retry-After`` (RFC 9110, section 10.2.3): seconds or a date; junk and negative numbers are ignored.

    :param values: the header's values, in case it was sent more than once; the longest pause counts.
    :param now: seconds since the epoch.
    :return: seconds to stay away (0 for a date in the past), or None.
    """
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


def _message_of(answer: Any) -> str:
    """Find the service's own words in an error answer."""
    if not isinstance(answer, dict):
        return ""
    for name in ("msg", "message", "error", "detail"):
        if text := _error_text(answer.get(name)):
            return text
    return ""


def _error_text(error: Any) -> str:
    if isinstance(error, Mapping):
        parts = (error.get(name) for name in ("message", "detail", "code"))
        return next((str(part) for part in parts if part), "")
    return "" if error is None or error is False else str(error)


def clean_text(text: Any, secret: str = "") -> str:
    """
    Make foreign text fit for a log: one line, bounded, without the API key and without a URL's signature.

    :param text: the text as it came.
    :param secret: the API key.
    """
    # The key first: cut in two, it would not be found.
    words = _without(secret, str(text))
    if not words or (words.isascii() and words.isalpha() and len(words) <= _MAX_MESSAGE):
        return words
    is_cut, words = len(words) > _MOST_READ, words[:_MOST_READ]
    # In JSON inside of a text, slashes may be escaped.
    url = r"(https?:(?:\\?/){2}[^\s?#\"'<>]+)[?#][^\s\"'<>]*"
    words = re.sub(url, r"\1?***", words, flags=re.IGNORECASE)
    words = "".join(char if char.isprintable() else " " for char in words)
    words = " ".join(words.split())
    return words[: _MAX_MESSAGE - 1] + "…" if is_cut or len(words) > _MAX_MESSAGE else words


def _tail(message: str) -> str:
    return f": {message}" if message else ""


def no_answer(error: BaseException, hostname: str) -> ManxueTransientError:
    """
    Return the error for a request that got no answer.

    :param error: what the HTTP library raised.
    :param hostname: the host that was asked.
    """
    return ManxueTransientError(f"no answer from {hostname}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """Find the plain reason below an HTTP library's wrappers, whose own texts repeat the whole URL."""
    chain = _chain(error)
    for cause in chain:
        # aiohttp's own errors derive from these too, but only Python's hold the details.
        if isinstance(cause, ssl.SSLCertVerificationError) and hasattr(cause, "verify_message"):
            return f"its certificate was not accepted ({clean_text(cause.verify_message)})"
        if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", None):
            return f"TLS failed ({clean_text(cause.reason)})"
        if isinstance(cause, socket.gaierror):
            return "the host name was not found"
        if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
            return "timed out"
    numbers = (cause.errno for cause in chain if isinstance(cause, OSError) and cause.errno)
    return next((os.strerror(number).lower() for number in numbers), type(error).__name__)


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


@lru_cache(maxsize=1)
def user_agent() -> str:
    """Return what both transports call themselves."""
    # Not from the packages' metadata, since that means reading files.
    from airflow import __version__ as airflow_version

    return f"airflow-provider-manxue/{__version__} apache-airflow/{airflow_version}"
