"""The triggers, which hold no worker slot. Their common stored arguments are in ``_core/wait_arguments.py``."""

from __future__ import annotations

import abc
import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_manxue._airflow.task_trigger import CannotStartInTriggererError, StartFromTrigger
from airflow_provider_manxue._airflow.xcoms import RETURN_KEY
from airflow_provider_manxue._client.async_client import AsyncClient, shared_client
from airflow_provider_manxue._client.drivers import AsyncDriver
from airflow_provider_manxue._client.wait_reporter import frames_of
from airflow_provider_manxue._core.assets import ASSET
from airflow_provider_manxue._core.batch import load_statuses, to_tasks, to_xcoms
from airflow_provider_manxue._core.deadline import (
    LEGACY_DEFER_TIMEOUT_MARGIN,
    PollTimes,
    first_polls,
)
from airflow_provider_manxue._core.events import batch_event, begin_event, completed_event, error_event
from airflow_provider_manxue._core.ids import parse_video_task_id, parse_video_task_ids
from airflow_provider_manxue._core.poller import Poller, grace_of
from airflow_provider_manxue._core.polling import GRACE_TIME, MAX_URL_AGE
from airflow_provider_manxue._core.status_log import BatchLog
from airflow_provider_manxue._core.wait_arguments import WaitArguments
from airflow_provider_manxue._core.wait_errors import BLOCKED, affects_all_videos
from airflow_provider_manxue.exceptions import ManxueError, ManxueInternalError
from airflow_provider_manxue.links.manxue import video_link_xcom
from airflow_provider_manxue.models import VideoTask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from airflow_provider_manxue._core.poller import Outcome


_MAX_SLEEP = 60.0
"""Seconds; the longest sleep of a trigger that sends nothing."""


class _WaitTrigger(StartFromTrigger):
    """Base of the triggers that poll. Runs the polling engine with the client that all waits of an event loop share."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event with the result of the wait."""
        async with shared_client() as client:
            if isinstance(self.manxue_conn_id, str) and self._template_error is None:
                client.prepare(self.manxue_conn_id)
            try:
                event = await self._event(client)
            except Exception as error:  # noqa: BLE001 - Airflow would log its text, which may contain a key or a URL
                event = self._unexpected_event(error)
        # An event that ends the task contains no XComs, since Airflow would encode them twice.
        yield TaskSuccessEvent() if event is None else TriggerEvent(event)

    @abc.abstractmethod
    async def _event(self, client: AsyncClient) -> dict[str, Any] | None:
        """Wait, and return the event for a worker; None if the results are pushed and the task can end here."""

    def _unexpected_event(self, error: Exception) -> dict[str, Any]:
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        self.log.error("Unexpected %s in the trigger, at: %s", kind, frames_of(error))
        text = f"unexpected {kind} in the trigger; report its frames in the task log"
        return error_event("", ManxueInternalError(text), has_worked=self.arguments.has_worked)

    def _poller(self, ids: Iterable[str], times: PollTimes, **state: Any) -> Poller:
        first, last = first_polls(
            times.first_poll_at, times.resumed_at, self.arguments.poke_interval, times.deadline
        )
        return Poller(
            ids,
            self.arguments.policy,
            started_at=times.started_at,
            deadline=times.deadline,
            first_poll_at=first,
            first_polls_until=last,
            # A trigger that the triggerer has started again does not know its earlier responses. It counts as having worked.
            has_worked=self.arguments.has_worked or times.resumed_at > times.first_poll_at,
            subject=self.subject,
            **state,
        )

    async def _drive(self, poller: Poller, client: AsyncClient, give_up_at: float) -> None:
        await AsyncDriver(
            poller, client, self.manxue_conn_id, task=id(self), log=self.log, give_up_at=give_up_at
        ).run()

    def _must_start_on_worker(self, error: ManxueError, poller: Poller) -> bool:
        """Return whether a worker must start the task: the triggerer started it, and its connection has not worked."""
        concerns_connection = affects_all_videos(error) or isinstance(error, BLOCKED)
        return not self._given_times and not poller.has_worked and concerns_connection


