"""
The polling engine: times of polls, grace periods and outcomes of waits.

The rules and their reasons are in docs/engine.md.
"""

from __future__ import annotations

import itertools
import logging
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_manxue._core.deadline import (
    FINAL_POLL_WINDOW,
    MAX_OVERSHOOT,
    PollTimes,
    deadline_to_read,
    first_poll_at,
    first_polls,
)
from airflow_provider_manxue._core.poller import CONNECTION, Poller, grace_of
from airflow_provider_manxue._core.polling import (
    CREDENTIAL_PROBES,
    DEFAULT_POKE_INTERVAL,
    DEFAULT_TIMEOUT,
    GRACE_TIME,
    MAX_RETRY_AFTER,
    PollPolicy,
    next_credential_probe,
    quick_retry_delay,
)
from airflow_provider_manxue._core.wait_arguments import WaitArguments
from airflow_provider_manxue._core.wait_errors import affects_all_videos, video_failed
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueConnectionNotFoundError,
    ManxueError,
    ManxueInputError,
    ManxueInternalError,
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


def task(status, **fields):
    return VideoTask(id="v", status=TaskStatus(status), **{"status_word": status, **fields})


READY = task("completed", video_url=URL)
WITHOUT_URL = task("completed")
PROCESSING = task("processing")
OUTAGE = ManxueTransientError("HTTP 503")
THROTTLED = ManxueRateLimitError("HTTP 429")
UNKNOWN_ID = ManxueRefusedError("HTTP 404: no such task")
FORBIDDEN = ManxuePermissionError("HTTP 403")
REDIRECTED = ManxueRedirectError("HTTP 302")
REFUSED = ManxueAuthenticationError("HTTP 401")
NO_CONNECTION = ManxueConnectionNotFoundError("no such connection")
BAD_FIELD = ManxueConfigurationError("the host is empty")
UNEXPECTED = ManxueInternalError("unexpected KeyError")


def poller_of(*ids, timeout=3600.0, chance=0.5, interval=30.0, backoff=False, max_wait=None, **options):
    """Return a poller that began at START, without jitter by default."""
    return Poller(
        ids or ["v"],
        PollPolicy(interval, backoff, max_wait),
        started_at=START,
        deadline=START + timeout,
        first_poll_at=START,
        chance=(lambda: chance) if isinstance(chance, float) else None,
        **options,
    )


class Run:
    """A poller driven in virtual time, with immediate responses."""

    def __init__(self, poller, respond):
        self.poller, self.respond = poller, respond
        self.polls = []  # (seconds, id, whether the poll was final)
        self.now = START

    def until(self, seconds=float("inf")):
        for _ in range(10_000):
            if self.poller.done or self.poller.next_due - START > seconds:
                return self
            self.now = max(self.now, self.poller.next_due)
            for video, is_final in self.poller.take_due(self.now):
                self.polls.append((self.now - START, video, is_final))
                outcome = self.respond(self.now - START, video)
                self.poller.handle(video, outcome, sent_at=self.now, now=self.now)
        raise AssertionError("the wait did not end")

    @property
    def times(self):
        return [at for at, _, _ in self.polls]

    @property
    def end(self):
        return self.poller.outcomes["v"]


def run(outcome, **options):
    """Poll until the wait has ended. The outcome is the same for all polls, or a function of the seconds waited."""
    respond = outcome if callable(outcome) else lambda waited: outcome
    return Run(poller_of(**options), lambda waited, video: respond(waited)).until()


def pauses_of(outcomes, **options):
    """Return the delay in seconds after each outcome."""
    script = iter(outcomes)
    poller = poller_of(**options)
    pauses, now = [], START
    for outcome in script:
        poller.take_due(now)
        poller.handle("v", outcome, sent_at=now, now=now)
        pauses.append(poller.next_due - now)
        now = poller.next_due
    return pauses


def after(outcome, waited=0.0, **options):
    """Return a poller that has handled one outcome."""
    poller = poller_of(**options)
    poller.take_due(START + waited)
    poller.handle("v", outcome, sent_at=START + waited, now=START + waited)
    return poller


def test_default_interval_and_timeout():
    assert PollPolicy().interval == DEFAULT_POKE_INTERVAL == 30
    assert DEFAULT_TIMEOUT == 3 * 60 * 60


# --- outcomes of a response ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "processing", "unknown"])
def test_unfinished_video_is_polled_again(status):
    poller = after(task(status))

    assert (poller.next_due, poller.has_worked, poller.remaining) == (START + 30, True, ["v"])


def test_url_of_processing_video_is_no_success():
    assert not after(task("processing", video_url=URL)).done


@pytest.mark.parametrize("waited", [0, 1800, 3600, 99_999])
def test_completed_video_ends_the_wait_at_any_time(waited):
    poller = after(READY, waited)

    assert poller.outcomes == {"v": READY}
    assert poller.ended_at == {"v": START + waited}
    assert poller.final_status == "completed"


@pytest.mark.parametrize("waited", [0, 3600, 99_999])
def test_failed_video_ends_the_wait_with_reason(waited):
    error = after(task("failed", error="prompt is not allowed"), waited).outcomes["v"]

    assert type(error) is ManxueVideoFailedError
    assert "'v': prompt is not allowed" in str(error)


def test_failed_video_without_reason_names_the_status():
    assert "status 'expired'" in str(after(task("failed", status_word="expired")).outcomes["v"])
    assert "Usual causes" in str(video_failed("v", "x"))


@pytest.mark.parametrize(
    "error",
    [
        REDIRECTED,
        ManxueMediaTypeError("image"),
        ManxueInputError("id"),
        ManxueError("anything else"),
        REFUSED,
        BAD_FIELD,
        FORBIDDEN,
    ],
)
def test_permanent_error_ends_a_wait_that_never_worked(error):
    assert after(error).outcomes == {"v": error}


def test_response_after_the_end_is_ignored():
    poller = after(READY)
    poller.handle("v", OUTAGE, sent_at=START, now=START)

    assert poller.outcomes == {"v": READY}


def test_duplicate_id_is_polled_once():
    poller = poller_of("a", "b", "a")

    assert poller.remaining == ["a", "b"]
    assert poller.take_due(START) == [("a", False), ("b", False)]


def test_take_due_returns_at_most_the_given_number():
    poller = poller_of("a", "b", "c")

    assert [poller.take_due(START - 1), poller.take_due(START, 2), poller.take_due(START, 2)] == [
        [],
        [("a", False), ("b", False)],
        [("c", False)],
    ]
    assert poller.next_due is None


