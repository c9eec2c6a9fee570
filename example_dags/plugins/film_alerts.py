"""
Example: an alert that says why a task failed, or that a film is late. Copy this file into Airflow's plugins folder.

Workers run ``notify`` and triggerers run ``async_notify``, so each of them must be able to import this file. They do not look into the
Dag folder for it.
"""

from __future__ import annotations

import contextlib

from airflow.providers.common.compat.sdk import BaseNotifier


class FilmAlert(BaseNotifier):
    """Alert with the reason of a failure. It contains no API key, no URL and no prompt."""

    def notify(self, context) -> None:
        """Send why a task failed: ``on_failure_callback=FilmAlert()``."""
        ti = context["ti"]
        self.send(f"The task {ti.task_id} of {ti.dag_id}, run {ti.run_id}, failed. {reason_of(context)}")

    async def async_notify(self, context) -> None:
        """Send that a Dag run is late: ``DeadlineAlert(callback=AsyncCallback(FilmAlert), ...)``."""
        run, time = context["dag_run"], context["deadline"]["deadline_time"]
        self.send(f"The run {run['dag_run_id']} of {run['dag_id']} has not succeeded by {time}.")

    def send(self, text: str) -> None:
        """Replace this with what pages you, or derive the class from a notifier of Slack, e-mail or PagerDuty."""
        self.log.error("Film alert: %s", text)


def reason_of(context) -> str:
    """Return the reason that the failed task has recorded. Of an error of another package it has only the class."""
    ti, record = context["ti"], None
    with contextlib.suppress(Exception):  # an alert without the record is better than none
        record = ti.xcom_pull(task_ids=ti.task_id, key="manxue_status", map_indexes=ti.map_index)
    if isinstance(record, dict) and record.get("state") == "failed":
        return f"{record['error']}: {record['message']}"
    return f"{type(context.get('exception')).__name__}. The task log has the details."
