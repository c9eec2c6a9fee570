"""
The sensor in each mode: results, intervals, timeouts, outages, refusals and skipping.

The rules and their reasons are in docs/waiting.md.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from datetime import timedelta

import pytest

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_manxue._core.deadline import DEFER_TIMEOUT_MARGIN, FINAL_POLL_WINDOW, MAX_OVERSHOOT
from airflow_provider_manxue._core.events import completed_event
from airflow_provider_manxue._core.worker_pass import PATIENCE
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
from airflow_provider_manxue.sensors.manxue import ManxueVideoSensor
from tests.support.fake_airflow import START

DONE = {
    "object": "video",
    "created": 1761635478,
    "model": "sd2_manxue_1080p",
    "status": "completed",
    "video_url": "https://cdn.example.com/v.mp4?signature=secret",
    "actualDuration": "5.17",
    "error": None,
    "totalTokens": 7,
}
RESULT = {"id": "proj_1", **DONE, "actualDuration": 5.17}
MODES = {
    "deferred": {"deferrable": True},
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
}


def sensor(mode="deferred", **kwargs):
    return ManxueVideoSensor(task_id="wait", **{"video_task_id": "proj_1", **MODES[mode], **kwargs})


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


class TestResult:
    def test_result_is_the_same_in_every_mode(self, fake_airflow, service, mode):
        service.respond_with("queued", "processing", "processing", DONE)
        fake_airflow.run(sensor(mode))
        assert fake_airflow.ti.xcom == {
            "video_url": DONE["video_url"],
            "actualDuration": 5.17,
            "return_value": RESULT,
        }

    def test_result_of_completed_video_needs_no_deferral(self, fake_airflow, service, mode):
        service.respond_with(DONE)
        assert fake_airflow.run(sensor(mode)) == RESULT
        assert fake_airflow.ti.xcom["video_url"] == DONE["video_url"]
        assert service.polled_at == [0]

    def test_result_without_duration_from_the_service(self, fake_airflow, service, mode):
        service.respond_with("queued", {**DONE, "actualDuration": None})
        fake_airflow.run(sensor(mode))
        assert fake_airflow.ti.xcom["actualDuration"] is None

    def test_result_is_not_pushed_without_do_xcom_push(self, fake_airflow, service):
        service.respond_with(DONE)
        fake_airflow.run(sensor(do_xcom_push=False))
        assert set(fake_airflow.ti.xcom) == {"return_value"}  # Airflow does not push it either

    def test_event_and_trigger_have_no_url(self, fake_airflow, service):
        service.respond_with("queued", DONE)
        fake_airflow.run(sensor())
        assert fake_airflow.events == [
            {
                "version": 1,
                "status": "completed",
                "video_task_id": "proj_1",
                "last_answer": "completed, 5.17 s long",
            }
        ]
        assert "secret" not in str(fake_airflow.deferrals[0].trigger.serialize())


class TestInterval:
    def test_interval_is_poke_interval(self, fake_airflow, service, mode):
        service.respond_with("queued", "queued", "queued", DONE)
        fake_airflow.run(sensor(mode, poke_interval=60))
        assert service.polled_at[:4] == [0, 60, 120, 180]

    def test_interval_is_thirty_seconds_by_default(self, fake_airflow, service, mode):
        service.respond_with("queued", DONE)
        fake_airflow.run(sensor(mode))
        assert service.polled_at[:2] == [0, 30]

    def test_interval_doubles_up_to_max_wait(self, fake_airflow, service, mode):
        service.respond_with(*["queued"] * 5, DONE)
        fake_airflow.run(sensor(mode, exponential_backoff=True, max_wait=timedelta(seconds=100)))
        assert service.polled_at[:6] == [0, 30, 90, 190, 290, 390]

    @pytest.mark.parametrize("mode", ["deferred", "reschedule"])
    def test_first_poll_leaves_the_scheduler_ten_seconds(self, fake_airflow, service, mode):
        """A task that resumes earlier can be taken for killed (seen on Airflow 3.3.2, see ``MIN_FIRST_POLL_DELAY``)."""
        service.respond_with("queued", DONE)
        with pytest.warns(UserWarning, match="poke_interval=2 is short"):
            fake_airflow.run(sensor(mode, poke_interval=2))
        assert service.polled_at[:2] == [0, 10]

    def test_late_trigger_spreads_its_first_poll(self, fake_airflow, service, clock):
        """A restarted triggerer starts thousands of waits at once. The mean of the spread is half of an interval."""
        service.respond_with("queued", DONE)
        task = sensor(poke_interval=60)
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(fake_airflow.context)
        clock.now += 600
        fake_airflow.run_deferred(task, deferred.value)
        assert service.polled_at[1] == 630

    def test_interval_of_zero_makes_no_tight_loop(self, fake_airflow, service):
        service.respond_with("queued")
        with pytest.warns(UserWarning, match="short"), pytest.raises(ManxueTimeoutError):
            fake_airflow.run(
                sensor("poke", poke_interval=0, max_wait=0, exponential_backoff=True, timeout=20)
            )
        assert len(service.polled_at) <= 25


class TestTimeout:
    def test_timeout_names_id_and_last_status(self, fake_airflow, service, mode):
        service.respond_with("queued", "processing")
        with pytest.raises(AirflowSensorTimeout, match=r"proj_1.*0:05:00.*processing") as raised:
            fake_airflow.run(sensor(mode, timeout=300))
        assert isinstance(raised.value, ManxueTimeoutError)
        assert fake_airflow.clock.now - START == pytest.approx(300, abs=1)

    def test_timeout_is_preceded_by_a_final_poll(self, fake_airflow, service, mode):
        service.respond_with(lambda waited: DONE if waited >= 100 else "processing")
        fake_airflow.run(sensor(mode, timeout=100, poke_interval=60))
        assert service.polled_at[-1] == pytest.approx(100)

    def test_timeout_names_an_outage_as_last_error(self, fake_airflow, service, mode):
        service.respond_with("queued", ManxueTransientError("no response from host: connection refused"))
        with pytest.raises(ManxueTimeoutError, match="connection refused"):
            fake_airflow.run(sensor(mode, timeout=120))

    def test_timeout_waits_for_retry_after(self, fake_airflow, service, mode):
        service.respond_with("queued", ManxueRateLimitError("HTTP 429", retry_after=600), DONE)
        assert fake_airflow.run(sensor(mode, timeout=120)) == RESULT
        assert service.polled_at[:3] == [0, 30, 630]

    def test_timeout_is_at_most_20_minutes_late(self, fake_airflow, service, mode):
        """The service may repeat its ``Retry-After`` forever."""
        service.respond_with("queued", ManxueRateLimitError("HTTP 429", retry_after=600))
        with pytest.raises(ManxueTimeoutError, match="429"):
            fake_airflow.run(sensor(mode, timeout=120))
        assert service.polled_at == [0, 30, 630, 1230]
        assert fake_airflow.clock.now - START <= 120 + MAX_OVERSHOOT

    @pytest.mark.parametrize("mode", ["poke", "deferred"])
    def test_timeout_is_not_early_if_clock_is_set_back(self, fake_airflow, service, clock, mode, monkeypatch):
        # The clock of the machine is set back by 0.1 s each second.
        monkeypatch.setattr(clock, "time", lambda: START + 0.9 * clock.elapsed)
        service.respond_with("queued")
        with pytest.raises(ManxueTimeoutError):
            fake_airflow.run(sensor(mode, timeout=120))
        assert clock.time() == pytest.approx(START + 120, abs=1e-3)
        assert 0.9 * service.polled_at[-1] == pytest.approx(120, abs=1e-3)

    def test_retry_after_on_the_worker_is_followed_by_a_poll(self, fake_airflow, service):
        service.respond_with(ManxueRateLimitError("HTTP 429", retry_after=600), "processing")
        with pytest.raises(ManxueTimeoutError, match="processing"):
            fake_airflow.run(sensor(timeout=120))
        assert service.polled_at == [0, 600]
        assert service.polled_from == ["worker", "triggerer"]

    def test_defer_timeout_is_later_than_the_deadline(self, fake_airflow, service):
        """The trigger ends the wait itself, with a final poll. Airflow's own timeout would drop the state of the wait."""
        service.respond_with("queued")
        with pytest.raises(TaskDeferred) as deferred:
            sensor(timeout=600).execute(fake_airflow.context)
        assert deferred.value.timeout == timedelta(seconds=600 + DEFER_TIMEOUT_MARGIN)

    def test_execution_timeout_bounds_a_deferred_wait(self, fake_airflow, service):
        service.respond_with("queued")
        with pytest.raises(AirflowTaskTimeout, match="queued"):
            fake_airflow.run(sensor(timeout=600, execution_timeout=timedelta(seconds=100)))
        assert service.polled_at[-1] == pytest.approx(100)

    def test_execution_timeout_is_left_to_airflow_in_other_modes(self, fake_airflow, service):
        service.respond_with("queued")
        for other in ("poke", "reschedule"):
            with pytest.raises(ManxueTimeoutError):
                fake_airflow.run(sensor(other, timeout=100, execution_timeout=timedelta(seconds=50)))


