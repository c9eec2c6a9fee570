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

Airflow 3.3.2 can fail a task that resumes within seconds: its scheduler reads the executor's event of the first process only when the task
is queued again, and logs "finished with state success, but the task instance's state attribute is queued". For the same race a
trigger of ours polls first after 10 s.
"""


def wait_for_questions(airflow: LocalAirflow, dag_id: str, run_id: str, tasks: set[tuple[str, int]]) -> None:
    """Wait until a person is asked by each of these mapped tasks, and by no other one of their ids, and could have responded."""
    state = "awaiting_input" if airflow.version >= (3, 3) else "deferred"
    task_ids = {task_id for task_id, _ in tasks}

    def opened() -> set[object]:
        states = airflow.task_states(dag_id, run_id)
        return {
            key
            for key, found in states.items()
            if isinstance(key, tuple) and key[0] in task_ids and found == state
        }

    airflow.wait_until(lambda: opened() == tasks, f"a person is asked by {tasks}")
    answerable_at = time.monotonic() + RESPONSE_AGE
    airflow.wait_until(lambda: time.monotonic() > answerable_at, "the questions have been open for a while")
