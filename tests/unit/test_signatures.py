"""Arguments of the tasks: their types, names and defaults, those of Airflow's base classes included."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from airflow.exceptions import AirflowException
from airflow.providers.common.compat.sdk import DAG, BaseOperator, BaseSensorOperator

from airflow_provider_manxue.operators.assets import ManxueReviewAssetsOperator
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor

ROOT = Path(__file__).parents[2]

TASKS = {
    ManxueVideoSensor: {"video_task_id": "proj_1"},
    ManxueVideoBatchSensor: {"video_task_ids": ["proj_1"]},
    ManxueCreateVideoOperator: {"prompt": "a cat", "model": "sd2_manxue_720p"},
    ManxueReviewAssetsOperator: {"image_urls": ["https://files.example/face.png"]},
}

OF_AIRFLOW = {
    "execution_timeout",
    "exponential_backoff",
    "max_wait",
    "soft_fail",
    "never_fail",
    "do_xcom_push",
}
"""Arguments of Airflow's that each task interprets, with Airflow's defaults."""

ARGUMENTS = {
    "poke_interval": timedelta(seconds=45),
    "timeout": timedelta(hours=1),
    "execution_timeout": timedelta(hours=2),
    "exponential_backoff": True,
    "max_wait": timedelta(seconds=90),
    "soft_fail": True,
    "retries": 0,
    "do_xcom_push": False,
    "deferrable": False,
    "manxue_conn_id": "another",
}
ATTRIBUTES = {**ARGUMENTS, "poke_interval": 45.0, "timeout": 3600.0}

TYPES = """
from datetime import timedelta
from airflow_provider_manxue.operators.assets import ManxueReviewAssetsOperator
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor

ManxueVideoSensor(task_id="a", video_task_id="x", timeout=60, max_wait=timedelta(hours=1), retries=2, pool="videos")
ManxueVideoSensor(task_id="a", video_task_id=7)  # wrong
ManxueVideoSensor(task_id="a", video_task_id="x", timeout="1h")  # wrong
ManxueVideoSensor(task_id="a", video_task_id="x", mode=True)  # wrong
ManxueVideoSensor(task_id="a", video_task_id="x", soft_fail="no")  # wrong
ManxueVideoSensor(task_id="a", video_task_id="x", execution_timeout=60)  # wrong
ManxueVideoBatchSensor(task_id="a", video_task_ids=["x"], poke_interval=timedelta(minutes=1))
ManxueVideoBatchSensor(task_id="a", video_task_ids=["x"], poke_interval="30")  # wrong
ManxueVideoBatchSensor(task_id="a", video_task_ids=["x"], never_fail=None)  # wrong
ManxueCreateVideoOperator(task_id="a", prompt="x", model="m", order_timeout=60.0, execution_timeout=None)
ManxueCreateVideoOperator(task_id="a", prompt="x", model="m", retries="2")  # wrong
ManxueCreateVideoOperator(task_id="a", prompt="x", model="m", max_wait="1m")  # wrong
ManxueCreateVideoOperator(task_id="a", prompt="x", model="m", do_xcom_push=0.5)  # wrong
ManxueReviewAssetsOperator(task_id="a", image_urls=["x"], tolerate_failures=True)
ManxueReviewAssetsOperator(task_id="a", image_urls=7)  # wrong
"""


@pytest.fixture(params=TASKS, ids=lambda task: task.__name__)
def task_class(request):
    return request.param


def default_of(function, name):
    return inspect.signature(function.__init__).parameters[name].default


def airflow_default(name):
    base = BaseSensorOperator if name in inspect.signature(BaseSensorOperator).parameters else BaseOperator
    return default_of(base, name)


@pytest.mark.parametrize("name", sorted(OF_AIRFLOW))
def test_default_is_that_of_airflow(task_class, name):
    assert default_of(task_class, name) == airflow_default(name)


def test_default_of_retries_is_that_of_airflow():
    """The operator alone reads ``retries``."""
    assert default_of(ManxueCreateVideoOperator, "retries") == airflow_default("retries")


def test_default_follows_the_configuration_also_in_a_mapped_task():
    """Airflow reads its options when it is imported, hence another process."""
    code = (
        "from airflow.providers.common.compat.sdk import DAG\n"
        "from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator as Order\n"
        "with DAG('dag', schedule=None):\n"
        "    task = Order(task_id='a', prompt='x', model='m', durable=False)\n"
        "    mapped = Order.partial(task_id='b', model='m', durable=False).expand(prompt=['x'])\n"
        "print([(one.retries, one.execution_timeout.total_seconds()) for one in (task, mapped)])\n"
    )
    options = {
        "AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "3",
        "AIRFLOW__CORE__DEFAULT_TASK_EXECUTION_TIMEOUT": "77",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            patch.setenv(name, value)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[(3, 77.0), (3, 77.0)]"


def test_default_args_reach_each_argument(task_class):
    with DAG("dag", schedule=None, default_args=ARGUMENTS):
        task = task_class(task_id="task", **TASKS[task_class])
    assert {name: getattr(task, name) for name in ATTRIBUTES} == ATTRIBUTES


def test_default_args_reach_each_argument_of_a_mapped_task(task_class):
    [(field, value), *others] = TASKS[task_class].items()
    with DAG("dag", schedule=None, default_args=ARGUMENTS):
        mapped = task_class.partial(task_id="task", **dict(others)).expand(**{field: [value]})
    task = mapped.unmap({field: value})
    assert {name: getattr(task, name) for name in ATTRIBUTES} == ATTRIBUTES


def test_argument_wins_over_default_args(task_class):
    with DAG("dag", schedule=None, default_args=ARGUMENTS):
        task = task_class(task_id="task", **TASKS[task_class], soft_fail=False, timeout=60)
    assert (task.soft_fail, task.timeout) == (False, 60.0)


def test_mode_of_default_args_reaches_the_sensors():
    with DAG("dag", schedule=None, default_args={"mode": "reschedule", "deferrable": False}):
        assert ManxueVideoSensor(task_id="task", video_task_id="proj_1").reschedule


def test_wrong_name_fails_when_the_dag_is_parsed(task_class):
    with pytest.raises((TypeError, AirflowException), match="poke_intervall"):
        task_class(task_id="task", **TASKS[task_class], poke_intervall=30)


@pytest.mark.long
def test_wrong_type_fails_mypy(tmp_path):
    from mypy import api

    file = tmp_path / "tasks.py"
    file.write_text(TYPES)
    # The options of `make types`, whose cache saves a minute.
    found, problems, _ = api.run(["--config-file", str(ROOT / "pyproject.toml"), str(file)])
    # The cache can name the file of an earlier run.
    errors = {int(number) for number in re.findall(r"/tasks\.py:(\d+): error:", found)}
    wrong = {number for number, line in enumerate(TYPES.splitlines(), start=1) if line.endswith("# wrong")}
    assert problems == ""
    assert errors == wrong, found
