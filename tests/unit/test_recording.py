"""Reduced responses: the package decides on them as on the originals, and no text of the service is in them."""

from __future__ import annotations

import html
import json
import math
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_provider_manxue import __version__
from airflow_provider_manxue._core.ids import ID_FIELDS
from airflow_provider_manxue._core.reasons import REASON_FIELDS
from airflow_provider_manxue._core.recording import Recording
from airflow_provider_manxue._core.reduction import URL, Reducer, reduce_response
from airflow_provider_manxue._core.responses import TASK_FIELDS, URL_FIELDS, parse_task
from airflow_provider_manxue.exceptions import ManxueError
from airflow_provider_manxue.testing._recorded import _response
from airflow_provider_manxue.testing._reply import Reply
from tests.fuzz.properties import KEY
from tests.unit.test_properties import bodies, headers, http_statuses

pytestmark = pytest.mark.once

ID = "proj_sd2manxue_1"
REDUCER = Reducer(ID, "task-1")
REGULAR = {"id": "task-1", "video_url": "http://127.0.0.1:1/media/task-1.mp4"}

# A slow machine must not fail a test.
tried = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def reduced(value, http_status=200):
    return reduce_response(http_status, json.dumps(value).encode(), (), REDUCER)


def reduced_fields(**fields):
    return reduced(fields)["json"]


def played(entry):
    """Return status and body of what the emulator sends for an entry."""
    reply = Reply(200, dict(REGULAR)).changed_by(_response(entry, "task-1"))
    return reply.status, reply.body()


def meaning(http_status, body, video_task_id):
    """Return everything that the package decides by a response."""
    try:
        task = parse_task(http_status, body, video_task_id=video_task_id, secret=KEY)
    except ManxueError as error:
        return type(error)
    numbers = (task.created is None, task.actual_duration is None)
    return (
        task.status,
        bool(task.video_url),
        bool(task.error),
        bool(task.model),
        task.reported_id is None,
        *numbers,
    )


@tried
@given(http_statuses, bodies)
@example(200, b'{"msg":"\xc2\x80","video_url":"https://x/a.mp4"}')  # a text without a printable character
@example(200, b'{"error":{"id":0}}')
@example(200, b'{"error":{"message":{"x":null}},"status":"done"}')
@example(200, b'{"status":"            error                                     ","id":""}')
@example(200, b'{"id":"x","error":[0,0,0,0,0,0,0,0,0,0,"z"],"status":"failed"}')
@example(200, b'{"code":0.0001,"id":"x"}')
@example(200, b'{"status":"done","actualDuration":1' + b"0" * 400 + b"}")  # no float holds it
def test_package_decides_on_a_replayed_response_as_on_the_original(http_status, body):
    entry = reduce_response(http_status, body, (), Reducer("p", "task-1"), secret=KEY)

    assert meaning(*played(entry), "task-1") == meaning(http_status, body, "p")


@tried
@given(http_statuses, bodies, headers)
def test_replayed_response_is_reduced_to_itself(http_status, body, retry_after):
    entry = reduce_response(http_status, body, retry_after, Reducer("p", "task-1"), secret=KEY)
    again = reduce_response(*played(entry), (), Reducer("task-1", "task-1"))

    assert again == {name: value for name, value in entry.items() if name != "retry_after"}
    json.dumps(entry, allow_nan=False)


# --- nothing secret ---------------------------------------------------------------------------------------

FIELDS = ["data", "status", "other", *TASK_FIELDS, *ID_FIELDS, *URL_FIELDS, *REASON_FIELDS]
keys = st.text(alphabet=[chr(code) for code in range(33, 127)], min_size=9, max_size=40).map("sk-".__add__)
tokens = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=20)
urls = st.builds("https://{}.example/{}.mp4?sig={}".format, tokens, tokens, tokens)
prompts = st.text(min_size=8, max_size=60).map(lambda text: f"a film of {text} at night")


