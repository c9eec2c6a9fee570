"""Selection of the fault that a request meets."""

from __future__ import annotations

import logging
import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from airflow_provider_manxue.testing._names import unknown
from airflow_provider_manxue.testing._response import Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_manxue.testing._record import RequestRecord

log = logging.getLogger(__name__)

Target = Literal["all", "api", "query", "create", "media", "upload", "asset_status"]

RANDOM_FAULTS = (
    "http_500",
    "http_502_html",
    "http_503_seconds",
    "http_429_seconds",
    "html_body",
    "empty_body",
    "reset_before_read",
    "reset_after_read",
    "truncated_body",
)
"""Default random faults. Each affects a single request, so a client recovers from it with a retry."""


@dataclass(frozen=True)
class PlayedFault:
    """
    A random fault that a request met.

    :param number: number of the fault, from 1.
    :param request: number of the request.
    :param name: name of the fault's scenario.
    """

    number: int
    request: int
    name: str


class RandomFaults:
    """
    Random faults for single requests.

    The n-th request always gets the n-th draw, so the same requests in the same order replay a run.

    :param seed: seed of the random generator; a new one is generated and logged if left out.
    :param rate: share of the requests that meet a fault, from 0 to 1.
    :param names: names of the faults' scenarios.
    :raises ValueError: if the rate is out of range, or a name is not that of a single response.
    """

    def __init__(self, seed: int | None, rate: float, names: Sequence[str]) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"fault_rate is {rate!r}. Set a share from 0 to 1.")
        self.seed = secrets.randbits(32) if seed is None else seed
        self.played: list[PlayedFault] = []
        self._rate = rate
        self._names = tuple(names)
        self._responses = {name: Response.named(name) for name in names}
        # Replays need a seeded generator; it generates no secrets.
        self._random = random.Random(self.seed)  # noqa: S311
        if rate:
            log.info("Random faults: seed=%d fault_rate=%s", self.seed, rate)

    def draw(self) -> str | None:
        """Return the name of the fault for the next request, or None for no fault."""
        if not self._rate:
            return None
        # Draw the name even without a fault, so that a change of the rate does not shift the names.
        hit = self._random.random() < self._rate
        name = self._random.choice(self._names)
        return name if hit else None

    def play(self, name: str, record: RequestRecord) -> Response:
        """Record that a request meets a fault, and return the response."""
        self.played.append(PlayedFault(len(self.played) + 1, record.number, name))
        record.fault = name
        log.info("Random fault %d: request %d meets %s", len(self.played), record.number, name)
        return self._responses[name]


class Faults:
    """
    All faults, and their order of precedence.

    A response for all requests comes before one for the next requests, and a random fault comes last.

    :param random_faults: faults for single requests.
    """

    def __init__(self, random_faults: RandomFaults) -> None:
        self.random_faults = random_faults
        self._for_all: dict[Target, Response] = {}
        self._for_next: list[tuple[Target, Response]] = []

    def response_to_all(self, target: Target) -> Response | None:
        """Return the response set by :meth:`respond_to_all`, if any."""
        return self._for_all.get(target)

    def respond_to_all(self, target: Target, response: Response | None) -> None:
        """Send this response to all requests to ``target``; None ends that."""
        if response is None:
            self._for_all.pop(target, None)
        else:
            self._for_all[target] = response

    def respond_to_next(self, count: int, target: Target, response: Response) -> None:
        """
        Send this response to the next requests to ``target``, after responses that are already queued.

        :raises ValueError: if ``count`` is negative.
        """
        if count < 0:
            raise ValueError(f"count is {count!r}. Set 0 or more.")
        self._for_next.extend([(target, response)] * count)

    def respond_regularly(self) -> None:
        """Remove all responses set by :meth:`respond_to_all`."""
        self._for_all.clear()

    def clear(self) -> None:
        """Remove all faults except random ones."""
        self.respond_regularly()
        self._for_next.clear()

    def meet(self, record: RequestRecord) -> Response | None:
        """Return the fault that a request meets, if any."""
        drawn = self.random_faults.draw()
        targets = _targets(record)
        for target in targets:
            if target in self._for_all:
                return self._for_all[target]
        for index, (target, response) in enumerate(self._for_next):
            if target in targets:
                del self._for_next[index]
                return response
        return self.random_faults.play(drawn, record) if drawn else None


def check_target(target: str) -> Target:
    """
    Return the target.

    :raises ValueError: if it is unknown.
    """
    for known in get_args(Target):
        if target == known:
            return target  # type: ignore[return-value]
    raise unknown("target", target, get_args(Target))


def _targets(record: RequestRecord) -> tuple[Target, ...]:
    """Return the targets that include a request, narrowest first."""
    if record.place == "media":
        return ("media", "all")
    if record.place == "unknown":
        return ("api", "all")
    return (record.place, "api", "all")
