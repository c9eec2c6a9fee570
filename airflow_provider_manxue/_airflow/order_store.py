"""Persistence of an order's record in Airflow's task state store."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.order_kinds import VIDEO_ORDER, OrderKind
from airflow_provider_manxue._core.order_record import (
    OrderRecord,
    OrderState,
    ResumableOrder,
    TaskInstanceRef,
    parse_record,
    resumable_order,
)
from airflow_provider_manxue._core.orders import FINGERPRINT_SCHEME, OrderRequest
from airflow_provider_manxue.exceptions import ManxueError, ManxueOrderUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_ATTEMPTS = 4
"""Attempts of a change that must not be lost. Airflow's own client retries each of them as well."""


class OrderStore:
    """
    Record of the order of one task instance, or of its upload.

    :param store: Airflow's task state store; None to persist nothing.
    :param ref: the task instance.
    :param log: log of the task.
    :param kind: the kind of the order.
    """

    def __init__(self, store: Any, ref: TaskInstanceRef, log: Any, kind: OrderKind = VIDEO_ORDER) -> None:
        self.kind = kind
        self._store = store
        self._ref = ref
        self._log = log
        self._intent: OrderRecord | None = None

    @property
    def enabled(self) -> bool:
        """Whether the record is persisted."""
        return self._store is not None

    @property
    def recovery_hint(self) -> str:
        """Remedy for an order with an unknown outcome; empty if nothing is persisted."""
        return self._ref.recovery_hint_for(self.kind) if self.enabled else ""

    @property
    def intent_since(self) -> str | None:
        """Time of the last intent, if it was persisted."""
        return None if self._intent is None else self._intent.since

    def load(self) -> OrderRecord | None:
        """
        Return the record; None if there is none.

        :raises ManxueInputError: if the record cannot be parsed.
        """
        return parse_record(self._store.get(self.kind.key), self.kind) if self.enabled else None

    def resume_id(
        self, request: OrderRequest, not_accepted_since: str | None = None
    ) -> ResumableOrder | None:
        """Return the order to continue with; None to send a new one. See :func:`resumable_order`."""
        return resumable_order(self.load(), request.fingerprint, self._ref, not_accepted_since, self.kind)

    def mark_intent(self, request: OrderRequest) -> None:
        """
        Persist that a request is about to be sent. After an error nothing may be sent.

        The record is read back: Airflow's client (3.3.2, ``sdk/api/client.py``) takes any 404, also that of a proxy, for a
        missing key. Behind such a proxy an earlier order would be overlooked.

        :raises ManxueError: if the store does not return the record that was written.
        """
        if not self.enabled:
            return
        intent = self._new_record(OrderState.INTENT, request)
        self._write(intent)
        self._intent = intent
        try:
            if self.load() != intent:
                raise ManxueError(
                    f"The task state store did not return the key {self.kind.key!r} that was just written, so it cannot be relied on. "
                    f"Nothing was sent. Check the connection between this worker and Airflow's API server."
                )
        except Exception:
            self.mark_not_accepted()
            raise

    def mark_not_accepted(self) -> None:
        """Persist that the order was certainly not accepted."""
        remedy = f"delete the key {self.kind.key!r}, since nothing was {self.kind.past}"
        self._end_intent(remedy, state=OrderState.NOT_ACCEPTED)

    def mark_ordered(self, receipt: Any) -> None:
        """Persist what the service returned for an accepted order: the id of its video, or the receipt of an upload."""
        remedy = f"set the key {self.kind.key!r} to {receipt!r}"
        self._end_intent(remedy, state=OrderState.ORDERED, id=receipt)

    def mark_done(self, receipt: Any) -> None:
        """Persist that the task has delivered its result."""
        self._change(OrderState.DONE, receipt)

    def mark_failed(self) -> None:
        """Persist that the service could not make the result."""
        self._change(OrderState.FAILED)

    def lost_error(self, error: ManxueError) -> ManxueOrderUnknownError:
        """Return the error of an order whose id the service no longer knows."""
        hint = self.recovery_hint or f"{self.kind.noun.capitalize()} again only if it is not in that list."
        return ManxueOrderUnknownError(f"{error} {self.kind.lost} {hint}")

    def _end_intent(self, remedy: str, **changes: Any) -> None:
        if self._intent is not None:
            record = replace(self._intent, **changes)
            self._retry(remedy, lambda: self._write(record))

    def _change(self, state: OrderState, receipt: Any = None) -> None:
        def change() -> None:
            # Loaded first, to retain what a user has written in the meantime.
            record = self.load() or self._new_record(state)
            self._write(replace(record, state=state, id=receipt or record.id, max_tries=self._ref.max_tries))

        if self.enabled:
            self._retry(f"set 'state' to {state.value!r} in the key {self.kind.key!r}", change)

    def _write(self, record: OrderRecord) -> None:
        self._store.set(self.kind.key, record.to_dict(self.kind))

    def _new_record(self, state: OrderState, request: OrderRequest | None = None) -> OrderRecord:
        return OrderRecord(
            state,
            since=datetime.fromtimestamp(time.time(), tz=UTC).isoformat(timespec="seconds"),
            max_tries=self._ref.max_tries,
            fingerprint=request.fingerprint() if request else {},
            scheme=FINGERPRINT_SCHEME,
        )

    def _retry(self, remedy: str, action: Callable[[], None]) -> None:
        """Change the store, with retries. A paid order is not given up because its record cannot be written."""
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                action()
                return
            except Exception as error:  # noqa: BLE001 - a store of another package can fail in any way
                reason = error
            if attempt < _MAX_ATTEMPTS:
                time.sleep(2.0**attempt)
        self._log.error(
            "The outcome of the %s could not be written to the task state store (%s). By hand: %s. Until then, a retry "
            "stops with an error.",
            self.kind.noun,
            reason,
            remedy,
        )
