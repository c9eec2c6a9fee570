"""The emulator over TLS in a separate process."""

from __future__ import annotations

import contextlib
import random
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Request(NamedTuple):
    """A received request: its time, its connection and the status of its response."""

    time: float
    connection: int
    status: int | None


class Service:
    """
    The emulator's interface for another process, with few and small return values.

    :param rate_limit: limit in requests per second; None for no limit.
    """

    def __init__(self, rate_limit: float | None = None) -> None:
        from airflow_provider_manxue.testing import Emulator

        self._emulator = Emulator(tls=True, rate_limit=rate_limit).start()

    def address(self) -> tuple[str, str, str]:
        """Return base URL, key, and the path of the certificate authority's file."""
        return self._emulator.base_url, self._emulator.api_key, self._emulator.ca_bundle or ""

    def add_tasks(self, count: int, first: float, last: float, *, hidden: bool) -> dict[str, float]:
        """
        Add tasks that are completed at random moments.

        :param count: number of tasks.
        :param first: earliest completion, in seconds since the epoch.
        :param last: latest completion, in seconds since the epoch.
        :param hidden: return 404 instead of ``processing`` before the completion.
        :returns: the completion time of each id.
        """
        from airflow_provider_manxue.testing import Response, Script, Step

        pending = Response(status=404) if hidden else None
        tasks = {}
        for _ in range(count):
            completed_at = random.uniform(first, last)
            seconds = completed_at - self._emulator.clock.now()
            steps = (Step(status="processing", seconds=seconds, response=pending), Step(status="completed"))
            tasks[self._emulator.add_task(Script(steps))] = completed_at
        return tasks

    def refuse_next(self, retry_after: float) -> None:
        """Answer the next query with 429."""
        from airflow_provider_manxue.testing import Response

        self._emulator.fail_next(1, Response(status=429, retry_after=retry_after), on="query")

    def queries(self) -> list[Request]:
        """Return the queries so far."""
        return [
            Request(one.time, one.connection_id, one.status)
            for one in self._emulator.requests
            if one.place == "query"
        ]

    def longest_gap(self, since: float) -> tuple[float, int]:
        """Return the longest time between two queries of a task after ``since``, and the number of queried tasks."""
        asked_at: dict[str, float] = {}
        longest = 0.0
        for one in self._emulator.requests:
            if one.place == "query" and one.time >= since:
                longest = max(longest, one.time - asked_at.get(one.task_id, since))
                asked_at[one.task_id] = one.time
        return longest, len(asked_at)

    def stop(self) -> None:
        """Close the port."""
        self._emulator.stop()


class _Manager(BaseManager):
    if TYPE_CHECKING:
        Service: type[Service]


_Manager.register("Service", Service)


@contextlib.contextmanager
def service(rate_limit: float | None = None) -> Iterator[Service]:
    """Run a service in a fresh process."""
    with _Manager(ctx=get_context("spawn")) as manager:
        running = manager.Service(rate_limit)
        try:
            yield running
        finally:
            running.stop()
