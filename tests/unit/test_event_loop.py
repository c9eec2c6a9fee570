"""Blocking calls on the event loop of the triggerer: none, from the import of the trigger to the last socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from airflow_provider_manxue.testing import Emulator, Script

pytestmark = pytest.mark.once

MAIN = """
import asyncio, sys, time
import airflow.jobs.triggerer_job_runner  # what a triggerer has loaded already
from airflow.providers.common.compat.connection import get_async_connection
from blockbuster import blockbuster_ctx

async def main():
    # Airflow's own look-up may block. It is not tested here.
    await get_async_connection("manxue_default")
    with blockbuster_ctx() as detector:
        for name, function in detector.functions.items():
            if name.startswith("io."):  # Airflow configures the log output
                function.can_block_in("structlog/_output.py", {"msg"}).can_block_in("logging/__init__.py", {"emit", "flush"})
        known = set(sys.modules)
        from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger
        from airflow_provider_manxue._client.async_client import shared_client
        assert not {"aiohttp", "requests"} & (set(sys.modules) - known), "imported on the loop"
        result = await wait(ManxueVideoTrigger, shared_client, sys.argv[1])
    await asyncio.sleep(0.05)
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert "requests" not in set(sys.modules) - known, "not needed in a triggerer"
    print(*result, len(others))

asyncio.run(main())
"""

BY_TRIGGER = """
async def wait(trigger, client, video):
    now = time.time()
    waiting = trigger(
        video_task_id=video, manxue_conn_id="manxue_default", poke_interval=1.0,
        started_at=now, deadline=now + 10, first_poll_at=now,
    )
    events = [event.payload async for event in waiting.run()]
    return events[0]["status"], len(events)
"""

BY_CLIENT = """
async def wait(trigger, client, video):
    async with client() as shared:
        shared.prepare("manxue_default")
        await shared.limiter("manxue_default")
        tasks = [await shared.query("manxue_default", video) for _ in range(2)]
    return tasks[-1].status.value, 1
"""


@pytest.mark.parametrize("wait", [BY_TRIGGER, BY_CLIENT], ids=["trigger", "client"])
def test_wait_never_blocks_the_event_loop(wait):
    with Emulator(tls=True) as emulator:
        video = emulator.add_task(script=Script.polls("processing", "completed"))
        connection = json.loads(emulator.airflow_connection_json())
        done = subprocess.run(
            [sys.executable, "-c", wait + MAIN, video],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "AIRFLOW_CONN_MANXUE_DEFAULT": json.dumps(connection)},
        )
    assert done.stdout.splitlines()[-1:] == ["completed 1 0"], done.stderr
    assert len(emulator.polls(video)) == 2
