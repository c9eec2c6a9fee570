"""The triggers: waits in the triggerer, which hold no worker slot."""

from __future__ import annotations

import abc
import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_manxue._airflow.task_trigger import CannotStartInTriggererError, StartFromTrigger
from airflow_provider_manxue._airflow.xcoms import RETURN_KEY
from airflow_provider_manxue._client.async_client import Transport, shared_transport
from airflow_provider_manxue._core.batch import (
    Outcome,
    Progress,
    affects_all_videos,
    parse_video_task_ids,
    to_tasks,
    to_xcoms,
)
from airflow_provider_manxue._core.events import batch_event, begin_event, completed_event, error_event
from airflow_provider_manxue._core.polling import (
    AskAgain,
    Completed,
    Ended,
    PollPolicy,
    PollTimes,
    Wait,
    spread_first_poll,
)
from airflow_provider_manxue._core.responses import parse_video_task_id
from airflow_provider_manxue.exceptions import ManxueError, ManxueTransientError
from airflow_provider_manxue.links.manxue import video_link_xcom

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from airflow_provider_manxue.models import VideoTask


LAST_LOOK = 1.0
"""Seconds that an answer may come after the deadline."""

LATE_LOOK = 10.0
"""Seconds for an answer where the deadline had passed before the trigger started, as after a long downtime."""

SPACING = 0.001
"""Seconds between the first polls of a batch, so that ten thousand timers do not go off in one moment."""

AT_ONCE = 100
"""Waits of a batch that begin without a pause for the others on the loop."""

FRESH = 300.0
"""Seconds for which a video's URL is handed on as it came; an older one is asked for again, so that it lasts."""


