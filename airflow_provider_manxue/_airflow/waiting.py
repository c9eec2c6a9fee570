"""What every task that waits for videos has in common: how it pauses, ends, times out and is skipped."""

from __future__ import annotations

import contextlib
import time
import warnings
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseOperator,
    BaseSensorOperator,
    XComArg,
)

from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID
from airflow_provider_manxue._core.events import parse_event, start_of
from airflow_provider_manxue._core.polling import (
    DEFAULT_POKE_INTERVAL,
    DEFAULT_TIMEOUT,
    DEFER_TIMEOUT_MARGIN,
    AskAgain,
    Completed,
    Ended,
    PollPolicy,
    Wait,
    deadline_to_read,
    first_poll_at,
)
from airflow_provider_manxue._core.status_log import announcement
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueInputError,
    ManxueTimeoutError,
    ManxueVideoFailedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_manxue.hooks.manxue import ManxueHook
    from airflow_provider_manxue.models import VideoTask


class ManxueWaitBase(BaseSensorOperator):
    """
    Base of the tasks that wait for videos, in the triggerer or on a worker.

    ``poke_interval``, ``exponential_backoff``, ``max_wait``, ``timeout``, ``soft_fail`` and ``never_fail`` mean
    the same in every mode; Airflow's own base classes differ here between modes and versions.

    :param manxue_conn_id: (templated) id of the Airflow connection.
    :param deferrable: wait in the triggerer. ``[operators] default_deferrable`` is not consulted.
    :param poke_interval: seconds (or ``timedelta``) between two polls.
    :param timeout: seconds (or ``timedelta``) after which the wait is given up.
    """

    ui_color = "#e8e0f7"

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
        """Refuse at parse time what rendering cannot cure, and warn of what is allowed but not meant."""
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
        """The hook; imported here, since a Dag file that is parsed needs no HTTP library."""
        from airflow_provider_manxue.hooks.manxue import ManxueHook

        return ManxueHook(self.manxue_conn_id)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """
        Tell OpenLineage, if it is installed and asks, which videos this task has awaited.

        :param task_instance: the task instance, which has ended.
        """
        from airflow_provider_manxue.lineage import lineage_of

        return lineage_of(self._seen)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral, with the same endings as everywhere else (Airflow's own differ by version)."""
        with self._endings():
            failure = str((next_kwargs or {}).get("error", "")) if next_method == "__fail__" else ""
            if "timeout" in failure:
                self._raise_timeout(
                    ManxueTimeoutError(
                        f"The trigger did not say within the timeout that the video is ready; is a triggerer running, and "
                        f"not too busy? ({failure})"
                    )
                )
            # Past BaseSensorOperator, which would skip on every error with soft_fail.
            return BaseOperator.resume_execution(self, next_method, next_kwargs, context)

    # --- time and endings, the same in every mode -------------------------------------------------------

    @property
    def _policy(self) -> PollPolicy:
        max_wait = self.max_wait.total_seconds() if self.max_wait is not None else None
        return PollPolicy(self.poke_interval, self.exponential_backoff, max_wait)

    @property
    def _patience(self) -> float:
        """Seconds that the wait may take. Airflow bounds a deferral by ``execution_timeout`` in some versions only."""
        return min(self.timeout, self._execution_timeout) if self.deferrable else self.timeout

    @property
    def _execution_timeout(self) -> float:
        return self.execution_timeout.total_seconds() if self.execution_timeout else float("inf")

    @property
    def _is_rescheduled(self) -> bool:
        """Whether each poll is a process of its own, which knows nothing of the one before."""
        return bool(self.reschedule and not self.deferrable)

    def _started_at(self, context: Context) -> float:
        """Return when the wait began; in reschedule mode that was in another process, so Airflow is asked."""
        if not self._is_rescheduled:
            return time.time()
        first = _first_reschedule_date(context["ti"], context)
        return first.timestamp() if first else time.time()

    def _pause_on_worker(self, decision: AskAgain, deadline: float) -> bool:
        """
        Let the time until the next poll pass; comes back in poke mode, or at the deadline.

        :return: whether there is a next poll before the deadline. If not, the service does not want to be asked
            again before it, so that there was nothing left but to wait.
        """
        if decision.at > deadline:
            while time.time() < deadline:  # once, unless the clock is set back meanwhile
                _sleep_until(deadline)
            return False
        if self.reschedule:
            at = first_poll_at(decision, time.time(), deadline)
            raise AirflowRescheduleException(datetime.fromtimestamp(at, tz=UTC))
        _sleep_until(decision.at)
        return True

    def _announce(self, what: str, started_at: float) -> None:
        """Tell the log what is awaited from now on."""
        how = "in the triggerer and without a worker slot" if self.deferrable else "on this worker"
        text = announcement(
            what,
            f"at {urlsplit(self.hook.settings.base_url).hostname}",
            how,
            interval=self._policy.interval,
            started_at=started_at,
            deadline=started_at + self._patience,
        )
        self.log.info(text)

    def _ending_arguments(self) -> dict[str, Any]:
        """Return the arguments of a trigger that say how the task ends; by default on a worker."""
        return {}

    def _backstop(self, deadline: float) -> timedelta:
        """Return the timeout that Airflow itself puts on a deferral."""
        return timedelta(seconds=max(0.0, deadline - time.time()) + DEFER_TIMEOUT_MARGIN)

    def _raise_error(self, error: ManxueError) -> NoReturn:
        if isinstance(error, ManxueTimeoutError):
            self._raise_timeout(error)
        raise error

    def _raise_timeout(self, error: ManxueTimeoutError) -> NoReturn:
        if self.deferrable and self._execution_timeout < self.timeout:
            raise AirflowTaskTimeout(f"{error} (execution_timeout={self.execution_timeout})")
        raise error

    @contextlib.contextmanager
    def _endings(self) -> Iterator[None]:
        """Apply ``soft_fail`` and ``never_fail``, in one place for all modes and versions of Airflow."""
        try:
            yield
        except (AirflowSkipException, AirflowRescheduleException):
            raise
        except (ManxueVideoFailedError, AirflowSensorTimeout, AirflowTaskTimeout) as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise


class SingleVideoWait(ManxueWaitBase):
    """Base of the tasks that wait for one video."""

    def execute_complete(
        self, context: Context, event: Any, started_at: float | None = None
    ) -> dict[str, Any]:
        """
        Go on when the trigger has fired.

        The task is read again: events hold no URL, and this one is fresh. If the service does not answer just
        now, the task defers again. A video that is known to be there is not lost to a deadline that passes
        meanwhile: it is read within a time of grace.

        :param event: what the trigger said.
        :param started_at: when the wait began, in seconds since the epoch; None if it is the event that says so.
        """
        if (error := parse_event(event)) is not None:
            self._raise_error(error)
        started_at = started_at or start_of(event) or time.time()
        return self._wait(
            context,
            str(event["video_task_id"]),
            started_at,
            deadline=deadline_to_read(started_at + self._patience, time.time()),
            last_answer=str(event.get("last_answer", "")),
        )

    def _wait(
        self,
        context: Context,
        video_task_id: str,
        started_at: float,
        deadline: float | None = None,
        last_answer: str = "",
    ) -> dict[str, Any]:
        wait = Wait(
            video_task_id=video_task_id,
            policy=self._policy,
            started_at=started_at,
            deadline=started_at + self._patience if deadline is None else deadline,
            last_answer=last_answer,
            # A rescheduled task keeps no state, so its grace is counted from the start of the wait.
            grace_since=started_at if self._is_rescheduled else None,
        )
        if not self.deferrable and not self.reschedule:
            self._announce(f"the video {video_task_id}", started_at)
        while True:
            decision = wait.after(self._ask(wait.video_task_id), time.time())
            for news in decision.news:
                self.log.log(news.level, news.text)
            match decision:
                case Completed():
                    return self._hand_over(context, decision.task)
                case Ended():
                    self._raise_error(decision.error)
                case AskAgain():
                    self._pause(wait, decision)

    def _ask(self, video_task_id: str) -> VideoTask | ManxueError:
        try:
            return self.hook.get_video_task(video_task_id)
        except ManxueError as error:
            return error

    def _pause(self, wait: Wait, decision: AskAgain) -> None:
        """Let the time until the next poll pass, in the way of this mode; only poke mode returns."""
        if self.deferrable:
            self._defer_until(wait, decision)
        if not self._pause_on_worker(decision, wait.deadline):
            self._raise_timeout(wait.timed_out())

    def _defer_until(self, wait: Wait, decision: AskAgain) -> NoReturn:
        from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger

        now = time.time()
        self._announce(f"the video {wait.video_task_id}", wait.started_at)
        self.defer(
            trigger=ManxueVideoTrigger(
                video_task_id=wait.video_task_id,
                manxue_conn_id=self.manxue_conn_id,
                poke_interval=wait.policy.interval,
                started_at=wait.started_at,
                deadline=wait.deadline,
                first_poll_at=first_poll_at(decision, now, wait.deadline),
                exponential_backoff=wait.policy.exponential_backoff,
                max_wait=wait.policy.max_wait,
                grace_since=wait.grace_since,
                last_answer=wait.last_answer,
                **self._ending_arguments(),
            ),
            method_name="execute_complete",
            kwargs={"started_at": wait.started_at},
            timeout=self._backstop(wait.deadline),
        )

    def _hand_over(self, context: Context, task: VideoTask) -> dict[str, Any]:
        if self.do_xcom_push:
            for key, value in task.to_xcoms().items():
                context["ti"].xcom_push(key=key, value=value)
        self._seen = [task.to_dict()]
        return task.to_dict()


def _first_reschedule_date(ti: Any, context: Context) -> datetime | None:
    if hasattr(ti, "get_first_reschedule_date"):
        first: datetime | None = ti.get_first_reschedule_date(context)
        return first
    # Airflow 2 keeps the question in a function of its own base sensor.
    from airflow.sensors.base import _orig_start_date

    first_try = (ti.max_tries or 0) - (ti.task.retries or 0) + 1
    found: datetime | None = _orig_start_date(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, first_try)
    return found


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))
