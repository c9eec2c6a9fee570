"""The page of all parameters, against the code."""

import re

from dev import parameters


def test_page_has_all_parameters_as_the_code_has_them():
    """`python -m dev.parameters` writes the page."""
    assert parameters.listed() == parameters.written(), "run `python -m dev.parameters`"


def test_each_parameter_has_a_meaning():
    assert re.findall(r"^\| `\S+` .*\|  \|$", parameters.written(), re.MULTILINE) == []


def test_version_is_in_the_form_that_the_page_reads():
    """``(Airflow 3.3 and later)`` becomes the column of the version."""
    assert (
        re.findall(
            r"^.*\| 2\.11 \|.*(?:[Nn]eeds Airflow|task state store).*$", parameters.written(), re.MULTILINE
        )
        == []
    )


def test_row_has_type_default_and_version():
    rows = re.findall(
        r"^\| `(?:start_from_trigger|order_timeout|prompt)` .*$", parameters.written(), re.MULTILINE
    )

    assert rows[0].startswith("| `start_from_trigger` | `bool` | `False` | no | 3.3 | start in the triggerer")
    assert any(
        row.startswith(r"| `order_timeout` | `timedelta \| float \| None` | `None` | no |") for row in rows
    )
    assert any(row.startswith(r"| `prompt` | `str \| XComArg` | required | yes | 2.11 |") for row in rows)
