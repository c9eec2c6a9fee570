"""The sensors: they wait for videos, and hand their URLs and real lengths to the next tasks."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import conf

from airflow_provider_manxue._airflow.start_from_trigger import feeds_mapped_tasks
from airflow_provider_manxue._airflow.triggerer_sensor import StartFromTriggerSensor
from airflow_provider_manxue._airflow.waiting import SingleVideoWait
from airflow_provider_manxue._core.batch import (
    MYSQL_TEXT,
    Outcome,
    Progress,
    affects_all_videos,
    batch_error,
    next_poll_of_all,
    parse_video_task_ids,
    stored_length,
    to_tasks,
    to_xcoms,
)
from airflow_provider_manxue._core.events import parse_batch_event, start_of
from airflow_provider_manxue._core.polling import (
    AskAgain,
    Completed,
    Ended,
    Wait,
    deadline_to_read,
    first_poll_at,
)
from airflow_provider_manxue._core.rendering import is_rendered_later
from airflow_provider_manxue._core.responses import parse_video_task_id
from airflow_provider_manxue.exceptions import ManxueError, ManxueInputError
from airflow_provider_manxue.links.manxue import ManxueVideoLink

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow.providers.common.compat.sdk import Context, XComArg

    from airflow_provider_manxue.models import VideoTask


class ManxueVideoSensor(StartFromTriggerSensor, SingleVideoWait):
    """
    Waits until a video of the sd2_manxue service is ready.

    The worker asks once. If the video is not ready, the task defers, and the triggerer goes on asking: no
    worker slot is held, so a triggerer must run. With ``deferrable=False`` the worker itself asks again, in
    ``mode="poke"``, or in a new process each time, in ``mode="reschedule"``.

    XCom, the same in every mode: ``video_url`` (temporary, fetch it within a day), ``actualDuration`` (seconds,
    None if the service leaves it out), and as return value the whole task under the service's field names.

    A failed video fails the task without retries, a timeout raises ``AirflowSensorTimeout``. Outages, 5xx and
    429 answers do not end a wait. ``soft_fail`` skips the task when the video failed or a timeout has passed;
    ``never_fail`` skips it after any error. ``execution_timeout`` bounds the whole wait, except in reschedule
    mode, where Airflow applies it to each poke.

    :param video_task_id: (templated) id of the task that the create call returned, or its whole answer.
    :param manxue_conn_id: (templated) id of the Airflow connection.
    :param deferrable: wait in the triggerer. ``[operators] default_deferrable`` is not consulted.
    :param poke_interval: seconds (or ``timedelta``) between two polls; the service recommends 30 to 60.
    :param timeout: seconds (or ``timedelta``) after which the wait is given up.
    :param exponential_backoff: let the interval double from poll to poll, up to ``max_wait``.
    :param max_wait: longest interval in seconds (or ``timedelta``).
    :param soft_fail: skip the task when the video failed or a timeout has passed.
    :param never_fail: skip the task after any error.
    :param mode: ``poke`` or ``reschedule``; read with ``deferrable=False``.
    :param start_from_trigger: start in the triggerer, without a worker (Airflow 3.3 and later).
    :param end_from_trigger: when the video is there, end in the triggerer, without a worker (Airflow 3.3 and
        later). See ``docs/zero-workers.md`` for both.
    :raises ManxueInputError: if an argument cannot be used.
    """

    template_fields: Sequence[str] = ("video_task_id", "manxue_conn_id")
    operator_extra_links = (ManxueVideoLink(),)

    def __init__(
        self,
        *,
        video_task_id: str | dict[str, Any] | XComArg,
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.video_task_id = video_task_id
        if not is_rendered_later(self.video_task_id):
            parse_video_task_id(self.video_task_id)
        self._begin_and_end_in_triggerer(
            start_from_trigger, end_from_trigger, "ManxueVideoTrigger", "video_task_id"
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Ask once, and wait if the video is not ready.

        :return: the whole task, under the service's field names.
        """
        self._say_what_a_mapped_task_cannot(context)
        with self._endings():
            started_at = self._started_at(context)
            return self._wait(context, parse_video_task_id(self.video_task_id), started_at)

    def execute_complete(
        self, context: Context, event: Any, started_at: float | None = None
    ) -> dict[str, Any]:
        """
        Go on when the trigger has fired, or begin the wait if the trigger could not.

        :param event: what the trigger said.
        :param started_at: when the wait began, in seconds since the epoch; None if it is the event that says so.
        """
        if self._begins_on_worker(event):
            return self.execute(context)
        return super().execute_complete(context, event, started_at)


