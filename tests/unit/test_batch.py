"""The sensor for many videos, in all of its modes."""

from __future__ import annotations

import json
import logging

import pytest
from cryptography.fernet import Fernet

from airflow.models.trigger import Trigger
from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, BaseOperator, TaskDeferred

from airflow_provider_manxue._client import async_client as transport_module
from airflow_provider_manxue._core.batch import (
    MYSQL_TEXT,
    Progress,
    batch_error,
    next_poll_of_all,
    parse_video_task_ids,
    stored_length,
    to_tasks,
)
from airflow_provider_manxue._core.events import batch_event, parse_batch_event
from airflow_provider_manxue._core.polling import AskAgain, Completed, Ended
from airflow_provider_manxue._core.status_log import LogLine
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueInputError,
    ManxueMediaTypeError,
    ManxueRateLimitError,
    ManxueRefusedError,
    ManxueTimeoutError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor
from airflow_provider_manxue.triggers.manxue import ManxueVideoBatchTrigger
from world import START

MODES = {
    "deferred": {"deferrable": True},
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
}


class Consumer(BaseOperator):
    def __init__(self, *, value=None, **kwargs):
        super().__init__(**kwargs)
        self.value = value

    def execute(self, context):
        """Is never run here."""


def sensor(mode="deferred", ids=("a", "b", "c"), **kwargs):
    return ManxueVideoBatchSensor(task_id="wait", video_task_ids=list(ids), **MODES[mode], **kwargs)


def done(video, length=5.0):
    return {
        "status": "completed",
        "video_url": f"https://cdn.example.com/{video}.mp4",
        "actualDuration": length,
    }


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def videos(world, service, monkeypatch):
    """What the service answers for each id: a status word, a body, an error, or a function of the time waited."""
    table = {}

    def answer(video, side):
        service.script = [table[video]]
        return service.ask(video, side)

    class Transport:
        prepare = staticmethod(lambda conn_id: None)

        async def get_video_task(self, conn_id, video, poke_interval):
            return answer(video, "triggerer")

    async def ask_for_all(read_settings, ids, until=None):
        outcomes = {}
        for video in ids:
            try:
                outcomes[video] = answer(video, "worker")
            except ManxueError as error:
                outcomes[video] = error
        return outcomes

    from airflow_provider_manxue.triggers import manxue as trigger_module

    class Lent:
        async def __aenter__(self):
            return Transport()

        async def __aexit__(self, *error):
            return None

    monkeypatch.setattr(trigger_module, "shared_transport", Lent)
    monkeypatch.setattr(transport_module, "ask_for_all", ask_for_all)
    from airflow_provider_manxue.hooks import manxue as hook_module

    hook_module.ManxueHook.read_settings = lambda self: None
    return table


class TestResult:
    def test_is_in_the_order_of_the_ids_in_every_mode(self, world, videos, mode):
        videos |= {
            "a": lambda waited: done("a", 4) if waited > 100 else "processing",
            "b": done("b", 5.17),
            "c": lambda waited: done("c", None) if waited > 50 else "queued",
        }
        tasks = world.run(sensor(mode))
        assert [task["id"] for task in tasks] == ["a", "b", "c"]
        assert world.ti.xcom["video_url"] == [f"https://cdn.example.com/{video}.mp4" for video in "abc"]
        assert world.ti.xcom["actualDuration"] == [4.0, 5.17, None]
        assert world.ti.xcom["return_value"] == tasks

    def test_of_an_id_that_stands_twice_is_there_twice_but_polled_once(self, world, videos, service):
        videos |= {"a": done("a"), "b": done("b")}
        tasks = world.run(sensor(ids=["a", "b", "a"]))
        assert [task["id"] for task in tasks] == ["a", "b", "a"]
        assert service.asked_from.count("triggerer") == 2

    def test_needs_one_deferral(self, world, videos):
        videos |= {video: done(video) for video in "abc"}
        world.run(sensor())
        assert len(world.deferrals) == 1
        assert world.deferrals[0].trigger.video_task_ids == ["a", "b", "c"]


