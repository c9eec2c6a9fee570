"""Outages, random faults, records, and the end of an emulator."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from airflow_provider_manxue.testing import Emulator, Response, Script


@pytest.fixture
def task_id(emulator):
    return emulator.add_task("processing")


class TestOutage:
    @pytest.mark.parametrize(
        ("kind", "status"), [("503", 503), ("html", 200), ("empty", 200), ("http_429_seconds", 429)]
    )
    def test_outage_lasts_as_long_as_its_block(self, emulator, customer, task_id, kind, status):
        with emulator.outage(kind):
            responses = [customer.query(task_id) for _ in range(3)]

        assert {response.status_code for response in responses} == {status}
        assert all("processing" not in response.text for response in responses)
        assert customer.statuses(task_id, 1) == ["processing"]

    def test_outage_reaches_every_endpoint(self, emulator, customer, task_id):
        with emulator.outage("503"):
            video = requests.get(emulator.video_url(task_id), timeout=10)
            assert [customer.query(task_id).status_code, customer.order().status_code, video.status_code] == [
                503
            ] * 3

    def test_outage_may_be_nested(self, emulator, customer, task_id):
        seen = []
        with emulator.outage("503"):
            with emulator.outage(Response(status=502)):
                seen.append(customer.query(task_id).status_code)
            seen.append(customer.query(task_id).status_code)
        seen.append(customer.query(task_id).status_code)

        assert seen == [502, 503, 200]

    def test_outage_may_be_narrow(self, emulator, customer, task_id):
        with emulator.outage("503", on="create"):
            assert customer.query(task_id).status_code == 200
            assert customer.order().status_code == 503

    def test_narrow_outage_takes_precedence(self, emulator, customer, task_id):
        with emulator.outage("504", on="query"), emulator.outage("503"):
            assert customer.query(task_id).status_code == 504

    def test_outage_cuts_pooled_connections_too(self, emulator, customer, task_id):
        customer.query(task_id)
        with emulator.outage("refuse"):
            for _ in range(2):
                with pytest.raises(requests.ConnectionError, match="refused"):
                    customer.query(task_id)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(emulator.url.rpartition(":")[2])))

        assert customer.statuses(task_id, 1) == ["processing"]
        assert len(emulator.requests) == 2

    def test_outage_reserves_the_port(self, emulator):
        port = int(emulator.url.rpartition(":")[2])
        with emulator.outage("refuse"), socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))

    def test_outage_of_an_unknown_kind_is_rejected(self, emulator):
        with pytest.raises(ValueError, match="reset"), emulator.outage("rest"):
            pass

    def test_outage_may_end_with_the_emulator(self):
        emulator = Emulator().start()
        with emulator.outage("refuse"):
            emulator.stop()


class TestRespondWith:
    def test_respond_with_ends_with_none(self, emulator, customer, task_id):
        emulator.respond_with("http_503", on="query")
        emulator.respond_with(Response(status=502), on="create")
        assert customer.query(task_id).status_code == 503
        emulator.respond_with(None, on="query")
        assert customer.query(task_id).status_code == 200
        assert customer.order().status_code == 502
        emulator.respond_with(None)
        assert customer.order().status_code == 200

    def test_respond_with_precedes_fail_next(self, emulator, customer, task_id):
        emulator.fail_next(1, "500")
        with emulator.outage("503"):
            assert customer.query(task_id).status_code == 503
        assert customer.query(task_id).status_code == 500

    def test_respond_with_ends_with_clear_faults(self, emulator, customer, task_id):
        emulator.fail_next(5, "500")
        emulator.respond_with("503")
        emulator.clear_faults()

        assert customer.query(task_id).status_code == 200

    def test_respond_with_rejects_an_unknown_target(self, emulator):
        with pytest.raises(ValueError, match="Similar names: query"):
            emulator.respond_with("503", on="querry")


def test_fail_next_sends_responses_in_order(emulator, customer, task_id):
    emulator.fail_next(2, "500")
    emulator.fail_next(1, Response(status=502))
    emulator.fail_next(1, "503", on="create")

    assert [customer.query(task_id).status_code for _ in range(4)] == [500, 500, 502, 200]
    assert customer.order().status_code == 503


def test_fail_next_rejects_a_negative_count(emulator):
    with pytest.raises(ValueError, match="-1"):
        emulator.fail_next(-1, "500")


def test_delay_comes_after_the_order_is_accepted(emulator, customer):
    emulator.fail_next(1, Response(delay=60), on="create")
    with pytest.raises(requests.ReadTimeout):
        customer.post(
            f"{emulator.base_url}/v1/sd2_manxue/videos", json={"prompt": "x", "model": "m"}, timeout=1
        )

    assert emulator.ledger.billed == 1


def test_bytes_per_second_is_the_real_rate(emulator):
    task_id = emulator.add_task("completed")
    size = emulator.task(task_id).video.size
    emulator.fail_next(1, Response(bytes_per_second=size * 5), on="media")
    began = time.monotonic()
    assert len(requests.get(emulator.video_url(task_id), timeout=10).content) == size

    assert time.monotonic() - began > 0.15


class TestRandomFaults:
    FAULTS = ("http_500", "html_body", "http_429_seconds")

    def run(self, make_customer, seed, rate=0.5, count=40):
        with Emulator(seed=seed, fault_rate=rate, random_faults=self.FAULTS) as emulator:
            customer = make_customer(emulator)
            task_id = emulator.add_task("processing")
            for _ in range(count):
                customer.query(task_id)
            return emulator

    def test_random_faults_come_from_the_seed(self, make_customer):
        first, same, other = (self.run(make_customer, seed) for seed in (7, 7, 8))

        assert first.faults_played == same.faults_played != other.faults_played
        assert 5 < len(first.faults_played) < 35

    def test_random_faults_are_recorded_and_logged(self, make_customer, caplog):
        caplog.set_level(logging.INFO)
        emulator = self.run(make_customer, 7)
        first = emulator.faults_played[0]

        assert first.number == 1
        assert emulator.requests[first.request - 1].fault == first.name
        assert f"Random fault 1: request {first.request} meets {first.name}" in caplog.text
        assert "seed=7" in caplog.text
        spoilt = [record.number for record in emulator.requests if record.fault]
        assert spoilt == [fault.request for fault in emulator.faults_played]

    def test_random_faults_replace_the_response(self, make_customer):
        emulator = self.run(make_customer, 7)
        statuses = {"http_500": 500, "html_body": 200, "http_429_seconds": 429, None: 200}

        assert all(record.status == statuses[record.fault] for record in emulator.requests)

    def test_random_faults_may_be_all_or_nothing(self, make_customer):
        assert len(self.run(make_customer, 1, rate=1, count=5).faults_played) == 5
        assert self.run(make_customer, 1, rate=0, count=5).faults_played == []

    def test_random_faults_of_a_lower_rate_are_a_subset(self, make_customer):
        rare, often = (self.run(make_customer, 7, rate=rate).faults_played for rate in (0.2, 0.8))
        rare_ones = {(fault.request, fault.name) for fault in rare}

        assert rare_ones
        assert rare_ones < {(fault.request, fault.name) for fault in often}

    def test_random_faults_have_a_new_seed_by_default(self):
        assert Emulator(fault_rate=0.5).seed != Emulator(fault_rate=0.5).seed

    def test_random_faults_are_not_shifted_by_an_outage(self, make_customer):
        plain = self.run(make_customer, 7, count=30)
        with Emulator(seed=7, fault_rate=0.5, random_faults=self.FAULTS) as emulator:
            customer = make_customer(emulator)
            task_id = emulator.add_task("processing")
            with emulator.outage("503"):
                for _ in range(10):
                    customer.query(task_id)
            for _ in range(20):
                customer.query(task_id)

        later = [(fault.request, fault.name) for fault in plain.faults_played if fault.request > 10]
        assert [(fault.request, fault.name) for fault in emulator.faults_played] == later

    @pytest.mark.parametrize("options", [{"fault_rate": 1.1}, {"fault_rate": -1}, {"random_faults": ["x"]}])
    def test_fault_rate_out_of_range_is_rejected(self, options):
        with pytest.raises(ValueError, match=r"fault_rate|unknown scenario 'x'"):
            Emulator(**options)


class TestRecords:
    def test_records_distinguish_connections(self, emulator, customer, make_customer, task_id):
        other = make_customer(emulator)
        for one in (customer, other, customer, other):
            one.query(task_id)
        ids = [record.connection_id for record in emulator.requests]

        assert ids[0] == ids[2] != ids[1] == ids[3]

    def test_records_hold_time_and_headers(self, emulator, customer, task_id):
        emulator.clock.advance(5)
        before = time.monotonic()
        customer.query(task_id, headers={"X-Test": "1"})
        (record,) = emulator.requests

        assert record.time == 1_800_000_005
        assert before <= record.monotonic <= time.monotonic()
        assert record.headers["x-test"] == record.headers["X-TEST"] == "1"
        assert (record.number, record.method, record.place) == (1, "GET", "query")

    def test_records_without_a_response_have_no_status(self, emulator, customer, task_id):
        for kind in ("reset_before_read", "reset_after_read"):
            emulator.fail_next(1, kind)
            with pytest.raises(requests.ConnectionError):
                customer.query(task_id)

        assert [record.status for record in emulator.requests] == [None, None]

    def test_records_are_a_snapshot_and_can_be_cleared(self, emulator, customer, task_id):
        customer.query(task_id)
        before = emulator.requests
        emulator.clear_requests()

        assert (len(before), emulator.requests) == (1, [])

    def test_records_can_be_switched_off(self, make_customer):
        with Emulator(record_requests=False) as emulator:
            assert make_customer(emulator).order().status_code == 200
            assert emulator.requests == []
            assert emulator.ledger.billed == 1

    def test_records_belong_to_their_task(self, emulator, customer, task_id):
        customer.query(task_id)
        customer.query(emulator.add_task("queued"))

        assert [record.number for record in emulator.polls(task_id)] == [1]


def test_many_clients_at_once_are_served(emulator, make_customer):
    task_ids = [emulator.add_task(Script.polls("queued", "processing", "completed")) for _ in range(20)]

    def wait(task_id):
        return make_customer(emulator).statuses(task_id, 3)

    with ThreadPoolExecutor(20) as pool:
        seen = list(pool.map(wait, task_ids))

    assert seen == [["queued", "processing", "completed"]] * 20
    assert sorted(record.number for record in emulator.requests) == list(range(1, 61))


@pytest.mark.parametrize("kind", ["hang", "endless"])
def test_disconnected_client_ends_its_handler(emulator, customer, task_id, kind):
    with emulator.outage(kind), contextlib.suppress(requests.ReadTimeout):
        customer.query(task_id, stream=True, timeout=0.05).close()
    customer.close()
    end = time.monotonic() + 60
    # The remaining task is the emulator.
    while len(asyncio.all_tasks(emulator._loop)) > 1 and time.monotonic() < end:
        time.sleep(0.005)

    assert len(asyncio.all_tasks(emulator._loop)) == 1


class TestStop:
    def test_stop_is_quick_while_requests_hang(self, make_customer):
        emulator = Emulator().start()
        task_id = emulator.add_task(Script.always("hang"))
        failed = []

        def wait():
            try:
                make_customer(emulator).query(task_id)
            except requests.ConnectionError as error:
                failed.append(error)

        clients = [threading.Thread(target=wait) for _ in range(5)]
        for client in clients:
            client.start()
        while len(emulator.requests) < 5:
            time.sleep(0.001)
        began = time.monotonic()
        emulator.stop()
        took = time.monotonic() - began
        for client in clients:
            client.join()

        assert took < 30
        assert len(failed) == 5

    def test_stop_leaves_no_threads_sockets_or_files(self, recwarn):
        gc.collect()
        threads = set(threading.enumerate())
        sockets = open_sockets()
        emulator = Emulator(tls=True).start()
        ca_bundle = Path(emulator.ca_bundle)
        assert ca_bundle.exists()
        emulator.stop()
        gc.collect()

        assert set(threading.enumerate()) == threads
        assert open_sockets() == sockets
        assert not ca_bundle.parent.exists()
        assert not [one for one in recwarn if issubclass(one.category, ResourceWarning)]

    def test_stop_may_be_repeated(self):
        emulator = Emulator().start()
        emulator.stop()
        emulator.stop()

    def test_stop_keeps_state_and_port(self, make_customer):
        emulator = Emulator().start()
        task_id = emulator.add_task("completed")
        customer = make_customer(emulator)
        customer.query(task_id)
        emulator.stop()
        assert len(emulator.requests) == 1
        with pytest.raises(requests.ConnectionError):
            customer.query(task_id)
        with emulator:
            assert customer.statuses(task_id, 1) == ["completed"]


def open_sockets():
    return sum(path.is_socket() for path in Path("/proc/self/fd").iterdir())


def test_second_start_is_rejected(emulator):
    with pytest.raises(RuntimeError, match="already running"):
        emulator.start()


def test_port_in_use_is_rejected(emulator):
    port = int(emulator.url.rpartition(":")[2])
    other = Emulator(port=port)
    with pytest.raises(OSError, match="in use"):
        other.start()
    with pytest.raises(RuntimeError, match="start"), other.outage("refuse"):
        pass


def test_url_needs_a_port():
    with pytest.raises(RuntimeError, match=r"Call start\(\) first"):
        Emulator().base_url  # noqa: B018