def test_poll_in_flight_counts_as_due_for_resumption():
    poller = poller_of("a", "b")
    poller.take_due(START, 1)
    poller.handle("a", PROCESSING, sent_at=START, now=START)
    poller.take_due(START + 1)

    assert poller.next_due == START + 30
    assert poller.resumes_at == START


# --- intervals ----------------------------------------------------------------------------------------------


def test_polls_follow_the_interval():
    assert pauses_of([PROCESSING] * 10, interval=45) == [45] * 10


def test_exponential_backoff_doubles_the_elapsed_time():
    assert pauses_of([PROCESSING] * 5, backoff=True) == [30, 60, 120, 240, 480]


def test_exponential_backoff_continues_after_restart():
    assert after(PROCESSING, 90, backoff=True).next_due == START + 90 + 120


def test_interval_unchanged_if_clock_is_set_back():
    assert PollPolicy(30, exponential_backoff=True).next_interval(-1000) == 30


def test_max_wait_bounds_the_interval():
    assert pauses_of([PROCESSING] * 4, backoff=True, max_wait=100) == [30, 60, 100, 100]
    assert pauses_of([PROCESSING], interval=60, max_wait=45) == [45]
    assert pauses_of([OUTAGE] * 4, max_wait=45) == [30, 45, 45, 45]


@pytest.mark.parametrize(
    "policy", [{"interval": 0}, {"interval": 0.1}, {"interval": -5}, {"max_wait": 0}, {"max_wait": -1}]
)
@pytest.mark.parametrize("outcome", [PROCESSING, OUTAGE, UNKNOWN_ID, THROTTLED, UNEXPECTED])
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_interval_is_never_below_one_second(policy, outcome, chance):
    assert after(outcome, chance=chance, **policy).next_due >= START + 1


def test_interval_of_one_second_is_allowed():
    assert pauses_of([PROCESSING] * 3, interval=1) == [1] * 3


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 27), (0.25, 28.5), (0.5, 30), (0.75, 31.5), (1.0, 33)])
@pytest.mark.parametrize("outcome", [PROCESSING, OUTAGE, UNKNOWN_ID, THROTTLED])
def test_interval_jitter_is_ten_percent(chance, pause, outcome):
    assert after(outcome, chance=chance).next_due - START == pytest.approx(pause)


def test_mean_interval_with_jitter_is_the_interval():
    pauses = [after(PROCESSING, chance=number / 1000).next_due - START for number in range(1001)]

    assert statistics.mean(pauses) == pytest.approx(30)


def test_waits_started_together_drift_apart():
    moments = {after(OUTAGE, chance=None).next_due for _ in range(50)}

    assert len(moments) > 40
    assert all(START + 27 <= moment <= START + 33 for moment in moments)


# --- outages and throttling ---------------------------------------------------------------------------------


def test_outage_backs_off_to_five_minutes():
    assert pauses_of([OUTAGE] * 7) == [30, 60, 120, 240, 300, 300, 300]


def test_interval_above_maximum_backoff_is_unchanged():
    assert pauses_of([OUTAGE] * 3, interval=600) == [600] * 3


@pytest.mark.parametrize("failures", [1, 2, 33, 34, 1000, 10**6])
def test_error_interval_is_bounded_after_many_failures(failures):
    assert 30 <= PollPolicy().error_interval(failures) <= 300
    assert PollPolicy(interval=1e300).error_interval(failures) == 1e300


def test_backoff_ends_with_a_response():
    outcomes = [OUTAGE, OUTAGE, OUTAGE, PROCESSING, OUTAGE, OUTAGE]

    assert pauses_of(outcomes) == [30, 60, 120, 30, 30, 60]


def test_backoff_ends_with_a_refused_id():
    assert pauses_of([OUTAGE, UNKNOWN_ID, OUTAGE]) == [30] * 3


def test_throttling_adds_no_backoff():
    """The rate limiter already slows all requests down."""
    assert pauses_of([THROTTLED] * 3) == [30] * 3


@pytest.mark.parametrize("error", [OUTAGE, THROTTLED, ManxueRateLimitError("HTTP 429", 86_400.0)])
def test_outage_of_any_length_lasts_until_the_deadline(error):
    assert type(run(error, timeout=36_000).end) is ManxueTimeoutError
    assert run(lambda waited: error if waited < 36_000 else READY, timeout=36_000).end is READY


@pytest.mark.parametrize("kind", [ManxueTransientError, ManxueRateLimitError])
@pytest.mark.parametrize(
    ("retry_after", "pause"),
    [(None, 30), (0.0, 30), (5.0, 30), (30.0, 31.5), (120.0, 121.5), (901.0, 901.5), (1e15, 901.5)],
)
def test_retry_after_is_a_floor_up_to_15_minutes(kind, retry_after, pause):
    assert pauses_of([kind("HTTP 429", retry_after)]) == [pytest.approx(pause)]


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_polls_after_retry_after_have_jitter(chance):
    (pause,) = pauses_of([ManxueRateLimitError("HTTP 429", 600.0)], chance=chance)

    assert pause == pytest.approx(600 + chance * 3)


def test_retry_after_applies_to_one_poll():
    outcomes = [ManxueRateLimitError("HTTP 429", 600.0), PROCESSING]

    assert pauses_of(outcomes) == [pytest.approx(601.5), 30]


def test_retry_after_of_one_video_delays_no_other():
    poller = poller_of("a", "b")
    poller.take_due(START)
    poller.handle("a", ManxueTransientError("HTTP 503", 600.0), sent_at=START, now=START)
    poller.handle("b", PROCESSING, sent_at=START, now=START)

    assert poller.take_due(START + 30) == [("b", False)]


# --- quick retries ------------------------------------------------------------------------------------------


def test_quick_retries_double_from_1_to_60_seconds():
    assert pauses_of([OUTAGE] * 8, quick_retries=True) == [1, 2, 4, 8, 16, 32, 60, 60]
    assert quick_retry_delay(10**6) == 60


@pytest.mark.parametrize("outcome", [OUTAGE, THROTTLED])
@pytest.mark.parametrize("options", [{"quick_retries": True}, {"to_read": ["v"]}])
def test_quick_retry_pending_until_next_response(outcome, options):
    poller = after(outcome, **options)
    assert poller.is_retrying

    poller.take_due(START + 1)
    poller.handle("v", PROCESSING, sent_at=START + 1, now=START + 1)
    assert not poller.is_retrying


