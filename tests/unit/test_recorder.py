"""``doctor --record`` against the emulator: what it sends and writes, and its arguments."""

from __future__ import annotations

import json
import stat
import sys

import pytest
import requests

from airflow_provider_manxue import cli
from airflow_provider_manxue._airflow import doctor
from airflow_provider_manxue._client import recorder
from airflow_provider_manxue._client.sync_client import ServiceResponse
from airflow_provider_manxue._core.reduction import URL
from airflow_provider_manxue.testing import Response, Script, Step
from tests.support.records import KEY, PROMPT, SECRET_URL, entries, run
from tests.unit.test_recording import plain_forms


@pytest.fixture
def service(start_emulator):
    return start_emulator()


def test_record_has_each_change_with_its_time(service, record_tasks):
    steps = (
        Step(status="queued", seconds=50),
        Step(status="processing", seconds=70, response=Response(status=503, retry_after=20)),
        Step(status="processing", seconds=50, response=Response(reset="before")),
        Step(status="completed"),
    )
    task_id = service.add_task(Script(steps), id="film")

    path, printed = record_tasks(service, task_id, duration=3600)

    recorded = entries(path)["task-1"]
    assert [(one["at"], one["until"]) for one in recorded] == [(0, 30), (60, 90), (120, 150), (180, 180)]
    assert [one.get("status", one.get("no_response")) for one in recorded] == [200, 503, "reset", 200]
    assert recorded[1]["retry_after"] == 20
    assert recorded[3]["json"]["video_url"] == URL
    assert "    120.0 s  film (task-1): no response (reset)\n" in printed
    assert len(service.polls(task_id)) == 7


def test_pause_of_the_service_delays_the_next_queries(service, record_tasks):
    steps = (
        Step(status="queued", polls=1, response=Response(status=429, retry_after=200)),
        Step(status="completed"),
    )
    task_id = service.add_task(Script(steps))

    path, _ = record_tasks(service, task_id, duration=3600)

    assert [one["at"] for one in entries(path)["task-1"]] == [0, 200]


def test_queries_respect_the_limit_of_the_connection(service, record_tasks):
    ids = [service.add_task("processing") for _ in range(3)]

    record_tasks(service, *ids, extra={"requests_per_second": 0.5})

    assert [one.time - service.requests[0].time for one in service.requests] == [0, 2, 4]


def test_only_queries_are_sent(service, record_tasks):
    path, _ = record_tasks(service, service.add_task("completed"), service.add_task("http_404"))

    assert {(one.method, one.place) for one in service.requests} == {("GET", "query")}
    assert len(service.requests) == 2
    assert not service.ledger.orders
    assert len(entries(path)) == 2


# --- the file ---------------------------------------------------------------------------------------------


