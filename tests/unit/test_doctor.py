"""The doctor on broken installations, against the emulator: each fault is named with its remedy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import boto3
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from airflow.jobs.job import Job
from airflow.models.trigger import Trigger
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred
from airflow.utils import session as session_module

from airflow_provider_manxue import cli
from airflow_provider_manxue._airflow import doctor
from airflow_provider_manxue._core import findings
from airflow_provider_manxue._core.diagnosis import Workload
from airflow_provider_manxue.exceptions import ManxueDoctorError, ManxueInputError
from airflow_provider_manxue.operators.doctor import ManxueDoctorCompareOperator, ManxueDoctorOperator
from airflow_provider_manxue.testing import Emulator, Response
from airflow_provider_manxue.triggers import doctor as trigger_module
from airflow_provider_manxue.triggers.doctor import ManxueDoctorTrigger
from dev.servers import S3Server

ROOT = Path(__file__).parents[2]
KEY = "emulator-key"
CHECKS = [
    "versions",
    "plugin",
    "connection",
    "tls",
    "proxy",
    "service",
    "key",
    "clock",
    "triggerer",
    "limits",
    "store",
]
REAL_LOAD_WORKLOAD = doctor.load_workload
HEALTHY = Workload(["triggerer-1"], waits=3, triggers=4, capacity=1000)


@pytest.fixture
def service():
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def tls_service():
    with Emulator(tls=True) as emulator:
        yield emulator


@pytest.fixture
def connect(monkeypatch, no_proxies):
    """Return a function that sets the connection to an emulator, with changed fields."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")

    def connect(emulator, extra=None, **fields):
        connection = json.loads(emulator.airflow_connection_json())
        connection |= {**fields, "extra": {"request_timeout": 300, **connection["extra"], **(extra or {})}}
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", json.dumps(connection))

    return connect


@pytest.fixture(autouse=True)
def workload(monkeypatch):
    """What Airflow's database holds."""
    monkeypatch.setattr(doctor, "load_workload", lambda: HEALTHY)

    def set_workload(load):
        monkeypatch.setattr(doctor, "load_workload", load)

    return set_workload


@pytest.fixture
def run(capsys):
    """Run the command. Returns its exit code, and its findings by the names of the checks."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["doctor", "--output", "json", *arguments])
        printed = capsys.readouterr().out
        assert KEY not in printed
        return ended.value.code, {one["check"]: one for one in json.loads(printed)["findings"]}

    return run


@contextlib.contextmanager
def proxy_that_responds(head):
    """A proxy on loopback that responds to each request with the same head."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        client.recv(65536)
                        client.sendall(head)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# --- a sound installation ---------------------------------------------------------------------------------


def test_sound_installation_has_no_finding(service, connect, run, tmp_path):
    connect(service)
    sent = len(service.requests)

    code, findings = run("--store", f"file://{tmp_path}/videos/")

    assert {one["level"] for one in findings.values()} == {"ok"}, findings
    assert list(findings) == CHECKS
    assert code == 0
    [request] = service.requests[sent:]
    assert (request.method, request.path.rpartition("/")[2]) == ("GET", "airflow-connection-test")
    assert list(tmp_path.iterdir()) == []
    assert not service.ledger.orders


def test_certificate_is_verified_with_the_bundle(tls_service, connect, run):
    connect(tls_service)

    assert tls_service.ca_bundle in run()[1]["tls"]["text"]


def test_report_is_readable_as_text(service, connect, capsys):
    connect(service, password="wrong")

    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])

    text = capsys.readouterr().out
    assert ended.value.code == 1
    assert f"Doctor on {socket.gethostname()} (command line): 1 error, 1 not checked, 9 ok" in text
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("error")] == [["error", "key"]]
    assert "-> Put a valid key into the connection's field 'API key'." in text


