"""Objects in any store that Airflow's ``ObjectStoragePath`` reaches, other than local files."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import inspect
import logging
import os
import secrets
import tempfile
from functools import partial
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback

from airflow_provider_manxue._client.console_pages import aws_console_page, google_console_page
from airflow_provider_manxue._client.store_protocol import Existing, temporary_file
from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue._core.destination import GOOGLE_SCHEMES, S3_SCHEMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from airflow.providers.common.compat.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

_BLOCK = 8 * 1024 * 1024
"""Bytes of a part of an upload; memory is bounded by a few of them."""

_AZURE = frozenset({"abfs", "abfss", "adl"})

_CREATE_ONLY = S3_SCHEMES | GOOGLE_SCHEMES | _AZURE
"""Schemes of object stores, which have no folders, and can be told not to replace an object."""

_MARK = "manxue-upload"
"""Name of the metadata field that holds the random mark of an upload."""


def _open_for_us_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class ObjectStore:
    """
    An object in a store other than the local file system.

    :param path: its path.
    """

    def __init__(self, path: ObjectStoragePath) -> None:
        self._fs: AbstractFileSystem = path.fs
        self._scheme = path.protocol
        self._path = path.path
        self._can_create = self._scheme in _AZURE or (self._scheme in _CREATE_ONLY and _can_create(self._fs))

    def temporary_file(self) -> AbstractContextManager[tuple[FileIO, Path]]:
        """Open a file in the temporary folder, which is shared, so with access for this user only."""
        return temporary_file(Path(tempfile.gettempdir()), partial(FileIO, opener=_open_for_us_alone))

    def stat(self) -> Existing:
        """Return the object at the destination. Without permission, returns nothing if the store can refuse to replace."""
        try:
            info = self._info(self._path)
        except PermissionError as error:
            if not self._can_create:
                raise
            log.warning(
                "The store denied permission to check for an existing object (%s). The save assumes that there is none.",
                clean_text(error),
            )
            return Existing()
        if info is None:
            return Existing()
        if info.get("type") == "directory":
            if self._scheme in _CREATE_ONLY:
                # A prefix of other names. An object of that name may exist as well.
                return Existing()
            raise IsADirectoryError(errno.EISDIR, "it is a folder; end the destination with a slash")
        return Existing.file(int(info.get("size") or 0))

    def probe(self) -> None:
        """
        Look for the bucket or container, and for the object. Writes nothing.

        :raises OSError: if there is no such bucket or container, or the store denies reading.
        """
        container = self._path.partition("/")[0]
        # The libraries do not tell a missing bucket from a missing object. s3fs 2024.5 has no information on an empty bucket.
        is_missing = self._scheme in _CREATE_ONLY and self._info(container) is None
        if is_missing and not self._fs.exists(container):
            raise FileNotFoundError(errno.ENOENT, f"there is no bucket or container {container!r}")
        self.stat()

    def _info(self, path: str) -> dict[str, Any] | None:
        self._fs.invalidate_cache()
        try:
            return dict(self._fs.info(path))
        except FileNotFoundError:
            return None
        except Exception as error:
            if _is_denied(error):
                raise PermissionError(errno.EACCES, str(error)) from error
            raise

    def web_address(self) -> str | None:
        """
        Return the object's page in the console of AWS or Google Cloud; None for any other store.

        The URL of a page in Azure's portal needs more than the account and the container.
        """
        if self._scheme in S3_SCHEMES:
            return aws_console_page(self._fs.s3.meta.endpoint_url, self._path)
        return google_console_page(self._path) if self._scheme in GOOGLE_SCHEMES else None

    def put(self, path: Path, content_type: str, check: Callable[[], None], *, create: bool) -> None:
        """Upload a complete file. The object appears, or is replaced, in the final step."""
        create = create and self._can_create  # otherwise only the caller's check protects the object
        size, mark, leftover = path.stat().st_size, secrets.token_hex(16), None
        options: dict[str, Any]
        try:
            if self._scheme in S3_SCHEMES:
                options = {"ContentType": content_type, "Metadata": {_MARK: mark}}
                self._put_in_parts(path, check, create=create, **options)
            elif self._scheme in GOOGLE_SCHEMES:
                options = {"content_type": content_type, "chunksize": _BLOCK, "metadata": {_MARK: mark}}
                self._put_file(path, self._path, check, create=create, **options)
            elif self._scheme in _AZURE:
                mark = _md5(path)
                settings = _azure_settings(content_type, mark)
                # adlfs has no parameter `mode`, so `_can_create` cannot see whether a release knows it.
                options = {"overwrite": not create, "max_concurrency": 1, "content_settings": settings}
                self._put_file(path, self._path, check, **options)
            else:
                leftover = self._put_and_move(path, check)
        except FileExistsError:
            # The library may have repeated the final request after the first response was lost.
            if mark not in self._marks():
                raise
        self._check_stored(size, leftover)

    def _marks(self) -> set[str]:
        """Return the marks that identify the upload of an object."""
        info = self._info(self._path) or {}
        metadata = self._fs.metadata(self._path) if self._scheme in S3_SCHEMES else info.get("metadata")
        md5 = (info.get("content_settings") or {}).get("content_md5")
        marks = {str(value) for key, value in (metadata or {}).items() if key.replace("_", "-") == _MARK}
        return marks | ({base64.b64encode(md5).decode()} if isinstance(md5, bytes | bytearray) else set())

    def _check_stored(self, size: int, leftover: str | None) -> None:
        """Check that the video is at the destination. Some stores report success without an effect."""
        try:
            info = self._info(self._path)
            moved = leftover is None or self._info(leftover) is None
        except PermissionError as error:
            log.warning(
                "The video was uploaded, but the store denied permission to verify it (%s).",
                clean_text(error),
            )
            return
        if info is None or info.get("type") == "directory" or int(info.get("size") or 0) != size or not moved:
            found = "nothing" if info is None else f"a {info.get('type', 'file')} of {info.get('size')} bytes"
            raise OSError(
                errno.EIO,
                f"the store reported success, but holds {found} instead of the video's {size} bytes. Remove it, or "
                f"use another name",
            )

    def _put_in_parts(self, path: Path, check: Callable[[], None], *, create: bool, **options: Any) -> None:
        """
        Upload part by part, each from this thread, so that a signal that ends the task stops the upload as well.

        Commits after the last part; removes the parts after an error.
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
        """Upload with the store's library, which commits at the end."""
        # Called after each part.
        watch = Callback(hooks={"check": lambda *_, **__: check()})
        mode = {"mode": "create"} if create else {}
        self._fs.put_file(str(path), to, callback=watch, **mode, **options)

    def _put_and_move(self, path: Path, check: Callable[[], None]) -> str:
        """Upload under a temporary name, then move, since such a store may show a file while it is written. Return that name."""
        parent, _, _ = self._path.rpartition("/")
        temporary = f"{parent}/{path.name}"
        self._fs.makedirs(parent, exist_ok=True)
        try:
            self._put_file(path, temporary, check)
            self._move(temporary)
            self._check_stored(path.stat().st_size, temporary)
        except BaseException:
            # HDFS moves a file into a folder of the final name.
            for name in (temporary, f"{self._path}/{path.name}"):
                with contextlib.suppress(Exception):
                    self._fs.rm_file(name)
            raise
        return temporary

    def _move(self, temporary: str) -> None:
        # The default of fsspec expands patterns in names, and moves into a folder of the final name. An asynchronous file
        # system such as sshfs has a method of its own in the instance, not in the class.
        if getattr(self._fs.mv, "__func__", None) is AbstractFileSystem.mv:
            self._fs.cp_file(temporary, self._path)
            self._fs.rm_file(temporary)
        else:
            self._fs.mv(temporary, self._path)


def _can_create(fs: AbstractFileSystem) -> bool:
    """Return whether a store's library can create an object without replacing one. Releases of 2024 cannot."""
    return "mode" in inspect.signature(getattr(fs, "_put_file", fs.put_file)).parameters


def _is_denied(error: Exception) -> bool:
    """Return whether a store denied permission. The libraries of Azure and Google raise other errors than ``PermissionError``."""
    is_azure = getattr(error, "status_code", None) == HTTPStatus.FORBIDDEN  # HttpResponseError of azure.core
    is_google = isinstance(error, OSError) and str(error).startswith("Forbidden: ")  # gcsfs.retry
    return isinstance(error, PermissionError) or is_azure or is_google


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return base64.b64encode(
            hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
        ).decode()


def _azure_settings(content_type: str, md5: str) -> Any:
    fields: dict[str, Any] = {"content_type": content_type, "content_md5": bytearray(base64.b64decode(md5))}
    try:
        from azure.storage.blob import ContentSettings
    except ImportError:
        # Some file systems compatible with adlfs have another client; they accept the fields.
        return fields
    return ContentSettings(**fields)
