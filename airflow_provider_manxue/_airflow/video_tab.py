"""
The XCom with a task's record for the *Video* tab.

It is pushed once, and a failure to push it never ends a task. Airflow deletes it before the next try.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import AirflowSkipException, AirflowTaskTimeout

from airflow_provider_manxue._core import tab_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow.providers.common.compat.sdk import Context


def push_record(context: Context, record: Mapping[str, Any], log: Any) -> None:
    """
    Push the record of a task.

    :param context: the context of the task.
    :param record: the record.
    :param log: log of the task.
    """
    try:
        context["ti"].xcom_push(key=tab_record.KEY, value=dict(record))
    except Exception as error:  # noqa: BLE001 - an XCom backend of another package can fail in any way
        log.warning("The record for the Video tab could not be stored (%s).", type(error).__name__)


@contextlib.contextmanager
def recorded_failure(
    context: Context, log: Any, *, enabled: bool, hide: Iterable[str] = ()
) -> Iterator[None]:
    """
    Push the reason if the block fails, and raise the same exception.

    :param context: the context of the task.
    :param log: log of the task.
    :param enabled: whether anything is pushed.
    :param hide: texts that must not be recorded.
    """
    try:
        yield
    except (AirflowSkipException, AirflowRescheduleException):
        raise
    except (Exception, AirflowTaskTimeout) as error:
        # Airflow's own alarm rings once. After it, nothing would end a push that does not return.
        is_alarm = isinstance(error, AirflowTaskTimeout) and error.__cause__ is None
        if enabled and not is_alarm:
            with contextlib.suppress(AirflowTaskTimeout):  # the task fails with its first error
                push_record(context, tab_record.failed(error, hide=hide), log)
        raise
