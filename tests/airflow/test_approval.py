"""The example in which a person approves the shots, on each Airflow that has human-in-the-loop tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Response, Script
from tests.support.airflow_runs import wait_for_questions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow

DAG = "manxue_approval"
SHOTS = ["shot 0", "shot 1", "shot 2"]

pytestmark = pytest.mark.heavy


@pytest.fixture
def single(local_airflow: LocalAirflow, emulator: Emulator) -> LocalAirflow:
    """An Airflow for one question at a time."""
    if local_airflow.version < (3, 1):
        pytest.skip("this Airflow has no human-in-the-loop tasks")
    emulator.default_script = Script.timed(processing=1)
    return local_airflow


@pytest.fixture
def airflow(single: LocalAirflow) -> LocalAirflow:
    if single.version < (3, 3):
        pytest.skip("with several questions, the triggerer of this Airflow may end (apache/airflow#64620)")
    return single


def run_until_review(airflow: LocalAirflow, folder: Path, shots: Sequence[str] = SHOTS, **conf: str) -> str:
    run_id = airflow.trigger(DAG, conf={"shots": shots, "destination": f"{folder.as_uri()}/", **conf})
    wait_for_questions(airflow, DAG, run_id, {("shot.review", number) for number in range(len(shots))})
    return run_id


def respond(airflow: LocalAirflow, run_id: str, number: int, option: str, prompt: str) -> None:
    airflow.respond(DAG, run_id, "shot.review", number, option, prompt=prompt)


def test_rejected_shot_is_ordered_again_with_the_entered_prompt(
    airflow: LocalAirflow, emulator: Emulator, tmp_path: Path
) -> None:
    billed = emulator.ledger.billed
    run_id = run_until_review(airflow, tmp_path)
    assert airflow.occupied_slots() == 0

    for number, option in enumerate(("Approve", "Order again", "Approve")):
        respond(airflow, run_id, number, option, f"shot {number}, brighter")
    assert airflow.wait_for_run(DAG, run_id) == "success"

    assert [order.request["prompt"] for order in emulator.ledger.orders[billed:]][3:] == ["shot 1, brighter"]
    first = [airflow.xcom(DAG, run_id, "shot.save", map_index=number) for number in range(3)]
    again = airflow.xcom(DAG, run_id, "shot.save_again", map_index=1)
    assert airflow.xcom(DAG, run_id, "episode") == [first[0], again, first[2]]
    assert len({*first, again}) == len(list(tmp_path.glob("*.mp4"))) == 4


def test_failed_shot_is_not_in_the_episode(airflow: LocalAirflow, emulator: Emulator, tmp_path: Path) -> None:
    emulator.fail_next(1, Response(status=400, json={"message": "no such model"}), on="create")
    billed = emulator.ledger.billed
    run_id = airflow.trigger(DAG, conf={"shots": SHOTS, "destination": f"{tmp_path.as_uri()}/"})

    def failed_shots() -> set[int]:
        states = airflow.task_states(DAG, run_id)
        return {number for number in range(3) if states.get(("shot.order", number)) == "failed"}

    airflow.wait_until(failed_shots, "a shot has failed")
    asked = set(range(3)) - failed_shots()
    wait_for_questions(airflow, DAG, run_id, {("shot.review", number) for number in asked})
    for number in asked:
        respond(airflow, run_id, number, "Approve", "")
    assert airflow.wait_for_run(DAG, run_id) == "success"

    assert emulator.ledger.billed == billed + 2
    assert len(airflow.xcom(DAG, run_id, "episode")) == 2


def test_single_shot_is_a_list(single: LocalAirflow, tmp_path: Path) -> None:
    run_id = run_until_review(single, tmp_path, shots=SHOTS[:1])
    assert single.occupied_slots() == 0

    respond(single, run_id, 0, "Approve", "")
    assert single.wait_for_run(DAG, run_id) == "success"

    assert single.xcom(DAG, run_id, "episode") == [single.xcom(DAG, run_id, "shot.save", map_index=0)]


def test_question_has_links_and_no_signed_url(airflow: LocalAirflow, tmp_path: Path) -> None:
    run_id = run_until_review(airflow, tmp_path, public_base="https://films.example/")
    details = [airflow.question(DAG, run_id, "shot.review", number) for number in range(3)]

    for number, detail in enumerate(details):
        assert detail["subject"] == f"shot {number}"
        assert f"/runs/{run_id}/tasks/shot.order/mapped/{number}/plugin/manxue_video)" in detail["body"]
        assert "(https://films.example/" in detail["body"]
    assert "signature" not in json.dumps(details)
