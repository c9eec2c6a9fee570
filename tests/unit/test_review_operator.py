"""The review of assets: one upload, the wait, the results, and what a retry, a clear and a kill lead to."""

from __future__ import annotations

import contextlib
import json
from unittest.mock import Mock, patch

import pytest

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_manxue._core.events import batch_event
from airflow_provider_manxue._core.order_kinds import ASSET_UPLOAD
from airflow_provider_manxue._core.uploads import parse_upload_request
from airflow_provider_manxue.exceptions import (
    ManxueAssetFailedError,
    ManxueError,
    ManxueInputError,
    ManxueOrderError,
    ManxueOrderRejectedError,
    ManxueOrderUnknownError,
    ManxueRefusedError,
)
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.models import Asset, TaskStatus
from airflow_provider_manxue.operators.assets import ManxueReviewAssetsOperator
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.testing import Response, Script
from airflow_provider_manxue.triggers.manxue import ManxueAssetTrigger
from tests.support.orders import *  # noqa: F403 - its fixtures
from tests.support.orders import Boundaries, ProcessKilled, TaskInstance, run_with_retries

FACE, OTHER = "https://files.example/face.png?signature=s3cret", "https://files.example/other.png"
VOICE = "https://files.example/voice.mp3"
FILES = {"image_urls": [FACE, OTHER, FACE], "audio_urls": [VOICE]}
KEY = ASSET_UPLOAD.key


class Review(TaskInstance):
    """A task instance that reviews assets, through all of its tries."""

    @property
    def record(self):
        return self.store.get(KEY)

    def _operator(self, kwargs):
        return ManxueReviewAssetsOperator(task_id="order", **{**FILES, **kwargs})

    def completed(self, trigger):
        ids = list(dict.fromkeys(trigger.asset_ids))
        return batch_event(ids, {one: Asset(one, TaskStatus.COMPLETED) for one in ids})


@pytest.fixture
def review(emulator, boundaries):
    emulator.default_asset_script = Script.polls("completed")
    return Review(boundaries)


@pytest.fixture
def old(emulator, boundaries):
    """A task instance of an Airflow below 3.3, which has no task state store."""
    emulator.default_asset_script = Script.polls("completed")
    return Review(boundaries, store=False)


def uploads(emulator):
    return emulator.ledger.uploads


# --- results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deferrable", [True, False])
def test_urls_of_active_assets_are_returned_in_the_order_of_the_arguments(emulator, review, deferrable):
    result = review.run(deferrable=deferrable)

    [upload] = uploads(emulator)
    face, other, voice = upload.asset_ids
    assert upload.request == {"imageUrls": [FACE, OTHER], "audioUrls": [VOICE]}
    assert result["image_urls"] == [f"asset://{face}", f"asset://{other}", f"asset://{face}"]
    assert (result["video_urls"], result["audio_urls"]) == ([], [f"asset://{voice}"])
    assert {key: review.xcom[key] for key in result} == result
    assert review.record["state"] == "done"
    assert len(review.deferrals) == deferrable


def test_result_is_accepted_as_references_of_an_order(emulator, review):
    result = review.run()

    references = {"reference_images": result["image_urls"], "reference_audios": result["audio_urls"]}
    ManxueHook().create_video(prompt="a cat", model="sd2_manxue_720p", **references)
    assert emulator.task(emulator.ledger.orders[0].id).status == "queued"


def test_deferral_holds_ids_only(review):
    review.run()

    [deferral] = review.deferrals
    assert isinstance(deferral.trigger, ManxueAssetTrigger)
    stored = json.dumps([deferral.trigger.serialize(), deferral.kwargs])
    assert "s3cret" not in stored
    assert "files.example" not in stored


def test_record_has_ids_and_no_urls(review):
    review.run()

    assert set(review.record) == {"state", "assets", "since", "max_tries", "fingerprint", "scheme"}
    assert "files.example" not in review.store.values[KEY]


