"""
Saves to seven kinds of stores with twelve faults: each success has the whole video under its name.

Local files and ``memory`` are real. The other stores are doubles of fsspec file systems that commit, move and list like
the libraries of those stores. ``test_save_faults.py`` tests S3 with the real library, ``tests/stores`` the others.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from airflow_provider_manxue._client import storage
from airflow_provider_manxue.exceptions import ManxueError, ManxueExistsError, ManxueStorageError
from airflow_provider_manxue.testing import Emulator
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from tests.support.fake_airflow import FakeTaskInstance

SIZE = 60_000
OLD = b"an older video"
NAME = "films/shot.mp4"


class FakeFileSystem:
    """Objects in a dict, with the faults of a store."""

    def __init__(self):
        self.files, self.metadata_of, self.fault = {}, {}, None
        self.s3 = SimpleNamespace(meta=SimpleNamespace(endpoint_url="http://127.0.0.1"))

    def commit(self, path, body, *, create, marks):
        if self.fault == "another task is faster":
            self.files[path], self.fault = OLD, None
        if create and path in self.files:
            raise FileExistsError(path)
        if self.fault == "lies":
            return
        if self.fault == "fails":
            raise OSError(errno.EIO, "no")
        self.files[path], self.metadata_of[path] = (
            body[:100] if self.fault == "stores a part" else body,
            marks,
        )
        if self.fault == "response is lost":
            # The library retries the request, and finds its own object.
            raise FileExistsError(path) if create else ConnectionError("lost")
        if self.fault == "replaced afterwards":
            self.files[path] = OLD
        if self.fault == "removed afterwards":
            del self.files[path]

    def invalidate_cache(self):
        pass

    def info(self, path):
        if self.fault == "forbids a look":
            raise PermissionError(13, "no")
        if path in self.files:
            settings = {
                "content_md5": bytearray(hashlib.md5(self.files[path], usedforsecurity=False).digest())
            }
            return {
                "type": "file",
                "size": len(self.files[path]),
                "metadata": self.metadata_of.get(path) or None,
                "content_settings": settings,
            }
        if any(one.startswith(f"{path}/") for one in self.files):
            return {"type": "directory", "size": 0}
        raise FileNotFoundError(path)

    def metadata(self, path):
        return self.metadata_of.get(path, {})


class FakeS3(FakeFileSystem):
    def put_file(self, local, remote, callback, mode="overwrite"):
        """Not called. As in the library, the signature shows which options a multipart upload has."""
        raise NotImplementedError

    def open(self, path, mode, *, block_size, autocommit, **options):
        fs, buffer = self, io.BytesIO()

        class Upload:
            write = buffer.write

            def close(self):
                pass

            def discard(self):
                pass

            def commit(self):
                fs.commit(path, buffer.getvalue(), create="x" in mode, marks=options["Metadata"])

        return Upload()


class FakePutStore(FakeFileSystem):
    def put_file(self, local, remote, callback, mode="overwrite", **options):
        self.commit(
            remote,
            Path(local).read_bytes(),
            create=mode == "create",
            marks=dict(options.get("metadata") or {}),
        )
        callback.relative_update(1)


class FakeAzure(FakePutStore):
    """As in adlfs, the signature names ``overwrite`` only."""

    def put_file(self, local, remote, callback, overwrite=True, **options):
        super().put_file(local, remote, callback, "overwrite" if overwrite else "create", **options)


class FakeMovingStore(FakeFileSystem):
    """A store that moves. SFTP replaces the target, WebHDFS silently refuses an existing one."""

    refuses_to_replace = False

    def put_file(self, local, remote, callback):
        self.files[remote] = Path(local).read_bytes()

    def makedirs(self, path, exist_ok):
        pass

    def mv(self, source, target):
        if self.refuses_to_replace and target in self.files:
            return
        kept = None if self.fault == "lies" else self.files.pop(source)
        try:
            self.commit(target, kept, create=False, marks={})
        except OSError:
            self.files[source] = kept
            raise

    def rm_file(self, path):
        del self.files[path]


class FakeWebHdfs(FakeMovingStore):
    refuses_to_replace = True


STORES = {
    "s3": FakeS3, "gs": FakePutStore, "abfs": FakeAzure, "sftp": FakeMovingStore, "webhdfs": FakeWebHdfs,
}  # fmt: skip
FAULTS = (
    "lies", "fails", "stores a part", "response is lost", "replaced afterwards", "removed afterwards", "forbids a look",
    "another task is faster", "older file", "empty file", "folder", None,
)  # fmt: skip


class FaultyStore:
    """A store with one fault, and its content afterwards."""

    def __init__(self, scheme, tmp_path, monkeypatch):
        self.scheme, self.monkeypatch = scheme, monkeypatch
        if scheme == "file":
            self.root, self.uri = tmp_path, f"file://{tmp_path}/{NAME}"
            return
        self.fs = fsspec.filesystem("memory") if scheme == "memory" else STORES[scheme]()
        self.uri, self.key = f"{scheme}://{NAME}", f"/{NAME}" if scheme == "memory" else NAME
        if scheme == "memory":
            self.fs.store.clear()
            self.fs.pseudo_dirs[:] = [""]
        monkeypatch.setattr(
            storage,
            "ObjectStoragePath",
            lambda uri, **options: SimpleNamespace(
                fs=self.fs, protocol=scheme, path=self.key + uri.partition(NAME)[2]
            ),
        )

    def write(self, body, under=""):
        if self.scheme == "file":
            path = self.root / (NAME + under)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        elif self.scheme == "memory":
            self.fs.pipe_file(self.key + under, body)
        else:
            self.fs.files[self.key + under] = body

    def content(self):
        if self.scheme == "file":
            path = self.root / NAME
            return path.read_bytes() if path.is_file() else None
        if self.scheme == "memory":
            return self.fs.cat_file(self.key) if self.fs.isfile(self.key) else None
        return self.fs.files.get(self.key)

    def leftovers(self):
        if self.scheme == "file":
            return list(self.root.rglob(".manxue*"))
        names = self.fs.store if self.scheme == "memory" else self.fs.files
        return [name for name in names if ".manxue" in name]

    def break_with(self, fault):
        if fault in ("older file", "empty file"):
            self.write(OLD if fault == "older file" else b"")
        elif fault == "folder":
            self.write(b"x", under="/readme.txt")
        elif self.scheme == "file":
            self._break_local(fault)
        elif self.scheme == "memory":
            self._break_memory(fault)
        else:
            self.fs.fault = fault

    def _after(self, owner, name, fault, write):
        """Replace one step of a real store by one with a fault."""
        real = getattr(owner, name)

        def step(*arguments, **options):
            self.monkeypatch.setattr(owner, name, real)
            if fault == "fails":
                raise OSError(errno.EIO, "no")
            if fault == "another task is faster":
                write(OLD)
            if fault == "lies":
                return None
            result = real(*arguments, **options)
            if fault in ("stores a part", "replaced afterwards"):
                write(OLD)
            return result

        self.monkeypatch.setattr(owner, name, step)

    def _break_local(self, fault):
        if fault is not None:
            for owner, name in ((Path, "replace"), (os, "link")):
                self._after(owner, name, fault, self.write)

    def _break_memory(self, fault):
        if fault is not None:
            self._after(type(self.fs), "cp_file", fault, self.write)


@pytest.fixture
def emulator(monkeypatch):
    with Emulator() as running:
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", running.airflow_connection_json())
        yield running


@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "fail"])
@pytest.mark.parametrize(
    ("scheme", "fault"),
    list(itertools.product(["file", "s3", "gs", "abfs", "sftp", "webhdfs", "memory"], FAULTS)),
)
def test_save_succeeds_only_with_the_whole_video(emulator, tmp_path, monkeypatch, scheme, fault, if_exists):
    store = FaultyStore(scheme, tmp_path / "store", monkeypatch)
    store.break_with(fault)
    task_id = emulator.add_task("completed", size=SIZE)
    video = emulator.task(task_id).video.read(0, SIZE)
    ti = FakeTaskInstance()
    save = ManxueToObjectStorageOperator(
        task_id="save", video_task_id=task_id, destination=store.uri, if_exists=if_exists
    )
    succeeded = False
    with contextlib.suppress(ManxueError):
        save.execute({"ti": ti})
        succeeded = True
    outputs = save.get_openlineage_facets_on_complete(None).outputs
    if not succeeded:
        assert (ti.xcom, outputs) == ({}, [])
        assert fault is not None
        assert (fault, if_exists) != ("forbids a look", "overwrite")
        return
    there = store.content()
    assert store.leftovers() == []
    assert ti.xcom["size"] == len(there)
    if ti.xcom["sha256"] is None:
        assert if_exists == "skip"
        assert (there, outputs) == (OLD, [])
    else:
        assert there == video
        assert ti.xcom["sha256"] == hashlib.sha256(there).hexdigest()


class TestOwnObject:
    @pytest.mark.parametrize("scheme", ["s3", "gs", "abfs"])
    def test_own_object_is_recognized_after_a_lost_response(self, emulator, tmp_path, monkeypatch, scheme):
        """The store's library retries, and the conditional write then fails because of the first attempt."""
        store = FaultyStore(scheme, tmp_path, monkeypatch)
        store.break_with("response is lost")
        task_id = emulator.add_task("completed", size=SIZE)
        ManxueToObjectStorageOperator(
            task_id="save", video_task_id=task_id, destination=store.uri, if_exists="fail", do_xcom_push=False
        ).execute({})

        assert len(store.content()) == SIZE

    @pytest.mark.parametrize("scheme", ["file", "s3", "gs", "abfs"])
    def test_object_of_another_task_is_never_replaced(self, emulator, tmp_path, monkeypatch, scheme):
        """The other task stores its object between the first check of this task and its write."""
        store = FaultyStore(scheme, tmp_path, monkeypatch)
        store.break_with("another task is faster")
        task_id = emulator.add_task("completed", size=SIZE)
        with pytest.raises(ManxueExistsError):
            ManxueToObjectStorageOperator(
                task_id="save", video_task_id=task_id, destination=store.uri, if_exists="fail"
            ).execute({})

        assert store.content() == OLD


