"""
Example: check the installation where requests really leave, on a worker and in a triggerer, and compare the two.

The last task fails after an error, and its log has each error with the remedy. One free query is sent from each place.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import dag

from airflow_provider_manxue.operators.doctor import ManxueDoctorCompareOperator, ManxueDoctorOperator


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    params={"conn_id": "manxue_default", "store": ""},
    tags=["manxue", "example"],
)
def manxue_doctor():
    conn_id = "{{ params.conn_id }}"
    worker = ManxueDoctorOperator(task_id="worker", manxue_conn_id=conn_id, store="{{ params.store }}")
    triggerer = ManxueDoctorOperator(task_id="triggerer", manxue_conn_id=conn_id, deferrable=True)
    ManxueDoctorCompareOperator(
        task_id="compare", reports={"worker": worker.output, "triggerer": triggerer.output}
    )


manxue_doctor()