class TestFailures:
    def test_are_named_after_all_others_have_come(self, world, videos, mode):
        videos |= {
            "a": {"status": "failed", "error": "bad prompt"},
            "b": lambda waited: done("b") if waited > 200 else "processing",
            "c": done("c"),
        }
        with pytest.raises(ManxueVideoFailedError, match=r"1 of the videos.*\n- a: .*bad prompt"):
            world.run(sensor(mode))
        assert world.ti.xcom["video_url"] == [None, *(f"https://cdn.example.com/{v}.mp4" for v in "bc")]
        assert world.ti.xcom["actualDuration"] == [None, 5.0, 5.0]
        failed, *others = world.ti.xcom["return_value"]
        assert failed["status"] == "failed"
        assert "bad prompt" in failed["error"]
        assert [task["status"] for task in others] == ["completed", "completed"]

    def test_are_tolerated_on_demand(self, world, videos, mode):
        videos |= {"a": {"status": "failed", "error": "bad prompt"}, "b": done("b"), "c": done("c")}
        tasks = world.run(sensor(mode, tolerate_failures=True))
        assert [task["status"] for task in tasks] == ["failed", "completed", "completed"]

    def test_deadline_keeps_what_has_come(self, world, videos, mode):
        videos |= {"a": "processing", "b": done("b"), "c": done("c")}
        with pytest.raises(ManxueTimeoutError, match=r"\n- a: .*Last answer of the service: processing"):
            world.run(sensor(mode, timeout=300))
        assert world.ti.xcom["video_url"][1:] == [f"https://cdn.example.com/{v}.mp4" for v in "bc"]
        assert world.clock.now == pytest.approx(START + 300, abs=1)

    def test_that_a_retry_may_cure_are_retried(self, world, videos, mode):
        videos |= {"a": ManxueRefusedError("HTTP 404"), "b": done("b"), "c": {"status": "failed"}}
        with pytest.raises(ManxueError, match=r"- a: .*Likely causes") as raised:
            world.run(sensor(mode))
        assert raised.type is ManxueError

    def test_of_a_wrong_kind_counts_as_failed(self, world, videos, mode):
        videos |= {"a": ManxueMediaTypeError("an image"), "b": done("b"), "c": done("c")}
        with pytest.raises(ManxueVideoFailedError, match="an image"):
            world.run(sensor(mode))

    def test_of_the_connection_ends_all_at_once(self, world, videos, mode, service):
        videos |= {"a": "processing", "b": ManxueAuthenticationError("401"), "c": "processing"}
        with pytest.raises(ManxueAuthenticationError, match="401"):
            world.run(sensor(mode, tolerate_failures=True))
        assert len(service.asked_at) <= 5

    @pytest.mark.parametrize(
        ("option", "expected"), [("soft_fail", AirflowSkipException), (None, ManxueVideoFailedError)]
    )
    def test_can_be_skipped(self, world, videos, mode, option, expected):
        videos |= {"a": {"status": "failed"}, "b": done("b"), "c": done("c")}
        with pytest.raises(expected):
            world.run(sensor(mode, **({option: True} if option else {})))


def test_result_is_pushed_by_airflow_alone_if_the_task_succeeds(world, videos, mode):
    videos |= {"a": {"status": "failed"}, "b": done("b"), "c": done("c")}
    pushed = []
    real = world.ti.xcom_push
    world.ti.xcom_push = lambda key, value: (pushed.append(key), real(key, value))
    world.run(sensor(mode, tolerate_failures=True))
    assert pushed == ["video_url", "actualDuration"]


class TestOutage:
    def test_is_survived(self, world, videos, mode):
        trouble = ManxueTransientError("HTTP 503")
        videos |= {video: lambda waited, v=video: done(v) if waited > 900 else trouble for video in "abc"}
        assert len(world.run(sensor(mode))) == 3

    def test_when_the_worker_resumes_defers_again(self, world, videos):
        down = iter([ManxueTransientError("HTTP 503")])
        videos |= {
            "a": done("a"),
            "b": lambda waited: (
                done("b") if world.service.asked_from[-1] == "triggerer" else next(down, done("b"))
            ),
            "c": done("c"),
        }
        assert len(world.run(sensor())) == 3
        assert len(world.deferrals) == 2
        assert world.deferrals[0].trigger.deadline == world.deferrals[1].trigger.deadline

    def test_when_the_worker_resumes_at_the_deadline_loses_no_video_that_is_there(self, world, videos, clock):
        down = iter([ManxueTransientError("HTTP 503")])
        videos |= {
            "a": lambda waited: (
                next(down, done("a"))
                if world.service.asked_from[-1] == "worker"
                else done("a")
                if waited >= 100
                else {"status": "processing"}
            )
        }
        assert world.run(sensor(ids="a", timeout=100))[0]["status"] == "completed"
        assert len(world.deferrals) == 2

    def test_of_the_worker_does_not_go_on_for_ever(self, world, videos):
        trouble = ManxueTransientError("HTTP 503")
        videos |= {"a": lambda waited: done("a") if world.service.asked_from[-1] == "triggerer" else trouble}
        with pytest.raises(ManxueTimeoutError):
            world.run(sensor(ids="a", timeout=100))


