"""What a trigger hands over to a worker, and what a worker makes of it."""

import json

import pytest

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout

from airflow_provider_manxue import exceptions
from airflow_provider_manxue._core import events
from airflow_provider_manxue._core.events import (
    batch_event,
    begin_event,
    completed_event,
    error_event,
    parse_batch_event,
    parse_event,
    says_begin,
    start_of,
)
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueInputError,
    ManxueMediaTypeError,
    ManxueRateLimitError,
    ManxueTimeoutError,
    ManxueTransientError,
    ManxueVideoFailedError,
)

PASSING = [ManxueTransientError, ManxueRateLimitError]
LASTING = [
    exceptions.ManxueError,
    exceptions.ManxueAuthenticationError,
    exceptions.ManxueConfigurationError,
    exceptions.ManxueInputError,
    exceptions.ManxueMediaTypeError,
    exceptions.ManxuePermissionError,
    exceptions.ManxueRedirectError,
    exceptions.ManxueRefusedError,
    exceptions.ManxueResultMissingError,
    exceptions.ManxueTimeoutError,
    exceptions.ManxueVideoFailedError,
]


def through_database(event):
    return json.loads(json.dumps(event))


def test_a_completed_wait_is_read_as_no_error():
    assert parse_event(through_database(completed_event("proj_1", "completed, 5 s long"))) is None


def test_the_events_hold_these_fields_and_no_others():
    assert completed_event("proj_1", "completed") == {
        "version": 1,
        "status": "completed",
        "video_task_id": "proj_1",
        "last_answer": "completed",
    }
    assert error_event("proj_1", ManxueVideoFailedError("bad prompt")) == {
        "version": 1,
        "status": "failed",
        "video_task_id": "proj_1",
        "message": "bad prompt",
    }


def test_the_last_answer_may_be_unknown():
    assert completed_event("proj_1")["last_answer"] == ""


@pytest.mark.parametrize("kind", LASTING)
def test_each_error_that_ends_a_wait_arrives_as_what_it_was(kind):
    arrived = parse_event(through_database(error_event("proj_1", kind("why it ended"))))

    assert type(arrived) is kind
    assert str(arrived) == "why it ended"


@pytest.mark.parametrize("kind", LASTING)
def test_each_error_has_a_status_of_its_own(kind):
    statuses = [error_event("p", other("x"))["status"] for other in LASTING]

    assert statuses.count(error_event("p", kind("x"))["status"]) == 1
    assert "completed" not in statuses


@pytest.mark.parametrize("kind", PASSING)
def test_an_error_that_never_ends_a_wait_arrives_as_a_plain_one(kind):
    arrived = parse_event(through_database(error_event("proj_1", kind("HTTP 503", 5.0))))

    assert type(arrived) is ManxueError
    assert str(arrived) == "HTTP 503"


@pytest.mark.parametrize("message", [None, ""])
def test_an_error_without_words_still_says_something(message):
    arrived = parse_event({"version": 1, "status": "refused", "message": message})

    assert type(arrived) is exceptions.ManxueRefusedError
    assert "'refused'" in str(arrived)


NOT_UNDERSTOOD = [
    None,
    {},
    [],
    "completed",
    0,
    True,
    {"status": "completed"},
    {"version": None, "status": "completed"},
    {"version": 0, "status": "completed"},
    {"version": 2, "status": "completed"},
    {"version": "1", "status": "completed"},
    {"version": 1},
    {"version": 1, "status": None},
    {"version": 1, "status": ""},
    {"version": 1, "status": "COMPLETED"},
    {"version": 1, "status": "success"},
    {"version": 1, "status": ["completed"]},
    {"version": 1, "status": {"completed": True}},
    {"version": 1, "status": True},
    [completed_event("proj_1")],
]


@pytest.mark.parametrize("event", NOT_UNDERSTOOD)
def test_an_event_that_is_not_understood_is_an_error_and_never_a_success(event):
    error = parse_event(event)

    assert type(error) is ManxueError
    assert "Clear the task" in str(error)


def test_an_event_that_is_not_understood_is_shown_within_bounds():
    error = parse_event({"version": 99, "status": "x" * 100_000})

    assert "99" in str(error)
    assert len(str(error)) < 1000


def test_the_version_is_the_one_that_is_written():
    assert completed_event("p")["version"] == error_event("p", ManxueError("x"))["version"] == events.VERSION


# --- a wait that begins in the triggerer ---------------------------------------------------------------


def test_a_worker_is_told_to_begin_and_why():
    event = through_database(begin_event("no such XCom"))

    assert says_begin(event)
    assert event == {"version": 1, "status": "begin", "reason": "no such XCom"}
    assert type(parse_event(event)) is ManxueError


@pytest.mark.parametrize("event", [*NOT_UNDERSTOOD, {"version": 2, "status": "begin"}])
def test_nothing_else_tells_a_worker_to_begin(event):
    assert not says_begin(event)


@pytest.mark.parametrize(
    "event_of",
    [lambda start: completed_event("p", started_at=start), lambda start: batch_event({}, started_at=start)],
)
def test_the_event_says_when_the_wait_began_if_the_worker_does_not_know(event_of):
    assert start_of(through_database(event_of(1_800_000_000.5))) == 1_800_000_000.5
    assert start_of(event_of(None)) is None


@pytest.mark.parametrize("event", [None, [], "completed", {"started_at": None}, {"started_at": "now"}])
def test_the_beginning_may_be_unknown(event):
    assert start_of(event) is None


# --- the event of a batch -------------------------------------------------------------------------------


def test_an_event_of_a_batch_that_is_not_understood_is_shown():
    for event in ({"version": 1, "status": "ended", "errors": [7]}, {"version": 9, "status": "ended"}):
        with pytest.raises(ManxueError, match=r"does not understand: \{'version'"):
            parse_batch_event(event)


def test_a_completed_wait_is_no_event_of_a_batch():
    with pytest.raises(ManxueError, match=r"does not understand: \{'version': 1, 'status': 'completed'"):
        parse_batch_event(completed_event("p"))


@pytest.mark.parametrize("described", [None, "failed", 7, {}, {"status": "ended"}])
def test_an_error_of_a_batch_that_is_not_understood_is_one_all_the_same(described):
    [error] = parse_batch_event({"version": 1, "status": "ended", "errors": {"p": described}}).values()

    assert type(error) is ManxueError
    assert f"does not understand: {described!r}." in str(error)


# --- the tree of errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*PASSING, *LASTING])
def test_each_error_is_an_airflow_exception(kind):
    assert issubclass(kind, AirflowException)


def test_airflow_does_not_retry_what_a_retry_cannot_cure():
    without_retry = {kind for kind in LASTING if issubclass(kind, AirflowFailException)}

    assert without_retry == {ManxueVideoFailedError, ManxueMediaTypeError, ManxueInputError}


def test_a_timeout_is_the_timeout_of_a_sensor():
    assert [kind for kind in LASTING if issubclass(kind, AirflowSensorTimeout)] == [ManxueTimeoutError]