class ManxueVideoBatchSensor(StartFromTriggerSensor):
    """
    Waits until each of many videos is ready, with one deferral and one trigger for all of them.

    That costs two starts of a worker process in all, instead of two for each video. A failed video is logged at
    once, and the others are still awaited. At the end, and also at the deadline, all results are in XCom:
    ``video_url`` and ``actualDuration`` as lists in the order of the ids (None where there is no video), and as
    ``return_value`` the list of the whole tasks, those that failed with their ``error``. Then the task fails,
    naming each video that did not come, or succeeds if ``tolerate_failures`` is set.

    The task does not poll on the worker before it defers. The worker that resumes reads all tasks again, under
    the limits of the connection: with 10 requests per second, 1,000 videos take 100 seconds.

    :param video_task_ids: (templated) ids of the tasks, or the answers of create calls; an ``XComArg`` of a
        mapped task fits. An id that stands there more than once is polled once.
    :param tolerate_failures: succeed although some videos failed or did not come in time.
    :param manxue_conn_id: (templated) id of the Airflow connection.
    :param deferrable: wait in the triggerer; otherwise as ``mode`` says.
    :param poke_interval: seconds (or ``timedelta``) between two polls of a video.
    :param timeout: seconds (or ``timedelta``) after which the wait is given up.
    :param start_from_trigger: start in the triggerer, without a worker (Airflow 3.3 and later).
    :param end_from_trigger: when all videos are there, end in the triggerer, without a worker (Airflow 3.3 and
        later). See ``docs/zero-workers.md`` for both.
    :raises ManxueInputError: if an argument cannot be used.
    """

    template_fields: Sequence[str] = ("video_task_ids", "manxue_conn_id")

    def __init__(
        self,
        *,
        video_task_ids: Iterable[str | dict[str, Any]] | XComArg,
        tolerate_failures: bool = False,
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.video_task_ids = video_task_ids
        self.tolerate_failures = tolerate_failures
        if not is_rendered_later(self.video_task_ids):
            parse_video_task_ids(self.video_task_ids)
        self._begin_and_end_in_triggerer(
            start_from_trigger, end_from_trigger, "ManxueVideoBatchTrigger", "video_task_ids"
        )

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """
        Wait for all videos.

        :return: the whole tasks, under the service's field names, in the order of the ids.
        """
        self._say_what_a_mapped_task_cannot(context)
        with self._endings():
            started_at = self._started_at(context)
            ids = parse_video_task_ids(self.video_task_ids)
            self._check_ceilings(ids)
            deadline = started_at + self._patience
            if self.deferrable:
                self._defer(ids, started_at, deadline, AskAgain(time.time()))
            return self._wait(context, ids, started_at, deadline, {})

    def execute_complete(
        self, context: Context, event: Any, started_at: float | None = None
    ) -> list[dict[str, Any]]:
        """
        Go on when the trigger has fired: read all tasks, since events hold no URL.

        Videos that are known to be there are not lost to a deadline that passes meanwhile, as in the other sensor.

        :param event: what the trigger said.
        :param started_at: when the wait began, in seconds since the epoch; None if it is the event that says so.
        """
        if self._begins_on_worker(event):
            return self.execute(context)
        ids = parse_video_task_ids(self.video_task_ids)
        try:
            errors = parse_batch_event(event)
        except ManxueError as error:
            self._raise_error(error)
        started_at = started_at or start_of(event) or time.time()
        deadline = deadline_to_read(started_at + self._patience, time.time())
        return self._wait(context, ids, started_at, deadline, errors)

    def _check_ceilings(self, ids: list[str]) -> None:
        """
        Refuse a batch whose result Airflow would not take in the end, and warn of one that it may not even defer.

        :raises ManxueInputError: if a downstream task maps over a result that is longer than Airflow allows.
        """
        longest = conf.getint("core", "max_map_length")
        if len(ids) > longest and feeds_mapped_tasks(self):
            raise ManxueInputError(
                f"A downstream task maps over the results of {len(ids)} videos, and [core] max_map_length allows "
                f"{longest}. Nothing was awaited. Raise it, split the ids over more tasks, or map over something else."
            )
        stored = stored_length(ids)
        if self.deferrable and stored > MYSQL_TEXT:
            self.log.warning(
                "%d ids take about %d bytes in Airflow's metadata database. If that is MySQL, it holds %d there, and "
                "this task cannot defer: split the ids over more tasks. Other databases have no such limit.",
                len(ids),
                stored,
                MYSQL_TEXT,
            )

    def _defer(self, ids: list[str], started_at: float, deadline: float, next_poll: AskAgain) -> NoReturn:
        from airflow_provider_manxue.triggers.manxue import ManxueVideoBatchTrigger

        policy = self._policy
        self._announce(f"{len(set(ids))} videos", started_at)
        self.defer(
            trigger=ManxueVideoBatchTrigger(
                video_task_ids=ids,
                manxue_conn_id=self.manxue_conn_id,
                poke_interval=policy.interval,
                started_at=started_at,
                deadline=deadline,
                first_poll_at=first_poll_at(next_poll, time.time(), deadline),
                exponential_backoff=policy.exponential_backoff,
                max_wait=policy.max_wait,
                **self._ending_arguments(),
            ),
            method_name="execute_complete",
            kwargs={"started_at": started_at},
            timeout=self._backstop(deadline),
        )

    def _wait(
        self,
        context: Context,
        ids: list[str],
        started_at: float,
        deadline: float,
        known: dict[str, ManxueError],
    ) -> list[dict[str, Any]]:
        """Ask for all videos, again and again in poke mode, until none is awaited any more."""
        grace_since = started_at if self._is_rescheduled else None
        outcomes: dict[str, Outcome] = dict(known)
        waits = {
            video: Wait(video, self._policy, started_at, deadline, grace_since)
            for video in dict.fromkeys(ids)
            if video not in known
        }
        progress = Progress(len(waits))
        while waits:
            unfinished: list[tuple[Outcome, AskAgain]] = []
            for video, answer in self._ask_for_all(list(waits), deadline).items():
                decision = waits[video].after(answer, time.time())
                if isinstance(decision, AskAgain):
                    unfinished.append((answer, decision))
                    outcomes[video] = answer
                    continue
                del waits[video]
                outcomes[video] = self._end_of(decision)
                for news in progress.after(video, decision, time.time() - started_at):
                    self.log.log(news.level, news.text)
            if waits:
                next_poll = next_poll_of_all(unfinished, time.time())
                if self.deferrable:
                    self._defer(ids, started_at, deadline, next_poll)
                if not self._pause_on_worker(next_poll, deadline):
                    outcomes |= {video: wait.timed_out() for video, wait in waits.items()}
                    break
        return self._hand_over(context, ids, outcomes)

    def _end_of(self, decision: Completed | Ended) -> VideoTask | ManxueError:
        if isinstance(decision, Completed):
            return decision.task
        if affects_all_videos(decision.error):
            raise decision.error
        return decision.error

    def _ask_for_all(self, ids: list[str], deadline: float) -> dict[str, VideoTask | ManxueError]:
        """
        Ask for many videos at once, under the limits of the connection.

        In poke mode these may not let the last look at all of them take longer than that at one video. In the other
        modes a process knows nothing of what was there before, and would lose what it does not see.
        """
        from airflow_provider_manxue._client.async_client import ask_for_all

        pokes = not self.deferrable and not self.reschedule
        until = deadline + self.hook.settings.request_timeout if pokes else None
        return asyncio.run(ask_for_all(self.hook.read_settings, ids, until))

    def _hand_over(
        self, context: Context, ids: list[str], outcomes: dict[str, VideoTask | ManxueError]
    ) -> list[dict[str, Any]]:
        self._seen = tasks = to_tasks(ids, outcomes)
        errors = {video: outcome for video, outcome in outcomes.items() if isinstance(outcome, ManxueError)}
        fails = bool(errors) and not self.tolerate_failures
        if self.do_xcom_push:
            # The return value of a task that fails would be lost.
            for key, value in {**to_xcoms(tasks), **({"return_value": tasks} if fails else {})}.items():
                context["ti"].xcom_push(key=key, value=value)
        if fails:
            self._raise_error(batch_error(errors))
        return tasks
