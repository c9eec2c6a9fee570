"""
The record that binds an order to a task instance, and the decision of a task that finds one. No I/O happens here.

Theory of operation: the record is persisted in Airflow's task state store before the order is sent, and outlives retries
and clears. A retry continues with the recorded order. A clear by a person orders again once the recorded one has ended. A
record without an id stops the task, since the order may have been paid. ``docs/ordering.md`` documents the form for
editing by hand, so a record is parsed leniently and written in full.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue._core.order_kinds import VIDEO_ORDER, OrderKind
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueInputError,
    ManxueOrderMismatchError,
    ManxueOrderUnknownError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEY = VIDEO_ORDER.key
"""Key of the record of an order in the task state store, as documented."""

_LEGACY_FINGERPRINT_SCHEME = 1
"""Fingerprint scheme of records that name none."""


class OrderState(StrEnum):
    """The state of an order."""

    INTENT = "intent"
    """It is about to be sent, or was sent with an unknown outcome."""

    NOT_ACCEPTED = "not_accepted"
    """It was certainly not accepted."""

    ORDERED = "ordered"
    """The service accepted it."""

    DONE = "done"
    """The task has succeeded: its result was returned, or, without waiting, the id of the video."""

    FAILED = "failed"
    """The service could not generate the video, or an asset is not usable."""


_WITHOUT_ID = frozenset({OrderState.INTENT, OrderState.NOT_ACCEPTED, OrderState.FAILED})


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """
    The persisted form of an order, or of an upload of assets.

    :param id: what the service returned for it, if that is known: the id of the video task, or the receipt of the upload.
    :param since: when it was about to be sent, in ISO 8601, to find it in the service's list.
    :param max_tries: ``max_tries`` of the task instance at the last change. A clear by a person changes it, an
        automatic retry does not.
    :param fingerprint: a hash of each field of the request; empty if it is unknown.
    :param scheme: number of the fingerprint scheme.
    """

    state: OrderState
    id: Any = None
    since: str | None = None
    max_tries: int | None = None
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    scheme: int = _LEGACY_FINGERPRINT_SCHEME

    def to_dict(self, kind: OrderKind = VIDEO_ORDER) -> dict[str, Any]:
        """Serialize the record to plain JSON."""
        return {
            "state": self.state.value,
            kind.field: self.id,
            "since": self.since,
            "max_tries": self.max_tries,
            "fingerprint": dict(self.fingerprint),
            "scheme": self.scheme,
        }


def parse_record(value: Any, kind: OrderKind = VIDEO_ORDER) -> OrderRecord | None:
    """
    Parse the value in the task state store.

    :param value: a record, or the edit of a person: an id (of an upload: the list of ids) alone, or a record with it filled in.
    :param kind: the kind of the order.
    :return: the record; None if there is none.
    :raises ManxueInputError: if the value cannot be parsed.
    """
    if value is None:
        return None
    if isinstance(value, str) or (isinstance(value, list) and kind is not VIDEO_ORDER):
        value = {kind.field: value}
    try:
        return _parse_fields(value, kind)
    except (TypeError, ValueError, AttributeError, ManxueError) as error:
        raise ManxueInputError(
            f"The key {kind.key!r} in the task state store holds {clean_text(repr(value))[:200]}, which is not {kind.a_noun} "
            f"({error}). Nothing was sent. Put {kind.edit}, or delete the key to {kind.noun} again; then clear the task."
        ) from None


def _parse_fields(value: Mapping[str, Any], kind: OrderKind) -> OrderRecord:
    receipt = kind.parse(value[kind.field]) if value.get(kind.field) else None
    state = OrderState(value.get("state", OrderState.ORDERED))
    if receipt is None and state not in _WITHOUT_ID:
        raise ValueError(f"it has no {kind.field!r}")
    scheme = value.get("scheme")
    if not isinstance(value.get("max_tries"), int | None) or not isinstance(scheme, int | None):
        raise ValueError("its 'max_tries' or 'scheme' is not a number")  # noqa: TRY004 - a mistake in JSON
    since, fingerprint = value.get("since"), value.get("fingerprint") or {}
    if not isinstance(fingerprint, dict) or not all(
        isinstance(digest, str) for digest in fingerprint.values()
    ):
        raise ValueError("its 'fingerprint' is not an object of texts")
    if receipt is not None and state in {OrderState.INTENT, OrderState.NOT_ACCEPTED}:
        state = OrderState.ORDERED  # a person has filled it in
    return OrderRecord(
        state=state,
        id=receipt,
        since=since if isinstance(since, str) else None,
        max_tries=value.get("max_tries"),
        fingerprint=dict(fingerprint),
        scheme=_LEGACY_FINGERPRINT_SCHEME if scheme is None else scheme,
    )


@dataclass(frozen=True, slots=True)
class TaskInstanceRef:
    """The task instance of an order, with its current ``max_tries``."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    max_tries: int

    @property
    def recovery_hint(self) -> str:
        """The remedies for an order that need no change of code."""
        return self.recovery_hint_for(VIDEO_ORDER)

    def recovery_hint_for(self, kind: OrderKind) -> str:
        """Return the remedies that need no change of code."""
        dag_id, run_id, task_id = (quote(part, safe="") for part in (self.dag_id, self.run_id, self.task_id))
        index = f"?map_index={self.map_index}" if self.map_index >= 0 else ""
        return (
            f"There are two remedies for this task instance, both on its tab 'Task State Store' or by Airflow's REST API at "
            f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/state-store/{kind.key}{index}: (1) "
            f"{kind.remedy.format(key=kind.key)}; (2) to {kind.noun} again, delete the key (DELETE). Then clear the task."
        )


