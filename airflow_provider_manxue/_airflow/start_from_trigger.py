"""
What of a wait may begin and end in the triggerer, without any worker process. No I/O happens here.

Airflow 3.3 and later can start a task in the triggerer and end it there. Some of what a worker does for a task is
not done then, so each wait is looked at first; whatever would be lost without a word goes to a worker instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger

from airflow_provider_manxue.exceptions import ManxueInputError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

CAN_START_AND_END = hasattr(BaseTrigger, "render_template_fields")
"""Whether this Airflow renders templates in the triggerer, as 3.3 and later do."""

_TASK_ID, _KEY, _IS_MAPPED = "xcom_task_id", "xcom_key", "xcom_is_mapped"


def why_not_start(task: BaseOperator, values: Sequence[Any]) -> str | None:
    """
    Return why a wait must begin on a worker; None if it need not.

    :param task: the sensor.
    :param values: the arguments that are known only at run time.
    """
    if reason := _why_neither(task):
        return reason
    if _is_overridden(task, "execute", "pre_execute"):
        return "its class has an execute or pre_execute of its own, which a worker must run"
    if task.on_execute_callback or getattr(task, "_pre_execute_hook", None):
        return "its on_execute_callback or pre_execute runs on a worker"
    if task.max_active_tis_per_dag or task.max_active_tis_per_dagrun:
        return "max_active_tis_per_dag and max_active_tis_per_dagrun hold for workers only"
    if any(map(_is_unreadable, values)):
        return "its id is the result of something that only a worker can resolve"
    return None


def why_not_end(task: BaseOperator) -> str | None:
    """
    Return why a wait must end on a worker; None if it need not.

    :param task: the sensor.
    """
    if reason := _why_neither(task):
        return reason
    if _is_overridden(task, "execute_complete", "post_execute"):
        return "its class has an execute_complete or post_execute of its own, which a worker must run"
    if getattr(task, "_post_execute_hook", None):
        return "its post_execute runs on a worker"
    if task.on_success_callback:
        # Airflow's triggerer hands it to the Dag processor, which runs failure callbacks only (seen in 3.3.2).
        return "its on_success_callback runs on a worker"
    if task.outlets:
        return "it has outlets, and a worker emits their events"
    if task.multiple_outputs or getattr(task, "returns_dag_result", False):
        return "a worker must push its multiple_outputs or the result of the Dag"
    return None


def feeds_mapped_tasks(task: Any) -> bool:
    """
    Return whether a downstream task maps over this task's result, whose length only a worker can store.

    :param task: the task. If it belongs to a Dag, that must be complete.
    """
    return task.get_dag() is not None and next(task.iter_mapped_dependants(), None) is not None


def _why_neither(task: BaseOperator) -> str | None:
    if not CAN_START_AND_END:
        return "that needs Airflow 3.3 or later"
    if not getattr(task, "deferrable", True):
        return "deferrable is False"
    if task.get_closest_mapped_task_group() is not None:
        return "mapped tasks cannot"
    return None


def _is_overridden(task: BaseOperator, *methods: str) -> bool:
    """Return whether a subclass from outside of this package or Airflow has put its own method in place."""
    ours = ("airflow_provider_manxue.", "airflow.")
    return any(not getattr(type(task), method).__module__.startswith(ours) for method in methods)


# --- values that are known only at run time -----------------------------------------------------------------


def to_trigger_argument(value: Any) -> Any:
    """
    Return a value as an argument of a trigger, in which a reference to an XCom is plain data.

    :param value: an id, a template, a reference to another task's XCom, or lists or dicts of them.
    """
    if _is_plain_reference(value):
        return {_TASK_ID: value.operator.task_id, _KEY: value.key, _IS_MAPPED: bool(value.operator.is_mapped)}
    if isinstance(value, Mapping):
        return {name: to_trigger_argument(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_trigger_argument(inner) for inner in value]
    return value


def parse_reference(value: Any) -> tuple[str, str, bool] | None:
    """
    Read a reference to an XCom from a trigger's argument.

    :return: task id, key, and whether that task is mapped; None if the value is no reference.
    """
    if isinstance(value, Mapping) and _TASK_ID in value:
        return str(value[_TASK_ID]), str(value[_KEY]), bool(value[_IS_MAPPED])
    return None


def _is_unreadable(value: Any) -> bool:
    """Return whether a value is, or holds, something that can only be resolved on a worker."""
    if isinstance(value, Mapping):
        return any(map(_is_unreadable, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_is_unreadable, value))
    return not isinstance(value, (str, int, float, bool, type(None))) and not _is_plain_reference(value)


def _is_plain_reference(value: Any) -> bool:
    """Return whether a value refers to one task's XCom as it is, without a map, a zip or the like."""
    operator, key = getattr(value, "operator", None), getattr(value, "key", None)
    return operator is not None and isinstance(key, str) and operator.get_closest_mapped_task_group() is None


def refuse_hanging_templates(name: str, value: Any) -> None:
    """
    Refuse a template that would hang in the triggerer, which does not answer an ``xcom_pull`` without a map index.

    :param name: name of the argument, for the error text.
    :param value: the argument; lists and dicts are looked through.
    :raises ManxueInputError: if it holds such a call.
    """
    for template in _texts(value):
        if "xcom_pull" in template and (call := _hanging_pull(template)):
            raise ManxueInputError(
                f"{name}: the template {template!r} would hang in the triggerer, since it pulls an XCom without "
                f"map_indexes. Write {{{{ {call} }}}}, or pass the upstream task's output itself, or set "
                f"start_from_trigger=False."
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def _hanging_pull(template: str) -> str | None:
    """Return the form that works of the first call that hangs; None if there is none."""
    from jinja2 import Environment, TemplateSyntaxError, nodes

    try:
        tree = Environment(autoescape=True).parse(template)
    except (TemplateSyntaxError, RecursionError, ValueError):
        return None  # whoever renders it will say so
    for call in tree.find_all(nodes.Call):
        pull = call.node
        if not isinstance(pull, nodes.Getattr) or pull.attr != "xcom_pull":
            continue
        if not isinstance(pull.node, nodes.Name) or pull.node.name not in {"ti", "task_instance"}:
            continue
        if call.dyn_kwargs is None and all(argument.key != "map_indexes" for argument in call.kwargs):
            source = [_source(argument) for argument in call.args]
            source += [f"{argument.key}={_source(argument.value)}" for argument in call.kwargs]
            return f"{pull.node.name}.xcom_pull({', '.join([*source, 'map_indexes=-1'])})"
    return None


def _source(node: Any) -> str:
    """Return a constant as it was written; anything else is left to the author."""
    try:
        return repr(node.as_const())
    except Exception:  # noqa: BLE001 - what is no constant raises in many ways
        return "..."
