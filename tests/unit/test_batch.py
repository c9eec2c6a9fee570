"""The sensor for many videos, in all of its modes."""

from __future__ import annotations

import json
import random

import pytest
from cryptography.fernet import Fernet

from airflow.models.trigger import Trigger
from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, BaseOperator, TaskDeferred

from airflow_provider_manxue._core.batch import (
    MAX_NAMED,
    MYSQL_TEXT,
    OUTCOMES_KEY,
    BatchProgress,
    batch_error,
    dump_outcomes,
    load_outcomes,
    stored_length,
    to_tasks,
)
from airflow_provider_manxue._core.events import batch_event, parse_batch_event
from airflow_provider_manxue._core.ids import parse_video_task_ids
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueInputError,
    ManxueMediaTypeError,
    ManxuePermissionError,
    ManxueRateLimitError,
    ManxueRefusedError,
    ManxueTimeoutError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor
from airflow_provider_manxue.triggers.manxue import ManxueVideoBatchTrigger
from tests.support.fake_airflow import START

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
    ask = service.ask

    def ask_for(video, side):
        service.script = [table[video]]
        return ask(video, side)

    monkeypatch.setattr(service, "ask", ask_for)
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
        assert service.asked_from == ["triggerer"] * 2 + ["worker"] * 2

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
        with pytest.raises(ManxueTimeoutError, match=r"\n- a: .*Last status from the service: processing"):
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
        videos |= dict.fromkeys("abc", ManxueAuthenticationError("401"))
        with pytest.raises(ManxueAuthenticationError, match="401"):
            world.run(sensor(mode, tolerate_failures=True))
        assert len(service.asked_at) <= 25

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

    def test_when_the_worker_resumes_is_retried_there(self, world, videos):
        down = iter([ManxueTransientError("HTTP 503")] * 3)
        videos |= {video: done(video) for video in "abc"}
        videos["b"] = lambda waited: done("b") if from_triggerer(world) else next(down, done("b"))
        assert len(world.run(sensor())) == 3
        assert len(world.deferrals) == 1

    @pytest.mark.parametrize("timeout", [100, 3600])
    def test_that_is_longer_defers_for_what_is_left(self, world, videos, timeout):
        trouble = ManxueTransientError("HTTP 503")
        videos |= {video: done(video) for video in "abc"}
        videos["b"] = lambda waited: done("b") if from_triggerer(world) or waited > 90 else trouble
        assert [task["status"] for task in world.run(sensor(timeout=timeout))] == ["completed"] * 3
        assert world.deferrals[1].trigger.video_task_ids == ["b"]
        assert 30 <= world.deferrals[1].trigger.arguments.first_poll_at - START <= 75
        assert world.service.asked_from.count("worker") < 20

    def test_that_does_not_end_ends_in_a_timeout(self, world, videos):
        trouble = ManxueTransientError("HTTP 503")
        videos |= {"a": lambda waited: done("a") if from_triggerer(world) else trouble, "b": done("b")}
        with pytest.raises(ManxueTimeoutError):
            world.run(sensor(ids="ab", timeout=100))
        assert world.ti.xcom["video_url"][1] == "https://cdn.example.com/b.mp4"


def from_triggerer(world):
    return world.service.asked_from[-1] == "triggerer"


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
            ([None], "video_task_ids[0]: video_task_id must be the id of a video task (text) or"),
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
        task.video_task_ids = "a, b"
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
                "defer_timeout_margin": 1800.0,
            },
        )
        assert deferred.value.trigger.serialize() == form
        assert ManxueVideoBatchTrigger(**json.loads(json.dumps(form[1]))).serialize() == form


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
            "2 of the videos were not completed; the results of the others are in XCom.\n- a: x\n- b: y"
        )


@pytest.mark.parametrize(
    ("count", "end"), [(MAX_NAMED, "\n- v99: x"), (MAX_NAMED + 2, "\n- v99: x\n- and 2 more")]
)
def test_error_of_a_large_batch_names_a_hundred_videos(count, end):
    error = str(batch_error({f"v{number}": ManxueRefusedError("x") for number in range(count)}))

    assert error.endswith(end)
    assert error.count(": x") == MAX_NAMED


