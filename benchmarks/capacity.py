"""
Number of triggerers for a number of waits: a simulation in virtual time.

The simulation runs the shipped decisions of a triggerer: the time of a wait's first poll and of each next poll, and the
order of the polls. Responses take no time, since they take milliseconds and the intervals are seconds.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.deadline import first_poll_at, first_polls
from airflow_provider_manxue._core.poller import Poller
from airflow_provider_manxue._core.polling import PollPolicy
from airflow_provider_manxue.exceptions import ManxueTransientError
from airflow_provider_manxue.models import TaskStatus, VideoTask
from benchmarks.waits import ROOT, percentiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


WAITS = 1_000_000
INTERVAL = 30.0
LIMITS = (10, 100, 500)
TRIGGERERS = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
RESTARTED = 100
"""Triggerers that share all the waits when a restart is played."""

PICTURE = ROOT / "docs" / "img" / "capacity.png"
NEVER = float("inf")
PENDING = VideoTask("v", TaskStatus.PROCESSING)


@dataclass(frozen=True)
class Triggerer:
    """
    The polls of one triggerer from its start until it has detected all completed videos.

    :param asked_at: times of the requests.
    :param delays: seconds from each completion to its detection.
    """

    asked_at: list[float]
    delays: list[float]


def triggerer(waits: int, limit: float, seed: int, cycles: int = 2) -> Triggerer:
    """
    Play one triggerer that starts with many waits, as after a restart.

    :param waits: how many.
    :param limit: requests per second.
    :param seed: seed of the chances.
    :param cycles: number of polls of each wait before its video completes, at a random time within the next interval.
    """
    chance = random.Random(seed).random
    poller = _poller(chance)
    cycle = max(INTERVAL, waits / limit)
    due = [
        (first_polls(-1.0, 0.0, INTERVAL, NEVER)[1] * chance(), cycle * (cycles + chance()))
        for _ in range(waits)
    ]
    heapq.heapify(due)
    next_turn, asked_at, delays = 0.0, [], []
    while due:
        wanted_at, completed_at = due[0]
        now = max(wanted_at, next_turn)
        next_turn = now + 1 / limit
        asked_at.append(now)
        if now < completed_at:
            heapq.heapreplace(due, (_after(poller, PENDING, now), completed_at))
        else:
            heapq.heappop(due)
            delays.append(now - completed_at)
    return Triggerer(asked_at, delays)


def million() -> dict[str, Any]:
    """
    Return the detection delay of a million videos for several numbers of triggerers.

    Triggerers are independent of each other, so one of them is simulated per number. The restart simulates all of them.
    """
    points = [_point(count, limit) for limit in LIMITS for count in TRIGGERERS]
    restarted = {limit: _restart(limit) for limit in (100, 500)}
    _draw(points, restarted)
    return {
        "points": points,
        "restart_most_per_second": {limit: max(seconds) for limit, seconds in restarted.items()},
    }


def _point(count: int, limit: int) -> dict[str, float]:
    p50, p99, _ = percentiles(triggerer(WAITS // count, limit, seed=count).delays)
    return {"triggerers": count, "limit": limit, "delay_p50": p50, "delay_p99": p99}


def _restart(limit: int, seconds: int = 90) -> list[int]:
    """Return the requests in each second after all triggerers were restarted at the same moment."""
    counted: Counter[int] = Counter()
    for seed in range(RESTARTED):
        counted.update(map(int, triggerer(WAITS // RESTARTED, limit, seed, cycles=3).asked_at))
    return [counted[second] for second in range(seconds)]


def outage(waits: int, seconds: float, *, jitter: bool) -> float:
    """
    Play waits that began in the same moment and lost the service after one minute, without any limit.

    :param waits: how many.
    :param seconds: length of the outage.
    :param jitter: spread the polls as shipped, or not at all.
    :returns: the most requests in any 20 ms from the end of the outage on, as a share of the waits.
    """
    chance = random.Random(1).random if jitter else lambda: 0.5
    end = 60.0 + seconds
    asked_at = sorted(
        moment for _ in range(waits) for moment in _polls(chance, 60.0, end, end + 300.0) if moment >= end
    )
    # Requests of one moment may differ by a rounding error.
    window, first, most = 0.02 - 1e-6, 0, 0
    for place, moment in enumerate(asked_at):
        while asked_at[first] <= moment - window:
            first += 1
        most = max(most, place - first + 1)
    return most / waits


def _polls(chance: Callable[[], float], begin: float, end: float, until: float) -> Iterator[float]:
    """Return the times of one wait's polls after a worker's poll at 0. The service is down from ``begin`` to ``end``."""
    poller = _poller(chance)
    lost = ManxueTransientError("no response")
    at = first_poll_at(_after(poller, PENDING, 0.0), 0.0, NEVER)
    while at < until:
        yield at
        at = _after(poller, lost if begin <= at < end else PENDING, at)


def _poller(chance: Callable[[], float]) -> Poller:
    return Poller(
        ["v"], PollPolicy(INTERVAL), started_at=0.0, deadline=NEVER, first_poll_at=0.0, chance=chance
    )


def _after(poller: Poller, outcome: VideoTask | ManxueTransientError, now: float) -> float:
    """Return when the next poll is due after an outcome."""
    poller.take_due(NEVER)
    poller.handle("v", outcome, sent_at=now, now=now)
    poller.pop_lines(now)
    due = poller.next_due
    assert due is not None  # noqa: S101 - a wait without a deadline does not end
    return due


def _draw(points: list[dict[str, float]], restarted: dict[int, list[int]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (delays, restart) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for limit, colour in zip(LIMITS, ("C0", "C1", "C2"), strict=True):
        line = [point for point in points if point["limit"] == limit]
        counts = [point["triggerers"] for point in line]
        delays.loglog(
            counts, [point["delay_p99"] for point in line], colour, marker="o", label=f"{limit}/s, p99"
        )
        delays.loglog(counts, [point["delay_p50"] for point in line], f"{colour}--", label=f"{limit}/s, p50")
    delays.axhline(1.1 * INTERVAL, color="grey", linewidth=0.8)
    delays.set(
        title="1,000,000 waits, one poll in 30 s each",
        xlabel="triggerers",
        ylabel="seconds from completion to event",
    )
    delays.legend(title="limit per triggerer")
    for limit, seconds in restarted.items():
        restart.plot(seconds, label=f"{limit}/s")
    restart.set(
        title=f"All {RESTARTED} triggerers restart at once",
        xlabel="seconds after the restart",
        ylabel="requests per second, all triggerers",
        ylim=(0, None),
    )
    restart.legend(title="limit per triggerer")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
