"""Bodies of responses, made safe to store and to log: no API key, no signatures of URLs. No I/O happens here."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from airflow_provider_manxue._core.reasons import decode_text

MAX_DEPTH = 100
"""Maximum number of nested lists and objects in a response. Airflow fails to store an XCom with some hundred."""

_MAX_MESSAGE = 500
"""Maximum number of characters of a text from the service that are shown."""

_MAX_EXCERPT = 200
"""Maximum number of characters of a response that are quoted."""

_MAX_READ = 4 * _MAX_MESSAGE
"""Maximum number of characters that are searched for URLs. That takes quadratic time."""


def parse_json(body: bytes, secret: str = "") -> Any:
    """
    Parse JSON, without values that must not be stored.

    These are the API key, and values that JSON columns of databases refuse: NaN, infinities, NUL and lone surrogates.

    :return: the value; None if it is not JSON, or nested deeper than ``MAX_DEPTH``.
    """
    try:
        payload = _JSON.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_too_deep(payload):
            return None
        return payload if _is_plain(body, secret) else _storable(payload, secret)
    except (ValueError, RecursionError):
        return None


def _is_too_deep(payload: Any) -> bool:
    level = [payload]
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
    """Return whether no text in a body needs cleaning, as in most responses. A fast path, since a wait reads thousands."""
    return body.isascii() and not any(sign in body for sign in _signs_of(secret))


@lru_cache(maxsize=16)
def _signs_of(secret: str) -> tuple[bytes, ...]:
    return b"\\", b"\0", *(form.encode() for form in _forms_of(secret))


@lru_cache(maxsize=16)
def _forms_of(secret: str) -> tuple[str, ...]:
    """Return the forms of a secret in a response: unchanged, and percent-encoded."""
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


def mask_in_body(body: bytes, secret: str) -> bytes:
    """Mask the API key in a body before it is cut. A part of the key would not be found."""
    for form in _forms_of(secret):
        body = body.replace(form.encode(), b"***")
    return body


def clean_text(text: Any, secret: str = "") -> str:
    """Clean a foreign text for a log: one line, bounded, without the API key and the signatures of URLs."""
    # The key is masked before the text is cut, since a part of it would not be found.
    shown = _without(secret, str(text))
    if not shown or (shown.isascii() and shown.isalpha() and len(shown) <= _MAX_MESSAGE):
        return shown
    is_cut, shown = len(shown) > _MAX_READ, shown[:_MAX_READ]
    # JSON inside of a text may have escaped slashes.
    url = r"(https?:(?:\\?/){2}[^\s?#\"'<>]+)[?#][^\s\"'<>]*"
    shown = re.sub(url, r"\1?***", shown, flags=re.IGNORECASE)
    # A URL may contain spaces, before its query and in it. It may also have no scheme, or be percent-encoded.
    is_url = "" if "//" in shown or "\\/" in shown else r"[./][^\s?#]{0,300}"
    shown = re.sub(rf"({is_url}[?#&])[^\s=\"'<>]{{0,100}}=[^\s\"'<>]*", r"\1***", shown)
    shown = re.sub(r"(%3F)[^\s\"'<>]+", r"\1***", shown, flags=re.IGNORECASE)
    shown = "".join(char if char.isprintable() else " " for char in shown)
    shown = " ".join(shown.split())
    return shown[: _MAX_MESSAGE - 1] + "…" if is_cut or len(shown) > _MAX_MESSAGE else shown


def excerpt_of(body: bytes, secret: str) -> str:
    """Return the beginning of the received part of a response, cleaned with :func:`clean_text`."""
    response = parse_json(body, secret)
    if response is None:
        text = decode_text(mask_in_body(body, secret))
    else:
        text = json.dumps(response, ensure_ascii=False)
    # An escaped question mark would hide the signature of a URL.
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda escape: chr(int(escape[1], 16)), text)
    cleaned = clean_text(text, secret)
    return cleaned if len(cleaned) <= _MAX_EXCERPT else cleaned[: _MAX_EXCERPT - 1] + "…"
