"""
The events by which a trigger hands a wait back to a worker, written and read in one place.

An event says how the wait ended and holds neither a URL nor a key: Airflow writes it to the log and keeps it
in the metadata database. An event that is not understood fails the task; none is taken for a success.
"""

from __future__ import annotations

from typing import Any

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
    status = _STATUS_OF.get(type(error), "error")
    return {"version": VERSION, "status": status, "video_task_id": video_task_id, "message": str(error)}


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
    return ManxueError(
        f"The trigger handed over an event that this version of the provider does not understand: {event!r:.300}. "
        f"Clear the task to wait again; workers and triggerers must run the same version of the provider."
    )
