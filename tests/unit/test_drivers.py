"""Drivers of the polling engine, in virtual time. The rules and their reasons are in docs/engine.md."""

from __future__ import annotations

import asyncio
import logging

import pytest

from airflow_provider_manxue._client import drivers
from airflow_provider_manxue._client.airflow_metrics import LoopMetrics, triggerer_stats
from airflow_provider_manxue._client.drivers import AsyncDriver, BlockingDriver
from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
from airflow_provider_manxue._core.poller import Poller
from airflow_provider_manxue._core.polling import PollPolicy
from airflow_provider_manxue._core.worker_pass import WorkerPass
from airflow_provider_manxue.exceptions import (
    ManxueConnectionNotFoundError,
    ManxueRateLimitError,
    ManxueTimeoutError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask
from tests.support.fake_airflow import START, ClockLoop
from tests.support.simulated_service import task_log

READY, PROCESSING = (
    VideoTask("v", TaskStatus.COMPLETED, video_url="https://x/v.mp4"),
    VideoTask("v", TaskStatus.PROCESSING),
)


class Log:
    def __init__(self):
        self.lines = []

    def log(self, level, text, *arguments):
        self.lines.append((level, text % arguments))

    def error(self, text, *arguments):
        self.log(logging.ERROR, text, *arguments)


class Client:
    """Stands in for the async client. Responds after a delay with what a function of id and elapsed seconds returns."""

    def __init__(self, clock, respond, rate=10.0, takes=0.1):
        self.clock, self.respond, self.takes = clock, respond, takes
        self.limiter_ = AdaptiveRateLimiter(rate, 10)
        self.metrics = LoopMetrics(triggerer_stats, has_gauges=True)
        self.sent, self.contexts = [], set()
        self.connect_error = None

    async def limiter(self, conn_id):
        if self.connect_error is not None:
            raise self.connect_error
        return self.limiter_

    def has_worked(self, conn_id):
        return False

    async def query(self, conn_id, video, subject):
        self.sent.append((self.clock.elapsed, video))
        self.contexts.add(task_log.get())
        await asyncio.sleep(self.takes)
        outcome = self.respond(video, self.clock.elapsed)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @property
    def is_idle(self):
        return (self.limiter_._queued, self.limiter_._in_flight) == (0, 0)


@pytest.fixture
def virtual(monkeypatch, clock):
    monkeypatch.setattr(drivers, "time", clock)

    def run(main):
        async def all_ended():
            result = await main()
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return result

        with asyncio.Runner(loop_factory=lambda: ClockLoop(clock)) as runner:
            return runner.run(all_ended())

    return run


def poller_of(*ids, timeout=3600.0, interval=30.0, **options):
    return Poller(
        ids or ["v"],
        PollPolicy(interval),
        started_at=START,
        deadline=START + timeout,
        first_poll_at=START,
        chance=lambda: 0.5,
        **options,
    )


def driver_of(poller, client, task="task", log=None, **options):
    return AsyncDriver(poller, client, "c", task=task, log=log or Log(), **options)


def drive(virtual, clock, poller, respond, *, rate=10.0, **options):
    """Drive a poller to its end. Return its client."""

    async def main():
        client = Client(clock, respond, rate)
        await driver_of(poller, client, **options).run()
        assert client.is_idle
        return client

    return virtual(main)


def test_wait_is_polled_until_it_ends(virtual, clock):
    poller = poller_of()
    client = drive(virtual, clock, poller, lambda video, now: READY if now > 60 else PROCESSING)

    assert [at for at, _ in client.sent] == pytest.approx([0, 30.1, 60.2])
    assert poller.outcomes == {"v": READY}


def test_small_task_is_not_starved_by_a_large_one(virtual, clock):
    async def main():
        client = Client(clock, lambda video, now: READY if now > 20 else PROCESSING)
        large = poller_of(*(f"v{number}" for number in range(1000)), interval=10.0)
        small = poller_of("small", interval=10.0)
        running = [asyncio.create_task(driver_of(large, client, task="large").run())]
        await asyncio.sleep(5)
        await driver_of(small, client, task="small").run()
        at = [moment for moment, video in client.sent if video == "small"]
        running[0].cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert client.is_idle
        return at

    assert virtual(main) == pytest.approx([5, 15, 25], abs=2)


def test_queued_polls_become_final_at_the_deadline(virtual, clock):
    poller = poller_of(*(f"v{number}" for number in range(500)), timeout=10)
    client = drive(virtual, clock, poller, lambda video, now: READY)
    assert {type(outcome) for outcome in poller.outcomes.values()} == {VideoTask}
    assert len(client.sent) == 500


def test_final_polls_get_half_of_the_grants(virtual, clock):
    async def main():
        client = Client(clock, lambda video, now: READY)
        regular = poller_of(*(f"r{number}" for number in range(400)))
        final = poller_of(*(f"f{number}" for number in range(250)), timeout=10)
        waits = [driver_of(regular, client, task=1).run(), driver_of(final, client, task=2).run()]
        await asyncio.gather(*waits)
        return [video[0] for at, video in client.sent if at > 11]

    videos = virtual(main)
    # Regular polls get the remaining half.
    assert videos[:100].count("f") == 50


def test_wait_gives_up_at_its_limit(virtual, clock):
    poller = poller_of("a", "b", timeout=10)
    respond = lambda video, now: READY if video == "a" else ManxueRateLimitError("HTTP 429", 900.0)  # noqa: E731
    drive(virtual, clock, poller, respond, give_up_at=START + 60)

    assert clock.elapsed == pytest.approx(60)
    assert poller.outcomes["a"] is READY
    assert type(poller.outcomes["b"]) is ManxueTimeoutError
    assert poller.not_polled == {"b"}


def test_hanging_lookup_ends_at_the_limit(virtual, clock):
    poller = poller_of(timeout=10)

    async def main():
        client = Client(clock, None)
        client.limiter = lambda conn_id: asyncio.sleep(9999)
        await driver_of(poller, client, give_up_at=START + 60).run()

    virtual(main)
    assert clock.elapsed == pytest.approx(60)


def test_missing_connection_is_retried(virtual, clock):
    poller = poller_of()

    async def main():
        client = Client(clock, lambda video, now: READY)
        client.connect_error = ManxueConnectionNotFoundError("no such connection")
        asyncio.get_running_loop().call_later(10, setattr, client, "connect_error", None)
        await driver_of(poller, client).run()
        return client.sent

    assert [at for at, _ in virtual(main)] == [12]


def test_worker_pass_ends_if_the_limiter_pauses_longer(virtual, clock):
    ids = [f"v{number}" for number in range(50)]
    poller = poller_of(*ids, quick_retries=True)
    respond = lambda video, now: ManxueRateLimitError("HTTP 429", 900.0) if video == "v9" else READY  # noqa: E731
    drive(virtual, clock, poller, respond, worker_pass=WorkerPass(START, 50, 10.0))

    assert clock.elapsed < 5
    assert not poller.done
    assert "v9" in poller.remaining
    assert len(poller.outcomes) >= 9


def test_worker_pass_ends_without_usable_responses(virtual, clock):
    poller = poller_of(quick_retries=True)
    respond = lambda video, now: ManxueTransientError("HTTP 503")  # noqa: E731
    drive(virtual, clock, poller, respond, worker_pass=WorkerPass(START, 1, 10.0))

    assert clock.elapsed <= 30
    assert poller.remaining == ["v"]


def test_unexpected_error_is_logged_without_its_message(virtual, clock):
    """Its message may hold a secret."""
    poller, log = poller_of(), Log()
    respond = lambda video, now: READY if now > 200 else KeyError("Bearer secret")  # noqa: E731
    drive(virtual, clock, poller, respond, log=log)

    (text,) = [text for level, text in log.lines if level == logging.ERROR]
    assert text.startswith("Unexpected builtins.KeyError while polling, at: ")
    assert "query" in text
    assert "secret" not in str(log.lines)
    assert poller.outcomes == {"v": READY}


def test_error_in_the_engine_ends_the_wait(virtual, clock, monkeypatch):
    poller = poller_of()
    monkeypatch.setattr(poller, "handle", lambda *arguments, **options: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        drive(virtual, clock, poller, lambda video, now: READY)


def test_each_wait_polls_in_its_own_log_context(virtual, clock):
    async def wait(client, name, ids):
        task_log.set(name)
        log = Log()
        await driver_of(poller_of(*ids), client, task=name, log=log).run()

    async def main():
        client = Client(clock, lambda video, now: READY, rate=1.0)
        seen = {}

        async def query(conn_id, video, subject):
            seen[video] = task_log.get()
            return READY

        client.query = query
        await asyncio.gather(wait(client, "one", ["a", "b", "c"]), wait(client, "two", ["x", "y", "z"]))
        return seen

    assert virtual(main) == dict.fromkeys("abc", "one") | dict.fromkeys("xyz", "two")


@pytest.mark.parametrize("turns", range(12))
def test_cancelled_wait_sends_nothing_more(virtual, clock, turns):
    async def main():
        client = Client(clock, lambda video, now: PROCESSING)
        poller = poller_of(*(f"v{number}" for number in range(500)), timeout=10)
        task = asyncio.create_task(driver_of(poller, client).run())
        await asyncio.sleep(9.999 if turns % 2 else 0)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sent = len(client.sent)
        await asyncio.sleep(60)
        assert client.is_idle
        assert len(client.sent) == sent

    virtual(main)


def test_wait_cancelled_at_its_deadline_sends_nothing_more(virtual, clock):
    async def main():
        client = Client(clock, lambda video, now: PROCESSING)
        poller = poller_of(*(f"v{number}" for number in range(900)), timeout=10)
        task = asyncio.create_task(driver_of(poller, client).run())
        asyncio.get_running_loop().call_later(10, task.cancel)
        await asyncio.gather(task, return_exceptions=True)
        sent = len(client.sent)
        await asyncio.sleep(60)
        assert client.is_idle
        assert len(client.sent) == sent

    virtual(main)


# --- on a worker, one video ---------------------------------------------------------------------------------


@pytest.fixture
def block(monkeypatch, clock):
    """Return a function that drives a poller with the blocking driver and returns its polls and log lines."""
    monkeypatch.setattr(drivers, "time", clock)

    def run(poller, respond, worker_pass=None):
        polls, log = [], Log()

        def get_video_task(video):
            polls.append(clock.elapsed)
            outcome = respond(clock.elapsed)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        BlockingDriver(poller, get_video_task, log, worker_pass).run()
        return polls, log.lines

    return run


def test_blocking_driver_polls_until_completion(block):
    polls, lines = block(poller_of(), lambda now: READY if now > 50 else PROCESSING)

    assert polls == [0, 30, 60]
    assert [text.partition(" (")[0] for _, text in lines] == ["Video v: processing", "Video v: completed"]


def test_blocking_driver_stops_at_the_end_of_its_pass(block):
    poller = poller_of()
    polls, _ = block(poller, lambda now: PROCESSING, WorkerPass(START, 1, 1.0))

    assert polls == [0]
    assert poller.resumes_at == START + 30


def test_blocking_driver_survives_unexpected_errors(block):
    polls, lines = block(poller_of(), lambda now: READY if now > 50 else KeyError("Bearer secret"))

    assert polls[-1] > 50
    assert [level for level, _ in lines].count(logging.ERROR) == 1
    assert "secret" not in str(lines)


def test_blocking_driver_raises_interrupts(block):
    with pytest.raises(KeyboardInterrupt):
        block(poller_of(), lambda now: KeyboardInterrupt())
