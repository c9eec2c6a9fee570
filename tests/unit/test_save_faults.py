"""
Faults of a download, each with local files and with S3.

Each save ends with the whole video or a clear error. It leaves no partial object under the final name, and loses no
old object.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest
from s3fs import S3FileSystem

from airflow_provider_manxue._client import downloader as download_module
from airflow_provider_manxue._client import storage as storage_module
from airflow_provider_manxue.exceptions import (
    ManxueDownloadError,
    ManxueError,
    ManxueExistsError,
    ManxueNotCompletedError,
    ManxueRefusedError,
    ManxueStorageError,
)
from airflow_provider_manxue.testing import Emulator, Response
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from dev.servers import S3Server
from tests.support.fake_airflow import FakeTaskInstance
from tests.support.temporary_folder import own_temporary_folder, running_outside_of_tests

SIZE = 200_000
OLD = b"an older video"
BUCKET = "videos"


class PassingTime:
    """Double of the ``time`` module whose ``sleep`` returns immediately."""

    def __init__(self):
        self.slept = 0.0

    def monotonic(self):
        return time.monotonic() + self.slept

    def time(self):
        return time.time()

    def sleep(self, seconds):
        self.slept += seconds


# --- stores ---------------------------------------------------------------------------------------------


class LocalStore:
    conn_id = None

    def __init__(self, folder):
        self.folder = folder
        self.uri = f"file://{folder}/"

    def content(self, name):
        path = self.folder / name
        return path.read_bytes() if path.exists() else None

    def write(self, name, content):
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_bytes(content)

    def leftovers(self):
        return [path.name for path in self.folder.iterdir() if path.name.startswith(".")]


class S3Store:
    conn_id = "s3_store"

    def __init__(self, client, prefix):
        self.client, self.prefix = client, prefix
        self.uri = f"s3://{BUCKET}/{prefix}/"

    def content(self, name):
        try:
            return self.client.get_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None

    def write(self, name, content):
        self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}", Body=content)

    def leftovers(self):
        uploads = [
            one
            for one in self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
            if one["Key"].startswith(f"{self.prefix}/")
        ]
        objects = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/.").get("Contents", [])
        return uploads + objects


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory):
    """The URL of a stand-in for S3."""
    with running_outside_of_tests(S3Server(), tmp_path_factory.mktemp("s3")) as server:
        yield server.url


@pytest.fixture(scope="session")
def s3(s3_url):
    client = boto3.client(
        "s3", endpoint_url=s3_url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path):
    with own_temporary_folder(tmp_path / "tmp"):
        yield


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path, monkeypatch):
    if request.param == "local":
        return LocalStore(tmp_path / "videos")
    url = request.getfixturevalue("s3_url")
    connection = {
        "conn_type": "aws",
        "login": "a",
        "password": "b",
        "extra": {"endpoint_url": url, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_S3_STORE", json.dumps(connection))
    return S3Store(request.getfixturevalue("s3"), tmp_path.name)


@pytest.fixture
def passing_time(monkeypatch):
    clock = PassingTime()
    monkeypatch.setattr(download_module, "time", clock)
    return clock


@pytest.fixture
def emulator(monkeypatch):
    with Emulator(exact_urls=True) as running:
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", running.airflow_connection_json())
        yield running
        assert not any(one.carries_key for one in running.requests if one.place == "media")


class Saves:
    """A save of one video, with checks of its result."""

    def __init__(self, emulator, store):
        self.emulator, self.store = emulator, store
        self.ti = FakeTaskInstance()
        self.new_video()

    def new_video(self, size=SIZE):
        self.task_id = self.emulator.add_task("completed", size=size)
        self.name = f"{self.task_id}.mp4"

    @property
    def video(self):
        video = self.emulator.task(self.task_id).video
        return video.read(0, video.size)

    def run(self, **arguments):
        defaults = {
            "video_task_id": self.task_id,
            "destination": self.store.uri,
            "storage_conn_id": self.store.conn_id,
        }
        operator = ManxueToObjectStorageOperator(task_id="save", **defaults | arguments)
        return operator.execute({"ti": self.ti})

    def assert_saved(self, **arguments):
        uri = self.run(**arguments)
        video = self.video

        assert uri == self.store.uri + self.name
        assert self.store.content(self.name) == video
        facts = {
            "size": len(video),
            "sha256": hashlib.sha256(video).hexdigest(),
            "video_task_id": self.task_id,
        }
        assert self.ti.xcom.pop("saved_video").items() > {**facts, "uri": uri}.items()
        assert self.ti.xcom == {**facts, "content_type": "video/mp4"}
        assert self.store.leftovers() == []

    def assert_fails(self, error, match="", **arguments):
        """Check that the save fails without and with an older object at the destination."""
        self.store.write("another.mp4", b"")
        for before in (None, OLD):
            if before is not None:
                self.store.write(self.name, before)
            with pytest.raises(error, match=match) as caught:
                self.run(**arguments)
            assert isinstance(caught.value, ManxueError)
            assert "signature" not in str(caught.value)
            assert self.store.content(self.name) == before
            assert self.store.leftovers() == []
        assert self.ti.xcom == {}

    @property
    def downloads(self):
        return [one for one in self.emulator.requests if one.place == "media"]


@pytest.fixture
def saves(emulator, store):
    return Saves(emulator, store)


# --- downloads ----------------------------------------------------------------------------------------


def test_video_is_saved(saves):
    saves.assert_saved()
    (request,) = saves.downloads
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Range" not in request.headers


def test_large_video_is_saved_in_parts(saves):
    saves.new_video(size=20 * 2**20)
    saves.assert_saved()


def test_existing_video_is_replaced(saves):
    saves.store.write(saves.name, OLD)
    saves.assert_saved()


@pytest.mark.usefixtures("passing_time")
@pytest.mark.parametrize("reset", [None, "after"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
class TestCutTransfer:
    def test_single_cut_is_resumed(self, saves, share, reset):
        saves.emulator.fail_next(1, Response(truncate=int(SIZE * share), reset=reset), on="media")
        saves.assert_saved()

        first, second = saves.downloads
        start = int(second.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        assert 0 < start <= SIZE * share
        assert second.headers["If-Range"].startswith('"')
        assert (first.status, second.status) == (200, 206)

    def test_repeated_cuts_make_progress(self, saves, share, reset):
        saves.emulator.fail_next(20, Response(truncate=int(SIZE * share), reset=reset), on="media")
        with contextlib.suppress(ManxueDownloadError):
            saves.assert_saved()
            return
        assert saves.store.content(saves.name) is None

    def test_repeated_cuts_without_ranges_fail(self, saves, share, reset):
        response = Response(truncate=int(SIZE * share), reset=reset, ignore_range=True)
        saves.emulator.respond_with(response, on="media")
        saves.assert_fails(ManxueDownloadError, "no progress in 10 attempts")


@pytest.mark.usefixtures("passing_time")
class TestSingleFault:
    """Each fault happens once, and the video is saved."""

    @pytest.mark.parametrize(
        "fault",
        [
            "media_cut", "media_reset", "media_chunked_cut", "media_chunked", "media_ignores_range",
            "media_length_too_long", "media_length_too_short", "media_html", "media_empty", "media_gzip",
            "media_replaced", "media_redirect", "media_403", "media_404", "media_503",
        ],
    )  # fmt: skip
    def test_fault_is_retried(self, saves, fault):
        saves.emulator.fail_next(1, fault)
        saves.assert_saved()

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_chunked_body_cut_early_is_resumed(self, saves, share):
        saves.emulator.fail_next(1, Response(truncate=int(SIZE * share), chunked=True), on="media")
        saves.assert_saved()
        assert saves.downloads[-1].status == 206

    def test_chunked_body_with_false_end_is_resumed(self, saves):
        saves.emulator.fail_next(1, Response(body=saves.video[: SIZE // 2], chunked=True), on="media")
        saves.assert_saved()

    def test_chunked_body_without_last_byte_is_resumed(self, saves):
        saves.emulator.fail_next(1, Response(truncate=SIZE - 1, chunked=True), on="media")
        saves.assert_saved()

    def test_object_replaced_midway_is_fetched_from_start(self, saves):
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2, then_replace=True), on="media")
        saves.assert_saved()
        assert [one.status for one in saves.downloads] == [200, 200]

    def test_ignored_range_restarts_the_download(self, saves):
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2), on="media")
        saves.emulator.fail_next(1, "media_ignores_range")
        saves.assert_saved()

    def test_replaced_object_is_found_by_its_etag(self, saves):
        """The host ignores If-Range and sends 206 for the new version."""
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2), on="media")
        part = saves.video[SIZE // 2 :]
        lie = {"Content-Range": f"bytes {SIZE // 2}-{SIZE - 1}/{SIZE}", "ETag": '"other"'}
        saves.emulator.fail_next(1, Response(status=206, body=part, headers=lie), on="media")
        saves.assert_saved()
        assert "Range" not in saves.downloads[-1].headers

    def test_nothing_is_resumed_without_a_validator(self, saves):
        nothing = {"ETag": "", "Last-Modified": ""}
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2, headers=nothing), on="media")
        saves.assert_saved()
        assert "Range" not in saves.downloads[-1].headers

    def test_error_page_does_not_lose_progress(self, saves):
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2), on="media")
        saves.emulator.fail_next(1, "media_html")
        saves.assert_saved()
        assert saves.downloads[-1].headers["Range"] == f"bytes={SIZE // 2}-"

    def test_expired_url_is_refreshed(self, saves):
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2), on="media")
        saves.emulator.fail_next(1, Response(status=403), on="media")
        saves.assert_saved()
        assert len(saves.emulator.polls(saves.task_id)) == 2
        assert saves.downloads[-1].status == 206


@pytest.mark.usefixtures("passing_time")
class TestPersistentFault:
    """A fault that persists ends with a clear error."""

    @pytest.mark.parametrize(
        ("fault", "match"),
        [
            ("media_length_too_long", f"ended after {SIZE} of {SIZE + 10} bytes|no data from byte"),
            ("media_length_too_short", "the MP4 is longer than the body"),
            ("media_html", r"no video \(text/html; charset=utf-8\)"),
            ("media_empty", "empty body"),
            ("media_gzip", r"compressed the video \(gzip\)"),
            ("media_redirect", "redirected.invalid: the host name was not found"),
            ("media_403", "HTTP 403"),
            ("media_404", "HTTP 404"),
            ("media_503", "HTTP 503"),
            ("hang", "no answer within|timed out|timeout"),
        ],
    )
    def test_error_names_the_fault(self, saves, fault, match, monkeypatch):
        response = fault
        if fault == "hang":
            response = Response(hang=True)
            connection = json.loads(saves.emulator.airflow_connection_json())
            connection["extra"]["request_timeout"] = 0.1
            monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", json.dumps(connection))
        saves.emulator.respond_with(response, on="media")
        saves.assert_fails(ManxueDownloadError, match)

    def test_chunked_body_cut_early(self, saves):
        """A chunked body without its last chunk is incomplete (RFC 9112, section 8)."""
        saves.emulator.respond_with(Response(truncate=SIZE // 2, chunked=True, ignore_range=True), on="media")
        saves.assert_fails(ManxueDownloadError, "before its last chunk")

    def test_chunked_body_with_false_end(self, saves):
        """The body ends correctly, but too early. Only the boxes of the file show that."""
        saves.emulator.respond_with(Response(body=saves.video[: SIZE // 2], chunked=True), on="media")
        saves.assert_fails(ManxueDownloadError, "longer than the body")

    def test_json_error_page(self, saves):
        """Some stores report errors with status 200. Such a body must not be saved as the video."""
        saves.emulator.respond_with(Response(json={"code": 403}), on="media")
        saves.assert_fails(ManxueDownloadError, r"no video \(application/json\)")

    @pytest.mark.parametrize("chunked", [True, False])
    def test_video_above_max_bytes(self, saves, chunked):
        saves.emulator.respond_with(Response(chunked=chunked), on="media")
        saves.assert_fails(ManxueDownloadError, "longer than max_bytes=1000", max_bytes=1000)

    def test_endless_body(self, saves):
        """``max_bytes`` bounds the disk space of a body without an announced length."""
        saves.emulator.respond_with("media_endless")
        saves.assert_fails(ManxueDownloadError, "longer than max_bytes", max_bytes=5 * 2**20)


class TestTimeout:
    def test_slow_link_is_accepted(self, saves):
        saves.emulator.respond_with(Response(bytes_per_second=SIZE * 2), on="media")
        saves.assert_saved(timeout=30)

    @pytest.mark.parametrize(
        "response", [Response(bytes_per_second=1000), Response(hang=True), Response(endless=True)]
    )
    def test_timeout_bounds_the_download(self, saves, response):
        saves.emulator.respond_with(response, on="media")
        began = time.monotonic()
        saves.assert_fails(ManxueDownloadError, "not saved within timeout=0.5 s", timeout=0.5, max_bytes=None)
        assert time.monotonic() - began < 30

    def test_timeout_bounds_an_outage_of_the_service(self, saves, passing_time):
        saves.emulator.respond_with("503", on="query")
        saves.assert_fails(ManxueDownloadError, "within timeout=3600 s: HTTP 503")

    def test_short_outage_of_the_service_is_retried(self, saves, passing_time):
        saves.emulator.fail_next(30, "503", on="query")
        saves.assert_saved()


# --- the service ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("passing_time")
class TestService:
    @pytest.mark.parametrize("status", ["queued", "processing"])
    def test_error_names_the_status_of_an_unfinished_video(self, saves, status):
        saves.emulator.set_status(saves.task_id, status)
        saves.assert_fails(ManxueNotCompletedError, f"its status is '{status}'")

    def test_expired_url_is_not_used(self, saves):
        stale = saves.emulator.video_url(saves.task_id)
        saves.emulator.clock.advance(86400 + 1)
        saves.assert_saved(video_task_id={"id": saves.task_id, "status": "completed", "video_url": stale})
        assert len(saves.downloads) == 1

    @pytest.mark.parametrize("response", ["http_404", "http_200_business_error"])
    def test_known_url_is_used_if_the_record_is_gone(self, saves, response):
        url = saves.emulator.video_url(saves.task_id)
        saves.emulator.respond_with(response, on="query")
        saves.assert_saved(video_task_id={"id": saves.task_id, "video_url": url})

    def test_expired_known_url_is_tried_once(self, saves):
        url = saves.emulator.video_url(saves.task_id)
        saves.emulator.clock.advance(86400 + 1)
        saves.emulator.respond_with("http_404", on="query")
        with pytest.raises(ManxueRefusedError, match="404"):
            saves.run(video_task_id={"id": saves.task_id, "video_url": url})
        assert len(saves.downloads) == 1

    def test_unknown_id_without_known_url_is_an_error_with_likely_causes(self, saves):
        saves.emulator.respond_with("http_404", on="query")
        saves.assert_fails(
            ManxueRefusedError, f"does not return the video '{saves.task_id}': HTTP 404.*about a day"
        )


# --- existing objects ----------------------------------------------------------------------------------


class TestExistingObject:
    def test_skip_leaves_existing_object(self, saves):
        saves.store.write(saves.name, OLD)
        uri = saves.run(if_exists="skip")

        assert uri == saves.store.uri + saves.name
        assert saves.store.content(saves.name) == OLD
        facts = {"size": len(OLD), "sha256": None, "video_task_id": saves.task_id}
        assert saves.ti.xcom == {
            **facts,
            "content_type": None,
            "saved_video": {**facts, "uri": uri, "duration": None},
        }
        assert saves.emulator.requests == []

    def test_fail_refuses_existing_object(self, saves):
        saves.store.write(saves.name, OLD)
        with pytest.raises(ManxueExistsError, match="already exists"):
            saves.run(if_exists="fail")
        assert saves.store.content(saves.name) == OLD
        assert saves.emulator.requests == []

    @pytest.mark.parametrize("if_exists", ["skip", "fail"])
    def test_skip_and_fail_save_a_new_object(self, saves, if_exists):
        saves.assert_saved(if_exists=if_exists)

    def test_fail_refuses_object_created_meanwhile(self, saves, monkeypatch):
        fetch = download_module.Downloader.fetch

        def fetch_slowly(self, file):
            saves.store.write(saves.name, OLD)
            return fetch(self, file)

        monkeypatch.setattr(download_module.Downloader, "fetch", fetch_slowly)
        with pytest.raises(ManxueExistsError):
            saves.run(if_exists="fail")
        assert saves.store.content(saves.name) == OLD
        assert saves.store.leftovers() == []


# --- a separate process --------------------------------------------------------------------------------


WORKER = """
import json, os, resource, signal, sys
from s3fs import S3FileSystem
from airflow_provider_manxue._client import downloader, storage
from airflow_provider_manxue.exceptions import ManxueStorageError
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