def test_wrong_arguments_have_another_exit_code(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--outputs", "json"])

    assert ended.value.code == 2
    assert "--outputs" in capsys.readouterr().err


# --- eight broken installations, and their neighbours -----------------------------------------------------


def test_wrong_key(service, connect, run):
    connect(service, password="wrong-key-0815")

    code, findings = run()

    assert code == 1
    assert_error(
        findings["key"],
        "refused the API key (HTTP 401",
        "Put a valid key into the connection's field 'API key'",
    )
    assert findings["service"]["level"] == "ok"
    assert "wrong-key-0815" not in str(findings)


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("https://no-such-host.invalid", "no-such-host.invalid: the host name was not found"),
        ("http://127.0.0.1:{closed}", "127.0.0.1: connection refused"),
    ],
)
def test_wrong_host(service, connect, run, host, problem):
    connect(service, host=host.format(closed=closed_port()))

    code, findings = run()

    assert code == 1
    assert_error(findings["service"], problem, "Check the connection's field 'host' (Base URL)")
    assert {findings[name]["level"] for name in ("key", "clock")} == {"not checked"}


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (Response.named("http_404_no_handler"), "does not know the path"),
        (Response(status=404, body="<html><title>Not Found</title>"), "does not respond like the service"),
        (Response(body="<html><title>Log in</title>"), "does not respond like the service"),
        (
            Response(status=302, headers={"Location": "https://login.example.com/"}),
            "responded with a redirect",
        ),
    ],
    ids=["path", "other site", "login page", "redirect"],
)
def test_host_that_is_not_the_service(service, connect, run, response, problem):
    connect(service)
    service.respond_with(response)

    code, findings = run()

    assert code == 1
    assert_error(
        findings["service"], problem, "'host' (Base URL)" if "redirect" not in problem else "'Base URL'"
    )
    assert findings["key"]["level"] == "not checked"


def test_no_triggerer(service, connect, run, workload):
    connect(service)
    workload(lambda: Workload([], waits=0, triggers=0, capacity=1000))

    code, findings = run()

    assert code == 1
    assert_error(findings["triggerer"], "no live triggerer", "Start one: `airflow triggerer`")
    assert findings["limits"]["level"] == "not checked"


def test_missing_authority(tls_service, connect, run):
    connect(tls_service, extra={"ca_bundle": None})

    code, findings = run()

    assert code == 1
    assert_error(
        findings["tls"], "certificate was not accepted", "Set the connection's field 'ca_bundle' (CA bundle)"
    )
    assert findings["service"]["level"] == "not checked"


def test_missing_file_of_authorities(tls_service, connect, run, monkeypatch):
    connect(tls_service, extra={"ca_bundle": None})
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file.pem")

    code, findings = run()

    assert code == 1
    assert_error(
        findings["tls"],
        "'REQUESTS_CA_BUNDLE': '/no/such/file.pem' could not be read",
        "Give the path of a PEM",
    )


@pytest.mark.parametrize(
    ("offset", "level", "words"),
    [
        (3600, "error", "60 minutes behind"),
        (-3600, "error", "60 minutes ahead of"),
        (-120, "warning", "2 minutes ahead of"),
        (10, "ok", "Less than"),
    ],
)
def test_clock(service, connect, run, offset, level, words):
    connect(service)
    service.respond_with(
        Response(status=404, headers={"Date": formatdate(time.time() + offset, usegmt=True)})
    )

    code, findings = run()

    assert code == int(level == "error")
    assert (findings["clock"]["level"], words in findings["clock"]["text"]) == (level, True), findings[
        "clock"
    ]
    assert ("NTP" in findings["clock"]["remedy"]) == (level != "ok")


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden"])
def test_proxy_that_refuses(tls_service, connect, run, status):
    with proxy_that_responds(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as port:
        connect(tls_service, extra={"proxy": f"http://user:pass-4711@127.0.0.1:{port}"})

        code, findings = run()

    assert code == 1
    assert_error(
        findings["proxy"], f"127.0.0.1:{port}, from the connection's field 'proxy'", "user name and password"
    )
    assert f"HTTP {status[:3]}" in findings["proxy"]["text"]
    assert findings["service"]["level"] == "not checked"
    assert "pass-4711" not in str(findings)


def test_proxy_that_is_not_there(service, connect, run):
    connect(service, extra={"proxy": f"http://127.0.0.1:{closed_port()}"})

    code, findings = run()

    assert code == 1
    assert_error(findings["proxy"], "connection refused", "Check its address")


def test_proxy_of_plain_http_that_refuses(service, connect, run):
    with proxy_that_responds(
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    ) as port:
        connect(service, extra={"proxy": f"http://127.0.0.1:{port}"})

        code, findings = run()

    assert code == 1
    assert_error(findings["proxy"], "HTTP 407", "user name and password")


def test_unsupported_proxy_of_the_environment(service, connect, run, monkeypatch):
    connect(service, host="https://no-such-host.invalid")
    monkeypatch.setenv("ALL_PROXY", "socks5://user:pass-4711@127.0.0.1:9")

    code, findings = run()

    assert code == 1
    assert_error(
        findings["proxy"], "'ALL_PROXY': socks5:// proxies are not supported", "http://proxy.example.com:3128"
    )
    assert "pass-4711" not in str(findings)


def test_missing_provider_of_the_store(service, connect, run):
    connect(service)

    code, findings = run("--store", "abfs://container/videos/")

    assert code == 1
    assert_error(
        findings["store"], "The store of abfs://container/videos/", "Install the provider of that store"
    )


def test_store_without_permission(service, connect, run, tmp_path, monkeypatch):
    connect(service)
    monkeypatch.setattr(os, "access", lambda path, mode: False)

    code, findings = run("--store", f"file://{tmp_path}/")

    assert code == 1
    assert_error(findings["store"], "permission denied", "permissions")


def test_versions_that_differ(service, connect):
    connect(service)
    worker = examine_on_worker()
    triggerer = {
        **worker,
        "place": "triggerer",
        "versions": {**worker["versions"], "airflow-provider-manxue": "0.0.9"},
    }

    with pytest.raises(AirflowException) as raised:
        compare(worker=worker, triggerer=triggerer)

    assert "airflow-provider-manxue differs" in str(raised.value)
    assert "0.0.9 on the triggerer" in str(raised.value)
    assert "Install one version on workers and triggerers, and restart both" in str(raised.value)


# --- what cannot be seen ----------------------------------------------------------------------------------


def test_unreachable_database_is_not_an_error(service, connect, run, workload):
    def fail():
        raise RuntimeError("postgresql://airflow:pass-4711@db")

    connect(service)
    workload(fail)

    code, findings = run()

    assert code == 0
    for name in ("triggerer", "limits"):
        assert findings[name]["level"] == "not checked"
        assert findings[name]["text"] == "Airflow's database cannot be read from here (RuntimeError)."


def test_unseen_connection_has_its_own_exit_code(run, workload, monkeypatch):
    def fail():
        raise RuntimeError

    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "client")
    workload(fail)

    code, findings = run("--conn-id", "not_in_the_environment")

    assert code == 3
    assert findings["connection"]["level"] == "not checked"
    assert "manxue_doctor" in findings["connection"]["remedy"]
    assert findings["service"]["level"] == "not checked"


