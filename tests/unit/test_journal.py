"""The task log tells what changed, not that a poll took place."""

import logging

import pytest

from airflow_provider_manxue._core.status_log import StatusLog, announcement, describe, elapsed
from airflow_provider_manxue.exceptions import (
    ManxueRateLimitError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

START = 1_800_000_000.0
URL = "https://cdn.example.com/secret-path.mp4"


def task(status, word=None, **fields):
    return VideoTask(id="proj_1", status=TaskStatus(status), status_word=word or status, **fields)


def told(journal, *answers, every=30.0):
    """Feed answers, one per interval; return (seconds, level, text) of each line."""
    lines = []
    for number, answer in enumerate(answers):
        after = number * every
        lines += [(after, news.level, news.text) for news in journal.lines_for(answer, START + after)]
    return lines


@pytest.fixture
def journal():
    return StatusLog("proj_1", START)


def test_each_change_of_the_status_is_one_line_and_a_poll_is_none(journal):
    answers = [task("queued")] * 3 + [task("processing")] * 5 + [task("completed", actual_duration=5.17)]

    assert told(journal, *answers) == [
        (0.0, logging.INFO, "Video proj_1: queued (after 0:00:00)"),
        (90.0, logging.INFO, "Video proj_1: processing (after 0:01:30)"),
        (240.0, logging.INFO, "Video proj_1: completed, 5.17 s long (after 0:04:00)"),
    ]


def test_a_synonym_is_no_change(journal):
    assert len(told(journal, task("queued", "pending"), task("queued", "SUBMITTED"))) == 1


def test_an_unknown_status_is_warned_of_once(journal):
    lines = told(journal, *[task("unknown", "reviewing")] * 20)

    assert lines == [
        (0.0, logging.WARNING, "Video proj_1: unknown status 'reviewing' (after 0:00:00)"),
    ]


def test_a_status_that_comes_back_is_a_change(journal):
    texts = [text for _, _, text in told(journal, task("queued"), task("unknown", "x"), task("queued"))]

    assert [text.partition(" (")[0] for text in texts] == [
        "Video proj_1: queued",
        "Video proj_1: unknown status 'x'",
        "Video proj_1: queued",
    ]


def test_trouble_is_a_warning_with_the_words_of_the_service(journal):
    assert told(journal, ManxueRefusedError("HTTP 404: no such task")) == [
        (
            0.0,
            logging.WARNING,
            "Video proj_1: no answer about the video yet: HTTP 404: no such task (after 0:00:00)",
        )
    ]


def test_repeated_trouble_is_told_again_only_after_ten_minutes(journal):
    lines = told(journal, *[ManxueTransientError("HTTP 503")] * 61)

    assert [after for after, _, _ in lines] == [0.0, 600.0, 1200.0, 1800.0]


def test_words_of_the_service_that_differ_in_each_answer_are_not_each_a_line(journal):
    answers = [ManxueTransientError(f"HTTP 503: request {number}: was dropped") for number in range(20)]

    assert len(told(journal, *answers)) == 1


def test_trouble_of_another_kind_is_told_at_once(journal):
    lines = told(
        journal, ManxueTransientError("HTTP 503"), ManxueTransientError("no answer from h: timed out")
    )

    assert len(lines) == 2


def test_kinds_of_trouble_that_take_turns_do_not_fill_the_log(journal):
    answers = [
        ManxueTransientError(text) for text in ("HTTP 502", "HTTP 503: busy", "no answer from h: reset")
    ]

    assert [after for after, _, _ in told(journal, *answers * 8)] == [0.0, 30.0, 60.0, 630.0, 660.0, 690.0]


def test_the_end_of_an_outage_is_told_even_if_the_status_is_what_it_was(journal):
    lines = told(
        journal,
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


def test_a_single_hiccup_is_followed_by_no_line_about_its_end(journal):
    lines = told(journal, task("processing"), ManxueTransientError("HTTP 503"), task("processing"))

    assert [after for after, _, _ in lines] == [0.0, 30.0]


def test_a_hiccup_at_the_beginning_of_a_wait_that_is_taken_over_is_a_single_one_too():
    lines = told(
        StatusLog("proj_1", START, "processing"), ManxueTransientError("HTTP 503"), task("processing")
    )

    assert [after for after, _, _ in lines] == [0.0]


def test_separate_hiccups_do_not_add_up_to_an_outage(journal):
    hiccup = ManxueTransientError("HTTP 503")

    lines = told(journal, task("processing"), hiccup, task("processing"), hiccup, task("processing"))

    assert [after for after, _, _ in lines] == [0.0, 30.0]


@pytest.mark.parametrize(
    ("pause", "wish"),
    [
        (None, ""),
        (0.0, ", asked for a pause of 0 s"),
        (5400.0, ", asked for a pause of 5400 s"),
        (1.5, ", asked for a pause of 1.5 s"),
    ],
)
def test_the_pause_that_the_service_asks_for_is_told_uncut(journal, pause, wish):
    ((_, _, text),) = told(journal, ManxueRateLimitError("HTTP 429", pause))

    assert text == f"Video proj_1: no answer about the video yet: HTTP 429{wish} (after 0:00:00)"


def test_a_wait_that_is_taken_over_does_not_repeat_the_last_line():
    assert told(StatusLog("proj_1", START, "processing"), task("processing"), task("processing")) == []


@pytest.mark.parametrize("last_answer", ["", "queued", "HTTP 503"])
def test_a_wait_that_is_taken_over_tells_what_is_new(last_answer):
    assert len(told(StatusLog("proj_1", START, last_answer), task("processing"))) == 1


def test_the_last_answer_is_always_the_newest(journal):
    assert journal.last_answer == ""

    for answer in (task("queued"), ManxueTransientError("HTTP 503: a"), ManxueTransientError("HTTP 503: b")):
        journal.lines_for(answer, START)
        assert journal.last_answer == describe(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (task("queued", "pending"), "queued"),
        (task("failed", "expired"), "failed"),
        (task("processing", actual_duration=5.0), "processing"),
        (task("completed", video_url=URL), "completed"),
        (task("completed", video_url=URL, actual_duration=5.0), "completed, 5 s long"),
        (task("completed", actual_duration=0.0), "completed, 0 s long"),
        (task("unknown", "reviewing"), "unknown status 'reviewing'"),
        (ManxueResultMissingError("no URL"), "no URL"),
    ],
)
def test_an_answer_in_a_few_words(answer, words):
    assert describe(answer) == words


def test_no_line_holds_the_address_of_the_video(journal):
    ((_, _, text),) = told(journal, task("completed", video_url=URL, extra={"last_frame_url": URL}))

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
def test_a_length_of_time_is_written_in_hours(seconds, text):
    assert elapsed(seconds) == text


def test_unknown_words_that_count_are_told_once():
    journal = StatusLog("a", 0.0)
    words = [VideoTask("a", TaskStatus.UNKNOWN, f"rendering {percent}%") for percent in range(5)]
    assert [len(journal.lines_for(task, 30.0)) for task in words] == [1, 0, 0, 0, 0]
    assert "rendering 4%" in journal.last_answer


def test_failed_video_is_told_with_its_reason():
    journal = StatusLog("proj_1", 0.0)
    task = VideoTask("proj_1", TaskStatus.FAILED, error="the prompt is not allowed")
    [news] = journal.lines_for(task, 60.0)
    assert news.text == "Video proj_1: failed: the prompt is not allowed (after 0:01:00)"


def test_what_is_awaited_is_told_with_all_its_bounds():
    times = {"interval": 30.0, "started_at": START, "deadline": START + 10_800.4}

    assert announcement("2 videos", "at h.example", "on this worker", **times) == (
        "Waiting for 2 videos at h.example, on this worker: every 30 s, for 3:00:00 at most, until "
        "2027-01-15 11:00:00+00:00."
    )