def away_from_the_worker(service, until):
    """Return a response for each poll: the service is unreachable only for the resumed worker, until a time."""

    def response(waited):
        if len(service.polled_at) == 1:
            return "queued"
        is_away = service.polled_from[-1] == "worker" and waited < until
        return ManxueTransientError("HTTP 503") if is_away else DONE

    return response


class TestOutage:
    @pytest.mark.parametrize("seconds", [600, 7200])
    def test_outage_of_any_length_is_survived(self, fake_airflow, service, mode, seconds):
        errors = [
            ManxueTransientError("no response from host: connection refused"),
            ManxueTransientError("HTTP 503"),
            ManxueTransientError("HTTP 200 with a body that is not a JSON object"),
        ]
        service.respond_with(
            "processing",
            lambda waited: DONE if waited > seconds else errors[int(waited / 30) % len(errors)],
        )
        assert fake_airflow.run(sensor(mode)) == RESULT

    def test_outage_backs_off_to_five_minutes(self, fake_airflow, service):
        service.respond_with(
            "processing", lambda waited: DONE if waited > 3000 else ManxueTransientError("HTTP 503")
        )
        fake_airflow.run(sensor("poke"))
        gaps = [
            later - earlier for earlier, later in zip(service.polled_at, service.polled_at[1:], strict=False)
        ]
        assert gaps[:6] == [30, 30, 60, 120, 240, 300]
        assert set(gaps[5:]) == {300}

    def test_short_outage_is_retried_by_the_resumed_worker(self, fake_airflow, service):
        service.respond_with("processing", DONE, ManxueTransientError("HTTP 503"), DONE)
        assert fake_airflow.run(sensor()) == RESULT
        assert service.polled_at == [0, 30, 30, 31]
        assert service.polled_from == ["worker", "triggerer", "worker", "worker"]

    def test_outage_on_resumption_loses_no_completed_video(self, fake_airflow, service):
        service.respond_with(away_from_the_worker(service, until=70))
        assert fake_airflow.run(sensor(timeout=20)) == RESULT
        assert service.polled_from[:2] == ["worker", "triggerer"]
        assert service.polled_from[-2:] == ["triggerer", "worker"]
        second = fake_airflow.deferrals[1].trigger
        assert second.arguments.deadline - second.arguments.started_at == 320
        assert service.polled_at[-1] <= 20 + 300

    def test_outage_holds_the_slot_for_at_most_30_seconds(self, fake_airflow, service):
        service.respond_with(away_from_the_worker(service, until=70))
        fake_airflow.run(sensor(timeout=20))
        by_worker = [
            at for at, side in zip(service.polled_at, service.polled_from, strict=True) if side == "worker"
        ]
        assert by_worker[1:6] == [20, 21, 23, 27, 35], "the next retry, at 51 s, would come too late"
        assert by_worker[6] >= 45

    def test_outage_seen_only_by_workers_ends_with_a_timeout(self, fake_airflow, service):
        service.respond_with(away_from_the_worker(service, until=float("inf")))
        with pytest.raises(ManxueTimeoutError, match="503"):
            fake_airflow.run(sensor(timeout=20))
        # A pass over the deadline may end, and the next pass has another window.
        assert 20 + 1200 <= service.polled_at[-1] <= 20 + 1200 + PATIENCE + FINAL_POLL_WINDOW

    def test_outage_on_resumption_defers_to_same_deadline(self, fake_airflow, service):
        service.respond_with(away_from_the_worker(service, until=60))
        assert fake_airflow.run(sensor(timeout=600)) == RESULT
        first, second = (deferral.trigger.arguments for deferral in fake_airflow.deferrals)
        assert (first.started_at, first.deadline) == (second.started_at, second.deadline)

    def test_retry_after_is_respected(self, fake_airflow, service, mode):
        service.respond_with("queued", ManxueRateLimitError("HTTP 429", retry_after=200), DONE)
        fake_airflow.run(sensor(mode))
        assert 230 <= service.polled_at[2] <= 235

    def test_retry_after_is_capped_at_fifteen_minutes(self, fake_airflow, service, mode):
        service.respond_with("queued", ManxueRateLimitError("HTTP 429", retry_after=1e9), DONE)
        fake_airflow.run(sensor(mode))
        assert 930 <= service.polled_at[2] <= 935


