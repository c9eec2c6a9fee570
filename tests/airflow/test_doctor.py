"""The doctor on a real Airflow: as Dag, on a worker and in the triggerer, and as command beside its database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_manxue._core.diagnosis import PROBE_ID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow

DAG = "manxue_doctor"


def by_check(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {finding["check"]: finding for finding in report["findings"]}


def levels(report: dict[str, Any]) -> dict[str, str]:
    return {name: finding["level"] for name, finding in by_check(report).items()}


def test_example_dag_compares_worker_and_triggerer(
    local_airflow: LocalAirflow, emulator: Emulator, tmp_path: Path
) -> None:
    before = len(emulator.requests)
    run_id = local_airflow.trigger(DAG, conf={"store": f"file://{tmp_path}/"})

    assert local_airflow.wait_for_run(DAG, run_id) == "success"

    worker, triggerer = (local_airflow.xcom(DAG, run_id, task) for task in ("worker", "triggerer"))
    seen = "not checked" if local_airflow.is_3 else "ok"
    sound = dict.fromkeys(
        ("versions", "plugin", "connection", "tls", "proxy", "service", "key", "clock", "store", "triggerer"),
        "ok",
    )
    assert worker["place"] == "worker"
    assert levels(worker) == {**sound, "triggerer": seen, "limits": seen}
    assert triggerer["place"] == "triggerer"
    assert levels(triggerer) == {**sound, "limits": seen, "store": "not checked"}
    [comparison] = local_airflow.xcom(DAG, run_id, "compare")
    assert comparison["text"].startswith("The same on worker and triggerer: airflow-provider-manxue ")
    probes = [request for request in emulator.requests[before:] if request.path.endswith(PROBE_ID)]
    assert [request.method for request in probes] == ["GET", "GET"]
    assert "The certificate" not in local_airflow.task_log(DAG, run_id, "worker")
    assert "Doctor on" in local_airflow.task_log(DAG, run_id, "worker")


@pytest.mark.heavy
def test_example_dag_fails_with_the_remedy_of_a_wrong_key(
    local_airflow: LocalAirflow, emulator: Emulator
) -> None:
    local_airflow.set_connection(
        "doctor_wrong_key", conn_type="manxue", host=emulator.base_url, password="wrong-key-0815"
    )
    run_id = local_airflow.trigger(DAG, conf={"conn_id": "doctor_wrong_key"})

    assert local_airflow.wait_for_run(DAG, run_id) == "failed"

    assert local_airflow.task_states(DAG, run_id) == {
        "worker": "success",
        "triggerer": "success",
        "compare": "failed",
    }
    log = local_airflow.task_log(DAG, run_id, "compare")
    assert "worker, key: The service refused the API key" in log
    assert "triggerer, key: The service refused the API key" in log
    assert "Put a valid key into the connection's field 'API key'" in log
    assert "wrong-key-0815" not in log


@pytest.fixture
def examine(local_airflow: LocalAirflow, emulator: Emulator) -> Callable[[], tuple[int, dict[str, Any]]]:
    """Run the command with a connection of the database. Returns its exit code and its report."""
    local_airflow.set_connection(
        "doctor_stored", conn_type="manxue", host=emulator.base_url, password=emulator.api_key
    )
    command = ["airflow", "manxue"] if local_airflow.version >= (3, 2) else ["airflow_provider_manxue"]

    def examine() -> tuple[int, dict[str, Any]]:
        code, output = local_airflow.output_of(
            "-m", *command, "doctor", "--conn-id", "doctor_stored", "--output", "json"
        )
        return code, json.loads(output)

    return examine


@pytest.mark.heavy
def test_command_notices_that_the_triggerer_is_gone(
    local_airflow: LocalAirflow, examine: Callable[[], tuple[int, dict[str, Any]]]
) -> None:
    code, report = examine()

    assert code == 0, report
    assert levels(report) == {**dict.fromkeys(levels(report), "ok"), "store": "not checked"}
    assert "'doctor_stored' leads to" in by_check(report)["connection"]["text"]

    local_airflow.kill("triggerer")
    try:
        # A triggerer counts as live for a while after its last heartbeat.
        local_airflow.wait_until(lambda: examine()[0] == 1)
        code, report = examine()
    finally:
        local_airflow.start("triggerer")

    assert code == 1
    assert by_check(report)["triggerer"]["remedy"].startswith("Start one: `airflow triggerer`")
