"""
Log lines of a wait: status changes and new errors, not every poll.

The rules and their reasons are in docs/waiting.md, "The log".
"""

import logging

import pytest

from airflow_provider_manxue._core.status_log import (
    BatchLog,
    LogLine,
    StatusLog,
    announcement,
    describe,
    elapsed,
)
from airflow_provider_manxue.exceptions import (
    ManxueRateLimitError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTimeoutError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

START = 1_800_000_000.0
URL = "https://cdn.example.com/secret-path.mp4"


def task(status, word=None, **fields):
    return VideoTask(id="proj_1", status=TaskStatus(status), status_word=word or status, **fields)


def logged(log, *responses, every=30.0):
    """Log one response per interval. Return (seconds, level, text) of each line."""
    lines = []
    for number, response in enumerate(responses):
        after = number * every
        lines += [(after, line.level, line.text) for line in log.lines_for("proj_1", response, START + after)]
    return lines


@pytest.fixture
def log():
    return StatusLog("proj_1", START)


def test_status_change_is_logged_once(log):
    responses = [task("queued")] * 3 + [task("processing")] * 5 + [task("completed", actual_duration=5.17)]

    assert logged(log, *responses) == [
        (0.0, logging.INFO, "Video proj_1: queued (after 0:00:00)"),
        (90.0, logging.INFO, "Video proj_1: processing (after 0:01:30)"),
        (240.0, logging.INFO, "Video proj_1: completed, 5.17 s long (after 0:04:00)"),
    ]


def test_status_synonym_is_no_change(log):
    assert len(logged(log, task("queued", "pending"), task("queued", "SUBMITTED"))) == 1


def test_unknown_status_is_a_single_warning(log):
    lines = logged(log, *[task("unknown", "reviewing")] * 20)

    assert lines == [
        (0.0, logging.WARNING, "Video proj_1: unknown status 'reviewing' (after 0:00:00)"),
    ]


def test_returning_status_is_a_change(log):
    texts = [text for _, _, text in logged(log, task("queued"), task("unknown", "x"), task("queued"))]

    assert [text.partition(" (")[0] for text in texts] == [
        "Video proj_1: queued",
        "Video proj_1: unknown status 'x'",
        "Video proj_1: queued",
    ]


def test_error_is_a_warning_with_its_reason(log):
    assert logged(log, ManxueRefusedError("HTTP 404: no such task")) == [
        (
            0.0,
            logging.WARNING,
            "Video proj_1: no usable response yet: HTTP 404: no such task (after 0:00:00)",
        )
    ]


def test_error_is_logged_again_after_ten_minutes(log):
    lines = logged(log, *[ManxueTransientError("HTTP 503")] * 61)

    assert [after for after, _, _ in lines] == [0.0, 600.0, 1200.0, 1800.0]


def test_error_with_varying_details_is_logged_once(log):
    responses = [ManxueTransientError(f"HTTP 503: request {number}: was dropped") for number in range(20)]

    assert len(logged(log, *responses)) == 1


def test_error_of_another_kind_is_logged_immediately(log):
    lines = logged(
        log, ManxueTransientError("HTTP 503"), ManxueTransientError("no response from h: timed out")
    )

    assert len(lines) == 2


def test_alternating_errors_are_logged_every_ten_minutes(log):
    responses = [
        ManxueTransientError(text) for text in ("HTTP 502", "HTTP 503: busy", "no response from h: reset")
    ]

    assert [after for after, _, _ in logged(log, *responses * 8)] == [0.0, 30.0, 60.0, 630.0, 660.0, 690.0]


def test_end_of_an_outage_is_logged_with_the_status(log):
    lines = logged(
        log,
        task("processing"),
        *[ManxueTransientError("HTTP 503")] * 2,
        task("processing"),
        task("processing"),
    )

    assert [(after, level) for after, level, _ in lines] == [
        (0.0, logging.INFO),
        (30.0, logging.WARNING),
        (90.0, logging.INFO),
    ]


def test_end_of_a_single_failure_is_not_logged(log):
    lines = logged(log, task("processing"), ManxueTransientError("HTTP 503"), task("processing"))

    assert [after for after, _, _ in lines] == [0.0, 30.0]


def test_end_of_a_failure_after_resuming_is_not_logged():
    lines = logged(
        StatusLog("proj_1", START, "processing"), ManxueTransientError("HTTP 503"), task("processing")
    )

    assert [after for after, _, _ in lines] == [0.0]


def test_separate_failures_are_logged_once(log):
    error = ManxueTransientError("HTTP 503")

    lines = logged(log, task("processing"), error, task("processing"), error, task("processing"))

    assert [after for after, _, _ in lines] == [0.0, 30.0]


@pytest.mark.parametrize(
    ("pause", "suffix"),
    [
        (None, "."),
        (0.0, ", requested a pause of 0 s"),
        (5400.0, ", requested a pause of 5400 s"),
        (1.5, ", requested a pause of 1.5 s"),
    ],
)
@pytest.mark.parametrize("kind", [ManxueRateLimitError, ManxueRefusedError, ManxueRedirectError])
def test_retry_after_is_logged_in_full(log, kind, pause, suffix):
    ((_, _, text),) = logged(log, kind("HTTP 429.", pause))

    assert text == f"Video proj_1: no usable response yet: HTTP 429{suffix} (after 0:00:00)"


@pytest.mark.parametrize(
    ("last_status", "response"),
    [
        ("processing", task("processing")),
        ("completed, 5 s long", task("completed", actual_duration=5.0)),
        ("unknown status 'rendering 5%'", task("unknown", "rendering 6%")),
    ],
)
def test_resumed_wait_does_not_repeat_the_last_line(last_status, response):
    assert logged(StatusLog("proj_1", START, last_status), response, response) == []


@pytest.mark.parametrize("last_status", ["", "queued", "HTTP 503"])
def test_resumed_wait_logs_a_new_status(last_status):
    assert len(logged(StatusLog("proj_1", START, last_status), task("processing"))) == 1


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (task("queued", "pending"), "queued"),
        (task("failed", "expired"), "failed"),
        (task("processing", actual_duration=5.0), "processing"),
        (task("completed", video_url=URL), "completed"),
        (task("completed", video_url=URL, actual_duration=5.0), "completed, 5 s long"),
        (task("completed", actual_duration=0.0), "completed, 0 s long"),
        (task("unknown", "reviewing"), "unknown status 'reviewing'"),
    ],
)
def test_response_description(response, text):
    assert describe(response) == text


