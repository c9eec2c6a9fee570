"""Resumption without a usual event: Airflow ended the deferral, or passed the event of an earlier try."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from airflow_provider_manxue._airflow import order_store as store_module
from airflow_provider_manxue._airflow import ordered_wait
from airflow_provider_manxue._core.deadline import (
    DEFER_TIMEOUT_MARGIN,
    EVENT_MARGIN,
    FINAL_POLL_WINDOW,
    MAX_OVERSHOOT,
)
from airflow_provider_manxue._core.events import batch_event, completed_event, error_event
from airflow_provider_manxue._core.polling import GRACE_TIME
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConnectionNotFoundError,
    ManxueError,
    ManxueOrderError,
    ManxueOrderUnknownError,
    ManxueRateLimitError,
    ManxueTimeoutError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.hooks import manxue as hook_module
from airflow_provider_manxue.models import TaskStatus, VideoTask
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from tests.support.fake_airflow import START

DONE = {"status": "completed", "video_url": "https://cdn.example.com/v.mp4?signature=secret"}
FAILED = {"status": "failed", "error": "not allowed"}
TIMEOUTS = ["Trigger timeout", "Trigger/execution timeout"]


def one(**kwargs):
    return ManxueVideoSensor(task_id="wait", video_task_id="proj_1", **{"timeout": 600, **kwargs})


def batch(**kwargs):
    ids = ["proj_1", "proj_2"]
    return ManxueVideoBatchSensor(task_id="wait", video_task_ids=ids, **{"timeout": 600, **kwargs})


def order(**kwargs):
    return ManxueCreateVideoOperator(task_id="wait", prompt="a cat", model="m", **{"timeout": 600, **kwargs})


def status_of(result):
    """Return the status words of a task or a batch."""
    return [task["status"] for task in result] if isinstance(result, list) else [result["status"]]


@pytest.fixture(params=[one, batch, order], ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture
def orders(fake_airflow, monkeypatch):
    """The orders that were sent."""
    sent = []

    def send_order(self, request):
        sent.append(request)
        return VideoTask(id=f"proj_{len(sent)}", status=TaskStatus.QUEUED)

    monkeypatch.setattr(hook_module.ManxueHook, "check_references", lambda hook, request: None, raising=False)
    monkeypatch.setattr(hook_module.ManxueHook, "send_order", send_order, raising=False)
    for module in (store_module, ordered_wait):
        monkeypatch.setattr(module, "time", fake_airflow.clock)
    return sent


@pytest.fixture
def deferred(fake_airflow, service, clock, orders, make):
    """A task that has deferred, in a try that began with the wait."""
    fake_airflow.ti.start_date = datetime.fromtimestamp(clock.now, tz=UTC)
    service.respond_with("queued")
    with pytest.raises(TaskDeferred):
        make().execute(fake_airflow.context)
    service.polled_at.clear()
    return make


def out_of_time(*arguments, **others):
    raise AirflowTaskTimeout("execution_timeout")


def fail(task, fake_airflow, reason):
    return task.resume_execution("__fail__", {"error": reason, "traceback": None}, fake_airflow.context)


class TestDeferralEndedByAirflow:
    @pytest.mark.parametrize("reason", [*TIMEOUTS, "Trigger failure", ""])
    @pytest.mark.parametrize("later", [60, 5000])
    def test_completed_video_is_found(self, fake_airflow, service, clock, deferred, reason, later):
        clock.now += later
        service.respond_with(DONE)
        assert set(status_of(fail(deferred(), fake_airflow, reason))) == {"completed"}
        assert fake_airflow.ti.xcom["video_url"]

    @pytest.mark.parametrize("reason", TIMEOUTS)
    def test_timeout_of_unfinished_video_is_a_timeout(self, fake_airflow, service, clock, deferred, reason):
        clock.now += 5000
        service.respond_with("processing")
        with pytest.raises(ManxueTimeoutError, match="Last status from the service: processing"):
            fail(deferred(), fake_airflow, reason)
        assert service.polled_at == pytest.approx([5000] * len(service.polled_at), abs=1e-3)

    def test_early_timeout_is_a_timeout(self, fake_airflow, service, clock, deferred):
        """A wait that began in the triggerer ends at execution_timeout, and the worker knows no earlier start."""
        del fake_airflow.ti.start_date
        clock.now += 60
        service.respond_with("processing")
        with pytest.raises(ManxueTimeoutError):
            fail(deferred(), fake_airflow, "Trigger timeout")

    @pytest.mark.parametrize("reason", ["Trigger timeout", "Trigger failure"])
    def test_throttled_poll_defers_again(self, fake_airflow, service, clock, deferred, reason):
        clock.now += 5000
        service.respond_with(ManxueRateLimitError("HTTP 429", retry_after=100))
        with pytest.raises(TaskDeferred) as again:
            fail(deferred(), fake_airflow, reason)
        trigger = again.value.trigger
        if deferred is batch:
            assert trigger.video_task_ids == ["proj_1", "proj_2"]
        else:
            assert trigger.arguments.first_poll_at == pytest.approx(START + 5100, abs=1)
        clock.now += 110
        service.respond_with(DONE)
        trigger.task_instance = fake_airflow.ti
        result = fake_airflow.run_deferred(deferred(), again.value)
        assert set(status_of(result)) == {"completed"}

    @pytest.mark.parametrize("knows_start", [True, False], ids=["start known", "start unknown"])
    @pytest.mark.parametrize(
        "trouble",
        [ManxueAuthenticationError("HTTP 401"), ManxueRateLimitError("HTTP 429", retry_after=100)],
        ids=str,
    )
    def test_deferrals_that_airflow_ends_are_bounded(
        self, fake_airflow, service, clock, deferred, knows_start, trouble
    ):
        """
        Each of them loses the start of pauses and grace periods, so the wait would never end.

        On Airflow 3.0 and 3.1 a worker that resumes only knows its own start.
        """
        if not knows_start:
            del fake_airflow.ti.start_date
        service.respond_with(trouble)
        clock.now += 3700
        for _ in range(2):
            with pytest.raises(TaskDeferred):
                fail(deferred(), fake_airflow, "Trigger timeout")
            clock.now += 1400
        clock.now += 300
        with pytest.raises(ManxueTimeoutError):
            fail(deferred(), fake_airflow, "Trigger timeout")

    def test_deferral_does_not_depend_on_the_xcoms(self, fake_airflow, service, clock, deferred, monkeypatch):
        """The XCom backend may be unavailable during an outage of the connection."""

        def away(*arguments, **others):
            raise RuntimeError("the XCom backend is away")

        if deferred is order:
            fake_airflow.ti.xcom_push = lambda key, value: key == "video_task_id" or away()
        else:
            fake_airflow.ti.xcom_push = away
        fake_airflow.ti.xcom_pull = away
        service.respond_with(ManxueAuthenticationError("HTTP 401"))
        clock.now += 700
        with pytest.raises(TaskDeferred):
            fail(deferred(), fake_airflow, "Trigger timeout")

    def test_crash_before_deadline_is_a_retryable_error(self, fake_airflow, service, clock, deferred):
        """The author has allowed more time, so a retry waits again."""
        clock.now += 60
        service.respond_with("processing")
        with pytest.raises(ManxueError, match=r"Trigger failure.*not ready yet") as raised:
            fail(deferred(), fake_airflow, "Trigger failure")
        assert type(raised.value) is ManxueError

    def test_crash_after_deadline_is_a_timeout(self, fake_airflow, service, clock, deferred):
        clock.now += 601
        service.respond_with("processing")
        with pytest.raises(ManxueTimeoutError):
            fail(deferred(), fake_airflow, "Trigger failure")

    def test_failed_video_has_its_reason(self, fake_airflow, service, clock, deferred):
        clock.now += 60
        service.respond_with(FAILED)
        with pytest.raises(ManxueVideoFailedError, match="not allowed"):
            fail(deferred(), fake_airflow, "Trigger timeout")

    def test_batch_reuses_tasks_read_before(self, fake_airflow, service, clock):
        """A batch stores what it has read in an XCom, so a resumed worker polls only the rest."""
        fake_airflow.ti.start_date = datetime.fromtimestamp(clock.now, tz=UTC)
        kept = {"id": "proj_1", "status": "completed", "video_url": "https://cdn.example.com/kept.mp4"}
        fake_airflow.ti.xcom["manxue_kept"] = {"tasks": {"proj_1": [START, kept]}, "errors": {}}
        clock.now += 60
        service.respond_with(DONE)
        result = fail(batch(), fake_airflow, "Trigger timeout")
        assert [task["video_url"] for task in result] == [kept["video_url"], DONE["video_url"]]
        assert len(service.polled_at) == 1


class TestOrderDeferralEndedByAirflow:
    @pytest.mark.parametrize("lost", ["record", "xcom"])
    @pytest.mark.parametrize("options", [{}, {"do_xcom_push": False}], ids=["xcom", "no xcom"])
    def test_order_resumes_with_its_id(self, fake_airflow, service, clock, orders, lost, options):
        service.respond_with("queued")
        with pytest.raises(TaskDeferred):
            order(**options).execute(fake_airflow.context)
        assert fake_airflow.ti.xcom["video_task_id"] == "proj_1"
        if lost == "record":
            fake_airflow.store = None
        else:
            fake_airflow.ti.xcom.clear()
        service.respond_with(DONE)
        assert fail(order(**options), fake_airflow, "Trigger timeout")["id"] == "proj_1"
        assert len(orders) == 1

    @pytest.mark.parametrize("reason", ["Trigger timeout", "Trigger failure"])
    @pytest.mark.parametrize(
        "response", ["processing", ManxueAuthenticationError("401"), RuntimeError("odd")]
    )
    def test_no_retry_below_airflow_3_3(self, fake_airflow, service, orders, reason, response):
        """Without the task state store of Airflow 3.3 a retry would order again."""
        fake_airflow.store = None
        service.respond_with("queued")
        with pytest.raises(TaskDeferred):
            order().execute(fake_airflow.context)
        service.respond_with(response)
        with pytest.raises((ManxueOrderError, ManxueTimeoutError, TaskDeferred)) as raised:
            fail(order(), fake_airflow, reason)
        is_without_retry = issubclass(raised.type, (AirflowFailException, ManxueTimeoutError))
        assert is_without_retry or raised.type is TaskDeferred
        assert len(orders) == 1

    def test_no_retry_after_execution_timeout_below_3_3(self, fake_airflow, service, orders):
        """Without a task state store, a retry would order again."""
        fake_airflow.store = None
        service.respond_with("queued")
        with pytest.raises(ManxueTimeoutError, match=r"execution_timeout.*'proj_1' is ordered"):
            fake_airflow.run(order(execution_timeout=timedelta(seconds=100)))
        assert len(orders) == 1

    def test_crash_stops_with_the_id_below_3_3(self, fake_airflow, service, orders):
        fake_airflow.store = None
        service.respond_with("queued")
        with pytest.raises(TaskDeferred):
            order().execute(fake_airflow.context)
        with pytest.raises(ManxueOrderError, match=r"Trigger failure.*'proj_1' is ordered") as raised:
            fail(order(), fake_airflow, "Trigger failure")
        assert isinstance(raised.value, AirflowFailException)

    @pytest.mark.parametrize("store", [True, False])
    def test_order_with_lost_id_is_not_repeated(self, fake_airflow, service, orders, store):
        """The task has deferred, so an order was accepted and billed."""
        if not store:
            fake_airflow.store = None
        with pytest.raises(
            ManxueOrderUnknownError, match="neither from its record nor from its XCom"
        ) as raised:
            fail(order(), fake_airflow, "Trigger timeout")
        assert isinstance(raised.value, AirflowFailException)
        assert (orders, service.polled_at) == ([], [])

    def test_order_resumes_from_its_xcom_if_the_store_fails(self, fake_airflow, service, orders):
        """The record cannot be loaded, but the id is there."""
        service.respond_with("queued")
        with pytest.raises(TaskDeferred):
            order().execute(fake_airflow.context)

        def away(key):
            raise RuntimeError("the API server is away")

        fake_airflow.store.get = away
        service.respond_with(DONE)
        assert fail(order(), fake_airflow, "Trigger timeout")["id"] == "proj_1"
        assert len(orders) == 1

    def test_order_is_not_repeated_if_the_store_fails(self, fake_airflow, orders):
        """Its record may exist."""

        def away(key):
            raise RuntimeError("the API server is away")

        fake_airflow.store.get = away
        with pytest.raises(ManxueOrderUnknownError):
            fail(order(), fake_airflow, "Trigger timeout")
        assert orders == []

    def test_order_out_of_time_is_not_repeated_below_3_3(self, fake_airflow, orders, monkeypatch):
        """Airflow would retry its own timeout, and the retry would order again."""
        fake_airflow.store = None
        monkeypatch.setattr(fake_airflow.ti, "xcom_pull", out_of_time)
        with pytest.raises(ManxueOrderUnknownError):
            fail(order(), fake_airflow, "Trigger failure")
        assert orders == []

    def test_order_out_of_time_is_retried_with_a_record(self, fake_airflow, orders):
        """From Airflow 3.3 on, the retry finds the record and does not order again."""
        fake_airflow.store.get = out_of_time
        with pytest.raises(AirflowTaskTimeout):
            fail(order(), fake_airflow, "Trigger failure")
        assert orders == []


class TestStaleTry:
    """Airflow 3.0 resumes a retry with the event and the arguments of the first try."""

    @pytest.mark.parametrize("stale", [True, False])
    def test_stale_try_of_sensor_restarts_the_wait(self, fake_airflow, service, clock, stale):
        fake_airflow.ti.try_number = 2
        clock.now += 5000
        service.respond_with("processing")
        event = error_event("proj_1", ManxueTimeoutError("too late"))
        kwargs = {"event": event, "started_at": START, "try_number": 1 if stale else 2}
        with pytest.raises(TaskDeferred if stale else ManxueTimeoutError) as raised:
            one().resume_execution("execute_complete", kwargs, fake_airflow.context)
        if stale:
            assert raised.value.trigger.arguments.started_at == START + 5000
            assert raised.value.kwargs == {"started_at": START + 5000, "try_number": 2}

    @pytest.mark.parametrize("stale", [True, False])
    def test_stale_try_of_batch_restarts_the_wait(self, fake_airflow, service, clock, stale):
        fake_airflow.ti.try_number = 2
        clock.now += 5000
        ids = ["proj_1", "proj_2"]
        event = batch_event(ids, dict.fromkeys(ids, ManxueTimeoutError("too late")))
        kwargs = {"event": event, "started_at": START, "try_number": 1 if stale else 2}
        with pytest.raises(TaskDeferred if stale else ManxueTimeoutError) as raised:
            batch().resume_execution("execute_complete", kwargs, fake_airflow.context)
        if stale:
            assert raised.value.trigger.arguments.started_at == START + 5000
            assert raised.value.kwargs == {"started_at": START + 5000, "try_number": 2}

    @pytest.mark.parametrize("event_id", ["proj_1", ""])
    def test_stale_try_of_order_resumes_its_id(self, fake_airflow, service, clock, orders, event_id):
        service.respond_with("queued")
        with pytest.raises(TaskDeferred) as first:
            order().execute(fake_airflow.context)
        fake_airflow.ti.try_number = 2
        fake_airflow.ti.xcom.clear()
        clock.now += 5000
        service.respond_with("processing")
        event = error_event(event_id, ManxueTimeoutError("too late"))
        with pytest.raises(TaskDeferred) as again:
            order().resume_execution(
                first.value.method_name, {**first.value.kwargs, "event": event}, fake_airflow.context
            )
        assert again.value.trigger.video_task_id == "proj_1"
        assert again.value.trigger.arguments.started_at == START + 5000
        assert len(orders) == 1

    def test_stale_try_of_order_without_id_stops(self, fake_airflow, orders):
        fake_airflow.ti.try_number = 2
        kwargs = {"event": {}, "started_at": START, "try_number": 1}
        with pytest.raises(ManxueOrderUnknownError):
            order().resume_execution("execute_complete", kwargs, fake_airflow.context)
        assert orders == []


class TestEndOfEarlierTry:
    """Airflow 3.0 resumes a retry also with the end of an earlier try's deferral, and deletes no XCom then."""

    @pytest.fixture
    def retried(self, fake_airflow, service, clock, orders, deferred):
        """A task whose first try has ended after the end of its deferral, and whose second try resumes with that end."""
        clock.now += 5000
        service.respond_with("processing")
        with pytest.raises(ManxueTimeoutError):
            fail(deferred(), fake_airflow, "Trigger timeout")
        fake_airflow.ti.try_number = 2
        clock.now += 60
        fake_airflow.ti.start_date = datetime.fromtimestamp(clock.now, tz=UTC)
        return deferred

    def test_retry_waits_again(self, fake_airflow, service, clock, orders, retried):
        with pytest.raises(TaskDeferred) as again:
            fail(retried(), fake_airflow, "Trigger timeout")
        assert again.value.trigger.arguments.started_at == pytest.approx(START + 5060, abs=1)
        assert again.value.kwargs["try_number"] == 2
        assert len(orders) <= 1

    def test_order_is_not_repeated_below_3_3(self, fake_airflow, service, clock, orders):
        fake_airflow.store = None
        service.respond_with("queued")
        with pytest.raises(TaskDeferred):
            order(retries=1).execute(fake_airflow.context)
        fake_airflow.ti.xcom["manxue_deferral_end"] = {"try_number": 1, "at": START}
        fake_airflow.ti.try_number = 2
        clock.now += 5000
        with pytest.raises(TaskDeferred) as again:
            fail(order(retries=1), fake_airflow, "Trigger timeout")
        assert again.value.trigger.video_task_id == "proj_1"
        assert again.value.trigger.arguments.started_at == START + 5000
        assert len(orders) == 1

    def test_own_end_of_the_retry_is_a_timeout(self, fake_airflow, service, clock, orders, retried):
        with pytest.raises(TaskDeferred):
            fail(retried(), fake_airflow, "Trigger timeout")
        clock.now += 5000
        with pytest.raises(ManxueTimeoutError):
            fail(retried(), fake_airflow, "Trigger timeout")

    def test_long_wait_of_the_retry_does_not_count(self, fake_airflow, service, clock, orders, retried):
        """The bound on deferrals counts from the end of the retry's own deferral."""
        with pytest.raises(TaskDeferred):
            fail(retried(), fake_airflow, "Trigger timeout")
        clock.now += 5000
        service.respond_with(ManxueAuthenticationError("HTTP 401"))
        with pytest.raises(TaskDeferred):
            fail(retried(), fake_airflow, "Trigger timeout")