def die_at(owner, name, call, method=None):
    real, calls = getattr(owner, name), []
    def count(*args, **kwargs):
        if method is None or args[1] == method:
            calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(owner, name, count)

operator = ManxueToObjectStorageOperator(task_id="save", **json.loads(sys.argv[1]))
operator.hook.settings
exec(sys.argv[2])
try:
    operator.execute({})
except ManxueStorageError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def worker(saves, tmp_path, monkeypatch):
    """Save in another process, after the given code for an incident has run there."""
    temporary = tmp_path / "worker-tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def run(incident):
        arguments = {
            "video_task_id": saves.task_id,
            "destination": saves.store.uri,
            "storage_conn_id": saves.store.conn_id,
        }
        return subprocess.run(
            [sys.executable, "-c", WORKER, json.dumps(arguments), incident], capture_output=True, text=True
        )

    run.temporary = temporary
    return run


@pytest.mark.once
def test_full_disk_leaves_the_old_object(saves, worker):
    """A limit on the file size makes writing fail as on a full disk."""
    saves.store.write(saves.name, OLD)
    run = worker("resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))")

    assert run.returncode == 1
    assert "could not be written" in run.stderr
    assert "Make room there for the whole video" in run.stderr
    assert saves.store.content(saves.name) == OLD
    assert saves.store.leftovers() == []
    assert list(worker.temporary.iterdir()) == []


