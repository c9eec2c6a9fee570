"""
The rate limiter against limits of the service, in virtual time: ``python -m benchmarks.limits``.

Waits are polled every 30 s ± 10 % after each response, as the drivers do it. A throttled wait is polled again after
the usual interval. Requests take 60 to 120 ms; half of that passes before the service counts them.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import random
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
from benchmarks.table import print_table
from tests.support.virtual_time import run

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

INTERVAL = 30.0
JITTER = 0.1
ONE_WAY = (0.03, 0.06)
"""Seconds from the client to the service, and back."""

CONCURRENCY = 10
WARM_UP = 1_800.0
"""Seconds until several processes have found their shares; they are not measured."""

MEASURED = 3_600.0
SEEDS = (1, 2, 3)


class ServiceLimit(Protocol):
    """A limit of the service: whether it accepts a request at a time."""

    def accepts(self, now: float) -> bool: ...


@dataclass
class Bucket:
    """A token bucket. A burst of 1 is a strict limit, as nginx's ``limit_req`` without a burst."""

    rate: float
    burst: float
    tokens: float = field(init=False)
    counted_at: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def accepts(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.counted_at) * self.rate)
        self.counted_at = now
        if self.tokens < 1 - 1e-9:
            return False
        self.tokens -= 1
        return True


