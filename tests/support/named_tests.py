"""Names of tests in the documentation."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def named_in(text: str) -> list[str]:
    """Return the names of tests in a page, such as ``unit/test_docs.py::test_json_blocks_parse``."""
    return sorted(set(re.findall(r"`([\w/]+\.py(?:::\w+)+)`", text)))


def _tests_of(path: Path) -> set[str]:
    """Return the names of the tests of a module. Those in classes have the class as a prefix."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {
            prefix + one.name
            for one in inner
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name.startswith("test_")
        }
    return found


def exists(name: str) -> bool:
    """Return whether there is a test of that name."""
    path, _, test = name.partition("::")
    return test in _tests_of(TESTS / path)
