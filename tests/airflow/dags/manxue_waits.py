"""Waits in each mode. The run's configuration has the video ids."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import task

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from pull import Pull, dag

MODES = {
    "deferred": {},
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
}

# One wait in each mode, for the same video.
with dag("wait_in_every_mode"):
    for name, options in MODES.items():
        wait = ManxueVideoSensor(
            task_id=name,
            video_task_id="{{ dag_run.conf['video'] }}",
            manxue_conn_id="{{ dag_run.conf.get('connection', 'manxue_default') }}",
            poke_interval=2,
            **options,
        )
        wait >> Pull(task_id=f"use_{name}", source=name, by_argument=wait.output)

# Many waits in a pool with one slot, mapped over ids from an upstream task.
with dag("wait_for_many"):

    @task(task_id="ids")
    def read_ids(dag_run=None):
        return dag_run.conf["videos"]

    ManxueVideoSensor.partial(task_id="wait", pool="one", poke_interval=5).expand(video_task_id=read_ids())

# As above, with all defaults: 30 seconds between polls.
with dag("wait_for_many_by_default"):

    @task(task_id="ids")
    def read_ids_too(dag_run=None):
        return dag_run.conf["videos"]

    ManxueVideoSensor.partial(task_id="wait").expand(video_task_id=read_ids_too())

# Each ending, with and without skipping. `retries` shows which endings Airflow does not retry.
ENDINGS = {"plain": {}, "soft_fail": {"soft_fail": True}, "never_fail": {"never_fail": True}}
with dag("wait_for_an_ending", render_template_as_native_obj=True):
    for mode, options in MODES.items():
        for ending, skipping in ENDINGS.items():
            ManxueVideoSensor(
                task_id=f"{mode}_{ending}",
                video_task_id="{{ dag_run.conf['video'] }}",
                poke_interval=2,
                timeout=20,
                retries=1,
                retry_delay=timedelta(seconds=1),
                **options,
                **skipping,
            )

with dag("wait_with_execution_timeout"):
    for mode in ("deferred", "poke"):
        for ending in ("plain", "soft_fail"):
            ManxueVideoSensor(
                task_id=f"{mode}_{ending}",
                video_task_id="{{ dag_run.conf['video'] }}",
                poke_interval=2,
                execution_timeout=timedelta(seconds=14),
                **MODES[mode],
                **ENDINGS[ending],
            )

# Many videos in one wait, with ids from mapped upstream tasks.
with dag("wait_for_a_batch"):

    @task
    def shots(dag_run=None):
        return dag_run.conf["videos"]

    @task(task_id="order")
    def pass_on(video):
        return {"id": video, "status": "queued"}

    wait = ManxueVideoBatchSensor(
        task_id="wait",
        video_task_ids=pass_on.expand(video=shots()),
        poke_interval=5,
        pool="one",
    )

    @task(trigger_rule="all_done")
    def use(ti=None):
        return {
            "urls": len(ti.xcom_pull(task_ids="wait", key="video_url")),
            "lengths": ti.xcom_pull(task_ids="wait", key="actualDuration"),
            "ids": [one["id"] for one in ti.xcom_pull(task_ids="wait")],
        }

    wait >> use()

# One task of each class that defers. The test replaces their deferrals.
with dag("wait_that_began_with_another_version"):
    ManxueVideoSensor(task_id="one", video_task_id="{{ dag_run.conf['video'] }}")
    ManxueVideoBatchSensor(task_id="batch", video_task_ids=["{{ dag_run.conf['video'] }}"])
    ManxueCreateVideoOperator(task_id="order", prompt="a fox", model="sd2_manxue_720p")

with dag("save_to_a_file_as_folder"):
    ManxueToObjectStorageOperator(
        task_id="save", video_task_id="{{ dag_run.conf['video'] }}", destination="file:///dev/full/"
    )
