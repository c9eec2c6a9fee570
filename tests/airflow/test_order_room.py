"""More orders than the account runs concurrently, on a real Airflow: each is billed once, and none fails."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Emulator, Script
from dev.local_airflow import LocalAirflow, installed_version
from dev.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.heavy

DAGS = Path(__file__).parent / "dags"
ROOM = 5


@pytest.fixture(scope="module")
def account() -> Iterator[Emulator]:
    with Emulator(max_running=ROOM) as account:
        yield account


@pytest.fixture
def service(account: Emulator) -> Emulator:
    account.default_script = Script.timed(queued=5, processing=15)
    account.clear_requests()
    return account


@pytest.fixture(scope="module")
def airflow(account: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    # Airflow 2 runs one task at a time on SQLite, so that no order would be turned away.
    is_airflow_2 = installed_version(sys.executable) < (3, 0)
    with (
        PostgresServer() if is_airflow_2 else nullcontext() as server,
        LocalAirflow(
            tmp_path_factory.mktemp("airflow"),
            dags_folder=DAGS,
            env={"AIRFLOW_CONN_MANXUE_DEFAULT": account.airflow_connection_json()},
            config={"core.parallelism": 4},
            pools={"videos": ROOM},
            pools_include_deferred=True,
            postgres=server and server.url,
        ) as airflow,
    ):
        yield airflow


def prompts_since(service: Emulator, before: int) -> Counter[str]:
    return Counter(order.request["prompt"] for order in service.ledger.orders[before:] if order.billed)


def turned_away(service: Emulator) -> int:
    return sum(request.place == "create" and request.status == 429 for request in service.requests)


def run(airflow: LocalAirflow, dag: str, count: int) -> list[str]:
    prompts = [f"shot {number}" for number in range(count)]
    run_id = airflow.trigger(dag, conf={"prompts": prompts})
    assert airflow.wait_for_run(dag, run_id, timeout=1800) == "success", airflow.describe_run(dag, run_id)
    return prompts


@pytest.mark.parametrize("count", [12, pytest.param(40, marks=pytest.mark.volume)])
def test_orders_above_capacity_wait_and_are_billed_once(
    airflow: LocalAirflow, service: Emulator, count: int
) -> None:
    before = len(service.ledger.orders)
    prompts = run(airflow, "orders_wait_for_room", count)
    assert prompts_since(service, before) == Counter(prompts)
    assert turned_away(service) > 0


def test_waiting_orders_hold_no_slot_without_timeout(airflow: LocalAirflow, service: Emulator) -> None:
    service.default_script = Script.by_hand("processing", "completed")
    count, before = ROOM + 2, len(service.ledger.orders)
    run_id = airflow.trigger(
        "orders_wait_for_room", conf={"prompts": [str(number) for number in range(count)]}
    )
    airflow.wait_until(
        lambda: (
            turned_away(service)
            and airflow.occupied_slots() == 0
            and len(service.ledger.orders) == before + ROOM
        ),
        "two orders wait for room, and five for their videos",
    )
    for order in service.ledger.orders[before:]:
        service.set_status(order.id, "completed")
    airflow.wait_until(lambda: len(service.ledger.orders) == before + count, "all are ordered")
    for order in service.ledger.orders[before:]:
        service.set_status(order.id, "completed")
    assert airflow.wait_for_run("orders_wait_for_room", run_id) == "success"


def test_pool_with_deferred_tasks_prevents_rejected_orders(airflow: LocalAirflow, service: Emulator) -> None:
    before = len(service.ledger.orders)
    prompts = run(airflow, "orders_in_a_pool", 8)
    assert prompts_since(service, before) == Counter(prompts)
    assert turned_away(service) == 0
