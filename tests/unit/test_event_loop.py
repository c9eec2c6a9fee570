"""The triggerer's event loop is never blocked, from the import of the trigger to the last socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from airflow_provider_manxue.testing import Emulator, Script

WAIT = """
import asyncio, sys, time
import airflow.jobs.triggerer_job_runner  # what a triggerer has loaded already
from airflow.providers.common.compat.connection import get_async_connection
from blockbuster import blockbuster_ctx

async def main():
    # Airflow's own look-up, here in the environment, is not what is tested.
    await get_async_connection("manxue_default")
    with blockbuster_ctx() as detector:
        for name, function in detector.functions.items():
            if name.startswith("io."):  # where a log goes is Airflow's affair
                function.can_block_in("structlog/_output.py", {"msg"}).can_block_in("logging/__init__.py", {"emit", "flush"})
        known = set(sys.modules)
        from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger
        assert not {"aiohttp", "requests"} & (set(sys.modules) - known), "imported on the loop"
        now = time.time()
        trigger = ManxueVideoTrigger(
            video_task_id=sys.argv[1], manxue_conn_id="manxue_default", poke_interval=1.0,
            started_at=now, deadline=now + 10, first_poll_at=now,
        )
        events = [event.payload async for event in trigger.run()]
    await asyncio.sleep(0.05)
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    print(events[0]["status"], len(events), len(others))

asyncio.run(main())
"""


def test_no_blocking_call_is_made_on_it():
    with Emulator(tls=True) as emulator:
        video = emulator.add_task(script=Script.polls("processing", "completed"))
        connection = json.loads(emulator.airflow_connection_json())
        done = subprocess.run(
            [sys.executable, "-c", WAIT, video],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "AIRFLOW_CONN_MANXUE_DEFAULT": json.dumps(connection)},
        )
    assert done.stdout.splitlines()[-1:] == ["completed 1 0"], done.stderr
    assert len(emulator.polls(video)) == 2
