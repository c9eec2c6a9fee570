"""
Orders that wait until the service accepts them, and the checks before an order is sent.

The rules and their reasons are in docs/ordering.md.
"""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import Mock

import fsspec
import pytest

from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowFailException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_manxue._airflow import ordered_wait
from airflow_provider_manxue._airflow.order_store import OrderStore
from airflow_provider_manxue.exceptions import (
    ManxueConfigurationError,
    ManxueError,
    ManxueInputError,
    ManxueOrderError,
    ManxueOrderRejectedError,
    ManxueOrderTimeoutError,
    ManxueOrderUnknownError,
    ManxueTimeoutError,
)
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.testing import Response, Script
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from airflow_provider_manxue.triggers import manxue as trigger_module
from airflow_provider_manxue.triggers.manxue import ManxueOrderRoomTrigger
from tests.support.orders import *  # noqa: F403 - its fixtures
from tests.support.orders import KEY, ORDER, TaskInstance, posts

FULL = Response(status=429)


@pytest.fixture(params=[True, False], ids=["3.3", "older"])
def any_task(request, emulator, boundaries):
    return TaskInstance(boundaries, store=request.param)


def defer(task, **kwargs):
    """Run a task up to its first deferral. Return the deferral."""
    task.try_number += 1
    with pytest.raises(TaskDeferred) as deferred:
        task._operator(kwargs).execute(task.context)
    return deferred.value


def resume(task, deferral, event=None, **kwargs):
    arguments = json.loads(json.dumps({**deferral.kwargs, "event": event or {}}))
    return task._operator(kwargs).resume_execution(deferral.method_name, arguments, task.context)


def fail(task, words="Trigger timeout", **kwargs):
    return task._operator(kwargs).resume_execution(
        "__fail__", {"error": words, "traceback": None}, task.context
    )


# --- waiting --------------------------------------------------------------------------------------------


def test_order_waits_in_triggerer_and_is_billed_once(emulator, any_task, clock):
    begun = clock.now()
    emulator.fail_next(5, FULL, on="create")
    assert any_task.run()["id"] == emulator.ledger.orders[0].id
    assert emulator.ledger.billed == 1
    kinds = [type(deferral.trigger).__name__ for deferral in any_task.deferrals]
    assert kinds == ["ManxueOrderRoomTrigger"] * 4 + ["ManxueVideoTrigger"]
    assert 2 + 30 + 60 + 120 + 240 <= clock.now() - begun <= 1.25 * (2 + 30 + 60 + 120 + 240) + 100


def test_form_of_the_deferral_is_unchanged(emulator, task, clock):
    """The metadata database holds deferrals across an upgrade."""
    emulator.respond_with(FULL, on="create")
    begun = clock.now()
    deferral = defer(task)
    assert deferral.method_name == "execute_order"
    assert deferral.kwargs == {
        "started_at": begun,
        "attempts": 2,
        "since": task.record["since"],
        "try_number": 1,
    }
    path, kwargs = deferral.trigger.serialize()
    assert path == "airflow_provider_manxue.triggers.manxue.ManxueOrderRoomTrigger"
    assert list(kwargs) == ["resume_at"]
    assert 30 <= kwargs["resume_at"] - clock.now() <= 37.5
    assert task.record["state"] == "not_accepted"
    assert posts(emulator) == 2


def test_retry_after_is_waited_for_in_the_triggerer(emulator, task, clock):
    emulator.respond_with(Response(status=429, retry_after=600), on="create")
    deferral = defer(task)
    assert posts(emulator) == 1
    assert 600 <= deferral.trigger.resume_at - clock.now() <= 750


def test_poke_mode_waits_on_the_worker(emulator, any_task):
    emulator.fail_next(5, FULL, on="create")
    assert any_task.run(deferrable=False)["status"] == "completed"
    assert any_task.deferrals == []
    assert emulator.ledger.billed == 1


