"""What a thousand waits share on one event loop, in virtual time: only the network and Airflow's database are made up."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
from types import SimpleNamespace

import pytest

from airflow_provider_manxue._client import async_client as transport_module
from airflow_provider_manxue._client.async_client import (
    CONNECTION_TTL,
    VAIN_LOOK_UP_TTL,
    Transport,
    shared_transport,
)
from airflow_provider_manxue._core.connection import parse_connection
from airflow_provider_manxue._core.polling import PollTimes
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueRateLimitError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask
from airflow_provider_manxue.triggers import manxue as trigger_module
from airflow_provider_manxue.triggers.manxue import ManxueVideoTrigger
from soak.virtual import run

START = 1_800_000_000.0


def loop_time():
    return asyncio.get_running_loop().time()


class Simulation:
    """The service and Airflow's connections, behind the transport's two ways out."""

    def __init__(self):
        self.connections = {}
        self.look_ups = []
        self.look_up_takes = 0.01
        self.asked = []
        self.sessions = []
        self.takes = 0.05
        self.answer = lambda settings, video: VideoTask(video, TaskStatus.PROCESSING)

    def connect(self, conn_id, host, key, **extra):
        extra = {"requests_per_second": 10_000, "max_connections": 1000, **extra}
        self.connections[conn_id] = parse_connection(conn_id, host=host, password=key, extra=extra)

    async def parse_connection(self, conn_id):
        self.look_ups.append((loop_time(), conn_id, contextvars.copy_context().get(log_of_a_task)))
        await asyncio.sleep(self.look_up_takes)
        found = self.connections[conn_id]
        if isinstance(found, Exception):
            raise found
        return found

    async def query(self, transport, settings, video):
        self.asked.append((loop_time(), settings.base_url, settings.api_key, video))
        await asyncio.sleep(self.takes)
        answer = self.answer(settings, video)
        if isinstance(answer, Exception):
            raise answer
        return answer


log_of_a_task = contextvars.ContextVar("log_of_a_task", default=None)


@pytest.fixture
def simulation(monkeypatch):
    simulation = Simulation()
    simulation.connect("c", "https://one.example.com", "key")

    async def query(transport, session, settings, video):
        return await simulation.query(transport, settings, video)

    async def no_session(transport, settings):
        simulation.sessions.append((loop_time(), settings.base_url))

    async def no_library():
        return None

    monkeypatch.setattr(transport_module, "load_connection", simulation.parse_connection)
    monkeypatch.setattr(Transport, "_query", query)
    monkeypatch.setattr(Transport, "_session", no_session)
    monkeypatch.setattr(transport_module, "_import_http_library", no_library)
    monkeypatch.setattr(trigger_module, "time", SimpleNamespace(time=lambda: START + loop_time()))
    return simulation


def trigger(video, conn_id="c", interval=30.0, deadline=600.0, first=0.0):
    return ManxueVideoTrigger(
        video_task_id=video,
        manxue_conn_id=conn_id,
        poke_interval=interval,
        started_at=START,
        deadline=START + deadline,
        first_poll_at=START + first,
    )


async def wait_for_all(triggers):
    async def one(one_trigger):
        events = [event.payload async for event in one_trigger.run()]
        assert len(events) == 1
        return events[0]

    return await asyncio.gather(*map(one, triggers))


class TestConnections:
    def test_are_read_ten_times_at_most_in_ten_intervals_of_a_thousand_waits(self, simulation):
        run(wait_for_all(trigger(f"v{n}", deadline=300) for n in range(1000)))
        assert len(simulation.asked) > 9000
        assert len(simulation.look_ups) <= 300 / CONNECTION_TTL + 1

    def test_thousand_refusals_of_one_moment_cause_one_look_up(self, simulation):
        simulation.answer = lambda settings, video: ManxueAuthenticationError("401")
        events = run(wait_for_all(trigger(f"v{n}") for n in range(1000)))
        assert {event["status"] for event in events} == {"unauthorized"}
        assert len(simulation.look_ups) == 2  # at the start, and after the refusal

    def test_only_the_refused_value_is_dropped(self, simulation):
        simulation.connect("other", "https://two.example.com", "other-key")

        async def main():
            async with shared_transport() as transport:
                await transport.get_video_task("other", "v", 30)
                await transport.get_video_task("c", "v", 30)
                simulation.connect("c", "https://one.example.com", "new-key")
                simulation.answer = lambda settings, video: (
                    ManxueAuthenticationError("401")
                    if settings.api_key == "key"
                    else VideoTask(video, TaskStatus.PROCESSING)
                )
                await transport.get_video_task("c", "v", 30)
                await transport.get_video_task("other", "v", 30)

        run(main())
        assert [conn_id for _, conn_id, _ in simulation.look_ups] == ["other", "c", "c"]
        assert [key for _, _, key, _ in simulation.asked] == [
            "other-key",
            "key",
            "key",
            "new-key",
            "other-key",
        ]

    def test_look_up_survives_the_wait_that_began_it(self, simulation):
        simulation.look_up_takes = 5

        async def main():
            async with shared_transport() as transport:
                first = asyncio.create_task(transport.get_video_task("c", "a", 30))
                await asyncio.sleep(1)
                second = asyncio.create_task(transport.get_video_task("c", "b", 30))
                await asyncio.sleep(1)
                first.cancel()
                return await second

        assert run(main()).id == "b"
        assert len(simulation.look_ups) == 1

    def test_look_up_runs_outside_of_the_log_of_a_task(self, simulation):
        async def main():
            log_of_a_task.set("the log of one task")
            await wait_for_all([trigger("v", deadline=10)])

        run(main())
        assert [log for _, _, log in simulation.look_ups] == [None]

    def test_failed_look_up_is_not_repeated_by_everyone_but_soon(self, simulation):
        good = simulation.connections["c"]
        simulation.connections["c"] = ManxueTransientError("Airflow could not be asked")

        async def main():
            async with shared_transport() as transport:
                asks = (transport.get_video_task("c", f"v{n}", 30) for n in range(100))
                results = await asyncio.gather(*asks, return_exceptions=True)
                simulation.connections["c"] = good
                await asyncio.sleep(VAIN_LOOK_UP_TTL + 0.1)
                return results, await transport.get_video_task("c", "v", 30)

        results, later = run(main())
        assert {type(result) for result in results} == {ManxueTransientError}
        assert later.id == "v"
        assert len(simulation.look_ups) == 2

    def test_missing_one_ends_the_wait_with_its_name(self, simulation):
        simulation.connections["c"] = ManxueConfigurationError("The connection 'c' does not exist.")
        [event] = run(wait_for_all([trigger("v")]))
        assert (event["status"], event["message"]) == ("configuration", "The connection 'c' does not exist.")


class TestTwoConnections:
    def test_each_request_carries_the_right_key_to_the_right_host(self, simulation):
        simulation.connect("d", "https://two.example.com", "key-of-d")
        run(wait_for_all(trigger(f"v{n}", conn_id="cd"[n % 2], deadline=100) for n in range(200)))
        prefix = "/kyyReactApiServer"
        assert {(host, key) for _, host, key, _ in simulation.asked} == {
            (f"https://one.example.com{prefix}", "key"),
            (f"https://two.example.com{prefix}", "key-of-d"),
        }

    def test_pause_of_one_does_not_slow_the_other(self, simulation):
        simulation.connect("d", "https://two.example.com", "key-of-d")
        simulation.answer = lambda settings, video: (
            ManxueRateLimitError("HTTP 429", retry_after=200.0)
            if "one" in settings.base_url
            else VideoTask(video, TaskStatus.PROCESSING)
        )
        run(wait_for_all(trigger(f"v{n}", conn_id="cd"[n % 2], deadline=180) for n in range(20)))
        asked = {name: [at for at, host, _, _ in simulation.asked if name in host] for name in ("one", "two")}
        assert max(asked["one"]) < 1
        assert len(asked["two"]) >= 10 * 6


class TestManners:
    def test_pause_holds_for_every_wait_of_the_connection(self, simulation):
        refused = []

        def answer(settings, video):
            if loop_time() > 60 and not refused:
                refused.append(loop_time())
                return ManxueRateLimitError("HTTP 429", retry_after=120.0)
            return VideoTask(video, TaskStatus.PROCESSING)

        simulation.answer = answer
        simulation.connect("c", "https://one.example.com", "key", requests_per_second=50)
        run(wait_for_all(trigger(f"v{n}", deadline=400, first=n * 0.03) for n in range(1000)))
        [paused_at] = refused
        assert not [at for at, *_ in simulation.asked if paused_at < at < paused_at + 120 - 1e-6]

    def test_restart_spreads_first_polls_and_keeps_the_limit(self, simulation):
        simulation.connect("c", "https://one.example.com", "key", requests_per_second=400)
        waits = [trigger(f"v{n}", first=-100.0, deadline=60) for n in range(10_000)]
        run(wait_for_all(waits))
        first_polls = {}
        for at, _, _, video in simulation.asked:
            first_polls.setdefault(video, at)
        assert len(first_polls) == 10_000
        assert max(first_polls.values()) <= 31
        moments = [at for at, *_ in simulation.asked]
        assert all(later - earlier > 1 - 1e-6 for earlier, later in zip(moments, moments[400:], strict=False))

    def test_limit_that_stretches_the_interval_is_told_once(self, simulation, caplog):
        simulation.connect("c", "https://one.example.com", "key", requests_per_second=2)
        with caplog.at_level(logging.WARNING):
            run(wait_for_all(trigger(f"v{n}", deadline=600, interval=10.0) for n in range(100)))
        [told] = [record.getMessage() for record in caplog.records if "too few" in record.getMessage()]
        assert "'c'" in told
        assert "instead of every 10 s" in told

    def test_deadline_is_kept_to_the_second_although_every_answer_takes_long(self, simulation):
        simulation.takes = 20
        simulation.connect("c", "https://one.example.com", "key", max_connections=5)

        async def main():
            events = await wait_for_all(trigger(f"v{n}", deadline=120) for n in range(100))
            return events, loop_time()

        events, ended = run(main())
        assert {event["status"] for event in events} == {"timeout"}
        assert 120 <= ended <= 121.1


class TestEnd:
    def test_leaves_nothing_behind_however_it_comes(self, simulation):
        counter = itertools.count()

        def answer(settings, video):
            kind = int(video[1:]) % 4
            if kind == 0:
                return VideoTask(video, TaskStatus.COMPLETED, video_url="https://cdn.example.com/v.mp4")
            if kind == 1:
                return VideoTask(video, TaskStatus.FAILED, error="no")
            return VideoTask(video, TaskStatus.PROCESSING)

        simulation.answer = answer

        async def main():
            tasks = [
                asyncio.create_task(wait_for_all([trigger(f"v{next(counter)}", deadline=90)]))
                for _ in range(1000)
            ]
            await asyncio.sleep(35)
            for task in tasks[3::4]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(1)
            return results, asyncio.all_tasks() - {asyncio.current_task()}, dict(transport_module._transports)

        results, tasks_left, transports_left = run(main())
        statuses = [
            result[0]["status"] if isinstance(result, list) else type(result).__name__ for result in results
        ]
        assert {word: statuses.count(word) for word in set(statuses)} == {
            "completed": 250,
            "failed": 250,
            "timeout": 250,
            "CancelledError": 250,
        }
        assert not tasks_left
        assert not transports_left

    def test_of_one_wait_keeps_the_transport_for_the_others(self, simulation):
        async def main():
            async with shared_transport() as outer:
                async with shared_transport() as inner:
                    pass
                return outer is inner, (await outer.get_video_task("c", "v", 30)).id

        assert run(main()) == (True, "v")


class TestPreparation:
    """A triggerer that has just been started needs seconds for its first request."""

    def test_goes_on_while_a_wait_reads_its_id(self, simulation, monkeypatch):
        async def begin(one_trigger, value):
            await asyncio.sleep(5)
            return value, PollTimes(START, START + 60, START, resumed_at=START)

        monkeypatch.setattr(ManxueVideoTrigger, "_begin", begin)
        run(wait_for_all([trigger("v")]))
        begun = [moments[0][0] for moments in (simulation.look_ups, simulation.sessions, simulation.asked)]
        assert begun == [0, simulation.look_up_takes, 5]

    def test_is_made_once_for_all_waits(self, simulation):
        async def main():
            async with shared_transport() as transport:
                for conn_id in ["c", "c", "other", "c"]:
                    transport.prepare(conn_id)
                    await asyncio.sleep(CONNECTION_TTL)

        simulation.connect("other", "https://two.example.com", "other-key")
        run(main())
        assert [conn_id for _, conn_id, _ in simulation.look_ups] == ["c", "other"]

    @pytest.mark.parametrize(
        "conn_id", [{"xcom_task_id": "t", "xcom_key": "k", "xcom_is_mapped": False}, "{{ x }}"]
    )
    def test_waits_for_the_id_of_the_connection(self, simulation, conn_id):
        one = trigger("v", conn_id=conn_id)
        one._template_error = ValueError("x is undefined") if isinstance(conn_id, str) else None
        one.started_at = None
        [event] = run(wait_for_all([one]))
        assert event["status"] == "begin"
        assert simulation.look_ups == []

    def test_that_fails_is_told_by_the_wait(self, simulation):
        simulation.connections["c"] = ManxueConfigurationError("no such connection")
        [event] = run(wait_for_all([trigger("v")]))
        assert (event["status"], "no such connection" in event["message"]) == ("configuration", True)

    def test_leaves_no_session_open_whenever_the_last_wait_leaves(self, monkeypatch):
        settings = parse_connection("c", host="https://one.example.com", password="key")
        opened = []

        class Session:
            closed = False

            async def close(self):
                await asyncio.sleep(0.001)
                self.closed = True

        async def open_session(settings):
            await asyncio.sleep(0)
            opened.append(Session())
            return opened[-1]

        async def at_once(*arguments):
            return settings

        monkeypatch.setattr(transport_module, "load_connection", at_once)
        monkeypatch.setattr(transport_module, "_import_http_library", at_once)
        monkeypatch.setattr(transport_module, "_open_session", open_session)

        async def main(turns):
            async with shared_transport() as transport:
                transport.prepare("c")
                for _ in range(turns):
                    await asyncio.sleep(0)
            await asyncio.sleep(1)
            return asyncio.all_tasks() - {asyncio.current_task()}

        left = [run(main(turns)) for turns in range(12)]
        assert opened
        assert all(session.closed for session in opened)
        assert not any(left)


def test_two_loops_have_a_transport_each(simulation):
    async def mine():
        async with shared_transport() as transport:
            await transport.get_video_task("c", "v", 30)
            return transport

    assert run(mine()) is not run(mine())
