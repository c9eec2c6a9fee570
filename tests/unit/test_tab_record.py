"""The record of a task for the Video tab: its wait, or the reason of its failure, in each mode."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise

import pytest

from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, AirflowTaskTimeout

from airflow_provider_manxue._airflow import task_trigger
from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue._core import tab_record
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueInputError,
    ManxueTimeoutError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from tests.support.fake_airflow import START

FAILED = {"status": "failed", "error": "see https://cdn.example.com/a.mp4?signature=secret"}
DONE = {"status": "completed", "video_url": "https://cdn.example.com/v.mp4"}
MODES = {
    "deferred": {"deferrable": True},
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
}
if CAN_START_AND_END:
    MODES["from_trigger"] = {"start_from_trigger": True, "end_from_trigger": True}


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def make(mode):
    """Return a function that makes a sensor for one video or many."""

    def make(*ids, **kwargs):
        with DAG("dag", schedule=None):
            if len(ids) > 1:
                return ManxueVideoBatchSensor(
                    task_id="wait", video_task_ids=list(ids), **MODES[mode], **kwargs
                )
            return ManxueVideoSensor(task_id="wait", video_task_id=ids[0], **MODES[mode], **kwargs)

    return make


class TestWait:
    def test_of_one_video_has_status_deadline_and_id(self, fake_airflow, service, make, mode):
        service.respond_with("queued", "processing", DONE)
        fake_airflow.run(make("proj_1", timeout=3600))

        first = fake_airflow.ti.tab_records[0]
        assert first == {
            "state": "waiting",
            "video_task_ids": ["proj_1"],
            "videos": 1,
            # In poke mode and in the triggerer, nothing was polled before.
            "statuses": {"queued": 1} if mode in {"deferred", "reschedule"} else {},
            "deadline": pytest.approx(START + 3600, abs=1),
            "updated_at": pytest.approx(START, abs=1),
        }

    def test_of_a_batch_counts_videos(self, fake_airflow, service, make, mode):
        service.respond_with("queued", DONE)
        fake_airflow.run(make("proj_1", "proj_2"))

        records = fake_airflow.ti.tab_records
        assert records[0]["videos"] == 2
        if mode == "reschedule":  # the only mode that polls before
            assert (records[0]["video_task_ids"], records[0]["statuses"]) == (["proj_1"], {"completed": 1})
        else:
            assert (records[0]["video_task_ids"], records[0]["statuses"]) == (["proj_1", "proj_2"], {})

    @pytest.mark.skipif(not CAN_START_AND_END, reason="a trigger pushes XComs on Airflow 3.3 and later")
    @pytest.mark.parametrize("mode", ["deferred", "from_trigger"], indirect=True)
    def test_progress_of_a_batch_is_pushed_by_its_trigger(self, fake_airflow, service, make):
        service.respond_with(lambda elapsed: "processing", "queued", *["processing"] * 20, DONE)
        fake_airflow.run(make("proj_1", "proj_2", poke_interval=30))

        statuses = [record["statuses"] for record in fake_airflow.ti.tab_records]
        assert {"processing": 2} in statuses
        times = [record["updated_at"] for record in fake_airflow.ti.tab_records]
        assert all(later - earlier >= task_trigger.RECORD_INTERVAL - 1 for earlier, later in pairwise(times))

    def test_unknown_status_comes_without_the_words_of_the_service(self, fake_airflow, service):
        service.respond_with({"status": "dreaming", "error": "at https://cdn.example.com/"}, DONE)
        fake_airflow.run(ManxueVideoSensor(task_id="wait", video_task_id="proj_1"))

        assert fake_airflow.ti.tab_records[0]["statuses"] == {"unknown": 1}

    def test_has_some_of_many_ids(self):
        ids = [f"proj_{n}" for n in range(5000)]
        record = tab_record.waiting(ids, {"": 5000}, total=5000, deadline=START, now=START)

        assert record["videos"] == 5000
        assert record["video_task_ids"] == ids[: tab_record.MAX_IDS]
        assert record["statuses"] == {}


class TestFailure:
    @pytest.mark.parametrize(
        ("response", "error"),
        [
            (FAILED, ManxueVideoFailedError),
            ("processing", ManxueTimeoutError),
            (ManxueAuthenticationError("The service refused the API key."), ManxueAuthenticationError),
        ],
    )
    def test_reason_is_the_same_in_every_mode(self, fake_airflow, service, make, response, error):
        service.respond_with(response)
        with pytest.raises(error) as caught:
            fake_airflow.run(make("proj_1", timeout=600))

        last = fake_airflow.ti.tab_records[-1]
        assert last["state"] == "failed"
        assert last["error"] == error.__name__
        assert last["message"] == str(caught.value).replace("https://cdn.example.com/a.mp4?***", "(URL)")
        assert "https://" not in json.dumps(fake_airflow.ti.tab_records)

    def test_skipped_task_has_its_reason(self, fake_airflow, service, make):
        service.respond_with(FAILED)
        with pytest.raises(AirflowSkipException):
            fake_airflow.run(make("proj_1", soft_fail=True))

        assert fake_airflow.ti.tab_records[-1]["error"] == "ManxueVideoFailedError"

    def test_execution_timeout_has_the_reason_of_the_wait(self, fake_airflow, service):
        service.respond_with("processing")
        with pytest.raises(AirflowTaskTimeout):
            fake_airflow.run(
                ManxueVideoSensor(
                    task_id="wait", video_task_id="proj_1", execution_timeout=timedelta(seconds=300)
                )
            )
        last = fake_airflow.ti.tab_records[-1]
        assert last["error"] == "AirflowTaskTimeout"
        assert "was not ready" in last["message"]

    @pytest.mark.parametrize("reason", [RuntimeError("secret"), AirflowTaskTimeout("secret")])
    def test_failed_push_does_not_replace_the_error(self, fake_airflow, service, make, reason, monkeypatch):
        service.respond_with(FAILED)
        push = fake_airflow.ti.xcom_push

        def fail(key, value):
            if key == tab_record.KEY and value["state"] == "failed":
                raise reason
            push(key, value)

        monkeypatch.setattr(fake_airflow.ti, "xcom_push", fail)
        with pytest.raises(ManxueVideoFailedError):
            fake_airflow.run(make("proj_1"))

    def test_failed_push_does_not_end_a_wait(self, fake_airflow, service, make, monkeypatch):
        service.respond_with("queued", DONE)
        push = fake_airflow.ti.xcom_push

        def fail(key, value):
            if key == tab_record.KEY:
                raise RuntimeError("the XCom backend does not respond")
            push(key, value)

        monkeypatch.setattr(fake_airflow.ti, "xcom_push", fail)
        assert fake_airflow.run(make("proj_1"))["status"] == "completed"

    def test_foreign_exception_is_recorded_without_its_message(self):
        record = tab_record.failed(KeyError("the key sk-123"))

        assert record == {"state": "failed", "error": "KeyError", "message": "The task log has the details."}


def test_nothing_is_pushed_without_do_xcom_push(fake_airflow, service, make):
    service.respond_with("queued", FAILED)
    for ids in (("proj_1",), ("proj_1", "proj_2")):
        with pytest.raises(ManxueVideoFailedError):
            fake_airflow.run(make(*ids, do_xcom_push=False))

    assert fake_airflow.ti.tab_records == []


class TestMessage:
    @pytest.mark.parametrize(
        ("text", "recorded"),
        [
            ("at https://host/a?b=c, and HTTP:\\/\\/host\\/a", "at (URL), and (URL)"),
            ("sftp://user:word@host/a.mp4 exists", "sftp://***@host/a.mp4 exists"),
            ("s3://bucket/a.mp4 exists", "s3://bucket/a.mp4 exists"),
            (
                "the prompt 'a cat on a roof' is bad: a cat on a roof",
                "the prompt '(prompt)' is bad: (prompt)",
            ),
        ],
    )
    def test_contains_no_url_and_no_prompt(self, text, recorded):
        assert tab_record.failed(ManxueError(text), hide=["a  cat\non a roof"])["message"] == recorded

    @pytest.mark.parametrize("prompt", ["prompt", "p", "(prompt)"])
    def test_prompt_within_its_replacement_is_hidden_once(self, prompt):
        message = tab_record.failed(ManxueError(f"a {prompt} is bad"), hide=[prompt])["message"]

        assert message.startswith("a (prompt) is bad")

    def test_prompt_in_quoted_json_is_hidden(self):
        message = tab_record.failed(
            ManxueError(r'{"echo": "says \"OPEN\" at night"}'), hide=['says "OPEN" at night']
        )

        assert message["message"] == '{"echo": "(prompt)"}'

    def test_beginning_of_a_long_prompt_is_hidden(self):
        prompt = "A lighthouse at dawn, slow drone shot over the sea " * 20
        message = tab_record.failed(ManxueError(f"no: {prompt[:300]}… Try"), hide=[prompt])["message"]

        assert message == "no: (prompt)… Try"

    def test_is_bounded(self):
        assert len(tab_record.failed(ManxueError("x" * 10_000))["message"]) == tab_record.MAX_MESSAGE


def test_failed_save_has_its_reason(fake_airflow, tmp_path):
    save = ManxueToObjectStorageOperator(
        task_id="wait", video_task_id="{{ x }}", destination=f"file://{tmp_path}/"
    )
    save.video_task_id = ""  # as rendered
    with pytest.raises(ManxueInputError):
        save.execute(fake_airflow.context)

    assert fake_airflow.ti.tab_records[-1]["error"] == "ManxueInputError"


def test_failed_batch_names_its_videos(fake_airflow, service, make):
    service.respond_with(FAILED)
    with pytest.raises(ManxueVideoFailedError):
        fake_airflow.run(make("proj_1", "proj_2"))

    assert "- proj_2: " in fake_airflow.ti.tab_records[-1]["message"]


def test_trouble_that_passes_is_no_failure(fake_airflow, service, make):
    service.respond_with(ManxueTransientError("HTTP 503"), DONE)
    fake_airflow.run(make("proj_1"))

    assert {record["state"] for record in fake_airflow.ti.tab_records} <= {"waiting"}


# --- the records themselves ---------------------------------------------------------------------------------


def test_record_of_an_order_that_waits_for_room():
    assert tab_record.waiting_for_room(2, 60.0, deadline=90.0, now=30.0) == {
        "state": "waiting_for_room",
        "attempts": 2,
        "next_at": 60.0,
        "deadline": 90.0,
        "updated_at": 30.0,
    }


@pytest.mark.parametrize(
    ("message", "recorded"),
    [
        ("a red fox was refused, a red fox", "(prompt) was refused, (prompt)"),
        ("no: a red", "no: a red"),
        ("a red fox", "(prompt)"),
    ],
)
def test_prompt_is_replaced_wherever_it_stands(message, recorded):
    assert tab_record.failed(ManxueError(message), hide=["a red fox"])["message"] == recorded


def test_beginning_of_a_long_prompt_is_replaced():
    prompt = "a red fox " * 40
    record = tab_record.failed(ManxueError(f"refused: {prompt[:200]}..."), hide=[prompt])

    assert record["message"] == "refused: (prompt)..."


def test_prompt_that_is_the_replacement_ends():
    assert tab_record.failed(ManxueError("x(prompt)y"), hide=["(prompt)"])["message"] == "x(prompt)y"
