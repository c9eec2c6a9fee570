"""
Virtual time: an event loop that advances its clock to the next timer, and blocking code that sleeps on it.

Sockets and threads cannot be used on this loop.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors

from greenlet import getcurrent, greenlet


class _NoSockets(selectors.BaseSelector):
    """A selector without files. Saves a system call in each iteration of the loop."""

    def register(self, fileobj, events, data=None):
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj):
        raise KeyError(fileobj)

    def get_key(self, fileobj):
        raise KeyError(fileobj)

    def select(self, timeout=None):
        return []

    def get_map(self):
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    An event loop in virtual time.

    A million schedules spend much of their time in the loop, so this one is optimized: no sockets, and timers in a heap of
    tuples, which compare faster than handles. Timers with the same time fire in the order of their creation.

    `turns` counts the iterations of the loop. `after_turn` maps such a count to a function that is called after it.

    :param max_turns: iterations after which the loop raises an error, since its tasks seem to have no end.
    """

    def __init__(self, max_turns=math.inf):
        super().__init__(_NoSockets())
        self._max_turns = max_turns
        self._now = 0.0
        self._timers = []
        self._timers_made = 0
        self.turns = 0
        self.after_turn = {}

    def time(self):
        return self._now

    def call_at(self, when, callback, *args, context=None):
        self._timers_made += 1
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self._timers_made, timer))
        return timer

    def call_later(self, delay, callback, *args, context=None):
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_soon(self, callback, *args, context=None):
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def rewind(self):
        """Reset the clock to zero, and return the timers that were still pending."""
        left = [timer for *_, timer in self._timers if not timer.cancelled()]
        self._timers.clear()
        self._now, self.turns = 0.0, 0
        return left

    def _run_once(self):
        ready, timers = self._ready, self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not ready:
            if timers:
                self._now = max(self._now, timers[0][0])
            elif not self._stopping:
                raise RuntimeError("deadlock: tasks are waiting, and no timer is pending")
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
        self.turns += 1
        if self.turns > self._max_turns:
            raise RuntimeError(f"no end after {self.turns} iterations, at {self._now:.0f} s")
        if act := self.after_turn.pop(self.turns, None):
            act()


def run(main):
    """Run a coroutine in virtual time and return its result."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class Worker(greenlet):
    """
    Blocking code on an event loop. While it sleeps in virtual time, the loop continues.

    :param loop: the event loop of the current thread.
    :param work: function to run.
    """

    def __init__(self, loop, work):
        super().__init__(self._work)
        self._loop = loop
        self._do = work
        self._waits_for = None
        self.end = loop.create_future()
        self._starts = loop.call_soon(self.switch)

    def _work(self):
        try:
            self.end.set_result(self._do())
        except BaseException as error:  # noqa: BLE001 - any error ends a process
            self.end.set_exception(error)

    def interrupt(self, error):
        """Raise an error in the code, at its current sleep."""
        if not self.dead and self._waits_for is not None:
            self._waits_for.cancel()
            self._loop.call_soon(self.throw, error)
            self._waits_for = None


def sleep(seconds):
    """Sleep in virtual time. Call this in a :class:`Worker`."""
    worker = getcurrent()
    worker._waits_for = worker._loop.call_later(seconds, worker.switch)
    worker.parent.switch()


def run_until_complete(coroutine, context=None):
    """Run a coroutine and return its result. Call this in a :class:`Worker` instead of ``asyncio.run``."""
    worker = getcurrent()
    task = worker._loop.create_task(coroutine, context=context)
    task.add_done_callback(lambda done: done.cancelled() or worker.switch())
    worker._waits_for = task
    worker.parent.switch()
    return task.result()
