"""The sensors: they wait for videos, and hand their URLs and real lengths to the next tasks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import conf

from airflow_provider_manxue._airflow.start_from_trigger import feeds_mapped_tasks
from airflow_provider_manxue._airflow.triggerer_sensor import StartFromTriggerSensor
from airflow_provider_manxue._airflow.waiting import SingleVideoWait
from airflow_provider_manxue._core.batch import (
    KEPT_KEY,
    MYSQL_TEXT,
    batch_error,
    parse_kept,
    stored_length,
    to_kept,
    to_tasks,
    to_xcoms,
)
from airflow_provider_manxue._core.deadline import deadline_to_read, latest_on_worker
from airflow_provider_manxue._core.events import parse_batch_event, start_of, worked_before
from airflow_provider_manxue._core.ids import as_list, parse_video_task_id, parse_video_task_ids
from airflow_provider_manxue._core.poller import Poller, affects_all_videos
from airflow_provider_manxue._core.polling import MAX_URL_AGE, NOT_FOUND_GRACE_TIME
from airflow_provider_manxue._core.rendering import is_rendered_later
from airflow_provider_manxue._core.status_log import BatchLog
from airflow_provider_manxue._core.worker_pass import WorkerPass
from airflow_provider_manxue.exceptions import (
    ManxueConnectionNotFoundError,
    ManxueError,
    ManxueInputError,
    ManxueTransientError,
)
from airflow_provider_manxue.links.manxue import ManxueVideoLink
from airflow_provider_manxue.models import VideoTask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow.providers.common.compat.sdk import Context, XComArg

    from airflow_provider_manxue._core.poller import Outcome


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
        Poll once, and wait if the video is not ready.

        :return: the whole task, under the service's field names.
        """
        self._warn_if_mapped(context)
        with self._apply_skip_policy():
            return self._begin(context, self._awaited_id(context))

    def execute_complete(
        self,
        context: Context,
        event: Any,
        started_at: float | None = None,
        try_number: int | None = None,
    ) -> dict[str, Any]:
        """
        Resume when the trigger has fired, or begin the wait if the trigger could not.

        :param event: the trigger's event.
        :param started_at: when the wait began, in seconds since the epoch; None if the event says so.
        :param try_number: number of the try that deferred.
        """
        if self._begins_on_worker(event):
            return self.execute(context)
        return super().execute_complete(context, event, started_at, try_number)

    def _awaited_id(self, context: Context) -> str:
        return parse_video_task_id(self.video_task_id)


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
        self.video_task_ids = as_list(video_task_ids)
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
        self._warn_if_mapped(context)
        with self._apply_skip_policy():
            ids = parse_video_task_ids(self.video_task_ids)
            self._check_ceilings(ids)
            before = self._began_before(context)
            wait = _BatchWait(ids, before or time.time(), has_worked=before is not None)
            if self.deferrable:
                self._check_connection()
                now = time.time()
                self._leave_worker(context, wait, wait.ids, now, self._limits.deadline(wait.started_at, now))
            return self._wait(context, wait)

    def execute_complete(
        self,
        context: Context,
        event: Any,
        started_at: float | None = None,
        try_number: int | None = None,
        kept: bool = False,
    ) -> list[dict[str, Any]]:
        """
        Resume when the trigger has fired: read what has ended, since events have no URL.

        :param event: the trigger's event.
        :param started_at: when the wait began, in seconds since the epoch; None if the event says so.
        :param try_number: number of the try that deferred.
        :param kept: whether the task has read a part before it deferred.
        """
        if self._begins_on_worker(event) or self._is_stale(context, try_number):
            return self.execute(context)
        ids = parse_video_task_ids(self.video_task_ids)
        wait = _BatchWait(ids, started_at or start_of(event) or time.time(), has_worked=worked_before(event))
        if kept:
            wait.known, wait.read_at = self._load_kept(context)
        try:
            states = parse_batch_event(event, wait.left)
        except ManxueError as error:
            wait.fail(error)
            return self._push_results(context, wait)
        wait.known |= states.errors
        wait.completed, wait.failed = set(states.to_read), set(states.failed)
        return self._wait(context, wait)

    def _resume_after_failure(self, context: Context, reason: str) -> list[dict[str, Any]]:
        self.log.warning(
            "Airflow ended the deferral: %s. This worker polls once more.", reason or "no reason given"
        )
        ids = parse_video_task_ids(self.video_task_ids)
        wait = _BatchWait(ids, self._started_before_failure(context, reason), has_worked=True)
        wait.ended_by_airflow = reason or "unknown"
        wait.known, wait.read_at = self._load_kept(context)
        return self._wait(context, wait)

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

    def _check_connection(self) -> None:
        """
        Fail on this worker if the connection cannot be used, and not in the triggerer.

        Airflow reports an outage of a secrets backend as a missing connection, so that is looked up again for a moment.
        """
        ends_at = time.time() + NOT_FOUND_GRACE_TIME
        while True:
            try:
                self.hook.settings  # noqa: B018 - it is read at the first access
            except ManxueConnectionNotFoundError:
                if time.time() >= ends_at:
                    raise
                time.sleep(NOT_FOUND_GRACE_TIME / 3)
            except ManxueTransientError:  # Airflow could not be asked just now: the trigger asks again
                return
            else:
                return

    # --- a pass on this worker ----------------------------------------------------------------------------

    def _wait(self, context: Context, wait: _BatchWait) -> list[dict[str, Any]]:
        """Poll what is not known, and hand over what is known in every ending."""
        now = time.time()
        grace = self._load_grace(context)
        deadline = self._limits.deadline(wait.started_at, now, wait.ended_by_airflow)
        poller = Poller(
            wait.to_poll(now),
            self._arguments.policy,
            started_at=wait.started_at,
            deadline=deadline,
            first_poll_at=now,
            has_worked=wait.has_worked,
            to_read=wait.completed | wait.aged(now),
            grace=grace or {},
            grace_ends=grace is not None,
            quick_retries=not self._holds_slot,
            holds_slot=self._holds_slot,
            log=BatchLog(wait.statuses(), wait.started_at),
        )
        if self._holds_slot:
            self._log_start(f"{len(wait.unique)} videos", wait.started_at)
        try:
            if not poller.done:
                self._poll(context, poller, now)
                self._end_if_out_of_time(poller)
        except BaseException:
            wait.take(poller)
            self._push_what_is_known(context, wait)
            raise
        wait.take(poller)
        if left := [video for video in poller.remaining if video not in wait.known]:
            self._store_grace(context, grace, poller.grace)
            self._give_slot_back(context, wait, left, poller, deadline)
        return self._push_results(context, wait)

    def _poll(self, context: Context, poller: Poller, now: float) -> None:
        """Run the engine in a thread: ``execution_timeout`` interrupts this one."""
        from airflow_provider_manxue._client.async_client import AsyncClient
        from airflow_provider_manxue._client.drivers import AsyncDriver
        from airflow_provider_manxue._client.threaded import run_interruptibly

        async def load_connection(conn_id: str) -> Any:
            return await asyncio.to_thread(self.hook.read_settings)

        async def poll() -> None:
            client = AsyncClient(load_connection)
            try:
                await AsyncDriver(
                    poller,
                    client,
                    self.manxue_conn_id,
                    task=id(self),
                    log=self.log,
                    give_up_at=give_up_at,
                    worker_pass=worker_pass,
                ).run()
            finally:
                await client.close()

        rate, videos = self._rate(), len(poller.remaining)
        worker_pass = None if self._holds_slot else WorkerPass(now, videos, rate)
        give_up_at = latest_on_worker(poller.deadline, now, round_time=videos / rate)
        run_interruptibly(poll())
        if worker_pass is not None and not poller.done:
            worker_pass.end_overdue(poller, time.time(), is_rescheduled=self._is_rescheduled)

    def _rate(self) -> float:
        try:
            return self.hook.settings.requests_per_second
        except ManxueError:  # it cannot be read just now: the pass ends before its length matters
            return 1.0

    def _give_slot_back(
        self, context: Context, wait: _BatchWait, left: list[str], poller: Poller, deadline: float
    ) -> NoReturn:
        if not self.deferrable:
            self._reschedule(poller.resumes_at, deadline)
        if wait.ended_by_airflow and time.time() < deadline:
            self._push_what_is_known(context, wait)
            raise ManxueError(
                f"The trigger of {len(left)} videos failed: {wait.ended_by_airflow}. They are not ready yet. See the log of "
                f"the triggerer; a retry of this task waits again."
            )
        wait.has_worked = poller.has_worked
        self._leave_worker(context, wait, left, poller.resumes_at, deadline)

    def _leave_worker(
        self, context: Context, wait: _BatchWait, left: list[str], due_at: float, deadline: float
    ) -> NoReturn:
        """Defer, and wait for the videos that are left."""
        from airflow_provider_manxue.triggers.manxue import ManxueVideoBatchTrigger

        if not wait.completed.isdisjoint(left):
            deadline = deadline_to_read(deadline, wait.resumed_at)
        kept: dict[str, bool] = {}
        if wait.known:
            self._push_xcoms(context, {KEPT_KEY: to_kept(wait.known, wait.read_at)})
            kept = {"kept": True}
        # The result of a part is put together on a worker.
        ending = self._ending_arguments() if left == wait.ids else {}
        self._log_start(f"{len(set(left))} videos", wait.started_at)
        trigger = partial(ManxueVideoBatchTrigger, video_task_ids=left)
        arguments = replace(self._arguments, has_worked=wait.has_worked, **ending)
        self._defer(context, trigger, arguments, wait.started_at, deadline, due_at, **kept)

    def _load_kept(self, context: Context) -> tuple[dict[str, Outcome], dict[str, float]]:
        ti = context["ti"]
        try:
            value = ti.xcom_pull(task_ids=ti.task_id, key=KEPT_KEY, map_indexes=ti.map_index)
        except Exception as error:  # noqa: BLE001 - all videos are read again then
            self.log.warning("What this task has read before could not be loaded (%s).", type(error).__name__)
            return {}, {}
        return parse_kept(value)

    # --- results ------------------------------------------------------------------------------------------

    def _push_what_is_known(self, context: Context, wait: _BatchWait) -> None:
        """Push the results of a task that is about to fail, once."""
        if not self.do_xcom_push or not wait.has_results:
            return
        tasks = to_tasks(wait.ids, wait.known)
        try:
            for key, value in {**to_xcoms(tasks), "return_value": tasks}.items():
                context["ti"].xcom_push(key=key, value=value)
        except Exception as error:  # noqa: BLE001 - the task fails for another reason, which is to be seen
            self.log.warning("The results could not be stored (%s).", type(error).__name__)

    def _push_results(self, context: Context, wait: _BatchWait) -> list[dict[str, Any]]:
        self._seen = tasks = to_tasks(wait.ids, wait.known)
        errors = {video: outcome for video, outcome in wait.known.items() if isinstance(outcome, ManxueError)}
        fails = any(map(affects_all_videos, errors.values())) or (bool(errors) and not self.tolerate_failures)
        if self.do_xcom_push:
            # The return value of a task that fails would be lost.
            self._push_xcoms(context, {**to_xcoms(tasks), **({"return_value": tasks} if fails else {})})
        if fails:
            self._raise_error(batch_error(errors))
        return tasks


