"""Assets of the emulator: uploads, states by script and clock, orders with references, and the ledger."""

from __future__ import annotations

import pytest

from airflow_provider_manxue.testing import EmulatorClient, Response, Script

FACE, VOICE = "https://files.example/face.png", "https://files.example/voice.mp3"


@pytest.fixture
def upload(emulator, customer):
    def upload(**body):
        return customer.post(f"{emulator.base_url}/asset/sd2Manxue/assetUpload", json=body, timeout=10)

    return upload


@pytest.fixture
def status(emulator, customer):
    def status(*ids):
        return customer.post(
            f"{emulator.base_url}/asset/sd2Manxue/assetStatus", json={"assetIds": ids}, timeout=10
        )

    return status


def words(response):
    return [item["status"] for item in response.json()["data"]["items"]]


def test_upload_has_the_documented_form(emulator, upload):
    body = upload(imageUrls=[FACE], audioUrls=[VOICE]).json()

    assert body == {
        "code": "0",
        "msg": None,
        "data": {
            "items": [
                {"assetType": "image", "originalUrl": FACE, "assetId": "asset_sd2manxue_1", "status": "submitted"},
                {"assetType": "audio", "originalUrl": VOICE, "assetId": "asset_sd2manxue_2", "status": "submitted"},
            ],
            "failedItems": [],
        },
    }  # fmt: skip
    [recorded] = emulator.ledger.uploads
    assert recorded.asset_ids == ("asset_sd2manxue_1", "asset_sd2manxue_2")
    assert recorded.request == {"imageUrls": [FACE], "audioUrls": [VOICE]}
    assert emulator.requests[-1].place == "upload"


def test_clock_advances_the_review(emulator, upload, status):
    emulator.default_asset_script = Script.timed(queued=2, processing=8)
    [item] = upload(imageUrls=[FACE]).json()["data"]["items"]
    seen = []
    for seconds in (0, 2, 8):
        emulator.clock.advance(seconds)
        seen += words(status(item["assetId"]))

    assert seen == ["submitted", "Processing", "Active"]
    assert len(emulator.polls(item["assetId"])) == 3


def test_methods_of_tasks_apply_to_assets(emulator, status):
    asset_id = emulator.add_asset(Script.by_hand())
    emulator.advance(asset_id)
    assert words(status(asset_id)) == ["Processing"]
    emulator.set_status(asset_id, "failed")
    assert words(status(asset_id)) == ["Failed"]
    emulator.set_script(asset_id, "completed")
    assert words(status(asset_id)) == ["Active"]


def test_several_assets_are_in_one_response(emulator, status):
    ids = [emulator.add_asset(script) for script in ("completed", "failed", "processing")]

    assert words(status(*ids)) == ["Active", "Failed", "Processing"]


def test_unknown_asset_has_code_minus_one(emulator, status):
    known = emulator.add_asset("completed")

    response = status(known, "nobody")
    assert response.status_code == 200
    assert response.json() == {"code": -1, "data": None, "msg": "asset not found"}


@pytest.mark.parametrize("entry", ["too small", {"originalUrl": FACE, "message": "too small"}, 7])
def test_refused_file_is_among_the_failed_items(emulator, upload, entry):
    emulator.refuse_file(FACE, entry)
    data = upload(imageUrls=[FACE], audioUrls=[VOICE]).json()["data"]

    assert data["failedItems"] == [entry]
    assert [item["originalUrl"] for item in data["items"]] == [VOICE]


def test_code_may_be_a_number(emulator, upload):
    emulator.respond_with(Response(overrides={"code": 0}), on="upload")

    assert upload(imageUrls=[FACE]).json()["code"] == 0


def test_response_of_a_script_meets_the_query_of_one_asset(emulator, status):
    asset_id = emulator.add_asset(Script.always("http_503"))

    assert status(asset_id).status_code == 503


@pytest.mark.parametrize(
    "body",
    [{}, {"imageUrls": []}, {"imageUrls": FACE}, {"imageUrls": ["s3://b/face.png"]}, {"imageUrls": [7]}],
)
def test_upload_against_the_rules_is_rejected(emulator, upload, body):
    assert upload(**body).status_code == 400
    assert emulator.ledger.uploads == ()


@pytest.mark.parametrize("ids", [(), ("",)])
def test_query_without_a_known_id_is_no_success(status, ids):
    assert status(*ids).json()["data"] is None


def test_fault_after_the_upload_is_in_the_ledger(emulator, upload):
    emulator.fail_next(1, Response(status=500, processed=True, bills=False), on="upload")

    assert upload(imageUrls=[FACE]).status_code == 500
    assert [recorded.billed for recorded in emulator.ledger.uploads] == [False]


def test_ledger_names_files_that_were_uploaded_twice(emulator, upload):
    upload(imageUrls=[FACE])
    upload(imageUrls=[FACE], audioUrls=[VOICE])

    assert emulator.ledger.uploaded_twice == [FACE]


@pytest.mark.parametrize(
    ("script", "message"),
    [("completed", None), ("processing", "is Processing, not Active"), ("failed", "is Failed, not Active")],
)
def test_order_needs_active_assets(emulator, customer, script, message):
    asset_id = emulator.add_asset(script)
    emulator.default_script = Script.polls("completed")
    task_id = customer.order(referenceImages=[FACE, f"asset://{asset_id}"]).json()["id"]
    body = customer.query(task_id).json()

    assert body["status"] == ("failed" if message else "completed")
    assert message is None or message in body["error"]


@pytest.mark.parametrize("field", ["first_image", "referenceImages"])
def test_order_with_an_unknown_asset_fails(customer, field):
    url = "asset://nobody"
    task_id = customer.order(**{field: url if field == "first_image" else [url]}).json()["id"]

    assert "asset nobody is unknown" in customer.query(task_id).json()["error"]


def test_client_has_the_same_methods(emulator, upload):
    client = EmulatorClient(emulator.url)
    client.set_default_asset_script(Script.by_hand("completed"))
    client.refuse_file(VOICE, {"odd": 1})
    asset_id = client.add_asset("processing", kind="video")
    upload(imageUrls=[FACE], audioUrls=[VOICE])

    assert client.assets[asset_id] == {
        "id": asset_id, "kind": "video", "url": "https://files.example/face.png", "status": "Processing",
    }  # fmt: skip
    assert client.ledger == emulator.ledger
    assert len(client.ledger.uploads) == 1


@pytest.mark.parametrize("options", [{"kind": "text"}, {"id": "taken"}])
def test_impossible_asset_is_refused(emulator, options):
    emulator.add_asset(id="taken")
    with pytest.raises(ValueError, match="Set "):
        emulator.add_asset(**options)
