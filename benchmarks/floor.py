"""The cheapest task that starts and ends in the triggerer. It shows Airflow's own cost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from airflow.providers.common.compat.sdk import BaseSensorOperator
from airflow.triggers.base import BaseTrigger, StartTriggerArgs, TaskSuccessEvent


class FileAppearedTrigger(BaseTrigger):
    """
    Ends its task when a file exists. Sends no request, pushes no XCom and logs nothing.

    :param path: path of the file.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def serialize(self):
        return f"{__name__}.FileAppearedTrigger", {"path": self.path}

    async def run(self):
        while not Path(self.path).exists():  # noqa: ASYNC110, ASYNC240 - the check takes microseconds
            await asyncio.sleep(1)
        yield TaskSuccessEvent()


class FileAppearedSensor(BaseSensorOperator):
    """
    Waits for a file in the triggerer.

    :param path: path of the file.
    """

    start_from_trigger = True
    end_from_trigger = True

    def __init__(self, *, path: str, **kwargs):
        super().__init__(**kwargs)
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=f"{__name__}.FileAppearedTrigger",
            trigger_kwargs={"path": path},
            next_method="execute",
        )
