"""
Stores of videos: a local file, or an object in any store that Airflow's ``ObjectStoragePath`` reaches.

Either way the video is whole in a temporary file before its final name is touched, and that name changes in one step. A
look at the final name then decides whether the video was stored: some stores report a move that they did not make.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import errno
import hashlib
import inspect
import logging
import os
import re
import secrets
import stat
import tempfile
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback

from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_manxue._core.responses import clean_text
from airflow_provider_manxue.exceptions import ManxueError, ManxueStorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

log = logging.getLogger(__name__)

_BLOCK = 8 * 1024 * 1024
"""Bytes of a part of an upload; memory is bounded by a few of them."""

_LOCAL = frozenset({"file", "local"})
_S3 = frozenset({"s3", "s3a", "s3n"})
_GOOGLE = frozenset({"gs", "gcs"})
_AZURE = frozenset({"abfs", "abfss", "adl"})

_CREATE_ONLY = _S3 | _GOOGLE | _AZURE
"""Schemes of object stores, which have no folders, and can be told not to replace an object."""

_AWS_CONSOLES = {
    r"\.us-gov-[^.]+\.amazonaws\.com": "console.amazonaws-us-gov.com",
    r"\.amazonaws\.com": "console.aws.amazon.com",
    r"\.amazonaws\.com\.cn": "console.amazonaws.cn",
}
"""By the end of the name of the host that serves S3."""


_MARK = "manxue-upload"
"""Name in an object's metadata of the random mark of one upload."""


class Found(enum.Enum):
    """What is under the name of a video."""

    NOTHING = enum.auto()
    EMPTY = enum.auto()
    """An empty file, as an interrupted program leaves it. It is no video."""

    FILE = enum.auto()


@dataclass(frozen=True, slots=True)
class Existing:
    """
    What is under the name of a video.

    :param found: its kind. A folder, or a prefix of other names, is nothing.
    :param size: its length in bytes.
    """

    found: Found = Found.NOTHING
    size: int = 0

    @classmethod
    def file(cls, size: int) -> Existing:
        """Return a file of a length."""
        return cls(Found.FILE if size else Found.EMPTY, size)


class Store(Protocol):
    """The final name of one video, and what is stored under it."""

    def temporary_file(self) -> AbstractContextManager[tuple[FileIO, Path]]:
        """Open a new file without a buffer, and remove it at the end, unless it was moved."""

    def stat(self) -> Existing:
        """
        Return what is there now.

        :raises OSError: if it is a folder of a store that has folders.
        """

    def put(self, path: Path, content_type: str, check: Callable[[], None], *, create: bool) -> None:
        """
        Store a whole file under its final name.

        :param path: the temporary file.
        :param content_type: its media type.
        :param check: raises an error when it is time to stop.
        :param create: never replace a file, as far as the store can guarantee that.
        :raises FileExistsError: if there is a file already, and ``create``.
        :raises OSError: if the final name does not hold the file afterwards.
        """

    def web_address(self) -> str | None:
        """Return the address under which a person finds the video in a browser; None if there is none."""


@contextlib.contextmanager
def open_store(destination: str, conn_id: str | None) -> Iterator[Store]:
    """
    Open the store that a destination is in. Errors of the store inside of the block become ours.

    :param destination: URI of the file that the video is saved to.
    :param conn_id: id of the Airflow connection of the store, if it needs one.
    :raises ManxueStorageError: if the store cannot be used.
    """
    try:
        path = ObjectStoragePath(destination, conn_id=conn_id) if conn_id else ObjectStoragePath(destination)
        yield LocalStore(Path(path.path)) if path.protocol in _LOCAL else ObjectStore(path)
    except ManxueError:
        raise
    except Exception as error:  # each store has errors of its own
        raise ManxueStorageError(f"The video cannot be saved as {destination}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    text = clean_text(error) or type(error).__name__
    if isinstance(error, (ImportError, ValueError)) and "ilesystem" in text:
        return (
            f"{text}. Install the provider of that store, for example apache-airflow-providers-amazon[s3fs]."
        )
    if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM}:
        return f"permission denied ({text})"
    return text


@contextlib.contextmanager
def _temporary_file(folder: Path, kind: Callable[[Path, str], FileIO]) -> Iterator[tuple[FileIO, Path]]:
    # Not by the tempfile module: the file may get the final name, so its mode must be the usual one. The suffix keeps it
    # from those who look for videos.
    path = folder / f".manxue-{secrets.token_hex(8)}.part"
    with kind(path, "x+") as file:
        try:
            yield file, path
        finally:
            path.unlink(missing_ok=True)


