"""Outages of the secrets backend, and triggerers with queues."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Emulator, Script
from dev.local_airflow import LocalAirflow
from tests.support.airflow_runs import mapped_states

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.heavy

DAGS = Path(__file__).parent / "dags"
OUTAGE = 90.0
"""Seconds; longer than the connection cache stores a connection."""


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the connections of the secrets backend."""
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def airflow(
    emulator: Emulator, secrets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalAirflow]:
    """An Airflow whose connections come from the secrets backend, and whose triggerer serves one queue."""
    (secrets / "manxue_default.json").write_text(emulator.airflow_connection_json())
    with LocalAirflow(
        tmp_path_factory.mktemp("outages"),
        dags_folder=DAGS,
        env={"PYTHONPATH": str(DAGS), "MANXUE_TEST_SECRETS": str(secrets)},
        config={"secrets.backend": "flaky_secrets.FlakySecrets"},
        triggerer_queues=["default"],
        pools={"one": 1},
    ) as airflow:
        yield airflow


def test_waits_survive_an_outage_of_the_secrets_backend(
    airflow: LocalAirflow, secrets: Path, emulator: Emulator
) -> None:
    """Airflow reports the outage as "not found". Half of the videos are completed during the outage."""
    videos = [emulator.add_task(script=Script.by_hand("processing", "completed")) for _ in range(10)]
    run_id = airflow.trigger("wait_for_many", conf={"videos": videos})
    airflow.wait_until(lambda: all(len(emulator.polls(video)) >= 3 for video in videos), "all are polled")
    (secrets / "down").touch()
    down_at = time.monotonic()
    time.sleep(OUTAGE / 2)  # the outage itself; a fake clock has no effect on other processes
    for video in videos[:5]:
        emulator.set_status(video, "completed")
    time.sleep(down_at + OUTAGE - time.monotonic())
    (secrets / "down").unlink()
    assert (secrets / "failed").exists()
    for video in videos[5:]:
        emulator.set_status(video, "completed")
    assert airflow.wait_for_run("wait_for_many", run_id) == "success"
    assert mapped_states(airflow, "wait_for_many", run_id) == ["success"] * 10


def test_paid_video_survives_an_outage_on_resumption(
    airflow: LocalAirflow, secrets: Path, emulator: Emulator
) -> None:
    emulator.default_script = Script.by_hand("processing", "completed")
    billed = len(emulator.ledger.orders)
    run_id = airflow.trigger("order_in_the_triggerer")
    airflow.wait_until(lambda: len(emulator.ledger.orders) == billed + 1, "the order is placed")
    video = emulator.ledger.orders[-1].id
    airflow.wait_until(lambda: len(emulator.polls(video)) >= 2, "the triggerer has polled it")
    (secrets / "down").touch()
    emulator.set_status(video, "completed")
    airflow.wait_until(lambda: len(emulator.polls(video)) >= 3, "the trigger has seen it completed")
    airflow.wait_for_tasks("order_in_the_triggerer", run_id, {"order": "running"})
    (secrets / "failed").unlink(missing_ok=True)
    airflow.wait_until((secrets / "failed").exists, "the resumed worker has looked its connection up")
    (secrets / "down").unlink()
    assert airflow.wait_for_run("order_in_the_triggerer", run_id) == "success"
    assert len(emulator.ledger.orders) == billed + 1


def test_wait_started_in_triggerer_is_in_a_queue(airflow: LocalAirflow, emulator: Emulator) -> None:
    """Airflow gives the trigger of such a start no queue, so that no triggerer would ever run it."""
    video = emulator.add_task(script=Script.timed(processing=12))
    run_id = airflow.trigger("start_in_the_triggerer", conf={"video": video})
    assert airflow.wait_for_run("start_in_the_triggerer", run_id) == "success"
    [(queue,)] = airflow.query(
        "SELECT queue FROM task_instance WHERE run_id = ? AND task_id = 'wait'", run_id
    )
    assert queue == "default"
