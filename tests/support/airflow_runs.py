"""Helpers for runs on a real Airflow with the emulator."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dev.local_airflow import LocalAirflow

VIDEO_URL = re.compile(r"http://127\.0\.0\.1:\d+/media/\S+\?\S*signature=\S+")
"""URL of a video in the emulator, with its signature."""


def mapped_states(airflow: LocalAirflow, dag_id: str, run_id: str) -> list[str | None]:
    """Return the states of all mapped task instances of a run."""
    return [state for key, state in airflow.task_states(dag_id, run_id).items() if isinstance(key, tuple)]


RESPONSE_AGE = 15.0
"""
Seconds that a question is open before a test responds to it.

A task that resumes within seconds can be failed by the scheduler, when the executor reports the end of its first process only then:
the race for which a trigger of ours polls first after 10 s. No person responds that quickly.
"""


def wait_for_questions(airflow: LocalAirflow, dag_id: str, run_id: str, tasks: set[tuple[str, int]]) -> None:
    """Wait until a person is asked by each of these mapped tasks, and by no other one, and could have responded."""
    state = "awaiting_input" if airflow.version >= (3, 3) else "deferred"
    task_ids = {task_id for task_id, _ in tasks}
    since: list[float] = []

    def are_open() -> bool:
        states = airflow.task_states(dag_id, run_id).items()
        opened = {key for key, found in states if key[0] in task_ids and found == state}
        if opened == tasks:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] > RESPONSE_AGE

    airflow.wait_until(are_open, f"a person is asked by {tasks}")
