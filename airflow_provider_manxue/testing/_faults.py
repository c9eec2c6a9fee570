"""Which request meets which fault: an outage, the next few, or a throw of the dice."""

from __future__ import annotations

import logging
import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from airflow_provider_manxue.testing._response import Response
from airflow_provider_manxue.testing._suggest import unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_manxue.testing._record import RequestRecord

log = logging.getLogger(__name__)

Target = Literal["all", "api", "query", "create", "media"]

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
"""What the dice choose from, unless told otherwise. All of them pass with the next request."""


@dataclass(frozen=True)
class PlayedFault:
    """
    A fault that the dice chose.

    :param number: counts from 1.
    :param request: the number of the request that met it.
    :param name: its name in the catalogue.
    """

    number: int
    request: int
    name: str


class RandomFaults:
    """
    Throw for each request whether it meets a fault, and which.

    The n-th request always meets the n-th throw, so the same requests in the same order replay a run.

    :param seed: where the throws come from; a new one is made up, and logged, if left out.
    :param rate: share of the requests that meet a fault, from 0 to 1.
    :param names: the faults, by their names in the catalogue.
    :raises ValueError: for an impossible rate, or a name that is not a response.
    """

    def __init__(self, seed: int | None, rate: float, names: Sequence[str]) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"fault_rate is {rate!r}; give a share from 0 to 1")
        self.seed = secrets.randbits(32) if seed is None else seed
        self.played: list[PlayedFault] = []
        self._rate = rate
        self._names = tuple(names)
        self._responses = {name: Response.named(name) for name in names}
        # Replays need a seeded generator; nothing secret comes out of it.
        self._random = random.Random(self.seed)  # noqa: S311
        if rate:
            log.info("random faults: seed=%d fault_rate=%s", self.seed, rate)

    def throw(self) -> str | None:
        """Return the name of the fault for the next request, if any."""
        if not self._rate:
            return None
        # Both throws happen for each request, so that one outcome does not shift the others.
        hit = self._random.random() < self._rate
        name = self._random.choice(self._names)
        return name if hit else None

    def play(self, name: str, record: RequestRecord) -> Response:
        """Note that a request meets a fault, and return the response."""
        self.played.append(PlayedFault(len(self.played) + 1, record.number, name))
        record.fault = name
        log.info("random fault %d: request %d meets %s", len(self.played), record.number, name)
        return self._responses[name]


class Faults:
    """
    Decide which response, other than the regular one, a request gets.

    :param dice: random faults; they come last.
    """

    def __init__(self, dice: RandomFaults) -> None:
        self.dice = dice
        self._standing: dict[Target, Response] = {}
        self._next: list[tuple[Target, Response]] = []

    def standing(self, target: Target) -> Response | None:
        """Return the response that all requests to ``target`` get, if any."""
        return self._standing.get(target)

    def respond_to_all(self, target: Target, response: Response | None) -> None:
        """Give this response to all requests to ``target``; None ends that."""
        if response is None:
            self._standing.pop(target, None)
        else:
            self._standing[target] = response

    def respond_to_next(self, count: int, target: Target, response: Response) -> None:
        """
        Give this response to the next requests to ``target``, after those that already wait.

        :raises ValueError: if ``count`` is negative.
        """
        if count < 0:
            raise ValueError(f"the number of requests is {count!r}; give one that is not negative")
        self._next.extend([(target, response)] * count)

    def respond_regularly(self) -> None:
        """End all that :meth:`respond_to_all` began."""
        self._standing.clear()

    def clear(self) -> None:
        """End all faults but the random ones."""
        self.respond_regularly()
        self._next.clear()

    def meet(self, record: RequestRecord) -> Response | None:
        """Return the response for a request: standing ones first, then the next ones, then the dice."""
        thrown = self.dice.throw()
        targets = _targets(record)
        for target in targets:
            if target in self._standing:
                return self._standing[target]
        for index, (target, response) in enumerate(self._next):
            if target in targets:
                del self._next[index]
                return response
        return self.dice.play(thrown, record) if thrown else None


def check_target(target: str) -> Target:
    """
    Return the target.

    :raises ValueError: if there is none of that name.
    """
    for known in get_args(Target):
        if target == known:
            return target  # type: ignore[return-value]
    raise unknown("target", target, get_args(Target))


def _targets(record: RequestRecord) -> tuple[Target, ...]:
    """Return the targets a request belongs to, the narrowest first."""
    if record.place == "media":
        return ("media", "all")
    if record.place == "unknown":
        return ("api", "all")
    return (record.place, "api", "all")
