"""
How fast one connection is asked, by all waits of an event loop together.

A :class:`Pace` stands between the waits of a connection and the service. It hands out turns in the order in
which they were asked for, so that no wait starves; it keeps to a number of requests per second, evenly spaced,
and of requests at a time; and when the service says 429, it pauses for all, and comes back slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIN_RATE = 0.1
"""Requests per second; however often the service complains, each wait gets its turn some day."""

DECREASE = 0.8
"""Part of the rate that is left after a 429 that came after a while."""

SHARP_DECREASE = 0.5
"""Part of the rate that is left after a 429 that came right after another: the rate is far too high."""

SOON = 5
"""Good answers up to which a 429 comes *right after* another."""

RECOVERY = 150
"""Good answers after which the rate is back where the last 429 came."""

ACCELERATION = 1.02
"""Growth of the steps once the rate is beyond that point, for a service that has lifted its limit."""

GENTLE_RATE = 20.0
"""Requests per second with which a fast pace begins again after a pause."""

RAMP = 10.0
"""Seconds in which it comes back from there to its rate."""

DEFAULT_PAUSE = 1.0
"""Seconds of a pause for which the service gave no length."""


class Pace:
    """
    Hands out turns to ask.

    The rate falls with a 429 and rises with each good answer. It thus settles just below a limit that the
    service does not tell, and goes up to the connection's own limit where there is none.

    :param limit: requests per second at most.
    :param at_once: requests that may be under way at the same time.
    """

    def __init__(self, limit: float, at_once: int) -> None:
        self.limit = limit
        self.at_once = at_once
        self.rate = limit
        self._queue: deque[asyncio.Future[None]] = deque()
        self._under_way = 0
        self._next_at = float("-inf")
        self._alarm: asyncio.TimerHandle | None = None
        # What the last 429 has taught.
        self._slowed_at = float("-inf")
        self._resumed_at = float("-inf")
        self._ceiling = limit
        self._step = 0.0
        self._good_answers = SOON + 1

    @property
    def queue_time(self) -> float:
        """Seconds that a turn asked for now has to wait, as far as the rate decides it."""
        return len(self._queue) / self.rate

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Wait for a turn, lend it with the loop time at which it began, and take it back at the end."""
        await self._take()
        try:
            yield asyncio.get_running_loop().time()
        finally:
            self._give_back()

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._queue and self._under_way < self.at_once and (now := loop.time()) >= self._next_at:
            self._grant(now)
            return
        mine = loop.create_future()
        self._queue.append(mine)
        self._hand_out()
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                # The turn came in the very moment of the cancellation: it goes to the next one.
                self._give_back()
            raise

    def _give_back(self) -> None:
        self._under_way -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        """Let go whoever may go now, and set an alarm for the next."""
        loop = asyncio.get_running_loop()
        while self._queue and self._under_way < self.at_once:
            if self._queue[0].done():  # its owner was cancelled
                self._queue.popleft()
            elif (now := loop.time()) < self._next_at:
                self._set_alarm(loop)
                return
            else:
                self._grant(now)
                self._queue.popleft().set_result(None)

    def _grant(self, now: float) -> None:
        self._under_way += 1
        self._next_at = now + 1 / self._rate_at(now)

    def _rate_at(self, now: float) -> float:
        """Return the rate, but less of it for a while after a pause: all the waits that it held up are due."""
        since_pause = now - self._resumed_at
        if since_pause >= RAMP or self.rate <= GENTLE_RATE:
            return self.rate
        return GENTLE_RATE + (self.rate - GENTLE_RATE) * since_pause / RAMP

    def _set_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._alarm is None:
            self._alarm = loop.call_at(self._next_at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._hand_out()

    # --- what the answers say of the pace ---------------------------------------------------------------

    def went_well(self) -> None:
        """Take note of an answer that was no 429."""
        self._good_answers += 1
        if self.rate < self.limit:
            if self.rate >= self._ceiling:
                self._step *= ACCELERATION
            self.rate = min(self.limit, self.rate + self._step)

    def was_refused(self, asked_at: float, pause: float | None) -> None:
        """
        Take note of a 429: nobody asks before the pause is over, and then all together ask more slowly.

        :param asked_at: loop time at which the refused request was sent. One that was sent before the rate
            fell says nothing about the rate now.
        :param pause: seconds for which the service asked.
        """
        now = asyncio.get_running_loop().time()
        self._next_at = max(self._next_at, now + (DEFAULT_PAUSE if pause is None else pause))
        self._resumed_at = self._next_at
        if asked_at <= self._slowed_at:
            return
        decrease = SHARP_DECREASE if self._good_answers <= SOON else DECREASE
        self._slowed_at, self._good_answers = now, 0
        self._ceiling = self.rate
        self.rate = max(MIN_RATE, self.rate * decrease)
        self._step = max(self._ceiling - self.rate, MIN_RATE) / RECOVERY
