"""Metrics: what is counted, when it is sent, and under which names and tags."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import re
import threading
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_manxue._client import airflow_metrics, async_client, drivers
from airflow_provider_manxue._client.airflow_metrics import (
    INTERVAL,
    triggerer_stats,
    worker_stats,
)
from airflow_provider_manxue._core import metrics as core
from airflow_provider_manxue._core.metrics import CATALOGUE, MAX_MODELS, MAX_TIMINGS, OTHER_MODEL, Metrics
from airflow_provider_manxue._core.orders import parse_video_request
from airflow_provider_manxue.exceptions import (
    ManxueConfigurationError,
    ManxueError,
    ManxueOrderError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.models import TaskStatus, VideoTask
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.testing import Emulator, Response, Script
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from airflow_provider_manxue.triggers import manxue as trigger_module
from airflow_provider_manxue.triggers.manxue import ManxueVideoBatchTrigger, ManxueVideoTrigger
from tests.support.fake_airflow import START, ClockLoop, FakeTaskInstance, only_event
from tests.support.metrics import Recorder
from tests.support.simulated_service import FakeService

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
ORDER = {"prompt": "a secret cat", "model": "sd2_manxue_1080p"}
HOST = "host-1.example.com"
PLACE = {"conn_id": "c", "hostname": HOST}


@pytest.fixture
def sent(monkeypatch, clock):
    recorder = Recorder(clock)
    recorder.install(monkeypatch)
    monkeypatch.setattr(airflow_metrics, "_hostname", lambda: HOST)
    return recorder


class Triggerer:
    """Waits of a triggerer in virtual time, over the shipped client."""

    def __init__(self, clock, service):
        self.clock, self.service = clock, service
        self.threads = []

    def run(self, *triggers):
        async def all_events():
            return await asyncio.gather(*(only_event(trigger) for trigger in triggers))

        with asyncio.Runner(loop_factory=lambda: ClockLoop(self.clock)) as runner:
            return [event.payload for event in runner.run(all_events())]

    def respond(self, completed_at, **fields):
        """Complete each video some seconds after the start."""

        def respond(url, key):
            has_completed = self.clock.elapsed >= completed_at
            done = {"status": "completed", "video_url": "https://media.example/v.mp4?sig=secret", **fields}
            return 200, {"id": "v", **(done if has_completed else {"status": "processing"})}

        self.service.respond = respond

    def start_thread(self, function):
        self.threads.append(function)
        function()
        return False


class FakeThread:
    """A thread that has run when its start returns, unless the test changes ``start_thread``, which tells whether it still runs."""

    def __init__(self, triggerer, target, args, daemon):
        assert daemon, "the end of a process does not wait for it"
        self._triggerer, self._function = triggerer, partial(target, *args)

    def start(self):
        self._is_alive = self._triggerer.start_thread(self._function)

    def is_alive(self):
        return self._is_alive

    def join(self, timeout):
        pass


def wait(video="v", **arguments):
    times = {"started_at": START, "deadline": START + 600, "first_poll_at": START + 5}
    defaults = {"video_task_id": video, "manxue_conn_id": "c", "poke_interval": 30.0, **times}
    return ManxueVideoTrigger(**defaults | arguments)


@pytest.fixture
def triggerer(monkeypatch, clock, sent):
    triggerer = Triggerer(clock, FakeService())
    triggerer.service.install(monkeypatch)
    for module in (drivers, airflow_metrics, trigger_module, async_client):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(random, "random", lambda: 0.5)
    monkeypatch.setattr(airflow_metrics, "threading", SimpleNamespace(Thread=partial(FakeThread, triggerer)))
    return triggerer


@pytest.fixture
def emulator(monkeypatch):
    with Emulator() as running:
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", running.airflow_connection_json())
        yield running


# --- waits of a triggerer -----------------------------------------------------------------------------------


def test_polls_are_counted_by_outcome(triggerer, sent):
    triggerer.respond(completed_at=100)
    triggerer.run(wait())

    polls = sent.polls()
    assert set(polls) == {"processing", "completed"}
    assert polls["completed"] == 1
    assert sum(polls.values()) == len(triggerer.service.requests)


def test_end_of_a_video_is_timed(triggerer, sent):
    triggerer.respond(completed_at=100, created=int(START) + 20, model="sd2_manxue_1080p")
    triggerer.run(wait())

    (delay,), (seconds,) = sent.values("manxue.detection_delay"), sent.values("manxue.generation_time")
    last_two = [at for at, *_ in triggerer.service.requests][-2:]
    assert delay == pytest.approx(last_two[1] - last_two[0], abs=0.1)
    assert seconds == pytest.approx(last_two[1] - 20, abs=1.1)
    assert sent.values("manxue.generation_time.sd2_manxue_1080p") == [seconds]
    tags = next(one.tags for one in sent.sent if one.name == "manxue.generation_time")
    assert tags == {"conn_id": "c", "model": "sd2_manxue_1080p"}


def test_video_that_had_ended_before_is_not_timed(triggerer, sent):
    triggerer.respond(completed_at=0, created=int(START) - 86_400, model="m")
    triggerer.run(wait())

    assert sent.polls() == {"completed": 1}
    assert not {"manxue.detection_delay", "manxue.generation_time"} & sent.names()


@pytest.mark.parametrize("created", [10**400, 0, int(START) * 1000, int(START) + 10_000])
def test_unusable_creation_time_is_ignored(triggerer, sent, created):
    triggerer.respond(completed_at=100, created=created)
    (event,) = triggerer.run(wait())

    assert event["status"] == "completed"
    assert sent.values("manxue.detection_delay")
    assert not sent.values("manxue.generation_time")


def test_values_are_sent_every_10_seconds_and_at_the_end(triggerer, sent):
    triggerer.respond(completed_at=100)
    triggerer.run(wait())

    times = [one.at for one in sent.sent if one.name == "manxue.limit"]
    assert [after - before for before, after in pairwise(times[:-1])] == pytest.approx([INTERVAL] * 11)
    assert 0 < times[-1] - times[-2] <= INTERVAL
    assert len(triggerer.threads) == len(times)
    assert {one.copy for one in sent.sent} == {copy_of(triggerer_stats())}


def copy_of(stats):
    """Return the copy of the facility, as the recorder names it. Airflow below 3.2 has only one."""
    return "worker" if stats is worker_stats() else "triggerer"


def test_gauges_tell_waits_and_videos_of_each_connection(triggerer, sent):
    triggerer.service.connect("d", "https://two.example.com", requests_per_second=3)
    triggerer.respond(completed_at=100)
    times = {"started_at": START, "deadline": START + 600, "first_poll_at": START + 5}
    batch = ManxueVideoBatchTrigger(
        video_task_ids=["x", "y", "z"], manxue_conn_id="d", poke_interval=30.0, **times
    )
    triggerer.run(wait("v"), wait("w"), batch)

    def values(name, conn_id):
        return [
            one.value
            for one in sent.sent
            if one.name == f"manxue.{name}" and one.tags == {"conn_id": conn_id, "hostname": HOST}
        ]

    assert values("waits", "c")[0] == values("videos", "c")[0] == 2
    assert (values("waits", "d")[0], values("videos", "d")[0]) == (1, 3)
    assert set(values("limit", "d")) == set(values("rate", "d")) == {3.0}
    for name in ("waits", "videos", "oldest_poll"):
        assert values(name, "c")[-1] == values(name, "d")[-1] == 0
        for conn_id in "cd":
            assert sent.values(f"manxue.{name}.{conn_id}.host-1_example_com") == values(name, conn_id)


def test_throttling_is_one_episode_and_lowers_the_rate(triggerer, sent):
    triggerer.respond(completed_at=100)
    normal = triggerer.service.respond
    triggerer.service.respond = lambda url, key: (
        (429, {}) if 30 <= triggerer.clock.elapsed <= 60 else normal(url, key)
    )
    triggerer.run(*(wait(f"v{number}", poke_interval=10.0) for number in range(20)))

    assert sent.total("manxue.throttling.episodes") == 1
    assert sent.polls()["throttled"] > 1
    assert min(sent.values("manxue.rate")) < max(sent.values("manxue.limit"))


def test_queue_time_is_the_longest_of_each_interval(triggerer, sent):
    triggerer.service.connect("c", requests_per_second=1)
    triggerer.respond(completed_at=60)
    triggerer.run(*(wait(f"v{number}") for number in range(20)))

    times = sent.values("manxue.queue_time")
    assert max(times) == pytest.approx(19, abs=2)
    assert len(times) <= triggerer.clock.elapsed / INTERVAL + 1


def test_oldest_poll_grows_during_an_outage(triggerer, sent):
    triggerer.respond(completed_at=200)
    normal = triggerer.service.respond

    def respond(url, key):
        if 30 <= triggerer.clock.elapsed <= 150:
            raise ConnectionResetError
        return normal(url, key)

    triggerer.service.respond = respond
    triggerer.run(wait())

    ages = sent.values("manxue.oldest_poll")
    assert max(ages) >= 120
    assert ages[-1] == 0
    assert sent.polls()["no_response"] > 1


# --- failures of the facility -------------------------------------------------------------------------------


def test_facility_that_raises_affects_no_wait(triggerer, sent, caplog):
    triggerer.respond(completed_at=100)
    sent.error = RuntimeError("secret of a backend")
    (event,) = triggerer.run(wait())

    assert event["status"] == "completed"
    assert sent.calls > 2
    warnings = [record.getMessage() for record in caplog.records if "Metrics" in record.getMessage()]
    assert len(warnings) == 1
    assert "RuntimeError" in warnings[0]
    assert "secret" not in warnings[0]


def test_facility_that_hangs_occupies_one_thread(triggerer, sent):
    triggerer.respond(completed_at=100)
    started = []
    triggerer.start_thread = lambda function: started.append(function) or True
    (event,) = triggerer.run(wait())

    assert event["status"] == "completed"
    assert len(started) == 1


def test_lack_of_threads_affects_no_wait(triggerer, sent, caplog):
    def no_thread(function):
        raise RuntimeError("can't start new thread")

    triggerer.respond(completed_at=100)
    triggerer.start_thread = no_thread
    (event,) = triggerer.run(wait())

    assert event["status"] == "completed"
    assert sum("Metrics" in record.getMessage() for record in caplog.records) == 1


def test_unusable_switch_affects_no_wait(triggerer, sent, monkeypatch):
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "perhaps")
    triggerer.respond(completed_at=100)
    (event,) = triggerer.run(wait())

    assert (event["status"], sent.calls) == ("completed", 0)


def test_wait_whose_connection_is_away_is_shown(triggerer, sent, monkeypatch):
    triggerer.respond(completed_at=100)
    load = async_client.load_connection

    async def load_connection(conn_id):
        if triggerer.clock.elapsed < 60:
            raise ManxueTransientError("Airflow is away")
        return await load(conn_id)

    monkeypatch.setattr(async_client, "load_connection", load_connection)
    triggerer.run(wait())

    assert sent.values("manxue.waits")[:5] == [1] * 5
    assert sent.values("manxue.oldest_poll")[4] > 40
    assert sent.values("manxue.rate")


def test_nothing_is_sent_while_the_facility_is_off(triggerer, sent, monkeypatch):
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "False")
    triggerer.respond(completed_at=100)
    (event,) = triggerer.run(wait())

    assert event["status"] == "completed"
    assert (sent.calls, triggerer.threads) == (0, [])


def test_values_that_are_never_sent_are_bounded():
    metrics = Metrics()
    for number in range(MAX_TIMINGS + 10):
        metrics.add_timing("queue_time", "c", number)

    assert [sample.value for sample in metrics.take()] == list(range(10, MAX_TIMINGS + 10))


# --- workers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_polls_of_a_worker_are_counted(sent, fake_airflow, service, mode):
    service.respond_with("queued", "processing", {"status": "completed", "video_url": "https://x/v.mp4"})
    sensor = ManxueVideoSensor(task_id="wait", video_task_id="v1", deferrable=False, mode=mode)
    fake_airflow.run(sensor)

    assert sent.polls() == {"queued": 1, "processing": 1, "completed": 1}


def test_long_wait_on_a_worker_sends_while_it_waits(sent, fake_airflow, service, monkeypatch, clock):
    monkeypatch.setattr(airflow_metrics, "time", clock)
    service.respond_with(*["processing"] * 5, {"status": "completed", "video_url": "https://x/v.mp4"})
    fake_airflow.run(ManxueVideoSensor(task_id="wait", video_task_id="v1", deferrable=False))

    assert sorted({one.at for one in sent.sent}) == [30, 60, 90, 120, 150]


def test_worker_sends_before_it_defers(sent, fake_airflow, service):
    service.respond_with("processing")
    sensor = ManxueVideoSensor(task_id="wait", video_task_id="v1")
    with pytest.raises(TaskDeferred):
        sensor.execute(fake_airflow.context)

    assert sent.polls() == {"processing": 1}
    assert {one.copy for one in sent.sent} == {"worker"}


def test_worker_sends_after_a_failure(sent, fake_airflow, service):
    service.respond_with({"status": "failed", "error": "no"})
    with pytest.raises(ManxueVideoFailedError):
        ManxueVideoSensor(task_id="wait", video_task_id="v1").execute(fake_airflow.context)

    assert sent.polls() == {"failed": 1}


def test_raising_facility_affects_no_worker(sent, fake_airflow, service):
    sent.error = RuntimeError("down")
    service.respond_with("processing", {"status": "completed", "video_url": "https://x/v.mp4"})
    sensor = ManxueVideoSensor(task_id="wait", video_task_id="v1", deferrable=False)

    assert fake_airflow.run(sensor)["status"] == "completed"


def test_batch_on_a_worker_counts_polls_and_has_no_gauges(sent, fake_airflow, service, monkeypatch):
    """Its gauges would replace those of the triggerer on the same host."""
    service.respond_with({"status": "completed", "video_url": "https://x/v.mp4"})
    sensor = ManxueVideoBatchSensor(task_id="wait", video_task_ids=["a", "b", "c"], deferrable=False)
    fake_airflow.run(sensor)

    assert sent.polls() == {"completed": 3}
    assert {one.kind for one in sent.sent} == {"counter"}


def test_facility_that_hangs_keeps_no_worker(sent, fake_airflow, service, monkeypatch, caplog):
    """An event loop waits for its own threads when it ends: a batch whose videos are there would never end."""
    began, released = threading.Event(), threading.Event()

    def hang(metrics, samples):
        began.set()
        released.wait()

    monkeypatch.setattr(airflow_metrics, "FLUSH_TIME", 0.01)
    monkeypatch.setattr(airflow_metrics.SentMetrics, "_send", hang)
    service.respond_with({"status": "completed", "video_url": "https://x/v.mp4"})
    try:
        fake_airflow.run(ManxueVideoBatchSensor(task_id="wait", video_task_ids=["a"], deferrable=False))
        assert began.wait(10)
        assert "Metrics could not be sent (TimeoutError)" in caplog.text
    finally:
        released.set()


@pytest.mark.parametrize(
    ("response", "outcome", "seconds"),
    [
        (None, "accepted", 10),
        (Response(status=429), "not_accepted", 0),
        (Response(status=400), "rejected", 0),
        (Response(status=500), "unknown", 0),
        (Response(json={"id": "v9", "status": "failed", "error": "no"}), "failed", 10),
    ],
)
def test_order_is_counted_by_outcome(sent, emulator, monkeypatch, response, outcome, seconds):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if response is not None:
        emulator.respond_with(response, on="create")
    hook = ManxueHook()
    try:
        hook.send_order(parse_video_request(**ORDER, duration=10))
    except ManxueError:
        assert outcome != "accepted"
    hook.metrics.send()

    orders = {one.name: one.value for one in sent.sent if one.name.startswith("manxue.orders.")}
    assert orders == {f"manxue.orders.{outcome}": 1} | ({"manxue.orders.seconds": seconds} if seconds else {})
    assert {tuple(one.tags.items()) for one in sent.sent} == {
        (("conn_id", "manxue_default"), ("model", "sd2_manxue_1080p"))
    }


def test_order_without_a_duration_counts_as_the_default(sent, emulator):
    ManxueHook().create_video(**ORDER)

    assert sent.total("manxue.orders.seconds") == 5


def test_order_that_is_not_sent_is_not_counted(sent, emulator):
    with pytest.raises(ManxueConfigurationError):
        ManxueHook("missing").create_video(**ORDER)

    assert sent.sent == []


def test_order_of_a_task_is_sent_when_its_id_is_stored(sent, emulator):
    """Sending takes time. Before, a worker that is killed meanwhile would lose the order."""
    ti, stored = FakeTaskInstance(), []
    sent.before_each = lambda: stored.append(dict(ti.xcom))
    emulator.default_script = Script.by_hand("processing")
    with pytest.raises(TaskDeferred):
        ManxueCreateVideoOperator(task_id="order", **ORDER, durable=False).execute({"ti": ti})

    assert sent.total("manxue.orders.accepted") == 1
    assert all("video_task_id" in xcoms for xcoms in stored)


def test_order_that_fails_its_task_is_sent(sent, emulator):
    emulator.respond_with(Response(status=400), on="create")
    with pytest.raises(ManxueOrderError):
        ManxueCreateVideoOperator(task_id="order", **ORDER, durable=False).execute({"ti": FakeTaskInstance()})

    assert sent.total("manxue.orders.rejected") == 1


def test_save_is_counted_with_its_bytes_and_seconds(sent, emulator, tmp_path):
    video = emulator.add_task(script=Script.polls("completed"))
    operator = ManxueToObjectStorageOperator(
        task_id="save",
        video_task_id=video,
        destination=f"file://{tmp_path}/a.mp4",
        allow_private_addresses=True,
    )
    operator.execute({"ti": FakeTaskInstance()})

    assert sent.total("manxue.saves.saved") == 1
    assert sent.total("manxue.saves.bytes") == (tmp_path / "a.mp4").stat().st_size
    assert 0 < sent.total("manxue.saves.seconds") < 60


def test_skipped_save_is_not_counted(sent, emulator, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"video")
    operator = ManxueToObjectStorageOperator(
        task_id="save", video_task_id="v", destination=f"file://{tmp_path}/a.mp4", if_exists="skip"
    )
    operator.execute({"ti": FakeTaskInstance()})

    assert sent.sent == []


# --- names and tags -----------------------------------------------------------------------------------------


def rows():
    """Return the cells of each row of the table in the page."""
    table = PAGE.partition("<!-- metrics -->")[2].partition("<!-- end of metrics -->")[0]
    return [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]


def test_page_lists_exactly_the_catalogue():
    listed = {
        name.strip("`"): (kind, unit, re.findall(r"`(\w+)`", tags)) for name, kind, unit, tags, _ in rows()
    }

    assert listed == {
        f"manxue.{metric.name}": (metric.kind, metric.unit, [str(tag) for tag in metric.tags])
        for metric in CATALOGUE.values()
    }
    assert all(len(meaning) > 10 for *_, meaning in rows())


def test_page_describes_each_second_name():
    second = PAGE.partition("| metrics | second name |")[2].partition("\n\n")[0]
    timings = [metric for metric in CATALOGUE.values() if metric.in_name and metric.kind != "gauge"]

    assert {metric.in_name for metric in CATALOGUE.values() if metric.kind == "gauge"} == {
        (core.Tag.CONN_ID, core.Tag.HOSTNAME)
    }
    assert "`manxue.rate.<conn_id>.<hostname>`" in second
    assert [f"`manxue.{one.name}.<{one.in_name[0]}>`" for one in timings] == [
        "`manxue.generation_time.<model>`"
    ]
    assert "`manxue.generation_time.<model>`" in second


def test_each_outcome_has_a_metric():
    for status in TaskStatus:
        assert f"polls.{status}" in CATALOGUE
    for error in (*all_errors(ManxueError),):
        metrics = Metrics()
        metrics.add_poll("c", error("text"), None, START)
        assert [sample.metric.kind for sample in metrics.take()] == ["counter"], error


def all_errors(kind):
    yield kind
    for below in kind.__subclasses__():
        yield from all_errors(below)


def test_value_of_an_unknown_metric_is_refused():
    metrics = Metrics()
    metrics.count("polls.invented", "c")

    with pytest.raises(KeyError):
        metrics.take()


def everything_sent(triggerer, sent, emulator, tmp_path):
    """Drive waits, orders and a save, with secrets and ids that are recognized."""
    triggerer.respond(completed_at=100, created=int(START) + 20, model="sd2_manxue_1080p")
    triggerer.run(wait("id-of-a-video"))
    hook = ManxueHook()
    hook.create_video(**ORDER, first_image="https://images.example/a.png?token=secret")
    operator = ManxueToObjectStorageOperator(
        task_id="id_of_a_task",
        video_task_id=emulator.add_task(script=Script.polls("completed")),
        destination=f"file://{tmp_path}/a.mp4",
        allow_private_addresses=True,
    )
    operator.execute({"ti": FakeTaskInstance()})
    return sent.sent


def test_names_and_tags_have_no_secret_id_or_prompt(triggerer, sent, emulator, tmp_path):
    text = json.dumps([(one.name, one.tags) for one in everything_sent(triggerer, sent, emulator, tmp_path)])
    videos = [order.id for order in emulator.ledger.orders]

    assert text.count("manxue.") > 50
    for secret in (
        emulator.api_key,
        "secret",
        "cat",
        "http",
        "id-of",
        "id_of",
        "media",
        str(tmp_path),
        *videos,
    ):
        assert secret not in text, secret
    assert set(re.findall(r'"(\w+)": ', text)) == {str(tag) for tag in core.Tag}


def test_each_name_that_is_sent_is_documented(triggerer, sent, emulator, tmp_path):
    documented = {name.strip("`") for name, *_ in rows()}
    second = [f"manxue.{metric.name}." for metric in CATALOGUE.values() if metric.in_name]

    for one in everything_sent(triggerer, sent, emulator, tmp_path):
        assert one.name in documented or one.name.startswith(tuple(second)), one.name


@pytest.mark.parametrize(("text", "label"), [("Ab.1-c_d", "Ab.1-c_d"), ("a b|к", "a_b__"), ("", "_")])
def test_label_of_a_text(text, label):
    assert core.label(text) == label


@pytest.mark.parametrize("text", ["a|c\n:1@b", "x" * 500, "", "кот", 'a,b="c"', "a.b.c"])
def test_text_of_the_service_cannot_forge_a_name(text):
    """A line break would begin another metric, and Airflow refuses long names and other characters."""
    metrics = Metrics()
    metrics.add_poll(
        "c" * 250, VideoTask("v", TaskStatus.COMPLETED, created=int(START), model=text), START, START + 9
    )
    for sample in metrics.take():
        for name, tags in sample.names("h" * 250):
            assert re.fullmatch(r"[\w.-]{1,249}", name, re.ASCII)
            assert name.count(".") == sample.metric.name.count(".") + 1 + (
                "." in name[len("manxue.generation_time") :]
            )
            assert all(re.fullmatch(r"[\w.-]{1,64}", tag, re.ASCII) for tag in tags.values())


def test_number_of_models_is_limited():
    """Each is a new time series, and the service chooses the names."""
    metrics = Metrics()
    for number in range(MAX_MODELS + 30):
        task = VideoTask("v", TaskStatus.COMPLETED, created=int(START), model=f"model-{number}")
        metrics.add_poll("c", task, START, START + 9)
    models = [sample.model for sample in metrics.take() if sample.model]

    assert len(models) == MAX_MODELS + 30
    assert len(set(models)) == MAX_MODELS + 1
    assert models[-1] == OTHER_MODEL


# --- copies of the facility, event loops and forks ------------------------------------------------------------


def test_triggerer_uses_the_copy_of_the_core():
    has_two = importlib.util.find_spec("airflow.observability") is not None

    assert (triggerer_stats() is not worker_stats()) == has_two
    for stats in (triggerer_stats(), worker_stats()):
        stats.incr("manxue.polls.queued", 1, tags={"conn_id": "c"})
        stats.gauge("manxue.waits", 1, tags=PLACE)
        stats.timing("manxue.queue_time", timedelta(seconds=1), tags={"conn_id": "c"})


def test_each_event_loop_has_its_own_counts():
    async def metrics():
        async with async_client.shared_client() as client:
            client.metrics.count("polls.queued", "c")
            return client.metrics

    first, second = asyncio.run(metrics()), asyncio.run(metrics())
    assert first is not second
    assert [sample.value for sample in Metrics.take(second)] == [1]


def test_forked_process_does_not_send_counts_of_its_parent():
    read, write = os.pipe()

    async def count():
        async with async_client.shared_client() as client:
            client.metrics.count("polls.queued", "c")
            if (child := os.fork()) == 0:
                asyncio._set_running_loop(None)
                names = asyncio.run(names_of_a_new_loop())
                os.write(write, json.dumps(names).encode())
                os._exit(0)
            return child

    async def names_of_a_new_loop():
        async with async_client.shared_client() as client:
            client.metrics.count("polls.failed", "c")
            return [sample.metric.name for sample in client.metrics.take()]

    os.waitpid(asyncio.run(count()), 0)
    assert json.loads(os.read(read, 1000)) == ["polls.failed"]
