"""
XComs that a trigger reads and writes for its task instance.

Airflow's functions block, and a custom backend may use the network, so each call runs in a thread.
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

    :param ti: the task instance, in the form that the triggerer has.
    """

    def __init__(self, ti: Any) -> None:
        self._ti = ti
        self._ti_key = {
            "dag_id": ti.dag_id,
            "run_id": ti.run_id,
            "task_id": ti.task_id,
            "map_index": ti.map_index,
        }

    async def resolve(self, value: Any) -> Any:
        """
        Replace references to XComs of other tasks by the values. The value for a mapped task is a list.

        :param value: an argument that ``start_from_trigger.to_trigger_argument`` has returned.
        :raises UndefinedError: if a native template consists of an undefined name. Rendering raises no error then.
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
        """Read the value of each map index. The triggerer of Airflow 3.3.2 cannot read all of them with one call."""
        count = await asyncio.to_thread(
            self._ti.get_ti_count, dag_id=self._ti.dag_id, task_ids=[task_id], run_ids=[self._ti.run_id]
        )
        values = [await self._pull(task_id, key, map_index) for map_index in range(count)]
        # A task without an XCom, such as a skipped task, is left out, as on a worker.
        return [value for value in values if value is not None]

    async def push(self, values: Mapping[str, Any]) -> None:
        """Store values by key. A value replaces an earlier value of its key."""
        for key, value in values.items():
            await asyncio.to_thread(XCom.set, key=key, value=value, **self._ti_key)

    async def push_link(self, key: str, address: str) -> None:
        """Store a link of the task's page. Airflow reads links without a custom XCom backend."""
        from airflow.sdk.bases.xcom import BaseXCom

        await asyncio.to_thread(BaseXCom.set, key=key, value=address, **self._ti_key)

    async def delete(self, *keys: str) -> None:
        """Delete the XComs of an earlier try. Airflow does so only before it starts a task on a worker."""
        for key in keys:
            await asyncio.to_thread(XCom.delete, key=key, **self._ti_key)


def render_pull(pull: XComPull, value: Any, *, native: bool) -> Any:
    """
    Return the value to which a worker would render the template of a pull.

    :param pull: the pull.
    :param value: the XCom.
    :param native: whether the Dag or the task has ``render_template_as_native_obj``.
    :raises LookupError: if the value has no such subscript.
    :raises TypeError: if the value has no subscripts.
    """
    for step in pull.path:
        value = value[step]
    if not native:
        return str(value)
    from jinja2.nativetypes import native_concat

    return native_concat([value])


def _refuse_undefined(value: Any) -> None:
    from jinja2 import Undefined

    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # raises an UndefinedError that names it


def renders_natively(task: Any) -> bool:
    """
    Return ``render_template_as_native_obj`` of the task; if the task does not set it, of the Dag.

    :param task: the task.
    """
    own = getattr(task, "render_template_as_native_obj", None)
    dag = getattr(task, "dag", None)
    return bool(getattr(dag, "render_template_as_native_obj", False) if own is None else own)
