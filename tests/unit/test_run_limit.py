"""
The limit of the seconds of video that a Dag run orders.

What is counted, and what is not promised, is in docs/ordering.md.
"""

from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import Mock

import pytest

from airflow.providers.common.compat.sdk import DAG, AirflowFailException, BaseOperator

from airflow_provider_manxue._airflow import ordered_wait
from airflow_provider_manxue._core.run_limit import KEY as COUNT
from airflow_provider_manxue._core.run_limit import parse_count
from airflow_provider_manxue.exceptions import (
    ManxueConfigurationError,
    ManxueError,
    ManxueInputError,
    ManxueOrderRejectedError,
    ManxueOrderTimeoutError,
    ManxueOrderUnknownError,
    ManxueRunLimitError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.operators import manxue as operator_module
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.testing import Response
from tests.support.orders import *  # noqa: F403 - its fixtures
from tests.support.orders import KEY, ORDER, ProcessKilled, TaskInstance, posts

LIMIT = {"max_seconds_per_run": 10, "wait_for_completion": False}


@pytest.fixture(autouse=True)
def has_state_store(monkeypatch):
    """The logic is the same on each Airflow. Only its first check asks for the version."""
    for module in (operator_module, ordered_wait):
        monkeypatch.setattr(module, "HAS_STATE_STORE", True)


@pytest.fixture
def shots(emulator, boundaries):
    """Three task instances of a Dag run."""
    instances = [TaskInstance(boundaries) for _ in range(3)]
    for number, instance in enumerate(instances):
        instance.map_index = number
        instance.run_xcoms = [one.xcom for one in instances]
    return instances


def counted(task):
    return task.store.get(COUNT)


def next_try(task):
    """Begin a try as Airflow does, without running it."""
    task.xcom.clear()


# --- within and above the limit -------------------------------------------------------------------------


def test_order_above_the_limit_sends_nothing(emulator, shots):
    for shot in shots[:2]:
        shot.run(**LIMIT, duration=5)
    with pytest.raises(ManxueRunLimitError) as caught:
        shots[2].run(**LIMIT, duration=5)
    assert posts(emulator) == 2
    assert shots[2].record is None
    assert counted(shots[2]) == shots[2].xcom[COUNT] == 0
    assert str(caught.value) == (
        "The order was not sent: it is for 5 s of video, and the tasks of this Dag run have ordered 10 s of at most 10 s "
        "(max_seconds_per_run). Raise max_seconds_per_run or order shorter videos, then clear this task."
    )
    assert isinstance(caught.value, AirflowFailException), "a retry would be refused again"


def test_shorter_order_still_fits(emulator, shots):
    shots[0].run(**LIMIT, duration=6)
    with pytest.raises(ManxueRunLimitError):
        shots[1].run(**LIMIT, duration=5)
    shots[2].run(**LIMIT, duration=4)
    assert posts(emulator) == 2


def test_refused_order_is_sent_after_the_limit_is_raised(emulator, task):
    with pytest.raises(ManxueRunLimitError):
        task.run(**LIMIT, duration=15)
    task.clear()
    task.run(**{**LIMIT, "max_seconds_per_run": 15.5}, duration=15)
    assert counted(task) == 15


def test_count_is_a_number_under_the_documented_key(emulator, task):
    """It is edited by hand, and read by tasks of other versions."""
    task.run(**LIMIT, duration=7)
    assert task.store.values["manxue_ordered_seconds"] == "7"
    assert task.xcom["manxue_ordered_seconds"] == 7


@pytest.mark.parametrize(("duration", "seconds"), [(None, 5), ("", 5), ("8", 8), (4, 4)])
def test_rendered_duration_is_counted(emulator, task, duration, seconds):
    operator = task._operator({**LIMIT, "duration": "{{ params.seconds }}"})
    operator.duration = duration  # as rendering does
    operator.execute(task.context)
    assert counted(task) == seconds


def test_without_a_limit_nothing_is_counted(emulator, task):
    task.run()
    assert set(task.store.values) == {KEY}
    assert COUNT not in task.xcom


def test_count_is_published_without_do_xcom_push(emulator, task):
    """Other tasks need it."""
    task.run(**LIMIT, do_xcom_push=False)
    assert task.xcom[COUNT] == 5


def test_never_fail_skips_and_soft_fail_does_not(emulator, task):
    from airflow.providers.common.compat.sdk import AirflowSkipException

    with pytest.raises(AirflowSkipException, match="at most 10 s"):
        task.run(**LIMIT, duration=15, never_fail=True)
    with pytest.raises(ManxueRunLimitError):
        task.run(**LIMIT, duration=15, soft_fail=True)


# --- at the same moment -----------------------------------------------------------------------------------


def test_two_tasks_at_the_same_moment_do_not_exceed_the_limit(emulator, shots, monkeypatch):
    """While the first is about to send its order, the second begins."""
    send, errors = ManxueHook.send_order, []

    def send_order(hook, request):
        monkeypatch.setattr(ManxueHook, "send_order", send)
        with pytest.raises(ManxueRunLimitError) as caught:
            shots[1].run(**LIMIT, duration=6)
        errors.append(caught.value)
        return send(hook, request)

    monkeypatch.setattr(ManxueHook, "send_order", send_order)
    shots[0].run(**LIMIT, duration=6)
    assert posts(emulator) == 1
    assert len(errors) == 1


def test_tasks_that_all_publish_first_are_all_refused(emulator, shots, monkeypatch):
    """The limit holds at this price, as documented."""
    pull, begun, seen = TaskInstance.xcom_pull, [], []

    def xcom_pull(self, **arguments):
        begun.append(self)
        if len(begun) < len(shots):
            with pytest.raises(ManxueRunLimitError):
                shots[len(begun)].run(**LIMIT, duration=5)
        else:
            seen.extend(pull(self, **arguments))  # all have published, and none has withdrawn its count
        return seen

    monkeypatch.setattr(TaskInstance, "xcom_pull", xcom_pull)
    with pytest.raises(ManxueRunLimitError):
        shots[0].run(**LIMIT, duration=5)
    assert posts(emulator) == 0


def test_count_that_is_not_returned_sends_nothing(emulator, task):
    """A proxy that answers 404 would look like a run without orders."""
    task.run_xcoms = []
    with pytest.raises(ManxueError, match="are unknown"):
        task.run(**LIMIT)
    assert posts(emulator) == 0
    assert counted(task) == 0


# --- retries and clears -----------------------------------------------------------------------------------


def test_retry_with_its_order_counts_it_once(emulator, shots):
    shots[0].run(**LIMIT, duration=5)
    shots[0].run(**LIMIT, duration=5)
    assert posts(emulator) == 1
    assert counted(shots[0]) == shots[0].xcom[COUNT] == 5
    shots[1].run(**LIMIT, duration=5)


def test_clear_that_orders_again_counts_both(emulator, task):
    task.run(**LIMIT, duration=5)
    task.clear()
    task.run(**LIMIT, duration=5)
    assert counted(task) == task.xcom[COUNT] == 10
    task.clear()
    with pytest.raises(ManxueRunLimitError, match="have ordered 10 s"):
        task.run(**LIMIT, duration=5)
    assert (counted(task), posts(emulator)) == (10, 2)


def test_orders_without_durable_are_all_counted(emulator, task):
    for _ in range(2):
        task.run(**LIMIT, durable=False, duration=5)
    with pytest.raises(ManxueRunLimitError):
        task.run(**LIMIT, durable=False, duration=5)


def test_retry_publishes_before_any_of_its_errors(emulator, shots):
    """Airflow has deleted the XCom. Other tasks must see the order also if this try fails early."""
    shots[0].run(**LIMIT, duration=10)
    next_try(shots[0])
    operator = shots[0]._operator(LIMIT)
    operator.duration = 99  # as rendering does
    with pytest.raises(ManxueInputError):
        operator.execute(shots[0].context)
    with pytest.raises(ManxueRunLimitError):
        shots[1].run(**LIMIT, duration=5)


def test_killed_worker_leaves_its_order_counted(emulator, task, monkeypatch):
    """It may have been sent."""
    monkeypatch.setattr(ManxueHook, "send_order", Mock(side_effect=ProcessKilled))
    with pytest.raises(ProcessKilled):
        task.run(**LIMIT, duration=6)
    assert counted(task) == 6


# --- outcomes of an order ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "error"),
    [(Response(status=400), ManxueOrderRejectedError), (Response(status=429), ManxueOrderTimeoutError)],
)
def test_order_that_was_not_accepted_is_not_counted(emulator, task, response, error):
    emulator.respond_with(response, on="create")
    with pytest.raises(error):
        task.run(**LIMIT, order_timeout=200)
    assert counted(task) == task.xcom[COUNT] == 0


