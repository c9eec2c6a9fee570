"""Tasks for each shape of the Video tab; the videos come from the run's configuration."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

with DAG("manxue_shots", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), catchup=False):

    @task
    def shots(dag_run=None):
        return dag_run.conf["videos"]

    ids = shots()
    ManxueVideoSensor.partial(task_id="wait", deferrable=False, soft_fail=True).expand(video_task_id=ids)
    batch = ManxueVideoBatchSensor(
        task_id="batch", video_task_ids=ids, deferrable=False, tolerate_failures=True
    )
    save = ManxueToObjectStorageOperator.partial(
        task_id="save", destination="{{ dag_run.conf['destination'] }}"
    ).expand(video_task_id=ids)
    batch >> save
    ManxueCreateVideoOperator(
        task_id="order", prompt="A lighthouse", model="sd2_manxue_720p", wait_for_completion=False, retries=0
    )