def test_code_may_be_a_number(emulator, review):
    emulator.respond_with(Response(overrides={"code": 0}), on="upload")
    emulator.respond_with(Response(overrides={"code": 0}), on="asset_status")

    assert len(review.run()["image_urls"]) == 3


# --- failures -----------------------------------------------------------------------------------------------


def test_failed_review_names_its_argument_and_file(emulator, review):
    emulator.default_asset_script = Script.failing()
    with pytest.raises(ManxueAssetFailedError) as caught:
        review.run(image_urls=[FACE], audio_urls=[])

    assert "image_urls[0] (https://files.example/face.png?***): The review of the asset" in str(caught.value)
    assert review.record["state"] == "failed"
    assert review.tab_records[-1]["error"] == "ManxueAssetFailedError"
    with pytest.raises(ManxueAssetFailedError, match="does not upload again"):
        review.run(image_urls=[FACE], audio_urls=[])
    assert len(uploads(emulator)) == 1


@pytest.mark.parametrize(
    "entry",
    ["face too small", {"message": "face too small"}, {"originalUrl": OTHER, "reason": "face too small"}],
)
def test_refused_file_fails_the_task_after_the_wait(emulator, review, entry):
    emulator.refuse_file(OTHER, entry)
    with pytest.raises(ManxueAssetFailedError, match=r"(?s)image_urls\[1\].*face too small"):
        review.run()

    assert review.xcom["image_urls"] == [f"asset://{uploads(emulator)[0].asset_ids[0]}"] * 2


def test_failures_are_tolerated_and_left_out_of_the_lists(emulator, review):
    emulator.refuse_file(OTHER)
    result = review.run(tolerate_failures=True)

    assert len(result["image_urls"]) == 2
    assert [asset["status"] for asset in result["assets"]] == [
        "completed",
        "failed",
        "completed",
        "completed",
    ]


def test_upload_without_any_asset_fails_even_if_failures_are_tolerated(emulator, review):
    """An order without its references is another order."""
    for url in (FACE, OTHER, VOICE):
        emulator.refuse_file(url)
    with pytest.raises(ManxueAssetFailedError, match="3 of the assets"):
        review.run(tolerate_failures=True)

    assert review.deferrals == []
    assert review.record["state"] == "failed"


@pytest.mark.parametrize("argument", ["soft_fail", "never_fail"])
def test_failure_is_skipped_if_wanted(emulator, review, argument):
    emulator.default_asset_script = Script.failing()
    with pytest.raises(AirflowSkipException):
        review.run(**{argument: True})


def test_clear_after_a_failure_uploads_again(emulator, review):
    emulator.default_asset_script = Script.failing()
    with pytest.raises(ManxueAssetFailedError):
        review.run()
    emulator.default_asset_script = Script.polls("completed")
    review.clear()

    assert review.run()["image_urls"]
    assert len(uploads(emulator)) == 2


@pytest.mark.parametrize(
    ("response", "error"),
    [
        ("http_400", ManxueOrderRejectedError),
        ("reset_after_read", ManxueOrderUnknownError),
        (Response(status=500, processed=True), ManxueOrderUnknownError),
        ("html_body", ManxueOrderUnknownError),
    ],
)
def test_upload_is_not_repeated_by_itself(emulator, review, response, error):
    emulator.fail_next(1, response, on="upload")
    with pytest.raises(error):
        run_with_retries(review)

    assert sum(request.place == "upload" for request in emulator.requests) == 1


def test_upload_of_unknown_outcome_stops_retries_and_clears_until_a_person_decides(emulator, review):
    emulator.fail_next(1, "reset_after_read", on="upload")
    for _ in range(2):
        with pytest.raises(ManxueOrderUnknownError, match=KEY):
            review.run()
        review.clear()
    [upload] = uploads(emulator)
    review.store.set(KEY, list(upload.asset_ids))

    assert len(review.run()["image_urls"]) == 3
    assert len(uploads(emulator)) == 1


