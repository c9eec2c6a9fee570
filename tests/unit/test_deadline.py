"""Time limits that follow from the deadline of a wait. The rules and their reasons are in docs/engine.md."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from airflow_provider_manxue._core.deadline import (
    DEFER_TIMEOUT_MARGIN,
    EVENT_MARGIN,
    FINAL_POLL_WINDOW,
    MAX_OVERSHOOT,
    PollTimes,
    TimeLimits,
    airflow_timeout,
    final_polls_failed,
    latest_in_trigger,
    latest_on_worker,
    to_seconds,
)
from airflow_provider_manxue._core.wait_arguments import WaitArguments

START = 1_800_000_000.0


@pytest.mark.parametrize(
    ("now", "begins"), [(0.0, 600.0), (900.0, 900.0)], ids=["from the deadline", "from a later start"]
)
def test_batch_on_worker_gets_one_round_and_overshoot(now, begins):
    """One poll of each video takes 100 s at the limit of the connection; the overshoot is for pauses of the service."""
    latest = latest_on_worker(START + 600, START + now, round_time=100.0)
    assert latest == START + begins + 100 + MAX_OVERSHOOT


@pytest.mark.parametrize(
    ("reason", "ago"), [("Trigger timeout", 300.0), ("Trigger failure", 0.0), ("unknown", 0.0)]
)
def test_latest_start_after_a_trigger_timeout(reason, ago):
    """
    Airflow drops the stored start with the deferral.

    A deferral that timed out has lasted as long as the shorter limit. Of any other one, nothing is known.
    """
    assert TimeLimits(600.0, 300.0).latest_start(START, reason) == START - ago


@pytest.mark.parametrize(
    ("reason", "now", "deadline"),
    [
        ("", 700.0, 600.0),
        ("Trigger timeout", 500.0, 500.0),
        ("Trigger timeout", 700.0, 700.0),
        ("Trigger failure", 500.0, 600.0),
        ("Trigger failure", 700.0, 700.0),
    ],
)
def test_deadline_after_an_end_by_airflow_is_not_past(reason, now, deadline):
    """The worker sends the first final poll after such an end."""
    assert TimeLimits(600.0).deadline(START, START + now, reason) == START + deadline


@pytest.mark.parametrize(
    ("value", "seconds"), [(timedelta(minutes=5), 300.0), (7.5, 7.5), ("{{ params.x }}", "{{ params.x }}")]
)
def test_duration_is_converted_to_seconds(value, seconds):
    assert to_seconds(value) == seconds


@pytest.mark.parametrize("ends_at", [None, START + 5000], ids=["older Airflow", "Airflow's end is later"])
def test_deferred_trigger_gives_up_after_its_deadline(ends_at):
    """A worker has stored the deadline and its margin, so the end that Airflow reports has no effect."""
    times = PollTimes(START, START + 600, START + 30, resumed_at=START)
    arguments = WaitArguments(
        poke_interval=30.0,
        started_at=START,
        deadline=START + 600,
        first_poll_at=START + 30,
        defer_timeout_margin=900.0,
    )
    assert arguments.gives_up_at(times, ends_at) == START + 600 + 900 - EVENT_MARGIN


@pytest.mark.parametrize("ends_at", [START + 1000, START + 5000])
def test_started_trigger_gives_up_before_airflow(ends_at):
    """A wait that begins in the triggerer has no stored deadline. Its event must precede the end by Airflow."""
    times = PollTimes(START, START + 600, START, resumed_at=START)
    assert WaitArguments(poke_interval=30.0).gives_up_at(times, ends_at) == ends_at - EVENT_MARGIN


@pytest.mark.parametrize(
    ("ends_at", "resumed_at", "latest"),
    [
        (5000.0, 0.0, 5000.0 - EVENT_MARGIN),
        (600.0, 0.0, 600.0 + FINAL_POLL_WINDOW),
        (600.0, 2000.0, 2000.0 + EVENT_MARGIN),
    ],
    ids=["the event has time", "final polls are retried", "a late trigger polls once"],
)
def test_trigger_stops_before_airflow_but_polls_once(ends_at, resumed_at, latest):
    assert latest_in_trigger(START + 600, START + ends_at, START + resumed_at) == START + latest


@pytest.mark.parametrize(
    ("execution_timeout", "now", "margin"),
    [
        (math.inf, 0.0, DEFER_TIMEOUT_MARGIN),
        (600.0, 0.0, FINAL_POLL_WINDOW + EVENT_MARGIN),
        (900.0, 0.0, 300.0 + FINAL_POLL_WINDOW + EVENT_MARGIN),
        (900.0, 700.0, 100.0 + 200.0 + FINAL_POLL_WINDOW + EVENT_MARGIN),
        (900.0, 1000.0, 400.0 + FINAL_POLL_WINDOW + EVENT_MARGIN),
    ],
    ids=[
        "no limit",
        "limit at the deadline",
        "limit 300 s after the deadline",
        "deferred between deadline and limit",
        "deferred after the limit",
    ],
)
def test_execution_timeout_bounds_the_defer_margin(execution_timeout, now, margin):
    """The deadline is at 600 s. Final polls get the time up to the limit, and one window at least."""
    limits = TimeLimits(600.0, execution_timeout)
    assert limits.defer_timeout_margin(START, START + 600, START + now) == margin


@pytest.mark.parametrize(("waited", "is_over"), [(299.0, False), (300.0, True)])
def test_execution_timeout_ends_the_task(waited, is_over):
    """Some versions of Airflow do not apply ``execution_timeout`` to a deferral."""
    assert TimeLimits(600.0, 300.0).is_over(START, START + waited) is is_over


@pytest.mark.parametrize(
    ("now", "left"),
    [(0.0, 2400.0), (700.0, 1700.0), (9000.0, EVENT_MARGIN)],
    ids=["before the deadline", "within the margin", "after the margin"],
)
def test_airflow_timeout_includes_the_margin(now, left):
    assert airflow_timeout(START + 600, DEFER_TIMEOUT_MARGIN, START + now) == left


@pytest.mark.parametrize(
    ("waited", "pause", "failed"),
    [
        (FINAL_POLL_WINDOW, 0.0, True),
        (FINAL_POLL_WINDOW - 1, 0.0, False),
        (60.0, FINAL_POLL_WINDOW, True),
        (60.0, 60.0, False),
    ],
    ids=[
        "window has passed",
        "within the window",
        "a retry is due soon",
        "a pause is longer than the window",
    ],
)
def test_final_polls_fail_after_their_window_unless_paused(waited, pause, failed):
    """Only a pause that the service requested is longer than the window, and the service may respond after it."""
    deadline, now = START + 600, START + 600 + waited
    assert final_polls_failed(now, deadline, START, resumes_at=now + pause) is failed
