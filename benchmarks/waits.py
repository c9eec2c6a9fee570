"""Comparison of the kinds of waits. Each kind runs in its own process with its own emulator."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.service import Service, service
from benchmarks.waiters import Plan, Report

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent

UNLIMITED = {"requests_per_second": 10_000}
"""Extra fields of a connection without an effective rate limit, and with the default number of sockets."""

NO_LOG = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL"}
"""Disables logs for all kinds, since HttpSensorTrigger would log a warning for every 404."""

START_UP = 12.0
"""Seconds for the imports of a process and the measurement of its idle load."""


@dataclass(frozen=True)
class Size:
    """
    A number of waits, and the kinds to measure.

    :param waits: number of waits.
    :param interval: seconds between two polls.
    :param measured: seconds of the measurement of CPU time.
    :param kinds: the kinds that can run this many waits.
    :param together: measure all kinds at the same time, so that other load affects all of them. Needs idle CPU time.
    """

    waits: int
    interval: float
    measured: float
    kinds: tuple[str, ...]
    together: bool = True


SIZES = (
    Size(100, 2.0, 10.0, ("manxue", "aiohttp", "http_sensor", "threads")),
    Size(1_000, 10.0, 15.0, ("manxue", "aiohttp", "http_sensor")),
    # With HttpSensorTrigger, this many would need more than one core.
    Size(10_000, 20.0, 30.0, ("manxue", "aiohttp"), together=False),
)

QUICK_SIZES = (Size(100, 1.0, 3.0, ("manxue", "aiohttp", "http_sensor", "threads")),)


@dataclass(frozen=True)
class Figures:
    """
    Cost of one kind of waits.

    :param kind: the kind.
    :param waits: number of waits.
    :param interval: seconds between two polls.
    :param polls: requests during the measurement of CPU time.
    :param cpu_per_poll: CPU milliseconds of each.
    :param connections_per_1000_polls: new TLS connections.
    :param look_ups_per_1000_polls: look-ups of the Airflow connection.
    :param lag_p50: median lag of the event loop in milliseconds; None without an event loop.
    :param lag_p99: 99th percentile of the lag.
    :param lag_max: maximum of the lag.
    :param own_lag_max: maximum of the lag without the time of Python's garbage collector.
    :param resident: MiB of memory of the whole process.
    :param delay_p50: median of the seconds from the completion at the service to the event.
    :param delay_p99: 99th percentile of these seconds.
    :param undetected: waits that did not detect the completion before the timeout.
    """

    kind: str
    waits: int
    interval: float
    polls: int
    cpu_per_poll: float
    connections_per_1000_polls: float
    look_ups_per_1000_polls: float
    lag_p50: float | None
    lag_p99: float | None
    lag_max: float | None
    own_lag_max: float | None
    resident: float
    delay_p50: float
    delay_p99: float
    undetected: int


def compare(sizes: Sequence[Size]) -> list[Figures]:
    """Measure all kinds of all sizes."""
    figures = []
    for size in sizes:
        print(f"  {size.waits:,} waits ...", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(len(size.kinds) if size.together else 1) as threads:
            figures += threads.map(measure, size.kinds, repeat(size))
    return figures


def measure(kind: str, size: Size) -> Figures:
    """
    Measure one kind.

    After one interval every wait has polled. Then CPU time is measured while no task completes. Then all tasks complete
    at random times within one interval.
    """
    with service() as running:
        preparation = size.waits / 2000
        begins_at = time.time() + START_UP + preparation
        measured_from = begins_at + size.interval
        measured_until = measured_from + size.measured
        last = measured_until + size.interval
        plan = Plan(
            kind,
            *running.address(),
            tasks=running.add_tasks(size.waits, measured_until, last, hidden=kind == "http_sensor"),
            interval=size.interval,
            begins_at=begins_at,
            measured_from=measured_from,
            measured_until=measured_until,
            ends_at=last + 1.2 * size.interval + 2,
            extra=UNLIMITED,
        )
        report = carry_out(plan)
        return _figures(plan, report, running)


def _figures(plan: Plan, report: Report, running: Service) -> Figures:
    requests = running.queries()
    polls = sum(plan.measured_from <= one.time < plan.measured_until for one in requests)
    lag = [1000 * value for value in (percentiles(report.lags) if report.lags else ())]
    delay = percentiles(report.delays)
    return Figures(
        kind=plan.kind,
        waits=len(plan.tasks),
        interval=plan.interval,
        polls=polls,
        cpu_per_poll=1000 * report.cpu / polls,
        connections_per_1000_polls=1000 * len({one.connection for one in requests}) / len(requests),
        look_ups_per_1000_polls=1000 * report.look_ups / len(requests),
        lag_p50=lag[0] if lag else None,
        lag_p99=lag[1] if lag else None,
        lag_max=lag[2] if lag else None,
        own_lag_max=1000 * max(report.own_lags) if report.own_lags else None,
        resident=report.resident / 2**20,
        delay_p50=delay[0],
        delay_p99=delay[1],
        undetected=len(plan.tasks) - len(report.delays),
    )


def carry_out(plan: Plan) -> Report:
    """Run a plan in a new process."""
    with TemporaryDirectory() as home:
        plan_file, report_file = Path(home, "plan.json"), Path(home, "report.json")
        plan_file.write_text(json.dumps(dataclasses.asdict(plan)))
        subprocess.run(
            [sys.executable, "-m", "benchmarks.waiters", plan_file, report_file],
            cwd=ROOT,
            env={"AIRFLOW_HOME": home, "SSL_CERT_FILE": plan.ca_bundle, **NO_LOG},
            check=True,
        )
        return Report(**json.loads(report_file.read_text()))


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the 99th percentile and the maximum."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98], max(values)
