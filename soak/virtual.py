"""
Virtual time: an event loop that jumps to its next timer, and workers that sleep on it.

What really waits, such as a socket or a thread, must not be used here.
"""

from __future__ import annotations

import asyncio
import selectors

from greenlet import getcurrent, greenlet


class _NoSockets(selectors.BaseSelector):
    """Stands in for the operating system's selector, which would cost a call in each turn of the loop."""

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
    """Runs hours in moments."""

    def __init__(self):
        super().__init__(_NoSockets())
        self._now = 0.0
        self.turns = 0
        self.after_turn = {}

    def time(self):
        return self._now

    def rewind(self):
        """Begin again at zero; returns what was left over of the time before."""
        left = [handle for handle in self._scheduled if not handle.cancelled()]
        self._scheduled.clear()
        self._timer_cancelled_count = 0
        self._now, self.turns = 0.0, 0
        return left

    def _run_once(self):
        if not self._ready:
            if not self._scheduled and not self._stopping:
                raise RuntimeError("everyone waits for something that nobody will do")
            if self._scheduled:
                self._now = max(self._now, self._scheduled[0].when())
        super()._run_once()
        self.turns += 1
        if act := self.after_turn.pop(self.turns, None):
            act()


def run(main):
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class Worker(greenlet):
    """
    Runs blocking code on the loop of the thread that makes it: where the code sleeps, the loop goes on.

    :param loop: the loop.
    :param work: the code; a function without arguments.
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
        except BaseException as error:  # noqa: BLE001 - a process ends in any way
            self.end.set_exception(error)

    def interrupt(self, error):
        """Raise an error where the code sleeps."""
        if not self.dead and self._waits_for is not None:
            self._waits_for.cancel()
            self._loop.call_soon(self.throw, error)
            self._waits_for = None


def sleep(seconds):
    """Let virtual time pass; called in a :class:`Worker`."""
    worker = getcurrent()
    worker._waits_for = worker._loop.call_later(seconds, worker.switch)
    worker.parent.switch()


def run_until_complete(coroutine, context=None):
    """Run a coroutine to its end; called in a :class:`Worker`, in the place of ``asyncio.run``."""
    worker = getcurrent()
    task = worker._loop.create_task(coroutine, context=context)
    task.add_done_callback(lambda done: done.cancelled() or worker.switch())
    worker._waits_for = task
    worker.parent.switch()
    return task.result()
