"""A wait and an order that fail, with the notifier of the example."""

from __future__ import annotations

from film_alerts import FilmAlert

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoSensor
from pull import dag

with dag("alert_on_failure", default_args={"on_failure_callback": FilmAlert()}):
    ManxueVideoSensor(task_id="wait", video_task_id="{{ dag_run.conf['video'] }}")
    ManxueCreateVideoOperator(
        task_id="order", prompt="{{ dag_run.conf['prompt'] }}", model="sd2_manxue_720p", retries=0
    )