@dataclass(frozen=True, slots=True)
class ResumableOrder:
    """An order that a task continues with: the id of its video task or its receipt, and a warning or an empty text."""

    id: Any
    caution: str = ""


def resumable_order(
    record: OrderRecord | None,
    fingerprint: Callable[[int], Mapping[str, str]],
    ref: TaskInstanceRef,
    not_accepted_since: str | None = None,
    kind: OrderKind = VIDEO_ORDER,
) -> ResumableOrder | None:
    """
    Decide before anything is sent whether a task continues with the recorded order, sends a new one, or fails.

    :param fingerprint: returns the fingerprint of the task's current request, by scheme.
    :param not_accepted_since: ``since`` of an intent that was certainly not accepted. The record may be older than that
        result.
    :param kind: the kind of the order.
    :return: the recorded order; None to send a new one.
    :raises ManxueOrderUnknownError: if the outcome of the recorded order is unknown.
    :raises ManxueOrderMismatchError: if a person has cleared the task, and its request differs from the recorded one.
    :raises ManxueFailedError: if the recorded order has failed, and no person has cleared the task.
    """
    if record is None or record.state is OrderState.NOT_ACCEPTED:
        return None
    is_cleared = _is_cleared(record, ref)
    if record.state in {OrderState.DONE, OrderState.FAILED} and is_cleared:
        return None
    if record.state is OrderState.FAILED:
        name = "of this task" if record.id is None else kind.name(record.id)
        raise kind.failure(
            f"{kind.failed.format(name=name)}; its log has the reason. A retry does not {kind.noun} again. Clear the task to "
            f"{kind.another}."
        )
    if record.id is None:
        if not_accepted_since is not None and record.since == not_accepted_since:
            return None
        raise ManxueOrderUnknownError(
            f"The outcome of the {kind.noun} sent at {clean_text(record.since)} is unknown. It may have been accepted and "
            f"billed, so it is not retried automatically. {kind.check.format(when='that')} {ref.recovery_hint_for(kind)}"
        )
    differing = _differing(record.fingerprint, fingerprint(record.scheme))
    if differing and is_cleared:
        raise ManxueOrderMismatchError(
            f"{kind.recorded.format(name=kind.name(record.id))}: {differing} changed since. Nothing was sent. "
            f"{ref.recovery_hint_for(kind)}"
        )
    return ResumableOrder(record.id, _caution(record, differing, kind))


def _caution(record: OrderRecord, differing: str, kind: OrderKind) -> str:
    if record.state is OrderState.DONE:
        return (
            f"{kind.delivered.format(name=kind.name(record.id))} A clear after 'retries' was lowered cannot be distinguished "
            f"from a retry: to {kind.another}, delete the key {kind.key!r} first."
        )
    if differing:
        return (
            f"{kind.kept.format(name=kind.name(record.id))}, and this retry continues with that, although {differing} changed "
            f"since. To {kind.another}, delete the key {kind.key!r} and clear the task."
        )
    return ""


def _is_cleared(record: OrderRecord, ref: TaskInstanceRef) -> bool:
    """Return whether a person has cleared the task since. False if ``max_tries`` is unknown, so that nothing is paid."""
    return record.max_tries is not None and record.max_tries != ref.max_tries


def _differing(stored: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the names of the fields that differ. An empty recorded fingerprint matches any request."""
    names = {*stored, *now} if stored else set()
    return clean_text(", ".join(sorted(name for name in names if stored.get(name) != now.get(name))))
