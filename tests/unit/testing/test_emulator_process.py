"""The emulator in another process: command, control API, client, TLS and the pytest fixture."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from airflow_provider_manxue.testing import SCENARIOS, Emulator, EmulatorClient, Response, Script
from airflow_provider_manxue.testing.__main__ import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def client(emulator):
    return EmulatorClient(emulator.base_url)


def wait_for(condition):
    """Wait up to a minute, and return whether the condition is true."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if condition():
            return True
    return False


def is_reachable(customer, task_id):
    try:
        return customer.query(task_id).status_code == 200
    except requests.ConnectionError:
        return False


class TestClient:
    def test_client_adds_and_moves_tasks(self, emulator, client, customer):
        task_id = client.add_task(Script.by_hand(), id="global task/2", actual_duration=4.5)
        assert client.tasks[task_id]["status"] == "queued"
        client.advance(task_id)
        assert customer.statuses(task_id, 1) == ["processing"]
        client.set_status(task_id, "failed", error="No.")
        assert customer.query(task_id).json()["error"] == "No."
        client.set_script(task_id, "completed")
        assert customer.query(task_id).json()["actualDuration"] == 4.5
        assert requests.get(client.video_url(task_id), timeout=10).status_code == 200
        version = emulator.task(task_id).version
        client.replace_video(task_id)
        assert emulator.task(task_id).version == version + 1

    def test_client_sends_whole_scripts(self, client, customer):
        task_id = client.add_task(Script.always(Response(body=b"\xff\x00", status=418)))
        response = customer.query(task_id)

        assert (response.status_code, response.content) == (418, b"\xff\x00")

    def test_client_sets_the_default_script(self, client, customer):
        client.set_default_script(Script.failing("No."))
        assert customer.statuses(customer.order().json()["id"], 1) == ["failed"]

    def test_client_reads_ledger_and_requests(self, emulator, client, customer):
        task_id = customer.order(duration=6).json()["id"]
        customer.query(task_id)

        assert client.ledger == emulator.ledger
        assert (client.ledger.billed, client.ledger.units) == (1, 6)
        for mine, other in zip(client.requests, emulator.requests, strict=True):
            assert mine.to_json() == other.to_json()
        assert client.requests[0].headers["authorization"] == "Bearer emulator-key"
        assert b"A cat" in client.requests[0].body
        assert [record.number for record in client.polls(task_id)] == [2]
        client.clear_requests()
        assert client.requests == []

    def test_client_moves_the_clock(self, emulator, client):
        assert client.clock.advance(86400) == 1_800_086_400
        assert client.clock.now() == emulator.clock.now()

    def test_client_sends_faults(self, client, customer):
        task_id = client.add_task("processing")
        client.fail_next(1, "http_503")
        client.fail_next(1, Response(status=502), on="query")
        with client.outage("504", on="create"):
            assert customer.order().status_code == 504
        client.respond_with("500", on="create")
        assert [customer.query(task_id).status_code for _ in range(3)] == [503, 502, 200]
        assert customer.order().status_code == 500
        client.clear_faults()
        assert customer.order().status_code == 200

    def test_client_closes_the_port_for_some_seconds(self, client, customer):
        task_id = client.add_task("processing")
        client.refuse_for(2)
        assert wait_for(lambda: not is_reachable(customer, task_id))
        assert wait_for(lambda: is_reachable(customer, task_id))
        with pytest.raises(ValueError, match="refuse_for"), client.outage("refuse"):
            pass

    def test_client_rotates_the_key(self, emulator, client):
        client.api_key = "another-key"

        assert client.api_key == emulator.api_key == "another-key"
        assert json.loads(client.airflow_connection_json())["password"] == "another-key"
        assert client.base_url == emulator.base_url

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda client: client.add_task("sucess"), ValueError, "Similar names"),
            (lambda client: client.set_status("x", "queued"), KeyError, "'x' does not exist"),
            (lambda client: client.call("add_taks"), KeyError, "Similar names: POST add_task"),
            (lambda client: client.read("add_task"), KeyError, "Similar names"),
            (lambda client: client.call("advance", wrong=1), ValueError, "wrong"),
            (lambda client: client.clock.advance(-1), ValueError, "0 or more"),
            (lambda client: client._send("add_task", b"[]"), ValueError, "JSON object"),
            (lambda client: client._send("add_task", b"{"), ValueError, "Expecting"),
            (lambda client: client.call("fail_next", count=1, response={"statsu": 1}), ValueError, "statsu"),
        ],
    )
    def test_client_passes_errors_on(self, client, call, error, words):
        with pytest.raises(error, match=words):
            call(client)

    def test_client_rejects_another_url_scheme(self):
        with pytest.raises(ValueError, match="ftp://x"):
            EmulatorClient("ftp://x")

    def test_client_leaves_no_record(self, emulator, client):
        client.read("health")
        assert emulator.requests == []

    def test_client_lists_the_scenarios(self, client):
        assert [entry["name"] for entry in client.read("scenarios")] == list(SCENARIOS)


def test_control_api_rejects_another_machine(monkeypatch, emulator):
    monkeypatch.setattr("airflow_provider_manxue.testing._control._is_local", lambda _: False)
    assert requests.get(f"{emulator.url}/_emulator/ledger", timeout=10).status_code == 403


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Host": "rebound.evil.example"}])
def test_control_api_rejects_a_page_in_a_browser(emulator, headers):
    """A page in a browser on the same machine may send requests, also through DNS rebinding."""
    response = requests.get(f"{emulator.url}/_emulator/requests", headers=headers, timeout=10)

    assert response.status_code == 403
    assert "a page in a browser" in response.json()["error"]


