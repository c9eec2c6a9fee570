"""The response to one request, and its possible faults."""

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
"""As ``Response.json``: send the regular body."""


@dataclass(frozen=True)
class Raw:
    """
    JSON text that is sent unchanged, such as ``4.000000``.

    :param text: the text; with ``field``, a format string for the value of that field.
    :param field: a field of the regular body. If it is null or absent, null is sent.
    """

    text: str
    field: str | None = None

    def render(self, regular: Mapping[str, Any]) -> str:
        """Return the text, formatted with the value from the regular body."""
        if self.field is None:
            return self.text
        value = regular.get(self.field)
        if isinstance(value, str):
            value = jsonlib.dumps(value)[1:-1]
        return "null" if value is None else self.text.format(value)


@dataclass(frozen=True, kw_only=True)
class Response:
    """
    The response to one request. The default is the regular response; each field changes one aspect of it.

    :param status: HTTP status. From 400 on, the default body is a short JSON error.
    :param overrides: fields that replace those of the regular JSON body, or add to them. A value may be :data:`OMIT` or :class:`Raw`.
    :param envelope: object with the body in its field ``data``; ``{}`` for an envelope without other fields.
    :param json: the exact JSON body, instead of the regular one.
    :param body: the exact body as text or bytes, instead of the regular one.
    :param headers: headers to add or replace; an empty value removes a header.
    :param retry_after: send ``Retry-After``, this number of seconds from now.
    :param retry_after_as: write it as ``"seconds"`` or as an HTTP ``"date"`` (in real time, since
        clients wait in real time).
    :param delay: real seconds from the processing of the request to the first byte of the response.
    :param hang: send no response, and leave the connection open.
    :param reset: cut the connection with a TCP reset, ``"before"`` the request is read and processed, or ``"after"``
        that. Together with ``truncate``, the reset comes after that number of bytes of the body.
    :param truncate: close the connection after this number of bytes of the body; ``Content-Length`` is that of
        the complete body.
    :param chunked: send the body chunked; with ``truncate``, without the final chunk.
    :param endless: repeat the body without end, chunked.
    :param bytes_per_second: send the body at this rate.
    :param length_error: number of bytes to add to ``Content-Length``, which makes it wrong.
    :param gzip: compress the body, and set ``Content-Encoding``.
    :param ignore_range: send 200 and the complete video to a request with ``Range``.
    :param then_replace: replace the video after this response, with a new ``ETag``.
    :param order_id: for an order: id of the task; ``{n}`` becomes a number, ``{uuid}`` a UUID.
    :param bills: for an order: whether it is billed. The task of an unbilled order fails if the response is a fault.
    :param processed: whether the service processes the request (counts the poll, accepts the order) before the
        response is changed. Left out: no for a status from 400 on, ``hang`` and ``reset="before"``; yes for
        everything else. A poll always counts if the response belongs to a script.
    :raises ValueError: for a value out of range, or fields that exclude each other.
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
        """Reject a response that cannot be sent."""
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError(f"status is {self.status!r}. Set an HTTP status from 200 to 599.")
        if self.json is not REGULAR and self.body is not None:
            raise ValueError("json and body exclude each other. Set one of them.")
        if self.reset not in (None, "before", "after"):
            raise ValueError(f"reset is {self.reset!r}. Set 'before' or 'after'.")
        if self.retry_after_as not in ("seconds", "date"):
            raise ValueError(f"retry_after_as is {self.retry_after_as!r}. Set 'seconds' or 'date'.")
        for name in ("delay", "truncate", "retry_after"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}. Set a finite number, 0 or more.")
        if self.bytes_per_second is not None and not self.bytes_per_second > 0:
            raise ValueError(f"bytes_per_second is {self.bytes_per_second!r}. Set a positive number.")

    @classmethod
    def named(cls, name: str) -> Response:
        """
        Return the response of a scenario; three digits are an HTTP status.

        :raises ValueError: if the name is unknown, or the scenario is not a single response.
        """
        if len(name) == 3 and name.isdigit():
            return cls(status=int(name))
        return RESPONSES.find(name)

    @property
    def acted_upon(self) -> bool:
        """Whether the service processes the request; see ``processed``."""
        if self.processed is not None:
            return self.processed
        return not (self.hang or self.reset == "before" or (self.status or 200) >= 400)

    @property
    def has_own_body(self) -> bool:
        """Whether the response replaces the regular body completely."""
        return self.json is not REGULAR or self.body is not None or (self.status or 200) >= 400

    def own_body(self, regular: Mapping[str, Any]) -> bytes:
        """Return the body that replaces the regular one."""
        if isinstance(self.body, bytes):
            return self.body
        if self.body is not None:
            return self.body.encode()
        if self.json is not REGULAR:
            return dump(self.json, regular)
        return dump({"code": self.status, "data": None, "msg": f"HTTP {self.status}"}, regular)

    def changed(self, regular: Mapping[str, Any]) -> bytes:
        """Return the regular JSON body with the changes of this response."""
        body: Any = {
            name: value for name, value in {**regular, **self.overrides}.items() if value is not OMIT
        }
        if self.envelope is not None:
            body = {**self.envelope, "data": body}
        return dump(body, regular)

    def changed_headers(self, regular: Mapping[str, str]) -> dict[str, str]:
        """Return the regular headers with the changes of this response."""
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
        Parse the result of :meth:`to_json`.

        :raises TypeError: if it is not an object.
        :raises ValueError: if a field is unknown, or a value is out of range.
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
    """Serialize a value as JSON, with the text of each :class:`Raw` unchanged."""
    raw: list[str] = []

    def placeholder(item: Any) -> str:
        if not isinstance(item, Raw):
            raise TypeError(f"{item!r} is not serializable as JSON. Use JSON values, OMIT and Raw.")
        raw.append(item.render(regular))
        return f"\0{len(raw) - 1}\0"

    text = jsonlib.dumps(value, default=placeholder)
    if raw:
        text = re.sub(r'"\\u0000(\d+)\\u0000"', lambda match: raw[int(match[1])], text)
    return text.encode()


def from_fields(cls: type[T], value: object, decode: Callable[[str, Any], Any]) -> T:
    """
    Parse a JSON object into a dataclass; ``decode(name, value)`` parses each value.

    :raises TypeError: if it is not an object.
    :raises ValueError: if a field is unknown, missing or out of range.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{cls.__name__} is {value!r}. Set a JSON object.")
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