def test_missing_connection_is_an_error_where_the_database_is_readable(run, monkeypatch):
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "client")

    code, findings = run("--conn-id", "not_in_the_environment")

    assert code == 1
    assert_error(
        findings["connection"], "'not_in_the_environment' does not exist", "Create one of the type 'manxue'"
    )


def test_unusable_connection_names_its_field(service, connect, run):
    connect(service, extra={"request_timeout": "long"})

    code, findings = run()

    assert code == 1
    assert_error(findings["connection"], "field 'request_timeout'", "leave it empty for 30")


def test_worker_of_airflow_3_does_not_ask_the_database(service, connect, workload, monkeypatch):
    connect(service)
    monkeypatch.setattr(doctor, "airflow_version", lambda: (3, 1, 8))
    workload(lambda: pytest.fail("a worker has no access"))

    report = examine_on_worker()

    findings = {one["check"]: one for one in report["findings"]}
    assert findings["triggerer"]["level"] == "not checked"
    assert "no access to Airflow's database" in findings["triggerer"]["text"]


def test_check_that_fails_does_not_hide_the_others(service, connect, run, monkeypatch):
    def fail(examination):
        raise KeyError("pass-4711")

    connect(service)
    monkeypatch.setitem(doctor._CHECKS, "plugin", fail)

    code, findings = run()

    assert list(findings) == CHECKS
    assert (code, findings["plugin"]["level"]) == (0, "warning")
    assert "unexpected KeyError" in findings["plugin"]["text"]
    assert "pass-4711" not in str(findings)


def test_service_that_is_busy_is_a_warning(service, connect, run):
    connect(service)
    service.respond_with(Response(status=503))

    code, findings = run()

    assert code == 0
    assert findings["service"]["level"] == "warning"
    assert findings["key"]["level"] == "not checked"


# --- Airflow's database -----------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path, monkeypatch):
    """A database with the tables that the doctor reads."""
    engine = create_engine(f"sqlite:///{tmp_path}/airflow.db")
    for model in (Job, Trigger):
        model.__table__.create(engine)

    @contextlib.contextmanager
    def create_session():
        with Session(engine) as session:
            yield session

    monkeypatch.setattr(session_module, "create_session", create_session)
    with Session(engine) as session:
        yield session


