"""
Reasons of the service for an error or a failed video, from JSON and from text bodies. No I/O happens here.

The documented field is ``error``. Relays and gateways in front of the service use other fields, nest them, or send
plain text or a web page. The texts returned here are raw: callers pass them through ``clean_text``.
"""

from __future__ import annotations

import codecs
import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

_ERROR_FIELDS = (
    "error",
    "fail_reason",
    "failReason",
    "failure_reason",
    "failureReason",
    "error_message",
    "errorMessage",
    "error_msg",
    "errorMsg",
)
_MESSAGE_FIELDS = ("msg", "message", "reason", "detail", "details", "description")
_CODE_FIELDS = ("code", "error_code", "errorCode")

REASON_FIELDS = (*_ERROR_FIELDS, *_MESSAGE_FIELDS, *_CODE_FIELDS)
"""Fields that may hold a reason or a code."""

_TASK_ORDER = (*_ERROR_FIELDS, *_MESSAGE_FIELDS)
"""Fields that may hold the reason in a task, the documented one first."""

_RESPONSE_ORDER = tuple(dict.fromkeys(("msg", "message", *_TASK_ORDER)))
"""The same in an error response: ``error`` is often only the name of the HTTP status, and ``message`` is longer."""

_NO_REASON = frozenset(
    {
        "",
        "ok",
        "success",
        "succeed",
        "succeeded",
        "successful",
        "none",
        "null",
        "成功",
        "操作成功",
        "请求成功",
    }
)
"""Texts that are no reason, lower case. Envelopes of failed tasks contain them."""

_SUCCESS_CODES = frozenset(
    {"", "0", "00000", "200", "201", "202", "ok", "success", "succeed", "succeeded", "true"}
)
"""Values of ``code`` that mean success, lower case: documented as ``"0"``, seen as a number and as text."""

KNOWN_WORDS = _NO_REASON | _SUCCESS_CODES
"""Texts and codes with a meaning, lower case. Any other text is a reason, and any other code an error."""

_MAX_NESTING = 4
MAX_ITEMS = 10
"""Maximum number of items of a list that are searched for a reason."""

_READ_BYTES = 16 * 1024
"""Maximum number of bytes of a text body that are decoded. Only a few hundred characters are shown."""

_BLANK = "\ufeff \t\r\n"
"""Characters before the text of a body."""

_ENCODINGS = ("utf-8", "gb18030")
"""Encodings to try, in this order. The service and its gateways also send GBK, often undeclared."""


def is_success_code(code: Any) -> bool:
    """Return whether the ``code`` of an envelope means success. A missing one (None) does."""
    if isinstance(code, float) and code.is_integer():
        code = int(code)
    return code is None or str(code).strip().lower() in _SUCCESS_CODES


def reason_in_task(*objects: Mapping[str, Any]) -> str:
    """
    Find the reason why a video failed or has no URL.

    :param objects: the task, then the objects around it and in it. The first reason is returned; codes come after texts.
    :return: the raw text; empty if there is none.
    """
    for find in (lambda obj: _text_in(obj, _TASK_ORDER), code_in, _unknown_error_in):
        for obj in objects:
            if reason := find(obj):
                return reason
    return ""


def reason_in_response(payload: Any) -> str:
    """Find the reason in the JSON of an error response, other than its top-level code; empty if there is none."""
    if isinstance(payload, Mapping):
        return (
            _text_in(payload, _RESPONSE_ORDER)
            or _scalar_in(payload.get("error"))
            or _unknown_error_in(payload)
        )
    return _text_of(payload, _RESPONSE_ORDER, 0)


def code_in(obj: Mapping[str, Any]) -> str:
    """Find a code other than success, in ``error`` or next to it."""
    if text := _scalar_in(obj.get("error")):
        return text
    codes = (_scalar_in(obj.get(name)) for name in _CODE_FIELDS)
    return next((f"code {code}" for code in codes if code), "")


def raw_code_in(response: Any) -> str:
    """Find the error code of a response, next to ``error`` or in it; empty if there is none, or a success code."""
    if not isinstance(response, Mapping):
        return ""
    error = response.get("error")
    objects = (response, error) if isinstance(error, Mapping) else (response,)
    codes = (_scalar_in(obj.get(name)) for obj in objects for name in _CODE_FIELDS)
    return next(filter(None, codes), "").strip()


