"""
Responses of the service: tasks, errors, ``Retry-After``, texts for logs, and URLs of requests.

The reasons are in the docstring of ``_core/responses.py``.
"""

import errno
import json
import socket
import ssl
import time
from datetime import UTC, datetime
from email.utils import format_datetime

import aiohttp
import pytest
import requests
import trustme
import urllib3
import yarl
from aiohttp.client_reqrep import ConnectionKey

from airflow_provider_manxue._core.bodies import MAX_DEPTH, clean_text, excerpt_of
from airflow_provider_manxue._core.connection import DEFAULT_BASE_URL
from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue._core.network_errors import no_response
from airflow_provider_manxue._core.reasons import raw_code_in
from airflow_provider_manxue._core.responses import create_url, parse_retry_after, parse_task, result_url
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueMediaTypeError,
    ManxuePermissionError,
    ManxueRateLimitError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

KEY = "sk-very-secret-key"
NOW = 1_800_000_000.0
VIDEO = "https://cdn.example.com/a.mp4"

PUBLISHED_SAMPLE = (
    b'{"id":"proj_sd2manxue_1234567890","object":"video","created":1761635478,'
    b'"model":"sd2_manxue_1080p","status":"processing","video_url":null,"error":null}'
)


def task_of(response, http_status=200, **kwargs):
    """Parse the response to a query for the task ``requested``."""
    return parse_task(http_status, json.dumps(response).encode(), **{"video_task_id": "requested", **kwargs})


def order_task_of(response, http_status=200):
    """Parse the response to an order, for which no id was requested."""
    return parse_task(http_status, json.dumps(response).encode(), video_task_id="")


def error_of(http_status, body=b"", **kwargs):
    with pytest.raises(ManxueError) as caught:
        parse_task(http_status, body, **{"video_task_id": "requested", **kwargs})
    return caught.value


def http_date(seconds):
    return format_datetime(datetime.fromtimestamp(seconds, tz=UTC), usegmt=True)


# --- documented responses --------------------------------------------------------------------------------


def test_documented_response_is_parsed():
    assert parse_task(200, PUBLISHED_SAMPLE) == VideoTask(
        id="proj_sd2manxue_1234567890",
        status=TaskStatus.PROCESSING,
        status_word="processing",
        object="video",
        created=1761635478,
        model="sd2_manxue_1080p",
    )


def test_completed_response_is_parsed():
    task = task_of(
        {
            "id": "proj_1",
            "object": "video",
            "created": 1761635478,
            "model": "sd2_manxue_video_720p",
            "status": "completed",
            "video_url": VIDEO,
            "actualDuration": 5.17,
        }
    )

    assert (task.status, task.video_url, task.actual_duration, task.error) == ("completed", VIDEO, 5.17, None)


def test_failed_response_has_the_reason():
    task = task_of({"id": "proj_1", "status": "failed", "error": "prompt is not allowed"})

    assert (task.status, task.error, task.video_url) == (TaskStatus.FAILED, "prompt is not allowed", None)


def test_to_dict_has_the_field_names_of_the_service():
    response = {
        "id": "proj_1",
        "object": "video",
        "created": 1761635478,
        "model": "sd2_manxue_720p",
        "status": "completed",
        "video_url": VIDEO,
        "actualDuration": 4.0,
        "error": None,
        "amount": 12,
        "last_frame_url": "https://cdn.example.com/last.png",
    }

    written = task_of(response, video_task_id="proj_1").to_dict()

    assert written == response
    assert list(written) == list(response)


@pytest.mark.parametrize(
    ("fields", "word"), [({"status": 5}, "5"), ({}, ""), ({"status": "Reviewing"}, "Reviewing")]
)
def test_status_word_is_the_one_of_the_service(fields, word):
    seen = task_of({"id": "proj_1", **fields})

    assert (seen.status, seen.status_word) == (TaskStatus.UNKNOWN, word)


def test_to_xcoms_has_url_and_duration():
    seen = task_of({"id": "proj_1", "status": "completed", "video_url": VIDEO, "actualDuration": 5.17})

    assert seen.to_xcoms() == {"video_url": VIDEO, "actualDuration": 5.17}


def test_to_dict_has_none_for_missing_fields():
    assert task_of({"id": "requested", "status": "queued"}).to_dict() == {
        "id": "requested",
        "object": None,
        "created": None,
        "model": None,
        "status": "queued",
        "video_url": None,
        "actualDuration": None,
        "error": None,
    }


def test_to_dict_status_is_a_documented_str():
    written = task_of({"id": "proj_1", "status": "SUCCEEDED"}).to_dict()["status"]

    assert written == "completed"
    assert type(written) is str


def test_to_dict_can_be_stored_as_json():
    """PostgreSQL refuses the NUL character, and JSON has neither NaN nor infinity."""
    body = b'{"id":"a\\u0000b","status":"queued","x":NaN,"y":[Infinity,{"\\ud800z":"\\ud800"}],"actualDuration":NaN}'

    task = parse_task(200, body)
    stored = json.dumps(task.to_dict(), allow_nan=False, ensure_ascii=False).encode("utf-8")

    assert b"\x00" not in stored
    assert b"\\u0000" not in stored
    assert (task.id, task.actual_duration) == ("ab", None)
    assert task.extra == {"x": None, "y": [None, {"?z": "?"}]}


@pytest.mark.parametrize(
    ("body", "extra"),
    [
        (b'{"id":"a","x":1e999}', {"x": None}),
        (b'{"id":"a","x":"\xed\xa0\x80"}', {"x": "?"}),
        ('{"id":"a","x":"b\\u0000"}'.encode("utf-16-le"), {"x": "b"}),
    ],
    ids=["number", "surrogate", "UTF-16"],
)
def test_body_values_that_cannot_be_stored_are_removed(body, extra):
    assert parse_task(200, body).extra == extra


def test_key_in_a_utf_16_body_is_masked():
    body = f'{{"id":"a","x":"{KEY}"}}'.encode("utf-16-le")

    assert parse_task(200, body, secret=KEY).extra == {"x": "***"}


def test_repr_hides_url_and_unknown_fields():
    task = task_of(
        {"id": "p", "status": "completed", "video_url": VIDEO, "last_frame_url": "https://x/frame"}
    )

    assert VIDEO not in repr(task)
    assert "frame" not in repr(task)


# --- status words ---------------------------------------------------------------------------------------

