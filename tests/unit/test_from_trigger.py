"""
Waits that begin or end in the triggerer, without a worker.

Results and errors must equal those of the normal mode.
"""

from __future__ import annotations

import itertools
import re
import warnings
from datetime import UTC, datetime, timedelta

import pytest

from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowSkipException,
    AirflowTaskTimeout,
    Asset,
    BaseOperator,
    task_group,
)

from airflow_provider_manxue._airflow import start_from_trigger as from_trigger
from airflow_provider_manxue._airflow import task_trigger as task_trigger_module
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueInputError,
    ManxueTimeoutError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.links.manxue import ManxueVideoLink
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger
from tests.support.fake_airflow import START, FakeAirflow, ManualClock, ScriptedService, first_event

DONE = {
    "status": "completed",
    "video_url": "https://cdn.example.com/v.mp4?signature=secret",
    "actualDuration": 5.17,
}
XCOM = {"video_url": DONE["video_url"], "actualDuration": 5.17}
BOTH = {"start_from_trigger": True, "end_from_trigger": True}

needs_3_3 = pytest.mark.skipif(
    not from_trigger.CAN_START_AND_END, reason="this Airflow starts and ends tasks on workers only"
)


class Upstream(BaseOperator):
    def execute(self, context):
        """Never runs in these tests."""


@pytest.fixture
def dag():
    with DAG(
        "dag", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), params={"id": "proj_1"}
    ) as dag:
        yield dag


def sensor(**kwargs):
    return ManxueVideoSensor(**{"task_id": "wait", "video_task_id": "proj_1", **kwargs})


def batch(**kwargs):
    return ManxueVideoBatchSensor(**{"task_id": "wait", "video_task_ids": ["proj_1", "proj_2"], **kwargs})


