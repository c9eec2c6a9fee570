"""The texts of the package: log lines and errors, as its source has them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import airflow_provider_manxue
from airflow_provider_manxue._core.order_kinds import ASSET_UPLOAD, VIDEO_ORDER

if TYPE_CHECKING:
    from airflow_provider_manxue._core.order_kinds import OrderKind

PACKAGE = Path(airflow_provider_manxue.__file__).parent
VALUE = "\0"
"""Stands for a value within a text."""


@cache
def package_texts() -> frozenset[str]:
    """
    Return all literal texts of the package without the emulator, f-strings and %-formats with `VALUE` for each value.

    A text of orders and uploads is returned with the words of each.
    """
    files = [file for file in PACKAGE.rglob("*.py") if "testing" not in file.relative_to(PACKAGE).parts]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    kinds = (VIDEO_ORDER, ASSET_UPLOAD)
    return frozenset(text for node in nodes for kind in kinds if (text := _text_of(node, kind)))


def _text_of(node: ast.AST, kind: OrderKind) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(part, kind) or VALUE for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(?:\.\d+)?[sdrgf]", VALUE, node.value)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Attribute):
        return str(getattr(kind, node.value.attr, ""))
    return ""


def is_package_text(quoted: str) -> bool:
    """
    Return whether the package has a text.

    :param quoted: a text, or a part of one, with ``...`` for values and for what is left out.
    """
    parts = [re.escape(part.strip()) for part in quoted.split("...")]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in package_texts())
