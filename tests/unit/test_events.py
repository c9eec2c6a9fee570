"""Events that a trigger sends to a worker. The reasons are in the docstring of ``_core/events.py``."""

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


def test_completed_event_parses_to_no_error():
    assert parse_event(through_database(completed_event("proj_1", "completed, 5 s long"))) is None


def test_events_have_exactly_these_fields():
    """Events outlive an upgrade, so a changed field breaks running waits."""
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


def test_completed_event_may_lack_the_last_status():
    assert completed_event("proj_1")["last_answer"] == ""


@pytest.mark.parametrize("kind", LASTING)
def test_lasting_error_survives_the_database(kind):
    arrived = parse_event(through_database(error_event("proj_1", kind("why it ended"))))

    assert type(arrived) is kind
    assert str(arrived) == "why it ended"


@pytest.mark.parametrize("kind", LASTING)
def test_each_lasting_error_has_its_own_status(kind):
    statuses = [error_event("p", other("x"))["status"] for other in LASTING]

    assert statuses.count(error_event("p", kind("x"))["status"]) == 1
    assert "completed" not in statuses


@pytest.mark.parametrize("kind", PASSING)
def test_transient_error_becomes_a_plain_error(kind):
    """A worker would take a transient error for one that it may retry."""
    arrived = parse_event(through_database(error_event("proj_1", kind("HTTP 503", 5.0))))

    assert type(arrived) is ManxueError
    assert str(arrived) == "HTTP 503"


@pytest.mark.parametrize("message", [None, ""])
def test_error_without_message_names_its_status(message):
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
def test_unknown_event_is_an_error(event):
    """An event of a newer or broken trigger must never count as a success."""
    error = parse_event(event)

    assert type(error) is ManxueError
    assert f"does not understand: {event!r}. Clear the task" in str(error)


def test_unknown_event_is_quoted_within_bounds():
    """The error is logged, and the event may have any size."""
    error = parse_event({"version": 99, "status": "x" * 100_000})

    assert "99" in str(error)
    assert len(str(error)) < 1000


def test_events_carry_the_current_version():
    assert completed_event("p")["version"] == error_event("p", ManxueError("x"))["version"] == events.VERSION


# --- a wait that begins in the triggerer ---------------------------------------------------------------


def test_begin_event_holds_the_reason():
    event = through_database(begin_event("no such XCom"))

    assert is_begin_event(event)
    assert event == {"version": 1, "status": "begin", "reason": "no such XCom"}
    assert type(parse_event(event)) is ManxueError


@pytest.mark.parametrize("event", [*NOT_UNDERSTOOD, {"version": 2, "status": "begin"}])
def test_other_events_are_not_begin_events(event):
    assert not is_begin_event(event)


@pytest.mark.parametrize(
    "event_of",
    [
        lambda start: completed_event("p", started_at=start),
        lambda start: error_event("p", ManxueTimeoutError("too late"), started_at=start),
        lambda start: batch_event([], {}, started_at=start),
    ],
)
def test_event_may_hold_the_start_of_the_wait(event_of):
    """A worker does not know the start of a wait that began in the triggerer."""
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
def test_bad_start_is_ignored(event):
    """The worker then takes the current time for the start. A start in the far future would be a wait without a deadline."""
    assert start_of(event) is None


# --- the event of a batch -------------------------------------------------------------------------------


def test_unknown_batch_event_is_quoted():
    for event in ({"version": 1, "status": "ended", "errors": [7]}, {"version": 9, "status": "ended"}):
        with pytest.raises(ManxueError, match=r"does not understand: \{'version'"):
            parse_batch_event(event, ["p"])


def test_completed_event_is_not_a_batch_event():
    with pytest.raises(ManxueError, match=r"does not understand: \{'version': 1, 'status': 'completed'"):
        parse_batch_event(completed_event("p"), ["p"])


@pytest.mark.parametrize("described", ["failed", 7, {}, {"status": "ended"}])
def test_unknown_error_of_a_batch_is_an_error(described):
    states = parse_batch_event({"version": 1, "status": "ended", "errors": {"p": described}}, ["p"])

    assert type(states.errors["p"]) is ManxueError
    assert f"does not understand: {described!r}." in str(states.errors["p"])
    assert not states.to_read


def test_timeout_of_version_0_1_0_is_polled_again():
    """Version 0.1.0 made no final poll."""
    errors = {
        "late": {"status": "timeout", "message": "too late"},
        "bad": {"status": "failed", "message": "no"},
    }
    states = parse_batch_event({"version": 1, "status": "ended", "errors": errors}, ["done", "late", "bad"])

    assert (states.to_read, states.to_poll) == (["done"], ["late"])
    assert type(states.errors["bad"]) is ManxueVideoFailedError
    assert str(states.errors["bad"]) == "no"


def test_batch_timeout_without_final_poll_is_polled():
    event = error_event("", ManxueTimeoutError("too late"), final_poll=False)

    assert parse_batch_event(event, ["a", "b"]).to_poll == ["a", "b"]


@pytest.mark.parametrize("kind", [exceptions.ManxueAuthenticationError, ManxueTimeoutError])
def test_batch_error_is_raised(kind):
    with pytest.raises(kind, match=r"^why it ended$"):
        parse_batch_event(error_event("", kind("why it ended")), ["a", "b"])


def test_batch_event_has_exactly_these_fields():
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


def test_batch_event_restores_each_state():
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
def test_batch_event_of_other_ids_is_ignored(ids):
    outcomes = dict.fromkeys("ab", ManxueVideoFailedError("no"))
    states = parse_batch_event(batch_event(["a", "b"], outcomes), ids)

    assert (states.errors, states.to_read, states.to_poll) == ({}, [], ids)