def test_log_line_has_no_video_url(log):
    ((_, _, text),) = logged(log, task("completed", video_url=URL, extra={"last_frame_url": URL}))

    assert "secret-path" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0:00:00"),
        (0, "0:00:00"),
        (0.4, "0:00:00"),
        (59.6, "0:01:00"),
        (3661, "1:01:01"),
        (10_800, "3:00:00"),
        (90_000, "1 day, 1:00:00"),
    ],
)
def test_duration_is_formatted_in_hours(seconds, text):
    assert elapsed(seconds) == text


def test_unknown_status_with_a_counter_is_logged_once():
    log = StatusLog("a", 0.0)
    tasks = [VideoTask("a", TaskStatus.UNKNOWN, f"rendering {percent}%") for percent in range(5)]
    assert [len(log.lines_for("a", task, 30.0)) for task in tasks] == [1, 0, 0, 0, 0]


def test_failed_video_is_logged_with_its_reason():
    log = StatusLog("proj_1", 0.0)
    task = VideoTask("proj_1", TaskStatus.FAILED, error="the prompt is not allowed")
    [line] = log.lines_for("proj_1", task, 60.0)
    assert line.text == "Video proj_1: failed: the prompt is not allowed (after 0:01:00)"


def test_announcement_has_interval_timeout_and_deadline():
    times = {"interval": 30.0, "started_at": START, "deadline": START + 10_800.4}

    assert announcement("2 videos", "at h.example", "on this worker", **times) == (
        "Waiting for 2 videos at h.example, on this worker: every 30 s, for 3:00:00 at most, until "
        "2027-01-15 11:00:00+00:00."
    )


# --- many videos --------------------------------------------------------------------------------------------


def batch_log(count=39, status="", **options):
    return BatchLog({f"v{number}": status for number in range(count)}, START, **options)


def texts(lines):
    return [line.text for line in lines]


def test_batch_progress_is_current_within_ten_seconds():
    """In this sweep of polls, all but the last video are seen completed within four seconds."""
    log, lines = batch_log(), []
    for number in range(38):
        now = START + 10 + number * 0.1
        lines += log.lines_for(f"v{number}", task("completed", video_url=URL), now)
        lines += log.lines_for_end(f"v{number}", None, now)

    assert texts(lines) == ["1 of 39 videos completed, 38 not polled yet (after 0:00:10)"]
    assert log.next_line_at == START + 20
    assert log.progress(START + 19.9) == ()
    assert texts(log.progress(START + 20)) == ["38 of 39 videos completed, 1 not polled yet (after 0:00:20)"]
    assert log.next_line_at == float("inf")
    assert log.progress(START + 999) == ()


