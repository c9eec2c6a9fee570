"""
The sensor for many videos, in all of its modes.

The rules and their reasons are in docs/many-videos.md and docs/waiting.md.
"""

from __future__ import annotations

import json
import random

import pytest
from cryptography.fernet import Fernet

from airflow.models.trigger import Trigger
from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, BaseOperator, TaskDeferred

from airflow_provider_manxue._core import tab_record
from airflow_provider_manxue._core.batch import (
    MAX_NAMED,
    MYSQL_TEXT,
    OUTCOMES_KEY,
    BatchProgress,
    batch_error,
    dump_outcomes,
    dump_statuses,
    load_outcomes,
    load_statuses,
    stored_length,
    to_tasks,
)
from airflow_provider_manxue._core.events import batch_event, parse_batch_event
from airflow_provider_manxue._core.ids import parse_video_task_ids
from airflow_provider_manxue._core.polling import MAX_URL_AGE
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueInputError,
    ManxueMediaTypeError,
    ManxuePermissionError,
    ManxueRateLimitError,
    ManxueRedirectError,
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
        """Never runs in these tests."""


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
def videos(fake_airflow, service, monkeypatch):
    """The response of the service for each id: a status, a body, an error, or a function of the elapsed seconds."""
    table = {}
    poll = service.poll

    def poll_one(video, side, *subject):
        service.script = [table[video]]
        return poll(video, side, *subject)

    monkeypatch.setattr(service, "poll", poll_one)
    return table


class TestResult:
    def test_result_follows_the_order_of_the_ids(self, fake_airflow, videos, mode):
        videos |= {
            "a": lambda waited: done("a", 4) if waited > 100 else "processing",
            "b": done("b", 5.17),
            "c": lambda waited: done("c", None) if waited > 50 else "queued",
        }
        tasks = fake_airflow.run(sensor(mode))
        assert [task["id"] for task in tasks] == ["a", "b", "c"]
        assert fake_airflow.ti.xcom["video_url"] == [
            f"https://cdn.example.com/{video}.mp4" for video in "abc"
        ]
        assert fake_airflow.ti.xcom["actualDuration"] == [4.0, 5.17, None]
        assert fake_airflow.ti.xcom["return_value"] == tasks

    def test_repeated_id_is_polled_once_and_returned_twice(self, fake_airflow, videos, service):
        videos |= {"a": done("a"), "b": done("b")}
        tasks = fake_airflow.run(sensor(ids=["a", "b", "a"]))
        assert [task["id"] for task in tasks] == ["a", "b", "a"]
        assert service.polled_from == ["triggerer"] * 2 + ["worker"] * 2

    def test_batch_takes_one_deferral(self, fake_airflow, videos):
        videos |= {video: done(video) for video in "abc"}
        fake_airflow.run(sensor())
        assert len(fake_airflow.deferrals) == 1
        assert fake_airflow.deferrals[0].trigger.video_task_ids == ["a", "b", "c"]


class TestErrorOfTheWholeBatch:
    @pytest.mark.parametrize("tolerate", [False, True])
    @pytest.mark.parametrize("kind", [ManxuePermissionError, ManxueRedirectError])
    @pytest.mark.parametrize("works_until", [0, 60])
    def test_gateway_that_blocks_each_video_is_its_error(
        self, fake_airflow, videos, mode, kind, tolerate, works_until
    ):
        """``tolerate_failures`` is for failed videos: these may be completed."""
        videos |= dict.fromkeys(
            "ab", lambda waited: "processing" if waited < works_until else kind("HTTP 3xx")
        )
        with pytest.raises(kind, match="HTTP 3xx"):
            fake_airflow.run(sensor(mode, "ab", tolerate_failures=tolerate, timeout=600))

    def test_id_that_is_forbidden_alone_is_tolerated(self, fake_airflow, videos, mode):
        videos |= {"a": done("a"), "b": ManxuePermissionError("HTTP 403")}
        tasks = fake_airflow.run(sensor(mode, "ab", tolerate_failures=True, timeout=600))
        assert [task["status"] for task in tasks] == ["completed", "unknown"]

    @pytest.mark.parametrize("kind", [ManxueRefusedError, ManxuePermissionError, ManxueTransientError])
    def test_pause_for_one_video_survives_the_process(self, fake_airflow, videos, service, mode, kind):
        """A rescheduled process, or the triggerer, does not know which of the videos requested it."""
        polls = []

        def paused(waited):
            polls.append(waited)
            return (
                kind("HTTP 4xx", 600.0) if 30 <= waited < 600 else "processing" if waited < 30 else done("a")
            )

        videos |= {"a": paused, "b": lambda waited: "processing" if waited < 700 else done("b")}
        fake_airflow.run(sensor(mode, "ab"))

        began = next(at for at in polls if at >= 30)
        assert not [at for at in polls if began < at < began + 600]


