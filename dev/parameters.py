"""The page docs/parameters.md, made from the signatures and docstrings of the public classes.

``python -m dev.parameters`` writes it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._airflow.task_defaults import EXECUTION_TIMEOUT, RETRIES
from airflow_provider_manxue.get_provider_info import get_provider_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "parameters.md"
BEGIN, END = "<!-- parameters: python -m dev.parameters -->\n", "<!-- end of parameters -->\n"
HEAD = ["| parameter | type | default | templated | Airflow | meaning |", "|---|---|---|---|---|---|"]
OLDEST = "2.11"
AIRFLOWS_OWN = {"execution_timeout": EXECUTION_TIMEOUT, "retries": RETRIES}
"""Parameters whose default follows Airflow's configuration."""


def main() -> None:
    """Write the tables into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + written() + END + after)


def listed() -> str:
    """Return the tables in the page."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def written() -> str:
    """Return a section for each public class, in the order sensors, operators, transfers, hooks."""
    return "".join(f"{line}\n" for public in public_classes() for line in section(public)) + "\n"


def public_classes() -> Iterator[type]:
    """Yield the public classes of the modules that the provider info names."""
    info = get_provider_info()
    grouped = [entry for kind in ("sensors", "operators") for entry in info[kind]]
    names = [name for entry in grouped for name in entry["python-modules"]]
    names += [entry["python-module"] for entry in info["transfers"]]
    names += [name for entry in info["hooks"] for name in entry["python-modules"]]
    for module in map(importlib.import_module, names):
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                yield value


def section(public: type) -> Iterator[str]:
    """Yield the lines of a class: its constructor and, for a hook, its methods."""
    yield from ("", f"## {public.__name__}", "", f"`from {public.__module__} import {public.__name__}`", "")
    yield from table(vars(public)["__init__"], public.__doc__, getattr(public, "template_fields", ()))
    if public.__module__.split(".")[1] == "hooks":
        for method in methods(public):
            yield from ("", f"### {public.__name__}.{method.__name__}", "", *table(method, method.__doc__))


def methods(hook: type) -> Iterator[Callable[..., Any]]:
    """Yield the methods with parameters that the API reference shows."""
    hidden = re.findall(r":exclude-members: (.*)", (DOCS / "api.md").read_text())
    for name, value in vars(hook).items():
        is_shown = not name.startswith("_") and name not in ", ".join(hidden).split(", ")
        if inspect.isfunction(value) and is_shown and ":param" in (value.__doc__ or ""):
            yield value


def table(
    function: Callable[..., Any], docstring: str | None, templated: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield the lines of a table with a row for each parameter."""
    meanings = dict(described(docstring or ""))
    yield from HEAD
    for name, parameter in inspect.signature(function).parameters.items():
        if name != "self":
            yield row(parameter, meanings.get(name, ""), is_templated=name in templated)


def described(docstring: str) -> Iterator[tuple[str, str]]:
    """Yield the names and the texts of ``:param:`` in a docstring."""
    for field in re.split(r"\n(?=:)", inspect.cleandoc(docstring)):
        if found := re.match(r":param (\w+): (.*)", " ".join(field.split("\n\n")[0].split())):
            yield found[1], found[2]


def row(parameter: inspect.Parameter, meaning: str, *, is_templated: bool) -> str:
    """Return the row of a parameter."""
    since = re.search(r" \(Airflow ([\d.]+) and later\)", meaning)
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        cells = [f"`**{parameter.name}`", "", "", "", "", meaning]
    else:
        cells = [
            f"`{parameter.name}`",
            f"`{parameter.annotation}`",
            default(parameter),
            "yes" if is_templated else "no",
            since[1] if since else OLDEST,
            meaning.replace(since[0], "") if since else meaning,
        ]
    return f"| {' | '.join(markdown(cell) for cell in cells)} |"


def default(parameter: inspect.Parameter) -> str:
    """Return the default of a parameter; whole numbers without a fraction."""
    value = parameter.default
    if value is inspect.Parameter.empty:
        return "required"
    if parameter.name in AIRFLOWS_OWN:
        return "Airflow's"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value!r}`"


def markdown(text: str) -> str:
    """Return a text of a docstring as the cell of a table. A named page becomes a link."""
    text = re.sub(r":\w+:`[.~]?(\w+)`", r"`\1`", text.removeprefix("(templated) "))
    text = re.sub(r"``docs/([\w-]+)\.md``", r"[\1](\1.md)", text)
    return re.sub(r"`+", "`", text).replace("|", r"\|").strip()


if __name__ == "__main__":
    main()