def test_upload_without_room_is_sent_again(emulator, review):
    emulator.fail_next(2, "http_429", on="upload")

    assert review.run()["image_urls"]
    assert len(uploads(emulator)) == 1
    assert [deferral.method_name for deferral in review.deferrals] == ["execute_order", "execute_complete"]


# --- retries, clears and kills ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [{"deferrable": True}, {"deferrable": False}])
def test_kill_and_retry_never_uploads_twice(emulator, boundaries, mode):
    emulator.default_asset_script = Script.polls("completed")
    Review(boundaries).run(**mode)
    moments = len(boundaries.passed)
    assert moments > 15
    for kill_at in range(moments):
        before = len(uploads(emulator))
        boundaries.passed.clear()
        boundaries.kill_at = kill_at
        review = Review(boundaries)
        with pytest.raises(ProcessKilled):
            review.run(**mode)
        try:
            assert review.run(**mode)["image_urls"]
        except ManxueOrderUnknownError:
            assert review.record["state"] == "intent"
        assert len(uploads(emulator)) - before <= 1, boundaries.passed


def fail_try(task):
    """Run a try whose wait ends in the triggerer with an error that a retry may cure."""
    refused = ManxueRefusedError("HTTP 404")
    with patch.object(
        task,
        "completed",
        lambda trigger: batch_event(trigger.asset_ids, dict.fromkeys(trigger.asset_ids, refused)),
    ):
        task.run()


def test_retry_continues_with_the_recorded_assets(emulator, review):
    with pytest.raises(ManxueError, match="HTTP 404"):
        fail_try(review)

    assert len(review.run()["image_urls"]) == 3
    assert len(uploads(emulator)) == 1


def test_clear_with_other_files_stops(emulator, review):
    with pytest.raises(ManxueError, match="HTTP 404"):
        fail_try(review)
    review.clear()

    with pytest.raises(ManxueOrderError, match="imageUrls changed since"):
        review.run(image_urls=[OTHER])
    assert len(uploads(emulator)) == 1


def test_error_below_3_3_names_the_assets_and_forbids_a_retry(emulator, old):
    with pytest.raises(ManxueOrderError) as caught:
        fail_try(old)

    assert all(asset_id in str(caught.value) for asset_id in uploads(emulator)[0].asset_ids)
    assert len(uploads(emulator)) == 1


def test_deferral_that_airflow_ends_is_resumed_with_the_receipt_in_xcom(emulator, old):
    """Below 3.3 Airflow has dropped the deferral's arguments, and there is no record."""
    old._fire = Mock(side_effect=RuntimeError("deferred"))
    with pytest.raises(RuntimeError, match="deferred"):
        old.run()
    operator = old._operator({})

    result = operator.resume_execution("__fail__", {"error": "Trigger timeout"}, old.context)
    assert len(result["image_urls"]) == 3
    assert len(uploads(emulator)) == 1


def test_retry_with_the_deferral_of_an_earlier_try_uploads_nothing(emulator, old, boundaries):
    """Airflow 3.0 resumes a retry with the arguments of an earlier try."""
    old._fire = Mock(side_effect=RuntimeError("deferred"))
    with pytest.raises(RuntimeError, match="deferred"):
        old.run()
    [deferral] = old.deferrals
    old.try_number, old.xcom = 2, {}
    arguments = json.loads(json.dumps({**deferral.kwargs, "event": old.completed(deferral.trigger)}))

    operator = old._operator({"deferrable": False})
    result = operator.resume_execution("execute_complete", arguments, old.context)

    assert len(result["image_urls"]) == 3
    assert old.xcom["manxue_upload"] == list(uploads(emulator)[0].asset_ids)
    assert len(uploads(emulator)) == 1


# --- arguments ----------------------------------------------------------------------------------------------


def test_bad_literals_are_rejected_at_parse_time():
    with pytest.raises(ManxueInputError, match="at least one URL"):
        ManxueReviewAssetsOperator(task_id="review")
    with pytest.raises(ManxueInputError, match="each poll would upload again"):
        ManxueReviewAssetsOperator(task_id="review", **FILES, mode="reschedule", deferrable=False)
    with pytest.raises(ManxueInputError, match="order_timeout"):
        ManxueReviewAssetsOperator(task_id="review", **FILES, order_timeout=0)