@needs_3_3
class TestWithoutAWorker:
    def test_trigger_pushes_the_same_xcoms_as_other_modes(self, dag, fake_airflow, service):
        service.respond_with("queued", "processing", DONE)
        fake_airflow.run(sensor(**BOTH))
        assert fake_airflow.worker_starts == 0
        assert fake_airflow.ti.xcom.pop("return_value")["id"] == "proj_1"
        assert fake_airflow.ti.xcom == {**XCOM, ManxueVideoLink().xcom_key: DONE["video_url"]}

    def test_trigger_polls_immediately(self, dag, fake_airflow, service):
        service.respond_with(DONE)
        fake_airflow.run(sensor(**BOTH))
        assert service.polled_at == [0]

    def test_trigger_polls_immediately_with_a_running_clock(
        self, dag, fake_airflow, service, clock, monkeypatch
    ):
        """The clock advances between the start of the wait and the first poll."""

        def ticking():
            clock.now += 0.001
            return clock.now

        monkeypatch.setattr(clock, "time", ticking)
        service.respond_with(DONE)
        fake_airflow.run(sensor(**BOTH))
        assert service.polled_at[0] < 1

    def test_start_only_uses_a_worker_at_the_end(self, dag, fake_airflow, service):
        service.respond_with("queued", DONE)
        fake_airflow.run(sensor(start_from_trigger=True))
        assert fake_airflow.worker_starts == 1
        assert service.polled_from == ["triggerer", "triggerer", "worker"]
        assert {**XCOM, **fake_airflow.ti.xcom} == fake_airflow.ti.xcom

    def test_end_only_uses_a_worker_at_the_start(self, dag, fake_airflow, service):
        service.respond_with("queued", DONE)
        fake_airflow.run(sensor(end_from_trigger=True))
        assert fake_airflow.worker_starts == 1
        assert service.polled_from == ["worker", "triggerer"]
        assert {**XCOM, **fake_airflow.ti.xcom} == fake_airflow.ti.xcom

    def test_do_xcom_push_off_pushes_nothing(self, dag, fake_airflow, service):
        service.respond_with(DONE)
        fake_airflow.run(sensor(**BOTH, do_xcom_push=False))
        assert fake_airflow.ti.xcom == {}

    def test_batch_result_follows_the_order_of_the_ids(self, dag, fake_airflow, service):
        service.respond_with(DONE)
        fake_airflow.run(batch(video_task_ids=["proj_1", "proj_2", "proj_1"], **BOTH))
        assert fake_airflow.worker_starts == 0
        assert len(service.polled_at) == 2
        assert [task["id"] for task in fake_airflow.ti.xcom["return_value"]] == ["proj_1", "proj_2", "proj_1"]
        assert fake_airflow.ti.xcom["video_url"] == [DONE["video_url"]] * 3
        assert fake_airflow.ti.xcom["actualDuration"] == [5.17] * 3

    def test_batch_fetches_aged_urls_again(self, dag, fake_airflow, service):
        later = {**DONE, "video_url": "https://cdn.example.com/v.mp4?signature=fresh"}
        # The second video is ready ten minutes after the first, which is then polled again.
        service.respond_with(DONE, *["processing"] * 20, DONE, later)
        fake_airflow.run(batch(**BOTH))
        assert fake_airflow.ti.xcom["video_url"] == [later["video_url"], DONE["video_url"]]

    def test_failed_xcom_push_falls_back_to_a_worker(self, dag, fake_airflow, service, monkeypatch):
        async def fail(self, values):
            raise RuntimeError("the API server is away")

        monkeypatch.setattr(task_trigger_module.XComs, "push", fail)
        service.respond_with(DONE)
        fake_airflow.run(sensor(**BOTH))
        assert fake_airflow.worker_starts == 1
        assert {**XCOM, **fake_airflow.ti.xcom} == fake_airflow.ti.xcom

    def test_mapped_result_falls_back_to_a_worker(self, dag, fake_airflow, service):
        """Airflow expands the downstream task by the length of the result, and only a worker records it."""
        wait = batch(**BOTH)
        Upstream.partial(task_id="use").expand(doc_md=wait.output)
        service.respond_with(DONE)
        fake_airflow.run(wait)
        assert fake_airflow.worker_starts == 1

    def test_xcoms_of_an_earlier_try_are_deleted(self, dag, fake_airflow, service):
        fake_airflow.ti.try_number = 2
        fake_airflow.ti.xcom = {**XCOM, "return_value": "old", "other": 1}
        service.respond_with({"status": "failed"})
        with pytest.raises(ManxueVideoFailedError):
            fake_airflow.run(sensor(**BOTH))
        assert fake_airflow.ti.xcom == {"other": 1}


