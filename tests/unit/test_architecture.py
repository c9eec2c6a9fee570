"""The table of modules in docs/architecture.md, against the package."""

from dev import architecture


def test_table_has_exactly_one_row_for_each_module():
    """`python -m dev.architecture` writes the table."""
    wanted, listed = architecture.rows(), architecture.listed()

    missing = [row for row in wanted if row not in listed]
    obsolete = [row for row in listed if row not in wanted]
    assert (missing, obsolete) == ([], []), (
        "docs/architecture.md misses rows, or has obsolete ones: run `python -m dev.architecture`"
    )
    assert listed == wanted


def test_each_module_has_a_description():
    assert [row for row in architecture.rows() if row.endswith("|  |")] == []