def test_order_that_waits_for_room_is_counted_when_it_is_accepted(emulator, task):
    emulator.fail_next(4, Response(status=429), on="create")
    task.run(**LIMIT, duration=8)
    assert posts(emulator) == 5
    assert counted(task) == task.xcom[COUNT] == 8


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (Response(status=502), ManxueOrderUnknownError),
        (Response.named("create_answers_failed"), ManxueVideoFailedError),
    ],
)
def test_order_that_may_be_billed_is_counted(emulator, task, response, error):
    emulator.respond_with(response, on="create")
    with pytest.raises(error):
        task.run(**LIMIT, duration=6)
    assert counted(task) == 6
    with pytest.raises(error):  # a retry
        task.run(**LIMIT, duration=6)
    assert counted(task) == task.xcom[COUNT] == 6


def test_order_that_was_never_sent_is_not_counted(emulator, task, monkeypatch):
    monkeypatch.setattr(ManxueHook, "send_order", Mock(side_effect=ManxueConfigurationError("bad host.")))
    with pytest.raises(ManxueConfigurationError):
        task.run(**LIMIT)
    assert counted(task) == 0


def test_order_is_not_sent_if_it_cannot_be_counted(emulator, task):
    task.store.broken = 1
    with pytest.raises(RuntimeError):
        task.run(**LIMIT)
    assert posts(emulator) == 0