@needs_3_3
class TestIds:
    def test_id_may_be_a_template(self, dag, fake_airflow, service):
        service.respond_with(DONE)
        fake_airflow.run(sensor(video_task_id="{{ params.id }}", **BOTH))
        assert fake_airflow.ti.xcom["return_value"]["id"] == "proj_1"

    def test_id_may_be_the_output_of_an_upstream_task(self, dag, fake_airflow, service):
        fake_airflow.upstream["order", -1, "return_value"] = {"id": "proj_7", "status": "queued"}
        service.respond_with(DONE)
        wait = sensor(video_task_id=Upstream(task_id="order").output, **BOTH)
        fake_airflow.run(wait)
        assert fake_airflow.ti.xcom["return_value"]["id"] == "proj_7"
        assert wait.upstream_task_ids == {"order"}

    def test_id_may_be_one_key_of_an_output(self, dag, fake_airflow, service):
        fake_airflow.upstream["order", -1, "video_task_id"] = "proj_7"
        service.respond_with(DONE)
        fake_airflow.run(sensor(video_task_id=Upstream(task_id="order").output["video_task_id"], **BOTH))
        assert fake_airflow.ti.xcom["return_value"]["id"] == "proj_7"

    def test_ids_of_a_batch_may_be_a_mapped_output(self, dag, fake_airflow, service):
        for index, video in enumerate(["proj_3", None, "proj_5"]):
            fake_airflow.upstream["order", index, "return_value"] = video  # the second was skipped
        service.respond_with(DONE)
        fake_airflow.run(
            batch(
                video_task_ids=Upstream.partial(task_id="order").expand(doc_md=["a", "b", "c"]).output, **BOTH
            )
        )
        assert [task["id"] for task in fake_airflow.ti.xcom["return_value"]] == ["proj_3", "proj_5"]
        assert fake_airflow.worker_starts == 0

    def test_ids_of_a_batch_may_mix_outputs_and_templates(self, dag, fake_airflow, service):
        fake_airflow.upstream["order", -1, "return_value"] = "proj_7"
        service.respond_with(DONE)
        ids = [Upstream(task_id="order").output, "{{ params.id }}", {"id": "proj_2"}]
        fake_airflow.run(batch(video_task_ids=ids, **BOTH))
        assert [task["id"] for task in fake_airflow.ti.xcom["return_value"]] == ["proj_7", "proj_1", "proj_2"]

    def test_ids_of_a_batch_may_be_a_native_template(self, fake_airflow, service):
        with DAG(
            "dag", schedule=None, render_template_as_native_obj=True, params={"ids": ["proj_1", "proj_2"]}
        ):
            wait = batch(video_task_ids="{{ params.ids }}", **BOTH)
        service.respond_with(DONE)
        fake_airflow.run(wait)
        assert [task["id"] for task in fake_airflow.ti.xcom["return_value"]] == ["proj_1", "proj_2"]
        assert fake_airflow.worker_starts == 0

    def test_failed_template_is_rendered_on_a_worker(self, dag, fake_airflow, service):
        fake_airflow.rendered = {"video_task_id": "proj_9"}
        service.respond_with("processing", DONE)
        fake_airflow.run(sensor(video_task_id="{{ params.unknown }}", **BOTH))
        assert fake_airflow.ti.xcom["return_value"]["id"] == "proj_9"
        assert fake_airflow.worker_starts == 1, "the worker only begins; the triggerer ends"

    def test_undefined_native_template_is_rendered_on_a_worker(self, fake_airflow, service):
        """A native template that is undefined as a whole renders without an error."""
        fake_airflow.rendered = {"video_task_ids": ["proj_9"]}
        service.respond_with("processing", DONE)
        with DAG("dag", schedule=None, render_template_as_native_obj=True):
            wait = batch(video_task_ids="{{ params.unknown }}", **BOTH)
        fake_airflow.run(wait)
        assert [task["id"] for task in fake_airflow.ti.xcom["return_value"]] == ["proj_9"]
        assert fake_airflow.worker_starts == 1

    @pytest.mark.parametrize(
        ("template", "pulled"),
        [
            ("{{ ti.xcom_pull('order', map_indexes=-1) }}", "proj_7"),
            ("{{ ti.xcom_pull('order', map_indexes=-1)['id'] }}", {"id": "proj_7", "status": "queued"}),
            ("{{ ti.xcom_pull('order', map_indexes=-1).data[0].id }}", {"data": [{"id": "proj_7"}]}),
        ],
    )
    def test_id_may_be_an_xcom_pull_with_a_map_index(self, dag, fake_airflow, service, template, pulled):
        fake_airflow.upstream["order", -1, "return_value"] = pulled
        service.respond_with(DONE)
        fake_airflow.run(sensor(video_task_id=template, **BOTH))
        assert fake_airflow.ti.xcom["return_value"]["id"] == "proj_7"
        assert fake_airflow.worker_starts == 0

    def test_id_may_be_an_xcom_pull_with_index_and_key(self, dag, fake_airflow, service):
        fake_airflow.upstream |= {("order", 0, "id"): "proj_0", ("order", 2, "id"): "proj_2"}
        service.respond_with(DONE)
        fake_airflow.run(
            sensor(video_task_id="{{ task_instance.xcom_pull('order', key='id', map_indexes=2) }}", **BOTH)
        )
        assert fake_airflow.ti.xcom["return_value"]["id"] == "proj_2"

    def test_ids_of_a_batch_may_be_a_native_xcom_pull(self, fake_airflow, service):
        fake_airflow.upstream["order", -1, "return_value"] = ["proj_1", "proj_2"]
        service.respond_with(DONE)
        with DAG("dag", schedule=None, render_template_as_native_obj=True):
            wait = batch(video_task_ids="{{ ti.xcom_pull('order', map_indexes=-1) }}", **BOTH)
        fake_airflow.run(wait)
        assert [task["id"] for task in fake_airflow.ti.xcom["return_value"]] == ["proj_1", "proj_2"]
        assert fake_airflow.worker_starts == 0

    def test_pull_with_a_missing_key_falls_back_to_a_worker(self, dag, fake_airflow, service):
        fake_airflow.upstream["order", -1, "return_value"] = "proj_7"
        fake_airflow.rendered = {"video_task_id": "proj_9"}
        service.respond_with(DONE)
        fake_airflow.run(sensor(video_task_id="{{ ti.xcom_pull('order', map_indexes=-1)['id'] }}", **BOTH))
        assert fake_airflow.worker_starts == 1
        assert service.polled_from == ["worker"]

    def test_missing_output_fails_on_a_worker(self, dag, fake_airflow, service):
        wait = sensor(video_task_id=Upstream(task_id="order").output, **BOTH)
        fake_airflow.rendered = {"video_task_id": None}
        with pytest.raises(ManxueInputError, match="video_task_id"):
            fake_airflow.run(wait)
        assert service.polled_at == []

    def test_rendered_by_a_worker_is_not_rendered_again(self, dag, fake_airflow, service):
        """A rendered id is foreign text. A second rendering would execute a template that it contains."""
        trigger = ManxueVideoTrigger(
            video_task_id="{{ odd }}", manxue_conn_id="c", poke_interval=30.0, started_at=START,
            deadline=START + 60, first_poll_at=START,
        )  # fmt: skip
        trigger.template_fields = ("video_task_id",)
        trigger.render_template_fields({})
        assert trigger.video_task_id == "{{ odd }}"


