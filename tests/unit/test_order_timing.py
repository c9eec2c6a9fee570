"""Delays between the attempts of an order, and their limits. The rules and their reasons are in docs/ordering.md."""

from __future__ import annotations

import pytest

from airflow_provider_manxue._core.order_timing import (
    MAX_ATTEMPTS,
    OrderBounds,
    quick_resend_delay,
    resend_delay,
)
from airflow_provider_manxue.exceptions import ManxueOrderTimeoutError

NEVER = float("inf")


def test_quick_delays_double():
    assert [quick_resend_delay(attempts, None, 0.0) for attempts in range(1, MAX_ATTEMPTS)] == [2, 4, 8, 16]


def test_task_delays_grow_to_5_minutes():
    assert [resend_delay(attempts, None, 0.0) for attempts in (1, 2, 3, 4, 5, 6, 1000)] == [
        2,
        30,
        60,
        120,
        240,
        240,
        240,
    ]
    assert resend_delay(1000, None, 1.0) == 300


@pytest.mark.parametrize("delay", [quick_resend_delay, resend_delay])
def test_delay_follows_retry_after_up_to_a_cap(delay):
    assert delay(1, 60.0, 0.0) == 60
    assert delay(1, 86_400.0, 0.0) == 900
    assert delay(1, 60.0, 1.0) == 75
    assert delay(2, 1.0, 0.0) == delay(2, None, 0.0)
    assert delay(3, 100.0, 0.0) == 100


class TestBounds:
    def bounds(self, order_timeout=600.0, execution_timeout=NEVER, reserve=90.0):
        return OrderBounds(order_timeout, execution_timeout, reserve)

    def test_attempt_within_the_limit_is_allowed(self):
        self.bounds().check(1000.0, 1600.0)

    def test_attempt_after_order_timeout_raises(self):
        with pytest.raises(
            ManxueOrderTimeoutError,
            match=r"within order_timeout \(0:10:00\): it was not sent\. Nothing was ordered.*raise order_timeout if",
        ):
            self.bounds().check(1000.0, 1601.0)

    def test_attempt_without_time_for_the_wait_raises(self):
        bounds = self.bounds(execution_timeout=300.0)
        bounds.check(1000.0, 1210.0)
        with pytest.raises(
            ManxueOrderTimeoutError,
            match=r"execution_timeout \(0:05:00\) left the 90 s.*: it was not sent\..*raise execution_timeout if",
        ):
            bounds.check(1000.0, 1211.0)

    def next_at(self, now, attempts=3, retry_after=None):
        return self.bounds().next_attempt_at(0.0, now, attempts, retry_after, 0.0)

    def test_next_attempt_follows_the_delay(self):
        assert self.next_at(100.0) == 160.0
        assert self.next_at(100.0, retry_after=200) == 300.0

    def test_last_attempt_is_moved_to_the_limit(self):
        assert self.next_at(570.0) == 600.0
        assert self.next_at(570.0, retry_after=30) == 600.0

    def test_last_attempt_is_skipped_without_enough_time(self):
        assert self.next_at(570.0, retry_after=31) is None
        assert self.next_at(591.0) is None
