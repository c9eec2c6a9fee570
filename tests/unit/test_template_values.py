"""
Values of templates in the triggerer and on a worker, for each name of Airflow's context.

The reasons are in the docstring of ``_airflow/templates.py``.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace

import pytest
from jinja2 import Undefined, UndefinedError

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue._airflow.templates import WorkerOnlyTemplateError, check_template, find_xcom_pull
from airflow_provider_manxue._airflow.xcoms import render_pull
from airflow_provider_manxue.sensors.manxue import ManxueVideoSensor
from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger
from tests.unit.test_templates import ALLOWED

pytestmark = pytest.mark.skipif(
    not CAN_START_AND_END, reason="this Airflow renders no template in the triggerer"
)

ITSELF = ("{{ NAME }}",)
DATE = ("{{ NAME }}", "{{ NAME | ts }}", "{{ NAME.add(days=1).isoformat() }}", "{{ NAME.format('zz Z') }}")
DECIDED = {
    **dict.fromkeys(("ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz", "run_id"), ITSELF),
    **dict.fromkeys(("logical_date", "data_interval_start", "data_interval_end"), DATE),
    "params": ("{{ params }}", "{{ params.pair }}", "{{ params.nested['b'][0] }}", "{{ params | tojson }}"),
    "dag": ("{{ dag.dag_id }}",),
    "task": ("{{ task.task_id }}",),
    "dag_run": (
        "{{ dag_run.conf }}",
        "{{ dag_run.run_id }}",
        "{{ dag_run.logical_date }}",
        "{{ dag_run.logical_date.strftime('%Y-%m-%dT%H:%M:%S.%f %Z%z') }}",
    ),
    "macros": ("{{ macros.ds_add('2026-01-01', 1) }}", "{{ macros.dateutil.parser.isoparse('2026-02') }}"),
    # Parsed as an XCom reference, and compared below.
    "ti": (),
    "task_instance": (),
    # Need a worker.
    **dict.fromkeys(("conn", "var", "task_state_store", "asset_state_store"), ()),
    **dict.fromkeys(("inlets", "outlets", "inlet_events", "outlet_events", "triggering_asset_events"), ()),
    **dict.fromkeys(("prev_data_interval_start_success", "prev_data_interval_end_success"), ()),
    **dict.fromkeys(("prev_start_date_success", "prev_end_date_success"), ()),
    **dict.fromkeys(("partition_key", "partition_date", "expanded_ti_count", "map_index_template"), ()),
    **dict.fromkeys(("try_number", "task_reschedule_count", "task_instance_key_str", "test_mode"), ()),
    **dict.fromkeys(("exception", "reason", "templates_dict"), ()),
}
"""Templates allowed in the triggerer, by name of Airflow's context. None for a name that needs a worker."""

TEMPLATES = [
    *(form.replace("NAME", name) for name, forms in DECIDED.items() for form in forms),
    *ALLOWED,
    "{{ params.unknown }}",
    "{{ params.unknown.id }}",
]
RUNS = {
    "plain": {"logical_date": datetime(2026, 3, 29, 0, 59, 58, 123456, tzinfo=UTC), "conf": None},
    "configured": {
        "logical_date": datetime(2026, 3, 29, tzinfo=UTC),
        "conf": {
            "id": "PROJ_7",
            "videos": ["proj_1", 2],
            "own": None,
            "key": "id",
            "n": 3,
            "text": '{"a": "b"}',
        },
    },
    "undated": {"logical_date": None, "conf": {"a": 1, "b": 1.5, "videos": [{"id": "x"}, {"id": "y"}]}},
}


def test_every_context_name_is_classified():
    from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

    worker, triggerer = sides("plain").contexts
    assert set(DECIDED) == KNOWN_CONTEXT_KEYS | set(worker) | set(triggerer)


@pytest.mark.parametrize("name", DECIDED)
def test_name_is_allowed_only_as_classified(name):
    for template in DECIDED[name]:
        check_template(template.replace("NAME", name))
    # An unknown attribute represents all attributes that are not listed.
    attribute = f"{{{{ {name}.attribute_of_a_later_airflow }}}}"
    for template in {f"{{{{ {name} }}}}", attribute}.difference(*[DECIDED[name], ALLOWED]):
        if (
            name == "params"
            or DECIDED[name][:1] == ITSELF
            or (DECIDED[name] == DATE and template != attribute)
        ):
            continue  # data of the author
        with pytest.raises(WorkerOnlyTemplateError):
            check_template(template)


