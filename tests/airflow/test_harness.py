"""``LocalAirflow``, on which the other tests in this folder rely, with a real Airflow."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from dev.local_airflow import LocalAirflow, LocalAirflowError, all_processes, environment_of

if TYPE_CHECKING:
    from pathlib import Path

DAG_ID = "harness_smoke"


def test_states_xcoms_logs_and_slots_of_a_run(local_airflow: LocalAirflow) -> None:
    run_id = local_airflow.trigger(DAG_ID, conf={"seconds": 8})
    local_airflow.wait_for_tasks(DAG_ID, run_id, {"wait": "deferred"})
    assert local_airflow.occupied_slots("one") == 0

    assert local_airflow.wait_for_run(DAG_ID, run_id) == "success"
    assert local_airflow.task_states(DAG_ID, run_id) == {
        "plain": "success",
        "wait": "success",
        ("double", 0): "success",
        ("double", 1): "success",
    }
    assert local_airflow.xcom(DAG_ID, run_id, "plain") == {"text": "hello", "number": 7, "nothing": None}
    assert local_airflow.xcom(DAG_ID, run_id, "wait") == "resumed"
    assert local_airflow.xcom(DAG_ID, run_id, "double", map_index=1) == 4
    assert "hello from the plain task" in local_airflow.task_log(DAG_ID, run_id, "plain")
    assert "defer for 8 seconds" in local_airflow.task_log(DAG_ID, run_id, "wait")
    with pytest.raises(KeyError, match="no XCom 'other'"):
        local_airflow.xcom(DAG_ID, run_id, "plain", key="other")


@pytest.mark.heavy
def test_connection_is_replaced(local_airflow: LocalAirflow) -> None:
    for host in ("first.invalid", "second.invalid"):
        local_airflow.set_connection("harness", conn_type="generic", host=host, extra={"number": 1})

    connections = local_airflow.query("SELECT conn_type, host FROM connection WHERE conn_id = 'harness'")
    assert connections == [("generic", "second.invalid")]


@pytest.mark.heavy
def test_wait_survives_a_killed_triggerer(local_airflow: LocalAirflow) -> None:
    run_id = local_airflow.trigger(DAG_ID, conf={"seconds": 12})
    local_airflow.wait_for_tasks(DAG_ID, run_id, {"wait": "deferred"})

    local_airflow.kill("triggerer")
    local_airflow.start("triggerer")

    assert local_airflow.wait_for_run(DAG_ID, run_id) == "success"


@pytest.mark.heavy
def test_wait_for_run_timeout_names_the_state_of_the_run(local_airflow: LocalAirflow) -> None:
    run_id = local_airflow.trigger(DAG_ID, conf={"seconds": 10})

    with pytest.raises(LocalAirflowError, match=f"{DAG_ID} {run_id}: "):
        local_airflow.wait_for_run(DAG_ID, run_id, timeout=0.1)

    assert local_airflow.wait_for_run(DAG_ID, run_id) == "success"


@pytest.mark.heavy
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_no_process_behind(tmp_path: Path, signal_number: signal.Signals) -> None:
    code = f"from dev.local_airflow import LocalAirflow; LocalAirflow({str(tmp_path)!r}, dags_folder='.').__enter__()"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as harness:
        # The log is created a moment before the process.
        while not ((tmp_path / "scheduler.log").exists() and processes_of(tmp_path)):
            assert harness.poll() is None
            time.sleep(0.1)

        harness.send_signal(signal_number)
        harness.send_signal(signal_number)
        assert "KeyboardInterrupt" in harness.communicate(timeout=300)[1]

    assert processes_of(tmp_path) == []


def processes_of(home: Path) -> list[int]:
    """Return the ids of the processes whose ``AIRFLOW_HOME`` is a folder."""
    return [pid for pid in all_processes() if f"AIRFLOW_HOME={home}\0".encode() in environment_of(pid)]


@pytest.mark.heavy
def test_dead_component_is_shown_with_its_output(tmp_path: Path) -> None:
    broken = LocalAirflow(tmp_path, dags_folder=tmp_path, config={"core.executor": "NoSuchExecutor"})

    # A scheduler registers its job before it loads the executor, so that it can be ready for a moment.
    with pytest.raises(LocalAirflowError, match=r"ended with exit code 1.*(?s:.*)NoSuchExecutor"), broken:
        broken.wait_until(lambda: False)

    assert broken.leftover_processes() == []


def test_environment_without_airflow_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalAirflowError, match="Airflow is not installed for /bin/false"):
        LocalAirflow(tmp_path, dags_folder=tmp_path, python="/bin/false")