class TestFailures:
    def test_failures_are_raised_after_all_videos_have_ended(self, fake_airflow, videos, mode):
        videos |= {
            "a": {"status": "failed", "error": "bad prompt"},
            "b": lambda waited: done("b") if waited > 200 else "processing",
            "c": done("c"),
        }
        with pytest.raises(ManxueVideoFailedError, match=r"1 of the videos.*\n- a: .*bad prompt"):
            fake_airflow.run(sensor(mode))
        assert fake_airflow.ti.xcom["video_url"] == [
            None,
            *(f"https://cdn.example.com/{v}.mp4" for v in "bc"),
        ]
        assert fake_airflow.ti.xcom["actualDuration"] == [None, 5.0, 5.0]
        failed, *others = fake_airflow.ti.xcom["return_value"]
        assert failed["status"] == "failed"
        assert "bad prompt" in failed["error"]
        assert [task["status"] for task in others] == ["completed", "completed"]

    def test_failures_are_tolerated_with_tolerate_failures(self, fake_airflow, videos, mode):
        videos |= {"a": {"status": "failed", "error": "bad prompt"}, "b": done("b"), "c": done("c")}
        tasks = fake_airflow.run(sensor(mode, tolerate_failures=True))
        assert [task["status"] for task in tasks] == ["failed", "completed", "completed"]

    def test_deadline_keeps_completed_videos(self, fake_airflow, videos, mode):
        videos |= {"a": "processing", "b": done("b"), "c": done("c")}
        with pytest.raises(ManxueTimeoutError, match=r"\n- a: .*Last status from the service: processing"):
            fake_airflow.run(sensor(mode, timeout=300))
        assert fake_airflow.ti.xcom["video_url"][1:] == [f"https://cdn.example.com/{v}.mp4" for v in "bc"]
        assert fake_airflow.clock.now == pytest.approx(START + 300, abs=1)

    def test_temporary_failures_allow_a_retry(self, fake_airflow, videos, mode):
        videos |= {"a": ManxueRefusedError("HTTP 404"), "b": done("b"), "c": {"status": "failed"}}
        with pytest.raises(ManxueError, match=r"- a: .*Likely causes") as raised:
            fake_airflow.run(sensor(mode))
        assert raised.type is ManxueError

    def test_wrong_media_type_counts_as_failed(self, fake_airflow, videos, mode):
        videos |= {"a": ManxueMediaTypeError("an image"), "b": done("b"), "c": done("c")}
        with pytest.raises(ManxueVideoFailedError, match="an image"):
            fake_airflow.run(sensor(mode))

    def test_wrong_key_ends_the_whole_batch(self, fake_airflow, videos, mode, service):
        videos |= dict.fromkeys("abc", ManxueAuthenticationError("401"))
        with pytest.raises(ManxueAuthenticationError, match="401"):
            fake_airflow.run(sensor(mode, tolerate_failures=True))
        assert len(service.polled_at) <= 25
        assert fake_airflow.clock.now - START <= 10

    @pytest.mark.parametrize(
        ("option", "expected"), [("soft_fail", AirflowSkipException), (None, ManxueVideoFailedError)]
    )
    def test_failures_are_skipped_with_soft_fail(self, fake_airflow, videos, mode, option, expected):
        videos |= {"a": {"status": "failed"}, "b": done("b"), "c": done("c")}
        with pytest.raises(expected):
            fake_airflow.run(sensor(mode, **({option: True} if option else {})))


