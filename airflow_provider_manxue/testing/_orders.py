"""The documented rules of a create call."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RATIOS = ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16")
DEFAULT_DURATION = 5
_FIRST = ("first_image", "image")
_LAST = ("last_image", "lastFrameImage")
_REFERENCES = {"referenceImages": 9, "referenceVideos": 3, "referenceAudios": 3}
_SCHEMES = ("https://", "http://", "asset://")


def read(body: bytes) -> dict[str, Any]:
    """
    Parse the request body of an order.

    :raises ValueError: if it breaks a documented rule; the error text names the rule.
    """
    try:
        order = json.loads(body)
    except ValueError:
        raise ValueError("the body is not JSON") from None
    if not isinstance(order, dict):
        raise ValueError("the body is not a JSON object")  # noqa: TRY004 - a client's mistake
    # A field that is null counts as absent.
    order = {name: value for name, value in order.items() if value is not None}
    for rule in _RULES:
        rule(order)
    return order


def _texts(order: Mapping[str, Any]) -> None:
    for name in ("prompt", "model"):
        value = order.get(name)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} is required")


def _duration(order: Mapping[str, Any]) -> None:
    value = order.get("duration", DEFAULT_DURATION)
    if type(value) is not int or not 4 <= value <= 15:
        raise ValueError(f"duration is {value!r}; it must be an integer from 4 to 15")


def _ratio(order: Mapping[str, Any]) -> None:
    if order.get("ratio", RATIOS[0]) not in RATIOS:
        raise ValueError(f"ratio is {order['ratio']!r}; it must be one of {', '.join(RATIOS)}")


def _frames(order: Mapping[str, Any]) -> None:
    frames = [name for name in (*_FIRST, *_LAST) if name in order]
    for name in frames:
        _url(name, order[name])
    for names in (_FIRST, _LAST):
        if all(name in order for name in names):
            raise ValueError(f"{names[0]} and {names[1]} are names of the same field")
    if frames and not any(name in order for name in _FIRST):
        raise ValueError("last_image needs first_image")
    references = [name for name in _REFERENCES if name in order]
    if frames and references:
        raise ValueError(f"{frames[0]} excludes {references[0]}")


def _references(order: Mapping[str, Any]) -> None:
    for name, most in _REFERENCES.items():
        urls = order.get(name, [])
        if not isinstance(urls, list):
            raise ValueError(f"{name} must be a list of URLs")  # noqa: TRY004 - a client's mistake
        if len(urls) > most:
            raise ValueError(f"{name} has {len(urls)} URLs; at most {most} are allowed")
        for url in urls:
            _url(name, url)
    if order.get("referenceVideos") and "_video_" not in order["model"]:
        raise ValueError(f"model is {order['model']!r}; referenceVideos need one with _video_ in its name")


def _url(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.startswith(_SCHEMES):
        raise ValueError(f"{name} must be a URL (http, https or asset)")


_RULES: tuple[Callable[[Mapping[str, Any]], None], ...] = (_texts, _duration, _ratio, _frames, _references)
