"""The report of the long runs says what is missing and what broke."""

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


def test_all_is_reached(report):
    assert report() == {}


def test_a_part_that_has_not_run_is_missed(report):
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
def test_what_is_too_little_or_broken_is_missed(report, results, missed):
    assert report(**results) == missed


def test_the_table_says_what_is_missed():
    table = as_markdown([("a", "1", "2", True), ("b", "3", "4", False)])

    assert table.splitlines()[2:] == ["| a | 1 | 2 | reached |", "| b | 3 | 4 | **MISSED** |"]
