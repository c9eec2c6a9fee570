"""The wait for the review of assets, in each mode: the engine of the waits for videos with another subject."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from openlineage.client.serde import Serde

from airflow.providers.common.compat.sdk import AirflowSkipException, AirflowTaskTimeout, TaskDeferred

from airflow_provider_manxue._airflow import order_store, ordered_wait
from airflow_provider_manxue._core.polling import GRACE_TIME
from airflow_provider_manxue._core.uploads import Upload
from airflow_provider_manxue.exceptions import (
    ManxueAssetFailedError,
    ManxueError,
    ManxueRefusedError,
    ManxueTimeoutError,
    ManxueTransientError,
)
from airflow_provider_manxue.hooks import manxue as hook_module
from airflow_provider_manxue.models import Asset, TaskStatus
from airflow_provider_manxue.operators.assets import ManxueReviewAssetsOperator

FACES = ["https://files.example/a.png", "https://files.example/b.png"]
UPLOADED = Upload((Asset("asset_1", TaskStatus.QUEUED), Asset("asset_2", TaskStatus.QUEUED)))


@pytest.fixture
def uploads(fake_airflow, monkeypatch):
    """The uploads that the task has sent."""
    sent = []

    def send_upload(hook, request):
        sent.append(request)
        return UPLOADED

    for module in (order_store, ordered_wait):
        monkeypatch.setattr(module, "time", fake_airflow.clock)
    monkeypatch.setattr(hook_module.ManxueHook, "check_references", lambda hook, request: None, raising=False)
    monkeypatch.setattr(hook_module.ManxueHook, "send_upload", send_upload, raising=False)
    return sent


@pytest.fixture(params=[True, False], ids=["deferred", "poke"])
def run(request, fake_airflow, uploads):
    """Run a review in one of the modes."""

    def run(**arguments):
        arguments = {"image_urls": FACES, "deferrable": request.param, **arguments}
        return fake_airflow.run(ManxueReviewAssetsOperator(task_id="wait", **arguments))

    return run


def test_all_assets_become_active(run, service, uploads, fake_airflow):
    service.respond_with("submitted", "submitted", "Processing", "Active")

    assert run()["image_urls"] == ["asset://asset_1", "asset://asset_2"]
    assert len(uploads) == 1
    assert fake_airflow.worker_starts <= 2
    assert {"state", "asset_ids", "assets", "statuses"} <= set(fake_airflow.ti.tab_records[0])


def test_outage_does_not_end_the_review(run, service):
    service.respond_with(*["submitted"] * 2, *[ManxueTransientError("HTTP 503")] * 40, "Active")

    assert run()["image_urls"]


def test_timeout_follows_a_final_poll_and_names_the_files(run, service, fake_airflow):
    service.respond_with("Processing")

    with pytest.raises(ManxueTimeoutError) as caught:
        run(timeout=100)
    assert (
        "image_urls[1] (https://files.example/b.png): The asset 'asset_2' was not ready after 0:01:40"
        in str(caught.value)
    )
    assert max(service.polled_at) >= 100
    assert len(fake_airflow.deferrals) <= 1


def test_asset_that_becomes_active_at_the_final_poll_is_used(run, service):
    service.respond_with(lambda elapsed: "Active" if elapsed >= 100 else "Processing")

    assert len(run(timeout=100)["image_urls"]) == 2


def test_unknown_word_is_polled_until_the_deadline(run, service):
    """Only Active is documented as usable. Nothing is inferred from another word."""
    service.respond_with("completed soon")

    with pytest.raises(ManxueTimeoutError, match="unknown status 'completed soon'"):
        run(timeout=100)


def test_unknown_asset_ends_the_review_after_the_grace_period(run, service):
    service.respond_with(ManxueRefusedError("HTTP 200 with the error code -1"))

    with pytest.raises(ManxueError, match="does not return the asset 'asset_1'"):
        run()
    assert GRACE_TIME <= max(service.polled_at) <= GRACE_TIME + 120


def test_timeout_of_one_asset_is_tolerated(run, service):
    service.respond_with("Processing")
    service.poll = with_ready(service.poll, "asset_1")

    result = run(timeout=100, tolerate_failures=True)
    assert result["image_urls"] == ["asset://asset_1"]
    assert [asset["status"] for asset in result["assets"]] == ["completed", "unknown"]


def with_ready(poll, ready):
    """Return a function of a service that calls one asset active, whatever it responds otherwise."""

    def with_one_ready(asset_id, side, subject):
        return (
            Asset(asset_id, TaskStatus.COMPLETED, "Active")
            if asset_id == ready
            else poll(asset_id, side, subject)
        )

    return with_one_ready


def test_soft_fail_skips_a_failed_review(run, service):
    service.respond_with("Failed")

    with pytest.raises(AirflowSkipException):
        run(soft_fail=True)


def test_long_reason_of_a_failure_survives_the_event(run, service):
    """The event of a batch holds short reasons only. The worker reads a longer one again."""
    service.respond_with(
        "submitted", "submitted", Asset("asset_1", TaskStatus.FAILED, "Failed", error="x" * 400)
    )
    service.poll = failing(service.poll)

    with pytest.raises(ManxueAssetFailedError, match="x" * 400):
        run()


def failing(poll):
    """Return a function of a service that names the polled asset in its responses."""

    def named(asset_id, side, subject):
        state = poll(asset_id, side, subject)
        return Asset(asset_id, state.status, state.status_word, error=state.error)

    return named


def test_execution_timeout_counts_from_the_start_of_the_try(fake_airflow, uploads, service):
    service.respond_with("Processing")
    task = ManxueReviewAssetsOperator(
        task_id="wait", image_urls=FACES, execution_timeout=timedelta(seconds=200), timeout=1000
    )
    with pytest.raises(AirflowTaskTimeout):
        fake_airflow.run(task)
    assert max(service.polled_at) <= 201


def test_end_of_the_deferral_by_airflow_sends_no_upload(fake_airflow, uploads, service):
    service.respond_with("Active")
    task = ManxueReviewAssetsOperator(task_id="wait", image_urls=FACES)
    with pytest.raises(TaskDeferred):
        task.execute(fake_airflow.context)

    result = task.resume_execution("__fail__", {"error": "Trigger timeout"}, fake_airflow.context)
    assert len(result["image_urls"]) == 2
    assert len(uploads) == 1


def test_lineage_has_ids_and_no_urls(fake_airflow, uploads, service):
    service.respond_with("Active")
    task = ManxueReviewAssetsOperator(task_id="wait", image_urls=FACES, deferrable=False)
    fake_airflow.run(task)

    facet = task.get_openlineage_facets_on_complete(None).run_facets["manxue_assets"]
    assert json.loads(Serde.to_json(facet))["assets"] == [
        {"assetId": f"asset_{number}", "assetType": "image", "status": "completed"} for number in (1, 2)
    ]