def test_return_value_is_pushed_by_airflow_only(fake_airflow, videos, mode):
    """Airflow pushes the return value of a task that succeeds; a second push would store it twice."""
    videos |= {"a": {"status": "failed"}, "b": done("b"), "c": done("c")}
    pushed = []
    real = fake_airflow.ti.xcom_push
    fake_airflow.ti.xcom_push = lambda key, value: (pushed.append(key), real(key, value))
    fake_airflow.run(sensor(mode, tolerate_failures=True))
    assert [key for key in pushed if key != tab_record.KEY] == ["video_url", "actualDuration"]


class TestOutage:
    def test_outage_of_15_minutes_is_survived(self, fake_airflow, videos, mode):
        trouble = ManxueTransientError("HTTP 503")
        videos |= {video: lambda waited, v=video: done(v) if waited > 900 else trouble for video in "abc"}
        assert len(fake_airflow.run(sensor(mode))) == 3

    def test_short_outage_is_retried_by_the_resumed_worker(self, fake_airflow, videos):
        down = iter([ManxueTransientError("HTTP 503")] * 3)
        videos |= {video: done(video) for video in "abc"}
        videos["b"] = lambda waited: done("b") if from_triggerer(fake_airflow) else next(down, done("b"))
        assert len(fake_airflow.run(sensor())) == 3
        assert len(fake_airflow.deferrals) == 1

    @pytest.mark.parametrize("timeout", [100, 3600])
    def test_long_outage_defers_again_for_remaining_videos(self, fake_airflow, videos, timeout):
        trouble = ManxueTransientError("HTTP 503")
        videos |= {video: done(video) for video in "abc"}
        videos["b"] = lambda waited: done("b") if from_triggerer(fake_airflow) or waited > 90 else trouble
        assert [task["status"] for task in fake_airflow.run(sensor(timeout=timeout))] == ["completed"] * 3
        assert fake_airflow.deferrals[1].trigger.video_task_ids == ["b"]
        assert 30 <= fake_airflow.deferrals[1].trigger.arguments.first_poll_at - START <= 75
        assert fake_airflow.service.polled_from.count("worker") < 20

    def test_outage_without_end_ends_in_a_timeout(self, fake_airflow, videos):
        trouble = ManxueTransientError("HTTP 503")
        videos |= {"a": lambda waited: done("a") if from_triggerer(fake_airflow) else trouble, "b": done("b")}
        with pytest.raises(ManxueTimeoutError):
            fake_airflow.run(sensor(ids="ab", timeout=100))
        assert fake_airflow.ti.xcom["video_url"][1] == "https://cdn.example.com/b.mp4"


def from_triggerer(fake_airflow):
    return fake_airflow.service.polled_from[-1] == "triggerer"


class TestInput:
    @pytest.mark.parametrize("ids", [[], "a", None, 5, ["a", " "], [["a"]], {"id": "a"}])
    def test_bad_ids_are_rejected_at_parse_time(self, ids):
        with pytest.raises(ManxueInputError, match="video_task_ids"):
            ManxueVideoBatchSensor(task_id="wait", video_task_ids=ids)

    def test_blank_id_is_reported_with_its_position(self):
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
    def test_error_describes_the_bad_value(self, ids, text):
        with pytest.raises(ManxueInputError) as caught:
            parse_video_task_ids(ids)
        assert str(caught.value).startswith(text)

    def test_create_responses_are_accepted_as_ids(self):
        assert parse_video_task_ids(({"id": "a"}, {"data": {"projectId": "b"}})) == ["a", "b"]

    def test_template_is_checked_after_rendering(self, fake_airflow):
        task = ManxueVideoBatchSensor(task_id="wait", video_task_ids="{{ params.ids }}")
        task.video_task_ids = "a, b"
        with pytest.raises(ManxueInputError, match="render_template_as_native_obj"):
            task.execute(fake_airflow.context)