class TestInput:
    @pytest.mark.parametrize("ids", [[], "a", None, 5, ["a", " "], [["a"]], {"id": "a"}])
    def test_is_refused_when_the_dag_is_parsed(self, ids):
        with pytest.raises(ManxueInputError, match="video_task_ids"):
            ManxueVideoBatchSensor(task_id="wait", video_task_ids=ids)

    def test_blank_id_is_named_by_its_position(self):
        with pytest.raises(ManxueInputError, match=r"video_task_ids\[1\]"):
            parse_video_task_ids(["a", " "])

    @pytest.mark.parametrize(
        ("ids", "text"),
        [
            ([], "video_task_ids is empty. Pass at least one id."),
            ([5], "video_task_ids[0]: video_task_id must be the id of a video task (text) or"),
            (
                "a",
                "video_task_ids must be a list of ids, not 'a'. For one id use ManxueVideoSensor; with a template",
            ),
        ],
    )
    def test_that_is_refused_is_named(self, ids, text):
        with pytest.raises(ManxueInputError) as caught:
            parse_video_task_ids(ids)
        assert str(caught.value).startswith(text)

    def test_create_answers_are_ids(self):
        assert parse_video_task_ids(({"id": "a"}, {"data": {"projectId": "b"}})) == ["a", "b"]

    def test_template_is_checked_when_it_is_rendered(self, world):
        task = ManxueVideoBatchSensor(task_id="wait", video_task_ids="{{ params.ids }}")
        task.video_task_ids = "['a']"
        with pytest.raises(ManxueInputError, match="render_template_as_native_obj"):
            task.execute(world.context)


class TestTrigger:
    def test_serialized_form_is_the_released_one(self, world, videos):
        with pytest.raises(TaskDeferred) as deferred:
            sensor(timeout=600).execute(world.context)
        form = (
            "airflow_provider_manxue.triggers.manxue.ManxueVideoBatchTrigger",
            {
                "video_task_ids": ["a", "b", "c"],
                "manxue_conn_id": "manxue_default",
                "poke_interval": 30.0,
                "started_at": START,
                "deadline": START + 600,
                "first_poll_at": START + 10,
                "exponential_backoff": False,
                "max_wait": None,
            },
        )
        assert deferred.value.trigger.serialize() == form
        assert ManxueVideoBatchTrigger(**json.loads(json.dumps(form[1]))).serialize() == form

    def test_event_of_a_batch_survives_the_database(self):
        errors = {"a": ManxueVideoFailedError("no"), "b": ManxueTimeoutError("late")}
        read = parse_batch_event(json.loads(json.dumps(batch_event(errors))))
        assert {video: (type(error), str(error)) for video, error in read.items()} == {
            "a": (ManxueVideoFailedError, "no"),
            "b": (ManxueTimeoutError, "late"),
        }

    @pytest.mark.parametrize(
        "event",
        [None, {}, {"version": 1}, {"version": 1, "status": "ended"}, {"version": 1, "status": "completed"}],
    )
    def test_event_that_is_not_understood_fails_the_task(self, event):
        with pytest.raises(ManxueError, match="does not understand"):
            parse_batch_event(event)


