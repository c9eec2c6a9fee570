"""Operator that orders a video and waits for it."""

from __future__ import annotations

import math
import random
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._airflow.order_life import retry_only_unsent, send_once
from airflow_provider_manxue._airflow.ordered_video_wait import OrderedVideoWait
from airflow_provider_manxue._airflow.rendering import is_rendered_later
from airflow_provider_manxue._airflow.run_limit import RunLimit
from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue._airflow.task_defaults import EXECUTION_TIMEOUT, RETRIES
from airflow_provider_manxue._airflow.video_tab import push_record
from airflow_provider_manxue._core import tab_record
from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID
from airflow_provider_manxue._core.deadline import DEFER_TIMEOUT_MARGIN, EVENT_MARGIN, to_seconds
from airflow_provider_manxue._core.order_timing import MAX_DELAY_ON_WORKER, OrderBounds, OrderProgress
from airflow_provider_manxue._core.orders import VideoRequest, parse_video_request
from airflow_provider_manxue._core.polling import DEFAULT_POKE_INTERVAL, DEFAULT_TIMEOUT
from airflow_provider_manxue._core.run_limit import KEY as SECONDS_KEY
from airflow_provider_manxue._core.run_limit import check_argument as check_run_limit
from airflow_provider_manxue.exceptions import ManxueInputError, ManxueOrderNotAcceptedError
from airflow_provider_manxue.links.manxue import NO_LINKS, ManxueVideoLink

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context, XComArg

    from airflow_provider_manxue._airflow.order_store import OrderStore

_ORDER_FIELDS = (
    "prompt",
    "model",
    "duration",
    "ratio",
    "first_image",
    "last_image",
    "reference_images",
    "reference_videos",
    "reference_audios",
)


_HAS_STATE_STORE = CAN_START_AND_END
"""Whether this Airflow has a task state store. Airflow 3.3 added it together with the rendering of templates in triggers."""


