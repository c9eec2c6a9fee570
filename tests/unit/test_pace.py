"""The pace of a connection, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import pytest

from airflow_provider_manxue._client.rate_limiter import (
    ACCELERATION,
    DECREASE,
    DEFAULT_PAUSE,
    GENTLE_RATE,
    RAMP,
    RECOVERY,
    SHARP_DECREASE,
    SOON,
    Pace,
)
from soak.virtual import run


class Service:
    """A service with a token bucket; answers take some time."""

    def __init__(self, rate=float("inf"), burst=1, takes=0.05, retry_after=1.0):
        self.rate, self.burst, self.takes, self.retry_after = rate, burst, takes, retry_after
        self.tokens, self.counted_at = burst, 0.0
        self.asked = []  # (time, who, answered)
        self.under_way = self.most_under_way = 0
        self.pauses = []  # (from, to)

    async def answer(self, who):
        now = asyncio.get_running_loop().time()
        if self.rate == float("inf"):
            good = True
        else:
            self.tokens = min(self.burst, self.tokens + (now - self.counted_at) * self.rate)
            self.counted_at = now
            good = self.tokens >= 1
            self.tokens -= good
        self.asked.append((now, who, good))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(self.takes)
        self.under_way -= 1
        return good


async def wait(pace, service, who, interval, until):
    """Poll as a wait does: in its interval, through the pace, and after a 429 when the pause is over."""
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        async with pace.turn() as asked_at:
            if await service.answer(who):
                pace.went_well()
                pause = 0.0
            else:
                pause = service.retry_after or DEFAULT_PAUSE
                service.pauses.append((loop.time(), loop.time() + pause))
                pace.was_refused(asked_at, service.retry_after)
        await asyncio.sleep(max(interval, pause))


def simulate(pace, service, *, waits, interval, seconds):
    async def main():
        async with asyncio.timeout(seconds * 2):
            tasks = [asyncio.create_task(wait(pace, service, who, interval, seconds)) for who in range(waits)]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
    return service.asked


def per_second(asked, width=1.0):
    return Counter(int(moment / width) for moment, _, _ in asked)


def test_limit_is_never_exceeded_even_when_all_begin_together():
    asked = simulate(Pace(10, 10), Service(), waits=1000, interval=30, seconds=120)
    assert all(asked[n + 10][0] - asked[n][0] > 1 - 1e-6 for n in range(len(asked) - 10))
    assert len(asked) >= 0.99 * 10 * 120


def test_turns_are_spaced_evenly():
    asked = simulate(Pace(10, 10), Service(), waits=100, interval=5, seconds=20)
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(asked)]
    assert min(gaps) == pytest.approx(0.1)


def test_no_wait_starves_when_the_limit_is_too_low():
    asked = simulate(Pace(5, 10), Service(), waits=200, interval=10, seconds=400)
    polls = Counter(who for _, who, _ in asked)
    assert len(polls) == 200
    assert max(polls.values()) - min(polls.values()) <= 1


def test_slow_service_sees_no_more_requests_at_a_time_than_allowed():
    service = Service(takes=20)
    simulate(Pace(100, 7), service, waits=500, interval=30, seconds=300)
    assert service.most_under_way == 7


def test_nobody_asks_during_a_pause():
    service = Service(rate=5, burst=5, retry_after=60)
    asked = simulate(Pace(100, 10), service, waits=1000, interval=30, seconds=600)
    assert service.pauses
    for begun, over in service.pauses:
        assert not [moment for moment, _, _ in asked if begun < moment < over - 1e-6]


@pytest.mark.parametrize("burst", [1, 2, 5])
def test_pace_settles_just_below_a_limit_that_the_service_does_not_tell(burst):
    asked = simulate(Pace(1000, 10), Service(rate=5, burst=burst), waits=1000, interval=30, seconds=900)
    settled = [entry for entry in asked if entry[0] > 60]
    refused = sum(not good for _, _, good in settled)
    assert refused / len(settled) < 0.02
    minutes = per_second(settled, 60)
    assert all(0.8 * 300 <= minutes[minute] <= 300 for minute in range(1, 15)), minutes


def test_fast_pace_comes_back_gradually_after_a_pause():
    async def main():
        pace, moments = Pace(1000, 1000), []
        pace.was_refused(asyncio.get_running_loop().time(), 30.0)

        async def ask():
            async with pace.turn() as asked_at:
                moments.append(asked_at)

        await asyncio.gather(*(ask() for _ in range(1000)))
        return Counter(int(moment) for moment in moments)

    asked = run(main())
    assert min(asked) == 30
    assert asked[30] < 80
    assert asked[30] < asked[31] < asked[32] < asked[33]


def test_many_refusals_of_one_moment_slow_the_pace_once():
    async def main():
        pace = Pace(100, 10)
        for _ in range(10):
            pace.was_refused(asked_at=0.0, pause=1.0)
        return pace.rate

    assert run(main()) == pytest.approx(80)


async def refuse(pace):
    """Let the service say 429 to a request of this very moment, which is later than any before."""
    await asyncio.sleep(1)
    pace.was_refused(asyncio.get_running_loop().time(), 1.0)


@pytest.mark.parametrize(
    ("answers", "decrease"), [(0, SHARP_DECREASE), (SOON, SHARP_DECREASE), (SOON + 1, DECREASE)]
)
def test_refusal_right_after_another_slows_sharply(answers, decrease):
    async def main():
        pace = Pace(100, 10)
        await refuse(pace)
        for _ in range(answers):
            pace.went_well()
        before = pace.rate
        await refuse(pace)
        return pace.rate / before

    assert run(main()) == pytest.approx(decrease)


def test_rate_comes_back_in_even_steps_and_beyond_the_last_refusal_in_growing_ones():
    async def main():
        pace = Pace(1000, 10)
        await refuse(pace)
        await refuse(pace)
        rates = [pace.rate]
        for _ in range(RECOVERY + 3):
            pace.went_well()
            rates.append(pace.rate)
        return rates

    rates = run(main())
    steps = [later - earlier for earlier, later in itertools.pairwise(rates)]
    even = (800 - 400) / RECOVERY
    assert rates[0] == pytest.approx(400)
    assert steps[: RECOVERY - 1] == pytest.approx([even] * (RECOVERY - 1))
    assert rates[RECOVERY] == pytest.approx(800)
    assert [later / earlier for earlier, later in itertools.pairwise(steps[-3:])] == pytest.approx(
        [ACCELERATION] * 2
    )


def test_ramp_after_a_pause_is_a_straight_line():
    async def main():
        pace = Pace(1000, 10)
        await refuse(pace)
        await asyncio.sleep(1 + RAMP / 4)
        turns = []
        for _ in range(2):
            async with pace.turn() as asked_at:
                turns.append(asked_at)
        return turns

    first, second = run(main())
    assert 1 / (second - first) == pytest.approx(GENTLE_RATE + (1000 * DECREASE - GENTLE_RATE) / 4, rel=1e-3)


def test_turn_is_not_lent_beyond_what_may_be_under_way_where_nobody_queues():
    async def main():
        pace, begun = Pace(1000, 1), []

        async def ask():
            async with pace.turn() as asked_at:
                begun.append(asked_at)
                await asyncio.sleep(1)

        first = asyncio.create_task(ask())
        await asyncio.sleep(0.5)
        await asyncio.gather(first, ask())
        return begun

    assert run(main()) == pytest.approx([0, 1])


def test_pace_is_back_at_its_limit_when_the_service_has_lifted_its_own():
    async def main():
        pace = Pace(10, 10)
        for _ in range(30):
            await asyncio.sleep(1)
            pace.was_refused(asyncio.get_running_loop().time(), None)
        slowest = pace.rate
        for _ in range(2000):
            pace.went_well()
        return slowest, pace.rate

    slowest, recovered = run(main())
    assert slowest == pytest.approx(0.1)
    assert recovered == 10


def test_cancelled_waits_leave_no_gap():
    async def main():
        pace, served = Pace(10, 1), []

        async def ask(name):
            async with pace.turn():
                served.append(name)

        tasks = [asyncio.create_task(ask(number)) for number in range(6)]
        await asyncio.sleep(0)
        for number in (1, 2, 4):
            tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return served, asyncio.get_running_loop().time()

    served, ended = run(main())
    assert served == [0, 3, 5]
    assert ended == pytest.approx(0.2)


def test_turn_that_comes_in_the_moment_of_a_cancellation_is_passed_on():
    async def main():
        pace, served = Pace(1000, 1), []

        async def ask(name):
            async with pace.turn():
                served.append(name)
                await asyncio.sleep(1)

        first, second, third = (asyncio.create_task(ask(name)) for name in "abc")
        await asyncio.sleep(0.5)
        first.cancel()  # hands the turn to the second, which is cancelled before it notices
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(first, second, third, return_exceptions=True)
        return served

    assert run(main()) == ["a", "c"]
