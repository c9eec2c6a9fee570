"""The drivers of the polling engine. They send the polls that are due and pass the outcomes back, and decide nothing."""

from __future__ import annotations

import asyncio
import contextvars
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._client.airflow_metrics import SentMetrics, worker_stats
from airflow_provider_manxue._client.wait_reporter import WaitReporter
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueInternalError,
    ManxueRateLimitError,
    ManxueRefusedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

    from airflow_provider_manxue._client.async_client import AsyncClient
    from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
    from airflow_provider_manxue._client.request_queue import Request
    from airflow_provider_manxue._core.poller import Outcome, Poller
    from airflow_provider_manxue._core.worker_pass import WorkerPass
    from airflow_provider_manxue.models import VideoTask

    Work = Callable[[], Coroutine[Any, Any, None]]

SUBMIT_CHUNK = 200
"""Polls of a batch that are queued before other work on the event loop runs."""


class BlockingDriver:
    """
    Driver that polls one video from a worker, through the hook.

    :param poller: the engine.
    :param get_video_task: sends one request.
    :param log: the log of the task.
    :param worker_pass: bounds of the pass; None to poll until the wait has ended.
    :param conn_id: id of the Airflow connection, for the metrics.
    :param metrics: counts the polls.
    """

    def __init__(
        self,
        poller: Poller,
        get_video_task: Callable[[str], VideoTask],
        log: Any,
        worker_pass: WorkerPass | None = None,
        *,
        conn_id: str = "",
        metrics: SentMetrics | None = None,
    ) -> None:
        self._poller = poller
        self._get_video_task = get_video_task
        self._reporter = WaitReporter(log)
        self._pass = worker_pass
        self._conn_id = conn_id
        self._metrics = metrics or SentMetrics(worker_stats)

    def run(self) -> None:
        """Poll until the wait has ended, or the pass is over."""
        poller = self._poller
        pass_ends_at = time.monotonic() + (float("inf") if self._pass is None else self._pass.longest)
        while not poller.done:
            for video_task_id, _ in poller.take_due(time.time()):
                self._poll(video_task_id)
                self._reporter.write_lines(poller, time.time())
            now, remaining = time.time(), pass_ends_at - time.monotonic()
            if poller.done or (
                self._pass is not None and (remaining <= 0 or self._pass.is_over(poller, now))
            ):
                return
            time.sleep(max(0.0, min((poller.next_due or now) - now, remaining)))

    def _poll(self, video_task_id: str) -> None:
        sent_at = time.time()
        outcome: Outcome
        try:
            outcome = self._get_video_task(video_task_id)
            if self._pass is not None:
                self._pass.note_response(time.time())
        except ManxueError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - a wait must survive the exceptions of a library
            outcome = self._reporter.unexpected(error)
        now = time.time()
        self._metrics.add_poll(self._conn_id, outcome, self._poller.unfinished_at(video_task_id), now)
        self._poller.handle(video_task_id, outcome, sent_at=sent_at, now=now)
        self._metrics.send_if_due()