class ManxueVideoTrigger(_WaitTrigger):
    """
    Trigger that fires when a video has ended, or the deadline has passed.

    Airflow stores the arguments in the metadata database. They contain neither a key nor a URL. After a restart of the
    triggerer, Airflow starts the trigger again with the same arguments, and the wait continues. So all times are absolute,
    in seconds since the epoch.

    :param video_task_id: (templated) id of the video task. If the task starts in the triggerer, also a reference to an XCom.
    :param grace_since: start of the grace period in which the service refuses the id or omits the URL; None if there is none.
    :param last_answer: the last status that the worker has logged.
    :param manxue_conn_id: (templated) id of the Airflow connection.
    :param poke_interval: seconds between two polls.
    :param started_at: when the wait began. ``started_at``, ``deadline`` and ``first_poll_at`` are None if the task starts in
        the triggerer.
    :param deadline: the moment after which no regular poll begins. A final poll follows it.
    :param first_poll_at: time of the first poll. A trigger that starts later spreads its first polls over one interval.
    :param exponential_backoff: double the interval from poll to poll.
    :param max_wait: longest interval in seconds; None for no limit.
    :param has_worked: whether a response was parsed as a task before. Then an error of the connection ends the wait only
        after a grace period.
    :param defer_timeout_margin: seconds from the deadline to the time at which Airflow ends the deferral.
    :param timeout: longest wait in seconds, if the task starts in the triggerer.
    :param execution_timeout: longest time in seconds from start to end, if the task starts in the triggerer; None for no limit.
    :param end_from_trigger: end the task in the triggerer when the video is completed.
    :param do_xcom_push: push the results, if the task ends in the triggerer.
    """

    def __init__(
        self,
        *,
        video_task_id: Any,
        manxue_conn_id: Any,
        poke_interval: float,
        grace_since: float | None = None,
        last_answer: str = "",
        started_at: float | None = None,
        deadline: float | None = None,
        first_poll_at: float | None = None,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        has_worked: bool = False,
        defer_timeout_margin: float = LEGACY_DEFER_TIMEOUT_MARGIN,
        timeout: float | None = None,
        execution_timeout: float | None = None,
        end_from_trigger: bool = False,
        do_xcom_push: bool = True,
    ) -> None:
        super().__init__(
            manxue_conn_id,
            WaitArguments(
                poke_interval=poke_interval,
                started_at=started_at,
                deadline=deadline,
                first_poll_at=first_poll_at,
                exponential_backoff=exponential_backoff,
                max_wait=max_wait,
                has_worked=has_worked,
                defer_timeout_margin=defer_timeout_margin,
                timeout=timeout,
                execution_timeout=execution_timeout,
                end_from_trigger=end_from_trigger,
                do_xcom_push=do_xcom_push,
            ),
        )
        self.video_task_id = video_task_id
        self.grace_since = grace_since
        self.last_answer = last_answer

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments. Neither may change, since deferrals in flight outlive upgrades."""
        return "airflow_provider_manxue.triggers.manxue.ManxueVideoTrigger", {
            "video_task_id": self.video_task_id,
            "grace_since": self.grace_since,
            "last_answer": self.last_answer,
            "manxue_conn_id": self.manxue_conn_id,
            **self.arguments.to_kwargs(),
        }

    async def _event(self, client: AsyncClient) -> dict[str, Any] | None:
        try:
            value, times = await self._begin(self.video_task_id)
            video_task_id = parse_video_task_id(value)
        except (CannotStartInTriggererError, ManxueError) as reason:
            return begin_event(str(reason))
        self._log_start(f"the video {video_task_id}", times)
        grace = grace_of(video_task_id, self.grace_since, self.last_answer)
        poller = self._poller(
            [video_task_id], times, grace=grace, last_statuses={video_task_id: self.last_answer}
        )
        async with self._recorded([video_task_id], times, None):
            await self._drive(poller, client, self.arguments.gives_up_at(times, self._ends_at))
        outcome = poller.outcomes[video_task_id]
        started_at = None if self._given_times else times.started_at
        if isinstance(outcome, ManxueError):
            if self._must_start_on_worker(outcome, poller):
                return begin_event(str(outcome))
            return error_event(
                video_task_id,
                outcome,
                final_poll=video_task_id not in poller.not_polled,
                has_worked=poller.has_worked,
                started_at=started_at,
            )
        task = cast("VideoTask", outcome)
        xcoms = {**task.to_xcoms(), RETURN_KEY: task.to_dict()}
        if self.arguments.end_from_trigger and await self._push_final_results(
            xcoms, video_link_xcom(task.video_url)
        ):
            return None
        return completed_event(video_task_id, poller.final_status, started_at=started_at)


class _BatchTrigger(_WaitTrigger):
    """Base of the triggers that wait for many videos, or for the assets of an upload."""

    ended_before: dict[str, int] | None
    last_statuses: str

    @property
    def _progress(self) -> dict[str, Any]:
        """The arguments with the progress, as they are stored: only if there is any."""
        progress = {"ended_before": self.ended_before, "last_statuses": self.last_statuses}
        return {name: value for name, value in progress.items() if value}

    async def _wait_for_all(
        self, ids: list[str], times: PollTimes, client: AsyncClient
    ) -> tuple[list[str], Poller]:
        """Poll until each has ended. Return the distinct ids, and the poller with the outcomes."""
        distinct = list(dict.fromkeys(ids))
        self._log_start(f"{len(distinct)} {self.subject.noun}s", times)
        statuses = load_statuses(distinct, self.last_statuses)
        log = BatchLog(statuses, times.started_at, self.ended_before, noun=self.subject.noun)
        poller = self._poller(distinct, times, last_statuses=statuses, log=log)
        total = sum(log.counts.values())
        async with self._recorded(distinct, times, lambda: log.counts, total):
            await self._drive(poller, client, self.arguments.gives_up_at(times, self._ends_at))
        return distinct, poller

    def _event_of(self, distinct: list[str], poller: Poller, started_at: float | None) -> dict[str, Any]:
        return batch_event(
            distinct,
            poller.outcomes,
            not_polled=poller.not_polled,
            has_worked=poller.has_worked,
            started_at=started_at,
        )


class ManxueVideoBatchTrigger(_BatchTrigger):
    """
    Trigger that fires when each of many videos has ended, or the deadline has passed.

    An error of the connection ends the wait for all videos together.

    :param video_task_ids: (templated) ids of the video tasks. A repeated id is polled once. If the task starts in the
        triggerer, also references to XComs.
    :param ended_before: number of other videos of the batch that have ended, by status, for the log; None for none.
    :param last_statuses: last known status of each distinct id, one character each: ``c`` completed, ``f`` failed, ``-`` not
        known. Empty if none is known.
    :param first_poll_at: time of the first poll. The rate limiter of the connection spreads the polls after it.
    :param end_from_trigger: end the task in the triggerer when all videos are completed.

    The other arguments have the meaning that they have in :class:`ManxueVideoTrigger`.
    """

    def __init__(
        self,
        *,
        video_task_ids: Any,
        manxue_conn_id: Any,
        poke_interval: float,
        ended_before: dict[str, int] | None = None,
        last_statuses: str = "",
        started_at: float | None = None,
        deadline: float | None = None,
        first_poll_at: float | None = None,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        has_worked: bool = False,
        defer_timeout_margin: float = LEGACY_DEFER_TIMEOUT_MARGIN,
        timeout: float | None = None,
        execution_timeout: float | None = None,
        end_from_trigger: bool = False,
        do_xcom_push: bool = True,
    ) -> None:
        super().__init__(
            manxue_conn_id,
            WaitArguments(
                poke_interval=poke_interval,
                started_at=started_at,
                deadline=deadline,
                first_poll_at=first_poll_at,
                exponential_backoff=exponential_backoff,
                max_wait=max_wait,
                has_worked=has_worked,
                defer_timeout_margin=defer_timeout_margin,
                timeout=timeout,
                execution_timeout=execution_timeout,
                end_from_trigger=end_from_trigger,
                do_xcom_push=do_xcom_push,
            ),
        )
        self.video_task_ids = video_task_ids
        self.ended_before = ended_before
        self.last_statuses = last_statuses

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments. Neither may change, since deferrals in flight outlive upgrades."""
        return "airflow_provider_manxue.triggers.manxue.ManxueVideoBatchTrigger", {
            "video_task_ids": self.video_task_ids,
            **self._progress,
            "manxue_conn_id": self.manxue_conn_id,
            **self.arguments.to_kwargs(),
        }

    async def _event(self, client: AsyncClient) -> dict[str, Any] | None:
        try:
            value, times = await self._begin(self.video_task_ids)
            ids = parse_video_task_ids(value)
        except (CannotStartInTriggererError, ManxueError) as reason:
            return begin_event(str(reason))
        videos, poller = await self._wait_for_all(ids, times, client)
        errors = [outcome for outcome in poller.outcomes.values() if isinstance(outcome, ManxueError)]
        if len(errors) == len(videos) and self._must_start_on_worker(errors[0], poller):
            return begin_event(str(errors[0]))
        if not errors and self.arguments.end_from_trigger:
            tasks = to_tasks(ids, await self._refresh_aged(poller, client))
            if await self._push_final_results({**to_xcoms(tasks), RETURN_KEY: tasks}):
                return None
        return self._event_of(videos, poller, None if self._given_times else times.started_at)

    async def _refresh_aged(self, waited: Poller, client: AsyncClient) -> dict[str, Outcome]:
        """Return the outcomes. Videos whose URLs are older than ``MAX_URL_AGE`` are read again."""
        now = time.time()
        aged = [video for video, ended_at in waited.ended_at.items() if now - ended_at > MAX_URL_AGE]
        times = PollTimes(waited.started_at, now, now, now)
        log = BatchLog(dict.fromkeys(waited.outcomes, "completed"), waited.started_at)
        poller = self._poller(aged, times, to_read=aged, log=log)
        if aged:
            await self._drive(poller, client, now + GRACE_TIME)
        fresh = {video: task for video, task in poller.outcomes.items() if isinstance(task, VideoTask)}
        return {**waited.outcomes, **fresh}  # an aged URL is better than none


