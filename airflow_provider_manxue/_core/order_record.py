"""
The record that binds an order to a task instance: its form, and what a task that starts does with it. No I/O happens here.

It is persisted in Airflow's task state store, which outlives retries and clears. Its form is documented in
``docs/ordering.md`` and made for editing by hand, so a record is parsed leniently and written in full.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueInputError,
    ManxueOrderMismatchError,
    ManxueOrderUnknownError,
    ManxueVideoFailedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEY = "manxue_order"
"""Key of the record in the task state store. It is documented, so it stays."""

_LEGACY_FINGERPRINT_SCHEME = 1
"""Scheme of fingerprints whose record names none."""


class OrderState(StrEnum):
    """The state of an order, as far as its task instance knows."""

    INTENT = "intent"
    """It is about to be sent, or was sent with an unknown outcome."""

    NOT_ACCEPTED = "not_accepted"
    """It was sent, or could not be, and was certainly not accepted."""

    ORDERED = "ordered"
    """The service accepted it."""

    DONE = "done"
    """The task has done its work: the video is there, or, without waiting, the id was returned."""

    FAILED = "failed"
    """The service could not generate the video."""


_WITHOUT_ID = frozenset({OrderState.INTENT, OrderState.NOT_ACCEPTED, OrderState.FAILED})


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """
    An order as it is persisted.

    :param state: the state.
    :param id: id of the video task, if it is known.
    :param since: when it was about to be sent, in ISO 8601: what to look for in the service's own list.
    :param max_tries: Airflow's number of that name at the last change. A clear by a person changes it, an
        automatic retry does not.
    :param fingerprint: a hash of each field of the request; empty if it is not known.
    :param scheme: how the fingerprint was made.
    """

    state: OrderState
    id: str | None = None
    since: str | None = None
    max_tries: int | None = None
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    scheme: int = _LEGACY_FINGERPRINT_SCHEME

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        return {**asdict(self), "state": self.state.value, "fingerprint": dict(self.fingerprint)}


def parse_record(value: Any) -> OrderRecord | None:
    """
    Parse what the task state store holds.

    :param value: a record, or what a person has put there: a bare id, or a record with the id filled in.
    :return: None if it holds nothing.
    :raises ManxueInputError: if it cannot be understood.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = {"id": value}
    try:
        return _parse_fields(value)
    except (TypeError, ValueError, AttributeError, ManxueError) as error:
        raise ManxueInputError(
            f"The key {KEY!r} in the task state store holds {clean_text(repr(value))[:200]}, which is not an order "
            f"({error}). Nothing was sent. Put the id of the video task there, as text, to go on with it, or delete "
            f"the key to order again; then clear the task."
        ) from None


def _parse_fields(value: Mapping[str, Any]) -> OrderRecord:
    video_task_id = parse_video_task_id(value["id"]) if value.get("id") else None
    state = OrderState(value.get("state", OrderState.ORDERED))
    if video_task_id is None and state not in _WITHOUT_ID:
        raise ValueError("it has no 'id'")
    scheme = value.get("scheme")
    if not isinstance(value.get("max_tries"), int | None) or not isinstance(scheme, int | None):
        raise ValueError("its 'max_tries' or 'scheme' is not a number")  # noqa: TRY004 - a person's slip in JSON
    since, fingerprint = value.get("since"), value.get("fingerprint") or {}
    if not isinstance(fingerprint, dict) or not all(
        isinstance(digest, str) for digest in fingerprint.values()
    ):
        raise ValueError("its 'fingerprint' is not an object of texts")
    if video_task_id is not None and state in {OrderState.INTENT, OrderState.NOT_ACCEPTED}:
        state = OrderState.ORDERED  # a person has filled in the id
    return OrderRecord(
        state=state,
        id=video_task_id,
        since=since if isinstance(since, str) else None,
        max_tries=value.get("max_tries"),
        fingerprint=dict(fingerprint),
        scheme=_LEGACY_FINGERPRINT_SCHEME if scheme is None else scheme,
    )


