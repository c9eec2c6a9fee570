"""Base of all tasks that wait for videos: limits, deferral, results and the skip policy."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from urllib.parse import urlsplit

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseOperator,
    XComArg,
)

from airflow_provider_manxue._airflow.reschedule_state import RescheduledWait
from airflow_provider_manxue._airflow.video_tab import push_record, recorded_failure
from airflow_provider_manxue._core import tab_record
from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID
from airflow_provider_manxue._core.deadline import (
    TimeLimits,
    airflow_timeout,
    first_poll_at,
    latest_after_end_by_airflow,
)
from airflow_provider_manxue._core.polling import (
    DEFAULT_POKE_INTERVAL,
    DEFAULT_TIMEOUT,
)
from airflow_provider_manxue._core.status_log import announcement
from airflow_provider_manxue._core.subjects import VIDEO, Subject
from airflow_provider_manxue._core.wait_arguments import WaitArguments
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueFailedError,
    ManxueInputError,
    ManxueTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_manxue._core.poller import Poller
    from airflow_provider_manxue.hooks.manxue import ManxueHook

PUSH_RETRY_TIME = 60.0
"""Seconds for which pushing a result to XCom is retried."""

END_KEY = "manxue_deferral_end"
"""XCom key of the try in which Airflow itself ended a deferral, and when a worker first resumed after that."""


class ManxueWaitBase(RescheduledWait):
    """
    Base of the tasks that wait for videos, in the triggerer or on a worker.

    ``poke_interval``, ``exponential_backoff``, ``max_wait``, ``timeout``, ``soft_fail`` and ``never_fail`` have the same
    effect in every mode. Airflow's own base classes differ between modes and versions. For the arguments see the sensors.
    """

    ui_color = "#e8e0f7"

    subject: ClassVar[Subject] = VIDEO
    """What is awaited."""

    _first_ended_at = math.inf
    """When a worker of this try first resumed after Airflow itself had ended a deferral; infinite without such an end."""

    def __init__(
        self,
        *,
        manxue_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = True,
        poke_interval: timedelta | float = DEFAULT_POKE_INTERVAL,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, timeout=timeout, **kwargs)
        self.manxue_conn_id = manxue_conn_id
        self.deferrable = deferrable
        self._seen: list[dict[str, Any]] = []
        self._check_waiting()

    def _check_waiting(self) -> None:
        """Refuse at parse time arguments that rendering cannot correct, and warn of those without effect."""
        if not isinstance(self.manxue_conn_id, (str, XComArg)) or self.manxue_conn_id == "":
            raise ManxueInputError(
                f"manxue_conn_id must be the id of a connection, not {self.manxue_conn_id!r}."
            )
        if self.poke_interval < 10:
            warnings.warn(
                f"poke_interval={self.poke_interval:g} is short: the service recommends 30 to 60 seconds, and may "
                f"limit faster polling.",
                stacklevel=4,
            )
        if self.deferrable and self.reschedule:
            warnings.warn(
                "mode='reschedule' has no effect while deferrable is True; set deferrable=False to use it.",
                stacklevel=4,
            )

    @cached_property
    def hook(self) -> ManxueHook:
        """The hook. Imported late, so that parsing a Dag file loads no HTTP library."""
        from airflow_provider_manxue.hooks.manxue import ManxueHook

        return ManxueHook(self.manxue_conn_id)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the videos that this task has awaited. OpenLineage calls it when the task has ended."""
        from airflow_provider_manxue._airflow.lineage import lineage_of

        return lineage_of(self._seen)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral, and apply the skip policy. Airflow's own policy differs between versions."""
        with self._apply_skip_policy(context):
            if next_method == "__fail__":
                return self._resume_after_failure(context, str((next_kwargs or {}).get("error", "")))
            # Not the method of BaseSensorOperator: with soft_fail it skips on every error.
            return BaseOperator.resume_execution(self, next_method, next_kwargs, context)

    def _resume_after_failure(self, context: Context, reason: str) -> Any:
        """Resume after Airflow itself has ended the deferral. Its arguments are lost, and the reason may be empty."""
        raise NotImplementedError

    def _repeats_end_of_earlier_try(self, context: Context) -> bool:
        """
        Return whether Airflow ended no deferral of this try, but repeats the end of an earlier one, as Airflow 3.0 does.

        The number of the try, and the time at which Airflow first ended a deferral of it, are stored in an XCom: Airflow has
        dropped everything else, and 3.0 deletes no XCom when it resumes a try.
        """
        ti, stored = context["ti"], None
        with contextlib.suppress(Exception):  # an XCom backend of another package can fail in any way
            stored = self._pull_own_xcom(context, END_KEY)
        known = stored if isinstance(stored, dict) else {}
        number = getattr(ti, "try_number", None)
        is_earlier = bool(known) and known.get("try_number") != number
        ended_at = None if is_earlier else (known.get("at") or time.time())
        self._first_ended_at = ended_at or math.inf
        value = {"try_number": number, "at": ended_at}
        if value != known:
            with contextlib.suppress(Exception):
                ti.xcom_push(key=END_KEY, value=value)
        return is_earlier

    # --- limits and modes -------------------------------------------------------------------------------

    @property
    def _arguments(self) -> WaitArguments:
        """The arguments of the trigger that are the same for each run."""
        return WaitArguments(
            poke_interval=self.poke_interval,
            exponential_backoff=self.exponential_backoff,
            max_wait=self.max_wait.total_seconds() if self.max_wait is not None else None,
        )

    @property
    def _limits(self) -> TimeLimits:
        """The limits of the wait. Only some versions of Airflow apply ``execution_timeout`` to a deferral."""
        if self.deferrable and self.execution_timeout:
            return TimeLimits(self.timeout, self.execution_timeout.total_seconds())
        return TimeLimits(self.timeout)

    @property
    def _holds_slot(self) -> bool:
        """Whether the task holds its worker slot until the wait has ended."""
        return not self.deferrable and not self.reschedule

    def _started_before_failure(self, context: Context, reason: str) -> float:
        """Return when the wait began, after Airflow has ended its deferral and dropped the stored start."""
        started_at = getattr(context["ti"], "start_date", None)
        if isinstance(started_at, datetime):
            return started_at.timestamp()
        return self._limits.latest_start(time.time(), reason)

    def _end_if_out_of_time(self, poller: Poller) -> None:
        """End the videos that are still awaited, if a limit of the wait has passed."""
        now = time.time()
        is_late = now >= latest_after_end_by_airflow(self._first_ended_at)
        if is_late or self._limits.is_over(poller.started_at, now):
            poller.give_up(now)

    @staticmethod
    def _pull_own_xcom(context: Context, key: str) -> Any:
        """Return an XCom that an earlier worker of this try has pushed; None if there is none."""
        ti = context["ti"]
        return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)

    def _defer(
        self,
        context: Context,
        trigger: Callable[..., BaseTrigger],
        arguments: WaitArguments,
        started_at: float,
        deadline: float,
        due_at: float,
        **next_kwargs: Any,
    ) -> NoReturn:
        """
        Defer, and resume with ``execute_complete``.

        :param trigger: makes the trigger from the arguments that both triggers have in common.
        :param arguments: those arguments, without the times.
        :param started_at: when the wait began.
        :param deadline: the deadline of the trigger.
        :param due_at: when the next poll is due.
        :param next_kwargs: further arguments of ``execute_complete``.
        """
        now = time.time()
        margin = self._limits.defer_timeout_margin(started_at, deadline, now)
        arguments = replace(
            arguments,
            started_at=started_at,
            deadline=deadline,
            first_poll_at=first_poll_at(due_at, now, deadline),
            defer_timeout_margin=margin,
        )
        self.defer(
            trigger=trigger(manxue_conn_id=self.manxue_conn_id, **arguments.to_kwargs()),
            method_name="execute_complete",
            kwargs={"started_at": started_at, **self._resume_arguments(context), **next_kwargs},
            timeout=timedelta(seconds=airflow_timeout(deadline, margin, now)),
        )

    def _reschedule(self, due_at: float, deadline: float) -> NoReturn:
        at = first_poll_at(due_at, time.time(), deadline)
        raise AirflowRescheduleException(datetime.fromtimestamp(at, tz=UTC))

    def _log_start(self, what: str, started_at: float) -> None:
        """Log the start of the wait."""
        how = "in the triggerer and without a worker slot" if self.deferrable else "on this worker"
        try:
            where = f"at {urlsplit(self.hook.settings.base_url).hostname}"
        except ManxueError:  # the connection could not be loaded; the wait continues
            where = f"over the connection {self.manxue_conn_id!r}"
        text = announcement(
            what,
            where,
            how,
            interval=self.poke_interval,
            started_at=started_at,
            deadline=started_at + self._limits.wait_timeout,
        )
        self.log.info(text)

    # --- start and end of a deferral --------------------------------------------------------------------

    def _ending_arguments(self) -> dict[str, Any]:
        """Return the trigger arguments that let the task end in the triggerer; empty by default."""
        return {}

    def _begins_on_worker(self, event: Any) -> bool:
        """Return whether the triggerer could not start the task; False by default."""
        return False

    def _is_stale(self, context: Context, try_number: int | None) -> bool:
        """Return whether Airflow resumes a retry with the deferral of the try ``try_number``, as Airflow 3.0 does."""
        present = getattr(context["ti"], "try_number", None)
        return try_number is not None and present is not None and present != try_number

    def _log_stale(self) -> None:
        self.log.info("Airflow resumed this try with the deferral of an earlier try. The wait begins again.")

    def _resume_arguments(self, context: Context) -> dict[str, Any]:
        """Return the arguments of each method that resumes."""
        present = getattr(context["ti"], "try_number", None)
        return {} if present is None else {"try_number": present}

    # --- the Video tab ----------------------------------------------------------------------------------

    @property
    def _hidden_texts(self) -> tuple[str, ...]:
        """Texts that the record for the Video tab must not contain."""
        return ()

    def _record_wait(
        self, context: Context, ids: Sequence[str], statuses: Mapping[str, int], started_at: float
    ) -> None:
        """Push what is known of a wait, for the Video tab."""
        if self.do_xcom_push:
            record = tab_record.waiting(
                ids,
                statuses,
                total=max(len(ids), sum(statuses.values())),
                deadline=started_at + self._limits.wait_timeout,
                now=time.time(),
                noun=self.subject.noun,
            )
            push_record(context, record, self.log)

    # --- results and errors -----------------------------------------------------------------------------

    def _push_xcoms(self, context: Context, values: Mapping[str, Any]) -> None:
        """
        Push values to XCom. Retries for ``PUSH_RETRY_TIME``, since the video is paid for.

        :raises ManxueError: if the values could not be stored.
        """
        for key, value in values.items():
            _retry(lambda key=key, value=value: context["ti"].xcom_push(key=key, value=value), key)  # type: ignore[misc]

    def _raise_error(self, error: ManxueError) -> NoReturn:
        if isinstance(error, ManxueTimeoutError) and self._limits.execution_timeout < self.timeout:
            raise AirflowTaskTimeout(f"{error} (execution_timeout={self.execution_timeout})") from error
        raise error

    @contextlib.contextmanager
    def _apply_skip_policy(self, context: Context) -> Iterator[None]:
        """
        Apply ``soft_fail`` and ``never_fail`` in the same way in all modes and versions of Airflow.

        At the end, however the step ends, its metrics are sent.
        """
        recorded = recorded_failure(context, self.log, enabled=self.do_xcom_push, hide=self._hidden_texts)
        try:
            with recorded:
                yield
        except (AirflowSkipException, AirflowRescheduleException):
            raise
        except (Exception, AirflowTaskTimeout) as error:
            is_soft = isinstance(error, (ManxueFailedError, AirflowSensorTimeout, AirflowTaskTimeout))
            if self.never_fail or (self.soft_fail and is_soft):
                raise AirflowSkipException(str(error)) from error
            raise
        finally:
            if "hook" in vars(self):  # it has sent something
                self.hook.metrics.send()


def _retry(push: Callable[[], Any], key: str) -> None:
    ends_at = time.monotonic() + PUSH_RETRY_TIME
    delay = 1.0
    while True:
        try:
            push()
            return
        except Exception as error:  # noqa: BLE001 - an XCom backend of another package can fail in any way
            left = ends_at - time.monotonic()
            if left <= 0:
                raise ManxueError(
                    f"The result could not be stored in the XCom {key!r} within {PUSH_RETRY_TIME:g} s: {type(error).__name__}. "
                    f"The video is not lost: a retry of this task reads it again."
                ) from None  # the text of the error may contain the value, and with it the URL
        time.sleep(min(delay, left))
        delay *= 2
