"""Waits that start and end in the triggerer. The run's configuration has the video ids."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.providers.common.compat.sdk import Asset, task

from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from pull import Pull, dag

BOTH = {"start_from_trigger": True, "end_from_trigger": True}
SHAPES = {
    "start": {"start_from_trigger": True},
    "end": {"end_from_trigger": True},
    "both": BOTH,
    "neither": {},
}


def touch_file(context):
    """Create a file named after the task, as a sign that the callback ran."""
    folder = context["dag_run"].conf.get("callbacks")
    if folder:
        Path(folder, context["ti"].task_id).touch()


# Each way to name a video, in each shape. The test compares the results in a downstream task.
with dag("start_and_end_in_the_triggerer"):

    @task
    def order(dag_run=None):
        return {"id": dag_run.conf["video"], "status": "queued"}

    ordered = order()
    IDS = {
        "argument": ordered,
        "template": "{{ dag_run.conf['video'] }}",
        "pull": "{{ ti.xcom_pull('order', map_indexes=-1)['id'] }}",
    }
    for shape, options in SHAPES.items():
        for way, video in IDS.items():
            wait = ManxueVideoSensor(
                task_id=f"{shape}_{way}",
                video_task_id=video,
                manxue_conn_id="{{ dag_run.conf.get('connection', 'manxue_default') }}",
                poke_interval=2,
                **options,
            )
            (
                ordered
                >> wait
                >> Pull(task_id=f"use_{shape}_{way}", source=wait.task_id, by_argument=wait.output)
            )

    # Callbacks and outlets need a worker at the end.
    for name, work in {
        "callback": {"on_success_callback": touch_file},
        "outlet": {"outlets": [Asset("manxue_video")]},
    }.items():
        ManxueVideoSensor(task_id=name, video_task_id=ordered, poke_interval=2, **BOTH, **work)

# Many waits, one task each, with ids from an upstream task.
with dag("hundred_from_the_triggerer"):

    @task(multiple_outputs=True)
    def hundred(dag_run=None):
        return {f"video_{number}": video for number, video in enumerate(dag_run.conf["videos"])}

    hundred_ids = hundred()
    for number in range(100):
        ManxueVideoSensor(
            task_id=f"wait_{number}", video_task_id=hundred_ids[f"video_{number}"], poke_interval=5, **BOTH
        )

# Failures, and waits that cannot run in the triggerer.
with dag("end_badly_from_the_triggerer", user_defined_macros={"video_of": lambda run: run.conf["video"]}):

    @task(task_id="nothing")
    def push_nothing():
        return None

    for ending, skipping in {
        "plain": {},
        "soft_fail": {"soft_fail": True},
        "never_fail": {"never_fail": True},
    }.items():
        ManxueVideoSensor(
            task_id=ending,
            video_task_id="{{ dag_run.conf['video'] }}",
            poke_interval=2,
            timeout=12,
            retries=1,
            retry_delay=timedelta(seconds=1),
            on_failure_callback=touch_file,
            **BOTH,
            **skipping,
        )
    ManxueVideoSensor(
        task_id="execution_timeout",
        video_task_id="{{ dag_run.conf['video'] }}",
        poke_interval=2,
        execution_timeout=timedelta(seconds=12),
        **BOTH,
    )
    ManxueVideoSensor(
        task_id="unknown_xcom",
        video_task_id=push_nothing(),
        poke_interval=2,
        retries=0,
        on_failure_callback=touch_file,
        **BOTH,
    )
    ManxueVideoSensor(
        task_id="macro",
        video_task_id="{{ video_of(dag_run) }}",
        poke_interval=2,
        timeout=12,
        retries=0,
        **BOTH,
    )

with dag("batch_from_the_triggerer", render_template_as_native_obj=True):

    @task
    def shots(dag_run=None):
        return dag_run.conf["videos"]

    @task(task_id="mapped_order")
    def pass_on(video):
        return {"id": video, "status": "queued"}

    listed = shots()
    ways = {
        "list": listed,
        "template": "{{ ti.xcom_pull('shots', map_indexes=-1) }}",
        "mapped": pass_on.expand(video=listed),
    }
    for way, videos in ways.items():
        for shape in ("both", "neither"):
            wait = ManxueVideoBatchSensor(
                task_id=f"{shape}_{way}", video_task_ids=videos, poke_interval=2, **SHAPES[shape]
            )
            listed >> wait >> Pull(task_id=f"use_{shape}_{way}", source=wait.task_id, by_argument=wait.output)

    # A downstream task maps over the result of this task, so that a worker must end it.
    @task
    def use_each(video):
        return video["id"]

    use_each.expand(
        video=ManxueVideoBatchSensor(
            task_id="mapped_over", video_task_ids=listed, poke_interval=2, **BOTH
        ).output
    )

# Mapped tasks start on a worker and defer.
with dag("mapped_from_the_triggerer"):

    @task(task_id="ids")
    def read_ids(dag_run=None):
        return dag_run.conf["videos"]

    ManxueVideoSensor.partial(task_id="wait", poke_interval=2, **BOTH).expand(video_task_id=read_ids())

# Each name that a template can use in the triggerer, in a Dag with string templates and in a native one.
NAMES = [
    "ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz", "logical_date", "data_interval_start",
    "data_interval_end", "run_id", "params", "params.nested", "dag_run.conf", "dag_run.run_id", "dag_run.logical_date",
    "dag.dag_id", "task.task_id", "macros.ds_add(ds, 1)", "macros.dateutil.parser.isoparse(ts)",
    "logical_date.in_timezone('Europe/Berlin').add(days=1)", "data_interval_end - data_interval_start",
]  # fmt: skip
if CAN_START_AND_END:
    from render import RenderOnBothSides

    for native in (False, True):
        with dag(
            f"templates_of_both_sides_{'native' if native else 'text'}",
            render_template_as_native_obj=native,
            params={"video": "proj_1", "pair": (1, "2"), "nested": {"b": [1.5]}, "own": 0},
        ):
            RenderOnBothSides(
                task_id="render", templates={name: f"{{{{ {name} }}}}" for name in NAMES}, params={"own": 1}
            )

# A template that needs a worker.
with dag("template_of_a_worker"):
    ManxueVideoSensor(
        task_id="wait",
        video_task_id="{{ var.value.get('no_such_variable', dag_run.conf['video']) }}",
        poke_interval=2,
        **BOTH,
    )

with dag("start_in_the_triggerer"):
    ManxueVideoSensor(
        task_id="wait",
        video_task_id="{{ dag_run.conf['video'] }}",
        poke_interval=10,
        start_from_trigger=True,
    )
