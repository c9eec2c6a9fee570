"""Operators that check an installation where its tasks run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID
from airflow_provider_manxue._core.deadline import to_seconds
from airflow_provider_manxue._core.findings import (
    Level,
    Report,
    compare,
    report_text,
    to_dicts,
    to_text,
    worst_level,
)
from airflow_provider_manxue.exceptions import ManxueDoctorError, ManxueError, ManxueInputError
from airflow_provider_manxue.triggers.doctor import ManxueDoctorTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.providers.common.compat.sdk import Context, XComArg

DEFAULT_TIMEOUT = 300.0


class ManxueDoctorOperator(BaseOperator):
    """
    Operator that runs the checks of the doctor on its worker, or in a triggerer.

    Logs the report and returns it as XCom. The task succeeds also after errors, so that
    :class:`ManxueDoctorCompareOperator` gets all reports. One free query is sent to the service, never an order.

    :param manxue_conn_id: (templated) id of the Airflow connection.
    :param store: (templated) URI of a store of videos that the worker looks into, for example ``s3://bucket/folder/``.
    :param storage_conn_id: (templated) id of the Airflow connection of the store, if it needs one.
    :param deferrable: run the checks in a triggerer. The store is not checked there, since workers save videos.
    :param timeout: seconds (or ``timedelta``) for a triggerer to take the task and run the checks.
    :param kwargs: arguments of Airflow's ``BaseOperator``.
    """

    template_fields: Sequence[str] = ("manxue_conn_id", "store", "storage_conn_id")
    ui_color = "#e8e0f7"

    def __init__(
        self,
        *,
        manxue_conn_id: str = DEFAULT_CONN_ID,
        store: str | XComArg | None = None,
        storage_conn_id: str | None = None,
        deferrable: bool = False,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.manxue_conn_id = manxue_conn_id
        self.store = store
        self.storage_conn_id = storage_conn_id
        self.deferrable = deferrable
        self.timeout = timeout

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Run the checks, or defer to a triggerer.

        :return: the report.
        """
        if self.deferrable:
            self.defer(
                trigger=ManxueDoctorTrigger(manxue_conn_id=self.manxue_conn_id),
                method_name="execute_complete",
                timeout=timedelta(seconds=to_seconds(self.timeout)),
            )
        from airflow_provider_manxue._airflow.doctor import WORKER, Examination, examine
        from airflow_provider_manxue.hooks.manxue import ManxueHook

        connection: Any
        try:
            connection = ManxueHook(self.manxue_conn_id).read_settings()
        except ManxueError as error:
            connection = error
        examination = Examination(
            WORKER, self.manxue_conn_id, connection, str(self.store or ""), self.storage_conn_id or None
        )
        return self._log_report(examine(examination))

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """
        Return the report of the triggerer.

        :param event: the event of the trigger.
        :raises ManxueInputError: if it is of another version of the provider.
        """
        is_known = isinstance(event, Mapping) and event.get("version") == 1
        return self._log_report(Report.from_dict(event.get("report") if is_known else None))

    def _log_report(self, report: Report) -> dict[str, Any]:
        self.log.info("%s", report_text(report))
        return report.to_dict()


class ManxueDoctorCompareOperator(BaseOperator):
    """
    Operator that compares the reports of :class:`ManxueDoctorOperator`, and fails after an error in any of them.

    A task without a report, for example because no triggerer has taken it, is an error, too. Logs the differences and
    all findings except *ok*; returns the findings of the comparison as XCom.

    :param reports: (templated) the reports, by the names of their places: ``{"worker": ..., "triggerer": ...}``.
    :param trigger_rule: as in Airflow; by default the task runs however the others have ended.
    :param kwargs: arguments of Airflow's ``BaseOperator``.
    """

    template_fields: Sequence[str] = ("reports",)
    ui_color = "#e8e0f7"

    def __init__(
        self, *, reports: Mapping[str, Any] | XComArg, trigger_rule: str = "all_done", **kwargs: Any
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.reports = reports

    def execute(self, context: Context) -> list[dict[str, str]]:
        """
        Compare the reports.

        :return: the findings of the comparison.
        :raises ManxueDoctorError: if a report or the comparison has an error.
        """
        if not isinstance(self.reports, Mapping):
            raise ManxueInputError(
                f"reports must be a dict of reports by the names of their places, not {type(self.reports).__name__}."
            )
        reports = {
            str(name): None if fields is None else Report.from_dict(fields)
            for name, fields in self.reports.items()
        }
        differences = compare(reports)
        self.log.info("%s", to_text("Comparison", differences))
        findings = [("comparison", one) for one in differences]
        for name, report in reports.items():
            findings += [(name, one) for one in report.findings] if report else []
        for name, one in findings:
            if one.level in {Level.WARNING, Level.ERROR}:
                self.log.warning("%s, %s, %s: %s %s", name, one.check, one.level.value, one.text, one.remedy)
        if worst_level(one for _, one in findings) is Level.ERROR:
            errors = [
                f"{name}, {one.check}: {one.text} {one.remedy}"
                for name, one in findings
                if one.level is Level.ERROR
            ]
            raise ManxueDoctorError("The doctor has found errors. " + " ".join(errors))
        return to_dicts(differences)
