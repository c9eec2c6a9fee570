"""What a wait polls: the request, the parser and the texts of each subject."""

from __future__ import annotations

import json

import pytest

from airflow_provider_manxue._core.assets import ASSET
from airflow_provider_manxue._core.subjects import VIDEO, Query
from airflow_provider_manxue.exceptions import (
    ManxueAssetFailedError,
    ManxueError,
    ManxueFailedError,
    ManxueRefusedError,
    ManxueTimeoutError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.models import Asset, TaskStatus, VideoTask

BASE, KEY = "https://api.example", "SECRET-key"
BOTH = pytest.mark.parametrize("subject", [VIDEO, ASSET], ids=["video", "asset"])


def parse(subject, body, http_status=200, item_id="proj_1", retry_after=(), now=0.0):
    return subject.parse(
        http_status, json.dumps(body).encode(), item_id, retry_after=retry_after, now=now, secret=KEY
    )


def test_requests():
    assert VIDEO.query(BASE, "proj/1") == Query("GET", f"{BASE}/v1/result/proj%2F1", None)
    assert ASSET.query(BASE, "asset_1") == Query(
        "POST", f"{BASE}/asset/sd2Manxue/assetStatus", b'{"assetIds": ["asset_1"]}'
    )


def test_states():
    video = parse(VIDEO, {"id": "proj_1", "status": "processing"})
    asset = parse(ASSET, {"code": 0, "data": {"items": [{"assetId": "proj_1", "status": "Processing"}]}})

    assert (type(video), video.id, video.status) == (VideoTask, "proj_1", TaskStatus.PROCESSING)
    assert (type(asset), asset.id, asset.status) == (Asset, "proj_1", TaskStatus.PROCESSING)


def test_video_has_the_requested_id():
    video = parse(VIDEO, {"id": "proj_2", "status": "processing"})

    assert (video.id, video.reported_id) == ("proj_1", "proj_2")


@BOTH
def test_state_survives_storage(subject):
    state = {
        VIDEO: VideoTask("proj_1", TaskStatus.PROCESSING, "processing"),
        ASSET: Asset("proj_1", TaskStatus.PROCESSING, "processing"),
    }[subject]

    assert subject.load(json.loads(json.dumps(state.to_dict()))) == state


@BOTH
@pytest.mark.parametrize(
    ("http_status", "body"),
    [
        *((status, {}) for status in (307, 400, 403, 404, 408, 425, 429, 500, 503)),
        (200, []),
        (200, {}),
        (200, {"code": 429, "msg": "busy"}),
        (200, {"code": -1, "msg": "no"}),
        (200, {"error": "no"}),
        (200, {"code": 0, "data": {"failedItems": ["proj_1: gone"]}}),
    ],
)
def test_date_of_a_pause_is_relative_to_now(subject, http_status, body):
    """Each error has the pause of its response, except that of a 401: its probes have their own times."""
    with pytest.raises(ManxueError) as caught:
        parse(subject, body, http_status, retry_after=("Thu, 01 Jan 1970 00:01:00 GMT",), now=20.0)

    assert caught.value.retry_after == 40


@BOTH
@pytest.mark.parametrize(
    ("http_status", "body", "text"),
    [
        (400, {"error": f"bad {KEY}."}, "HTTP 400: bad ***"),
        (200, {"code": -1, "msg": "not found."}, "HTTP 200 with the error code -1: not found"),
    ],
)
def test_error_has_the_status_and_no_secret(subject, http_status, body, text):
    """Other errors continue after the reason of the service, so it has no full stop."""
    with pytest.raises(ManxueRefusedError) as caught:
        parse(subject, body, http_status)

    assert str(caught.value) == text


def test_asset_without_a_state_is_refused_with_the_reason():
    with pytest.raises(ManxueRefusedError) as caught:
        parse(ASSET, {"code": 0, "data": {"failedItems": ["proj_1: gone"]}})

    assert str(caught.value) == (
        "HTTP 200 without the state of the asset: it is among the failed items: proj_1: gone"
    )


@pytest.mark.parametrize(
    ("subject", "failure", "text"),
    [
        (
            VIDEO,
            ManxueVideoFailedError,
            "The service could not generate the video 'a': no face. Usual causes are a prompt that is not allowed",
        ),
        (
            ASSET,
            ManxueAssetFailedError,
            "The review of the asset 'a' failed: no face. Usual causes are content",
        ),
    ],
)
def test_failure(subject, failure, text):
    error = subject.failed("a", "no face.")

    assert type(error) is subject.failure is failure
    assert issubclass(failure, ManxueFailedError)
    assert str(error).startswith(text)


@BOTH
def test_timeout_names_what_is_known(subject):
    error = subject.timed_out("a", 61, "Processing", "HTTP 503.")
    unknown = subject.timed_out("a", 61, "", "")

    assert type(error) is type(unknown) is ManxueTimeoutError
    for text in (
        f"{subject.noun}",
        "'a'",
        "0:01:01",
        "Last status from the service: Processing.",
        "HTTP 503.",
    ):
        assert text in str(error)
    assert "HTTP 503.." not in str(error)
    assert "Last status from the service: none." in str(unknown)
    assert "error:" not in str(unknown)


def test_timeout_of_an_asset_has_its_remedy():
    assert str(ASSET.timed_out("a", 61, "Processing", "HTTP 503.")) == (
        "The asset 'a' was not ready after 0:01:01. Last status from the service: Processing. Last error: HTTP 503. Its review may "
        "still end: increase 'timeout', and clear the task."
    )


def test_refused_id_has_likely_causes():
    error = ASSET.with_likely_causes(ManxueRefusedError("HTTP 404."), "a")

    assert type(error) is ManxueRefusedError
    assert str(error) == (
        "The service does not return the asset 'a': HTTP 404. Likely causes: the id is not one that an upload returned, it belongs "
        "to another API key, or the connection's base URL has a wrong path."
    )
    assert "proj_1" in str(VIDEO.with_likely_causes(ManxueRefusedError("HTTP 404"), "proj_1"))


@BOTH
def test_other_error_is_unchanged(subject):
    error = ManxueTransientError("HTTP 503")

    assert subject.with_likely_causes(error, "a") is error


def test_video_without_a_url_names_id_and_reason():
    assert str(VIDEO.result_missing("proj_1", "moved.")) == (
        "The video 'proj_1' is completed, but the response has no URL of the video. Reason from the service: moved. Report this id "
        "to the support of the service."
    )
    assert "Reason" not in str(VIDEO.result_missing("proj_1", None))