class TestTrigger:
    def test_serialized_form_is_unchanged(self, fake_airflow, videos):
        """The metadata database holds triggers of running waits across an upgrade."""
        with pytest.raises(TaskDeferred) as deferred:
            sensor(timeout=600).execute(fake_airflow.context)
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
    """Outcomes of the videos of a batch."""

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (ManxueVideoFailedError("bad prompt"), "failed"),
            (ManxueMediaTypeError("an image"), "failed"),
            (ManxueTimeoutError("too late"), "unknown"),
            (ManxueRefusedError("HTTP 404"), "unknown"),
        ],
    )
    def test_error_becomes_failed_or_unknown_task(self, error, status):
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
    def test_several_errors_become_one(self, errors, kind):
        failure = batch_error(dict(zip("ab", errors, strict=True)))
        assert type(failure) is kind
        assert str(failure) == (
            "2 of the videos were not completed; the results of the others are in XCom.\n- a: x\n- b: y"
        )


@pytest.mark.parametrize(
    ("count", "end"), [(MAX_NAMED, "\n- v99: x"), (MAX_NAMED + 2, "\n- v99: x\n- and 2 more")]
)
def test_error_of_a_large_batch_lists_100_videos(count, end):
    error = str(batch_error({f"v{number}": ManxueRefusedError("x") for number in range(count)}))

    assert error.endswith(end)
    assert error.count(": x") == MAX_NAMED


def test_video_without_outcome_is_reported_as_not_read():
    (task,) = to_tasks(["a"], {})

    assert (task["status"], task["error"]) == ("unknown", "The task ended before this video was read.")


def test_progress_counts_each_ended_video_by_status():
    progress = BatchProgress(list("abcdef"), START, START, has_worked=False)
    progress.known = {"a": VideoTask("a", TaskStatus.COMPLETED), "b": ManxueRefusedError("HTTP 404")}
    progress.completed = {"c", "d"}  # as the trigger reported
    progress.failed = {"d"}

    assert progress.statuses() == {
        "a": "completed",
        "b": "failed",
        "c": "completed",
        "d": "failed",
        "e": "",
        "f": "",
    }
    assert progress.ended_before(["c", "e", "f"]) == {"completed": 1, "failed": 2}
    assert progress.ended_before(progress.ids) is None


def test_last_statuses_survive_a_deferral():
    statuses = {"a": "completed", "b": "", "c": "failed", "d": "completed"}

    codes = dump_statuses(["b", "a", "c", "b"], statuses)

    assert codes == "-cf"
    assert load_statuses(["b", "a", "c", "b"], codes) == {"b": "", "a": "completed", "c": "failed"}


def test_unknown_statuses_are_not_stored():
    assert dump_statuses("ab", {"a": "", "b": ""}) == ""
    assert load_statuses("ab", "") == {"a": "", "b": ""}


@pytest.mark.parametrize("codes", ["c", "c?", "c-fff"])
def test_status_that_cannot_be_parsed_is_not_known(codes):
    assert load_statuses("ab", codes) == {"a": "completed", "b": ""}


@pytest.mark.parametrize(("age", "to_poll"), [(MAX_URL_AGE, ["b"]), (MAX_URL_AGE + 1, ["a", "b"])])
def test_task_with_an_old_url_is_polled_again(age, to_poll):
    progress = BatchProgress(["a", "b"], START, START, has_worked=False)
    progress.known["a"], progress.read_at["a"] = VideoTask("a", TaskStatus.COMPLETED), START

    assert progress.to_poll(START + age) == to_poll


