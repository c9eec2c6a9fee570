"""The stand-in for statsd_exporter: lines of StatsD become series of Prometheus."""

from __future__ import annotations

import pytest

from dev.monitoring import MAPPING
from dev.statsd_exporter import StatsdExporter, find_rule, parse_line, parse_mapping


def exported(lines, text):
    """Return the series of a stand-in that has received these lines."""
    exporter = StatsdExporter(parse_mapping(text))
    exporter.receive("\n".join(lines))
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for metric in exporter.collect()
        for sample in metric.samples
    }


def test_line_has_tags_in_the_form_of_influxdb():
    sample = parse_line("airflow.manxue.polls.queued,conn_id=c,x=y:2|c")

    assert (sample.name, sample.labels) == ("airflow.manxue.polls.queued", {"conn_id": "c", "x": "y"})
    assert (sample.value, sample.kind) == (2.0, "c")


def test_sampled_count_stands_for_more():
    assert parse_line("airflow.scheduler_heartbeat:1|c|@0.1").value == 10
    assert parse_line("airflow.dag_processing.total:7|g|@0.1").value == 7


def test_wildcard_matches_one_part_of_a_name():
    rules = parse_mapping("mappings: [{match: a.*, name: x}]")

    assert find_rule(rules, "a.b-1_c") is not None
    assert [name for name in ("a", "a.b.c", "b.a.b", "ab") if find_rule(rules, name)] == []


@pytest.mark.parametrize(
    "options", ["match: 'a.b*', name: x", "match: a, name: x, timer_type: summary", "match: '1a', name: x"]
)
def test_rule_that_the_exporter_would_refuse_is_refused(options):
    with pytest.raises(ValueError, match=r"not a glob|unknown options"):
        parse_mapping(f"mappings: [{{{options}}}]")


def test_counters_add_up_and_gauges_replace():
    text = "mappings: [{match: c, name: c_total}, {match: g.*, name: g, labels: {at: $1}}]"

    assert exported(["c:1|c", "c:2.5|c", "g.a:1|g", "g.a:7|g"], text) == {
        ("c_total",): 3.5,
        ("g", ("at", "a")): 7,
    }


def test_timings_become_a_histogram_in_seconds():
    text = "mappings: [{match: t, name: t, histogram_options: {buckets: [1, 5]}, observer_type: histogram}]"

    assert exported(["t:1000|ms", "t:3000|ms", "t:9000|ms"], text) == {
        ("t_bucket", ("le", "1.0")): 1,
        ("t_bucket", ("le", "5.0")): 2,
        ("t_bucket", ("le", "+Inf")): 3,
        ("t_count",): 3,
        ("t_sum",): 13,
    }


def test_gauge_ends_after_its_ttl(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dev.statsd_exporter.time.monotonic", lambda: now[0])
    exporter = StatsdExporter(parse_mapping("mappings: [{match: g, name: g, ttl: 2m}]"))
    exporter.receive("g:1|g")

    now[0] += 120
    assert list(exporter.collect())
    now[0] += 1
    assert list(exporter.collect()) == []


def test_tags_become_labels_beside_those_of_the_name():
    """As Airflow sends them with ``statsd_influxdb_enabled``: the second name of a gauge has no tags."""
    lines = [
        "airflow.manxue.polls.queued,conn_id=c:1|c",
        "airflow.manxue.rate,conn_id=c,hostname=h:9|g",
        "airflow.manxue.rate.c.h:9|g",
    ]

    assert exported(lines, MAPPING.read_text()) == {
        ("airflow_manxue_polls_total", ("conn_id", "c"), ("outcome", "queued")): 1,
        ("airflow_manxue_rate", ("conn_id", "c"), ("hostname", "h")): 9,
    }