@dataclass
class FixedWindow:
    """A fixed number of requests per window of fixed length. Throttled requests count too."""

    allowed: int
    seconds: float
    window: int = -1
    counted: int = 0

    def accepts(self, now: float) -> bool:
        if int(now // self.seconds) != self.window:
            self.window, self.counted = int(now // self.seconds), 0
        self.counted += 1
        return self.counted <= self.allowed


@dataclass
class Outage:
    """No limit, but 429 to all requests of a time."""

    begin: float
    end: float

    def accepts(self, now: float) -> bool:
        return not self.begin <= now < self.end


@dataclass(frozen=True)
class Response:
    """
    What the service counted.

    :param time: when.
    :param process: number of the triggerer.
    :param wait: number of the wait in it.
    :param accepted: whether it was no 429.
    """

    time: float
    process: int
    wait: int
    accepted: bool


@dataclass(frozen=True)
class Process:
    """
    A triggerer.

    :param tasks: task instance of each of its waits.
    :param rate: configured requests per second.
    :param interval: seconds between two polls of a wait.
    """

    tasks: Sequence[Hashable]
    rate: float = 10.0
    interval: float = INTERVAL


class _Driver:
    """Polls the waits of one triggerer."""

    def __init__(self, process: Process, number: int, service: _Service, rng: random.Random) -> None:
        self.process, self.number, self.service, self.rng = process, number, service, rng
        self.loop = asyncio.get_running_loop()
        self.limiter = AdaptiveRateLimiter(process.rate, CONCURRENCY)
        for wait in range(len(process.tasks)):
            self.loop.call_later(rng.uniform(0, process.interval), self.poll, wait)

    def poll(self, wait: int) -> None:
        self.limiter.submit(self.process.tasks[wait], lambda: self.send(wait))

    def send(self, wait: int) -> None:
        self.loop.call_later(self.rng.uniform(*ONE_WAY), self.arrive, wait, self.loop.time())

    def arrive(self, wait: int, sent_at: float) -> None:
        accepted = self.service.accepts(self.number, wait)
        self.loop.call_later(self.rng.uniform(*ONE_WAY), self.receive, wait, sent_at, accepted)

    def receive(self, wait: int, sent_at: float, accepted: bool) -> None:
        if accepted:
            self.limiter.on_success(sent_at)
        else:
            self.limiter.on_throttled(sent_at, None)
        self.limiter.release()
        pause = self.process.interval * self.rng.uniform(1 - JITTER, 1 + JITTER)
        self.loop.call_later(pause, self.poll, wait)


class _Service:
    def __init__(self, limit: ServiceLimit | None) -> None:
        self.limit, self.responses = limit, list[Response]()
        self.loop = asyncio.get_running_loop()

    def accepts(self, process: int, wait: int) -> bool:
        accepted = self.limit is None or self.limit.accepts(self.loop.time())
        self.responses.append(Response(self.loop.time(), process, wait, accepted))
        return accepted


def play(
    limit: ServiceLimit | None, processes: Iterable[Process], seconds: float, seed: int
) -> list[Response]:
    """
    Run triggerers against a limit.

    :param limit: of the service; None for a service that accepts all.
    :param processes: the triggerers.
    :param seconds: how long.
    :param seed: of the jitter and of the network.
    """

    async def main() -> list[Response]:
        rng, service = random.Random(seed), _Service(limit)
        for number, process in enumerate(processes):
            _Driver(process, number, service, rng)
        await asyncio.sleep(seconds)
        return service.responses

    return run(main())


@dataclass(frozen=True)
class Row:
    """
    A figure and its target.

    :param case: what was played.
    :param measured: the figure, of the worst seed.
    :param target: what it should be.
    :param reached: whether it is.
    """

    case: str
    measured: str
    target: str
    reached: bool


def singles(count: int) -> list[Hashable]:
    return [("single", number) for number in range(count)]


def recovery() -> Iterable[Row]:
    for interval, waits in ((10.0, 100), (INTERVAL, 300)):
        counted = []
        for seed in SEEDS:
            begin = 600.0 + seed
            outage = Outage(begin, begin + 15.0)
            responses = play(outage, [Process(singles(waits), interval=interval)], begin + 120.0, seed)
            counted.append(
                sum(r.accepted and outage.end + 40 <= r.time < outage.end + 100 for r in responses)
            )
        case = f"429 for 15 s, {waits} waits every {interval:.0f} s: responses from 40 to 100 s after it"
        yield Row(case, str(min(counted)), "at least 480 of 600", min(counted) >= 480)


def shares() -> Iterable[Row]:
    """Measure how much is used of limits, and how evenly. Rows without a target are for comparison."""

    def bucket() -> ServiceLimit:
        return Bucket(10, 10)

    def strict() -> ServiceLimit:
        return Bucket(10, 1)

    def second() -> ServiceLimit:
        return FixedWindow(10, 1.0)

    def minute() -> ServiceLimit:
        return FixedWindow(600, 60.0)

    def minute_7() -> ServiceLimit:
        return FixedWindow(420, 60.0)

    yield from _share("420 per minute", minute_7, 7, 1)
    yield from _share("600 per minute", minute, 10, 2)
    yield from _share("600 per minute", minute, 10, 4, targets=False)
    yield from _share("bucket of 10/s, burst 10", bucket, 10, 2)
    yield from _share("bucket of 10/s, burst 10", bucket, 10, 4, ratio=1.5)
    yield from _share("10 per second", second, 10, 1)
    yield from _share("10 per second", second, 10, 4, targets=False)
    yield from _share("strict 10/s", strict, 10, 1, targets=False)
    yield from _share("strict 10/s", strict, 10, 2, targets=False)


def _share(
    name: str,
    limit: Callable[[], ServiceLimit],
    allowed: float,
    count: int,
    *,
    ratio: float = float("inf"),
    targets: bool = True,
) -> Iterable[Row]:
    used, refused, ratios = [], [], []
    for seed in SEEDS:
        processes = [Process(singles(1_000 // count)) for _ in range(count)]
        responses = [r for r in play(limit(), processes, WARM_UP + MEASURED, seed) if r.time >= WARM_UP]
        accepted = [sum(r.accepted and r.process == number for r in responses) for number in range(count)]
        used.append(sum(accepted) / allowed / MEASURED)
        refused.append(1 - sum(accepted) / len(responses))
        ratios.append(max(accepted) / max(min(accepted), 1))
    case = f"{name}, {count} x 10/s"
    least, most = (0.95, 0.02) if targets else (0.0, 1.0)
    yield Row(
        f"{case}: used", f"{min(used):.1%}", f"at least {least:.0%}" if targets else "", min(used) >= least
    )
    yield Row(
        f"{case}: 429s", f"{max(refused):.2%}", f"at most {most:.0%}" if targets else "", max(refused) <= most
    )
    if count > 1:
        target = "" if ratio == float("inf") else f"at most {ratio:g}"
        yield Row(
            f"{case}: longest beside shortest interval", f"{max(ratios):.2f}", target, max(ratios) <= ratio
        )


def unknown_limit() -> Iterable[Row]:
    least, most, refused = 1.0, 0.0, 0.0
    for seed in SEEDS:
        responses = play(Bucket(5, 5), [Process(singles(1_000), rate=1_000)], 1_800.0, seed)
        settled = [r for r in responses if r.time >= 60]
        refused = max(refused, sum(not r.accepted for r in settled) / len(settled))
        times = [r.time for r in settled]
        for begin in range(60, 1_740):
            used = (bisect.bisect_left(times, begin + 60) - bisect.bisect_left(times, begin)) / 300
            least, most = min(least, used), max(most, used)
    case = "unknown limit of 5/s, 1,000 waits"
    yield Row(f"{case}: least used in a minute", f"{least:.0%}", "at least 80 %", least >= 0.8)
    yield Row(f"{case}: most used in a minute", f"{most:.0%}", "at most 105 %", most <= 1.05)
    yield Row(f"{case}: 429s", f"{refused:.2%}", "under 2 %", refused < 0.02)


def batches() -> Iterable[Row]:
    tasks: list[Hashable] = ["batch"] * 1_000 + singles(1_000)
    gap = _longest_gap(play(None, [Process(tasks)], 4_000.0, 1), range(2_000), 4_000.0)
    yield Row(
        "batch of 1,000 beside 1,000 waits: longest interval", f"{gap:.0f} s", "at most 400 s", gap <= 400
    )
    responses = play(None, [Process(["batch"] * 10_000 + singles(1))], 4_000.0, 1)
    gap = _longest_gap(responses, [10_000], 4_000.0)
    yield Row("wait beside a batch of 10,000: longest interval", f"{gap:.1f} s", "at most 60 s", gap <= 60)


def _longest_gap(responses: Sequence[Response], waits: Iterable[int], end: float) -> float:
    """Return the longest time between two polls of one of some waits."""
    last = dict.fromkeys(waits, 0.0)
    longest = 0.0
    for response in responses:
        if response.wait in last:
            longest = max(longest, response.time - last[response.wait])
            last[response.wait] = response.time
    return max(longest, *(end - time for time in last.values()))


def slowest() -> Iterable[Row]:
    async def main() -> float:
        limiter, rates = AdaptiveRateLimiter(0.05, 1), []
        for second in range(1_000):
            await asyncio.sleep(1)
            limiter.on_throttled(asyncio.get_running_loop().time() - 0.1 if second % 2 else -1.0, None)
            rates.append(limiter.rate)
        return max(rates)

    rate = run(main())
    yield Row("configured 0.05/s, only 429s: greatest rate", f"{rate:g}/s", "at most 0.05/s", rate <= 0.05)


def main() -> int:
    """Print all figures. Return 1 if a target was missed."""
    logging.disable(logging.WARNING)  # of shared limits, which are the subject
    rows = [row for part in (recovery, shares, unknown_limit, batches, slowest) for row in part()]
    print_table(
        ("case", "measured", "target", ""),
        [(row.case, row.measured, row.target, "" if row.reached else "MISSED") for row in rows],
    )
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
