"""
The events by which a trigger hands a wait back to a worker, written and read in one place.

An event says how the wait ended and holds neither a URL nor a key: Airflow writes it to the log and keeps it
in the metadata database. An event that is not understood fails the task; none is taken for a success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.responses import names_a_task
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueError,
    ManxueInputError,
    ManxueMediaTypeError,
    ManxuePermissionError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTimeoutError,
    ManxueVideoFailedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1

_END_OF_TIME = 1e11
"""Seconds since the epoch beyond which a number is no moment of a wait."""

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
}
_STATUS_OF = {kind: status for status, kind in _ERRORS.items()}


def completed_event(
    video_task_id: str, last_answer: str = "", *, started_at: float | None = None
) -> dict[str, Any]:
    """
    Return the event of a wait whose video is there.

    :param video_task_id: id of the task.
    :param last_answer: what the log said of the last answer, so that the worker does not say it again.
    :param started_at: when the wait began, in seconds since the epoch, if the worker does not know.
    """
    return {
        "version": VERSION,
        "status": "completed",
        "video_task_id": video_task_id,
        "last_answer": last_answer,
        **_start(started_at),
    }


def error_event(video_task_id: str, error: ManxueError) -> dict[str, Any]:
    """Return the event of a wait that ended with an error."""
    return {"version": VERSION, "video_task_id": video_task_id, **_described(error)}


def begin_event(reason: str) -> dict[str, Any]:
    """
    Return the event of a wait that cannot begin in the triggerer, so that a worker has to begin it.

    :param reason: why it cannot.
    """
    return {"version": VERSION, "status": "begin", "reason": reason}


def says_begin(event: Any) -> bool:
    """Return whether a worker has to begin the wait."""
    return isinstance(event, dict) and event.get("version") == VERSION and event.get("status") == "begin"


def _start(started_at: float | None) -> dict[str, float]:
    return {} if started_at is None else {"started_at": started_at}


def start_of(event: Any) -> float | None:
    """Return when the wait began, in seconds since the epoch; None if the event does not say."""
    started_at = event.get("started_at") if isinstance(event, dict) else None
    if isinstance(started_at, (int, float)) and 0 <= started_at < _END_OF_TIME:
        return float(started_at)
    return None


def batch_event(errors: Mapping[str, ManxueError], *, started_at: float | None = None) -> dict[str, Any]:
    """
    Return the event of a wait for many videos, all of which have ended.

    :param errors: the errors with which some of the waits ended, by the id of the video.
    :param started_at: when the wait began, in seconds since the epoch, if the worker does not know.
    """
    return {
        "version": VERSION,
        "status": "ended",
        **_start(started_at),
        "errors": {video_task_id: _described(error) for video_task_id, error in errors.items()},
    }


def parse_batch_event(event: Any) -> dict[str, ManxueError]:
    """
    Read the event of a wait for many videos.

    :return: the errors with which some of the waits ended; the other videos are completed.
    :raises ManxueError: if the wait ended for all of them with an error, or the event is not understood.
    """
    if not isinstance(event, dict) or event.get("version") != VERSION or event.get("status") != "ended":
        error = parse_event(event)
        raise error if error is not None else _not_understood(event)
    errors = event.get("errors")
    if not isinstance(errors, dict):
        raise _not_understood(event)
    return {video_task_id: _restored(described) for video_task_id, described in errors.items()}


def _described(error: ManxueError) -> dict[str, str]:
    return {"status": _STATUS_OF.get(type(error), "error"), "message": str(error)}


def _restored(described: Any) -> ManxueError:
    status = described.get("status") if isinstance(described, dict) else None
    if not isinstance(status, str) or status not in _ERRORS:
        return _not_understood(described)
    return _ERRORS[status](str(described.get("message") or f"The wait ended with the status {status!r}."))


def parse_event(event: Any) -> ManxueError | None:
    """
    Read an event.

    :return: None if the video is there, otherwise the error with which the wait ended.
    """
    if isinstance(event, dict) and event.get("version") == VERSION:
        if event.get("status") != "completed":
            return _restored(event)
        video_task_id = event.get("video_task_id")
        if isinstance(video_task_id, str) and names_a_task(video_task_id):
            return None
    return _not_understood(event)


def _not_understood(event: Any) -> ManxueError:
    return ManxueError(
        f"The trigger handed over an event that this version of the provider does not understand: {event!r:.300}. "
        f"Clear the task to wait again; workers and triggerers must run the same version of the provider."
    )
