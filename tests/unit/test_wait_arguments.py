"""
Arguments of triggers, and the times of a wait that follow from them.

The rules and their reasons are in docs/engine.md.
"""

from __future__ import annotations

import pytest

from airflow_provider_manxue._core.deadline import PollTimes
from airflow_provider_manxue._core.wait_arguments import WaitArguments

START = 1_800_000_000.0
LEGACY = ("poke_interval", "started_at", "deadline", "first_poll_at", "exponential_backoff", "max_wait")


def test_trigger_arguments_of_a_plain_wait_are_the_legacy_ones():
    """A triggerer with version 0.1.0 refuses other arguments."""
    assert set(WaitArguments(poke_interval=30.0).to_kwargs()) == set(LEGACY)


def test_trigger_arguments_include_changed_defaults():
    found = WaitArguments(poke_interval=30.0, has_worked=True, timeout=600.0).to_kwargs()

    assert found["has_worked"] is True
    assert found["timeout"] == 600.0
    assert set(found) == {*LEGACY, "has_worked", "timeout"}


def test_start_arguments_have_no_times_of_a_worker():
    """They are part of the Dag, the same for each run."""
    found = WaitArguments(poke_interval=30.0, started_at=START, timeout=600.0).to_start_kwargs()

    assert not {"started_at", "deadline", "first_poll_at", "has_worked"} & set(found)
    assert (found["poke_interval"], found["timeout"], found["do_xcom_push"]) == (30.0, 600.0, True)


@pytest.mark.parametrize("left_out", ["started_at", "deadline", "first_poll_at"])
def test_times_of_a_worker_need_all_of_them(left_out):
    times = {"started_at": START, "deadline": START + 600, "first_poll_at": START + 30}
    given = WaitArguments(poke_interval=30.0, **times).given_times(START + 10)

    assert given == PollTimes(**times, resumed_at=START + 10)
    assert WaitArguments(poke_interval=30.0, **times | {left_out: None}).given_times(START) is None


class TestTimesFromEnd:
    """``execution_timeout`` and ``timeout`` count from the start, which follows from the end by Airflow."""

    def times(self, ends_at, now=START + 100, **arguments):
        one = WaitArguments(poke_interval=30.0, defer_timeout_margin=900.0, **arguments)
        return one.times_from_end(now, ends_at)

    def test_start_is_timeout_and_margin_before_the_end(self):
        assert self.times(START + 1500, timeout=600.0) == PollTimes(
            START, START + 600, START, resumed_at=START + 100
        )

    def test_start_is_execution_timeout_before_the_end_if_shorter(self):
        assert self.times(START + 400, timeout=600.0, execution_timeout=400.0) == PollTimes(
            START, START + 400, START, resumed_at=START + 100
        )

    def test_start_is_now_if_airflow_sets_no_end(self):
        now = START + 100
        assert self.times(None, timeout=600.0) == PollTimes(now, now + 600, now, resumed_at=now)

    def test_first_poll_within_one_interval_of_the_start_is_now(self):
        assert self.times(START + 1500, now=START + 30, timeout=600.0).first_poll_at == START + 30
        assert self.times(START + 1500, now=START + 31, timeout=600.0).first_poll_at == START

    def test_wait_without_a_timeout_has_its_deadline_at_the_start(self):
        assert self.times(None, now=START).deadline == START
        assert self.times(START + 900, now=START).deadline == START