@pytest.mark.parametrize("options", [{}, {"deferrable": False}], ids=["deferred", "poke"])
def test_order_timeout_is_retried_and_not_skipped(emulator, any_task, clock, options):
    emulator.respond_with(FULL, on="create")
    begun = clock.now()
    with pytest.raises(ManxueOrderTimeoutError, match=r"order_timeout \(0:10:00\): .*HTTP 429") as caught:
        any_task.run(order_timeout=timedelta(minutes=10), soft_fail=True, **options)
    assert not isinstance(caught.value, AirflowFailException)
    assert clock.now() - begun == pytest.approx(600, abs=1)
    emulator.respond_with(None)
    assert any_task.run(**options)["status"] == "completed"


def test_order_timeout_defaults_to_timeout(emulator, task):
    emulator.respond_with(FULL, on="create")
    with pytest.raises(ManxueOrderTimeoutError, match=r"order_timeout \(0:05:00\)"):
        task.run(timeout=300)


def accepted(task, deferral, clock, **kwargs):
    """Resume an order until it is accepted. Return the deferral that waits for its video."""
    while isinstance(deferral.trigger, ManxueOrderRoomTrigger):
        clock.advance(deferral.trigger.resume_at - clock.now())
        with pytest.raises(TaskDeferred) as again:
            resume(task, deferral, **kwargs)
        deferral = again.value
    return deferral


@pytest.mark.parametrize("value", [0, -1, timedelta(0)])
def test_order_timeout_must_be_positive(value):
    with pytest.raises(ManxueInputError, match="order_timeout"):
        ManxueCreateVideoOperator(task_id="order", **ORDER, order_timeout=value)


def test_timeout_begins_when_the_order_is_accepted(emulator, task, clock):
    emulator.fail_next(4, FULL, on="create")
    emulator.default_script = Script.by_hand("processing")
    deferral = defer(task, timeout=1000)
    deferral = accepted(task, deferral, clock, timeout=1000)
    assert deferral.trigger.arguments.deadline == clock.now() + 1000


def test_execution_timeout_counts_from_the_first_start(emulator, task, clock):
    emulator.fail_next(3, FULL, on="create")
    emulator.default_script = Script.by_hand("processing")
    limits = {"execution_timeout": timedelta(seconds=1000)}
    begun = clock.now()
    deferral = defer(task, **limits)
    assert deferral.timeout <= timedelta(seconds=1000)
    deferral = accepted(task, deferral, clock, **limits)
    assert clock.now() > begun + 60
    assert deferral.trigger.arguments.deadline == pytest.approx(begun + 1000)
    assert deferral.kwargs["order_time"] == pytest.approx(clock.now() - begun)


def test_short_execution_timeout_sends_nothing(emulator, task, clock):
    """The time that is left would not suffice for the wait."""
    limits = {"execution_timeout": timedelta(seconds=200)}
    emulator.respond_with(FULL, on="create")
    with pytest.raises(ManxueOrderTimeoutError, match="execution_timeout"):
        task.run(**limits)
    sent = posts(emulator)
    emulator.respond_with(None)
    with pytest.raises(ManxueOrderTimeoutError, match="it was not sent"):
        task.run(execution_timeout=timedelta(seconds=89))
    assert posts(emulator) == sent
    assert task.run(wait_for_completion=False, execution_timeout=timedelta(seconds=89))


# --- protection against a second order -----------------------------------------------------------------------------


def test_intent_with_a_failed_update_is_not_unknown(emulator, task, monkeypatch):
    """The deferral still knows that the order was not accepted."""
    real = ManxueHook.send_order

    def send(self, request):
        task.store.broken = 100
        return real(self, request)

    emulator.fail_next(1, Response(status=429, retry_after=60), on="create")
    with monkeypatch.context() as patch:
        patch.setattr(ManxueHook, "send_order", send)
        deferral = defer(task)
    assert task.record["state"] == "intent"
    task.store.broken = 0
    with pytest.raises(TaskDeferred) as again:
        resume(task, deferral)
    assert again.value.trigger.video_task_id == emulator.ledger.orders[0].id

    task.store.set(KEY, {**task.record, "state": "intent", "id": None, "since": "2027-01-15T08:00:00+00:00"})
    with pytest.raises(ManxueOrderUnknownError):
        resume(task, deferral)
    assert emulator.ledger.billed == 1


