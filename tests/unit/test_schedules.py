"""Seeded schedules of the shipped code in virtual time, and that their oracle sees what it must see."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_provider_manxue._airflow import order_life, order_store, ordered_wait, waiting
from airflow_provider_manxue._client import request_queue
from airflow_provider_manxue._client.async_client import AsyncClient
from airflow_provider_manxue._client.credentials import CredentialProbes
from airflow_provider_manxue._client.drivers import AsyncDriver
from airflow_provider_manxue._client.endpoint import Endpoint
from airflow_provider_manxue._client.rate_limiter import AdaptiveRateLimiter
from airflow_provider_manxue._core import batch, bodies, order_timing, poller, status_log, worker_pass
from airflow_provider_manxue._core import responses as protocol
from airflow_provider_manxue._core.order_timing import OrderBounds
from airflow_provider_manxue._core.poller import Poller
from airflow_provider_manxue._core.status_log import BatchLog
from airflow_provider_manxue._core.worker_pass import WorkerPass
from airflow_provider_manxue.exceptions import ManxueOrderNotAcceptedError, ManxueTransientError
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.models import TaskStatus
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.triggers import manxue as trigger_module
from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger
from tests.simulation.play import play_range

ROOT = Path(__file__).parents[2]
COUNT, PARTS = 10_000, 20
FOUND = [
    15,
    338,
    377,
    910,
    1015,
    1084,
    1689,
    1803,
    1900,
    2370,
    1410,
    2783,
    28076,
    30327,
    38193,
    40355,
    41981,
    303857,
    307403,
    437199,
    561682,
    797292,
    917798,
    3001672,
    3007478,
    3011158,
    5026906,
    5050438,
    5060188,
    5064829,
    5071507,
    5083472,
    5085078,
    6046142,
    6082583,
    6139287,
    6146968,
    6250957,
    7041852,
    7224495,
    7346464,
    7361679,
    7413369,
    7459637,
    7554466,
    7559804,
    7640402,
    7659095,
    7725419,
    7850261,
    7856685,
    7858312,
    8077698,
    8199455,
    7790034,
    10701863,
    11186991,
    11193031,
    12281636,
    8050735,
    8194363,
    10069215,
    10324067,
    10383658,
    13005375,
    13014377,
    13070728,
    14485250,
    14491271,
]
"""Seeds that broke an invariant or showed an error of the oracle."""


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_schedules_break_no_invariant(part):
    size = COUNT // PARTS
    assert play_range(range(part * size, (part + 1) * size)) == {}


@pytest.mark.once
def test_seed_replays_its_schedule():
    def replay():
        """Return the log of a schedule without Airflow's start and without the signatures of URLs, which differ."""
        command = [sys.executable, "-m", "tests.simulation", "--seed", "101", "--count", "1", "--verbose"]
        lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [line.partition("signature=")[0] for line in lines.splitlines() if " [" not in f" {line[:40]}"]

    first = replay()
    assert len(first) > 20
    assert replay() == first


# --- the oracle -----------------------------------------------------------------------------------------------


def is_found(message, monkeypatch, *targets, first_seed=0, seeds=None):
    """Insert bugs, and return whether the oracle reports them for one of the next schedules."""
    for target, name, value in targets:
        monkeypatch.setattr(target, name, value)
    seeds = seeds or range(first_seed, first_seed + 300)
    return any(message in text for seed in seeds for texts in play_range([seed]).values() for text in texts)


def test_oracle_detects_a_false_success(monkeypatch):
    real = Poller._handle_unfinished

    def hasty(self, video, task, sent_at, now):
        if task.status is TaskStatus.PROCESSING:
            self._end(video, task, now)
        else:
            real(self, video, task, sent_at, now)

    assert is_found("handed over", monkeypatch, (Poller, "_handle_unfinished", hasty))


def test_oracle_detects_success_of_a_failed_video(monkeypatch):
    words = {**protocol._STATUS_WORDS, "failed": TaskStatus.COMPLETED}
    assert is_found("never said that it is completed", monkeypatch, (protocol, "_STATUS_WORDS", words))