@pytest.mark.parametrize("outcome", [READY, task("failed"), REDIRECTED])
def test_quick_retry_not_pending_after_the_end(outcome):
    poller = after(OUTAGE, quick_retries=True)
    poller.handle("v", outcome, sent_at=START + 1, now=START + 1)

    assert poller.done
    assert not poller.is_retrying


def test_quick_retry_waits_for_retry_after():
    assert pauses_of([ManxueRateLimitError("HTTP 429", 20.0)], quick_retries=True) == [pytest.approx(21.5)]


# --- the deadline -------------------------------------------------------------------------------------------


def test_wait_polls_at_each_interval_and_at_deadline():
    ran = run(PROCESSING, timeout=100)

    assert ran.polls == [
        (0, "v", False),
        (30, "v", False),
        (60, "v", False),
        (90, "v", False),
        (100, "v", True),
    ]
    assert type(ran.end) is ManxueTimeoutError
    assert ran.poller.not_polled == set()


@pytest.mark.parametrize("outcome", [PROCESSING, task("unknown"), OUTAGE, UNKNOWN_ID, THROTTLED, UNEXPECTED])
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_final_poll_is_at_the_deadline(outcome, chance):
    assert after(outcome, timeout=10, chance=chance).next_due == START + 10


def test_final_poll_is_a_second_after_the_last_poll():
    assert run(PROCESSING, timeout=60.5).times == [0, 30, 60, 61]


def test_timeout_of_zero_means_one_poll():
    assert run(READY, timeout=0).end is READY
    assert run(PROCESSING, timeout=0).times == [0]


@pytest.mark.parametrize("late", [0, 0.001, 5000])
def test_regular_poll_sent_late_is_final(late):
    poller = poller_of(timeout=10)

    assert poller.take_due(START + 10 + late) == [("v", True)]


def test_poll_sent_before_deadline_is_not_final():
    poller = poller_of(timeout=10)
    poller.take_due(START + 9)
    poller.handle("v", PROCESSING, sent_at=START + 9, now=START + 12)

    assert not poller.done
    assert poller.next_due == START + 13


@pytest.mark.parametrize("outcome", [OUTAGE, UNEXPECTED])
def test_final_poll_is_retried_for_15_seconds(outcome):
    ran = run(outcome, timeout=100)

    assert ran.times[-5:] == [100, 101, 103, 107, 115]
    assert FINAL_POLL_WINDOW == 15
    assert type(ran.end) is ManxueTimeoutError


@pytest.mark.parametrize(("outcome", "holds_slot"), [(OUTAGE, False), (THROTTLED, False), (THROTTLED, True)])
def test_final_poll_window_is_full_after_responses(outcome, holds_slot):
    ran = run(lambda waited: PROCESSING if waited < 100 else outcome, timeout=100, holds_slot=holds_slot)

    assert [at for at in ran.times if 100 <= at <= 115] == [100, 101, 103, 107, 115]


def test_final_poll_window_excludes_retry_after():
    pause = ManxueTransientError("HTTP 503", 1.0)

    assert run(lambda waited: pause if waited < 500 else READY, timeout=100).end is READY


@pytest.mark.parametrize(("latency", "ends"), [(0, False), (3, False), (7, True)])
def test_final_poll_window_includes_time_in_flight(latency, ends):
    """Two final polls and the delays after them, 1 s and 2 s, take 9 s or 17 s of the window of 15 s."""
    poller, now = poller_of(timeout=0), START
    for _ in range(2):
        poller.take_due(now)
        poller.handle("v", OUTAGE, sent_at=now, now=now + latency)
        now = poller.next_due or now

    assert poller.done is ends


def test_final_poll_completes_at_a_retry():
    assert run(lambda waited: READY if waited > 102 else OUTAGE, timeout=100).end is READY


def test_final_poll_moves_after_retry_after():
    pause = ManxueRateLimitError("HTTP 429", 600.0)
    ran = run(lambda waited: READY if waited > 100 else pause, timeout=100)

    assert ran.times == [0, 600]
    assert ran.end is READY


@pytest.mark.parametrize("kind", [ManxueTransientError, ManxueRateLimitError])
@pytest.mark.parametrize("holds_slot", [False, True])
def test_final_poll_with_retry_after_is_repeated_after_it(kind, holds_slot):
    pause = kind("HTTP 503", 600.0)
    ran = run(
        lambda waited: PROCESSING if waited < 100 else pause if waited == 100 else READY,
        timeout=100,
        holds_slot=holds_slot,
    )

    assert ran.times[-2:] == [100, 700]
    assert ran.end is READY


@pytest.mark.parametrize("kind", [ManxueRefusedError, ManxuePermissionError, ManxueRedirectError])
def test_pause_of_a_refusal_is_respected(kind):
    """A gateway or firewall that blocks requests can request one, too."""
    pause = kind("HTTP 403", 200.0)
    ran = run(lambda waited: PROCESSING if waited < 30 else pause if waited == 30 else READY)

    assert ran.times == [0, 30, 231.5]
    assert ran.end is READY


@pytest.mark.parametrize("kind", [ManxueRefusedError, ManxuePermissionError, ManxueRedirectError])
def test_grace_period_is_extended_to_the_end_of_a_pause(kind):
    ran = run(lambda waited: kind("HTTP 403", 500.0) if waited else PROCESSING)

    assert ran.times == [0, 30, 531.5]
    assert isinstance(ran.end, kind)


@pytest.mark.parametrize("kind", [ManxueRefusedError, ManxuePermissionError, ManxueRedirectError])
def test_missing_url_has_a_grace_period_of_its_own(kind):
    """The pause of a refusal has used up the grace period of the refusal."""
    pause = kind("HTTP 403", 500.0)
    ran = run(lambda waited: pause if waited == 0 else WITHOUT_URL if waited < 600 else READY)

    assert ran.times == [0, 501.5, 531.5, 561.5, 591.5, 621.5]
    assert ran.end is READY


def test_grace_periods_of_both_kinds_survive_the_process():
    refused, missing = after(UNKNOWN_ID), after(WITHOUT_URL)

    for poller, status in ((refused, ""), (missing, "completed")):
        assert poller.grace_since("v") == START
        assert grace_of("v", START, status) == poller.grace
    assert after(WITHOUT_URL, 299, grace=refused.grace).grace_since("v") == START + 299
    assert after(WITHOUT_URL, 299, grace=missing.grace).grace_since("v") == START
    assert after(WITHOUT_URL, 300, grace=missing.grace).done


