"""
The record that binds an order to a task instance: its form, and what follows from it. No I/O happens here.

It is kept in Airflow's task state store, which outlives retries and clears. Its form is documented in
``docs/ordering.md`` and made for editing by hand, so that a record is read leniently and written in full.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue._core.responses import clean_text
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueInputError,
    ManxueOrderMismatchError,
    ManxueOrderUnknownError,
    ManxueVideoFailedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "manxue_order"
"""The key of the record in the task state store. It is documented, so it stays."""


class OrderState(StrEnum):
    """How far an order has come, as far as its task instance knows."""

    INTENT = "intent"
    """It is about to be sent, or was sent without a known outcome."""

    ORDERED = "ordered"
    """The service took it."""

    DONE = "done"
    """The task has done its work: the video is there, or, without waiting, the id was returned."""

    FAILED = "failed"
    """The service could not generate the video."""


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """
    An order as it is kept.

    :param state: how far it has come.
    :param id: id of the video task, if it is known.
    :param since: when it was about to be sent, in ISO 8601: what to look for in the service's own list.
    :param max_tries: Airflow's number of that name at the last change. A clear by a person changes it, an
        automatic retry does not.
    :param fingerprint: a hash of each field of the request; empty if it is not known.
    """

    state: OrderState
    id: str | None = None
    since: str | None = None
    max_tries: int | None = None
    fingerprint: Mapping[str, str] = field(default_factory=dict)

    def as_value(self) -> dict[str, Any]:
        """Return the record as it is kept: plain JSON."""
        return {**asdict(self), "state": self.state.value, "fingerprint": dict(self.fingerprint)}


def read_record(value: Any) -> OrderRecord | None:
    """
    Read what the task state store holds.

    :param value: a record, or what a person has put there: a bare id, or a record with the id filled in.
    :return: None if it holds nothing.
    :raises ManxueInputError: if it cannot be understood.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = {"id": value}
    try:
        return _read_fields(value)
    except (TypeError, ValueError, AttributeError, ManxueError) as error:
        raise ManxueInputError(
            f"The key {KEY!r} in the task state store holds {clean_text(repr(value))[:200]}, which is not an order "
            f"({error}). Nothing was sent. Put the id of the video task there, as text, to go on with it, or delete "
            f"the key to order anew; then clear the task."
        ) from None


def _read_fields(value: Mapping[str, Any]) -> OrderRecord:
    video_task_id = parse_video_task_id(value["id"]) if value.get("id") else None
    state = OrderState(value.get("state", OrderState.ORDERED))
    if video_task_id is None and state not in {OrderState.INTENT, OrderState.FAILED}:
        raise ValueError("it has no 'id'")
    if not isinstance(value.get("max_tries"), int | None):
        raise ValueError("its 'max_tries' is not a number")  # noqa: TRY004 - a person's slip in JSON
    since, fingerprint = value.get("since"), value.get("fingerprint") or {}
    if not isinstance(fingerprint, dict) or not all(
        isinstance(digest, str) for digest in fingerprint.values()
    ):
        raise ValueError("its 'fingerprint' is not an object of texts")
    if video_task_id is not None and state is OrderState.INTENT:
        state = OrderState.ORDERED  # a person has filled in the id
    return OrderRecord(
        state=state,
        id=video_task_id,
        since=since if isinstance(since, str) else None,
        max_tries=value.get("max_tries"),
        fingerprint=dict(fingerprint),
    )


@dataclass(frozen=True, slots=True)
class Place:
    """
    The task instance that an order is bound to.

    :param max_tries: Airflow's number of that name, now.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    max_tries: int

    @property
    def ways_out(self) -> str:
        """What a person can do, without a change of code."""
        path = "/".join(
            f"{name}/{quote(value, safe='')}"
            for name, value in (
                ("dags", self.dag_id),
                ("dagRuns", self.run_id),
                ("taskInstances", self.task_id),
            )
        )
        index = f"?map_index={self.map_index}" if self.map_index >= 0 else ""
        return (
            f"For this task instance there are two ways out, both on its tab 'Task State Store' or by Airflow's REST "
            f"API at /api/v2/{path}/state-store/{KEY}{index}: (1) to go on with a video that exists, set the key "
            f'{KEY!r} to its id (PUT with the body {{"value": "<id>"}}); (2) to order anew, delete the key (DELETE). '
            f"Then clear the task."
        )


def order_to_go_on_with(
    record: OrderRecord | None, fingerprint: Mapping[str, str], place: Place
) -> str | None:
    """
    Decide what a task that starts does: go on with a stored order, order, or stop before anything is sent.

    :param record: what is stored.
    :param fingerprint: the fingerprint of the order that the task would send now.
    :param place: the task instance.
    :return: the id to go on with, or None to order.
    :raises ManxueOrderUnknownError: if an order was sent, and its id is not known.
    :raises ManxueOrderMismatchError: if the task would send another order than the stored one.
    :raises ManxueVideoFailedError: if the stored order has failed, and no person has asked for another one.
    """
    if record is None:
        return None
    if record.state in {OrderState.DONE, OrderState.FAILED} and _is_cleared(record, place):
        return None
    if record.state is OrderState.FAILED:
        name = "of this task" if record.id is None else repr(record.id)
        raise ManxueVideoFailedError(
            f"The service could not generate the video {name}, as an earlier try found; its log says why. A retry "
            f"orders no other one. Clear the task to order anew."
        )
    if record.id is None:
        raise ManxueOrderUnknownError(
            f"An order was about to be sent at {clean_text(record.since)}, and what became of it is not known: it may have been "
            f"taken and billed, so it is not sent again by itself. Check with the service whether there is a video "
            f"of this prompt from that time. {place.ways_out}"
        )
    differing = _differing(record.fingerprint, fingerprint)
    if differing:
        raise ManxueOrderMismatchError(
            f"This task instance has ordered the video {record.id!r}, but would order another one now: "
            f"{clean_text(', '.join(differing))} changed since. Nothing was sent. {place.ways_out}"
        )
    return record.id


def _is_cleared(record: OrderRecord, place: Place) -> bool:
    """Return whether a person has cleared the task since; unknown numbers mean no, so that nothing is bought."""
    return record.max_tries is not None and record.max_tries != place.max_tries


def _differing(stored: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    if not stored:
        return []
    return sorted(name for name in {*stored, *now} if stored.get(name) != now.get(name))