STATUS_WORDS = {
    TaskStatus.QUEUED: (
        "queued", "queueing", "in_queue", "pending", "submitted", "waiting", "created", "not_started", "排队中",
    ),
    TaskStatus.PROCESSING: (
        "processing", "running", "in_progress", "in-progress", "inprogress", "in progress", "generating", "started",
        "working", "rendering", "JOB_STATE_RUNNING", "生成中",
    ),
    TaskStatus.COMPLETED: (
        "completed", "complete", "succeeded", "succeed", "success", "done", "finished", "finish", "ready", "ok",
        "TASK_STATUS_SUCCEED", "status-completed", "已完成",
    ),
    TaskStatus.FAILED: (
        "failed", "failure", "fail", "error", "errored", "rejected", "timeout", "timed_out", "Timed Out", "aborted",
        "blocked", "cancelled", "canceled", "expired", "Request Moderated", "TASK_STATUS_FAILED", "生成失败",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("word", "status"), [(word, status) for status, words in STATUS_WORDS.items() for word in words]
)
def test_status_synonyms_are_known_in_any_case(word, status):
    for spelling in (word, word.upper(), word.title(), f" {word}\n"):
        assert task_of({"id": "p", "status": spelling}).status is status


@pytest.mark.parametrize(
    "word",
    [
        "",
        "reviewing",
        "not completed",
        "unknown",
        "incomplete",
        "2",
        "2.0",
        "status",
        "审核中",
        None,
        True,
        1,
        2,
        {},
        [],
    ],
)
def test_other_status_is_unknown(word):
    assert task_of({"id": "p", "status": word}).status is TaskStatus.UNKNOWN


@pytest.mark.parametrize("word", ["2", "", "reviewing"])
def test_unknown_status_has_url_and_reason(word):
    task = task_of({"id": "p", "status": word, "video_url": VIDEO, "error": "content policy"})

    assert (task.status, task.status_word) == (TaskStatus.UNKNOWN, word)
    assert (task.video_url, task.error) == (VIDEO, "content policy")


@pytest.mark.parametrize(
    "response", [{"id": "p", "url": VIDEO}, {"video_url": VIDEO}, {"data": {"video_url": VIDEO}}]
)
def test_missing_status_with_url_is_unknown(response):
    task = task_of(response)

    assert (task.status, task.status_word, task.video_url) == (TaskStatus.UNKNOWN, "", VIDEO)


def test_order_with_url_without_status_is_unknown():
    for response in ({"id": "p", "url": VIDEO}, {"id": "p", "data": {"url": VIDEO}}):
        assert order_task_of(response).status is TaskStatus.UNKNOWN


@pytest.mark.parametrize("word", ["failed", "fail", "error"])
def test_failed_task_with_url_is_failed(word):
    """The URL may be that of a preview or of the reference material."""
    task = task_of({"id": "p", "status": word, "video_url": VIDEO})

    assert (task.status, task.video_url) == (TaskStatus.FAILED, VIDEO)


@pytest.mark.parametrize(
    "response",
    [
        {"status": "error", "message": "internal"},
        {"status": "fail", "data": {"prompt": "required"}, "message": "internal"},
        {"status": "ERROR", "code": 500, "msg": "internal", "data": None},
        {"status": 500, "error": "internal", "path": "/v1"},
        {"status": "500", "error": "internal"},
        {"code": 500, "msg": "internal", "data": {"status": "error"}},
    ],
)
def test_status_of_an_error_response_is_no_failed_video(response):
    """As a failed video, such a response would end the wait for a paid video."""
    with pytest.raises(ManxueRefusedError, match="internal"):
        task_of(response)


@pytest.mark.parametrize("word", ["failed", "failure", "timeout", "denied", "expired", "TASK_STATUS_ERROR"])
@pytest.mark.parametrize("beside", [{}, {"data": None}, {"id": "", "model": None}, {"url": "/v1/result/p"}])
def test_word_for_failure_alone_is_that_of_the_response(word, beside):
    """A gateway reports its own failure so, while the video may be completed."""
    with pytest.raises(ManxueRefusedError, match="an error instead of a task: upstream"):
        task_of({"status": word, "message": "upstream", **beside})
    with pytest.raises(ManxueTransientError, match="the error code 504: upstream"):
        task_of({"status": word, "code": 504, "message": "upstream", **beside})
    assert task_of({"status": word, "message": "upstream", **beside, "id": "p"}).status is TaskStatus.FAILED
    assert task_of({"id": "p", "data": {"status": word, "message": "upstream"}}).status is TaskStatus.FAILED


@pytest.mark.parametrize("word", ["error", "fail"])
def test_error_of_a_gateway_around_a_known_id_is_no_failed_video(word):
    assert task_of({"id": "p", "data": {"status": word, "message": "x"}}).status is TaskStatus.UNKNOWN


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ({"code": 0, "data": {"status": "failed", "fail_reason": "moderation"}}, "moderation"),
        ({"status": "failed"}, "a failure without a reason"),
    ],
)
def test_failure_without_an_id_is_a_refusal_with_its_reason(response, reason):
    with pytest.raises(ManxueRefusedError, match=f"an error instead of a task: {reason}"):
        task_of(response)


def test_code_beside_a_success_code_is_that_of_the_response():
    with pytest.raises(ManxueRateLimitError, match="HTTP 200"):
        task_of({"code": 0, "error_code": 429}, retry_after=["7"])


def test_status_beside_the_id_is_that_of_the_task():
    inside = task_of({"status": "success", "data": {"id": "p", "status": "processing"}})
    echoed = task_of({"id": "p", "status": "success", "data": {"status": "processing"}})
    failed = task_of(
        {"id": "p", "status": "success", "code": 0, "data": {"status": "failed", "fail_reason": "x"}}
    )
    url = "https://cdn.example/v.mp4"
    outside = task_of({"id": "p", "status": "completed", "video_url": url, "data": {"status": "success"}})

    assert inside.status is echoed.status is TaskStatus.PROCESSING
    assert (failed.status, failed.error) == (TaskStatus.FAILED, "x")
    assert (outside.status, outside.video_url) == (TaskStatus.COMPLETED, url)


@pytest.mark.parametrize(
    "payload",
    [
        {
            "code": 0,
            "data": {"task": {"id": "p", "status": "completed", "video_url": "https://cdn.example/v.mp4"}},
        },
        {"result": {"output": [{"task_id": "p", "status": "done", "url": "https://cdn.example/v.mp4"}]}},
        {"id": "p", "status": "completed", "video_url": ["https://cdn.example/v.mp4"]},
    ],
)
def test_task_or_url_further_inside_is_found(payload):
    """The id in the response to an order is, too, so that it would be paid and never read."""
    assert task_of(payload).video_url == "https://cdn.example/v.mp4"


def test_several_tasks_inside_are_none():
    with pytest.raises(ManxueTransientError):
        task_of({"data": {"tasks": [{"id": "p", "status": "done"}, {"id": "q", "status": "done"}]}})


@pytest.mark.parametrize("kind", ["", " ", False, [], {}, None, "VIDEO "])
def test_empty_kind_of_an_object_is_none(kind):
    assert task_of({"id": "p", "status": "processing", "object": kind}).status is TaskStatus.PROCESSING


