"""
Example: order a film each night, with an alert if it fails, and another one if it is not there by 06:00.

Needs the file ``plugins/film_alerts.py`` in Airflow's plugins folder. The alert at 06:00 needs Airflow 3.1, and a triggerer that was
started without ``--queues``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from film_alerts import FilmAlert

from airflow.providers.common.compat.sdk import dag

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator

try:
    from airflow.sdk.definitions.deadline import AsyncCallback, DeadlineAlert, DeadlineReference
except ImportError:  # Airflow below 3.1
    deadline = {}
else:
    # Six hours after the logical date, which is midnight for this schedule.
    deadline = {
        "deadline": DeadlineAlert(
            reference=DeadlineReference.DAGRUN_LOGICAL_DATE,
            interval=timedelta(hours=6),
            callback=AsyncCallback(FilmAlert),
        )
    }


@dag(
    schedule="0 0 * * *",
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=True,  # each run orders a video
    params={"prompt": "A lighthouse at dawn, slow drone shot", "model": "sd2_manxue_720p"},
    default_args={"on_failure_callback": FilmAlert()},
    tags=["manxue", "example"],
    **deadline,
)
def manxue_alerts():
    ManxueCreateVideoOperator(
        task_id="order", prompt="{{ params.prompt }}", model="{{ params.model }}", timeout=timedelta(hours=12)
    )


manxue_alerts()
