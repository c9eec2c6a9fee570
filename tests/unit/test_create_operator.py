"""
The create operator: results, errors, and protection against a second order after crashes, retries and clears.

The rules and their reasons are in docs/ordering.md.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import timedelta
from unittest.mock import Mock

import pytest

from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_provider_manxue._core.events import error_event
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueInputError,
    ManxueOrderError,
    ManxueOrderMismatchError,
    ManxueOrderNotAcceptedError,
    ManxueOrderRejectedError,
    ManxueOrderTimeoutError,
    ManxueOrderUnknownError,
    ManxueTimeoutError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.testing import Response, Script
from tests.support.orders import *  # noqa: F403 - its fixtures
from tests.support.orders import KEY, ORDER, ProcessKilled, TaskInstance, posts, run_with_retries

MODES = {"deferred": {}, "poke": {"deferrable": False}}


# --- order and result ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("durable", [True, False])
def test_result_matches_the_sensor(emulator, task, mode, durable):
    result = task.run(**MODES[mode], durable=durable)
    [order] = emulator.ledger.orders
    assert result["id"] == order.id
    assert result["status"] == "completed"
    assert task.xcom == {
        "video_task_id": order.id,
        "video_url": result["video_url"],
        "actualDuration": 5.0,
        "return_value": result,
    }


def test_id_is_returned_without_waiting(emulator, task):
    result = task.run(wait_for_completion=False)
    assert result == emulator.ledger.orders[0].id == task.xcom["video_task_id"]
    assert not emulator.polls(result)
    assert task.record["state"] == "done"


def test_do_xcom_push_off_pushes_nothing(task):
    task.run(do_xcom_push=False, deferrable=False)
    assert set(task.xcom) == {"return_value"}


def test_id_is_stored_and_logged_before_the_wait(emulator, task, boundaries, monkeypatch):
    """A crash during the wait must not lose the id of a paid order."""
    log = Mock()
    log.info.side_effect = lambda *args: boundaries.passed.append(f"log {args[0]}")
    monkeypatch.setattr(ManxueHook, "log", log)
    task.run(deferrable=False)
    assert boundaries.passed[:12] == [
        "before get",
        "after get",
        "before set",
        "after set",
        "before get",
        "after get",
        "before send_order",
        "log Ordered the video %s (model %s).",
        "after send_order",
        "before set",
        "after set",
        "before xcom",
    ]
    assert emulator.ledger.orders[0].id in str(log.info.call_args_list)


def test_record_matches_the_documentation(emulator, task):
    task.run(duration=8)
    record = task.record
    assert set(record.pop("fingerprint")) == {"prompt", "model", "duration"}
    assert record.pop("since").endswith("+00:00")
    assert record == {"state": "done", "id": emulator.ledger.orders[0].id, "max_tries": 2, "scheme": 2}
    assert "a cat" not in task.store.values[KEY]


def test_bad_literals_are_rejected_at_parse_time():
    with pytest.raises(ManxueInputError, match=r"prompt is ''.*duration is 3"):
        ManxueCreateVideoOperator(task_id="order", model="m", prompt="", duration=3)


@pytest.mark.parametrize(
    "field",
    ["prompt", "model", "duration", "ratio", "first_image", "last_image", "reference_images", "reference_videos",
     "reference_audios", "manxue_conn_id"],
)  # fmt: skip
def test_every_parameter_is_templated(field):
    assert field in ManxueCreateVideoOperator.template_fields


@pytest.mark.parametrize("value", ["{{ params.seconds }}", Mock(resolve=None)])
def test_templates_are_not_checked_at_parse_time(emulator, task, value):
    """Only rendering gives them their values."""
    ManxueCreateVideoOperator(task_id="order", **ORDER, duration=value)
    ManxueCreateVideoOperator(task_id="order", **ORDER, reference_images=[value])


IMAGE = "https://example.com/1.png"
BAD = {
    "empty prompt": ({"prompt": ""}, "prompt is ''"),
    "too short": ({"duration": 3}, "duration is 3"),
    "too long": ({"duration": 16}, "duration is 16"),
    "no number": ({"duration": "abc"}, "duration is 'abc'"),
    "ratio": ({"ratio": "2:1"}, "ratio is '2:1'"),
    "first image and references": (
        {"first_image": IMAGE, "reference_images": [IMAGE]},
        "reference_images cannot be combined with first_image",
    ),
    "ten images": ({"reference_images": [IMAGE] * 10}, "reference_images has 10 URLs"),
    "reference video of a model that takes none": (
        {"reference_videos": ["https://example.com/1.mp4"]},
        "the model sd2_manxue_720p takes none",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_rejected_when_parsed_and_rendered(emulator, task, name):
    values, words = BAD[name]
    with pytest.raises(ManxueInputError, match=words):
        ManxueCreateVideoOperator(task_id="order", **{**ORDER, **values})
    operator = ManxueCreateVideoOperator(task_id="order", **ORDER)
    for field, value in values.items():
        setattr(operator, field, value)  # as rendering does
    with pytest.raises(ManxueInputError, match=words):
        operator.execute(task.context)
    assert not emulator.requests
    assert task.record is None


def test_operator_can_be_mapped():
    with DAG("episode", schedule=None):
        orders = ManxueCreateVideoOperator.partial(task_id="order", model="sd2_manxue_720p", duration=5)
        shots = orders.expand(prompt=["a cat", "a dog"])
        references = [{"prompt": "a cat", "reference_images": ["asset://1"]}]
        ManxueCreateVideoOperator.partial(task_id="other", model="m").expand_kwargs(references)
    assert shots.output is not None


def test_reschedule_mode_is_rejected():
    """Each poll would run ``execute()`` again, and thus order again."""
    with pytest.raises(ManxueInputError, match="each poll would order again"):
        ManxueCreateVideoOperator(task_id="order", **ORDER, deferrable=False, mode="reschedule")


def test_mode_changed_by_an_executor_orders_once(emulator, old):
    """The ``DebugExecutor`` of Airflow 2 changes the mode of each sensor to reschedule."""
    operator = ManxueCreateVideoOperator(task_id="order", **ORDER, deferrable=False)
    operator.mode = "reschedule"
    assert operator.execute(old.context)["status"] == "completed"
    assert emulator.ledger.billed == 1


def test_dag_file_loads_no_http_library():
    """Airflow parses each Dag file again and again."""
    code = (
        "import sys\n"
        "import airflow.providers.common.compat.sdk\n"
        "from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator\n"
        "BaseOperator(task_id='any')  # Airflow 3.0 loads some of them by itself\n"
        "known = set(sys.modules)\n"
        "from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator\n"
        "ManxueCreateVideoOperator(task_id='order', prompt='a cat', model='sd2_manxue_720p')\n"
        "print(sorted({'requests', 'aiohttp', 'yarl', 'urllib3', 'fsspec'} & (set(sys.modules) - known)))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.splitlines()[-1] == "[]"


# --- errors ----------------------------------------------------------------------------------------


def test_failed_video_fails_or_is_skipped(emulator, task):
    emulator.default_script = Script.failing("too dark")
    with pytest.raises(ManxueVideoFailedError, match="too dark"):
        task.run(deferrable=False)
    assert task.record["state"] == "failed"
    task.clear()
    with pytest.raises(AirflowSkipException):
        task.run(deferrable=False, soft_fail=True)


def test_order_that_fails_immediately_is_failed(emulator, task):
    """The service accepted the order, so a retry must not send it again."""
    emulator.respond_with(Response.named("create_answers_failed"))
    with pytest.raises(ManxueVideoFailedError):
        task.run()
    assert task.record["state"] == "failed"
    with pytest.raises(ManxueVideoFailedError, match="Clear the task"):
        task.run()
    assert len(emulator.ledger.orders) == 1


def test_clear_after_a_timeout_resumes_the_order(emulator, task):
    """The video is paid for and may be ready by now, so not even a clear orders another one."""
    emulator.default_script = Script.by_hand("processing", "completed")
    with pytest.raises(ManxueTimeoutError) as caught:
        task.run(deferrable=False, timeout=60)
    assert isinstance(caught.value, AirflowSensorTimeout)
    [order] = emulator.ledger.orders
    emulator.set_status(order.id, "completed")
    task.clear()
    assert task.run(deferrable=False)["id"] == order.id
    assert emulator.ledger.billed == 1


def test_failure_in_the_triggerer_is_recorded(emulator, task):
    """Otherwise a retry would wait again for a video that has failed."""
    emulator.default_script = Script.by_hand("processing")
    operator = ManxueCreateVideoOperator(task_id="order", **ORDER)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(task.context)
    error = ManxueVideoFailedError("too dark")
    kwargs = {**deferred.value.kwargs, "event": error_event(emulator.ledger.orders[0].id, error)}
    with pytest.raises(ManxueVideoFailedError, match="too dark"):
        operator.resume_execution("execute_complete", kwargs, task.context)
    assert task.record["state"] == "failed"


# --- a failed POST ----------------------------------------------------------------------------------


UNKNOWN = {
    "reset before the order": Response(reset="before"),
    "reset after the body": Response(reset="after"),
    "read timeout": Response(hang=True),
    "error page": Response(body="<html>"),
    "500 after the order": Response(status=500, processed=True),
    **{str(status): Response(status=status) for status in (408, 409, 500, 502, 503, 504)},
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("binds", [True, False])
def test_unknown_order_is_sent_once_and_not_retried(emulator, boundaries, connect, name, binds):
    """The service may have accepted the order, so another one could be a second bill."""
    task = TaskInstance(boundaries, store=binds, retries=5)
    connect(request_timeout=1)
    emulator.respond_with(UNKNOWN[name], on="create")
    with pytest.raises(ManxueOrderUnknownError) as caught:
        run_with_retries(task)
    assert task.try_number == 1
    assert ("state-store/manxue_order" in str(caught.value)) is binds
    if binds:
        # A later retry or clear stops as well.
        for _ in range(2):
            with pytest.raises(ManxueOrderUnknownError, match="state-store/manxue_order"):
                task.run()
            task.clear()
    assert posts(emulator) == 1
    assert emulator.ledger.billed <= 1


@pytest.mark.parametrize("binds", [True, False])
@pytest.mark.parametrize("failure", ["name", "tls", "refused"])
def test_order_without_a_connection_is_retried(emulator, boundaries, connect, monkeypatch, failure, binds):
    """No byte of the order was sent, so that another attempt cannot be billed twice."""
    task = TaskInstance(boundaries, store=binds, retries=1)
    if failure == "name":
        connect(host="https://no-such-host.invalid/kyyReactApiServer")
        monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=socket.gaierror(-2, "not known")))
    elif failure == "tls":
        connect(host=emulator.base_url.replace("http://", "https://"))
    else:
        emulator.stop()
    with pytest.raises(ManxueOrderTimeoutError, match="order_timeout"):
        run_with_retries(task, order_timeout=200)
    assert task.try_number == 1 + 1
    assert posts(emulator) == 0
    assert not binds or task.record["state"] == "not_accepted"


@pytest.mark.parametrize("binds", [True, False])
@pytest.mark.parametrize("status", [425, 429])
def test_unaccepted_order_is_retried_and_billed_once(emulator, boundaries, status, binds):
    """Both statuses mean that the service did not accept the order (RFC 6585, section 4; RFC 8470, section 5.2)."""
    task = TaskInstance(boundaries, store=binds, retries=5)
    emulator.fail_next(9, Response(status=status), on="create")
    assert run_with_retries(task, order_timeout=200)["id"] == emulator.ledger.orders[0].id
    assert task.try_number == 2
    assert emulator.ledger.billed == 1


def test_unknown_order_resumes_with_an_id_from_a_person(emulator, task):
    emulator.fail_next(1, Response.named("create_reset_after_order"), on="create")
    with pytest.raises(ManxueOrderUnknownError):
        task.run()
    found = emulator.ledger.orders[0].id
    task.clear()
    task.store.set(KEY, found)
    assert task.run()["id"] == found
    assert emulator.ledger.billed == 1
    assert task.record["state"] == "done"


def test_deleted_record_allows_a_new_order(emulator, task):
    emulator.fail_next(1, Response(status=502), on="create")
    with pytest.raises(ManxueOrderUnknownError):
        task.run()
    task.clear()
    task.store.delete(KEY)
    assert task.run()["id"] == emulator.ledger.orders[0].id
    assert emulator.ledger.billed == 1


@pytest.mark.parametrize(
    ("response", "error"),
    [(Response(status=429), ManxueOrderTimeoutError), (Response(status=400), ManxueOrderRejectedError)],
)
def test_next_try_sends_an_unaccepted_order_again(emulator, task, response, error):
    """Nothing was ordered, so that nothing can be billed twice."""
    emulator.respond_with(response, on="create")
    with pytest.raises(error):
        task.run()
    assert task.record["state"] == "not_accepted"
    emulator.respond_with(None)
    assert task.run()["status"] == "completed"


# --- retry and clear ------------------------------------------------------------------------------------


def test_retry_resumes_the_order_and_a_clear_orders_again(emulator, task):
    """Each order is billed, so a retry never orders again. A clear by a person does."""
    first = task.run()["id"]
    assert task.run()["id"] == first
    assert emulator.ledger.billed == 1
    task.clear()
    second = task.run()["id"]
    assert second != first
    assert emulator.ledger.billed == 2


def test_retry_without_waiting_resumes_the_order(emulator, task):
    """Each order is billed, so a retry never orders again. A clear by a person does."""
    first = task.run(wait_for_completion=False)
    assert task.run(wait_for_completion=False) == first
    task.clear()
    assert task.run(wait_for_completion=False) != first


def test_clear_after_a_failed_video_orders_again(emulator, task):
    emulator.default_script = Script.failing("too dark")
    with pytest.raises(ManxueVideoFailedError):
        task.run(deferrable=False)
    emulator.default_script = Script.polls("completed")
    with pytest.raises(ManxueVideoFailedError, match="Clear the task"):
        task.run(deferrable=False)
    task.clear()
    assert task.run(deferrable=False, prompt="a bright cat")["status"] == "completed"
    assert len(emulator.ledger.orders) == 2


def test_clear_with_a_changed_request_sends_nothing(emulator, task, boundaries):
    """The first video is paid for and not delivered yet. Only a person can decide to drop it."""
    emulator.default_script = Script.by_hand("processing")
    with pytest.raises(ManxueTimeoutError):
        task.run(deferrable=False, timeout=60)
    sent = len(emulator.requests)
    task.clear()
    with pytest.raises(ManxueOrderMismatchError) as caught:
        task.run(prompt="a dog", duration=8)
    assert emulator.ledger.orders[0].id in str(caught.value)
    assert "duration, prompt changed" in str(caught.value)
    assert len(emulator.requests) == sent


def test_stored_id_unknown_to_the_service_is_reported(emulator, task):
    """The service may have deleted a record of a paid video, so the task must not order again."""
    task.store.set(KEY, "proj_gone")
    with pytest.raises(ManxueOrderUnknownError, match=r"proj_gone.*HTTP 404.*state-store/manxue_order"):
        task.run(deferrable=False)
    assert emulator.ledger.billed == 0


@pytest.mark.parametrize("mode", MODES)
def test_kill_and_retry_never_orders_twice(emulator, boundaries, mode):
    """Kills the worker at each boundary. Airflow then retries the task."""
    TaskInstance(boundaries).run(**MODES[mode])
    moments = len(boundaries.passed)
    assert moments > 15
    for kill_at in range(moments):
        billed = emulator.ledger.billed
        boundaries.passed.clear()
        boundaries.kill_at = kill_at
        task = TaskInstance(boundaries)
        with pytest.raises(ProcessKilled) as kill:
            task.run(**MODES[mode])
        try:
            result = task.run(**MODES[mode])
        except ManxueOrderUnknownError:
            assert str(kill.value) in {"after set", "before send_order", "after send_order", "before get", "after get",
                                       "before set"}  # fmt: skip
            assert task.record["state"] == "intent"
        else:
            assert result["id"] == emulator.ledger.orders[-1].id
            assert emulator.ledger.billed == billed + 1
        assert emulator.ledger.billed <= billed + 1


def test_kill_and_clear_orders_twice_only_after_done(emulator, boundaries):
    """Kills the worker at each boundary. A person then clears the task."""
    TaskInstance(boundaries).run()
    for kill_at in range(len(boundaries.passed)):
        billed = emulator.ledger.billed
        boundaries.passed.clear()
        boundaries.kill_at = kill_at
        task = TaskInstance(boundaries)
        with pytest.raises(ProcessKilled):
            task.run()
        done = (task.record or {}).get("state") == "done"
        task.clear()
        try:
            task.run()
        except ManxueOrderUnknownError:
            assert task.record["state"] == "intent"
        assert emulator.ledger.billed - billed <= 1 + done


def test_clear_that_resumed_differs_from_the_next_clear(emulator, task, boundaries):
    emulator.default_script = Script.by_hand("processing", "completed")
    with pytest.raises(ManxueTimeoutError):
        task.run(deferrable=False, timeout=60)
    emulator.set_status(emulator.ledger.orders[0].id, "completed")
    task.clear()
    first = task.run()["id"]
    assert task.run()["id"] == first, "a retry after the clear resumes the order"
    task.clear()
    emulator.default_script = Script.polls("completed")
    assert task.run()["id"] != first, "the next clear orders again"


# --- a failing or missing state store ----------------------------------------------------------------


def test_failed_write_of_the_intent_sends_nothing(emulator, task):
    """Without the record of the intent, a retry after a crash could order again."""
    task.store.broken = 1
    with pytest.raises(RuntimeError, match="the store is away"):
        task.run()
    assert not emulator.requests


def test_failed_write_of_the_id_is_retried(emulator, task, monkeypatch):
    """Without the id, the next try would stop with an unknown order."""
    real = ManxueHook.send_order

    def send(self, *args):
        response = real(self, *args)
        task.store.broken = 3
        return response

    monkeypatch.setattr(ManxueHook, "send_order", send)
    task.run()
    assert task.record["state"] == "done"


def test_order_is_awaited_if_its_id_cannot_be_stored(emulator, task, monkeypatch):
    """The worker knows the id of the paid video, so that only a crash of the worker would lose it."""
    real = ManxueHook.send_order

    def send(self, *args):
        response = real(self, *args)
        task.store.broken = 100
        return response

    monkeypatch.setattr(ManxueHook, "send_order", send)
    assert task.run()["status"] == "completed"
    assert task.record["state"] == "intent"


def test_durable_off_stores_nothing_and_orders_again(emulator, task):
    """The documented choice of an author for whom each try is a new order."""
    first = task.run(durable=False)["id"]
    assert task.run(durable=False)["id"] != first
    assert task.record is None


def test_missing_store_is_logged_once(emulator, old, monkeypatch):
    log = Mock()
    monkeypatch.setattr(ManxueCreateVideoOperator, "log", log)
    assert old.run()["status"] == "completed"
    assert sum("no task state store" in call.args[0] for call in log.warning.call_args_list) == 1


def test_error_after_an_unstored_order_is_not_retried(emulator, old, monkeypatch):
    """Below Airflow 3.3 there is no task state store, so a retry would order again."""

    def refuse(*args):
        raise ManxueAuthenticationError("the key was refused")

    monkeypatch.setattr(ManxueHook, "get_video_task", refuse)
    with pytest.raises(ManxueOrderError, match="the key was refused") as caught:
        old.run()
    assert isinstance(caught.value, AirflowFailException)
    assert emulator.ledger.orders[0].id in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"durable": False}])
def test_error_after_a_stored_order_is_retried(task, monkeypatch, options):
    """Also without ``durable``, since the author then accepts a second order."""

    def refuse(*args):
        raise ManxueAuthenticationError("the key was refused")

    monkeypatch.setattr(ManxueHook, "get_video_task", refuse)
    with pytest.raises(ManxueAuthenticationError) as caught:
        task.run(**options)
    assert not isinstance(caught.value, AirflowFailException)


def test_never_fail_skips_an_unknown_order(emulator, task):
    emulator.respond_with(Response(status=502), on="create")
    with pytest.raises(AirflowSkipException, match="unknown"):
        task.run(never_fail=True)


def test_order_errors_derive_from_manxue_error():
    assert issubclass(ManxueOrderError, ManxueError)
    assert issubclass(ManxueOrderNotAcceptedError, ManxueError)


def test_execution_timeout_bounds_the_wait():
    operator = ManxueCreateVideoOperator(task_id="order", **ORDER, execution_timeout=timedelta(seconds=5))
    assert operator._limits.wait_timeout == 5
