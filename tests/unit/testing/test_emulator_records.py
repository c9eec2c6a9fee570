"""Record files in the emulator: scripts, the command line, and files that cannot be played."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import requests

from airflow_provider_manxue.testing import EmulatorClient, Script
from tests.unit.testing.test_emulator_process import start

DOCUMENT = Path(__file__).parents[3] / "docs" / "doctor.md"
URL = "https://recorded.invalid/video.mp4"
QUEUED = {"at": 0.0, "until": 60.0, "status": 200, "json": {"id": "task-1", "status": "queued"}}
DONE = {
    "at": 90.0,
    "until": 90.0,
    "status": 200,
    "json": {"data": {"id": "task-1", "status": "done", "url": URL, "actualDuration": 7.5}},
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a record file."""

    def write(*tasks, **fields):
        path = tmp_path / "record.json"
        content = {"form": 1, "tasks": {f"task-{n}": one for n, one in enumerate(tasks, 1)}, **fields}
        path.write_text(json.dumps(content))
        return path

    return write


def test_recorded_task_has_a_video_of_the_emulator(emulator, customer, write):
    task_id = emulator.add_task(Script.recorded(write([QUEUED, DONE])), id="film")

    assert customer.query(task_id).json() == {"id": "film", "status": "queued"}
    emulator.clock.advance(74)
    assert customer.query(task_id).json()["status"] == "queued"
    emulator.clock.advance(2)
    done = customer.query(task_id).json()["data"]
    assert (done["id"], done["actualDuration"]) == ("film", 7.5)
    assert requests.get(done["url"], timeout=10).headers["Content-Type"] == "video/mp4"
    assert emulator.task(task_id).actual_duration == 7.5
    assert emulator.task(task_id).status == "completed"


def test_order_plays_a_recorded_task(emulator, customer, write):
    emulator.default_script = Script.recorded(write([DONE]))

    order = customer.order().json()

    assert customer.query(order["id"]).json()["data"]["id"] == order["id"]


def test_client_sends_recorded_scripts(emulator, customer, write):
    client = EmulatorClient(emulator.base_url)
    task_id = client.add_task(Script.recorded(write([{**DONE, "json": {"id": "task-1", "url": URL}}])))

    body = customer.query(task_id).json()

    assert body["id"] == task_id
    assert body["url"].startswith(emulator.url)


def test_task_is_named_unless_it_is_the_only_one(write):
    path = write([QUEUED], [DONE])

    assert Script.recorded(path, "task-2").steps[0].status == "completed"
    with pytest.raises(ValueError, match=r"unknown recorded task None\. Known names: task-1, task-2"):
        Script.recorded(path)
    with pytest.raises(ValueError, match="unknown recorded task 'task-9'"):
        Script.recorded(path, "task-9")


def test_documented_file_is_played(emulator, customer, tmp_path):
    blocks = re.findall(r"^```json\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    [code] = [block for block in blocks if '"tasks"' in block]
    path = tmp_path / "record.json"
    path.write_text(code)
    task_id = emulator.add_task(Script.recorded(path))

    statuses = []
    for _ in range(8):
        try:
            statuses.append(customer.query(task_id).status_code)
        except requests.ConnectionError:
            statuses.append("reset")
        emulator.clock.advance(30)

    assert statuses == [200, 200, 200, 200, 502, 429, "reset", 200]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "a field is missing, or has an unknown form"),
        ("{", "Expecting property name"),
        ('{"form": 2}', "its form is 2, and this version plays form 1"),
        ('{"form": 1, "worst": "ok"}', "a field is missing"),
        ("[" * 100_000, "a field is missing"),
    ],
)
def test_other_file_is_refused(tmp_path, content, words):
    path = tmp_path / "record.json"
    path.write_text(content)

    with pytest.raises(ValueError, match=re.escape(f"{path} is not a record of the doctor")) as raised:
        Script.recorded(path)

    assert words in str(raised.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"at": 0, "until": 0, "status": 200, "body": {"kind": "html", "length": 10**12}},
        {"at": 0, "until": 0, "status": 200, "body": {"kind": "html", "length": -1}},
        {"at": 0, "until": 0, "status": 200, "body": {"kind": "script", "length": 1}},
        {"at": 0, "until": 0, "status": 700, "json": {}},
        {"at": 0, "until": 0, "status": "200", "json": {}},
        {"at": 0, "until": 0, "status": 429, "json": {}, "retry_after": "soon"},
        {"at": "x", "until": 0, "status": 200, "json": {}},
        {"until": 0, "status": 200, "json": {}},
        "x",
    ],
)
def test_entry_that_no_doctor_writes_is_refused(write, entry):
    with pytest.raises(ValueError, match="is not a record of the doctor"):
        Script.recorded(write([entry]))


def test_huge_video_is_not_made(emulator, write):
    """A record from somebody else must not take the memory of the machine."""
    long = {**DONE, "json": {"id": "task-1", "url": URL, "actualDuration": 999999}}

    task_id = emulator.add_task(Script.recorded(write([long])))

    assert emulator.task(task_id).video.size < 1_000_000


def test_command_replays_a_file(write):
    path = write([DONE], [{**QUEUED, "json": {"id": "task-2", "status": "queued"}}])
    process = start("--replay", str(path), "--script", "task-2")
    lines = [process.stdout.readline() for _ in range(3)]
    client = EmulatorClient(lines[0].split()[-1])
    headers = {"Authorization": f"Bearer {client.api_key}"}
    order = requests.post(
        f"{client.base_url}/v1/sd2_manxue/videos",
        json={"prompt": "x", "model": "sd2_manxue_720p"},
        headers=headers,
        timeout=10,
    ).json()
    bodies = [
        requests.get(f"{client.base_url}/v1/result/{one}", headers=headers, timeout=10).json()
        for one in ("task-1", "task-2", order["id"])
    ]
    process.terminate()
    process.communicate(timeout=10)

    assert lines[2] == "recorded tasks: task-1, task-2\n"
    assert bodies[0]["data"]["status"] == "done"
    assert bodies[1] == {"id": "task-2", "status": "queued"}
    assert bodies[2] == {"id": order["id"], "status": "queued"}


def test_command_refuses_another_file(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("{}")
    process = start("--replay", str(path))
    output, log = process.communicate(timeout=10)

    assert (process.returncode, output) == (2, "")
    assert f"{path} is not a record of the doctor" in log