@pytest.mark.parametrize("code", [408, 425, "429", 429.0, 502, 503, 504])
@pytest.mark.parametrize(
    "envelope",
    [
        lambda code: {"code": code, "msg": "busy", "data": None},
        lambda code: {"code": code, "message": "busy"},
        lambda code: {"status": "error", "code": code, "msg": "busy"},
        lambda code: {"error": {"code": code, "message": "busy"}},
    ],
)
def test_code_of_a_transient_status_is_transient(envelope, code):
    """As a refusal, it would end the wait for a paid video after 5 minutes, and 429 would pause nothing."""
    with pytest.raises(ManxueTransientError, match=f"HTTP 200 with the error code {code}: busy") as raised:
        task_of(envelope(code), retry_after=["90"])
    assert isinstance(raised.value, ManxueRateLimitError) == (int(float(code)) == 429)
    assert raised.value.retry_after == 90


@pytest.mark.parametrize("success", [{}, {"code": 0}, {"code": "success"}])
def test_code_of_a_detail_does_not_hide_a_task(success):
    """Only without a task an error is one of the response."""
    detail = {"code": 504, "message": "no thumbnail"}
    ready = task_of(
        {**success, "data": {"id": "v", "video_url": "https://cdn.example/v.mp4"}, "error": detail}
    )

    assert ready.video_url == "https://cdn.example/v.mp4"
    with pytest.raises(ManxueTransientError, match="HTTP 200 with the error code 504: no thumbnail"):
        task_of({**success, "error": detail})
    with pytest.raises(ManxueTransientError, match="HTTP 200 with an error instead of a task: 504"):
        task_of({**success, "error": {"code": 504}})


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 500, 501, 1302, -1, "E503", "503.5", True])
def test_other_code_is_a_refusal(code):
    with pytest.raises(ManxueRefusedError, match="busy"):
        task_of({"code": code, "msg": "busy", "data": None})


@pytest.mark.parametrize("sign", ["id", "task_id", "object", "created", "model", "video_url", "progress"])
def test_status_error_with_task_fields_is_a_failed_video(sign):
    value = {"created": 1, "progress": 0, "video_url": "https://cdn.example/v.mp4", "object": "video"}.get(
        sign, "p"
    )

    for beside in ({}, {"code": 7}):
        assert task_of({"status": "error", sign: value, **beside}).status is TaskStatus.FAILED


def test_unknown_status_word_is_cleaned():
    task = task_of({"id": "p", "status": f"re\nviewing {KEY}"}, secret=KEY)

    assert task.status_word == "re viewing ***"


def test_response_with_id_without_status_is_unknown():
    assert task_of({"id": "p"}).status is TaskStatus.UNKNOWN


# --- kinds of objects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["video", "video.generation", "Video", "VIDEO.GENERATION", None])
def test_object_video_is_accepted(kind):
    assert task_of({"id": "p", "status": "queued", "object": kind}).object == kind


@pytest.mark.parametrize(
    "kind", ["image.generation", "image", "videos", "videogeneration", "audio.video", 5, ["video"]]
)
def test_error_names_the_other_kind_of_object(kind):
    with pytest.raises(ManxueMediaTypeError) as caught:
        task_of({"id": "p", "status": "completed", "object": kind, "image_url": "https://x/a.png"})

    assert "'requested'" in str(caught.value)
    assert clean_text(kind) in str(caught.value)


def test_task_with_error_code_and_status_is_parsed():
    task = task_of({"id": "p", "status": "failed", "code": 500, "msg": "why", "error": "bad prompt"})

    assert (task.status, task.error) == (TaskStatus.FAILED, "bad prompt")


# --- the URL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["video_url", "videoUrl", "result_url", "url"])
def test_url_is_found_under_each_name(name):
    task = task_of({"id": "p", "status": "completed", name: VIDEO})

    assert task.video_url == VIDEO
    assert task.to_dict()["video_url"] == VIDEO
    assert task.extra == {}


def test_url_under_the_documented_name_comes_first():
    others = {"url": "https://x/1", "result_url": "https://x/2", "videoUrl": "https://x/3"}

    assert task_of({"id": "p", "status": "completed", **others, "video_url": VIDEO}).video_url == VIDEO


@pytest.mark.parametrize(
    "unusable", [None, "", " ", "pending", 5, True, [VIDEO], "ftp://x/a.mp4", "file:///etc/passwd"]
)
def test_unusable_documented_url_is_replaced_by_another(unusable):
    assert task_of({"id": "p", "status": "completed", "video_url": unusable, "url": VIDEO}).video_url == VIDEO


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "null",
        0,
        {},
        [],
        "ftp://x/a",
        "file:///a",
        "javascript:alert(1)",
        "//x/a",
        "http://",
        "https:///a",
        "https://?a",
        "https://a b",
        "https://a b/c",
        "https://good.example\\@evil.example/a",
        "https://x/a\nb",
        "https://x/a\tb",
        "https://x/a\x7fb",
        "https://x/a\u2028b",
    ],
)
def test_value_that_is_no_http_url_is_ignored(value):
    assert task_of({"id": "p", "status": "completed", "video_url": value}).video_url is None


@pytest.mark.parametrize(
    "url",
    [
        VIDEO,
        "http://x/a",
        "HTTPS://x/a",
        "https://x",
        "https://x?a",
        "https://x/视频.mp4?sig=a&b=c#d",
        "https://x/my video (1).mp4?sig=a b%20c",
        'https://x/"a"|b^`{c}<d>.mp4',
        "https://x/a\\b",
        "https://x/\u00a0\u200b.mp4",
    ],
)
def test_http_url_is_unchanged(url):
    assert task_of({"id": "p", "status": "completed", "video_url": f" {url}\n"}).video_url == url


# --- numbers and texts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("came", "number"),
    [
        (5, 5.0),
        (5.17, 5.17),
        ("4.000000", 4.0),
        ("5", 5.0),
        (0, 0.0),
        (None, None),
        ("", None),
        ("five", None),
        (True, None),
        (-1, None),
        ("-1", None),
        ("nan", None),
        ("Infinity", None),
        ([5], None),
        ({}, None),
        (10**400, None),
    ],
)
def test_duration_is_a_number_or_none(came, number):
    assert task_of({"id": "p", "status": "completed", "actualDuration": came}).actual_duration == number


@pytest.mark.parametrize(
    ("came", "created"),
    [
        (1761635478, 1761635478),
        ("1761635478", 1761635478),
        (1761635478.9, 1761635478),
        ("2025-10-28", None),
        (None, None),
    ],
)
def test_created_is_an_integer_or_none(came, created):
    read = task_of({"id": "p", "status": "queued", "created": came}).created

    assert read == created
    assert not isinstance(read, float)


