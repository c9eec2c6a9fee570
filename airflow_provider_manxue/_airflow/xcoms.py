"""
XComs as a trigger reads and writes them: for its own task instance, without a worker.

Airflow's calls block, and a custom backend may go to the network, so each of them runs in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from airflow.providers.common.compat.sdk import XCom

from airflow_provider_manxue._airflow.start_from_trigger import parse_reference

RETURN_KEY = "return_value"


class XComs:
    """
    XComs of one task instance and its Dag run.

    :param ti: the task instance, as the triggerer knows it.
    """

    def __init__(self, ti: Any) -> None:
        self._ti = ti
        self._mine = {
            "dag_id": ti.dag_id,
            "run_id": ti.run_id,
            "task_id": ti.task_id,
            "map_index": ti.map_index,
        }

    async def resolve(self, value: Any) -> Any:
        """
        Replace references to other tasks' XComs by their values; a mapped task's are a list.

        :param value: an argument, as ``from_trigger.to_trigger_argument`` made it.
        """
        if (reference := parse_reference(value)) is not None:
            task_id, key, is_mapped = reference
            return await (self._pull_all(task_id, key) if is_mapped else self._pull(task_id, key, -1))
        if isinstance(value, Mapping):
            return {name: await self.resolve(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [await self.resolve(inner) for inner in value]
        return value

    async def _pull(self, task_id: str, key: str, map_index: int) -> Any:
        return await asyncio.to_thread(
            XCom.get_one,
            key=key,
            dag_id=self._ti.dag_id,
            run_id=self._ti.run_id,
            task_id=task_id,
            map_index=map_index,
        )

    async def _pull_all(self, task_id: str, key: str) -> list[Any]:
        """Read one value for each map index: the triggerer answers no question for all of them at once."""
        count = await asyncio.to_thread(
            self._ti.get_ti_count, dag_id=self._ti.dag_id, task_ids=[task_id], run_ids=[self._ti.run_id]
        )
        values = [await self._pull(task_id, key, map_index) for map_index in range(count)]
        # As on a worker: what has pushed nothing, such as a skipped task, is left out.
        return [value for value in values if value is not None]

    async def push(self, values: Mapping[str, Any]) -> None:
        """Store values by key, each instead of an earlier one."""
        for key, value in values.items():
            await asyncio.to_thread(XCom.set, key=key, value=value, **self._mine)

    async def push_link(self, key: str, address: str) -> None:
        """Store a link of the task's page, which Airflow reads past a custom XCom backend."""
        from airflow.sdk.bases.xcom import BaseXCom

        await asyncio.to_thread(BaseXCom.set, key=key, value=address, **self._mine)

    async def forget(self, *keys: str) -> None:
        """Delete what an earlier try has left, as Airflow does before it starts a task on a worker."""
        for key in keys:
            await asyncio.to_thread(XCom.delete, key=key, **self._mine)