def _open_for_us_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class LocalStore:
    """
    A file on this machine, or on a file system that is mounted here.

    :param path: its place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder; end the destination with a slash")

    def temporary_file(self) -> AbstractContextManager[tuple[FileIO, Path]]:
        """Open it in the same folder, since a rename is atomic within one file system only."""
        return _temporary_file(self._path.parent, FileIO)

    def stat(self) -> Existing:
        """Return what is there now."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return Existing()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EEXIST, "what is there is no file")
        return Existing.file(status.st_size)

    def put(self, path: Path, content_type: str, check: Callable[[], None], *, create: bool) -> None:
        """Give a whole file its final name, and let both survive a loss of power."""
        _sync(path)
        size = path.stat().st_size
        check()
        if create:
            self._create(path)
        else:
            path.replace(self._path)
        try:
            _sync(self._path.parent)
        except OSError as error:
            # Mounted folders may refuse it. The file itself is on the disk.
            log.warning("The folder %s could not be flushed to the disk: %s.", self._path.parent, error)
        if self._path.lstat().st_size != size or path.exists():
            raise OSError(errno.EIO, f"the file system reports success, but there is no file of {size} bytes")

    def _create(self, path: Path) -> None:
        """Give a file its final name, unless another one has it."""
        try:
            os.link(path, self._path)
        except FileExistsError:
            raise
        except OSError:
            # No links on this file system: the name is reserved by an empty file, which counts as none.
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            try:
                path.replace(self._path)
            except BaseException:
                self._path.unlink(missing_ok=True)
                raise
        else:
            path.unlink()

    def web_address(self) -> None:
        """Return None: a browser on another machine does not reach a file."""


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class ObjectStore:
    """
    An object in a store of any other kind.

    :param path: its place.
    """

    def __init__(self, path: ObjectStoragePath) -> None:
        self._fs: AbstractFileSystem = path.fs
        self._scheme = path.protocol
        self._path = path.path
        self._can_create = self._scheme in _CREATE_ONLY and _can_create(self._fs)

    def temporary_file(self) -> AbstractContextManager[tuple[FileIO, Path]]:
        """Open it in the folder for such files, which others use too. It need not reach the disk."""
        return _temporary_file(Path(tempfile.gettempdir()), partial(FileIO, opener=_open_for_us_alone))

    def stat(self) -> Existing:
        """Return what is there now. Where a file is never replaced in any case, a look that is forbidden shows nothing."""
        try:
            info = self._info(self._path)
        except PermissionError as error:
            if not self._can_create:
                raise
            log.warning("The store does not allow a look at what is there (%s).", clean_text(error))
            return Existing()
        if info is None:
            return Existing()
        if info.get("type") == "directory":
            if self._scheme in _CREATE_ONLY:
                # A prefix of other names, beside which an object of that name can be.
                return Existing()
            raise IsADirectoryError(errno.EISDIR, "it is a folder; end the destination with a slash")
        return Existing.file(int(info.get("size") or 0))

    def _info(self, path: str) -> dict[str, Any] | None:
        self._fs.invalidate_cache()
        try:
            return dict(self._fs.info(path))
        except FileNotFoundError:
            return None

    def web_address(self) -> str | None:
        """
        Return the object's page in the console of AWS or Google Cloud; None for any other store.

        A page of Azure's portal cannot be told from the account and the container.
        """
        if self._scheme in _S3:
            return aws_console_page(self._fs.s3.meta.endpoint_url, self._path)
        return google_console_page(self._path) if self._scheme in _GOOGLE else None

    def put(self, path: Path, content_type: str, check: Callable[[], None], *, create: bool) -> None:
        """Upload a whole file; the object appears, or is replaced, at the very end."""
        create = create and self._can_create  # otherwise the caller's look is all there is
        size, mark, leftover = path.stat().st_size, secrets.token_hex(16), None
        options: dict[str, Any]
        try:
            if self._scheme in _S3:
                options = {"ContentType": content_type, "Metadata": {_MARK: mark}}
                self._put_in_parts(path, check, create=create, **options)
            elif self._scheme in _GOOGLE:
                options = {"content_type": content_type, "chunksize": _BLOCK, "metadata": {_MARK: mark}}
                self._put_file(path, self._path, check, create=create, **options)
            elif self._scheme in _AZURE:
                mark = _md5(path)
                settings = _azure_settings(content_type, mark)
                self._put_file(
                    path, self._path, check, create=create, max_concurrency=1, content_settings=settings
                )
            else:
                leftover = self._put_and_move(path, check)
        except FileExistsError:
            # The library may have sent the final request twice, since the first response was lost.
            if mark not in self._marks():
                raise
        self._check_stored(size, leftover)

    def _marks(self) -> set[str]:
        """Return what may tell an object's upload from others."""
        info = self._info(self._path) or {}
        metadata = self._fs.metadata(self._path) if self._scheme in _S3 else info.get("metadata")
        md5 = (info.get("content_settings") or {}).get("content_md5")
        marks = {str(value) for key, value in (metadata or {}).items() if key.replace("_", "-") == _MARK}
        return marks | ({base64.b64encode(md5).decode()} if isinstance(md5, bytes | bytearray) else set())

    def _check_stored(self, size: int, leftover: str | None) -> None:
        """Look whether the video is where it should be: a response of the store is not enough."""
        try:
            info = self._info(self._path)
            moved = leftover is None or self._info(leftover) is None
        except PermissionError as error:
            log.warning("The store took the video, but does not allow a look at it (%s).", clean_text(error))
            return
        if info is None or info.get("type") == "directory" or int(info.get("size") or 0) != size or not moved:
            there = "nothing" if info is None else f"a {info.get('type', 'file')} of {info.get('size')} bytes"
            raise OSError(
                errno.EIO,
                f"the store reports success, but {there} is there instead of the video's {size} bytes. Remove what is "
                f"there, or use another name",
            )

    def _put_in_parts(self, path: Path, check: Callable[[], None], *, create: bool, **options: Any) -> None:
        """
        Upload part by part, each from this thread, so that a signal that ends the task stops the upload as well.

        Nothing is committed before the last part is there; after an error the parts are removed.
        """
        mode = "xb" if create else "wb"
        target = self._fs.open(self._path, mode, block_size=_BLOCK, autocommit=False, **options)
        try:
            with path.open("rb") as source:
                while block := source.read(_BLOCK):
                    check()
                    target.write(block)
            target.close()
            target.commit()
        except BaseException:
            with contextlib.suppress(Exception):
                target.discard()
            raise

    def _put_file(
        self, path: Path, to: str, check: Callable[[], None], *, create: bool = False, **options: Any
    ) -> None:
        """Leave the upload to the store's library, where that is known to commit at the end."""
        # Its hooks are called after each part.
        watch = Callback(hooks={"check": lambda *_, **__: check()})
        mode = {"mode": "create"} if create else {}
        self._fs.put_file(str(path), to, callback=watch, **mode, **options)

    def _put_and_move(self, path: Path, check: Callable[[], None]) -> str:
        """Upload under another name first, since such a store may show a file while it is written. Return that name."""
        parent, _, _ = self._path.rpartition("/")
        temporary = f"{parent}/{path.name}"
        self._fs.makedirs(parent, exist_ok=True)
        try:
            self._put_file(path, temporary, check)
            self._move(temporary)
            self._check_stored(path.stat().st_size, temporary)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(temporary)
            raise
        return temporary

    def _move(self, temporary: str) -> None:
        # That of fsspec itself looks for patterns in names, and moves into a folder of the final name.
        if type(self._fs).mv is AbstractFileSystem.mv:
            self._fs.cp_file(temporary, self._path)
            self._fs.rm_file(temporary)
        else:
            self._fs.mv(temporary, self._path)