@pytest.mark.parametrize("kind", [ManxuePermissionError, ManxueRedirectError])
def test_wait_that_has_not_worked_respects_a_requested_pause(kind):
    pause = kind("HTTP 403", 200.0)

    assert run(lambda waited: pause if waited == 0 else READY).end is READY
    for later in (pause, kind("HTTP 403")):
        ran = run(lambda waited, later=later: pause if waited == 0 else later)
        assert ran.times == [0, 201.5]
        assert isinstance(ran.end, kind)
    assert run(pause, grace_ends=False).times == [0]  # no process would know when to end it


def test_pause_of_a_video_that_has_ended_does_not_delay_others():
    poller = poller_of("a", "b", timeout=600)
    poller.take_due(START)
    poller.handle("a", ManxueRefusedError("HTTP 404", 900.0), sent_at=START, now=START)
    poller.handle("b", PROCESSING, sent_at=START, now=START)
    assert poller.resumes_at == START + 900

    poller.handle("a", READY, sent_at=START + 900, now=START + 900)
    assert poller.resumes_at == START + 30


@pytest.mark.parametrize("kind", [ManxueRefusedError, ManxuePermissionError, ManxueRedirectError])
def test_final_poll_moves_after_the_pause_of_a_refusal(kind):
    pause = kind("HTTP 403", 200.0)
    ran = run(lambda waited: PROCESSING if waited < 100 else pause if waited == 100 else READY, timeout=100)

    assert ran.times[-2:] == [100, 300]
    assert ran.end is READY


def test_final_poll_moves_by_at_most_20_minutes():
    ran = run(ManxueRateLimitError("HTTP 429", 500.0), timeout=100)

    assert ran.times[-1] <= 100 + MAX_OVERSHOOT == 1300
    assert type(ran.end) is ManxueTimeoutError


def test_final_poll_is_sent_at_the_maximum_overshoot():
    pauses = {100: ManxueRateLimitError("HTTP 429", 900.0), 1000: ManxueRateLimitError("HTTP 429", 300.0)}
    ran = run(lambda waited: pauses.get(waited, READY if waited > 1000 else PROCESSING), timeout=100)

    assert ran.times[-1] == 100 + MAX_OVERSHOOT
    assert ran.end is READY


@pytest.mark.parametrize(("late", "is_over"), [(0, False), (1, True)])
def test_pause_beyond_the_maximum_overshoot_ends_wait(late, is_over):
    poller = after(PROCESSING, timeout=100)
    poller.hold_until(START + 100 + MAX_OVERSHOOT + late)
    poller.give_up_overdue(START + 100)

    assert [type(outcome) for outcome in poller.outcomes.values()] == [ManxueTimeoutError] * is_over
    assert list(poller.ended_at.values()) == [START + 100] * is_over


def test_final_poll_window_restarts_after_retry_after():
    script = {100: ManxueRateLimitError("HTTP 429", 300.0)}
    ran = run(lambda waited: script.get(waited, OUTAGE if waited >= 100 else PROCESSING), timeout=100)

    assert ran.times[-6:] == [100, 400, 401, 403, 407, 415]


def test_throttled_final_poll_waits_for_rate_limiter():
    ran = run(lambda waited: THROTTLED if waited < 900 else READY, timeout=100)

    assert ran.end is READY


def test_throttled_final_poll_in_a_slot_is_bounded():
    ran = run(THROTTLED, timeout=100, holds_slot=True)

    assert ran.times[-1] == 115
    assert type(ran.end) is ManxueTimeoutError


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (PROCESSING, "Last status from the service: processing. The video"),
        (task("unknown", status_word="reviewing", error="why"), "unknown status 'reviewing': why."),
    ],
)
def test_timeout_error_names_last_status_and_remedy(outcome, message):
    error = str(run(outcome, timeout=3600).end)

    assert "'v' was not ready after 1:00:00" in error
    assert message in error
    assert "'timeout'" in error


def test_timeout_error_has_one_period_after_last_error():
    error = str(run(ManxueTransientError("The gateway is down."), timeout=100).end)

    assert "Last error: The gateway is down. The video" in error


def test_timeout_error_names_status_and_last_error():
    error = str(run(lambda waited: PROCESSING if waited < 50 else OUTAGE, timeout=100).end)

    assert "Last status from the service: processing. Last error: HTTP 503." in error


def test_timeout_error_without_response_has_no_status():
    poller = after(OUTAGE, timeout=100)
    assert poller.last_status("v") == ""

    poller.give_up(START + 100)
    assert "Last status from the service: none. Last error: HTTP 503." in str(poller.outcomes["v"])


def test_timeout_error_names_the_status_passed_on():
    poller = poller_of(last_statuses={"v": "queued"})
    poller.give_up(START + 100)

    assert "Last status from the service: queued." in str(poller.outcomes["v"])


def test_give_up_lists_videos_without_final_poll():
    poller = poller_of("a", "b")
    poller.take_due(START)
    poller.handle("a", READY, sent_at=START, now=START)
    poller.give_up(START + 9)

    assert poller.done
    assert poller.not_polled == {"b"}
    assert type(poller.outcomes["b"]) is ManxueTimeoutError
    assert poller.ended_at["b"] == START + 9


# --- grace periods of a video -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (UNKNOWN_ID, ManxueRefusedError),
        (WITHOUT_URL, ManxueResultMissingError),
        (FORBIDDEN, ManxuePermissionError),
        (REDIRECTED, ManxueRedirectError),
    ],
)
def test_video_error_is_tolerated_for_five_minutes(outcome, kind):
    ran = run(outcome, has_worked=True)

    assert ran.times == [30 * number for number in range(11)]
    assert type(ran.end) is kind


def test_exponential_backoff_applies_in_grace_period():
    assert run(UNKNOWN_ID, backoff=True).times == [0, 30, 90, 210, 300]


def test_grace_period_ends_with_a_poll():
    assert run(UNKNOWN_ID, interval=200).times == [0, 200, 300]


@pytest.mark.parametrize("chance", [0.0, 0.01, 0.5])
def test_grace_period_end_keeps_a_second_between_polls(chance):
    times = run(UNKNOWN_ID, interval=299.5, chance=chance).times

    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(times))


def test_grace_period_begins_with_first_refusal():
    poller = after(PROCESSING, 1000)
    poller.handle("v", UNKNOWN_ID, sent_at=START + 2000, now=START + 2000)
    poller.handle("v", UNKNOWN_ID, sent_at=START + 2299, now=START + 2299)
    assert not poller.done

    poller.handle("v", UNKNOWN_ID, sent_at=START + 2300, now=START + 2300)
    assert type(poller.outcomes["v"]) is ManxueRefusedError


