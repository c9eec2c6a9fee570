"""
Simulated Airflow: tries on workers, deferrals, triggerers that fail and return, reschedules.

Each step on a worker runs a new copy of the operator, and each trigger is built from its serialized form. Processes
exchange only what Airflow stores.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import importlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_manxue._airflow.waiting import END_KEY
from airflow_provider_manxue._core import tab_record
from airflow_provider_manxue._core.order_kinds import ASSET_UPLOAD, VIDEO_ORDER
from tests.simulation.simulation import PROCESS, RUN, Process, as_stored
from tests.support.virtual_time import Worker

FAILED_DEFERRAL = "__fail__"
CLEAR = "a clear"
"""The reason for the end of a deferral that a person clears."""

DETECTION = 30.0
"""Seconds after which Airflow detects a dead process."""


@dataclass
class Purchase:
    """An accepted upload, in the form of an order: its id is the list of its assets."""

    id: list
    time: float
    billed: bool


@dataclass
class Returned:
    """The result of a successful try."""

    value: object


class Killed:
    """The result of a try whose worker was killed. Airflow detects the missing process and fails the try."""

    def __str__(self):
        return "the worker was killed"


class Cleared:
    """The result of a try that a person cleared while it was deferred."""

    def __str__(self):
        return "a person cleared the task"


@dataclass
class Attempt:
    """One try of a task, with the times that the oracle checks."""

    number: int
    begun_at: float = 0.0
    began: float = 0.0
    waits_since: float | None = None
    decided_at: float | None = None
    decider_since: float = 0.0
    decided_on_worker: bool = False
    ended_at: float = 0.0
    deciders: dict = field(default_factory=dict)  # by triggerer process: when it fired its last event
    has_lost_its_start: bool = False
    dropped_at: float = float("-inf")  # when Airflow last ended a deferral, and dropped what was known
    repeats_unknown_end: bool = (
        False  # of an earlier try, whose worker was interrupted before it could store that
    )
    has_seen_the_end: bool = False
    rescheduled: list = field(default_factory=list)
    workers: list = field(default_factory=list)
    was_executed: bool = False
    result: object = None


class Store:
    """A task state store: JSON that is kept across tries. Each call is a boundary and may fail."""

    def __init__(self, instance):
        self._instance = instance
        self.values = {}
        self.calls = 0

    def _call(self, name, act):
        process = self._instance.simulation.process_here()
        process.boundary(f"before store.{name}")
        self.calls += 1
        if self.calls in self._instance.plan.store_fails_at:
            raise RuntimeError("the API server does not respond")
        result = act()
        self._instance.simulation.record(process, f"store.{name} {self.values}")
        process.boundary(f"after store.{name}")
        return result

    def get(self, key, default=None):
        return self._call("get", lambda: json.loads(self.values[key]) if key in self.values else default)

    def set(self, key, value, *, retention=None):
        self._call("set", lambda: self.values.update({key: json.dumps(value, allow_nan=False)}))

    def delete(self, key):
        self._call("delete", lambda: self.values.pop(key, None))


class TaskInstance:
    """
    One task instance and all its tries.

    :param simulation: the simulation.
    :param plan: the task and its faults.
    :param template: the operator as parsed from the Dag file.
    :param triggerers: Airflow's triggerers.
    """

    dag_id, run_id, map_index = "dag", "run", -1

    def __init__(self, simulation, plan, template, triggerers):
        self.simulation, self.plan, self.task, self._triggerers = simulation, plan, template, triggerers
        self.task_id = plan.name
        self.try_number, self.max_tries = 0, plan.retries
        self.upstream = None
        self.xcom = {}
        self.all_xcoms = []
        self.stored = []  # arguments and events of its triggers, as stored in the database
        self.store = Store(self) if plan.has_store else None
        self.first_start = None
        self.attempts = []
        self.boundaries = 0
        self.pushes = 0
        self.last_step = None
        self.lost_workers = 0
        self.held = []  # seconds that each worker was occupied
        self.trigger_runs = 0
        self.reorders = 0  # further orders that a person requested
        self.settled = []  # ids of the orders before the last such request
        self.videos = {}
        self.was_cleared = False
        self.state = None
        simulation.instances[self.task_id] = self

    @property
    def orders(self):
        """The orders, or uploads, that the service accepted from this task instance."""
        service = self.simulation.network.service
        if self.plan.kind != "assets":
            return [order for order in service.orders if order.request["prompt"] == self.task_id]
        return [
            Purchase(list(upload.asset_ids), upload.time, upload.billed)
            for upload in service.review.uploads
            if upload.request["imageUrls"] == self.plan.files
        ]

    @property
    def order_key(self):
        """Key of the record."""
        return (ASSET_UPLOAD if self.plan.kind == "assets" else VIDEO_ORDER).key

    # --- the interface that operators use -------------------------------------------------------------------

    def xcom_push(self, key, value):
        if key == tab_record.KEY:  # without effect on the wait, so no point of a crash or a fault
            self.keep_xcom(key, value)
            return
        process = self.simulation.process_here()
        process.boundary("before xcom_push")
        self.pushes += 1
        if self.pushes in self.plan.xcom_fails_at:
            raise RuntimeError("the XCom backend does not respond")
        self.keep_xcom(key, value)
        if key in {"video_task_id", "manxue_upload"} and self.attempts[-1].waits_since is None:
            self.attempts[-1].waits_since = self.simulation.loop.time()
        process.boundary("after xcom_push")

    def xcom_pull(self, *, task_ids, key, map_indexes):
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        self.simulation.process_here().boundary("before xcom_pull")
        return as_stored(self.xcom.get(key))

    @property
    def start_date(self):
        """The start of the try. Some versions of Airflow give it to a worker that resumes."""
        if not self.plan.has_start_date:
            return None
        return datetime.fromtimestamp(self.attempts[-1].began, tz=UTC)

    def keep_xcom(self, key, value):
        self.xcom[key] = as_stored(value)
        self.all_xcoms.append((self.try_number, key, self.xcom[key]))

    def get_ti_count(self, *, dag_id, task_ids, run_ids):
        return len(self.upstream)

    def get_first_reschedule_date(self, context):
        return self.first_start

    # --- tries ----------------------------------------------------------------------------------------------

    async def live(self):
        """Run tries until one succeeds or no retry is left."""
        await asyncio.sleep(self.plan.starts_at)
        await self.run_tries()

    async def run_tries(self):
        while True:
            self.try_number += 1
            self.first_start = None
            attempt = Attempt(self.try_number)
            self.attempts.append(attempt)
            attempt.result = await self._run_try(attempt)
            attempt.ended_at = self.simulation.loop.time()
            self.state = state_after(attempt.result)
            self.simulation.record(self.task_id, f"try {self.try_number}: {self.state}: {attempt.result}")
            if self.state == "cleared":
                self.clear()
                continue
            if self.state != "up_for_retry":
                return
            if self.try_number > self.max_tries or not (
                self.task.retries or isinstance(attempt.result, Killed)
            ):
                self.state = "failed"
                return
            await asyncio.sleep(self.plan.retry_delay)

    def clear(self):
        """Clear the task as Airflow does. Without a task state store, or with an order that has ended, it then orders again."""
        self.max_tries = self.try_number + self.plan.retries
        self.last_step = None
        record = json.loads(self.store.values.get(self.order_key, "null")) if self.store else None
        if self.store is None or (isinstance(record, dict) and record["state"] in {"done", "failed"}):
            self.give_up_orders()

    def give_up_orders(self):
        """Record that a person requests another order."""
        known = [order.id for order in self.orders]
        self.reorders += known != self.settled
        self.settled = known

    async def _run_try(self, attempt):
        # Airflow 3.0 resumes a retry with the deferral of the previous try, and deletes no XCom then. It has no task
        # state store.
        step = self.last_step if self.plan.resumes_stale and self.store is None else None
        if step is None:
            self.xcom.clear()
        elif step[0] == FAILED_DEFERRAL:
            attempt.repeats_unknown_end = END_KEY not in self.xcom
        if self.task.start_from_trigger:
            step = await self._start_in_triggerer(attempt)
        while not isinstance(step, (Returned, Cleared)):
            result = await self._work(step, attempt)
            if isinstance(result, TaskDeferred):
                step = self.last_step = await self._deferred(result, attempt)
            elif isinstance(result, AirflowRescheduleException):
                step = await self._rescheduled(result, attempt)
            else:
                return result
        return step

    async def _start_in_triggerer(self, attempt):
        arguments = self.task.start_trigger_args
        self._begin(attempt)
        timeout = self.simulation.clock.time() + arguments.timeout.total_seconds()
        if self.plan.execution_timeout:
            timeout = min(timeout, self.simulation.clock.time() + self.plan.execution_timeout)
        return await self._in_triggerer(
            arguments.trigger_cls, arguments.trigger_kwargs, timeout, (arguments.next_method, {}), attempt
        )

    def _begin(self, attempt):
        if not attempt.began:
            attempt.begun_at, attempt.began = self.simulation.loop.time(), self.simulation.clock.time()

    async def _rescheduled(self, pause, attempt):
        moment = pause.reschedule_date.timestamp()
        self.first_start = self.first_start or datetime.fromtimestamp(attempt.began, tz=UTC)
        self.simulation.record(self.task_id, f"rescheduled to {moment - attempt.began:.3f} s after the start")
        attempt.rescheduled.append((self.simulation.loop.time(), moment))
        self.xcom.clear()  # Airflow does the same before each poke
        await asyncio.sleep(self.simulation.clock.until(moment))

    # --- on a worker ----------------------------------------------------------------------------------------

    async def _work(self, step, attempt):
        await asyncio.sleep(self.simulation.network.lag() * 10)  # queue and start of the process
        process = Process(self.simulation, f"{self.task_id}'s worker", self._meet, self.task_id)
        self._begin(attempt)
        attempt.workers.append(process)
        # Each process parses the Dag file again, which undoes what the task changed.
        self.task.retries = self.plan.retries
        worker = Worker(self.simulation.loop, lambda: self._executed(step, process))
        worker.process = process
        alarm = None
        if self.plan.execution_timeout:
            error = AirflowTaskTimeout("execution_timeout")
            alarm = self.simulation.loop.call_later(self.plan.execution_timeout, worker.interrupt, error)
        result = await worker.end
        process.ended_at = self.simulation.loop.time()
        self.held.append(process.ended_at - process.begun_at)
        if alarm is not None:
            alarm.cancel()
        if isinstance(result, Killed):
            self.lost_workers += 1
            self.last_step = None  # here the scheduler itself ends the try, and drops its deferral
            await asyncio.sleep(DETECTION)
        elif not isinstance(result, (TaskDeferred, AirflowRescheduleException)):
            attempt.decided_on_worker = attempt.decided_at is None
            self._decide(attempt, process, self.simulation.loop.time())
        return result

    def _decide(self, attempt, process, at):
        if attempt.decided_at is None:
            attempt.decided_at, attempt.decider_since = at, process.begun_at

    def _meet(self, process, what):
        """Kill or interrupt a worker at the boundaries that the plan lists."""
        number, self.boundaries = self.boundaries, self.boundaries + 1
        self.simulation.at_boundary(number, what)
        if number in self.plan.kills:
            self.simulation.record(process, f"killed at boundary {number}, {what}")
            process.alive = False
        elif number in self.plan.interrupts and not process.was_interrupted:
            process.was_interrupted = True  # Airflow's alarm rings once
            self.simulation.record(process, f"interrupted at boundary {number}, {what}")
            raise AirflowTaskTimeout("interrupted")

    def _executed(self, step, process):
        try:
            result = self._executed_by(copy.copy(self.task), step)
            self.attempts[-1].was_executed = True
            if isinstance(result.value, (dict, list, str)) and self.plan.do_xcom_push:
                process.boundary("before the result is pushed")
                self.keep_xcom("return_value", result.value)
            process.boundary("before the success is reported")
        except BaseException as error:  # noqa: BLE001 - any error ends the process
            result = error
            with contextlib.suppress(BaseException):
                process.boundary(error)  # the process may be killed before it reports the error
        if not process.alive:
            return Killed()
        return result

    def _executed_by(self, operator, step):
        context = {"ti": self}
        if self.store is not None:
            context["task_state_store"] = self.store
        if step is None:
            return Returned(operator.execute(context))
        return Returned(operator.resume_execution(*step, context))

    # --- in a triggerer -------------------------------------------------------------------------------------

    async def _deferred(self, deferral, attempt):
        path, kwargs = deferral.trigger.serialize()
        timeout = self.simulation.clock.time() + deferral.timeout.total_seconds()
        return await self._in_triggerer(
            path, kwargs, timeout, (deferral.method_name, as_stored(deferral.kwargs or {})), attempt
        )

    async def _in_triggerer(self, path, kwargs, timeout_after, resume, attempt):
        """Return the next step: a method with arguments, or the result of the try."""
        attempt.decided_at = None
        stored = json.dumps(kwargs, allow_nan=False)
        self.stored.append(stored)
        event = self.simulation.loop.create_future()
        runs = []
        until, ending = self._external_end(timeout_after)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until):
                while not event.done():
                    triggerer = await self._triggerers.next_running(event)
                    pickup_delay = self.simulation.network.lag() * 10
                    await asyncio.wait({event}, timeout=pickup_delay)
                    if event.done() or not triggerer.is_up:
                        continue
                    run = triggerer.start(self, path, json.loads(stored), timeout_after, event)
                    runs.append(run)
                    self.trigger_runs += 1
                    await asyncio.wait({event, run.lost}, return_when=asyncio.FIRST_COMPLETED)
                    if not event.done():
                        await asyncio.wait({event}, timeout=DETECTION)
        for run in runs:
            run.end()
        if not event.done() and ending is CLEAR:
            self.was_cleared = True
            return Cleared()
        if not event.done():
            attempt.has_lost_its_start = self.plan.has_start_date
            attempt.dropped_at = self.simulation.loop.time()
            return FAILED_DEFERRAL, {"error": ending}
        payload, run, fired_at = event.result()
        self.stored.append(json.dumps(payload))
        self.simulation.record(self.task_id, f"event {payload}")
        attempt.deciders[run.triggerer] = fired_at
        # A worker reads the videos that an event reports as ended.
        attempt.has_seen_the_end |= payload != "success" and bool({"completed", "failed"} & _states(payload))
        if payload == "success" or not _needs_worker(payload):
            self._decide(attempt, run.process, fired_at)
        if payload == "success":
            return Returned(self.xcom.get("return_value"))
        method, arguments = resume
        return method, {**arguments, "event": as_stored(payload)}

    def _external_end(self, timeout_after):
        """Return the seconds after which a deferral ends without an event, and the reason: Airflow's, or a clear."""
        # The scheduler checks for deferrals that timed out at intervals.
        endings = [(self.simulation.clock.until(timeout_after) + 15.0, "Trigger timeout")]
        if self.plan.airflow_ends_at is not None:
            endings.append((self.plan.airflow_ends_at, self.plan.airflow_reason))
        if self.plan.cleared_after is not None and not self.was_cleared:
            endings.append((self.plan.cleared_after, CLEAR))
        return min(endings, key=lambda ending: ending[0])


