"""Every scenario, played over HTTP: a client sees its description."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest
import requests

from airflow_provider_manxue.testing import SCENARIOS, Script
from airflow_provider_manxue.testing._scenarios import STATUS_SYNONYMS

DOCUMENT = Path(__file__).parents[3] / "docs" / "emulator.md"
IN_ORDER = ["queued", "processing", "completed"]
NO_HANDLER = "No handler found for GET"


def sees(*statuses):
    return lambda responses: [response["status"] for response in responses] == list(statuses)


def last(**fields):
    """Expect an ordinary flow, and fields in the last response; ``...`` for one that must be absent."""

    def check(responses):
        body = responses[-1]
        return sees(*IN_ORDER)(responses) and all(
            name not in body
            if value is ...
            else value(body[name])
            if callable(value)
            else body[name] == value
            for name, value in fields.items()
        )

    return check


def failed(**fields):
    def check(responses):
        same = all(responses[-1].get(name, ...) == value for name, value in fields.items())
        return responses[-1]["status"] == "failed" and same

    return check


def wrapped(**envelope):
    def check(responses):
        return [response["data"]["status"] for response in responses] == IN_ORDER and all(
            {name: value for name, value in response.items() if name != "data"} == envelope
            and type(response.get("code")) is type(envelope.get("code"))
            for response in responses
        )

    return check


def is_video(url):
    return requests.get(url, timeout=10).content[4:8] == b"ftyp"


# Checks of three polls of a task, as parsed JSON.
FLOWS = {
    "queued": sees("queued", "queued", "queued"),
    "processing": sees("processing", "processing", "processing"),
    "completed": sees("completed", "completed", "completed"),
    "failed": sees("failed", "failed", "failed"),
    "queued_processing_completed": last(video_url=is_video, actualDuration=5.0),
    "queued_processing_failed": lambda responses: (
        sees("queued", "processing", "failed")(responses) and isinstance(responses[-1]["error"], str)
    ),
    "fields_absent_before_the_end": lambda responses: (
        sees(*IN_ORDER)(responses)
        and not any({"video_url", "error", "actualDuration"} & set(response) for response in responses[:2])
        and is_video(responses[2]["video_url"])
        and "error" not in responses[2]
    ),
    "completed_without_url": lambda responses: all(
        response["status"] == "completed" and response["video_url"] is None for response in responses
    ),
    "completed_without_url_lag": lambda responses: (
        sees(*["completed"] * 3)(responses)
        and ["video_url" in response for response in responses] == [False, False, True]
        and is_video(responses[2]["video_url"])
    ),
    "object_image_generation": last(object="image.generation", video_url=..., image_url=is_video),
    "object_video_generation": last(object="video.generation", video_url=is_video),
    "object_absent": last(object=..., video_url=is_video),
    "status_uppercase": sees("QUEUED", "PROCESSING", "COMPLETED"),
    "status_capitalized": sees("Queued", "Processing", "Completed"),
    "status_unknown": sees("reviewing", "reviewing", "completed"),
    "url_under_videoUrl": last(video_url=..., videoUrl=is_video),
    "url_under_result_url": last(video_url=..., result_url=is_video),
    "url_under_url": last(video_url=..., url=is_video),
    "extra_amount": last(amount=1.25, video_url=is_video),
    "extra_totalTokens": last(totalTokens=108000, video_url=is_video),
    "extra_progress": last(progress=100, video_url=is_video),
    "extra_last_frame_url": last(last_frame_url=lambda url: url.startswith("https://"), video_url=is_video),
    "error_null": failed(error=None),
    "error_string": failed(error="Content policy violation."),
    "error_object_message": failed(error={"message": "Content policy violation."}),
    "error_object_detail": failed(error={"detail": "Content policy violation."}),
    "error_object_code": failed(error={"code": "content_policy"}),
    "error_absent": failed(error=...),
    "numbers_as_strings": last(created="1800000000", actualDuration="5.0", video_url=is_video),
    "duration_integer": last(actualDuration=lambda value: value == 5 and type(value) is int),
    "duration_4.000000": last(actualDuration=4.0),
    "duration_5.17": last(actualDuration=5.17),
    "duration_absent": last(actualDuration=..., video_url=is_video),
    "wrapped_in_data": wrapped(),
    "wrapped_with_code_and_msg": wrapped(code="0", msg=None),
    "wrapped_with_code_number": wrapped(code=0, msg="success"),
}
for status, synonyms in STATUS_SYNONYMS.items():
    for word in synonyms:
        steps = ["queued", "processing", "failed" if status == "failed" else "completed"]
        FLOWS[f"status_{word}"] = sees(*(word if step == status else step for step in steps))

# Checks of a single response.
RESPONSES = {
    "http_200_business_error": lambda got: (
        (got.status_code, got.json()["code"], got.json()["data"]) == (200, 500, None)
        and got.json()["msg"].startswith(NO_HANDLER)
    ),
    "http_404_no_handler": lambda got: (
        got.status_code == 404 and got.json()["message"].startswith(NO_HANDLER)
    ),
    "html_body": lambda got: got.status_code == 200 and got.text.startswith("<html>") and is_html(got),
    "empty_body": lambda got: (got.status_code, got.content) == (200, b""),
    "http_502_html": lambda got: got.status_code == 502 and got.text.startswith("<html>") and is_html(got),
    "http_429_seconds": lambda got: (got.status_code, got.headers["Retry-After"]) == (429, "1"),
    "http_429_date": lambda got: (
        got.status_code == 429
        and re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", got.headers["Retry-After"])
    ),
    "http_429_day": lambda got: (got.status_code, got.headers["Retry-After"]) == (429, "86400"),
    "http_429_junk": lambda got: (got.status_code, got.headers["Retry-After"]) == (429, "soon"),
    "http_200_code_429": lambda got: (got.json()["code"], got.headers["Retry-After"]) == (429, "1"),
    "http_503_seconds": lambda got: (got.status_code, got.headers["Retry-After"]) == (503, "1"),
    "redirect": lambda got: (
        got.status_code == 302 and got.headers["Location"] == "https://redirected.invalid/"
    ),
    "json_broken": lambda got: got.status_code == 200 and is_broken(got.text),
    "json_list": lambda got: got.json() == [],
    "json_null": lambda got: got.text == "null",
    "not_utf8": lambda got: is_broken(got.content),
    "gzip_body": lambda got: (
        got.headers["Content-Encoding"] == "gzip" and got.json()["status"] == "processing"
    ),
    "delayed": lambda got: got.elapsed.total_seconds() >= 0.5,
    "slow_body": lambda got: got.json()["status"] == "processing",
}
for number in (400, 401, 403, 404, 408, 425, 429, 500, 502, 503, 504):
    RESPONSES[f"http_{number}"] = lambda got, number=number: (
        got.status_code == number and got.json()["code"] == number and "Retry-After" not in got.headers
    )

# Errors of a client that reads to the end.
BREAKS = {
    "reset_before_read": "reset by peer",
    "reset_after_read": "reset by peer",
    "truncated_body": "20 bytes read",
    "chunked_cut_short": "ended prematurely",
    "hang": "timed out",
    "endless_body": "endless",
    "http_429_cut": "5 bytes read",
}


def is_html(response):
    return response.headers["Content-Type"] == "text/html; charset=utf-8"


def is_broken(text):
    with pytest.raises(ValueError, match=r"."):
        json.loads(text)
    return True


def test_every_scenario_is_tested():
    tested = [*FLOWS, *RESPONSES, *BREAKS, *ORDERS, *VIDEOS, "refuse"]
    assert sorted(tested) == sorted(SCENARIOS)


@pytest.mark.parametrize("name", FLOWS)
def test_flow_scenario(emulator, customer, name):
    task_id = emulator.add_task(name)
    responses = [customer.query(task_id).json() for _ in range(3)]

    assert FLOWS[name](responses), responses


@pytest.mark.parametrize(
    ("name", "text", "length"),
    [("duration_integer", "5", 5.0), ("duration_4.000000", "4.000000", 4.0), ("duration_5.17", "5.17", 5.17)],
)
def test_length_is_written_as_it_was_seen(emulator, customer, name, text, length):
    task_id = emulator.add_task(name)
    emulator.advance(task_id)
    emulator.advance(task_id)

    assert re.search(rf'"actualDuration": {re.escape(text)}[,}}]', customer.query(task_id).text)
    assert emulator.task(task_id).actual_duration == length


@pytest.mark.parametrize("name", RESPONSES)
def test_response_is_sent_to_two_polls(emulator, customer, name):
    task_id = emulator.add_task(name)
    for _ in range(2):
        assert RESPONSES[name](customer.query(task_id, allow_redirects=False))
        if name in ("delayed", "slow_body"):
            break
    else:
        assert customer.statuses(task_id, 1) == ["completed"]


@pytest.mark.parametrize("name", RESPONSES)
def test_response_is_sent_by_fail_next(emulator, customer, name):
    task_id = emulator.add_task("processing")
    emulator.fail_next(1, name)

    assert RESPONSES[name](customer.query(task_id, allow_redirects=False))
    assert customer.statuses(task_id, 1) == ["processing"]


def read_to_the_end(customer, task_id, timeout):
    """Poll, and return the text of the error."""
    try:
        with customer.query(task_id, stream=True, timeout=timeout) as response:
            received = 0
            for chunk in response.iter_content(65536):
                received += len(chunk)
                if received > 1_000_000:
                    return "endless"
    except requests.RequestException as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("name", BREAKS)
def test_broken_connection_scenario(emulator, customer, name):
    task_id = emulator.add_task(name)

    timeout = 0.2 if name == "hang" else 10
    assert BREAKS[name] in read_to_the_end(customer, task_id, timeout)
    emulator.set_status(task_id, "completed")
    emulator.fail_next(1, name)
    assert BREAKS[name] in read_to_the_end(customer, task_id, timeout)
    assert customer.statuses(task_id, 1) == ["completed"]


def test_refused_connection_scenario(emulator, customer):
    task_id = emulator.add_task("completed")
    assert customer.statuses(task_id, 1) == ["completed"]
    with emulator.outage("refuse"), pytest.raises(requests.ConnectionError, match="refused"):
        customer.query(task_id)

    assert customer.statuses(task_id, 1) == ["completed"]


def order_id(pattern):
    return lambda got, emulator: (
        re.fullmatch(pattern, got.json()["id"]) and list(emulator.tasks) == [got.json()["id"]]
    )


# Checks of the response to an order, and the number of billed orders.
ORDERS = {
    "id_proj_sd2manxue": (order_id(r"proj_sd2manxue_\d+"), 1),
    "id_video_uuid": (lambda got, _: uuid.UUID(got.json()["id"].removeprefix("video_")), 1),
    "id_space_and_slash": (order_id(r"global task/\d+"), 1),
    "http_202_on_create": (lambda got, _: got.status_code == 202 and got.json()["status"] == "queued", 1),
    "create_envelope_project_id": (
        lambda got, emulator: (
            got.json() == {"code": "0", "msg": None, "data": {"projectId": next(iter(emulator.tasks))}}
        ),
        1,
    ),
    "create_answers_failed": (lambda got, _: got.status_code == 200 and got.json()["status"] == "failed", 0),
    "create_reset_after_order": (None, 1),
    "create_http_500_after_order": (lambda got, _: got.status_code == 500, 1),
}


@pytest.mark.parametrize("how", ["by default", "next"])
@pytest.mark.parametrize("name", ORDERS)
def test_order_scenario(emulator, customer, name, how):
    check, billed = ORDERS[name]
    if how == "next":
        emulator.fail_next(1, name)
    else:
        emulator.default_script = name
    if check is None:
        with pytest.raises(requests.ConnectionError, match="reset by peer"):
            customer.order()
    else:
        assert check(customer.order(), emulator)

    assert emulator.ledger.billed == billed
    assert len(emulator.ledger.orders) == 1
    (task_id,) = emulator.tasks
    emulator.clock.advance(100)
    customer.statuses(task_id, 2)
    assert customer.statuses(task_id, 1) == ["failed" if name == "create_answers_failed" else "completed"]


# Checks of the response to a download and its content, or the text of the error.
VIDEOS = {
    "media_cut": "1000 bytes read",
    "media_reset": "reset by peer",
    "media_chunked_cut": "ended prematurely",
    "media_chunked": lambda got, video: got.content == video and "Content-Length" not in got.headers,
    "media_ignores_range": lambda got, video: (got.status_code, got.content) == (200, video),
    "media_length_too_long": "10 more expected",
    "media_length_too_short": lambda got, video: got.content == video[:-10],
    "media_html": lambda got, _: got.status_code == 200 and is_html(got) and got.text.startswith("<html>"),
    "media_empty": lambda got, _: (got.status_code, got.content) == (200, b""),
    "media_gzip": lambda got, video: got.headers["Content-Encoding"] == "gzip" and got.content == video,
    "media_replaced": "1000 bytes read",
    "media_slow": lambda got, video: got.content == video,
    "media_endless": "endless",
    "media_redirect": lambda got, _: got.status_code == 302 and ".invalid/" in got.headers["Location"],
    "media_403": lambda got, _: got.status_code == 403,
    "media_404": lambda got, _: got.status_code == 404,
    "media_503": lambda got, _: got.status_code == 503,
}


def download(url):
    headers = {"Range": "bytes=0-"}
    with requests.get(url, headers=headers, timeout=5, stream=True, allow_redirects=False) as response:
        content = b""
        for chunk in response.iter_content(65536):
            content += chunk
            if len(content) > 1_000_000:
                raise requests.ConnectionError("endless")
        response._content = content
        return response


@pytest.mark.parametrize("how", ["task", "next"])
@pytest.mark.parametrize("name", VIDEOS)
def test_video_scenario(emulator, name, how):
    task_id = emulator.add_task(name if how == "task" else "completed")
    if how == "next":
        emulator.fail_next(1, name)
    video = emulator.task(task_id).video
    content = video.read(0, video.size)
    expected = VIDEOS[name]
    tag = requests.head(emulator.video_url(task_id), timeout=5).headers.get("ETag") if how == "task" else None
    if isinstance(expected, str):
        with pytest.raises(requests.RequestException, match=expected):
            download(emulator.video_url(task_id))
    else:
        assert expected(download(emulator.video_url(task_id)), content)
    if how == "next":
        response = download(emulator.video_url(task_id))
        assert response.status_code == 206
        assert (response.content == content) == (name != "media_replaced")
    elif name == "media_replaced":
        assert requests.head(emulator.video_url(task_id), timeout=5).headers["ETag"] != tag


@pytest.mark.parametrize("name", SCENARIOS)
def test_script_survives_json(name):
    script = SCENARIOS[name].script
    if script is not None:
        assert Script.from_json(json.loads(json.dumps(script.to_json()))) == script
        assert Script.from_json(name) == script


def test_key_is_the_name_of_its_scenario():
    assert all(name == scenario.name for name, scenario in SCENARIOS.items())
    assert {scenario.origin for scenario in SCENARIOS.values()} == {"documented", "seen", "assumed"}


def test_documentation_has_the_same_table():
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| (\w+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)

    assert rows == [
        (scenario.name, scenario.place, scenario.origin, scenario.description)
        for scenario in SCENARIOS.values()
    ]