def test_live_triggerers_and_waits_are_counted(database):
    now = datetime.now(UTC)
    for hostname, state, age in (("live", "running", 5), ("dead", "running", 3600), ("ended", "success", 5)):
        job = Job(heartrate=5)
        job.job_type, job.hostname, job.state = "TriggererJob", hostname, state
        job.latest_heartbeat = now - timedelta(seconds=age)
        database.add(job)
    for path in (
        "airflow_provider_manxue.triggers.manxue.ManxueVideoTrigger",
        "airflow.triggers.other.Other",
    ):
        database.add(Trigger(classpath=path, kwargs={}))
    database.commit()

    found = REAL_LOAD_WORKLOAD()

    assert (found.triggerers, found.waits, found.triggers, found.capacity) == (["live"], 1, 2, 1000)


@pytest.mark.parametrize(
    ("workload_now", "words", "remedy"),
    [
        (
            Workload(["a"], waits=301, triggers=301, capacity=1000),
            "each is polled every 30 s",
            "'requests_per_second'",
        ),
        (Workload(["a"], waits=1, triggers=1001, capacity=1000), "1 x 1000", "[triggerer] capacity"),
    ],
    ids=["rate", "capacity"],
)
def test_waits_above_the_limits_are_a_warning(service, connect, run, workload, workload_now, words, remedy):
    connect(service)
    workload(lambda: workload_now)

    code, findings = run()

    assert (code, findings["limits"]["level"]) == (0, "warning")
    assert words in findings["limits"]["text"]
    assert remedy in findings["limits"]["remedy"]


# --- a store behind a real library ------------------------------------------------------------------------


def test_bucket_is_looked_up(service, connect, run, monkeypatch):
    with S3Server() as server:
        account = {
            "login": "a",
            "password": "b",
            "extra": {"endpoint_url": server.url, "region_name": "us-east-1"},
        }
        monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps({"conn_type": "aws", **account}))
        boto3.client(
            "s3",
            endpoint_url=server.url,
            aws_access_key_id="a",
            aws_secret_access_key="b",
            region_name="us-east-1",
        ).create_bucket(Bucket="films")
        connect(service)

        found = run("--store", "s3://store@films/episode/")
        missing = run("--store", "s3://other-films/", "--storage-conn-id", "store")

    assert found[0] == 0
    assert "s3://store@films/episode/ was reached" in found[1]["store"]["text"]
    assert missing[0] == 1
    assert_error(missing[1]["store"], "there is no bucket or container 'other-films'", "Check the URI")


# --- on a worker and in a triggerer -----------------------------------------------------------------------


def test_operator_returns_the_report_of_its_worker(service, connect, tmp_path):
    connect(service, password="wrong")

    report = examine_on_worker(store=f"file://{tmp_path}/")

    levels = {one["check"]: one["level"] for one in report["findings"]}
    assert (report["place"], report["worst"]) == ("worker", "error")
    assert (levels["key"], levels["store"]) == ("error", "ok")
    assert json.loads(json.dumps(report)) == report


@pytest.fixture
def fire(monkeypatch):
    """Defer the operator, and run its trigger. Returns the operator and the event."""
    monkeypatch.setattr(trigger_module, "MIN_FIRST_POLL_DELAY", 0)

    def fire():
        task = ManxueDoctorOperator(task_id="triggerer", deferrable=True, timeout=60)
        with pytest.raises(TaskDeferred) as deferred:
            task.execute({})
        assert deferred.value.timeout == timedelta(seconds=60)
        assert deferred.value.method_name == "execute_complete"
        path, arguments = deferred.value.trigger.serialize()
        assert path == "airflow_provider_manxue.triggers.doctor.ManxueDoctorTrigger"

        async def first_event():
            return [event.payload async for event in ManxueDoctorTrigger(**arguments).run()]

        [event] = asyncio.run(first_event())
        return task, json.loads(json.dumps(event))

    return fire


def test_trigger_sends_the_report_of_its_triggerer(service, connect, fire):
    connect(service)

    task, event = fire()
    report = task.execute_complete({}, event)

    levels = {one["check"]: one["level"] for one in report["findings"]}
    assert report["place"] == "triggerer"
    assert (levels["service"], levels["triggerer"], levels["store"]) == ("ok", "ok", "not checked")
    assert KEY not in str(event)


def test_trigger_reports_a_missing_connection(fire, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_MANXUE_DEFAULT", raising=False)
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "client")

    _, event = fire()

    [finding] = [one for one in event["report"]["findings"] if one["check"] == "connection"]
    assert_error(finding, "does not exist", "Create one of the type 'manxue'")


