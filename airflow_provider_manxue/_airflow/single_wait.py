"""Base of the tasks that wait for one video."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow_provider_manxue._airflow.waiting import ManxueWaitBase
from airflow_provider_manxue._client.drivers import BlockingDriver
from airflow_provider_manxue._core.deadline import deadline_to_read
from airflow_provider_manxue._core.events import needs_final_poll, parse_event, start_of, worked_before
from airflow_provider_manxue._core.poller import Poller
from airflow_provider_manxue._core.worker_pass import WorkerPass
from airflow_provider_manxue.exceptions import ManxueError
from airflow_provider_manxue.models import without_url

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_manxue.models import VideoTask


class SingleVideoWait(ManxueWaitBase):
    """Wait for one video: first poll, deferral or reschedule, resume, and result."""

    def execute_complete(
        self,
        context: Context,
        event: Any,
        started_at: float | None = None,
        try_number: int | None = None,
    ) -> dict[str, Any]:
        """
        Resume when the trigger has fired. If the triggerer could not start the task, begin the wait.

        The worker reads the video task again, since events have no URL. If the service is not available, the task defers
        again. A video that was seen completed is read until 5 minutes after the deadline.

        :param event: the trigger's event.
        :param started_at: when the wait began, in seconds since the epoch; None if the event names it.
        :param try_number: number of the try that deferred.
        """
        if self._begins_on_worker(event):
            return self.execute(context)  # type: ignore[no-any-return]
        started_at = started_at or start_of(event) or time.time()
        video_task_id = str(event.get("video_task_id", "")) if isinstance(event, dict) else ""
        if self._is_stale(context, try_number):
            return self._resume_stale(context, video_task_id)
        error = parse_event(event)
        if error is not None and not needs_final_poll(event):
            self._raise_error(error)
        return self._wait(
            context,
            video_task_id,
            started_at,
            is_completed=error is None,
            has_worked=worked_before(event),
            last_status=str(event.get("last_answer", "")),
        )

    def _begin(self, context: Context, video_task_id: str) -> dict[str, Any]:
        """Poll once, and wait if the video is not ready. From the second poke on, a rescheduled task counts as having worked."""
        before = self._began_before(context)
        return self._wait(context, video_task_id, before or time.time(), has_worked=before is not None)

    def _resume_stale(self, context: Context, video_task_id: str) -> dict[str, Any]:
        """Begin a new wait in a retry that Airflow resumed with the deferral of an earlier try."""
        self._log_stale()
        return self._wait(context, video_task_id, time.time())

    def _resume_after_failure(self, context: Context, reason: str) -> dict[str, Any]:
        if self._repeats_end_of_earlier_try(context):
            return self._resume_stale(context, self._awaited_id(context))
        started_at = self._started_before_failure(context, reason)
        self.log.warning(
            "Airflow ended the deferral: %s. This worker polls once more.", reason or "no reason given"
        )
        return self._wait(
            context,
            self._awaited_id(context),
            started_at,
            has_worked=True,
            ended_by_airflow=reason or "unknown",
        )

    def _awaited_id(self, context: Context) -> str:
        """Return the id of the awaited video without the arguments of the deferral."""
        raise NotImplementedError

    def _wait(
        self,
        context: Context,
        video_task_id: str,
        started_at: float,
        *,
        is_completed: bool = False,
        has_worked: bool = False,
        last_status: str = "",
        ended_by_airflow: str = "",
    ) -> dict[str, Any]:
        now = time.time()
        grace = self._load_grace(context)
        deadline = self._limits.deadline(started_at, now, ended_by_airflow)
        poller = Poller(
            [video_task_id],
            self._arguments.policy,
            started_at=started_at,
            deadline=deadline,
            first_poll_at=now,
            has_worked=has_worked,
            to_read=[video_task_id] if is_completed else (),
            grace=grace or {},
            grace_ends=grace is not None,
            last_statuses={video_task_id: last_status},
            quick_retries=is_completed or bool(ended_by_airflow),
            holds_slot=self._holds_slot,
        )
        if self._holds_slot:
            self._log_start(f"the video {video_task_id}", started_at)
            self._record_wait(context, [video_task_id], {_word(last_status): 1}, started_at)
        worker_pass = None if self._holds_slot else WorkerPass(now, 1, rate=1.0)
        BlockingDriver(
            poller,
            self.hook.get_video_task,
            self.log,
            worker_pass,
            conn_id=self.manxue_conn_id,
            metrics=self.hook.metrics,
        ).run()
        self._end_if_out_of_time(poller)
        if not poller.done:
            self._store_grace(context, grace, poller.grace)
            if ended_by_airflow and time.time() < deadline:
                raise ManxueError(
                    f"The trigger of the video {video_task_id!r} failed: {ended_by_airflow}. The video is not ready yet. "
                    f"See the log of the triggerer; a retry of this task waits again."
                )
            if is_completed:
                deadline = deadline_to_read(deadline, now)
            self._leave_worker(context, poller, video_task_id, deadline)
        outcome = poller.outcomes[video_task_id]
        if isinstance(outcome, ManxueError):
            self._raise_error(outcome)
        return self._push_result(context, cast("VideoTask", outcome))

    def _leave_worker(
        self, context: Context, poller: Poller, video_task_id: str, deadline: float
    ) -> NoReturn:
        """Give the worker slot back: defer, or reschedule."""
        status = poller.last_status(video_task_id)
        self._record_wait(context, [video_task_id], {_word(status): 1}, poller.started_at)
        if not self.deferrable:
            self._reschedule(poller.resumes_at, deadline)
        from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger

        self._log_start(f"the video {video_task_id}", poller.started_at)
        trigger = partial(
            ManxueVideoTrigger,
            video_task_id=video_task_id,
            grace_since=poller.grace_since(video_task_id),
            last_answer=status,
        )
        arguments = replace(self._arguments, has_worked=poller.has_worked, **self._ending_arguments())
        self._defer(context, trigger, arguments, poller.started_at, deadline, poller.resumes_at)

    def _push_result(self, context: Context, task: VideoTask) -> dict[str, Any]:
        if self.do_xcom_push:
            self._push_xcoms(context, task.to_xcoms())
        self._seen = [without_url(task.to_dict())]
        return task.to_dict()


def _word(status: str) -> str:
    """Return the status without the service's text, which follows an unknown one."""
    return status.partition(" ")[0]
