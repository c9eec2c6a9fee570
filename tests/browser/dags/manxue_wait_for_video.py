"""
Order a video, wait for it without a worker slot, and use the result.

Runs unchanged against the service and against its emulator: the connection ``manxue_default`` decides.
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
    # An order costs money and is never repeated on its own: hence no retries.
    @task(retries=0)
    def order(params=None) -> str:
        from airflow_provider_manxue.hooks.manxue import ManxueHook

        return ManxueHook().create_video(prompt=params["prompt"], model=params["model"]).id

    wait = ManxueVideoSensor(task_id="wait", video_task_id=order())

    # Pulled here rather than passed as an argument: Airflow keeps the arguments of a TaskFlow task in its
    # database and shows them in the UI, and whoever knows the URL can fetch the video.
    @task
    def use(ti=None) -> float:
        video_url = ti.xcom_pull(task_ids="wait", key="video_url")
        duration = ti.xcom_pull(task_ids="wait", key="actualDuration")
        print(f"The video is {duration} s long and can be fetched from {video_url.split('?')[0]}")
        return duration

    wait >> use()


manxue_wait_for_video()
