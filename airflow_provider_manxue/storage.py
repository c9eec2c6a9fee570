"""
Where a video goes: a local file, or an object in any store that Airflow's ``ObjectStoragePath`` reaches.

Either way it is whole in a temporary file before its final name is touched, and that name changes in one step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import tempfile
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from fsspec.callbacks import Callback

from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_manxue._core.responses import clean_text
from airflow_provider_manxue.exceptions import ManxueError, ManxueStorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from fsspec import AbstractFileSystem

_BLOCK = 8 * 1024 * 1024
"""Bytes of a part of an upload; memory is bounded by a few of them."""

_WRITE_BACK = 8 * 1024 * 1024
"""Bytes of a local file that go to the disk together."""

_LOCAL = frozenset({"file", "local"})
_S3 = frozenset({"s3", "s3a", "s3n"})
_GOOGLE = frozenset({"gs", "gcs"})
_AZURE = frozenset({"abfs", "abfss", "adl"})

_AWS_CONSOLES = {
    r"\.us-gov-[^.]+\.amazonaws\.com": "console.amazonaws-us-gov.com",
    r"\.amazonaws\.com": "console.aws.amazon.com",
    r"\.amazonaws\.com\.cn": "console.amazonaws.cn",
}
"""By the end of the name of the host that serves S3."""


class Store(Protocol):
    """The place of one video."""

    def temporary_file(self) -> AbstractContextManager[tuple[FileIO, Path]]:
        """Open a new file without a buffer, and take it away at the end, whatever happens, unless it was moved."""

    def size(self) -> int | None:
        """Return the length of what is there now; None if nothing is."""

    def put(self, path: Path, content_type: str, check: Callable[[], None]) -> None:
        """Give a whole file its final place and name; ``check`` raises when it is time to stop."""

    def web_address(self) -> str | None:
        """Return the address under which a person finds the video in a browser; None if there is none."""


@contextlib.contextmanager
def open_store(destination: str, conn_id: str | None) -> Iterator[Store]:
    """
    Open the store that a destination is in; what goes wrong with it inside of the block becomes our error.

    :param destination: URI of the video to be.
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
    # Not by the tempfile module: the file may get the final name, so its mode must be the usual one. Stores
    # tell the media type by the suffix.
    path = folder / f".manxue-{secrets.token_hex(8)}.mp4"
    with kind(path, "x+") as file:
        try:
            yield file, path
        finally:
            path.unlink(missing_ok=True)


def _open_for_us_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class _EarlyFile(FileIO):
    """A file that the disk begins with while it is still written, so that the flush at its end is short."""

    def write(self, data: Any) -> int:
        """Write as usual; whenever a block is full, let it go to the disk."""
        written = super().write(data)
        place = self.tell()
        beyond = place % _WRITE_BACK
        if beyond < written and hasattr(os, "posix_fadvise"):
            # Linux begins at once to write what it is told to be done with.
            os.posix_fadvise(
                self.fileno(), max(0, place - beyond - _WRITE_BACK), _WRITE_BACK, os.POSIX_FADV_DONTNEED
            )
        return written


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
        return _temporary_file(self._path.parent, _EarlyFile)

    def size(self) -> int | None:
        """Return the length of what is there now; None if nothing is."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return None

    def put(self, path: Path, content_type: str, check: Callable[[], None]) -> None:
        """Give a whole file its final name, and let both survive a loss of power."""
        _sync(path)
        check()
        path.replace(self._path)
        _sync(self._path.parent)

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

    def temporary_file(self) -> AbstractContextManager[tuple[FileIO, Path]]:
        """Open it in the folder for such files, which others use too. It need not reach the disk."""
        return _temporary_file(Path(tempfile.gettempdir()), partial(FileIO, opener=_open_for_us_alone))

    def size(self) -> int | None:
        """Return the length of what is there now; None if nothing is."""
        self._fs.invalidate_cache()
        try:
            return int(self._fs.info(self._path)["size"] or 0)
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

    def put(self, path: Path, content_type: str, check: Callable[[], None]) -> None:
        """Upload a whole file; the object appears, or is replaced, at the very end."""
        if self._scheme in _S3:
            self._put_in_parts(path, check, ContentType=content_type)
        elif self._scheme in _GOOGLE:
            self._put_at_once(path, self._path, check, content_type=content_type, chunksize=_BLOCK)
        elif self._scheme in _AZURE:
            self._put_at_once(path, self._path, check, overwrite=True, max_concurrency=1)
        else:
            self._put_and_rename(path, check)

    def _put_in_parts(self, path: Path, check: Callable[[], None], **options: Any) -> None:
        """
        Upload part by part, each from this thread, so that a signal that ends the task stops the upload as well.

        Nothing is committed before the last part is there; otherwise the parts are thrown away.
        """
        target = self._fs.open(self._path, "wb", block_size=_BLOCK, autocommit=False, **options)
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

    def _put_at_once(self, path: Path, to: str, check: Callable[[], None], **options: Any) -> None:
        """Leave the upload to the store's library, where that is known to commit at the end."""
        # Its hooks are called after each part.
        watch = Callback(hooks={"check": lambda *_, **__: check()})
        self._fs.put_file(str(path), to, callback=watch, **options)

    def _put_and_rename(self, path: Path, check: Callable[[], None]) -> None:
        """Upload under another name first, since such a store may show a file while it is written."""
        parent, _, _ = self._path.rpartition("/")
        temporary = f"{parent}/{path.name}"
        self._fs.makedirs(parent, exist_ok=True)
        try:
            self._put_at_once(path, temporary, check)
            self._fs.mv(temporary, self._path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(temporary)
            raise


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
