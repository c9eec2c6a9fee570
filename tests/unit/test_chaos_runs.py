"""The schedules of nights: drawn from the seed and nothing else, and rich enough."""

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

RUNS = [Schedule.of(seed) for seed in range(1, 21)]


def test_a_seed_replays_its_night():
    assert [Schedule.of(seed) for seed in range(1, 21)] == RUNS
    assert len({str(run.faults) for run in RUNS}) == len(RUNS)


def test_each_night_has_twenty_videos_and_at_least_three_kinds_of_fault():
    assert VIDEOS == 20
    assert all(len({fault.kind for fault in run.faults}) >= 3 for run in RUNS)


def test_twenty_nights_meet_each_kind_of_fault():
    met = Counter(fault.kind for run in RUNS for fault in run.faults)

    assert set(met) == {*DEPLOYMENT, *SERVICE}


@pytest.mark.parametrize("kinds", [DEPLOYMENT, SERVICE], ids=["deployment", "service"])
def test_faults_of_one_side_do_not_overlap(kinds):
    """What mends the first one would mend the second one as well."""
    for run in RUNS:
        faults = [fault for fault in run.faults if fault.kind in kinds]
        assert all(one.until < other.at for one, other in pairwise(faults))


def test_more_videos_are_ordered_than_the_account_runs_at_a_time():
    assert 0 < MAX_RUNNING < sum(ORDERED.values())


def test_a_night_begins_with_room_in_the_account(tmp_path):
    """Videos of earlier nights that no task awaits any more would take that room."""
    with Emulator(max_running=MAX_RUNNING) as emulator:
        run = ChaosRun(RUNS[0], Mock(), emulator, tmp_path, print)

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


def test_the_words_by_which_an_order_is_excused_are_those_of_its_errors():
    unknown = order_error(OrderOutcome.UNKNOWN, ManxueError("no response"))
    rejected = order_error(OrderOutcome.REJECTED, ManxueError("HTTP 401"))
    with pytest.raises(ManxueOrderUnknownError) as stopped:
        resumable_order(
            OrderRecord(OrderState.INTENT), lambda scheme: {}, TaskInstanceRef("dag", "run", "task", -1, 0)
        )

    for error in (unknown, stopped.value):
        assert any(words in str(error) for words in MAY_BE_BOUGHT)
    assert any(words in str(rejected) for words in NOT_BOUGHT)
