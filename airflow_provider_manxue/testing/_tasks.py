"""Video tasks, and their progress in their scripts."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing._mp4 import Video

if TYPE_CHECKING:
    from airflow_provider_manxue.testing._clock import Clock
    from airflow_provider_manxue.testing._script import Script, Step


class Task:
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
        self.id = task_id
        self.model = model
        self.actual_duration = actual_duration
        self.size = size
        self.created = int(clock.now())
        self.version = 1
        self._clock = clock
        self.follow(script)

    def follow(self, script: Script) -> None:
        """Start a script now."""
        self.script = script
        self._enter(0, self._clock.now())

    def _enter(self, index: int, at: float) -> None:
        self._index, self._entered, self._polls = index, at, 0

    def _position(self) -> tuple[int, float]:
        """Return the current step, and the time when it started."""
        index, entered = self._index, self._entered
        now = self._clock.now()
        last = len(self.script.steps) - 1
        while index < last:
            seconds = self.script.steps[index].seconds
            if seconds is None or now < entered + seconds:
                break
            index, entered = index + 1, entered + seconds
        return index, entered

    @property
    def step(self) -> Step:
        """The current step."""
        return self.script.steps[self._position()[0]]

    @property
    def status(self) -> str:
        """The current status: queued, processing, completed or failed."""
        return self.step.status

    def poll(self) -> Step:
        """Return the current step, and count a poll."""
        index, entered = self._position()
        if index != self._index:
            self._enter(index, entered)
        step = self.script.steps[index]
        self._polls += 1
        if self._polls == step.polls and index + 1 < len(self.script.steps):
            self._enter(index + 1, self._clock.now())
        return step

    def advance(self) -> None:
        """End the current step, unless it is the last one."""
        index = self._position()[0]
        self._enter(min(index + 1, len(self.script.steps) - 1), self._clock.now())

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
