"""Waits that begin and end in the triggerer: the same results and endings, and no worker where none is needed."""

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
        """Is never run here."""


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
    def test_hands_over_what_every_mode_does(self, dag, world, service):
        service.answers("queued", "processing", DONE)
        world.run(sensor(**BOTH))
        assert world.worker_starts == 0
        assert world.ti.xcom.pop("return_value")["id"] == "proj_1"
        assert world.ti.xcom == {**XCOM, ManxueVideoLink().xcom_key: DONE["video_url"]}

    def test_asks_at_once(self, dag, world, service):
        service.answers(DONE)
        world.run(sensor(**BOTH))
        assert service.asked_at == [0]

    def test_asks_at_once_although_time_goes_on(self, dag, world, service, clock, monkeypatch):
        def ticking():
            clock.now += 0.001
            return clock.now

        monkeypatch.setattr(clock, "time", ticking)
        service.answers(DONE)
        world.run(sensor(**BOTH))
        assert service.asked_at[0] < 1

    def test_starts_only(self, dag, world, service):
        service.answers("queued", DONE)
        world.run(sensor(start_from_trigger=True))
        assert world.worker_starts == 1
        assert service.asked_from == ["triggerer", "triggerer", "worker"]
        assert {**XCOM, **world.ti.xcom} == world.ti.xcom

    def test_ends_only(self, dag, world, service):
        service.answers("queued", DONE)
        world.run(sensor(end_from_trigger=True))
        assert world.worker_starts == 1
        assert service.asked_from == ["worker", "triggerer"]
        assert {**XCOM, **world.ti.xcom} == world.ti.xcom

    def test_pushes_nothing_if_so_told(self, dag, world, service):
        service.answers(DONE)
        world.run(sensor(**BOTH, do_xcom_push=False))
        assert world.ti.xcom == {}

    def test_batch_hands_over_lists_in_the_order_of_the_ids(self, dag, world, service):
        service.answers(DONE)
        world.run(batch(video_task_ids=["proj_1", "proj_2", "proj_1"], **BOTH))
        assert world.worker_starts == 0
        assert len(service.asked_at) == 2
        assert [one["id"] for one in world.ti.xcom["return_value"]] == ["proj_1", "proj_2", "proj_1"]
        assert world.ti.xcom["video_url"] == [DONE["video_url"]] * 3
        assert world.ti.xcom["actualDuration"] == [5.17] * 3

    def test_batch_asks_again_for_urls_that_have_aged(self, dag, world, service):
        later = {**DONE, "video_url": "https://cdn.example.com/v.mp4?signature=fresh"}
        # The first video is ready at once; the second one ten minutes later; then the first is asked for again.
        service.answers(DONE, *["processing"] * 20, DONE, later)
        world.run(batch(**BOTH))
        assert world.ti.xcom["video_url"] == [later["video_url"], DONE["video_url"]]

    def test_what_cannot_be_stored_is_left_to_a_worker(self, dag, world, service, monkeypatch):
        async def fail(self, values):
            raise RuntimeError("the API server is away")

        monkeypatch.setattr(task_trigger_module.XComs, "push", fail)
        service.answers(DONE)
        world.run(sensor(**BOTH))
        assert world.worker_starts == 1
        assert {**XCOM, **world.ti.xcom} == world.ti.xcom

    def test_result_that_is_mapped_over_is_stored_by_a_worker(self, dag, world, service):
        wait = batch(**BOTH)
        Upstream.partial(task_id="use").expand(doc_md=wait.output)
        service.answers(DONE)
        world.run(wait)
        assert world.worker_starts == 1

    def test_result_of_an_earlier_try_is_forgotten(self, dag, world, service):
        world.ti.try_number = 2
        world.ti.xcom = {**XCOM, "return_value": "old", "other": 1}
        service.answers({"status": "failed"})
        with pytest.raises(ManxueVideoFailedError):
            world.run(sensor(**BOTH))
        assert world.ti.xcom == {"other": 1}


