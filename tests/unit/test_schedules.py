"""Seeded schedules of the shipped code in virtual time, and that their oracle sees what it must see."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_manxue import order_store, triggers
from airflow_provider_manxue._airflow import waiting
from airflow_provider_manxue._client import async_client as transport
from airflow_provider_manxue._client import rate_limiter as pace
from airflow_provider_manxue._client.async_client import Transport, ask_for_all
from airflow_provider_manxue._core import polling
from airflow_provider_manxue._core import responses as protocol
from airflow_provider_manxue.exceptions import ManxueOrderNotSentError, ManxueTransientError
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.models import TaskStatus
from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger
from soak.schedules import play_range

ROOT = Path(__file__).parents[2]
COUNT, PARTS = 20_000, 20
FOUND = [30327, 38193, 40355, 303857, 307403, 437199, 561682, 797292, 917798]
"""Seeds of a million that broke an invariant, or showed a fault of the oracle."""


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_breaks_an_invariant(part):
    size = COUNT // PARTS
    assert play_range(range(part * size, (part + 1) * size)) == {}


def test_seed_replays_its_schedule():
    def told():
        """What happened, but for what Airflow logs as it starts, and the signatures of URLs, which are made anew."""
        command = [sys.executable, "-m", "soak.schedules", "--seed", "101", "--count", "1", "--verbose"]
        lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [line.partition("signature=")[0] for line in lines.splitlines() if " [" not in f" {line[:40]}"]

    first = told()
    assert len(first) > 20
    assert told() == first


# --- the oracle -----------------------------------------------------------------------------------------------


def is_found(words, monkeypatch, *targets, first_seed=0):
    """Plant bugs, and return whether the oracle says so of one of the next schedules."""
    for target, name, value in targets:
        monkeypatch.setattr(target, name, value)
    seeds = range(first_seed, first_seed + 300)
    return any(words in text for seed in seeds for texts in play_range([seed]).values() for text in texts)


def test_oracle_sees_a_false_success(monkeypatch):
    real = polling.Wait._after_task

    def hasty(self, task, now, news):
        if task.status is TaskStatus.PROCESSING:
            return polling.Completed(task, news)
        return real(self, task, now, news)

    assert is_found("handed over", monkeypatch, (polling.Wait, "_after_task", hasty))


def test_oracle_sees_a_failed_video_that_succeeds(monkeypatch):
    words = {**protocol._STATUS_WORDS, "failed": TaskStatus.COMPLETED}
    assert is_found("although the video was over", monkeypatch, (protocol, "_STATUS_WORDS", words))


def test_oracle_sees_an_order_that_is_sent_twice(monkeypatch):
    real = ManxueHook._send_order

    def send(self, settings, order):
        real(self, settings, order)
        return real(self, settings, order)

    assert is_found("bought 2 times", monkeypatch, (ManxueHook, "_send_order", send))


def test_oracle_sees_an_order_that_is_sent_again_although_it_may_have_been_taken(monkeypatch):
    def not_sent(error, hostname, *, body_left):
        return ManxueOrderNotSentError("no answer")

    hook_module = sys.modules[ManxueHook.__module__]
    assert is_found("bought", monkeypatch, (hook_module, "order_without_answer", not_sent))


def test_oracle_sees_an_order_that_is_not_kept(monkeypatch):
    store = order_store.OrderStore
    assert is_found(
        "is lost",
        monkeypatch,
        (store, "ordered", lambda self, video_task_id: self._store and self._store.delete(order_store.KEY)),
        (store, "done", lambda self, video_task_id: None),
    )


def test_oracle_sees_a_crash_that_orders_again(monkeypatch):
    @contextlib.contextmanager
    def sending(self, fingerprint):
        yield

    assert is_found("bought", monkeypatch, (order_store.OrderStore, "sending", sending))


def test_oracle_sees_a_deadline_that_moves_with_a_restart(monkeypatch):
    real = ManxueVideoTrigger.__init__

    def restarted(self, *, deadline=None, **arguments):
        real(self, deadline=deadline and deadline + 100.0, **arguments)

    assert is_found("late", monkeypatch, (ManxueVideoTrigger, "__init__", restarted))


def test_oracle_sees_a_wait_that_is_given_up_early(monkeypatch):
    real = polling.Wait.__init__

    def impatient(self, *arguments, deadline, **others):
        real(self, *arguments, deadline=deadline - 5.0, **others)

    assert is_found("early", monkeypatch, (polling.Wait, "__init__", impatient))


def test_oracle_sees_a_reschedule_beyond_the_deadline(monkeypatch):
    def later(decision, now, deadline):
        return max(decision.at, now + polling.MIN_FIRST_POLL_DELAY)

    assert is_found("rescheduled beyond", monkeypatch, (waiting, "first_poll_at", later))


def test_oracle_sees_an_outage_that_ends_a_wait(monkeypatch):
    real = polling.Wait._after_error

    def frail(self, error, now, news):
        if isinstance(error, ManxueTransientError) and self._failures:
            return polling.Ended(error, news)
        return real(self, error, now, news)

    assert is_found("ended with ManxueTransientError", monkeypatch, (polling.Wait, "_after_error", frail))


def test_oracle_sees_a_tight_loop(monkeypatch):
    def at_once(self, interval, now, news, floor=0.0):
        return polling.Ended(self.timed_out(), news) if now >= self.deadline else polling.AskAgain(now, news)

    assert is_found("asked again and again", monkeypatch, (polling.Wait, "_ask_again", at_once))


def test_oracle_sees_requests_beyond_the_limit(monkeypatch):
    assert is_found("between two requests", monkeypatch, (pace.Pace, "_rate_at", lambda self, now: 100.0))


def test_oracle_sees_a_key_that_the_service_repeats(monkeypatch):
    def careless(text, secret=""):
        return str(text)

    assert is_found(
        "a secret in",
        monkeypatch,
        (protocol, "clean_text", careless),
        (protocol, "_storable", lambda value, secret: value),
    )


def test_oracle_sees_the_url_in_an_event(monkeypatch):
    def chatty(video_task_id, last_answer="", *, started_at=None):
        event = real(video_task_id, last_answer, started_at=started_at)
        return {**event, "video_url": "https://media.example/v.mp4?expires=1&signature=x"}

    trigger_module = triggers.manxue
    real = trigger_module.completed_event
    assert is_found("a secret in", monkeypatch, (trigger_module, "completed_event", chatty))


def test_oracle_sees_what_a_trigger_leaves_behind(monkeypatch):
    async def close(self):
        await asyncio.sleep(0)

    assert is_found("left open", monkeypatch, (Transport, "close", close))


def test_oracle_sees_a_worker_whose_last_questions_move_the_deadline(monkeypatch):
    async def without_end(read_settings, video_task_ids, until=None):
        return await ask_for_all(read_settings, video_task_ids)

    assert is_found("late", monkeypatch, (transport, "ask_for_all", without_end), first_seed=798)


def test_oracle_sees_a_worker_that_a_long_pause_holds(monkeypatch):
    real = asyncio.Timeout.reschedule

    def only_at_the_start(self, when):
        if not hasattr(self, "has_begun"):
            self.has_begun = True
            real(self, when)

    target = (asyncio.Timeout, "reschedule", only_at_the_start)
    assert is_found("held a worker", monkeypatch, target, first_seed=561682)


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_is_mended(seed):
    assert play_range([seed]) == {}
