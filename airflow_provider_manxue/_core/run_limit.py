"""The limit of the seconds of video that a Dag run orders: its argument, its stored counts, its check. No I/O happens here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue._core.numbers import is_number, is_positive
from airflow_provider_manxue.exceptions import ManxueError, ManxueInputError, ManxueRunLimitError

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = "manxue_ordered_seconds"
"""Key of the seconds that a task instance has ordered, in the task state store and in XCom, as documented."""


def check_argument(limit: Any, *, has_state_store: bool) -> None:
    """
    Refuse a limit that cannot be used.

    :param limit: the argument; None for no limit.
    :param has_state_store: whether this Airflow has a task state store.
    :raises ManxueInputError: if the limit is no positive number, or if nothing can count up to it.
    """
    if limit is None:
        return
    if not is_positive(limit):
        raise ManxueInputError(
            f"max_seconds_per_run must be a positive number of seconds, or None, not {limit!r}."
        )
    if not has_state_store:
        raise ManxueInputError(
            f"max_seconds_per_run={limit} cannot be used: this Airflow has no task state store to count in. Leave the argument "
            f"out, or upgrade to Airflow 3.3 or later."
        )


def parse_count(value: Any) -> float:
    """
    Parse a stored number of ordered seconds.

    :param value: the stored value, or the edit of a person; None if nothing was ordered.
    :raises ManxueInputError: if it is no number of seconds.
    """
    if value is None:
        return 0
    if not is_number(value) or value < 0:
        raise ManxueInputError(
            f"The key {KEY!r} holds {clean_text(repr(value))[:200]}, which is not a number of seconds. The order was not sent. "
            f"Put the number of seconds there that this task instance has ordered, then clear this task."
        )
    seconds: float = value
    return seconds


def check_limit(asked: float, own: float, published: Iterable[Any], limit: float) -> float:
    """
    Check whether an order stays within the limit.

    :param asked: seconds of the order.
    :param own: seconds that the task instance has published, with those of the order.
    :param published: values that all task instances of the Dag run have published.
    :param limit: the limit in seconds.
    :return: seconds that are ordered after this order.
    :raises ManxueRunLimitError: if it exceeds the limit.
    :raises ManxueError: if the own value is not among the published ones.
    """
    total = sum(map(parse_count, published))
    if total < own:
        raise ManxueError(
            f"The XCom {KEY!r} of this task was not returned, so the seconds that this Dag run has ordered are unknown. The "
            f"order was not sent. Check the connection between this worker and Airflow's API server."
        )
    if total > limit:
        raise ManxueRunLimitError(
            f"The order was not sent: it is for {asked} s of video, and the tasks of this Dag run have ordered {total - asked} s "
            f"of at most {limit} s (max_seconds_per_run). Raise max_seconds_per_run or order shorter videos, then clear this "
            f"task."
        )
    return total
