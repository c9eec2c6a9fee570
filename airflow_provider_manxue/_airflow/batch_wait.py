"""Base of the tasks that wait for many videos, or for the assets of an upload."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import conf

from airflow_provider_manxue._airflow.start_from_trigger import feeds_mapped_tasks
from airflow_provider_manxue._airflow.waiting import ManxueWaitBase
from airflow_provider_manxue._core.batch import (
    MYSQL_TEXT,
    OUTCOMES_KEY,
    BatchProgress,
    batch_error,
    dump_outcomes,
    dump_statuses,
    load_outcomes,
    stored_length,
    to_tasks,
    to_xcoms,
)
from airflow_provider_manxue._core.deadline import deadline_to_read, latest_on_worker
from airflow_provider_manxue._core.events import parse_batch_event, start_of, worked_before
from airflow_provider_manxue._core.ids import parse_video_task_ids
from airflow_provider_manxue._core.poller import Poller
from airflow_provider_manxue._core.polling import NOT_FOUND_GRACE_TIME
from airflow_provider_manxue._core.status_log import BatchLog
from airflow_provider_manxue._core.wait_errors import error_of_all
from airflow_provider_manxue._core.worker_pass import WorkerPass
from airflow_provider_manxue.exceptions import (
    ManxueConnectionNotFoundError,
    ManxueError,
    ManxueInputError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import without_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_manxue._core.poller import Outcome

_RESULT = "return_value"


class BatchWait(ManxueWaitBase):
    """
    Wait for many videos or assets: deferral or reschedule, passes on a worker, resume, and results.

    :ivar tolerate_failures: succeed although some failed or were not ready in time.
    """

    tolerate_failures: bool

    # --- what a subclass defines --------------------------------------------------------------------------

    def _ids(self, context: Context) -> list[str]:
        """Return the ids to wait for, in the order of the results, with duplicates."""
        raise NotImplementedError

    def _trigger(self, ids: list[str], **progress: Any) -> Callable[..., BaseTrigger]:
        """Return a function that makes the trigger, without the common arguments. ``progress`` is passed on to it."""
        raise NotImplementedError

    def _results(self, progress: BatchProgress) -> dict[str, Any]:
        """Return the XComs of the known outcomes by key, with the return value."""
        raise NotImplementedError

    def _errors(self, progress: BatchProgress) -> Mapping[str, ManxueError]:
        """Return the errors of the known outcomes, by the name under which the task's error lists them."""
        return {name: one for name, one in progress.known.items() if isinstance(one, ManxueError)}

    def _is_failure(self, errors: Mapping[str, ManxueError], results: Mapping[str, Any]) -> bool:
        """Return whether the task fails with these errors of single videos."""
        return bool(errors) and not self.tolerate_failures

    # --- start and resume ---------------------------------------------------------------------------------

    def _begin(self, context: Context) -> Any:
        """Wait for all videos. A deferrable task defers without a poll."""
        ids = self._ids(context)
        self._check_ceilings(ids)
        now = time.time()
        before = self._began_before(context)
        progress = BatchProgress(ids, before or now, now, has_worked=before is not None)
        if self.deferrable:
            self._check_connection()
            now = time.time()
            deadline = self._limits.deadline(progress.started_at, now, progress.ended_by_airflow)
            self._leave_worker(context, progress, progress.ids, now, deadline)
        return self._wait(context, progress)

    def _resume(self, context: Context, event: Any, started_at: float | None, *, kept: bool) -> Any:
        """Read the videos that have ended, since events have no URL. Poll those that the event names as not polled."""
        ids, now = self._ids(context), time.time()
        progress = BatchProgress(
            ids, started_at or start_of(event) or now, now, has_worked=worked_before(event)
        )
        if kept:
            progress.known, progress.read_at = self._load_kept(context)
        try:
            states = parse_batch_event(event, progress.remaining)
        except ManxueError as error:
            progress.fail(error)
            return self._push_results(context, progress)
        progress.known |= states.errors
        progress.completed, progress.failed = set(states.to_read), set(states.failed)
        return self._wait(context, progress)

    def _resume_after_failure(self, context: Context, reason: str) -> Any:
        if self._repeats_end_of_earlier_try(context):
            return self._begin(context)
        self.log.warning(
            "Airflow ended the deferral: %s. This worker polls once more.", reason or "no reason given"
        )
        ids = self._ids(context)
        started_at = self._started_before_failure(context, reason)
        progress = BatchProgress(ids, started_at, time.time(), has_worked=True)
        progress.ended_by_airflow = reason or "unknown"
        progress.known, progress.read_at = self._load_kept(context)
        return self._wait(context, progress)

    def _check_ceilings(self, ids: list[str]) -> None:
        """
        Refuse a batch whose result is too long for Airflow, and log a warning if it may be too large to defer.

        :raises ManxueInputError: if a downstream task maps over a result that is longer than Airflow allows.
        """
        longest = conf.getint("core", "max_map_length")
        if len(ids) > longest and feeds_mapped_tasks(self):
            raise ManxueInputError(
                f"A downstream task maps over the results of {len(ids)} {self.subject.noun}s, and [core] max_map_length allows "
                f"{longest}. Nothing was awaited. Raise the limit, split the ids over more tasks, or map over something else."
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
        Load the connection on the worker, so that an unusable one fails before the task defers.

        Airflow reports an outage of a secrets backend as a missing connection. So a missing connection is looked up again
        for ``NOT_FOUND_GRACE_TIME``.
        """
        ends_at = time.monotonic() + NOT_FOUND_GRACE_TIME
        while True:
            try:
                self.hook.settings  # noqa: B018 - the hook loads them at the first access
            except ManxueConnectionNotFoundError:
                if time.monotonic() >= ends_at:
                    raise
                time.sleep(NOT_FOUND_GRACE_TIME / 3)
            except ManxueTransientError:  # the trigger loads the connection again
                return
            else:
                return

    # --- a pass on this worker ----------------------------------------------------------------------------

    def _wait(self, context: Context, progress: BatchProgress) -> Any:
        """Poll the videos that have no outcome yet. The known results are pushed also if the pass fails."""
        now = time.time()
        grace = self._load_grace(context)
        deadline = self._limits.deadline(progress.started_at, now, progress.ended_by_airflow)
        statuses = progress.statuses()
        poller = Poller(
            progress.to_poll(now),
            self._arguments.policy,
            started_at=progress.started_at,
            deadline=deadline,
            first_poll_at=now,
            has_worked=progress.has_worked,
            to_read=progress.completed | progress.outdated(now),
            grace=grace or {},
            grace_ends=grace is not None,
            quick_retries=not self._holds_slot,
            holds_slot=self._holds_slot,
            last_statuses=statuses,
            log=BatchLog(statuses, progress.started_at, noun=self.subject.noun),
            subject=self.subject,
        )
        if self._holds_slot:
            self._log_start(f"{len(progress.unique)} {self.subject.noun}s", progress.started_at)
            self._record_wait(context, progress.unique, progress.counts(), progress.started_at)
        try:
            if not poller.done:
                self._poll(context, poller, now)
                self._end_if_out_of_time(poller)
        except BaseException:
            progress.take(poller)
            self._push_known_results(context, progress)
            raise
        progress.take(poller)
        if left := [video for video in poller.remaining if video not in progress.known]:
            self._store_grace(context, grace, poller.grace)
            self._give_slot_back(context, progress, left, poller, deadline)
        return self._push_results(context, progress)

    def _poll(self, context: Context, poller: Poller, now: float) -> None:
        """Run the engine in a thread, so that ``execution_timeout`` can interrupt the main thread."""
        from airflow_provider_manxue._client.airflow_metrics import LoopMetrics, worker_stats
        from airflow_provider_manxue._client.async_client import AsyncClient
        from airflow_provider_manxue._client.drivers import AsyncDriver
        from airflow_provider_manxue._client.threaded import run_interruptibly

        async def load_connection(conn_id: str) -> Any:
            return await asyncio.to_thread(self.hook.read_settings)

        async def poll() -> None:
            client = AsyncClient(load_connection, metrics=metrics)
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

        metrics = LoopMetrics(worker_stats, has_gauges=False)
        rate, videos = self._rate(), len(poller.remaining)
        worker_pass = None if self._holds_slot else WorkerPass(now, videos, rate)
        give_up_at = latest_on_worker(poller.deadline, now, round_time=videos / rate)
        try:
            run_interruptibly(poll())
        finally:
            metrics.flush()
        if worker_pass is not None and not poller.done:
            worker_pass.end_overdue(poller, time.time(), is_rescheduled=self._is_rescheduled)

    def _rate(self) -> float:
        try:
            return self.hook.settings.requests_per_second
        except ManxueError:  # no connection: the pass ends early, and its length does not matter
            return 1.0

    def _give_slot_back(
        self, context: Context, progress: BatchProgress, left: list[str], poller: Poller, deadline: float
    ) -> NoReturn:
        if not self.deferrable:
            self._record_wait(context, left, progress.counts(), progress.started_at)
            self._reschedule(poller.resumes_at, deadline)
        if progress.ended_by_airflow and time.time() < deadline:
            self._push_known_results(context, progress)
            raise ManxueError(
                f"The trigger of {len(left)} {self.subject.noun}s failed: {progress.ended_by_airflow}. They are not ready yet. See the log of "
                f"the triggerer; a retry of this task waits again."
            )
        progress.has_worked = poller.has_worked
        self._leave_worker(context, progress, left, poller.resumes_at, deadline)

    def _leave_worker(
        self, context: Context, progress: BatchProgress, left: list[str], due_at: float, deadline: float
    ) -> NoReturn:
        """Defer for the remaining videos."""
        if not progress.completed.isdisjoint(left):
            deadline = deadline_to_read(deadline, progress.resumed_at)
        kept: dict[str, bool] = {}
        if progress.known:
            self._push_xcoms(context, {OUTCOMES_KEY: dump_outcomes(progress.known, progress.read_at)})
            kept = {"kept": True}
        # A task that defers for some of its videos ends on a worker, which merges the results.
        ending = self._ending_arguments() if left == progress.ids else {}
        self._log_start(f"{len(set(left))} {self.subject.noun}s", progress.started_at)
        trigger = self._trigger(
            left,
            ended_before=progress.ended_before(left),
            last_statuses=dump_statuses(left, progress.statuses()),
        )
        ending.setdefault("do_xcom_push", self.do_xcom_push)
        arguments = replace(self._arguments, has_worked=progress.has_worked, **ending)
        self._record_wait(context, left, progress.counts(), progress.started_at)
        self._defer(context, trigger, arguments, progress.started_at, deadline, due_at, **kept)

    def _load_kept(self, context: Context) -> tuple[dict[str, Outcome], dict[str, float]]:
        try:
            value = self._pull_own_xcom(context, OUTCOMES_KEY)
        except Exception as error:  # noqa: BLE001 - an XCom backend of another package can fail in any way
            self.log.warning(
                "The earlier results of this task could not be loaded (%s). All %ss are read again.",
                type(error).__name__,
                self.subject.noun,
            )
            return {}, {}
        return load_outcomes(value, self.subject)

    # --- results ------------------------------------------------------------------------------------------

    def _push_known_results(self, context: Context, progress: BatchProgress) -> None:
        """Push the results of a task that is about to fail. Tries once."""
        if not self.do_xcom_push or not progress.has_results:
            return
        try:
            for key, value in self._results(progress).items():
                context["ti"].xcom_push(key=key, value=value)
        except Exception as error:  # noqa: BLE001 - the task must fail with its first error
            kind = type(error).__name__
            self.log.warning("The results could not be stored (%s). A retry reads them again.", kind)

    def _push_results(self, context: Context, progress: BatchProgress) -> Any:
        results, errors = self._results(progress), self._errors(progress)
        error_of_wait = error_of_all(progress.known.values())
        fails = error_of_wait is not None or self._is_failure(errors, results)
        if self.do_xcom_push:
            # Airflow stores no return value of a task that fails.
            self._push_xcoms(
                context, {key: value for key, value in results.items() if fails or key != _RESULT}
            )
        if fails:
            self._raise_error(error_of_wait or batch_error(errors, self.subject))
        return results[_RESULT]


class BatchVideoWait(BatchWait):
    """
    Wait for many videos.

    :ivar video_task_ids: the ids, in the form in which the author passes them.
    """

    video_task_ids: Any

    def _ids(self, context: Context) -> list[str]:
        return parse_video_task_ids(self.video_task_ids)

    def _trigger(self, ids: list[str], **progress: Any) -> Callable[..., BaseTrigger]:
        from airflow_provider_manxue.triggers.manxue import ManxueVideoBatchTrigger

        return partial(ManxueVideoBatchTrigger, video_task_ids=ids, **progress)

    def _results(self, progress: BatchProgress) -> dict[str, Any]:
        tasks = to_tasks(progress.ids, progress.known)
        self._seen = [without_url(task) for task in tasks]
        return {**to_xcoms(tasks), _RESULT: tasks}
