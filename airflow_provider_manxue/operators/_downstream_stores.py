"""Check of the downstream saves before an order is sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_manxue.exceptions import ManxueInputError
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def check_downstream_stores(task: Any, log: Any) -> None:
    """
    Check that the file system of each direct downstream save is installed on this worker.

    Only destinations with a literal scheme are checked. A save with another queue or executor may run on another worker, so
    a missing file system is logged as a warning then. No connection is loaded, and no request is sent to a store.

    :param task: the task that orders.
    :param log: log of the task.
    :raises ManxueInputError: if a file system is missing. The error names the save and its scheme.
    """
    for save, scheme in _direct_saves(task):
        problem = _why_missing(scheme)
        if problem is None:
            continue
        text = f"The task {save.task_id!r} saves the video to {scheme}://, which this worker cannot reach: {problem}"
        if any(getattr(task, name, None) != getattr(save, name, None) for name in ("queue", "executor")):
            log.warning("%s. That task has another queue or executor, so the order is sent.", text)
        else:
            raise ManxueInputError(
                f"The order was not sent. {text}. Install the provider of that store with its extra first, for example "
                f"apache-airflow-providers-amazon[s3fs]."
            )


def _direct_saves(task: Any) -> Iterator[tuple[Any, str]]:
    """Yield each direct downstream save with the literal scheme of its destination."""
    if not task.downstream_task_ids or task.get_dag() is None:
        return
    for downstream in task.downstream_list:
        destination = _destination_of(downstream)
        if isinstance(destination, str) and (match := _SCHEME.match(destination)):
            yield downstream, match[1].lower()


def _destination_of(task: Any) -> Any:
    """Return the destination of a save, mapped or not; None for another task and for a mapped destination."""
    if isinstance(task, ManxueToObjectStorageOperator):
        return task.destination
    kind = getattr(task, "operator_class", None)
    if isinstance(kind, type) and issubclass(kind, ManxueToObjectStorageOperator):
        return task.partial_kwargs.get("destination")
    return None


def _why_missing(scheme: str) -> str | None:
    """Return the reason why the file system of a scheme is missing; None if it is installed."""
    import fsspec

    try:
        if _is_registered(scheme):
            # Airflow's provider of the store imports the file system late.
            fsspec.get_filesystem_class(scheme)
        else:
            _ = ObjectStoragePath(f"{scheme}://store").fs  # a Dag file can attach a file system for a scheme
    except ImportError as error:
        return str(error)
    except ValueError:
        return None if _is_registered(scheme) else f"no installed provider has a file system for {scheme}://"
    return None


def _is_registered(scheme: str) -> bool:
    try:
        from airflow.sdk.io import has_fs
    except ImportError:  # Airflow 2 and 3.0
        from airflow.io import has_fs  # type: ignore[attr-defined, no-redef]
    return bool(has_fs(scheme))
