"""A world in which time is driven by hand: a clock, a scripted service, and the three ways to run a sensor."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_manxue.protocol import VideoTask, read_task

START = 1_800_000_000.0


class ManualClock:
    """Stands in for the ``time`` module: sleeping moves it on."""

    def __init__(self):
        self.now = START

    def time(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class ScriptedService:
    """Answers one query after the other from a list; the last one stays. Notes when it was asked."""

    def __init__(self, clock):
        self.clock = clock
        self.script = []
        self.asked_at = []
        self.asked_from = []

    def answers(self, *script):
        """Each is a status word, a mapping (a body), an exception, or a function of the time waited."""
        self.script = list(script)

    def ask(self, video_task_id, side):
        self.asked_at.append(self.clock.now - START)
        self.asked_from.append(side)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if callable(answer):
            answer = answer(self.clock.now - START)
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, VideoTask):
            return answer
        body = answer if isinstance(answer, dict) else {"status": answer}
        return read_task(200, json.dumps({"id": video_task_id, **body}).encode(), video_task_id=video_task_id)


class FakeTaskInstance:
    """What the sensor needs of a task instance, on every version of Airflow."""

    dag_id, task_id, run_id, map_index, try_number, max_tries = "dag", "wait", "run", -1, 1, 0

    def __init__(self):
        self.xcom = {}
        self.first_start = None

    def xcom_push(self, key, value):
        self.xcom[key] = value

    def get_first_reschedule_date(self, context):
        return self.first_start


class World:
    """Runs sensors to their end in every mode, as Airflow does, and keeps what is seen of it."""

    def __init__(self, clock, service):
        self.clock, self.service = clock, service
        self.ti = FakeTaskInstance()
        self.deferrals = []
        self.events = []

    @property
    def context(self):
        return {"ti": self.ti}

    def run(self, sensor):
        if not sensor.deferrable and sensor.reschedule:
            return self._run_rescheduled(sensor)
        try:
            result = sensor.execute(self.context)
        except TaskDeferred as deferral:
            result = self._run_deferred(sensor, deferral)
        self.ti.xcom["return_value"] = result
        return result

    def _run_rescheduled(self, sensor):
        started = datetime.fromtimestamp(self.clock.now, tz=UTC)
        for _ in range(10_000):
            try:
                result = sensor.execute(self.context)
            except AirflowRescheduleException as pause:
                self.ti.first_start = started
                self.clock.now = max(self.clock.now, pause.reschedule_date.timestamp())
            else:
                self.ti.xcom["return_value"] = result
                return result
        raise AssertionError("the sensor was rescheduled without end")

    def _run_deferred(self, sensor, deferral):
        for _ in range(10_000):
            self.deferrals.append(deferral)
            event = asyncio.run(first_event(restored(deferral.trigger)))
            self.events.append(event)
            try:
                kwargs = json.loads(json.dumps(deferral.kwargs | {"event": event}))
                return sensor.resume_execution(deferral.method_name, kwargs, self.context)
            except TaskDeferred as again:
                deferral = again
        raise AssertionError("the sensor deferred without end")


def restored(trigger):
    """Send a trigger through JSON, as the metadata database does."""
    path, kwargs = trigger.serialize()
    assert path == f"{type(trigger).__module__}.{type(trigger).__qualname__}"
    return type(trigger)(**json.loads(json.dumps(kwargs)))


async def first_event(trigger):
    events = [event.payload async for event in trigger.run()]
    assert len(events) == 1
    return json.loads(json.dumps(events[0]))
