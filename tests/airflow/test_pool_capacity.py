"""An episode of many shots, from the order to the film, on an Airflow with two worker processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Emulator, Script
from dev.local_airflow import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.heavy

EXAMPLES = Path(__file__).parents[2] / "example_dags"
DAG = "manxue_episode"


@pytest.fixture
def service() -> Iterator[Emulator]:
    with Emulator(default_script=Script.by_hand("processing", "completed")) as service:
        yield service


@pytest.fixture
def airflow(service: Emulator, tmp_path: Path) -> Iterator[LocalAirflow]:
    with LocalAirflow(
        tmp_path / "airflow",
        dags_folder=EXAMPLES,
        env={"AIRFLOW_CONN_MANXUE_DEFAULT": service.airflow_connection_json()},
        # The executor starts at most two worker processes.
        config={"core.parallelism": 2, "core.plugins_folder": EXAMPLES / "plugins"},
    ) as airflow:
        yield airflow


def worker_starts(airflow: LocalAirflow, run_id: str) -> dict[str, int]:
    """
    Count the worker processes that were started for each task of a run.

    Each process reports its start to the API server, which writes it to the audit log, for a try as well as for a
    resumption. The number of tries does not count resumptions.
    """
    running = airflow.query("SELECT task_id FROM log WHERE run_id = ? AND event = 'running'", run_id)
    return Counter(task_id for (task_id,) in running)


@pytest.mark.parametrize("count", [12, pytest.param(40, marks=pytest.mark.volume)])
def test_two_worker_slots_are_enough_for_an_episode(
    airflow: LocalAirflow, service: Emulator, tmp_path: Path, count: int
) -> None:
    """The wait for all videos starts a worker twice: to defer and to resume."""
    shots = [f"shot {number}" for number in range(count)]
    run_id = airflow.trigger(DAG, conf={"shots": shots, "destination": f"file://{tmp_path}/episode/"})
    airflow.wait_for_tasks(DAG, run_id, {"wait": "deferred"})
    assert airflow.occupied_slots() == 0
    for order in service.ledger.orders:
        service.set_status(order.id, "completed")

    assert airflow.wait_for_run(DAG, run_id) == "success"
    assert worker_starts(airflow, run_id) == {
        "shots": 1,
        "order": count,
        "wait": 2,
        "save": count,
        "join": 1,
    }
    bought = Counter(order.request["prompt"] for order in service.ledger.orders)
    assert bought == dict.fromkeys(shots, 1), "each shot is ordered once"
    assert service.ledger.billed == count
    files = {path.name for path in (tmp_path / "episode").iterdir()}
    assert files == {"film.mp4", *(f"{order.id}.mp4" for order in service.ledger.orders)}
    assert f"The film is {5 * count} s long, as its shots are." in airflow.task_log(DAG, run_id, "join")
    assert airflow.processes["scheduler"].output.read_text().count("Worker starting up") == 2