def test_error_of_a_whole_batch_keeps_known_outcomes():
    progress = BatchProgress(["a", "b", "a", "c"], START, START, has_worked=False)
    ready, error = VideoTask("a", TaskStatus.COMPLETED), ManxueError("the event is not understood")
    progress.known["a"] = ready
    progress.fail(error)

    assert progress.known == {"a": ready, "b": error, "c": error}
    assert progress.remaining == []


def test_failure_is_logged_before_the_final_progress(fake_airflow, videos, caplog, capsys):
    videos |= {
        "a": {"status": "failed", "error": "bad prompt"},
        "b": lambda waited: done("b") if waited > 100 else "processing",
        "c": done("c"),
    }
    with pytest.raises(ManxueVideoFailedError):
        fake_airflow.run(sensor())
    printed = capsys.readouterr().out or caplog.text
    assert printed.index("bad prompt. Usual causes") < printed.index(
        "2 of 3 videos completed, 1 ended otherwise"
    )


class TestSizeLimits:
    @pytest.fixture
    def limit(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")

    def test_mapped_result_is_checked_before_the_wait(self, fake_airflow, videos, service, limit):
        """Airflow would fail the task only after the wait, when it pushes a result longer than ``max_map_length``."""
        with DAG("dag", schedule=None):
            wait = sensor()
            Consumer.partial(task_id="use").expand(value=wait.output)
        with pytest.raises(ManxueInputError, match=r"3 videos, and \[core\] max_map_length allows 2"):
            fake_airflow.run(wait)
        assert service.polled_at == []

    def test_unmapped_result_has_no_limit(self, fake_airflow, videos, limit):
        videos["a"] = videos["b"] = videos["c"] = done("x")
        with DAG("dag", schedule=None):
            wait = sensor()
            wait >> Consumer(task_id="use")
        assert len(fake_airflow.run(wait)) == 3

    def test_ids_too_large_for_mysql_are_logged(self, fake_airflow, videos, caplog, capsys):
        """MySQL stores the arguments of a trigger in a ``TEXT`` column of 65,535 bytes."""
        ids = [f"video_{number:036}" for number in range(1100)]
        videos.update(dict.fromkeys(ids, done("x")))
        fake_airflow.run(sensor(ids=ids))
        assert "If that is MySQL, it holds 65535" in (capsys.readouterr().out or caplog.text)

    def test_thousand_ids_fit_into_mysql(self):
        ids = [f"video_{number:036}" for number in range(1000)]
        assert stored_length(ids) < MYSQL_TEXT

    def test_stored_length_matches_airflow(self):
        ids = [f"video_{number:036}" for number in range(1000)]
        trigger = ManxueVideoBatchTrigger(
            video_task_ids=ids, manxue_conn_id="manxue_default", poke_interval=30.0, started_at=START,
            deadline=START + 10800, first_poll_at=START + 10,
        )  # fmt: skip
        # Airflow has no Fernet key in these tests, so it has encrypted nothing.
        stored = Fernet(Fernet.generate_key()).encrypt(Trigger.from_object(trigger).encrypted_kwargs.encode())
        assert len(stored) <= stored_length(ids) <= len(stored) + 500

    @pytest.mark.parametrize("length", range(12, 66, 3))
    def test_stored_length_includes_encryption(self, length):
        text = json.dumps(["v" * length]) + " " * 300  # the remaining arguments
        assert stored_length(["v" * length]) == len(Fernet(Fernet.generate_key()).encrypt(text.encode()))


# --- the event ----------------------------------------------------------------------------------------------


def through_json(event):
    return json.loads(json.dumps(event))


def test_event_restores_errors_with_their_ids():
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
def test_event_of_other_ids_is_ignored(ids):
    """The ids may have changed between the deferral and the resumption. The worker then polls all videos."""
    event = batch_event(["a", "b"], dict.fromkeys("ab", VideoTask("a", TaskStatus.COMPLETED)))

    assert parse_batch_event(event, ids).to_poll == ids


@pytest.mark.parametrize("event", [None, {}, {"version": 1}, {"version": 1, "status": "completed"}])
def test_unknown_event_fails_the_batch(event):
    """An event of a newer or broken trigger must never count as a success."""
    with pytest.raises(ManxueError, match="does not understand"):
        parse_batch_event(event, ["a"])


@pytest.mark.parametrize(
    "text", ["reason {} " + "x" * 500, "理由{}" + "错误" * 300, "\x00\ud800{}" * 99, "{}"]
)
@pytest.mark.parametrize("kind", [ManxueVideoFailedError, ManxueRefusedError, ManxueTimeoutError])
def test_event_of_10000_videos_stays_below_64_kib(text, kind):
    """Airflow stores the event, and MySQL's TEXT has 64 KiB. The worker polls the videos that the event leaves out."""
    ids = [f"video_{number}" for number in range(10_000)]
    outcomes = {video: kind(text.replace("{}", str(number))) for number, video in enumerate(ids)}
    outcomes |= dict.fromkeys(ids[5_000:], VideoTask("a", TaskStatus.COMPLETED))
    event = batch_event(ids, outcomes)
    assert len(json.dumps(event)) < 64 * 1024

    states = parse_batch_event(through_json(event), ids)
    assert set(ids[5_000:]) <= set(states.to_read)
    assert len(states.errors) + len(states.to_read) + len(states.to_poll) == 10_000


def test_event_without_arguments_resumes_the_task(fake_airflow, videos):
    """``airflow dags test`` resumes a task without the arguments of its deferral."""
    videos |= {video: done(video) for video in "abc"}
    event = batch_event(list("abc"), dict.fromkeys("abc", VideoTask("a", TaskStatus.COMPLETED)))

    result = sensor().resume_execution("execute_complete", {"event": event}, fake_airflow.context)

    assert [task["id"] for task in result] == ["a", "b", "c"]


# --- stored outcomes -------------------------------------------------------------------------------------------


def test_stored_outcomes_survive_a_round_trip():
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
def test_unknown_stored_outcomes_are_ignored(value):
    assert load_outcomes(value) == ({}, {})


@pytest.mark.parametrize(("away_until", "reads"), [(150, 1), (900, 2)])
def test_aged_url_is_fetched_again(fake_airflow, videos, away_until, reads):
    """The worker reads ``a`` at once, but ``b`` only after the outage. The URL of ``a`` may have expired by then."""
    read = []

    def respond_a(waited):
        if not from_triggerer(fake_airflow):
            read.append(waited)
        return done("a")

    def respond_b(waited):
        is_away = 10.5 < waited < away_until or not (from_triggerer(fake_airflow) or waited > away_until)
        return ManxueTransientError("HTTP 503") if is_away else done("b")

    videos |= {"a": respond_a, "b": respond_b}
    tasks = fake_airflow.run(sensor(ids="ab"))

    assert [task["status"] for task in tasks] == ["completed"] * 2
    assert OUTCOMES_KEY in fake_airflow.ti.xcom
    assert len(read) == reads


def test_logged_totals_include_stored_outcomes(fake_airflow, videos, caplog, capsys):
    """The worker cannot read ``b`` at first, so the second trigger waits for ``b`` alone."""
    videos |= {
        "a": done("a"),
        "b": lambda waited: (
            done("b") if waited > 150 or from_triggerer(fake_airflow) else ManxueTransientError("HTTP 503")
        ),
    }
    fake_airflow.run(sensor(ids="ab"))

    assert fake_airflow.deferrals[1].trigger.ended_before == {"completed": 1}
    printed = capsys.readouterr().out or caplog.text
    assert " of 1 videos completed" not in printed


def test_timeout_of_a_second_deferral_names_the_status_that_the_first_one_saw(fake_airflow, videos):
    """The service stays away after it has reported that the videos are completed."""
    for video in "ab":
        videos[video] = lambda waited, video=video: (
            done(video)
            if waited < 10.5 and from_triggerer(fake_airflow)
            else ManxueTransientError("HTTP 503")
        )
    with pytest.raises(ManxueTimeoutError, match=r"'a' was not ready .* from the service: completed"):
        fake_airflow.run(sensor(ids="ab", timeout=600))

    assert fake_airflow.deferrals[1].trigger.last_statuses == "cc"


# --- errors ------------------------------------------------------------------------------------------------


def test_connection_error_keeps_completed_videos(fake_airflow, videos):
    videos |= {
        "a": done("a"),
        "b": done("b"),
        "c": lambda waited: (
            done("c") if from_triggerer(fake_airflow) else ManxueAuthenticationError("HTTP 401")
        ),
    }
    with pytest.raises(ManxueError):
        fake_airflow.run(sensor())

    assert fake_airflow.ti.xcom["video_url"][:2] == [f"https://cdn.example.com/{video}.mp4" for video in "ab"]


def test_execution_timeout_keeps_completed_videos(fake_airflow, videos):
    class Interrupted(BaseException):
        pass

    def raise_interrupted(work):
        fake_airflow._run_loop(work)
        raise Interrupted

    videos |= {video: done(video) for video in "ab"} | {"c": ManxueTransientError("HTTP 503")}
    event = batch_event(list("abc"), dict.fromkeys("abc", VideoTask("a", TaskStatus.COMPLETED)))
    fake_airflow.run_loop = raise_interrupted
    with pytest.raises(Interrupted):
        sensor().execute_complete(fake_airflow.context, event, started_at=START)

    assert fake_airflow.ti.xcom["video_url"] == [f"https://cdn.example.com/{video}.mp4" for video in "ab"] + [
        None
    ]


def test_forbidden_id_fails_only_its_own_video(fake_airflow, videos, mode):
    videos |= {"a": done("a"), "b": ManxuePermissionError("HTTP 403"), "c": done("c")}
    with pytest.raises(ManxueError, match="HTTP 403"):
        fake_airflow.run(sensor(mode))

    assert [url is None for url in fake_airflow.ti.xcom["video_url"]] == [False, True, False]


def test_429_during_the_final_reads_loses_no_url(fake_airflow, videos):
    """The service returns one 429 with ``Retry-After: 900`` while the worker reads a hundred videos."""
    ids = [f"v{number}" for number in range(100)]
    throttled = []

    def read(video):
        if not from_triggerer(fake_airflow) and video == "v40" and not throttled:
            throttled.append(fake_airflow.clock.now)
            return ManxueRateLimitError("HTTP 429", retry_after=900.0)
        return done(video)

    videos |= {video: lambda waited, video=video: read(video) for video in ids}
    tasks = fake_airflow.run(sensor(ids=ids))

    assert [task["status"] for task in tasks] == ["completed"] * 100
    assert len(fake_airflow.deferrals) <= 2


def test_flaky_service_takes_at_most_two_deferrals(fake_airflow, videos, service):
    """The service returns 500 for 3 % of the polls of 200 videos, which are ready after 5 s."""
    ids = [f"v{number}" for number in range(200)]
    dice = random.Random(3)  # noqa: S311

    def respond(video, waited):
        if dice.random() < 0.03:
            return ManxueTransientError("HTTP 500")
        return done(video) if waited >= 5 else "processing"

    videos |= {video: lambda waited, video=video: respond(video, waited) for video in ids}
    tasks = fake_airflow.run(sensor(ids=ids, poke_interval=10))

    assert [task["status"] for task in tasks] == ["completed"] * 200
    assert len(fake_airflow.deferrals) <= 2
    assert len(service.polled_at) < 900
    assert fake_airflow.clock.now - START < 90