@pytest.mark.parametrize("came", [None, "", 5, ["sd2_manxue_720p"]])
def test_model_is_a_string_or_none(came):
    assert task_of({"id": "p", "status": "queued", "model": came}).model is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, None),
        ("", None),
        (False, None),
        ({}, None),
        ("bad prompt", "bad prompt"),
        ({"message": "bad prompt", "code": 7}, "bad prompt"),
        ({"detail": "bad picture"}, "bad picture"),
        ({"message": None, "detail": "", "code": "E7"}, "E7"),
        ({"code": 7}, "7"),
        (["a", "b"], "a; b"),
        ([{"loc": ["body"], "msg": "too long"}], "too long"),
        ({"msg": "bad prompt", "request_id": "02178"}, "bad prompt"),
        ({"error": {"message": "bad prompt"}}, "bad prompt"),
        ({"prompt": "too long"}, '{"prompt": "too long"}'),
        ({"提示词": "过长"}, '{"提示词": "过长"}'),
        ([1, 2], "[1, 2]"),
        ({"message": ""}, None),
        ("null", None),
        (True, None),
        (42, "42"),
        ("line one\r\nline two\x1b[31m", "line one line two [31m"),
        (f"key {KEY} is broke", "key *** is broke"),
    ],
)
def test_error_field_is_parsed_in_each_shape(error, text):
    assert task_of({"id": "p", "status": "failed", "error": error}, secret=KEY).error == text


REASONS_BESIDE_ERROR = [
    {"message": "policy"},
    {"code": "DataInspectionFailed", "message": "policy", "request_id": "r1"},
    {"error": True, "message": "policy"},
    {"error": 1, "msg": "policy"},
    {"error": "null", "fail_reason": "policy"},
    {"failReason": "policy"},
    {"reason": "policy"},
    {"detail": "policy"},
    {"errorMessage": "policy"},
    {"error": {"error": {"message": "policy"}}},
    {"error": {"msg": "policy", "request_id": "02178"}},
    {"data": {"fail_reason": "policy"}},
    {"message": "success", "reason": "policy"},
]


@pytest.mark.parametrize("fields", REASONS_BESIDE_ERROR)
@pytest.mark.parametrize("word", ["failed", "completed", "reviewing"])
def test_reason_outside_the_error_field_is_found(word, fields):
    task = task_of({"id": "p", "status": word, "video_url": None, "error": None, **fields})

    assert task.error == "policy"


def test_reason_in_the_envelope_is_found():
    failed = {"id": "p", "status": "failed"}

    assert task_of({"code": 0, "msg": "policy", "data": failed}).error == "policy"
    assert task_of({"code": 0, "msg": "ok", "data": {**failed, "error": "policy"}}).error == "policy"


def nested_in(name, levels, value):
    for _ in range(levels):
        value = {name: value} if name else [value]
    return value


@pytest.mark.parametrize(
    ("name", "levels", "error"),
    [("message", 5, "policy"), ("message", 6, None), ("", 4, "policy"), ("", 5, None)],
)
def test_reason_text_is_found_up_to_a_depth(name, levels, error):
    """Five objects, with the task, or four lists."""
    fields = nested_in(name, levels, "policy")
    task = {"id": "p", "status": "failed", **(fields if name else {"message": fields})}

    assert task_of(task).error == error


@pytest.mark.parametrize(("levels", "error"), [(6, "42"), (7, '{"error": ' * 6 + "42" + "}" * 6)])
def test_reason_code_is_found_up_to_a_depth(levels, error):
    """A deeper code is shown with the JSON around it."""
    assert task_of({"id": "p", "status": "failed", **nested_in("error", levels, 42)}).error == error


@pytest.mark.parametrize(
    ("code", "error"), [("E7", "code E7"), (1001, "code 1001"), (0, None), ("success", None)]
)
def test_code_is_the_reason_without_a_text(code, error):
    assert task_of({"id": "p", "status": "failed", "code": code, "msg": "ok"}).error == error


@pytest.mark.parametrize(
    "fields", [{"status": "processing"}, {"status": "queued"}, {"status": "completed", "video_url": VIDEO}]
)
def test_message_of_an_unfailed_task_is_no_error(fields):
    assert task_of({"id": "p", "message": "rendering 51%", "code": 7, **fields}).error is None


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ({"code": " 1001 "}, "1001"),
        ({"error": {"errorCode": 7}}, "7"),
        ({"code": "0", "error": "text"}, ""),
        ({}, ""),
        (["text"], ""),
        (None, ""),
    ],
)
def test_error_code_is_empty_if_a_response_has_none(response, code):
    assert raw_code_in(response) == code


def test_reason_is_bounded_without_secrets():
    error = task_of(
        {"id": "p", "status": "failed", "fail_reason": f"{KEY} https://x/a b.mp4?sig=abc d&e=f {'x' * 999}"},
        secret=KEY,
    ).error

    assert error.startswith("*** https://x/a b.mp4?*** d&*** xxx")
    assert len(error) == 500


def test_unknown_fields_are_unchanged():
    extra = {
        "amount": 1.5,
        "totalTokens": "9",
        "progress": 40,
        "last_frame_url": "https://x/l.png",
        "projectId": "q",
    }

    assert task_of({"id": "p", "status": "processing", **extra}).extra == extra


# --- envelopes, orders and ids --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "envelope",
    [
        {},
        {"code": "0"},
        {"code": 0, "msg": None},
        {"code": "200", "msg": "success"},
        {"code": 200},
        {"code": None},
        {"code": 200.0},
        {"code": "success"},
        {"code": "ok", "message": "OK"},
        {"code": ""},
        {"code": 1},
        {"code": -1},
        {"code": "E7", "msg": "ok"},
    ],
)
def test_task_in_an_envelope_is_parsed(envelope):
    """Relays use various codes for success, so a task with a status is parsed with any code."""
    fields = {"id": "proj_1", "status": "completed", "video_url": VIDEO}
    for data in (fields, [fields]):
        task = order_task_of({**envelope, "data": data})

        assert (task.id, task.status, task.video_url) == ("proj_1", TaskStatus.COMPLETED, VIDEO)


@pytest.mark.parametrize("code", ["0", 0, 200, 200.0, "", "success", "OK"])
def test_flat_task_with_success_code_is_parsed(code):
    assert order_task_of({"code": code, "id": "proj_1"}).id == "proj_1"


def test_url_in_data_belongs_to_the_outer_status():
    """Some relays split a task over two levels of their response."""
    task = task_of({"status": "completed", "data": {"id": "p", "video_url": VIDEO}})

    assert (task.status, task.video_url) == (TaskStatus.COMPLETED, VIDEO)


@pytest.mark.parametrize("http_status", [200, 201, 202])
def test_order_response_is_a_queued_task(http_status):
    task = order_task_of({"id": "proj_1", "status": "queued"}, http_status)

    assert (task.id, task.status) == ("proj_1", TaskStatus.QUEUED)


