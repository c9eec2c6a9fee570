"""Video tasks."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing._mp4 import Video
from airflow_provider_manxue.testing._progress import Scripted

if TYPE_CHECKING:
    from airflow_provider_manxue.testing._clock import Clock
    from airflow_provider_manxue.testing._script import Script, Step


class Task(Scripted):
    """
    A video task.

    :param task_id: id of the task.
    :param clock: the emulator's clock.
    :param script: its script, which starts now.
    :param model: name of the model.
    :param actual_duration: length of its video in seconds.
    :param size: size of its video in bytes; the natural one if left out.
    """

    def __init__(
        self,
        task_id: str,
        *,
        clock: Clock,
        script: Script,
        model: str,
        actual_duration: float,
        size: int | None = None,
    ) -> None:
        super().__init__(clock, script)
        self.id = task_id
        self.model = model
        self.actual_duration = actual_duration
        self.size = size
        self.created = int(clock.now())
        self.version = 1

    def replace_video(self) -> None:
        """Replace the video by another one of the same length, with a new ``ETag``."""
        self.version += 1

    @property
    def video(self) -> Video:
        """The video of the task."""
        return _video(f"{self.id} v{self.version}", self.actual_duration, self.size)

    def body(self, step: Step, video_url: str) -> dict[str, Any]:
        """Return the regular JSON body, with the fields of the published sample."""
        body: dict[str, Any] = {
            "id": self.id,
            "object": "video",
            "created": self.created,
            "model": self.model,
            "status": step.status,
            "video_url": None,
            "error": None,
        }
        if step.status == "completed":
            body["video_url"] = video_url
            body["actualDuration"] = self.actual_duration
        elif step.status == "failed":
            body["error"] = step.error
        return body


@lru_cache(maxsize=64)
def _video(name: str, duration: float, size: int | None) -> Video:
    return Video(name, duration, size)
