"""
The limit of the seconds of video that the tasks of a Dag run order together.

Theory of operation: Airflow 3.3 has no store that the tasks of a run share, and in which two of them can count at the same
moment. So each task instance counts its own orders. The count is persisted in its task state store, which outlives tries and
clears, but which no other task can read. An XCom publishes it to the other tasks. An order is counted and published before
the counts of all tasks are summed up. Of two tasks at the same moment, at least one therefore sees the order of the other. The
limit holds, and both may be refused. Airflow deletes the XComs of a task when a try starts, so a try publishes first.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.run_limit import KEY, check_limit, parse_count
from airflow_provider_manxue.exceptions import ManxueOrderUnknownError, ManxueVideoFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class RunLimit:
    """
    Count of the seconds that a task instance has ordered, and the limit of its Dag run.

    :param limit: the limit in seconds; None for no limit.
    :param store: Airflow's task state store.
    :param push: publishes the count of this task instance.
    :param pull: returns the published counts of all task instances of the run.
    :param log: log of the task.
    """

    def __init__(
        self,
        limit: float | None,
        store: Any,
        *,
        push: Callable[[float], None],
        pull: Callable[[], Iterable[Any]],
        log: Any,
    ) -> None:
        self._limit = limit
        self._store = store
        self._push = push
        self._pull = pull
        self._log = log

    def publish(self) -> None:
        """
        Publish what earlier tries have ordered.

        :raises ManxueInputError: if the stored count cannot be parsed.
        """
        if self._limit is not None and (ordered := self._load()):
            self._push(ordered)

    @contextlib.contextmanager
    def reserve(self, seconds: float) -> Iterator[None]:
        """
        Count an order, and send it in the block. It is not counted any more if it was certainly not accepted.

        :param seconds: length of the ordered video.
        :raises ManxueRunLimitError: if it would exceed the limit. The block is not entered.
        """
        if self._limit is None:
            yield
            return
        before = self._load()
        try:
            self._count(before + seconds)
            total = check_limit(seconds, before + seconds, self._pull(), self._limit)
            self._log.info(
                "With this order, %s s of at most %s s of video are ordered in this Dag run.",
                total,
                self._limit,
            )
            yield
        except (ManxueOrderUnknownError, ManxueVideoFailedError):
            raise  # the order may be billed
        except Exception:
            self._release(before)
            raise

    def _load(self) -> float:
        return parse_count(self._store.get(KEY))

    def _count(self, seconds: float) -> None:
        self._store.set(KEY, seconds)
        self._push(seconds)

    def _release(self, before: float) -> None:
        """Restore the count. The task ends with the error of the order, also if the count cannot be restored."""
        try:
            self._count(before)
        except Exception as error:  # noqa: BLE001 - a store of another package can fail in any way
            self._log.warning(
                "The order was not accepted, but still counts for max_seconds_per_run, since the count could not be written (%s). "
                "By hand: set the key %r to %s in the task state store.",
                type(error).__name__,
                KEY,
                before,
            )