class TestProgress:
    """What the log is told of a batch of four videos."""

    READY = Completed(VideoTask("a", TaskStatus.COMPLETED))
    FAILED = Ended(ManxueVideoFailedError("bad prompt."))

    def test_is_told_at_most_every_ten_seconds_but_at_the_end(self):
        progress = Progress(4)
        told = [
            progress.after(video, self.READY, waited)
            for video, waited in zip("abcd", (5, 14, 15, 16), strict=True)
        ]
        assert told == [
            (LogLine(logging.INFO, "1 of 4 videos completed (after 0:00:05)"),),
            (),
            (LogLine(logging.INFO, "3 of 4 videos completed (after 0:00:15)"),),
            (LogLine(logging.INFO, "4 of 4 videos completed (after 0:00:16)"),),
        ]

    def test_of_a_failed_video_is_told_at_once(self):
        progress = Progress(3)
        progress.after("a", self.READY, 100.0)
        assert progress.after("b", self.FAILED, 101.0) == (
            LogLine(logging.WARNING, "bad prompt. The others are still awaited."),
        )
        assert progress.after("c", self.READY, 102.0) == (
            LogLine(logging.INFO, "2 of 3 videos completed, 1 ended otherwise (after 0:01:42)"),
        )
        assert progress.errors == {"b": self.FAILED.error}


class TestOutcomes:
    """What is handed over of a batch."""

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (ManxueVideoFailedError("bad prompt"), "failed"),
            (ManxueMediaTypeError("an image"), "failed"),
            (ManxueTimeoutError("too late"), "unknown"),
            (ManxueRefusedError("HTTP 404"), "unknown"),
        ],
    )
    def test_of_an_error_say_so(self, error, status):
        ready = VideoTask("a", TaskStatus.COMPLETED, video_url="https://cdn.example.com/a.mp4")
        tasks = to_tasks(["b", "a"], {"a": ready, "b": error})
        assert tasks[1] == ready.to_dict()
        assert tasks[0] == VideoTask("b", TaskStatus(status), error=str(error)).to_dict()

    @pytest.mark.parametrize(
        ("errors", "kind"),
        [
            ([ManxueVideoFailedError("x"), ManxueMediaTypeError("y")], ManxueVideoFailedError),
            ([ManxueVideoFailedError("x"), ManxueRefusedError("y")], ManxueError),
            ([ManxueRefusedError("x"), ManxueTimeoutError("y")], ManxueTimeoutError),
        ],
    )
    def test_that_did_not_come_are_one_error(self, errors, kind):
        failure = batch_error(dict(zip("ab", errors, strict=True)))
        assert type(failure) is kind
        assert str(failure) == (
            "2 of the videos did not come; the results of the others are in XCom.\n- a: x\n- b: y"
        )


def test_progress_is_told_on_change_and_a_failure_at_once(world, videos, caplog, capsys):
    videos |= {
        "a": {"status": "failed", "error": "bad prompt"},
        "b": lambda waited: done("b") if waited > 100 else "processing",
        "c": done("c"),
    }
    with pytest.raises(ManxueVideoFailedError):
        world.run(sensor())
    printed = capsys.readouterr().out or caplog.text
    assert printed.index("bad prompt. Usual causes") < printed.index(
        "2 of 3 videos completed, 1 ended otherwise"
    )


@pytest.mark.parametrize("mode", ["poke", "deferred"])
def test_pause_beyond_the_deadline_loses_no_result(world, videos, mode):
    videos["a"] = done("a")
    videos["b"] = videos["c"] = ManxueTransientError("HTTP 429", retry_after=800)
    with pytest.raises(ManxueTimeoutError, match="2 of the videos did not come"):
        world.run(sensor(mode, timeout=100))
    assert world.clock.now == pytest.approx(START + 100, abs=1)
    assert world.ti.xcom["video_url"] == ["https://cdn.example.com/a.mp4", None, None]
    assert [task["error"] is None for task in world.ti.xcom["return_value"]] == [True, False, False]


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_pause_that_one_was_told_to_make_holds_for_all_on_a_worker(world, videos, service, mode):
    videos |= {
        "a": lambda waited: "processing" if waited < 300 else done("a"),
        "b": lambda waited: ManxueRateLimitError("HTTP 429", retry_after=200) if waited < 200 else done("b"),
        "c": done("c"),
    }
    world.run(sensor(mode, timeout=600))
    rounds = sorted({round(at) for at in service.asked_at})
    assert rounds[0] == 0
    assert rounds[1] >= 200
    assert rounds[2] - rounds[1] <= 60


