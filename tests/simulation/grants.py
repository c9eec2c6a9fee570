"""
Checks of a rate limiter: grants are fair, and no grant is left unused.

A wait is measured in grants to other requests, not in seconds: a pause or a lower rate delays all requests alike.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter

EPSILON = 0.01
"""Seconds: the tolerance of all checks."""


class ObservedLimiter(AdaptiveRateLimiter):
    """
    The shipped rate limiter, with its queue and its grants reported.

    :param grants: receives each queued, granted and released request.
    """

    def __init__(self, rate, max_concurrency, *, name="", grants):
        super().__init__(rate, max_concurrency, name=name)
        self.grants = grants
        self._waiting = {}

    def submit(self, task, start, *, final=False):
        waiting = self.grants.queue(task, is_final=final)

        def granted():
            self.grants.grant(waiting)
            start()

        request = super().submit(task, granted, final=final)
        self._waiting[request] = waiting
        return request

    def cancel(self, request):
        super().cancel(request)
        self.grants.leave(self._waiting[request])

    def release(self):
        self.grants.release()
        super().release()

    def hold(self, until):
        self.grants.is_held_back = True
        super().hold(until)

    def on_throttled(self, sent_at, retry_after):
        self.grants.is_held_back = True
        super().on_throttled(sent_at, retry_after)


@dataclass(eq=False)
class Waiting:
    """A queued request, and the number of grants that its lane may give to others before it."""

    task: object
    is_final: bool
    grants_left: int


@dataclass
class _Lane:
    """The queued requests of one priority, and the number of grants that the lane may give before each task's next one."""

    waiting: dict[Waiting, None] = field(default_factory=dict)
    grants_left: dict[object, int] = field(default_factory=dict)

    def queue(self, task, *, is_final):
        self.grants_left.setdefault(task, 2 * (len(self.grants_left) + 1))
        waiting = Waiting(task, is_final, 2 * (len(self.waiting) + 1))
        self.waiting[waiting] = None
        return waiting

    def leave(self, waiting):
        self.waiting.pop(waiting, None)
        if all(one.task != waiting.task for one in self.waiting):
            self.grants_left.pop(waiting.task, None)

    def grant(self, waiting):
        """Count a grant. Yields a finding for each task and each video that waits for more than twice the round."""
        for task in self.grants_left:
            self.grants_left[task] -= 1
        for one in self.waiting:
            one.grants_left -= 1
        yield from (
            f"{task} waited for more than twice the round of tasks"
            for task, left in self.grants_left.items()
            if left < 0
        )
        yield from (
            f"a video of {one.task} waited for more than twice the round of videos"
            for one in self.waiting
            if one.grants_left < 0
        )
        self.grants_left[waiting.task] = 2 * len(self.grants_left)
        self.leave(waiting)


class Grants:
    """
    The grants of one rate limiter.

    :param process_here: returns the current process, for findings.
    :param rate: lowest limit of the schedule in requests per second.
    :param max_concurrency: lowest limit of the schedule for requests in flight.
    """

    def __init__(self, process_here, rate, max_concurrency):
        self.findings = []
        self.is_held_back = False
        self._process_here, self._rate, self._max_concurrency = process_here, rate, max_concurrency
        self._lanes = {False: _Lane(), True: _Lane()}
        self._in_flight = 0
        self._is_final = None  # whether the last grant was for a final poll
        self._ready_at = 0.0  # earliest time of the next grant
        self._free_since = 0.0  # start of the time in which a grant was possible

    def queue(self, task, *, is_final):
        self._check_unused()
        return self._lanes[is_final].queue(task, is_final=is_final)

    def leave(self, waiting):
        self._check_unused()
        self._lanes[waiting.is_final].leave(waiting)

    def release(self):
        self._check_unused()
        self._in_flight -= 1

    def grant(self, waiting):
        self._check_unused()
        lane, other = self._lanes[waiting.is_final], self._lanes[not waiting.is_final]
        if other.waiting and self._is_final is waiting.is_final:
            self._find("two turns in a row for polls of one kind, while others wait")
        for text in lane.grant(waiting):
            self._find(text)
        self._is_final = waiting.is_final
        self._in_flight += 1
        self._ready_at = self._now() + 1 / self._rate

    def _check_unused(self):
        """Report a grant that was possible since the last change, but not given."""
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