def test_older_order_response_is_a_queued_task():
    task = order_task_of({"code": "0", "msg": None, "data": {"projectId": "proj_9"}})

    assert (task.id, task.status) == ("proj_9", TaskStatus.QUEUED)


@pytest.mark.parametrize(
    "response",
    [
        {"task_id": "proj_9"},
        {"code": 0, "data": {"taskId": "proj_9"}},
        {"code": 0, "data": [{"task_id": "proj_9"}]},
        {"id": "proj_9", "data": {"status": "queued"}},
    ],
)
def test_order_response_with_another_id_name_is_parsed(response):
    task = order_task_of(response)

    assert (task.id, task.status, task.reported_id) == ("proj_9", TaskStatus.QUEUED, None)


@pytest.mark.parametrize(
    ("responded", "reported"),
    [
        ("cgt-upstream-77", "cgt-upstream-77"),
        ("requested", None),
        (" requested ", None),
        (None, None),
        ("a\nb", None),
    ],
)
def test_requested_id_is_never_replaced(responded, reported):
    task = task_of({"id": responded, "status": "completed", "video_url": VIDEO})

    assert (task.id, task.reported_id) == ("requested", reported)
    assert "reported_id" not in task.to_dict()


def test_envelope_id_is_not_the_task_id():
    """It is the id of the request."""
    assert task_of({"id": "request-7", "data": {"status": "queued"}}).reported_id is None


def test_order_response_with_failure_is_a_failed_task():
    """The order was accepted and has an id, so it is no rejected order, which a retry would send again."""
    assert order_task_of({"id": "proj_1", "status": "failed", "error": "x"}).status is TaskStatus.FAILED


@pytest.mark.parametrize(
    "response", [{"status": "queued"}, {"id": None, "status": "queued"}, {"id": [], "status": "queued"}]
)
def test_missing_id_is_the_requested_id(response):
    assert task_of(response).id == "requested"


@pytest.mark.parametrize(
    "hostile", ["a\nERROR forged", "a\x1b[2J", "a\u202eb", "..", ".", " ", "a\x7f", "x" * 1001, 10**1001]
)
def test_unsafe_id_from_the_service_is_ignored(hostile):
    assert task_of({"id": hostile, "status": "queued"}).id == "requested"
    assert order_task_of({"id": hostile, "status": "queued"}).id == ""


def test_byte_order_mark_is_skipped():
    assert parse_task(200, b"\xef\xbb\xbf" + PUBLISHED_SAMPLE).status is TaskStatus.PROCESSING


# --- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("http_status", "kind"),
    [
        (100, ManxueTransientError),
        (300, ManxueRedirectError),
        (301, ManxueRedirectError),
        (302, ManxueRedirectError),
        (304, ManxueRedirectError),
        (307, ManxueRedirectError),
        (308, ManxueRedirectError),
        (400, ManxueRefusedError),
        (401, ManxueAuthenticationError),
        (402, ManxueRefusedError),
        (403, ManxuePermissionError),
        (404, ManxueRefusedError),
        (405, ManxueRefusedError),
        (408, ManxueTransientError),
        (409, ManxueRefusedError),
        (410, ManxueRefusedError),
        (422, ManxueRefusedError),
        (425, ManxueTransientError),
        (429, ManxueRateLimitError),
        (500, ManxueTransientError),
        (502, ManxueTransientError),
        (503, ManxueTransientError),
        (504, ManxueTransientError),
        (599, ManxueTransientError),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"message":"why"}', PUBLISHED_SAMPLE])
def test_http_error_status_decides_the_error_type(http_status, kind, body):
    error = error_of(http_status, body)

    assert type(error) is kind
    assert str(http_status) in str(error)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message":"No handler found for GET /v1/v1"}', "No handler found for GET /v1/v1"),
        (b'{"msg":"too many"}', "too many"),
        (b'{"error":"no such thing"}', "no such thing"),
        (b'{"error":{"message":"inner words"}}', "inner words"),
        (b'{"detail":"in detail"}', "in detail"),
        (b'{"msg":null,"message":"","error":null,"detail":"the last one"}', "the last one"),
        (b'{"fail_reason":"policy"}', "policy"),
        (b'{"detail":[{"loc":["body"],"msg":"field required"}]}', "field required"),
        (b'{"error":{"foo":"bar"}}', '{"foo": "bar"}'),
        (b'{"error":"Not Found","message":"No handler"}', "No handler"),
        (b'{"code":7}', "code 7"),
        (b'{"code":"0"}', None),
        (b'{"error":{"code":"E7"}}', "E7"),
        (b'["a"]', "a"),
        (b'[{"msg":"a"},{"msg":"b"}]', "a; b"),
        (b'[[[[["a"]]]]]', "a"),
        (b'[[[[[["a"]]]]]]', None),
        (b"[]", None),
        (b'"text"', "text"),
        (b"<html>Bad Gateway</html>", "Bad Gateway"),
        (b"\xef\xbb\xbf\r\n <html>Bad Gateway</html>", "Bad Gateway"),
        (b'<title lang="en">Bad</title><svg><title>Gateway</title></svg><p class="a">Sorry', "Bad Gateway"),
        (b'<script src="a">1</script><p>Sorry', "Sorry"),
        (b"<title>413 Request Entity Too Large</title>", "413 Request Entity Too Large"),
        (b"<style>a{}</style><script>1<2</script><h1>Not &amp; here</h1><p>Sorry", "Not & here Sorry"),
        (b"prompt is too long: at most 2500 characters", "prompt is too long: at most 2500 characters"),
        ("提示词过长".encode(), "提示词过长"),
        ("提示词过长".encode("gbk"), "提示词过长"),
        (("题" * 10_000).encode()[: 16 * 1024], "题" * 499 + "…"),
        (b"XML is not accepted", "XML is not accepted"),
        (f"Bearer {KEY} refused".encode(), "Bearer *** refused"),
        (b"nine word\x01", "nine word"),
        (b"8 words \x01", None),
        (b"with a NUL in a long text\0", None),
        (bytes(range(1, 32)) * 9, None),
        (b"\x1f\x8b\x00\x00", None),
        (b'{"video_url":"https:\\/\\/x\\/a\\u003fsig=abc', None),
        (b'["https:\\/\\/x\\/a\\u003fsig=abc', None),
        (b"", None),
    ],
)
def test_message_in_an_error_response_is_found(body, message):
    tail = "" if message is None else f": {message}"

    assert str(error_of(404, body, secret=KEY)) == f"HTTP 404{tail}"


