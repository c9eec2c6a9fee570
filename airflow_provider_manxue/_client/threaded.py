"""Execution of a coroutine in a thread, for blocking code whose own thread stays interruptible."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import contextvars
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

CLEANUP_TIME = 10.0
"""Seconds for the clean-up of a cancelled coroutine."""

SIGNAL_CHECK_INTERVAL = 0.5
"""Seconds after which a waiting thread looks for signals: one that arrives just before a call blocks does not interrupt it."""


def run_interruptibly(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine on a new event loop in a new thread.

    Airflow raises ``AirflowTaskTimeout`` in the main thread, from a signal handler. On an event loop in that thread it would
    be raised in the current callback, and the loop may swallow it. Here the main thread only waits: the
    exception ends the wait at once, and the coroutine is cancelled.
    """
    thread = _LoopThread(coroutine)
    try:
        thread.start()
        thread.wait()
    finally:
        thread.cancel()
    if thread.error is not None:
        raise thread.error
    return thread.result  # type: ignore[no-any-return]


class _LoopThread:
    # Only functions written in C are called where a signal handler may raise an exception. `threading` is not made for that:
    # before Python 3.13 an interrupted `join` marks the thread as stopped while it runs (the workaround for bpo-45274), and
    # an interrupted `Condition`, which `start` waits for, raises a RuntimeError of its own.

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._has_begun = self._has_ended = self._is_cancelled = False
        self._runs = _thread.allocate_lock()
        self._runs.acquire()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def start(self) -> None:
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        self._has_begun = True
        try:
            with asyncio.Runner() as runner:
                self.result = runner.run(self._main(), context=self._context)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            self.error = error
        finally:
            self._has_ended = True
            self._runs.release()

    async def _main(self) -> Any:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._is_cancelled:
            self._coroutine.close()
            raise asyncio.CancelledError
        return await self._coroutine

    def wait(self, timeout: float = float("inf")) -> None:
        """Wait until the coroutine has ended, up to a number of seconds."""
        ends_at = time.monotonic() + timeout
        while not self._has_ended and (remaining := ends_at - time.monotonic()) > 0:
            self._runs.acquire(timeout=min(remaining, SIGNAL_CHECK_INTERVAL))

    def cancel(self) -> None:
        """Cancel the coroutine if it still runs, and wait for its end."""
        if self._has_ended:
            return
        self._is_cancelled = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(self._task.cancel)
        self.wait(1.0)
        if self._has_begun:  # an interrupted start may have started no thread
            self.wait(CLEANUP_TIME)
