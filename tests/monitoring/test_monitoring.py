"""The dashboard and the alert rules in a real Prometheus, on the metrics of a production line at the emulator."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest

from dev.monitoring import RULES, Load, MonitoredLine, monitored_line, queries
from dev.servers import ServerError

HERE = Path(__file__).parent
LOAD = Load(videos=24, interval=1.5, limit=30, queued=2, processing=6, speed=20)
"""Twenty times faster than in production: a wait of two to three minutes with a poll every 30 s."""

PATIENCE = 240
"""Seconds until an alert must fire, on a busy machine."""

OF_TROUBLE = {"Alerts", "Throttling episodes in 5 minutes"}
"""Panels without data while nothing is wrong."""


@pytest.fixture
def line(tmp_path):
    with monitored_line(LOAD, tmp_path) as running:
        yield running


def promtool(*arguments: object) -> str:
    run = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_rules_are_valid() -> None:
    assert "7 rules found" in promtool("check", "rules", RULES)


def test_each_alert_fires_after_its_time_only() -> None:
    """In virtual time, with all durations as they are in the file."""
    assert "SUCCESS" in promtool("test", "rules", HERE / "alerts-test.yml")


def values_of(line: MonitoredLine, expression: str) -> list[float]:
    values = [float(sample["value"][1]) for sample in line.prometheus.query(expression)]
    return [value for value in values if not math.isnan(value)]


def assert_fires(line: MonitoredLine, alert: str, before: set[str]) -> set[str]:
    """Wait until an alert fires, and check that no other one has fired beside those before. Returns all of them."""
    line.wait_until(lambda: alert in line.prometheus.alerts(), PATIENCE, f"{alert} has not fired")
    assert line.fired() == before | {alert}
    return before | {alert}


def assert_have_data(line: MonitoredLine, panels: set[str]) -> None:
    """Wait until each has shown data. A rate over a few seconds is empty while Prometheus has no two values in them."""
    empty = set(panels)

    def has_each_shown() -> bool:
        for query in queries():
            if query.panel in empty and values_of(line, query.resolved(LOAD.speed)):
                empty.discard(query.panel)
        return not empty

    try:
        line.wait_until(has_each_shown, PATIENCE, "a panel has shown no data")
    except ServerError as error:
        error.add_note(f"Without data: {sorted(empty)}")
        raise


def test_alerts_fire_in_their_trouble_only_and_each_panel_has_data(line: MonitoredLine) -> None:
    line.wait_until(lambda: line.total("airflow_manxue_saves_total") > 36, PATIENCE, "no videos were saved")
    # Now, since the times and speeds in the panels come from videos that end, and none ends in the trouble below.
    assert_have_data(line, {query.panel for query in queries()} - OF_TROUBLE)
    assert line.fired() == set()

    with line.emulator.outage("refuse"):
        fired = assert_fires(line, "AirflowManxueServiceAway", set())
    line.wait_until(lambda: not line.prometheus.alerts(), PATIENCE, "the outage is over, and an alert fires")

    with line.emulator.outage("http_429", on="api"):
        fired = assert_fires(line, "AirflowManxueThrottled", fired)
        assert_have_data(line, OF_TROUBLE)
    line.wait_until(lambda: not line.prometheus.alerts(), PATIENCE, "throttling is over, and an alert fires")

    line.emulator.fail_next(1, "create_reset_after_order")
    fired = assert_fires(line, "AirflowManxueOrderUnknown", fired)
    line.emulator.api_key = "another-key"
    fired = assert_fires(line, "AirflowManxueKeyRefused", fired)
    line.kill()
    assert_fires(line, "AirflowManxueTriggererSilent", fired)

    assert not [name for name in line.exporter.unmapped if "manxue" in name.lower()]