class TestFailedXComPush:
    """
    A push of the result while the XCom backend or Airflow's API server restarts.

    A failed push fails the task, and with it the steps after a paid video, so the push is retried for ``PUSH_RETRY_TIME``.
    """

    @pytest.mark.parametrize("away_for", [0, 30, 59])
    def test_push_is_retried_for_a_minute(self, fake_airflow, service, clock, make, orders, away_for):
        self._xcoms_are_away(fake_airflow, clock, until=clock.now + away_for)
        service.respond_with(DONE)
        task = make(deferrable=False)
        assert set(status_of(task.execute(fake_airflow.context))) == {"completed"}
        assert fake_airflow.ti.xcom["video_url"]

    def test_push_failing_for_a_minute_fails_the_task(self, fake_airflow, service, clock):
        """The error does not contain the value, which has the signed URL."""
        self._xcoms_are_away(fake_airflow, clock, until=float("inf"))
        service.respond_with(DONE)
        for task in (one(deferrable=False), batch(deferrable=False)):
            began = clock.now
            with pytest.raises(
                ManxueError, match=r"could not be stored.*RuntimeError.*reads it again"
            ) as raised:
                task.execute(fake_airflow.context)
            assert type(raised.value) is ManxueError
            assert raised.value.__cause__ is None
            assert raised.value.__suppress_context__
            assert "secret" not in str(raised.value)
            assert clock.now - began == pytest.approx(60, abs=0.01)

    @staticmethod
    def _xcoms_are_away(fake_airflow, clock, until):
        """Let each push fail until a time, with an error that contains the pushed value."""
        real = fake_airflow.ti.xcom_push

        def push(key, value):
            if clock.now < until:
                raise RuntimeError(f"the backend does not take {value}")
            real(key, value)

        fake_airflow.ti.xcom_push = push