@pytest.mark.parametrize("value", ["{{ params.faces }}", Mock(resolve=None), ["{{ params.face }}"]])
def test_templates_are_not_checked_at_parse_time(value):
    ManxueReviewAssetsOperator(task_id="review", image_urls=value)


@pytest.mark.parametrize("field", ["image_urls", "video_urls", "audio_urls", "manxue_conn_id"])
def test_every_parameter_is_templated(field):
    assert field in ManxueReviewAssetsOperator.template_fields


def test_rendered_value_that_is_no_url_sends_nothing(emulator, review):
    with pytest.raises(ManxueInputError, match="was not sent"):
        review.run(image_urls=["face.png"])
    assert not emulator.requests


def test_private_host_is_refused(emulator, review, connect):
    connect("https://service.example/api")
    with pytest.raises(ManxueInputError, match=r"image_urls is on the host 10\.0\.0\.1"):
        review.run(image_urls=["https://10.0.0.1/face.png"])


def test_dry_run_sends_nothing_and_logs_no_signature(emulator, review, monkeypatch):
    log = Mock()
    operator = ManxueReviewAssetsOperator(task_id="review", **FILES)
    monkeypatch.setattr(ManxueReviewAssetsOperator, "log", log)
    operator.dry_run()

    assert not emulator.requests
    assert "face.png?***" in str(log.info.call_args_list)
    assert "s3cret" not in str(log.info.call_args_list)


# --- the hook -----------------------------------------------------------------------------------------------


def test_hook_returns_one_asset_for_each_url(emulator, review):
    emulator.refuse_file(OTHER, "too small")
    assets = ManxueHook().upload_assets(**FILES)

    face, voice = uploads(emulator)[0].asset_ids
    assert [asset.id for asset in assets] == [face, "", face, voice]
    assert "too small" in assets[1].error
    assert assets[1].url is None


def test_hook_queries_assets_with_one_request(emulator, review):
    active, failed = emulator.add_asset("completed"), emulator.add_asset("failed")
    assets = ManxueHook().get_assets([f"asset://{active}", failed])

    assert [(asset.id, asset.status) for asset in assets] == [
        (active, TaskStatus.COMPLETED), (failed, TaskStatus.FAILED),
    ]  # fmt: skip
    assert len(emulator.requests) == 1


def test_hook_raises_for_an_unknown_asset(emulator, review):
    with pytest.raises(ManxueRefusedError, match="error code -1"):
        ManxueHook().get_assets(["nobody"])


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (None, "accepted"),
        ("http_429", "not_accepted"),
        ("http_400", "rejected"),
        ("reset_after_read", "unknown"),
    ],
)
def test_uploads_are_counted_by_outcome(emulator, review, response, outcome):
    if response:
        emulator.fail_next(1, response, on="upload")
    hook = ManxueHook()
    with contextlib.suppress(ManxueError):
        hook.send_upload(parse_upload_request(**FILES))

    [sample] = hook.metrics.take()
    assert (sample.metric.name, sample.value) == (f"uploads.{outcome}", 1)


def test_order_with_an_asset_that_is_not_active_fails(emulator, task):
    asset_id = emulator.add_asset(Script.by_hand("processing"))
    emulator.default_script = Script.polls("completed")
    with pytest.raises(Exception, match=f"asset {asset_id} is Processing, not Active"):
        task.run(reference_images=[f"asset://{asset_id}"], deferrable=False)


def test_operators_share_the_life_of_an_order():
    for operator in (ManxueCreateVideoOperator, ManxueReviewAssetsOperator):
        assert operator._place_order.__module__.endswith("ordered_wait")


def test_boundaries_include_the_upload(emulator, review, boundaries):
    assert isinstance(boundaries, Boundaries)
    review.run()
    assert "after send_upload" in boundaries.passed
