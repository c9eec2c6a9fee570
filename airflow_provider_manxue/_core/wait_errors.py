"""The errors that end a wait or a save. No I/O happens here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_manxue._core.status_log import elapsed
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueError,
    ManxuePermissionError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTimeoutError,
    ManxueVideoFailedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_OF_THE_CONNECTION = (ManxueAuthenticationError, ManxueConfigurationError)

BLOCKED = (ManxuePermissionError, ManxueRedirectError)
"""Errors that the service may send for one video, and a gateway or firewall in front of it for all: a 403, a redirect."""


def affects_all_videos(error: ManxueError) -> bool:
    """Return whether an error affects the connection, and so each video that is polled over it."""
    return isinstance(error, _OF_THE_CONNECTION)


def error_of_all(outcomes: Iterable[object]) -> ManxueError | None:
    """
    Return the error that has ended the whole wait for many videos: one of the connection, or a 403 or redirect for each of them.

    :param outcomes: the end of the wait for each video: its task, or an error.
    :return: None if each error concerns its own video.
    """
    ends = list(outcomes)
    errors = [end for end in ends if isinstance(end, ManxueError)]
    of_connection = next(filter(affects_all_videos, errors), None)
    is_blocked = bool(errors) and all(isinstance(end, BLOCKED) for end in ends)
    return of_connection or (errors[0] if is_blocked else None)


def timed_out(video_task_id: str, waited: float, status: str, trouble: str) -> ManxueTimeoutError:
    """
    Return the error of a video that was not ready in time.

    :param waited: seconds from the start of the wait to its deadline.
    :param status: the last status that the service reported; empty if it reported none.
    :param trouble: the last error; empty if a usable response followed.
    """
    last_error = f" Last error: {trouble.removesuffix('.')}." if trouble else ""
    return ManxueTimeoutError(
        f"The video {video_task_id!r} was not ready after {elapsed(waited)}. Last status from the service: "
        f"{status or 'none'}.{last_error} The video may still be completed: increase 'timeout', or wait for the same id "
        f"with another sensor."
    )


def video_failed(video_task_id: str, reason: str) -> ManxueVideoFailedError:
    """Return the error of a video that the service could not generate."""
    return ManxueVideoFailedError(
        f"The service could not generate the video {video_task_id!r}: {reason.removesuffix('.')}. Usual causes "
        f"are a prompt that is not allowed and reference material that is not supported; a new order is needed."
    )


def result_missing(video_task_id: str, reason: str | None) -> ManxueResultMissingError:
    """Return the error of a completed video without a URL."""
    reported = f" Reason from the service: {reason.removesuffix('.')}." if reason else ""
    return ManxueResultMissingError(
        f"The video {video_task_id!r} is completed, but the response has no URL of the video.{reported} Report this "
        f"id to the support of the service."
    )


def with_likely_causes(error: ManxueError, video_task_id: str) -> ManxueError:
    """Add the likely causes to the error of an id that the service refuses."""
    if not isinstance(error, ManxueRefusedError):
        return error
    return type(error)(
        f"The service does not return the video {video_task_id!r}: {error}. Likely causes: the id is not one "
        f"that the create call returned, it belongs to another API key, the task is older than the service stores "
        f"records (about a day), or the connection's base URL has a wrong path."
    )