class _WaitingTrigger(StartFromTrigger):
    """What both triggers know, and how each of their waits goes on to its end."""

    def __init__(
        self, *, exponential_backoff: bool = False, max_wait: float | None = None, **task: Any
    ) -> None:
        super().__init__(**task)
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait

    def _common_arguments(self) -> dict[str, Any]:
        return {
            **self._task_arguments(),
            "exponential_backoff": self.exponential_backoff,
            "max_wait": self.max_wait,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event that says how it ended."""
        async with shared_transport() as transport:
            if isinstance(self.manxue_conn_id, str) and self._template_error is None:
                transport.prepare(self.manxue_conn_id)
            event = await self._event(transport)
        yield event

    @abc.abstractmethod
    async def _event(self, transport: Transport) -> TriggerEvent:
        """Wait, and return the event that says how it has ended."""

    def _wait_for(self, video_task_id: str, span: PollTimes, **state: Any) -> Wait:
        return Wait(
            video_task_id=video_task_id,
            policy=PollPolicy(self.poke_interval, self.exponential_backoff, self.max_wait),
            started_at=span.started_at,
            deadline=span.deadline,
            **state,
        )

    async def _watch(
        self,
        wait: Wait,
        span: PollTimes,
        transport: Transport,
        tell: Callable[[AskAgain | Completed | Ended], None],
        turn: float = 0.0,
    ) -> Completed | Ended:
        """Ask about one video until its wait is over; ``turn`` is how many seconds after others it begins."""
        first_poll_at = min(span.first_poll_at + turn, max(span.first_poll_at, wait.deadline))
        at = spread_first_poll(
            first_poll_at,
            span.resumed_at,
            wait.policy.interval,
            wait.deadline,
            random.random(),  # noqa: S311
        )
        may_ask = span.first_poll_at <= wait.deadline
        while may_ask:
            await _sleep_until(at)
            decision = wait.after(await self._ask(wait, transport), time.time())
            tell(decision)
            if not isinstance(decision, AskAgain):
                return decision
            at, may_ask = decision.at, decision.at <= wait.deadline
        # The service does not want to be asked before the deadline.
        while time.time() < wait.deadline:  # once, unless the clock is set back meanwhile
            await _sleep_until(wait.deadline)
        return Ended(wait.timed_out())

    async def _ask(self, wait: Wait, transport: Transport) -> VideoTask | ManxueError:
        """Ask once; neither a slow answer nor a long queue may move the deadline."""
        left = wait.deadline + LAST_LOOK - time.time()
        try:
            async with asyncio.timeout(left if left > 0 else LATE_LOOK):
                return await transport.get_video_task(
                    self.manxue_conn_id, wait.video_task_id, self.poke_interval
                )
        except ManxueError as error:
            return error
        except TimeoutError:
            return ManxueTransientError("no answer before the deadline")


class ManxueVideoTrigger(_WaitingTrigger):
    """
    Waits until a video is ready or has failed, or a deadline has passed.

    Times are absolute, in seconds since the epoch, and not of a monotonic clock: Airflow starts a trigger anew,
    with the same arguments, whenever the triggerer is restarted, and the wait goes on as if nothing had been.
    The arguments are stored in the metadata database; neither the key nor a URL is among them.

    :param video_task_id: id of the task. In a wait that begins here also a template, or a reference to an XCom.
    :param grace_since: since when the service refuses the id or leaves out the URL, or None.
    :param last_answer: what the service said last to the worker.
    :param manxue_conn_id: id of the Airflow connection.
    :param poke_interval: seconds between two polls.
    :param started_at: when the wait began; None if it begins here.
    :param deadline: when the wait ends at the latest.
    :param first_poll_at: when to ask first; a trigger that starts later spreads its first poll over an interval.
    :param exponential_backoff: let the interval grow with the time waited.
    :param max_wait: longest interval in seconds, or None.
    :param timeout: seconds that a wait that begins here may take.
    :param execution_timeout: seconds that a task that begins here may take, or None.
    :param end_from_trigger: end the task here when the video is there.
    :param do_xcom_push: hand over the result when the task ends here.
    """

    def __init__(
        self, *, video_task_id: Any, grace_since: float | None = None, last_answer: str = "", **common: Any
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

    async def _event(self, transport: Transport) -> TriggerEvent:
        try:
            value, span = await self._begin(self.video_task_id)
            video_task_id = parse_video_task_id(value)
        except (CannotStartInTriggererError, ManxueError) as reason:
            return TriggerEvent(begin_event(str(reason)))
        self._announce(f"the video {video_task_id}", span)
        wait = self._wait_for(video_task_id, span, grace_since=self.grace_since, last_answer=self.last_answer)
        end = await self._watch(wait, span, transport, self._tell)
        if isinstance(end, Ended):
            return TriggerEvent(error_event(video_task_id, end.error))
        if self.end_from_trigger and await self._ended_here(
            {**end.task.to_xcoms(), RETURN_KEY: end.task.to_dict()}, video_link_xcom(end.task.video_url)
        ):
            return self._success()
        started_at = None if self._given_span else span.started_at
        return TriggerEvent(completed_event(video_task_id, wait.last_answer, started_at=started_at))

    def _tell(self, decision: AskAgain | Completed | Ended) -> None:
        for news in decision.news:
            self.log.log(news.level, news.text)


class ManxueVideoBatchTrigger(_WaitingTrigger):
    """
    Waits until each of many videos is ready or has failed, or a deadline has passed.

    An error that concerns the connection and not a single video ends the wait for all at once.

    :param video_task_ids: ids of the tasks. One that stands there more than once is polled once. In a wait that
        begins here also templates, or references to XComs.
    :param manxue_conn_id: id of the Airflow connection.
    :param poke_interval: seconds between two polls of a video.
    :param started_at: when the wait began; None if it begins here.
    :param deadline: when the wait ends at the latest.
    :param first_poll_at: when to ask first; the limits of the connection spread the polls from then on.
    :param exponential_backoff: let the interval grow with the time waited.
    :param max_wait: longest interval in seconds, or None.
    :param timeout: seconds that a wait that begins here may take.
    :param execution_timeout: seconds that a task that begins here may take, or None.
    :param end_from_trigger: end the task here when all videos are there.
    :param do_xcom_push: hand over the result when the task ends here.
    """

    def __init__(self, *, video_task_ids: Any, **common: Any) -> None:
        super().__init__(**common)
        self.video_task_ids = video_task_ids

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments; waits in flight outlive upgrades, so both are promises."""
        return "airflow_provider_manxue.triggers.manxue.ManxueVideoBatchTrigger", {
            "video_task_ids": self.video_task_ids,
            **self._common_arguments(),
        }

    async def _event(self, transport: Transport) -> TriggerEvent:
        try:
            value, span = await self._begin(self.video_task_ids)
            ids = parse_video_task_ids(value)
        except (CannotStartInTriggererError, ManxueError) as reason:
            return TriggerEvent(begin_event(str(reason)))
        videos = list(dict.fromkeys(ids))
        self._announce(f"{len(videos)} videos", span)
        batch = _Batch(span, Progress(len(videos)))
        try:
            async with asyncio.TaskGroup() as group:
                for number, video_task_id in enumerate(videos):
                    group.create_task(self._watch_one(video_task_id, transport, batch, number * SPACING))
                    if number % AT_ONCE == AT_ONCE - 1:
                        await asyncio.sleep(0)  # other triggers of this loop have their turn
        except* _WholeBatchError as errors:
            # The first one tells it all: it is the connection that is wrong.
            event = TriggerEvent(error_event("", errors.exceptions[0].args[0]))
        else:
            event = await self._event_of_all(ids, batch, transport)
        return event

    async def _watch_one(self, video_task_id: str, transport: Transport, batch: _Batch, turn: float) -> None:
        wait = self._wait_for(video_task_id, batch.span)
        end = await self._watch(wait, batch.span, transport, lambda decision: None, turn)
        if isinstance(end, Ended) and affects_all_videos(end.error):
            raise _WholeBatchError(end.error)
        if isinstance(end, Completed) and self.end_from_trigger:
            batch.tasks[video_task_id] = (end.task, time.time())
        for news in batch.progress.after(video_task_id, end, time.time() - batch.span.started_at):
            self.log.log(news.level, news.text)

    async def _event_of_all(self, ids: list[str], batch: _Batch, transport: Transport) -> TriggerEvent:
        errors = batch.progress.errors
        if not errors and self.end_from_trigger:
            tasks = to_tasks(ids, await self._fresh(batch, transport))
            if await self._ended_here({**to_xcoms(tasks), RETURN_KEY: tasks}):
                return self._success()
        started_at = None if self._given_span else batch.span.started_at
        return TriggerEvent(batch_event(errors, started_at=started_at))

    async def _fresh(self, batch: _Batch, transport: Transport) -> dict[str, Outcome]:
        """Return the tasks, those asked again whose URL has aged while the others were awaited."""

        async def freshened(video_task_id: str) -> None:
            wait = self._wait_for(video_task_id, batch.span)
            decision = wait.after(await self._ask(wait, transport), time.time())
            if isinstance(decision, Completed):  # otherwise the known one is the best there is
                tasks[video_task_id] = decision.task

        tasks: dict[str, Outcome] = {video: task for video, (task, _) in batch.tasks.items()}
        now = time.time()
        async with asyncio.TaskGroup() as group:
            for video_task_id, (_, seen_at) in batch.tasks.items():
                if now - seen_at > FRESH:
                    group.create_task(freshened(video_task_id))
        return tasks


class _Batch:
    """The state of a wait for many videos."""

    def __init__(self, span: PollTimes, progress: Progress) -> None:
        self.span = span
        self.progress = progress
        self.tasks: dict[str, tuple[VideoTask, float]] = {}


class _WholeBatchError(Exception):
    """Carries an error that ends the waits for all videos of a batch."""


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.time()))
