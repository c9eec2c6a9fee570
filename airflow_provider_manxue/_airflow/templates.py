"""
Classification of Jinja templates by their syntax tree: rendered in the triggerer, an XCom pull, or left to a worker.

Theory of operation: the triggerer renders a template in a context that differs from that of a worker. Some names have
another value there, and some calls never return. So a template is allowed only if each node of its syntax tree is on a
list of this module. Any other template is left to a worker. Each expression has a kind, which limits the attributes and
filters that follow it. A template that is one constant ``xcom_pull`` is not rendered: the trigger reads that XCom.

Longer than 350 lines: a third of it is lists.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateSyntaxError, nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable


@dataclass(frozen=True)
class XComPull:
    """
    A template that is one constant ``xcom_pull``.

    :param task_id: id of the upstream task.
    :param key: key of the XCom.
    :param map_index: map index of the upstream task; -1 if it is not mapped.
    :param path: subscripts behind the call, such as ``["id"]``.
    """

    task_id: str
    key: str
    map_index: int
    path: tuple[str | int, ...] = ()


class WorkerOnlyTemplateError(Exception):
    """Error with the reason why a template is left to a worker. Its text continues *the template ...*."""


class _Kind(Enum):
    """Kind of an expression's value."""

    DATA = "text, a number, or lists and dicts of them"
    MOMENT = "a date and time with a time zone"
    CALENDAR = "a date, a time or a difference, or a value of unknown type"


_NAMES = {
    **dict.fromkeys(("ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz"), _Kind.DATA),
    **dict.fromkeys(("run_id", "params"), _Kind.DATA),
    **dict.fromkeys(("dag_run.conf", "dag_run.run_id", "dag.dag_id", "task.task_id"), _Kind.DATA),
    **dict.fromkeys(("logical_date", "dag_run.logical_date"), _Kind.MOMENT),
    **dict.fromkeys(("data_interval_start", "data_interval_end"), _Kind.MOMENT),
}
"""Names and attributes of Airflow's context with the same value in the triggerer as on a worker."""

_MACROS = {
    **dict.fromkeys(
        ("macros.ds_add", "macros.ds_format", "macros.json.dumps", "macros.json.loads"), _Kind.DATA
    ),
    **dict.fromkeys(
        (
            "macros.datetime", "macros.datetime.strptime", "macros.datetime.fromisoformat", "macros.timedelta",
            "macros.dateutil.parser.isoparse", "macros.dateutil.relativedelta.relativedelta",
        ),
        _Kind.CALENDAR,
    ),
}  # fmt: skip
"""Macros whose result depends on their arguments alone: not on the clock, a time zone, a locale or chance."""

_GLOBALS = frozenset({"dict", "range"})
"""Jinja's own functions that depend on their arguments alone."""

_CALENDAR_ATTRIBUTES = {
    **dict.fromkeys(
        (
            "year", "month", "day", "hour", "minute", "second", "microsecond", "quarter",
            "day_of_week", "day_of_year", "days_in_month", "week_of_month", "week_of_year",
            "weekday", "isoweekday", "toordinal", "isoformat", "strftime", "format",
            "days", "seconds", "microseconds", "total_seconds",
            "to_date_string", "to_datetime_string", "to_time_string", "to_iso8601_string",
        ),
        _Kind.DATA,
    ),
    **dict.fromkeys(
        (
            "add", "subtract", "replace", "set", "start_of", "end_of", "first_of", "last_of", "nth_of",
            "next", "previous", "date", "time", "naive",
        ),
        _Kind.CALENDAR,
    ),
}  # fmt: skip
"""Attributes of dates and times that read neither the clock nor the machine's time zone."""

_MOMENT_ATTRIBUTES = {
    **_CALENDAR_ATTRIBUTES,
    **dict.fromkeys(("timestamp", "int_timestamp", "float_timestamp"), _Kind.DATA),
    **dict.fromkeys(
        ("add", "subtract", "start_of", "end_of", "in_timezone", "in_tz", "next", "previous"), _Kind.MOMENT
    ),
}
"""Attributes of moments. The timestamp of a date without a time zone depends on the machine's time zone."""

_TEXT_FILTERS = frozenset({
    "ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz", "lower", "replace", "string", "trim", "upper",
})  # fmt: skip
"""Filters that convert any value to text."""