def test_grace_period_continues_in_another_process():
    poller = poller_of("a", "b", "c", has_worked=True)
    poller.handle("a", UNKNOWN_ID, sent_at=START, now=START + 5)
    poller.handle("b", REFUSED, sent_at=START, now=START + 7)
    poller.handle("b", FORBIDDEN, sent_at=START, now=START + 8)
    assert poller.grace == {"a": START + 5, "b": START + 8, CONNECTION: START + 7}

    again = poller_of("a", "b", "c", has_worked=True, grace=poller.grace)
    assert again.grace == poller.grace
    again.handle("a", UNKNOWN_ID, sent_at=START, now=START + 304)
    assert again.remaining == ["a", "b", "c"]
    again.handle("a", UNKNOWN_ID, sent_at=START, now=START + 305)
    again.handle("c", REFUSED, sent_at=START, now=START + 307)
    assert again.done


def test_grace_period_ends_with_a_usable_response():
    poller = after(UNKNOWN_ID)
    poller.handle("v", PROCESSING, sent_at=START + 200, now=START + 200)

    assert poller.grace == {}


def test_grace_period_unaffected_by_an_outage():
    poller = after(OUTAGE)
    assert poller.grace == {}

    poller.handle("v", UNKNOWN_ID, sent_at=START + 100, now=START + 100)
    poller.handle("v", OUTAGE, sent_at=START + 200, now=START + 200)
    poller.handle("v", UNKNOWN_ID, sent_at=START + 400, now=START + 400)
    assert poller.done


def test_url_within_grace_period_completes():
    assert run(lambda waited: READY if waited > 200 else WITHOUT_URL).end is READY


def test_unknown_id_error_lists_likely_causes():
    assert str(run(UNKNOWN_ID).end) == (
        "The service does not return the video 'v': HTTP 404: no such task. Likely causes: the id is not one that the "
        "create call returned, it belongs to another API key, the task is older than the service stores records (about a "
        "day), or the connection's base URL has a wrong path."
    )


@pytest.mark.parametrize(
    ("reason", "message"),
    [(None, ""), ("the disk is full", " Reason from the service: the disk is full.")],
)
def test_missing_url_ends_with_its_own_error(reason, message):
    error = str(run(task("completed", error=reason)).end)

    assert error == (
        f"The video 'v' is completed, but the response has no URL of the video.{message} Report this id to the support of "
        f"the service."
    )


@pytest.mark.parametrize("outcome", [UNKNOWN_ID, FORBIDDEN, REDIRECTED])
def test_video_error_without_grace_end_lasts_to_deadline(outcome):
    ran = run(outcome, has_worked=True, grace_ends=False, timeout=1000)

    assert ran.times[-1] == 1000
    assert type(ran.end) is ManxueTimeoutError


def test_interval_unchanged_without_grace_end():
    ran = run(UNKNOWN_ID, grace_ends=False, interval=200, timeout=1000)

    assert ran.times == [0, 200, 400, 600, 800, 1000]


def test_unknown_id_at_final_poll_is_a_timeout():
    ran = run(UNKNOWN_ID, timeout=100)

    assert type(ran.end) is ManxueTimeoutError
    assert "HTTP 404" in str(ran.end)


@pytest.mark.parametrize("outcome", [FORBIDDEN, REDIRECTED])
def test_blocked_video_has_grace_beyond_deadline(outcome):
    ran = run(outcome, timeout=100, has_worked=True)

    assert ran.times == [0, 30, 60, 90, 100, 130, 160, 190, 220, 250, 280, 300]
    assert type(ran.end) is type(outcome)
    assert run(outcome, timeout=100, has_worked=True, holds_slot=True).times[-1] == 100


# --- videos that were seen completed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deadline", "now", "until"),
    [(1000, 0, 1000), (1000, 900, 1200), (1000, 1000, 1300), (1000, 1100, 1400), (1000, 5000, 2200)],
)
def test_deadline_to_read_is_five_minutes_from_now(deadline, now, until):
    assert deadline_to_read(deadline, now) == until


def test_video_to_read_has_a_later_deadline():
    poller = Poller(
        ["a", "b"],
        PollPolicy(),
        started_at=START,
        deadline=START + 100,
        first_poll_at=START + 100,
        to_read=["a"],
        chance=lambda: 0.5,
    )
    assert poller.take_due(START + 100) == [("a", False), ("b", True)]
    for video in "ab":
        poller.handle(video, PROCESSING, sent_at=START + 100, now=START + 100)

    assert poller.remaining == ["a"]


def test_completed_without_url_is_polled_after_deadline():
    ran = run(
        lambda waited: READY if waited > 300 else WITHOUT_URL if waited > 50 else PROCESSING, timeout=100
    )

    assert ran.end is READY
    assert ran.times[-1] > 300


def test_completed_without_url_fails_after_grace():
    ran = run(lambda waited: WITHOUT_URL if waited > 50 else PROCESSING, timeout=100)

    assert ran.times[-1] == 360
    assert type(ran.end) is ManxueResultMissingError


@pytest.mark.parametrize(("late", "ends"), [(299, False), (300, True)])
def test_video_to_read_outlasts_trouble_of_the_connection(late, ends):
    """The trigger can see the video 5 minutes after the deadline. A missing connection then leaves the worker 5 more."""
    poller = Poller(
        ["a", "b"],
        PollPolicy(),
        started_at=START - 500,
        deadline=START - 400,
        first_poll_at=START,
        to_read=["a"],
        has_worked=True,
    )
    poller.connection_failed(ManxueTransientError("the secrets backend is away"), START + late)

    assert poller.done is ends


# --- unknown status with a URL ------------------------------------------------------------------------------


def test_unknown_status_with_url_completes_in_5_minutes():
    ran = run(task("unknown", video_url=URL))

    assert ran.times[-1] == GRACE_TIME
    assert ran.end == task("completed", status_word="unknown", video_url=URL)


def test_unknown_status_with_url_completes_at_final_poll():
    ran = run(task("unknown", video_url=URL), timeout=100)

    assert ran.times[-1] == 100
    assert ran.end.status is TaskStatus.COMPLETED


def test_unknown_status_with_url_to_read_completes_at_once():
    """The trigger's final poll has decided that it is completed; the worker that reads the URL decides the same."""
    ran = run(task("unknown", video_url=URL), timeout=-5, to_read=["v"])

    assert ran.times == [0]
    assert ran.end.status is TaskStatus.COMPLETED


