"""
Ids of video tasks, parsed from arguments and from responses. No I/O happens here.

Theory of operation: an argument is an id, a task, a create response, or one of these as the text that a template
rendered. Text that begins like an object or a list is parsed as JSON or as a Python literal. If that fails, it is
refused. It is not quoted in the error, since it may contain a signed URL.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from typing import Any

from airflow_provider_manxue.exceptions import ManxueInputError

MAX_TASK_TEXT = 100_000
"""Maximum length of a text that is parsed as one task. A real one has less than 10,000 characters."""

MAX_LIST_TEXT = 1_000_000
"""Maximum length of a text that is parsed as a list of ids. Parsing that many characters takes about half a second."""

ID_FIELDS = ("id", "projectId", "task_id", "taskId")
"""Fields of a response that may hold the id of a task."""

_NESTING_FIELDS = (
    "data",
    "task",
    "tasks",
    "video",
    "videos",
    "result",
    "results",
    "output",
    "response",
    "items",
    "list",
)
_MAX_NESTING = 4
_MAX_ITEMS = 10
_MAX_ID_LENGTH = 1000
_MAX_SHOWN_LENGTH = 100
_MAX_SHOWN_KEYS = 20

_REMEDY = (
    "Pass the XComArg of the task that yields it (for example wait.output), its id alone (for example "
    "{{ ti.xcom_pull('wait')['id'] }}), or set render_template_as_native_obj=True on this one task"
)


def parse_video_task_id(value: Any) -> str:
    """
    Parse the id of a task from an argument: the id itself, a task, or a create response.

    :param value: text, a whole number, or a mapping with ``id``, ``projectId``, ``task_id`` or ``taskId``, at the top
        or in ``data``. A mapping may also be text, in JSON or in Python's notation.
    :raises ManxueInputError: if it contains no usable id. The message does not quote URLs and mappings.
    """
    if isinstance(value, str) and _is_serialized(value):
        value = _deserialize(value, "video_task_id", MAX_TASK_TEXT)
    task_id = task_id_in(value) if isinstance(value, Mapping) else _as_text(value)
    if not isinstance(task_id, str):
        raise ManxueInputError(_not_an_id(value))
    task_id = task_id.strip()
    if not task_id:
        raise ManxueInputError("video_task_id is empty. Pass the 'id' that the create call returned.")
    if task_id == "None":
        raise ManxueInputError(
            "video_task_id is the text 'None', so a template had no value. Check the task whose result it pulls."
        )
    if not is_id(task_id):
        raise ManxueInputError(
            f"video_task_id {_shown(task_id)} is not an id of the service. Pass the 'id' that the create call returned."
        )
    return task_id


def parse_video_task_ids(values: Any) -> list[str]:
    """
    Parse the ids of several tasks from an argument.

    :param values: an iterable of ids, tasks or create responses. It may also be text, in JSON or in Python's notation.
    :raises ManxueInputError: if there is no id, or one is not usable. The message has its position.
    """
    if isinstance(values, str) and values.lstrip()[:1] in {"[", "{"}:
        values = _deserialize(values, "video_task_ids", MAX_LIST_TEXT)
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        kind = _shown(values) if isinstance(values, str) else _kind_of(values)
        raise ManxueInputError(
            f"video_task_ids must be a list of ids, not {kind}. For one id use ManxueVideoSensor; with a "
            f"template, set render_template_as_native_obj=True on this one task, so that a list stays a list."
        )
    ids = []
    for position, value in enumerate(as_list(values)):
        try:
            ids.append(parse_video_task_id(value))
        except ManxueInputError as error:
            raise ManxueInputError(f"video_task_ids[{position}]: {error}") from None
    if not ids:
        raise ManxueInputError("video_task_ids is empty. Pass at least one id.")
    return ids


def as_list(values: Any, argument: str = "video_task_ids") -> Any:
    """
    Copy an iterable that can be read only once into a list. Return other values unchanged.

    Airflow reads an argument when the Dag is parsed, again when templates are rendered, and when the task runs.

    :param values: the argument, before rendering. Generators, ``map`` objects and views of a dict become lists.
    :param argument: its name, for the error.
    :raises ManxueInputError: if it is a set, which has no order.
    """
    if isinstance(values, (Iterator, KeysView, ValuesView, ItemsView)):
        return list(values)
    if isinstance(values, AbstractSet):
        raise ManxueInputError(
            f"{argument} is a set, which has no order, so that two processes would read it differently. Pass a list, for "
            f"example with sorted()."
        )
    return values


def names_a_task(value: Any) -> bool:
    """Return whether a value is an id, or contains one."""
    try:
        return bool(parse_video_task_id(value))
    except ManxueInputError:
        return False


def task_id_in(payload: Mapping[str, Any]) -> str | None:
    """Find the id in a task or in a create response, at the top or in ``data``. A whole number is converted to text."""
    return own_id(payload) or own_id(inner_object(payload))


def own_id(fields: Mapping[str, Any], names: Iterable[str] = ID_FIELDS) -> str | None:
    """Find the id among the fields of one object, without those of ``data``. The number 0 is none."""
    for name in names:
        if (value := fields.get(name)) and isinstance(task_id := _as_text(value), str):
            return task_id
    return None


def objects_in(response: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield each object of a response that may be a task: at the top, and in the objects and lists that relays put around it."""
    if isinstance(response, list):
        for item in response[:_MAX_ITEMS]:
            if isinstance(item, Mapping):
                yield from objects_in(item, depth)
    elif isinstance(response, Mapping) and depth <= _MAX_NESTING:
        yield response
        for name in _NESTING_FIELDS:
            yield from objects_in(response.get(name), depth + 1)