@needs_3_3
class TestIds:
    def test_may_be_a_template(self, dag, world, service):
        service.answers(DONE)
        world.run(sensor(video_task_id="{{ params.id }}", **BOTH))
        assert world.ti.xcom["return_value"]["id"] == "proj_1"

    def test_may_be_the_output_of_another_task(self, dag, world, service):
        world.upstream["order", -1, "return_value"] = {"id": "proj_7", "status": "queued"}
        service.answers(DONE)
        wait = sensor(video_task_id=Upstream(task_id="order").output, **BOTH)
        world.run(wait)
        assert world.ti.xcom["return_value"]["id"] == "proj_7"
        assert wait.upstream_task_ids == {"order"}

    def test_may_be_one_key_of_it(self, dag, world, service):
        world.upstream["order", -1, "video_task_id"] = "proj_7"
        service.answers(DONE)
        world.run(sensor(video_task_id=Upstream(task_id="order").output["video_task_id"], **BOTH))
        assert world.ti.xcom["return_value"]["id"] == "proj_7"

    def test_of_a_batch_may_come_from_a_mapped_task(self, dag, world, service):
        for index, video in enumerate(["proj_3", None, "proj_5"]):
            world.upstream["order", index, "return_value"] = video  # the second one was skipped
        service.answers(DONE)
        world.run(
            batch(
                video_task_ids=Upstream.partial(task_id="order").expand(doc_md=["a", "b", "c"]).output, **BOTH
            )
        )
        assert [one["id"] for one in world.ti.xcom["return_value"]] == ["proj_3", "proj_5"]
        assert world.worker_starts == 0

    def test_of_a_batch_may_be_mixed(self, dag, world, service):
        world.upstream["order", -1, "return_value"] = "proj_7"
        service.answers(DONE)
        ids = [Upstream(task_id="order").output, "{{ params.id }}", {"id": "proj_2"}]
        world.run(batch(video_task_ids=ids, **BOTH))
        assert [one["id"] for one in world.ti.xcom["return_value"]] == ["proj_7", "proj_1", "proj_2"]

    def test_of_a_batch_may_be_a_native_template(self, world, service):
        with DAG(
            "dag", schedule=None, render_template_as_native_obj=True, params={"ids": ["proj_1", "proj_2"]}
        ):
            wait = batch(video_task_ids="{{ params.ids }}", **BOTH)
        service.answers(DONE)
        world.run(wait)
        assert [one["id"] for one in world.ti.xcom["return_value"]] == ["proj_1", "proj_2"]
        assert world.worker_starts == 0

    def test_whose_template_fails_here_is_rendered_on_a_worker(self, dag, world, service):
        world.rendered = {"video_task_id": "proj_9"}
        service.answers("processing", DONE)
        world.run(sensor(video_task_id="{{ params.unknown }}", **BOTH))
        assert world.ti.xcom["return_value"]["id"] == "proj_9"
        assert world.worker_starts == 1, "the worker only begins; the triggerer ends"

    def test_of_a_batch_that_are_undefined_are_rendered_on_a_worker(self, world, service):
        """A native template that is undefined as a whole renders without an error."""
        world.rendered = {"video_task_ids": ["proj_9"]}
        service.answers("processing", DONE)
        with DAG("dag", schedule=None, render_template_as_native_obj=True):
            wait = batch(video_task_ids="{{ params.unknown }}", **BOTH)
        world.run(wait)
        assert [one["id"] for one in world.ti.xcom["return_value"]] == ["proj_9"]
        assert world.worker_starts == 1

    @pytest.mark.parametrize(
        ("template", "pulled"),
        [
            ("{{ ti.xcom_pull('order', map_indexes=-1) }}", "proj_7"),
            ("{{ ti.xcom_pull('order', map_indexes=-1)['id'] }}", {"id": "proj_7", "status": "queued"}),
            ("{{ ti.xcom_pull('order', map_indexes=-1).data[0].id }}", {"data": [{"id": "proj_7"}]}),
        ],
    )
    def test_may_be_a_constant_pull(self, dag, world, service, template, pulled):
        world.upstream["order", -1, "return_value"] = pulled
        service.answers(DONE)
        world.run(sensor(video_task_id=template, **BOTH))
        assert world.ti.xcom["return_value"]["id"] == "proj_7"
        assert world.worker_starts == 0

    def test_may_be_a_pull_of_one_map_index_and_key(self, dag, world, service):
        world.upstream |= {("order", 0, "id"): "proj_0", ("order", 2, "id"): "proj_2"}
        service.answers(DONE)
        world.run(
            sensor(video_task_id="{{ task_instance.xcom_pull('order', key='id', map_indexes=2) }}", **BOTH)
        )
        assert world.ti.xcom["return_value"]["id"] == "proj_2"

    def test_of_a_batch_may_be_a_native_pull(self, world, service):
        world.upstream["order", -1, "return_value"] = ["proj_1", "proj_2"]
        service.answers(DONE)
        with DAG("dag", schedule=None, render_template_as_native_obj=True):
            wait = batch(video_task_ids="{{ ti.xcom_pull('order', map_indexes=-1) }}", **BOTH)
        world.run(wait)
        assert [one["id"] for one in world.ti.xcom["return_value"]] == ["proj_1", "proj_2"]
        assert world.worker_starts == 0

    def test_pulled_with_a_subscript_that_is_missing_is_left_to_a_worker(self, dag, world, service):
        world.upstream["order", -1, "return_value"] = "proj_7"
        world.rendered = {"video_task_id": "proj_9"}
        service.answers(DONE)
        world.run(sensor(video_task_id="{{ ti.xcom_pull('order', map_indexes=-1)['id'] }}", **BOTH))
        assert world.worker_starts == 1
        assert service.asked_from == ["worker"]

    def test_that_is_unknown_fails_on_a_worker_with_its_real_error(self, dag, world, service):
        wait = sensor(video_task_id=Upstream(task_id="order").output, **BOTH)
        world.rendered = {"video_task_id": None}
        with pytest.raises(ManxueInputError, match="video_task_id"):
            world.run(wait)
        assert service.asked_at == []

    def test_of_a_worker_is_never_rendered_again(self, dag, world, service):
        trigger = ManxueVideoTrigger(
            video_task_id="{{ odd }}", manxue_conn_id="c", poke_interval=30.0, started_at=START,
            deadline=START + 60, first_poll_at=START,
        )  # fmt: skip
        trigger.template_fields = ("video_task_id",)
        trigger.render_template_fields({})
        assert trigger.video_task_id == "{{ odd }}"