@pytest.mark.parametrize(
    ("body", "message"), [(b"Bad Gateway", ": Bad Gateway"), (b'["busy"]', ": busy"), (b"[]", ""), (b"5", "")]
)
def test_success_without_json_object_names_its_text(body, message):
    assert str(error_of(200, body)) == f"HTTP 200 with a body that is not a JSON object{message}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"<html><body>502</body></html>",
        b"\xff\xfe\x00",
        b'{"id":"proj_1","sta',
        b"null",
        b"[]",
        b'["status"]',
        b'"completed"',
        b"5",
        b"{}",
        b'{"data":null}',
        b'{"data":[]}',
        b'{"data":{}}',
        b'{"data":"status"}',
        b'{"data":["status"]}',
        b'{"code":0,"data":{}}',
        b'{"id":"p","status":' + b"9" * 5000 + b"}",
        b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_success_without_task_is_transient(body):
    error = error_of(200, body)

    assert type(error) is ManxueTransientError
    assert "HTTP 200" in str(error)


@pytest.mark.parametrize(
    ("response", "parts"),
    [
        ({"code": 500, "data": None, "msg": "No handler found for GET /x"}, ("code 500", "No handler found")),
        ({"code": "500", "msg": None}, ("code 500",)),
        ({"code": -1, "data": {"video_url": VIDEO}}, ("code -1",)),
        ({"code": 1, "data": {"id": "p"}}, ("code 1",)),
        ({"success": False, "message": "no"}, ("no",)),
        ({"video_url": VIDEO, "message": "no"}, ("no",)),
        ({"code": 404, "id": "p", "msg": "unknown"}, ("code 404", "unknown")),
        ({"code": False, "msg": "no"}, ("code False", "no")),
        ({"code": 0, "msg": "gone", "data": None}, ("gone",)),
        ({"error": "gone"}, ("gone",)),
        ({"error": 42}, ("an error instead of a task: 42",)),
        ({"code": 500.0, "id": "p"}, ("code 500.0",)),
        ({"message": "gone"}, ("gone",)),
    ],
)
def test_success_with_error_code_is_refused(response, parts):
    with pytest.raises(ManxueRefusedError) as caught:
        task_of(response)

    assert "HTTP 200" in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("http_status", "remedy"),
    [(401, "field 'API key'"), (403, "allowed to do"), (302, "field 'Base URL'")],
)
def test_permanent_error_names_the_remedy(http_status, remedy):
    assert remedy in str(error_of(http_status))


@pytest.mark.parametrize("http_status", [200, 302, 400, 401, 403, 404, 408, 429, 500])
@pytest.mark.parametrize("name", ["msg", "message", "error", "detail", "code"])
def test_error_has_no_key_or_signature(http_status, name):
    message = f"Bearer {KEY} at https://x/a.mp4?X-Signature=abcdef\nforged line"

    for response in ({name: message}, {"code": 1, name: message}):
        text = str(error_of(http_status, json.dumps(response).encode(), secret=KEY))

        assert KEY not in text
        assert "abcdef" not in text
        assert "\n" not in text


@pytest.mark.parametrize(
    "response",
    [
        {"code": 1234567890},
        {"error": {"code": 1234567890}},
        {"code": 7, "error": 1234567890},
    ],
)
@pytest.mark.parametrize("http_status", [200, 404])
def test_error_has_no_key_of_digits(http_status, response):
    """JSON may have such a key as a number."""
    shown = str(error_of(http_status, json.dumps(response).encode(), secret="1234567890"))

    assert "1234567890" not in shown
    assert "***" in shown


def test_task_has_no_key_of_digits():
    task = task_of({"id": "p", "status": 1234567890, "error": 1234567890}, secret="1234567890")

    assert (task.status_word, task.error) == ("***", "***")


def test_text_error_has_no_key_in_character_references():
    assert str(error_of(502, b"<p>Bearer sk-very&#45;secret-key", secret=KEY)) == "HTTP 502: Bearer ***"


@pytest.mark.parametrize("http_status", [200, 400, 502])
def test_text_error_has_no_key_or_signature(http_status):
    for padding in (0, 16 * 1024 - 20):
        text = f"{' ' * padding}<p>Bearer {KEY} at https://x/a.mp4?X-Signature=abcdef"
        shown = str(error_of(http_status, text.encode(), secret=KEY))

        assert "sk-" not in shown
        assert "abcdef" not in shown


@pytest.mark.parametrize("page", ["<" * 500_000, "<title>" * 100_000, "<script>" * 100_000, "<p>&" * 100_000])
def test_error_page_of_any_size_is_parsed_in_linear_time(page):
    started_at = time.monotonic()
    error_of(502, page.encode())

    assert time.monotonic() - started_at < 20  # with the square of its length it would take minutes


@pytest.mark.parametrize("key", [KEY, 1234567890])
def test_media_type_error_has_no_key(key):
    with pytest.raises(ManxueMediaTypeError) as caught:
        task_of({"id": "p", "object": key, "status": "x"}, secret=str(key))

    assert str(key) not in str(caught.value)


# --- Retry-After ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "pause"),
    [
        ([], None),
        (["0"], 0.0),
        (["120"], 120.0),
        ([" 120 "], 120.0),
        (["1.5"], 1.5),
        (["5."], 5.0),
        (["86400"], 86400.0),
        (["999999999999999"], 999999999999999.0),
        ([http_date(NOW + 90)], 90.0),
        (["Fri, 15 Jan 2027 09:01:30 +0100"], 90.0),
        (["Fri, 15 Jan 2027 08:01:30"], 90.0),
        ([http_date(NOW - 90)], 0.0),
        (["Thu, 01 Jan 1970 00:00:00 GMT"], 0.0),
        (["-5"], None),
        (["+5"], None),
        ([""], None),
        (["soon"], None),
        (["1e3"], None),
        (["0x10"], None),
        (["5, 10"], None),
        (["５"], None),
        (["nan"], None),
        (["inf"], None),
        (["9" * 400], None),
        (["Wed, 99 Oct 2099 07:28:00 GMT"], None),
        (["Wed, 21 Oct 99999999999 07:28:00 GMT"], None),
        (["5", "10"], 10.0),
        (["10", "5"], 10.0),
        (["soon", "5"], 5.0),
        (["5", "soon"], 5.0),
        ([http_date(NOW + 90), "5"], 90.0),
        (["soon", "later"], None),
    ],
)
def test_retry_after_values_are_parsed(values, pause):
    assert parse_retry_after(values, NOW) == pause


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process can only be set on Unix")
def test_retry_after_date_without_zone_is_utc(monkeypatch):
    with monkeypatch.context() as environment:
        environment.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        pause = parse_retry_after(["Fri, 15 Jan 2027 08:01:30"], NOW)
    time.tzset()

    assert pause == 90.0


@pytest.mark.parametrize("http_status", [408, 425, 429, 500, 503])
def test_transient_error_has_retry_after(http_status):
    error = error_of(http_status, retry_after=["7", http_date(NOW + 60)], now=NOW)

    assert error.retry_after == 60.0
    assert str(error) == f"HTTP {http_status}"


