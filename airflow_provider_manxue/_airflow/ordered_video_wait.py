"""Base of the tasks that wait for a video that they have ordered."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_manxue._airflow.order_life import track_order
from airflow_provider_manxue._airflow.order_store import OrderStore
from airflow_provider_manxue._airflow.single_wait import SingleVideoWait
from airflow_provider_manxue._core.ids import names_a_task, parse_video_task_id
from airflow_provider_manxue._core.order_record import OrderState, TaskInstanceRef
from airflow_provider_manxue.exceptions import ManxueOrderTimeoutError, ManxueOrderUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_manxue._core.deadline import TimeLimits

_ID_KEY = "video_task_id"
"""XCom key of the id of the order."""


class OrderedVideoWait(SingleVideoWait):
    """
    Wait for an ordered video. Its end is persisted in the record of the order, so that no retry orders again.

    :ivar durable: whether the order is bound to the task instance.
    :ivar wait_for_completion: whether the task waits for the video.
    """

    durable: bool
    wait_for_completion: bool

    _order_time = 0.0
    """Seconds from the first start of the try to the acceptance of the order."""

    def _push_id(self, context: Context, video_task_id: str) -> None:
        if self.do_xcom_push or (self.wait_for_completion and self.deferrable):
            # Also with do_xcom_push=False, if the task defers: Airflow may drop the deferral, and with it the id.
            self._push_xcoms(context, {_ID_KEY: video_task_id})

    @property
    def _limits(self) -> TimeLimits:
        """The limits of the wait. It begins when the order is accepted; ``execution_timeout`` counts from the start of the try."""
        limits = super()._limits
        return replace(limits, execution_timeout=limits.execution_timeout - self._order_time)

    def _try_number(self, context: Context) -> dict[str, Any]:
        order_time = {"order_time": self._order_time} if self._order_time else {}
        return {**super()._try_number(context), **order_time}

    def execute_complete(
        self,
        context: Context,
        event: Any,
        started_at: float | None = None,
        try_number: int | None = None,
        order_time: float = 0.0,
    ) -> dict[str, Any]:
        """
        Resume when the trigger has fired, and read the video.

        :param order_time: seconds from the first start of the try that deferred to the acceptance of the order.
        """
        self._order_time = order_time
        video_task_id = str(event.get("video_task_id", "")) if isinstance(event, dict) else ""
        with self._track_order_outcome(context, video_task_id):
            return super().execute_complete(context, event, started_at, try_number)

    def _resume_stale(self, context: Context, video_task_id: str) -> dict[str, Any]:
        # The event of the earlier try names the order, so nothing is sent.
        self._order_time = 0.0
        video_task_id = video_task_id or self._awaited_id(context)
        self._push_id(context, video_task_id)  # Airflow has deleted the XComs of the earlier try
        return super()._resume_stale(context, video_task_id)

    def _resume_after_failure(self, context: Context, reason: str) -> dict[str, Any]:
        self._check_accepted(context, reason)
        video_task_id = self._awaited_id(context)
        with self._track_order_outcome(context, video_task_id):
            # This can be a retry, and Airflow has deleted the XComs of the earlier try.
            self._push_id(context, video_task_id)
            return super()._resume_after_failure(context, reason)

    def _started_before_failure(self, context: Context, reason: str) -> float:
        """Return when the order was accepted, from its record. Without a record, when the task started."""
        first_start = super()._started_before_failure(context, reason)
        accepted_at = first_start
        # A store can fail in any way, and a user may have edited the record.
        with contextlib.suppress(Exception):
            record = self._order_store(context).load()
            if record and record.since:
                accepted_at = max(first_start, datetime.fromisoformat(record.since).timestamp())
        self._order_time = accepted_at - first_start
        return accepted_at

    def _check_accepted(self, context: Context, reason: str) -> None:
        """
        End a task whose order was waiting for capacity. Only the record shows that, since Airflow has dropped the deferral.

        :raises ManxueOrderTimeoutError: if no order was accepted.
        """
        record = None
        with contextlib.suppress(Exception):  # _awaited_id raises an error with the remedy
            record = self._order_store(context).load()
        if record is not None and record.state is OrderState.NOT_ACCEPTED:
            raise ManxueOrderTimeoutError(
                f"Airflow ended the deferral of an order that was waiting for capacity: {reason or 'no reason given'}. Nothing "
                f"was ordered. A retry or a clear sends the order again. Check that a triggerer is running and not overloaded."
            )

    def _awaited_id(self, context: Context) -> str:
        """Return the id of the task instance's order: from its record, else from its XCom."""
        store = self._order_store(context)
        sources: dict[str, Callable[[], Any]] = {
            "record": lambda: getattr(store.load(), "id", None),
            "XCom": lambda: self._pull_own_xcom(context, _ID_KEY),
        }
        for name, load in sources.items():
            try:
                video_task_id = load()
            except (Exception, AirflowTaskTimeout) as error:  # no retry may order again
                if store.enabled and isinstance(error, AirflowTaskTimeout):
                    raise  # a retry continues with the record
                self.log.warning("The %s of the order could not be loaded (%s).", name, type(error).__name__)
                continue
            if names_a_task(video_task_id):
                return parse_video_task_id(video_task_id)
        raise ManxueOrderUnknownError(
            "Airflow ended the deferral of this task, and the id of its order could be loaded neither from its record nor "
            "from its XCom 'video_task_id'. If the log of this task names an id, wait for it with a ManxueVideoSensor. If "
            "the log ends with an order that was not accepted, nothing was ordered: clear the task. Check with the service "
            "before you order again."
        )

    def _track_order_outcome(self, context: Context, video_task_id: str) -> AbstractContextManager[None]:
        if not self.durable:
            return contextlib.nullcontext()
        return track_order(video_task_id, self._order_store(context), context["ti"])

    def _order_store(self, context: Context) -> OrderStore:
        ti = context["ti"]
        map_index = -1 if ti.map_index is None else ti.map_index
        ref = TaskInstanceRef(ti.dag_id, ti.run_id, ti.task_id, map_index, ti.max_tries)
        return OrderStore(context.get("task_state_store") if self.durable else None, ref, self.log)
