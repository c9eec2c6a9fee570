"""Tests named in the threat model: each line names one or is marked as not held, and each test exists."""

import re
from pathlib import Path

import pytest

from tests.support.named_tests import exists, named_in

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/threat-model.md").read_text()
LINES = [
    line for line in re.findall(r"^\|.*\|$", TEXT, re.MULTILINE) if not line.startswith(("| tries |", "|---"))
]


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


@pytest.mark.parametrize("name", named_in(TEXT))
def test_each_named_test_exists(name):
    assert exists(name)
