"""Assets: the parser of their state, uploads and their responses, receipts and results."""

from __future__ import annotations

import json

import pytest

from airflow_provider_manxue._core.assets import (
    ASSET,
    name_receipt,
    parse_asset_ids,
    parse_asset_status,
    parse_assets,
    parse_receipt,
    to_receipt,
)
from airflow_provider_manxue._core.network_errors import no_response
from airflow_provider_manxue._core.order_kinds import ASSET_UPLOAD
from airflow_provider_manxue._core.order_outcomes import order_without_response
from airflow_provider_manxue._core.order_record import (
    OrderRecord,
    OrderState,
    TaskInstanceRef,
    parse_record,
    resumable_order,
)
from airflow_provider_manxue._core.uploads import (
    errors_of,
    from_receipt,
    parse_upload_request,
    parse_upload_response,
    to_results,
)
from airflow_provider_manxue.exceptions import (
    ManxueAssetFailedError,
    ManxueAuthenticationError,
    ManxueInputError,
    ManxueOrderMismatchError,
    ManxueOrderNotAcceptedError,
    ManxueOrderRejectedError,
    ManxueOrderUnknownError,
    ManxueRateLimitError,
    ManxueRefusedError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import Asset, AssetType, TaskStatus

FACE, OTHER = "https://files.example/face.png?signature=s3cret", "https://files.example/other.png"
VOICE = "https://files.example/voice.mp3"
KEY = "SECRET-key"


def envelope(*items, failed=(), **changes):
    return {"code": "0", "msg": None, "data": {"items": list(items), "failedItems": list(failed)}, **changes}


def state_of(response, http_status=200, asset_id="asset_1"):
    return ASSET.parse(
        http_status, json.dumps(response).encode(), asset_id, retry_after=(), now=0.0, secret=KEY
    )


# --- the state of an asset ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("submitted Submitted SUBMITTED", TaskStatus.QUEUED),
        ("Processing processing PROCESSING", TaskStatus.PROCESSING),
        ("Active active ACTIVE", TaskStatus.COMPLETED),
        ("Failed failed FAILED", TaskStatus.FAILED),
        ("completed success done ok reviewing", TaskStatus.UNKNOWN),
    ],
)
def test_status_is_read_in_any_case_and_only_active_is_usable(words, status):
    assert {parse_asset_status(word) for word in words.split()} == {status}


@pytest.mark.parametrize("code", ["0", 0, 0.0, None, "200", -1])
def test_state_is_read_with_any_code(code):
    asset = state_of(envelope({"assetId": "asset_1", "status": "Active"}, code=code))

    assert asset == Asset("asset_1", TaskStatus.COMPLETED, "Active")
    assert asset.has_result
    assert asset.url == "asset://asset_1"


def test_state_is_that_of_the_requested_asset():
    items = [{"assetId": "asset_2", "status": "Failed"}, {"assetId": "asset_1", "status": "Processing"}]

    assert state_of(envelope(*items)).status is TaskStatus.PROCESSING


def test_only_item_without_an_id_is_the_requested_asset():
    assert state_of(envelope({"status": "Active"})).id == "asset_1"


def test_failed_asset_has_the_reason_of_the_service():
    response = envelope({"assetId": "asset_1", "status": "Failed", "message": "no face"}, msg="ignored")

    assert state_of(response).error == "no face"


@pytest.mark.parametrize(
    "response",
    [
        {"code": -1, "data": None, "msg": "asset not found"},
        {"code": "-1", "data": None, "msg": "asset not found"},
        envelope(),
        envelope({"assetId": "asset_2", "status": "Active"}),
        envelope({"assetId": "asset_1"}),
        envelope(failed=["asset_1"]),
        envelope(failed=[{"assetId": "asset_1", "message": "asset not found"}]),
        envelope(failed=[["odd"], 7, None]),
    ],
)
def test_asset_without_a_state_is_tolerated_for_the_grace_period(response):
    """The list of failed items may also mean that the query failed. So it does not end a review at once."""
    with pytest.raises(ManxueRefusedError):
        state_of(response)