def test_error_of_all_keeps_what_is_known():
    progress = BatchProgress(["a", "b", "a", "c"], START, START)
    ready, error = VideoTask("a", TaskStatus.COMPLETED), ManxueError("the event is not understood")
    progress.known["a"] = ready
    progress.fail(error)

    assert progress.known == {"a": ready, "b": error, "c": error}
    assert progress.remaining == []


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

    @pytest.mark.parametrize("length", range(12, 66, 3))
    def test_of_mysql_counts_what_encryption_adds(self, length):
        text = json.dumps(["v" * length]) + " " * 300  # the other arguments
        assert stored_length(["v" * length]) == len(Fernet(Fernet.generate_key()).encrypt(text.encode()))


# --- the event ----------------------------------------------------------------------------------------------


def through_json(event):
    return json.loads(json.dumps(event))


def test_event_of_a_batch_restores_errors_with_their_ids():
    outcomes = {
        "a": VideoTask("a", TaskStatus.COMPLETED),
        "b": ManxueVideoFailedError("The video 'b': no."),
        "c": ManxueTimeoutError("The video 'c' was late."),
        "d": ManxueTimeoutError("The video 'd' was late."),
        "e": ManxueTimeoutError("never polled"),
    }
    event = through_json(batch_event(list(outcomes), outcomes, not_polled=["e"]))
    states = parse_batch_event(event, list("abcde"))

    assert {video: (type(error), str(error)) for video, error in states.errors.items()} == {
        video: (type(outcomes[video]), str(outcomes[video])) for video in "bcd"
    }
    assert (states.to_read, states.to_poll) == (["a"], ["e"])
    assert len(event["table"]) == 4


@pytest.mark.parametrize("ids", [["a"], ["b", "a"], ["a", "c"], ["a", "b", "c"]])
def test_event_of_other_ids_lets_all_be_polled(ids):
    event = batch_event(["a", "b"], dict.fromkeys("ab", VideoTask("a", TaskStatus.COMPLETED)))

    assert parse_batch_event(event, ids).to_poll == ids


@pytest.mark.parametrize("event", [None, {}, {"version": 1}, {"version": 1, "status": "completed"}])
def test_event_that_is_not_understood_fails_the_batch(event):
    with pytest.raises(ManxueError, match="does not understand"):
        parse_batch_event(event, ["a"])


@pytest.mark.parametrize(
    "text", ["reason {} " + "x" * 500, "理由{}" + "错误" * 300, "\x00\ud800{}" * 99, "{}"]
)
@pytest.mark.parametrize("kind", [ManxueVideoFailedError, ManxueRefusedError, ManxueTimeoutError])
def test_event_of_a_batch_is_bounded_for_any_message(text, kind):
    ids = [f"video_{number}" for number in range(10_000)]
    outcomes = {video: kind(text.replace("{}", str(number))) for number, video in enumerate(ids)}
    outcomes |= dict.fromkeys(ids[5_000:], VideoTask("a", TaskStatus.COMPLETED))
    event = batch_event(ids, outcomes)
    assert len(json.dumps(event)) < 64 * 1024

    states = parse_batch_event(through_json(event), ids)
    assert set(ids[5_000:]) <= set(states.to_read)
    assert len(states.errors) + len(states.to_read) + len(states.to_poll) == 10_000


def test_event_alone_resumes_the_task(world, videos):
    """``airflow dags test`` resumes a task without the arguments of its deferral."""
    videos |= {video: done(video) for video in "abc"}
    event = batch_event(list("abc"), dict.fromkeys("abc", VideoTask("a", TaskStatus.COMPLETED)))

    result = sensor().resume_execution("execute_complete", {"event": event}, world.context)

    assert [task["id"] for task in result] == ["a", "b", "c"]


# --- what is kept -------------------------------------------------------------------------------------------


def test_kept_outcomes_make_a_round_trip():
    task = VideoTask("a", TaskStatus.COMPLETED, video_url="https://x/a.mp4")
    outcomes = {"a": task, "b": ManxueVideoFailedError("bad")}
    known, read_at = load_outcomes(through_json(dump_outcomes(outcomes, {"a": START})))

    assert known["a"].to_dict() == task.to_dict()
    assert (type(known["b"]), str(known["b"])) == (ManxueVideoFailedError, "bad")
    assert read_at == {"a": START}


@pytest.mark.parametrize(
    "value",
    [None, 1, [], {}, {"tasks": {}}, {"tasks": {"a": 1}, "errors": {}}, {"tasks": {}, "errors": {"a": []}}],
)
def test_kept_value_that_is_not_understood_is_ignored(value):
    assert load_outcomes(value) == ({}, {})


