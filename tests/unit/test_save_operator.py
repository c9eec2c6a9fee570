"""
Arguments, destinations, log and errors of the save operator.

The rules and their reasons are in docs/saving-design.md.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow.providers.common.compat.sdk import DAG, AirflowException, AirflowFailException, XComArg
from airflow.providers.openlineage.utils.utils import TaskInfoComplete

from airflow_provider_manxue._client import downloader, storage
from airflow_provider_manxue._core import media_urls
from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue.exceptions import (
    ManxueDownloadError,
    ManxueExistsError,
    ManxueInputError,
    ManxueMediaTypeError,
    ManxueNotCompletedError,
    ManxueResultMissingError,
    ManxueStorageError,
    ManxueUnsafeUrlError,
    ManxueUnverifiedVideoError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.sensors.manxue import ManxueVideoSensor
from airflow_provider_manxue.testing import Emulator, Response
from airflow_provider_manxue.transfers.manxue_to_object_storage import (
    DEFAULT_MAX_BYTES,
    ManxueToObjectStorageOperator,
)
from tests.support.fake_airflow import FakeTaskInstance


def operator(**arguments):
    defaults = {"task_id": "save", "video_task_id": "v1", "destination": "file:///videos/"}
    return ManxueToObjectStorageOperator(**defaults | arguments)


@pytest.fixture
def emulator(monkeypatch):
    with Emulator() as running:
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", running.airflow_connection_json())
        yield running


@pytest.fixture
def save(emulator, tmp_path):
    def run(task_id, **arguments):
        ti = FakeTaskInstance()
        one = operator(video_task_id=task_id, **{"destination": f"file://{tmp_path}/", **arguments})
        uri = one.execute({"ti": ti})
        return uri, ti.xcom

    return run


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"video_task_id": ""}, "video_task_id is empty"),
            ({"video_task_id": "  "}, "video_task_id is empty"),
            ({"video_task_id": ["a", "b"]}, r"\.expand\(video_task_id="),
            ({"video_task_id": {"status": "completed"}}, "video_task_id must be"),
            ({"video_task_id": None}, "video_task_id must be"),
            ({"destination": "/videos/a.mp4"}, r"no scheme.*file:///data"),
            ({"destination": None}, "destination must be"),
            ({"containers": "mp4"}, "containers must be"),
            ({"containers": ["avi"]}, "containers must be"),
            ({"containers": []}, "containers must be"),
            ({"allow_private_addresses": "10.0.0.1"}, "allow_private_addresses must be"),
            ({"allow_private_addresses": ["http://a/"]}, "allow_private_addresses must be"),
            ({"if_exists": "replace"}, "if_exists must be one of 'overwrite', 'skip', 'fail', not 'replace'"),
            ({"max_bytes": 0}, "max_bytes must be"),
            ({"max_bytes": "1 GB"}, "max_bytes must be"),
            ({"max_bytes": True}, "max_bytes must be"),
            ({"timeout": 0}, "timeout must be"),
            ({"timeout": timedelta(0)}, "timeout must be"),
            ({"timeout": float("nan")}, "timeout must be"),
        ],
    )
    def test_invalid_arguments_are_refused_at_parse_time(self, arguments, message):
        with pytest.raises(ManxueInputError, match=message):
            operator(**arguments)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"video_task_id": "{{ params.id }}", "destination": "{{ params.place }}"},
            {"video_task_id": {"id": "{{ params.id }}"}},
            {"destination": "s3://bucket/{{ ds }}/"},
            {"max_bytes": None, "timeout": timedelta(hours=2)},
        ],
    )
    def test_templates_are_accepted_at_parse_time(self, arguments):
        operator(**arguments)

    def test_xcom_args_are_accepted(self):
        with DAG("dag", schedule=None):
            sensor = ManxueVideoSensor(task_id="wait", video_task_id="v1")
            one = operator(video_task_id=sensor.output, destination=sensor.output)

        assert isinstance(one.video_task_id, XComArg)
        assert one.upstream_task_ids == {"wait"}

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("video_task_id", ["a"]),
            ("video_task_id", ""),
            ("destination", "videos/"),
            ("destination", "file:///videos/../../etc/cron.d/a.mp4"),
        ],
    )
    def test_invalid_arguments_are_refused_after_rendering(self, field, value):
        one = operator(**{field: "{{ later }}"})
        setattr(one, field, value)
        with pytest.raises(ManxueInputError, match=field):
            one.execute({})

    def test_template_fields(self):
        assert operator().template_fields == (
            "video_task_id",
            "destination",
            "manxue_conn_id",
            "storage_conn_id",
        )
        assert operator().max_bytes == DEFAULT_MAX_BYTES

    def test_import_loads_no_http_library(self):
        """Airflow itself loads a file system library, so only additional modules count."""
        code = (
            "import sys\n"
            "import airflow.providers.common.compat.sdk as sdk\n"
            "sdk.BaseOperator, sdk.XComArg\n"
            "before = set(sys.modules)\n"
            "import airflow_provider_manxue.transfers.manxue_to_object_storage\n"
            "print(*{name.partition('.')[0] for name in set(sys.modules) - before})\n"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        loaded = set(run.stdout.splitlines()[-1].split())
        assert "airflow_provider_manxue" in loaded
        assert not loaded & {"requests", "urllib3", "aiohttp", "fsspec", "upath", "http"}


class TestDestination:
    def test_destinations_of_mapped_tasks_differ(self, emulator, save, tmp_path):
        ids = [emulator.add_task("completed", id=name) for name in ("a/b", "a b", "é")]
        uris = [save(one)[0] for one in ids]

        assert sorted(path.name for path in tmp_path.iterdir()) == ["%C3%A9.mp4", "a%20b.mp4", "a%2Fb.mp4"]
        assert uris[0] == f"file://{tmp_path}/a%2Fb.mp4"


class TestTask:
    @pytest.mark.parametrize("status", ["queued", "processing"])
    def test_unfinished_video_can_be_retried(self, emulator, save, status):
        task_id = emulator.add_task(status)
        with pytest.raises(ManxueNotCompletedError, match=f"'{status}'") as caught:
            save(task_id)
        assert not isinstance(caught.value, AirflowFailException)

    def test_failed_video_fails(self, emulator, save):
        with pytest.raises(ManxueVideoFailedError, match="a new order is needed"):
            save(emulator.add_task("failed"))

    def test_video_without_url_fails(self, emulator, save):
        with pytest.raises(ManxueResultMissingError, match="Report this id"):
            save(emulator.add_task("completed_without_url"))

    def test_other_media_type_fails(self, emulator, save):
        with pytest.raises(ManxueMediaTypeError):
            save(emulator.add_task("object_image_generation"))

    def test_known_url_is_used_if_the_record_now_says_failed(self, emulator, save):
        task_id = emulator.add_task("completed")
        whole = {"id": task_id, "video_url": emulator.video_url(task_id)}
        emulator.set_status(task_id, "failed")

        assert save(whole)[1]["size"] > 0

    def test_known_url_is_used_during_an_outage(self, emulator, save):
        task_id = emulator.add_task("completed")
        whole = {"id": task_id, "video_url": emulator.video_url(task_id)}
        with emulator.outage("503", on="query"):
            assert save(whole)[1]["size"] > 0

    def test_task_without_url_is_looked_up(self, emulator, save):
        assert save({"id": emulator.add_task("completed"), "video_url": None})[1]["size"] > 0


def test_no_xcom_if_do_xcom_push_is_false(emulator, save):
    uri, xcom = save(emulator.add_task("completed"), do_xcom_push=False)

    assert uri.endswith(".mp4")
    assert xcom == {}


def test_timeout_accepts_a_timedelta(emulator, save):
    save(emulator.add_task("completed"), timeout=timedelta(seconds=20))


def test_private_address_is_refused_unless_allowed(emulator, save, monkeypatch):
    """The loopback address of the emulator normally counts as that of the connection, so this is disabled here."""
    task_id = emulator.add_task("completed")
    monkeypatch.setattr(media_urls, "_own_addresses", lambda host: ())
    with pytest.raises(ManxueUnsafeUrlError, match=r"allow_private_addresses=\['127\.0\.0\.1'\]"):
        save(task_id)
    for allowed in (True, ["127.0.0.1"], ["127.0.0.0/8"]):
        save(task_id, allow_private_addresses=allowed)


def test_checksum_covers_all_chunks(emulator, save):
    task_id = emulator.add_task("completed", size=40 * 2**20)
    _, xcom = save(task_id)

    video = emulator.task(task_id).video
    assert xcom["sha256"] == hashlib.sha256(video.read(0, video.size)).hexdigest()


class TestKnownUrl:
    """The sensor's whole task is passed on, with a URL that still works."""

    @pytest.mark.parametrize("refusal", ["http_401", "http_403", "http_404", "503", "redirect"])
    def test_known_url_is_used_if_the_service_refuses(self, emulator, save, refusal):
        task_id = emulator.add_task("completed")
        whole = {"id": task_id, "video_url": emulator.video_url(task_id)}
        responses = {
            "redirect": Response(status=302),
            "http_401": Response(status=401),
            "http_403": Response(status=403),
        }
        emulator.respond_with(responses.get(refusal, refusal), on="query")

        assert save(whole)[1]["size"] > 0

    def test_known_url_is_in_no_attribute_of_the_task(self, emulator, tmp_path):
        task_id = emulator.add_task("completed")
        url = emulator.video_url(task_id)
        one = operator(video_task_id="{{ later }}", destination=f"file://{tmp_path}/")
        one = one.prepare_for_execution()  # as Airflow does before it renders the templates
        one.video_task_id = {"id": task_id, "video_url": url, "status": "completed"}
        assert one.video_task_id == {"id": task_id, "actualDuration": None}
        one.execute({"ti": FakeTaskInstance()})

        assert [name for name, value in vars(one).items() if url in repr(value)] == []
        assert "signature" not in json.dumps(dict(TaskInfoComplete(one)), default=str)

    @pytest.mark.parametrize(
        "whole",
        [
            {"data": {"id": "v1", "video_url": "https://x.example/v.mp4?sig=1"}},
            {"id": "v1", "videoUrl": "HTTPS://x.example/v.mp4?sig=1"},
            {"id": "v1", "video_url": " https://x.example/v.mp4?sig=1"},
            {"id": "v1", "data": [{"url": "https://x.example/v.mp4?sig=1"}]},
            {
                "id": "v1",
                "url": "https://x.example/v.mp4?sig=1",
                "extra": {"frame": "https://x.example/f?sig=2"},
            },
        ],
    )
    def test_url_of_each_form_is_known_and_not_shown(self, whole):
        one = operator(video_task_id=whole)
        assert one.video_task_id == {"id": "v1", "actualDuration": None}
        assert one._known_url.value.lower() == "https://x.example/v.mp4?sig=1"

    @pytest.mark.parametrize(
        "whole",
        [
            {"task_id": "t1", "data": {"id": "file_9"}},
            {"projectId": "t1", "data": {"id": "file_9", "url": "https://x.example/v.mp4"}},
            {"code": 0, "id": None, "data": {"id": "t1"}},
            {"id": "", "data": {"id": "t1", "actualDuration": 5}},
        ],
    )
    def test_id_is_that_of_the_sensor(self, whole):
        kept = operator(video_task_id=whole).video_task_id
        assert kept["id"] == parse_video_task_id(whole) == "t1"
        assert kept["actualDuration"] == whole["data"].get("actualDuration")

    def test_error_for_a_task_without_an_id_names_its_fields(self):
        with pytest.raises(ManxueInputError, match="'model', 'video_url'"):
            operator(video_task_id={"model": "m", "video_url": "https://x.example/v.mp4?sig=1"})

    def test_known_url_can_be_a_template(self):
        whole = {"id": "{{ params.id }}", "video_url": "{{ params.url }}"}
        assert operator(video_task_id=whole).video_task_id == whole


