"""
Support for ``start_from_trigger`` and ``end_from_trigger``.

Falls back to a worker, with a log message, when the triggerer cannot start or finish the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import StrictUndefined
from jinja2.nativetypes import NativeEnvironment
from jinja2.sandbox import SandboxedEnvironment

from airflow.triggers.base import BaseTrigger

from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END, feeds_mapped_tasks
from airflow_provider_manxue._airflow.xcoms import RETURN_KEY, XComs, renders_natively
from airflow_provider_manxue._client.background import cancel_and_wait
from airflow_provider_manxue._core import tab_record
from airflow_provider_manxue._core.status_log import announcement
from airflow_provider_manxue._core.subjects import VIDEO, Subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from datetime import datetime

    from jinja2 import Environment

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_manxue._core.deadline import PollTimes
    from airflow_provider_manxue._core.wait_arguments import WaitArguments


RECORD_INTERVAL = 60.0
"""Seconds between two records of a wait for the Video tab."""


class CannotStartInTriggererError(Exception):
    """Error with the reason why a task cannot start in the triggerer."""


class StartFromTrigger(BaseTrigger):
    """
    Base of a trigger that can start and end a task.

    :param manxue_conn_id: id of the Airflow connection, a template, or a reference to an XCom.
    :param arguments: the other arguments that both triggers have in common.
    """

    subject: ClassVar[Subject] = VIDEO
    """What is awaited."""

    timeout_after: datetime | None = None
    """Time at which Airflow ends the trigger. The triggerer sets it."""

    def __init__(self, manxue_conn_id: Any, arguments: WaitArguments) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.manxue_conn_id = manxue_conn_id
        self.arguments = arguments
        self._template_error: Exception | None = None

    # --- start of a task --------------------------------------------------------------------------------

    @property
    def _given_times(self) -> PollTimes | None:
        """The times that a worker has passed; None if the task starts in the triggerer."""
        return self.arguments.given_times(time.time())

    @property
    def _ends_at(self) -> float | None:
        """Time at which Airflow ends the trigger, in seconds since the epoch; None if it never does."""
        return self.timeout_after.timestamp() if self.timeout_after else None

    def render_template_fields(self, context: Context, jinja_env: Environment | None = None) -> None:
        """Render the templates of a task that starts in the triggerer. After an error a worker starts the task."""
        if self._given_times:
            return  # a worker has rendered them, and a rendered id may contain braces
        try:
            super().render_template_fields(context, jinja_env or self._template_env())
        except Exception as error:  # noqa: BLE001 - a template can raise any exception
            self._template_error = error

    def _template_env(self) -> Environment:
        """
        Return Airflow's sandbox, with an error for each undefined name.

        The triggerer lacks the macros and variables of the Dag. A name that is undefined there may be defined on a worker,
        and an empty text would be a wrong id.
        """

        class NativeSandbox(SandboxedEnvironment, NativeEnvironment):
            pass

        environment = self.get_template_env()
        if self.render_template_as_native_obj:
            native = NativeSandbox(cache_size=0)
            native.filters = environment.filters
            environment = native
        environment.undefined = StrictUndefined
        return environment

    @property
    def render_template_as_native_obj(self) -> bool:
        """Whether a rendered template keeps its type, such as list or number. Airflow's renderer reads it."""
        return renders_natively(self.task)

    def _log_start(self, what: str, times: PollTimes) -> None:
        """Log the start of the wait, unless a worker has logged it."""
        if not self._given_times:
            text = announcement(
                what,
                f"over the connection {self.manxue_conn_id!r}",
                "in the triggerer and without any worker",
                interval=self.arguments.poke_interval,
                started_at=times.started_at,
                deadline=times.deadline,
            )
            self.log.info(text)

    async def _begin(self, value: Any) -> tuple[Any, PollTimes]:
        """
        Return the id or ids to wait for, and the times of the wait.

        :param value: the argument with the id or ids.
        :raises CannotStartInTriggererError: if the triggerer cannot resolve it.
        """
        if self._given_times:
            return value, self._given_times
        if self._template_error is not None:
            raise CannotStartInTriggererError(f"a template could not be rendered ({self._template_error})")
        ti: Any = self.task_instance
        try:
            xcoms = XComs(ti)
            value = await xcoms.resolve(value)
            self.manxue_conn_id = await xcoms.resolve(self.manxue_conn_id)
            if ti.try_number > 1:
                await xcoms.delete(RETURN_KEY, "video_url", "actualDuration")
        except Exception as error:
            raise CannotStartInTriggererError(
                f"an XCom could not be read ({type(error).__name__}: {error})"
            ) from error
        return value, self.arguments.times_from_end(time.time(), self._ends_at)

    # --- the Video tab ----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _recorded(
        self,
        ids: Sequence[str],
        times: PollTimes,
        counts: Callable[[], dict[str, int]] | None,
        total: int = 1,
    ) -> AsyncIterator[None]:
        """
        Push the record for the Video tab in the background: at the start, unless a worker has, and of a batch each change.

        :param ids: ids of the awaited videos.
        :param times: the times of the wait.
        :param counts: returns the number of videos by status, for a batch.
        :param total: number of all videos of the task.
        """
        is_due = CAN_START_AND_END and self.task_instance is not None and self.arguments.do_xcom_push
        if not is_due or (counts is None and self._given_times):
            yield
            return
        pushes = asyncio.create_task(self._push_records(ids, times, counts, total))
        try:
            yield
        finally:
            await cancel_and_wait([pushes])

    async def _push_records(
        self, ids: Sequence[str], times: PollTimes, counts: Callable[[], dict[str, int]] | None, total: int
    ) -> None:
        pushed = counts() if counts and self._given_times else None
        while True:
            statuses = counts() if counts else {}
            if statuses != pushed:
                record = tab_record.waiting(
                    ids,
                    statuses,
                    total=total,
                    deadline=times.deadline,
                    now=time.time(),
                    noun=self.subject.noun,
                )
                try:
                    await XComs(self.task_instance).push({tab_record.KEY: record})
                except Exception:  # noqa: BLE001 - Airflow has repeated it, which blocks the supervisor of all triggers
                    return
                pushed = statuses
            if counts is None:
                return
            await asyncio.sleep(RECORD_INTERVAL)

    # --- end of a task ----------------------------------------------------------------------------------

    async def _push_final_results(
        self, values: Mapping[str, Any], link: tuple[str, str] | None = None
    ) -> bool:
        """
        Push the results of a successful task, if the task can end in the triggerer.

        :param values: the XComs of the task, with its return value.
        :param link: key and address of a link on the task's page.
        :return: whether the results are pushed, and the task can end. If not, a worker resumes.
        """
        if self.task_instance is None:  # `airflow dags test` sets none
            return False
        if self.task is not None and feeds_mapped_tasks(self.task):
            return False
        try:
            if self.arguments.do_xcom_push:
                xcoms = XComs(self.task_instance)
                await xcoms.push(values)
                if link is not None:
                    await xcoms.push_link(*link)
        except Exception as error:  # noqa: BLE001 - an XCom backend of another package can fail in any way
            self.log.warning(
                "The triggerer could not store the result (%s). A worker stores it.", type(error).__name__
            )
            return False
        return True