def code_number(code: str) -> int:
    """Convert a code to a number; to 0, which has no meaning here, if it is not a whole number."""
    try:
        number = float(code)
    except ValueError:
        return 0
    return int(number) if number.is_integer() else 0


def reason_in_body(body: bytes) -> str:
    """
    Return the text of a body without JSON: plain text, or the title or text of a web page.

    :return: the raw text. It is empty if the body is binary, or looks like JSON, since escapes in JSON could hide a
        signed URL from ``clean_text``.
    """
    text = decode_text(body).lstrip(_BLANK)
    if text[:1] in {"{", "["}:
        return ""
    return _text_of_page(text) if text[:1] == "<" else text


def kind_of_body(body: bytes) -> str:
    """Return the kind of a body without JSON: ``empty``, ``binary``, ``html``, ``json`` that is broken, or ``text``."""
    if not body:
        return "empty"
    text = decode_text(body)
    if not text:
        return "binary"
    return {"<": "html", "{": "json", "[": "json"}.get(text.lstrip(_BLANK)[:1], "text")


def _text_in(obj: Mapping[str, Any], fields: tuple[str, ...], depth: int = 0) -> str:
    for name in fields:
        value = obj.get(name)
        if value and (text := _text_of(value, fields, depth + 1)):
            return text
    return ""


def _text_of(value: Any, fields: tuple[str, ...], depth: int) -> str:
    """Find a text in a value that may be nested. Numbers are codes, and left out."""
    if isinstance(value, str):
        return "" if value.strip().lower() in _NO_REASON else value
    if depth > _MAX_NESTING:
        return ""
    if isinstance(value, Mapping):
        return _text_in(value, fields, depth)
    if isinstance(value, list):
        return "; ".join(filter(None, (_text_of(item, fields, depth + 1) for item in value[:MAX_ITEMS])))
    return ""


def _scalar_in(value: Any, depth: int = 0) -> str:
    if isinstance(value, Mapping) and depth <= _MAX_NESTING:
        return next(
            filter(None, (_scalar_in(value.get(name), depth + 1) for name in (*_CODE_FIELDS, "error"))), ""
        )
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or is_success_code(value):
        return ""
    return "" if str(value).strip().lower() in _NO_REASON else str(value)


def _unknown_error_in(obj: Mapping[str, Any]) -> str:
    """Return an ``error`` of an unknown form as JSON."""
    error = obj.get("error")
    values = error.values() if isinstance(error, Mapping) else error if isinstance(error, list) else ()
    return json.dumps(error, ensure_ascii=False) if any(values) else ""


def decode_text(body: bytes) -> str:
    """Return the beginning of a text body, in UTF-8 or GBK; empty if it is binary."""
    body = body[:_READ_BYTES]
    for encoding in _ENCODINGS:
        try:
            # The last character may be cut off. An incremental decoder leaves it out.
            text = codecs.getincrementaldecoder(encoding)().decode(body)
        except UnicodeDecodeError:
            continue
        return text if _is_text(text) else ""
    return ""


def _is_text(text: str) -> bool:
    """Return whether decoded bytes are text. GB18030 decodes much binary data without an error."""
    unprintable = sum(not (char.isprintable() or char.isspace()) for char in text)
    return "\0" not in text and unprintable * 10 <= len(text)


def _text_of_page(page: str) -> str:
    """Return the title of a web page, or its text without scripts and styles. Takes linear time on any input."""
    title, texts = [], []
    for name, text in _tags(page):
        if name == "title":
            title.append(text)
        elif name not in {"script", "style"}:
            texts.append(text)
    return html.unescape(" ".join(title)).strip() or html.unescape(" ".join(texts)).strip()


def _tags(page: str) -> Iterator[tuple[str, str]]:
    """Yield each tag's name, with the text up to the next tag."""
    for part in page.split("<")[1:]:
        tag, _, text = part.partition(">")
        yield tag.partition(" ")[0].strip().lower(), text
