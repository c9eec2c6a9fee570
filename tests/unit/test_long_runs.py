"""Report of the long runs."""

import json

import pytest

from dev.long_runs import as_markdown, rows

SCHEDULES = {"schedules": 1_000_000, "findings": {}}
TARGET = {"executions": 1_000_000, "edges": 20, "finding": None}
CHAOS_RUN = {"kinds": 5, "videos": 20, "broken": []}


@pytest.fixture
def report(tmp_path):
    """Return the rows of the report on these results that are not reached, by figure."""

    def write(**results):
        runs = [{**CHAOS_RUN, "seed": seed} for seed in range(1, 21)]
        parts = {"simulation": SCHEDULES, "fuzz": {"targets": {"wait": TARGET}}, "chaos": runs, **results}
        for name, result in parts.items():
            if result is not None:
                (tmp_path / name).mkdir()
                (tmp_path / name / "results.json").write_text(json.dumps(result))
        return {figure: measured for figure, _, measured, reached in rows(tmp_path) if not reached}

    return write


def test_complete_results_miss_nothing(report):
    assert report() == {}


def test_part_without_results_is_missed(report):
    assert report(fuzz=None) == {"fuzz": "has not run to its end"}


@pytest.mark.parametrize(
    ("results", "missed"),
    [
        ({"simulation": {**SCHEDULES, "schedules": 999_999}}, {"schedules in virtual time": "999,999"}),
        ({"simulation": {**SCHEDULES, "findings": {"7": ["x"]}}}, {"seeds that broke an invariant": "7"}),
        (
            {"fuzz": {"targets": {"wait": {**TARGET, "executions": 9}}}},
            {"fuzz: wait": "9, 20 edges, no finding"},
        ),
        (
            {"fuzz": {"targets": {"wait": {**TARGET, "finding": "b'x'"}}}},
            {"fuzz: wait": "1,000,000, 20 edges, a finding"},
        ),
        ({"chaos": [{**CHAOS_RUN, "seed": 1}] * 19}, {"chaos runs on the distributed deployment": "19"}),
        (
            {"chaos": [{**CHAOS_RUN, "seed": 1}] * 20 + [{**CHAOS_RUN, "seed": 8, "broken": ["x"]}]},
            {"chaos seeds that broke an invariant": "8"},
        ),
    ],
)
def test_low_or_broken_figures_are_missed(report, results, missed):
    assert report(**results) == missed


def test_table_marks_missed_figures():
    table = as_markdown([("a", "1", "2", True), ("b", "3", "4", False)])

    assert table.splitlines()[2:] == ["| a | 1 | 2 | reached |", "| b | 3 | 4 | **MISSED** |"]
