"""A limit for the seconds of video that a run orders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator

START = datetime(2025, 1, 1, tzinfo=UTC)
LIMIT = {"model": "sd2_manxue_720p", "wait_for_completion": False, "max_seconds_per_run": 10}

if CAN_START_AND_END:  # below Airflow 3.3 the limit is refused
    with DAG("shots_within_a_limit", schedule=None, start_date=START, catchup=False):
        ManxueCreateVideoOperator.partial(
            task_id="order",
            duration="{{ 2 + 3 }}",
            max_active_tis_per_dagrun=1,
            retries=2,
            retry_delay=timedelta(seconds=1),
            **LIMIT,
        ).expand(prompt=["shot 0", "shot 1", "shot 2"])

    with DAG("shots_at_the_same_moment", schedule=None, start_date=START, catchup=False):
        for number in range(4):
            ManxueCreateVideoOperator(task_id=f"order_{number}", prompt=f"shot {number}", duration=5, **LIMIT)
