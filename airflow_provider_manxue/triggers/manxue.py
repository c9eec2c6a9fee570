"""The trigger: a wait in the triggerer, which holds no worker slot."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_manxue.events import completed_event, error_event
from airflow_provider_manxue.exceptions import ManxueError, ManxueTransientError
from airflow_provider_manxue.polling import AskAgain, Completed, PollPolicy, Wait, spread_first_poll
from airflow_provider_manxue.transport import Transport, shared_transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_manxue.protocol import VideoTask


LAST_LOOK = 1.0
"""Seconds that an answer may come after the deadline."""

LATE_LOOK = 10.0
"""Seconds for an answer where the deadline had passed before the trigger started, as after a long downtime."""


class ManxueVideoTrigger(BaseTrigger):
    """
    Waits until a video is ready, has failed, or a deadline has passed.

    Times are absolute, in seconds since the epoch, and not of a monotonic clock: Airflow starts a trigger anew,
    with the same arguments, whenever the triggerer is restarted, and the wait goes on as if nothing had been.
    The arguments are stored in the metadata database; neither the key nor a URL is among them.

    :param video_task_id: id of the task.
    :param manxue_conn_id: id of the Airflow connection.
    :param poke_interval: seconds between two polls.
    :param started_at: when the wait began.
    :param deadline: when the wait ends at the latest.
    :param first_poll_at: when to ask first; a trigger that starts later spreads its first poll over an interval.
    :param exponential_backoff: let the interval grow with the time waited.
    :param max_wait: longest interval in seconds, or None.
    :param grace_since: since when the service refuses the id or leaves out the URL, or None.
    :param last_answer: what the service said last to the worker.
    """

    def __init__(
        self,
        *,
        video_task_id: str,
        manxue_conn_id: str,
        poke_interval: float,
        started_at: float,
        deadline: float,
        first_poll_at: float,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        grace_since: float | None = None,
        last_answer: str = "",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.video_task_id = video_task_id
        self.manxue_conn_id = manxue_conn_id
        self.poke_interval = poke_interval
        self.started_at = started_at
        self.deadline = deadline
        self.first_poll_at = first_poll_at
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self.grace_since = grace_since
        self.last_answer = last_answer

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments; waits in flight outlive upgrades, so both are promises."""
        return "airflow_provider_manxue.triggers.manxue.ManxueVideoTrigger", {
            "video_task_id": self.video_task_id,
            "manxue_conn_id": self.manxue_conn_id,
            "poke_interval": self.poke_interval,
            "started_at": self.started_at,
            "deadline": self.deadline,
            "first_poll_at": self.first_poll_at,
            "exponential_backoff": self.exponential_backoff,
            "max_wait": self.max_wait,
            "grace_since": self.grace_since,
            "last_answer": self.last_answer,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event that says how it ended."""
        async with shared_transport() as transport:
            event = await self._wait(transport)
        yield TriggerEvent(event)

    async def _wait(self, transport: Transport) -> dict[str, Any]:
        wait = Wait(
            video_task_id=self.video_task_id,
            policy=PollPolicy(self.poke_interval, self.exponential_backoff, self.max_wait),
            started_at=self.started_at,
            deadline=self.deadline,
            grace_since=self.grace_since,
            last_answer=self.last_answer,
        )
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
            decision = wait.after(await self._ask(transport), time.time())
            for news in decision.news:
                self.log.log(news.level, news.text)
            match decision:
                case AskAgain():
                    at, may_ask = decision.at, decision.at <= self.deadline
                case Completed():
                    return completed_event(self.video_task_id, wait.last_answer)
                case _:
                    return error_event(self.video_task_id, decision.error)
        # The service does not want to be asked before the deadline.
        await _sleep_until(self.deadline)
        return error_event(self.video_task_id, wait.timed_out())

    async def _ask(self, transport: Transport) -> VideoTask | ManxueError:
        """Ask once; neither a slow answer nor a long queue may move the deadline."""
        left = self.deadline + LAST_LOOK - time.time()
        try:
            async with asyncio.timeout(left if left > 0 else LATE_LOOK):
                return await transport.get_video_task(
                    self.manxue_conn_id, self.video_task_id, self.poke_interval
                )
        except ManxueError as error:
            return error
        except TimeoutError:
            return ManxueTransientError("no answer before the deadline")


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.time()))
