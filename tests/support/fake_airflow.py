"""A fake Airflow with a manual clock and a scripted service, which runs sensors in each of their modes."""

from __future__ import annotations

import asyncio
import importlib
import json
from datetime import UTC, datetime

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_manxue._client.airflow_metrics import LoopMetrics, triggerer_stats
from airflow_provider_manxue._client.credentials import CredentialProbes
from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
from airflow_provider_manxue._core import tab_record
from airflow_provider_manxue._core.assets import ASSET
from airflow_provider_manxue._core.subjects import VIDEO
from airflow_provider_manxue.exceptions import ManxueAuthenticationError
from airflow_provider_manxue.models import Asset, VideoTask
from tests.support.virtual_time import VirtualLoop

START = 1_800_000_000.0


class ManualClock:
    """Stands in for the ``time`` module. Only ``sleep()`` and the event loops of the test advance it."""

    def __init__(self):
        self.elapsed = 0.0

    @property
    def now(self):
        return START + self.elapsed

    @now.setter
    def now(self, moment):
        self.elapsed = moment - START

    def monotonic(self):
        return self.time()

    def time(self):
        return self.now

    def sleep(self, seconds):
        self.elapsed += seconds


class ClockLoop(VirtualLoop):
    """An event loop that jumps to its next timer and advances the manual clock with it."""

    def __init__(self, clock):
        self._clock = clock
        super().__init__()

    def time(self):
        return self._clock.elapsed

    @property
    def _now(self):
        return self._clock.elapsed

    @_now.setter
    def _now(self, elapsed):
        self._clock.elapsed = max(self._clock.elapsed, elapsed)


class FakeClient:
    """Stands in for the async client. Polls the scripted service under limits that are never reached."""

    def __init__(self, fake_airflow, side, metrics=None):
        self._airflow, self._side = fake_airflow, side
        self._limiter = AdaptiveRateLimiter(100_000.0, 10_000)
        self._credentials = CredentialProbes(self._limiter)
        self._has_worked = False
        self.metrics = metrics or LoopMetrics(triggerer_stats, has_gauges=True)

    def prepare(self, conn_id):
        pass

    async def limiter(self, conn_id):
        return self._limiter

    def has_worked(self, conn_id):
        return self._has_worked

    async def query(self, conn_id, video_task_id, subject):
        self._credentials.check()
        try:
            task = self._airflow.service.poll(video_task_id, self._side, subject)
        except ManxueAuthenticationError as error:
            raise self._credentials.refused(error) from None
        self._has_worked = True
        self._credentials.accepted()
        return task

    async def close(self):
        pass


class ScriptedService:
    """Returns the responses of a list, the last one repeatedly. Records the time and origin of each poll."""

    def __init__(self, clock):
        self.clock = clock
        self.script = []
        self.polled_at = []
        self.polled_from = []

    def respond_with(self, *script):
        """
        Set the responses.

        Each is a status, a mapping (a body), a task, an exception, or a function of the elapsed seconds.
        """
        self.script = list(script)

    def poll(self, video_task_id, side, subject=VIDEO):
        self.polled_at.append(self.clock.now - START)
        self.polled_from.append(side)
        response = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if callable(response):
            response = response(self.clock.now - START)
        if isinstance(response, BaseException):
            raise response
        if isinstance(response, (VideoTask, Asset)):
            return response
        body = response if isinstance(response, dict) else {"status": response}
        body = {"id": video_task_id, **body}
        if subject is ASSET:
            word = "Active" if body["status"] == "completed" else body["status"]
            body = {"code": "0", "data": {"items": [{"assetId": video_task_id, "status": word}]}}
        return subject.parse(
            200, json.dumps(body).encode(), video_task_id, retry_after=(), now=0.0, secret=""
        )


class FakeTaskInstance:
    """The part of a task instance that the tasks use, on every version of Airflow."""

    dag_id, task_id, run_id, map_index, try_number, max_tries = "dag", "wait", "run", -1, 1, 0

    def __init__(self, upstream=()):
        self.xcom = {}
        self.tab_records = []  # the XCom for the Video tab, which is no result
        self.first_start = None
        self.upstream = upstream

    def xcom_push(self, key, value):
        if key == tab_record.KEY:
            self.tab_records.append(json.loads(json.dumps(value)))
        else:
            self.xcom[key] = value

    def xcom_pull(self, *, task_ids, key, map_indexes):
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return json.loads(json.dumps(self.xcom.get(key)))

    def get_ti_count(self, *, dag_id, task_ids, run_ids):
        assert (dag_id, run_ids) == ("dag", ["run"])
        return len({index for task_id, index, _ in self.upstream if [task_id] == task_ids})

    def get_first_reschedule_date(self, context):
        return self.first_start


class FakeStateStore:
    """
    The task state store of Airflow 3.3 and later: JSON that survives the process of the task.

    :ivar broken: number of writes that fail from now on.
    """

    def __init__(self):
        self.values = {}
        self.broken = 0

    def _check(self):
        if self.broken:
            self.broken -= 1
            raise RuntimeError("the store is away")

    def get(self, key, default=None):
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key, value, *, retention=None):
        self._check()
        self.values[key] = json.dumps(value, allow_nan=False)

    def delete(self, key):
        self._check()
        self.values.pop(key, None)