@needs_3_3
class TestError:
    @pytest.mark.parametrize(
        ("response", "error"),
        [
            ({"status": "failed", "error": "not allowed"}, ManxueVideoFailedError),
            ("processing", ManxueTimeoutError),
            (ManxueAuthenticationError("401"), ManxueAuthenticationError),
        ],
    )
    @pytest.mark.parametrize("make", [sensor, batch])
    def test_error_is_raised_on_a_worker_with_its_type(
        self, dag, fake_airflow, service, response, error, make
    ):
        service.respond_with(response)
        with pytest.raises(error):
            fake_airflow.run(make(timeout=120, **BOTH))
        # A worker retries a connection that has never worked. A batch defers for that.
        is_retried = isinstance(response, ManxueError) and make is batch
        assert fake_airflow.worker_starts == (2 if is_retried else 1)

    def test_timeout_counts_from_the_start_of_the_wait(self, dag, fake_airflow, service, clock):
        service.respond_with("processing")
        with pytest.raises(ManxueTimeoutError):
            fake_airflow.run(sensor(timeout=600, **BOTH))
        assert clock.now == pytest.approx(START + 600, abs=1)

    def test_execution_timeout_bounds_the_wait(self, dag, fake_airflow, service, clock):
        service.respond_with("processing")
        with pytest.raises(AirflowTaskTimeout):
            fake_airflow.run(sensor(execution_timeout=timedelta(seconds=100), **BOTH))
        assert clock.now == pytest.approx(START + 100, abs=1)

    def test_restart_preserves_the_deadline(self, service, fake_airflow, clock):
        """The first polls of restarted triggers are spread over the poll interval."""
        service.respond_with("processing")
        trigger = ManxueVideoTrigger(
            video_task_id="proj_1",
            manxue_conn_id="c",
            poke_interval=30.0,
            timeout=600.0,
            end_from_trigger=True,
        )
        trigger.task_instance = fake_airflow.ti
        trigger.timeout_after = datetime.fromtimestamp(START + 600 + 900, tz=UTC)
        clock.now = START + 200
        assert fake_airflow.run_loop(first_event(trigger))["status"] == "timeout"
        assert service.polled_at[0] == pytest.approx(215)
        assert clock.now == pytest.approx(START + 600, abs=1)

    def test_second_deferral_preserves_the_deadline(self, dag, fake_airflow, service, clock):
        service.respond_with("processing", DONE, ManxueTransientError("HTTP 503"), "processing")
        with pytest.raises(ManxueTimeoutError):
            fake_airflow.run(sensor(start_from_trigger=True, timeout=600))
        assert clock.now == pytest.approx(START + 600, abs=1)