@pytest.mark.parametrize("http_status", [429, 503])
def test_transient_error_without_header_has_no_retry_after(http_status):
    error = error_of(http_status)

    assert error.retry_after is None
    assert str(error) == f"HTTP {http_status}"


def test_retry_after_date_without_now_counts_from_epoch():
    assert error_of(503, retry_after=[http_date(90)]).retry_after == 90.0


def test_error_quotes_an_invalid_retry_after():
    error = error_of(429, b'{"msg":"too many"}', retry_after=[f"soon\r\n{KEY}"], secret=KEY)

    assert error.retry_after is None
    assert str(error) == "HTTP 429: too many (its Retry-After 'soon ***' is neither seconds nor a date)"


def test_error_without_message_quotes_retry_after():
    assert str(error_of(503, retry_after=["-5"])) == (
        "HTTP 503: (its Retry-After '-5' is neither seconds nor a date)"
    )


# --- texts for logs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        ("plain words", "plain words"),
        ("  a\t b\n\n c ", "a b c"),
        ("a\x00b\x1b[0mc\u202ed\u200be", "a b [0mc d e"),
        ("审核未通过", "审核未通过"),
        (None, "None"),
        (7, "7"),
        (f"{KEY}{KEY}", "******"),
        ("https://x/a.mp4", "https://x/a.mp4"),
        ("see https://x/a.mp4?sig=1&b=2 now", "see https://x/a.mp4?*** now"),
        ("HTTP://x/a?b", "HTTP://x/a?***"),
        ("https://x/a#token=1", "https://x/a?***"),
        ("'https://x/a?s=1' and \"https://y/b?s=2\"", "'https://x/a?***' and \"https://y/b?***\""),
        ("why? because", "why? because"),
        (r'{"url":"https:\/\/x\/a.mp4?sig=1"}', r'{"url":"https:\/\/x\/a.mp4?***"}'),
        ("https://x/a b.mp4?sig=1 2&key=3 now", "https://x/a b.mp4?*** 2&*** now"),
        (r"https:\/\/x\/a b.mp4?sig=1 now", r"https:\/\/x\/a b.mp4?*** now"),
        ("why?a=b", "why?a=b"),
        ("fetch cdn.example/v.mp4?Expires=1&Signature=s3cret failed", "fetch cdn.example/v.mp4?*** failed"),
        ("GET /b/v.mp4?X-Amz-Signature=s3cret HTTP/1.1", "GET /b/v.mp4?*** HTTP/1.1"),
        (
            "load https%3A%2F%2Fb.example%2Fv.mp4%3fsig%3Ds3cret now",
            "load https%3A%2F%2Fb.example%2Fv.mp4%3f*** now",
        ),
    ],
)
def test_clean_text_masks_secrets_and_controls(text, clean):
    assert clean_text(text, KEY) == clean


def test_clean_text_is_bounded():
    assert clean_text("x" * 500) == "x" * 500
    assert clean_text("x" * 501) == "x" * 499 + "…"
    assert clean_text("7" * 500) == "7" * 500
    assert clean_text("x" + " " * 1998 + "y") == "x y"
    assert clean_text("x" + " " * 1999 + "y") == "x…"
    assert len(clean_text("x " * 1_000_000)) <= 500


def test_clean_text_of_any_length_is_linear():
    """It runs on the event loop of all waits. In quadratic time, this text would take hours."""
    assert len(clean_text("https://" * 130_000)) == 500


@pytest.mark.parametrize("place", [490, 1990])
def test_clean_text_masks_a_key_at_any_cut(place):
    assert "sk-" not in clean_text(f"{'x' * place} {KEY}", KEY)


def test_url_encoded_key_is_masked():
    key = "a+b/c=="
    body = b'{"id": "a", "status": "queued", "note": "https://x/y?key=a%2Bb%2Fc%3D%3D"}'

    assert "a%2Bb" not in str(parse_task(200, body, secret=key).to_dict())
    assert clean_text("key=a%2Bb%2Fc%3D%3D", key) == "key=***"


def test_clean_text_masks_a_key_at_the_length_limit():
    assert "sk-" not in clean_text("x" * 490 + KEY, KEY)


@pytest.mark.parametrize(
    ("body", "excerpt"),
    [
        ('{"a":"消息 🎬"}', '{"a": "消息 🎬"}'),
        ('{"a":"\\ud83c\\udfac"}', '{"a": "🎬"}'),
        ('{"a":"cut \\u003F \\u003f', '{"a":"cut ? ?'),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("", ""),
    ],
)
def test_excerpt_is_readable_and_bounded(body, excerpt):
    assert excerpt_of(body.encode(), KEY) == excerpt


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (json.dumps({"note": 'a"b/c'}).replace("/", "\\/"), 'a"b/c'),
        ('{"note": "a\\u002fb', "a/b"),
        ('{"note": "a/b', "a/b"),
    ],
    ids=["escaped", "escaped in a truncated body", "truncated body"],
)
def test_excerpt_masks_a_key_in_any_spelling(body, key):
    assert excerpt_of(body.encode(), key).startswith('{"note": "***')


def test_clean_text_without_key_replaces_nothing():
    for text in ("text", "XXXX-1234"):
        assert clean_text(text) == clean_text(text, "") == text
        assert task_of({"id": "p", "status": text}).status_word == text


# --- URLs -----------------------------------------------------------------------------------------------


def test_urls_are_the_documented_ones():
    assert result_url(DEFAULT_BASE_URL, "proj_1") == (
        "https://zcbservice.aizfw.cn/kyyReactApiServer/v1/result/proj_1"
    )
    assert create_url(DEFAULT_BASE_URL) == (
        "https://zcbservice.aizfw.cn/kyyReactApiServer/v1/sd2_manxue/videos"
    )


IDS = {
    "proj_sd2manxue-1.2~3": "proj_sd2manxue-1.2~3",
    "global task/2": "global%20task%2F2",
    "a?b=c": "a%3Fb%3Dc",
    "a#b": "a%23b",
    "a%2Fb": "a%252Fb",
    "../../admin": "..%2F..%2Fadmin",
    "a/../../b": "a%2F..%2F..%2Fb",
    "%2e%2e": "%252e%252e",
    "..\\..": "..%5C..",
    "a;b:c@d&e+f": "a%3Bb%3Ac%40d%26e%2Bf",
    "任务": "%E4%BB%BB%E5%8A%A1",
    "...": "...",
}


@pytest.mark.parametrize(("task_id", "segment"), IDS.items())
def test_id_stays_one_path_segment_in_each_library(task_id, segment):
    url = result_url("https://x/base", parse_video_task_id(task_id))
    expected = f"https://x/base/v1/result/{segment}"

    assert url == expected
    assert requests.Request("GET", url).prepare().url == expected
    assert urllib3.util.parse_url(url).url == expected
    assert str(yarl.URL(url, encoded=True)) == expected