def test_stale_deferral_does_not_repeat_an_unknown_order(emulator, task):
    emulator.fail_next(1, Response(status=429, retry_after=60), on="create")
    deferral = defer(task)
    intent = {**task.record, "state": "intent"}
    task.store.set(KEY, intent)
    task.try_number = 2
    with pytest.raises(ManxueOrderUnknownError):
        resume(task, deferral)
    assert emulator.ledger.billed == 0


def test_stale_deferral_starts_like_a_retry(emulator, any_task, clock):
    emulator.fail_next(1, Response(status=429, retry_after=60), on="create")
    deferral = defer(any_task)
    any_task.try_number = 2
    clock.advance(100_000)
    with pytest.raises(TaskDeferred) as again:
        resume(any_task, deferral)
    assert again.value.trigger.video_task_id == emulator.ledger.orders[0].id


def test_trigger_timeout_sends_nothing_and_is_retried(emulator, task):
    emulator.respond_with(Response(status=429, retry_after=60), on="create")
    defer(task)
    with pytest.raises(ManxueOrderTimeoutError, match=r"Trigger timeout\. Nothing was ordered") as caught:
        fail(task)
    assert not isinstance(caught.value, AirflowFailException)
    assert posts(emulator) == 1


def test_trigger_timeout_below_3_3_sends_nothing(emulator, old):
    emulator.respond_with(Response(status=429, retry_after=60), on="create")
    defer(old)
    with pytest.raises(ManxueOrderUnknownError):
        fail(old)
    assert posts(emulator) == 1


def test_trigger_failure_counts_from_the_acceptance(emulator, task, clock):
    emulator.fail_next(4, FULL, on="create")
    emulator.default_script = Script.by_hand("processing")
    begun = clock.now()
    deferral = defer(task, timeout=1000)
    deferral = accepted(task, deferral, clock, timeout=1000)
    task.start_date = datetime.fromtimestamp(begun, tz=UTC)
    clock.advance(begun + 1100 - clock.now())
    assert clock.now() < deferral.trigger.arguments.deadline
    with pytest.raises(ManxueError, match=r"The trigger of the video .* failed") as caught:
        fail(task, "Trigger failure", timeout=1000)
    assert not isinstance(caught.value, ManxueTimeoutError)


def test_task_timeout_during_the_connect_is_not_accepted(emulator, any_task, monkeypatch):
    def end(*args, **kwargs):
        raise AirflowTaskTimeout("execution_timeout")

    with monkeypatch.context() as patch:
        patch.setattr("socket.create_connection", end)
        patch.setattr("urllib3.util.connection.create_connection", end)
        with pytest.raises(AirflowTaskTimeout):
            any_task.run()
    assert posts(emulator) == 0
    assert any_task.store is None or any_task.record["state"] == "not_accepted"
    assert any_task.run()["status"] == "completed"
    assert emulator.ledger.billed == 1


def test_store_without_read_back_sends_nothing(emulator, task, monkeypatch):
    monkeypatch.setattr(type(task.store), "get", lambda self, key, default=None: None)
    with pytest.raises(ManxueError, match=r"did not return the key.*Nothing was sent"):
        task.run()
    assert posts(emulator) == 0


def test_response_with_another_success_code_is_accepted(emulator, task):
    response = {"code": 201, "msg": "created", "data": {"taskId": "t9"}}
    emulator.respond_with(Response(json=response), on="create")
    assert [task.run(wait_for_completion=False) for _ in range(2)] == ["t9", "t9"]
    assert posts(emulator) == 1


