"""Twenty videos, ordered, awaited and saved in each shape that a production Dag has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.common.compat.sdk import DAG, task, task_group

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

DESTINATION = "{{ dag_run.conf['destination'] }}"
ORDER = {"model": "sd2_manxue_720p", "duration": 4}
WAIT = {"poke_interval": 4, "timeout": timedelta(minutes=30)}

with DAG(
    "chaos_run",
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    default_args={"retries": 8, "retry_delay": timedelta(seconds=5)},
):

    @task
    def prompts(group, dag_run=None):
        return dag_run.conf[group]

    def save(video_task_id):
        return ManxueToObjectStorageOperator(
            task_id="save", video_task_id=video_task_id, destination=DESTINATION
        )

    @task_group
    def ordered_and_awaited(prompt):
        order = ManxueCreateVideoOperator(task_id="order", prompt=prompt, **ORDER, **WAIT)
        save(order.output["video_task_id"])

    @task_group
    def ordered(prompt):
        order = ManxueCreateVideoOperator(task_id="order", prompt=prompt, wait_for_completion=False, **ORDER)
        wait = ManxueVideoSensor(task_id="wait", video_task_id=order.output, **WAIT)
        wait >> save(order.output)

    ordered_and_awaited.expand(prompt=prompts.override(task_id="awaited_prompts")("ordered_and_awaited"))
    ordered.expand(prompt=prompts.override(task_id="ordered_prompts")("ordered"))

    @task_group
    def batch():
        @task
        def completed(videos):
            return [video["id"] for video in videos if video["status"] == "completed"]

        wait = ManxueVideoBatchSensor(
            task_id="wait",
            video_task_ids=prompts.override(task_id="ids")("batch"),
            tolerate_failures=True,
            **WAIT,
        )
        ManxueToObjectStorageOperator.partial(task_id="save", destination=DESTINATION).expand(
            video_task_id=completed(wait.output)
        )

    batch()

    for shape, options in {
        "single": {},
        "end_in_triggerer": {"end_from_trigger": True},
        "all_in_triggerer": {"start_from_trigger": True, "end_from_trigger": True},
    }.items():

        @task_group(group_id=shape)
        def alone(shape=shape, options=options):
            video = f"{{{{ dag_run.conf['{shape}'][0] }}}}"
            ManxueVideoSensor(task_id="wait", video_task_id=video, **WAIT, **options) >> save(video)

        alone()
