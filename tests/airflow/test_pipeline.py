"""The example Dags on a real Airflow: order, wait, save, and join the saved videos."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import boto3
import pytest

from airflow_provider_manxue.testing import Script
from tests.support.films import shots_of

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow

BUCKET = "films"
ACCOUNT = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}


class LocalFolder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"file://{folder}/"

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


class S3Folder:
    """A folder on S3. The URI names the connection, as in the example."""

    def __init__(self, url: str) -> None:
        self.uri = f"s3://store@{BUCKET}/episode/"
        self.client = boto3.client("s3", endpoint_url=url, **ACCOUNT)
        self.client.create_bucket(Bucket=BUCKET)

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix="episode/")["Contents"]
        return sorted(one["Key"].removeprefix("episode/") for one in found)

    def content(self, name: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=f"episode/{name}")["Body"].read()


@pytest.fixture(params=["local", "s3"])
def folder(
    request: pytest.FixtureRequest, local_airflow: LocalAirflow, tmp_path: Path
) -> LocalFolder | S3Folder:
    if request.param == "local":
        return LocalFolder(tmp_path)
    url = request.getfixturevalue("s3_url")
    extra = {"endpoint_url": url, "region_name": ACCOUNT["region_name"]}
    local_airflow.set_connection("store", conn_type="aws", login="a", password="b", extra=extra)
    return S3Folder(url)


def test_example_dag_orders_waits_and_saves(
    local_airflow: LocalAirflow, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.default_script = Script.polls("completed")
    billed = emulator.ledger.billed
    run_id = local_airflow.trigger("manxue_order_wait_save", conf={"destination": f"file://{tmp_path}/"})
    assert local_airflow.wait_for_run("manxue_order_wait_save", run_id) == "success"
    assert emulator.ledger.billed == billed + 1
    [video] = tmp_path.iterdir()
    assert (
        video.name == f"{local_airflow.xcom('manxue_order_wait_save', run_id, 'order', 'video_task_id')}.mp4"
    )
    sha256 = local_airflow.xcom("manxue_order_wait_save", run_id, "save", "sha256")
    assert hashlib.sha256(video.read_bytes()).hexdigest() == sha256


@pytest.mark.heavy
def test_example_dag_joins_an_episode(
    local_airflow: LocalAirflow, emulator: Emulator, folder: LocalFolder | S3Folder, tmp_path: Path
) -> None:
    emulator.default_script = Script.by_hand("processing", "completed")
    before = emulator.ledger.billed
    lengths = {f"shot {number}": 4.01 + 1.01 * number for number in range(5)}
    conf = {"shots": list(lengths), "destination": folder.uri}
    run_id = local_airflow.trigger("manxue_episode", conf=conf)
    local_airflow.wait_until(lambda: emulator.ledger.billed == before + len(lengths), "all shots are ordered")
    for order in emulator.ledger.orders[-len(lengths) :]:
        emulator.task(order.id).actual_duration = lengths[order.request["prompt"]]
        emulator.set_status(order.id, "completed")

    assert local_airflow.wait_for_run("manxue_episode", run_id) == "success"
    assert emulator.ledger.billed == before + len(lengths)
    orders = [local_airflow.xcom("manxue_episode", run_id, "order", map_index=index) for index in range(5)]
    assert folder.names() == sorted(["film.mp4", *(f"{order}.mp4" for order in orders)])
    assert local_airflow.xcom("manxue_episode", run_id, "join") == f"{folder.uri}film.mp4"
    film = tmp_path / "film of the test.mp4"
    film.write_bytes(folder.content("film.mp4"))
    assert shots_of(film) == pytest.approx(list(lengths.values())), (
        "the shots are in order, and none is missing"
    )
    log = local_airflow.task_log("manxue_episode", run_id, "join")
    assert f"The film is {sum(lengths.values()):g} s long, as its shots are." in log