@dataclass(frozen=True, slots=True)
class TaskInstanceRef:
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
    def recovery_hint(self) -> str:
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
            f"There are two remedies for this task instance, both on its tab 'Task State Store' or by Airflow's REST API at "
            f"/api/v2/{path}/state-store/{KEY}{index}: (1) to continue with a video that exists, set the key "
            f'{KEY!r} to its id (PUT with the body {{"value": "<id>"}}); (2) to order again, delete the key (DELETE). '
            f"Then clear the task."
        )


@dataclass(frozen=True, slots=True)
class ResumableOrder:
    """
    An order with which a task continues.

    :param id: id of the video task.
    :param caution: what may not be meant; empty if there is nothing.
    """

    id: str
    caution: str = ""


def resumable_order(
    record: OrderRecord | None,
    fingerprint: Callable[[int], Mapping[str, str]],
    ref: TaskInstanceRef,
    not_accepted_since: str | None = None,
) -> ResumableOrder | None:
    """
    Decide what a task that starts does: continue with a stored order, order, or stop before anything is sent.

    :param record: what is stored.
    :param fingerprint: returns the fingerprint of the request that the task would send now, by a scheme.
    :param ref: the task instance.
    :param not_accepted_since: time of the intent of this task that was certainly not accepted. The record may lag behind.
    :return: None to order.
    :raises ManxueOrderUnknownError: if an order was sent, and its id is not known.
    :raises ManxueOrderMismatchError: if a person has cleared the task, and it would send another order than the stored one.
    :raises ManxueVideoFailedError: if the stored order has failed, and no person has asked for another one.
    """
    if record is None or record.state is OrderState.NOT_ACCEPTED:
        return None
    is_cleared = _is_cleared(record, ref)
    if record.state in {OrderState.DONE, OrderState.FAILED} and is_cleared:
        return None
    if record.state is OrderState.FAILED:
        name = "of this task" if record.id is None else repr(record.id)
        raise ManxueVideoFailedError(
            f"The service could not generate the video {name}, as an earlier try found; its log has the reason. A retry "
            f"does not order again. Clear the task to order another video."
        )
    if record.id is None:
        if not_accepted_since is not None and record.since == not_accepted_since:
            return None
        raise ManxueOrderUnknownError(
            f"The outcome of the order sent at {clean_text(record.since)} is unknown. It may have been accepted and billed, "
            f"so it is not retried automatically. Check with the service whether there is a video of this prompt from that "
            f"time. {ref.recovery_hint}"
        )
    differing = _differing(record.fingerprint, fingerprint(record.scheme))
    if differing and is_cleared:
        raise ManxueOrderMismatchError(
            f"This task instance has ordered the video {record.id!r}, but would order another one now: {differing} changed "
            f"since. Nothing was sent. {ref.recovery_hint}"
        )
    return ResumableOrder(record.id, _caution(record, differing))


def _caution(record: OrderRecord, differing: str) -> str:
    if record.state is OrderState.DONE:
        return (
            f"The video {record.id!r} was ordered and delivered by an earlier try, and is returned again. A clear after "
            f"'retries' was lowered cannot be told from a retry: to order another video, delete the key {KEY!r} first."
        )
    if differing:
        return (
            f"This retry continues with the video {record.id!r}, although {differing} changed since it was ordered. To "
            f"order another one, delete the key {KEY!r} and clear the task."
        )
    return ""


def _is_cleared(record: OrderRecord, ref: TaskInstanceRef) -> bool:
    """Return whether a person has cleared the task since; unknown numbers mean no, so that nothing is bought."""
    return record.max_tries is not None and record.max_tries != ref.max_tries


def _differing(stored: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the names of the fields that differ; a stored fingerprint that is empty fits any request."""
    names = {*stored, *now} if stored else set()
    return clean_text(", ".join(sorted(name for name in names if stored.get(name) != now.get(name))))
