"""One wait for as many videos as the run's configuration names."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor

with DAG("wait_for_a_batch", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):

    @task
    def videos(dag_run=None):
        return dag_run.conf["videos"]

    ManxueVideoBatchSensor(task_id="wait", video_task_ids=videos())