class TestResumedState:
    def test_has_worked_is_passed_to_the_trigger(self, fake_airflow, service):
        """Only a wait that has worked has a grace period. False is not serialized, as in older versions."""
        for response, has_worked in (("queued", True), (ManxueTransientError("HTTP 503"), False)):
            service.respond_with(response)
            with pytest.raises(TaskDeferred) as deferred:
                one().execute(fake_airflow.context)
            assert deferred.value.trigger.arguments.has_worked is has_worked
            assert ("has_worked" in deferred.value.trigger.serialize()[1]) is has_worked

    @pytest.mark.parametrize("has_worked", [True, False])
    def test_has_worked_is_passed_to_the_worker(self, fake_airflow, service, has_worked):
        """Only a wait that has worked tolerates a missing connection, and defers again."""
        service.respond_with(ManxueConnectionNotFoundError("no such connection"))
        event = error_event("proj_1", ManxueTimeoutError("late"), final_poll=False, has_worked=has_worked)
        kwargs = {"event": event, "started_at": START}
        with pytest.raises(TaskDeferred if has_worked else ManxueConnectionNotFoundError):
            one().resume_execution("execute_complete", kwargs, fake_airflow.context)

    def test_completed_video_is_polled_for_five_more_minutes(self, fake_airflow, service, clock):
        clock.now += 600
        service.respond_with(ManxueTransientError("HTTP 503"))
        kwargs = {"event": completed_event("proj_1"), "started_at": START}
        with pytest.raises(TaskDeferred) as again:
            one().resume_execution("execute_complete", kwargs, fake_airflow.context)
        assert again.value.trigger.arguments.deadline == START + 600 + GRACE_TIME
        assert clock.now <= START + 600 + 30, "a worker gives its slot back after 30 s"
        clock.now = START + 600 + MAX_OVERSHOOT
        with pytest.raises(ManxueTimeoutError):
            one().resume_execution("execute_complete", kwargs, fake_airflow.context)
        assert clock.now <= START + 600 + MAX_OVERSHOOT + FINAL_POLL_WINDOW


