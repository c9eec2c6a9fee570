"""State of a rescheduled task, which Airflow stores between the processes of two pokes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context

GRACE_KEY = "manxue_grace"
"""Key of the starts of the grace periods in the task state store."""


def load_grace(store: Any, is_first_poke: Callable[[], bool], log: Any) -> dict[str, float] | None:
    """
    Return the starts of the grace periods, in seconds since the epoch, by subject.

    :param store: the task state store; None below Airflow 3.3.
    :param is_first_poke: returns whether this is the first poke of the try. The store outlives tries, and an earlier try's
        starts are deleted then. Only called if something is stored.
    :param log: log of the task.
    :return: None if the starts are unknown.
    """
    if store is None:
        return None
    try:
        stored = store.get(GRACE_KEY)
        if stored and is_first_poke():
            store.delete(GRACE_KEY)
            stored = None
    except Exception as error:  # noqa: BLE001 - a store of another package can fail in any way
        log.warning(
            "The task state store could not be read (%s). Grace periods may take longer.",
            type(error).__name__,
        )
        return None
    return {str(name): float(since) for name, since in stored.items()} if isinstance(stored, dict) else {}


def store_grace(store: Any, starts: Mapping[str, float], log: Any) -> None:
    """Store the starts of the grace periods. An error is logged, and the wait continues."""
    try:
        store.set(GRACE_KEY, dict(starts))
    except Exception as error:  # noqa: BLE001 - a store of another package can fail in any way
        log.warning(
            "The task state store could not be written (%s). Grace periods may take longer.",
            type(error).__name__,
        )


def first_reschedule_date(ti: Any, context: Context) -> datetime | None:
    """Return when the first poke of the task started; None in that poke itself."""
    if hasattr(ti, "get_first_reschedule_date"):
        first: datetime | None = ti.get_first_reschedule_date(context)
        return first
    # Airflow 2.11 has no such method of the task instance, but a function in airflow/sensors/base.py.
    from airflow.sensors.base import _orig_start_date

    first_try = (ti.max_tries or 0) - (ti.task.retries or 0) + 1
    found: datetime | None = _orig_start_date(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, first_try)
    return found
