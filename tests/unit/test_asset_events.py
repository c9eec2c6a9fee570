"""Asset events of saved videos: what is known of the video is in the event of each outlet, and never a signed URL."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest

from airflow.providers.common.compat.sdk import Asset, AssetAlias

from airflow_provider_manxue._core.saved_video import SavedVideo, duration_of
from airflow_provider_manxue.testing import Emulator, Response
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from tests.support.fake_airflow import FakeTaskInstance

try:
    from airflow.sdk.execution_time.context import OutletEventAccessors
except ImportError:  # Airflow 2
    from airflow.utils.context import OutletEventAccessors

SHOT, FILM, ANY = Asset("shot"), Asset("s3://films/film"), AssetAlias("any")


@pytest.fixture
def emulator(monkeypatch):
    with Emulator() as running:
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", running.airflow_connection_json())
        yield running


class Save:
    """A save, with Airflow's own accessors of the events of its outlets."""

    def __init__(self, folder):
        self.folder = folder
        self.events = OutletEventAccessors()
        self.xcom = {}

    def run(self, video_task_id, *, outlets=(SHOT,), **arguments):
        ti = FakeTaskInstance()
        self.xcom = ti.xcom
        destination = f"file://{self.folder}/"
        operator = ManxueToObjectStorageOperator(
            task_id="save",
            video_task_id=video_task_id,
            destination=destination,
            outlets=list(outlets),
            **arguments,
        )
        return operator.execute({"ti": ti, "outlet_events": self.events})

    def details(self, outlet=SHOT):
        return self.events[outlet].extra


@pytest.fixture
def save(emulator, tmp_path):
    return Save(tmp_path)


def alias_events(accessor):
    """Return the events of an alias, as the asset's URI and the extra. They have another form in Airflow 2."""
    if hasattr(accessor, "asset_alias_events"):
        return [(event.dest_asset_key.uri, event.extra) for event in accessor.asset_alias_events]
    return [(event["dest_dataset_uri"], event["extra"]) for event in accessor.dataset_alias_events]


def whole_task(emulator, task_id):
    return {"id": task_id, "video_url": emulator.video_url(task_id), "actualDuration": 5.17}


def test_extra_has_id_uri_size_duration_and_checksum(emulator, save, tmp_path):
    task_id = emulator.add_task("completed")
    uri = save.run(task_id)
    content = Path(uri.removeprefix("file://")).read_bytes()
    assert save.details() == {
        "video_task_id": task_id,
        "uri": f"file://{tmp_path}/{task_id}.mp4",
        "size": len(content),
        "duration": 5.0,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_extra_has_no_signed_url(emulator, save):
    """An event is shown to everyone who may see assets."""
    save.run(whole_task(emulator, emulator.add_task("completed")), outlets=[SHOT, FILM, ANY])
    assert "signature=" in json.dumps(emulator.video_url(save.xcom["video_task_id"]))
    shown = json.dumps([save.details(), save.details(FILM), alias_events(save.events[ANY])])
    assert "signature" not in shown
    assert emulator.api_key not in shown


def test_each_outlet_has_the_details(emulator, save):
    save.run(emulator.add_task("completed"), outlets=[SHOT, FILM])
    assert save.details() == save.details(FILM) == save.xcom["saved_video"]


def test_alias_emits_an_event_of_the_file(emulator, save):
    uri = save.run(emulator.add_task("completed"), outlets=[ANY])
    assert alias_events(save.events[ANY]) == [(uri, save.xcom["saved_video"])]


def test_details_of_the_author_are_kept(emulator, save):
    save.details()["episode"] = 7
    save.run(emulator.add_task("completed"))
    assert save.details()["episode"] == 7
    assert save.details()["size"] > 0


def test_skipped_save_has_no_checksum(emulator, save):
    task_id = emulator.add_task("completed")
    save.run(task_id)
    size = save.details()["size"]
    save.run(whole_task(emulator, task_id), if_exists="skip")
    assert (save.details()["sha256"], save.details()["size"], save.details()["duration"]) == (
        None,
        size,
        5.17,
    )


def test_duration_of_the_argument_is_used_if_the_service_refuses(emulator, save):
    task = whole_task(emulator, emulator.add_task("completed"))
    emulator.respond_with(Response(status=404), on="query")
    save.run(task)
    assert save.details()["duration"] == 5.17


def test_event_without_details_does_not_fail_the_save(emulator, save, monkeypatch):
    """The video is saved. A retry would download it again."""
    log = Mock()
    monkeypatch.setattr(ManxueToObjectStorageOperator, "log", log)
    known = save.events[SHOT]
    save.events = MagicMock()
    save.events.__getitem__.side_effect = [KeyError("an unknown asset"), known, known]
    uri = save.run(emulator.add_task("completed"), outlets=[FILM, SHOT])
    assert Path(uri.removeprefix("file://")).exists()
    assert save.details()["uri"] == uri
    assert "KeyError" in str(log.warning.call_args_list)


def test_outlets_work_without_xcoms(emulator, save):
    save.run(emulator.add_task("completed"), do_xcom_push=False)
    assert save.xcom == {}
    assert save.details()["size"] > 0


@pytest.mark.parametrize(
    ("uri", "shown", "asset"),
    [
        ("s3://films/a.mp4", "s3://films/a.mp4", "s3://films/a.mp4"),
        ("s3://my_conn@films/a.mp4", "s3://my_conn@films/a.mp4", "s3://films/a.mp4"),
        ("sftp://me:secret@host/a@b.mp4", "sftp://host/a@b.mp4", "sftp://host/a@b.mp4"),
        ("sftp://me@home:secret@host/a.mp4", "sftp://host/a.mp4", "sftp://host/a.mp4"),
        ("s3://my_conn@films/a:b@c/d.mp4", "s3://my_conn@films/a:b@c/d.mp4", "s3://films/a:b@c/d.mp4"),
        ("s3://my_conn@films/a://b:c@d.mp4", "s3://my_conn@films/a://b:c@d.mp4", "s3://films/a://b:c@d.mp4"),
        ("file:///data/a@b:c.mp4", "file:///data/a@b:c.mp4", "file:///data/a@b:c.mp4"),
    ],
)
def test_uri_names_the_connection_but_no_password(uri, shown, asset):
    video = SavedVideo("v1", uri, 7, None, None)
    assert (video.to_dict()["uri"], video.asset_uri) == (shown, asset)


@pytest.mark.parametrize(
    ("sources", "duration"),
    [
        ([{"actualDuration": 5.17}, {"actualDuration": 9}], 5.17),
        ([None, {"actualDuration": 9}], 9),
        ([{"actualDuration": None}, "v1"], None),
        ([{"actualDuration": True}, {"actualDuration": "5"}, {"actualDuration": float("nan")}], None),
        ([], None),
    ],
)
def test_duration_is_that_of_the_first_source_that_knows_it(sources, duration):
    assert duration_of(*sources) == duration
