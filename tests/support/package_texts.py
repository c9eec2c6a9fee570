"""The texts of the package: log lines and errors, as its source has them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import airflow_provider_manxue

PACKAGE = Path(airflow_provider_manxue.__file__).parent
VALUE = "\0"
"""Stands for a value within a text."""


@cache
def package_texts() -> frozenset[str]:
    """Return all literal texts of the package without the emulator, f-strings and %-formats with `VALUE` for each value."""
    files = [file for file in PACKAGE.rglob("*.py") if "testing" not in file.relative_to(PACKAGE).parts]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    return frozenset(filter(None, map(_text_of, nodes)))


def _text_of(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(part) or VALUE for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(?:\.\d+)?[sdrgf]", VALUE, node.value)
    return ""


def is_package_text(quoted: str) -> bool:
    """
    Return whether the package has a text.

    :param quoted: a text, or a part of one, with ``...`` for values and for what is left out.
    """
    parts = [re.escape(part.strip()) for part in quoted.split("...")]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in package_texts())
