"""Schedules of chaos runs: the faults and their times, drawn from a seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

DEPLOYMENT: dict[str, tuple[float, float]] = {
    "triggerer killed": (5, 20),
    "worker killed": (5, 20),
    "scheduler killed": (5, 15),
    "both triggerers down": (15, 30),
    "PostgreSQL restarted": (1, 6),
    "PostgreSQL crashed": (1, 6),
    "key rotated": (0, 3),
}
"""Faults of the deployment, with the shortest and longest duration in seconds."""

SERVICE: dict[str, tuple[float, float]] = {
    "refuse": (4, 15),
    "hang": (4, 15),
    "reset_before_read": (4, 15),
    "reset_after_read": (4, 15),
    "truncated_body": (4, 15),
    "html_body": (4, 15),
    "json_broken": (4, 15),
    "json_list": (4, 15),
    "http_429_seconds": (10, 25),
    "http_502_html": (10, 25),
    "clock step": (0, 0),
    "emulator restarted": (2, 15),
    "media_cut": (10, 40),
    "media_503": (10, 40),
}
"""Faults of the service, with the shortest and longest duration in seconds. Most are names of emulator scenarios."""

EARLIEST, PAUSE = (5.0, 45.0), (3.0, 15.0)
"""Seconds: range of the first fault, and of the pause between faults. Orders are sent in about the first 30 s."""
DEPLOYMENT_FAULTS, SERVICE_FAULTS = 2, 3


@dataclass(frozen=True)
class Fault:
    """
    One fault.

    :param kind: a key of `DEPLOYMENT` or `SERVICE`.
    :param at: start, in seconds since the run was triggered.
    :param until: end, in seconds since the run was triggered.
    :param which: number that selects the component, or the size of a clock step.
    """

    kind: str
    at: float
    until: float
    which: int

    def __str__(self) -> str:
        """Return the fault as a line of the printed schedule."""
        return f"{self.at:6.1f} s to {self.until:6.1f} s  {self.kind} ({self.which})"


@dataclass(frozen=True)
class Schedule:
    """
    The faults of one chaos run.

    :param seed: the seed.
    :param faults: the faults, ordered by start.
    """

    seed: int
    faults: tuple[Fault, ...]

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """Draw a schedule. Twenty consecutive seeds cover each kind of fault."""
        rng = random.Random(seed)
        # The first kind of each side rotates with the seed; the others are random.
        deployment = _kinds(rng, list(DEPLOYMENT), seed, DEPLOYMENT_FAULTS)
        service = _kinds(rng, list(SERVICE), seed, SERVICE_FAULTS)
        faults = [
            *_one_after_another(rng, deployment, DEPLOYMENT),
            *_one_after_another(rng, service, SERVICE),
        ]
        return cls(seed, tuple(sorted(faults, key=lambda fault: fault.at)))

    @property
    def end(self) -> float:
        """End of the last fault, in seconds since the run was triggered."""
        return max(fault.until for fault in self.faults)

    def __str__(self) -> str:
        """Return the schedule as printed."""
        return "\n".join([f"seed {self.seed}:", *(f"  {fault}" for fault in self.faults)])


def _kinds(rng: random.Random, kinds: list[str], seed: int, count: int) -> list[str]:
    first = kinds[seed % len(kinds)]
    chosen = [first, *rng.sample([kind for kind in kinds if kind != first], count - 1)]
    rng.shuffle(chosen)
    return chosen


def _one_after_another(
    rng: random.Random, kinds: list[str], lengths: dict[str, tuple[float, float]]
) -> list[Fault]:
    """Return faults of one side that do not overlap each other. Faults of the two sides may overlap."""
    faults, at = [], rng.uniform(*EARLIEST)
    for kind in kinds:
        until = at + rng.uniform(*lengths[kind])
        faults.append(Fault(kind, round(at, 1), round(until, 1), rng.randrange(2)))
        at = until + rng.uniform(*PAUSE)
    return faults
