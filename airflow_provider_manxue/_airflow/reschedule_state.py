"""State of a rescheduled task, which Airflow stores between the processes of two pokes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context

GRACE_KEY = "manxue_grace"
"""Key of the starts of the grace periods in the task state store."""


class RescheduledWait(BaseSensorOperator):
    """Support for ``mode="reschedule"``: the start and the grace periods of a wait of many processes."""

    deferrable: bool

    @property
    def _is_rescheduled(self) -> bool:
        """Whether Airflow starts a new process for each poll."""
        return bool(self.reschedule and not self.deferrable)

    def _began_before(self, context: Context) -> float | None:
        """Return when the wait of a rescheduled task began; None in its first poke and in other modes."""
        first = _first_reschedule_date(context) if self._is_rescheduled else None
        return first.timestamp() if first else None

    def _load_grace(self, context: Context) -> dict[str, float] | None:
        """
        Return the starts of the grace periods, in seconds since the epoch, by subject.

        The task state store outlives tries, so that the first poke of a try deletes the starts of an earlier one.

        :return: None if the starts are unknown, as below Airflow 3.3.
        """
        if not self._is_rescheduled:
            return {}
        store: Any = context.get("task_state_store")
        if store is None:
            return None
        try:
            stored = store.get(GRACE_KEY)
            if stored and self._began_before(context) is None:
                store.delete(GRACE_KEY)
                stored = None
        except Exception as error:  # noqa: BLE001 - a store of another package can fail in any way
            self._warn_of_store("read", error)
            return None
        return {str(name): float(since) for name, since in stored.items()} if isinstance(stored, dict) else {}

    def _store_grace(
        self, context: Context, before: Mapping[str, float] | None, now: Mapping[str, float]
    ) -> None:
        """Store the starts of the grace periods, if they have changed. After an error the wait continues."""
        if not self._is_rescheduled or before is None or dict(before) == dict(now):
            return
        try:
            context["task_state_store"].set(GRACE_KEY, dict(now))
        except Exception as error:  # noqa: BLE001 - a store of another package can fail in any way
            self._warn_of_store("written", error)

    def _warn_of_store(self, action: str, error: Exception) -> None:
        self.log.warning(
            "The task state store could not be %s (%s). Grace periods may take longer.",
            action,
            type(error).__name__,
        )


def _first_reschedule_date(context: Context) -> datetime | None:
    """Return when the first poke of the task started; None in that poke itself."""
    ti = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        first: datetime | None = ti.get_first_reschedule_date(context)
        return first
    # Airflow 2.11 has no such method of the task instance, but a function in airflow/sensors/base.py.
    from airflow.sensors.base import _orig_start_date

    first_try = (ti.max_tries or 0) - (ti.task.retries or 0) + 1
    found: datetime | None = _orig_start_date(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, first_try)
    return found
