"""
Example: order a video, wait for it without a worker slot, and save it before its URL expires.

The connection ``manxue_default`` leads to the service or to its emulator. With Airflow 3.3 and later a retry continues with
the order of the first try, and orders nothing twice.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import dag

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    params={
        "prompt": "A lighthouse at dawn, slow drone shot",
        "model": "sd2_manxue_720p",
        "destination": "file:///tmp/manxue/",
    },
    tags=["manxue", "example"],
)
def manxue_order_wait_save():
    order = ManxueCreateVideoOperator(
        task_id="order",
        prompt="{{ params.prompt }}",
        model="{{ params.model }}",
        duration=5,
        ratio="16:9",
        retries=2,
    )
    # Only the id: Airflow stores rendered arguments, and the whole task contains the signed URL.
    ManxueToObjectStorageOperator(
        task_id="save",
        video_task_id=order.output["video_task_id"],
        destination="{{ params.destination }}",
        retries=3,
    )


manxue_order_wait_save()