@needs_3_3
class TestWorkerOnlyFeatures:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"outlets": [Asset("video")]}, "outlets"),
            ({"on_success_callback": print}, "on_success_callback"),
            ({"post_execute": print}, "post_execute"),
            ({"multiple_outputs": True}, "multiple_outputs"),
        ],
    )
    def test_worker_only_features_disable_end(self, dag, options, reason):
        with pytest.warns(
            UserWarning, match=f"end_from_trigger=True has no effect here: .*{reason}"
        ) as caught:
            wait = sensor(**BOTH, **options)
        assert len(caught) == 1
        assert (wait.start_from_trigger, wait.end_from_trigger) == (True, False)
        assert wait.start_trigger_args.trigger_kwargs["end_from_trigger"] is False

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"on_execute_callback": print}, "on_execute_callback"),
            ({"pre_execute": print}, "pre_execute"),
            ({"max_active_tis_per_dag": 3}, "max_active_tis_per_dag"),
            ({"max_active_tis_per_dagrun": 3}, "max_active_tis_per_dagrun"),
        ],
    )
    def test_worker_only_features_disable_start(self, dag, options, reason):
        with pytest.warns(
            UserWarning, match=f"start_from_trigger=True has no effect here: .*{reason}"
        ) as caught:
            wait = sensor(**BOTH, **options)
        assert len(caught) == 1
        assert (wait.start_from_trigger, wait.end_from_trigger) == (False, True)

    def test_methods_of_a_subclass_disable_start_and_end(self, dag):
        """The triggerer would not call them."""

        class Mine(ManxueVideoSensor):
            def execute(self, context):
                return super().execute(context)

            def execute_complete(self, context, event, started_at=None):
                return super().execute_complete(context, event, started_at)

        with pytest.warns(UserWarning, match="overrides") as caught:
            wait = Mine(task_id="wait", video_task_id="proj_1", **BOTH)
        assert len(caught) == 2
        assert (wait.start_from_trigger, wait.end_from_trigger) == (False, False)

    def test_mapped_task_group_disables_start_and_end(self, dag):
        """Airflow 3.3 neither starts nor ends a mapped task in the triggerer."""

        @task_group
        def group(video):
            return sensor(video_task_id=video, **BOTH)

        with pytest.warns(UserWarning, match="a mapped task starts and ends on a worker"):
            group.expand(video=["proj_1", "proj_2"])
        assert not dag.get_task("group.wait").start_from_trigger

    def test_mapped_output_value_disables_start(self, dag):
        """The function of ``map`` cannot be serialized for the triggerer."""
        with pytest.warns(UserWarning, match="only a worker can resolve"):
            wait = sensor(video_task_id=Upstream(task_id="order").output.map(str), **BOTH)
        assert (wait.start_from_trigger, wait.end_from_trigger) == (False, True)

    def test_deferrable_false_disables_start_and_end(self, dag):
        with pytest.warns(UserWarning, match="deferrable is False"):
            wait = sensor(deferrable=False, **BOTH)
        assert (wait.start_from_trigger, wait.end_from_trigger) == (False, False)

    def test_mapped_task_runs_on_a_worker(self, dag, fake_airflow, service, caplog, capsys):
        fake_airflow.ti.map_index = 0
        service.respond_with("processing", DONE)
        wait = sensor(end_from_trigger=True)
        fake_airflow.run(wait)
        assert fake_airflow.worker_starts == 2
        printed = capsys.readouterr().out or caplog.text
        assert printed.count("A mapped task can neither start nor end in the triggerer") == 1


