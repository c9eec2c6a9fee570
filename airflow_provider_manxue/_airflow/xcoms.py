"""
XComs of a trigger's own task instance, read and written without a worker.

Airflow's calls block, and a custom backend may use the network, so each call runs in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from airflow.providers.common.compat.sdk import XCom

from airflow_provider_manxue._airflow.start_from_trigger import parse_reference
from airflow_provider_manxue._airflow.templates import XComPull

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
        Replace references to other tasks' XComs by their values; those of a mapped task are a list.

        :param value: an argument, as ``start_from_trigger.to_trigger_argument`` made it.
        :raises UndefinedError: if a native template was undefined as a whole, which rendering does not report.
        """
        if (reference := parse_reference(value)) is not None:
            pull = reference if isinstance(reference, XComPull) else XComPull(*reference[:2], map_index=-1)
            is_mapped = reference is not pull and reference[2]  # type: ignore[index]
            pulled = await (
                self._pull_all(pull.task_id, pull.key)
                if is_mapped
                else self._pull(pull.task_id, pull.key, pull.map_index)
            )
            if reference is not pull:
                return pulled
            return render_pull(pull, pulled, native=renders_natively(getattr(self._ti, "task", None)))
        if isinstance(value, Mapping):
            return {name: await self.resolve(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [await self.resolve(inner) for inner in value]
        _refuse_undefined(value)
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
        """Read one value for each map index: the triggerer cannot read all of them at once (Airflow 3.3.2)."""
        count = await asyncio.to_thread(
            self._ti.get_ti_count, dag_id=self._ti.dag_id, task_ids=[task_id], run_ids=[self._ti.run_id]
        )
        values = [await self._pull(task_id, key, map_index) for map_index in range(count)]
        # As on a worker: a task that has pushed nothing, such as a skipped one, is left out.
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
        """Delete the XComs of an earlier try, as Airflow does before it starts a task on a worker."""
        for key in keys:
            await asyncio.to_thread(XCom.delete, key=key, **self._mine)


def render_pull(pull: XComPull, value: Any, *, native: bool) -> Any:
    """
    Return the value that the template of a pull has on a worker.

    :param pull: the pull.
    :param value: the XCom.
    :param native: whether the Dag or the task has ``render_template_as_native_obj``.
    :raises LookupError: if a subscript is not in the value; a worker handles that.
    :raises TypeError: if the value has no subscripts.
    """
    for step in pull.path:
        value = value[step]
    if not native:
        return str(value)
    from jinja2.nativetypes import native_concat

    return native_concat([value])


def _refuse_undefined(value: Any) -> None:
    from jinja2 import Undefined, UndefinedError

    if isinstance(value, Undefined):
        raise UndefinedError("a name is undefined")


def renders_natively(task: Any) -> bool:
    """
    Return whether templates yield lists and numbers as such: the task's setting, or else the Dag's.

    :param task: the task.
    """
    own = getattr(task, "render_template_as_native_obj", None)
    dag = getattr(task, "dag", None)
    return bool(getattr(dag, "render_template_as_native_obj", False) if own is None else own)