@pytest.mark.once
@pytest.mark.parametrize(
    ("store", "moment"),
    [
        ("local", "downloader.PartialDownload, 'write', 3"),
        ("local", "storage.os, 'fsync', 1"),
        ("local", "storage.Path, 'replace', 1"),
        ("s3", "downloader.PartialDownload, 'write', 3"),
        ("s3", "S3FileSystem, 'call_s3', 1, 'create_multipart_upload'"),
        ("s3", "S3FileSystem, 'call_s3', 2, 'upload_part'"),
        ("s3", "S3FileSystem, 'call_s3', 1, 'complete_multipart_upload'"),
    ],
    indirect=["store"],
)
def test_killed_worker_leaves_old_object_and_retry_saves(saves, worker, moment):
    """Each parameter kills the worker process at one step of the save."""
    saves.new_video(size=20 * 2**20)
    saves.store.write(saves.name, OLD)
    killed = worker(f"die_at({moment})")

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saves.store.content(saves.name) == OLD
    saves.run()
    assert saves.store.content(saves.name) == saves.video


# --- the store ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["local"], indirect=True)
class TestLocalFile:
    @pytest.fixture(autouse=True)
    def _folder(self, store):
        store.folder.mkdir()

    def test_missing_folder_is_created(self, saves):
        saves.assert_saved(destination=f"{saves.store.uri}")
        uri = saves.run(destination=f"{saves.store.uri}a/b/c.mp4")
        assert Path(uri.removeprefix("file://")).read_bytes() == saves.video

    def test_file_has_the_default_mode(self, saves):
        saves.run()
        saves.store.write("usual", b"")
        modes = {(saves.store.folder / name).stat().st_mode for name in (saves.name, "usual")}
        assert len(modes) == 1

    def test_symbolic_link_is_replaced_not_followed(self, saves, tmp_path):
        victim = tmp_path / "victim"
        victim.write_bytes(OLD)
        saves.store.write("another.mp4", b"")
        (saves.store.folder / saves.name).symlink_to(victim)
        saves.assert_saved()

        assert victim.read_bytes() == OLD
        assert not (saves.store.folder / saves.name).is_symlink()

    @pytest.mark.parametrize(
        "hostile", ["../../victim", "/etc/victim", "..", "a/../../victim", "%2e%2e%2fvictim"]
    )
    def test_file_named_after_id_stays_in_its_folder(self, saves, tmp_path, hostile):
        saves.task_id = saves.emulator.add_task("completed", id=f"{hostile}/x", size=SIZE)
        saves.run()

        assert [path.name for path in saves.store.folder.iterdir()] == [
            f"{quote(saves.task_id, safe='')}.mp4"
        ]
        assert list(tmp_path.rglob("*victim*")) == list(saves.store.folder.glob("*victim*"))

    def test_folder_as_destination_is_refused_before_download(self, saves):
        with pytest.raises(ManxueStorageError, match="end the destination with a slash"):
            saves.run(destination=saves.store.uri.removesuffix("/"))
        assert saves.downloads == []

    def test_unwritable_folder_is_refused_before_download(self, saves, monkeypatch):
        def refuse(path, mode):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(storage_module, "FileIO", refuse)
        with pytest.raises(ManxueStorageError, match="permission denied"):
            saves.run()
        assert saves.downloads == []


