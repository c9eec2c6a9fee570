"""
An episode: many shots are ordered, awaited together by one task, and saved, one task each.

Runs unchanged against the service and against its emulator: the connection ``manxue_default`` decides.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    params={
        "shots": ["A lighthouse at dawn", "The keeper climbs the stairs", "The lamp is lit"],
        "destination": "file:///tmp/manxue/episode/",
    },
    tags=["manxue", "example"],
)
def manxue_episode():
    @task
    def shots(params=None) -> list[str]:
        return params["shots"]

    # Each shot is ordered by a task of its own, so that a retry repeats no other order. None of them waits.
    orders = ManxueCreateVideoOperator.partial(
        task_id="order", model="sd2_manxue_720p", wait_for_completion=False, retries=2
    ).expand(prompt=shots())

    wait = ManxueVideoBatchSensor(task_id="wait", video_task_ids=orders.output)

    saved = ManxueToObjectStorageOperator.partial(
        task_id="save", destination="{{ params.destination }}", retries=3
    ).expand(video_task_id=orders.output)

    @task
    def report(ti=None) -> float:
        lengths = ti.xcom_pull(task_ids="wait", key="actualDuration")
        print(f"{len(lengths)} shots, {sum(lengths):g} s in all, are saved.")
        return sum(lengths)

    wait >> saved >> report()


manxue_episode()
