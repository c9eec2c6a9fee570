"""Progress in a script, by the clock, by polls or by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_manxue.testing._clock import Clock
    from airflow_provider_manxue.testing._script import Script, Step


class Scripted:
    """
    A task or an asset that follows a script.

    :param clock: the emulator's clock.
    :param script: its script, which starts now.
    """

    def __init__(self, clock: Clock, script: Script) -> None:
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
