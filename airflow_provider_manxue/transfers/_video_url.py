"""The URL of a video to save: from the service, or from the operator's argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue._core.wait_errors import result_missing, video_failed, with_likely_causes
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueNotCompletedError,
    ManxuePermissionError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

if TYPE_CHECKING:
    from airflow_provider_manxue.hooks.manxue import ManxueHook

_REFUSALS = (
    ManxueAuthenticationError,
    ManxuePermissionError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueTransientError,
)
"""Responses of the service in place of a URL, after which a URL that is known may still work."""


class SecretUrl:
    """A URL that is hidden where Airflow shows all attributes of an operator."""

    __slots__ = ("value",)

    def __init__(self, value: str | None = None) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***" if self.value else ""


class UrlRefresher:
    """
    Source of a video's URL. Each response of the service may have a new signature.

    :param hook: queries the service.
    :param video_task_id: the id, or a whole task.
    :param known_url: the URL in the operator's argument, if any. Returned once, if the service returns no URL.
    :param log: the task's logger, for the use of that URL.
    """

    def __init__(self, hook: ManxueHook, video_task_id: Any, known_url: str | None, log: Any) -> None:
        self._hook = hook
        self._video_task_id = parse_video_task_id(video_task_id)
        self._known_url = known_url
        self._log = log
        self.video: dict[str, Any] = {"id": self._video_task_id}
        """Known fields of the video, under the service's names."""

    def __call__(self) -> str:
        """
        Return a URL of the video.

        :raises ManxueError: if there is none.
        """
        problem: ManxueError
        try:
            task = self._hook.get_video_task(self._video_task_id)
        except _REFUSALS as error:
            problem = error
        else:
            self.video = task.to_dict()
            if task.status is TaskStatus.COMPLETED and task.video_url:
                return task.video_url
            problem = missing_url_error(task)
        if not self._known_url:
            raise with_likely_causes(problem, self._video_task_id)
        self._log.warning("%s. Using the URL in video_task_id instead.", str(problem).removesuffix("."))
        url, self._known_url = self._known_url, None
        return url


def missing_url_error(task: VideoTask) -> ManxueError:
    if task.status is TaskStatus.COMPLETED:
        return result_missing(task.id, task.error)
    if task.status is TaskStatus.FAILED:
        return video_failed(task.id, task.error or f"status {task.status_word!r}")
    return ManxueNotCompletedError(
        f"The video {task.id!r} is not completed, its status is {task.status_word!r}. Wait for it with a "
        f"ManxueVideoSensor first."
    )
