"""What goes wrong in a night, and when: drawn from a seed, and nothing but the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

Draw = random.Random

DEPLOYMENT: dict[str, tuple[float, float]] = {
    "triggerer killed": (5, 20),
    "worker killed": (5, 20),
    "scheduler killed": (5, 15),
    "both triggerers down": (15, 30),
    "PostgreSQL restarted": (1, 6),
    "PostgreSQL crashed": (1, 6),
    "key rotated": (0, 3),
}
"""What can happen to the deployment, and the seconds until it is mended: least and most."""

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
"""What the service can do, by the names of the emulator's catalogue where it has one."""

EARLIEST, PAUSE = (5.0, 45.0), (3.0, 15.0)
"""Orders are sent in the first half a minute or so: some nights begin with them, others leave them alone."""
DEPLOYMENT_FAULTS, SERVICE_FAULTS = 2, 3


@dataclass(frozen=True)
class Fault:
    """
    One thing that goes wrong.

    :param kind: a key of `DEPLOYMENT` or `SERVICE`.
    :param at: when, in seconds since the run was triggered.
    :param until: when it is mended.
    :param which: a number that chooses among several of a kind (the first or second triggerer, how far a clock steps).
    """

    kind: str
    at: float
    until: float
    which: int

    def __str__(self) -> str:
        """Return a line of the printed schedule."""
        return f"{self.at:6.1f} s to {self.until:6.1f} s  {self.kind} ({self.which})"


@dataclass(frozen=True)
class Schedule:
    """
    A night: its faults, and when each of the videos is ready.

    :param seed: what it is drawn from.
    :param faults: what goes wrong, by time.
    """

    seed: int
    faults: tuple[Fault, ...]

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """Draw a schedule: twenty seeds in a row meet each kind."""
        draw = random.Random(seed)
        # The first kinds come in turn, so that none is left to chance; the others are drawn.
        deployment = _kinds(draw, list(DEPLOYMENT), seed, DEPLOYMENT_FAULTS)
        service = _kinds(draw, list(SERVICE), seed, SERVICE_FAULTS)
        faults = [
            *_one_after_another(draw, deployment, DEPLOYMENT),
            *_one_after_another(draw, service, SERVICE),
        ]
        return cls(seed, tuple(sorted(faults, key=lambda fault: fault.at)))

    @property
    def end(self) -> float:
        """When the last fault is mended."""
        return max(fault.until for fault in self.faults)

    def __str__(self) -> str:
        """Return the printed form."""
        return "\n".join([f"night {self.seed}:", *(f"  {fault}" for fault in self.faults)])


def _kinds(draw: Draw, kinds: list[str], seed: int, count: int) -> list[str]:
    first = kinds[seed % len(kinds)]
    chosen = [first, *draw.sample([kind for kind in kinds if kind != first], count - 1)]
    draw.shuffle(chosen)
    return chosen


def _one_after_another(draw: Draw, kinds: list[str], lengths: dict[str, tuple[float, float]]) -> list[Fault]:
    """Place faults that must not overlap; those of the deployment and of the service overlap each other."""
    faults, at = [], draw.uniform(*EARLIEST)
    for kind in kinds:
        until = at + draw.uniform(*lengths[kind])
        faults.append(Fault(kind, round(at, 1), round(until, 1), draw.randrange(2)))
        at = until + draw.uniform(*PAUSE)
    return faults
