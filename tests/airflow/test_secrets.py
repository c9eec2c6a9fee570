"""The key and signed URLs in what Airflow writes. The fixture of the shared Airflow searches it once more at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_manxue.testing import Script
from tests.support.secret_search import IN_XCOM, assert_no_secrets, places_of

if TYPE_CHECKING:
    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow

DAG = "wait_in_every_mode"


def test_key_is_nowhere_and_url_only_in_xcom(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    run_id = local_airflow.trigger(DAG, conf={"video": emulator.add_task(script=Script.polls("completed"))})
    assert local_airflow.wait_for_run(DAG, run_id) == "success"

    assert_no_secrets(local_airflow, emulator)


def test_search_finds_what_is_there(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    video = emulator.add_task(script=Script.polls("completed"))
    run_id = local_airflow.trigger(DAG, conf={"video": video})
    assert local_airflow.wait_for_run(DAG, run_id) == "success"

    found = places_of(
        {"id": video.encode(), "url": b"signature="}, local_airflow.home, local_airflow.database
    )

    assert "dag_run.conf" in found["id"]
    assert any(place.endswith(".log") for place in found["id"])
    assert found["url"] == IN_XCOM
