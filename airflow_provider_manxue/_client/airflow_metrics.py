"""
Sending of metrics through Airflow's own facility, ``Stats``.

Airflow 3.2 and later have two copies of the facility, each with a state of its own. A triggerer sets up that of the core
(``_execute`` in ``airflow/jobs/triggerer_job_runner.py``, before it forks the process of the triggers), and the process of a
task sets up that of the SDK (``main`` in ``airflow/sdk/execution_time/task_runner.py``). The copy of the SDK works in a triggerer
of 3.2 and 3.3 as well, but only since importing ``airflow.sdk.serde`` sets it up. Airflow 2.11 to 3.1 have one copy.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.metrics import CATALOGUE, Kind, Metrics, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
    from airflow_provider_manxue._core.poller import Poller

INTERVAL = 10.0
"""Seconds between two sends of a process."""

FLUSH_TIME = 5.0
"""Seconds that a worker waits for a backend."""

SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")
"""Options of ``[metrics]``, one of which turns the facility on, in Airflow 2.11 to 3.3."""

log = logging.getLogger(__name__)


def triggerer_stats() -> Any:
    """Return the copy of the facility that a triggerer has set up."""
    try:
        from airflow.observability.stats import Stats
    except ImportError:
        return worker_stats()
    return Stats


def worker_stats() -> Any:
    """Return the copy of the facility that the process of a task has set up."""
    from airflow.providers.common.compat.sdk import Stats

    return Stats


class SentMetrics(Metrics):
    """
    Metrics of one process, which Airflow's facility sends. Nothing is sent if that is off, and no error of it is raised.

    They are sent in a thread: a backend may look a host name up, and Airflow 3.3 parses its own list of metrics at first use.

    :param load_stats: returns the facility.
    """

    def __init__(self, load_stats: Callable[[], Any]) -> None:
        super().__init__()
        self._load_stats = load_stats
        self._sent_at = time.monotonic()
        self._has_failed = False
        self._sending: threading.Thread | None = None

    @cached_property
    def is_on(self) -> bool:
        """Whether Airflow's facility is on."""
        from airflow.providers.common.compat.sdk import conf

        try:
            return any(conf.getboolean("metrics", name, fallback=False) for name in SWITCHES)
        except Exception as error:  # noqa: BLE001 - an unusable value must not end a wait
            self._failed(error)
            return False

    def send(self) -> None:
        """Send all values, from a worker, and wait for that."""
        if self.is_on:
            self._send_in_thread()
            self.flush()
        else:
            self.take()

    def flush(self) -> None:
        """Wait for the last send, in a process that may end now. A backend that hangs is waited for once, for ``FLUSH_TIME``."""
        if self._sending is not None and not self._has_failed:
            self._sending.join(FLUSH_TIME)
            if self._sending.is_alive():
                self._failed(TimeoutError())

    def send_if_due(self) -> None:
        """Send all values, from a worker, if the last send was ``INTERVAL`` ago."""
        if time.monotonic() - self._sent_at >= INTERVAL:
            self._sent_at = time.monotonic()
            self.send()

    def _send_in_thread(self) -> None:
        # A backend that hangs occupies one thread. It is not one of an event loop, whose end would wait for it.
        if self._sending is None or not self._sending.is_alive():
            thread = threading.Thread(target=self._send, args=(self.take(),), daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no thread could be started
                self._failed(error)
            else:
                self._sending = thread

    def _send(self, samples: list[Sample]) -> None:
        try:
            stats = self._load_stats()
            # Looked up for gauges only, since it may need a name server.
            hostname = _hostname() if any(sample.metric.kind is Kind.GAUGE for sample in samples) else ""
            for sample in samples:
                for name, tags in sample.names(hostname):
                    _send_value(stats, sample.metric.kind, name, sample.value, tags)
        except Exception as error:  # noqa: BLE001 - a backend of another package can fail in any way
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            # Without the context of a wait: the message concerns the whole process.
            contextvars.Context().run(
                log.warning,
                "Metrics could not be sent (%s). Further failures are not logged.",
                type(error).__name__,
            )


def _hostname() -> str:
    from airflow.utils.net import get_hostname

    return str(get_hostname())


def _send_value(stats: Any, kind: Kind, name: str, value: float, tags: dict[str, str]) -> None:
    if kind is Kind.COUNTER:
        stats.incr(name, value, tags=tags)
    elif kind is Kind.GAUGE:
        stats.gauge(name, value, tags=tags)
    else:
        # Each backend converts it to its own unit.
        stats.timing(name, timedelta(seconds=value), tags=tags)


class LoopMetrics(SentMetrics):
    """
    Metrics of the waits of an event loop. They are sent every ``INTERVAL`` seconds while there is a wait, and at the end.

    :param load_stats: returns the facility.
    :param has_gauges: whether gauges are sent. Those of a worker would replace those of the triggerer on the same host.
    """

    def __init__(self, load_stats: Callable[[], Any], *, has_gauges: bool) -> None:
        super().__init__(load_stats)
        self.limiters: dict[str, AdaptiveRateLimiter | None] = {}
        """The rate limiters of the connections in use, by connection id; None until a connection is loaded."""
        self._has_gauges = has_gauges
        self._waits: dict[Poller, str] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin_wait(self, conn_id: str, poller: Poller) -> None:
        self._waits[poller] = conn_id
        self.limiters.setdefault(conn_id, None)
        if self._timer is None and self.is_on:
            self._set_timer()

    def end_wait(self, poller: Poller) -> None:
        self._waits.pop(poller, None)
        if not self._waits and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._send_in_thread()

    def _set_timer(self) -> None:
        # In an empty context, since Airflow binds the task log of a trigger to the context that the trigger runs in.
        self._timer = asyncio.get_running_loop().call_later(
            INTERVAL, self._on_timer, context=contextvars.Context()
        )

    def _on_timer(self) -> None:
        self._set_timer()
        self._send_in_thread()

    def take(self) -> list[Sample]:
        """Return and remove all values, with those of the rate limiters and the present gauges."""
        for conn_id, limiter in self.limiters.items():
            episodes, queue_time = limiter.take_figures() if limiter else (0, 0.0)
            if episodes:
                self.count("throttling.episodes", conn_id, episodes)
            if queue_time:
                self.add_timing("queue_time", conn_id, queue_time)
        return super().take() + (list(self._gauges()) if self._has_gauges else [])

    def _gauges(self) -> Iterable[Sample]:
        now = time.time()
        for conn_id, limiter in self.limiters.items():
            pollers = [poller for poller, of in self._waits.items() if of == conn_id]
            oldest = min((poller.oldest_response for poller in pollers), default=now)
            values = {
                "waits": len(pollers),
                "videos": sum(len(poller.remaining) for poller in pollers),
                "oldest_poll": max(0.0, now - oldest),
            }
            if limiter is not None:
                values |= {"rate": limiter.rate, "limit": limiter.max_rate}
            for name, value in values.items():
                yield Sample(CATALOGUE[name], value, conn_id)
