"""OpenLineage facets of the tasks. The library is loaded only on demand."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from openlineage.client.serde import Serde

from airflow_provider_manxue._airflow.lineage import lineage_of
from airflow_provider_manxue.exceptions import ManxueVideoFailedError
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.testing import Emulator, Script
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

DONE = {
    "status": "completed",
    "model": "sd2_manxue_1080p",
    "video_url": "https://cdn.example.com/v.mp4?signature=secret",
    "actualDuration": 5.17,
}
VIDEO = {"model": "sd2_manxue_1080p", "status": "completed", "actualDuration": 5.17}


def facets(task):
    lineage = task.get_openlineage_facets_on_complete(None)
    text = Serde.to_json(lineage.run_facets["manxue_videos"])
    assert "signature" not in text
    return json.loads(text)["videos"]


def test_sensor_reports_its_video(fake_airflow, service):
    service.respond_with("processing", DONE)
    wait = ManxueVideoSensor(task_id="wait", video_task_id="proj_1")
    fake_airflow.run(wait)
    assert facets(wait) == [{"id": "proj_1", **VIDEO}]


def test_failed_batch_reports_all_its_videos(fake_airflow, service):
    service.respond_with(DONE, {"status": "failed", "error": "not allowed"})
    wait = ManxueVideoBatchSensor(task_id="wait", video_task_ids=["proj_1", "proj_2"], deferrable=False)
    with pytest.raises(ManxueVideoFailedError):
        fake_airflow.run(wait)
    assert facets(wait) == [{"id": "proj_1", **VIDEO}, {"id": "proj_2", "status": "failed"}]


def test_task_without_a_poll_reports_no_video():
    wait = ManxueVideoSensor(task_id="wait", video_task_id="proj_1")
    assert wait.get_openlineage_facets_on_complete(None).run_facets == {}


@pytest.mark.parametrize(
    ("uri", "namespace", "name"),
    [
        ("s3://films/episode/a%2Fb.mp4", "s3://films", "episode/a%2Fb.mp4"),
        ("s3://my_conn@films/a.mp4", "s3://films", "a.mp4"),
        ("gs://films/a.mp4", "gs://films", "a.mp4"),
        ("file:///data/a.mp4", "file", "/data/a.mp4"),
    ],
)
def test_saved_file_is_an_output_dataset(uri, namespace, name):
    [dataset] = lineage_of([{"id": "proj_1"}], saved=(uri, 7)).outputs
    assert (dataset.namespace, dataset.name) == (namespace, name)
    assert dataset.outputFacets["outputStatistics"].size == 7


def test_import_does_not_load_openlineage():
    """The library is optional."""
    names = "sensors.manxue", "operators.manxue", "transfers.manxue_to_object_storage"
    program = "; ".join(f"import airflow_provider_manxue.{name}" for name in names)
    program += "; import sys; print([name for name in sys.modules if name.startswith('openlineage')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_save_reports_its_video_and_file(monkeypatch, tmp_path):
    """The file alone would not lead back to the video in a lineage graph."""
    with Emulator() as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", emulator.airflow_connection_json())
        video = emulator.add_task(script=Script.polls("completed"), model="sd2_manxue_720p")
        save = ManxueToObjectStorageOperator(
            task_id="save", video_task_id=video, destination=f"file://{tmp_path}/", do_xcom_push=False
        )
        save.execute({"ti": None})
    [video_facet] = facets(save)
    assert (video_facet["id"], video_facet["model"], video_facet["status"]) == (
        video,
        "sd2_manxue_720p",
        "completed",
    )
    [dataset] = save.get_openlineage_facets_on_complete(None).outputs
    assert (dataset.namespace, dataset.name) == ("file", f"{tmp_path}/{video}.mp4")
