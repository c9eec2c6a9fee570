"""
Reduction of responses for record files: structure and kinds of values are kept, texts of the service are not.

Theory of operation: the package decides by the fields that it reads, by the kinds of their values, and by a few words. A
reduced response has exactly these, so the package decides on it as on the original. Other fields become ``other``. A
string is kept if the package knows it. Otherwise it is replaced by a fixed word, or by its length. So no API key, URL or
prompt can be in a record file, wherever the service has put it. A reduced response is reduced to itself. No I/O happens here.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.bodies import clean_text, parse_json
from airflow_provider_manxue._core.ids import ID_FIELDS, is_id
from airflow_provider_manxue._core.orders import MODELS
from airflow_provider_manxue._core.reasons import KNOWN_WORDS, MAX_ITEMS, REASON_FIELDS, kind_of_body
from airflow_provider_manxue._core.responses import (
    TASK_FIELDS,
    URL_FIELDS,
    parse_number,
    parse_retry_after,
    parse_status,
    parse_video_url,
)
from airflow_provider_manxue.models import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

URL = "https://recorded.invalid/video.mp4"
"""Replacement of each URL that can be one of a video."""

OTHER = "other"
"""Replacement of names that the package does not read, and of unknown values of some fields."""

_READ_FIELDS = frozenset({"data", "status", *TASK_FIELDS, *ID_FIELDS, *URL_FIELDS, *REASON_FIELDS})

_MAX_DEPTH = 12
"""Maximum number of nested lists and objects that are kept. The package reads fewer."""

_MAX_SIZE = 20_000
"""Maximum number of characters of a reduced body. A task has less than 1,000."""

_MAX_NUMBER = 999_999
_MAX_CREATED = 4_102_444_800
"""The year 2100, in seconds since the epoch."""

_MAX_STATUS_LENGTH = 40
"""Maximum number of characters of a status word that is kept as the service wrote it."""

_NO_HANDLER = "No handler found "
"""Beginning of a reason that the doctor recognizes, as of a wrong base URL."""

_UNPRINTABLE = "\x7f"
"""Replacement of a text without a printable character, which is an empty reason."""

_PLACEHOLDER = re.compile(rf"({_NO_HANDLER})?\(text of \d{{1,7}} characters\)")


def reduce_response(
    http_status: int,
    body: bytes,
    retry_after: Sequence[str],
    reducer: Reducer,
    *,
    now: float = 0.0,
    secret: str = "",
) -> dict[str, Any]:
    """
    Return a response in the form of a record file.

    :param body: the response's body, decoded from any transfer coding.
    :param retry_after: values of the ``Retry-After`` headers of the response.
    :param reducer: reduces the values of the body.
    :param now: seconds since the epoch, for a ``Retry-After`` that is a date.
    :param secret: the API key.
    """
    # The emulator plays 200 to 599. The package takes any other status for a broken service.
    reduced: dict[str, Any] = {"status": http_status if 200 <= http_status < 600 else 599}
    if retry_after:
        pause = parse_retry_after(retry_after, now)
        reduced["retry_after"] = "invalid" if pause is None else min(math.ceil(pause), _MAX_NUMBER)
    payload = parse_json(body, secret)
    value = None if payload is None else reducer.reduce(payload)
    if value is None or len(json.dumps(value)) > _MAX_SIZE:
        return {**reduced, "body": {"kind": kind_of_body(body), "length": len(body)}}
    return {**reduced, "json": value}


@dataclass(frozen=True, slots=True)
class Reducer:
    """
    Reducer of JSON values in the responses of one task.

    :param video_task_id: id of the task.
    :param alias: replacement of the id.
    """

    video_task_id: str
    alias: str

    def reduce(self, value: Any, field: str = "", depth: int = 0) -> Any:
        """
        Return the reduced value.

        :param value: the value.
        :param field: name of its field; that of the list for an item of a list.
        :param depth: number of lists and objects around it.
        """
        if isinstance(value, (dict, list)) and depth >= _MAX_DEPTH:
            return bool(value)
        if isinstance(value, dict):
            return self._object(value, depth + 1)
        if isinstance(value, list):
            return self._list(value, field, depth + 1)
        if value is None or isinstance(value, bool):
            return value
        if field in ID_FIELDS and isinstance(value, (str, int)) and value:
            return self._id(str(value))
        return _text(value, field) if isinstance(value, str) else _number(value, field)

    def _object(self, fields: Mapping[str, Any], depth: int) -> dict[str, Any]:
        reduced = {
            name: self.reduce(value, name, depth) for name, value in fields.items() if name in _READ_FIELDS
        }
        if others := [value for name, value in fields.items() if name not in _READ_FIELDS]:
            reduced[OTHER] = any(others)
        return reduced

    def _list(self, items: Sequence[Any], field: str, depth: int) -> list[Any]:
        reduced = [self.reduce(item, field, depth) for item in items[:MAX_ITEMS]]
        return [*reduced, True] if any(items[MAX_ITEMS:]) else reduced

    def _id(self, text: str) -> str:
        stripped = text.strip()
        if stripped == self.video_task_id:
            return self.alias
        # A dot is not usable as an id either.
        return OTHER if is_id(stripped) else "."


def _number(value: float, field: str) -> float:
    """Bound a number. Its type is kept, and whether it is zero, and one that the package can use."""
    limit = _MAX_CREATED if field == "created" else _MAX_NUMBER
    if abs(value) > limit:
        return type(value)(-limit if parse_number(value) is None else limit)
    return round(value, 3) or (math.copysign(0.001, value) if value else value)


# --- texts ------------------------------------------------------------------------------------------------


def _text(text: str, field: str) -> str:
    rule = _RULES.get(field)
    return _reason(text) if rule is None else rule(text)


def _reason(text: str) -> str:
    word = text.strip()
    if (
        word.lower() in KNOWN_WORDS
        or re.fullmatch(r"-?\d{1,6}", word, re.ASCII)
        or _PLACEHOLDER.fullmatch(word)
    ):
        return word or text[:1]
    if not clean_text(text):
        return _UNPRINTABLE
    beginning = _NO_HANDLER if "no handler" in text.lower() else ""
    return f"{beginning}(text of {len(text)} characters)"


def _status(text: str) -> str:
    word = text.strip()
    if word.isdigit():  # an HTTP status, which is no status of a task
        return word if re.fullmatch(r"\d{1,3}", word, re.ASCII) else "999"
    status = parse_status(text)
    if status is TaskStatus.UNKNOWN:
        return text and "unknown_word"
    return word if len(word) <= _MAX_STATUS_LENGTH else status.value


def _kind(text: str) -> str:
    kind = text.strip().lower()
    if kind in {"", "video", "video.generation", "image", "image.generation"}:
        return kind
    return "video.other" if kind.startswith("video.") else OTHER


def _model(text: str) -> str:
    return text if text in MODELS else text and OTHER


def _url(text: str) -> str:
    return URL if parse_video_url(text) else _reason(text)


def _numeric(text: str, field: str) -> str:
    number = parse_number(text)
    if number is None:
        return _reason(text)
    bounded = _number(number, field)
    return str(int(bounded) if bounded == int(bounded) else bounded)


_RULES: Mapping[str, Callable[[str], str]] = {
    "status": _status,
    "object": _kind,
    "model": _model,
    "created": lambda text: _numeric(text, "created"),
    "actualDuration": lambda text: _numeric(text, "actualDuration"),
    **dict.fromkeys(URL_FIELDS, _url),
}
"""Rules for the strings of some fields. All others may hold a reason or a code."""