@needs_3_3
class TestBadEnding:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            ({"status": "failed", "error": "not allowed"}, ManxueVideoFailedError),
            ("processing", ManxueTimeoutError),
            (ManxueAuthenticationError("401"), ManxueAuthenticationError),
        ],
    )
    @pytest.mark.parametrize("make", [sensor, batch])
    def test_fails_on_a_worker_with_its_real_error(self, dag, world, service, answer, error, make):
        service.answers(answer)
        with pytest.raises(error):
            world.run(make(timeout=120, **BOTH))
        # A connection that has not worked is tried from a worker. For a batch, which defers first, its trigger tries it.
        is_tried_again = isinstance(answer, ManxueError) and make is batch
        assert world.worker_starts == (2 if is_tried_again else 1)

    def test_timeout_counts_from_the_start(self, dag, world, service, clock):
        service.answers("processing")
        with pytest.raises(ManxueTimeoutError):
            world.run(sensor(timeout=600, **BOTH))
        assert clock.now == pytest.approx(START + 600, abs=1)

    def test_execution_timeout_bounds_the_wait(self, dag, world, service, clock):
        service.answers("processing")
        with pytest.raises(AirflowTaskTimeout):
            world.run(sensor(execution_timeout=timedelta(seconds=100), **BOTH))
        assert clock.now == pytest.approx(START + 100, abs=1)

    def test_restart_moves_no_deadline_and_spreads_the_first_poll(self, service, world, clock):
        service.answers("processing")
        trigger = ManxueVideoTrigger(
            video_task_id="proj_1",
            manxue_conn_id="c",
            poke_interval=30.0,
            timeout=600.0,
            end_from_trigger=True,
        )
        trigger.task_instance = world.ti
        trigger.timeout_after = datetime.fromtimestamp(START + 600 + 900, tz=UTC)
        clock.now = START + 200
        assert world.run_loop(first_event(trigger))["status"] == "timeout"
        assert service.asked_at[0] == pytest.approx(215)
        assert clock.now == pytest.approx(START + 600, abs=1)

    def test_resumed_worker_that_gets_no_answer_defers_within_the_same_deadline(
        self, dag, world, service, clock
    ):
        service.answers("processing", DONE, ManxueTransientError("HTTP 503"), "processing")
        with pytest.raises(ManxueTimeoutError):
            world.run(sensor(start_from_trigger=True, timeout=600))
        assert clock.now == pytest.approx(START + 600, abs=1)


