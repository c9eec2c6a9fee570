"""``run_interruptibly``: an exception of a signal handler always ends the coroutine."""

from __future__ import annotations

import _thread
import asyncio
import gc
import random
import signal
import threading
import time

import pytest

from airflow_provider_manxue._client.threaded import run_interruptibly


class Alarm(BaseException):
    """Double of the timeout that Airflow raises in its signal handler."""


@pytest.fixture
def alarm():
    """Raise an exception in the main thread after the given seconds."""

    def raise_alarm(number, frame):
        raise Alarm

    gc.disable()  # Python ignores exceptions that are raised in a finalizer
    before = signal.signal(signal.SIGALRM, raise_alarm)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    gc.enable()


BEFORE = []
"""Number of threads before the test."""


@pytest.fixture(autouse=True)
def _count_threads():
    BEFORE[:] = [_thread._count()]


def left_threads():
    """Return the number of threads of the test that do not end within a minute."""
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at and _thread._count() > BEFORE[0]:
        time.sleep(0.001)
    return max(0, _thread._count() - BEFORE[0])


class Work:
    """A coroutine with many short callbacks that runs until it is cancelled."""

    def __init__(self):
        self.ended = 0
        self.callbacks = 0

    async def run(self):
        try:
            ends_at = time.monotonic() + 5
            while time.monotonic() < ends_at:
                await asyncio.sleep(0)
                self.callbacks += 1
        finally:
            self.ended += 1


def test_result_passes_through():
    async def main():
        await asyncio.sleep(0)
        return threading.current_thread() is threading.main_thread()

    assert run_interruptibly(main()) is False
    assert left_threads() == 0


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_error_passes_through(error):
    async def main():
        raise error

    with pytest.raises(type(error)) as caught:
        run_interruptibly(main())

    assert caught.value is error
    assert left_threads() == 0


def test_coroutine_has_the_context_of_the_caller():
    from tests.support.simulated_service import task_log

    async def main():
        return task_log.get()

    token = task_log.set("ours")
    try:
        assert run_interruptibly(main()) == "ours"
    finally:
        task_log.reset(token)


@pytest.mark.alarm
@pytest.mark.parametrize("seed", range(4))
def test_alarm_at_any_time_ends_the_wait(alarm, seed):
    moments = random.Random(seed)  # noqa: S311
    for _ in range(25):
        work = Work()
        coroutine = work.run()
        began_at = time.monotonic()
        with pytest.raises(Alarm):  # noqa: PT012 - the alarm may ring before the wait begins
            alarm(10 ** moments.uniform(-4.5, -1.5))
            run_interruptibly(coroutine)
        coroutine.close()
        assert time.monotonic() - began_at < 30
        assert left_threads() == 0
        assert work.ended == bool(work.callbacks)


@pytest.mark.alarm
def test_cleanup_after_an_alarm_is_awaited(alarm):
    cleaned = []

    async def main():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1.2)
            cleaned.append(True)

    alarm(0.05)
    with pytest.raises(Alarm):
        run_interruptibly(main())

    assert cleaned == [True]


def test_alarm_before_thread_start_starts_no_work(monkeypatch):
    work = Work()

    def start(function, arguments):
        raise Alarm

    monkeypatch.setattr(_thread, "start_new_thread", start)
    coroutine = work.run()
    with pytest.raises(Alarm):
        run_interruptibly(coroutine)
    coroutine.close()

    assert work.callbacks == 0


def test_late_thread_runs_no_cancelled_work(monkeypatch):
    begin, late = _thread.start_new_thread, []

    def start(function, arguments):
        late.append(function)
        raise Alarm

    monkeypatch.setattr(_thread, "start_new_thread", start)
    work = Work()
    with pytest.raises(Alarm):
        run_interruptibly(work.run())
    begin(late[0], ())

    assert left_threads() == 0
    assert work.callbacks == 0