def test_reason_among_the_failed_items_is_shown():
    with pytest.raises(ManxueRefusedError, match="among the failed items: not found"):
        state_of(envelope(failed=[{"assetId": "asset_1", "reason": "not found"}]))


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ("asset_2 is too small", "it is among the failed items: asset_2 is too small"),
        ("too small (asset_2).", "it is among the failed items: too small (asset_2)."),
        (
            {"assetId": "asset_2", "hint": "太小"},
            'it is among the failed items: {"assetId": "asset_2", "hint": "太小"}',
        ),
        ({"assetId": "asset_2", "reason": f"no {KEY}"}, "it is among the failed items: no ***"),
        ("asset_3 is too small", "the response has no state of it"),
        ({"assetId": "asset_3", "reason": "too small"}, "the response has no state of it"),
    ],
)
def test_failed_item_belongs_to_the_asset_that_it_names(entry, error):
    body = json.dumps(envelope({"assetId": "asset_1", "status": "Active"}, failed=["asset_4 is odd", entry]))
    first, second = parse_assets(200, body.encode(), ["asset_1", "asset_2"], secret=KEY)

    assert first == Asset("asset_1", TaskStatus.COMPLETED, "Active")
    assert second == Asset("asset_2", TaskStatus.UNKNOWN, error=error)


def test_only_failed_item_without_a_name_is_that_of_the_only_asset():
    body = json.dumps(envelope(failed=[{"status": "Failed"}])).encode()

    [asset] = parse_assets(200, body, ["asset_1"])
    assert (asset.id, asset.status, asset.error) == ("asset_1", TaskStatus.FAILED, '{"status": "Failed"}')


@pytest.mark.parametrize(
    ("status", "trouble", "text"),
    [
        ("Processing", "", "Last status from the service: Processing. Its review may"),
        ("", "HTTP 503.", "Last status from the service: none. Last error: HTTP 503. Its review may"),
    ],
)
def test_timeout_names_the_last_status_and_error(status, trouble, text):
    error = str(ASSET.timed_out("asset_1", 60.0, status, trouble))

    assert text in error
    assert error.startswith("The asset 'asset_1' was not ready after 0:01:00. ")


def test_texts_of_the_service_end_with_one_full_stop():
    assert "failed: no face. Usual causes" in str(ASSET.failed("asset_1", "no face."))
    refused = ASSET.with_likely_causes(ManxueRefusedError("HTTP 404."), "asset_1")
    assert str(refused).startswith(
        "The service does not return the asset 'asset_1': HTTP 404. Likely causes: "
    )


def test_one_id_is_a_list_of_one():
    assert parse_asset_ids("asset://asset_1") == ["asset_1"]


def test_failed_item_with_the_status_failed_ends_the_review():
    asset = state_of(envelope(failed=[{"assetId": "asset_1", "status": "FAILED", "errorMsg": "no face"}]))

    assert (asset.status, asset.error) == (TaskStatus.FAILED, "no face")


@pytest.mark.parametrize(
    ("http_status", "body", "error"),
    [
        (401, b"{}", ManxueAuthenticationError),
        (500, b"{}", ManxueTransientError),
        (200, b"<html>", ManxueTransientError),
        (200, b"[]", ManxueTransientError),
        (200, b"{}", ManxueTransientError),
        (404, b'{"msg": "No handler found"}', ManxueRefusedError),
        (200, b'{"code": 429, "msg": "busy", "data": null}', ManxueRateLimitError),
        (200, b'{"code": 503, "msg": "busy", "data": null}', ManxueTransientError),
        (200, b'{"code": 500, "msg": "No handler found", "data": null}', ManxueRefusedError),
    ],
)
def test_other_response_is_an_error_of_its_kind(http_status, body, error):
    with pytest.raises(error):
        ASSET.parse(http_status, body, "asset_1", retry_after=(), now=0.0, secret=KEY)


def test_several_assets_are_returned_in_the_order_of_the_ids():
    items = [{"assetId": "b", "status": "Active"}, {"assetId": "a", "status": "Failed"}]
    body = json.dumps(envelope(*items)).encode()

    assets = parse_assets(200, body, ["a", "c", "b"])

    assert [(asset.id, asset.status.value) for asset in assets] == [
        ("a", "failed"), ("c", "unknown"), ("b", "completed"),
    ]  # fmt: skip
    assert assets[1].status_word == ""