@needs_3_3
class TestWhatOnlyAWorkerDoes:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"outlets": [Asset("video")]}, "outlets"),
            ({"on_success_callback": print}, "on_success_callback"),
            ({"post_execute": print}, "post_execute"),
            ({"multiple_outputs": True}, "multiple_outputs"),
        ],
    )
    def test_is_done_by_one_at_the_end(self, dag, options, reason):
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
    def test_is_done_by_one_at_the_start(self, dag, options, reason):
        with pytest.warns(
            UserWarning, match=f"start_from_trigger=True has no effect here: .*{reason}"
        ) as caught:
            wait = sensor(**BOTH, **options)
        assert len(caught) == 1
        assert (wait.start_from_trigger, wait.end_from_trigger) == (False, True)

    def test_method_of_a_subclass_is_not_passed_over(self, dag):
        class Mine(ManxueVideoSensor):
            def execute(self, context):
                return super().execute(context)

            def execute_complete(self, context, event, started_at=None):
                return super().execute_complete(context, event, started_at)

        with pytest.warns(UserWarning, match="overrides") as caught:
            wait = Mine(task_id="wait", video_task_id="proj_1", **BOTH)
        assert len(caught) == 2
        assert (wait.start_from_trigger, wait.end_from_trigger) == (False, False)

    def test_is_everything_in_a_mapped_task_group(self, dag):
        @task_group
        def group(video):
            return sensor(video_task_id=video, **BOTH)

        with pytest.warns(UserWarning, match="a mapped task starts and ends on a worker"):
            group.expand(video=["proj_1", "proj_2"])
        assert not dag.get_task("group.wait").start_from_trigger

    def test_is_to_resolve_what_is_more_than_a_plain_output(self, dag):
        with pytest.warns(UserWarning, match="only a worker can resolve"):
            wait = sensor(video_task_id=Upstream(task_id="order").output.map(str), **BOTH)
        assert (wait.start_from_trigger, wait.end_from_trigger) == (False, True)

    def test_is_everything_without_a_deferral(self, dag):
        with pytest.warns(UserWarning, match="deferrable is False"):
            wait = sensor(deferrable=False, **BOTH)
        assert (wait.start_from_trigger, wait.end_from_trigger) == (False, False)

    def test_is_everything_in_a_mapped_task(self, dag, world, service, caplog, capsys):
        world.ti.map_index = 0
        service.answers("processing", DONE)
        wait = sensor(end_from_trigger=True)
        world.run(wait)
        assert world.worker_starts == 2
        printed = capsys.readouterr().out or caplog.text
        assert printed.count("A mapped task can neither start nor end in the triggerer") == 1


def test_older_airflow_defers_as_ever_with_one_warning_for_each_argument(dag, world, service, monkeypatch):
    monkeypatch.setattr(from_trigger, "CAN_START_AND_END", False)
    with pytest.warns(UserWarning, match=r"needs Airflow 3\.3") as caught:
        wait = sensor(**BOTH)
    assert len(caught) == 2
    service.answers("processing", DONE)
    world.run(wait)
    assert world.worker_starts == 2


@needs_3_3
class TestTemplatesOfAWorker:
    """Templates whose value in the triggerer would differ, or never come."""

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
    def test_start_on_a_worker_with_one_warning(self, dag, template, reason, field):
        with pytest.warns(UserWarning, match=re.escape(reason)) as caught:
            wait = sensor(**{field: template}, **BOTH)
        assert [f"the template in {field} " in str(one.message) for one in caught] == [True]
        assert (wait.start_from_trigger, wait.end_from_trigger) == (False, True)
        assert wait.start_trigger_args is None

    @pytest.mark.parametrize("id_", ["{{ ti.xcom_pull('order') }}", {"id": "{{ ti.xcom_pull('order') }}"}])
    def test_are_found_in_lists_and_answers(self, dag, id_):
        with pytest.warns(UserWarning, match="works on a worker only"):
            wait = batch(video_task_ids=["proj_1", id_], **BOTH)
        assert not wait.start_from_trigger

    def test_in_the_text_of_an_output_name_the_task(self, dag):
        with pytest.warns(
            UserWarning, match=r"xcom_pull\('order', map_indexes=-1\).* the upstream task's output"
        ):
            sensor(video_task_id=f"{Upstream(task_id='order').output}", **BOTH)

    def test_run_there_and_end_in_the_triggerer(self, dag, world, service):
        with pytest.warns(UserWarning, match="not available in the triggerer"):
            wait = sensor(video_task_id="{{ var.value.video }}", **BOTH)
        wait.video_task_id = "proj_9"  # as a worker renders it
        service.answers("processing", DONE)
        world.run(wait)
        assert world.ti.xcom["return_value"]["id"] == "proj_9"
        assert world.worker_starts == 1

    def test_raise_no_warning_where_a_worker_starts_anyway(self, dag):
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
    def test_are_those_that_the_dag_gives_another_meaning(self, options, template):
        with DAG("plain", schedule=None):
            if "<<" not in template:
                assert sensor(video_task_id=template, **BOTH).start_from_trigger
        with DAG("dag", schedule=None, **options), pytest.warns(UserWarning, match="no effect here"):
            assert not sensor(video_task_id=template, **BOTH).start_from_trigger

    def test_leave_literals_of_such_a_dag_alone(self):
        with DAG("dag", schedule=None, jinja_environment_kwargs={"variable_start_string": "<<"}):
            assert sensor(video_task_id="proj_1", **BOTH).start_from_trigger

    def test_are_all_those_of_a_task_without_a_dag(self):
        with pytest.warns(UserWarning, match="belongs to no Dag yet"):
            assert not sensor(video_task_id="{{ params.id }}", **BOTH).start_from_trigger
        assert sensor(**BOTH).start_from_trigger