@st.composite
def leaks(draw):
    """A key, a URL and a prompt, and a response in which each of them is in many places."""
    secrets = [draw(keys), draw(urls), draw(prompts)]
    secret = st.sampled_from([*secrets, *(quote(one, safe="") for one in secrets)])
    texts = st.one_of(
        secret,
        st.builds("{}{}{}".format, st.sampled_from(["", " ", "the prompt '", "done ", "task_status_"]), secret, st.text(max_size=5)),
        secret.map(lambda one: json.dumps({"message": one})),
    )  # fmt: skip
    names = st.sampled_from(FIELDS) | texts
    value = draw(
        st.recursive(
            texts | st.sampled_from([None, True, 7]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6),
            max_leaves=30,
        )
    )
    fields = {name: draw(texts) for name in draw(st.lists(st.sampled_from(FIELDS), max_size=8))}
    body = draw(
        st.sampled_from([json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(fields)])
        | texts
        | texts.map("<html><title>{}</title></html>".format)
    )
    return secrets, body.encode("utf-8", "replace"), [draw(texts)]


def plain_forms(secret):
    escaped = json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]
    return {secret, *escaped, quote(secret, safe="", errors="replace"), quote(secret, errors="replace"), html.escape(secret)}  # fmt: skip


@tried
@given(leaks(), http_statuses)
def test_file_has_no_key_url_or_prompt_wherever_they_were(leak, http_status):
    secrets, body, retry_after = leak
    recording = Recording([ID], 1_800_000_000.0)

    line = recording.add_response(
        ID, 0.0, http_status=http_status, body=body, retry_after=retry_after, secret=secrets[0]
    )

    text = recording.to_json()
    for shown in (text, json.dumps(json.loads(text), ensure_ascii=False), line):
        assert [form for secret in secrets for form in plain_forms(secret) if form in shown] == []


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "secret", ["sk-abc-4711", "https://x.example/v?sig=1", "a cat on the moon", "tail of done"]
)
def test_no_field_keeps_an_unknown_text(field, secret):
    assert secret not in json.dumps(reduced_fields(**{field: secret, "error": {field: [secret]}}))


def test_file_has_no_id_of_the_service():
    recording = Recording([ID, "x-2"], 1_800_000_000.0)
    body = json.dumps({"id": "x-2", "data": {"task_id": ID, "projectId": "x-3"}, "status": "done"}).encode()

    recording.add_response("x-2", 0.0, http_status=200, body=body)

    [entry] = json.loads(recording.to_json())["tasks"]["task-2"]
    assert entry["json"] == {
        "id": "task-2",
        "data": {"task_id": "other", "projectId": "other"},
        "status": "done",
    }


# --- what is kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("status", "Processing", "Processing"),
        ("status", "TASK_STATUS_SUCCEED", "TASK_STATUS_SUCCEED"),
        ("status", "reviewing", "unknown_word"),
        ("status", "done" + "_" * 50, "completed"),
        ("status", "500", "500"),
        ("status", "4040", "999"),
        ("status", "\u0664\u0660\u0664", "999"),  # digits too
        ("status", "d.o.n.e" + "_" * 33, "d.o.n.e" + "_" * 33),
        ("model", "sd2_manxue_1080p", "sd2_manxue_1080p"),
        ("model", "films of a cat", "other"),
        ("object", "Video.Generation", "video.generation"),
        ("object", "video.of a cat", "video.other"),
        ("object", "video", "video"),
        ("object", "Image", "image"),
        ("object", "image.generation", "image.generation"),
        ("object", "films of a cat", "other"),
        ("created", 1761635478, 1761635478),
        ("created", "1761635478", "1761635478"),
        ("actualDuration", "4.000000", "4"),
        ("actualDuration", 5.17, 5.17),
        ("actualDuration", "5.17", "5.17"),
        ("actualDuration", 5.12345, 5.123),
        ("actualDuration", 1e-9, 0.001),
        ("id", "a id", "other"),
        ("id", "..", "."),
        ("code", 13800138000, 999_999),
        ("code", "0", "0"),
        ("code", "content_policy", "(text of 14 characters)"),
        ("msg", "Success", "Success"),
        ("message", "No handler found for GET /v1/v1", "No handler found (text of 31 characters)"),
        ("video_url", "https://x.example/a.mp4?sig=1", URL),
        ("video_url", "asset://a cat", "(text of 13 characters)"),
        ("video_url", "", ""),
        ("error", None, None),
        ("error", {"message": "a cat", "prompt": "a cat"}, {"message": "(text of 5 characters)", "other": True}),
        ("prompt", "a cat", ...),
    ],
)  # fmt: skip
def test_value_of_a_field(field, value, kept):
    assert reduced_fields(**{field: value}).get(field, ...) == kept


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "empty"),
        (b"<html>", "html"),
        (b'{"id": ', "json"),
        (b"bad gateway", "text"),
        (b"\xff\x00\xfe", "binary"),
        (b"null", "text"),
    ],
)
def test_body_without_json_has_its_kind_and_length(body, kind):
    entry = reduce_response(502, body, (), REDUCER)

    assert entry == {"status": 502, "body": {"kind": kind, "length": len(body)}}