# Errors in `MAY_BE_SLOW_WRITE` have a grace period from the start, those in `MAY_PASS` only after a usable response.

MAY_BE_SLOW_WRITE = [
    (ManxueRefusedError("HTTP 404"), ManxueRefusedError, "Likely causes"),
    (
        ManxueRefusedError("HTTP 200 with the error code 500: No handler found"),
        ManxueRefusedError,
        "wrong path",
    ),
    ({**DONE, "video_url": None}, ManxueResultMissingError, "has no URL"),
]

MAY_PASS = [
    ManxueAuthenticationError("the service refused the API key"),
    ManxuePermissionError("forbidden"),
    ManxueRedirectError("redirect"),
    ManxueConfigurationError("the proxy cannot be used"),
]


class TestRefusal:
    """
    Errors that may end a wait, and their grace periods (docs/waiting.md, "What ends a wait").

    - The service may not know a new id yet, or write a completed task before its URL: 5 minutes in any wait.
    - A refusal of the key or the settings may be temporary if they have worked: 5 minutes after a usable response. Otherwise
      they are wrong, and the wait ends immediately.
    - An id of an image never becomes a video: no grace period.
    """

    def test_permanent_error_ends_the_wait_immediately(self, fake_airflow, service, mode):
        service.respond_with("queued", ManxueMediaTypeError("an image"))
        with pytest.raises(ManxueMediaTypeError, match="an image"):
            fake_airflow.run(sensor(mode))
        assert service.polled_at == [0, 30]

    @pytest.mark.parametrize("error", MAY_PASS, ids=lambda error: type(error).__name__)
    def test_refusal_before_any_response_ends_the_wait(self, fake_airflow, service, mode, error):
        service.respond_with(error)
        with pytest.raises(type(error), match=str(error)):
            fake_airflow.run(sensor(mode))
        assert service.polled_at == [0]

    @pytest.mark.parametrize("error", MAY_PASS, ids=lambda error: type(error).__name__)
    def test_refusal_at_first_poke_ends_wait_below_3_3(self, fake_airflow, service, error):
        """The first poke knows, without a task state store, that the wait has not worked."""
        fake_airflow.store = None
        service.respond_with(error)
        with pytest.raises(type(error), match=str(error)):
            fake_airflow.run(sensor("reschedule"))
        assert service.polled_at == [0]

    @pytest.mark.parametrize("error", MAY_PASS, ids=lambda error: type(error).__name__)
    def test_refusal_after_a_response_ends_wait_in_5_minutes(self, fake_airflow, service, mode, error):
        service.respond_with("queued", error)
        with pytest.raises(type(error), match=str(error)):
            fake_airflow.run(sensor(mode))
        assert service.polled_at[:2] == [0, 30]
        assert service.polled_at[-1] == pytest.approx(330, abs=1)

    @pytest.mark.parametrize("error", MAY_PASS, ids=lambda error: type(error).__name__)
    def test_refusal_after_a_response_can_be_temporary(self, fake_airflow, service, mode, error):
        service.respond_with(lambda waited: error if 30 <= waited < 300 else DONE if waited else "queued")
        assert fake_airflow.run(sensor(mode)) == RESULT

    def test_refused_key_is_probed_four_times(self, fake_airflow, service, mode):
        """Probes are 30, 60, 120 and 300 s after the 401 at 30 s, since a service may block a client with a wrong key."""
        service.respond_with("queued", ManxueAuthenticationError("401"))
        with pytest.raises(ManxueAuthenticationError):
            fake_airflow.run(sensor(mode))
        assert service.polled_at == [0, *(pytest.approx(at, abs=0.01) for at in (30, 60, 90, 150, 330))]

    @pytest.mark.parametrize(
        "error", [*MAY_PASS, ManxueRefusedError("HTTP 404")], ids=lambda error: type(error).__name__
    )
    def test_refusal_lasts_to_deadline_if_rescheduled_below_3_3(self, fake_airflow, service, error):
        """Without a task state store no poke knows when the error began."""
        fake_airflow.store = None
        service.respond_with("queued", error)
        with pytest.raises(ManxueTimeoutError, match=f"Last error: {error}"):
            fake_airflow.run(sensor("reschedule", timeout=900))
        assert service.polled_at[-1] >= 900

    def test_grace_of_rescheduled_wait_is_in_task_state_store(self, fake_airflow, service):
        """Each poke is another process. The empty key is the grace period of the connection."""
        errors = [ManxueRefusedError("HTTP 404"), ManxueAuthenticationError("401")]
        service.respond_with("queued", *errors, "queued")
        seen = []
        real = fake_airflow.store.set
        fake_airflow.store.set = lambda key, value: (seen.append((key, value)), real(key, value))
        with pytest.raises(ManxueTimeoutError):
            fake_airflow.run(sensor("reschedule", timeout=300))
        assert seen == [
            ("manxue_grace", {"proj_1": START + 30}),
            ("manxue_grace", {"proj_1": START + 30, "": START + 60}),
            ("manxue_grace", {}),
        ]

    def test_failing_task_state_store_is_survived(self, fake_airflow, service):
        """Without the start of the grace period, the wait lasts until the deadline: the video is paid for."""

        def fail(*args):
            raise RuntimeError("the API server is away")

        fake_airflow.store.get = fake_airflow.store.set = fail
        service.respond_with(lambda waited: DONE if waited > 400 else NOT_FOUND if waited else "queued")
        assert fake_airflow.run(sensor("reschedule")) == RESULT

    @pytest.mark.parametrize(("response", "error", "message"), MAY_BE_SLOW_WRITE)
    def test_possible_slow_write_is_tolerated_for_5_minutes(
        self, fake_airflow, service, mode, response, error, message
    ):
        service.respond_with(response)
        with pytest.raises(error, match=message):
            fake_airflow.run(sensor(mode))
        assert 300 <= service.polled_at[-1] <= 331

    @pytest.mark.parametrize(("response", "error", "message"), MAY_BE_SLOW_WRITE)
    def test_possible_slow_write_can_be_temporary(
        self, fake_airflow, service, mode, response, error, message
    ):
        service.respond_with(lambda waited: DONE if waited > 250 else response)
        assert fake_airflow.run(sensor(mode)) == RESULT

    def test_grace_start_is_passed_to_the_trigger(self, fake_airflow, service, clock):
        """A restarted triggerer would otherwise begin another grace period."""
        service.respond_with(ManxueRefusedError("HTTP 404"))
        with pytest.raises(TaskDeferred) as deferred:
            sensor().execute(fake_airflow.context)
        assert deferred.value.trigger.grace_since == clock.now


