"""
Base of the tasks that send a request once, and then wait for its result: an order of a video, or an upload of assets.

``docs/ordering.md`` explains the life of an order, under *For maintainers*.
"""

from __future__ import annotations

import abc
import contextlib
import math
import random
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_manxue._airflow.order_life import retry_only_unsent, send_once, track_order
from airflow_provider_manxue._airflow.order_store import OrderStore
from airflow_provider_manxue._airflow.rendering import is_rendered_later
from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue._airflow.video_tab import push_record
from airflow_provider_manxue._airflow.waiting import ManxueWaitBase
from airflow_provider_manxue._core import tab_record
from airflow_provider_manxue._core.deadline import DEFER_TIMEOUT_MARGIN, EVENT_MARGIN, to_seconds
from airflow_provider_manxue._core.order_record import OrderState, TaskInstanceRef
from airflow_provider_manxue._core.order_timing import MAX_DELAY_ON_WORKER, OrderBounds, OrderProgress
from airflow_provider_manxue.exceptions import (
    ManxueInputError,
    ManxueOrderNotAcceptedError,
    ManxueOrderTimeoutError,
    ManxueOrderUnknownError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_manxue._core.deadline import TimeLimits
    from airflow_provider_manxue._core.order_kinds import OrderKind
    from airflow_provider_manxue._core.orders import OrderRequest

HAS_STATE_STORE = CAN_START_AND_END
"""Whether this Airflow has a task state store. Airflow 3.3 added it together with the rendering of templates in triggers."""


class OrderedWait(ManxueWaitBase):
    """
    Sending of a request once, and the record of it, so that no retry sends it again. A subclass adds the wait.

    :cvar order_kind: what is sent.
    :cvar receipt_key: XCom key of the receipt, which is what the service returned for the request.
    :ivar durable: whether the order is bound to the task instance.
    :ivar order_timeout: seconds within which the order must be accepted; None for ``timeout``.
    """

    order_kind: ClassVar[OrderKind]
    receipt_key: ClassVar[str]

    durable: bool
    order_timeout: timedelta | float | None

    _order_time = 0.0
    """Seconds from the first start of the try to the acceptance of the order."""

    # --- what a subclass defines --------------------------------------------------------------------------

    @abc.abstractmethod
    def _request(self) -> OrderRequest:
        """Return the request from the arguments of the author; raises ``ManxueInputError``."""

    @abc.abstractmethod
    def _send(self, request: Any) -> Any:
        """Send the request once, and return its receipt."""

    @abc.abstractmethod
    def _parse_receipt(self, value: Any) -> Any:
        """Return a receipt from the record or an XCom; None if the value is none."""

    @abc.abstractmethod
    def _await_result(self, context: Context, receipt: Any) -> Any:
        """Begin the wait for the result of an accepted order, whose receipt is pushed."""

    def _prepare(self, context: Context) -> None:
        """Prepare each start of the task, before the record is read. Does nothing by default."""

    def _reserve(self, context: Context, request: Any) -> AbstractContextManager[None]:
        """Return a context that may refuse the request, and in which it is sent. Allows all by default."""
        return nullcontext()

    def _check_before_order(self) -> None:
        """Refuse an order whose result could not be used. Accepts all by default."""

    @property
    def _waits(self) -> bool:
        """Whether the task waits for the result."""
        return True

    # --- arguments ----------------------------------------------------------------------------------------

    def _check_order_arguments(self, fields: Mapping[str, Any]) -> None:
        """
        Refuse arguments at parse time, and warn of retries without a record.

        :param fields: the arguments of the request. They are not checked yet if one is rendered later.
        """
        kind = self.order_kind
        if self.mode != "poke":
            raise ManxueInputError(
                f"mode={self.mode!r} cannot be used: each poll would {kind.noun} again. Use deferrable=True, which holds no "
                f"worker slot either{self._remedy_for_mode}."
            )
        if not any(map(is_rendered_later, fields.values())):
            self._request()
        if self.order_timeout is not None and not self._order_timeout > 0:
            raise ManxueInputError(
                f"order_timeout must be a positive number of seconds, not {self.order_timeout!r}."
            )
        if self.durable and self.retries and not HAS_STATE_STORE:
            warnings.warn(
                f"retries={self.retries} can {kind.twice}: this Airflow has no task state store (3.3 and later "
                f"have one), so after a killed worker a retry {kind.noun}s again. Set retries=0.",
                stacklevel=4,
            )

    _remedy_for_mode = ""
    """Another remedy for a mode that cannot be used, from a comma on."""

    @property
    def reschedule(self) -> bool:
        """False. Some executors of Airflow 2 set ``mode`` to ``reschedule``, and then each poll would order again."""
        return False

    # --- the order ----------------------------------------------------------------------------------------

    def _start(self, context: Context) -> Any:
        """Send the order, or continue with the order of this task instance, and wait."""
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
    ) -> Any:
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

    def _order_and_wait(self, context: Context, progress: OrderProgress) -> Any:
        self._prepare(context)
        request = self._request()
        store = self._order_store(context)
        order = store.resume_id(request, progress.since)
        if order is None:
            receipt = self._place_order(context, store, request, progress)
        else:
            receipt = order.id
            if order.caution:
                self.log.warning("%s", order.caution)
            kind = self.order_kind
            result = kind.result.format(name=kind.name(receipt))
            self.log.info("Continuing with %s, already %s. Nothing is sent.", result, kind.past)
        with self._track_order_outcome(context, receipt):
            self._push_receipt(context, receipt)
            self._order_time = time.time() - progress.started_at
            return self._await_result(context, receipt)

    def _place_order(
        self, context: Context, store: OrderStore, request: OrderRequest, progress: OrderProgress
    ) -> Any:
        """
        Send the order until it is accepted, and return its receipt.

        :raises ManxueOrderTimeoutError: if the order was not accepted in time.
        :raises ManxueOrderError: if the order was rejected, or its outcome is unknown.
        :raises ManxueRunLimitError: if the order of a video would exceed ``max_seconds_per_run``.
        """
        self.hook.check_references(request)
        self._check_before_order()
        is_unbound = self.durable and not store.enabled
        if is_unbound and not progress.attempts:
            self.log.warning(
                "This Airflow has no task state store (3.3 and later have one): if the worker is killed, a retry %ss again.",
                self.order_kind.noun,
            )
        bounds = self._order_bounds
        while True:
            bounds.check(progress.started_at, time.time())
            try:
                with (
                    retry_only_unsent(context["ti"]) if is_unbound else nullcontext(),
                    self._reserve(context, request),
                ):
                    return send_once(request, lambda: self._send(request), store)
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

    @property
    def _order_bounds(self) -> OrderBounds:
        first_polls = 2 * self.poke_interval if self._waits else 0.0
        return OrderBounds(
            order_timeout=self._order_timeout,
            execution_timeout=self._task_timeout,
            reserve=self.hook.settings.request_timeout + first_polls,
            kind=self.order_kind,
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

        self.log.info(
            "The %s waits in the triggerer for capacity of the service. No worker slot is held.",
            self.order_kind.noun,
        )
        if self.do_xcom_push:
            deadline = progress.started_at + min(self._order_timeout, self._task_timeout)
            record = tab_record.waiting_for_room(progress.attempts, next_at, deadline=deadline, now=now)
            push_record(context, record, self.log)
        ends_at = min(next_at + DEFER_TIMEOUT_MARGIN, progress.started_at + self._task_timeout)
        self.defer(
            trigger=ManxueOrderRoomTrigger(resume_at=next_at),
            method_name="execute_order",
            kwargs={**asdict(progress), **super()._resume_arguments(context)},
            timeout=timedelta(seconds=max(ends_at - now, EVENT_MARGIN)),
        )

    # --- the wait -----------------------------------------------------------------------------------------

    def _push_receipt(self, context: Context, receipt: Any) -> None:
        if self.do_xcom_push or (self._waits and self.deferrable):
            # Also with do_xcom_push=False, if the task defers: Airflow may drop the deferral, and with it the receipt.
            self._push_xcoms(context, {self.receipt_key: receipt})

    @property
    def _limits(self) -> TimeLimits:
        """The limits of the wait. It begins when the order is accepted; ``execution_timeout`` counts from the start of the try."""
        limits = super()._limits
        return replace(limits, execution_timeout=limits.execution_timeout - self._order_time)

    def _resume_arguments(self, context: Context) -> dict[str, Any]:
        order_time = {"order_time": self._order_time} if self._order_time else {}
        return {**super()._resume_arguments(context), **order_time}

    def _resume_after_failure(self, context: Context, reason: str) -> Any:
        self._check_accepted(context, reason)
        receipt = self._load_receipt(context)
        with self._track_order_outcome(context, receipt):
            # This can be a retry, and Airflow has deleted the XComs of the earlier try.
            self._push_receipt(context, receipt)
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
        record, kind = None, self.order_kind
        with contextlib.suppress(Exception):  # _load_receipt raises an error with the remedy
            record = self._order_store(context).load()
        if record is not None and record.state is OrderState.NOT_ACCEPTED:
            raise ManxueOrderTimeoutError(
                f"Airflow ended the deferral of an {kind.noun} that was waiting for capacity: {reason or 'no reason given'}. "
                f"Nothing was {kind.past}. A retry or a clear sends the {kind.noun} again. Check that a triggerer is running and "
                f"not overloaded."
            )

    def _load_receipt(self, context: Context) -> Any:
        """Return the receipt of the task instance's order: from its record, else from its XCom."""
        store = self._order_store(context)
        sources: dict[str, Callable[[], Any]] = {
            "record": lambda: getattr(store.load(), "id", None),
            "XCom": lambda: self._pull_own_xcom(context, self.receipt_key),
        }
        for name, load in sources.items():
            try:
                value = load()
            except (Exception, AirflowTaskTimeout) as error:  # no retry may order again
                if store.enabled and isinstance(error, AirflowTaskTimeout):
                    raise  # a retry continues with the record
                self.log.warning(
                    "The %s of the %s could not be loaded (%s).",
                    name,
                    self.order_kind.noun,
                    type(error).__name__,
                )
                continue
            receipt = self._parse_receipt(value)
            if receipt is not None:
                return receipt
        kind = self.order_kind
        raise ManxueOrderUnknownError(
            f"Airflow ended the deferral of this task, and the id of its {kind.noun} could be loaded neither from its record nor "
            f"from its XCom {self.receipt_key!r}. {kind.if_logged} If the log ends with an {kind.noun} that was not accepted, "
            f"nothing was {kind.past}: clear the task. Check with the service before you {kind.noun} again."
        )

    def _track_order_outcome(self, context: Context, receipt: Any) -> AbstractContextManager[None]:
        if not self.durable:
            return contextlib.nullcontext()
        return track_order(receipt, self._order_store(context), context["ti"])

    def _order_store(self, context: Context) -> OrderStore:
        ti = context["ti"]
        map_index = -1 if ti.map_index is None else ti.map_index
        ref = TaskInstanceRef(ti.dag_id, ti.run_id, ti.task_id, map_index, ti.max_tries)
        store = context.get("task_state_store") if self.durable else None
        return OrderStore(store, ref, self.log, self.order_kind)
