"""As many waits as the environment says, each a task of its own, or one batch; the ids come from an upstream task."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from benchmarks.floor import FileAppearedSensor

KIND = os.environ.get("BENCHMARK_KIND", "both")
COUNT = int(os.environ.get("BENCHMARK_WAITS", "1"))
INTERVAL = float(os.environ.get("BENCHMARK_INTERVAL", "10"))
BOTH = {"start_from_trigger": True, "end_from_trigger": True}


def http_sensor(number: int, video):
    """Return the peer: it polls the same service, with the same key."""
    from airflow.providers.http.sensors.http import HttpSensor

    return HttpSensor(
        task_id=f"wait_{number}",
        http_conn_id="service",
        endpoint=f"v1/result/{{{{ ti.xcom_pull('ids', key='video_{number}') }}}}",
        headers={"Authorization": "Bearer {{ conn.service.password }}"},
        deferrable=True,
        poke_interval=INTERVAL,
    )


def sensor(number: int, video, **options):
    """Return a sensor of this package."""
    return ManxueVideoSensor(task_id=f"wait_{number}", video_task_id=video, poke_interval=INTERVAL, **options)


with DAG("waits", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), max_active_tasks=10_000):
    # A busy machine is no reason to fail.
    @task(multiple_outputs=True, retries=5, retry_delay=timedelta(seconds=1))
    def ids(dag_run=None):
        videos = dag_run.conf["videos"]
        return {"all": videos, **{f"video_{number}": video for number, video in enumerate(videos)}}

    videos = ids()
    if KIND == "batch":
        ManxueVideoBatchSensor(task_id="wait", video_task_ids=videos["all"], poke_interval=INTERVAL, **BOTH)
    for number in range(COUNT if KIND != "batch" else 0):
        video = videos[f"video_{number}"]
        match KIND:
            case "floor":
                videos >> FileAppearedSensor(task_id=f"wait_{number}", path=os.environ["BENCHMARK_FILE"])
            case "http":
                videos >> http_sensor(number, video)
            case "both":
                sensor(number, video, **BOTH)
            case "normal":
                sensor(number, video)