# --- the request --------------------------------------------------------------------------------------------


def request_of(**lists):
    return parse_upload_request(**lists)


def test_request_has_each_file_once():
    request = request_of(image_urls=[FACE, OTHER, FACE], audio_urls=VOICE, video_urls=[])

    assert request.fields == {"imageUrls": [FACE, OTHER], "audioUrls": [VOICE]}
    assert [(file.asset_type, file.parameter) for file in request.files] == [
        (AssetType.IMAGE, "image_urls[0]"), (AssetType.IMAGE, "image_urls[1]"), (AssetType.AUDIO, "audio_urls[0]"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lists", "text"),
    [
        ({}, "image_urls, video_urls and audio_urls are all empty"),
        ({"image_urls": [], "video_urls": None, "audio_urls": ""}, "are all empty"),
        (
            {"image_urls": ["s3://bucket/face.png"]},
            "image_urls[0] is 's3://bucket/face.png': it must be a URL",
        ),
        ({"audio_urls": ["asset://asset_1"]}, "audio_urls[0] is 'asset://asset_1'"),
        ({"video_urls": [OTHER, "", "face.mp4"]}, "1 of the 3 URLs in video_urls are empty"),
        ({"image_urls": {"a": 1}}, "image_urls is {'a': 1}: it must be a list"),
    ],
)
def test_broken_rule_is_named_and_nothing_is_sent(lists, text):
    with pytest.raises(ManxueInputError) as caught:
        request_of(**lists)

    assert str(caught.value).startswith("The upload was not sent. ")
    assert text in str(caught.value)


def test_signature_is_in_no_error_and_no_fingerprint():
    first, second = request_of(image_urls=[FACE]), request_of(image_urls=[FACE.replace("s3cret", "other")])

    assert first.fingerprint() == second.fingerprint()
    with pytest.raises(ManxueInputError) as caught:
        request_of(image_urls=["ftp://files.example/face.png?signature=s3cret"])
    assert "s3cret" not in str(caught.value)


# --- the response -------------------------------------------------------------------------------------------

REQUEST = request_of(image_urls=[FACE, OTHER], audio_urls=[VOICE])


def item(asset_id, url, kind="image", **fields):
    return {"assetType": kind, "originalUrl": url, "assetId": asset_id, "status": "submitted", **fields}


ALL = (item("a", FACE), item("b", OTHER), item("c", VOICE, "audio"))


def upload_of(response, http_status=200, **options):
    body = response if isinstance(response, bytes) else json.dumps(response).encode()
    return parse_upload_response(REQUEST, http_status, body, retry_after=(), now=0.0, secret=KEY, **options)


def ids_of(response):
    return [asset.id for asset in upload_of(response).assets]


@pytest.mark.parametrize("code", ["0", 0])
def test_items_are_matched_by_url_and_type_in_any_order(code):
    upload = upload_of(envelope(*reversed(ALL), code=code))

    assert [asset.id for asset in upload.assets] == ["a", "b", "c"]
    assert [asset.original_url for asset in upload.assets] == [FACE, OTHER, VOICE]
    assert upload.unexpected == ()


def test_type_decides_between_items_of_the_same_url():
    request = request_of(image_urls=[OTHER], video_urls=[OTHER])
    items = [item("v", OTHER, "VIDEO"), item("i", OTHER, "imageUrl")]
    upload = parse_upload_response(
        request, 200, json.dumps(envelope(*items)).encode(), retry_after=(), now=0.0, secret=""
    )

    assert [asset.id for asset in upload.assets] == ["i", "v"]


def test_percent_encoding_may_differ():
    request = request_of(image_urls=["https://files.example/a b.png".replace(" ", "%20")])
    body = json.dumps(envelope(item("a", "https://files.example/a b.png"))).encode()

    [asset] = parse_upload_response(request, 200, body, retry_after=(), now=0.0, secret="").assets
    assert asset.id == "a"


@pytest.mark.parametrize(
    "entry",
    [
        f"{OTHER}: too small",
        {"originalUrl": OTHER, "message": "too small"},
        {"url": OTHER, "errorMsg": "too small", "assetType": "image"},
        {"original_url": OTHER, "error": {"code": 7, "message": "too small"}},
    ],
)
def test_failed_item_of_any_form_is_the_reason_of_its_file(entry):
    _, failed, _ = upload_of(envelope(ALL[0], ALL[2], failed=[entry])).assets

    assert (failed.id, failed.status) == ("", TaskStatus.FAILED)
    assert "too small" in failed.error


@pytest.mark.parametrize("entry", ["too small", 7, ["too small"], {"odd": {"form": 1}}, True])
def test_failed_item_that_names_no_file_is_shown(entry):
    _, failed, _ = upload_of(envelope(ALL[0], ALL[2], failed=[entry])).assets

    assert failed.error.startswith("the response has no asset of it, but: ")
    assert str(entry if isinstance(entry, int) else "too small" if "too" in str(entry) else "form") in (
        failed.error.replace("true", "True")
    )


def test_item_of_no_file_is_named():
    upload = upload_of(
        envelope(*ALL[:2], item("x", "https://files.example/unknown.mp3?signature=s3cret", "audio"))
    )

    assert upload.unexpected == ("x of https://files.example/unknown.mp3?***",)
    assert upload.assets[2].error == (
        "the response has no asset of it, but: x of https://files.example/unknown.mp3?***"
    )


def test_second_item_of_a_file_is_unexpected():
    upload = upload_of(envelope(*ALL, item("d", OTHER)))

    assert [asset.id for asset in upload.assets] == ["a", "b", "c"]
    assert upload.unexpected == (f"d of {OTHER}",)


def test_upload_without_any_asset_is_accepted():
    """The service has decided. The same files would fail again."""
    assert ids_of(envelope(failed=["no faces"])) == ["", "", ""]


@pytest.mark.parametrize(
    ("http_status", "response", "error"),
    [
        (429, {}, ManxueOrderNotAcceptedError),
        (425, {}, ManxueOrderNotAcceptedError),
        (400, {"msg": "bad URL"}, ManxueOrderRejectedError),
        (401, {}, ManxueOrderRejectedError),
        (200, {"code": -1, "data": None, "msg": "no"}, ManxueOrderRejectedError),
        (200, {"code": 429, "data": None, "msg": "busy"}, ManxueOrderNotAcceptedError),
        (200, {"code": 500, "data": None, "msg": "no"}, ManxueOrderUnknownError),
        (200, {"code": 503, "data": None, "msg": "busy"}, ManxueOrderUnknownError),
        (200, envelope(*ALL, code=-1), ManxueOrderUnknownError),
        (400, envelope(*ALL), ManxueOrderUnknownError),
        (200, envelope({"originalUrl": FACE, "status": "submitted"}), ManxueOrderUnknownError),
        (200, envelope(), ManxueOrderUnknownError),
        (200, b"<html>", ManxueOrderUnknownError),
        (200, b"", ManxueOrderUnknownError),
        (302, {}, ManxueOrderUnknownError),
        (408, {}, ManxueOrderUnknownError),
        (503, {}, ManxueOrderUnknownError),
    ],
)
def test_outcome_of_an_upload_is_that_of_an_order(http_status, response, error):
    with pytest.raises(error, match="upload"):
        upload_of(response, http_status)


def test_upload_whose_body_broke_off_is_unknown():
    with pytest.raises(ManxueOrderUnknownError):
        upload_of(envelope(*ALL), failure=ManxueTransientError("cut"))


def test_error_of_an_upload_quotes_no_secret():
    with pytest.raises(ManxueOrderUnknownError) as caught:
        upload_of(envelope(item("", FACE), msg=f"key {KEY}"), 500)

    assert "s3cret" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_upload_without_a_response_is_unknown_once_its_body_was_sent():
    sent = order_without_response(TimeoutError(), "host", body_started=True, kind=ASSET_UPLOAD)
    unsent = order_without_response(TimeoutError(), "host", body_started=False, kind=ASSET_UPLOAD)

    assert isinstance(sent, ManxueOrderUnknownError)
    assert str(no_response(TimeoutError(), "host")) in str(sent)
    assert isinstance(unsent, ManxueOrderNotAcceptedError)


def upload_with(request, response, http_status=200, **options):
    options = {"retry_after": (), "now": 0.0, "secret": KEY, **options}
    return parse_upload_response(request, http_status, json.dumps(response).encode(), **options)


@pytest.mark.parametrize(
    ("response", "http_status", "options", "error", "text", "pause"),
    [
        ({"msg": "busy"}, 429, {"retry_after": ("30",)}, ManxueOrderNotAcceptedError, "HTTP 429: busy", 30),
        (
            {"code": 429, "msg": "busy"},
            200,
            {"retry_after": ("Thu, 01 Jan 1970 00:01:00 GMT",), "now": 20.0},
            ManxueOrderNotAcceptedError,
            "HTTP 200 with the error code 429: busy",
            40,
        ),
        (
            {"code": 1234, "msg": "busy"},
            200,
            {"busy_codes": {"1234"}},
            ManxueOrderNotAcceptedError,
            "HTTP 200 with the error code 1234: busy",
            None,
        ),
        (
            envelope({"originalUrl": OTHER}),
            200,
            {},
            ManxueOrderUnknownError,
            "unknown: HTTP 200 with assets without ids (response: ",
            None,
        ),
        (
            {"code": -1, "msg": f"no {KEY}"},
            200,
            {},
            ManxueOrderRejectedError,
            "HTTP 200 with the error code -1: no ***.",
            None,
        ),
        (
            {"code": -1},
            200,
            {"failure": ManxueTransientError("cut")},
            ManxueOrderRejectedError,
            "nothing was uploaded: cut. ",
            None,
        ),
        (
            envelope(*ALL),
            200,
            {"failure": ManxueTransientError("cut")},
            ManxueOrderUnknownError,
            'unknown: cut (response: {"code": "0"',
            None,
        ),
    ],
)
def test_error_of_an_upload_has_reason_and_pause(response, http_status, options, error, text, pause):
    with pytest.raises(error) as caught:
        upload_with(REQUEST, response, http_status, **options)

    assert text in str(caught.value)
    assert getattr(caught.value, "retry_after", None) == pause


def test_position_is_the_first_of_the_author():
    files = request_of(image_urls=[FACE, FACE, OTHER]).files

    assert [file.parameter for file in files] == ["image_urls[0]", "image_urls[2]"]


def test_spelling_as_written_comes_before_the_decoded_one():
    urls = ["https://files.example/a~b.png", "https://files.example/a%7Eb.png"]
    items = [item("encoded", urls[1], kind=None), item("plain", urls[0], kind=None)]

    plain, encoded = upload_with(request_of(image_urls=urls), envelope(*items)).assets

    assert (plain.id, encoded.id) == ("plain", "encoded")
    assert (plain.original_url, encoded.original_url) == tuple(urls)
    assert {plain.asset_type, encoded.asset_type} == {AssetType.IMAGE}


@pytest.mark.parametrize(("asked", "named"), [("%7E", "~"), ("~", "%7E")])
def test_either_side_may_encode(asked, named):
    url = "https://files.example/a{}b.png"
    upload = upload_with(
        request_of(image_urls=[url.format(asked)]), envelope(item("a", url.format(named), kind=None))
    )

    [asset] = upload.assets
    assert (asset.id, asset.original_url, asset.asset_type) == ("a", url.format(asked), AssetType.IMAGE)


def test_item_of_another_type_is_not_taken():
    upload = upload_with(request_of(image_urls=[OTHER]), envelope(item("v", OTHER, "video")))

    assert upload.unexpected == (f"v of {OTHER}",)
    assert upload.assets[0].id == ""


def test_unexpected_items_and_spare_reasons_are_shown_in_this_order():
    unknown = "https://files.example/unknown.png"
    items = [item("x", ""), item("", unknown, status="failed"), *ALL[:2]]
    failed = [f"{OTHER} odd", {"message": "zw\u00f6lf"}, {"gr\u00f6\u00dfe": "\u00df"}]

    upload = upload_with(REQUEST, envelope(*items, failed=failed))

    assert upload.unexpected == ("x", f"an asset without an id of {unknown}")
    assert upload.assets[2].error == (
        f"the response has no asset of it, but: x, an asset without an id of {unknown}, {OTHER} odd, zw\u00f6lf, "
        '{"gr\u00f6\u00dfe": "\u00df"}'
    )


def test_reason_of_a_file_is_that_of_its_item_or_all_that_name_it():
    response = envelope(
        item("", FACE, status="failed", error="no face"),
        item("", OTHER, status="submitted"),
        failed=[f"{FACE}: odd", f"{VOICE}: one", f"{VOICE}: two"],
    )

    face, other, voice = upload_with(REQUEST, response).assets

    assert face == Asset(
        "", TaskStatus.FAILED, asset_type=AssetType.IMAGE, original_url=FACE, error="no face"
    )
    assert other.error == "the response has no asset of it"
    assert voice.error == f"{VOICE}: one; {VOICE}: two"


# --- the receipt and its record -----------------------------------------------------------------------------


RECEIPT = ["a", {"error": "too small"}, "c"]
REF = TaskInstanceRef("dag", "run", "task", -1, max_tries=2)


def test_receipt_survives_json():
    upload = upload_of(envelope(ALL[0], ALL[2], failed=[f"{OTHER} too small"]))
    receipt = to_receipt(upload.assets)

    assert parse_receipt(json.loads(json.dumps(receipt))) == receipt
    assert [entry if isinstance(entry, str) else "failed" for entry in receipt] == ["a", "failed", "c"]
    assert name_receipt(receipt) == "'a', 'c'"


@pytest.mark.parametrize("value", [None, "", [], "a", {}, [7], [""], ["a\nb"], [{"id": "a"}], [None], [[]]])
def test_value_that_is_no_receipt_is_refused(value):
    with pytest.raises(ValueError, match="assets"):
        parse_receipt(value)


def test_record_of_an_upload_survives_json():
    record = OrderRecord(OrderState.ORDERED, RECEIPT, "2027-01-15T08:00:00+00:00", 2, {"imageUrls": "x"}, 2)
    written = json.loads(json.dumps(record.to_dict(ASSET_UPLOAD)))

    assert written["assets"] == RECEIPT
    assert "id" not in written
    assert parse_record(written, ASSET_UPLOAD) == record


def test_list_of_ids_by_a_person_is_continued_with():
    record = parse_record(["asset://a", "b"], ASSET_UPLOAD)

    order = resumable_order(record, lambda scheme: {}, REF, kind=ASSET_UPLOAD)
    assert order.id == ["a", "b"]


def test_recorded_intent_stops_with_the_remedies_of_an_upload():
    intent = OrderRecord(OrderState.INTENT, since="2027-01-15T08:00:00+00:00")

    with pytest.raises(
        ManxueOrderUnknownError, match=r"outcome of the upload .*state-store/manxue_upload: "
    ) as caught:
        resumable_order(intent, lambda scheme: {}, REF, kind=ASSET_UPLOAD)
    assert '{"value": ["<id>", ...]}' in str(caught.value)


def test_recorded_failure_stops_a_retry():
    failed = OrderRecord(OrderState.FAILED, ["a"], max_tries=2)

    with pytest.raises(ManxueAssetFailedError, match="does not upload again"):
        resumable_order(failed, lambda scheme: {}, REF, kind=ASSET_UPLOAD)


def test_cleared_task_with_other_files_stops():
    ordered = OrderRecord(OrderState.ORDERED, ["a"], max_tries=1, fingerprint={"imageUrls": "x"})

    with pytest.raises(
        ManxueOrderMismatchError, match="uploaded the assets 'a', but would upload other files"
    ):
        resumable_order(ordered, lambda scheme: {"imageUrls": "y"}, REF, kind=ASSET_UPLOAD)


def test_receipt_of_another_length_sends_nothing():
    with pytest.raises(ManxueInputError) as caught:
        from_receipt(REQUEST, ["a", "b"])

    assert str(caught.value) == (
        "The upload of this task is recorded with 2 assets, but it has 3 files. Nothing was sent. Store one asset id for each "
        "distinct URL in the key 'manxue_upload', in the order of the URLs, or delete the key to upload again; then clear the task."
    )


def test_receipt_gives_each_file_its_asset_or_reason():
    assert from_receipt(REQUEST, RECEIPT) == [
        Asset("a", TaskStatus.QUEUED, asset_type=AssetType.IMAGE, original_url=FACE),
        Asset("", TaskStatus.FAILED, asset_type=AssetType.IMAGE, original_url=OTHER, error="too small"),
        Asset("c", TaskStatus.QUEUED, asset_type=AssetType.AUDIO, original_url=VOICE),
    ]


@pytest.mark.parametrize("value", [[], "", ["a", ""], [None], None, 7, [{"error": "x"}]])
def test_ids_of_a_query_are_checked(value):
    with pytest.raises(ManxueInputError, match="ids of assets"):
        parse_asset_ids(value)


def test_entry_without_an_asset_is_no_id():
    with pytest.raises(ManxueInputError) as caught:
        parse_asset_ids(["a", {"error": "x"}])

    assert str(caught.value) == (
        "The ids of assets cannot be used: an upload made no asset of a file. Leave it out."
    )


def test_ids_of_a_query_may_be_urls():
    assert parse_asset_ids(["asset://a", "b"]) == ["a", "b"]


# --- results ------------------------------------------------------------------------------------------------


def test_results_are_in_the_order_of_the_urls_with_duplicates():
    request = request_of(image_urls=[OTHER, FACE, OTHER], audio_urls=[VOICE])
    assets = from_receipt(request, ["o", "f", "v"])
    outcomes = {"o": Asset("o", TaskStatus.COMPLETED), "v": Asset("v", TaskStatus.COMPLETED)}
    outcomes["f"] = ASSET.failed("f", "no face")

    results = to_results(request, assets, outcomes)

    assert results["image_urls"] == ["asset://o", "asset://o"]
    assert results["video_urls"] == []
    assert results["audio_urls"] == ["asset://v"]
    assert [asset["status"] for asset in results["assets"]] == [
        "completed",
        "failed",
        "completed",
        "completed",
    ]
    assert "s3cret" not in json.dumps(results)


def test_errors_name_the_argument_and_the_file():
    assets = from_receipt(REQUEST, RECEIPT)
    errors = errors_of(REQUEST, assets, {"a": Asset("a", TaskStatus.COMPLETED)})

    assert list(errors) == [f"image_urls[1] ({OTHER})", f"audio_urls[0] ({VOICE})"]
    assert "too small" in str(errors[f"image_urls[1] ({OTHER})"])


def test_result_tells_of_each_file_what_is_known():
    results = to_results(REQUEST, from_receipt(REQUEST, RECEIPT), {"a": Asset("a", TaskStatus.COMPLETED)})

    made = "The service made no asset of it: too small"
    not_read = "The task ended before this asset was read."
    assert results["assets"] == [
        {"assetType": kind, "originalUrl": url, "assetId": asset_id, "status": status, "error": error}
        for kind, url, asset_id, status, error in (
            ("image", "https://files.example/face.png?***", "a", "completed", None),
            ("image", OTHER, None, "failed", made),
            ("audio", VOICE, "c", "unknown", not_read),
        )
    ]


def test_file_without_a_reason_or_a_poll_is_an_error():
    assets = from_receipt(REQUEST, [{"error": ""}, "b", "c"])
    errors = errors_of(REQUEST, assets, {"c": ManxueTransientError("HTTP 503")})

    assert {name: str(error) for name, error in errors.items()} == {
        "image_urls[0] (https://files.example/face.png?***)": "The service made no asset of it: no reason given",
        f"image_urls[1] ({OTHER})": "The task ended before this asset was read.",
        f"audio_urls[0] ({VOICE})": "HTTP 503",
    }


def test_asset_survives_storage_between_workers():
    asset = Asset("a", TaskStatus.COMPLETED, "Active")

    assert ASSET.load(json.loads(json.dumps(asset.to_dict()))).has_result
