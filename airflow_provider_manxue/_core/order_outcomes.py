"""
Outcomes of orders, from their responses or from the lack of one. No I/O happens here.

Theory of operation: an accepted order that is sent again is paid twice, and an accepted order that is given up is lost.
So an outcome is *not accepted* or *rejected* only if that is certain. An id anywhere in a response is taken as a sign
of an accepted order. Any other outcome is *unknown*, and a person decides. The error quotes the response for that
decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.bodies import excerpt_of, parse_json
from airflow_provider_manxue._core.ids import ID_FIELDS, ids_in, is_id, objects_in
from airflow_provider_manxue._core.network_errors import no_response
from airflow_provider_manxue._core.order_kinds import VIDEO_ORDER, OrderKind
from airflow_provider_manxue._core.reasons import code_number, is_success_code, raw_code_in
from airflow_provider_manxue._core.responses import parse_task
from airflow_provider_manxue._core.wait_errors import video_failed
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueMediaTypeError,
    ManxueOrderNotAcceptedError,
    ManxueOrderRejectedError,
    ManxueOrderUnknownError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_NOT_ACCEPTED_CODES = frozenset({425, 429})
"""Too Early (RFC 8470, section 5.2) and Too Many Requests (RFC 6585, section 4): the request was not processed."""

_AMBIGUOUS_CODES = frozenset({408, 409})
"""Request Timeout and Conflict: the order may have been accepted."""

_REJECTION_CODES = frozenset({-1, 1001})
"""Error codes with which the service rejects an order, by the samples in its documentation."""


class OrderOutcome(StrEnum):
    """The outcome of an order without a task in its response."""

    NOT_ACCEPTED = "not accepted"
    """Certainly not accepted, for a temporary reason. The order is sent again, within limits."""

    REJECTED = "rejected"
    """Certainly not accepted, for a permanent reason."""

    UNKNOWN = "unknown"
    """It may have been accepted and billed. A person has to check."""


def classify_response(
    http_status: int,
    body: bytes,
    busy_codes: Collection[str] = (),
    id_fields: Sequence[str] = ID_FIELDS,
) -> OrderOutcome:
    """
    Classify the response to an order that describes no task.

    :param http_status: HTTP status. Outside of 2xx it decides, also if the body is unreadable.
    :param body: the received part of the body.
    :param busy_codes: error codes of the service that mean a lack of capacity.
    :param id_fields: fields whose value shows that the order was accepted.
    """
    response = parse_json(body)
    if any(True for _ in ids_in(response, names=id_fields)):
        return OrderOutcome.UNKNOWN
    code = raw_code_in(response)
    if code in busy_codes:
        return OrderOutcome.NOT_ACCEPTED
    is_success = 200 <= http_status < 300
    if is_success and _has_data(response):
        return OrderOutcome.UNKNOWN
    number = code_number(code) if is_success else http_status
    if number in _NOT_ACCEPTED_CODES:
        return OrderOutcome.NOT_ACCEPTED
    is_rejected = 400 <= number < 500 or (is_success and number in _REJECTION_CODES)
    return OrderOutcome.REJECTED if is_rejected and number not in _AMBIGUOUS_CODES else OrderOutcome.UNKNOWN


def _has_data(response: Any) -> bool:
    return isinstance(response, Mapping) and response.get("data") not in (None, "", {}, [])


def parse_order_response(
    http_status: int,
    body: bytes,
    *,
    retry_after: Sequence[str],
    now: float,
    secret: str,
    busy_codes: Collection[str] = (),
    failure: ManxueError | None = None,
) -> VideoTask:
    """
    Parse the response to an order. For the other parameters see ``parse_task``.

    :param busy_codes: error codes of the service that mean a lack of capacity.
    :param failure: the error, if the body broke off; None if it is complete.
    :raises ManxueOrderNotAcceptedError: if the order may be sent again.
    :raises ManxueOrderRejectedError: if it was rejected.
    :raises ManxueOrderUnknownError: if it may have been accepted.
    :raises ManxueVideoFailedError: if the video has failed already.
    """
    task = None
    try:
        task = parse_task(http_status, body, retry_after=retry_after, now=now, secret=secret)
        if not task.id:
            raise ManxueTransientError(f"HTTP {http_status} with a task without an id")
        if task.status is not TaskStatus.FAILED:
            _check_accepted(parse_json(body, secret), http_status)
    except ManxueError as error:
        may_be_nested = not (task and task.id) and not isinstance(error, ManxueMediaTypeError)
        if failure is None and may_be_nested and (nested := _nested_task(http_status, body, secret)):
            return nested
        outcome = classify_response(http_status, body, busy_codes)
        # A header, so that it is known even if the body broke off.
        quote = excerpt_of(body, secret)
        raise order_error(outcome, failure or error, quote, error.retry_after) from None
    if failure is not None:
        raise order_error(OrderOutcome.UNKNOWN, failure, excerpt_of(body, secret))
    if task.status is TaskStatus.FAILED:
        raise video_failed(task.id, task.error or f"status {task.status_word!r}")
    return task


def _check_accepted(response: Any, http_status: int) -> None:
    """
    Check that a response with an id is certain: it has one id only, and no error beside it.

    :raises ManxueTransientError: if it is not.
    """
    if len(_distinct_ids(response)) > 1:
        raise ManxueTransientError(f"HTTP {http_status} with several ids")
    if any(_is_error(obj.get("error")) for obj in objects_in(response)):
        raise ManxueTransientError(f"HTTP {http_status} with an id and an error")


def _distinct_ids(response: Any) -> set[str]:
    return {task_id.strip() for task_id in ids_in(response)}


def _is_error(value: Any) -> bool:
    """Return whether the value of ``error`` is one: not empty, and no word or code for success."""
    if isinstance(value, (Mapping, list)):
        return any(map(_is_error, value.values() if isinstance(value, Mapping) else value))
    return bool(value) and not is_success_code(value)


def _nested_task(http_status: int, body: bytes, secret: str) -> VideoTask | None:
    """Return the task of a success response whose id is in a nested object."""
    response = parse_json(body, secret)
    if not 200 <= http_status < 300 or not isinstance(response, Mapping):
        return None
    ids = _distinct_ids(response)
    is_success = is_success_code(response.get("code")) and not _is_error(response.get("error"))
    if len(ids) != 1 or not is_success or not all(map(is_id, ids)):
        return None
    return VideoTask(id=ids.pop(), status=TaskStatus.QUEUED, status_word=TaskStatus.QUEUED.value)


def order_without_response(
    error: BaseException, hostname: str, *, body_started: bool, kind: OrderKind = VIDEO_ORDER
) -> ManxueError:
    """
    Return the error of an order that got no response.

    :param error: the exception of the HTTP library.
    :param body_started: whether any byte of the request's body was sent. Without a body, the service cannot accept an
        order. The type of the exception is no reliable sign of that.
    :param kind: the kind of the order.
    """
    reason = error if isinstance(error, ManxueError) else no_response(error, hostname)
    outcome = OrderOutcome.UNKNOWN if body_started else OrderOutcome.NOT_ACCEPTED
    return order_error(outcome, reason, kind=kind)


def order_error(
    outcome: OrderOutcome,
    reason: ManxueError,
    excerpt: str = "",
    retry_after: float | None = None,
    kind: OrderKind = VIDEO_ORDER,
) -> ManxueError:
    """
    Return the error for an outcome.

    :param reason: the error of the request or response.
    :param excerpt: the beginning of the response, cleaned, for the person who decides.
    :param retry_after: pause that the service requested, in seconds; None if it requested none.
    :param kind: the kind of the order.
    """
    cause = str(reason).removesuffix(".")
    if outcome is OrderOutcome.NOT_ACCEPTED:
        return ManxueOrderNotAcceptedError(f"The {kind.noun} was not accepted: {cause}", retry_after)
    if outcome is OrderOutcome.REJECTED:
        problem = f"The {kind.noun} was rejected, and nothing was {kind.past}: {cause}."
        return ManxueOrderRejectedError(f"{problem} Remove the cause, then {kind.noun} again.")
    quoted = f" (response: {excerpt})" if excerpt and excerpt not in str(reason) else ""
    return ManxueOrderUnknownError(
        f"The outcome of the {kind.noun} is unknown: {cause}{quoted}. It may have been accepted and billed, so it is not sent "
        f"again automatically. {kind.check.format(when='this')} {kind.after_check}"
    )
