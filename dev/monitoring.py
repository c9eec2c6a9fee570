"""
The files of ``docs/monitoring`` on real data: a production line at the emulator, its metrics in Prometheus, and the queries of the
dashboard.

Grafana is not needed: the queries are run as Grafana would run them.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing import Emulator, Script
from dev.local_airflow import LOOPBACK, inherited_environment, tail
from dev.servers import PrometheusServer, ServerError
from dev.statsd_exporter import Ports, StatsdExporter, parse_mapping, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "monitoring"
DASHBOARD = FOLDER / "grafana-dashboard.json"
RULES = FOLDER / "prometheus-alerts.yml"
MAPPING = FOLDER / "statsd-mapping.yml"

SCRAPE_INTERVAL = 10.0
"""Seconds."""

PAUSE = 0.2


@dataclass(frozen=True)
class Query:
    """A query of a panel of the dashboard."""

    panel: str
    expression: str
    legend: str

    def resolved(self, speed: float = 1) -> str:
        """Return the expression as Grafana sends it for all connections, with a ``$__rate_interval`` of a minute."""
        expression = self.expression.replace("$__rate_interval", "1m").replace("$conn_id", ".*")
        return faster(expression, speed)


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard."""
    return list(json.loads(DASHBOARD.read_text())["panels"])


def queries() -> list[Query]:
    """Return the queries of all panels."""
    return [
        Query(panel["title"], target["expr"], target["legendFormat"])
        for panel in panels()
        for target in panel["targets"]
    ]


def faster(text: str, speed: float) -> str:
    """Return rules, a mapping or a query with each duration divided by ``speed``."""
    units = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

    def divided(match: re.Match[str]) -> str:
        return f"{int(match[1]) * units[match[2]] / speed:.0f}ms"

    return text if speed == 1 else re.sub(r"(?<=[\[: ])(\d+)([smhd])(?=[\]:)\s]|$)", divided, text)


@dataclass(frozen=True)
class Load:
    """
    The load of a production line.

    :param videos: number of videos that are in work at a time.
    :param interval: seconds between two polls of a wait.
    :param limit: ``requests_per_second`` of the connection.
    :param queued: seconds for which a video is queued.
    :param processing: seconds for which it is in generation.
    :param speed: factor by which the times of the rules, of the mapping and of the metrics are shortened.
    """

    videos: int
    interval: float
    limit: float
    queued: float
    processing: float
    speed: float = 1.0


class MonitoredLine:
    """A running production line: the service that it uses, and the Prometheus that has its metrics."""

    def __init__(
        self,
        emulator: Emulator,
        exporter: StatsdExporter,
        prometheus: PrometheusServer,
        process: subprocess.Popen[bytes],
        output: Path,
    ) -> None:
        self.emulator = emulator
        self.exporter = exporter
        self.prometheus = prometheus
        self.process = process
        self._output = output

    def wait_until(self, predicate: Callable[[], object], timeout: float, what: str) -> None:
        """Wait until the predicate is true."""
        deadline = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() > deadline:
                raise ServerError(f"Timed out after {timeout:g} s: {what}. The line:\n{tail(self._output)}")
            time.sleep(PAUSE)

    def total(self, expression: str) -> float:
        """Return the value of an expression; 0 if it has no result."""
        return sum(float(sample["value"][1]) for sample in self.prometheus.query(expression))

    def fired(self) -> set[str]:
        """Return the names of all alerts that are firing or have fired."""
        samples = self.prometheus.query(
            'count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))'
        )
        return {sample["metric"]["alertname"] for sample in samples}

    def kill(self) -> None:
        """Kill the process with the triggers and workers."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def monitored_line(load: Load, folder: Path, rate_limit: float | None = None) -> Iterator[MonitoredLine]:
    """
    Run a production line, and load the alert rules into a Prometheus that scrapes its metrics.

    :param folder: an empty folder for everything that the line writes.
    :param rate_limit: requests per second that the service accepts; None for all.
    """
    exporter = StatsdExporter(parse_mapping(faster(MAPPING.read_text(), load.speed)))
    rules = faster(RULES.read_text(), load.speed)
    output = folder / "output"
    with (
        Emulator(rate_limit=rate_limit, record_requests=False) as emulator,
        serving(exporter) as ports,
        PrometheusServer(ports.scrape, rules, SCRAPE_INTERVAL / load.speed) as prometheus,
    ):
        emulator.default_script = Script.timed(queued=load.queued, processing=load.processing)
        with output.open("wb") as stream:
            process = subprocess.Popen(
                command(load, folder),
                env=environment(load, folder, emulator, ports),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        try:
            yield MonitoredLine(emulator, exporter, prometheus, process, output)
        finally:
            process.kill()
            process.wait()


def command(load: Load, folder: Path) -> list[str]:
    """Return the command of the line. Its first videos are ordered within the time that a video takes."""
    arguments = {
        "videos": load.videos,
        "interval": load.interval,
        "begin-within": load.queued + load.processing,
        "folder": folder / "videos",
        "speed": load.speed,
    }
    options = [f"--{name}={value}" for name, value in arguments.items()]
    return [sys.executable, "-m", "dev.production_line", *options]


def environment(load: Load, folder: Path, emulator: Emulator, ports: Ports) -> dict[str, str]:
    """Return the environment of the line, with its Airflow connection and Airflow's settings for StatsD."""
    connection = json.loads(emulator.airflow_connection_json())
    connection["extra"]["requests_per_second"] = load.limit
    return {
        **inherited_environment(),
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW_CONN_MANXUE_DEFAULT": json.dumps(connection),
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": LOOPBACK,
        "AIRFLOW__METRICS__STATSD_PORT": str(ports.statsd),
    }
