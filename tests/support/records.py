"""Runs of ``doctor --record``, and its file."""

from __future__ import annotations

import json

import pytest

from airflow_provider_manxue import cli

KEY = "sk-emulator-key-4711"
PROMPT = 'A "lighthouse" at night, 灯塔'
SECRET_URL = "https://media.example/lighthouse.mp4?signature=abc%2Fdef"


def run(capsys, *arguments):
    """Return the exit code, and what was printed."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--record", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out + printed.err


def entries(path, *, without=()):
    """Return the entries of each task, without some fields."""
    tasks = json.loads(path.read_text())["tasks"]
    return {
        task_id: [{name: value for name, value in one.items() if name not in without} for one in responses]
        for task_id, responses in tasks.items()
    }
