"""
The properties of ``tests.fuzz``, checked by Hypothesis.

A test's name is the property, and the function of ``properties`` that it calls has the assertions. An ``@example`` is an
input that once broke the property, or a limit of Python.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_provider_manxue._core.media import Validators
from airflow_provider_manxue._core.polling import PollPolicy
from tests.fuzz import properties
from tests.fuzz.inputs import FINDINGS, SEEDS
from tests.fuzz.properties import KEY, RESPONSES
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.once

# A slow machine must not fail a test.
tried = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

STATUS_WORDS = [
    *properties.COMPLETED_WORDS, "queued", "PROCESSING", "failed", "expired", "reviewing", "", " Completed "
]  # fmt: skip

# --- generated responses --------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([*STATUS_WORDS, "https://x/a.mp4?sig=1", KEY, f"a {KEY} b", "\ud800", "\0", "0", "500"]),
)
any_json = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
task_fields = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(STATUS_WORDS) | any_json,
        **dict.fromkeys(
            ("id", "projectId", "created", "model", "actualDuration", "error", "progress"), any_json
        ),
        "object": st.sampled_from(["video", "video.generation", "image.generation"]) | any_json,
        **dict.fromkeys(
            ("video_url", "videoUrl", "url"), st.sampled_from(["https://x/a.mp4", "", None]) | any_json
        ),
    },
)
responses = st.one_of(
    any_json,
    task_fields,
    st.fixed_dictionaries(
        {"data": task_fields | any_json},
        optional={
            "code": st.sampled_from(["0", 0, 200, 400, 500]) | any_json,
            "msg": any_json,
            "message": any_json,
        },
    ),
)
bodies = st.one_of(
    st.binary(max_size=200),
    responses.map(lambda response: json.dumps(response).encode()),
    responses.map(lambda response: json.dumps(response, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    responses.map(lambda response: json.dumps(response).encode()[:-1]),
)
http_statuses = st.sampled_from(
    [200, 201, 202, 204, 301, 400, 401, 403, 404, 408, 429, 500, 503]
) | st.integers(0, 999)
dates = st.datetimes().map("{:%a, %d %b %Y %H:%M:%S GMT}".format)
headers = st.lists(
    st.one_of(st.text(max_size=40), st.integers(-5, 10**18).map(str), dates), max_size=3
)  # fmt: skip


@tried
@given(http_statuses, bodies, headers)
@example(200, b"[" * 900 + b"]" * 900, [])  # near Python's limit of recursion
@example(200, b'{"code":' + b"[" * 450 + b"]" * 450 + b"}", [])
@example(200, b'{"id":"p","status":' + b'{"a":' * 450 + b"1" + b"}" * 451, [])
@example(200, b'{"id":"p","created":1e999,"actualDuration":-1e999,"status":1e999}', [])  # infinite numbers
@example(500, b'{"error":' + b"9" * 4000 + b"}", [])  # near the digits that Python converts
def test_any_response_is_a_task_or_a_package_error(http_status, body, retry_after):
    properties.check_response(http_status, body, retry_after)


@tried
@given(http_statuses, bodies, headers)
def test_any_order_response_is_a_task_or_an_outcome(http_status, body, retry_after):
    properties.check_order_response(http_status, body, retry_after)


@tried
@given(any_json | st.text() | st.binary())
def test_any_id_is_one_path_segment_or_refused(value):
    properties.check_video_task_id(value)


@tried
@given(st.lists(st.text(alphabet="0123456789.,:+- GMTJanMonTue\n²") | st.text(), max_size=3) | headers)
def test_any_retry_after_is_finite_or_none(values):
    properties.check_retry_after(values)


@tried
@given(
    st.text()
    | st.lists(st.sampled_from([KEY, "https://x/a?sig=1", " ", "\n", "\x1b", "x" * 300])).map("".join)
)
def test_any_text_becomes_one_bounded_line_without_key(text):
    properties.check_text(text)


# --- arguments and events of triggers -------------------------------------------------------------------

event_words = st.sampled_from(["completed", "failed", "polled", "ended", "begin", "timeout"])
described = st.fixed_dictionaries({}, optional={"status": event_words | any_json, "message": any_json})
events = any_json | st.fixed_dictionaries(
    {},
    optional={
        "version": st.just(1) | any_json,
        "status": event_words | any_json,
        "message": any_json,
        "video_task_id": st.just("p") | any_json,
        "started_at": any_json,
        "errors": st.dictionaries(st.sampled_from("abc"), described | any_json, max_size=3) | any_json,
        "ids": st.just("ea7fb08b7a2dc461") | any_json,  # fingerprint of three videos: a, b, c
        "states": st.text(alphabet="abc9", min_size=3, max_size=3) | any_json,
        "table": st.dictionaries(
            st.sampled_from("abc9"), st.lists(event_words | st.text(), max_size=2) | any_json, max_size=3
        )
        | any_json,
    },
)
references = st.fixed_dictionaries(
    {"xcom_task_id": st.text(max_size=8)},
    optional={"xcom_key": st.just("return_value"), "xcom_is_mapped": st.booleans()},
)


@tried
@given(events)
def test_any_event_is_an_error_unless_valid(event):
    """An invalid event must fail the task, and not complete it."""
    properties.check_event(event)


@tried
@given(st.recursive(references | scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8), any_json)  # fmt: skip
def test_any_trigger_argument_is_ids_or_needs_a_worker(value, pulled):
    """``pulled`` is the value of an XCom. A reference in it is data, which is not resolved again."""
    properties.check_reference(value, pulled)


@tried
@given(st.lists(st.sampled_from(["{{", "}}", "{%", "ti.xcom_pull(", "task_instance.", "'a'", ", ", ")", "map_indexes=", "-1", "[", "**", "k"])).map("".join))  # fmt: skip
def test_any_template_is_allowed_or_refused_with_remedy(text):
    properties.check_template(text)


# --- whole waits ----------------------------------------------------------------------------------------

# Most waits would end with one of the first responses, so some histories have only responses that end no wait.
lasting = [
    number
    for number, (meaning, *_) in enumerate(RESPONSES)
    if meaning not in {"completed", "failed", "fatal"}
]
retry_afters = st.sampled_from(["", "1", "120", "5000"])
late = st.floats(0, 5) | st.sampled_from([-0.5, -60.0])
policies = st.builds(
    PollPolicy,
    interval=st.floats(0, 400),
    exponential_backoff=st.booleans(),
    max_wait=st.none() | st.floats(0, 400),
)


@tried
@given(
    policy=policies,
    timeout=st.floats(0, 1500),
    history=st.lists(
        st.tuples(st.integers(0, len(RESPONSES) - 1), retry_afters, late), min_size=1, max_size=10
    )
    | st.lists(st.tuples(st.sampled_from(lasting), retry_afters, late), min_size=1, max_size=10),
    random=st.randoms(use_true_random=False),
)
def test_any_wait_ends_in_time_within_the_rate_limit(policy, timeout, history, random):
    properties.check_wait(policy, timeout, history, random.random)


# --- connections and orders -----------------------------------------------------------------------------

hosts = st.text(max_size=30) | st.lists(
    st.sampled_from(
        ["http://", "https://", "ftp://", "//", "h.example.com", "localhost", "[::1]", "[", "]", ":", ":8080", ":x",
         ":99999", "@", "user:pw", "/", "/v1", "/kyyReactApiServer", "/result", "..", "?", "#", "%", "%2e", "\\", " ",
         "\n", "\0", "ä", "℀", "\ud800"]
    ),
    max_size=6,
).map("".join)  # fmt: skip
extras = st.dictionaries(
    st.sampled_from(["request_timeout", "verify", "ca_bundle", "proxy", "allow_http", "max_connections"])
    | st.text(max_size=8),
    any_json.filter(lambda value: KEY not in str(value)),
    max_size=3,
)


@tried
@given(
    host=st.none() | hosts,
    port=st.none() | st.integers(-2, 70_000),
    schema=st.none() | st.sampled_from(["http", "https", "HTTPS", "ftp"]) | st.text(max_size=5),
    password=st.just(KEY) | st.text(max_size=10).map(KEY.__add__) | st.none(),
    extra=st.none() | extras | any_json.filter(lambda value: KEY not in str(value)),
)
def test_any_connection_is_usable_or_names_the_field(host, port, schema, password, extra):
    properties.check_connection(host, port, schema, password, extra)


urls = st.sampled_from(["https://x/a", "asset://a", "x", "", '["https://x/a"]', "[" * 5000, None]) | any_json


@tried
@given(
    st.fixed_dictionaries(
        {"prompt": st.just("a lighthouse") | any_json, "model": st.just("sd2_manxue_1080p") | any_json},
        optional={
            "duration": st.sampled_from([4, "5", 15.0, 16]) | any_json,
            "ratio": st.just("16:9") | any_json,
            **dict.fromkeys(("first_image", "last_image"), urls),
            **dict.fromkeys(
                ("reference_images", "reference_videos", "reference_audios"),
                urls | st.lists(urls, max_size=10),
            ),
        },
    )
)
def test_any_order_is_valid_or_refused(parameters):
    properties.check_order(parameters)


FINGERPRINT = {"prompt": "0123456789abcdef", "model": "fedcba9876543210"}
records = any_json | st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(["intent", "ordered", "done", "failed"]) | any_json,
        "id": st.just("p") | any_json,
        "since": any_json,
        "max_tries": st.integers(0, 3) | any_json,
        "fingerprint": st.just(FINGERPRINT) | any_json,
    },
)


@tried
@given(records, st.integers(0, 3))
def test_any_order_record_resumes_or_stops_the_task(value, max_tries):
    """Only a cleared task sends a new order."""
    properties.check_order_record(value, FINGERPRINT, max_tries)


# --- media hosts ----------------------------------------------------------------------------------------

lengths = st.none() | st.sampled_from([0, 5, 10]) | st.integers(0, 10**19)
offsets = st.sampled_from([0, 5, 10]) | st.integers(0, 10**18)
ranges = st.builds("bytes {}-{}/{}".format, offsets, offsets, offsets | st.just("*")) | offsets.map(
    "bytes */{}".format
)
media_headers = st.lists(
    st.tuples(st.just("Content-Range"), ranges)
    | st.tuples(st.sampled_from(["Last-Modified", "Date"]), dates | st.text(max_size=30))
    | st.tuples(
        st.sampled_from(["Content-Range", "Content-Encoding", "ETag", "Retry-After"]),
        st.sampled_from(['"a"', 'W/"a"', "gzip", "identity", "120"]) | st.text(max_size=30),
    ),
    max_size=5,
)
versions = st.none() | st.builds(
    Validators, etag=st.sampled_from([None, '"a"']), modified=st.none(), size=st.sampled_from([None, 5, 10])
)
boxes = st.builds(
    lambda kind, body, error: (len(body) + 8 + error).to_bytes(4) + kind + body,
    st.sampled_from([b"ftyp", b"moov", b"mdat", b"free", b"\0\0\0\0"]),
    st.binary(max_size=12),
    st.sampled_from([0, 0, 0, 0, 1, -1, -7]),
)


@tried
@given(st.sampled_from([200, 206, 206, 416, 404, 429, 503]), media_headers, lengths, offsets, versions)
@example(206, [("Content-Range", "bytes 5-5/0")], None, 5, None)  # a byte beyond the announced size
def test_any_partial_response_fits_or_is_refused(status, headers, length, offset, known):
    properties.check_part(status, headers, length, offset, known)


@tried
@given(st.binary(max_size=60) | st.lists(boxes, max_size=5).map(b"".join), st.none() | st.integers(0, 80))
def test_any_mp4_is_whole_only_with_its_last_byte(body, announced):
    properties.check_mp4(body, announced)


@tried
@given(
    st.text(max_size=20).map("https://x/".__add__) | hosts,
    st.none() | hosts | st.sampled_from(["//[", "/b", "?c", "https:b"]),
)
def test_any_redirect_is_a_valid_url_or_refused(url, location):
    properties.check_redirect(url, location)


@tried
@given(
    st.ip_addresses().map(str)
    | st.integers(0, 2**32 - 1).map(hex)
    | st.text(alphabet="0123456789abcdefx.:%[]\0 ", max_size=20)
)
def test_any_private_address_is_found_in_any_notation(host):
    properties.check_address(host)


# --- the fuzzer's inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzer_seeds_pass(target):
    assert len(SEEDS[target]) > 2
    for data in SEEDS[target]:
        TARGETS[target](data)


@pytest.mark.parametrize(
    ("target", "name"), [(target, name) for target, inputs in FINDINGS.items() for name in inputs]
)
def test_fuzzer_findings_pass(target, name):
    """Inputs that once broke a property."""
    TARGETS[target](FINDINGS[target][name])
