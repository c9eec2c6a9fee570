"""
A rate limiter for all requests of one connection in one process. It needs an event loop, and no Airflow.

Longer than 350 lines: one algorithm, whose grants, rate and pauses share their state.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from typing import TYPE_CHECKING

from airflow_provider_manxue._client.request_queue import Lane, Request
from airflow_provider_manxue._core.polling import bounded_pause

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

# Theory of operation
#
# Spacing. Grants are evenly spaced, without bursts: a service may count by second, by minute or by bucket. A timer
# that fires late must not lower the rate, so a late grant moves the next one forward, by `MAX_CATCH_UP` at most.
#
# Episodes. The rate is lowered once for each episode of throttling, by `DECREASE`. An episode begins with a 429 to
# a request that was sent after the last decrease, and ends with any other response to such a request. Within an
# episode a 429 only lengthens the pause: 1, 2, 4 ... 60 s, or `Retry-After` if that is longer. A request that was
# sent before the pause began is no sign of it, so ten requests in flight lengthen it once. This way a service
# that is out of order for a minute costs one decrease, not ten.
#
# Recovery. The rate returns from the end of the pause, by time and not by responses, from the decreased rate to the
# ceiling, the rate at which the service throttled. It does so in a straight line within `RECOVERY_TIME` seconds, then
# continues as a parabola, up to the configured rate. Several processes at one limit converge to equal shares: the faster one
# is throttled more often and loses more, and all of them gain within the same time.

MIN_RATE = 0.1
"""Requests per second below which a 429 does not lower the rate, so that each request is sent in the end."""

DECREASE = 0.8
"""Factor of the rate at the first 429 of an episode."""

RECOVERY_TIME = 40.0
"""Seconds from the end of a pause until the rate is back at its ceiling. With more, several processes converge too slowly;
with less, there are more 429s."""

MIN_STEP = 0.05
"""Requests per second between the decreased rate and the ceiling at least, so that the rate rises again from `MIN_RATE`."""

FIRST_PAUSE = 1.0
"""Seconds of the first pause of an episode, without a longer `Retry-After`."""

MAX_PAUSE = 60.0
"""Seconds of the longest pause, without a longer `Retry-After`."""

GENTLE_RATE = 20.0
"""Requests per second at the end of a pause, when all waits are due; a lower rate is not affected."""

RAMP = 10.0
"""Seconds from `GENTLE_RATE` to the rate."""

MAX_CATCH_UP = 0.009
"""Seconds of a timer's delay that the next grant makes up for. An event loop's timers are 1 ms late, and more if it is
busy. In any second the rate is exceeded by 0.9 % at most."""

SHARED_FACTOR = 0.6
"""Part of the configured rate: a service that throttles below it probably has another client."""

SETTLED_FACTOR = 0.9
"""Part of the last ceiling: a rate that is throttled below it is still falling, and does not show the limit."""

SHARED_EPISODES = 3
"""Settled episodes in succession, below `SHARED_FACTOR`, after which the limiter logs a warning."""

log = logging.getLogger(__name__)


class AdaptiveRateLimiter:
    """
    Limiter that grants requests at an even rate, in a fair order, and adapts the rate to the service's responses.

    :param rate: requests per second at most.
    :param max_concurrency: requests in flight at a time.
    :param name: of the connection, for the log.
    """

    def __init__(self, rate: float, max_concurrency: int, *, name: str = "") -> None:
        self._max_rate = rate
        self.max_concurrency = max_concurrency
        self._name = name
        self._regular = Lane()
        self._final = Lane()
        self._queued = 0  # in both lanes
        self._last_was_final = False
        self._in_flight = 0
        self._granting = False
        self._next_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # Throttling
        self._throttled = False  # within an episode
        # Throttling began at `_throttled_at`, or the pause was lengthened then. The ramp begins when the pause ends.
        self._decreased_at = self._throttled_at = self._ramp_from = -math.inf
        self._pause = FIRST_PAUSE
        self._paused_until = 0.0
        self._resumes_at = 0.0  # end of the pause and of a hold
        self._recovers_from: float | None = None  # None: never throttled
        self._low = self._ceiling = rate
        self._shared_episodes = 0
        self._warned_slow = False
        # Suspicion of the credentials
        self._held = False
        self._probing = False
        # Metrics
        self._episodes = 0
        self._longest_queue_time = 0.0

    def configure(self, rate: float, max_concurrency: int) -> None:
        """
        Change the limits in place. The queue, a pause and the rate that was learnt are preserved.

        If the service has throttled before, a higher rate is approached as during a recovery.

        :param rate: requests per second at most.
        :param max_concurrency: requests in flight at a time.
        """
        if (rate, max_concurrency) == (self._max_rate, self.max_concurrency):
            return
        self.max_concurrency = max_concurrency
        self._change_rate(rate, asyncio.get_running_loop().time())
        self._grant_queued()

    def _change_rate(self, rate: float, now: float) -> None:
        present = self._rate_at(now)
        if rate < self._ceiling:
            self._ceiling = rate
            self._low = min(self._low, rate * DECREASE)
        elif self._recovers_from is not None and rate > present >= self._max_rate:
            # Nothing was learnt about rates above the former limit: continue as at the end of a recovery.
            self._ceiling = present
            self._low = present * DECREASE
            self._recovers_from = now - RECOVERY_TIME
        self._max_rate = rate
        self._next_at = min(self._next_at, now + 1 / self._rate_at(now))

    # --- queue and grants -----------------------------------------------------------------------------------

    def submit(self, task: Hashable, start: Callable[[], None], *, final: bool = False) -> Request:
        """
        Queue a request that is due now.

        :param task: the task instance that it belongs to.
        :param start: sends the request. It is called when the request is granted, possibly before this method
            returns, and must be followed by one call of :meth:`release`.
        :param final: whether it is a final poll.
        """
        request = Request(task, start, final)
        if not self._grant_immediately(final):
            request.queued_at = asyncio.get_running_loop().time()
            (self._final if final else self._regular).push(request)
            self._queued += 1
            self._grant_queued()
        else:
            start()
        return request

    def cancel(self, request: Request) -> None:
        """Remove a request from the queue. Has no effect once it was granted."""
        self._queued -= (self._final if request.final else self._regular).remove(request)

    async def acquire(self, task: Hashable, *, final: bool = False) -> None:
        """
        Wait until a request is granted. The parameters are those of :meth:`submit`.

        It must be followed by one call of :meth:`release`.
        """
        if self._grant_immediately(final):
            return
        granted = asyncio.get_running_loop().create_future()
        request = self.submit(task, lambda: self._wake(granted), final=final)
        try:
            await granted
        except asyncio.CancelledError:
            self.cancel(request)
            if not granted.cancelled():
                self.release()
            raise

    def _wake(self, granted: asyncio.Future[None]) -> None:
        if granted.done():  # cancelled, but its task has not run since
            self.release()
        else:
            granted.set_result(None)

    def release(self) -> None:
        """Take back the slot of a request that was granted."""
        self._in_flight -= 1
        if not self._in_flight:
            self._probing = False
        if self._queued:
            self._grant_queued()

    def _grant_immediately(self, final: bool) -> bool:
        """Grant a new request, if none is queued and none of the limits is reached."""
        if self._queued or self._in_flight >= self.max_concurrency or self._probing:
            return False
        now = asyncio.get_running_loop().time()
        if now < self._next_at or now < self._resumes_at:
            return False
        self._last_was_final = final
        self._count(now, now)
        return True

    def _grant_queued(self) -> None:
        """Grant the queued requests that the limits allow now, and set the timer for the next one."""
        if self._granting:
            return  # called by a request that is being started; the loop below takes its effect into account
        self._granting = True
        try:
            loop = asyncio.get_running_loop()
            while self._queued and self._in_flight < self.max_concurrency and not self._probing:
                now, ready_at = loop.time(), max(self._next_at, self._resumes_at)
                if now < ready_at:
                    self._set_timer(loop, ready_at)
                    return
                request = self._pop()
                self._count(now, max(ready_at, now - MAX_CATCH_UP))
                self._longest_queue_time = max(self._longest_queue_time, now - request.queued_at)
                request.start()
        finally:
            self._granting = False

    def _pop(self) -> Request:
        self._last_was_final = bool(self._final) and not (self._last_was_final and self._regular)
        self._queued -= 1
        return (self._final if self._last_was_final else self._regular).pop()

    def _count(self, now: float, due_at: float) -> None:
        self._in_flight += 1
        self._next_at = due_at + 1 / self._ramped_rate_at(now)
        self._probing = self._held

    def _set_timer(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when:
                return  # it is set again when it fires too early
            self._timer.cancel()
        self._timer = loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._grant_queued()

    # --- rate -----------------------------------------------------------------------------------------------

    @property
    def max_rate(self) -> float:
        """Requests per second at most."""
        return self._max_rate

    @property
    def rate(self) -> float:
        """Requests per second at present."""
        return self._rate_at(asyncio.get_running_loop().time())

    @property
    def resumes_at(self) -> float:
        """Loop time at which a pause of the service or of the credentials ends. It is in the past if there is none."""
        return self._resumes_at

    def estimated_wait(self) -> float:
        """Return the seconds that the queued requests take at the present rate, from the end of a pause if there is one."""
        return self._queued / self._rate_at(asyncio.get_running_loop().time())

    def warn_if_slow(self, interval: float) -> None:
        """
        Log once that the rate is too low for the waits of this process. The rest of a pause is no sign of that.

        :param interval: seconds between two polls of a wait.
        """
        if self._warned_slow or (wait := self.estimated_wait()) <= interval:
            return
        self._warned_slow = True
        # Without the context of the wait that noticed it: the message concerns the whole process.
        contextvars.Context().run(
            log.warning,
            "Connection %r: %.3g requests per second are too few for its waits. Each is polled about every %.0f s instead "
            "of every %.0f s. More triggerers, a longer poke_interval or a higher 'requests_per_second' help.",
            self._name,
            self.rate,
            wait + interval,
            interval,
        )

    def _rate_at(self, now: float) -> float:
        if self._recovers_from is None:
            return self._max_rate
        part = max(0.0, now - self._recovers_from) / RECOVERY_TIME
        growth = max(part, part * part)  # a line up to the ceiling, then a parabola
        return min(self._max_rate, self._low + (self._ceiling - self._low) * growth)

    def _ramped_rate_at(self, now: float) -> float:
        rate = self._rate_at(now)
        since_pause = now - self._ramp_from
        if since_pause >= RAMP or rate <= GENTLE_RATE:
            return rate
        return GENTLE_RATE + (rate - GENTLE_RATE) * since_pause / RAMP

    # --- responses ------------------------------------------------------------------------------------------

    def on_success(self, sent_at: float) -> None:
        """
        Record a response other than a 429. It ends the episode if its request was sent after the decrease.

        :param sent_at: loop time at which its request was sent.
        """
        if self._throttled and sent_at > self._decreased_at:
            self._throttled = False

    def on_throttled(self, sent_at: float, retry_after: float | None) -> None:
        """
        Record a 429: pause, and lower the rate at the first one of an episode.

        :param sent_at: loop time at which its request was sent.
        :param retry_after: seconds of the pause that the service demanded; at most 15 minutes of it count.
        """
        now = asyncio.get_running_loop().time()
        pause = bounded_pause(retry_after)
        if sent_at > self._throttled_at:
            if self._throttled:
                self._pause = min(MAX_PAUSE, self._pause * 2)
            else:
                self._pause, self._decreased_at = FIRST_PAUSE, now
                self._episodes += 1
                self._decrease(now)
            self._throttled, self._throttled_at = True, now
            pause = max(pause, self._pause)
        if now + pause <= max(now, self._paused_until):
            return
        self._paused_until = now + pause
        self._resumes_at = max(self._resumes_at, self._paused_until)
        self._ramp_from = self._recovers_from = self._paused_until

    def _decrease(self, now: float) -> None:
        rate = self._rate_at(now)
        self._warn_if_shared(rate)
        self._low = max(rate * DECREASE, min(MIN_RATE, self._max_rate))
        self._ceiling = min(self._max_rate, max(rate, self._low + MIN_STEP))

    def _warn_if_shared(self, rate: float) -> None:
        if rate > self._max_rate * SHARED_FACTOR:
            self._shared_episodes = 0
            return
        if rate < self._ceiling * SETTLED_FACTOR:
            return
        self._shared_episodes += 1
        if self._shared_episodes == SHARED_EPISODES:
            # Without the context of the wait that was throttled: the message concerns the whole process.
            contextvars.Context().run(
                log.warning,
                "Connection %r: the service throttles this process at about %.2g requests per second, far "
                "below the configured %.3g. Another process seems to share the limit. Set 'requests_per_second' to this process's "
                "share of it, or to the service's limit if that is lower.",
                self._name,
                rate,
                self._max_rate,
            )

    def take_figures(self) -> tuple[int, float]:
        """Return and reset the number of episodes, and the longest time of a request in the queue in seconds."""
        figures = self._episodes, self._longest_queue_time
        self._episodes, self._longest_queue_time = 0, 0.0
        return figures

    # --- credentials under suspicion ------------------------------------------------------------------------

    def hold(self, until: float) -> None:
        """
        Grant nothing before a time, and then one request, the probe.

        Call this method or :meth:`resume` with the probe's result. If it is released without a result, another
        probe is granted once no request is in flight.

        :param until: loop time of the probe.
        """
        self._held, self._probing = True, False
        self._resumes_at = max(self._paused_until, until)
        self._grant_queued()

    def resume(self) -> None:
        """End a hold."""
        if not self._held:
            return
        self._held = self._probing = False
        self._resumes_at = self._paused_until
        now = asyncio.get_running_loop().time()
        self._next_at = max(self._next_at, now)
        self._ramp_from = max(self._ramp_from, now)
        self._grant_queued()
