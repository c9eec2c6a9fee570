"""When a wait asks again, and when and how it ends."""

import itertools
import statistics

import pytest

from airflow_provider_manxue._core.polling import (
    DEFAULT_POKE_INTERVAL,
    DEFAULT_TIMEOUT,
    GRACE_TIME,
    MAX_ERROR_BACKOFF,
    MAX_RETRY_AFTER,
    AskAgain,
    Completed,
    Ended,
    PollPolicy,
    PollTimes,
    Wait,
    first_poll_at,
    poll_times_from_end,
    spread_first_poll,
    video_failed,
)
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueError,
    ManxueInputError,
    ManxueMediaTypeError,
    ManxuePermissionError,
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
URL = "https://cdn.example.com/a.mp4"

MIDDLE = itertools.repeat(0.5)


def task(status, **fields):
    return VideoTask(id="proj_1", status=TaskStatus(status), **{"status_word": status, **fields})


READY = task("completed", video_url=URL)
WITHOUT_URL = task("completed")
OUTAGE = ManxueTransientError("HTTP 503")
UNKNOWN_ID = ManxueRefusedError("HTTP 404: no such task")


def wait_of(*, timeout=3600.0, chance=MIDDLE, grace_since=None, last_answer="", **policy):
    """Make a wait that began at START; ``chance`` feeds its jitter, by default with none."""
    return Wait(
        "proj_1",
        PollPolicy(**policy),
        START,
        START + timeout,
        grace_since=grace_since,
        last_answer=last_answer,
        random=iter(chance).__next__,
    )


def pauses_of(wait, outcomes):
    """Feed each outcome at the moment that the decision before it named; return the pauses between."""
    now, pauses = START, []
    for outcome in outcomes:
        decision = wait.after(outcome, now)
        assert isinstance(decision, AskAgain)
        pauses.append(decision.at - now)
        now = decision.at
    return pauses


def end_of(wait, outcome, every=None):
    """Feed the same outcome until the wait ends; return its end and the seconds at which it was fed."""
    now, asked = START, []
    for _ in range(10_000):
        asked.append(now - START)
        decision = wait.after(outcome, now)
        if not isinstance(decision, AskAgain):
            return decision, asked
        now = decision.at if every is None else now + every
    raise AssertionError("the wait did not end")


def test_the_defaults_are_those_of_the_service():
    assert PollPolicy().interval == DEFAULT_POKE_INTERVAL == 30
    assert DEFAULT_TIMEOUT == 3 * 60 * 60


# --- what an answer leads to ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "processing", "unknown"])
def test_a_video_that_is_not_ready_is_asked_for_again(status):
    assert wait_of().after(task(status), START).at == START + 30


def test_a_url_before_the_end_is_not_success():
    assert isinstance(wait_of().after(task("processing", video_url=URL), START), AskAgain)


@pytest.mark.parametrize("after", [0, 1800, 3600, 99_999])
def test_a_video_that_is_ready_completes_the_wait_even_after_the_deadline(after):
    decision = wait_of().after(READY, START + after)

    assert isinstance(decision, Completed)
    assert decision.task is READY
    assert [news.text.partition(" (")[0] for news in decision.news] == ["Video proj_1: completed"]


@pytest.mark.parametrize("after", [0, 3600, 99_999])
def test_a_failed_video_ends_the_wait_with_the_words_of_the_service(after):
    decision = wait_of().after(task("failed", error="prompt is not allowed"), START + after)

    assert isinstance(decision, Ended)
    assert type(decision.error) is ManxueVideoFailedError
    assert "prompt is not allowed" in str(decision.error)
    assert "'proj_1'" in str(decision.error)


def test_a_failed_video_without_a_reason_is_told_with_the_word_of_the_service():
    decision = wait_of().after(task("failed", status_word="expired"), START)

    assert "status 'expired'" in str(decision.error)


def test_a_failed_video_is_told_with_the_usual_causes():
    assert "Usual causes" in str(video_failed("proj_1", "x"))