def test_older_airflow_warns_and_defers(dag, fake_airflow, service, monkeypatch):
    monkeypatch.setattr(from_trigger, "CAN_START_AND_END", False)
    with pytest.warns(UserWarning, match=r"needs Airflow 3\.3") as caught:
        wait = sensor(**BOTH)
    assert len(caught) == 2
    service.respond_with("processing", DONE)
    fake_airflow.run(wait)
    assert fake_airflow.worker_starts == 2


@needs_3_3
class TestWorkerOnlyTemplates:
    """Templates that render differently in the triggerer, or not at all."""

    @pytest.mark.parametrize(
        ("template", "reason"),
        [
            ("{{ var.value.video }}", "uses 'var.value.video', which is not available"),
            ("{{ my_macro() }}", "uses 'my_macro', which is not available"),
            ("{{ params.id | mine }}", "uses the filter 'mine', which is not available"),
            (
                "{{ ti.xcom_pull('order') }}",
                "Write {{ ti.xcom_pull('order', map_indexes=-1) }} and nothing else",
            ),
        ],
    )
    @pytest.mark.parametrize("field", ["video_task_id", "manxue_conn_id"])
    def test_worker_only_template_disables_start(self, dag, template, reason, field):
        with pytest.warns(UserWarning, match=re.escape(reason)) as caught:
            wait = sensor(**{field: template}, **BOTH)
        assert [f"the template in {field} " in str(warning.message) for warning in caught] == [True]
        assert (wait.start_from_trigger, wait.end_from_trigger) == (False, True)
        assert wait.start_trigger_args is None

    @pytest.mark.parametrize("id_", ["{{ ti.xcom_pull('order') }}", {"id": "{{ ti.xcom_pull('order') }}"}])
    def test_templates_are_found_in_lists_and_responses(self, dag, id_):
        with pytest.warns(UserWarning, match="works on a worker only"):
            wait = batch(video_task_ids=["proj_1", id_], **BOTH)
        assert not wait.start_from_trigger

    def test_warning_about_an_output_text_names_the_task(self, dag):
        with pytest.warns(
            UserWarning, match=r"xcom_pull\('order', map_indexes=-1\).* the upstream task's output"
        ):
            sensor(video_task_id=f"{Upstream(task_id='order').output}", **BOTH)

    def test_start_on_a_worker_and_end_in_the_triggerer(self, dag, fake_airflow, service):
        with pytest.warns(UserWarning, match="not available in the triggerer"):
            wait = sensor(video_task_id="{{ var.value.video }}", **BOTH)
        wait.video_task_id = "proj_9"  # as a worker renders it
        service.respond_with("processing", DONE)
        fake_airflow.run(wait)
        assert fake_airflow.ti.xcom["return_value"]["id"] == "proj_9"
        assert fake_airflow.worker_starts == 1

    def test_worker_only_template_is_silent_with_end_only(self, dag):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sensor(video_task_id="{{ ti.xcom_pull('order') }}", end_from_trigger=True)

    @pytest.mark.parametrize(
        ("options", "template"),
        [
            ({"user_defined_macros": {"range": len}}, "{{ range(params.n) }}"),
            ({"user_defined_filters": {"upper": len}}, "{{ params.id | upper }}"),
            ({"jinja_environment_kwargs": {"variable_start_string": "<<"}}, "<< params.id }}"),
        ],
    )
    def test_name_redefined_by_the_dag_disables_start(self, options, template):
        with DAG("plain", schedule=None):
            if "<<" not in template:
                assert sensor(video_task_id=template, **BOTH).start_from_trigger
        with DAG("dag", schedule=None, **options), pytest.warns(UserWarning, match="no effect here"):
            assert not sensor(video_task_id=template, **BOTH).start_from_trigger

    def test_literals_start_in_the_triggerer(self):
        with DAG("dag", schedule=None, jinja_environment_kwargs={"variable_start_string": "<<"}):
            assert sensor(video_task_id="proj_1", **BOTH).start_from_trigger

    def test_template_without_a_dag_disables_start(self):
        with pytest.warns(UserWarning, match="belongs to no Dag yet"):
            assert not sensor(video_task_id="{{ params.id }}", **BOTH).start_from_trigger
        assert sensor(**BOTH).start_from_trigger