class ManxueAssetTrigger(_BatchTrigger):
    """
    Trigger that fires when the review of each asset of an upload has ended, or the deadline has passed.

    Only a worker defers with it, since an upload is sent by a worker. Each asset is polled with a request of its own.

    :param asset_ids: ids of the assets.
    :param ended_before: number of other assets of the upload that have ended, by status, for the log; None for none.
    :param last_statuses: as in :class:`ManxueVideoBatchTrigger`.

    The other arguments have the meaning that they have in :class:`ManxueVideoTrigger`.
    """

    subject = ASSET

    def __init__(
        self,
        *,
        asset_ids: list[str],
        manxue_conn_id: str,
        poke_interval: float,
        started_at: float,
        deadline: float,
        first_poll_at: float,
        ended_before: dict[str, int] | None = None,
        last_statuses: str = "",
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        has_worked: bool = False,
        defer_timeout_margin: float = LEGACY_DEFER_TIMEOUT_MARGIN,
        do_xcom_push: bool = True,
    ) -> None:
        super().__init__(
            manxue_conn_id,
            WaitArguments(
                poke_interval=poke_interval,
                started_at=started_at,
                deadline=deadline,
                first_poll_at=first_poll_at,
                exponential_backoff=exponential_backoff,
                max_wait=max_wait,
                has_worked=has_worked,
                defer_timeout_margin=defer_timeout_margin,
                do_xcom_push=do_xcom_push,
            ),
        )
        self.asset_ids = asset_ids
        self.ended_before = ended_before
        self.last_statuses = last_statuses

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments. Neither may change, since deferrals in flight outlive upgrades."""
        return "airflow_provider_manxue.triggers.manxue.ManxueAssetTrigger", {
            "asset_ids": self.asset_ids,
            **self._progress,
            "manxue_conn_id": self.manxue_conn_id,
            **self.arguments.to_kwargs(),
        }

    async def _event(self, client: AsyncClient) -> dict[str, Any] | None:
        times = cast("PollTimes", self._given_times)  # only a worker defers with this trigger
        distinct, poller = await self._wait_for_all(self.asset_ids, times, client)
        return self._event_of(distinct, poller, None)


class ManxueOrderRoomTrigger(BaseTrigger):
    """
    Trigger that fires when an order that was not accepted is to be sent again. It sends nothing itself.

    :param resume_at: when to fire, in seconds since the epoch.
    """

    def __init__(self, *, resume_at: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.resume_at = resume_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the argument. Neither may change, since deferrals in flight outlive upgrades."""
        return "airflow_provider_manxue.triggers.manxue.ManxueOrderRoomTrigger", {"resume_at": self.resume_at}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the event to resume."""
        # Short sleeps, since the clock may be set in the meantime.
        while (left := self.resume_at - time.time()) > 0:  # noqa: ASYNC110 - a time, not an event of this process
            await asyncio.sleep(min(left, _MAX_SLEEP))
        yield TriggerEvent({"version": 1, "status": "resend"})
