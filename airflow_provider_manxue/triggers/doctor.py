"""The trigger that runs the doctor in a triggerer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_manxue._client.connection_loader import load_connection
from airflow_provider_manxue._core.polling import MIN_FIRST_POLL_DELAY
from airflow_provider_manxue.exceptions import ManxueError, ManxueTransientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_manxue.models import ManxueSettings

_CONNECTION_TIMEOUT = 120.0
"""Seconds to load the connection from Airflow. In a new triggerer the first one takes long, since Airflow then sets up its API."""


class ManxueDoctorTrigger(BaseTrigger):
    """
    Trigger that runs the checks of the doctor in a triggerer, and fires once with the report.

    :param manxue_conn_id: id of the Airflow connection.
    """

    def __init__(self, *, manxue_conn_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.manxue_conn_id = manxue_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, which are stored in the metadata database."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"manxue_conn_id": self.manxue_conn_id}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the checks in a thread, off the event loop."""
        # An event within seconds of the deferral can lose a race in Airflow's scheduler, see docs/troubleshooting.md.
        await asyncio.sleep(MIN_FIRST_POLL_DELAY)
        report = await asyncio.to_thread(_examine, self.manxue_conn_id, await self._load_connection())
        yield TriggerEvent({"version": 1, "report": report})

    async def _load_connection(self) -> ManxueSettings | ManxueError:
        # Here, since a thread of the triggerer cannot load it.
        try:
            return await asyncio.wait_for(load_connection(self.manxue_conn_id), _CONNECTION_TIMEOUT)
        except TimeoutError:
            return ManxueTransientError(
                f"Airflow did not return the connection {self.manxue_conn_id!r} within {_CONNECTION_TIMEOUT:g} s"
            )
        except ManxueError as error:
            return error


def _examine(conn_id: str, connection: ManxueSettings | ManxueError) -> dict[str, Any]:
    from airflow_provider_manxue._airflow.doctor import TRIGGERER, Examination, examine

    return examine(Examination(TRIGGERER, conn_id, connection)).to_dict()
