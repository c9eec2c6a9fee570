"""Sensors for one video and for many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._airflow.batch_wait import BatchVideoWait
from airflow_provider_manxue._airflow.rendering import is_rendered_later
from airflow_provider_manxue._airflow.single_wait import SingleVideoWait
from airflow_provider_manxue._airflow.task_defaults import EXECUTION_TIMEOUT
from airflow_provider_manxue._airflow.triggerer_sensor import StartFromTriggerSensor
from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID
from airflow_provider_manxue._core.ids import as_list, parse_video_task_id, parse_video_task_ids
from airflow_provider_manxue._core.polling import DEFAULT_POKE_INTERVAL, DEFAULT_TIMEOUT
from airflow_provider_manxue.links.manxue import NO_LINKS, ManxueVideoLink

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context, XComArg


class ManxueVideoSensor(StartFromTriggerSensor, SingleVideoWait):
    """
    Sensor that waits until a video of the sd2_manxue service is ready.

    The worker polls once. If the video is not ready, the task defers, and the triggerer polls. A triggerer must run, and no
    worker slot is held. With ``deferrable=False`` the worker polls until the wait ends (``mode="poke"``), or Airflow starts
    a new worker process for each poll (``mode="reschedule"``).

    XCom, the same in every mode: ``video_url`` (expires, download it within a day), ``actualDuration`` (seconds, None if
    the service omits it), and as return value the whole task under the service's field names.

    A failed video fails the task without retries. A timeout raises ``AirflowSensorTimeout``. Outages, 5xx and 429 responses
    do not end a wait.

    :param video_task_id: (templated) id of the task that the create call returned, or the whole response of that call.
    :param manxue_conn_id: (templated) id of the Airflow connection.
    :param deferrable: wait in the triggerer. ``[operators] default_deferrable`` is not consulted.
    :param poke_interval: seconds (or ``timedelta``) between two polls; the service recommends 30 to 60.
    :param timeout: seconds (or ``timedelta``) from the first poll to the deadline.
    :param execution_timeout: longest time of the whole wait, unless ``mode`` is ``reschedule``, where Airflow applies it to
        each poke.
    :param mode: ``poke`` or ``reschedule``. It has an effect with ``deferrable=False`` only.
    :param exponential_backoff: double the interval from poll to poll, up to ``max_wait``.
    :param max_wait: longest interval in seconds (or ``timedelta``).
    :param soft_fail: skip the task when the video failed or ``timeout`` or ``execution_timeout`` has passed.
    :param never_fail: skip the task after any error.
    :param do_xcom_push: push the results to XCom.
    :param start_from_trigger: start in the triggerer, without a worker (Airflow 3.3 and later). See
        ``docs/zero-workers.md``.
    :param end_from_trigger: when the video is completed, end in the triggerer, without a worker (Airflow 3.3 and later).
    :param kwargs: arguments of ``BaseSensorOperator``.
    :raises ManxueInputError: if an argument cannot be used.
    """

    template_fields: Sequence[str] = ("video_task_id", "manxue_conn_id")
    operator_extra_links: Collection[BaseOperatorLink] = (ManxueVideoLink(),)

    def __init__(
        self,
        *,
        video_task_id: str | dict[str, Any] | XComArg,
        manxue_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = True,
        poke_interval: timedelta | float = DEFAULT_POKE_INTERVAL,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        execution_timeout: timedelta | None = EXECUTION_TIMEOUT,
        mode: str = "poke",
        exponential_backoff: bool = False,
        max_wait: timedelta | float | None = None,
        soft_fail: bool = False,
        never_fail: bool = False,
        do_xcom_push: bool = True,
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            manxue_conn_id=manxue_conn_id,
            deferrable=deferrable,
            poke_interval=poke_interval,
            timeout=timeout,
            execution_timeout=execution_timeout,
            mode=mode,
            exponential_backoff=exponential_backoff,
            max_wait=max_wait,
            soft_fail=soft_fail,
            never_fail=never_fail,
            do_xcom_push=do_xcom_push,
            **kwargs,
        )
        self.video_task_id = video_task_id
        if not do_xcom_push:
            self.operator_extra_links = NO_LINKS
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
        with self._apply_skip_policy(context):
            return self._begin(context, self._awaited_id(context))

    def _awaited_id(self, context: Context) -> str:
        return parse_video_task_id(self.video_task_id)


class ManxueVideoBatchSensor(StartFromTriggerSensor, BatchVideoWait):
    """
    Sensor that waits until each of many videos is ready, with one deferral and one trigger for all of them.

    All videos together need two worker processes, where single sensors need two for each video. A failed video is logged,
    and the wait for the other videos continues. When the wait ends, also at the deadline, all results are in XCom:
    ``video_url`` and ``actualDuration`` as lists in the order of the ids (None for a video that was not completed), and as
    ``return_value`` the list of the whole tasks, with ``error`` for those that failed. Then the task fails with an error
    that names each video that was not completed, or succeeds if ``tolerate_failures`` is set.

    The task does not poll before it defers. The worker that resumes reads all tasks again, under the limits of the
    connection: with 10 requests per second, 1,000 videos take 100 seconds.

    :param video_task_ids: (templated) ids of the tasks, or the responses of create calls. An ``XComArg`` of a mapped task
        is possible. A repeated id is polled once.
    :param tolerate_failures: succeed although some videos failed or were not ready in time.
    :param manxue_conn_id: (templated) id of the Airflow connection.
    :param deferrable: wait in the triggerer. ``[operators] default_deferrable`` is not consulted.
    :param poke_interval: seconds (or ``timedelta``) between two polls of a video; the service recommends 30 to 60.
    :param timeout: seconds (or ``timedelta``) from the start of the wait to the deadline.
    :param execution_timeout: longest time of the whole wait, unless ``mode`` is ``reschedule``, where Airflow applies it to
        each poke.
    :param mode: ``poke`` or ``reschedule``. It has an effect with ``deferrable=False`` only.
    :param exponential_backoff: double the interval from poll to poll, up to ``max_wait``.
    :param max_wait: longest interval in seconds (or ``timedelta``).
    :param soft_fail: skip the task when a video failed or ``timeout`` or ``execution_timeout`` has passed.
    :param never_fail: skip the task after any error.
    :param do_xcom_push: push the results to XCom.
    :param start_from_trigger: start in the triggerer, without a worker (Airflow 3.3 and later). See
        ``docs/zero-workers.md``.
    :param end_from_trigger: when all videos are completed, end in the triggerer, without a worker (Airflow 3.3 and later).
    :param kwargs: arguments of ``BaseSensorOperator``.
    :raises ManxueInputError: if an argument cannot be used.
    """

    template_fields: Sequence[str] = ("video_task_ids", "manxue_conn_id")

    def __init__(
        self,
        *,
        video_task_ids: Iterable[str | dict[str, Any]] | XComArg,
        tolerate_failures: bool = False,
        manxue_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = True,
        poke_interval: timedelta | float = DEFAULT_POKE_INTERVAL,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        execution_timeout: timedelta | None = EXECUTION_TIMEOUT,
        mode: str = "poke",
        exponential_backoff: bool = False,
        max_wait: timedelta | float | None = None,
        soft_fail: bool = False,
        never_fail: bool = False,
        do_xcom_push: bool = True,
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            manxue_conn_id=manxue_conn_id,
            deferrable=deferrable,
            poke_interval=poke_interval,
            timeout=timeout,
            execution_timeout=execution_timeout,
            mode=mode,
            exponential_backoff=exponential_backoff,
            max_wait=max_wait,
            soft_fail=soft_fail,
            never_fail=never_fail,
            do_xcom_push=do_xcom_push,
            **kwargs,
        )
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
        with self._apply_skip_policy(context):
            return self._begin(context)  # type: ignore[no-any-return]

    def execute_complete(
        self,
        context: Context,
        event: Any,
        started_at: float | None = None,
        try_number: int | None = None,
        kept: bool = False,
    ) -> list[dict[str, Any]]:
        """
        Resume when the trigger has fired, and read the videos that have ended.

        :param event: the trigger's event.
        :param started_at: when the wait began, in seconds since the epoch; None if the event names it.
        :param try_number: number of the try that deferred.
        :param kept: whether the task had read some videos before it deferred. They are in its XCom ``manxue_kept``.
        """
        if self._begins_on_worker(event) or self._is_stale(context, try_number):
            return self.execute(context)
        return self._resume(context, event, started_at, kept=kept)  # type: ignore[no-any-return]
