"""
The rate limiter, in virtual time.

The reasons are in the comment *theory of operation* of ``_client/rate_limiter.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_manxue._client.rate_limiter import (
    DECREASE,
    GENTLE_RATE,
    MAX_CATCH_UP,
    MAX_PAUSE,
    MIN_RATE,
    RAMP,
    RECOVERY_TIME,
    SHARED_EPISODES,
    AdaptiveRateLimiter,
)
from tests.support.virtual_time import run


def now():
    return asyncio.get_running_loop().time()


async def throttle(limiter, retry_after=None):
    """Report a 429 for a request sent after all earlier reports. Return the pause in seconds."""
    await asyncio.sleep(0.001)
    limiter.on_throttled(now(), retry_after)
    return limiter.resumes_at - now()


async def succeed(limiter):
    await asyncio.sleep(0.001)
    limiter.on_success(now())


class Waits:
    """Requests with a fixed duration, and the times of their grants."""

    def __init__(self, limiter, duration=0.0):
        self.limiter, self.duration = limiter, duration
        self.granted = []  # (time, name)
        self.in_flight = self.most_in_flight = 0

    def submit(self, name, task=None, final=False):
        return self.limiter.submit(task or name, lambda: self._start(name), final=final)

    def _start(self, name):
        self.granted.append((now(), name))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        asyncio.get_running_loop().call_later(self.duration, self._end)

    def _end(self):
        self.in_flight -= 1
        self.limiter.release()

    @property
    def times(self):
        return [moment for moment, _ in self.granted]

    @property
    def names(self):
        return [name for _, name in self.granted]


def drain(limiter, names, *, duration=0.0, seconds=10_000.0):
    async def main():
        waits = Waits(limiter, duration)
        for name in names:
            waits.submit(name)
        await asyncio.sleep(seconds)
        return waits

    return run(main())


# --- spacing and concurrency --------------------------------------------------------------------------------


def test_first_request_is_granted_immediately():
    async def main():
        waits = Waits(AdaptiveRateLimiter(10, 10))
        waits.submit("a")
        return waits.granted

    assert run(main()) == [(0.0, "a")]


def test_grants_are_evenly_spaced():
    waits = drain(AdaptiveRateLimiter(10, 10), range(1, 201))
    gaps = [later - earlier for earlier, later in itertools.pairwise(waits.times)]
    assert gaps == pytest.approx([0.1] * 199)


def test_grants_are_spaced_with_an_empty_queue():
    async def main():
        waits = Waits(AdaptiveRateLimiter(10, 10))
        waits.submit("a")
        await asyncio.sleep(0.05)
        waits.submit("b")
        await asyncio.sleep(5)
        waits.submit("c")
        waits.submit("d")
        await asyncio.sleep(1)
        return waits.times

    assert run(main()) == pytest.approx([0, 0.1, 5.05, 5.15])


def test_concurrency_is_never_exceeded():
    waits = drain(AdaptiveRateLimiter(100, 7), range(1, 100), duration=20.0)
    assert len(waits.granted) == 99
    assert waits.most_in_flight == 7


def test_concurrency_holds_with_an_empty_queue():
    async def main():
        waits = Waits(AdaptiveRateLimiter(1000, 1), duration=1.0)
        waits.submit("a")
        await asyncio.sleep(0.5)
        waits.submit("b")
        await asyncio.sleep(5)
        return waits.times

    assert run(main()) == pytest.approx([0, 1])


@pytest.mark.parametrize("delay", [MAX_CATCH_UP / 2, MAX_CATCH_UP, 5.0])
def test_late_grant_shortens_the_next_delay(delay):
    """The slot is released that much later than the grant was due."""

    async def main():
        waits = Waits(AdaptiveRateLimiter(10, 1), duration=0.1 + delay)
        waits.submit("a")
        waits.duration = 0.0
        for name in "bcd":
            waits.submit(name)
        await asyncio.sleep(100)
        return [later - earlier for earlier, later in itertools.pairwise(waits.times)]

    assert run(main()) == pytest.approx([0.1 + delay, 0.1 - min(delay, MAX_CATCH_UP), 0.1])


def test_rate_is_reached_with_late_grants():
    async def main():
        limiter = AdaptiveRateLimiter(200, 1)
        times = []

        def start():
            times.append(now())
            # The loop is busy for 7 ms in every other period.
            asyncio.get_running_loop().call_later(0.007 if len(times) % 2 else 0.0, limiter.release)

        for number in range(2_000):
            limiter.submit(number, start)
        await asyncio.sleep(60)
        return times

    times = run(main())
    assert times[-1] == pytest.approx(2_000 / 200, rel=0.03)
    assert max(Counter(map(int, times)).values()) <= 200 * 1.05


# --- fairness -----------------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("aaaaaabbbcde"), st.booleans()),
        st.none(),  # a second passes, for one grant
    ),
    max_size=120,
)
REGULAR_EVENTS = EVENTS.map(lambda events: [event and (event[0], False) for event in events])


class Queue:
    """The limiter with one grant a second, and a model of its queue."""

    def __init__(self):
        self.limiter = AdaptiveRateLimiter(1, 1_000)
        self.queued = {}  # name -> (task, final, grants before, requests and tasks in its lane)
        self.grants = []  # (task, final, regular queued, final queued)
        self.waited = []  # (grants until it was granted, requests in its lane when it was submitted)
        self.task_waited = []  # (grants since the last one of its task, tasks in the lane at that time)
        self.waiting = {}  # (task, final) -> (grants before, tasks in the lane)

    def lane(self, final):
        return [entry for entry in self.queued.values() if entry[1] == final]

    def tasks(self, final):
        return len({entry[0] for entry in self.lane(final)})

    def submit(self, name, task, final):
        self.queued[name] = (task, final, len(self.grants), len(self.lane(final)) + 1)
        self.waiting.setdefault((task, final), (len(self.grants), self.tasks(final)))
        self.limiter.submit(task, lambda: self.granted(name), final=final)

    def granted(self, name):
        task, final, before, requests = self.queued[name]
        self.grants.append((task, final, len(self.lane(False)), len(self.lane(True))))
        del self.queued[name]
        self.waited.append((len(self.grants) - before, requests))
        since, tasks = self.waiting.pop((task, final))
        self.task_waited.append((len(self.grants) - since, tasks))
        if any(entry[:2] == (task, final) for entry in self.queued.values()):
            self.waiting[task, final] = (len(self.grants), self.tasks(final))
        self.limiter.release()

    async def play(self, events):
        self.limiter.submit("first", self.limiter.release)
        for name, event in enumerate(events):
            if event is None:
                await asyncio.sleep(1)
            else:
                self.submit(name, *event)
        await asyncio.sleep(len(events) + 1)
        assert not self.queued


@settings(max_examples=300, deadline=None)
@given(REGULAR_EVENTS)
def test_wait_for_a_grant_is_at_most_two_rounds(events):
    queue = Queue()
    run(queue.play(events))
    assert all(grants <= 2 * requests for grants, requests in queue.waited)
    assert all(grants <= 2 * tasks for grants, tasks in queue.task_waited)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_final_polls_get_half_of_the_grants(events):
    queue = Queue()
    run(queue.play(events))
    assert all(grants <= 4 * requests for grants, requests in queue.waited)
    assert all(grants <= 4 * tasks for grants, tasks in queue.task_waited)
    for (_, earlier, _, _), (_, later, regular, final) in itertools.pairwise(queue.grants):
        if later:
            assert not (earlier and regular), "two final polls in a row while a regular one was queued"
        else:
            assert earlier or not final, "two regular polls in a row while a final one was queued"


def test_queue_alternates_by_task_and_by_age():
    async def main():
        waits = Waits(AdaptiveRateLimiter(1, 10))
        waits.submit("first")
        for number in range(4):
            waits.submit(f"a{number}", "a")
        waits.submit("b0", "b")
        waits.submit("c0", "c")
        waits.submit("a4", "a")
        await asyncio.sleep(20)
        return waits.names[1:]

    #            task a, oldest, task b, oldest, task c, oldest, task a
    assert run(main()) == ["a0", "a1", "b0", "a2", "c0", "a3", "a4"]


def test_final_poll_is_granted_before_the_queue():
    async def main():
        waits = Waits(AdaptiveRateLimiter(1, 10))
        for name in ("first", "a", "b"):
            waits.submit(name)
        for name in ("x", "y"):
            waits.submit(name, final=True)
        await asyncio.sleep(20)
        return waits.names[1:]

    assert run(main()) == ["x", "a", "y", "b"]


def test_single_wait_is_not_delayed_by_a_batch():
    async def main():
        waits = Waits(AdaptiveRateLimiter(10, 10))
        for number in range(10_000):
            waits.submit(number, "batch")
        await asyncio.sleep(30)
        waits.submit("single")
        submitted_at = now()
        await asyncio.sleep(5)
        return waits.times[waits.names.index("single")] - submitted_at

    assert run(main()) <= 0.4


# --- episodes of throttling ---------------------------------------------------------------------------------


def test_429_lowers_the_rate_and_pauses():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        pause = await throttle(limiter)
        return pause, limiter.rate

    assert run(main()) == pytest.approx((1.0, 10 * DECREASE))


def test_429s_of_one_episode_lower_the_rate_once():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        await asyncio.sleep(1)
        for _ in range(10):
            limiter.on_throttled(0.5, None)
        return limiter.rate, limiter.resumes_at

    assert run(main()) == pytest.approx((8, 2.0))


def test_429_after_429_doubles_the_pause():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        pauses = []
        for _ in range(9):
            pauses.append(await throttle(limiter))
            await asyncio.sleep(pauses[-1])
        return pauses, limiter.rate

    pauses, rate = run(main())
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])
    assert pauses[-1] == MAX_PAUSE
    assert rate == pytest.approx(8, rel=0.01)


def test_429s_at_the_same_time_pause_once():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        await throttle(limiter)
        limiter.on_throttled(now(), None)
        return limiter.resumes_at - now()

    assert run(main()) == pytest.approx(1)


def test_429s_in_flight_lengthen_the_pause_once():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        await throttle(limiter)
        await asyncio.sleep(1)
        sent_at = now()
        for _ in range(10):
            await asyncio.sleep(0.01)
            limiter.on_throttled(sent_at, None)
        return limiter.resumes_at - sent_at

    assert run(main()) == pytest.approx(2.01)


@pytest.mark.parametrize(
    ("retry_after", "pause"), [(None, 1), (0.0, 1), (0.5, 1), (7.0, 7), (600.0, 600), (1e9, 900)]
)
def test_retry_after_is_a_floor(retry_after, pause):
    async def main():
        return await throttle(AdaptiveRateLimiter(10, 10), retry_after)

    assert run(main()) == pytest.approx(pause)


def test_retry_after_of_later_429_lengthens_the_pause():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        sent_at = now()
        await asyncio.sleep(1)
        limiter.on_throttled(sent_at, None)
        limiter.on_throttled(sent_at, 30.0)
        limiter.on_throttled(sent_at, 5.0)
        return limiter.rate, limiter.resumes_at

    assert run(main()) == pytest.approx((8, 31))


def test_success_ends_the_episode():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        await throttle(limiter)
        await asyncio.sleep(await throttle(limiter))
        await succeed(limiter)
        return await throttle(limiter), limiter.rate

    assert run(main()) == pytest.approx((1, 10 * DECREASE * DECREASE), rel=0.01)


def test_success_sent_before_a_second_429_ends_episode():
    """Ten requests are sent after the decrease, and one of them is throttled."""

    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        await asyncio.sleep(await throttle(limiter))
        sent_at = now()
        await throttle(limiter)
        limiter.on_success(sent_at)
        limiter.on_throttled(sent_at, None)  # was in flight when the pause was lengthened
        rate = limiter.rate
        await throttle(limiter)
        return rate, limiter.rate

    assert run(main()) == pytest.approx((8, 6.4), rel=0.01)


@pytest.mark.parametrize("before", [0.001, 0.0])
def test_success_sent_before_the_decrease_is_ignored(before):
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        await throttle(limiter)
        limiter.on_success(now() - before)
        return await throttle(limiter), limiter.rate

    assert run(main()) == pytest.approx((2, 8), rel=0.01)


def test_late_429_does_not_restart_the_recovery():
    """The request was sent before the decrease, and its response arrives long after it."""

    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        sent_at = now()
        await throttle(limiter)
        await asyncio.sleep(1 + RECOVERY_TIME)
        limiter.on_throttled(sent_at, None)
        return limiter.rate

    assert run(main()) == pytest.approx(10)


def test_pause_delays_all_grants():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter)
        for number in range(100):
            waits.submit(number)
        await asyncio.sleep(1)
        limiter.on_throttled(now(), 30.0)
        await asyncio.sleep(100)
        return waits.times

    assert not [moment for moment in run(main()) if 1 < moment < 31 - 1e-6]


def test_pause_delays_a_request_with_an_empty_queue():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter)
        limiter.on_throttled(now(), 30.0)
        await asyncio.sleep(1)
        waits.submit("a")
        await asyncio.sleep(100)
        return waits.times

    assert run(main()) == pytest.approx([30])


# --- recovery -----------------------------------------------------------------------------------------------


def test_rate_after_throttling_recovers_within_60s():
    async def main():
        limiter = AdaptiveRateLimiter(100, 10)
        await asyncio.sleep(await throttle(limiter, 30.0))
        rates = [limiter.rate]
        for _ in range(4):
            await asyncio.sleep(RECOVERY_TIME / 4)
            rates.append(limiter.rate)
        return rates

    assert RECOVERY_TIME <= 60
    assert run(main()) == pytest.approx([80, 85, 90, 95, 100])


def test_rate_grows_beyond_the_last_throttled_rate():
    """After two decreases, the rate grows in larger and larger steps up to the configured one."""

    async def main():
        limiter = AdaptiveRateLimiter(100, 10)
        await throttle(limiter)
        await succeed(limiter)
        await asyncio.sleep(await throttle(limiter))
        rates = []
        for _ in range(4):
            rates.append(limiter.rate)
            await asyncio.sleep(RECOVERY_TIME)
        return rates

    assert run(main()) == pytest.approx([64, 80, 100, 100], rel=0.001)


def test_rate_growth_accelerates():
    async def main():
        limiter = AdaptiveRateLimiter(1_000, 10)
        for _ in range(10):
            await asyncio.sleep(await throttle(limiter))
            await succeed(limiter)
        low = limiter.rate
        rates = []
        for _ in range(3):
            await asyncio.sleep(RECOVERY_TIME)
            rates.append(limiter.rate / low)
        return rates

    step = 1 / DECREASE - 1
    assert run(main()) == pytest.approx([1 + step, 1 + 4 * step, 1 + 9 * step], rel=0.01)


def test_rate_never_falls_below_the_minimum():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        for _ in range(60):
            await throttle(limiter)
            await succeed(limiter)
        low = limiter.rate
        await asyncio.sleep(1 + RECOVERY_TIME)
        return low, limiter.rate

    low, later = run(main())
    assert low == MIN_RATE
    assert later > low


@pytest.mark.parametrize("rate", [0.001, 0.05, MIN_RATE, 0.11])
def test_429_never_raises_a_low_limit(rate):
    async def main():
        limiter = AdaptiveRateLimiter(rate, 10)
        rates = []
        for _ in range(5):
            await throttle(limiter)
            await succeed(limiter)
            rates.append(limiter.rate)
            await asyncio.sleep(RECOVERY_TIME)
            rates.append(limiter.rate)
        await asyncio.sleep(10 * RECOVERY_TIME)
        return max(rates), limiter.rate

    greatest, recovered = run(main())
    assert greatest <= rate
    assert recovered == rate


def test_high_rate_returns_gradually_after_a_pause():
    async def main():
        limiter = AdaptiveRateLimiter(1_000, 1_000)
        waits = Waits(limiter)
        limiter.on_throttled(now() + 1, 30.0)
        for number in range(6_000):
            waits.submit(number)
        await asyncio.sleep(45)
        return waits.times

    times = run(main())
    first, second = times[:2]
    assert (first, second - first) == pytest.approx((30, 1 / GENTLE_RATE))
    seconds = Counter(map(int, times))
    assert seconds[30] < 80
    assert seconds[30] < seconds[31] < seconds[32] < seconds[33] < 350
    assert seconds[30 + int(RAMP)] > 780


@pytest.mark.parametrize(("waited", "rate"), [(0, GENTLE_RATE), (RAMP / 2, 60), (RAMP, 100), (2 * RAMP, 100)])
def test_rate_after_a_hold_rises_in_a_straight_line(waited, rate):
    async def main():
        limiter = AdaptiveRateLimiter(100, 10)
        waits = Waits(limiter)
        limiter.hold(30.0)
        await asyncio.sleep(30)
        limiter.resume()
        await asyncio.sleep(waited)
        waits.submit("a")
        waits.submit("b")
        await asyncio.sleep(1)
        first, second = waits.times
        return second - first

    assert run(main()) == pytest.approx(1 / rate)


# --- shared rate limit ----------------------------------------------------------------------------------------


async def find_limit(limiter, limit):
    """Throttle the limiter until its rate is below a limit."""
    while limiter.rate > limit:
        await asyncio.sleep(await throttle(limiter))
        await succeed(limiter)


async def wait_for_rate(limiter, rate):
    for _ in range(int(10 * RECOVERY_TIME)):
        if limiter.rate < rate * 0.999:
            await asyncio.sleep(0.1)


async def meet_limit(limiter, episodes):
    for _ in range(episodes):
        await asyncio.sleep(RECOVERY_TIME)
        await asyncio.sleep(await throttle(limiter))
        await succeed(limiter)


def test_shared_rate_limit_is_logged_once(caplog):
    async def main():
        limiter = AdaptiveRateLimiter(10, 10, name="manxue_default")
        await find_limit(limiter, 5)
        await meet_limit(limiter, SHARED_EPISODES - 1)
        early = len(caplog.records)
        await meet_limit(limiter, 20)
        return early

    with caplog.at_level(logging.WARNING):
        assert run(main()) == 0
    (record,) = caplog.records
    assert record.getMessage() == (
        "Connection 'manxue_default': the service throttles this process at about 5.1 requests per second, far below the "
        "configured 10. Another process seems to share the limit. Set 'requests_per_second' to this process's share of it, "
        "or to the service's limit if that is lower."
    )


def test_episodes_near_configured_rate_are_not_shared(caplog):
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        for limit in (10, 8, 7):
            await wait_for_rate(limiter, limit)
            await asyncio.sleep(await throttle(limiter))
            await succeed(limiter)
        await meet_limit(limiter, 1)  # at a settled rate of 7, not far below the configured one
        await throttle(limiter)  # at a rate of 5.6, still falling
        await succeed(limiter)
        await meet_limit(limiter, SHARED_EPISODES - 1)
        early = len(caplog.records)
        await meet_limit(limiter, 1)
        return early, len(caplog.records)

    with caplog.at_level(logging.WARNING):
        assert run(main()) == (0, 1)


def test_falling_rate_is_not_logged_as_shared(caplog):
    with caplog.at_level(logging.WARNING):
        run(find_limit(AdaptiveRateLimiter(1_000, 10), 5))
    assert not caplog.records


def test_rate_near_configured_is_not_logged_as_shared(caplog):
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        await find_limit(limiter, 8)
        await meet_limit(limiter, 20)

    with caplog.at_level(logging.WARNING):
        run(main())
    assert not caplog.records


def test_short_throttling_is_not_logged_as_shared(caplog):
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        for _ in range(5):
            await find_limit(limiter, 5)
            await meet_limit(limiter, SHARED_EPISODES - 1)
            await asyncio.sleep(10 * RECOVERY_TIME)

    with caplog.at_level(logging.WARNING):
        run(main())
    assert not caplog.records


# --- refused credentials ------------------------------------------------------------------------------------


def test_hold_grants_one_probe_when_it_ends():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter, duration=1_000.0)
        limiter.hold(30.0)
        for name in "abc":
            waits.submit(name)
        assert limiter.resumes_at == 30
        await asyncio.sleep(900)
        waits.submit("d")
        return waits.granted

    assert run(main()) == [(30.0, "a")]


def test_hold_grants_one_probe_with_an_empty_queue():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter, duration=10.0)
        limiter.hold(30.0)
        await asyncio.sleep(50)
        waits.submit("a")
        await asyncio.sleep(5)
        waits.submit("b")
        await asyncio.sleep(4)
        return waits.granted

    assert run(main()) == [(50.0, "a")]


def test_second_hold_moves_the_next_probe():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter, duration=5.0)
        limiter.hold(30.0)
        for name in "abc":
            waits.submit(name)
        await asyncio.sleep(31)
        limiter.hold(90.0)
        await asyncio.sleep(60)
        return waits.granted

    assert run(main()) == [(30.0, "a"), (90.0, "b")]


def test_shorter_hold_replaces_a_longer_one():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter, duration=50.0)
        limiter.hold(60.0)
        waits.submit("a")
        limiter.hold(30.0)
        await asyncio.sleep(100)
        return waits.granted

    assert run(main()) == [(30.0, "a")]


def test_probe_without_a_result_is_repeated():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter, duration=5.0)
        limiter.hold(30.0)
        for name in "abc":
            waits.submit(name)
        await asyncio.sleep(44)
        return waits.granted

    assert run(main()) == [(30.0, "a"), (35.0, "b"), (40.0, "c")]


def test_probe_in_flight_is_not_repeated():
    """A request from before the hold is released after the probe was sent."""

    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        old, waits = Waits(limiter, duration=40.0), Waits(limiter, duration=100.0)
        old.submit("old")
        limiter.hold(30.0)
        for name in "abc":
            waits.submit(name)
        await asyncio.sleep(120)
        return waits.granted

    assert run(main()) == [(30.0, "a")]


@pytest.mark.parametrize("waited", [0.5, 2])
def test_resume_ends_a_hold(waited):
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter, duration=5.0)
        limiter.hold(30.0)
        for name in "abc":
            waits.submit(name)
        await asyncio.sleep(waited)
        limiter.resume()
        assert limiter.resumes_at <= now()
        await asyncio.sleep(1)
        return waits

    waits = run(main())
    assert waits.names == ["a", "b", "c"]
    assert waits.times == pytest.approx([waited, waited + 0.1, waited + 0.2])


def test_first_grant_after_a_hold_is_for_a_final_poll():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter)
        limiter.hold(30.0)
        waits.submit("regular")
        waits.submit("final", final=True)
        await asyncio.sleep(30)
        return waits.names

    assert run(main()) == ["final"]


def test_resume_after_the_probe_grants_the_queue():
    async def main():
        limiter = AdaptiveRateLimiter(100, 10)
        waits = Waits(limiter, duration=1.0)
        limiter.hold(30.0)
        for name in "abc":
            waits.submit(name)
        await asyncio.sleep(30.5)
        limiter.resume()
        await asyncio.sleep(1)
        return waits

    waits = run(main())
    assert waits.names == ["a", "b", "c"]
    assert waits.times == pytest.approx([30, 30.5, 30.5 + 1 / GENTLE_RATE])


def test_resume_does_not_end_a_pause():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        limiter.on_throttled(now() + 1, 60.0)
        limiter.hold(30.0)
        assert limiter.resumes_at == 60
        limiter.resume()
        return limiter.resumes_at

    assert run(main()) == 60


# --- new limits ---------------------------------------------------------------------------------------------


def test_configure_preserves_queue_and_pause():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter)
        limiter.on_throttled(now() + 1, 60.0)
        for name in "abc":
            waits.submit(name)
        limiter.configure(5, 1)
        assert limiter.resumes_at == 60
        await asyncio.sleep(100)
        return waits

    waits = run(main())
    assert waits.names == ["a", "b", "c"]
    assert waits.times == pytest.approx([60, 60.25, 60.5], abs=0.01)


def test_configure_applies_a_rate_immediately():
    async def main():
        limiter = AdaptiveRateLimiter(0.01, 10)
        waits = Waits(limiter)
        for name in "abc":
            waits.submit(name)
        await asyncio.sleep(10)
        limiter.configure(10, 10)
        await asyncio.sleep(1)
        return limiter.rate, waits.times

    rate, times = run(main())
    assert rate == 10
    assert times == pytest.approx([0, 10.1, 10.2])


def test_configure_lowers_the_learned_rate():
    async def main():
        limiter = AdaptiveRateLimiter(100, 10)
        await throttle(limiter)
        limiter.configure(10, 10)
        rates = [limiter.rate]
        await asyncio.sleep(1.001 + RECOVERY_TIME / 2)
        rates.append(limiter.rate)
        await asyncio.sleep(10 * RECOVERY_TIME)
        return [*rates, limiter.rate]

    assert run(main()) == pytest.approx([8, 9, 10], rel=0.001)


def test_configure_preserves_a_lower_learned_rate():
    async def main():
        limiter = AdaptiveRateLimiter(100, 10)
        for _ in range(5):
            await throttle(limiter)
            await succeed(limiter)
        before = limiter.rate
        limiter.configure(90, 10)
        lowered = limiter.rate
        limiter.configure(200, 10)
        raised = limiter.rate
        await asyncio.sleep(limiter.resumes_at - now() + RECOVERY_TIME)
        return before, lowered, raised, limiter.rate

    before, lowered, raised, recovered = run(main())
    assert before == lowered == raised == pytest.approx(100 * DECREASE**5)
    assert recovered == pytest.approx(100 * DECREASE**4)


def test_configure_of_concurrency_preserves_a_low_rate():
    async def main():
        limiter = AdaptiveRateLimiter(MIN_RATE / 2, 10)
        await throttle(limiter)
        limiter.configure(MIN_RATE / 2, 5)
        return limiter.rate

    assert run(main()) == MIN_RATE / 2


def test_configure_with_a_higher_rate_grows_in_steps():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        await throttle(limiter)
        await asyncio.sleep(1_000 * RECOVERY_TIME)
        limiter.configure(100, 10)
        rates = [limiter.rate]
        for _ in range(3):
            await asyncio.sleep(RECOVERY_TIME)
            rates.append(limiter.rate)
        await asyncio.sleep(100 * RECOVERY_TIME)
        return [*rates, limiter.rate]

    assert run(main()) == pytest.approx([10, 16, 26, 40, 100])


def test_configure_applies_a_higher_concurrency():
    async def main():
        limiter = AdaptiveRateLimiter(10, 1)
        waits = Waits(limiter, duration=100.0)
        for name in "abc":
            waits.submit(name)
        await asyncio.sleep(10)
        limiter.configure(10, 2)
        await asyncio.sleep(10)
        return waits.granted

    assert run(main()) == [(0.0, "a"), (10.0, "b")]


# --- cancellation -------------------------------------------------------------------------------------------


def test_cancelled_requests_leave_no_gap():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter)
        requests = [waits.submit(number, number % 2) for number in range(1, 7)]
        for place in (1, 2, 4):
            limiter.cancel(requests[place])
            limiter.cancel(requests[place])
        await asyncio.sleep(1)
        limiter.cancel(requests[0])
        assert limiter.estimated_wait() == 0
        return waits

    waits = run(main())
    assert waits.names == [1, 4, 6]
    assert waits.times == pytest.approx([0, 0.1, 0.2])


def test_cancelled_acquires_leave_no_gap():
    async def main():
        limiter, granted = AdaptiveRateLimiter(10, 1), []

        async def poll(name):
            await limiter.acquire(name)
            granted.append((now(), name))
            limiter.release()

        tasks = [asyncio.create_task(poll(number)) for number in range(6)]
        await asyncio.sleep(0)
        for number in (1, 2, 4):
            tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return granted

    granted = run(main())
    assert [name for _, name in granted] == [0, 3, 5]
    assert [moment for moment, _ in granted] == pytest.approx([0, 0.1, 0.2])


def test_cancelled_final_poll_is_not_granted():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter)
        waits.submit("a")
        limiter.cancel(waits.submit("b", final=True))
        await asyncio.sleep(1)
        return waits.names, limiter.estimated_wait()

    assert run(main()) == (["a"], 0)


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_grant_of_a_cancelled_acquire_is_passed_on(cancelled_first):
    async def main():
        limiter, granted = AdaptiveRateLimiter(1_000, 1), []

        async def poll(name):
            await limiter.acquire(name)
            granted.append(name)
            try:
                await asyncio.sleep(1)
            finally:
                limiter.release()

        first, second, third = (asyncio.create_task(poll(name)) for name in "abc")
        await asyncio.sleep(0.5)
        if cancelled_first:
            first.cancel()
            second.cancel()
        else:
            first.cancel()
            await asyncio.sleep(0)  # releases the slot, which is granted to the second
            second.cancel()
        await asyncio.gather(first, second, third, return_exceptions=True)
        return granted

    assert run(main()) == ["a", "c"]


def test_acquire_and_submit_share_one_queue():
    """Both forms of a request count against the one limit of the connection, and final polls take precedence."""

    async def main():
        limiter, granted = AdaptiveRateLimiter(10, 10), []
        waits = Waits(limiter)
        waits.granted = granted

        async def poll(name, final):
            await limiter.acquire(name, final=final)
            granted.append((now(), name))
            limiter.release()

        waits.submit("a")
        waits.submit("b")
        async with asyncio.TaskGroup() as group:
            group.create_task(poll("c", False))
            group.create_task(poll("d", True))
        return [name for _, name in granted]

    assert run(main()) == ["a", "d", "b", "c"]


@pytest.mark.parametrize(
    ("options", "names"), [({}, ["final", "regular"]), ({"final": True}, ["regular", "final"])]
)
@pytest.mark.parametrize("method", ["acquire", "submit"])
def test_first_request_counts_as_regular_or_final(method, options, names):
    """The grant after an immediate final poll is for a regular one."""

    async def main():
        limiter = AdaptiveRateLimiter(1, 10)
        waits = Waits(limiter)
        if method == "acquire":
            await limiter.acquire("first", **options)
        else:
            limiter.submit("first", lambda: None, **options)
        waits.submit("regular")
        waits.submit("final", final=True)
        await asyncio.sleep(5)
        return waits.names

    assert run(main()) == names


def test_acquire_is_fair_among_tasks():
    async def main():
        limiter, granted = AdaptiveRateLimiter(1, 10), []

        async def poll(task):
            await limiter.acquire(task)
            granted.append(task)
            limiter.release()

        await asyncio.gather(*(poll(task) for task in ("first", "a", "a", "a", "b")))
        return granted[1:]

    assert run(main()) == ["a", "a", "b", "a"]


def test_thousands_of_cancelled_acquires_are_skipped():
    """Their futures are cancelled, but their coroutines have not run yet, so each releases its slot when granted."""

    async def main():
        limiter = AdaptiveRateLimiter(1e9, 1)
        await limiter.acquire("first")
        tasks = [asyncio.create_task(limiter.acquire(number)) for number in range(5_000)]
        await asyncio.sleep(1)
        for task in tasks[:-1]:
            task.cancel()
        limiter.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [task.cancelled() for task in tasks]

    assert run(main()) == [True] * 4_999 + [False]


# --- estimates ----------------------------------------------------------------------------------------------


def test_estimated_wait_counts_the_queue():
    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        waits = Waits(limiter)
        empty = limiter.estimated_wait()
        for number in range(101):
            waits.submit(number, final=bool(number % 2))
        return empty, limiter.estimated_wait()

    assert run(main()) == pytest.approx((0, 10))


@pytest.mark.parametrize("pause", ["throttled", "held"])
def test_pause_is_no_sign_of_a_rate_that_is_too_low(pause, caplog):
    """Of few waits. The warning would name a wrong cause, and the true one would not be logged later."""

    async def main():
        limiter = AdaptiveRateLimiter(10, 10)
        await asyncio.sleep(5)
        if pause == "held":
            limiter.hold(35.0)
        else:
            limiter.on_throttled(now(), 30.0)
        Waits(limiter).submit(1)
        limiter.warn_if_slow(2.0)
        return limiter.estimated_wait()

    assert run(main()) < 0.2
    assert caplog.records == []


def test_rate_too_low_for_the_waits_is_logged_once(caplog):
    """A hundred queued requests take 10 s."""

    async def main():
        limiter = AdaptiveRateLimiter(10, 10, name="manxue_default")
        waits = Waits(limiter)
        for number in range(101):
            waits.submit(number)
        limiter.warn_if_slow(10.0)
        early = len(caplog.records)
        limiter.warn_if_slow(2.0)
        limiter.warn_if_slow(1.0)
        return early

    with caplog.at_level(logging.WARNING):
        assert run(main()) == 0
    (record,) = caplog.records
    assert record.getMessage() == (
        "Connection 'manxue_default': 10 requests per second are too few for its waits. Each is polled about every 12 s "
        "instead of every 2 s. More triggerers, a longer poke_interval or a higher 'requests_per_second' help."
    )
