"""
Responses of a media host: versions and parts of a video, errors, and retries. No I/O happens here.

A download has every byte of one version of the video; ``containers.py`` decides whether it is complete. Each response is
compared with the first one, so that a mistake of a server does not mix two versions.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue._core.content_coding import real_codings
from airflow_provider_manxue._core.polling import bounded_pause
from airflow_provider_manxue._core.responses import parse_retry_after
from airflow_provider_manxue.exceptions import ManxueDownloadError

if TYPE_CHECKING:
    from email.message import Message

    from airflow_provider_manxue.exceptions import ManxueTransientError

ERROR_BYTES = 8192
"""Maximum number of bytes of an error response that are read for the error code of the store."""

_MAX_ATTEMPTS = 10
_MAX_PAUSE = 60.0
_EXPIRED_URL = frozenset({401, 403, 404, 410})
_EXPIRY_CODE = re.compile("expir|token|signature|authori[sz]ation|skewed", re.IGNORECASE)
_ERROR_CODE = re.compile(
    rb"""<Code>\s*([A-Za-z][A-Za-z_.]{2,39})\s*</Code>|"(?:code|error)"\s*:\s*"([A-Za-z][A-Za-z_.]{2,39})\"""",
    re.IGNORECASE,
)
"""The code of an error in XML or JSON. It has letters only, so that a signature does not match."""