@needs_3_3
def test_triggerer_queues_make_a_worker_begin(dag, monkeypatch):
    """Airflow 3.3.2 gives a trigger that the scheduler creates no queue, so that no triggerer with queues takes it."""
    monkeypatch.setenv("AIRFLOW__TRIGGERER__QUEUES_ENABLED", "True")
    with pytest.warns(UserWarning, match="queues_enabled") as caught:
        wait = sensor(**BOTH)
    assert len(caught) == 1
    assert (wait.start_from_trigger, wait.end_from_trigger) == (False, True)


ENDINGS = {
    "done at once": [DONE],
    "done later": ["queued", "processing", DONE],
    "failed": ["processing", {"status": "failed", "error": "not allowed"}],
    "never": ["processing"],
    "unauthorized": ["processing", ManxueAuthenticationError("401")],
    "away for a while": [ManxueTransientError("503"), ManxueTransientError("503"), DONE],
    "no url": [{"status": "completed"}],
}
IDS = {
    "literal": lambda: "proj_1",
    "template": lambda: "{{ params.id }}",
    "argument": lambda: Upstream(task_id="order").output,
    "answer": lambda: {"id": "proj_1"},
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
def test_every_combination_ends_as_the_normal_mode_does(ending, options, play):
    """Each shape, each way to name a video, one or many, against the same wait in the normal mode."""
    for make, ids in (*itertools.product([sensor], IDS), (batch, "argument")):
        seen = {
            shape: outcome_of(play, make, ids, ENDINGS[ending], {**options, **shape_options})
            for shape, shape_options in {
                "neither": {},
                "start": {"start_from_trigger": True},
                "end": {"end_from_trigger": True},
                "both": BOTH,
            }.items()
        }
        assert seen == dict.fromkeys(seen, seen["neither"]), (make.__name__, ids)


def outcome_of(play, make, ids, script, options):
    clock = ManualClock()
    service = ScriptedService(clock)
    world = FakeAirflow(clock, service)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        play(patch, world)
        with DAG("dag", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), params={"id": "proj_1"}):
            value = IDS[ids]()
            field, value = (
                ("video_task_id", value) if make is sensor else ("video_task_ids", [value, "proj_2"])
            )
            wait = make(**{field: value}, **options)
        world.upstream["order", -1, "return_value"] = {"id": "proj_1"}
        rendered = "proj_1" if make is sensor else ["proj_1", "proj_2"]
        if not wait.start_from_trigger:
            setattr(wait, field, rendered)
        world.rendered = {field: rendered}
        # Every video has the same fate, whoever asks and however often.
        by_video = {}

        def ask(video, side):
            answers = by_video.setdefault(video, list(script))
            service.script = [answers.pop(0) if len(answers) > 1 else answers[0]]
            return ScriptedService.ask(service, video, side)

        service.ask = ask
        try:
            world.run(wait)
            state = "success"
        except (ManxueError, AirflowTaskTimeout) as error:
            state = type(error).__name__
        except AirflowSkipException:
            state = "skipped"
    xcom = world.ti.xcom
    xcom.pop(ManxueVideoLink().xcom_key, None)  # at the end on a worker, Airflow itself stores it
    if not options.get("do_xcom_push", True):
        xcom.pop("return_value", None)  # of a worker, Airflow itself drops it
    return state, xcom
