"""The example of a whole production line: reviewed faces, approved shots, a cut that starts by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_manxue.testing import Script
from tests.support.airflow_runs import wait_for_questions
from tests.support.films import shots_of

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow

LINE, CUT = "manxue_production_line", "manxue_production_cut"
FACES = ["https://files.example/anna.png", "https://files.example/ben.png"]
WITHDRAWN = "asset://withdrawn"
"""An asset that the service does not use, or not any more."""

REFERENCES = [
    FACES[:1],
    FACES[1:],
    [WITHDRAWN],
    FACES,
    FACES[:1],
    [FACES[0], WITHDRAWN],
    FACES[1:],
    FACES[:1],
]
REFUSED = {2, 5}
FAILED = 4
REJECTED = 6

pytestmark = pytest.mark.heavy


@pytest.fixture
def airflow(local_airflow: LocalAirflow) -> LocalAirflow:
    if local_airflow.version < (3, 3):
        pytest.skip(
            "Airflow below 3.1 has no human-in-the-loop tasks, and the triggerer of 3.1 and 3.2 can end with several "
            "questions (apache/airflow#64620)"
        )
    return local_airflow


def length(number: int) -> float:
    """Return the length of a shot in seconds. No last picture of one is as long as the others."""
    return round(4.01 + 0.51 * number, 2)


def number_of(order: Any) -> int:
    return int(order.request["prompt"].split()[1])


def cuts(airflow: LocalAirflow) -> list[str]:
    return [run for (run,) in airflow.query("SELECT run_id FROM dag_run WHERE dag_id = ?", CUT)]


def test_example_dag_line_from_faces_to_film(
    airflow: LocalAirflow, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.default_asset_script = Script.timed(processing=1)
    emulator.default_script = Script.by_hand("processing", "completed")
    orders, uploads = len(emulator.ledger.orders), len(emulator.ledger.uploads)
    shots = [
        {"prompt": f"shot {number}", "references": references} for number, references in enumerate(REFERENCES)
    ]
    conf = {"faces": FACES, "shots": shots, "destination": f"{tmp_path.as_uri()}/"}
    airflow.wait_for_dag(CUT)
    run_id = airflow.trigger(LINE, conf=conf)

    # Eight orders: two are refused for an asset that is not active, one fails, five are completed.
    airflow.wait_until(lambda: len(emulator.ledger.orders) == orders + 8, "all shots are ordered")
    assert len(emulator.ledger.uploads) == uploads + 1
    videos = {number_of(order): order.id for order in emulator.ledger.orders[orders:]}
    asset_of = dict(
        zip(FACES, (f"asset://{one}" for one in emulator.ledger.uploads[-1].asset_ids), strict=True)
    )
    for order in emulator.ledger.orders[orders:]:
        references = REFERENCES[number_of(order)]
        assert order.request["referenceImages"] == [asset_of.get(one, one) for one in references]
    for number in set(range(8)) - REFUSED:
        emulator.task(videos[number]).actual_duration = length(number)
        emulator.set_status(videos[number], "failed" if number == FAILED else "completed")
    failed = {("shot.order", number): "failed" for number in {*REFUSED, FAILED}}
    asked = set(range(8)) - REFUSED - {FAILED}
    airflow.wait_for_tasks(LINE, run_id, failed)
    wait_for_questions(airflow, LINE, run_id, {("shot.approve", number) for number in asked})
    assert airflow.occupied_slots() == 0

    for number in asked:
        option = "Order again" if number == REJECTED else "Approve"
        airflow.respond(LINE, run_id, "shot.approve", number, option, prompt="shot 60")
    airflow.wait_for_tasks(LINE, run_id, {("shot.order_again", REJECTED): "deferred"})
    assert len(emulator.ledger.orders) == orders + 9
    again = emulator.ledger.orders[-1]
    assert (again.request["prompt"], again.request["referenceImages"]) == ("shot 60", [asset_of[FACES[1]]])
    assert cuts(airflow) == []
    emulator.task(again.id).actual_duration = length(8)
    emulator.set_status(again.id, "completed")

    # The run succeeds by its last task. The shots that failed are not in the film.
    assert airflow.wait_for_run(LINE, run_id) == "success", airflow.describe_run(LINE, run_id)
    airflow.wait_until(lambda: cuts(airflow), "the cut starts by itself")
    [cut] = cuts(airflow)
    assert airflow.wait_for_run(CUT, cut) == "success", airflow.describe_run(CUT, cut)
    lengths = [length(8 if number == REJECTED else number) for number in sorted(asked)]
    film = tmp_path / "film.mp4"
    assert shots_of(film) == pytest.approx(lengths)
    [(extra,)] = airflow.query(
        "SELECT extra FROM asset_event WHERE source_dag_id = ? AND source_run_id = ?", LINE, run_id
    )
    assert "signature" not in extra
    assert [shot["duration"] for shot in json.loads(extra)["shots"]] == lengths
