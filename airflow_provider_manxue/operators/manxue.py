"""Operator that orders a video and waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._airflow.ordered_video_wait import OrderedVideoWait
from airflow_provider_manxue._airflow.ordered_wait import HAS_STATE_STORE
from airflow_provider_manxue._airflow.run_limit import RunLimit
from airflow_provider_manxue._airflow.task_defaults import EXECUTION_TIMEOUT, RETRIES
from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID
from airflow_provider_manxue._core.ids import as_list
from airflow_provider_manxue._core.orders import VideoRequest, parse_video_request
from airflow_provider_manxue._core.polling import DEFAULT_POKE_INTERVAL, DEFAULT_TIMEOUT
from airflow_provider_manxue._core.run_limit import KEY as SECONDS_KEY
from airflow_provider_manxue._core.run_limit import check_argument as check_run_limit
from airflow_provider_manxue.links.manxue import NO_LINKS, ManxueVideoLink

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from contextlib import AbstractContextManager
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context, XComArg

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
    :param durable: bind the order to the task instance (Airflow 3.3 and later). If False, each try orders.
    :param order_timeout: seconds (or ``timedelta``) from the start of a try within which the order must be accepted; None
        for ``timeout``. After that the task fails with ``ManxueOrderTimeoutError``, and ``retries`` apply.
    :param max_seconds_per_run: seconds of video that all tasks of the Dag run with this argument order together (Airflow 3.3 and
        later); None for no limit. An order that would exceed it is not sent, and the task fails with ``ManxueRunLimitError``.
        ``docs/ordering.md`` describes what is counted.
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
        self.reference_images = as_list(reference_images, "reference_images")
        self.reference_videos = as_list(reference_videos, "reference_videos")
        self.reference_audios = as_list(reference_audios, "reference_audios")
        self.wait_for_completion = wait_for_completion
        self.durable = durable
        self.order_timeout = order_timeout
        self.max_seconds_per_run = max_seconds_per_run
        if not (do_xcom_push and wait_for_completion):
            self.operator_extra_links = NO_LINKS
        self._check_order_arguments(self._order_fields)
        check_run_limit(max_seconds_per_run, has_state_store=HAS_STATE_STORE)

    @classmethod
    def partial(cls, *, task_id: str, max_seconds_per_run: float | None = None, **kwargs: Any) -> Any:
        """
        Return the operator for mapping. Checks ``max_seconds_per_run`` at parse time.

        :param task_id: id of the mapped task.
        :param max_seconds_per_run: as in the constructor, for all mapped tasks together.
        :param kwargs: other arguments of the constructor.
        """
        check_run_limit(max_seconds_per_run, has_state_store=HAS_STATE_STORE)
        if max_seconds_per_run is not None:
            kwargs["max_seconds_per_run"] = max_seconds_per_run
        return super().partial(task_id=task_id, **kwargs)

    @property
    def _hidden_texts(self) -> tuple[str, ...]:
        return (str(self.prompt),)

    @property
    def _order_fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _ORDER_FIELDS}

    def dry_run(self) -> None:
        """
        Check the rules, and log the model, the seconds and the fields of the order. Nothing is sent.

        Airflow's own method would log the template fields with the signatures of their URLs.

        :raises ManxueInputError: naming each rule that is broken.
        """
        request = self._request()
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
        return self._start(context)  # type: ignore[no-any-return]

    def _request(self) -> VideoRequest:
        return parse_video_request(**self._order_fields)

    def _prepare(self, context: Context) -> None:
        self._run_limit(context).publish()

    def _reserve(self, context: Context, request: VideoRequest) -> AbstractContextManager[None]:
        return self._run_limit(context).reserve(request.counted_seconds)

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

    def _check_before_order(self) -> None:
        from airflow_provider_manxue.operators._downstream_stores import check_downstream_stores

        check_downstream_stores(self, self.log)