@pytest.mark.parametrize(
    ("address", "local"), [("127.0.0.1", True), ("::1", True), ("10.0.0.7", False), (None, False)]
)
def test_local_address_is_loopback(address, local):
    from airflow_provider_manxue.testing._control import _is_local

    assert _is_local(address) is local


class TestTls:
    def test_certificate_is_trusted_with_the_bundle_only(self, make_customer):
        with Emulator(tls=True) as emulator:
            connection = json.loads(emulator.airflow_connection_json())
            customer = make_customer(emulator)
            task_id = emulator.add_task("completed")
            customer.verify = connection["extra"]["ca_bundle"]
            task = customer.query(task_id).json()
            assert requests.get(task["video_url"], verify=customer.verify, timeout=10).status_code == 200
            client = EmulatorClient(emulator.url, ca_bundle=emulator.ca_bundle)
            assert client.base_url == emulator.base_url
            with pytest.raises(requests.exceptions.SSLError):
                requests.get(task["video_url"], timeout=10)

        assert connection["host"].startswith("https://127.0.0.1:")

    def test_outage_resets_tls_connections(self, make_customer):
        """The emulator has to reset the socket below TLS."""
        with Emulator(tls=True) as emulator:
            customer = make_customer(emulator)
            customer.verify = emulator.ca_bundle
            with emulator.outage("reset"), pytest.raises(requests.ConnectionError):
                customer.query("x")

    def test_error_without_trustme_has_a_remedy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "trustme", None)
        with pytest.raises(ModuleNotFoundError, match=r"airflow-provider-manxue\[testing\]"):
            Emulator(tls=True).start()


def test_connection_has_host_and_key_only(emulator):
    assert json.loads(emulator.airflow_connection_json()) == {
        "conn_type": "manxue",
        "host": emulator.base_url,
        "password": "emulator-key",
        "extra": {},
    }
    assert emulator.base_url == f"{emulator.url}/kyyReactApiServer"


def start(*arguments):
    command = [sys.executable, "-u", "-m", "airflow_provider_manxue.testing", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


class TestCommand:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_command_prints_its_urls_and_ends_cleanly(self, tmp_path, number):
        control_file = tmp_path / "emulator.json"
        process = start("--queued", "0", "--processing", "60", "--control-file", str(control_file))
        lines = [process.stdout.readline() for _ in range(3)]
        name, _, value = shlex.split(lines[2])[1].partition("=")
        connection = json.loads(value)
        body = {"prompt": "x", "model": "sd2_manxue_720p"}
        headers = {"Authorization": f"Bearer {connection['password']}"}
        url = f"{connection['host']}/v1/sd2_manxue/videos"
        task_id = requests.post(url, json=body, headers=headers, timeout=10).json()["id"]
        client = EmulatorClient(lines[0].split()[-1])
        status = client.tasks[task_id]["status"]
        announced = json.loads(control_file.read_text())
        process.send_signal(number)
        output, log = process.communicate(timeout=10)

        assert name == "AIRFLOW_CONN_MANXUE_DEFAULT"
        assert lines[0] == f"base URL: {connection['host']}\n"
        assert connection["host"].startswith("http://127.0.0.1:")
        assert status == "processing"
        assert announced == {"base_url": connection["host"], "connection": connection, "pid": process.pid}
        assert (process.returncode, output) == (0, "")
        assert not control_file.exists()
        assert "1 POST /kyyReactApiServer/v1/sd2_manxue/videos 200 OK" in log
        assert "Traceback" not in log

    def test_command_lists_the_scenarios(self, capsys):
        assert main(["--list"]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SCENARIOS)

    def test_command_prints_an_unknown_script(self):
        process = start("--script", "sucess")
        output, log = process.communicate(timeout=10)

        assert process.returncode == 2
        assert "Similar names" in log
        assert output == ""


def test_plugin_starts_a_new_emulator(tmp_path):
    result = run_pytest(
        tmp_path,
        """
        import json, os

        def test_one(manxue_emulator):
            connection = json.loads(os.environ["AIRFLOW_CONN_MANXUE_DEFAULT"])
            assert connection["host"] == manxue_emulator.base_url
            manxue_emulator.add_task(id="x")

        def test_two(manxue_emulator):
            assert manxue_emulator.tasks == {}

        def test_three():
            assert "AIRFLOW_CONN_MANXUE_DEFAULT" not in os.environ
        """,
    )

    assert "3 passed" in result


def run_pytest(folder, source):
    lines = source.strip("\n").splitlines()
    (folder / "test_it.py").write_text("\n".join(line[8:] for line in lines))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "airflow_provider_manxue._pytest_plugin",
        ".",
    ]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout


def test_plugin_loads_no_heavy_packages():
    code = (
        "import sys, airflow_provider_manxue._pytest_plugin;"
        "print(sorted({'aiohttp', 'airflow', 'asyncio', 'requests', 'ssl', 'trustme'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip() == "[]"


def test_emulator_never_imports_airflow():
    code = (
        "import sys; from airflow_provider_manxue.testing import *;"
        "emulator = Emulator(); emulator.start(); emulator.stop(); print('airflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip() == "False"


def test_public_names_exist():
    testing = importlib.import_module("airflow_provider_manxue.testing")
    for name in testing.__all__:
        assert getattr(testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        testing.Nothing  # noqa: B018
