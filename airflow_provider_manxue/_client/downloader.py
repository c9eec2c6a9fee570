"""
Download of a video from a media host into a file, with retries and resumption.

``_core/containers.py`` decides when a download is complete. ``docs/saving-design.md`` describes the design of a save.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.containers import (
    HEAD_BYTES,
    accepted_containers,
    check_head,
    containers_of,
    judge,
    video_type,
)
from airflow_provider_manxue._core.media import (
    ERROR_BYTES,
    BrokenTransferError,
    ChangedVideoError,
    ExpiredUrlError,
    Retries,
    Validators,
    parse_part,
)
from airflow_provider_manxue._core.mp4 import State
from airflow_provider_manxue._core.network_errors import no_response
from airflow_provider_manxue.exceptions import ManxueDownloadError, ManxueStorageError, ManxueTransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from io import FileIO

    from airflow_provider_manxue._client.media_client import MediaClient
    from airflow_provider_manxue._core.containers import Container
    from airflow_provider_manxue._core.media import Part

_CHUNK = 1024 * 1024
"""Bytes of one read at most."""

_PROGRESS_INTERVAL = 10.0
"""Seconds between two log lines about the progress."""


class Deadline:
    """
    Deadline of a save.

    :param timeout: seconds from now.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._ends_at = time.monotonic() + timeout

    @property
    def remaining(self) -> float:
        """Seconds that are left; negative when it has passed."""
        return self._ends_at - time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning of the save."""
        return self.timeout - self.remaining

    def check(self, doing: str) -> None:
        """
        Raise an error after the deadline.

        :param doing: the current activity, for the text of the error.
        :raises ManxueDownloadError: if it has passed.
        """
        if self.remaining <= 0:
            raise ManxueDownloadError(
                f"The video was not saved within timeout={self.timeout:g} s: {doing}. Raise timeout if a save takes longer."
            )


@dataclass
class PartialDownload:
    """
    The part of a video that was received so far.

    :param file: where it is written to, unbuffered; written by this class only.
    :param validators: validators of the version that was received.
    :param content_type: the media type that it was announced with.
    :param kind: the kind of file, by its first bytes.
    :param accepted: kinds of files that are saved.
    :param received: its length so far.
    :param unverified_reason: why it may not be the whole video, though it has its announced length; empty if it is whole.
    """

    file: FileIO
    validators: Validators = field(default_factory=Validators)
    content_type: str | None = None
    kind: str = ""
    accepted: Collection[Container] = ()
    received: int = 0
    unverified_reason: str = ""
    _digest: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        """The checksum of what was received, in hexadecimal."""
        return str(self._digest.hexdigest())

    @property
    def media_type(self) -> str:
        """The media type to store it with."""
        if self.unverified_reason:
            return "application/octet-stream"
        return video_type(self.content_type) or f"video/{self.kind}"

    def begin(self, part: Part) -> None:
        """Prepare for a part: append it, or replace the received bytes."""
        self.validators = part.validators
        if part.start == 0:
            self.content_type = part.content_type
            self.received = 0
            self._digest = hashlib.sha256()
            self.file.seek(0)
            self.file.truncate()

    def forget_version(self) -> None:
        """Let the next attempt start from the first byte."""
        self.validators = Validators()

    def write(self, chunk: bytes) -> None:
        """
        Append a chunk.

        :raises ManxueStorageError: if the disk is full, or writing fails.
        """
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise ManxueStorageError(
                f"The video could not be written to {Path(self.file.name).parent} after {self.received} bytes: "
                f"{error.strerror or error}. Make room there for the whole video."
            ) from error
        self._digest.update(chunk)
        self.received += len(chunk)

    def read_at(self, position: int, count: int) -> bytes:
        """Return a number of bytes from a position; fewer at the end."""
        return os.pread(self.file.fileno(), count, position) if position < 2**63 - count else b""


class Downloader:
    """
    Download of a video, with retries and resumption.

    :param refresh_url: returns a URL of the video; called at the start, and again when a URL has expired.
    :param client: sends the requests.
    :param containers: kinds of files that are saved; None for MP4, and another one that the host announces.
    :param max_bytes: a longer video is refused; None for no limit.
    :param deadline: when to give up.
    :param log: the task's logger, for the progress.
    """

    def __init__(
        self,
        *,
        refresh_url: Callable[[], str],
        client: MediaClient,
        containers: Collection[Container] | None,
        max_bytes: int | None,
        deadline: Deadline,
        log: Any,
    ) -> None:
        self._refresh_url = refresh_url
        self._client = client
        self._containers = containers
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._log = log
        self._retries = Retries()

    def fetch(self, file: FileIO) -> PartialDownload:
        """
        Fetch the whole video into a file.

        :param file: an empty file, open for reading and writing without a buffer.
        :return: what was received. With ``unverified_reason``, it has its announced length, but may not be the whole video.
        :raises ManxueDownloadError: if it cannot be fetched.
        :raises ManxueStorageError: if the file cannot be written.
        """
        download = PartialDownload(file)
        url: str | None = None
        while True:
            try:
                if url is None:
                    url = self._refresh_url()
                self._attempt(url, download)
                return download
            except (BrokenTransferError, ManxueTransientError) as error:
                if isinstance(error, ExpiredUrlError):
                    url = None
                self._pause(error, download)

    def _attempt(self, url: str, download: PartialDownload) -> None:
        resumes = bool(download.received and download.validators.if_range)
        try:
            with self._client.get(url, _range_headers(download) if resumes else {}) as response:
                part = parse_part(
                    response.status,
                    response.headers,
                    response.length,
                    offset=download.received if resumes else 0,
                    known=download.validators,
                    error_body=_error_body(response),
                    now=time.time(),
                )
                self._check_length(part.validators.size or 0)
                # The body of a 416 is not a part of the video (RFC 9110, section 15.5.17).
                chunks = _chunks(response) if response.status != 416 else iter(())
                self._receive(chunks, part, download)
            self._verify(download)
        except ChangedVideoError:
            download.forget_version()
            raise

    def _verify(self, download: PartialDownload) -> None:
        """
        Check that the download is complete: its length and its container, by :func:`judge`.

        :raises BrokenTransferError: if bytes are missing.
        :raises ChangedVideoError: if bytes are missing, although the length is the announced one.
        """
        announced = download.validators.size
        verdict = judge(download.read_at, download.received, announced, download.accepted)
        if verdict.state is State.INCOMPLETE:
            # All bytes were received, so resuming cannot complete them.
            kind = ChangedVideoError if download.received == announced else BrokenTransferError
            raise kind(verdict.reason)
        download.unverified_reason = verdict.reason

    def _receive(self, chunks: Iterator[bytes], part: Part, download: PartialDownload) -> None:
        if part.start == 0:
            # Checked before the received bytes are discarded.
            head = _read_head(HEAD_BYTES, chunks)
            check_head(head, part.content_type, part.validators.coding)
            if download.received:
                self._log.info("The download starts from the first byte.")
            download.begin(part)
            download.kind = min(containers_of(head), default="")
            download.accepted = accepted_containers(self._containers, part.content_type)
            download.write(head)
        else:
            download.begin(part)
        reported_at = time.monotonic()
        for chunk in chunks:
            self._deadline.check(f"received {_progress(download)}")
            self._check_length(download.received + len(chunk))
            download.write(chunk)
            if time.monotonic() - reported_at >= _PROGRESS_INTERVAL:
                reported_at = time.monotonic()
                self._log.info("Received %s.", _progress(download))

    def _check_length(self, length: int) -> None:
        if self._max_bytes is not None and length > self._max_bytes:
            raise ManxueDownloadError(
                f"The video is longer than max_bytes={self._max_bytes} (at least {length} bytes). Raise the limit "
                f"to save it."
            )

    def _pause(self, error: BrokenTransferError | ManxueTransientError, download: PartialDownload) -> None:
        self._deadline.check(f"{error}, received {_progress(download)}")
        pause = self._retries.pause_after(error, download.received)
        if pause >= self._deadline.remaining:
            raise ManxueDownloadError(
                f"The video was not saved within timeout={self._deadline.timeout:g} s: {error}, received "
                f"{_progress(download)}. Raise timeout if a save takes longer."
            ) from None
        self._log.warning("%s; received %s. Next attempt in %.0f s.", error, _progress(download), pause)
        time.sleep(pause)


def _range_headers(download: PartialDownload) -> dict[str, str]:
    # RFC 9110, section 13.1.5: with If-Range, a server sends another version whole.
    return {"Range": f"bytes={download.received}-", "If-Range": download.validators.if_range or ""}


def _progress(download: PartialDownload) -> str:
    size = download.validators.size
    if not size:
        return f"{download.received} bytes"
    return f"{download.received} of {size} bytes ({100 * download.received // size} %)"


def _error_body(response: http.client.HTTPResponse) -> bytes:
    """Read the beginning of an error's body, for the store's error code."""
    if response.status < 400:
        return b""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        return response.read(ERROR_BYTES)
    return b""


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            # Returns the bytes that are available, so that none is lost if the connection breaks.
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BrokenTransferError(f"the transfer broke off ({_reason(error)})") from None
        if not chunk:
            return
        yield chunk


def _read_head(count: int, chunks: Iterator[bytes]) -> bytes:
    """Return the first chunks joined, with at least a number of bytes unless the body is shorter."""
    head = b""
    while len(head) < count and (chunk := next(chunks, b"")):
        head += chunk
    return head


def _reason(error: BaseException) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the body ended before its last chunk"
    return str(no_response(error, "the media host"))
