"""Progress and results of a batch: many videos, or assets, in one wait. No I/O happens here."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.events import describe_error, restore_error
from airflow_provider_manxue._core.polling import MAX_URL_AGE
from airflow_provider_manxue._core.subjects import VIDEO, Subject
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueFailedError,
    ManxueMediaTypeError,
    ManxueTimeoutError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_manxue._core.poller import Outcome, Poller

MYSQL_TEXT = 65_535
"""Size of MySQL's column ``TEXT`` in bytes. Airflow stores the arguments of a trigger in such a column."""

OUTCOMES_KEY = "manxue_kept"
"""XCom key of the tasks that a worker has read before it defers again."""

MAX_NAMED = 100
"""Maximum number of videos that the error of a batch names with their messages."""


def stored_length(ids: Iterable[str]) -> int:
    """Estimate the size of the ids in the metadata database in bytes: as JSON, encrypted with Fernet."""
    length = len(json.dumps(list(ids))) + 300  # the other arguments
    encrypted = 57 + 16 * (length // 16 + 1)
    return 4 * -(-encrypted // 3)


def to_tasks(ids: Iterable[str], outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """
    Return the tasks in the order of the ids, for XCom.

    :param ids: the ids of the author, with duplicates.
    :param outcomes: the outcomes by id. An error becomes the field ``error`` of its task. A video without an outcome was
        not read.
    """
    return [
        _task_of(video_task_id, outcomes.get(video_task_id, _NOT_READ)).to_dict() for video_task_id in ids
    ]


def to_xcoms(tasks: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the XComs of a batch by key, without its return value, from the tasks of :func:`to_tasks`."""
    return {key: [task[key] for task in tasks] for key in ("video_url", "actualDuration")}


_NOT_READ = ManxueError("The task ended before this video was read.")


def _task_of(video_task_id: str, outcome: Outcome) -> VideoTask:
    if isinstance(outcome, VideoTask):
        return outcome
    failed = isinstance(outcome, (ManxueFailedError, ManxueMediaTypeError))
    status = TaskStatus.FAILED if failed else TaskStatus.UNKNOWN
    return VideoTask(id=video_task_id, status=status, error=str(outcome))


def batch_error(errors: Mapping[str, ManxueError], subject: Subject = VIDEO) -> ManxueError:
    """
    Return the error of a batch with failed videos. It names them with their messages.

    A timeout takes precedence, then an error that a retry can cure. The retry reads the completed videos again.

    :param errors: the errors by the name of the video.
    :param subject: what was polled.
    """
    named = [f"\n- {video_task_id}: {error}" for video_task_id, error in list(errors.items())[:MAX_NAMED]]
    if len(errors) > MAX_NAMED:
        named.append(f"\n- and {len(errors) - MAX_NAMED} more")
    kinds = {type(error) for error in errors.values()}
    kind: type[ManxueError] = subject.failure
    if ManxueTimeoutError in kinds:
        kind = ManxueTimeoutError
    elif kinds - {subject.failure, ManxueMediaTypeError}:
        kind = ManxueError
    text = f"{len(errors)} of the {subject.noun}s were not completed; the results of the others are in XCom."
    return kind(text + "".join(named))


# --- tasks that a worker has read before it defers again ------------------------------------------------------------


def dump_outcomes(outcomes: Mapping[str, Outcome], read_at: Mapping[str, float]) -> dict[str, Any]:
    """Serialize the known outcomes of a batch, for the task's own XCom, with the moments when the tasks were read."""
    tasks: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    for video, outcome in outcomes.items():
        if isinstance(outcome, ManxueError):
            errors[video] = describe_error(outcome)
        else:
            tasks[video] = [read_at[video], outcome.to_dict()]
    return {"tasks": tasks, "errors": errors}


def load_outcomes(value: Any, subject: Subject = VIDEO) -> tuple[dict[str, Outcome], dict[str, float]]:
    """
    Parse the value that :func:`dump_outcomes` returns.

    :param subject: what was polled.
    :return: the outcomes by id, and when each task was read. Both are empty if the value cannot be parsed.
        The worker reads all videos again then.
    """
    outcomes: dict[str, Outcome] = {}
    read_at: dict[str, float] = {}
    try:
        for video, (moment, fields) in value["tasks"].items():
            outcomes[video], read_at[video] = subject.load(fields), float(moment)
        for video, described in value["errors"].items():
            outcomes[video] = restore_error(described)
    except (TypeError, ValueError, KeyError, AttributeError):
        return {}, {}
    return outcomes, read_at


# --- last statuses that a worker passes to the trigger --------------------------------------------------------------

_STATUS_CODES = {"completed": "c", "failed": "f"}
"""The statuses that a deferral stores. A video with another one has not ended, so that the trigger polls it for its status."""

_NO_STATUS = "-"


def dump_statuses(ids: Iterable[str], statuses: Mapping[str, str]) -> str:
    """Serialize the last statuses, one character for each distinct id; empty if no video has ended."""
    codes = "".join(_STATUS_CODES.get(statuses[video], _NO_STATUS) for video in dict.fromkeys(ids))
    return codes if codes.strip(_NO_STATUS) else ""


def load_statuses(ids: Iterable[str], codes: str) -> dict[str, str]:
    """Parse the text that :func:`dump_statuses` returns: the last status by id, empty if it is not known."""
    words = {code: status for status, code in _STATUS_CODES.items()}
    distinct = dict.fromkeys(ids, "")
    return distinct | {video: words.get(code, "") for video, code in zip(distinct, codes, strict=False)}


# --- progress -------------------------------------------------------------------------------------------------


class BatchProgress:
    """
    The progress of a batch on a worker.

    :param ids: the ids in the order of the results, with duplicates.
    :param started_at: when the wait began, in seconds since the epoch.
    :param resumed_at: when this worker began.
    :param has_worked: whether a response was parsed as a task before.
    """

    def __init__(self, ids: list[str], started_at: float, resumed_at: float, *, has_worked: bool) -> None:
        self.ids = ids
        self.unique = list(dict.fromkeys(ids))
        self.started_at = started_at
        self.resumed_at = resumed_at
        self.has_worked = has_worked
        self.known: dict[str, Outcome] = {}
        self.read_at: dict[str, float] = {}
        self.completed: set[str] = set()
        """Ids of the videos that have ended at the service, as the trigger reported."""
        self.failed: set[str] = set()
        """Ids of those that have failed. The worker reads their reasons."""
        self.ended_by_airflow = ""

    @property
    def remaining(self) -> list[str]:
        """The ids without an outcome, which the trigger polls."""
        return [video for video in self.unique if video not in self.known]

    @property
    def has_results(self) -> bool:
        """Whether a video is completed."""
        return not all(isinstance(outcome, ManxueError) for outcome in self.known.values())

    def outdated(self, now: float) -> set[str]:
        """Return the ids of the tasks with URLs that are older than ``MAX_URL_AGE``."""
        return {video for video, read_at in self.read_at.items() if now - read_at > MAX_URL_AGE}

    def to_poll(self, now: float) -> list[str]:
        """Return the ids that the worker polls: those without an outcome, and those with an outdated URL."""
        outdated = self.outdated(now)
        return [video for video in self.unique if video not in self.known or video in outdated]

    def statuses(self) -> dict[str, str]:
        """Return the known status of each video, for the log."""
        return {video: self._status(video) for video in self.unique}

    def counts(self) -> Counter[str]:
        """Count the videos by status."""
        return Counter(self.statuses().values())

    def ended_before(self, left: list[str]) -> dict[str, int] | None:
        """Count the videos that no trigger polls any more by status; None if there are none."""
        statuses = self.statuses()
        return dict(Counter(statuses[video] for video in statuses.keys() - left)) or None

    def _status(self, video: str) -> str:
        if video in self.known:
            return "failed" if isinstance(self.known[video], ManxueError) else "completed"
        if video in self.failed:
            return "failed"
        return "completed" if video in self.completed else ""

    def take(self, poller: Poller) -> None:
        """Add the outcomes of a poller. A known task is not replaced by an error."""
        for video, outcome in poller.outcomes.items():
            is_error = isinstance(outcome, ManxueError)
            if not is_error or video not in self.known:
                self.known[video] = outcome
                if not is_error:
                    self.read_at[video] = poller.ended_at[video]

    def fail(self, error: ManxueError) -> None:
        """Set an error as the outcome of all videos without one."""
        self.known |= dict.fromkeys(self.remaining, error)
