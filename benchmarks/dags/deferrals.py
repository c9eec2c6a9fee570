"""As many deferred tasks as the run's configuration says: waits for videos, or for a moment, beside them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.common.compat.sdk import DAG, BaseOperator, task

from airflow_provider_manxue.sensors.manxue import ManxueVideoSensor


class WaitForAMoment(BaseOperator):
    """Defers with a trigger of Airflow's own: what the triggerer does without this package."""

    def __init__(self, *, number: int, **kwargs):
        super().__init__(**kwargs)
        self.number = number

    def execute(self, context):
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        moment = datetime.now(UTC) + timedelta(hours=1)
        self.defer(trigger=DateTimeTrigger(moment=moment), method_name="execute_complete")

    def execute_complete(self, context, event=None):
        """Nothing is left to do."""


def dag(dag_id: str) -> DAG:
    """Make a Dag whose tasks may all be active at once."""
    return DAG(dag_id, schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), max_active_tasks=10_000)


with dag("waits_for_videos"):

    @task
    def videos(dag_run=None):
        return dag_run.conf["videos"]

    ManxueVideoSensor.partial(task_id="wait").expand(video_task_id=videos())

with dag("waits_for_a_moment"):

    @task
    def numbers(dag_run=None):
        return list(range(len(dag_run.conf["videos"])))

    WaitForAMoment.partial(task_id="wait").expand(number=numbers())