def test_oracle_detects_a_pause_that_is_lost_with_a_body(monkeypatch):
    real = Endpoint.send

    async def send(self, query):
        response = await real(self, query)
        if response.status == 429 and not response.body:
            raise ManxueTransientError("no response")
        return response

    assert is_found(
        "before a pause ended", monkeypatch, (Endpoint, "send", send), seeds=[50052, 51805, 52388]
    )


def test_oracle_detects_an_ignored_pause_of_a_refusal(monkeypatch):
    real = Poller._handle_in_grace

    def hasty(self, video, error, sent_at, now):
        error.retry_after = None
        real(self, video, error, sent_at, now)

    target = (Poller, "_handle_in_grace", hasty)
    assert is_found("before a pause ended", monkeypatch, target, seeds=[60014, 60021, 61700])


def test_oracle_detects_an_order_sent_twice(monkeypatch):
    real = ManxueHook.send_order

    def send(self, request):
        real(self, request)
        return real(self, request)

    assert is_found("bought 2 times", monkeypatch, (ManxueHook, "send_order", send))


def test_oracle_detects_retry_of_a_possibly_taken_order(monkeypatch):
    def not_sent(error, hostname, *, body_started, kind):
        return ManxueOrderNotAcceptedError("no answer")

    hook_module = sys.modules[ManxueHook.__module__]
    assert is_found("bought", monkeypatch, (hook_module, "order_without_response", not_sent))


def test_oracle_detects_an_order_that_is_not_recorded(monkeypatch):
    store = order_store.OrderStore
    assert is_found(
        "is lost",
        monkeypatch,
        (
            store,
            "mark_ordered",
            lambda self, receipt: self._store and self._store.delete(self.kind.key),
        ),
        (store, "mark_done", lambda self, receipt: None),
    )


def test_oracle_detects_a_second_order_after_a_crash(monkeypatch):
    assert is_found(
        "bought", monkeypatch, (order_store.OrderStore, "mark_intent", lambda self, request: None)
    )


def test_oracle_detects_a_deadline_moved_by_a_restart(monkeypatch):
    real = ManxueVideoTrigger.__init__

    def restarted(self, *, deadline=None, **arguments):
        real(self, deadline=deadline and deadline + 100.0, **arguments)

    assert is_found("late", monkeypatch, (ManxueVideoTrigger, "__init__", restarted))


def test_oracle_detects_a_wait_that_ends_early(monkeypatch):
    real = Poller.__init__

    def impatient(self, *arguments, deadline, **others):
        real(self, *arguments, deadline=deadline - 5.0, **others)

    assert is_found("early", monkeypatch, (Poller, "__init__", impatient))


def test_oracle_detects_a_reschedule_after_the_deadline(monkeypatch):
    def later(due_at, now, deadline):
        return max(due_at, now + 100.0)

    assert is_found("s after the deadline", monkeypatch, (waiting, "first_poll_at", later))


def test_oracle_detects_a_wait_ended_by_an_outage(monkeypatch):
    real = Poller._handle_transient

    def frail(self, video, error, sent_at, now):
        if video.failures:
            self._end(video, error, now)
        else:
            real(self, video, error, sent_at, now)

    assert is_found("ended with ManxueTransientError", monkeypatch, (Poller, "_handle_transient", frail))


def test_oracle_detects_a_tight_loop(monkeypatch):
    def at_once(self, now):
        return 0.05

    unbounded = (poller, "MIN_INTERVAL", 0.05)
    assert is_found("asked again and again", monkeypatch, (Poller, "_interval", at_once), unbounded)


def test_oracle_detects_requests_above_the_rate_limit(monkeypatch):
    target = (AdaptiveRateLimiter, "_rate_at", lambda self, now: 100.0)
    assert is_found("between two requests", monkeypatch, target)


def test_oracle_detects_a_key_repeated_by_the_service(monkeypatch):
    def careless(text, secret=""):
        return str(text)

    assert is_found(
        "a secret in",
        monkeypatch,
        (protocol, "clean_text", careless),
        (bodies, "_storable", lambda value, secret: value),
    )


