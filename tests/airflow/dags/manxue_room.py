"""More orders than the account runs concurrently, with and without a pool."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator

START = datetime(2025, 1, 1, tzinfo=UTC)
SETTINGS = {"task_id": "order", "model": "sd2_manxue_720p", "poke_interval": 10, "retries": 0}


@task
def prompts(dag_run=None):
    return dag_run.conf["prompts"]


with DAG("orders_wait_for_room", schedule=None, start_date=START, catchup=False):
    ManxueCreateVideoOperator.partial(**SETTINGS).expand(prompt=prompts())

with DAG("orders_in_a_pool", schedule=None, start_date=START, catchup=False):
    ManxueCreateVideoOperator.partial(**SETTINGS, pool="videos").expand(prompt=prompts())
