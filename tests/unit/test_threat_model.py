"""Tests named in the threat model: each line names one or is marked as not held, and each test exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/threat-model.md").read_text()
LINES = [
    line for line in re.findall(r"^\|.*\|$", TEXT, re.MULTILINE) if not line.startswith(("| tries |", "|---"))
]
NAMES = sorted(set(re.findall(r"`([\w/]+\.py(?:::\w+)+)`", TEXT)))


def named_in(path):
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


def test_each_actor_has_lines():
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]

    assert len(LINES) > 50
    assert [one.splitlines()[0] for one in sections if not set(LINES) & set(one.splitlines())] == []


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[2:42])
def test_each_line_names_a_test_or_is_not_held(line):
    _, tries, stopped_by, held_by, _ = re.split(r"\s*(?<!\\)\|\s*", line)

    assert tries
    assert stopped_by
    assert "**not held**" in stopped_by or re.search(r"`[\w/]+\.py::\w+", held_by)


@pytest.mark.parametrize("name", NAMES)
def test_each_named_test_exists(name):
    path, _, test = name.partition("::")

    assert test in named_in(ROOT / "tests" / path)
