"""
End of a worker's pass, so that it does not hold its slot for long.

The rules and their reasons are in docs/engine.md.
"""

from __future__ import annotations

import pytest

from airflow_provider_manxue._core.deadline import FINAL_POLL_WINDOW, MAX_OVERSHOOT
from airflow_provider_manxue._core.poller import Poller
from airflow_provider_manxue._core.polling import PollPolicy
from airflow_provider_manxue._core.worker_pass import MAX_EXTRA_TIME, PATIENCE, WorkerPass
from airflow_provider_manxue.exceptions import ManxueTransientError
from airflow_provider_manxue.models import TaskStatus, VideoTask

START = 1_800_000_000.0


def poller_of(*ids, timeout=3600.0, first_poll_at=START, **options):
    return Poller(
        ids,
        PollPolicy(),
        started_at=START,
        deadline=START + timeout,
        first_poll_at=first_poll_at,
        quick_retries=True,
        **options,
    )


@pytest.fixture
def worker_pass():
    return WorkerPass(START, 1, 10.0)


def test_pass_continues_while_polls_are_due_or_in_flight(worker_pass):
    poller = poller_of("a")
    assert not worker_pass.is_over(poller, START)

    poller.take_due(START)
    assert not worker_pass.is_over(poller, START + 1, is_polling=True)
    assert worker_pass.is_over(poller, START + 1)


def test_pass_is_over_if_the_first_poll_is_not_due(worker_pass):
    assert worker_pass.is_over(poller_of("a", first_poll_at=START + 10), START)


@pytest.mark.parametrize(
    ("outcome", "is_over"),
    [(VideoTask("a", TaskStatus.PROCESSING), True), (ManxueTransientError("HTTP 503"), False)],
)
def test_pass_ends_after_one_poll_unless_quick_retry_is_due(worker_pass, outcome, is_over):
    poller = poller_of("a")
    poller.take_due(START)
    poller.handle("a", outcome, sent_at=START, now=START)

    assert worker_pass.is_over(poller, START) is is_over


@pytest.mark.parametrize(("pause", "is_over"), [(PATIENCE, False), (PATIENCE + 1, True)])
def test_pass_ends_if_quick_retry_is_after_its_end(worker_pass, pause, is_over):
    poller = poller_of("a", chance=lambda: 0.0)
    poller.take_due(START)
    poller.handle("a", ManxueTransientError("HTTP 429", pause), sent_at=START, now=START)

    assert worker_pass.is_over(poller, START) is is_over


def test_pass_ends_without_a_usable_response(worker_pass):
    assert not worker_pass.is_over(poller_of("a"), START + PATIENCE - 0.1)
    assert worker_pass.is_over(poller_of("a"), START + PATIENCE)


def test_pass_is_extended_by_a_usable_response():
    worker_pass = WorkerPass(START, 1000, 10.0)
    for waited in range(0, 200, 20):
        worker_pass.note_response(START + waited)
        assert worker_pass.ends_at == min(START + waited + PATIENCE, START + 100 + MAX_EXTRA_TIME)
    assert worker_pass.ends_at == START + 160


def test_pass_ends_if_limiter_is_paused_beyond_its_end(worker_pass):
    assert not worker_pass.is_over(poller_of("a"), START, next_grant_at=START + PATIENCE)
    assert worker_pass.is_over(poller_of("a"), START, is_polling=True, next_grant_at=START + PATIENCE + 0.1)


@pytest.mark.parametrize(
    ("has_response", "is_rescheduled", "ends"),
    [(False, False, True), (False, True, True), (True, False, False), (True, True, True)],
)
def test_pass_without_response_ends_the_wait_if_paused_too_long(
    worker_pass, has_response, is_rescheduled, ends
):
    """A pass that got a response has read a part, and the next pass reads the rest after the pause."""
    poller = poller_of("a")
    poller.hold_until(START + 3600 + MAX_OVERSHOOT + 1)
    if has_response:
        worker_pass.note_response(START)
    worker_pass.end_overdue(poller, START, is_rescheduled=is_rescheduled)

    assert poller.done is ends


@pytest.mark.parametrize(
    ("waited", "is_rescheduled", "ends"),
    [
        (FINAL_POLL_WINDOW, True, True),
        (FINAL_POLL_WINDOW - 1, True, False),
        (FINAL_POLL_WINDOW, False, False),
    ],
)
def test_rescheduled_pass_ends_after_failed_final_polls(worker_pass, waited, is_rescheduled, ends):
    """The next pass would begin its final polls again."""
    poller = poller_of("a", "b", timeout=0)
    worker_pass.end_overdue(poller, START + waited, is_rescheduled=is_rescheduled)

    assert poller.done is ends
    assert poller.ended_at == (dict.fromkeys("ab", START + waited) if ends else {})


def test_rescheduled_pass_continues_after_a_requested_pause(worker_pass):
    poller = poller_of("a", timeout=0)
    poller.hold_until(START + 600)
    worker_pass.end_overdue(poller, START + FINAL_POLL_WINDOW, is_rescheduled=True)

    assert poller.remaining == ["a"]