@pytest.mark.parametrize("lost", ["states", "table"])
def test_batch_event_without_states_is_an_error(lost):
    event = batch_event(["a"], {"a": ManxueVideoFailedError("no")})

    with pytest.raises(ManxueError, match=r"does not understand: \{'version'"):
        parse_batch_event({**event, lost: None}, ["a"])


def test_unknown_error_kind_in_a_batch_is_quoted():
    event = batch_event(["a"], {"a": ManxueVideoFailedError("no")})
    states = parse_batch_event({**event, "table": {"a": ["strange", "no"]}}, ["a"])

    assert "does not understand: 'strange'." in str(states.errors["a"])


@pytest.mark.parametrize("entry", [None, "failed", ["failed"], ["failed", None], ["failed", "no", "more"]])
def test_unknown_state_is_polled(entry):
    event = batch_event(["a"], {"a": ManxueVideoFailedError("no")})
    [code] = event["table"]

    assert parse_batch_event({**event, "table": {code: entry}}, ["a"]).to_poll == ["a"]


@pytest.mark.parametrize("words", ["no", "x" * 10_000, "\N{SNOWMAN}" * 10_000])
@pytest.mark.parametrize("kind", [ManxueVideoFailedError, exceptions.ManxueRefusedError])
def test_10000_reasons_fit_into_64_kib(words, kind):
    ids = [f"proj_{number}" for number in range(10_000)]
    event = batch_event(ids, {video: kind(f"{number}: {words}") for number, video in enumerate(ids)})

    assert len(json.dumps(event)) < 64 * 1024
    states = parse_batch_event(event, ids)
    assert len(states.errors) + len(states.to_read) + len(states.to_poll) == 10_000


def test_long_failure_reason_is_fetched_again():
    reasons = {"a": "x" * events.MAX_REASON, "b": "x" * (events.MAX_REASON + 1)}
    outcomes = {"done": VideoTask("done", TaskStatus.COMPLETED)}
    outcomes |= {video: ManxueVideoFailedError(reason) for video, reason in reasons.items()}
    states = parse_batch_event(batch_event(list(outcomes), outcomes), list(outcomes))

    assert (states.to_read, states.failed) == (["done", "b"], ["b"])
    assert str(states.errors["a"]) == reasons["a"]


def test_long_error_reason_is_truncated():
    event = batch_event(["a"], {"a": exceptions.ManxueRefusedError("x" * 3 * events.MAX_REASON)})

    assert str(parse_batch_event(event, ["a"]).errors["a"]) == "x" * 2 * events.MAX_REASON


def test_states_beyond_the_table_limit_are_polled():
    ids = [f"proj_{number}" for number in range(100)]
    event = batch_event(ids, {video: ManxueVideoFailedError(f"reason of {video}") for video in ids})
    states = parse_batch_event(event, ids)

    assert {video: str(error) for video, error in states.errors.items()} == {
        video: f"reason of {video}" for video in ids[:61]
    }
    assert states.to_poll == ids[61:]


def test_states_at_the_table_limit_are_parsed(monkeypatch):
    outcomes = {"a": ManxueVideoFailedError("no")}
    size = len('["failed", "no"]')
    for limit, to_poll in ((size, []), (size - 1, ["a"])):
        monkeypatch.setattr(events, "MAX_TABLE", limit)
        assert parse_batch_event(batch_event(["a"], outcomes), ["a"]).to_poll == to_poll


# --- what else travels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("final_poll", [True, False])
def test_timeout_event_records_the_final_poll(final_poll):
    event = through_database(error_event("p", ManxueTimeoutError("late"), final_poll=final_poll))

    assert event["final_poll"] is final_poll
    assert needs_final_poll(event) is not final_poll


@pytest.mark.parametrize("said", [{}, {"final_poll": None}, {"final_poll": 1}, {"final_poll": "true"}])
def test_timeout_without_the_field_needs_a_final_poll(said):
    assert needs_final_poll({"version": 1, "status": "timeout", "message": "late", **said})


@pytest.mark.parametrize("event", [*NOT_UNDERSTOOD, completed_event("p"), error_event("p", ManxueError("x"))])
def test_other_events_need_no_final_poll(event):
    assert not needs_final_poll(event)


def test_event_records_whether_the_key_has_worked():
    refused = exceptions.ManxueAuthenticationError("401")
    outcomes = {"p": refused}

    assert worked_before(completed_event("p"))
    for has_worked in (True, False):
        assert worked_before(error_event("p", refused, has_worked=has_worked)) is has_worked
        assert worked_before(batch_event(["p"], outcomes, has_worked=has_worked)) is has_worked


@pytest.mark.parametrize("event", [None, [], "completed", {}, {"has_worked": "yes"}, begin_event("x")])
def test_other_events_record_no_working_key(event):
    assert not worked_before(event)


@pytest.mark.parametrize("kind", LASTING)
def test_described_error_is_restored(kind):
    restored = restore_error(through_database(describe_error(kind("why it ended"))))

    assert (type(restored), str(restored)) == (kind, "why it ended")


def test_described_error_of_unknown_kind_is_quoted():
    assert "does not understand: ['strange', 'no']." in str(restore_error(["strange", "no"]))


# --- the tree of errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*PASSING, *LASTING])
def test_each_error_is_an_airflow_exception(kind):
    assert issubclass(kind, AirflowException)


def test_permanent_errors_are_not_retried():
    without_retry = {kind for kind in LASTING if issubclass(kind, AirflowFailException)}

    assert without_retry == {ManxueVideoFailedError, ManxueMediaTypeError, ManxueInputError}


def test_timeout_is_an_airflow_sensor_timeout():
    assert [kind for kind in LASTING if issubclass(kind, AirflowSensorTimeout)] == [ManxueTimeoutError]