def test_response_with_an_odd_code_is_never_repeated(emulator, task):
    response = {"code": 100, "msg": "ok", "data": "t9"}
    emulator.respond_with(Response(json=response), on="create")
    with pytest.raises(ManxueOrderUnknownError, match="t9"):
        task.run()
    task.clear()
    with pytest.raises(ManxueOrderUnknownError, match="remedies"):
        task.run()
    assert posts(emulator) == 1


def test_retry_ignores_a_new_signature_of_a_reference(emulator, task, monkeypatch):
    url = "https://bucket.s3.amazonaws.com/cat.png?X-Amz-Date={n}&X-Amz-Signature={n}abc"
    log = Mock()
    monkeypatch.setattr(ManxueCreateVideoOperator, "log", log)
    defer(task, first_image=url.format(n=1))
    assert task.run(first_image=url.format(n=2))["id"] == emulator.ledger.orders[0].id
    assert not [call for call in log.warning.call_args_list if "changed" in str(call)]
    task.store.set(KEY, {**task.record, "state": "ordered"})
    task.clear()
    assert task.run(first_image=url.format(n=3))["id"] == emulator.ledger.orders[0].id
    assert emulator.ledger.billed == 1


def test_retry_with_another_prompt_warns(emulator, task, monkeypatch):
    log = Mock()
    monkeypatch.setattr(ManxueCreateVideoOperator, "log", log)
    defer(task)
    assert task.run(prompt="a dog")["id"] == emulator.ledger.orders[0].id
    assert "although prompt changed" in str(log.warning.call_args_list)
    assert emulator.ledger.billed == 1


def test_retry_that_returns_a_completed_video_warns(emulator, task, monkeypatch):
    log = Mock()
    first = task.run()["id"]
    monkeypatch.setattr(ManxueCreateVideoOperator, "log", log)
    assert task.run()["id"] == first
    assert "'retries' was lowered" in str(log.warning.call_args_list)


# --- below Airflow 3.3 ----------------------------------------------------------------------------------
#
# There is no task state store, so a retry after an accepted order would pay for a second video. Any error after an order
# was sent therefore ends the retries, and an error before it does not (docs/ordering.md, "Older Airflow"). `old` is such
# a task.


@pytest.mark.parametrize("key", ["video_task_id", "video_url", "actualDuration"])
def test_failed_xcom_below_3_3_is_not_retried(emulator, old, key, monkeypatch):
    def push(name, value):
        if name == key:
            raise RuntimeError("the XCom backend is away")

    monkeypatch.setattr(old, "xcom_push", push)
    with pytest.raises(ManxueOrderError) as caught:
        old.run(deferrable=False)
    assert isinstance(caught.value, AirflowFailException)
    assert emulator.ledger.orders[0].id in str(caught.value)


def test_failure_after_execute_below_3_3_is_not_retried(emulator, old):
    """The error may come from another package, after ``execute`` has returned, for example from ``post_execute``."""
    operator = old._operator({"deferrable": False, "retries": 2})
    context = old.context
    context["ti"].task = operator
    context["ti"]._ti_context_from_server = SimpleNamespace(should_retry=True)
    operator.execute(context)
    assert operator.retries == 0  # read by Airflow 2.11
    assert context["ti"]._ti_context_from_server.should_retry is False  # read by Airflow 3.0 to 3.2