def test_unknown_status_without_url_restarts_the_grace():
    with_url, without = task("unknown", video_url=URL), task("unknown")
    ran = run(lambda waited: without if waited == 270 else with_url)

    assert ran.times[-1] == 600


# --- the connection -----------------------------------------------------------------------------------------


def test_connection_errors_affect_all_videos():
    """Each further poll over that connection would have the same result."""
    assert all(map(affects_all_videos, (REFUSED, BAD_FIELD, NO_CONNECTION)))
    assert not any(map(affects_all_videos, (FORBIDDEN, REDIRECTED, UNKNOWN_ID, OUTAGE, UNEXPECTED)))


@pytest.mark.parametrize("error", [REFUSED, BAD_FIELD])
def test_connection_error_ends_all_waits(error):
    poller = poller_of("a", "b")
    poller.handle("a", error, sent_at=START, now=START)

    assert poller.outcomes == {"a": error, "b": error}


def test_refused_credentials_are_probed_four_times():
    ran = run(REFUSED, has_worked=True)

    assert ran.times == [0, *CREDENTIAL_PROBES] == [0, 30, 60, 120, 300]
    assert ran.end is REFUSED


def test_credential_probes_go_on_without_grace_end():
    ran = run(REFUSED, has_worked=True, grace_ends=False, timeout=1200)

    assert ran.times == [0, 30, 60, 120, 300, 600, 900, 1200, 1500]


def test_key_refused_for_one_video_ends_only_that_video():
    poller = poller_of("a", "b", has_worked=True)
    for waited in (0, 299, 300):
        assert poller.remaining == ["a", "b"]
        poller.handle("a", REFUSED, sent_at=START + waited, now=START + waited)
        poller.handle("b", PROCESSING, sent_at=START + waited, now=START + waited)

    assert poller.outcomes == {"a": REFUSED}


@pytest.mark.parametrize("waited", [0, 29, 59, 60, 119, 299, 300, 9999])
def test_next_credential_probe_is_in_the_future(waited):
    ahead = [probe for probe in CREDENTIAL_PROBES if probe > waited + 1]

    assert next_credential_probe(waited) == (ahead[0] if ahead else None)


def test_refusal_since_five_minutes_ends_the_wait():
    error = ManxueAuthenticationError("HTTP 401")
    error.since = START
    poller = poller_of(has_worked=True)
    poller.connection_failed(error, START + 300)

    assert poller.outcomes == {"v": error}


def test_refusals_before_the_wait_do_not_end_the_wait():
    """The worker of this wait has just used the key. The triggerer remembers refusals of ten minutes ago."""
    error = ManxueAuthenticationError("HTTP 401")
    error.since = START - 600
    poller = poller_of(has_worked=True)
    poller.connection_failed(error, START + 20)

    assert poller.remaining == ["v"]
    assert poller.next_due == START + 30


@pytest.mark.parametrize("error", [NO_CONNECTION, BAD_FIELD])
def test_connection_error_has_grace_after_a_response(error):
    assert run(lambda waited: error if waited < 280 else READY, has_worked=True).end is READY
    ran = run(error, has_worked=True)
    assert ran.times[-1] == GRACE_TIME
    assert ran.end is error


def test_missing_connection_is_retried_for_25_seconds():
    ran = run(NO_CONNECTION)

    assert ran.times == [0, 4, 12, 25]
    assert ran.end is NO_CONNECTION
    assert run(lambda waited: NO_CONNECTION if waited < 20 else READY).end is READY


@pytest.mark.parametrize("has_worked", [False, True])
def test_missing_connection_is_retried_only_if_never_worked(has_worked):
    poller = poller_of(has_worked=has_worked)
    poller.connection_failed(NO_CONNECTION, START)

    assert poller.is_retrying is not has_worked


def test_last_lookup_in_grace_period_waits_a_second():
    poller = poller_of(has_worked=True)
    poller.connection_failed(NO_CONNECTION, START)
    poller.connection_failed(NO_CONNECTION, START + 299.5)

    assert poller.next_due == START + 300.5


def test_connection_error_delays_all_videos():
    poller = poller_of("a", "b", has_worked=True)
    poller.take_due(START, 1)
    poller.handle("a", REFUSED, sent_at=START, now=START)

    assert poller.take_due(START + 29) == []
    assert poller.next_due == poller.resumes_at == START + 30
    assert [video for video, _ in poller.take_due(START + 30)] == ["b", "a"]


def test_lift_pause_makes_polls_due_immediately():
    poller = after(REFUSED, has_worked=True)
    poller.lift_pause()

    assert poller.resumes_at == START + 30  # a resuming worker has its own rate limiter
    assert poller.take_due(START) == [("v", False)]


def test_connection_grace_ends_with_a_response():
    poller = after(REFUSED, has_worked=True)
    poller.handle("v", PROCESSING, sent_at=START + 30, now=START + 30)

    assert poller.grace == {}


@pytest.mark.parametrize("quick", [False, True])
def test_failed_lookup_is_retried(quick):
    poller = poller_of(quick_retries=quick)
    poller.connection_failed(ManxueTransientError("the secrets backend is away"), START)

    assert poller.next_due == START + (4 if quick else 30)
    assert poller.is_retrying == quick
    poller.connection_failed(ManxueTransientError("the secrets backend is away", 500.0), START + 30)
    assert poller.next_due == START + 530


@pytest.mark.parametrize("error", [OUTAGE, REFUSED])
def test_failed_lookup_after_the_end_changes_nothing(error):
    """The last final polls can be given up while the connection is looked up."""
    poller = after(READY)
    texts(poller, START)
    poller.connection_failed(error, START + 1)

    assert poller.outcomes == {"v": READY}
    assert poller.grace == {}
    assert texts(poller, START + 1) == []


def test_lookup_backoff_restarts_after_a_response():
    poller = poller_of(quick_retries=True)
    for waited, delay in [(0, 4), (100, 8)]:
        poller.connection_failed(OUTAGE, START + waited)
        assert poller.next_due == START + waited + delay
    poller.handle("v", PROCESSING, sent_at=START + 200, now=START + 200)
    poller.connection_failed(OUTAGE, START + 300)

    assert poller.next_due == START + 304


@pytest.mark.parametrize("error", [OUTAGE, REFUSED, NO_CONNECTION])
def test_timeout_error_names_the_connection_error(error):
    poller = poller_of(has_worked=True)
    poller.connection_failed(error, START)
    poller.give_up(START)

    assert f"Last error: {error}." in str(poller.outcomes["v"])