class TestContainers:
    WEBM = b"\x1a\x45\xdf\xa3\x84" + bytes(4) + b"\x18\x53\x80\x67\x40\x64" + bytes(100)

    def respond(self, emulator, body, kind, **values):
        emulator.respond_with(Response(body=body, headers={"Content-Type": kind}, **values), on="media")

    def test_container_announced_by_the_host_is_saved(self, emulator, save):
        self.respond(emulator, self.WEBM, "video/webm")
        assert save(emulator.add_task("completed"))[1]["content_type"] == "video/webm"

    def test_container_named_by_the_author_is_saved(self, emulator, save):
        self.respond(emulator, self.WEBM, "application/octet-stream")
        assert save(emulator.add_task("completed"), containers=("webm",))[1]["content_type"] == "video/webm"

    @pytest.mark.parametrize(
        ("body", "arguments"),
        [
            (WEBM, {}),
            (b"\0\1\2" * 500, {}),
            (b"\0\0\0\x10ftypisom" + bytes(500), {}),
            (WEBM, {"containers": ["mp4"]}),
        ],
    )
    def test_unverified_video_is_saved_as_unverified(self, emulator, save, tmp_path, body, arguments):
        task_id = emulator.add_task("completed")
        self.respond(emulator, body, "application/octet-stream")
        with pytest.raises(ManxueUnverifiedVideoError, match=rf"{task_id}\.mp4\.unverified"):
            save(task_id, **arguments)

        assert [path.name for path in tmp_path.iterdir()] == [f"{task_id}.mp4.unverified"]
        assert (tmp_path / f"{task_id}.mp4.unverified").read_bytes() == body

    def test_unverified_video_is_retried_by_the_next_try(self, emulator, save, tmp_path):
        task_id = emulator.add_task("completed")
        emulator.fail_next(1, Response(body=bytes(100), headers={"Content-Type": "video/mp4"}), on="media")
        with pytest.raises(ManxueUnverifiedVideoError):
            save(task_id, if_exists="skip")

        assert save(task_id, if_exists="skip")[1]["sha256"]

    @pytest.mark.parametrize("kind", ["text/html", "application/json", "application/xml"])
    @pytest.mark.parametrize("body", ["<html>", '{"a": 1}', ""])
    def test_page_is_refused_without_delay(self, emulator, save, monkeypatch, kind, body):
        slept = []
        monkeypatch.setattr(downloader.time, "sleep", slept.append)
        self.respond(emulator, body, kind)
        with pytest.raises(ManxueDownloadError, match="instead of the video, also from a new URL"):
            save(emulator.add_task("completed"))

        assert sum(slept) == 0