def _states(event):
    """Return all states in an event."""
    return {event["status"], *(status for status, _ in event.get("table", {}).values())}


def _needs_worker(event):
    """Return whether a worker, not the trigger, may still detect that the deadline passed."""
    return "timeout" not in _states(event) or event.get("final_poll") is False


def state_after(result):
    """Return the state that Airflow sets after a try."""
    if isinstance(result, Returned):
        return "success"
    if isinstance(result, Cleared):
        return "cleared"
    if isinstance(result, AirflowSkipException):
        return "skipped"
    if isinstance(result, (AirflowFailException, AirflowSensorTimeout)):
        return "failed"
    return "up_for_retry"


@dataclass
class Run:
    """A trigger that runs in a triggerer. ``lost`` is done when Airflow has lost that triggerer."""

    process: Process
    triggerer: Process
    lost: asyncio.Future
    task: asyncio.Task = field(default=None)
    events: object = None

    def end(self):
        self.task.cancel()
        self.lost.cancel()


class Triggerer:
    """
    A triggerer that is running, killed, or cut off. A triggerer that is cut off still runs its triggers.

    :param simulation: the simulation.
    :param name: name in the trace.
    :param absences: start, end, and whether the triggerer is cut off instead of killed.
    :param came_up: called when it runs again.
    """

    def __init__(self, simulation, name, absences, came_up):
        self._simulation, self._name, self._came_up = simulation, name, came_up
        self._timers = []
        self._runs = []
        self.is_up = False
        self._come_up()
        for begin, end, cut_off in absences:
            self._timers.append(simulation.loop.call_later(begin, self._leave, cut_off))
            self._timers.append(simulation.loop.call_later(end, self._come_up))

    def _come_up(self):
        self._end_runs()
        if self.is_up:  # the end of an absence that overlaps another one: a restart
            self.process.lost_at = self._simulation.loop.time()
        self.process = Process(self._simulation, self._name)
        self.is_up = True
        self._simulation.record(self._name, "up")
        self._came_up()

    def _leave(self, cut_off):
        self._simulation.record(self._name, "cut off" if cut_off else "killed")
        self.is_up = False
        self.process.lost_at = self._simulation.loop.time()
        self._lose_runs()
        if not cut_off:
            self._end_runs()

    def _lose_runs(self):
        for run in self._runs:
            if not run.lost.done():
                run.lost.set_result(None)

    def _end_runs(self):
        self._lose_runs()
        for run in self._runs:
            run.process.alive = False
            run.task.cancel()
        self._runs.clear()

    def kill(self, seconds):
        self._leave(cut_off=False)
        self._timers.append(self._simulation.loop.call_later(seconds, self._come_up))

    def close(self):
        for timer in self._timers:
            timer.cancel()

    def start(self, instance, path, kwargs, timeout_after, event):
        module, _, name = path.rpartition(".")
        trigger = getattr(importlib.import_module(module), name)(**kwargs)
        trigger.task_instance = instance
        trigger.timeout_after = datetime.fromtimestamp(timeout_after, tz=UTC)
        loop = self._simulation.loop
        # Separate only for its times. State shared by the triggers of a triggerer is bound to ``self.process``.
        process = Process(self._simulation, f"{self._name} for {instance.task_id}", task_id=instance.task_id)
        run = Run(process, self.process, loop.create_future())
        context = contextvars.copy_context()
        context.run(PROCESS.set, self.process)
        context.run(RUN.set, process)
        run.task = loop.create_task(self._fire(trigger, run, event), context=context)
        self._runs.append(run)
        return run

    async def _fire(self, trigger, run, event):
        try:
            run.events = trigger.run()
            events = [one.payload async for one in run.events]
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            self._simulation.findings.append(f"{run.process.name}: the trigger raised {error!r}")
            events = [{"status": "raised"}]
        finally:
            run.process.ended_at = self._simulation.loop.time()
        if run in self._runs:
            self._runs.remove(run)
        if len(events) != 1:
            self._simulation.findings.append(f"{run.process.name}: the trigger fired {len(events)} events")
        if run.process.alive and not event.done():
            event.set_result((events[0], run, self._simulation.loop.time()))


class Triggerers:
    """All triggerers of a deployment."""

    def __init__(self, simulation, absences):
        self._simulation = simulation
        self._waiting = []
        self._all = []
        self._all = [
            Triggerer(simulation, f"triggerer {number}", times, self._wake)
            for number, times in enumerate(absences, 1)
        ]

    def _wake(self):
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def next_running(self, event):
        """Wait for a running triggerer and return it. Return any triggerer once the event has fired."""
        while not (up := [triggerer for triggerer in self._all if triggerer.is_up or event.done()]):
            waiting = self._simulation.loop.create_future()
            self._waiting.append(waiting)
            await asyncio.wait({event, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return up[int(self._simulation.network.random.random() * len(up))]

    def kill(self, seconds):
        """Kill all triggerers for this many seconds."""
        for triggerer in self._all:
            triggerer.kill(seconds)

    def close(self):
        for triggerer in self._all:
            triggerer.close()
