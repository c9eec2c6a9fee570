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
    describe_error,
    error_event,
    is_begin_event,
    needs_final_poll,
    parse_batch_event,
    parse_event,
    restore_error,
    start_of,
    worked_before,
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
from airflow_provider_manxue.models import TaskStatus, VideoTask

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
    exceptions.ManxueConnectionNotFoundError,
    exceptions.ManxueInternalError,
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
    assert error_event("proj_1", ManxueTimeoutError("too late"))["final_poll"] is True


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
    {"version": 1, "status": "completed"},
    {"version": 1, "status": "completed", "video_task_id": ""},
    {"version": 1, "status": "completed", "video_task_id": 5},
    [completed_event("proj_1")],
]


@pytest.mark.parametrize("event", NOT_UNDERSTOOD)
def test_an_event_that_is_not_understood_is_an_error_and_never_a_success(event):
    error = parse_event(event)

    assert type(error) is ManxueError
    assert f"does not understand: {event!r}. Clear the task" in str(error)


def test_an_event_that_is_not_understood_is_shown_within_bounds():
    error = parse_event({"version": 99, "status": "x" * 100_000})

    assert "99" in str(error)
    assert len(str(error)) < 1000


def test_the_version_is_the_one_that_is_written():
    assert completed_event("p")["version"] == error_event("p", ManxueError("x"))["version"] == events.VERSION


# --- a wait that begins in the triggerer ---------------------------------------------------------------


def test_a_worker_is_told_to_begin_and_why():
    event = through_database(begin_event("no such XCom"))

    assert is_begin_event(event)
    assert event == {"version": 1, "status": "begin", "reason": "no such XCom"}
    assert type(parse_event(event)) is ManxueError


@pytest.mark.parametrize("event", [*NOT_UNDERSTOOD, {"version": 2, "status": "begin"}])
def test_nothing_else_tells_a_worker_to_begin(event):
    assert not is_begin_event(event)


@pytest.mark.parametrize(
    "event_of",
    [
        lambda start: completed_event("p", started_at=start),
        lambda start: error_event("p", ManxueTimeoutError("too late"), started_at=start),
        lambda start: batch_event([], {}, started_at=start),
    ],
)
def test_the_event_says_when_the_wait_began_if_the_worker_does_not_know(event_of):
    for start in (0.0, 0.5, 1_800_000_000.5):
        assert start_of(through_database(event_of(start))) == start
    assert start_of(event_of(None)) is None


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "completed",
        {"started_at": None},
        {"started_at": "now"},
        {"started_at": -1},
        {"started_at": 1e11},
    ],
)
def test_the_beginning_may_be_unknown(event):
    assert start_of(event) is None


# --- the event of a batch -------------------------------------------------------------------------------


def test_an_event_of_a_batch_that_is_not_understood_is_shown():
    for event in ({"version": 1, "status": "ended", "errors": [7]}, {"version": 9, "status": "ended"}):
        with pytest.raises(ManxueError, match=r"does not understand: \{'version'"):
            parse_batch_event(event, ["p"])


def test_a_completed_wait_is_no_event_of_a_batch():
    with pytest.raises(ManxueError, match=r"does not understand: \{'version': 1, 'status': 'completed'"):
        parse_batch_event(completed_event("p"), ["p"])


@pytest.mark.parametrize("described", ["failed", 7, {}, {"status": "ended"}])
def test_an_error_of_a_batch_that_is_not_understood_is_one_all_the_same(described):
    states = parse_batch_event({"version": 1, "status": "ended", "errors": {"p": described}}, ["p"])

    assert type(states.errors["p"]) is ManxueError
    assert f"does not understand: {described!r}." in str(states.errors["p"])
    assert not states.to_read


def test_a_batch_of_which_the_old_form_does_not_say_how_one_timed_out_is_polled():
    """Version 0.1.0 made no final poll."""
    errors = {
        "late": {"status": "timeout", "message": "too late"},
        "bad": {"status": "failed", "message": "no"},
    }
    states = parse_batch_event({"version": 1, "status": "ended", "errors": errors}, ["done", "late", "bad"])

    assert (states.to_read, states.to_poll) == (["done"], ["late"])
    assert type(states.errors["bad"]) is ManxueVideoFailedError
    assert str(states.errors["bad"]) == "no"


