"""
Stores of videos: a local file, or an object in any store that Airflow's ``ObjectStoragePath`` reaches.

The video is complete in a temporary file before its final name changes, in one step. The final name is then checked,
since some stores report a move that they did not make.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_manxue._client.object_store import ObjectStore
from airflow_provider_manxue._client.store_protocol import Existing, Store, temporary_file
from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue.exceptions import ManxueError, ManxueStorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

log = logging.getLogger(__name__)

_LOCAL = frozenset({"file", "local"})


@contextlib.contextmanager
def open_store(destination: str, conn_id: str | None) -> Iterator[Store]:
    """
    Open the store that a destination is in. Converts errors of the store within the block.

    :param destination: URI of the file that the video is saved to.
    :param conn_id: id of the Airflow connection of the store, if it needs one.
    :raises ManxueStorageError: if the store cannot be used.
    """
    try:
        path = ObjectStoragePath(destination, conn_id=conn_id) if conn_id else ObjectStoragePath(destination)
        yield LocalStore(Path(path.path)) if path.protocol in _LOCAL else ObjectStore(path)
    except ManxueError:
        raise
    except Exception as error:  # stores raise errors of many types
        raise ManxueStorageError(
            f"The video could not be saved as {destination}: {_explain(error)}"
        ) from error


def probe_store(destination: str, conn_id: str | None) -> None:
    """
    Look into the store that a destination is in. Nothing is written, and no folder is created.

    :param destination: URI of a file that does not exist.
    :param conn_id: id of the Airflow connection of the store, if it needs one.
    :raises ManxueStorageError: if the store cannot be used.
    """
    try:
        path = ObjectStoragePath(destination, conn_id=conn_id) if conn_id else ObjectStoragePath(destination)
        if path.protocol in _LOCAL:
            _check_folder(Path(path.path).parent)
        else:
            ObjectStore(path).probe()
    except Exception as error:  # stores raise errors of many types
        raise ManxueStorageError(f"The store of {destination} cannot be used: {_explain(error)}") from error


def _check_folder(folder: Path) -> None:
    """Check that files can be created in a folder, or that the folder can be created."""
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{existing} is no folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"no files can be created in {existing}")


def _explain(error: Exception) -> str:
    text = clean_text(error) or type(error).__name__
    if isinstance(error, (ImportError, ValueError)) and "ilesystem" in text:
        return (
            f"{text}. Install the provider of that store, for example apache-airflow-providers-amazon[s3fs]."
        )
    if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM}:
        return f"permission denied ({text})"
    return text


class LocalStore:
    """
    A file on this machine, or on a file system that is mounted here.

    :param path: its path.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder; end the destination with a slash")

    def temporary_file(self) -> AbstractContextManager[tuple[FileIO, Path]]:
        """Open a file in the same folder, since a rename is atomic within one file system only."""
        return temporary_file(self._path.parent, FileIO)

    def stat(self) -> Existing:
        """Return the object at the destination."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return Existing()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EEXIST, "it is not a regular file; use another name")
        return Existing.file(status.st_size)

    def put(self, path: Path, content_type: str, check: Callable[[], None], *, create: bool) -> None:
        """Move a complete file to its final name. Flushes both, against a loss of power."""
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
            # Some mounted file systems refuse it. The file itself is on the disk.
            log.warning("The folder %s could not be flushed to the disk: %s.", self._path.parent, error)
        if self._path.lstat().st_size != size or path.exists():
            raise OSError(
                errno.EIO,
                f"the file system reported success, but holds no file of {size} bytes. Save to another file system",
            )

    def _create(self, path: Path) -> None:
        """Move a file to its final name, unless that exists."""
        try:
            os.link(path, self._path)
        except FileExistsError:
            raise
        except OSError:
            # No hard links on this file system: an empty file, which is no video, reserves the name.
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            try:
                path.replace(self._path)
            except BaseException:
                self._path.unlink(missing_ok=True)
                raise
        else:
            path.unlink()

    def web_address(self) -> None:
        """Return None: a browser on another machine cannot open a local file."""


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
