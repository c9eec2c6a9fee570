"""
Example: order the shots of an episode, wait for all of them with one task, save each, and join them into one film.

The connection ``manxue_default`` leads to the service or to its emulator. The destination is a local folder or a bucket such
as ``s3://aws_default@films/episode-7/``, which names the store's connection.

Needs ffmpeg (``pip install imageio-ffmpeg``) and the file ``plugins/film_joiner.py`` in Airflow's plugins folder.
"""

from __future__ import annotations

from datetime import UTC, datetime

from film_joiner import make_film

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

    # One task for each order, so that a retry sends no other order again. None of them waits.
    orders = ManxueCreateVideoOperator.partial(
        task_id="order", model="sd2_manxue_720p", wait_for_completion=False, retries=2
    ).expand(prompt=shots())

    wait = ManxueVideoBatchSensor(task_id="wait", video_task_ids=orders.output)

    saved = ManxueToObjectStorageOperator.partial(
        task_id="save", destination="{{ params.destination }}", retries=3
    ).expand(video_task_id=orders.output)

    # Airflow passes the URIs of the clips in the order of the shots.
    @task(retries=1)
    def join(clips, params=None, ti=None) -> str:
        film = f"{params['destination']}film.mp4"
        make_film(clips, ti.xcom_pull(task_ids="wait", key="actualDuration"), film)
        return film

    wait >> saved
    join(saved.output)


manxue_episode()
