"""
XComs that a trigger reads and writes for its task instance.

Airflow's functions block, and a custom backend may use the network, so each call runs in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from jinja2 import Undefined
from jinja2.nativetypes import native_concat

from airflow.providers.common.compat.sdk import XCom

from airflow_provider_manxue._airflow.start_from_trigger import (
    XCOM_IS_MAPPED,
    XCOM_KEY,
    XCOM_MAP_INDEX,
    XCOM_PATH,
    XCOM_TASK_ID,
)
from airflow_provider_manxue._airflow.templates import XComPull

RETURN_KEY = "return_value"


class XComs:
    """
    XComs of one task instance and its Dag run.

    :param ti: the task instance, in the form that the triggerer has.
    """

    def __init__(self, ti: Any) -> None:
        self._ti = ti
        self._ti_key = {name: getattr(ti, name) for name in ("dag_id", "run_id", "task_id", "map_index")}

    async def resolve(self, value: Any) -> Any:
        """
        Replace references to XComs of other tasks by the values. The value for a mapped task is a list.

        :param value: an argument that ``start_from_trigger.to_trigger_argument`` has returned.
        :raises UndefinedError: if a native template consists of an undefined name. Rendering raises no error then.
        """
        if isinstance(value, Mapping) and XCOM_TASK_ID in value:
            return await self._resolve_reference(value)
        if isinstance(value, Mapping):
            return {name: await self.resolve(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [await self.resolve(inner) for inner in value]
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()  # raises the error with its name
        return value

    async def _resolve_reference(self, reference: Mapping[str, Any]) -> Any:
        task_id, key = str(reference[XCOM_TASK_ID]), str(reference[XCOM_KEY])
        is_template = XCOM_MAP_INDEX in reference
        is_mapped = not is_template and reference[XCOM_IS_MAPPED]
        map_index = int(reference.get(XCOM_MAP_INDEX, -1))
        value = await (self._pull_all(task_id, key) if is_mapped else self._pull(task_id, key, map_index))
        if not is_template:
            return value
        pull = XComPull(task_id, key, map_index, tuple(reference[XCOM_PATH]))
        return render_pull(pull, value, native=renders_natively(getattr(self._ti, "task", None)))

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
    return native_concat([value]) if native else str(value)


def renders_natively(task: Any) -> bool:
    """Return ``render_template_as_native_obj`` of the task; if the task does not set it, of the Dag."""
    own = getattr(task, "render_template_as_native_obj", None)
    dag = getattr(task, "dag", None)
    return bool(getattr(dag, "render_template_as_native_obj", False) if own is None else own)
