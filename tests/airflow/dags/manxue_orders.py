"""Interrupted orders. The prompt of a killed order names the step at which its worker is killed."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_manxue._airflow.order_store import OrderStore
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator

START = datetime(2025, 1, 1, tzinfo=UTC)
SETTINGS = {"poke_interval": 2, "retries": 2, "retry_delay": timedelta(seconds=1)}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class KilledOnce(ManxueCreateVideoOperator):
    """Operator whose first try is killed with SIGKILL immediately before or after a step."""

    def __init__(self, *, when: str, step: str, **kwargs):
        super().__init__(**kwargs)
        self.when = when
        self.step = step

    def execute(self, context):
        self._arm(context)
        return super().execute(context)

    def resume_execution(self, next_method, next_kwargs, context):
        self._arm(context)
        return super().resume_execution(next_method, next_kwargs, context)

    def _arm(self, context):
        if context["ti"].try_number > 1:
            return
        from airflow_provider_manxue.hooks.manxue import ManxueHook

        [owner] = [
            owner
            for owner in (OrderStore, ManxueHook, ManxueCreateVideoOperator)
            if hasattr(owner, self.step)
        ]
        real = getattr(owner, self.step)

        def step(*args, **kwargs):
            if self.when == "before":
                die()
            result = real(*args, **kwargs)
            die()
            return result

        setattr(owner, self.step, step)


with DAG("order_on_a_worker", schedule=None, start_date=START, catchup=False):
    ManxueCreateVideoOperator(
        task_id="order",
        prompt="{{ dag_run.conf['prompt'] }}",
        model="sd2_manxue_720p",
        deferrable=False,
        **SETTINGS,
    )

with DAG("order_in_the_triggerer", schedule=None, start_date=START, catchup=False):
    ManxueCreateVideoOperator(task_id="order", prompt="a fox", model="sd2_manxue_720p", **SETTINGS)

# One order on each of many connections, each with another fault of the service.
with DAG("order_with_five_retries", schedule=None, start_date=START, catchup=False):

    @task
    def connections(dag_run=None):
        return dag_run.conf["connections"]

    ManxueCreateVideoOperator.partial(
        task_id="order",
        prompt="an owl",
        model="sd2_manxue_720p",
        wait_for_completion=False,
        retries=5,
        retry_delay=timedelta(seconds=1),
    ).expand(manxue_conn_id=connections())

with DAG("order_and_be_killed", schedule=None, start_date=START, catchup=False):
    for moment, when, step in (
        ("before_the_intent", "after", "resume_id"),
        ("before_the_post", "before", "send_order"),
        ("after_the_response", "after", "send_order"),
        ("after_the_record", "after", "mark_ordered"),
        ("when_deferring", "before", "defer"),
        ("on_resume", "before", "execute_complete"),
        ("when_done", "after", "mark_done"),
    ):
        KilledOnce(task_id=moment, prompt=moment, model="sd2_manxue_720p", when=when, step=step, **SETTINGS)