_FILTERS = _TEXT_FILTERS | {
    "abs", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "filesizeformat",
    "first", "float", "forceescape", "format", "groupby", "indent", "int", "items", "join", "last", "length", "list",
    "map", "max", "min", "pprint", "reject", "rejectattr", "reverse", "round", "safe", "select", "selectattr", "slice",
    "sort", "striptags", "sum", "title", "tojson", "truncate", "unique", "urlencode", "urlize", "wordcount",
    "wordwrap", "xmlattr",
}  # fmt: skip
"""Filters of data: all of Jinja's except ``random`` and ``attr``."""

_TESTS = frozenset({
    "!=", "<", "<=", "==", ">", ">=", "boolean", "defined", "divisibleby", "eq", "equalto", "escaped", "even", "false",
    "float", "ge", "greaterthan", "gt", "in", "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne",
    "none", "number", "odd", "sequence", "string", "true", "undefined", "upper",
})  # fmt: skip
"""Tests that depend on the value alone: all of Jinja's except ``callable``, ``filter``, ``sameas`` and ``test``."""

_FORMATTERS = frozenset({"strftime", "ds_format"})
"""Methods and macros that format a date as the platform's C library does."""

_BY_NAME = {"map": 0, "select": 0, "reject": 0, "selectattr": 1, "rejectattr": 1}
"""Filters that call a filter or test by its name, and the position of that argument."""

_PULL_NAMES = ("task_ids", "dag_id", "key", "include_prior_dates")
"""Positional arguments of ``xcom_pull``, in their order."""

_RETURN_KEY = "return_value"


def find_xcom_pull(text: str) -> XComPull | None:
    """Return the XCom pull that is the whole template; None for any other template."""
    if "xcom_pull" not in text:
        return None
    try:
        return _xcom_pull(_parse(text))
    except (WorkerOnlyTemplateError, RecursionError):
        return None


def check_template(text: str, *, own_names: Collection[str] = (), own_filters: Collection[str] = ()) -> None:
    """
    Check that a template has the same value in the triggerer as on a worker, or is one constant ``xcom_pull``.

    :param text: the template.
    :param own_names: macros of the Dag, which replace Jinja's own functions on a worker.
    :param own_filters: filters of the Dag, which replace Jinja's and Airflow's on a worker.
    :raises WorkerOnlyTemplateError: if that is not certain.
    """
    if "{" not in text:
        return
    try:
        tree = _parse(text)
        if _xcom_pull(tree) is None:
            _Checker(own_names, own_filters).check_all(tree.body)
    except RecursionError:
        raise WorkerOnlyTemplateError("is nested too deeply") from None


def _parse(text: str) -> nodes.Template:
    try:
        return Environment(autoescape=True).parse(text)
    except (TemplateSyntaxError, ValueError):
        raise WorkerOnlyTemplateError("is not valid Jinja") from None


# --- a template that is one xcom_pull ------------------------------------------------------------------------


def _xcom_pull(tree: nodes.Template) -> XComPull | None:
    match tree.body:
        case [nodes.Output(nodes=[expression])]:
            path, call = _split_path(expression)
        case _:
            return None
    if not _is_pull(call) or (arguments := _pull_arguments(call)) is None:
        return None
    task_id, key = arguments.pop("task_ids", None), arguments.pop("key", _RETURN_KEY)
    map_index = arguments.pop("map_indexes", None)
    texts = (task_id, key, *(step for step in path if isinstance(step, str)))
    if arguments or type(map_index) is not int or not all(map(_stays_as_it_is, texts)):
        return None
    return XComPull(task_id, key, map_index, tuple(path))


def _split_path(expression: nodes.Node) -> tuple[list[str | int], nodes.Node]:
    """Split an expression into constant subscripts, the outermost last, and the expression before them."""
    path: list[str | int] = []
    while isinstance(expression, (nodes.Getattr, nodes.Getitem)):
        step = _constant(expression.arg) if isinstance(expression, nodes.Getitem) else expression.attr
        if not isinstance(step, (str, int)) or isinstance(step, bool):
            break
        if isinstance(expression, nodes.Getattr) and any(
            hasattr(kind, str(step)) for kind in (dict, list, str)
        ):
            break
        path.insert(0, step)
        expression = expression.node
    return path, expression


def _is_pull(node: nodes.Node) -> bool:
    match node:
        case nodes.Call(node=nodes.Getattr(node=nodes.Name(name="ti" | "task_instance"), attr="xcom_pull")):
            return True
    return False


def _pull_arguments(call: Any) -> dict[str, Any] | None:
    """Return the arguments of a call by name, None for each that is not constant; None if a name is unknown."""
    pairs = [*zip(_PULL_NAMES, call.args, strict=False), *((word.key, word.value) for word in call.kwargs)]
    arguments = {name: _constant(node) for name, node in pairs}
    is_clear = len(arguments) == len(pairs) and len(call.args) <= len(_PULL_NAMES)
    return arguments if is_clear and call.dyn_args is None and call.dyn_kwargs is None else None