def ids_in(response: Any, names: Sequence[str] = ID_FIELDS) -> Iterator[str]:
    """
    Yield each id in a response to an order, with duplicates.

    :param names: the fields that may hold an id.
    """
    for obj in objects_in(response):
        yield from filter(None, (own_id(obj, [name]) for name in names))


def inner_object(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the object in ``data``, also if it is the only element of a list. Return an empty object otherwise."""
    data = payload.get("data")
    if data is None:
        return {}
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    return data if isinstance(data, Mapping) else {}


def is_id(text: str) -> bool:
    """Return whether a text is usable as an id, in a path and in a log. Ids are opaque otherwise."""
    # URL libraries resolve dot segments even if they are percent-encoded (WHATWG URL), so that these would leave the path.
    return (
        len(text) <= _MAX_ID_LENGTH
        and text.isprintable()
        and text.strip() not in {"", ".", ".."}
        and "://" not in text
        and not _is_serialized(text)
    )


def _as_text(value: Any) -> Any:
    """Convert a whole number to text. Return other values unchanged."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return str(value)
    except ValueError:  # Python does not convert numbers of more than 4,300 digits (CVE-2020-10735).
        return None


def _is_serialized(text: str) -> bool:
    """Return whether a text is an object or a list in some notation. ``{abc-1}`` is an id in braces."""
    text = text.strip()
    return text[:1] in {"[", "{"} and not re.fullmatch(r"\{[\w-]+\}", text)


def _deserialize(text: str, argument: str, max_length: int) -> Any:
    if len(text) <= max_length:
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(text.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    raise ManxueInputError(
        f"{argument} is a text of {len(text)} characters that looks like an object or a list, but cannot be parsed. "
        f"{_REMEDY}."
    )


def _not_an_id(value: Any) -> str:
    if isinstance(value, float):
        return (
            "video_task_id is a floating-point number, so the digits of the id are lost. A template with "
            "render_template_as_native_obj=True does that to an id such as '1e5'. Pass the XComArg or the whole "
            "response of the create call instead."
        )
    return (
        f"video_task_id must be the id of a video task (text) or the response of a create call with an 'id', "
        f"not {_kind_of(value)}. For several ids use .expand(video_task_id=[...])."
    )


def _kind_of(value: Any) -> str:
    if isinstance(value, Mapping):
        keys = sorted(str(key) for key in value if re.fullmatch(r"[\w-]{1,50}", str(key)))
        return f"a mapping with the keys {keys[:_MAX_SHOWN_KEYS]}"
    return f"a value of type {type(value).__name__}"


def _shown(text: str) -> str:
    """Return the text in quotes, or its kind if it may contain a signed URL."""
    if "://" in text:
        return f"(a text of {len(text)} characters with a URL)"
    if "{" in text or len(text) > _MAX_SHOWN_LENGTH:
        return f"(a text of {len(text)} characters)"
    return repr(text)