class AsyncDriver:
    """
    Driver that polls one video or many on an event loop, through the shared client and the connection's rate limiter.

    It works with callbacks: one timer, and one task for each request in flight, however many videos there are.

    :param poller: the engine.
    :param client: sends the requests.
    :param conn_id: id of the Airflow connection.
    :param task: identifies the task instance, for the fairness of the rate limiter.
    :param log: the log of the task.
    :param give_up_at: time at which final polls are given up, in seconds since the epoch.
    :param worker_pass: bounds of the pass, on a worker; None to poll until each wait has ended.
    """

    def __init__(
        self,
        poller: Poller,
        client: AsyncClient,
        conn_id: str,
        *,
        task: Hashable,
        log: Any,
        give_up_at: float = float("inf"),
        worker_pass: WorkerPass | None = None,
    ) -> None:
        self._poller = poller
        self._client = client
        self._conn_id = conn_id
        self._task = task
        self._reporter = WaitReporter(log)
        self._give_up_at = give_up_at
        self._pass = worker_pass
        self._limiter: AdaptiveRateLimiter | None = None
        self._queued: dict[str, tuple[Request, bool]] = {}
        self._is_promoted = False
        self._in_flight: dict[asyncio.Task[None], AdaptiveRateLimiter | None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._give_up_timer: asyncio.TimerHandle | None = None
        self._pass_ends_at = float("inf")

    async def run(self) -> None:
        """Poll until each wait has ended, or the pass is over."""
        self._loop = asyncio.get_running_loop()
        if self._pass is not None:
            self._pass_ends_at = self._loop.time() + self._pass.longest
        # The rate limiter may start a request from a callback of another wait, which has another log context.
        self._context = contextvars.copy_context()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        try:
            self._client.metrics.begin_wait(self._conn_id, self._poller)
            self._await_give_up()
            await self._finished
        finally:
            try:
                await self._stop()
            finally:
                self._client.metrics.end_wait(self._poller)

    async def _stop(self) -> None:
        for timer in (self._timer, self._give_up_timer):
            if timer is not None:
                timer.cancel()
        for request, _ in self._queued.values():
            self._limiter.cancel(request)  # type: ignore[union-attr] # what is queued, is queued there
        self._queued.clear()  # so that a pending promotion submits nothing
        for task in self._in_flight:
            task.cancel()
        try:
            await asyncio.gather(*self._in_flight, return_exceptions=True)
        finally:
            # Not by the tasks, since a task that is cancelled before its first step runs no code.
            for limiter in filter(None, self._in_flight.values()):
                limiter.release()
            self._in_flight.clear()

    # --- what is due --------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Queue the polls that are due, and set the timer for the next one."""
        if self._finished.done():
            return
        try:
            self._step()
        except Exception as error:  # noqa: BLE001 - the wait ends with it, instead of never
            self._finished.set_exception(error)

    def _step(self) -> None:
        poller, now = self._poller, time.time()
        if now >= poller.deadline and not self._is_promoted:
            self._is_promoted = True
            self._promote()
        if now >= self._give_up_at:
            poller.give_up(now)
        self._reporter.write_lines(poller, now)
        if poller.done or self._is_pass_over(now):
            self._finished.set_result(None)
            return
        next_due = poller.next_due
        if next_due is not None and next_due <= now:
            if self._limiter is None:
                if not self._in_flight:
                    self._spawn(self._connect)
                next_due = None  # until the connection has been read
            else:
                for video_task_id, is_final in poller.take_due(now, SUBMIT_CHUNK):
                    self._submit(video_task_id, is_final=is_final)
                if self._queued:
                    self._limiter.warn_if_slow(poller.policy.interval)
                next_due = poller.next_due
        self._set_timer(now, next_due)

    def _is_pass_over(self, now: float) -> bool:
        if self._pass is None:
            return False
        next_grant_at = 0.0
        if self._limiter is not None:
            next_grant_at = now + self._limiter.resumes_at - self._loop.time()
        is_polling = bool(self._queued or self._in_flight)
        # The timer is set by the wall clock, which is less precise.
        is_late = self._loop.time() >= self._pass_ends_at - 0.001
        if not is_late and not self._pass.is_over(
            self._poller, now, is_polling=is_polling, next_grant_at=next_grant_at
        ):
            return False
        # Another process continues, and its rate limiter does not know of this pause.
        self._poller.hold_until(next_grant_at)
        return True

    def _set_timer(self, now: float, next_due: float | None) -> None:
        at = min(float("inf") if next_due is None else next_due, self._poller.next_line_at)
        if self._pass is not None:
            at = min(at, self._pass.ends_at, now + self._pass_ends_at - self._loop.time())
        if self._queued and now < self._poller.deadline:
            at = min(at, self._poller.deadline)
        if self._timer is not None:
            if at >= self._timer_at > now:
                return  # it fires early enough, and looks again then
            self._timer.cancel()
        self._timer_at = at
        self._timer = (
            None if at == float("inf") else self._loop.call_later(max(0.0, at - now), self._on_timer)
        )

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self._advance()

    def _await_give_up(self) -> None:
        """Advance now and at ``give_up_at``. Its timer is separate, since each poll sets the timer for the next poll again."""
        self._advance()
        remaining = self._give_up_at - time.time()
        if 0 < remaining < float("inf") and not self._finished.done():
            self._give_up_timer = self._loop.call_later(remaining, self._await_give_up)

    def _promote(self, videos: list[str] | None = None) -> None:
        """Requeue the regular polls that are still queued at the deadline as final polls, which have precedence."""
        if videos is None:
            videos = [video for video, (_, is_final) in self._queued.items() if not is_final]
        for video_task_id in videos[:SUBMIT_CHUNK]:
            if video_task_id in self._queued:  # it may have been granted meanwhile
                request, _ = self._queued.pop(video_task_id)
                self._limiter.cancel(request)  # type: ignore[union-attr] # what is queued, is queued there
                self._submit(video_task_id, is_final=True)
        if len(videos) > SUBMIT_CHUNK and not self._finished.done():
            self._loop.call_soon(self._promote, videos[SUBMIT_CHUNK:])

    # --- requests -----------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Load the connection, which has the limits."""
        try:
            self._limiter = await self._client.limiter(self._conn_id)
        except ManxueError as error:
            self._poller.connection_failed(error, time.time())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a library can raise anything
            self._poller.connection_failed(self._unexpected(error), time.time())

    def _submit(self, video_task_id: str, *, is_final: bool) -> None:
        is_started = False
        limiter: AdaptiveRateLimiter = self._limiter  # type: ignore[assignment] # the connection has been read

        def start() -> None:
            nonlocal is_started
            is_started = True
            self._queued.pop(video_task_id, None)
            self._spawn(partial(self._poll, limiter, video_task_id), limiter)

        request = limiter.submit(self._task, start, final=is_final)
        if not is_started:
            self._queued[video_task_id] = request, is_final

    def _spawn(self, work: Work, granted_by: AdaptiveRateLimiter | None = None) -> None:
        task = self._loop.create_task(self._run_and_advance(work), context=self._context)
        self._in_flight[task] = granted_by

    async def _run_and_advance(self, work: Work) -> None:
        """Run a step of a poll and advance. A callback of the task would take another iteration of the event loop."""
        try:
            await work()
        except BaseException as error:
            if self._finished.done():
                raise
            self._finished.set_exception(error)
        granted_by = self._in_flight.pop(asyncio.current_task(), None)  # type: ignore[arg-type] # this is a task
        if granted_by is not None:
            granted_by.release()
        self._advance()

    async def _poll(self, limiter: AdaptiveRateLimiter, video_task_id: str) -> None:
        sent_at, sent_at_loop = time.time(), self._loop.time()
        outcome: Outcome
        try:
            outcome = await self._client.query(self._conn_id, video_task_id, self._poller.subject)
            limiter.on_success(sent_at_loop)
            if self._pass is not None:
                self._pass.note_response(time.time())
        except ManxueRateLimitError as error:
            limiter.on_throttled(sent_at_loop, error.retry_after)
            outcome = error
        except ManxueRefusedError as error:
            limiter.on_success(sent_at_loop)
            outcome = error
        except ManxueError as error:
            outcome = error
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a library can raise anything
            outcome = self._unexpected(error)
        self._handle(limiter, video_task_id, outcome, sent_at)

    def _unexpected(self, error: BaseException) -> ManxueInternalError:
        """
        Return the error for an unexpected exception: a wait must survive the exceptions of a library.

        The exception may be a cancellation, if requests share a future, such as a look-up of an address. A cancellation of
        the wait itself is raised again.
        """
        if isinstance(error, asyncio.CancelledError) and self._finished.done():
            raise error
        return self._reporter.unexpected(error)

    def _handle(
        self, limiter: AdaptiveRateLimiter, video_task_id: str, outcome: Outcome, sent_at: float
    ) -> None:
        poller, now = self._poller, time.time()
        if isinstance(outcome, ManxueError):
            poller.has_worked = poller.has_worked or self._client.has_worked(self._conn_id)
        self._client.metrics.add_poll(self._conn_id, outcome, poller.unfinished_at(video_task_id), now)
        poller.handle(video_task_id, outcome, sent_at=sent_at, now=now)
        if isinstance(outcome, ManxueAuthenticationError) and limiter.resumes_at > self._loop.time():
            # The rate limiter holds all requests of the connection until its credentials are tried again.
            poller.lift_pause()
