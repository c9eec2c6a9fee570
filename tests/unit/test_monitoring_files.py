"""The files in ``docs/monitoring``: their names exist, nothing that the package sends is missing, and their page describes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from airflow_provider_manxue._core.metrics import CATALOGUE, Kind, Metric, Sample
from dev.monitoring import FOLDER, MAPPING, RULES, faster, panels, queries
from dev.statsd_exporter import find_rule, parse_mapping

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/monitoring.md").read_text()
RULE_TEXTS = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
EXPRESSIONS = [*(query.expression for query in queries()), *(rule["expr"] for rule in RULE_TEXTS)]
MAPPED = parse_mapping(MAPPING.read_text())
SUFFIXES = {Kind.COUNTER: ("",), Kind.GAUGE: ("",), Kind.TIMING: ("_bucket", "_sum", "_count")}
FAILURES = "airflow_manxue_task_failures_total"


def statsd_names(metric: Metric) -> list[str]:
    """Return the names of a metric in plain StatsD. Airflow puts its prefix before them."""
    sample = Sample(metric, 1.0, "manxue_default", "sd2_manxue_720p")
    return [f"airflow.{name}" for name, _ in sample.names("host-1.example.com")]


def mapped(name: str) -> tuple[str, dict[str, str]] | None:
    """Return name and labels in Prometheus; None if the metric is dropped."""
    found = find_rule(MAPPED, name)
    assert found, f"{name} has no rule"
    rule, match = found
    return None if rule.is_dropped else rule.apply(match)


def series_of(metric: Metric) -> tuple[str, dict[str, str]]:
    """Return the one series that a metric becomes."""
    (series,) = filter(None, map(mapped, statsd_names(metric)))
    return series


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"airflow_manxue_\w+", expression))


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_metric_becomes_one_series_with_the_labels_of_its_name(metric):
    _, labels = series_of(metric)

    expected = {"conn_id": "manxue_default", "hostname": "host-1_example_com", "model": "sd2_manxue_720p"}
    in_name = {tag: expected[tag] for tag in metric.in_name}
    assert {key: value for key, value in labels.items() if key != "outcome"} == in_name


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_metric_is_in_the_dashboard(metric):
    name, labels = series_of(metric)
    of_dashboard = [query.expression for query in queries()]

    assert any(one.removesuffix("_bucket") == name for text in of_dashboard for one in names_in(text))
    assert "outcome" not in labels or labels["outcome"] in metric.name


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_names_and_outcomes_in_an_expression_are_of_the_package(expression):
    series = [(series_of(metric), metric.kind) for metric in CATALOGUE.values()]
    known = {name + suffix for (name, _), kind in series for suffix in SUFFIXES[kind]} | {FAILURES}
    outcomes = {labels["outcome"] for (_, labels), _ in series if "outcome" in labels}

    assert names_in(expression) <= known
    named = re.findall(r'outcome(?:=|!=|=~)"([^"]*)"', expression)
    assert {outcome for text in named for outcome in text.split("|")} <= outcomes


def test_counter_and_histogram_names_end_as_in_prometheus():
    for metric in CATALOGUE.values():
        name, _ = series_of(metric)
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER), name
        assert metric.kind is not Kind.TIMING or name.endswith("_seconds"), name


def test_failed_tries_are_mapped_for_the_operators_of_the_package_only():
    name, labels = mapped("airflow.operator_failures_ManxueToObjectStorageOperator")

    assert (name, labels) == (FAILURES, {"operator": "ManxueToObjectStorageOperator"})
    assert find_rule(MAPPED, "airflow.operator_failures_BashOperator") is None


# --- the dashboard ------------------------------------------------------------------------------------------


def cells(panel):
    """Return the cells of the grid that a panel covers."""
    at = panel["gridPos"]
    return {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}


def test_panels_do_not_overlap():
    covered = [cell for panel in panels() for cell in cells(panel)]

    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_panels_use_the_data_source_that_the_operator_chooses():
    for panel in panels():
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_have_a_description_and_a_unit():
    for panel in panels():
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]


def table(heading):
    """Return the first cells of the table below a heading of the page."""
    text = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return [re.sub(r"\[(\w+)\]\(.*\)", r"\1", row) for row in rows[1:]]


def test_page_describes_each_panel():
    titles = list(dict.fromkeys(panel["title"] for panel in panels()))

    assert table("Panels") == titles


def test_page_lists_each_rule_of_the_mapping():
    listed = dict(re.findall(r"^\| `([\w.<>]+)`[^|]*\| `(airflow_manxue_\w+)` \|", PAGE, re.MULTILINE))

    for metric in CATALOGUE.values():
        name, labels = series_of(metric)
        form = f"manxue.{metric.name}"
        if "outcome" in labels:
            form = form.removesuffix(labels["outcome"]) + "<outcome>"
        form = ".".join([form, *(f"<{tag}>" for tag in metric.in_name)])
        assert listed[form] == name
    assert set(listed.values()) == {rule.name for rule in MAPPED if not rule.is_dropped}


# --- the alerts ---------------------------------------------------------------------------------------------


def test_page_lists_each_alert_with_its_severity():
    assert table("Alerts") == [rule["alert"] for rule in RULE_TEXTS]
    for rule in RULE_TEXTS:
        assert re.search(rf"\[{rule['alert']}\]\(\S+\) \| {rule['labels']['severity']} \|", PAGE)


@pytest.mark.parametrize("rule", RULE_TEXTS, ids=lambda rule: rule["alert"])
def test_alert_has_a_severity_texts_and_a_runbook(rule):
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in ["", *(heading.lower().replace(" ", "-") for heading in headings)]


def test_each_alert_has_a_test_in_virtual_time():
    tests = yaml.safe_load((ROOT / "tests/monitoring/alerts-test.yml").read_text())["tests"]
    tried = {one["alertname"] for test in tests for one in test.get("alert_rule_test", ())}

    assert tried == {rule["alert"] for rule in RULE_TEXTS}


# --- the stand-in for Grafana -------------------------------------------------------------------------------


def test_durations_of_rules_and_queries_are_divided():
    assert faster("x[1h:15s] offset 5m for: 3m ttl: 2m\nin 5 minutes, 0.9", 60) == (
        "x[60000ms:250ms] offset 5000ms for: 3000ms ttl: 2000ms\nin 5 minutes, 0.9"
    )


def test_query_is_resolved_for_all_connections():
    resolved = {query.resolved() for query in queries()}

    assert not any("$" in text for text in resolved)
    assert any('conn_id=~".*|"' in text and "[1m]" in text for text in resolved)


def test_mapping_file_is_next_to_the_others():
    """The page links them."""
    assert {path.name for path in FOLDER.iterdir()} == set(re.findall(r"\]\(monitoring/([\w.-]+)\)", PAGE))
