"""
The events of the triggers: a trigger returns a wait to a worker with one. No I/O happens here.

An event contains neither a URL nor the API key, since Airflow logs it and stores it in the metadata database. An event
that cannot be parsed fails the task.

``started_at``, when the wait began in seconds since the epoch, is in an event only if the worker does not know it.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.ids import names_a_task
from airflow_provider_manxue.exceptions import (
    ManxueAssetFailedError,
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueConnectionNotFoundError,
    ManxueError,
    ManxueFailedError,
    ManxueInputError,
    ManxueInternalError,
    ManxueMediaTypeError,
    ManxuePermissionError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTimeoutError,
    ManxueVideoFailedError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from airflow_provider_manxue._core.poller import Outcome

VERSION = 1

MAX_REASON = 200
"""Maximum length of an error's message in the event of a batch. The worker reads a longer one again."""

MAX_TABLE = 40_000
"""Maximum size of the distinct states of a batch in its event, in bytes."""

_END_OF_TIME = 1e11
"""Seconds since the epoch. A greater number is not a valid start of a wait."""

_CODES = string.ascii_letters + string.digits
"""Characters for the distinct states of a batch. The last one is for all other states: the worker polls those videos."""

_ERRORS: dict[str, type[ManxueError]] = {
    "failed": ManxueVideoFailedError,
    "timeout": ManxueTimeoutError,
    "unauthorized": ManxueAuthenticationError,
    "forbidden": ManxuePermissionError,
    "redirected": ManxueRedirectError,
    "refused": ManxueRefusedError,
    "result_missing": ManxueResultMissingError,
    "wrong_media_type": ManxueMediaTypeError,
    "configuration": ManxueConfigurationError,
    "input": ManxueInputError,
    "error": ManxueError,
    "connection_not_found": ManxueConnectionNotFoundError,
    "internal": ManxueInternalError,
    "asset_failed": ManxueAssetFailedError,
}
_STATUS_OF = {kind: status for status, kind in _ERRORS.items()}
_COMPLETED = "completed"
_NOT_POLLED = "not_polled"
"""A timeout without a final poll: the worker polls the video itself."""


# --- one video ----------------------------------------------------------------------------------------------


def completed_event(
    video_task_id: str, last_status: str = "", *, started_at: float | None = None
) -> dict[str, Any]:
    """Return the event of a wait whose video is completed. The worker does not log ``last_status`` again."""
    return {
        "version": VERSION,
        "status": _COMPLETED,
        "video_task_id": video_task_id,
        "last_answer": last_status,
        **_start(started_at),
    }


def error_event(
    video_task_id: str,
    error: ManxueError,
    *,
    final_poll: bool = True,
    has_worked: bool = False,
    started_at: float | None = None,
) -> dict[str, Any]:
    """
    Return the event of a wait that ended with an error.

    :param video_task_id: id of the task; empty if the error affects all videos of a batch.
    :param final_poll: whether a timeout was decided by a final poll. If not, the worker polls.
    :param has_worked: whether a response was parsed as a task before.
    """
    is_timeout = isinstance(error, ManxueTimeoutError)
    return {
        "version": VERSION,
        "video_task_id": video_task_id,
        "status": _status_of(error),
        "message": str(error),
        **({"final_poll": final_poll} if is_timeout else {}),
        **({"has_worked": True} if has_worked else {}),
        **_start(started_at),
    }


def begin_event(reason: str) -> dict[str, Any]:
    """Return the event of a wait that cannot begin in the triggerer. A worker begins it."""
    return {"version": VERSION, "status": "begin", "reason": reason}


def is_begin_event(event: Any) -> bool:
    """Return whether the event is that of :func:`begin_event`."""
    return _current(event).get("status") == "begin"


def _current(event: Any) -> dict[str, Any]:
    """Return an event of this version unchanged, and an empty one instead of anything else."""
    return event if isinstance(event, dict) and event.get("version") == VERSION else {}


def start_of(event: Any) -> float | None:
    """Return when the wait began, in seconds since the epoch; None if the event does not name it."""
    started_at = event.get("started_at") if isinstance(event, dict) else None
    if isinstance(started_at, (int, float)) and 0 <= started_at < _END_OF_TIME:
        return float(started_at)
    return None


def parse_event(event: Any) -> ManxueError | None:
    """Return the error of the wait; None if the video is completed."""
    fields = _current(event)
    if fields.get("status") != _COMPLETED:
        return _restored(fields.get("status"), fields.get("message"), event)
    video_task_id = fields.get("video_task_id")
    names_video = isinstance(video_task_id, str) and names_a_task(video_task_id)
    return None if names_video else _not_understood(event)


def needs_final_poll(event: Any) -> bool:
    """Return whether an event reports a timeout that no final poll has decided."""
    fields = _current(event)
    return fields.get("status") == "timeout" and fields.get("final_poll") is not True


def worked_before(event: Any) -> bool:
    """Return whether a response was parsed as a task before this event."""
    return isinstance(event, dict) and (event.get("status") == _COMPLETED or event.get("has_worked") is True)


# --- many videos --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchStates:
    """
    The states of the videos of a batch, parsed from the trigger's event.

    :param errors: the errors of the videos whose wait ended with one, by id.
    :param to_read: ids of the videos that have ended at the service. The worker reads their URLs or reasons.
    :param failed: ids of those that have failed.
    :param to_poll: ids of the videos whose state the worker must poll.
    """

    errors: dict[str, ManxueError] = field(default_factory=dict)
    to_read: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    to_poll: list[str] = field(default_factory=list)


