"""The sensor: waits for a video, and hands its URL and its real length to the next tasks."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_manxue.connection import DEFAULT_CONN_ID
from airflow_provider_manxue.events import read_event
from airflow_provider_manxue.exceptions import ManxueError
from airflow_provider_manxue.polling import (
    DEFAULT_POKE_INTERVAL,
    DEFAULT_TIMEOUT,
    AskAgain,
    Completed,
    Ended,
    Wait,
    first_poll_at,
)
from airflow_provider_manxue.protocol import VideoTask, read_video_task_id
from airflow_provider_manxue.waiting import WaitingTask, is_rendered_later

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context, XComArg


class ManxueVideoSensor(WaitingTask):
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
    :raises ManxueInputError: if an argument cannot be used.
    """

    template_fields: Sequence[str] = ("video_task_id", "manxue_conn_id")

    def __init__(
        self,
        *,
        video_task_id: str | dict[str, Any] | XComArg,
        manxue_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = True,
        poke_interval: timedelta | float = DEFAULT_POKE_INTERVAL,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            manxue_conn_id=manxue_conn_id,
            deferrable=deferrable,
            poke_interval=poke_interval,
            timeout=timeout,
            **kwargs,
        )
        self.video_task_id = video_task_id
        if not is_rendered_later(self.video_task_id):
            read_video_task_id(self.video_task_id)

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Ask once, and wait if the video is not ready.

        :return: the whole task, under the service's field names.
        """
        with self._endings():
            started_at = self._started_at(context)
            return self._wait(context, started_at)

    def execute_complete(self, context: Context, event: Any, started_at: float) -> dict[str, Any]:
        """
        Go on when the trigger has fired.

        The task is read again: events hold no URL, and this one is fresh. If the service does not answer just
        now, the task defers again within the same deadline.

        :param event: what the trigger said.
        :param started_at: when the wait began, in seconds since the epoch.
        """
        if (error := read_event(event)) is not None:
            self._raise_error(error)
        return self._wait(context, started_at, last_answer=str(event.get("last_answer", "")))

    def _wait(self, context: Context, started_at: float, last_answer: str = "") -> dict[str, Any]:
        wait = Wait(
            video_task_id=read_video_task_id(self.video_task_id),
            policy=self._policy,
            started_at=started_at,
            deadline=started_at + self._patience,
            last_answer=last_answer,
            # A rescheduled task keeps no state, so its grace is counted from the start of the wait.
            grace_since=started_at if self._is_rescheduled else None,
        )
        while True:
            decision = wait.after(self._ask(wait.video_task_id), time.time())
            for news in decision.news:
                self.log.log(news.level, news.text)
            match decision:
                case Completed():
                    return self._hand_over(context, decision.task)
                case Ended():
                    self._raise_error(decision.error)
                case AskAgain():
                    self._pause(wait, decision)

    def _ask(self, video_task_id: str) -> VideoTask | ManxueError:
        try:
            return self.hook.get_video_task(video_task_id)
        except ManxueError as error:
            return error

    def _pause(self, wait: Wait, decision: AskAgain) -> None:
        """Let the time until the next poll pass, in the way of this mode; only poke mode returns."""
        if self.deferrable:
            self._defer_until(wait, decision)
        self._pause_on_worker(decision, wait.deadline, wait.timed_out)

    def _defer_until(self, wait: Wait, decision: AskAgain) -> NoReturn:
        from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger

        now = time.time()
        self.log.info(
            "Waiting for the video %s in the triggerer, without a worker slot: every %g s, until %s at the latest.",
            wait.video_task_id,
            wait.policy.interval,
            datetime.fromtimestamp(wait.deadline, tz=UTC).isoformat(timespec="seconds"),
        )
        self.defer(
            trigger=ManxueVideoTrigger(
                video_task_id=wait.video_task_id,
                manxue_conn_id=self.manxue_conn_id,
                poke_interval=wait.policy.interval,
                started_at=wait.started_at,
                deadline=wait.deadline,
                first_poll_at=first_poll_at(decision, now, wait.deadline),
                exponential_backoff=wait.policy.exponential_backoff,
                max_wait=wait.policy.max_wait,
                grace_since=wait.grace_since,
                last_answer=wait.last_answer,
            ),
            method_name="execute_complete",
            kwargs={"started_at": wait.started_at},
            timeout=self._backstop(wait.deadline),
        )

    def _hand_over(self, context: Context, task: VideoTask) -> dict[str, Any]:
        if self.do_xcom_push:
            context["ti"].xcom_push(key="video_url", value=task.video_url)
            context["ti"].xcom_push(key="actualDuration", value=task.actual_duration)
        return task.as_dict()