def test_checks_of_the_trigger_run_off_the_event_loop(service, connect, fire, monkeypatch):
    threads = []
    monkeypatch.setitem(
        doctor._CHECKS,
        "plugin",
        lambda examination: threads.append(threading.current_thread()) or findings.ok(""),
    )
    connect(service)

    fire()

    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    "event", [None, {}, {"version": 2, "report": {}}, {"version": 1, "report": {"form": 2}}]
)
def test_unknown_event_fails_the_task(event):
    task = ManxueDoctorOperator(task_id="triggerer", deferrable=True)

    with pytest.raises(ManxueInputError, match="Install one version"):
        task.execute_complete({}, event)


def test_equal_reports_succeed(service, connect):
    connect(service)
    worker = examine_on_worker()

    [difference] = compare(worker=worker, triggerer={**worker, "place": "triggerer"})

    assert (difference["check"], difference["level"]) == ("versions", "ok")


def test_other_packages_that_differ_are_a_warning(service, connect):
    connect(service)
    worker = examine_on_worker()
    triggerer = {**worker, "versions": {**worker["versions"], "aiohttp": "3.0.0", "python": "3.10.9"}}

    differences = compare(worker=worker, triggerer=triggerer)

    assert [(one["level"], one["text"].partition(" ")[0]) for one in differences] == [
        ("warning", "aiohttp"),
        ("warning", "python"),
    ]


def test_patch_of_python_does_not_differ(service, connect):
    connect(service)
    worker = examine_on_worker()
    python = worker["versions"]["python"]
    triggerer = {**worker, "versions": {**worker["versions"], "python": f"{python}9"}}

    assert [one["level"] for one in compare(worker=worker, triggerer=triggerer)] == ["ok"]


def test_missing_report_of_the_triggerer_fails(service, connect):
    connect(service)

    with pytest.raises(ManxueDoctorError, match=r"There is no report of the triggerer.*`airflow triggerer`"):
        compare(worker=examine_on_worker(), triggerer=None)


def test_error_of_one_place_fails_the_comparison(service, connect):
    connect(service)
    triggerer = examine_on_worker()
    connect(service, password="wrong")

    with pytest.raises(ManxueDoctorError, match="worker, key: The service refused the API key") as raised:
        compare(worker=examine_on_worker(), triggerer=triggerer)

    assert "Put a valid key" in str(raised.value)


# --- the commands -----------------------------------------------------------------------------------------


@pytest.mark.skipif(
    doctor.airflow_version() < (3, 2), reason="Airflow below 3.2 reads no commands of providers"
)
def test_airflow_has_the_command(service, connect, capsys):
    from airflow.cli.cli_parser import get_parser

    connect(service, password="wrong")
    options = get_parser().parse_args(["manxue", "doctor", "--output", "json"])

    with pytest.raises(SystemExit) as ended:
        options.func(options)

    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out)["worst"] == "error"


def test_function_with_the_commands_imports_nothing_heavy():
    """Airflow calls it at each start of its command line."""
    code = (
        "import sys\n"
        "from airflow.cli import cli_config\n"
        "import airflow_provider_manxue; known = set(sys.modules)\n"
        "from airflow_provider_manxue.cli import get_cli_commands\n"
        "get_cli_commands()\n"
        "print(*sorted(set(sys.modules) - known))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert run.stdout.splitlines()[-1].split() == ["airflow_provider_manxue.cli"]


def test_json_is_the_only_output(service, connect, tmp_path):
    """Airflow's own log lines go to the standard error."""
    connect(service)
    run = subprocess.run(
        [sys.executable, "-m", "airflow_provider_manxue", "doctor", "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )

    report = json.loads(run.stdout)
    assert (run.returncode, report["place"]) == (0, "command line")
    assert KEY not in run.stdout + run.stderr


def test_import_of_the_operators_loads_no_http_library():
    code = (
        "import sys\n"
        "from airflow.providers.common.compat.sdk import BaseOperator\n"
        "from airflow.triggers.base import BaseTrigger\n"
        "known = set(sys.modules)\n"
        "import airflow_provider_manxue.operators.doctor\n"
        "print({'requests', 'aiohttp', 'fsspec', 'sqlalchemy'} & (set(sys.modules) - known))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert run.stdout.splitlines()[-1] == "set()"


def assert_error(finding, text, remedy):
    assert finding["level"] == "error", finding
    assert text in finding["text"], finding
    assert remedy in finding["remedy"], finding


def examine_on_worker(**arguments):
    return ManxueDoctorOperator(task_id="worker", **arguments).execute({})


def compare(**reports):
    return ManxueDoctorCompareOperator(task_id="compare", reports=reports).execute({})