@pytest.mark.parametrize(
    "error",
    [
        ManxueAuthenticationError("401"),
        ManxuePermissionError("403"),
        ManxueRedirectError("302"),
        ManxueMediaTypeError("image"),
        ManxueInputError("id"),
        ManxueConfigurationError("host"),
        ManxueError("anything else"),
    ],
)
def test_an_error_that_time_does_not_heal_ends_the_wait_at_once(error):
    decision = wait_of().after(error, START)

    assert isinstance(decision, Ended)
    assert decision.error is error


def test_a_change_of_the_status_is_news_and_a_poll_is_none():
    wait = wait_of()
    answers = [task("queued"), task("queued"), task("processing"), task("processing")]

    assert [len(wait.after(answer, START).news) for answer in answers] == [1, 0, 1, 0]


def test_a_wait_that_is_taken_over_does_not_tell_the_same_news():
    assert wait_of(last_answer="processing").after(task("processing"), START).news == ()


@pytest.mark.parametrize("outcome", [OUTAGE, UNKNOWN_ID, WITHOUT_URL, task("unknown")])
def test_trouble_is_news(outcome):
    assert len(wait_of().after(outcome, START).news) == 1


# --- intervals ------------------------------------------------------------------------------------------


def test_polls_keep_the_interval():
    assert pauses_of(wait_of(interval=45), [task("processing")] * 10) == [45] * 10


def test_exponential_backoff_doubles_the_time_waited_from_poll_to_poll():
    assert pauses_of(wait_of(exponential_backoff=True), [task("processing")] * 5) == [30, 60, 120, 240, 480]


def test_exponential_backoff_needs_no_memory_of_earlier_polls():
    policy = PollPolicy(interval=30, exponential_backoff=True)

    assert wait_of(exponential_backoff=True).after(task("queued"), START + 90).at == START + 90 + 120
    assert policy.next_interval(90) == 120


def test_a_clock_that_was_set_back_does_not_shorten_the_interval():
    assert PollPolicy(interval=30, exponential_backoff=True).next_interval(-1000) == 30


def test_max_wait_bounds_the_interval():
    assert pauses_of(wait_of(exponential_backoff=True, max_wait=100), [task("processing")] * 4) == [
        30,
        60,
        100,
        100,
    ]
    assert pauses_of(wait_of(interval=60, max_wait=45), [task("processing")]) == [45]
    assert pauses_of(wait_of(max_wait=45), [OUTAGE] * 4) == [30, 45, 45, 45]


@pytest.mark.parametrize(
    "policy", [{"interval": 0}, {"interval": 0.1}, {"interval": -5}, {"max_wait": 0}, {"max_wait": -1}]
)
def test_no_setting_asks_more_often_than_once_a_second(policy):
    for outcome in (task("queued"), OUTAGE, UNKNOWN_ID):
        for chance in (0.0, 0.5, 1.0):
            assert wait_of(chance=itertools.repeat(chance), **policy).after(outcome, START).at >= START + 1


def test_a_second_is_allowed():
    assert pauses_of(wait_of(interval=1), [task("queued")] * 3) == [1] * 3


# --- jitter ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 27), (0.25, 28.5), (0.5, 30), (0.75, 31.5), (1.0, 33)])
def test_an_interval_is_spread_by_a_tenth_to_both_sides(chance, pause):
    for outcome in (task("processing"), OUTAGE, UNKNOWN_ID):
        assert wait_of(chance=[chance]).after(outcome, START).at - START == pytest.approx(pause)


def test_the_mean_interval_is_the_interval():
    chances = [number / 1000 for number in range(1001)]

    pauses = [wait_of(chance=[chance]).after(task("queued"), START).at - START for chance in chances]

    assert statistics.mean(pauses) == pytest.approx(30)


def test_waits_that_begin_together_drift_apart_by_themselves():
    moments = {Wait("proj_1", PollPolicy(), START, START + 3600).after(OUTAGE, START).at for _ in range(50)}

    assert len(moments) > 40
    assert all(START + 27 <= moment <= START + 33 for moment in moments)


# --- outages --------------------------------------------------------------------------------------------


def test_an_outage_is_asked_about_less_and_less_often_but_its_end_is_noticed():
    assert pauses_of(wait_of(), [OUTAGE] * 7) == [30, 60, 120, 240, 300, 300, 300]
    assert MAX_ERROR_BACKOFF == 300


def test_an_interval_longer_than_the_longest_backoff_stays():
    assert pauses_of(wait_of(interval=600), [OUTAGE] * 3) == [600] * 3


