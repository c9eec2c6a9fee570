"""A task instance that orders, through all of its tries, with a state store, a clock and an emulator."""

from __future__ import annotations

import json
from unittest.mock import Mock

import pytest

from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_manxue._airflow import batch_wait as batch_module
from airflow_provider_manxue._airflow import order_store as store_module
from airflow_provider_manxue._airflow import ordered_wait
from airflow_provider_manxue._airflow import single_wait as single_module
from airflow_provider_manxue._airflow import waiting as waiting_module
from airflow_provider_manxue._client import drivers as drivers_module
from airflow_provider_manxue._core import tab_record
from airflow_provider_manxue._core.events import completed_event
from airflow_provider_manxue._core.order_record import KEY
from airflow_provider_manxue.hooks import manxue as hook_module
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.testing import Clock, Emulator, Script
from airflow_provider_manxue.triggers.manxue import ManxueOrderRoomTrigger
from tests.support.fake_airflow import FakeStateStore

ORDER = {"prompt": "a cat", "model": "sd2_manxue_720p"}


SENDING = ("send_order", "send_upload", "get_video_task")
"""Methods of the hook that send a request."""


class ProcessKilled(BaseException):
    """Stands in for a kill of the worker process. No code of the package handles it."""


class Boundaries:
    """Counts the external calls of a task, and kills the task before or after one of them."""

    def __init__(self, clock):
        self.clock = clock
        self.kill_at = None
        self.passed = []

    def pass_(self, name):
        if len(self.passed) == self.kill_at:
            self.kill_at = None
            raise ProcessKilled(name)
        self.passed.append(name)

    def around(self, name, action):
        def wrapped(*args, **kwargs):
            self.pass_(f"before {name}")
            result = action(*args, **kwargs)
            self.pass_(f"after {name}")
            return result

        return wrapped


class TaskInstance:
    """A task instance through all of its tries, as Airflow runs them."""

    dag_id, run_id, task_id, map_index, start_date = "dag", "run", "order", -1, None

    def __init__(self, boundaries, *, store=True, retries=2):
        self.boundaries = boundaries
        self.clock = boundaries.clock
        self.deferrals = []
        self.store = FakeStateStore() if store else None
        self.retries = retries
        self.try_number, self.max_tries = 0, retries
        self.xcom = {}
        self.run_xcoms = [self.xcom]  # those of all task instances of the Dag run
        self.tab_records = []  # the XCom for the Video tab, which is no result

    def xcom_push(self, key, value):
        if key == tab_record.KEY:
            self.tab_records.append(value)
        else:
            self.xcom[key] = value

    def xcom_pull(self, *, task_ids, key, map_indexes=None):
        if isinstance(task_ids, list):  # without a map index: of all instances
            return [xcom[key] for xcom in self.run_xcoms if key in xcom] or [None]
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcom.get(key)

    @property
    def record(self):
        return self.store.get(KEY)

    @property
    def context(self):
        pushing = Mock(wraps=self, max_tries=self.max_tries)
        for name in ("dag_id", "run_id", "task_id", "map_index", "try_number", "start_date"):
            setattr(pushing, name, getattr(self, name))
        pushing.xcom_push = self.boundaries.around("xcom", self.xcom_push)
        if self.store is None:
            return {"ti": pushing}
        store = Mock()
        for name in ("get", "set", "delete"):
            setattr(store, name, self.boundaries.around(name, getattr(self.store, name)))
        return {"ti": pushing, "task_state_store": store}

    def clear(self):
        self.max_tries = self.try_number + self.retries

    def run(self, **kwargs):
        """Run the next try. Each step has its own operator, as if it ran in its own process."""
        self.try_number += 1
        self.xcom.clear()
        operator = self._operator(kwargs)
        try:
            result = operator.execute(self.context)
        except TaskDeferred as deferral:
            result = self._resume(kwargs, deferral)
        self.xcom["return_value"] = result
        return result

    def _operator(self, kwargs):
        return ManxueCreateVideoOperator(task_id="order", **{**ORDER, **kwargs})

    def completed(self, trigger):
        """Return the event of a wait that has succeeded."""
        return completed_event(trigger.video_task_id)

    def _resume(self, kwargs, deferral):
        """Run triggers and resume workers until the task has ended."""
        while True:
            self.deferrals.append(deferral)
            self.boundaries.pass_("deferred")
            event = self._fire(deferral.trigger)
            kwargs_of_event = json.loads(json.dumps({**deferral.kwargs, "event": event}))
            operator = self._operator(kwargs)
            try:
                return operator.resume_execution(deferral.method_name, kwargs_of_event, self.context)
            except TaskDeferred as again:
                deferral = again

    def _fire(self, trigger):
        if isinstance(trigger, ManxueOrderRoomTrigger):
            self.clock.advance(max(0.0, trigger.resume_at - self.clock.now()))
            return {}
        return self.completed(trigger)


@pytest.fixture
def clock(monkeypatch):
    """The clock of the emulator and of the task. Only sleeping advances it."""
    clock = Clock(frozen=True)
    time = Mock(time=clock.now, monotonic=clock.now, sleep=clock.advance)
    modules = (
        hook_module,
        store_module,
        ordered_wait,
        single_module,
        batch_module,
        waiting_module,
        drivers_module,
    )
    for module in modules:
        monkeypatch.setattr(module, "time", time)
    return clock


@pytest.fixture
def emulator(monkeypatch, clock):
    with Emulator(clock=clock) as emulator:
        emulator.default_script = Script.polls("queued", "completed")
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", emulator.airflow_connection_json())
        yield emulator


@pytest.fixture
def boundaries(monkeypatch, clock):
    boundaries = Boundaries(clock)
    for name in SENDING:
        real = getattr(ManxueHook, name)
        monkeypatch.setattr(ManxueHook, name, boundaries.around(name, real))
    # Only a plain function is bound as a method.
    for name in SENDING:
        wrapped = getattr(ManxueHook, name)
        monkeypatch.setattr(ManxueHook, name, lambda self, *args, _wrapped=wrapped: _wrapped(self, *args))
    return boundaries


@pytest.fixture
def task(emulator, boundaries):
    return TaskInstance(boundaries)


@pytest.fixture
def old(emulator, boundaries):
    """A task instance of an Airflow below 3.3, which has no task state store."""
    return TaskInstance(boundaries, store=False)


def run_with_retries(task, **kwargs):
    """Run a task until it succeeds or no try remains."""
    while True:
        try:
            return task.run(**kwargs)
        except AirflowFailException:
            raise
        except Exception:
            if task.try_number > task.max_tries:
                raise


def posts(emulator):
    return sum(record.method == "POST" for record in emulator.requests)


@pytest.fixture
def connect(emulator, monkeypatch):
    """Change fields of the connection."""

    def connect(host=emulator.base_url, **extra):
        connection = {**json.loads(emulator.airflow_connection_json()), "host": host, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", json.dumps(connection))

    return connect
