"""The operator: orders a video, and waits for it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
)

from airflow_provider_manxue._airflow.single_wait import SingleVideoWait
from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID
from airflow_provider_manxue._core.ids import names_a_task, parse_video_task_id
from airflow_provider_manxue._core.polling import DEFAULT_POKE_INTERVAL, DEFAULT_TIMEOUT
from airflow_provider_manxue._core.rendering import is_rendered_later
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueInputError,
    ManxueOrderError,
    ManxueOrderUnknownError,
    ManxueRefusedError,
    ManxueTimeoutError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.links.manxue import ManxueVideoLink
from airflow_provider_manxue.order_record import Place
from airflow_provider_manxue.order_store import OrderStore
from airflow_provider_manxue.orders import Order, read_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context, XComArg

_ID_KEY = "video_task_id"
"""XCom key of the id of the order."""

_PARAMETERS = (
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


class ManxueCreateVideoOperator(SingleVideoWait):
    """
    Orders a video of the sd2_manxue service, **which costs money**, and waits until it is ready.

    The documented rules of an order are checked before anything is sent. What surely was not taken is sent again,
    up to five times; what may have been taken never is. With Airflow 3.3 and later, the order is bound to the task
    instance: an automatic retry goes on with it, whatever ended the earlier try, and so does a clear until the
    task's work was done. See ``docs/ordering.md``, also for what is not possible with an older Airflow.

    The wait is that of ``ManxueVideoSensor``: deferred by default (a triggerer must run), or, with
    ``deferrable=False``, on the worker. XCom: ``video_task_id``, before the wait begins; then ``video_url``,
    ``actualDuration`` and the whole task as return value, as the sensor has them. With
    ``wait_for_completion=False`` the return value is the id.

    Optional parameters that are None or empty are left out of the order.

    :param prompt: (templated) what the video shows.
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
    :param wait_for_completion: wait for the video; if False, the task ends with the id.
    :param durable: bind the order to the task instance, where Airflow has a task state store. If False, each run
        of the task orders anew, a retry as well.
    :param deferrable: wait in the triggerer. ``[operators] default_deferrable`` is not consulted.
    :param poke_interval: seconds (or ``timedelta``) between two polls; the service recommends 30 to 60.
    :param timeout: seconds (or ``timedelta``) after which the wait is given up.
    :param exponential_backoff: let the interval double from poll to poll, up to ``max_wait``.
    :param max_wait: longest interval in seconds (or ``timedelta``).
    :param soft_fail: skip the task when the video failed or a timeout has passed.
    :param never_fail: skip the task after any error.
    :raises ManxueInputError: if an argument cannot be used, naming each rule that is broken; nothing is sent.
    """

    template_fields: Sequence[str] = (*_PARAMETERS, "manxue_conn_id")
    operator_extra_links = (ManxueVideoLink(),)

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
        self._check_arguments()

    def _check_arguments(self) -> None:
        """Refuse at parse time what rendering cannot cure."""
        if self.mode != "poke":
            raise ManxueInputError(
                f"mode={self.mode!r} cannot be used: each poll would order again. Use deferrable=True, which holds no "
                f"worker slot either, or wait_for_completion=False and a ManxueVideoSensor."
            )
        if not any(map(is_rendered_later, self._parameters.values())):
            read_order(**self._parameters)

    @property
    def reschedule(self) -> bool:
        """False: some executors of Airflow 2 set ``mode`` to ``reschedule``, by which each poll would order again."""
        return False

    @property
    def _parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _PARAMETERS}

    def execute(self, context: Context) -> dict[str, Any] | str:
        """
        Order, or go on with what this task instance has ordered already, and wait.

        :return: the whole task, under the service's field names; the id, with ``wait_for_completion=False``.
        """
        with self._apply_skip_policy():
            order = read_order(**self._parameters)
            video_task_id = self._find_or_order(order, context)
            with self._kept(context, video_task_id):
                self._push_id(context, video_task_id)
                if not self.wait_for_completion:
                    self._seen = [{"id": video_task_id, "model": self.model}]
                    return video_task_id
                return self._begin(context, video_task_id)

    def _push_id(self, context: Context, video_task_id: str) -> None:
        if self.do_xcom_push or (self.wait_for_completion and self.deferrable):
            # Also where nothing is handed over: it leads back to the video if Airflow drops the deferral.
            self._push_xcoms(context, {_ID_KEY: video_task_id})

    def execute_complete(
        self,
        context: Context,
        event: Any,
        started_at: float | None = None,
        try_number: int | None = None,
    ) -> dict[str, Any]:
        """
        Resume when the trigger has fired, as the sensor does.

        :param event: the trigger's event.
        :param started_at: when the wait began, in seconds since the epoch.
        :param try_number: number of the try that deferred.
        """
        video_task_id = str(event.get("video_task_id", "")) if isinstance(event, dict) else ""
        with self._kept(context, video_task_id):
            return super().execute_complete(context, event, started_at, try_number)

    def _resume_stale(self, context: Context, video_task_id: str) -> dict[str, Any]:
        # The event of an earlier try names the order; nothing is sent.
        video_task_id = video_task_id or self._awaited_id(context)
        self._push_id(context, video_task_id)  # Airflow has deleted the XComs of that try
        return super()._resume_stale(context, video_task_id)

    def _resume_after_failure(self, context: Context, reason: str) -> dict[str, Any]:
        video_task_id = self._awaited_id(context)
        with self._kept(context, video_task_id):
            self._push_id(
                context, video_task_id
            )  # a retry can resume here, without the XComs of the earlier try
            return super()._resume_after_failure(context, reason)

    def _awaited_id(self, context: Context) -> str:
        """Return the id of the order that this task instance has placed: from its record, else from its XCom."""
        ti = context["ti"]
        try:
            video_task_id = self._order_store(context).ordered_id() if self.durable else None
            if video_task_id is None:
                video_task_id = ti.xcom_pull(task_ids=ti.task_id, key=_ID_KEY, map_indexes=ti.map_index)
        except Exception as error:  # noqa: BLE001 - whatever it is, no retry may order again
            self.log.warning("The id of the order could not be loaded (%s).", type(error).__name__)
            video_task_id = None
        if not names_a_task(video_task_id):
            raise ManxueOrderUnknownError(
                "Airflow ended the deferral of this task, and the id of its order is in neither its record nor its XCom "
                "'video_task_id'. The log of this task names it: wait for it with a ManxueVideoSensor."
            )
        return parse_video_task_id(video_task_id)

    def _find_or_order(self, order: Order, context: Context) -> str:
        store = self._order_store(context)
        video_task_id = store.find(order.fingerprint)
        if video_task_id is not None:
            self.log.info(
                "Going on with the video %s, which is ordered already; nothing is sent.", video_task_id
            )
            return video_task_id
        if self.durable and not store.binds:
            self.log.warning(
                "This Airflow has no task state store (3.3 and later have one): if the worker dies, a retry orders anew."
            )
        video_task_id = self.hook.place_order(order, lambda: store.sending(order.fingerprint)).id
        store.ordered(video_task_id)
        return video_task_id

    @contextlib.contextmanager
    def _kept(self, context: Context, video_task_id: str) -> Iterator[None]:
        """Keep how the work on an order ends, so that no retry buys it again."""
        if not self.durable:
            yield
            return
        store = self._order_store(context)
        try:
            yield
        except ManxueVideoFailedError:
            store.failed()
            raise
        except ManxueRefusedError as error:
            raise store.lost(error) from None
        except AirflowTaskTimeout as error:
            if store.binds:
                raise
            # Airflow retries that one, and the retry would order again; it does not retry a sensor's timeout.
            raise ManxueTimeoutError(
                f"{error} The video {video_task_id!r} is ordered. Wait for it with a ManxueVideoSensor; clear this task to "
                f"order anew."
            ) from error
        except Exception as error:
            # Also what is not ours, such as an XCom backend's error: a retry would order again.
            if store.binds or isinstance(error, (AirflowFailException, AirflowSensorTimeout)):
                raise
            reason = str(error) if isinstance(error, ManxueError) else f"{type(error).__name__}."
            raise ManxueOrderError(
                f"{reason} The video {video_task_id!r} is ordered, and a retry would order another one, so there is "
                f"none. Wait for it with a ManxueVideoSensor; clear this task to order anew."
            ) from error
        else:
            store.done(video_task_id)

    def _order_store(self, context: Context) -> OrderStore:
        ti = context["ti"]
        place = Place(
            ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index, ti.max_tries
        )
        return OrderStore(context.get("task_state_store") if self.durable else None, place, self.log)
