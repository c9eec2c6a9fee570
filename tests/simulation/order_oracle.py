"""The oracle's checks of orders: purchases, outcomes, and times of requests."""

from __future__ import annotations

import itertools
import json

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_manxue._core.order_timing import MAX_DELAY_ON_WORKER
from airflow_provider_manxue._core.polling import MAX_RETRY_AFTER
from airflow_provider_manxue.exceptions import (
    ManxueOrderRejectedError,
    ManxueOrderTimeoutError,
    ManxueOrderUnknownError,
)
from tests.simulation.deployment import Cleared, Killed

EPSILON = 0.01

FIRST_DELAY = 2.0
"""Seconds: shortest delay before an order that was not accepted is sent again (docs/ordering.md)."""

MOST_ON_ONE_WORKER = 3
"""Requests: the first, the one after 2 s, and one that the deadline has moved forward."""

STORE_RETRIES = 14.0
"""Seconds for which a change of the record is retried."""


def order_findings(simulation, schedule, instance):
    """Return the broken invariants of the orders of a task instance."""
    return _OrderChecks(simulation, schedule, instance).findings()


class _OrderChecks:
    def __init__(self, simulation, schedule, instance):
        self.simulation, self.schedule, self.instance, self.plan = (
            simulation,
            schedule,
            instance,
            instance.plan,
        )
        self.orders = instance.orders
        self.sent = [
            exchange
            for exchange in simulation.network.exchanges
            if not exchange.is_poll and exchange.process.task_id == instance.task_id
        ]

    def findings(self):
        yield from self._bought()
        yield from self._not_lost()
        for attempt in self.instance.attempts:
            sent = [exchange for exchange in self.sent if exchange.process in attempt.workers]
            if self.instance.store is None:
                yield from self._named(attempt, sent)
            if self.plan.deferrable:
                yield from self._held(attempt, sent)
            if not self.schedule.steps:
                yield from self._in_time(attempt, sent)
                yield from self._spaced(sent)
                yield from self._given_up(attempt, sent)

    # --- money ----------------------------------------------------------------------------------------------

    def _bought(self):
        """No order is bought twice. Without a task state store, a try after a killed worker orders again."""
        allowed = 1 + self.instance.reorders
        if self.instance.store is None:
            allowed += sum(isinstance(attempt.result, Killed) for attempt in self.instance.attempts)
        billed = sum(order.billed for order in self.orders)
        if billed > allowed:
            yield f"bought {billed} times"

    def _not_lost(self):
        """The last order that no person has given up is in the record, or the task's error names the next step."""
        if self.instance.store is None or not self.orders or self.orders[-1].id in self.instance.settled:
            return
        order = self.orders[-1]
        value = self.instance.store.values.get(self.instance.order_key)
        record = json.loads(value) if value else {}
        if isinstance(record, (str, list)):
            record = {"id": record}
        if order.id in (record.get("id"), record.get("assets")) or record.get("state") == "failed":
            return
        is_logged = any(repr(order.id) in line and "By hand" in line for line in self.simulation.lines)
        result = self.instance.attempts[-1].result
        stops = record.get("state") == "intent" and self.instance.state != "success"
        if not (stops or is_logged or isinstance(result, ManxueOrderUnknownError)):
            yield f"the order {order.id} is lost: {record}, {result!r}"
        advice = "Check with the service", "in the list of the service"
        if isinstance(result, ManxueOrderUnknownError) and not any(text in str(result) for text in advice):
            yield f"the error does not say what to check: {result}"
        if isinstance(result, ManxueOrderRejectedError) and order.billed:
            yield f"refused, but it was taken: {result}"

    def _named(self, attempt, sent):
        """Without a task state store, the try awaits its order to the end, or its error names the order or what to check. Assets may also be in XCom, with the results of the others."""
        result = _cause(attempt.result)
        if attempt.was_executed or isinstance(result, (Killed, Cleared, ManxueOrderUnknownError)):
            return
        pushed = [value for number, _, value in self.instance.all_xcoms if number == attempt.number]
        known = f"{result} {pushed}" if self.plan.kind == "assets" else str(result)
        billed = [order.id for order in self.orders if order.billed]
        for exchange in sent:
            is_billed = list(exchange.ids) in billed or exchange.task_id in billed
            if exchange.accepted and is_billed and not all(one in known for one in exchange.ids):
                yield f"the order {exchange.ids} is not named: {result!r}"

    # --- waiting for room -----------------------------------------------------------------------------------

    def _held(self, attempt, sent):
        """A deferrable task releases its worker slot while it waits for room. Short delays are an exception."""
        request = max(self.schedule.settings("request_timeout"))
        longest = request + MAX_DELAY_ON_WORKER + (STORE_RETRIES if self.plan.store_fails_at else 0.0)
        for worker in attempt.workers:
            here = [exchange for exchange in sent if exchange.process is worker]
            ends = [*(exchange.at for exchange in here), worker.ended_at][1:]
            for exchange, until in zip(here, ends, strict=True):
                held = until - exchange.at
                if not exchange.accepted and held > longest + EPSILON:
                    yield f"held a worker for {held:.0f} s while it waited for room"
            if len(here) > MOST_ON_ONE_WORKER:
                yield f"sent {len(here)} times by one worker"

    def _in_time(self, attempt, sent):
        """No order is sent after ``order_timeout``, or with too little of ``execution_timeout`` left to await the video."""
        for exchange in sent:
            since = exchange.at - attempt.begun_at
            if since > self._order_timeout + EPSILON:
                yield f"ordered {since - self._order_timeout:.1f} s after order_timeout"
            left = self.plan.execution_bound - since
            if left < self._reserve(min) - EPSILON:
                yield f"ordered with {left:.1f} s left of execution_timeout"

    def _spaced(self, sent):
        """An order that was not accepted is sent again after a delay, or after the service's ``Retry-After``."""
        for before, after in itertools.pairwise(sent):
            gap = after.at - before.ended_at
            if gap < FIRST_DELAY - EPSILON:
                yield f"ordered again after {gap:.1f} s"
            if gap < self._pause(before) - EPSILON:
                yield f"ordered again {self._pause(before) - gap:.1f} s before a pause ended"

    def _given_up(self, attempt, sent):
        """No order is given up while another attempt would fit."""
        if not isinstance(_cause(attempt.result), ManxueOrderTimeoutError):
            return
        if self.plan.airflow_ends_at is not None:
            return
        last = attempt.begun_at + min(self._order_timeout, self.plan.execution_bound - self._reserve(max))
        early = last - attempt.ended_at
        pause = min(sent[-1].longest_pause, MAX_RETRY_AFTER) if sent else 0.0
        if early > max(MAX_DELAY_ON_WORKER, pause) + EPSILON:
            yield f"gave up the order {early:.1f} s early"

    @property
    def _order_timeout(self):
        return self.plan.timeout if self.plan.order_timeout is None else self.plan.order_timeout

    def _reserve(self, which):
        """Return the ``min`` or ``max`` of the seconds that an attempt needs; edits of the connection change them."""
        first_polls = 2 * self.plan.interval if self.plan.waits else 0.0
        return which(self.schedule.settings("request_timeout")) + first_polls

    @staticmethod
    def _pause(exchange):
        return min(exchange.pause, MAX_RETRY_AFTER) if exchange.status in {425, 429} else 0.0


def _cause(result):
    """Return the error of a try, including a skipped one."""
    return result.__cause__ if isinstance(result, AirflowSkipException) else result