@pytest.mark.parametrize(("status", "kept"), [(200, 200), (599, 599), (600, 599), (199, 599), (0, 599)])
def test_status_that_the_emulator_cannot_play_is_a_broken_service(status, kept):
    assert reduce_response(status, b"", (), REDUCER)["status"] == kept


@pytest.mark.parametrize(
    ("values", "kept"), [(["30"], 30), (["1.5"], 2), (["soon"], "invalid"), (["999999999999"], 999_999)]
)
def test_retry_after_is_seconds_or_invalid(values, kept):
    assert reduce_response(429, b"", values, REDUCER)["retry_after"] == kept


def test_size_of_an_entry_is_bounded():
    """Otherwise the service could fill the disk."""
    huge = {name: [{name: [1.5] * 10 for name in FIELDS} for _ in range(10)] for name in FIELDS}

    entry = reduced(huge)

    assert entry["body"]["kind"] == "json"
    assert len(json.dumps(entry)) < 200


def test_depth_is_bounded():
    value = {"status": "done"}
    for _ in range(50):
        value = {"data": value}

    text = json.dumps(reduced(value)["json"])

    assert text.count("{") == 12


def test_equal_responses_in_a_row_are_one_entry():
    recording = Recording([ID], 1_800_000_000.0)
    lines = [
        recording.add_response(ID, at, http_status=200, body=b'{"status":"queued"}')
        for at in (0.0, 30.0, 60.0)
    ]
    lines.append(recording.add_trouble(ID, 90.0, "timeout"))
    lines.append(recording.add_response(ID, 120.0, http_status=502, body=b"<p>"))

    record = json.loads(recording.to_json())
    assert lines == ["HTTP 200, queued", "", "", "no response (timeout)", "HTTP 502, no JSON (html)"]
    assert [(one["at"], one["until"]) for one in record["tasks"]["task-1"]] == [(0, 60), (90, 90), (120, 120)]
    assert (record["form"], record["recorded_at"]) == (1, "2027-01-15T08:00:00+00:00")


def test_record_file_is_readable():
    recording = Recording([ID], 1_800_000_000.0)
    recording.add_response(ID, 1.26, http_status=204, body=b"")

    assert recording.to_json().splitlines()[:11] == [
        "{",
        ' "form": 1,',
        f' "provider": "{__version__}",',
        ' "recorded_at": "2027-01-15T08:00:00+00:00",',
        ' "tasks": {',
        '  "task-1": [',
        "   {",
        '    "at": 1.3,',
        '    "until": 1.3,',
        '    "status": 204,',
        '    "body": {',
    ]
    assert recording.to_json().endswith("}\n")


@pytest.mark.parametrize(
    ("values", "pause"), [((), 0), (["30"], 30), (["Fri, 15 Jan 2027 08:01:00 GMT"], 60), (["soon"], 0)]
)
def test_pause_of_the_last_response(values, pause):
    recording = Recording([ID], 1_800_000_000.0)
    recording.add_response(ID, 0.0, http_status=429, body=b"", retry_after=["7"])
    recording.add_response(ID, 9.0, http_status=429, body=b"", retry_after=values, now=1_800_000_000.0)

    assert recording.retry_after(ID) == pause


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b'{"data":{"status":"queued"}}', "HTTP 200, queued"),
        (b'{"status":500}', "HTTP 200"),
        (b'{"code":1}', "HTTP 200"),
        (b"[1]", "HTTP 200"),
    ],
)
def test_line_of_a_response(body, line):
    recording = Recording([ID], 1_800_000_000.0)

    assert recording.add_response(ID, 0.0, http_status=200, body=body) == line


def test_small_numbers_stay_distinct_from_zero():
    assert math.copysign(1, reduced_fields(code=-1e-9)["code"]) == -1
    assert reduced_fields(code=1e-9)["code"] > 0