class TestFailedVideo:
    def test_failed_video_fails_without_retries(self, fake_airflow, service, mode):
        service.respond_with("queued", {"status": "failed", "error": {"message": "prompt not allowed"}})
        with pytest.raises(ManxueVideoFailedError, match="prompt not allowed") as raised:
            fake_airflow.run(sensor(mode))
        assert isinstance(raised.value, AirflowFailException)

    def test_unknown_status_is_polled_again(self, fake_airflow, service, mode):
        service.respond_with("queued", "rendering", "rendering", DONE)
        assert fake_airflow.run(sensor(mode)) == RESULT


FAILED = {"status": "failed", "error": "no"}
TIMEOUT = "processing"
BAD_KEY = ManxueAuthenticationError("401")
NOT_FOUND = ManxueRefusedError("HTTP 404")
NO_CONNECTION = ManxueConfigurationError("missing")


class TestSkipping:
    """Parity table of design and docs: effect of ``soft_fail`` and ``never_fail`` on each ending."""

    @pytest.mark.parametrize("first_poke", [True, False], ids=["at the first poke", "later"])
    @pytest.mark.parametrize(
        ("ending", "plain", "skipped_by"),
        [
            (FAILED, ManxueVideoFailedError, {"soft_fail", "never_fail"}),
            (TIMEOUT, ManxueTimeoutError, {"soft_fail", "never_fail"}),
            (BAD_KEY, ManxueAuthenticationError, {"never_fail"}),
            (NOT_FOUND, ManxueRefusedError, {"never_fail"}),
            (NO_CONNECTION, ManxueConfigurationError, {"never_fail"}),
        ],
        ids=["failed", "timeout", "bad key", "not found", "no connection"],
    )
    @pytest.mark.parametrize("option", [None, "soft_fail", "never_fail"])
    def test_skipping_is_the_same_in_every_mode(
        self, fake_airflow, service, mode, option, ending, plain, skipped_by, first_poke
    ):
        service.respond_with(*([] if first_poke else ["queued"]), ending)
        expected = AirflowSkipException if option in skipped_by else plain
        with pytest.raises(expected) as raised:
            fake_airflow.run(sensor(mode, timeout=600, **({option: True} if option else {})))
        assert raised.type is expected

    @pytest.mark.parametrize(
        ("option", "expected"), [(None, AirflowTaskTimeout), ("soft_fail", AirflowSkipException)]
    )
    def test_execution_timeout_is_skipped(self, fake_airflow, service, option, expected):
        service.respond_with("queued")
        with pytest.raises(expected):
            fake_airflow.run(
                sensor(execution_timeout=timedelta(seconds=60), **({option: True} if option else {}))
            )

    @pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
    def test_execution_timeout_in_poke_mode_is_skipped(self, fake_airflow, service, option):
        service.respond_with(AirflowTaskTimeout("from the alarm"))
        with pytest.raises(AirflowSkipException):
            fake_airflow.run(sensor("poke", **{option: True}))

    def test_crashed_trigger_is_skipped_by_never_fail(self, fake_airflow, service):
        service.respond_with("processing")
        kwargs = {"error": "Trigger failure", "traceback": ["boom"]}
        with pytest.raises(Exception, match="Trigger failure") as raised:
            sensor(soft_fail=True).resume_execution("__fail__", dict(kwargs), fake_airflow.context)
        assert raised.type is not AirflowSkipException
        with pytest.raises(AirflowSkipException):
            sensor(never_fail=True).resume_execution("__fail__", dict(kwargs), fake_airflow.context)