def test_timeout_of_a_whole_batch_without_a_final_poll_is_polled():
    event = error_event("", ManxueTimeoutError("too late"), final_poll=False)

    assert parse_batch_event(event, ["a", "b"]).to_poll == ["a", "b"]


@pytest.mark.parametrize("kind", [exceptions.ManxueAuthenticationError, ManxueTimeoutError])
def test_error_of_a_whole_batch_is_raised(kind):
    with pytest.raises(kind, match=r"^why it ended$"):
        parse_batch_event(error_event("", kind("why it ended")), ["a", "b"])


def test_event_of_a_batch_holds_these_fields_and_no_others():
    outcomes = {
        "a": VideoTask("a", TaskStatus.COMPLETED),
        "b": ManxueVideoFailedError("The service could not generate the video 'b': no."),
        "c": ManxueTimeoutError("too late"),
    }

    assert batch_event(list("abc"), outcomes, not_polled={"c"}) == {
        "version": 1,
        "status": "polled",
        "ids": "ea7fb08b7a2dc461",
        "states": "abc",
        "table": {
            "a": ["completed", ""],
            "b": ["failed", "The service could not generate the video {id}: no."],
            "c": ["not_polled", ""],
        },
        "has_worked": True,
    }


def test_each_video_of_a_batch_arrives_with_its_state():
    outcomes = {
        "done": VideoTask("done", TaskStatus.COMPLETED),
        "bad": ManxueVideoFailedError("The service could not generate the video 'bad': no."),
        "late": ManxueTimeoutError("too late"),
        "unseen": ManxueTimeoutError("too late"),
    }
    event = through_database(batch_event(list(outcomes), outcomes, not_polled={"unseen"}))
    states = parse_batch_event(event, list(outcomes))

    assert (states.to_read, states.to_poll) == (["done"], ["unseen"])
    assert {video: (type(error), str(error)) for video, error in states.errors.items()} == {
        video: (type(outcomes[video]), str(outcomes[video])) for video in ("bad", "late")
    }


@pytest.mark.parametrize("ids", [["a", "c"], ["b", "a"], ["a"], []])
def test_a_batch_of_other_ids_is_polled_as_a_whole(ids):
    outcomes = dict.fromkeys("ab", ManxueVideoFailedError("no"))
    states = parse_batch_event(batch_event(["a", "b"], outcomes), ids)

    assert (states.errors, states.to_read, states.to_poll) == ({}, [], ids)


@pytest.mark.parametrize("lost", ["states", "table"])
def test_a_batch_without_states_is_not_understood(lost):
    event = batch_event(["a"], {"a": ManxueVideoFailedError("no")})

    with pytest.raises(ManxueError, match=r"does not understand: \{'version'"):
        parse_batch_event({**event, lost: None}, ["a"])


def test_error_of_an_unknown_kind_in_a_batch_is_shown():
    event = batch_event(["a"], {"a": ManxueVideoFailedError("no")})
    states = parse_batch_event({**event, "table": {"a": ["strange", "no"]}}, ["a"])

    assert "does not understand: 'strange'." in str(states.errors["a"])


@pytest.mark.parametrize("entry", [None, "failed", ["failed"], ["failed", None], ["failed", "no", "more"]])
def test_a_state_that_is_not_understood_is_polled(entry):
    event = batch_event(["a"], {"a": ManxueVideoFailedError("no")})
    [code] = event["table"]

    assert parse_batch_event({**event, "table": {code: entry}}, ["a"]).to_poll == ["a"]


@pytest.mark.parametrize("words", ["no", "x" * 10_000, "\N{SNOWMAN}" * 10_000])
@pytest.mark.parametrize("kind", [ManxueVideoFailedError, exceptions.ManxueRefusedError])
def test_ten_thousand_reasons_fit_into_64_kib(words, kind):
    ids = [f"proj_{number}" for number in range(10_000)]
    event = batch_event(ids, {video: kind(f"{number}: {words}") for number, video in enumerate(ids)})

    assert len(json.dumps(event)) < 64 * 1024
    states = parse_batch_event(event, ids)
    assert len(states.errors) + len(states.to_read) + len(states.to_poll) == 10_000