def _can_create(fs: AbstractFileSystem) -> bool:
    """Return whether a store's library can create an object without replacing one, which those of 2024 cannot."""
    return "mode" in inspect.signature(getattr(fs, "_put_file", fs.put_file)).parameters


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return base64.b64encode(
            hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
        ).decode()


def _azure_settings(content_type: str, md5: str) -> Any:
    fields = {"content_type": content_type, "content_md5": bytearray(base64.b64decode(md5))}
    try:
        from azure.storage.blob import ContentSettings
    except ImportError:
        # Some adlfs compatible file systems bring a client of their own; they take the fields.
        return fields
    return ContentSettings(**fields)


def aws_console_page(endpoint: str, path: str) -> str | None:
    """
    Return the page of an object in the console of AWS; None if the store is another one that speaks S3.

    :param endpoint: URL of the store's API.
    :param path: bucket and key, with a slash between.
    """
    host = urlsplit(endpoint).hostname or ""
    console = next((name for domain, name in _AWS_CONSOLES.items() if re.search(f"{domain}$", host)), None)
    bucket, _, key = path.partition("/")
    return f"https://{console}/s3/object/{quote(bucket)}?prefix={quote(key, safe='')}" if console else None


def google_console_page(path: str) -> str:
    """
    Return the page of an object in the console of Google Cloud.

    :param path: bucket and key, with a slash between.
    """
    return f"https://console.cloud.google.com/storage/browser/_details/{quote(path)}"