@pytest.mark.parametrize("failures", [1, 2, 33, 34, 1000, 10**6])
def test_the_number_of_failures_is_unbounded(failures):
    assert 30 <= PollPolicy().error_interval(failures) <= 300
    assert PollPolicy(interval=1e300).error_interval(failures) == 1e300


def test_an_answer_ends_the_backoff():
    answers = [OUTAGE, OUTAGE, OUTAGE, task("processing"), OUTAGE, OUTAGE]

    assert pauses_of(wait_of(), answers) == [30, 60, 120, 30, 30, 60]


@pytest.mark.parametrize(
    "error",
    [
        OUTAGE,
        ManxueRateLimitError("HTTP 429", 86_400.0),
        ManxueTransientError("no answer from h: connection refused"),
    ],
)
def test_an_outage_of_any_length_is_survived_until_the_deadline(error):
    end, asked = end_of(wait_of(timeout=36_000), error)

    assert type(end.error) is ManxueTimeoutError
    assert asked[-1] >= 36_000 - MAX_RETRY_AFTER
    assert isinstance(wait_of(timeout=36_000).after(READY, START + 35_999), Completed)


# --- Retry-After ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ManxueTransientError, ManxueRateLimitError])
@pytest.mark.parametrize(
    ("retry_after", "pause"),
    [
        (None, 30),
        (0.0, 30),
        (5.0, 30),
        (30.0, 31.5),
        (120.0, 121.5),
        (900.0, 901.5),
        (901.0, 901.5),
        (86_400.0, 901.5),
        (999_999_999_999_999.0, 901.5),
    ],
)
def test_retry_after_is_a_floor_up_to_a_cap(kind, retry_after, pause):
    assert pauses_of(wait_of(), [kind("HTTP 429", retry_after)]) == [pytest.approx(pause)]


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_no_one_comes_back_before_the_pause_and_not_all_at_once(chance):
    (pause,) = pauses_of(wait_of(chance=itertools.repeat(chance)), [ManxueRateLimitError("HTTP 429", 600.0)])

    assert pause == pytest.approx(600 + chance * 3)


def test_a_cut_pause_is_told_with_its_value():
    decision = wait_of().after(ManxueRateLimitError("HTTP 429", 86_400.0), START)

    assert "86400 s" in decision.news[0].text


def test_a_pause_holds_for_one_answer():
    outcomes = [ManxueRateLimitError("HTTP 429", 600.0), task("processing")]

    assert pauses_of(wait_of(), outcomes) == [pytest.approx(601.5), 30]


def test_a_pause_beyond_the_deadline_is_not_broken_for_a_last_poll():
    wait = wait_of(timeout=100)

    decision = wait.after(ManxueRateLimitError("HTTP 429", 600.0), START)

    assert decision.at >= START + 600
    assert decision.at > wait.deadline


def test_a_pause_to_just_before_the_deadline_leaves_the_last_poll_at_the_deadline():
    assert wait_of(timeout=600.5).after(ManxueRateLimitError("HTTP 429", 600.0), START).at == START + 600.5
    assert wait_of(timeout=600).after(ManxueRateLimitError("HTTP 429", 600.0), START).at == START + 600


# --- the deadline ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [task("processing"), task("unknown"), OUTAGE, UNKNOWN_ID, WITHOUT_URL])
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_the_last_poll_is_at_the_deadline(outcome, chance):
    decision = wait_of(timeout=10, chance=itertools.repeat(chance)).after(outcome, START)

    assert decision.at == START + 10


@pytest.mark.parametrize("outcome", [task("processing"), task("unknown"), OUTAGE, UNKNOWN_ID, WITHOUT_URL])
@pytest.mark.parametrize("late", [0, 0.001, 5000])
def test_a_video_that_is_not_ready_at_the_deadline_ends_the_wait(outcome, late):
    end = wait_of(timeout=10).after(outcome, START + 10 + late)

    assert len(end.news) == 1, "what the last answer was is told all the same"

    assert isinstance(end, Ended)
    assert type(end.error) is ManxueTimeoutError