class BrokenTransferError(ManxueDownloadError):
    """
    A transfer ended early. Another attempt may succeed.

    :param retry_after: pause that the server requested, in seconds; None if it requested none.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ChangedVideoError(BrokenTransferError):
    """The received part cannot be continued. The download starts again from the first byte."""


class ExpiredUrlError(BrokenTransferError):
    """The URL has expired. The service may have a new one."""


class NoVideoError(ExpiredUrlError):
    """The body is a page, a text or empty. Some hosts respond to an expired URL like that."""


# --- responses ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Validators:
    """
    The validators of one version of a video (RFC 9110, section 8.8).

    :param etag: the ``ETag``, weak or strong, if there is one.
    :param modified: ``Last-Modified``, if there is one.
    :param size: the announced length of the complete video in bytes, if there is one.
    :param is_dated: whether ``Last-Modified`` is a strong validator.
    :param coding: the content codings that the response names, joined by commas.
    """

    etag: str | None = None
    modified: str | None = None
    size: int | None = None
    is_dated: bool = False
    coding: str = ""

    @property
    def if_range(self) -> str | None:
        """The value for ``If-Range``. Without a strong validator, a transfer cannot be continued safely."""
        if _is_strong(self.etag):
            return self.etag
        return self.modified if self.is_dated else None

    def contradict(self, other: Validators) -> bool:
        """Return whether another response is about another version."""
        if self.coding != other.coding or _differ(self.size, other.size):
            return True
        if self.etag and other.etag:
            if self.etag.removeprefix("W/") != other.etag.removeprefix("W/"):
                return True
            if _is_strong(self.etag) and _is_strong(other.etag):
                return False
        return _differ(self.modified, other.modified)


def _differ(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other


def _is_strong(etag: str | None) -> bool:
    return etag is not None and etag.startswith('"')


@dataclass(frozen=True, slots=True)
class Part:
    """
    The part of the video in a response.

    :param start: position of its first byte in the video.
    :param validators: the validators of its version.
    :param content_type: its media type, as announced.
    """

    start: int
    validators: Validators
    content_type: str | None


def parse_part(
    status: int,
    headers: Message,
    length: int | None,
    *,
    offset: int = 0,
    known: Validators | None = None,
    error_body: bytes = b"",
    now: float = 0.0,
) -> Part:
    """
    Determine the part of the video in the body of a response.

    :param status: HTTP status of the response. It is not a redirect.
    :param length: announced length of its body in bytes, if there is one.
    :param offset: position of the first requested byte.
    :param known: validators of the bytes before ``offset``.
    :param error_body: the first bytes of the body of an error response.
    :param now: seconds since the epoch, for a ``Retry-After`` that is a date.
    :raises BrokenTransferError: if the body has no usable part.
    """
    if status == 416 and offset:
        return _nothing_left(headers, offset, known or Validators())
    if status == 200:
        return _whole(headers, length)
    if status == 206:
        return _parse_range(headers, length, offset, known or Validators())
    code = error_code(headers, error_body)
    problem = f"the media host responded with HTTP {status}{f' ({code})' if code else ''}"
    if status in _EXPIRED_URL or (status == 400 and _EXPIRY_CODE.search(code)):
        raise ExpiredUrlError(problem)
    raise BrokenTransferError(problem, parse_retry_after(headers.get_all("Retry-After", []), now))


def error_code(headers: Message, body: bytes) -> str:
    """Return the error code of the store, such as ``AccessDenied``; empty if there is none."""
    named = re.fullmatch(r"[A-Za-z]{3,40}", headers.get("x-ms-error-code", ""))
    if named:
        return named[0]
    found = _ERROR_CODE.search(body)
    return (found[1] or found[2]).decode() if found else ""


def _whole(headers: Message, size: int | None) -> Part:
    return Part(0, _validators(headers, size), headers.get("Content-Type"))


def _parse_range(headers: Message, length: int | None, offset: int, known: Validators) -> Part:
    content_range = headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", content_range.strip(), re.ASCII)
    not_requested = ChangedVideoError(
        f"the media host sent a part that was not requested ({clean_text(content_range)!r})"
    )
    if match is None:
        raise not_requested
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if first == 0 and _is_range(first, last, total, length):
        # It begins with the first byte of the video, so that nothing before it is needed.
        return _whole(headers, total)
    if not offset:
        raise not_requested
    total = known.size if total is None else total
    if first != offset or not _is_range(first, last, total, length):
        raise ChangedVideoError(
            f"the media host sent another part ({content_range!r}) than the one from byte {offset}"
        )
    return _continued(offset, known, _validators(headers, total), headers.get("Content-Type"))


def _is_range(first: int, last: int, total: int | None, length: int | None) -> bool:
    return first <= last and length in (None, last - first + 1) and (total is None or last < total)


def _nothing_left(headers: Message, offset: int, known: Validators) -> Part:
    """Parse a 416: no byte follows. The video is complete if the earlier transfer broke off after its last byte."""
    match = re.fullmatch(r"bytes \*/(\d{1,18})", headers.get("Content-Range", "").strip(), re.ASCII)
    reported = replace(_validators(headers, int(match[1]) if match else None), coding=known.coding)
    if reported.size != offset or known.contradict(reported):
        raise ChangedVideoError(f"the media host has no data from byte {offset} on")
    return _continued(offset, known, reported, None)


def _continued(offset: int, known: Validators, reported: Validators, content_type: str | None) -> Part:
    if known.contradict(reported):
        raise ChangedVideoError("the media host sent a part of another version of the video")
    # The validators of the first response are used further, so that each If-Range is about the same version.
    return Part(offset, replace(known, size=reported.size), content_type)


def _validators(headers: Message, size: int | None) -> Validators:
    etag = (headers.get("ETag") or "").strip()
    return Validators(
        etag if re.fullmatch(r'(W/)?"[\x21\x23-\x7e\x80-\xff]*"', etag) else None,
        (headers.get("Last-Modified") or "").strip() or None,
        size,
        _is_dated(headers),
        ", ".join(real_codings(headers.get("Content-Encoding") or "")),
    )


def _is_dated(headers: Message) -> bool:
    """Return whether the video cannot have changed again within the second of ``Last-Modified`` (RFC 9110, 8.8.2.2)."""
    try:
        modified, sent = (parsedate_to_datetime(headers[name]) for name in ("Last-Modified", "Date"))
        return (sent - modified).total_seconds() >= 1
    except (TypeError, ValueError, OverflowError):
        return False


# --- retries --------------------------------------------------------------------------------------------


class Retries:
    """The attempts of a download: whether to retry, and the delay."""

    def __init__(self) -> None:
        self._most = 0
        self._failures = 0
        self._attempts = 0
        self._pages = 0

    def pause_after(self, error: BrokenTransferError | ManxueTransientError, received: int) -> float:
        """
        Return the delay before the next attempt in seconds.

        :param error: the error of the last attempt. Errors of the service itself are not counted, since only the
            service has a new URL.
        :param received: bytes of the video that have been received. More than in any attempt before is progress.
        :raises ManxueDownloadError: if there is no further attempt.
        """
        if received > self._most:
            self._most, self._failures, self._attempts, self._pages = received, 0, 0, 0
        self._attempts += 1
        self._failures += isinstance(error, BrokenTransferError)
        self._pages += isinstance(error, NoVideoError)
        if self._pages > 1:
            problem = f"{error}, also from a new URL"
            raise ManxueDownloadError(f"The video could not be fetched: {problem}. Retry the task later.")
        if self._failures >= _MAX_ATTEMPTS:
            problem = f"{error}. There was no progress in {_MAX_ATTEMPTS} attempts"
            raise ManxueDownloadError(f"The video could not be fetched: {problem}. Retry the task later.")
        if isinstance(error, ExpiredUrlError) and self._failures == 1:
            return 0.0
        backoff = min(_MAX_PAUSE, 2.0 ** min(self._attempts - 1, 10)) * random.uniform(0.75, 1.25)  # noqa: S311
        return max(backoff, bounded_pause(error.retry_after))