@pytest.mark.parametrize("signal", [AirflowTaskTimeout, SystemExit, RuntimeError])
def test_signal_after_the_order_below_3_3_is_not_retried(emulator, old, monkeypatch, signal):
    """Airflow raises the signal wherever the task is, here between the order and its record."""
    operator, context, server = retried(old)

    def end(store, video_task_id):
        raise signal("execution_timeout")

    monkeypatch.setattr(OrderStore, "mark_ordered", end)
    with pytest.raises(signal):
        operator.execute(context)
    assert emulator.ledger.billed == 1
    assert (operator.retries, server.should_retry) == (0, False)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ((socket, "create_connection"), AirflowTaskTimeout("execution_timeout")),
        ((ManxueHook, "send_order"), ManxueConfigurationError("Connection field 'host': bad.")),
    ],
    ids=["timeout during the connect", "bad connection"],
)
def test_unsent_order_below_3_3_is_retried(emulator, old, monkeypatch, target, error):
    """Nothing was sent, so a retry pays for no second video."""
    operator, context, server = retried(old)
    monkeypatch.setattr(*target, Mock(side_effect=error))
    with pytest.raises(type(error)):
        operator.execute(context)
    assert emulator.ledger.billed == 0
    assert (operator.retries, server.should_retry) == (2, True)


def retried(task):
    """Return operator, context and server context of a task that Airflow would retry."""
    operator = task._operator({"deferrable": False, "retries": 2})
    context = task.context
    server = SimpleNamespace(should_retry=True)
    context["ti"].task, context["ti"]._ti_context_from_server = operator, server
    return operator, context, server


def test_retries_remain_with_a_store_or_durable_off(emulator, task, old):
    """With a store, a retry resumes the order. With ``durable=False``, the author has allowed further orders."""
    for instance, options in ((task, {}), (old, {"durable": False})):
        operator = instance._operator({"deferrable": False, "retries": 2, **options})
        context = instance.context
        context["ti"].task = operator
        operator.execute(context)
        assert operator.retries == 2


def test_retries_below_3_3_warn_at_parse_time(monkeypatch, recwarn):
    monkeypatch.setattr(ordered_wait, "HAS_STATE_STORE", False)
    with pytest.warns(UserWarning, match=r"retries=2 can order a second video.*Set retries=0"):
        ManxueCreateVideoOperator(task_id="order", **ORDER, retries=2)
    recwarn.clear()
    ManxueCreateVideoOperator(task_id="order", **ORDER, retries=0)
    ManxueCreateVideoOperator(task_id="order", **ORDER, retries=2, durable=False)
    monkeypatch.setattr(ordered_wait, "HAS_STATE_STORE", True)
    ManxueCreateVideoOperator(task_id="order", **ORDER, retries=2)
    assert not [warning for warning in recwarn if "second video" in str(warning.message)]


# --- checks before an order ----------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["s3://bucket/a.png", "file:///tmp/a.png"])
def test_unsupported_reference_is_rejected_at_parse_time(url):
    with pytest.raises(ManxueInputError, match="that the service can fetch"):
        ManxueCreateVideoOperator(task_id="order", **ORDER, first_image=url)


def test_reference_on_a_private_host_leaves_no_record(emulator, task, connect):
    connect(host="https://service.example/kyyReactApiServer")
    with pytest.raises(ManxueInputError, match="not public"):
        task.run(reference_images=["http://10.0.0.1/a.png"])
    assert task.record is None


def test_dry_run_logs_the_order_and_sends_nothing(emulator, monkeypatch):
    log = Mock()
    monkeypatch.setattr(ManxueCreateVideoOperator, "log", log)
    url = "https://example.com/a.png?sig=secret"
    ManxueCreateVideoOperator(
        task_id="order", prompt="a cat", model="odd", duration=8, first_image=url
    ).dry_run()
    shown = " ".join(
        str(call.args[0]) % call.args[1:] for call in (*log.info.call_args_list, *log.warning.call_args_list)
    )
    for words in (
        "8 s of video with the model odd",
        "prompt = a cat",
        "first_image = https://example.com/a.png?***",
        "unknown",
    ):
        assert words in shown
    assert "secret" not in shown
    assert not emulator.requests


def test_dry_run_checks_the_rules(emulator):
    operator = ManxueCreateVideoOperator(task_id="order", **ORDER)
    operator.duration = 3  # as rendering does
    with pytest.raises(ManxueInputError, match="duration is 3"):
        operator.dry_run()