def test_oracle_detects_a_url_in_an_event(monkeypatch):
    def chatty(*arguments, **others):
        event = real(*arguments, **others)
        return {**event, "video_url": "https://media.example/v.mp4?expires=1&signature=x"}

    real = trigger_module.completed_event
    assert is_found("a secret in", monkeypatch, (trigger_module, "completed_event", chatty))


def test_oracle_detects_an_unclosed_client(monkeypatch):
    async def close(self):
        await asyncio.sleep(0)

    assert is_found("left open", monkeypatch, (AsyncClient, "close", close))


def test_oracle_detects_a_wait_that_ends_late(monkeypatch):
    real = Poller.__init__

    def patient(self, *arguments, deadline, **others):
        real(self, *arguments, deadline=deadline + 100.0, **others)

    assert is_found("late", monkeypatch, (Poller, "__init__", patient))


def test_oracle_detects_final_polls_without_backoff(monkeypatch):
    target = (poller, "quick_retry_delay", lambda failures: 1.0)
    assert is_found("asked", monkeypatch, target, first_seed=15)


def test_oracle_detects_a_worker_that_holds_its_slot(monkeypatch):
    monkeypatch.setattr(WorkerPass, "ends_at", float("inf"))
    monkeypatch.setattr(worker_pass, "MAX_EXTRA_TIME", float("inf"))
    target = (WorkerPass, "is_over", lambda self, poller, now, **state: poller.done)
    assert is_found("held a worker", monkeypatch, target)


def test_oracle_detects_a_lost_completed_video(monkeypatch):
    real = Poller._handle_task

    def blind(self, video, task, sent_at, now):
        real(self, video, replace(task, status=TaskStatus.PROCESSING), sent_at, now)

    assert is_found("is lost", monkeypatch, (Poller, "_handle_task", blind))


def test_oracle_detects_a_missing_final_poll(monkeypatch):
    real = Poller.take_due

    def hasty(self, now, most=None):
        if now >= self.deadline:
            self.give_up(now)
        return real(self, now, most)

    assert is_found("without a final poll", monkeypatch, (Poller, "take_due", hasty))


def test_oracle_detects_a_request_before_retry_after(monkeypatch):
    real = Poller._schedule
    assert is_found(
        "before a pause ended",
        monkeypatch,
        (
            Poller,
            "_schedule",
            lambda self, video, at, now, floor=0.0: real(self, video, min(at, now + 5.0), now),
        ),
        (AdaptiveRateLimiter, "on_throttled", lambda self, sent_at, retry_after: None),
    )


def test_oracle_detects_too_many_credential_probes(monkeypatch):
    target = (CredentialProbes, "refused", lambda self, error: error)
    quick = (poller, "next_credential_probe", lambda refused_for: refused_for + 5.0)
    # Few schedules have a wait that survives such a refusal: the first two with a task state store, the others without.
    assert is_found("a key that is refused", monkeypatch, target, quick, seeds=(1049, 1740, 4794, 8967))


def test_oracle_detects_false_progress(monkeypatch):
    real = BatchLog._set

    def rosy(self, video_task_id, status, now):
        real(self, video_task_id, "completed" if status == "processing" else status, now)

    assert is_found("videos completed in its log", monkeypatch, (BatchLog, "_set", rosy))


def test_oracle_detects_lines_in_another_task_log(monkeypatch):
    def careless(self, work, granted_by=None):
        self._in_flight[self._loop.create_task(self._run_and_advance(work))] = granted_by

    assert is_found("progress of", monkeypatch, (AsyncDriver, "_spawn", careless), first_seed=1700)


def test_oracle_detects_progress_logged_late(monkeypatch):
    target = (status_log, "PROGRESS_INTERVAL", 40.0)
    assert is_found("and no line says so within 10 s", monkeypatch, target)


def test_oracle_detects_progress_of_part_of_a_batch(monkeypatch):
    target = (batch.BatchProgress, "ended_before", lambda self, left: None)
    assert is_found("progress of", monkeypatch, target, first_seed=4400)


