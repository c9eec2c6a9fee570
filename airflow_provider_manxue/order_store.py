"""Keeps the record of an order in Airflow's task state store, in step with what happens to the order."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueOrderNotSentError,
    ManxueOrderRefusedError,
    ManxueOrderUnknownError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.order_record import (
    KEY,
    OrderRecord,
    OrderState,
    Place,
    order_to_go_on_with,
    read_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_TRIES = 4
"""How often the store is asked to keep what must not be lost; Airflow itself repeats each of them as well."""


class OrderStore:
    """
    Binds one order to one task instance.

    :param store: Airflow's task state store; None to bind nothing.
    :param place: the task instance.
    :param log: log of the task.
    """

    def __init__(self, store: Any, place: Place, log: Any) -> None:
        self._store = store
        self._place = place
        self._log = log
        self._intent: OrderRecord | None = None

    @property
    def binds(self) -> bool:
        """Whether orders are kept at all."""
        return self._store is not None

    def find(self, fingerprint: Mapping[str, str]) -> str | None:
        """Return the id of the order to go on with, or None to order; see :func:`order_to_go_on_with`."""
        return order_to_go_on_with(self._read(), fingerprint, self._place)

    def ordered_id(self) -> str | None:
        """Return the id of the order that is kept, whatever its state; None if there is none."""
        record = self._read()
        return None if record is None else record.id

    @contextlib.contextmanager
    def sending(self, fingerprint: Mapping[str, str]) -> Iterator[None]:
        """
        Enter this around a request that orders: the intent is kept before, and dropped if nothing was taken.

        Without a kept intent nothing is sent.
        """
        if not self.binds:
            yield
            return
        self._intent = self._record(OrderState.INTENT, fingerprint)
        self._store.set(KEY, self._intent.as_value())
        try:
            yield
        except (ManxueOrderNotSentError, ManxueOrderRefusedError):
            self._insist(
                f"delete the key {KEY!r}, since nothing was ordered", lambda: self._store.delete(KEY)
            )
            raise
        except ManxueVideoFailedError:
            self.failed()
            raise
        except ManxueOrderUnknownError as error:
            raise ManxueOrderUnknownError(f"{error} {self._place.ways_out}") from None

    def ordered(self, video_task_id: str) -> None:
        """Keep the id of an order that was taken: at once, since the worker may die at any moment."""
        if self._intent is not None:
            value = replace(self._intent, state=OrderState.ORDERED, id=video_task_id).as_value()
            self._insist(f"set the key {KEY!r} to {video_task_id!r}", lambda: self._store.set(KEY, value))

    def done(self, video_task_id: str) -> None:
        """Keep that the task has done its work."""
        self._change(OrderState.DONE, video_task_id)

    def failed(self) -> None:
        """Keep that the video has failed."""
        self._change(OrderState.FAILED)

    def lost(self, error: ManxueError) -> ManxueOrderUnknownError:
        """Return the error of an order that the service does not know any more."""
        ways_out = self._place.ways_out if self.binds else "Order again only if it is not to be found there."
        return ManxueOrderUnknownError(
            f"{error} The video is ordered, so it is not ordered again by itself. Check with the service what became "
            f"of it. {ways_out}"
        )

    def _read(self) -> OrderRecord | None:
        return read_record(self._store.get(KEY)) if self.binds else None

    def _change(self, state: OrderState, video_task_id: str | None = None) -> None:
        def change() -> None:
            # Of what a person has written there meanwhile, the rest stays.
            record = self._read() or self._record(state, {})
            kept_id = video_task_id or record.id
            changed = replace(record, state=state, id=kept_id, max_tries=self._place.max_tries)
            self._store.set(KEY, changed.as_value())

        if self.binds:
            self._insist(f"set 'state' to {state.value!r} in the key {KEY!r}", change)

    def _record(self, state: OrderState, fingerprint: Mapping[str, str]) -> OrderRecord:
        since = datetime.fromtimestamp(time.time(), tz=UTC).isoformat(timespec="seconds")
        return OrderRecord(state, since=since, max_tries=self._place.max_tries, fingerprint=fingerprint)

    def _insist(self, remedy: str, action: Callable[[], None]) -> None:
        """Do something to the store, again and again; but a paid order is not given up because it is not kept."""
        for tries in range(1, _TRIES + 1):
            try:
                action()
                return
            except Exception as error:  # noqa: BLE001 - a store can be anyone's, and fail in any way
                trouble = error
            if tries < _TRIES:
                time.sleep(2.0**tries)
        self._log.error(
            "The task state store does not take what became of the order (%s). By hand: %s. Until then, a retry stops "
            "and asks.",
            trouble,
            remedy,
        )
