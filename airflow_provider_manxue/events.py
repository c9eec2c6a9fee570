"""
The events by which a trigger hands a wait back to a worker, written and read in one place.

An event says how the wait ended and holds neither a URL nor a key: Airflow writes it to the log and keeps it
in the metadata database. An event that is not understood fails the task; none is taken for a success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def completed_event(video_task_id: str, last_answer: str = "") -> dict[str, Any]:
    """
    Return the event of a wait whose video is there.

    :param video_task_id: id of the task.
    :param last_answer: what the log said of the last answer, so that the worker does not say it again.
    """
    return {
        "version": VERSION,
        "status": "completed",
        "video_task_id": video_task_id,
        "last_answer": last_answer,
    }


def error_event(video_task_id: str, error: ManxueError) -> dict[str, Any]:
    """Return the event of a wait that ended with an error."""
    return {"version": VERSION, "video_task_id": video_task_id, **_described(error)}


def batch_event(errors: Mapping[str, ManxueError]) -> dict[str, Any]:
    """
    Return the event of a wait for many videos, all of which have ended.

    :param errors: the errors with which some of the waits ended, by the id of the video.
    """
    return {
        "version": VERSION,
        "status": "ended",
        "errors": {video_task_id: _described(error) for video_task_id, error in errors.items()},
    }


def read_batch_event(event: Any) -> dict[str, ManxueError]:
    """
    Read the event of a wait for many videos.

    :return: the errors with which some of the waits ended; the other videos are completed.
    :raises ManxueError: if the wait ended for all of them with an error, or the event is not understood.
    """
    if not isinstance(event, dict) or event.get("version") != VERSION or event.get("status") != "ended":
        error = read_event(event)
        raise error if error is not None else _not_understood(event)
    errors = event.get("errors")
    if not isinstance(errors, dict):
        raise _not_understood(event)
    return {video_task_id: _restored(described) for video_task_id, described in errors.items()}


def _described(error: ManxueError) -> dict[str, str]:
    return {"status": _STATUS_OF.get(type(error), "error"), "message": str(error)}


def _restored(described: Any) -> ManxueError:
    if not isinstance(described, dict) or described.get("status") not in _ERRORS:
        return _not_understood(described)
    return _ERRORS[described["status"]](str(described.get("message")))


def read_event(event: Any) -> ManxueError | None:
    """
    Read an event.

    :return: None if the video is there, otherwise the error with which the wait ended.
    """
    if isinstance(event, dict) and event.get("version") == VERSION:
        status = event.get("status")
        if status == "completed":
            return None
        if isinstance(status, str) and status in _ERRORS:
            return _ERRORS[status](str(event.get("message") or f"The wait ended with the status {status!r}."))
    return _not_understood(event)


def _not_understood(event: Any) -> ManxueError:
    return ManxueError(
        f"The trigger handed over an event that this version of the provider does not understand: {event!r:.300}. "
        f"Clear the task to wait again; workers and triggerers must run the same version of the provider."
    )