def test_oracle_detects_a_task_delayed_by_a_batch(monkeypatch):
    def oldest(self):
        request = next(iter(self._by_age))
        self.remove(request)
        return request

    assert is_found("twice the round of tasks", monkeypatch, (request_queue.Lane, "pop", oldest))


def test_oracle_detects_a_video_delayed_by_many_tasks(monkeypatch):
    def next_task(self):
        self._next_by_age = False
        return real(self)

    real = request_queue.Lane.pop
    assert is_found("twice the round of videos", monkeypatch, (request_queue.Lane, "pop", next_task))


def test_oracle_detects_final_polls_that_take_all_grants(monkeypatch):
    def finals_first(self):
        self._last_was_final = False
        return real(self)

    real = AdaptiveRateLimiter._pop
    assert is_found("two turns in a row", monkeypatch, (AdaptiveRateLimiter, "_pop", finals_first))


def test_oracle_detects_an_unused_grant(monkeypatch):
    real = AdaptiveRateLimiter._set_timer
    target = (AdaptiveRateLimiter, "_set_timer", lambda self, loop, when: real(self, loop, when + 1.0))
    assert is_found("left unused", monkeypatch, target)


# --- orders waiting for capacity -----------------------------------------------------------------------------


def test_oracle_detects_an_order_retried_without_store(monkeypatch):
    monkeypatch.setattr(order_life, "_forbid_retry", lambda ti: None)
    assert is_found("bought", monkeypatch, (order_life, "AirflowTaskTimeout", ZeroDivisionError))


def test_oracle_detects_an_order_missing_in_the_error(monkeypatch):
    real = order_life.track_order

    def silent(video_task_id, store, ti):
        return real("of this task", store, ti)

    assert is_found("is not named", monkeypatch, (ordered_wait, "track_order", silent))


def test_oracle_detects_a_worker_waiting_for_capacity(monkeypatch):
    target = (ordered_wait, "MAX_DELAY_ON_WORKER", 1000.0)
    assert is_found("while it waited for room", monkeypatch, target)


def test_oracle_detects_too_many_orders_by_one_worker(monkeypatch):
    target = (order_timing, "_MIN_ROOM_DELAY", 2.0)
    assert is_found("times by one worker", monkeypatch, target)


def test_oracle_detects_an_order_after_order_timeout(monkeypatch):
    real = OrderBounds._last_attempt_at
    target = (OrderBounds, "_last_attempt_at", lambda self, started_at: real(self, started_at) + 100.0)
    assert is_found("s after order_timeout", monkeypatch, target)


def test_oracle_detects_an_order_too_late_to_await(monkeypatch):
    target = (OrderBounds, "_last_attempt_at", lambda self, started_at: started_at + self.order_timeout)
    assert is_found("s left of execution_timeout", monkeypatch, target)


def test_oracle_detects_a_timeout_counted_from_the_try(monkeypatch):
    def begin(self, context, video_task_id):
        return self._wait(context, video_task_id, ordered_wait.time.time() - self._order_time)

    assert is_found("early", monkeypatch, (ManxueCreateVideoOperator, "_begin", begin))


def test_oracle_detects_an_order_given_up_early(monkeypatch):
    real = OrderBounds.next_attempt_at

    def impatient(self, started_at, now, attempts, *others):
        return real(self, started_at, now, attempts, *others) if attempts < 2 else None

    assert is_found("gave up the order", monkeypatch, (OrderBounds, "next_attempt_at", impatient))


def test_oracle_detects_an_order_before_retry_after(monkeypatch):
    real = order_timing._with_jitter
    target = (order_timing, "_with_jitter", lambda delay, retry_after, chance: real(delay, None, chance))
    assert is_found("before a pause ended", monkeypatch, target)


def test_oracle_detects_an_order_without_backoff(monkeypatch):
    assert is_found("ordered again after", monkeypatch, (order_timing, "_FIRST_DELAY", 0.5))


@pytest.mark.parametrize("seed", FOUND)
def test_seeds_that_broke_an_invariant_pass(seed):
    assert play_range([seed]) == {}
