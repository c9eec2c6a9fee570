"""Triggers of triggerers with another version of the package than the worker, or without it."""

from __future__ import annotations

from airflow.triggers.base import BaseTrigger, TriggerEvent


class MovedTrigger(BaseTrigger):
    """Trigger that the triggerer imports from another place."""

    def __init__(self, path: str, arguments: dict):
        super().__init__()
        self.path = path
        self.arguments = arguments

    def serialize(self):
        return self.path, self.arguments

    async def run(self):
        yield TriggerEvent(None)


class NewerTrigger(BaseTrigger):
    """Trigger whose event is of a newer version."""

    def __init__(self, **arguments):
        super().__init__()

    def serialize(self):
        return "on_call_triggers.NewerTrigger", {}

    async def run(self):
        yield TriggerEvent({"version": 99, "status": "completed"})