def _constant(node: nodes.Node) -> Any:
    """Return the value of a constant or of a negative number; None for other nodes."""
    match node:
        case nodes.Const(value=value):
            return value
        case nodes.Neg(node=nodes.Const(value=int() as value)):
            return -value
    return None


def _stays_as_it_is(text: Any) -> bool:
    """Return whether rendering leaves a constant unchanged, with and without native types."""
    if not isinstance(text, str) or "{" in text or not text:
        return False
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return True
    return False


def _working_form(call: Any) -> str:
    """Return a form of an ``xcom_pull`` that needs no worker. Arguments that are not constant are shown as ``...``."""
    arguments = _pull_arguments(call) or {}
    task_id, key, map_index = (arguments.get(name) for name in ("task_ids", "key", "map_indexes"))
    source = [
        repr(task_id) if isinstance(task_id, str) else "...",
        *([f"key={key!r}"] if isinstance(key, str) and key != _RETURN_KEY else []),
        f"map_indexes={map_index if type(map_index) is int else -1}",
    ]
    return f"{{{{ {call.node.node.name}.xcom_pull({', '.join(source)}) }}}}"


# --- any other template --------------------------------------------------------------------------------------


class _Checker:
    """Check of a syntax tree, node by node. See :func:`check_template` for the arguments."""

    def __init__(self, own_names: Collection[str], own_filters: Collection[str]) -> None:
        self._globals = _GLOBALS.difference(own_names)
        self._filters = _FILTERS.difference(own_filters)
        self._checks: dict[type[nodes.Node], Callable[[Any], _Kind]] = {
            nodes.TemplateData: self._text,
            nodes.Const: self._text,
            nodes.Concat: self._text,
            nodes.Compare: self._text,
            nodes.Not: self._text,
            nodes.Name: self._name,
            nodes.Getattr: self._attribute,
            nodes.Getitem: self._attribute,
            nodes.Call: self._call,
            nodes.Filter: self._filter,
            nodes.Test: self._test,
            **dict.fromkeys((nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Mod), self._data),
        }
        # The value of these is one of the operands, or derived from them.
        self._compounds = (
            nodes.BinExpr, nodes.UnaryExpr, nodes.CondExpr, nodes.Keyword, nodes.Operand, nodes.Slice,
        )  # fmt: skip

    def check_all(self, statements: Iterable[nodes.Node]) -> None:
        """Check text, output and conditions. Other statements are refused, since they assign names."""
        for statement in statements:
            if isinstance(statement, nodes.If):
                self._kind(statement.test)
                for block in (statement.body, statement.elif_, statement.else_):
                    self.check_all(block)
            elif isinstance(statement, nodes.Output):
                self._common(statement.nodes)
            else:
                raise WorkerOnlyTemplateError("has a statement other than {% if %}")

    def _kind(self, node: nodes.Node) -> _Kind:
        """Check an expression, and return the kind of its value."""
        if (check := self._checks.get(type(node))) is not None:
            return check(node)
        if not isinstance(node, self._compounds):
            raise WorkerOnlyTemplateError(f"has an expression of the type {type(node).__name__}")
        return self._common(node.iter_child_nodes())

    def _common(self, operands: Iterable[nodes.Node]) -> _Kind:
        kinds = {self._kind(operand) for operand in operands} or {_Kind.DATA}
        return kinds.pop() if len(kinds) == 1 else _Kind.CALENDAR

    def _text(self, node: nodes.Node) -> _Kind:
        """Check an expression without a date in its value, with any operands."""
        self._common(node.iter_child_nodes())
        return _Kind.DATA

    def _data(self, node: nodes.Node) -> _Kind:
        """Check a list, a dict or ``%``. They may contain the type of a date's time zone, which differs on a worker."""
        if self._common(node.iter_child_nodes()) is not _Kind.DATA:
            raise WorkerOnlyTemplateError("uses a date in a list, a dict or a format")
        return _Kind.DATA

    def _name(self, node: nodes.Name) -> _Kind:
        if (kind := _NAMES.get(node.name)) is None:
            raise _not_available(node)
        return kind

    def _attribute(self, node: nodes.Getattr | nodes.Getitem) -> _Kind:
        dotted = _dotted(node)
        if (kind := _NAMES.get(dotted)) is not None:
            return kind
        if dotted and not any(dotted.startswith(f"{name}.") for name in _NAMES):
            raise _not_available(node)
        if (kind := self._kind(node.node)) is _Kind.DATA:
            if isinstance(node, nodes.Getitem) and self._kind(node.arg) is not _Kind.DATA:
                raise WorkerOnlyTemplateError("has a date as a subscript")
            return kind
        table = _MOMENT_ATTRIBUTES if kind is _Kind.MOMENT else _CALENDAR_ATTRIBUTES
        if (name := _attribute_name(node)) not in table:
            raise WorkerOnlyTemplateError(f"uses {name or 'a subscript'!r} of a date")
        return table[str(name)]

    def _call(self, node: nodes.Call) -> _Kind:
        if _is_pull(node):
            raise WorkerOnlyTemplateError(
                f"pulls an XCom in a form that works on a worker only. Write {_working_form(node)} and nothing else, or "
                f"pass the upstream task's output"
            )
        arguments = self._arguments(node)
        if (kind := self._function(node.node)) is None:
            if not isinstance(node.node, (nodes.Getattr, nodes.Getitem)):
                raise _not_available(node.node)
            kind = self._kind(node.node)
        name = _attribute_name(node.node)
        if name in _FORMATTERS and not _is_portable_format(node):
            raise WorkerOnlyTemplateError(f"uses {name!r} with a format that may depend on the machine")
        if kind is not _Kind.DATA or arguments is _Kind.DATA or name in {"ds_add", "ds_format"}:
            return kind
        if name != "get":
            raise WorkerOnlyTemplateError("passes a date to a function or method")
        return _Kind.CALENDAR

    def _function(self, node: nodes.Node) -> _Kind | None:
        """Return the kind of the result of a macro or of one of Jinja's functions; None for other calls."""
        if isinstance(node, nodes.Name) and node.name in self._globals:
            return _Kind.DATA
        return _MACROS.get(_dotted(node))

    def _arguments(self, node: nodes.Call | nodes.Filter | nodes.Test) -> _Kind:
        """Check the arguments of a call, and return their common kind."""
        given = [*node.args, *(word.value for word in node.kwargs), node.dyn_args, node.dyn_kwargs]
        return self._common(value for value in given if value is not None)

    def _filter(self, node: nodes.Filter) -> _Kind:
        if node.node is None or node.name not in self._filters:
            raise WorkerOnlyTemplateError(
                f"uses the filter {node.name!r}, which is not available in the triggerer"
            )
        kinds = {self._kind(node.node), self._arguments(node)}
        self._check_called_by_name(node)
        if node.name in _TEXT_FILTERS or kinds == {_Kind.DATA}:
            return _Kind.DATA
        if node.name not in {"d", "default"}:
            raise WorkerOnlyTemplateError(f"uses the filter {node.name!r} on a date")
        return _Kind.CALENDAR

    def _check_called_by_name(self, node: nodes.Filter) -> None:
        """Check the filter or test that a filter such as ``map`` calls."""
        position = _BY_NAME.get(node.name)
        if position is None or (len(node.args) <= position and node.dyn_args is None):
            return
        called = _constant(node.args[position]) if len(node.args) > position else None
        if called not in (self._filters if node.name == "map" else _TESTS):
            raise WorkerOnlyTemplateError(
                f"uses the filter {node.name!r} with another one that is not available"
            )

    def _test(self, node: nodes.Test) -> _Kind:
        if node.name not in _TESTS:
            raise WorkerOnlyTemplateError(f"uses the test {node.name!r}")
        self._kind(node.node)
        self._arguments(node)
        return _Kind.DATA


def _dotted(node: nodes.Node) -> str:
    """Return a chain of constant attributes of a name, such as ``dag_run.conf``; empty for other nodes."""
    steps: list[str] = []
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        if (name := _attribute_name(node)) is None:
            return ""
        steps.insert(0, name)
        node = node.node
    return ".".join([node.name, *steps]) if isinstance(node, nodes.Name) else ""


def _attribute_name(node: nodes.Node) -> str | None:
    match node:
        case nodes.Getattr(attr=str() as name) | nodes.Getitem(arg=nodes.Const(value=str() as name)):
            return name
    return None


def _is_portable_format(call: nodes.Call) -> bool:
    """Return whether the last argument is a constant format without ``%s``, which reads the machine's time zone."""
    form = _constant(call.args[-1]) if call.args and not call.kwargs else None
    return isinstance(form, str) and "%s" not in form


def _not_available(node: nodes.Node) -> WorkerOnlyTemplateError:
    """Return the error for a name that the triggerer does not have, or has with another value."""
    return WorkerOnlyTemplateError(
        f"uses {_dotted(node) or 'a call'!r}, which is not available in the triggerer"
    )
