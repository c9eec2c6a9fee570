"""Many videos in one wait: its ids, and what it hands over. No I/O happens here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.events import describe_error, restore_error
from airflow_provider_manxue._core.poller import affects_all_videos
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueMediaTypeError,
    ManxueTimeoutError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_manxue._core.poller import Outcome

MYSQL_TEXT = 65_535
"""Bytes that MySQL holds in the column in which Airflow stores the arguments of a trigger."""

KEPT_KEY = "manxue_kept"
"""XCom key of what a worker has read before it defers again."""

MAX_NAMED = 100
"""Videos that the error of a batch names with their messages at most."""


def stored_length(ids: Iterable[str]) -> int:
    """
    Return about how many bytes the ids take in the metadata database: as JSON, encrypted by Airflow's Fernet.

    :param ids: the ids.
    """
    length = len(json.dumps(list(ids))) + 300  # the other arguments
    encrypted = 57 + 16 * (length // 16 + 1)
    return 4 * -(-encrypted // 3)


def to_tasks(ids: Iterable[str], outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """
    Return the tasks in the order of the ids, for XCom.

    :param ids: the ids that were asked for; one may stand there more than once.
    :param outcomes: how the wait for each of them ended; an error goes into the field ``error`` of its task. A video
        without an outcome was not read.
    """
    return [
        _task_of(video_task_id, outcomes.get(video_task_id, _NOT_READ)).to_dict() for video_task_id in ids
    ]


def to_xcoms(tasks: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """
    Return what a wait for many videos hands to the next tasks, beside its return value, by XCom key.

    :param tasks: the tasks, as :func:`to_tasks` returns them.
    """
    return {key: [task[key] for task in tasks] for key in ("video_url", "actualDuration")}


_NOT_READ = ManxueError("The task ended before this video was read.")


def _task_of(video_task_id: str, outcome: Outcome) -> VideoTask:
    if isinstance(outcome, VideoTask):
        return outcome
    failed = isinstance(outcome, (ManxueVideoFailedError, ManxueMediaTypeError))
    status = TaskStatus.FAILED if failed else TaskStatus.UNKNOWN
    return VideoTask(id=video_task_id, status=status, error=str(outcome))


def batch_error(errors: Mapping[str, ManxueError]) -> ManxueError:
    """
    Return one error for a batch that did not succeed as a whole; it names the videos with their messages.

    An error of the connection wins, then a timeout, then an error that a retry can cure: the videos that are completed are
    found again at once.
    """
    for error in errors.values():
        if affects_all_videos(error):
            return error
    named = [f"\n- {video_task_id}: {error}" for video_task_id, error in list(errors.items())[:MAX_NAMED]]
    if len(errors) > MAX_NAMED:
        named.append(f"\n- and {len(errors) - MAX_NAMED} more")
    kinds = {type(error) for error in errors.values()}
    kind: type[ManxueError] = ManxueVideoFailedError
    if ManxueTimeoutError in kinds:
        kind = ManxueTimeoutError
    elif kinds - {ManxueVideoFailedError, ManxueMediaTypeError}:
        kind = ManxueError
    text = f"{len(errors)} of the videos did not come; the results of the others are in XCom."
    return kind(text + "".join(named))


# --- what a worker has read before it defers again ------------------------------------------------------------


def to_kept(outcomes: Mapping[str, Outcome], read_at: Mapping[str, float]) -> dict[str, Any]:
    """
    Return what is known of the videos of a batch, for the task's own XCom.

    :param outcomes: how the wait for some of them has ended.
    :param read_at: when each task was read, in seconds since the epoch.
    """
    return {
        "tasks": {
            video: [read_at.get(video, 0.0), outcome.to_dict()]
            for video, outcome in outcomes.items()
            if isinstance(outcome, VideoTask)
        },
        "errors": {
            video: describe_error(outcome)
            for video, outcome in outcomes.items()
            if isinstance(outcome, ManxueError)
        },
    }


def parse_kept(value: Any) -> tuple[dict[str, Outcome], dict[str, float]]:
    """
    Parse what :func:`to_kept` has written.

    :return: the outcomes by id, and when each task was read. Both are empty if the value is anything else: then all
        videos are read again.
    """
    outcomes: dict[str, Outcome] = {}
    read_at: dict[str, float] = {}
    try:
        for video, (moment, fields) in value["tasks"].items():
            outcomes[video], read_at[video] = VideoTask.from_dict(fields), float(moment)
        for video, described in value["errors"].items():
            outcomes[video] = restore_error(described)
    except (TypeError, ValueError, KeyError, AttributeError):
        return {}, {}
    return outcomes, read_at
