"""The notifier of the example on a real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Response, Script

if TYPE_CHECKING:
    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow

DAG = "alert_on_failure"
PROMPT = "a secret fox"


@pytest.mark.heavy
def test_example_dag_notifier_has_the_reason_without_secrets(
    local_airflow: LocalAirflow, emulator: Emulator
) -> None:
    """The service quotes the prompt when it rejects the order."""
    video = emulator.add_task(script=Script.failing("the prompt is not allowed"))
    emulator.fail_next(1, Response(status=400, json={"message": f"bad prompt: {PROMPT}"}), on="create")
    run_id = local_airflow.trigger(DAG, conf={"video": video, "prompt": PROMPT})
    assert local_airflow.wait_for_run(DAG, run_id) == "failed"

    alerts = {task: alert(local_airflow, run_id, task) for task in ("wait", "order")}
    assert alerts["wait"].startswith(
        f"The task wait of {DAG}, run {run_id}, failed. ManxueVideoFailedError: "
    )
    assert "the prompt is not allowed" in alerts["wait"]
    assert alerts["order"].startswith(
        f"The task order of {DAG}, run {run_id}, failed. ManxueOrderRejectedError: "
    )
    assert "bad prompt: (prompt)" in alerts["order"]
    for text in alerts.values():
        assert not any(secret in text for secret in (PROMPT, emulator.api_key, "http"))


def alert(airflow: LocalAirflow, run_id: str, task: str) -> str:
    """Return the text of the alert in the log of a task."""
    lines = [line for line in airflow.task_log(DAG, run_id, task).splitlines() if "Film alert: " in line]
    assert len(lines) == 1, airflow.task_log(DAG, run_id, task)
    return lines[0].partition("Film alert: ")[2]