def test_a_long_reason_of_a_failure_is_read_again():
    reasons = {"a": "x" * events.MAX_REASON, "b": "x" * (events.MAX_REASON + 1)}
    outcomes = {"done": VideoTask("done", TaskStatus.COMPLETED)}
    outcomes |= {video: ManxueVideoFailedError(reason) for video, reason in reasons.items()}
    states = parse_batch_event(batch_event(list(outcomes), outcomes), list(outcomes))

    assert (states.to_read, states.failed) == (["done", "b"], ["b"])
    assert str(states.errors["a"]) == reasons["a"]


def test_a_long_reason_of_another_error_is_cut():
    event = batch_event(["a"], {"a": exceptions.ManxueRefusedError("x" * 3 * events.MAX_REASON)})

    assert str(parse_batch_event(event, ["a"]).errors["a"]) == "x" * 2 * events.MAX_REASON


def test_states_beyond_the_table_are_polled():
    ids = [f"proj_{number}" for number in range(100)]
    event = batch_event(ids, {video: ManxueVideoFailedError(f"reason of {video}") for video in ids})
    states = parse_batch_event(event, ids)

    assert {video: str(error) for video, error in states.errors.items()} == {
        video: f"reason of {video}" for video in ids[:61]
    }
    assert states.to_poll == ids[61:]


def test_states_that_fill_the_table_are_kept(monkeypatch):
    outcomes = {"a": ManxueVideoFailedError("no")}
    size = len('["failed", "no"]')
    for limit, to_poll in ((size, []), (size - 1, ["a"])):
        monkeypatch.setattr(events, "MAX_TABLE", limit)
        assert parse_batch_event(batch_event(["a"], outcomes), ["a"]).to_poll == to_poll


# --- what else travels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("final_poll", [True, False])
def test_a_timeout_says_whether_a_final_poll_decided_it(final_poll):
    event = through_database(error_event("p", ManxueTimeoutError("late"), final_poll=final_poll))

    assert event["final_poll"] is final_poll
    assert needs_final_poll(event) is not final_poll


@pytest.mark.parametrize("said", [{}, {"final_poll": None}, {"final_poll": 1}, {"final_poll": "true"}])
def test_a_timeout_that_does_not_say_so_is_decided_by_the_worker(said):
    assert needs_final_poll({"version": 1, "status": "timeout", "message": "late", **said})


@pytest.mark.parametrize("event", [*NOT_UNDERSTOOD, completed_event("p"), error_event("p", ManxueError("x"))])
def test_no_other_event_needs_a_final_poll(event):
    assert not needs_final_poll(event)


def test_a_wait_that_has_worked_says_so():
    refused = exceptions.ManxueAuthenticationError("401")
    outcomes = {"p": refused}

    assert worked_before(completed_event("p"))
    for has_worked in (True, False):
        assert worked_before(error_event("p", refused, has_worked=has_worked)) is has_worked
        assert worked_before(batch_event(["p"], outcomes, has_worked=has_worked)) is has_worked


@pytest.mark.parametrize("event", [None, [], "completed", {}, {"has_worked": "yes"}, begin_event("x")])
def test_no_other_event_says_that_a_wait_has_worked(event):
    assert not worked_before(event)


@pytest.mark.parametrize("kind", LASTING)
def test_described_error_is_restored(kind):
    restored = restore_error(through_database(describe_error(kind("why it ended"))))

    assert (type(restored), str(restored)) == (kind, "why it ended")


def test_described_error_of_an_unknown_kind_is_shown():
    assert "does not understand: ['strange', 'no']." in str(restore_error(["strange", "no"]))


# --- the tree of errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*PASSING, *LASTING])
def test_each_error_is_an_airflow_exception(kind):
    assert issubclass(kind, AirflowException)


def test_airflow_does_not_retry_what_a_retry_cannot_cure():
    without_retry = {kind for kind in LASTING if issubclass(kind, AirflowFailException)}

    assert without_retry == {ManxueVideoFailedError, ManxueMediaTypeError, ManxueInputError}


def test_a_timeout_is_the_timeout_of_a_sensor():
    assert [kind for kind in LASTING if issubclass(kind, AirflowSensorTimeout)] == [ManxueTimeoutError]
