"""
Script that replaces the deferrals of a Dag run in the database of an Airflow (3.2 and later).

Arguments: Dag id, run id, and a file with deferrals by task in the format of ``tests/unit/golden``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sqlalchemy import select

from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.sdk.serde import serialize
from airflow.utils.session import create_session

dag_id, run_id, file = sys.argv[1:]
deferrals = json.loads(Path(file).read_text())

with create_session() as session:
    tasks = select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    for ti in session.scalars(tasks):
        deferral = deferrals.pop(ti.task_id)
        ti.next_method = deferral["next_method"]
        ti.next_kwargs = serialize(deferral["next_kwargs"])
        trigger = session.get(Trigger, ti.trigger_id)
        trigger.classpath = deferral["path"]
        trigger.encrypted_kwargs = Trigger.encrypt_kwargs(deferral["kwargs"])

assert not deferrals, f"no task has deferred for {sorted(deferrals)}"
