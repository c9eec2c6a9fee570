"""Many videos in one wait: which errors end it, how far it is, and what it hands over. No I/O happens here."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_manxue._core.polling import MAX_RETRY_AFTER, AskAgain, Completed, Ended
from airflow_provider_manxue._core.responses import parse_video_task_id
from airflow_provider_manxue._core.status_log import LogLine, elapsed
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueError,
    ManxueInputError,
    ManxueMediaTypeError,
    ManxuePermissionError,
    ManxueRateLimitError,
    ManxueRedirectError,
    ManxueTimeoutError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

PROGRESS_INTERVAL = 10.0
"""Seconds between two lines about progress at least; a failed video is told at once."""

MYSQL_TEXT = 65_535
"""Bytes that MySQL holds in the column in which Airflow stores the arguments of a trigger."""

_OF_THE_CONNECTION = (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxuePermissionError,
    ManxueRedirectError,
)


Outcome = VideoTask | ManxueError


def parse_video_task_ids(values: Any) -> list[str]:
    """
    Take the ids out of what an author passed.

    :param values: an iterable of ids, or of whole create answers.
    :raises ManxueInputError: if there is none, or one of them is unusable; it is named by its position.
    """
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ManxueInputError(
            f"video_task_ids must be a list of ids, not {values!r:.100}. For one id use ManxueVideoSensor; with a "
            f"template, set render_template_as_native_obj=True on the Dag, so that a list comes out as a list."
        )
    ids = []
    for position, value in enumerate(values):
        try:
            ids.append(parse_video_task_id(value))
        except ManxueInputError as error:
            raise ManxueInputError(f"video_task_ids[{position}]: {error}") from None
    if not ids:
        raise ManxueInputError("video_task_ids is empty. Pass at least one id.")
    return ids


def stored_length(ids: Iterable[str]) -> int:
    """
    Return about how many bytes the ids take in the metadata database: as JSON, encrypted by Airflow's Fernet.

    :param ids: the ids.
    """
    length = len(json.dumps(list(ids))) + 300  # the other arguments
    encrypted = 57 + 16 * (length // 16 + 1)
    return 4 * -(-encrypted // 3)


def affects_all_videos(error: ManxueError) -> bool:
    """Return whether an error concerns the connection, and with it every video, and not just one."""
    return isinstance(error, _OF_THE_CONNECTION)


def next_poll_of_all(unfinished: Iterable[tuple[Outcome, AskAgain]], now: float) -> AskAgain:
    """
    Return when a worker asks again for all videos that are not there yet.

    :param unfinished: for each of them what the service said, and when it would be asked for alone.
    :param now: the current time. A pause after a 429 is counted from then, and holds for all.
    """
    earliest, pause = math.inf, 0.0
    for outcome, again in unfinished:
        earliest = min(earliest, again.at)
        if isinstance(outcome, ManxueRateLimitError):
            pause = max(pause, min(outcome.retry_after or 0.0, MAX_RETRY_AFTER))
    return AskAgain(max(earliest, now + pause))


@dataclass(slots=True)
class Progress:
    """
    Counts the ends of the waits of a batch.

    :param count: number of videos that are awaited.
    """

    count: int
    completed: int = 0
    errors: dict[str, ManxueError] = field(default_factory=dict)
    _told_at: float = float("-inf")

    def after(self, video_task_id: str, end: Completed | Ended, waited: float) -> tuple[LogLine, ...]:
        """
        Take note of an end, and return the lines that it is worth.

        :param video_task_id: id of the video.
        :param end: how its wait ended.
        :param waited: seconds since the wait for the batch began.
        """
        if isinstance(end, Ended):
            self.errors[video_task_id] = end.error
            return (
                LogLine(logging.WARNING, f"{end.error} The others are still awaited."),
                *self._news(waited),
            )
        self.completed += 1
        return self._news(waited)

    def _news(self, waited: float) -> tuple[LogLine, ...]:
        is_last = self.completed + len(self.errors) == self.count
        if not is_last and waited - self._told_at < PROGRESS_INTERVAL:
            return ()
        self._told_at = waited
        others = f", {len(self.errors)} ended otherwise" if self.errors else ""
        text = f"{self.completed} of {self.count} videos completed{others} (after {elapsed(waited)})"
        return (LogLine(logging.INFO, text),)


def to_tasks(ids: Iterable[str], outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """
    Return the tasks in the order of the ids, for XCom.

    :param ids: the ids that were asked for; one may stand there more than once.
    :param outcomes: what became of each; an error stands in the field ``error`` of its task.
    """
    return [_task_of(video_task_id, outcomes[video_task_id]).to_dict() for video_task_id in ids]


def to_xcoms(tasks: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """
    Return what a wait for many videos hands to the next tasks, beside its return value, by XCom key.

    :param tasks: the tasks, as :func:`to_tasks` returns them.
    """
    return {key: [task[key] for task in tasks] for key in ("video_url", "actualDuration")}


def _task_of(video_task_id: str, outcome: Outcome) -> VideoTask:
    if isinstance(outcome, VideoTask):
        return outcome
    failed = isinstance(outcome, (ManxueVideoFailedError, ManxueMediaTypeError))
    status = TaskStatus.FAILED if failed else TaskStatus.UNKNOWN
    return VideoTask(id=video_task_id, status=status, error=str(outcome))


def batch_error(errors: Mapping[str, ManxueError]) -> ManxueError:
    """
    Return one error for a batch that did not succeed as a whole; it names each video with its message.

    A timeout wins, then an error that a retry can cure: the videos that are completed are found again at once.
    """
    lines = "".join(f"\n- {video_task_id}: {error}" for video_task_id, error in errors.items())
    kinds = {type(error) for error in errors.values()}
    curable = kinds - {ManxueVideoFailedError, ManxueMediaTypeError}
    kind: type[ManxueError] = ManxueVideoFailedError
    if ManxueTimeoutError in kinds:
        kind = ManxueTimeoutError
    elif curable:
        kind = ManxueError
    return kind(f"{len(errors)} of the videos did not come; the results of the others are in XCom.{lines}")