class TestMapped:
    @pytest.mark.parametrize(
        ("destination", "warns"),
        [("s3://b/a.mp4", True), ("s3://b/x/", False), ("s3://b/{{ ti.map_index }}.mp4", False)],
    )
    def test_mapped_task_with_one_file_name_warns(self, destination, warns):
        with DAG("dag", schedule=None), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ManxueToObjectStorageOperator.partial(task_id="save", destination=destination).expand(
                video_task_id=["a", "b"]
            )
        assert bool([one for one in caught if "the one file" in str(one.message)]) is warns

    def test_task_mapped_over_destinations_does_not_warn(self):
        with DAG("dag", schedule=None), warnings.catch_warnings():
            warnings.simplefilter("error")
            ManxueToObjectStorageOperator.partial(task_id="save").expand_kwargs(
                [{"video_task_id": "a", "destination": "s3://b/a.mp4"}]
            )


class TestLog:
    @pytest.fixture
    def lines(self, monkeypatch):
        lines = []
        monkeypatch.setattr(
            ManxueToObjectStorageOperator,
            "log",
            SimpleNamespace(
                info=lambda text, *values: lines.append(("info", text % values)),
                warning=lambda text, *values: lines.append(("warning", text % values)),
            ),
        )
        return lines

    def test_progress_is_logged_at_intervals(self, emulator, save, lines, monkeypatch):
        moments = iter(range(100_000))
        monkeypatch.setattr(
            downloader, "time", SimpleNamespace(monotonic=lambda: next(moments), time=lambda: 0.0, sleep=None)
        )
        save(emulator.add_task("completed", size=20 * 2**20))
        received = [text for _, text in lines if text.startswith("Received")]

        assert 3 < len(received) < 50
        assert "of 20971520 bytes (" in received[0]

    def test_log_has_errors_but_no_url(self, emulator, save, lines, caplog, monkeypatch):
        caplog.set_level(logging.DEBUG)
        monkeypatch.setattr(downloader.time, "sleep", lambda seconds: None)
        emulator.fail_next(1, "media_cut")
        task_id = emulator.add_task("completed")
        save({"id": task_id, "video_url": emulator.video_url(task_id)})

        assert any("received 1000 of" in text for level, text in lines if level == "warning")
        assert "signature=" not in str(lines) + caplog.text

    def test_use_of_the_known_url_is_a_sentence_of_its_own(self, emulator, save, lines):
        task_id = emulator.add_task("completed")
        emulator.respond_with("http_404", on="query")
        save({"id": task_id, "video_url": emulator.video_url(task_id)})

        [text] = [text for _, text in lines if "Using the URL" in text]
        assert re.fullmatch(r"HTTP 404: [^.]*[^. ]\. Using the URL in video_task_id instead\.", text)