@needs_3_3
def test_triggerer_queues_disable_start(dag, monkeypatch):
    """Airflow 3.3.2 assigns no queue to a trigger that the scheduler creates, so no triggerer with queues runs it."""
    monkeypatch.setenv("AIRFLOW__TRIGGERER__QUEUES_ENABLED", "True")
    with pytest.warns(UserWarning, match="queues_enabled") as caught:
        wait = sensor(**BOTH)
    assert len(caught) == 1
    assert (wait.start_from_trigger, wait.end_from_trigger) == (False, True)


ENDINGS = {
    "completed immediately": [DONE],
    "completed later": ["queued", "processing", DONE],
    "failed": ["processing", {"status": "failed", "error": "not allowed"}],
    "never completed": ["processing"],
    "unauthorized": ["processing", ManxueAuthenticationError("401")],
    "temporary outage": [ManxueTransientError("503"), ManxueTransientError("503"), DONE],
    "no url": [{"status": "completed"}],
}
IDS = {
    "literal": lambda: "proj_1",
    "template": lambda: "{{ params.id }}",
    "argument": lambda: Upstream(task_id="order").output,
    "create response": lambda: {"id": "proj_1"},
}
OPTIONS = [
    {},
    {"soft_fail": True},
    {"never_fail": True},
    {"timeout": 90},
    {"execution_timeout": timedelta(seconds=90)},
    {"execution_timeout": timedelta(seconds=90), "soft_fail": True},
    {"exponential_backoff": True, "max_wait": 60},
    {"do_xcom_push": False},
]


@needs_3_3
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "plain")
def test_each_combination_equals_the_normal_mode(ending, options, install_fakes):
    """Compares each combination of start and end, kind of id and sensor with the same wait in the normal mode."""
    for make, ids in (*itertools.product([sensor], IDS), (batch, "argument")):
        seen = {
            shape: outcome_of(install_fakes, make, ids, ENDINGS[ending], {**options, **shape_options})
            for shape, shape_options in {
                "neither": {},
                "start": {"start_from_trigger": True},
                "end": {"end_from_trigger": True},
                "both": BOTH,
            }.items()
        }
        assert seen == dict.fromkeys(seen, seen["neither"]), (make.__name__, ids)


def outcome_of(install_fakes, make, ids, script, options):
    clock = ManualClock()
    service = ScriptedService(clock)
    fake_airflow = FakeAirflow(clock, service)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        install_fakes(patch, fake_airflow)
        with DAG("dag", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), params={"id": "proj_1"}):
            value = IDS[ids]()
            field, value = (
                ("video_task_id", value) if make is sensor else ("video_task_ids", [value, "proj_2"])
            )
            wait = make(**{field: value}, **options)
        fake_airflow.upstream["order", -1, "return_value"] = {"id": "proj_1"}
        rendered = "proj_1" if make is sensor else ["proj_1", "proj_2"]
        if not wait.start_from_trigger:
            setattr(wait, field, rendered)
        fake_airflow.rendered = {field: rendered}
        # Each video follows the script on its own, whichever side polls it.
        by_video = {}

        def poll(video, side, *subject):
            responses = by_video.setdefault(video, list(script))
            service.script = [responses.pop(0) if len(responses) > 1 else responses[0]]
            return ScriptedService.poll(service, video, side, *subject)

        service.poll = poll
        try:
            fake_airflow.run(wait)
            state = "success"
        except (ManxueError, AirflowTaskTimeout) as error:
            state = type(error).__name__
        except AirflowSkipException:
            state = "skipped"
    xcom = fake_airflow.ti.xcom
    xcom.pop(ManxueVideoLink().xcom_key, None)  # Airflow stores the link of a task that ends on a worker
    if not options.get("do_xcom_push", True):
        xcom.pop("return_value", None)  # Airflow drops the return value of a task that ends on a worker
    return state, xcom