class _BatchWait:
    """
    What a worker knows about the videos of a batch.

    :param ids: the ids, in the order of the results; one may be named more than once.
    :param started_at: when the wait began, in seconds since the epoch.
    :param has_worked: whether a response was parsed as a task before.
    """

    def __init__(self, ids: list[str], started_at: float, *, has_worked: bool = False) -> None:
        self.ids = ids
        self.unique = list(dict.fromkeys(ids))
        self.started_at = started_at
        self.has_worked = has_worked
        self.known: dict[str, Outcome] = {}
        self.read_at: dict[str, float] = {}
        self.completed: set[str] = set()
        """Ids of the videos that the trigger has seen completed or failed."""
        self.failed: set[str] = set()
        """Those of them that have failed, whose reasons are read."""
        self.resumed_at = time.time()
        self.ended_by_airflow = ""

    @property
    def left(self) -> list[str]:
        """The ids that the trigger was given."""
        return [video for video in self.unique if video not in self.known]

    @property
    def has_results(self) -> bool:
        return any(isinstance(outcome, VideoTask) for outcome in self.known.values())

    def aged(self, now: float) -> set[str]:
        """Return the ids of the tasks whose URLs are to be read again, where that is possible."""
        return {video for video, read_at in self.read_at.items() if now - read_at > MAX_URL_AGE}

    def to_poll(self, now: float) -> list[str]:
        aged = self.aged(now)
        return [video for video in self.unique if video not in self.known or video in aged]

    def statuses(self) -> dict[str, str]:
        """Return the known status of each video, for the log."""
        return {video: self._status(video) for video in self.unique}

    def _status(self, video: str) -> str:
        if video in self.known:
            return "completed" if isinstance(self.known[video], VideoTask) else "failed"
        if video in self.failed:
            return "failed"
        return "completed" if video in self.completed else ""

    def take(self, poller: Poller) -> None:
        """Take over what a poller has found out. An older task is better than an error of reading it again."""
        for video, outcome in poller.outcomes.items():
            if isinstance(outcome, VideoTask) or video not in self.known:
                self.known[video] = outcome
                if isinstance(outcome, VideoTask):
                    self.read_at[video] = poller.ended_at[video]

    def fail(self, error: ManxueError) -> None:
        """Let the wait for all that is not known end with an error."""
        self.known |= dict.fromkeys(self.left, error)