class TestErrors:
    @pytest.mark.parametrize(
        "error", [ManxueNotCompletedError, ManxueDownloadError, ManxueUnsafeUrlError, ManxueStorageError]
    )
    def test_error_can_be_retried(self, error):
        assert issubclass(error, AirflowException)
        assert not issubclass(error, AirflowFailException)

    def test_existing_object_cannot_be_retried(self):
        assert issubclass(ManxueExistsError, AirflowFailException)


# --- stores ---------------------------------------------------------------------------------------------


class FakeStore:
    """Double of an fsspec file system, with the methods that the operator uses."""

    def __init__(self, fails=False):
        self.files, self.calls, self.fails = {}, [], fails

    def put_file(self, local, remote, callback, **options):
        self.calls.append(("put_file", remote, options))
        self.files[remote] = Path(local).read_bytes()
        callback.relative_update(1)
        if self.fails:
            raise PermissionError(13, "no")

    def makedirs(self, path, exist_ok):
        self.calls.append(("makedirs", path))

    def mv(self, source, target):
        self.files[target] = self.files.pop(source)

    def rm_file(self, path):
        del self.files[path]

    def invalidate_cache(self):
        pass

    def info(self, path):
        if path not in self.files:
            raise FileNotFoundError(path)
        return {"size": len(self.files[path]), "type": "file"}


