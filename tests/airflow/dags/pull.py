"""Helpers of the Dags in this folder."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG, BaseOperator

START = datetime(2025, 1, 1, tzinfo=UTC)


def dag(dag_id, **kwargs):
    return DAG(dag_id, schedule=None, start_date=START, catchup=False, max_active_tasks=200, **kwargs)


class Pull(BaseOperator):
    """Task that returns the result of a wait: by ``xcom_pull``, by a template, and by an ``XComArg``."""

    template_fields = ("by_template", "by_argument")

    def __init__(self, *, source: str, by_argument, **kwargs):
        super().__init__(**kwargs)
        self.source = source
        self.by_template = "{{ ti.xcom_pull(task_ids='" + source + "', key='actualDuration') }}"
        self.by_argument = by_argument

    def execute(self, context):
        pull = context["ti"].xcom_pull
        return {
            "video_url": pull(task_ids=self.source, key="video_url"),
            "actualDuration": pull(task_ids=self.source, key="actualDuration"),
            "task": pull(task_ids=self.source),
            "by_template": self.by_template,
            "by_argument": self.by_argument,
        }
