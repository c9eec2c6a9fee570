"""The triggers: waits in the triggerer, which hold no worker slot."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_manxue.batch import Progress, concerns_connection
from airflow_provider_manxue.events import batch_event, completed_event, error_event
from airflow_provider_manxue.exceptions import ManxueError, ManxueTransientError
from airflow_provider_manxue.polling import AskAgain, Completed, Ended, PollPolicy, Wait, spread_first_poll
from airflow_provider_manxue.transport import Transport, shared_transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from airflow_provider_manxue.protocol import VideoTask


LAST_LOOK = 1.0
"""Seconds that an answer may come after the deadline."""

LATE_LOOK = 10.0
"""Seconds for an answer where the deadline had passed before the trigger started, as after a long downtime."""


class _WaitingTrigger(BaseTrigger):
    """What both triggers know, and how each of their waits goes on to its end."""

    def __init__(
        self,
        *,
        manxue_conn_id: str,
        poke_interval: float,
        started_at: float,
        deadline: float,
        first_poll_at: float,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.manxue_conn_id = manxue_conn_id
        self.poke_interval = poke_interval
        self.started_at = started_at
        self.deadline = deadline
        self.first_poll_at = first_poll_at
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait

    def _common_arguments(self) -> dict[str, Any]:
        return {
            "manxue_conn_id": self.manxue_conn_id,
            "poke_interval": self.poke_interval,
            "started_at": self.started_at,
            "deadline": self.deadline,
            "first_poll_at": self.first_poll_at,
            "exponential_backoff": self.exponential_backoff,
            "max_wait": self.max_wait,
        }

    def _wait_for(self, video_task_id: str, **state: Any) -> Wait:
        return Wait(
            video_task_id=video_task_id,
            policy=PollPolicy(self.poke_interval, self.exponential_backoff, self.max_wait),
            started_at=self.started_at,
            deadline=self.deadline,
            **state,
        )

    async def _watch(
        self, wait: Wait, transport: Transport, tell: Callable[[AskAgain | Completed | Ended], None]
    ) -> Completed | Ended:
        """Ask about one video until its wait is over."""
        at = spread_first_poll(
            self.first_poll_at,
            time.time(),
            wait.policy.interval,
            self.deadline,
            random.random(),  # noqa: S311
        )
        may_ask = self.first_poll_at <= self.deadline
        while may_ask:
            await _sleep_until(at)
            decision = wait.after(await self._ask(wait.video_task_id, transport), time.time())
            tell(decision)
            if not isinstance(decision, AskAgain):
                return decision
            at, may_ask = decision.at, decision.at <= self.deadline
        # The service does not want to be asked before the deadline.
        await _sleep_until(self.deadline)
        return Ended(wait.timed_out())

    async def _ask(self, video_task_id: str, transport: Transport) -> VideoTask | ManxueError:
        """Ask once; neither a slow answer nor a long queue may move the deadline."""
        left = self.deadline + LAST_LOOK - time.time()
        try:
            async with asyncio.timeout(left if left > 0 else LATE_LOOK):
                return await transport.get_video_task(self.manxue_conn_id, video_task_id, self.poke_interval)
        except ManxueError as error:
            return error
        except TimeoutError:
            return ManxueTransientError("no answer before the deadline")


class ManxueVideoTrigger(_WaitingTrigger):
    """
    Waits until a video is ready, has failed, or a deadline has passed.

    Times are absolute, in seconds since the epoch, and not of a monotonic clock: Airflow starts a trigger anew,
    with the same arguments, whenever the triggerer is restarted, and the wait goes on as if nothing had been.
    The arguments are stored in the metadata database; neither the key nor a URL is among them.

    :param video_task_id: id of the task.
    :param grace_since: since when the service refuses the id or leaves out the URL, or None.
    :param last_answer: what the service said last to the worker.
    :param manxue_conn_id: id of the Airflow connection.
    :param poke_interval: seconds between two polls.
    :param started_at: when the wait began.
    :param deadline: when the wait ends at the latest.
    :param first_poll_at: when to ask first; a trigger that starts later spreads its first poll over an interval.
    :param exponential_backoff: let the interval grow with the time waited.
    :param max_wait: longest interval in seconds, or None.
    """

    def __init__(
        self, *, video_task_id: str, grace_since: float | None = None, last_answer: str = "", **common: Any
    ) -> None:
        super().__init__(**common)
        self.video_task_id = video_task_id
        self.grace_since = grace_since
        self.last_answer = last_answer

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments; waits in flight outlive upgrades, so both are promises."""
        return "airflow_provider_manxue.triggers.manxue.ManxueVideoTrigger", {
            "video_task_id": self.video_task_id,
            "grace_since": self.grace_since,
            "last_answer": self.last_answer,
            **self._common_arguments(),
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event that says how it ended."""
        wait = self._wait_for(self.video_task_id, grace_since=self.grace_since, last_answer=self.last_answer)
        async with shared_transport() as transport:
            end = await self._watch(wait, transport, self._tell)
        if isinstance(end, Completed):
            yield TriggerEvent(completed_event(self.video_task_id, wait.last_answer))
        else:
            yield TriggerEvent(error_event(self.video_task_id, end.error))

    def _tell(self, decision: AskAgain | Completed | Ended) -> None:
        for news in decision.news:
            self.log.log(news.level, news.text)


class ManxueVideoBatchTrigger(_WaitingTrigger):
    """
    Waits until each of many videos is ready or has failed, or a deadline has passed.

    An error that concerns the connection and not a single video ends the wait for all at once.

    :param video_task_ids: ids of the tasks, each once.
    :param manxue_conn_id: id of the Airflow connection.
    :param poke_interval: seconds between two polls of a video.
    :param started_at: when the wait began.
    :param deadline: when the wait ends at the latest.
    :param first_poll_at: when to ask first; the limits of the connection spread the polls from then on.
    :param exponential_backoff: let the interval grow with the time waited.
    :param max_wait: longest interval in seconds, or None.
    """

    def __init__(self, *, video_task_ids: list[str], **common: Any) -> None:
        super().__init__(**common)
        self.video_task_ids = video_task_ids

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments; waits in flight outlive upgrades, so both are promises."""
        return "airflow_provider_manxue.triggers.manxue.ManxueVideoBatchTrigger", {
            "video_task_ids": self.video_task_ids,
            **self._common_arguments(),
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for all, and yield the one event that says which of them ended with an error."""
        progress = Progress(len(self.video_task_ids))
        async with shared_transport() as transport:
            try:
                async with asyncio.TaskGroup() as group:
                    for video_task_id in self.video_task_ids:
                        group.create_task(self._watch_one(video_task_id, transport, progress))
            except* _WholeBatchError as errors:
                # The first one tells it all: it is the connection that is wrong.
                event = error_event("", errors.exceptions[0].args[0])
            else:
                event = batch_event(progress.errors)
        yield TriggerEvent(event)

    async def _watch_one(self, video_task_id: str, transport: Transport, progress: Progress) -> None:
        wait = self._wait_for(video_task_id)
        end = await self._watch(wait, transport, lambda decision: None)
        if isinstance(end, Ended) and concerns_connection(end.error):
            raise _WholeBatchError(end.error)
        for news in progress.after(video_task_id, end, time.time() - self.started_at):
            self.log.log(news.level, news.text)


class _WholeBatchError(Exception):
    """Carries an error that ends the waits for all videos of a batch."""


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.time()))
