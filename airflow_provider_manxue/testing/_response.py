"""What is sent for one request, and all the ways to spoil it."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json as jsonlib
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from airflow_provider_manxue.testing._names import Registry, unknown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


T = TypeVar("T")


class _Marker(enum.Enum):
    OMIT = "leave this field out"
    REGULAR = "keep the regular body"

    def __repr__(self) -> str:
        return self.name


OMIT: Final = _Marker.OMIT
"""As a value in ``Response.overrides``: leave the field out."""

REGULAR: Final = _Marker.REGULAR


@dataclass(frozen=True)
class Raw:
    """
    JSON text that is sent as it is written, such as ``4.000000``.

    :param text: the text; with ``field`` given, a format string for that field's value.
    :param field: a field of the regular body. Where that is null or absent, null is sent.
    """

    text: str
    field: str | None = None

    def render(self, regular: Mapping[str, Any]) -> str:
        """Return the text, with the value from the regular body in its place."""
        if self.field is None:
            return self.text
        value = regular.get(self.field)
        if isinstance(value, str):
            value = jsonlib.dumps(value)[1:-1]
        return "null" if value is None else self.text.format(value)


@dataclass(frozen=True, kw_only=True)
class Response:
    """
    What one request gets. Left as it is, that is the regular response; each field changes one thing.

    :param status: HTTP status. From 400 on, and without a body given here, a short JSON error is sent.
    :param overrides: fields laid over the regular JSON body. A value may be :data:`OMIT` or :class:`Raw`.
    :param envelope: put the body inside ``data`` of this object; ``{}`` for an envelope with nothing else.
    :param json: the exact JSON body, instead of the regular one.
    :param body: the exact body as text or bytes, instead of the regular one.
    :param headers: headers to add or replace; an empty value takes one away.
    :param retry_after: send ``Retry-After``: this many seconds from now.
    :param retry_after_as: write it as ``"seconds"`` or as an HTTP ``"date"`` (of the real clock, since
        clients wait in real time).
    :param delay: real seconds to wait before anything is sent, after the request was acted upon.
    :param hang: no response; the connection stays open.
    :param reset: cut the connection with a TCP reset, ``"before"`` the request is read and acted upon, or
        ``"after"`` that. Together with ``truncate`` it comes after so many bytes of the body.
    :param truncate: close the connection after this many bytes of the body; ``Content-Length`` promises all.
    :param chunked: send the body chunked; with ``truncate``, without the final chunk.
    :param endless: send the body again and again, chunked, and never end.
    :param bytes_per_second: send the body at this pace.
    :param length_error: ``Content-Length`` is wrong by this many bytes.
    :param gzip: compress the body and say so in ``Content-Encoding``.
    :param ignore_range: respond with 200 and the whole video to a request with ``Range``.
    :param then_replace: after this response the video is another one, with a new ``ETag``.
    :param order_id: for a create call: the id of the task; ``{n}`` becomes a number, ``{uuid}`` a UUID.
    :param bills: for a create call: whether the order costs money. A fault that does not bill also lets the
        task fail.
    :param processed: whether the service acts upon the request (counts the poll, takes the order) before
        the response is spoilt. Left out: no if the status is 400 or above, if it hangs, or if the reset
        comes before; yes for everything else. A poll to which a script responds counts in any case.
    :raises ValueError: for a value that cannot be sent.
    """

    status: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    envelope: Mapping[str, Any] | None = None
    json: Any = REGULAR
    body: str | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    retry_after_as: Literal["seconds", "date"] = "seconds"
    delay: float = 0.0
    hang: bool = False
    reset: Literal["before", "after"] | None = None
    truncate: int | None = None
    chunked: bool = False
    endless: bool = False
    bytes_per_second: float | None = None
    length_error: int = 0
    gzip: bool = False
    ignore_range: bool = False
    then_replace: bool = False
    order_id: str | None = None
    bills: bool = True
    processed: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be sent."""
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError(f"status is {self.status!r}; give an HTTP status from 200 to 599")
        if self.json is not REGULAR and self.body is not None:
            raise ValueError("json and body are both given; give one of them")
        if self.reset not in (None, "before", "after"):
            raise ValueError(f"reset is {self.reset!r}; give 'before' or 'after'")
        if self.retry_after_as not in ("seconds", "date"):
            raise ValueError(f"retry_after_as is {self.retry_after_as!r}; give 'seconds' or 'date'")
        for name in ("delay", "truncate", "retry_after"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; give a finite number that is not negative")
        if self.bytes_per_second is not None and not self.bytes_per_second > 0:
            raise ValueError(f"bytes_per_second is {self.bytes_per_second!r}; give a positive number")

    @classmethod
    def named(cls, name: str) -> Response:
        """
        Return the response of a named variation of the catalogue.

        :raises ValueError: if there is no variation of that name, or it is not a single response.
        """
        if len(name) == 3 and name.isdigit():
            return cls(status=int(name))
        return RESPONSES.find(name)

    @property
    def acted_upon(self) -> bool:
        """Whether the service acts upon the request; see ``processed``."""
        if self.processed is not None:
            return self.processed
        return not (self.hang or self.reset == "before" or (self.status or 200) >= 400)

    @property
    def has_own_body(self) -> bool:
        """Whether the regular body is not used."""
        return self.json is not REGULAR or self.body is not None or (self.status or 200) >= 400

    def own_body(self, regular: Mapping[str, Any]) -> bytes:
        """Return the body that is sent instead of the regular one."""
        if isinstance(self.body, bytes):
            return self.body
        if self.body is not None:
            return self.body.encode()
        if self.json is not REGULAR:
            return dump(self.json, regular)
        return dump({"code": self.status, "data": None, "msg": f"HTTP {self.status}"}, regular)

    def changed(self, regular: Mapping[str, Any]) -> bytes:
        """Return the regular JSON body with the changes that are asked for."""
        body: Any = {
            name: value for name, value in {**regular, **self.overrides}.items() if value is not OMIT
        }
        if self.envelope is not None:
            body = {**self.envelope, "data": body}
        return dump(body, regular)

    def changed_headers(self, regular: Mapping[str, str]) -> dict[str, str]:
        """Return the regular headers with the changes that are asked for."""
        headers = {**regular, **self.headers}
        if self.retry_after is not None:
            headers["Retry-After"] = retry_after(self.retry_after, self.retry_after_as)
        return {name: value for name, value in headers.items() if value}

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their default, as JSON values."""
        default = Response()
        return {
            item.name: _encode(getattr(self, item.name))
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != getattr(default, item.name)
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """
        Return the response that :meth:`to_json` wrote.

        :raises TypeError: if it is not an object.
        :raises ValueError: if it has unknown fields or impossible values.
        """
        return from_fields(cls, value, _decode)


RESPONSES: Registry[Response] = Registry("single response", "Play it with Script.named({name}).")
"""The response of each scenario, by its name."""


def retry_after(seconds: float, written_as: Literal["seconds", "date"]) -> str:
    """Return the value of a ``Retry-After`` header."""
    if written_as == "date":
        return formatdate(math.ceil(time.time() + seconds), usegmt=True)
    return str(math.ceil(seconds))


def dump(value: Any, regular: Mapping[str, Any]) -> bytes:
    """Return JSON in which each :class:`Raw` is written as it is."""
    raw: list[str] = []

    def hold_place(item: Any) -> str:
        if not isinstance(item, Raw):
            raise TypeError(f"{item!r} cannot be sent as JSON")
        raw.append(item.render(regular))
        return f"\0{len(raw) - 1}\0"

    text = jsonlib.dumps(value, default=hold_place)
    if raw:
        text = re.sub(r'"\\u0000(\d+)\\u0000"', lambda place: raw[int(place[1])], text)
    return text.encode()


def from_fields(cls: type[T], value: object, decode: Callable[[str, Any], Any]) -> T:
    """
    Return a dataclass made of a JSON object, whose values ``decode(name, value)`` reads.

    :raises TypeError: if it is not an object.
    :raises ValueError: if a field is unknown, missing or impossible.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{cls.__name__} is {value!r}; give a JSON object")
    known = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in value:
        if name not in known:
            raise unknown(f"{cls.__name__} field", name, known)
    try:
        return cls(**{name: decode(name, item) for name, item in value.items()})
    except TypeError as error:
        raise ValueError(f"{cls.__name__} {dict(value)!r}: {error}") from error


def _encode(value: Any) -> Any:
    if value is OMIT:
        return {"$omit": True}
    if isinstance(value, Raw):
        return {"$raw": value.text, "$field": value.field}
    if isinstance(value, bytes):
        return {"$base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {name: _encode(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return value


def _decode(_name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(_name, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "$omit" in value:
        return OMIT
    if "$raw" in value:
        return Raw(value["$raw"], value.get("$field"))
    if "$base64" in value:
        return base64.b64decode(value["$base64"])
    return {name: _decode(name, item) for name, item in value.items()}