def test_count_that_cannot_be_restored_is_logged_with_the_remedy(emulator, task, monkeypatch):
    log = Mock()
    monkeypatch.setattr(ManxueCreateVideoOperator, "log", log)
    emulator.respond_with(Response(status=400), on="create")
    written = task.store.set

    def set_(key, value, **options):
        if key == COUNT and value == 0:
            raise RuntimeError("the store is away")
        written(key, value, **options)

    monkeypatch.setattr(task.store, "set", set_)
    with pytest.raises(ManxueOrderRejectedError):
        task.run(**LIMIT)
    [call] = [call for call in log.warning.call_args_list if COUNT in call.args]
    assert "set the key 'manxue_ordered_seconds' to 0" in call.args[0] % call.args[1:]


@pytest.mark.parametrize("value", ["many", -1, True, [5]])
def test_stored_value_that_is_no_number_sends_nothing(emulator, task, value):
    task.store.set(COUNT, value)
    with pytest.raises(ManxueInputError, match="which is not a number of seconds"):
        task.run(**LIMIT)
    assert posts(emulator) == 0


def test_stored_value_that_is_no_number_is_named_with_its_remedy():
    with pytest.raises(ManxueInputError) as caught:
        parse_count("x" * 300)
    assert str(caught.value) == (
        f"The key 'manxue_ordered_seconds' holds '{'x' * 199}, which is not a number of seconds. The order was not sent. Put the "
        f"number of seconds there that this task instance has ordered, then clear this task."
    )


def test_numbers_are_seconds():
    assert [parse_count(value) for value in (None, 0, 2.5, 7)] == [0, 0, 2.5, 7]


# --- the argument -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1, True, "60", float("nan"), float("inf"), "{{ params.limit }}"])
def test_limit_that_is_no_positive_number_is_refused_at_parse_time(limit):
    with pytest.raises(ManxueInputError, match="max_seconds_per_run must be a positive number"):
        ManxueCreateVideoOperator(task_id="order", **ORDER, max_seconds_per_run=limit)
    with pytest.raises(ManxueInputError, match="max_seconds_per_run must be a positive number"):
        ManxueCreateVideoOperator.partial(task_id="order", max_seconds_per_run=limit)


def test_limit_below_3_3_is_refused_at_parse_time(monkeypatch):
    monkeypatch.setattr(operator_module, "HAS_STATE_STORE", False)
    for make in (ManxueCreateVideoOperator, ManxueCreateVideoOperator.partial):
        with pytest.raises(ManxueInputError, match=r"max_seconds_per_run=10 cannot be used.*3\.3"):
            make(task_id="order", **ORDER, max_seconds_per_run=10)
        make(task_id="order", **ORDER, retries=0)


def test_counts_of_all_orders_of_the_dag_are_read(emulator, task):
    """Mapped or not. A task without the argument publishes nothing."""
    with DAG("episode", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
        order = ManxueCreateVideoOperator(task_id="order", **ORDER, **LIMIT)
        ManxueCreateVideoOperator.partial(task_id="shots", model="m", **LIMIT).expand(prompt=["a", "b"])
        BaseOperator(task_id="other")
    context, pulled = task.context, []
    pull = context["ti"].xcom_pull

    def xcom_pull(*, task_ids, key):
        pulled.append(sorted(task_ids))
        return pull(task_ids=task_ids, key=key)

    context["ti"].xcom_pull = xcom_pull
    order.execute(context)
    assert pulled == [["order", "shots"]]