def test_file_has_nothing_secret_after_a_hostile_incident(service, record_tasks):
    secrets = [KEY, SECRET_URL, PROMPT, service.base_url]
    texts = dict(zip(("a", "b", "c"), (KEY, SECRET_URL, PROMPT), strict=True))
    hostile = [
        Response(
            json={"status": secret, "error": {secret: secret, "message": texts}, "id": secret, "url": secret}
        )
        for secret in texts.values()
    ]
    hostile += [
        Response(status=400, json={"msg": f"{KEY} {PROMPT} {SECRET_URL}"}),
        Response(status=502, body=f"<html><title>{KEY} {PROMPT} {SECRET_URL}</title></html>"),
        Response(status=429, headers={"Retry-After": KEY, "X-Key": KEY, "Content-Type": f"text/{KEY}"}),
        Response(status=302, headers={"Location": SECRET_URL}),
    ]
    ids = [service.add_task(Script.always(one)) for one in hostile]
    ids += [service.add_task("completed")]

    path, printed = record_tasks(service, *ids)

    assert len(entries(path)) == len(ids)
    for text in (path.read_text(), json.dumps(entries(path), ensure_ascii=False), printed):
        assert [form for secret in secrets for form in plain_forms(secret) if form in text] == []
    assert [task_id for task_id in ids if task_id in path.read_text()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_file_is_readable_by_its_owner_only(service, record_tasks):
    steps = (Step(status="queued", polls=1), Step(status="completed"))

    path, _ = record_tasks(service, service.add_task(Script(steps)), duration=60)
    new = path.with_name("new.json")
    recorder.RecordFile(new)

    assert {stat.S_IMODE(one.stat().st_mode) for one in (path, new)} == {0o600}
    assert set(path.parent.iterdir()) == {path, new}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_existing_file_is_never_replaced(service, use_emulator, tmp_path, capsys, kind):
    use_emulator(service)
    path, target = tmp_path / "record.json", tmp_path / "target"
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(target)

    code, printed = run(capsys, "film", "--file", str(path))

    assert code == 1
    assert f"{path} exists already. Name another file with --file." in printed
    assert (path.read_text() == "mine") if kind == "file" else not target.exists()
    assert service.requests == []


def test_default_name_is_new_for_each_record(service, use_emulator, tmp_path, capsys, monkeypatch):
    use_emulator(service)
    monkeypatch.chdir(tmp_path)

    code, printed = run(capsys, service.add_task("completed"))

    [path] = tmp_path.iterdir()
    assert code == 0
    assert path.name.startswith("manxue-record-2")
    assert f"--replay {path.name}" in printed


@pytest.fixture
def fail_to_record(tmp_path, capsys):
    """Return a function that records a task in vain, checks that no file is left, and returns what was printed."""

    def fail(task_id="film"):
        code, printed = run(capsys, task_id, "--file", str(tmp_path / "record.json"))
        assert (code, list(tmp_path.iterdir())) == (1, [])
        return printed

    return fail


def test_missing_connection_leaves_no_file(fail_to_record, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_MANXUE_DEFAULT", raising=False)
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "client")

    assert "The connection 'manxue_default' does not exist" in fail_to_record()


def test_unusable_authorities_leave_no_file(service, use_emulator, fail_to_record, monkeypatch):
    use_emulator(service, host="https://no-such-host.invalid")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file.pem")

    assert "'/no/such/file.pem' could not be read" in fail_to_record()


def test_interrupt_keeps_what_was_recorded(service, use_emulator, tmp_path, capsys, monkeypatch):
    use_emulator(service)
    path = tmp_path / "record.json"
    task_id = service.add_task("processing")

    def interrupt(seconds):
        if service.polls(task_id):
            raise KeyboardInterrupt

    monkeypatch.setattr(recorder.time, "sleep", interrupt)

    code, printed = run(capsys, task_id, "--for", "600", "--file", str(path))

    assert code == 0
    assert len(entries(path)["task-1"]) == 1
    assert "--replay" in printed


def test_interrupt_before_the_first_response_leaves_no_file(
    service, use_emulator, fail_to_record, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    use_emulator(service)
    monkeypatch.setattr(recorder.time, "sleep", interrupt)

    assert "Nothing was recorded." in fail_to_record()


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (requests.exceptions.InvalidURL("https://x/?key"), "no request can be sent to '127.0.0.1'"),
        (ServiceResponse(200, b"", (), KeyboardInterrupt()), "Nothing was recorded."),
    ],
    ids=["address", "interrupt in a body"],
)
def test_end_at_the_first_query_leaves_no_file(
    service, use_emulator, fail_to_record, monkeypatch, outcome, words
):
    def exchange(*_):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    use_emulator(service)
    monkeypatch.setattr(recorder, "exchange", exchange)

    printed = fail_to_record()

    assert words in printed
    assert "?key" not in printed


def test_failed_save_keeps_the_last_content(tmp_path):
    file = recorder.RecordFile(tmp_path / "record.json")
    file.save("first")

    with pytest.raises(UnicodeEncodeError):
        file.save("\ud800")

    assert [one.read_text() for one in tmp_path.iterdir()] == ["first"]


# --- arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--for", "60"], "--for and --file need --record."),
        (["--file", "x.json"], "--for and --file need --record."),
        (["--record", "x", "--for", "soon"], "'soon' is not a number of seconds"),
        (["--record", "x", "--every", "-1"], "'-1' is not a number of seconds"),
        (["--record"], "expected at least one argument"),
    ],
)
def test_wrong_arguments(capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", *arguments])

    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_value_that_is_no_id_is_refused(service, use_emulator, fail_to_record):
    use_emulator(service)

    printed = fail_to_record(SECRET_URL)

    assert "is not an id of the service" in printed
    assert SECRET_URL not in printed
    assert service.requests == []


@pytest.mark.skipif(
    doctor.airflow_version() < (3, 2), reason="Airflow below 3.2 reads no commands of providers"
)
def test_airflow_has_the_options(service, use_emulator, tmp_path, capsys):
    from airflow.cli.cli_parser import get_parser

    use_emulator(service)
    path = tmp_path / "record.json"
    task_id = service.add_task("completed")
    options = get_parser().parse_args(["manxue", "doctor", "--record", task_id, "--file", str(path)])

    with pytest.raises(SystemExit) as ended:
        options.func(options)

    assert ended.value.code == 0
    assert len(entries(path)) == 1