@pytest.mark.parametrize("native", [False, True], ids=["text", "native"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_value_is_equal_on_worker_and_triggerer(template, run, native):
    worker, triggerer = sides(run, native).on_worker(template), sides(run, native).in_triggerer(template)
    assert (triggerer, type(triggerer)) == (worker, type(worker))


def test_templates_have_a_value_on_the_worker():
    """Equal errors on both sides would pass the comparison."""
    seen = {template: [sides(run).on_worker(template) for run in RUNS] for template in TEMPLATES}
    failed = [
        template for template, values in seen.items() if all(isinstance(value, type) for value in values)
    ]
    assert failed == ["{{ params.unknown }}", "{{ params.unknown.id }}"]


@pytest.mark.parametrize("native", [False, True], ids=["text", "native"])
@pytest.mark.parametrize(
    "value", ["proj_1", "1_0", "[1]", 7, None, {"id": "'a'"}, {"id": {"x": [1]}}, ["b", "c"]]
)
@pytest.mark.parametrize("path", ["", "['id']", ".id", "[0]", "[-1]", "['id'].x[0]"])
def test_xcom_pull_is_equal_on_worker_and_triggerer(path, value, native):
    template = f"{{{{ ti.xcom_pull('order', map_indexes=-1){path} }}}}"
    ti = SimpleNamespace(xcom_pull=lambda task_ids, map_indexes: value)
    worker = sides("plain", native).on_worker(template, ti=ti)
    try:
        triggerer = render_pull(find_xcom_pull(template), value, native=native)
    except (LookupError, TypeError):
        return  # left to a worker
    assert (repr(triggerer), type(triggerer)) == (repr(worker), type(worker))


class Sides:
    """
    One sensor and Dag run, with the contexts of a worker and of the triggerer.

    Each message is serialized as between the processes of Airflow, so that no server is needed.
    """

    def __init__(self, run, native):
        with DAG(
            "dag",
            schedule=None,
            start_date=datetime(2025, 1, 1, tzinfo=UTC),
            render_template_as_native_obj=native,
            params={
                "id": "proj_1",
                "pair": (1, "2"),
                "nested": {"b": [1.5]},
                "n": 4,
                "key": "k",
                "own": 0,
                "xcom_pull": "v",
            },
        ) as dag:
            self.sensor = ManxueVideoSensor(
                task_id="wait",
                video_task_id="{{ run_id }}",
                start_from_trigger=True,
                params={"own": 1, "a": "v", "b": True},
            )
        self.ti = {
            "id": uuid.uuid4(), "task_id": "wait", "dag_id": "dag", "run_id": "run__1", "try_number": 1,
            "map_index": -1, "dag_version_id": uuid.uuid4(),
        }  # fmt: skip
        data = self._dag_run(**run).dag_run_data
        self._worker = self._worker_ti(data)
        self._triggerer = self._triggerer_ti(dag, data)
        self.contexts = self._worker.get_template_context(), self._triggerer.get_template_context()

    @staticmethod
    def _dag_run(logical_date, conf):
        from airflow.models.dagrun import DagRun
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunType

        return DagRun(
            dag_id="dag",
            run_id="run__1",
            run_type=DagRunType.MANUAL,
            state=DagRunState.RUNNING,
            logical_date=logical_date,
            data_interval=logical_date and (logical_date, logical_date.replace(day=30)),
            run_after=datetime(2026, 3, 29, tzinfo=UTC),
            start_date=datetime(2026, 3, 29, tzinfo=UTC),
            conf=conf,
        )

    def _worker_ti(self, data):
        from airflow.sdk.api.datamodels._generated import TIRunContext
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        # The API server sends JSON to the supervisor, and that sends msgpack to the task.
        message = f'{{"dag_run": {data.model_dump_json(exclude_unset=True)}, "max_tries": 0}}'
        context = through_msgpack(TIRunContext.model_validate_json(message))
        return RuntimeTaskInstance.model_construct(
            **self.ti, task=self.sensor, _ti_context_from_server=context
        )

    def _triggerer_ti(self, dag, data):
        from airflow.executors.workloads import RunTrigger, TaskInstanceDTO
        from airflow.jobs.triggerer_job_runner import TriggerRunner
        from airflow.serialization.serialized_objects import DagSerialization

        workload = through_msgpack(
            RunTrigger(
                id=1,
                classpath="",
                encrypted_kwargs="",
                ti=TaskInstanceDTO(**self.ti, pool_slots=1, queue="default", priority_weight=1),
                dag_data=DagSerialization.to_dict(dag),
                dag_run_data=data.model_dump(exclude_unset=True),
            )
        )
        return TriggerRunner.create_runtime_ti(workload.ti, workload.dag_data, workload.dag_run_data)

    def on_worker(self, template, **names):
        """Return the value on a worker, or the type of the error."""
        self.sensor.video_task_id = template
        try:
            self.sensor.render_template_fields({**self.contexts[0], **names})
        except Exception as error:  # noqa: BLE001 - templates raise anything
            return type(error)
        return _value(self.sensor.video_task_id)

    def in_triggerer(self, template):
        """Return the value in the triggerer, or the type of the error."""
        trigger = ManxueVideoTrigger(video_task_id=template, manxue_conn_id="c", poke_interval=30.0)
        trigger.task_instance = self._triggerer
        trigger.render_template_fields(self.contexts[1])
        return (
            _value(trigger.video_task_id)
            if trigger._template_error is None
            else type(trigger._template_error)
        )


def _value(rendered):
    """Return the rendered value, or ``UndefinedError`` for the object of an undefined native template."""
    return UndefinedError if isinstance(rendered, Undefined) else rendered


def through_msgpack(model):
    """Serialize and parse a message as between processes of Airflow."""
    import msgspec

    from airflow.sdk.execution_time.comms import _new_encoder

    sent = msgspec.msgpack.decode(_new_encoder().encode(model.model_dump(exclude_unset=True)))
    return type(model).model_validate(sent)


@cache
def sides(run, native=False):
    """Return both sides of a Dag run."""
    return Sides(RUNS[run], native)
