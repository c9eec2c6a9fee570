"""
Everything that can go wrong on the way, each on local files and on S3: the right end or a clear error, nothing half
done under the final name, and no old object lost.
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

SIZE = 200_000
OLD = b"an older video"
BUCKET = "videos"


class PassingTime:
    """Stands in for the ``time`` module: sleeping takes none."""

    def __init__(self):
        self.slept = 0.0

    def monotonic(self):
        return time.monotonic() + self.slept

    def time(self):
        return time.time()

    def sleep(self, seconds):
        self.slept += seconds


class FakeTaskInstance:
    def __init__(self):
        self.xcom = {}

    def xcom_push(self, key, value):
        self.xcom[key] = value


# --- places ---------------------------------------------------------------------------------------------


class LocalPlace:
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


class S3Place:
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
    with S3Server() as server:
        yield server.url


@pytest.fixture(scope="session")
def s3(s3_url):
    client = boto3.client(
        "s3", endpoint_url=s3_url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch, tmp_path):
    """Keep an eye on the temporary folder: nothing may stay there."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path, monkeypatch):
    if request.param == "local":
        return LocalPlace(tmp_path / "videos")
    url = request.getfixturevalue("s3_url")
    connection = {
        "conn_type": "aws",
        "login": "a",
        "password": "b",
        "extra": {"endpoint_url": url, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_S3_STORE", json.dumps(connection))
    return S3Place(request.getfixturevalue("s3"), tmp_path.name)


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
    """Saves one video, in whatever state the world is."""

    def __init__(self, emulator, place):
        self.emulator, self.place = emulator, place
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
            "destination": self.place.uri,
            "storage_conn_id": self.place.conn_id,
        }
        operator = ManxueToObjectStorageOperator(task_id="save", **defaults | arguments)
        return operator.execute({"ti": self.ti})

    def assert_saved(self, **arguments):
        uri = self.run(**arguments)
        video = self.video

        assert uri == self.place.uri + self.name
        assert self.place.content(self.name) == video
        assert self.ti.xcom == {
            "size": len(video),
            "content_type": "video/mp4",
            "sha256": hashlib.sha256(video).hexdigest(),
            "video_task_id": self.task_id,
        }
        assert self.place.leftovers() == []

    def assert_fails(self, error, match="", **arguments):
        """Fail, once with nothing in the place of the video, and once with an older one."""
        self.place.write("another.mp4", b"")
        for before in (None, OLD):
            if before is not None:
                self.place.write(self.name, before)
            with pytest.raises(error, match=match) as caught:
                self.run(**arguments)
            assert isinstance(caught.value, ManxueError)
            assert "signature" not in str(caught.value)
            assert self.place.content(self.name) == before
            assert self.place.leftovers() == []
        assert self.ti.xcom == {}

    @property
    def downloads(self):
        return [one for one in self.emulator.requests if one.place == "media"]


@pytest.fixture
def saves(emulator, place):
    return Saves(emulator, place)


# --- the way of the bytes -------------------------------------------------------------------------------


def test_a_video_is_saved(saves):
    saves.assert_saved()
    (request,) = saves.downloads
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Range" not in request.headers


def test_a_video_of_many_parts_is_saved(saves):
    saves.new_video(size=20 * 2**20)
    saves.assert_saved()


def test_an_older_video_is_replaced(saves):
    saves.place.write(saves.name, OLD)
    saves.assert_saved()


@pytest.mark.usefixtures("passing_time")
@pytest.mark.parametrize("reset", [None, "after"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
class TestCut:
    def test_once_goes_on_where_it_stopped(self, saves, share, reset):
        saves.emulator.fail_next(1, Response(truncate=int(SIZE * share), reset=reset), on="media")
        saves.assert_saved()

        first, second = saves.downloads
        start = int(second.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        assert 0 < start <= SIZE * share
        assert second.headers["If-Range"].startswith('"')
        assert (first.status, second.status) == (200, 206)

    def test_always_makes_progress_as_long_as_there_is_any(self, saves, share, reset):
        saves.emulator.fail_next(20, Response(truncate=int(SIZE * share), reset=reset), on="media")
        with contextlib.suppress(ManxueDownloadError):
            saves.assert_saved()
            return
        assert saves.place.content(saves.name) is None

    def test_always_without_ranges_fails(self, saves, share, reset):
        answer = Response(truncate=int(SIZE * share), reset=reset, ignore_range=True)
        saves.emulator.respond_with(answer, on="media")
        saves.assert_fails(ManxueDownloadError, "no progress in 10 attempts")


@pytest.mark.usefixtures("passing_time")
class TestOnce:
    """Each fault happens once; the video is saved all the same."""

    @pytest.mark.parametrize(
        "fault",
        [
            "media_cut", "media_reset", "media_chunked_cut", "media_chunked", "media_ignores_range",
            "media_length_too_long", "media_length_too_short", "media_html", "media_empty", "media_gzip",
            "media_replaced", "media_redirect", "media_403", "media_404", "media_503",
        ],
    )  # fmt: skip
    def test_is_mended(self, saves, fault):
        saves.emulator.fail_next(1, fault)
        saves.assert_saved()

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_a_chunked_body_that_ends_early_is_continued(self, saves, share):
        saves.emulator.fail_next(1, Response(truncate=int(SIZE * share), chunked=True), on="media")
        saves.assert_saved()
        assert saves.downloads[-1].status == 206

    def test_a_chunked_body_that_seems_to_end_is_continued(self, saves):
        saves.emulator.fail_next(1, Response(body=saves.video[: SIZE // 2], chunked=True), on="media")
        saves.assert_saved()

    def test_only_the_end_of_a_chunked_body_is_lost(self, saves):
        saves.emulator.fail_next(1, Response(truncate=SIZE - 1, chunked=True), on="media")
        saves.assert_saved()

    def test_an_object_that_is_replaced_in_the_middle_is_fetched_anew(self, saves):
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2, then_replace=True), on="media")
        saves.assert_saved()
        assert [one.status for one in saves.downloads] == [200, 200]

    def test_a_range_that_is_ignored_starts_anew(self, saves):
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2), on="media")
        saves.emulator.fail_next(1, "media_ignores_range")
        saves.assert_saved()

    def test_a_replaced_object_behind_a_deaf_host_is_fetched_anew(self, saves):
        """It answers 206 for the new version in spite of If-Range; the ETag gives it away."""
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2), on="media")
        part = saves.video[SIZE // 2 :]
        lie = {"Content-Range": f"bytes {SIZE // 2}-{SIZE - 1}/{SIZE}", "ETag": '"other"'}
        saves.emulator.fail_next(1, Response(status=206, body=part, headers=lie), on="media")
        saves.assert_saved()
        assert "Range" not in saves.downloads[-1].headers

    def test_without_a_validator_nothing_is_continued(self, saves):
        nothing = {"ETag": "", "Last-Modified": ""}
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2, headers=nothing), on="media")
        saves.assert_saved()
        assert "Range" not in saves.downloads[-1].headers

    def test_an_error_page_costs_no_progress(self, saves):
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2), on="media")
        saves.emulator.fail_next(1, "media_html")
        saves.assert_saved()
        assert saves.downloads[-1].headers["Range"] == f"bytes={SIZE // 2}-"

    def test_a_url_that_expires_is_asked_for_again(self, saves):
        saves.emulator.fail_next(1, Response(truncate=SIZE // 2), on="media")
        saves.emulator.fail_next(1, Response(status=403), on="media")
        saves.assert_saved()
        assert len(saves.emulator.polls(saves.task_id)) == 2
        assert saves.downloads[-1].status == 206


@pytest.mark.usefixtures("passing_time")
class TestAlways:
    """A fault that stays is a clear error."""

    @pytest.mark.parametrize(
        ("fault", "match"),
        [
            ("media_length_too_long", f"ended after {SIZE} of {SIZE + 10} bytes|nothing from byte"),
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
    def test_is_named(self, saves, fault, match, monkeypatch):
        connection = json.loads(saves.emulator.airflow_connection_json())
        connection["extra"]["request_timeout"] = 0.1
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", json.dumps(connection))
        answer = Response(hang=True) if fault == "hang" else fault
        saves.emulator.respond_with(answer, on="media")
        saves.assert_fails(ManxueDownloadError, match)

    def test_a_chunked_body_that_ends_early(self, saves):
        saves.emulator.respond_with(Response(truncate=SIZE // 2, chunked=True, ignore_range=True), on="media")
        saves.assert_fails(ManxueDownloadError, "before its last chunk")

    def test_a_chunked_body_that_seems_to_end(self, saves):
        saves.emulator.respond_with(Response(body=saves.video[: SIZE // 2], chunked=True), on="media")
        saves.assert_fails(ManxueDownloadError, "longer than the body")

    def test_an_error_page_in_json(self, saves):
        saves.emulator.respond_with(Response(json={"code": 403}), on="media")
        saves.assert_fails(ManxueDownloadError, r"no video \(application/json\)")

    @pytest.mark.parametrize("chunked", [True, False])
    def test_a_video_that_is_too_long(self, saves, chunked):
        saves.emulator.respond_with(Response(chunked=chunked), on="media")
        saves.assert_fails(ManxueDownloadError, "longer than max_bytes=1000", max_bytes=1000)

    def test_a_body_that_never_ends(self, saves):
        saves.emulator.respond_with("media_endless")
        saves.assert_fails(ManxueDownloadError, "longer than max_bytes", max_bytes=5 * 2**20)


class TestTime:
    def test_a_slow_link_is_borne(self, saves):
        saves.emulator.respond_with(Response(bytes_per_second=SIZE * 2), on="media")
        saves.assert_saved(timeout=30)

    @pytest.mark.parametrize(
        "answer", [Response(bytes_per_second=1000), Response(hang=True), Response(endless=True)]
    )
    def test_the_deadline_bounds_all(self, saves, answer):
        saves.emulator.respond_with(answer, on="media")
        began = time.monotonic()
        saves.assert_fails(ManxueDownloadError, "not saved within timeout=0.5 s", timeout=0.5, max_bytes=None)
        assert time.monotonic() - began < 5

    def test_the_deadline_bounds_an_outage_of_the_service(self, saves, passing_time):
        saves.emulator.respond_with("503", on="query")
        saves.assert_fails(ManxueDownloadError, "within timeout=3600 s: HTTP 503")

    def test_a_short_outage_of_the_service_is_waited_out(self, saves, passing_time):
        saves.emulator.fail_next(30, "503", on="query")
        saves.assert_saved()


# --- the service ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("passing_time")
class TestService:
    @pytest.mark.parametrize("status", ["queued", "processing"])
    def test_a_video_that_is_not_completed_is_named_with_its_status(self, saves, status):
        saves.emulator.set_status(saves.task_id, status)
        saves.assert_fails(ManxueNotCompletedError, f"its status is '{status}'")

    def test_an_expired_url_is_not_used(self, saves):
        stale = saves.emulator.video_url(saves.task_id)
        saves.emulator.clock.advance(86400 + 1)
        saves.assert_saved(video_task_id={"id": saves.task_id, "status": "completed", "video_url": stale})
        assert len(saves.downloads) == 1

    @pytest.mark.parametrize("answer", ["http_404", "http_200_business_error"])
    def test_the_known_url_is_the_fallback_when_the_record_is_gone(self, saves, answer):
        url = saves.emulator.video_url(saves.task_id)
        saves.emulator.respond_with(answer, on="query")
        saves.assert_saved(video_task_id={"id": saves.task_id, "video_url": url})

    def test_a_dead_fallback_is_not_tried_twice(self, saves):
        url = saves.emulator.video_url(saves.task_id)
        saves.emulator.clock.advance(86400 + 1)
        saves.emulator.respond_with("http_404", on="query")
        with pytest.raises(ManxueRefusedError, match="404"):
            saves.run(video_task_id={"id": saves.task_id, "video_url": url})
        assert len(saves.downloads) == 1

    def test_without_a_fallback_an_unknown_id_is_an_error(self, saves):
        saves.emulator.respond_with("http_404", on="query")
        saves.assert_fails(ManxueRefusedError, "404")


# --- what is there already ------------------------------------------------------------------------------


class TestExisting:
    def test_may_be_kept(self, saves):
        saves.place.write(saves.name, OLD)
        uri = saves.run(if_exists="skip")

        assert uri == saves.place.uri + saves.name
        assert saves.place.content(saves.name) == OLD
        assert saves.ti.xcom == {
            "size": len(OLD),
            "content_type": None,
            "sha256": None,
            "video_task_id": saves.task_id,
        }
        assert saves.emulator.requests == []

    def test_may_be_an_error(self, saves):
        saves.place.write(saves.name, OLD)
        with pytest.raises(ManxueExistsError, match="is there already"):
            saves.run(if_exists="fail")
        assert saves.place.content(saves.name) == OLD
        assert saves.emulator.requests == []

    @pytest.mark.parametrize("if_exists", ["skip", "fail"])
    def test_may_not_exist(self, saves, if_exists):
        saves.assert_saved(if_exists=if_exists)

    def test_may_come_in_the_meantime(self, saves, monkeypatch):
        fetch = download_module.Downloader.fetch

        def fetch_slowly(self, file):
            saves.place.write(saves.name, OLD)
            return fetch(self, file)

        monkeypatch.setattr(download_module.Downloader, "fetch", fetch_slowly)
        with pytest.raises(ManxueExistsError):
            saves.run(if_exists="fail")
        assert saves.place.content(saves.name) == OLD
        assert saves.place.leftovers() == []


# --- a worker of its own --------------------------------------------------------------------------------


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
    """Save in another process, in which something happens to the worker or to its disk."""
    temporary = tmp_path / "worker-tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def run(incident):
        arguments = {
            "video_task_id": saves.task_id,
            "destination": saves.place.uri,
            "storage_conn_id": saves.place.conn_id,
        }
        return subprocess.run(
            [sys.executable, "-c", WORKER, json.dumps(arguments), incident], capture_output=True, text=True
        )

    run.temporary = temporary
    return run


def test_on_a_full_disk(saves, worker):
    """A limit on the length of files stands in for it: writing fails in the same way."""
    saves.place.write(saves.name, OLD)
    run = worker("resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))")

    assert run.returncode == 1
    assert "could not be written" in run.stderr
    assert "There must be room for the whole video" in run.stderr
    assert saves.place.content(saves.name) == OLD
    assert saves.place.leftovers() == []
    assert list(worker.temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "moment"),
    [
        ("local", "downloader.PartialDownload, 'write', 3"),
        ("local", "storage.os, 'fsync', 1"),
        ("local", "storage.Path, 'replace', 1"),
        ("s3", "downloader.PartialDownload, 'write', 3"),
        ("s3", "S3FileSystem, 'call_s3', 1, 'create_multipart_upload'"),
        ("s3", "S3FileSystem, 'call_s3', 2, 'upload_part'"),
        ("s3", "S3FileSystem, 'call_s3', 1, 'complete_multipart_upload'"),
    ],
    indirect=["place"],
)
def test_a_worker_that_is_killed_leaves_nothing_half_done_and_its_retry_saves(saves, worker, moment):
    saves.new_video(size=20 * 2**20)
    saves.place.write(saves.name, OLD)
    killed = worker(f"die_at({moment})")

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saves.place.content(saves.name) == OLD
    saves.run()
    assert saves.place.content(saves.name) == saves.video


# --- the store ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["local"], indirect=True)
class TestLocalFile:
    @pytest.fixture(autouse=True)
    def _folder(self, place):
        place.folder.mkdir()

    def test_of_a_folder_that_is_missing(self, saves):
        saves.assert_saved(destination=f"{saves.place.uri}")
        uri = saves.run(destination=f"{saves.place.uri}a/b/c.mp4")
        assert Path(uri.removeprefix("file://")).read_bytes() == saves.video

    def test_has_the_usual_mode(self, saves):
        saves.run()
        saves.place.write("usual", b"")
        modes = {(saves.place.folder / name).stat().st_mode for name in (saves.name, "usual")}
        assert len(modes) == 1

    def test_takes_the_place_of_a_symbolic_link_and_leaves_alone_what_it_leads_to(self, saves, tmp_path):
        victim = tmp_path / "victim"
        victim.write_bytes(OLD)
        saves.place.write("another.mp4", b"")
        (saves.place.folder / saves.name).symlink_to(victim)
        saves.assert_saved()

        assert victim.read_bytes() == OLD
        assert not (saves.place.folder / saves.name).is_symlink()

    @pytest.mark.parametrize(
        "hostile", ["../../victim", "/etc/victim", "..", "a/../../victim", "%2e%2e%2fvictim"]
    )
    def test_named_after_an_id_stays_in_its_folder(self, saves, tmp_path, hostile):
        saves.task_id = saves.emulator.add_task("completed", id=f"{hostile}/x", size=SIZE)
        saves.run()

        assert [path.name for path in saves.place.folder.iterdir()] == [
            f"{quote(saves.task_id, safe='')}.mp4"
        ]
        assert list(tmp_path.rglob("*victim*")) == list(saves.place.folder.glob("*victim*"))

    def test_in_the_place_of_a_folder_is_refused_before_anything_is_fetched(self, saves):
        with pytest.raises(ManxueStorageError, match="end the destination with a slash"):
            saves.run(destination=saves.place.uri.removesuffix("/"))
        assert saves.downloads == []

    def test_where_nothing_may_be_written(self, saves, monkeypatch):
        def refuse(path, mode):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(storage_module, "FileIO", refuse)
        with pytest.raises(ManxueStorageError, match="permission denied"):
            saves.run()
        assert saves.downloads == []


@pytest.mark.parametrize("place", ["s3"], indirect=True)
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
    def test_that_refuses_leaves_nothing_behind(self, saves, monkeypatch, method):
        saves.new_video(size=20 * 2**20)
        self.fail_call(monkeypatch, method, PermissionError("Access Denied"), after=method == "upload_part")
        saves.assert_fails(ManxueStorageError, "Access Denied")

    def test_small_videos_are_no_exception(self, saves, monkeypatch):
        self.fail_call(monkeypatch, "complete_multipart_upload", PermissionError("Access Denied"))
        saves.assert_fails(ManxueStorageError, "Access Denied")

    def test_a_task_that_is_ended_leaves_nothing_behind(self, saves, monkeypatch):
        saves.new_video(size=20 * 2**20)
        self.fail_call(monkeypatch, "upload_part", KeyboardInterrupt(), after=1)
        with pytest.raises(KeyboardInterrupt):
            saves.run()
        assert saves.place.leftovers() == []

    def test_the_deadline_bounds_the_upload_too(self, saves, monkeypatch, passing_time):
        saves.new_video(size=20 * 2**20)
        call = S3FileSystem.call_s3

        def call_slowly(self, name, *args, **kwargs):
            passing_time.slept += 2000
            return call(self, name, *args, **kwargs)

        monkeypatch.setattr(S3FileSystem, "call_s3", call_slowly)
        saves.assert_fails(ManxueDownloadError, "all is received, and is being stored")

    def test_a_bucket_that_does_not_exist(self, saves):
        with pytest.raises(ManxueStorageError, match="bucket does not exist"):
            saves.run(destination="s3://no-such-bucket/")

    def test_nobody_else_on_the_machine_reads_the_video_while_it_is_on_its_way(self, saves, monkeypatch):
        modes = []
        put = storage_module.ObjectStore.put

        def watched(store, path, *arguments, **options):
            modes.append(stat.S_IMODE(path.stat().st_mode))
            put(store, path, *arguments, **options)

        monkeypatch.setattr(storage_module.ObjectStore, "put", watched)
        saves.assert_saved()

        assert modes == [0o600]

    def test_a_video_that_claims_to_be_a_web_page_is_stored_as_a_video(self, saves):
        saves.emulator.respond_with(Response(headers={"Content-Type": "text/html"}), on="media")
        saves.run()

        head = saves.place.client.head_object(Bucket=BUCKET, Key=f"{saves.place.prefix}/{saves.name}")
        assert head["ContentType"] == saves.ti.xcom["content_type"] == "video/mp4"

    def test_the_media_type_is_stored(self, saves):
        saves.run()
        head = saves.place.client.head_object(Bucket=BUCKET, Key=f"{saves.place.prefix}/{saves.name}")
        assert head["ContentType"] == "video/mp4"

    def test_a_connection_may_stand_in_the_uri(self, saves):
        uri = saves.run(destination=f"s3://s3_store@{BUCKET}/{saves.place.prefix}/", storage_conn_id=None)
        assert uri == f"s3://s3_store@{BUCKET}/{saves.place.prefix}/{saves.name}"
        assert saves.place.content(saves.name) == saves.video
