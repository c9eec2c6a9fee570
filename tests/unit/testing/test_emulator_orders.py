"""The create endpoint, its documented rules, and the ledger."""

from __future__ import annotations

import pytest
import requests

from airflow_provider_manxue.testing import Clock, Emulator, Response, Script

IMAGE = "https://example.com/a.png"


def test_order_is_accepted_and_billed(emulator, customer):
    response = customer.order(duration=7).json()

    assert response["id"] == "proj_sd2manxue_1"
    assert (response["object"], response["status"], response["model"]) == (
        "video",
        "queued",
        "sd2_manxue_720p",
    )
    (order,) = emulator.ledger.orders
    assert (order.id, order.billed, order.units, order.time) == (response["id"], True, 7, 1_800_000_000)
    assert order.request == {"prompt": "A cat", "model": "sd2_manxue_720p", "duration": 7}
    assert (emulator.ledger.billed, emulator.ledger.units) == (1, 7)


def test_order_follows_the_default_script(emulator, customer):
    emulator.default_script = Script.timed(queued=2, processing=8)
    task_id = customer.order(duration=15).json()["id"]
    assert customer.statuses(task_id, 1) == ["queued"]
    emulator.clock.advance(10)
    task = customer.query(task_id).json()

    assert (task["status"], task["actualDuration"]) == ("completed", 15.0)


def test_units_of_an_order_without_duration(emulator, customer):
    customer.order()
    assert emulator.ledger.units == 5


def test_units_leave_out_an_unbilled_order(emulator, customer):
    emulator.fail_next(1, "create_answers_failed")
    customer.order(duration=7)
    customer.order(duration=4)

    assert [order.billed for order in emulator.ledger.orders] == [False, True]
    assert (emulator.ledger.billed, emulator.ledger.units) == (1, 4)


def test_ledger_is_a_snapshot(emulator, customer):
    before = emulator.ledger
    customer.order()

    assert (before.billed, emulator.ledger.billed) == (0, 1)


@pytest.mark.parametrize(
    "order",
    [
        {"model": "sd2_manxue_8k_from_the_future"},
        {"duration": 4, "ratio": "9:16"},
        {"duration": 15, "ratio": "21:9"},
        {"first_image": IMAGE},
        {"image": IMAGE, "lastFrameImage": IMAGE},
        {"first_image": IMAGE, "last_image": "asset://123"},
        {"referenceImages": [IMAGE] * 9},
        {"referenceAudios": [IMAGE] * 3, "first_image": None},
        {"referenceVideos": [IMAGE] * 3, "model": "sd2_manxue_video_720p"},
    ],
)
def test_order_within_the_rules_is_accepted(customer, order):
    assert customer.order(**order).status_code == 200


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ({"prompt": ...}, "prompt is required"),
        ({"prompt": " "}, "prompt is required"),
        ({"model": ...}, "model is required"),
        ({"model": 7}, "model is required"),
        ({"duration": 3}, "duration is 3"),
        ({"duration": 16}, "duration is 16"),
        ({"duration": 5.0}, "duration is 5.0"),
        ({"duration": "5"}, "duration is '5'"),
        ({"duration": True}, "duration is True"),
        ({"ratio": "2:1"}, "ratio is '2:1'"),
        ({"last_image": IMAGE}, "last_image needs first_image"),
        ({"first_image": IMAGE, "image": IMAGE}, "names of the same field"),
        ({"first_image": "a.png"}, "first_image must be a URL"),
        ({"first_image": IMAGE, "referenceAudios": [IMAGE]}, "first_image excludes referenceAudios"),
        ({"image": IMAGE, "referenceImages": [IMAGE]}, "image excludes referenceImages"),
        ({"referenceImages": [IMAGE] * 10}, "at most 9"),
        ({"referenceAudios": [IMAGE] * 4}, "at most 3"),
        ({"referenceVideos": [IMAGE] * 4, "model": "sd2_manxue_video_720p"}, "at most 3"),
        ({"referenceVideos": [IMAGE]}, "_video_"),
        ({"referenceImages": IMAGE}, "must be a list"),
        ({"referenceImages": [7]}, "must be a URL"),
    ],
)
def test_order_against_the_rules_is_rejected(emulator, customer, order, text):
    response = customer.order(**order)

    assert response.status_code == 400
    assert text in response.json()["msg"]
    assert emulator.ledger.orders == ()
    assert emulator.tasks == {}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff"])
def test_order_that_is_no_object_is_rejected(emulator, customer, body):
    response = customer.post(f"{emulator.base_url}/v1/sd2_manxue/videos", data=body)

    assert response.status_code == 400


def test_order_with_a_wrong_key_is_rejected(emulator, customer):
    customer.headers["Authorization"] = "Bearer wrong"

    assert customer.order().status_code == 401
    assert emulator.ledger.orders == ()


@pytest.mark.parametrize(
    ("response", "billed"),
    [
        (Response(reset="before"), 0),
        (Response(reset="after"), 1),
        (Response(truncate=10), 1),
        (Response(body="<html>"), 1),
        (Response(status=500), 0),
        (Response(status=500, processed=True), 1),
        (Response(hang=True), 0),
        (Response(hang=True, processed=True), 1),
        (Response(status=202), 1),
        (Response(bills=False), 0),
    ],
)
def test_ledger_has_orders_with_faulty_responses(emulator, customer, response, billed):
    emulator.fail_next(1, response)
    try:
        customer.post(
            f"{emulator.base_url}/v1/sd2_manxue/videos",
            json={"prompt": "x", "model": "m"},
            timeout=1 if response.hang else 30,
        )
    except requests.RequestException:
        assert response.reset or response.truncate or response.hang

    assert emulator.ledger.billed == billed


def test_record_of_an_order_has_body_and_task(emulator, customer):
    task_id = customer.order().json()["id"]
    (record,) = emulator.requests

    assert (record.place, record.task_id, record.method, record.status) == ("create", task_id, "POST", 200)
    assert b"A cat" in record.body
    assert record.authorized


@pytest.mark.parametrize(
    ("response", "billed"), [(Response(status=503), 0), (Response(status=503, processed=True), 1)]
)
def test_script_may_reject_its_orders(emulator, customer, response, billed):
    emulator.default_script = Script(Script.timed().steps, create=response)

    assert customer.order().status_code == 503
    assert emulator.ledger.billed == len(emulator.tasks) == billed


def test_order_over_max_running_gets_429(make_customer):
    with Emulator(clock=Clock(frozen=True), max_running=2) as emulator:
        customer = make_customer(emulator)
        first, second, third = (customer.order() for _ in range(3))
        assert [one.status_code for one in (first, second, third)] == [200, 200, 429]
        assert third.headers["X-Emulator-Origin"] == "assumed"
        emulator.clock.advance(10)
        assert customer.order().status_code == 200
        assert emulator.ledger.billed == 3


def test_order_over_the_balance_is_rejected(make_customer):
    with Emulator(balance=10) as emulator:
        customer = make_customer(emulator)
        assert [customer.order(duration=seconds).status_code for seconds in (6, 5, 4)] == [200, 402, 200]
        assert emulator.ledger.units == 10


@pytest.mark.parametrize("limits", [{"max_running": -1}, {"balance": -1}])
def test_negative_limit_is_rejected(limits):
    with pytest.raises(ValueError, match="Set 0 or more"):
        Emulator(**limits)
