"""
Conditions for `start_from_trigger` and `end_from_trigger`, and the form of arguments that the trigger resolves.

Airflow 3.3 and later can start and end a task in the triggerer. The triggerer does not do all the work that a worker does
for a task. A task that needs such work starts or ends on a worker, and a warning gives the reason when the Dag is parsed.
No I/O happens here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf
from airflow.triggers.base import BaseTrigger

from airflow_provider_manxue._airflow.templates import WorkerOnlyTemplateError, check_template, find_xcom_pull

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

CAN_START_AND_END = hasattr(BaseTrigger, "render_template_fields")
"""Whether this Airflow renders templates in the triggerer, as 3.3 and later do."""

XCOM_TASK_ID, XCOM_KEY, XCOM_IS_MAPPED = "xcom_task_id", "xcom_key", "xcom_is_mapped"
XCOM_MAP_INDEX, XCOM_PATH = "xcom_map_index", "xcom_path"
"""Fields of a reference to an XCom in a trigger's argument. Only that of a template has the last two."""

_LITERAL = re.compile(r"[\w-]*")
"""Text that is no template, also if the Dag changes the delimiters of templates."""


def why_not_start(task: BaseOperator, fields: Mapping[str, Any]) -> str | None:
    """
    Return the reason why a task must start on a worker; None if it can start in the triggerer.

    :param fields: the template fields, by name.
    """
    if reason := _why_neither(task):
        return reason
    if _is_overridden(task, "execute", "pre_execute"):
        return "its class overrides execute or pre_execute, which a worker must run"
    if task.on_execute_callback or getattr(task, "_pre_execute_hook", None):
        return "its on_execute_callback or pre_execute runs on a worker"
    if task.max_active_tis_per_dag or task.max_active_tis_per_dagrun:
        return "max_active_tis_per_dag and max_active_tis_per_dagrun limit tasks on workers only"
    if conf.getboolean("triggerer", "queues_enabled", fallback=False):
        # Airflow 3.3.2: TaskInstance.defer_task creates a trigger without a queue. No triggerer with --queues runs it.
        return "[triggerer] queues_enabled is set, and only a task that defers from a worker is given a queue"
    if any(map(_is_unreadable, _leaves(fields))):
        return "its id refers to a result that only a worker can resolve"
    return next(filter(None, (_template_reason(task, *field) for field in fields.items())), None)


def why_not_end(task: BaseOperator) -> str | None:
    """Return the reason why a task must end on a worker; None if it can end in the triggerer."""
    if reason := _why_neither(task):
        return reason
    if _is_overridden(task, "execute_complete", "post_execute"):
        return "its class overrides execute_complete or post_execute, which a worker must run"
    if getattr(task, "_post_execute_hook", None):
        return "its post_execute runs on a worker"
    if task.on_success_callback:
        # Airflow 3.3.2: the triggerer leaves it to the Dag processor, which runs failure callbacks only.
        return "its on_success_callback runs on a worker"
    if task.outlets:
        return "it has outlets, and a worker emits their events"
    if task.multiple_outputs or getattr(task, "returns_dag_result", False):
        return "a worker must push its multiple_outputs or the result of the Dag"
    return None


def feeds_mapped_tasks(task: Any) -> bool:
    """
    Return whether a downstream task maps over the result of this task. Only a worker can store the result's length.

    The Dag must be complete.
    """
    return task.get_dag() is not None and next(task.iter_mapped_dependants(), None) is not None


def _why_neither(task: BaseOperator) -> str | None:
    if not CAN_START_AND_END:
        return "that needs Airflow 3.3 or later"
    if not getattr(task, "deferrable", True):
        return "deferrable is False"
    if task.get_closest_mapped_task_group() is not None:
        return "a mapped task starts and ends on a worker"
    return None


def _is_overridden(task: BaseOperator, *methods: str) -> bool:
    """Return whether a class outside of this package and of Airflow overrides one of the methods."""
    ours = ("airflow_provider_manxue.", "airflow.")
    return any(not getattr(type(task), method).__module__.startswith(ours) for method in methods)


# --- references to XComs ------------------------------------------------------------------------------------


def to_trigger_argument(value: Any) -> Any:
    """
    Return a value as an argument of a trigger. A reference to an XCom becomes plain data.

    :param value: an id, a template, a reference to an XCom of another task, or lists or dicts of these.
    """
    if _is_plain_reference(value):
        operator, key = value.operator, value.key
        return {XCOM_TASK_ID: operator.task_id, XCOM_KEY: key, XCOM_IS_MAPPED: bool(operator.is_mapped)}
    if isinstance(value, str) and (pull := find_xcom_pull(value)) is not None:
        reference = {XCOM_TASK_ID: pull.task_id, XCOM_KEY: pull.key, XCOM_IS_MAPPED: False}
        return {**reference, XCOM_MAP_INDEX: pull.map_index, XCOM_PATH: list(pull.path)}
    if isinstance(value, Mapping):
        return {name: to_trigger_argument(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_trigger_argument(inner) for inner in value]
    return value


def _is_unreadable(value: Any) -> bool:
    """Return whether a value is an object that only a worker can resolve."""
    return not isinstance(value, (str, int, float, bool, type(None))) and not _is_plain_reference(value)


def _is_plain_reference(value: Any) -> bool:
    """Return whether a value refers to an XCom of one task without ``map``, ``zip`` or ``concat``."""
    operator, key = getattr(value, "operator", None), getattr(value, "key", None)
    return operator is not None and isinstance(key, str) and operator.get_closest_mapped_task_group() is None


# --- templates ----------------------------------------------------------------------------------------------


def _template_reason(task: BaseOperator, name: str, value: Any) -> str | None:
    """Return the reason why a worker must render an argument; None if the triggerer can."""
    dag = task.get_dag()
    for text in _leaves(value):
        if not isinstance(text, str) or _LITERAL.fullmatch(text):
            continue
        if dag is not None and dag.jinja_environment_kwargs:
            return f"{name} may be a template, and only a worker uses the Dag's jinja_environment_kwargs"
        if dag is None and "{" in text:
            return f"{name} is a template, and the task belongs to no Dag yet, whose macros could change its value"
        try:
            check_template(
                text,
                own_names=getattr(dag, "user_defined_macros", None) or (),
                own_filters=getattr(dag, "user_defined_filters", None) or (),
            )
        except WorkerOnlyTemplateError as reason:
            return f"the template in {name} {reason}"
    return None


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values in nested mappings and lists."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value