class TestExecutionTimeout:
    @pytest.mark.parametrize("make", [one, batch])
    def test_execution_timeout_bounds_the_defer_timeout(self, fake_airflow, service, make):
        service.respond_with("queued")
        for seconds, margin in (
            (None, DEFER_TIMEOUT_MARGIN),
            (700, 100 + FINAL_POLL_WINDOW + EVENT_MARGIN),
            (600, FINAL_POLL_WINDOW + EVENT_MARGIN),
        ):
            bound = {} if seconds is None else {"execution_timeout": timedelta(seconds=seconds)}
            with pytest.raises(TaskDeferred) as deferred:
                make(**bound).execute(fake_airflow.context)
            assert deferred.value.timeout == timedelta(seconds=600 + margin)
            assert deferred.value.trigger.arguments.defer_timeout_margin == margin

    @pytest.mark.parametrize("make", [one, batch])
    def test_execution_timeout_bounds_retry_after(self, fake_airflow, service, clock, make):
        service.respond_with("queued", ManxueRateLimitError("HTTP 429", retry_after=900))
        with pytest.raises((ManxueTimeoutError, AirflowTaskTimeout)):
            fake_airflow.run(make(timeout=120, execution_timeout=timedelta(seconds=200)))
        assert clock.now <= START + 200 + FINAL_POLL_WINDOW + EVENT_MARGIN


class TestUnexpected:
    """Exceptions of HTTP libraries hold headers and URLs."""

    def test_unexpected_error_ends_wait_without_its_message(self, fake_airflow, service, caplog, capsys):
        caplog.set_level(logging.DEBUG)
        service.respond_with("queued", RuntimeError("Authorization: Bearer secret"))
        with pytest.raises(ManxueError, match=r"unexpected builtins\.RuntimeError") as raised:
            fake_airflow.run(one(timeout=3600))
        assert 330 <= service.polled_at[-1] <= 330 + 75
        # Airflow 3 logs to stdout, Airflow 2 also through logging.
        printed = next(text for text in (capsys.readouterr().out, caplog.text) if "Unexpected" in text)
        assert "secret" not in printed + str(raised.value)
        assert printed.count("Unexpected builtins.RuntimeError while polling, at: ") == 1
        assert "fake_airflow.py" in printed
