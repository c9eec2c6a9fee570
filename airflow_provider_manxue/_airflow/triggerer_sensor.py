"""Base of the sensors that can start and end in the triggerer."""

from __future__ import annotations

import warnings
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import StartTriggerArgs

from airflow_provider_manxue._airflow.start_from_trigger import (
    feeds_mapped_tasks,
    to_trigger_argument,
    why_not_end,
    why_not_start,
)
from airflow_provider_manxue._airflow.waiting import ManxueWaitBase
from airflow_provider_manxue._core.deadline import DEFER_TIMEOUT_MARGIN
from airflow_provider_manxue._core.events import is_begin_event

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class StartFromTriggerSensor(ManxueWaitBase):
    """Support for ``start_from_trigger`` and ``end_from_trigger`` (Airflow 3.3 and later)."""

    end_from_trigger = False

    def _begin_and_end_in_triggerer(self, start: bool, end: bool, trigger: str, field: str) -> None:
        """
        Set the attributes that let Airflow start and end the task in the triggerer, unless a worker is needed.

        The attributes are set on the instance. For a mapped task, Airflow would use those of the class without expanding
        their arguments.

        :param start: whether the task should start in the triggerer.
        :param end: whether the task should end there.
        :param trigger: name of the trigger's class.
        :param field: name of the field with the id or ids, and of the trigger's argument for it.
        """
        if end:
            self.end_from_trigger = _allowed("end_from_trigger", why_not_end(self))
        if not start:
            return
        value = getattr(self, field)
        self.start_from_trigger = _allowed(
            "start_from_trigger", why_not_start(self, {field: value, "manxue_conn_id": self.manxue_conn_id})
        )
        if not self.start_from_trigger:
            return
        arguments = replace(
            self._arguments,
            defer_timeout_margin=DEFER_TIMEOUT_MARGIN,
            timeout=self.timeout,
            execution_timeout=self.execution_timeout.total_seconds() if self.execution_timeout else None,
            end_from_trigger=self.end_from_trigger,
            do_xcom_push=self.do_xcom_push,
        )
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=f"airflow_provider_manxue.triggers.manxue.{trigger}",
            trigger_kwargs={
                field: to_trigger_argument(value),
                "manxue_conn_id": to_trigger_argument(self.manxue_conn_id),
                **arguments.to_start_kwargs(),
            },
            next_method="execute_complete",
            timeout=timedelta(seconds=self.timeout + DEFER_TIMEOUT_MARGIN),
        )

    def _ending_arguments(self) -> dict[str, Any]:
        if not self.end_from_trigger or feeds_mapped_tasks(self):
            return {}
        return {"end_from_trigger": True, "do_xcom_push": self.do_xcom_push}

    def _begins_on_worker(self, event: Any) -> bool:
        """Return whether the triggerer could not start the task, and log the reason."""
        if not is_begin_event(event):
            return False
        reason = str(event["reason"]).removesuffix(".")
        self.log.info("The triggerer could not start the task: %s. This worker starts it.", reason)
        return True

    def _warn_if_mapped(self, context: Context) -> None:
        """Log a warning if the task is mapped. Airflow neither starts nor ends such a task in the triggerer."""
        wanted = self.start_from_trigger or self.end_from_trigger
        if wanted and context["ti"].map_index not in (None, -1):
            self.log.warning(
                "A mapped task can neither start nor end in the triggerer. It defers from a worker. Use a "
                "ManxueVideoBatchSensor to wait for many videos without a worker."
            )
            self.end_from_trigger = False


def _allowed(argument: str, reason: str | None) -> bool:
    """Return whether an argument has an effect. Warn with the reason if it has none."""
    if reason is not None:
        warnings.warn(f"{argument}=True has no effect here: {reason}.", stacklevel=5)
    return reason is None
