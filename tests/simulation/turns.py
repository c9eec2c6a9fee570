"""
Who waits for a turn of a rate limiter, and whether turns are given fairly and none is left unused.

Waits are counted in turns and not in seconds: pauses, and a rate that was lowered, make all wait in the same way.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter

EPSILON = 0.01
"""Seconds that do not count."""


class ObservedLimiter(AdaptiveRateLimiter):
    """
    The shipped rate limiter, seen from outside.

    :param turns: where it is written down what waits, and what is granted.
    """

    def __init__(self, rate, max_concurrency, *, name="", turns):
        super().__init__(rate, max_concurrency, name=name)
        self.turns = turns
        self._waiting = {}

    def submit(self, task, start, *, final=False):
        waiting = self.turns.queue(task, is_final=final)

        def granted():
            self.turns.grant(waiting)
            start()

        request = super().submit(task, granted, final=final)
        self._waiting[request] = waiting
        return request

    def cancel(self, request):
        super().cancel(request)
        self.turns.leave(self._waiting[request])

    def release(self):
        self.turns.release()
        super().release()

    def hold(self, until):
        self.turns.is_held_back = True
        super().hold(until)

    def on_throttled(self, sent_at, retry_after):
        self.turns.is_held_back = True
        super().on_throttled(sent_at, retry_after)


@dataclass(eq=False)
class Waiting:
    """A request in the queue, and how many turns its lane may give until it has had its own."""

    task: object
    is_final: bool
    turns_left: int


@dataclass
class _Lane:
    """Requests of one priority, and how many turns the lane may give until each of their tasks has had one."""

    waiting: dict[Waiting, None] = field(default_factory=dict)
    turns_left: dict[object, int] = field(default_factory=dict)

    def queue(self, task, *, is_final):
        self.turns_left.setdefault(task, 2 * (len(self.turns_left) + 1))
        waiting = Waiting(task, is_final, 2 * (len(self.waiting) + 1))
        self.waiting[waiting] = None
        return waiting

    def leave(self, waiting):
        self.waiting.pop(waiting, None)
        if all(one.task != waiting.task for one in self.waiting):
            self.turns_left.pop(waiting.task, None)

    def grant(self, waiting):
        """Count a turn, and name what waits for longer than twice the round."""
        for task in self.turns_left:
            self.turns_left[task] -= 1
        for one in self.waiting:
            one.turns_left -= 1
        yield from (
            f"{task} waited for more than twice the round of tasks"
            for task, left in self.turns_left.items()
            if left < 0
        )
        yield from (
            f"a video of {one.task} waited for more than twice the round of videos"
            for one in self.waiting
            if one.turns_left < 0
        )
        self.turns_left[waiting.task] = 2 * len(self.turns_left)
        self.leave(waiting)


class Turns:
    """
    The turns of one rate limiter.

    :param process_here: returns the process whose it is; called when there is something to find fault with.
    :param rate: requests per second that it allows at least, as long as nothing holds it back.
    :param max_concurrency: requests in flight that it allows at least.
    """

    def __init__(self, process_here, rate, max_concurrency):
        self.findings = []
        self.is_held_back = False
        self._process_here, self._rate, self._max_concurrency = process_here, rate, max_concurrency
        self._lanes = {False: _Lane(), True: _Lane()}
        self._in_flight = 0
        self._is_final = None  # whether the last turn was one of a final poll
        self._ready_at = 0.0  # when the next turn is due
        self._free_since = 0.0  # since when one could be given

    def queue(self, task, *, is_final):
        self._look()
        return self._lanes[is_final].queue(task, is_final=is_final)

    def leave(self, waiting):
        self._look()
        self._lanes[waiting.is_final].leave(waiting)

    def release(self):
        self._look()
        self._in_flight -= 1

    def grant(self, waiting):
        self._look()
        lane, other = self._lanes[waiting.is_final], self._lanes[not waiting.is_final]
        if other.waiting and self._is_final is waiting.is_final:
            self._find("two turns in a row for polls of one kind, while others wait")
        for text in lane.grant(waiting):
            self._find(text)
        self._is_final = waiting.is_final
        self._in_flight += 1
        self._ready_at = self._now() + 1 / self._rate

    def _look(self):
        """Find a turn that was left unused: until now, nothing has changed since the last look."""
        now = self._now()
        waits = any(lane.waiting for lane in self._lanes.values())
        is_free = waits and self._in_flight < self._max_concurrency and not self.is_held_back
        if is_free and now > max(self._free_since, self._ready_at) + EPSILON:
            self._find(f"a turn was left unused for {now - max(self._free_since, self._ready_at):.3f} s")
        self._free_since = now

    @staticmethod
    def _now():
        return asyncio.get_running_loop().time()

    def _find(self, text):
        self.findings.append(f"{self._process_here().name}: {text}")
