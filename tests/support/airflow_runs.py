"""Helpers for runs on a real Airflow with the emulator."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dev.local_airflow import LocalAirflow

VIDEO_URL = re.compile(r"http://127\.0\.0\.1:\d+/media/\S+\?\S*signature=\S+")
"""URL of a video in the emulator, with its signature."""


def mapped_states(airflow: LocalAirflow, dag_id: str, run_id: str) -> list[str | None]:
    """Return the states of all mapped task instances of a run."""
    return [state for key, state in airflow.task_states(dag_id, run_id).items() if isinstance(key, tuple)]
