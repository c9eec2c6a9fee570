"""The life of an order in one task instance: persisted as intended, sent, classified, and persisted again."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
)

from airflow_provider_manxue.exceptions import (
    ManxueConfigurationError,
    ManxueError,
    ManxueFailedError,
    ManxueOrderError,
    ManxueOrderNotAcceptedError,
    ManxueOrderRejectedError,
    ManxueOrderUnknownError,
    ManxueRefusedError,
    ManxueTimeoutError,
    ManxueTransientError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_manxue._airflow.order_store import OrderStore
    from airflow_provider_manxue._core.orders import OrderRequest


def send_once(request: OrderRequest, send: Callable[[], Any], store: OrderStore) -> Any:
    """
    Send an order once, and persist its outcome. If that is unknown, the intent remains.

    :param send: sends it with one request, and returns the receipt.
    :return: the receipt: the id of the video, or the assets of an upload.
    """
    store.mark_intent(request)
    try:
        receipt = send()
    except (ManxueOrderNotAcceptedError, ManxueOrderRejectedError):
        store.mark_not_accepted()
        raise
    except ManxueFailedError:
        store.mark_failed()
        raise
    except ManxueOrderUnknownError as error:
        raise ManxueOrderUnknownError(f"{error} {store.recovery_hint}".rstrip()) from None
    store.mark_ordered(receipt)
    return receipt


@contextlib.contextmanager
def track_order(receipt: Any, store: OrderStore, ti: Any) -> Iterator[None]:
    """
    Persist the end of the work on an accepted order, so that no retry orders again.

    Without a task state store, any exception ends the task without a retry, with the receipt in its error.
    """
    kind = store.kind
    kept = kind.kept.format(name=kind.name(receipt))
    if not store.enabled:
        _forbid_retry(ti)
    try:
        yield
    except ManxueFailedError:
        store.mark_failed()
        raise
    except ManxueRefusedError as error:
        raise store.lost_error(error) from None
    except AirflowTaskTimeout as error:
        if store.enabled:
            raise
        # Airflow retries an AirflowTaskTimeout, and the retry would order again. It does not retry a sensor's timeout.
        raise ManxueTimeoutError(f"{error} {kept}. {kind.use}") from error
    except Exception as error:
        # Any error, such as an XCom backend's: a retry would order again.
        if store.enabled or isinstance(error, (AirflowFailException, AirflowSensorTimeout)):
            raise
        reason = str(error) if isinstance(error, ManxueError) else f"{type(error).__name__}."
        raise ManxueOrderError(
            f"{reason} {kept}, and a retry would {kind.another}, so the task is not retried. {kind.use}"
        ) from error
    else:
        store.mark_done(receipt)


@contextlib.contextmanager
def retry_only_unsent(ti: Any) -> Iterator[None]:
    """
    Forbid a retry before the order is sent, and allow it again if the order was certainly not accepted.

    So a signal between the response and :func:`track_order` leads to no retry that orders again.

    :param ti: the task instance. No record of its order is persisted.
    """
    allow_retry = _forbid_retry(ti)
    try:
        yield
    except (ManxueTransientError, ManxueConfigurationError):
        allow_retry()
        raise


def _forbid_retry(ti: Any) -> Callable[[], None]:
    """
    Let Airflow fail the task without a retry, after any exception in this process.

    After ``execute``, Airflow pushes the return value and runs ``post_execute``, and no code of ours can convert an exception
    there. Airflow 2.11 decides by ``ti.task.retries`` (``models/taskinstance.py``), 3.0 to 3.2 by a field of the server's
    context (``sdk/execution_time/task_runner.py``).

    :return: function that allows retries again.
    """
    with contextlib.ExitStack() as restore:
        for holder, name, value in (
            (getattr(ti, "task", None), "retries", 0),
            (getattr(ti, "_ti_context_from_server", None), "should_retry", False),
        ):
            if hasattr(holder, name):
                restore.callback(setattr, holder, name, getattr(holder, name))
                setattr(holder, name, value)
        return restore.pop_all().close