def test_a_whole_wait_polls_at_each_interval_and_at_its_deadline():
    end, asked = end_of(wait_of(timeout=100), task("processing"))

    assert asked == [0, 30, 60, 90, 100]
    assert type(end.error) is ManxueTimeoutError


def test_a_timeout_of_nothing_means_one_poll():
    assert isinstance(wait_of(timeout=0).after(READY, START), Completed)
    assert type(wait_of(timeout=0).after(task("queued"), START).error) is ManxueTimeoutError


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (task("processing"), "Last answer of the service: processing."),
        (task("unknown", status_word="reviewing"), "Last answer of the service: unknown status 'reviewing'."),
        (ManxueTransientError("HTTP 503: busy"), "Last answer of the service: HTTP 503: busy."),
    ],
)
def test_a_timeout_names_the_last_answer_and_the_remedy(outcome, words):
    wait = wait_of(timeout=3600)
    wait.after(task("queued"), START)

    error = str(wait.after(outcome, START + 3600).error)

    assert "'proj_1' was not ready after 1:00:00" in error
    assert words in error
    assert "'timeout'" in error


@pytest.mark.parametrize(("last_answer", "words"), [("", "none"), ("processing", "processing")])
def test_a_timeout_before_any_poll_names_what_was_handed_over(last_answer, words):
    assert f"Last answer of the service: {words}." in str(wait_of(last_answer=last_answer).timed_out())


# --- the grace time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "kind"), [(UNKNOWN_ID, ManxueRefusedError), (WITHOUT_URL, ManxueResultMissingError)]
)
def test_what_may_be_a_write_that_is_not_visible_yet_is_asked_about_for_five_minutes(outcome, kind):
    end, asked = end_of(wait_of(), outcome)

    assert asked == [30 * number for number in range(11)]
    assert asked[-1] == GRACE_TIME == 300
    assert type(end.error) is kind


def test_exponential_backoff_goes_on_within_the_grace_time():
    _, asked = end_of(wait_of(exponential_backoff=True), UNKNOWN_ID)

    assert asked == [0, 30, 90, 210, 300]


def test_the_last_poll_of_the_grace_time_is_at_its_end():
    _, asked = end_of(wait_of(interval=200), UNKNOWN_ID)

    assert asked == [0, 200, 300]


@pytest.mark.parametrize("chance", [0.0, 0.01, 0.5])
def test_the_end_of_the_grace_time_is_not_a_burst_of_polls(chance):
    _, asked = end_of(wait_of(interval=299.5, chance=itertools.repeat(chance)), UNKNOWN_ID)

    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(asked))


def test_the_grace_time_begins_with_the_first_refusal():
    wait = wait_of()
    wait.after(task("processing"), START + 1000)
    wait.after(UNKNOWN_ID, START + 2000)

    assert isinstance(wait.after(UNKNOWN_ID, START + 2299.9), AskAgain)
    assert isinstance(wait.after(UNKNOWN_ID, START + 2300), Ended)


def test_the_grace_time_of_a_wait_that_is_taken_over_goes_on():
    wait = wait_of(grace_since=START)

    assert isinstance(wait.after(UNKNOWN_ID, START + 299), AskAgain)
    assert isinstance(wait.after(UNKNOWN_ID, START + 300), Ended)


def test_the_beginning_of_the_grace_time_can_be_handed_over():
    wait = wait_of()

    wait.after(task("processing"), START)
    assert wait.grace_since is None

    wait.after(WITHOUT_URL, START + 30)
    wait.after(UNKNOWN_ID, START + 60)
    assert wait.grace_since == START + 30


def test_an_answer_about_the_video_ends_the_grace_time():
    wait = wait_of()
    wait.after(UNKNOWN_ID, START)
    wait.after(task("processing"), START + 200)

    assert wait.grace_since is None
    assert isinstance(wait.after(UNKNOWN_ID, START + 400), AskAgain)


def test_an_outage_neither_begins_nor_ends_the_grace_time():
    wait = wait_of()
    wait.after(OUTAGE, START)
    assert wait.grace_since is None

    wait.after(UNKNOWN_ID, START + 100)
    wait.after(OUTAGE, START + 200)
    assert isinstance(wait.after(UNKNOWN_ID, START + 400), Ended)


def test_a_url_within_the_grace_time_completes_the_wait():
    wait = wait_of()
    wait.after(WITHOUT_URL, START)

    assert isinstance(wait.after(READY, START + 299), Completed)