@pytest.mark.parametrize(("away_until", "reads"), [(150, 1), (900, 2)])
def test_kept_url_is_read_again_once_it_has_aged(world, videos, away_until, reads):
    """The worker reads ``a``, but ``b`` only once the service answers it again for ``b``."""
    read = []

    def respond_a(waited):
        if not from_triggerer(world):
            read.append(waited)
        return done("a")

    def respond_b(waited):
        is_away = 10.5 < waited < away_until or not (from_triggerer(world) or waited > away_until)
        return ManxueTransientError("HTTP 503") if is_away else done("b")

    videos |= {"a": respond_a, "b": respond_b}
    tasks = world.run(sensor(ids="ab"))

    assert [task["status"] for task in tasks] == ["completed"] * 2
    assert OUTCOMES_KEY in world.ti.xcom
    assert len(read) == reads


def test_totals_of_the_trigger_include_what_is_kept(world, videos, caplog, capsys):
    """The worker cannot read ``b`` at first, so that the second trigger waits for that alone."""
    videos |= {
        "a": done("a"),
        "b": lambda waited: (
            done("b") if waited > 150 or from_triggerer(world) else ManxueTransientError("HTTP 503")
        ),
    }
    world.run(sensor(ids="ab"))

    assert world.deferrals[1].trigger.ended_before == {"completed": 1}
    printed = capsys.readouterr().out or caplog.text
    assert " of 1 videos completed" not in printed


# --- endings ------------------------------------------------------------------------------------------------


def test_error_of_the_connection_hands_over_what_was_read(world, videos):
    videos |= {
        "a": done("a"),
        "b": done("b"),
        "c": lambda waited: done("c") if from_triggerer(world) else ManxueAuthenticationError("HTTP 401"),
    }
    with pytest.raises(ManxueError):
        world.run(sensor())

    assert world.ti.xcom["video_url"][:2] == [f"https://cdn.example.com/{video}.mp4" for video in "ab"]


def test_execution_timeout_hands_over_what_was_read(world, videos):
    class Interrupted(BaseException):
        pass

    def raise_interrupted(work):
        world._run_loop(work)
        raise Interrupted

    videos |= {video: done(video) for video in "ab"} | {"c": ManxueTransientError("HTTP 503")}
    event = batch_event(list("abc"), dict.fromkeys("abc", VideoTask("a", TaskStatus.COMPLETED)))
    world.run_loop = raise_interrupted
    with pytest.raises(Interrupted):
        sensor().execute_complete(world.context, event, started_at=START)

    assert world.ti.xcom["video_url"] == [f"https://cdn.example.com/{video}.mp4" for video in "ab"] + [None]


def test_forbidden_id_does_not_end_the_others(world, videos, mode):
    videos |= {"a": done("a"), "b": ManxuePermissionError("HTTP 403"), "c": done("c")}
    with pytest.raises(ManxueError, match="HTTP 403"):
        world.run(sensor(mode))

    assert [url is None for url in world.ti.xcom["video_url"]] == [False, True, False]


def test_pause_while_the_worker_reads_loses_no_url(world, videos):
    """One 429 with ``Retry-After: 900`` while the worker reads a hundred videos."""
    ids = [f"v{number}" for number in range(100)]
    throttled = []

    def read(video):
        if not from_triggerer(world) and video == "v40" and not throttled:
            throttled.append(world.clock.now)
            return ManxueRateLimitError("HTTP 429", retry_after=900.0)
        return done(video)

    videos |= {video: lambda waited, video=video: read(video) for video in ids}
    tasks = world.run(sensor(ids=ids))

    assert [task["status"] for task in tasks] == ["completed"] * 100
    assert len(world.deferrals) <= 2


def test_flaky_service_costs_at_most_one_deferral(world, videos, service):
    """200 videos, 3 % of the responses are 500, ready after 5 s."""
    ids = [f"v{number}" for number in range(200)]
    dice = random.Random(3)  # noqa: S311

    def respond(video, waited):
        if dice.random() < 0.03:
            return ManxueTransientError("HTTP 500")
        return done(video) if waited >= 5 else "processing"

    videos |= {video: lambda waited, video=video: respond(video, waited) for video in ids}
    tasks = world.run(sensor(ids=ids, poke_interval=10))

    assert [task["status"] for task in tasks] == ["completed"] * 200
    assert len(world.deferrals) <= 2
    assert len(service.asked_at) < 900
    assert world.clock.now - START < 90