def test_batch_end_is_logged_immediately():
    log = batch_log(2)
    log.lines_for_end("v0", None, START)

    assert log.lines_for_end("v1", None, START + 1) == (
        LogLine(logging.INFO, "2 of 2 videos completed (after 0:00:01)"),
    )


def test_batch_totals_count_each_video_once():
    log = batch_log(6)
    for number, status in enumerate(["queued", "processing", "unknown", "processing", "failed"]):
        log.lines_for(f"v{number}", task(status), START)

    assert texts(log.progress(START + 10)) == [
        "0 of 6 videos completed, 1 ended otherwise, 2 processing, 1 queued, 1 unknown, 1 not polled yet (after 0:00:10)"
    ]


def test_batch_failure_is_logged_immediately():
    log = batch_log(2)
    log.lines_for("v0", task("processing"), START)
    error = ManxueVideoFailedError("bad prompt.")

    assert log.lines_for_end("v0", error, START + 1) == (
        LogLine(logging.WARNING, "bad prompt. 1 others are still awaited."),
    )
    assert texts(log.lines_for_end("v1", error, START + 2)) == [
        "bad prompt.",
        "0 of 2 videos completed, 2 ended otherwise (after 0:00:02)",
    ]


def test_batch_timeouts_are_counted_not_listed():
    log = batch_log(2)
    lines = [*log.lines_for_end("v0", ManxueTimeoutError("late"), START)]
    lines += log.lines_for_end("v1", ManxueTimeoutError("late"), START)

    assert {line.level for line in lines} == {logging.INFO}
    assert texts(lines)[-1] == "0 of 2 videos completed, 2 ended otherwise (after 0:00:00)"


def test_batch_error_is_logged_as_for_one_video():
    """A batch once logged nothing during an outage of 50 minutes."""
    log, lines = batch_log(5), []
    for minute in range(50):
        for number in range(5):
            error = ManxueTransientError(f"HTTP 503: maintenance {number}", 60.0)
            now = START + minute * 60 + number
            lines += [(minute, line) for line in log.lines_for(f"v{number}", error, now) if line.level > 20]

    assert [minute for minute, _ in lines] == [0, 10, 20, 30, 40]
    assert lines[0][1].text == (
        "No usable response yet for some of the 5 videos, such as v0: HTTP 503: maintenance 0, requested a pause of 60 s "
        "(after 0:00:00)"
    )


def test_batch_error_of_another_kind_is_logged_immediately():
    log = batch_log(2)
    lines = [
        *log.lines_for("v0", ManxueTransientError("HTTP 503"), START),
        *log.lines_for("v1", ManxueRefusedError("HTTP 404"), START + 1),
    ]

    assert [text.rpartition(", such as ")[2] for text in texts(lines)] == [
        "v0: HTTP 503 (after 0:00:00)",
        "v1: HTTP 404 (after 0:00:01)",
    ]


@pytest.mark.parametrize(
    ("moment", "is_logged"), [(-60, True), (0, False), (9, False), (10, True), (60, True)]
)
def test_batch_progress_is_logged_if_clock_is_set_back(moment, is_logged):
    log = batch_log(2)
    lines = log.lines_for("v0", task("processing"), START + moment)

    assert bool(lines) is is_logged
    assert log.next_line_at == (float("inf") if is_logged else START + 10)


def test_resumed_batch_does_not_repeat_progress():
    log = batch_log(3, "completed")

    assert log.lines_for("v0", task("completed", video_url=URL), START) == ()
    assert log.progress(START + 99) == ()
    assert texts(log.lines_for_end("v0", ManxueResultMissingError("no URL"), START)) == [
        "no URL",
        "2 of 3 videos completed, 1 ended otherwise (after 0:00:00)",
    ]


def test_batch_totals_include_videos_ended_before():
    log = batch_log(2, ended_before={"completed": 3, "failed": 1})
    lines = [*log.lines_for_end("v0", None, START), *log.lines_for_end("v1", None, START)]

    assert texts(lines)[-1] == "5 of 6 videos completed, 1 ended otherwise (after 0:00:00)"