class TestEvents:
    @pytest.mark.parametrize(
        "event", [None, {}, "completed", {"status": "completed"}, {"version": 2, "status": "completed"}]
    )
    def test_unknown_event_fails_the_task(self, fake_airflow, service, event):
        """An event of a newer or broken trigger must never count as a success."""
        service.respond_with(DONE)
        with pytest.raises(ManxueError, match="does not understand"):
            sensor().execute_complete(fake_airflow.context, event=event, started_at=0.0)

    def test_event_without_arguments_resumes(self, fake_airflow, service):
        """``airflow dags test`` resumes a task without the arguments of its deferral."""
        service.respond_with(DONE)
        event = completed_event("proj_1")
        assert sensor().resume_execution("execute_complete", {"event": event}, fake_airflow.context) == RESULT


class TestLog:
    @pytest.mark.parametrize("mode", ["poke", "deferred"])
    def test_log_has_one_line_for_each_status(self, fake_airflow, service, mode, caplog, capsys):
        caplog.set_level(logging.INFO)
        service.respond_with("queued", *["processing"] * 20, DONE)
        fake_airflow.run(sensor(mode))
        # Airflow 3 logs through structlog, Airflow 2 through logging.
        printed = capsys.readouterr().out
        lines = re.findall(r"Video proj_1: .*?\)", printed if "Video proj_1" in printed else caplog.text)
        assert lines == [
            "Video proj_1: queued (after 0:00:00)",
            "Video proj_1: processing (after 0:00:30)",
            "Video proj_1: completed, 5.17 s long (after 0:10:30)",
        ]

    def test_log_has_no_url(self, fake_airflow, service, mode, caplog, capsys):
        caplog.set_level(logging.DEBUG)
        service.respond_with("queued", DONE)
        fake_airflow.run(sensor(mode))
        assert "secret" not in caplog.text + capsys.readouterr().out


