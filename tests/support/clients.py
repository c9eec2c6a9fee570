"""Polls by each of the two clients, over the connection of a test."""

from __future__ import annotations

import asyncio
import json

from airflow_provider_manxue._client.async_client import shared_client
from airflow_provider_manxue.hooks.manxue import ManxueHook

CONN_ID = "manxue_under_test"


def write_connection(monkeypatch, connection):
    """Set the environment variable from which Airflow reads the connection."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps({"conn_type": "manxue", **connection}))


def poll_from_worker(video_task_id="task-1"):
    return ManxueHook(CONN_ID).get_video_task(video_task_id)


def poll_from_triggerer(video_task_id="task-1"):
    async def poll():
        async with shared_client() as client:
            return await client.query(CONN_ID, video_task_id)

    return asyncio.run(poll())