class ManxueCreateVideoOperator(OrderedVideoWait):
    """
    Operator that orders a video of the sd2_manxue service, **which costs money**, and waits until it is ready.

    The documented rules of an order are checked before anything is sent. An order that was certainly not accepted, for
    example because the account has no room, is sent again until ``order_timeout``. An order that may have been accepted
    is never sent again. With Airflow 3.3 and later, the order is bound to the task instance: an automatic retry continues
    with it, and so does a clear until the task has delivered the video. ``docs/ordering.md`` has the details, and the
    limits of older versions of Airflow.

    The task waits as ``ManxueVideoSensor`` does: deferred by default (a triggerer must run), or on the worker with
    ``deferrable=False``. XCom: ``video_task_id``, pushed before the wait begins; then ``video_url``, ``actualDuration``
    and the whole task as return value, as the sensor pushes them. With ``wait_for_completion=False`` the return value is
    the id.

    Optional parameters that are None or empty are left out of the request.

    :param prompt: (templated) description of the video.
    :param model: (templated) name of the model, which decides the resolution, for example ``sd2_manxue_1080p``.
    :param duration: (templated) length in whole seconds, 4 to 15; the service's default is 5.
    :param ratio: (templated) ``21:9``, ``16:9``, ``4:3``, ``1:1``, ``3:4`` or ``9:16``; the service's default is
        ``16:9``.
    :param first_image: (templated) URL of the first frame; excludes references.
    :param last_image: (templated) URL of the last frame; only together with ``first_image``.
    :param reference_images: (templated) URLs of at most 9 reference images.
    :param reference_videos: (templated) URLs of at most 3 reference videos; only with a ``..._video_...`` model.
    :param reference_audios: (templated) URLs of at most 3 reference audios.
    :param manxue_conn_id: (templated) id of the Airflow connection.
    :param wait_for_completion: wait for the video; if False, the task ends when the order is accepted.
    :param durable: bind the order to the task instance, where Airflow has a task state store. If False, each try orders.
    :param order_timeout: seconds (or ``timedelta``) from the start of a try within which the order must be accepted; None
        for ``timeout``. After that the task fails with ``ManxueOrderTimeoutError``, and ``retries`` apply.
    :param max_seconds_per_run: seconds of video that all tasks of the Dag run with this argument order together; None for no
        limit. An order that would exceed it is not sent, and the task fails with ``ManxueRunLimitError``. Needs Airflow 3.3 or
        later. ``docs/ordering.md`` says what is counted.
    :param deferrable: wait in the triggerer, for room and for the video. ``[operators] default_deferrable`` is not consulted.
    :param poke_interval: seconds (or ``timedelta``) between two polls; the service recommends 30 to 60.
    :param timeout: seconds (or ``timedelta``) from the acceptance of the order to the deadline of the wait.
    :param execution_timeout: longest time from the start of a try to its end. It bounds ``order_timeout`` and ``timeout``.
    :param exponential_backoff: double the interval from poll to poll, up to ``max_wait``.
    :param max_wait: longest interval in seconds (or ``timedelta``).
    :param soft_fail: skip the task when the video failed or ``timeout`` or ``execution_timeout`` has passed.
    :param never_fail: skip the task after any error.
    :param retries: number of retries. Below Airflow 3.3 a retry can order a second video, and a value above 0 warns.
    :param do_xcom_push: push the results to XCom.
    :param kwargs: arguments of ``BaseSensorOperator``. ``mode`` must be ``poke``.
    :raises ManxueInputError: if an argument cannot be used. The error names each broken rule, and nothing is sent.
    """

    template_fields: Sequence[str] = (*_ORDER_FIELDS, "manxue_conn_id")
    operator_extra_links: Collection[BaseOperatorLink] = (ManxueVideoLink(),)

    def __init__(
        self,
        *,
        prompt: str | XComArg,
        model: str | XComArg,
        duration: int | str | XComArg | None = None,
        ratio: str | XComArg | None = None,
        first_image: str | XComArg | None = None,
        last_image: str | XComArg | None = None,
        reference_images: Sequence[str] | XComArg | None = None,
        reference_videos: Sequence[str] | XComArg | None = None,
        reference_audios: Sequence[str] | XComArg | None = None,
        manxue_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool = True,
        durable: bool = True,
        order_timeout: timedelta | float | None = None,
        max_seconds_per_run: float | None = None,
        deferrable: bool = True,
        poke_interval: timedelta | float = DEFAULT_POKE_INTERVAL,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        execution_timeout: timedelta | None = EXECUTION_TIMEOUT,
        exponential_backoff: bool = False,
        max_wait: timedelta | float | None = None,
        soft_fail: bool = False,
        never_fail: bool = False,
        retries: int | None = RETRIES,
        do_xcom_push: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            manxue_conn_id=manxue_conn_id,
            deferrable=deferrable,
            poke_interval=poke_interval,
            timeout=timeout,
            execution_timeout=execution_timeout,
            exponential_backoff=exponential_backoff,
            max_wait=max_wait,
            soft_fail=soft_fail,
            never_fail=never_fail,
            retries=retries,
            do_xcom_push=do_xcom_push,
            **kwargs,
        )
        self.prompt = prompt
        self.model = model
        self.duration = duration
        self.ratio = ratio
        self.first_image = first_image
        self.last_image = last_image
        self.reference_images = reference_images
        self.reference_videos = reference_videos
        self.reference_audios = reference_audios
        self.wait_for_completion = wait_for_completion
        self.durable = durable
        self.order_timeout = order_timeout
        if not (do_xcom_push and wait_for_completion):
            self.operator_extra_links = NO_LINKS
        self.max_seconds_per_run = max_seconds_per_run
        self._check_arguments()

    def _check_arguments(self) -> None:
        """Refuse arguments at parse time, unless they are rendered later."""
        if self.mode != "poke":
            raise ManxueInputError(
                f"mode={self.mode!r} cannot be used: each poll would order again. Use deferrable=True, which holds no "
                f"worker slot either, or wait_for_completion=False and a ManxueVideoSensor."
            )
        if not any(map(is_rendered_later, self._order_fields.values())):
            parse_video_request(**self._order_fields)
        if self.order_timeout is not None and not self._order_timeout > 0:
            raise ManxueInputError(
                f"order_timeout must be a positive number of seconds, not {self.order_timeout!r}."
            )
        check_run_limit(self.max_seconds_per_run, has_state_store=_HAS_STATE_STORE)
        if self.durable and self.retries and not _HAS_STATE_STORE:
            warnings.warn(
                f"retries={self.retries} can order a second video: this Airflow has no task state store (3.3 and later have "
                f"one), so after a killed worker a retry orders again. Set retries=0.",
                stacklevel=4,
            )

    @classmethod
    def partial(cls, *, task_id: str, max_seconds_per_run: float | None = None, **kwargs: Any) -> Any:
        """
        Return the operator for mapping. Checks ``max_seconds_per_run`` at parse time.

        :param task_id: id of the mapped task.
        :param max_seconds_per_run: as in the constructor, for all mapped tasks together.
        :param kwargs: other arguments of the constructor.
        """
        check_run_limit(max_seconds_per_run, has_state_store=_HAS_STATE_STORE)
        if max_seconds_per_run is not None:
            kwargs["max_seconds_per_run"] = max_seconds_per_run
        return super().partial(task_id=task_id, **kwargs)

    @property
    def _hidden_texts(self) -> tuple[str, ...]:
        return (str(self.prompt),)

    @property
    def reschedule(self) -> bool:
        """False. Some executors of Airflow 2 set ``mode`` to ``reschedule``, and then each poll would order again."""
        return False

    @property
    def _order_fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _ORDER_FIELDS}

    def dry_run(self) -> None:
        """
        Check the rules, and log the model, the seconds and the fields of the order. Nothing is sent.

        Airflow's own method would log the template fields with the signatures of their URLs.

        :raises ManxueInputError: naming each rule that is broken.
        """
        request = parse_video_request(**self._order_fields)
        self.hook.check_references(request)
        seconds = "the service's default length" if request.seconds is None else f"{request.seconds} s"
        self.log.info("Dry run: %s of video with the model %s would be ordered.", seconds, self.model)
        for name, value in request.loggable_fields.items():
            self.log.info("Dry run: %s = %s", name, value)
        for caution in request.cautions:
            self.log.warning("Dry run: %s", caution)

    def execute(self, context: Context) -> dict[str, Any] | str:
        """
        Order, or continue with the order of this task instance, and wait.

        :return: the whole task, under the service's field names; the id, with ``wait_for_completion=False``.
        """
        with self._apply_skip_policy(context):
            return self._order_and_wait(context, OrderProgress(time.time()))

    def execute_order(
        self,
        context: Context,
        event: Any = None,
        started_at: float | None = None,
        attempts: int = 0,
        since: str | None = None,
        try_number: int | None = None,
    ) -> dict[str, Any] | str:
        """
        Resume when the delay of an order that waits for room is over, and send it again.

        :param event: the trigger's event.
        :param started_at: first start of the try that deferred, in seconds since the epoch.
        :param attempts: how often the order was sent and not accepted.
        :param since: time of the last intent, in the form of the record.
        :param try_number: number of the try that deferred.
        """
        if self._is_stale(context, try_number) or started_at is None:
            self.log.info(
                "Airflow resumed this try with the arguments of an earlier try. This try starts like any retry."
            )
            return self._order_and_wait(context, OrderProgress(time.time()))
        return self._order_and_wait(context, OrderProgress(started_at, attempts, since))

    def _order_and_wait(self, context: Context, progress: OrderProgress) -> dict[str, Any] | str:
        self._run_limit(context).publish()
        request = parse_video_request(**self._order_fields)
        store = self._order_store(context)
        order = store.resume_id(request, progress.since)
        if order is None:
            video_task_id = self._place_order(context, store, request, progress)
        else:
            video_task_id = order.id
            if order.caution:
                self.log.warning("%s", order.caution)
            self.log.info(
                "Continuing with the video %s, which is already ordered. Nothing is sent.", order.id
            )
        with self._track_order_outcome(context, video_task_id):
            self._push_id(context, video_task_id)
            if not self.wait_for_completion:
                self._seen = [{"id": video_task_id, "model": self.model}]
                return video_task_id
            self._order_time = time.time() - progress.started_at
            return self._begin(context, video_task_id)

    def _place_order(
        self, context: Context, store: OrderStore, request: VideoRequest, progress: OrderProgress
    ) -> str:
        """
        Send the order until it is accepted, and return the id of its video.

        :raises ManxueOrderTimeoutError: if the order was not accepted in time.
        :raises ManxueRunLimitError: if the order would exceed ``max_seconds_per_run``.
        :raises ManxueOrderError: if the order was rejected, or its outcome is unknown.
        """
        from airflow_provider_manxue.operators._downstream_stores import check_downstream_stores

        self.hook.check_references(request)
        check_downstream_stores(self, self.log)
        is_unbound = self.durable and not store.enabled
        if is_unbound and not progress.attempts:
            self.log.warning(
                "This Airflow has no task state store (3.3 and later have one): if the worker is killed, a retry orders again."
            )
        bounds, run_limit = self._order_bounds, self._run_limit(context)
        while True:
            bounds.check(progress.started_at, time.time())
            try:
                with (
                    retry_only_unsent(context["ti"]) if is_unbound else nullcontext(),
                    run_limit.reserve(request.counted_seconds),
                ):
                    return send_once(request, self.hook, store)
            except ManxueOrderNotAcceptedError as error:
                error.raise_cause()
                progress = OrderProgress(progress.started_at, progress.attempts + 1, store.intent_since)
                next_at = bounds.next_attempt_at(
                    progress.started_at,
                    time.time(),
                    progress.attempts,
                    error.retry_after,
                    random.random(),  # noqa: S311
                )
                if next_at is None:
                    raise bounds.timeout_error(str(error)) from None
                self.log.warning("%s. Sending it again in %.0f s.", error, next_at - time.time())
            self._wait_for_room(context, progress, next_at)

    def _run_limit(self, context: Context) -> RunLimit:
        ti = context["ti"]
        return RunLimit(
            self.max_seconds_per_run,
            context.get("task_state_store"),
            push=lambda seconds: self._push_xcoms(context, {SECONDS_KEY: seconds}),
            pull=lambda: ti.xcom_pull(task_ids=self._order_task_ids, key=SECONDS_KEY),
            log=self.log,
        )

    @property
    def _order_task_ids(self) -> list[str]:
        """Ids of all tasks of the Dag that order videos, mapped or not."""
        dag = self.get_dag()
        if dag is None:
            return [self.task_id]
        kinds = {task.task_id: getattr(task, "operator_class", type(task)) for task in dag.tasks}
        return [task_id for task_id, kind in kinds.items() if issubclass(kind, ManxueCreateVideoOperator)]

    @property
    def _order_bounds(self) -> OrderBounds:
        first_polls = 2 * self.poke_interval if self.wait_for_completion else 0.0
        return OrderBounds(
            order_timeout=self._order_timeout,
            execution_timeout=self._task_timeout,
            reserve=self.hook.settings.request_timeout + first_polls,
        )

    @property
    def _order_timeout(self) -> float:
        """Seconds from the start of the try within which the order is sent."""
        return float(self.timeout if self.order_timeout is None else to_seconds(self.order_timeout))

    @property
    def _task_timeout(self) -> float:
        """Seconds of ``execution_timeout``; infinite if there is none."""
        return self.execution_timeout.total_seconds() if self.execution_timeout else math.inf

    def _wait_for_room(self, context: Context, progress: OrderProgress, next_at: float) -> None:
        """Return when the order is to be sent again, or defer until then."""
        now = time.time()
        if not self.deferrable or next_at - now <= MAX_DELAY_ON_WORKER:
            time.sleep(max(0.0, next_at - now))
            return
        from airflow_provider_manxue.triggers.manxue import ManxueOrderRoomTrigger

        self.log.info("The order waits in the triggerer for capacity of the service. No worker slot is held.")
        if self.do_xcom_push:
            deadline = progress.started_at + min(self._order_timeout, self._task_timeout)
            record = tab_record.waiting_for_room(progress.attempts, next_at, deadline=deadline, now=now)
            push_record(context, record, self.log)
        ends_at = min(next_at + DEFER_TIMEOUT_MARGIN, progress.started_at + self._task_timeout)
        self.defer(
            trigger=ManxueOrderRoomTrigger(resume_at=next_at),
            method_name="execute_order",
            kwargs={**asdict(progress), **self._try_number(context)},
            timeout=timedelta(seconds=max(ends_at - now, EVENT_MARGIN)),
        )