class TestBadInput:
    @pytest.mark.parametrize("value", ["", "  ", None, 7.5, ["a"], {}, {"status": "queued"}, "..", "a\nb"])
    def test_invalid_id_is_refused_at_parse_time(self, value):
        with pytest.raises(ManxueInputError, match="video_task_id"):
            sensor(video_task_id=value)

    @pytest.mark.parametrize(
        "value", ["{{ params.id }}", "{% if x %}a{% endif %}", {"id": "{{ params.id }}"}]
    )
    def test_template_is_validated_after_rendering(self, fake_airflow, value):
        task = sensor(video_task_id=value)
        task.video_task_id = "   "
        with pytest.raises(ManxueInputError, match="video_task_id is empty"):
            fake_airflow.run(task)

    def test_whole_create_response_is_an_id(self, fake_airflow, service):
        service.respond_with(DONE)
        response = {"code": "0", "msg": None, "data": {"projectId": "proj_9"}}
        assert fake_airflow.run(sensor(video_task_id=response))["id"] == "proj_9"

    @pytest.mark.parametrize("value", ["", None, 3])
    def test_invalid_connection_id_is_refused(self, value):
        with pytest.raises(ManxueInputError, match="manxue_conn_id"):
            sensor(manxue_conn_id=value)

    def test_mode_without_effect_warns(self):
        """A deferrable task ignores ``mode``."""
        with pytest.warns(UserWarning, match="deferrable=False"):
            ManxueVideoSensor(task_id="wait", video_task_id="proj_1", mode="reschedule")


def test_import_loads_no_http_library():
    """The scheduler imports the module each time that it parses a Dag file."""
    code = (
        "import sys\n"
        "from airflow.providers.common.compat.sdk import DAG, BaseSensorOperator, XComArg\n"
        "known = set(sys.modules)\n"
        "import airflow_provider_manxue.sensors.manxue\n"
        "print(sorted({'requests', 'aiohttp', 'yarl', 'urllib3', 'fsspec'} & (set(sys.modules) - known)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
