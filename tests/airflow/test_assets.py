"""The review of assets on a real Airflow, with the example Dag: deferred, once, and into an order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_manxue.testing import Emulator, Script

if TYPE_CHECKING:
    from dev.local_airflow import LocalAirflow

DAG = "manxue_reviewed_faces"
FACES = ["https://files.example/anna.png", "https://files.example/ben.png"]


def test_example_dag_orders_with_reviewed_faces(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    emulator.default_asset_script = Script.by_hand("queued", "processing", "completed")
    emulator.default_script = Script.polls("completed")
    orders, uploads = len(emulator.ledger.orders), len(emulator.ledger.uploads)
    run_id = local_airflow.trigger(DAG, conf={"faces": FACES})

    local_airflow.wait_until(lambda: len(emulator.ledger.uploads) > uploads, "the faces are uploaded")
    ids = emulator.ledger.uploads[-1].asset_ids
    local_airflow.wait_until(lambda: all(map(emulator.polls, ids)), "the triggerer polls each asset")
    assert local_airflow.task_states(DAG, run_id)["review"] == "deferred"
    assert local_airflow.occupied_slots() == 0
    assert len(emulator.ledger.orders) == orders
    for asset_id in ids:
        emulator.set_status(asset_id, "completed")

    assert local_airflow.wait_for_run(DAG, run_id) == "success"
    assert len(emulator.ledger.uploads) == uploads + 1
    urls = [f"asset://{asset_id}" for asset_id in ids]
    assert local_airflow.xcom(DAG, run_id, "review", key="image_urls") == urls
    assert local_airflow.xcom(DAG, run_id, "review")["image_urls"] == urls
    [order] = emulator.ledger.orders[orders:]
    assert order.request["referenceImages"] == urls