@pytest.fixture
def upload(monkeypatch, tmp_path, emulator, save):
    def run(scheme, store, size=None, **arguments):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        path = SimpleNamespace(fs=store, protocol=scheme, path="bucket/folder/a.mp4")
        monkeypatch.setattr(storage, "ObjectStoragePath", lambda uri, **options: path)
        task_id = emulator.add_task("completed", size=size)
        return save(task_id, destination=f"{scheme}://bucket/folder/a.mp4", **arguments)

    return run


class TestStores:
    @pytest.mark.parametrize(
        ("scheme", "options"),
        [
            ("gs", {"content_type": "video/mp4", "chunksize": 8 * 2**20}),
            ("gcs", {"content_type": "video/mp4", "chunksize": 8 * 2**20}),
            ("abfs", {"max_concurrency": 1}),
            ("abfss", {"max_concurrency": 1}),
        ],
    )
    def test_atomic_store_gets_the_file_directly(self, upload, scheme, options):
        store = FakeStore()
        _, xcom = upload(scheme, store)

        [(call, remote, given)] = store.calls
        assert (call, remote) == ("put_file", "bucket/folder/a.mp4")
        assert options.items() <= given.items()
        assert scheme.startswith("g") or given["content_settings"]["content_type"] == "video/mp4"
        assert len(store.files["bucket/folder/a.mp4"]) == xcom["size"]

    def test_other_store_gets_a_temporary_name_first(self, upload):
        store = FakeStore()
        upload("sftp", store)

        assert store.calls[0] == ("makedirs", "bucket/folder")
        assert store.calls[1][1].startswith("bucket/folder/.manxue-")
        assert list(store.files) == ["bucket/folder/a.mp4"]

    def test_other_store_is_cleaned_up_after_failure(self, upload):
        store = FakeStore(fails=True)
        store.files["bucket/folder/a.mp4"] = b"old"
        with pytest.raises(ManxueStorageError, match="permission denied"):
            upload("sftp", store)

        assert store.files == {"bucket/folder/a.mp4": b"old"}

    def test_upload_stops_at_the_deadline(self, upload, monkeypatch):
        checks = []

        def check(self, doing):
            checks.append(doing)
            if "stored" in doing:
                raise ManxueDownloadError(doing)

        monkeypatch.setattr(downloader.Deadline, "check", check)
        with pytest.raises(ManxueDownloadError, match="is being stored"):
            upload("gs", FakeStore())

    def test_skip_returns_the_size_of_the_existing_object(self, upload):
        store = FakeStore()
        store.files["bucket/folder/a.mp4"] = b"old"

        assert upload("gs", store, if_exists="skip")[1]["size"] == 3

    def test_error_names_the_missing_provider(self, save, emulator):
        with pytest.raises(ManxueStorageError, match="Install the provider"):
            save(emulator.add_task("completed"), destination="nosuchstore://bucket/a.mp4")

    def test_store_error_without_text_names_its_type(self, tmp_path):
        with (
            pytest.raises(ManxueStorageError, match="RuntimeError"),
            storage.open_store(f"file://{tmp_path}/x.mp4", None),
        ):
            raise RuntimeError