def without_hard_links(*_):
    """Raise the error of link(2) on a file system without hard links, such as exFAT or some FUSE mounts."""
    raise OSError(errno.EPERM, "no links")


class TestLocalStore:
    def save(self, emulator, path, if_exists):
        task_id = emulator.add_task("completed", size=SIZE)
        return ManxueToObjectStorageOperator(
            task_id="save",
            video_task_id=task_id,
            destination=f"file://{path}",
            if_exists=if_exists,
            do_xcom_push=False,
        ).execute({})

    def test_name_is_reserved_without_hard_links(self, emulator, tmp_path, monkeypatch):
        """
        An existing video is never replaced with ``if_exists="fail"``.

        A hard link fails if the name exists, and a rename replaces it. Without links, an empty file reserves the name:
        docs/saving-design.md, "The final step".
        """
        monkeypatch.setattr(os, "link", without_hard_links)
        self.save(emulator, tmp_path / "a.mp4", "fail")
        assert (tmp_path / "a.mp4").stat().st_size == SIZE

        with pytest.raises(ManxueExistsError):
            self.save(emulator, tmp_path / "a.mp4", "fail")

    def test_reserved_name_is_removed_after_a_failure(self, emulator, tmp_path, monkeypatch):
        """Otherwise a retry would find the empty file, and skip the save."""
        monkeypatch.setattr(os, "link", without_hard_links)
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        with pytest.raises(ManxueStorageError):
            self.save(emulator, tmp_path / "a.mp4", "skip")
        assert list(tmp_path.iterdir()) == []

    def test_failed_fsync_of_the_folder_is_a_warning(self, emulator, tmp_path, monkeypatch, caplog):
        """Some network file systems refuse the fsync of a folder with EINVAL. The video itself has been flushed."""
        real = os.fsync

        def fsync(handle):
            if Path(f"/proc/self/fd/{handle}").resolve().is_dir():
                raise OSError(errno.EINVAL, "Invalid argument")
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        self.save(emulator, tmp_path / "a.mp4", "overwrite")
        assert (tmp_path / "a.mp4").stat().st_size == SIZE
        assert "could not be flushed" in caplog.text

    def test_temporary_file_is_not_named_like_a_video(self, emulator, tmp_path, monkeypatch):
        """A task that reads ``*.mp4`` from the folder must not find a part of a video."""
        seen = []
        put = storage.LocalStore.put
        monkeypatch.setattr(
            storage.LocalStore,
            "put",
            lambda self, path, *a, **k: (seen.append(path), put(self, path, *a, **k)),
        )
        self.save(emulator, tmp_path / "a.mp4", "overwrite")
        assert not any(path.match("*.mp4") for path in seen)


@pytest.mark.parametrize("name", ["[2024]", "a*", "{b}", "~"])
def test_glob_characters_in_a_name_are_literal(emulator, tmp_path, monkeypatch, name):
    """Several methods of fsspec expand a path as a pattern, and would write to another object."""
    store = FaultyStore("memory", tmp_path, monkeypatch)
    store.key = f"/films/{name}/shot.mp4"
    task_id = emulator.add_task("completed", size=SIZE)
    ManxueToObjectStorageOperator(
        task_id="save", video_task_id=task_id, destination=store.uri, do_xcom_push=False
    ).execute({})

    assert list(store.fs.store) == [store.key]