@pytest.mark.parametrize("store", ["s3"], indirect=True)
class TestS3:
    def fail_call(self, monkeypatch, method, error, after=0):
        call = S3FileSystem.call_s3
        seen = []

        def call_or_fail(self, name, *args, **kwargs):
            if name == method:
                seen.append(name)
                if len(seen) > after:
                    raise error
            return call(self, name, *args, **kwargs)

        monkeypatch.setattr(S3FileSystem, "call_s3", call_or_fail)

    @pytest.mark.parametrize(
        "method", ["create_multipart_upload", "upload_part", "complete_multipart_upload"]
    )
    def test_refused_upload_leaves_nothing(self, saves, monkeypatch, method):
        saves.new_video(size=20 * 2**20)
        self.fail_call(monkeypatch, method, PermissionError("Access Denied"), after=method == "upload_part")
        saves.assert_fails(ManxueStorageError, "Access Denied")

    def test_refused_upload_of_small_video_leaves_nothing(self, saves, monkeypatch):
        self.fail_call(monkeypatch, "complete_multipart_upload", PermissionError("Access Denied"))
        saves.assert_fails(ManxueStorageError, "Access Denied")

    def test_interrupted_upload_leaves_nothing(self, saves, monkeypatch):
        saves.new_video(size=20 * 2**20)
        self.fail_call(monkeypatch, "upload_part", KeyboardInterrupt(), after=1)
        with pytest.raises(KeyboardInterrupt):
            saves.run()
        assert saves.store.leftovers() == []

    def test_timeout_bounds_the_upload(self, saves, monkeypatch, passing_time):
        saves.new_video(size=20 * 2**20)
        call = S3FileSystem.call_s3

        def call_slowly(self, name, *args, **kwargs):
            passing_time.slept += 2000
            return call(self, name, *args, **kwargs)

        monkeypatch.setattr(S3FileSystem, "call_s3", call_slowly)
        saves.assert_fails(ManxueDownloadError, "all was received, and is being stored")

    def test_error_names_the_missing_bucket(self, saves):
        with pytest.raises(ManxueStorageError, match="bucket does not exist"):
            saves.run(destination="s3://no-such-bucket/")

    def test_temporary_file_is_readable_by_owner_only(self, saves, monkeypatch):
        modes = []
        put = storage_module.ObjectStore.put

        def watched(store, path, *arguments, **options):
            modes.append(stat.S_IMODE(path.stat().st_mode))
            put(store, path, *arguments, **options)

        monkeypatch.setattr(storage_module.ObjectStore, "put", watched)
        saves.assert_saved()

        assert modes == [0o600]

    def test_html_content_type_is_stored_as_mp4(self, saves):
        """A bucket that is served as a website would show the page."""
        saves.emulator.respond_with(Response(headers={"Content-Type": "text/html"}), on="media")
        saves.run()

        head = saves.store.client.head_object(Bucket=BUCKET, Key=f"{saves.store.prefix}/{saves.name}")
        assert head["ContentType"] == saves.ti.xcom["content_type"] == "video/mp4"

    def test_media_type_is_stored(self, saves):
        saves.run()
        head = saves.store.client.head_object(Bucket=BUCKET, Key=f"{saves.store.prefix}/{saves.name}")
        assert head["ContentType"] == "video/mp4"

    def test_connection_in_the_uri_is_used(self, saves):
        uri = saves.run(destination=f"s3://s3_store@{BUCKET}/{saves.store.prefix}/", storage_conn_id=None)
        assert uri == f"s3://s3_store@{BUCKET}/{saves.store.prefix}/{saves.name}"
        assert saves.store.content(saves.name) == saves.video
