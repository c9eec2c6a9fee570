"""The limit of the seconds of video that a Dag run orders, on a real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Script

if TYPE_CHECKING:
    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow

KEY = "manxue_ordered_seconds"


@pytest.fixture
def airflow(local_airflow: LocalAirflow) -> LocalAirflow:
    if local_airflow.version < (3, 3):
        pytest.skip("this Airflow has no task state store")
    return local_airflow


def posts(emulator: Emulator) -> int:
    return sum(request.method == "POST" for request in emulator.requests)


def clear(airflow: LocalAirflow, dag: str, run_id: str, task_id: str, map_index: int) -> None:
    body = {
        "dry_run": False,
        "dag_run_id": run_id,
        "task_ids": [[task_id, map_index]],
        "only_failed": False,
    }
    airflow._api("POST", f"/api/v2/dags/{dag}/clearTaskInstances", body)


def test_third_shot_above_the_limit_sends_nothing(airflow: LocalAirflow, emulator: Emulator) -> None:
    """One after the other: two shots of 5 s are ordered. A clear of one orders again, and is counted, so it is refused."""
    emulator.default_script = Script.polls("completed")
    dag, before, billed = "shots_within_a_limit", posts(emulator), emulator.ledger.billed
    run_id = airflow.trigger(dag)
    assert airflow.wait_for_run(dag, run_id) == "failed"

    states = airflow.task_states(dag, run_id)
    assert sorted(states.values()) == ["failed", "success", "success"], airflow.describe_run(dag, run_id)
    assert (posts(emulator), emulator.ledger.billed) == (before + 2, billed + 2)
    [refused] = [index for (_, index), state in states.items() if state == "failed"]
    log = airflow.task_log(dag, run_id, "order", map_index=refused)
    assert "ManxueRunLimitError" in log
    assert "it is for 5 s of video, and the tasks of this Dag run have ordered 10 s of at most 10 s" in log
    tries = "SELECT try_number FROM task_instance WHERE run_id = ? AND map_index = ?"
    assert airflow.query(tries, run_id, refused) == [(1,)], "a retry would be refused as well"
    seconds = {index: airflow.xcom(dag, run_id, "order", KEY, index) for index in range(3)}
    assert seconds == {index: 0 if index == refused else 5 for index in range(3)}

    ordered = (refused + 1) % 3
    clear(airflow, dag, run_id, "order", ordered)
    airflow.wait_until(lambda: airflow.query(tries, run_id, ordered) == [(2,)], "the task is tried again")
    airflow.wait_for_tasks(dag, run_id, {("order", ordered): "failed"})
    assert airflow.xcom(dag, run_id, "order", KEY, ordered) == 5, "what its first try has ordered"
    assert posts(emulator) == before + 2


@pytest.mark.heavy
def test_limit_holds_for_tasks_at_the_same_moment(airflow: LocalAirflow, emulator: Emulator) -> None:
    """How many of them are refused depends on their timing."""
    before = posts(emulator)
    run_id = airflow.trigger("shots_at_the_same_moment")
    assert airflow.wait_for_run("shots_at_the_same_moment", run_id) == "failed"

    states = list(airflow.task_states("shots_at_the_same_moment", run_id).values())
    assert posts(emulator) - before == states.count("success") <= 2
    assert states.count("success") + states.count("failed") == 4
