"""Waits for videos that never come, in each mode, at a service that answers and at one that hangs."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_manxue.sensors.manxue import ManxueVideoSensor

MODES = {
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
    "deferred": {},
    "triggerer": {"start_from_trigger": True, "end_from_trigger": True},
}
TIMEOUT = float(os.environ.get("BENCHMARK_TIMEOUT", "30"))
EACH = int(os.environ.get("BENCHMARK_WAITS", "1"))


def say_begin(context):
    """Write a line with the moment right before the wait begins."""
    print("The wait begins.")


with DAG("deadlines", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
    for mode, options in MODES.items():
        # What a worker does before the wait would keep it from beginning in the triggerer.
        on_worker = {} if mode == "triggerer" else {"pre_execute": say_begin}
        for service in ("answers", "hangs"):
            for number in range(EACH):
                ManxueVideoSensor(
                    task_id=f"{mode}_{service}_{number}",
                    video_task_id=service,
                    poke_interval=10,
                    timeout=TIMEOUT,
                    **options,
                    **on_worker,
                )
