"""Detection of arguments that Airflow renders at run time."""

from __future__ import annotations

from typing import Any


def is_rendered_later(value: Any) -> bool:
    """Return whether a value is only known at run time: a template, or a reference to an XCom."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, dict):
        return any(map(is_rendered_later, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(is_rendered_later, value))
    return hasattr(value, "resolve")