def test_last_poll_with_connection_trouble_is_at_its_end():
    """The interval of a rescheduled process must not delay the end of the wait (seed 10069215)."""
    ran = run(BAD_FIELD, has_worked=True, grace_ends=False, timeout=125)

    assert ran.times[-1] == 125 + GRACE_TIME


@pytest.mark.parametrize("error", [OUTAGE, NO_CONNECTION])
def test_connection_error_after_deadline_ends_the_wait(error):
    poller = poller_of(timeout=100, has_worked=True)
    poller.connection_failed(error, START + 399)
    assert not poller.done

    poller.connection_failed(error, START + 400)
    assert poller.not_polled == {"v"}
    assert str(error) in str(poller.outcomes["v"])


def test_connection_error_without_grace_end_lasts():
    ran = run(REFUSED, has_worked=True, grace_ends=False, timeout=3000)

    assert ran.times[-1] > 3000
    assert type(ran.end) is ManxueTimeoutError


# --- 403 in a batch -----------------------------------------------------------------------------------------


def test_forbidden_batch_ends_if_all_ids_are_forbidden():
    poller = poller_of("a", "b")
    poller.handle("a", FORBIDDEN, sent_at=START, now=START)
    poller.handle("a", FORBIDDEN, sent_at=START, now=START + 1)
    assert poller.remaining == ["a", "b"]

    poller.handle("b", FORBIDDEN, sent_at=START, now=START + 2)
    assert poller.outcomes == {"a": FORBIDDEN, "b": FORBIDDEN}


def test_forbidden_id_ends_alone_after_grace():
    poller = poller_of("a", "b")
    poller.handle("a", FORBIDDEN, sent_at=START, now=START)
    poller.handle("b", PROCESSING, sent_at=START, now=START)
    poller.handle("a", FORBIDDEN, sent_at=START, now=START + 299)
    assert poller.remaining == ["a", "b"]

    poller.handle("a", FORBIDDEN, sent_at=START, now=START + 300)
    assert poller.remaining == ["b"]


# --- unexpected exceptions ----------------------------------------------------------------------------------


def test_unexpected_error_ends_wait_after_five_minutes():
    ran = run(UNEXPECTED, has_worked=False)

    assert ran.times == [0, 30, 90, 165, 240, 315]
    assert ran.end is UNEXPECTED


@pytest.mark.parametrize("waited", [GRACE_TIME - 1, GRACE_TIME])
def test_unexpected_error_is_tolerated_for_five_minutes(waited):
    poller = after(UNEXPECTED)
    poller.handle("v", UNEXPECTED, sent_at=START + waited, now=START + waited)

    assert poller.done is (waited == GRACE_TIME)


def test_unexpected_error_of_one_video_ends_no_batch():
    poller = poller_of("a", "b", timeout=5000)
    ran = Run(poller, lambda waited, video: UNEXPECTED if video == "a" else PROCESSING).until(4900)

    assert poller.remaining == ["a", "b"]
    assert {video for _, video, _ in ran.polls[-10:]} == {"a", "b"}


# --- log lines -----------------------------------------------------------------------------------------------


def texts(poller, now):
    return [line.text.partition(" (")[0] for line in poller.pop_lines(now)]


@pytest.mark.parametrize(
    "outcome", [OUTAGE, UNKNOWN_ID, FORBIDDEN, REFUSED, NO_CONNECTION, PROCESSING, READY]
)
def test_each_change_is_logged_once(outcome):
    poller = after(outcome, has_worked=True)

    assert len(texts(poller, START)) == 1
    assert texts(poller, START) == []


def test_completed_without_url_is_logged_in_two_lines():
    poller = after(WITHOUT_URL)
    assert [text[:24] for text in texts(poller, START)] == ["Video v: completed", "Video v: no usable respo"]

    poller.handle("v", WITHOUT_URL, sent_at=START + 30, now=START + 30)
    assert texts(poller, START + 30) == []


def test_missing_url_in_grace_period_is_not_repeated():
    """The grace period began in another process, which has logged the missing URL."""
    poller = after(
        WITHOUT_URL, grace=grace_of("v", START - 30, "completed"), last_statuses={"v": "completed"}
    )

    assert texts(poller, START) == []


def test_other_error_in_grace_period_is_logged():
    poller = after(UNKNOWN_ID)
    poller.handle("v", OUTAGE, sent_at=START + 30, now=START + 30)

    assert texts(poller, START + 30)[1:] == ["Video v: no usable response yet: HTTP 503"]


def test_status_passed_on_is_not_logged_again():
    assert texts(after(PROCESSING, last_statuses={"v": "processing"}), START) == []


def test_connection_error_line_names_one_video():
    poller = poller_of("a", "b")
    poller.connection_failed(OUTAGE, START)

    assert texts(poller, START) == [
        "No usable response yet for some of the 2 videos, such as a: HTTP 503",
    ]


def test_error_line_of_a_batch_names_the_video():
    poller = poller_of("a", "b")
    poller.handle("b", OUTAGE, sent_at=START, now=START)

    assert texts(poller, START) == [
        "No usable response yet for some of the 2 videos, such as b: HTTP 503",
    ]


def test_no_line_is_lost_before_it_is_popped():
    """The line of the progress, and one of the connection, follow lines that are still pending."""
    poller = poller_of("a", "b", "c", has_worked=True)
    poller.handle("a", PROCESSING, sent_at=START, now=START)
    poller.handle("b", UNKNOWN_ID, sent_at=START + 8, now=START + 8)
    poller.connection_failed(OUTAGE, START + 9)

    assert [text.rpartition(": ")[2] for text in texts(poller, START + 10)] == [
        "no such task",
        "HTTP 503",
        "0 of 3 videos completed, 1 processing, 2 not polled yet",
    ]


def test_different_id_in_response_is_logged_once():
    poller = poller_of()
    lines = []
    for waited in (0, 30):
        other = task("processing", reported_id="w\n")
        poller.handle("v", other, sent_at=START + waited, now=START + waited)
        lines += [line for line in poller.pop_lines(START + waited) if line.level == logging.WARNING]

    assert [line.text for line in lines] == [
        "The service responded with the id 'w' to a poll of the video 'v'. The requested id is used."
    ]


def test_progress_is_logged_without_another_response():
    poller = poller_of("a", "b", "c")
    for video in "ab":
        poller.handle(video, READY, sent_at=START, now=START)
    assert texts(poller, START) == []
    assert poller.next_line_at == START + 10
    assert texts(poller, START + 9) == []
    assert texts(poller, START + 10) == ["2 of 3 videos completed, 1 not polled yet"]
    assert poller.next_line_at == float("inf")