@pytest.mark.parametrize(("retry_after", "next_poll"), [(None, 30), (200, 200)])
def test_pause_of_the_resuming_worker_holds_for_the_trigger(world, videos, retry_after, next_poll):
    videos |= {"a": done("a"), "b": done("b"), "c": done("c")}
    deferred = sensor(timeout=600)
    with pytest.raises(TaskDeferred):
        deferred.execute(world.context)
    videos["b"] = ManxueRateLimitError("HTTP 429", retry_after=retry_after)
    with pytest.raises(TaskDeferred) as again:
        deferred.execute_complete(world.context, batch_event({}), started_at=START)
    assert again.value.trigger.first_poll_at == pytest.approx(START + next_poll, abs=2)


class TestNextPollOfAll:
    PROCESSING = VideoTask("v", TaskStatus.PROCESSING)

    @pytest.mark.parametrize(
        ("unfinished", "at"),
        [
            ([(PROCESSING, 30.0), (PROCESSING, 20.0)], 20.0),
            ([(PROCESSING, 0.5), (PROCESSING, 20.0)], 0.5),
            ([(ManxueRateLimitError("429"), 0.5)], 0.5),
            ([(PROCESSING, 30.0), (ManxueRateLimitError("429", retry_after=90.0), 100.0)], 90.0),
            ([(ManxueRateLimitError("429", retry_after=n), 100.0) for n in (90.0, 40.0)], 100.0),
            ([(PROCESSING, 30.0), (ManxueRateLimitError("429", retry_after=7.0), 10.0)], 10.0),
            ([(PROCESSING, 30.0), (ManxueRateLimitError("429"), 60.0)], 30.0),
            ([(PROCESSING, 30.0), (ManxueRateLimitError("429", retry_after=1e9), 2e9)], 900.0),
            # Another trouble is that of one video.
            ([(PROCESSING, 30.0), (ManxueTransientError("503", retry_after=90.0), 90.0)], 30.0),
        ],
    )
    def test_is_the_earliest_unless_the_service_wants_a_pause(self, unfinished, at):
        polls = [(outcome, AskAgain(START + after)) for outcome, after in unfinished]
        assert next_poll_of_all(polls, START).at == START + at


class TestCeilings:
    @pytest.fixture
    def limit(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")

    def test_of_a_result_that_is_mapped_over_is_told_before_the_wait(self, world, videos, service, limit):
        with DAG("dag", schedule=None):
            wait = sensor()
            Consumer.partial(task_id="use").expand(value=wait.output)
        with pytest.raises(ManxueInputError, match=r"3 videos, and \[core\] max_map_length allows 2"):
            world.run(wait)
        assert service.asked_at == []

    def test_of_mapping_is_none_where_nothing_maps(self, world, videos, limit):
        videos["a"] = videos["b"] = videos["c"] = done("x")
        with DAG("dag", schedule=None):
            wait = sensor()
            wait >> Consumer(task_id="use")
        assert len(world.run(wait)) == 3

    def test_of_mysql_is_told(self, world, videos, caplog, capsys):
        ids = [f"video_{number:036}" for number in range(1100)]
        videos.update(dict.fromkeys(ids, done("x")))
        world.run(sensor(ids=ids))
        assert "If that is MySQL, it holds 65535" in (capsys.readouterr().out or caplog.text)

    def test_of_mysql_is_far_enough_for_a_thousand_ids(self):
        ids = [f"video_{number:036}" for number in range(1000)]
        assert stored_length(ids) < MYSQL_TEXT

    def test_of_mysql_is_counted_as_airflow_stores(self):
        ids = [f"video_{number:036}" for number in range(1000)]
        trigger = ManxueVideoBatchTrigger(
            video_task_ids=ids, manxue_conn_id="manxue_default", poke_interval=30.0, started_at=START,
            deadline=START + 10800, first_poll_at=START + 10,
        )  # fmt: skip
        # Without a key of Airflow's in these tests, nothing is encrypted yet.
        stored = Fernet(Fernet.generate_key()).encrypt(Trigger.from_object(trigger).encrypted_kwargs.encode())
        assert len(stored) <= stored_length(ids) <= len(stored) + 500


def test_goes_on_with_an_event_alone(world, videos):
    """``airflow dags test`` resumes a task without the arguments of its deferral."""
    videos |= {video: done(video) for video in "abc"}

    result = sensor().resume_execution("execute_complete", {"event": batch_event({})}, world.context)

    assert [task["id"] for task in result] == ["a", "b", "c"]
