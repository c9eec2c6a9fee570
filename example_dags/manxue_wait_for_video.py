"""
Example: order a video with the hook, wait for it without a worker slot, and use the result.

The connection ``manxue_default`` leads to the service or to its emulator.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_manxue.sensors.manxue import ManxueVideoSensor


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    params={"prompt": "A lighthouse at dawn, slow drone shot", "model": "sd2_manxue_720p"},
    tags=["manxue", "example"],
)
def manxue_wait_for_video():
    # No retries: an order costs money, and a retry would order again.
    @task(retries=0)
    def order(params=None) -> str:
        from airflow_provider_manxue.hooks.manxue import ManxueHook

        return ManxueHook().create_video(prompt=params["prompt"], model=params["model"]).id

    wait = ManxueVideoSensor(task_id="wait", video_task_id=order())

    # The task pulls the URL itself: Airflow stores the arguments of a TaskFlow task and shows them in the UI, and anyone
    # who knows the URL can download the video.
    @task
    def use(ti=None) -> float:
        video_url = ti.xcom_pull(task_ids="wait", key="video_url")
        duration = ti.xcom_pull(task_ids="wait", key="actualDuration")
        print(f"The video is {duration} s long and can be downloaded from {video_url.split('?')[0]}")
        return duration

    wait >> use()


manxue_wait_for_video()
