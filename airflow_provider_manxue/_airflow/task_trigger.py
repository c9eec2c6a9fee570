"""
Support for ``start_from_trigger`` and ``end_from_trigger``.

Falls back to a worker, with a log message, when the triggerer cannot start or finish the task.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_manxue._airflow.start_from_trigger import feeds_mapped_tasks
from airflow_provider_manxue._airflow.xcoms import RETURN_KEY, XComs, renders_natively
from airflow_provider_manxue._core.status_log import announcement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import jinja2

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_manxue._core.deadline import PollTimes
    from airflow_provider_manxue._core.wait_arguments import WaitArguments


class CannotStartInTriggererError(Exception):
    """Error with the reason why a task cannot begin in the triggerer."""


class StartFromTrigger(BaseTrigger):
    """
    Base of a trigger with which a task may begin and end.

    :param manxue_conn_id: id of the Airflow connection, a template, or a reference to an XCom.
    :param arguments: the other arguments that both triggers have in common.
    """

    timeout_after: datetime | None = None
    """Moment at which Airflow ends the trigger; set by the triggerer."""

    def __init__(self, manxue_conn_id: Any, arguments: WaitArguments) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.manxue_conn_id = manxue_conn_id
        self.arguments = arguments
        self._template_error: Exception | None = None

    # --- a task that begins here ------------------------------------------------------------------------

    @property
    def _given_times(self) -> PollTimes | None:
        """The times that a worker has passed; None if the wait begins here."""
        return self.arguments.given_times(time.time())

    @property
    def _ends_at(self) -> float | None:
        """Moment at which Airflow ends the trigger, in seconds since the epoch."""
        return self.timeout_after.timestamp() if self.timeout_after else None

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the templates of a wait that begins here; if that fails, a worker raises the error."""
        if self._given_times:
            return  # a worker has rendered them, and an id may contain braces
        try:
            super().render_template_fields(context, jinja_env or self._template_env())
        except Exception as error:  # noqa: BLE001 - templates raise anything
            self._template_error = error

    def _template_env(self) -> jinja2.Environment:
        """
        Return Airflow's sandbox, with errors for undefined names: the triggerer has no macros and variables of the Dag.

        A name that is undefined here may be defined on a worker, and an empty text would be a wrong id.
        """
        from jinja2 import StrictUndefined
        from jinja2.nativetypes import NativeEnvironment
        from jinja2.sandbox import SandboxedEnvironment

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
        """Whether templates yield lists and numbers as such; Airflow's renderer reads it."""
        return renders_natively(self.task)

    def _log_start(self, what: str, times: PollTimes) -> None:
        """Log the start of the wait, unless a worker has done so."""
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

        :param value: the id or ids, as the arguments have them.
        :raises CannotStartInTriggererError: if the triggerer cannot resolve them.
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
                await xcoms.forget(RETURN_KEY, "video_url", "actualDuration")
        except Exception as error:
            raise CannotStartInTriggererError(
                f"an XCom could not be read ({type(error).__name__}: {error})"
            ) from error
        return value, self.arguments.times_from_end(time.time(), self._ends_at)

    # --- a task that ends here --------------------------------------------------------------------------

    async def _ended_here(self, values: Mapping[str, Any], link: tuple[str, str] | None = None) -> bool:
        """
        Finish a successful task as a worker would do, if that is possible.

        :param values: the XComs of the task, its return value among them.
        :param link: key and address of a link on the task's page.
        :return: whether the task may end here. If not, a worker resumes.
        """
        if self.task_instance is None:  # as under `airflow dags test`
            return False
        if self.task is not None and feeds_mapped_tasks(self.task):
            return False
        try:
            if self.arguments.do_xcom_push:
                xcoms = XComs(self.task_instance)
                await xcoms.push(values)
                if link is not None:
                    await xcoms.push_link(*link)
        except Exception as error:  # noqa: BLE001 - a worker can still store the result
            self.log.warning(
                "The triggerer could not store the result (%s). A worker stores it.", type(error).__name__
            )
            return False
        return True

    @staticmethod
    def _success() -> TriggerEvent:
        """Return the event that ends the task. It holds no XComs, since Airflow would encode them twice."""
        from airflow.triggers.base import TaskSuccessEvent

        return TaskSuccessEvent()
