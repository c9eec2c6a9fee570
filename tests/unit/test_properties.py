"""What holds for every answer, every wait, every connection: properties, tried with many made-up cases."""

import json
import math
from urllib.parse import unquote, urlsplit

import requests
import yarl
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_provider_manxue.connection import read_connection
from airflow_provider_manxue.events import read_event
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueError,
    ManxueInputError,
    ManxueRateLimitError,
    ManxueRefusedError,
    ManxueTransientError,
)
from airflow_provider_manxue.polling import MAX_RETRY_AFTER, AskAgain, Completed, PollPolicy, Wait
from airflow_provider_manxue.protocol import (
    TaskStatus,
    VideoTask,
    clean_text,
    read_retry_after,
    read_task,
    read_video_task_id,
    result_url,
)

# A busy machine is no reason to fail.
tried = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEY = "sk-very-secret-key"
START = 1_800_000_000.0
COMPLETED_WORDS = {"completed", "succeeded", "success", "done"}
STATUS_WORDS = [*COMPLETED_WORDS, "queued", "PROCESSING", "failed", "expired", "reviewing", "", " Completed "]

# --- made-up answers ------------------------------------------------------------------------------------

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
answers = st.one_of(
    any_json,
    task_fields,
    st.fixed_dictionaries(
        {"data": task_fields | any_json},
        optional={
            "code": st.sampled_from(["0", 0, 200, 500]) | any_json,
            "msg": any_json,
            "message": any_json,
        },
    ),
)
bodies = st.one_of(
    st.binary(max_size=200),
    answers.map(lambda answer: json.dumps(answer).encode()),
    answers.map(lambda answer: json.dumps(answer, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    answers.map(lambda answer: json.dumps(answer).encode()[:-1]),
)
http_statuses = st.sampled_from(
    [200, 201, 202, 204, 301, 400, 401, 403, 404, 408, 429, 500, 503]
) | st.integers(0, 999)
headers = st.lists(
    st.one_of(st.text(max_size=40), st.integers(-5, 10**18).map(str), st.datetimes().map("{:%a, %d %b %Y %H:%M:%S GMT}".format)),
    max_size=3,
)  # fmt: skip


def read(http_status, body, retry_after=()):
    """Read an answer; anything that is raised but an error of this package fails the test."""
    try:
        return read_task(http_status, body, video_task_id="p", retry_after=retry_after, now=START, secret=KEY)
    except ManxueError as error:
        return error


def status_words_in(body):
    """Return each text under a key ``status``, in the answer itself or in its ``data``."""
    answer = json.loads(body)
    places = [answer, answer.get("data")]
    return {str(place["status"]).replace("\0", "").strip().lower() for place in places if isinstance(place, dict) and "status" in place}  # fmt: skip


@tried
@given(http_statuses, bodies, headers)
@example(200, b"[" * 900 + b"]" * 900, [])
@example(200, b'{"code":' + b"[" * 450 + b"]" * 450 + b"}", [])
@example(200, b'{"id":"p","status":' + b'{"a":' * 450 + b"1" + b"}" * 451, [])
@example(200, b'{"id":"p","created":1e999,"actualDuration":-1e999,"status":1e999}', [])
@example(500, b'{"error":' + b"9" * 4000 + b"}", [])
def test_any_answer_is_a_task_or_an_error_of_this_package(http_status, body, retry_after):
    outcome = read(http_status, body, retry_after)

    if isinstance(outcome, ManxueError):
        assert KEY not in str(outcome)
        assert str(outcome).isprintable()
        assert len(str(outcome)) < 2000
    else:
        assert 200 <= http_status < 300
        assert json.loads(json.dumps(outcome.as_dict(), allow_nan=False))["status"] in set(TaskStatus)
        json.dumps(outcome.as_dict(), ensure_ascii=False).encode("utf-8")
        assert KEY not in (outcome.error or "") + outcome.status_word


@tried
@given(http_statuses, bodies)
def test_no_answer_is_completed_that_does_not_say_so(http_status, body):
    outcome = read(http_status, body)

    if isinstance(outcome, VideoTask) and outcome.status is TaskStatus.COMPLETED:
        assert 200 <= http_status < 300
        assert status_words_in(body) & COMPLETED_WORDS


@tried
@given(any_json | st.text() | st.binary())
def test_anything_given_as_an_id_is_one_segment_of_a_path_or_refused(value):
    try:
        task_id = read_video_task_id(value)
    except ManxueInputError:
        return

    url = result_url("https://x/base", task_id)
    assert requests.Request("GET", url).prepare().url == url
    assert str(yarl.URL(url, encoded=True)) == url
    assert url.count("/") == result_url("https://x/base", "p").count("/")
    assert not urlsplit(url).query
    assert not urlsplit(url).fragment
    assert unquote(url.rpartition("/")[2]) == task_id


@tried
@given(st.lists(st.text(alphabet="0123456789.,:+- GMTJanMonTue\n²") | st.text(), max_size=3) | headers)
def test_any_retry_after_is_a_finite_pause_or_nothing(values):
    pause = read_retry_after(values, START)

    assert pause is None or (pause >= 0 and math.isfinite(pause))


@tried
@given(
    st.text()
    | st.lists(st.sampled_from([KEY, "https://x/a?sig=1", " ", "\n", "\x1b", "x" * 300])).map("".join)
)
def test_any_foreign_text_becomes_one_bounded_line_without_the_key(text):
    clean = clean_text(text, KEY)

    assert clean.isprintable()
    assert len(clean) <= 500
    assert KEY not in clean
    assert "sig=" not in clean or "sig=" in text.replace("https://x/a?sig=1", "")


@tried
@given(st.fixed_dictionaries({}, optional={"version": st.just(1) | any_json, "status": st.sampled_from(["completed", "failed"]) | any_json, "message": any_json}) | any_json)  # fmt: skip
def test_no_event_is_a_success_that_does_not_say_so(event):
    error = read_event(event)

    if error is None:
        assert event["version"] == 1
        assert event["status"] == "completed"
    else:
        assert isinstance(error, ManxueError)
        assert str(error)


# --- whole waits ----------------------------------------------------------------------------------------

retry_afters = st.none() | st.floats(0, 5000)
outcomes = st.one_of(
    st.builds(
        VideoTask,
        id=st.just("p"),
        status=st.sampled_from([status for status in TaskStatus if status is not TaskStatus.COMPLETED]),
        video_url=st.sampled_from([None, "https://x/a.mp4"]),
    ),
    st.just(VideoTask(id="p", status=TaskStatus.COMPLETED)),
    st.just(VideoTask(id="p", status=TaskStatus.COMPLETED, video_url="https://x/a.mp4")),
    st.builds(ManxueTransientError, st.just("HTTP 503"), retry_afters),
    st.builds(ManxueRateLimitError, st.just("HTTP 429"), retry_afters),
    st.sampled_from([ManxueRefusedError("HTTP 404"), ManxueAuthenticationError("HTTP 401")]),
)
# Most waits would end with one of the first answers, so some histories hold only what keeps a wait going.
lasting = st.one_of(
    st.just(VideoTask(id="p", status=TaskStatus.PROCESSING)),
    st.just(VideoTask(id="p", status=TaskStatus.COMPLETED)),
    st.just(ManxueRefusedError("HTTP 404")),
    st.builds(ManxueTransientError, st.just("HTTP 503"), retry_afters),
)
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
    history=st.lists(outcomes, min_size=1, max_size=10) | st.lists(lasting, min_size=1, max_size=10),
    random=st.randoms(use_true_random=False),
    late=st.floats(0, 5),
)
def test_every_wait_is_polite_and_ends_in_time_with_what_the_service_said(
    policy, timeout, history, random, late
):
    deadline = START + timeout
    wait = Wait("p", policy, START, deadline, random=random.random)
    now = START
    for poll in range(int(timeout) + 3):
        outcome = history[poll % len(history)]
        decision = wait.after(outcome, now)
        if not isinstance(decision, AskAgain):
            break
        floor = min(getattr(outcome, "retry_after", None) or 0.0, MAX_RETRY_AFTER)
        assert now < deadline
        assert decision.at >= now + 1 or decision.at == deadline
        assert decision.at >= now + floor
        assert decision.at <= deadline or now + floor > deadline
        assert decision.at <= now + floor + max(1.1 * max(policy.interval + timeout, 300.0), 1.0)
        if decision.at > deadline:
            return
        now = decision.at + late
    else:
        raise AssertionError("the wait went on after its deadline, or asked too often")

    ready = isinstance(outcome, VideoTask) and outcome.status is TaskStatus.COMPLETED and outcome.video_url
    assert isinstance(decision, Completed) == bool(ready)
    if not ready:
        assert isinstance(decision.error, ManxueError)


# --- connections ----------------------------------------------------------------------------------------

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


def connection_or_error(**fields):
    """Read a connection; anything that is raised but its own error fails the test."""
    try:
        return read_connection("c", **fields)
    except ManxueConfigurationError as error:
        return error


@tried
@given(
    host=st.none() | hosts,
    password=st.just(KEY) | st.text(max_size=10).map(KEY.__add__) | st.none(),
    port=st.none() | st.integers(-2, 70_000),
    schema=st.none() | st.sampled_from(["http", "https", "HTTPS", "ftp"]) | st.text(max_size=5),
    extra=st.none() | extras | any_json.filter(lambda value: KEY not in str(value)),
)
def test_every_connection_is_usable_or_refused_with_the_field_named(host, password, port, schema, extra):
    read = connection_or_error(host=host, password=password, port=port, schema=schema, extra=extra)

    if isinstance(read, ManxueConfigurationError):
        assert str(read).startswith("Connection 'c', field ")
        assert KEY not in str(read)
        return
    url = urlsplit(read.base_url)
    assert url.scheme in {"http", "https"}
    assert url.hostname
    assert url.username is url.password is None
    assert url.port is None or 1 <= url.port <= 65535
    assert not url.query + url.fragment
    assert url.path.startswith("/")
    assert not url.path.endswith("/")
    assert read.api_key.isascii()
    assert read.api_key.isprintable()
    assert " " not in read.api_key
    assert 0.1 <= read.request_timeout <= 600
    assert 1 <= read.max_connections <= 1000
    assert KEY not in repr(read)