class FakeAirflow:
    """Runs sensors to their end in each mode, as Airflow does, and records deferrals, events and reschedules."""

    def __init__(self, clock, service):
        self.clock, self.service = clock, service
        self.upstream = {}  # XComs of other tasks, by task id, map index and key
        self.ti = FakeTaskInstance(self.upstream)
        self.store = FakeStateStore()  # None for an Airflow below 3.3
        self.deferrals = []
        self.events = []
        self.fired_at = []
        self.reschedules = []
        self.run_loop = self._run_loop
        self.worker_starts = 0
        self.rendered = {}  # values that a worker renders for a task that started in the triggerer

    def _run_loop(self, coroutine):
        with asyncio.Runner(loop_factory=lambda: ClockLoop(self.clock)) as runner:
            return runner.run(coroutine)

    @property
    def context(self):
        return {"ti": self.ti} if self.store is None else {"ti": self.ti, "task_state_store": self.store}

    def run(self, sensor):
        if not sensor.deferrable and sensor.reschedule:
            return self._run_rescheduled(sensor)
        if sensor.start_from_trigger:
            return self._run_from_trigger(sensor)
        try:
            self.worker_starts += 1
            result = sensor.execute(self.context)
        except TaskDeferred as deferral:
            return self.run_deferred(sensor, deferral)
        return self._returned(result)

    def _returned(self, result):
        self.ti.xcom["return_value"] = result
        return result

    def _run_rescheduled(self, sensor):
        started = datetime.fromtimestamp(self.clock.now, tz=UTC)
        for _ in range(10_000):
            try:
                result = sensor.execute(self.context)
            except AirflowRescheduleException as pause:
                self.ti.first_start = started
                self.reschedules.append(pause.reschedule_date.timestamp())
                self.clock.now = max(self.clock.now, pause.reschedule_date.timestamp())
            else:
                self.ti.xcom["return_value"] = result
                return result
        raise AssertionError("the sensor was rescheduled without end")

    def run_deferred(self, sensor, deferral):
        """Run triggers and resume workers until the task has ended."""
        for _ in range(10_000):
            self.deferrals.append(deferral)
            trigger = restored(deferral.trigger)
            trigger.task_instance = self.ti
            if (result := self._fire(sensor, trigger, deferral.method_name, deferral.kwargs)) is not PENDING:
                return result
            deferral = self.deferral
        raise AssertionError("the sensor deferred without end")

    def _run_from_trigger(self, sensor):
        from airflow.serialization.serialized_objects import DagSerialization

        stored = DagSerialization.to_dict(sensor.dag)
        return self.run_stored(sensor, DagSerialization.from_dict(stored).get_task(sensor.task_id))

    def run_stored(self, sensor, task):
        """
        Run a task that starts in the triggerer (Airflow 3.3 and later).

        :param sensor: the task as the worker that resumes has it.
        :param task: the task as the scheduler and the triggerer have it, from the stored Dag.
        """
        from airflow.models.trigger import Trigger
        from airflow.serialization.decoders import smart_decode_trigger_kwargs

        arguments = task.start_trigger_args
        stored = Trigger.encrypt_kwargs(arguments.trigger_kwargs)
        kwargs = {
            name: smart_decode_trigger_kwargs(value)
            for name, value in Trigger._decrypt_kwargs(stored).items()
        }
        trigger = trigger_of(arguments.trigger_cls, kwargs)
        self.ti.task = task
        trigger.task_instance = self.ti
        bounds = [arguments.timeout, *filter(None, [sensor.execution_timeout])]
        trigger.timeout_after = datetime.fromtimestamp(self.clock.now, tz=UTC) + min(bounds)
        trigger.render_template_fields(self.context | {"params": sensor.params})
        result = self._fire(sensor, trigger, arguments.next_method, {})
        return self.run_deferred(sensor, self.deferral) if result is PENDING else result

    def _fire(self, sensor, trigger, method_name, kwargs):
        """Run a trigger, and resume the task if the event requires it. Return PENDING if the task defers again."""
        event = self.run_loop(only_event(trigger))
        self.fired_at.append(self.clock.now)
        if not isinstance(event.payload, dict):
            assert event.payload == "success"
            return self.ti.xcom.get("return_value")
        self.events.append(json.loads(json.dumps(event.payload)))
        self.worker_starts += 1
        for name, value in self.rendered.items():
            setattr(sensor, name, value)
        try:
            kwargs = json.loads(json.dumps({**kwargs, "event": event.payload}))
            return self._returned(sensor.resume_execution(method_name, kwargs, self.context))
        except TaskDeferred as again:
            self.deferral = again
            return PENDING


PENDING = object()


def to_xcoms(fake_airflow):
    """Return a stand-in for Airflow's XCom class, as triggers use it."""

    class XCom:
        @staticmethod
        def get_one(*, key, dag_id, run_id, task_id, map_index):
            return fake_airflow.upstream.get((task_id, map_index, key))

        @staticmethod
        def set(*, key, value, dag_id, run_id, task_id, map_index):
            assert (dag_id, run_id, task_id, map_index) == ("dag", "run", "wait", -1)
            fake_airflow.ti.xcom_push(key, json.loads(json.dumps(value)))

        @staticmethod
        def delete(*, key, dag_id, run_id, task_id, map_index):
            assert (dag_id, run_id, task_id, map_index) == ("dag", "run", "wait", -1)
            fake_airflow.ti.xcom.pop(key, None)

    return XCom


def link_into(fake_airflow):
    """Return a stand-in for ``XComs.push_link()``."""

    async def push_link(self, key, address):
        fake_airflow.ti.xcom[key] = address

    return push_link


def trigger_of(path, kwargs):
    """Create a trigger from its stored form."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(**kwargs)


def restored(trigger):
    """Return a trigger after a round trip through JSON, as through the metadata database."""
    path, kwargs = trigger.serialize()
    assert path == f"{type(trigger).__module__}.{type(trigger).__qualname__}"
    return trigger_of(path, json.loads(json.dumps(kwargs)))


async def only_event(trigger):
    events = [event async for event in trigger.run()]
    assert len(events) == 1
    return events[0]


async def first_event(trigger):
    return json.loads(json.dumps((await only_event(trigger)).payload))