# --- no response ------------------------------------------------------------------------------------------

SIGNED = "https://h.example.com/v1/result/p?key=sk-very-secret-key"


def chained(*errors):
    """Chain errors as the context of each other, as HTTP libraries do. Return the outermost error."""
    outer, *inner = errors
    if inner:
        outer.__context__ = chained(*inner)
    return outer


def aiohttp_error(kind, cause):
    error = kind(ConnectionKey("h.example.com", 443, True, True, None, None, None), cause)
    error.__cause__ = cause
    return error


def urllib3_error(kind, cause, *, message="broken"):
    error = kind(None, message)
    error.__cause__ = cause
    return error


def certificate_error():
    """Return the error of a TLS handshake with an untrusted certificate."""
    authority = trustme.CA()
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("h.example.com").configure_cert(server_side)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname="h.example.com")
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        client.do_handshake()
    return caught.value


def protocol_error():
    """Return the error of a TLS handshake with a server that responds in plain HTTP."""
    incoming = ssl.MemoryBIO()
    incoming.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client = ssl.create_default_context().wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="h.example.com")
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    return caught.value


def refused():
    return ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


def not_found():
    return socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def of_requests(kind, *causes):
    return chained(kind(f"Max retries exceeded with url: {SIGNED}"), *causes)


NO_RESPONSES = {
    "requests, refused": (
        lambda: of_requests(
            requests.ConnectionError,
            urllib3.exceptions.MaxRetryError(None, SIGNED, ValueError(SIGNED)),
            urllib3_error(urllib3.exceptions.NewConnectionError, refused()),
        ),
        "connection refused",
    ),
    "requests, name": (
        lambda: of_requests(
            requests.ConnectionError, urllib3_error(urllib3.exceptions.NewConnectionError, not_found())
        ),
        "the host name was not found",
    ),
    "requests, connect timeout": (lambda: of_requests(requests.ConnectTimeout), "timed out"),
    "requests, read timeout": (lambda: of_requests(requests.ReadTimeout), "timed out"),
    "requests, certificate": (
        lambda: of_requests(
            requests.exceptions.SSLError, urllib3.exceptions.SSLError("x"), certificate_error()
        ),
        "its certificate was not accepted (unable to get local issuer certificate)",
    ),
    "requests, not TLS": (
        lambda: of_requests(requests.exceptions.SSLError, protocol_error()),
        "TLS failed (WRONG_VERSION_NUMBER)",
    ),
    "requests, reset": (
        lambda: of_requests(
            requests.ConnectionError,
            urllib3.exceptions.ProtocolError("Connection aborted.", None),
            ConnectionResetError(errno.ECONNRESET, "reset"),
        ),
        "connection reset by peer",
    ),
    "requests, nothing more known": (lambda: of_requests(requests.ConnectionError), "ConnectionError"),
    "urllib3, read timeout": (
        lambda: urllib3.exceptions.ReadTimeoutError(None, SIGNED, "Read timed out."),
        "timed out",
    ),
    "urllib3, cut off": (lambda: urllib3.exceptions.IncompleteRead(5, 9), "IncompleteRead"),
    "aiohttp, refused": (
        lambda: aiohttp_error(aiohttp.ClientConnectorError, refused()),
        "connection refused",
    ),
    "aiohttp, name": (
        lambda: aiohttp_error(aiohttp.ClientConnectorDNSError, not_found()),
        "the host name was not found",
    ),
    "aiohttp, certificate": (
        lambda: aiohttp_error(aiohttp.ClientConnectorCertificateError, certificate_error()),
        "its certificate was not accepted (unable to get local issuer certificate)",
    ),
    "aiohttp, not TLS": (
        lambda: aiohttp_error(aiohttp.ClientConnectorSSLError, protocol_error()),
        "TLS failed (WRONG_VERSION_NUMBER)",
    ),
    "aiohttp, timeout": (lambda: aiohttp.ServerTimeoutError(SIGNED), "timed out"),
    "aiohttp, socket timeout": (lambda: aiohttp.SocketTimeoutError(SIGNED), "timed out"),
    "aiohttp, disconnected": (lambda: aiohttp.ServerDisconnectedError(SIGNED), "ServerDisconnectedError"),
    "aiohttp, payload": (lambda: aiohttp.ClientPayloadError(SIGNED), "ClientPayloadError"),
    "asyncio, timeout": (lambda: TimeoutError(), "timed out"),
    "plain socket timeout": (lambda: TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "timed out"),
    "plain unreachable": (lambda: OSError(errno.ENETUNREACH, SIGNED), "network is unreachable"),
}


@pytest.mark.parametrize(("make", "reason"), NO_RESPONSES.values(), ids=NO_RESPONSES.keys())
def test_request_without_response_names_the_reason(make, reason):
    text = str(no_response(make(), "h.example.com"))

    assert text == f"no response from h.example.com: {reason}"
    assert KEY not in text
    assert SIGNED not in text


def test_request_without_response_is_transient():
    error = no_response(refused(), "h")

    assert type(error) is ManxueTransientError
    assert error.retry_after is None


def test_circular_chain_of_causes_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first

    assert str(no_response(first, "h")) == "no response from h: ValueError"


def test_key_in_unknown_fields_is_masked():
    body = b'{"id": "a", "status": "queued", "note": ["your key is s3cret"], "s3cret": 1}'
    assert "s3cret" not in str(parse_task(200, body, secret="s3cret").to_dict())


def test_envelope_with_status_does_not_hide_the_task():
    body = b'{"status": "success", "data": {"id": "a", "status": "processing"}}'
    assert parse_task(200, body).status is TaskStatus.PROCESSING


def test_numeric_id_becomes_a_string():
    assert parse_task(200, b'{"id": 17, "status": "queued"}').id == "17"


def nested(depth, kinds):
    value = 1
    for level in range(depth):
        value = [value] if kinds[level % len(kinds)] is list else {"x": value, "y": 2}
    return value


class TestDepth:
    """Airflow cannot store deeply nested values."""

    @pytest.mark.parametrize("kinds", [[list], [dict], [list, dict]])
    def test_depth_of_a_response_is_limited(self, kinds):
        response = {"id": "proj_1", "status": "processing"}
        assert task_of({**response, "extra": nested(MAX_DEPTH - 1, kinds)}).status is TaskStatus.PROCESSING
        with pytest.raises(ManxueTransientError, match="not a JSON object"):
            task_of({**response, "extra": nested(MAX_DEPTH, kinds)})

    @pytest.mark.parametrize("many", [[[]] * 300, [{}] * 300, [[1], {"x": {}}] * 300, "[{" * 300])
    def test_width_of_a_response_is_not_limited(self, many):
        assert task_of({"id": "requested", "status": "processing", "extra": many}).extra == {"extra": many}
