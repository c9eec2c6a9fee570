"""
Order a video and wait for it, without a worker slot, in one task.

Runs unchanged against the service and against its emulator: the connection ``manxue_default`` decides. With
Airflow 3.3 and later the retries order nothing twice: they go on with the order that was made.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    params={"prompt": "A lighthouse at dawn, slow drone shot", "model": "sd2_manxue_720p"},
    tags=["manxue", "example"],
)
def manxue_order_and_wait():
    order = ManxueCreateVideoOperator(
        task_id="order",
        prompt="{{ params.prompt }}",
        model="{{ params.model }}",
        duration=5,
        ratio="16:9",
        retries=2,
    )

    # Pulled here rather than passed as an argument: Airflow keeps the arguments of a TaskFlow task in its
    # database and shows them in the UI, and whoever knows the URL can fetch the video.
    @task
    def use(ti=None) -> float:
        video_url = ti.xcom_pull(task_ids="order", key="video_url")
        duration = ti.xcom_pull(task_ids="order", key="actualDuration")
        print(f"The video is {duration} s long and can be fetched from {video_url.split('?')[0]}")
        return duration

    order >> use()


manxue_order_and_wait()