@pytest.fixture
def with_save(emulator, task):
    """Return a function that runs an order with a downstream save."""

    def run(destination, *, mapped=False, **save):
        with DAG("episode", schedule=None) as dag:
            order = ManxueCreateVideoOperator(task_id="order", **ORDER)
            kind = ManxueToObjectStorageOperator
            if mapped:
                after = kind.partial(task_id="save", destination=destination, **save).expand(
                    video_task_id=["a"]
                )
            else:
                after = kind(task_id="save", video_task_id="a", destination=destination, **save)
            order >> after
        with pytest.raises(TaskDeferred):
            dag.get_task("order").execute(task.context)

    return run


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("destination", ["nosuch://bucket/{{ ds }}/", "nosuch://bucket/a.mp4"])
def test_save_without_a_file_system_prevents_the_order(emulator, task, with_save, destination, mapped):
    """The save would fail only after the order was paid."""
    with pytest.raises(ManxueInputError, match=r"not sent\. The task 'save' saves the video to nosuch://"):
        with_save(destination, mapped=mapped)
    assert posts(emulator) == 0
    assert task.record is None


def test_save_without_its_library_prevents_the_order(emulator, with_save, monkeypatch):
    def missing(scheme):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(ManxueInputError, match="Install s3fs"):
        with_save("file:///tmp/a.mp4")
    assert posts(emulator) == 0


@pytest.mark.parametrize("destination", ["file:///tmp/a.mp4", "{{ params.destination }}"])
def test_valid_or_templated_save_allows_the_order(emulator, with_save, destination):
    with_save(destination)
    assert emulator.ledger.billed == 1


def test_save_on_another_queue_only_warns(emulator, with_save, caplog, monkeypatch):
    """Workers of that queue may have other libraries."""
    log = Mock()
    monkeypatch.setattr(ManxueCreateVideoOperator, "log", log)
    with_save("nosuch://bucket/a.mp4", queue="big")
    assert "another queue" in str(log.warning.call_args_list)
    assert emulator.ledger.billed == 1


# --- the trigger ----------------------------------------------------------------------------------------


def test_trigger_fires_once_despite_a_clock_change(monkeypatch):
    now, slept = [1000.0], []

    async def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds if len(slept) > 1 else -500.0

    monkeypatch.setattr(trigger_module, "time", Mock(time=lambda: now[0]))
    monkeypatch.setattr(trigger_module.asyncio, "sleep", sleep)

    async def run():
        return [event.payload async for event in ManxueOrderRoomTrigger(resume_at=1100.0).run()]

    assert asyncio.run(run()) == [{"version": 1, "status": "resend"}]
    assert now[0] == 1100.0
    assert max(slept) <= 60


class TestRecordForTheVideoTab:
    def test_rejected_order_has_its_reason_without_the_prompt(self, emulator, task):
        emulator.respond_with(Response(status=400, body=b'{"error": "bad prompt: a cat"}'), on="create")
        with pytest.raises(ManxueOrderRejectedError):
            task.run(prompt="a cat")

        last = task.tab_records[-1]
        assert last["error"] == "ManxueOrderRejectedError"
        assert "bad prompt: (prompt)" in last["message"]

    def test_wait_for_room_has_the_time_of_the_next_attempt(self, emulator, task):
        emulator.respond_with(Response(status=429), on="create")
        with pytest.raises(ManxueOrderTimeoutError):
            task.run(order_timeout=3600)

        first, *_, last = task.tab_records
        assert (first["state"], first["attempts"]) == ("waiting_for_room", 2)
        assert first["updated_at"] < first["next_at"] <= first["deadline"]
        assert (last["state"], last["error"]) == ("failed", "ManxueOrderTimeoutError")

    def test_order_that_was_not_sent_has_its_reason(self, task):
        with pytest.raises(ManxueInputError):
            task.run(duration="{{ params.seconds }}")

        assert task.tab_records[-1]["error"] == "ManxueInputError"