def batch_event(
    ids: Sequence[str],
    outcomes: Mapping[str, Outcome],
    *,
    not_polled: Collection[str] = (),
    has_worked: bool = True,
    started_at: float | None = None,
) -> dict[str, Any]:
    """
    Return the event of a wait for many videos. Its size is below 64 KiB for 10,000 videos.

    Each video has one character, the key of an entry in the table of distinct states.

    :param ids: the distinct ids, in order.
    :param not_polled: ids of the videos that timed out without a final poll.
    :param has_worked: whether a response was parsed as a task.
    """
    states = [_state(video, outcomes[video], video in not_polled) for video in ids]
    codes = _codes(states)
    return {
        "version": VERSION,
        "status": "polled",
        "ids": _hash(ids),
        "states": "".join(codes.get(state, _CODES[-1]) for state in states),
        "table": {code: list(state) for state, code in codes.items()},
        "has_worked": has_worked,
        **_start(started_at),
    }


def _codes(states: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Assign characters to distinct states, the most frequent ones first, until the table is full."""
    codes: dict[tuple[str, str], str] = {}
    left = MAX_TABLE
    for state, _ in Counter(states).most_common():
        size = len(json.dumps(state))
        if size <= left and len(codes) < len(_CODES) - 1:
            left -= size
            codes[state] = _CODES[len(codes)]
    return codes


def parse_batch_event(event: Any, ids: Sequence[str]) -> BatchStates:
    """
    Parse the event of a wait for many videos.

    :param ids: the distinct ids that the trigger polls, in order. If the event is about other ids, all are polled again.
    :raises ManxueError: if one error ended the wait for all of them, or the event cannot be parsed.
    """
    fields = _current(event)
    if fields.get("status") == "ended":
        return _parse_ended_event(fields, ids)
    if needs_final_poll(event):
        return BatchStates(to_poll=list(ids))
    if fields.get("status") != "polled":
        raise parse_event(event) or _not_understood(event)
    states, table = fields.get("states"), fields.get("table")
    if not isinstance(states, str) or not isinstance(table, dict):
        raise _not_understood(event)
    if fields.get("ids") != _hash(ids) or len(states) != len(ids):
        return BatchStates(to_poll=list(ids))
    return _sorted((video, *_entry(table, code)) for video, code in zip(ids, states, strict=True))


def _entry(table: Mapping[str, Any], code: str) -> tuple[str, str]:
    entry = table.get(code)
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry):
        return entry[0], entry[1]
    return _NOT_POLLED, ""


def _sorted(states: Iterable[tuple[str, str, str]]) -> BatchStates:
    sorted_states = BatchStates()
    for video, status, reason in states:
        if status == _NOT_POLLED:
            sorted_states.to_poll.append(video)
        elif status == _COMPLETED or not reason:
            sorted_states.to_read.append(video)
            if status != _COMPLETED:
                sorted_states.failed.append(video)
        else:
            sorted_states.errors[video] = _restored(status, reason.replace("{id}", repr(video)), status)
    return sorted_states


def _parse_ended_event(event: Mapping[str, Any], ids: Sequence[str]) -> BatchStates:
    """Parse the form of version 0.1.0."""
    errors = event.get("errors")
    if not isinstance(errors, dict):
        raise _not_understood(event)
    states = BatchStates()
    for video in ids:
        described = errors.get(video)
        if described is None:
            states.to_read.append(video)
            continue
        fields = described if isinstance(described, dict) else {}
        if needs_final_poll({"version": VERSION, **fields}):
            states.to_poll.append(video)
        else:
            states.errors[video] = _restored(fields.get("status"), fields.get("message"), described)
    return states


def _state(video_task_id: str, outcome: Outcome, is_unpolled: bool) -> tuple[str, str]:
    """Return the state of a video. Its id is removed from the reason, so that videos with the same reason share a state."""
    if is_unpolled:
        return _NOT_POLLED, ""
    if not isinstance(outcome, ManxueError):
        return _COMPLETED, ""
    reason = str(outcome).replace(repr(video_task_id), "{id}")
    is_cut = len(reason) > MAX_REASON and isinstance(outcome, ManxueFailedError)
    return _status_of(outcome), "" if is_cut else reason[: 2 * MAX_REASON]


def _hash(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def _start(started_at: float | None) -> dict[str, float]:
    return {} if started_at is None else {"started_at": started_at}


def _status_of(error: ManxueError) -> str:
    return _STATUS_OF.get(type(error), "error")


def describe_error(error: ManxueError) -> list[str]:
    """Serialize an error: its status and its message."""
    return [_status_of(error), str(error)]


def restore_error(described: Any) -> ManxueError:
    """Parse the value that :func:`describe_error` returns."""
    status, message = described
    return _restored(status, message, described)


def _restored(status: Any, message: Any, event: Any) -> ManxueError:
    if not isinstance(status, str) or status not in _ERRORS:
        return _not_understood(event)
    return _ERRORS[status](str(message or f"The wait ended with the status {status!r}."))


def _not_understood(event: Any) -> ManxueError:
    return ManxueError(
        f"The trigger returned an event that this version of the provider does not understand: {event!r:.300}. "
        f"Clear the task to wait again; workers and triggerers must run the same version of the provider."
    )
