"""Record files: the responses to real tasks that the doctor has recorded, in the form that the emulator sends."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing._response import Raw, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

_FORM = 1
"""Version of the form of record files, as ``docs/doctor.md`` documents it."""

_URL = "https://recorded.invalid/video.mp4"
"""URL that stands for each recorded one. The emulator sends the URL of its own video."""

_MAX_LENGTH = 1024 * 1024
"""Maximum length of a body in bytes. Clients read no more."""

_LONGEST_VIDEO = 3600.0
"""Length of the longest video that the emulator makes for a record, in seconds."""

_FILLERS = {"empty": b"", "html": b"<", "json": b"{", "text": b"x", "binary": b"\xff"}
"""A byte of a body, by its kind. None of these bodies is JSON."""

_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "text": "text/plain",
    "binary": "application/octet-stream",
}

_WITHOUT_RESPONSE = {"timeout": Response(hang=True), "cut": Response(truncate=20)}
_RESET = Response(reset="before")
"""Response for all other trouble: the port serves all tasks, so it cannot refuse the queries of a single one."""


@dataclass(frozen=True)
class RecordedResponse:
    """
    A recorded response.

    :param at: when it was received first, in seconds since the start of the recording.
    :param until: when it was received last.
    :param response: the response.
    :param status: status of the emulator's task meanwhile. One that is completed has a URL.
    :param actual_duration: length of the video in seconds; None if the response does not say it.
    """

    at: float
    until: float
    response: Response
    status: str
    actual_duration: float | None


def read_record(path: str | Path) -> dict[str, list[RecordedResponse]]:
    """
    Return the responses in a record file, by the id of their task.

    :raises ValueError: if it is not a record file that this version can play.
    :raises OSError: if it cannot be read.
    """
    try:
        record = json.loads(Path(path).read_bytes())
        if record["form"] != _FORM:
            raise ValueError(f"its form is {record['form']!r}, and this version plays form {_FORM}")
        return {
            task_id: [_recorded(entry, task_id) for entry in entries]
            for task_id, entries in record["tasks"].items()
            if entries
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "a field is missing, or has an unknown form"
        raise ValueError(f"{path} is not a record of the doctor that can be played: {reason:.200}.") from None


def _recorded(entry: Mapping[str, Any], task_id: str) -> RecordedResponse:
    text = json.dumps(entry.get("json"))
    status = "completed" if _URL in text else "failed" if '"failed"' in text else "processing"
    duration = re.search(r'"actualDuration": (\d+(?:\.\d+)?)', text)
    return RecordedResponse(
        float(entry["at"]),
        float(entry["until"]),
        _response(entry, task_id),
        status,
        float(duration[1]) if duration and 0 < float(duration[1]) <= _LONGEST_VIDEO else None,
    )


def _response(entry: Mapping[str, Any], task_id: str) -> Response:
    if "no_response" in entry:
        return _WITHOUT_RESPONSE.get(entry["no_response"], _RESET)
    pause, headers = entry.get("retry_after"), {}
    if pause == "invalid":
        pause, headers = None, {"Retry-After": "invalid"}
    if "json" in entry:
        json_body = _playable(entry["json"], task_id)
        return Response(status=entry["status"], json=json_body, retry_after=pause, headers=headers)
    kind, length = entry["body"]["kind"], entry["body"]["length"]
    if not 0 <= length <= _MAX_LENGTH:
        raise ValueError(f"the length of a body is {length!r}")
    if kind in _CONTENT_TYPES:
        headers = {**headers, "Content-Type": _CONTENT_TYPES[kind]}
    body = _FILLERS[kind] * length
    return Response(status=entry["status"], body=body, retry_after=pause, headers=headers)


def _playable(value: Any, task_id: str) -> Any:
    """Return a JSON value with the emulator's own id and URL in the place of the recorded ones."""
    if isinstance(value, dict):
        return {name: _playable(item, task_id) for name, item in value.items()}
    if isinstance(value, list):
        return [_playable(item, task_id) for item in value]
    if value == _URL:
        return Raw('"{}"', "video_url")
    return Raw('"{}"', "id") if value == task_id else value
