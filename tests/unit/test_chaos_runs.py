"""Schedules of chaos runs."""

from collections import Counter
from itertools import pairwise
from unittest.mock import Mock

import pytest
import requests

from airflow_provider_manxue._core.order_outcomes import OrderOutcome, order_error
from airflow_provider_manxue._core.order_record import (
    OrderRecord,
    OrderState,
    TaskInstanceRef,
    resumable_order,
)
from airflow_provider_manxue.exceptions import ManxueError, ManxueOrderUnknownError
from airflow_provider_manxue.testing import Emulator
from tests.chaos.invariants import MAY_BE_BOUGHT, NOT_BOUGHT
from tests.chaos.run import MAX_RUNNING, ORDERED, VIDEOS, ChaosRun
from tests.chaos.schedule import DEPLOYMENT, SERVICE, Schedule

SCHEDULES = [Schedule.of(seed) for seed in range(1, 21)]


def test_seed_reproduces_its_schedule():
    assert [Schedule.of(seed) for seed in range(1, 21)] == SCHEDULES
    assert len({str(schedule.faults) for schedule in SCHEDULES}) == len(SCHEDULES)


def test_each_run_has_20_videos_and_3_kinds_of_fault():
    assert VIDEOS == 20
    assert all(len({fault.kind for fault in schedule.faults}) >= 3 for schedule in SCHEDULES)


def test_twenty_runs_contain_every_kind_of_fault():
    met = Counter(fault.kind for schedule in SCHEDULES for fault in schedule.faults)

    assert set(met) == {*DEPLOYMENT, *SERVICE}


@pytest.mark.parametrize("kinds", [DEPLOYMENT, SERVICE], ids=["deployment", "service"])
def test_faults_of_one_side_do_not_overlap(kinds):
    """The repair of the first fault would also repair the second."""
    for schedule in SCHEDULES:
        faults = [fault for fault in schedule.faults if fault.kind in kinds]
        assert all(earlier.until < later.at for earlier, later in pairwise(faults))


def test_orders_exceed_the_account_limit():
    assert 0 < MAX_RUNNING < sum(ORDERED.values())


def test_run_starts_with_an_empty_account(tmp_path):
    """Videos of an earlier run that no task awaits any more would count against the account limit."""
    with Emulator(max_running=MAX_RUNNING) as emulator:
        run = ChaosRun(SCHEDULES[0], Mock(), emulator, tmp_path, print)

        def order():
            return requests.post(
                f"{emulator.base_url}/v1/sd2_manxue/videos",
                json={"prompt": "a cat", "model": "sd2_manxue_720p"},
                headers={"Authorization": f"Bearer {emulator.api_key}"},
                timeout=10,
            ).status_code

        run._prepare()
        assert [order() for _ in range(MAX_RUNNING + 1)] == [200] * MAX_RUNNING + [429]
        run._prepare()
        assert order() == 200


def test_excuses_match_the_error_messages():
    """The invariants of a chaos run recognize an order of unknown outcome by the text of its error."""
    unknown = order_error(OrderOutcome.UNKNOWN, ManxueError("no response"))
    rejected = order_error(OrderOutcome.REJECTED, ManxueError("HTTP 401"))
    with pytest.raises(ManxueOrderUnknownError) as stopped:
        resumable_order(
            OrderRecord(OrderState.INTENT), lambda scheme: {}, TaskInstanceRef("dag", "run", "task", -1, 0)
        )

    for error in (unknown, stopped.value):
        assert any(words in str(error) for words in MAY_BE_BOUGHT)
    assert any(words in str(rejected) for words in NOT_BOUGHT)