def test_an_id_that_stays_unknown_ends_with_the_likely_causes():
    end, _ = end_of(wait_of(), UNKNOWN_ID)

    for part in (
        "'proj_1'",
        "HTTP 404: no such task",
        "create call",
        "another API key",
        "about a day",
        "wrong path",
    ):
        assert part in str(end.error)


def test_a_url_that_stays_away_ends_with_an_error_of_its_own():
    end, _ = end_of(wait_of(), WITHOUT_URL)

    assert "'proj_1' is completed, but its answer holds no URL" in str(end.error)
    assert "another API key" not in str(end.error)


# --- the first poll of a trigger ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decided", "timeout", "first"),
    [
        (30.0, 3600.0, 30.0),
        (1.0, 3600.0, 10.0),
        (9.99, 3600.0, 10.0),
        (10.0, 3600.0, 10.0),
        (5.0, 5.0, 5.0),
        (1.0, 7.0, 7.0),
        (900.0, 100.0, 900.0),
    ],
)
def test_a_trigger_leaves_the_scheduler_time_before_its_first_poll_unless_the_deadline_comes(
    decided, timeout, first
):
    assert first_poll_at(AskAgain(START + decided), START, START + timeout) == START + first


def test_a_trigger_that_starts_in_time_polls_as_planned():
    for early in (0, 5, 30):
        assert spread_first_poll(START + 30, START + 30 - early, 30, START + 3600, 0.9) == START + 30


@pytest.mark.parametrize(("chance", "first"), [(0.0, 100), (0.5, 115), (1.0, 130)])
def test_a_trigger_that_starts_late_spreads_its_first_poll_over_the_interval(chance, first):
    assert spread_first_poll(START + 30, START + 100, 30, START + 3600, chance) == START + first


def test_a_late_trigger_polls_at_its_deadline_at_the_latest():
    assert spread_first_poll(START + 30, START + 100, 30, START + 110, 1.0) == START + 110


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_a_trigger_that_starts_after_its_deadline_polls_at_once(chance):
    assert spread_first_poll(START + 30, START + 100, 30, START + 50, chance) == START + 100


def test_a_pause_beyond_the_deadline_survives_the_handing_over():
    decision = AskAgain(START + 900)
    planned = first_poll_at(decision, START, START + 100)

    assert spread_first_poll(planned, START + 20, 30, START + 100, 0.5) == START + 900


# --- a wait that begins in the triggerer ---------------------------------------------------------------


def span(now, *, ends_at=START + 4500, execution_timeout=None):
    """Return the times of a wait of an hour with a margin of a quarter of one, as they are seen at a moment."""
    return poll_times_from_end(
        ends_at, now, timeout=3600.0, margin=900.0, execution_timeout=execution_timeout, interval=30.0
    )


@pytest.mark.parametrize("late", [0.0, 5.0, 30.0])
def test_a_wait_that_begins_in_the_triggerer_asks_at_once(late):
    assert span(START + late) == PollTimes(START, START + 3600, START + late, resumed_at=START + late)


def test_a_wait_that_is_found_again_was_due_at_its_beginning():
    assert span(START + 31) == PollTimes(START, START + 3600, START, resumed_at=START + 31)


def test_a_clock_that_was_set_back_lets_no_wait_begin_before_its_beginning():
    assert span(START - 60) == PollTimes(START, START + 3600, START, resumed_at=START - 60)


@pytest.mark.parametrize(
    ("execution_timeout", "ends_after", "deadline_after"),
    [(600.0, 600, 600), (3600.0, 3600, 3600), (4000.0, 4000, 3600), (9000.0, 4500, 3600)],
)
def test_execution_timeout_may_end_a_wait_earlier(execution_timeout, ends_after, deadline_after):
    seen = span(START, ends_at=START + ends_after, execution_timeout=execution_timeout)

    assert (seen.started_at, seen.deadline) == (START, START + deadline_after)


def test_end_of_a_video_that_failed_has_its_line_for_the_log():
    end = wait_of().after(task("failed", error="bad prompt"), START + 60)
    assert isinstance(end, Ended)
    assert ["bad prompt" in news.text for news in end.news] == [True]