# --- first polls --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("due", "timeout", "first"),
    [
        (30, 3600, 30),
        (1, 3600, 10),
        (9.99, 3600, 10),
        (10, 3600, 10),
        (5, 5, 5),
        (1, 7, 7),
        (900, 100, 900),
        (1, -5, 1),
        (-5, -5, 0),
    ],
)
def test_first_poll_leaves_the_scheduler_ten_seconds(due, timeout, first):
    """A trigger that fires immediately races with the scheduler, which must first store the deferral."""
    assert first_poll_at(START + due, START, START + timeout) == START + first


@pytest.mark.parametrize("early", [0, 5, 30])
def test_first_polls_as_planned_if_trigger_is_on_time(early):
    assert first_polls(START + 30, START + 30 - early, 30, START + 3600) == (START + 30, START + 30)


def test_first_polls_are_spread_if_trigger_is_late():
    assert first_polls(START + 30, START + 100, 30, START + 3600) == (START + 100, START + 130)


@pytest.mark.parametrize(("deadline", "last"), [(110, 110), (50, 100)])
def test_first_polls_of_late_trigger_end_at_deadline(deadline, last):
    assert first_polls(START + 30, START + 100, 30, START + deadline) == (START + 100, START + last)


def test_first_polls_of_a_batch_are_spread():
    """Batches that start together then share the rate limit instead of running one after the other."""
    chances = iter([0.9, 0.0, 0.5])
    poller = Poller(
        ["a", "b", "c"],
        PollPolicy(30),
        started_at=START,
        deadline=START + 3600,
        first_poll_at=START + 100,
        first_polls_until=START + 130,
        chance=lambda: next(chances),
    )
    assert poller.next_due == poller.resumes_at == START + 100
    assert poller.take_due(START + 100) == [("b", False)]
    assert poller.take_due(START + 115) == [("c", False)]
    assert poller.next_due == START + 127


def span(now, *, ends_at=START + 4500, execution_timeout=None):
    """Return the poll times of a wait of an hour with a margin of 15 minutes, as computed at ``now``."""
    arguments = WaitArguments(
        poke_interval=30.0, timeout=3600.0, defer_timeout_margin=900.0, execution_timeout=execution_timeout
    )
    return arguments.times_from_end(now, ends_at)


@pytest.mark.parametrize("late", [0.0, 5.0, 30.0])
def test_wait_started_in_triggerer_polls_immediately(late):
    assert span(START + late) == PollTimes(START, START + 3600, START + late, resumed_at=START + late)


@pytest.mark.parametrize("moment", [31, -60])
def test_wait_restarted_in_triggerer_was_due_at_start(moment):
    assert span(START + moment) == PollTimes(START, START + 3600, START, resumed_at=START + moment)


@pytest.mark.parametrize(
    ("execution_timeout", "ends_after", "deadline_after"),
    [(600.0, 600, 600), (3600.0, 3600, 3600), (4000.0, 4000, 3600), (9000.0, 4500, 3600)],
)
def test_execution_timeout_can_end_a_wait_earlier(execution_timeout, ends_after, deadline_after):
    seen = span(START, ends_at=START + ends_after, execution_timeout=execution_timeout)

    assert (seen.started_at, seen.deadline) == (START, START + deadline_after)


# --- random sequences of outcomes ------------------------------------------------------------------------------

OUTCOMES = [
    PROCESSING,
    task("queued"),
    task("unknown", video_url=URL),
    task("unknown"),
    WITHOUT_URL,
    READY,
    OUTAGE,
    THROTTLED,
    *(ManxueRateLimitError("HTTP 429", pause) for pause in (1.0, 40.0, 900.0, 90_000.0)),
    ManxueTransientError("HTTP 503", 100.0),
    *(ManxueRefusedError("HTTP 404", pause) for pause in (100.0, 90_000.0)),
    *(ManxuePermissionError("HTTP 403", pause) for pause in (100.0, 600.0)),
    UNKNOWN_ID,
    FORBIDDEN,
    REFUSED,
    NO_CONNECTION,
    BAD_FIELD,
    UNEXPECTED,
]


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    ids=st.sampled_from([["a"], ["a", "b"], ["a", "b", "c"]]),
    timeout=st.floats(0, 3000),
    interval=st.floats(0.1, 700),
    options=st.fixed_dictionaries(
        {
            "backoff": st.booleans(),
            "has_worked": st.booleans(),
            "grace_ends": st.booleans(),
            "quick_retries": st.booleans(),
            "holds_slot": st.booleans(),
            "to_read": st.sampled_from([(), ("a",)]),
            "chance": st.floats(0, 1),
        }
    ),
)
def test_any_wait_ends_and_holds_the_invariants(data, ids, timeout, interval, options):
    """Check each poll and each outcome of waits whose outcomes, latencies and times are drawn."""
    poller = poller_of(*ids, timeout=timeout, interval=interval, **options)
    outcomes = data.draw(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=4), "outcomes")
    latencies = data.draw(st.lists(st.sampled_from([0.0, 0.2, 20.0]), min_size=1, max_size=3), "latencies")
    seed = itertools.count()
    now, polled, paused, finals = START, {}, {}, set()
    for _ in range(50_000):
        if poller.done:
            break
        now = max(now, poller.next_due)
        ((video, is_final),) = poller.take_due(now, 1)
        # Each video keeps its own deadline: later, if it was seen completed.
        own_deadline = (
            START + timeout + (MAX_OVERSHOOT if video in options["to_read"] or WITHOUT_URL in outcomes else 0)
        )
        assert is_final or now < own_deadline
        assert now - polled.get(video, float("-inf")) >= 1 - 1e-6
        assert now >= paused.get(video, 0.0) - 1e-6
        polled[video] = now
        if now >= START + timeout:
            finals.add(video)
        number = next(seed)
        outcome = outcomes[number % len(outcomes)]
        sent_at, now = now, now + latencies[number % len(latencies)]
        if isinstance(outcome, ManxueError) and outcome.retry_after:
            paused[video] = now + min(outcome.retry_after, MAX_RETRY_AFTER)
        poller.handle(video, outcome, sent_at=sent_at, now=now)
    assert poller.done
    assert set(poller.outcomes) == set(ids)
    for video, outcome in poller.outcomes.items():
        if isinstance(outcome, ManxueTimeoutError):
            assert video in finals | poller.not_polled
    assert now <= START + timeout + MAX_OVERSHOOT + 2 * GRACE_TIME + MAX_RETRY_AFTER + 100 * len(ids)
