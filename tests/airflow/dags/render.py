"""Task that renders templates in the triggerer and then on a worker."""

from __future__ import annotations

import json

from airflow.providers.common.compat.sdk import BaseOperator
from airflow.triggers.base import StartTriggerArgs, TriggerEvent

from airflow_provider_manxue._airflow.task_trigger import StartFromTrigger
from airflow_provider_manxue._core.wait_arguments import WaitArguments


class RenderTrigger(StartFromTrigger):
    """Trigger that fires immediately with the values rendered in the triggerer."""

    def __init__(self, *, templates):
        super().__init__("", WaitArguments(poke_interval=1))
        self.templates = templates

    def serialize(self):
        return "render.RenderTrigger", {"templates": self.templates}

    async def run(self):
        yield TriggerEvent({"values": as_text(self.templates), "error": str(self._template_error)})


class RenderOnBothSides(BaseOperator):
    """
    Task that returns the values rendered on a worker and in the triggerer.

    :param templates: (templated) strings by name.
    """

    template_fields = ("templates",)

    def __init__(self, *, templates, **kwargs):
        super().__init__(**kwargs)
        self.templates = templates
        self.start_from_trigger = True
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls="render.RenderTrigger",
            trigger_kwargs={"templates": templates},
            next_method="execute_complete",
        )

    def execute(self, context):
        raise AssertionError("the task has not started in the triggerer")

    def execute_complete(self, context, event):
        return {"worker": as_text(self.templates), "triggerer": event["values"], "error": event["error"]}


def as_text(values):
    """Return each value as JSON with its type. Does not compare types of time zones, which differ for equal dates."""
    return {
        name: f"{type(value).__name__} {json.dumps(value, default=str)}" for name, value in values.items()
    }
