"""Metrics that a real Airflow sends to a StatsD server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Emulator, Script
from dev.monitoring import MAPPING
from dev.statsd_exporter import find_rule, parse_mapping

if TYPE_CHECKING:
    from dev.local_airflow import LocalAirflow
    from tests.support.statsd_server import StatsdServer

PREFIX = "airflow.manxue."
FAILED_SAVES = "airflow.operator_failures_ManxueToObjectStorageOperator"


def test_example_dag_sends_metrics_from_triggerer_and_worker(
    local_airflow: LocalAirflow, emulator: Emulator, statsd: StatsdServer
) -> None:
    """Airflow 3.2 and later have two copies of the facility, and set up one of them in each kind of process."""
    emulator.default_script = Script.by_hand("processing", "completed")
    begin, ordered = len(statsd.values), len(emulator.ledger.orders)
    run_id = local_airflow.trigger("manxue_wait_for_video")
    local_airflow.wait_until(
        lambda: any(one.name == f"{PREFIX}waits" and one.value for one in statsd.values[begin:]),
        "the triggerer has sent a metric",
    )
    emulator.set_status(emulator.ledger.orders[ordered].id, "completed")
    assert local_airflow.wait_for_run("manxue_wait_for_video", run_id) == "success"

    received = [one for one in statsd.values[begin:] if one.name.startswith(PREFIX)]
    waits = [one for one in received if one.name == f"{PREFIX}waits"]
    triggerer = {one.port for one in waits}
    orders = [one for one in received if one.name == f"{PREFIX}orders.accepted"]
    assert [(one.value, one.kind) for one in orders] == [(1, "c")]
    assert orders[0].port not in triggerer
    assert [one.value for one in received if one.name == f"{PREFIX}orders.seconds"] == [5]

    completed = [one for one in received if one.name == f"{PREFIX}polls.completed"]
    # The trigger's last poll, and that of the worker that resumes.
    assert any(one.port in triggerer for one in completed)
    assert any(one.port not in triggerer for one in completed)
    second_names = [one.name for one in received if one.name.startswith(f"{PREFIX}waits.manxue_default.")]
    assert second_names
    rules = parse_mapping(MAPPING.read_text())
    assert {one.name for one in received if find_rule(rules, one.name) is None} == set()


@pytest.mark.heavy
def test_metrics_have_no_key_and_no_url(
    local_airflow: LocalAirflow, emulator: Emulator, statsd: StatsdServer
) -> None:
    video = emulator.add_task(script=Script.polls("completed"))
    run_id = local_airflow.trigger("wait_for_many", conf={"videos": [video]})
    assert local_airflow.wait_for_run("wait_for_many", run_id) == "success"
    local_airflow.wait_until(lambda: statsd.named(f"{PREFIX}polls.completed"))

    names = "\n".join(one.name for one in statsd.named(PREFIX))
    assert "polls" in names
    for secret in (emulator.api_key, video, "http", "signature"):
        assert secret not in names


@pytest.mark.heavy
def test_airflow_counts_failed_saves_under_the_name_that_an_alert_needs(
    local_airflow: LocalAirflow, emulator: Emulator, statsd: StatsdServer
) -> None:
    """The package itself does not count saves that failed."""
    video = emulator.add_task(script="completed")
    run_id = local_airflow.trigger("save_to_a_file_as_folder", conf={"video": video})
    assert local_airflow.wait_for_run("save_to_a_file_as_folder", run_id) == "failed"

    local_airflow.wait_until(lambda: statsd.named(FAILED_SAVES))
    assert find_rule(parse_mapping(MAPPING.read_text()), FAILED_SAVES)
