"""
What a media host's answer means, what a whole video is, and where a download may go. No I/O happens here.

A download is right when it has every byte of one version of the video. Nothing that a server does by mistake
is taken for that: each answer is held against what was promised before it.
"""

from __future__ import annotations

import ipaddress
import random
import re
import socket
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from airflow_provider_manxue._core.responses import clean_text, parse_retry_after
from airflow_provider_manxue.exceptions import ManxueDownloadError, ManxueUnsafeUrlError

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import Message
    from urllib.parse import SplitResult

    from airflow_provider_manxue.exceptions import ManxueTransientError

MAX_REDIRECTS = 5
HEAD_BYTES = 12
"""Bytes from the start of a body that tell a video from an error page."""

_MAX_ATTEMPTS = 10
_MAX_PAUSE = 60.0
_MAX_RETRY_AFTER = 15 * 60.0
_MAX_BOXES = 100_000
_DEAD_URL = frozenset({401, 403, 404, 410})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_VISIBLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""All that was ever assigned of IPv6 for public hosts; Python counts much of the rest as public, too."""


class BrokenTransferError(ManxueDownloadError):
    """
    A transfer did not come to its end; another attempt may.

    :param message: what happened.
    :param retry_after: how long the server asked us to stay away, in seconds, if it did.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ChangedVideoError(BrokenTransferError):
    """What was received so far cannot be continued: the download starts anew."""


class DeadUrlError(BrokenTransferError):
    """The URL is no longer valid; the service may know a new one."""


# --- answers --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version:
    """
    What tells one version of a video from another.

    :param etag: the strong ``ETag``, if there is one.
    :param modified: ``Last-Modified``, if it is sure to change with the content.
    :param size: the announced length of the whole, if there is one.
    """

    etag: str | None = None
    modified: str | None = None
    size: int | None = None

    @property
    def validator(self) -> str | None:
        """The value for ``If-Range``; without one, a transfer cannot be continued safely."""
        return self.etag or self.modified

    def contradicts(self, other: Version) -> bool:
        """Return whether another answer was certainly, by what it says, about another version."""
        return any(
            mine is not None and theirs is not None and mine != theirs
            for mine, theirs in (
                (self.etag, other.etag),
                (self.modified, other.modified),
                (self.size, other.size),
            )
        )


@dataclass(frozen=True, slots=True)
class Part:
    """
    What an answer brings.

    :param start: where in the video its first byte belongs.
    :param version: the version of the video that it is a part of.
    :param content_type: the media type that it was announced with.
    """

    start: int
    version: Version
    content_type: str | None


def read_part(
    status: int,
    headers: Message,
    length: int | None,
    *,
    offset: int = 0,
    known: Version | None = None,
    now: float = 0.0,
) -> Part:
    """
    Decide what the body of an answer is.

    :param status: HTTP status of the answer, which is no redirect.
    :param headers: its headers.
    :param length: length of its body, if it was announced.
    :param offset: where the part that was asked for begins.
    :param known: the version that the bytes before ``offset`` belong to.
    :param now: seconds since the epoch, for a ``Retry-After`` that is a date.
    :raises BrokenTransferError: if the body is of no use.
    """
    if status in _DEAD_URL:
        raise DeadUrlError(f"the media host answered HTTP {status}")
    if status == 416 and offset:
        return _nothing_left(headers, offset, known or Version())
    if status not in {200, 206}:
        pause = parse_retry_after(headers.get_all("Retry-After", []), now)
        raise BrokenTransferError(f"the media host answered HTTP {status}", pause)
    coding = headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in {"", "identity"}:
        raise BrokenTransferError(
            f"the media host compressed the video ({clean_text(coding)}), which was not asked for"
        )
    if status == 200:
        return Part(0, _version_of(headers, length), headers.get("Content-Type"))
    return _continued(headers, length, offset, known or Version())


def _continued(headers: Message, length: int | None, offset: int, known: Version) -> Part:
    content_range = headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", content_range.strip(), re.ASCII)
    if not offset or match is None:
        raise ChangedVideoError(
            f"the media host sent a part that was not asked for ({clean_text(content_range)!r})"
        )
    first, last = int(match[1]), int(match[2])
    total = known.size if match[3] == "*" else int(match[3])
    if (
        first != offset
        or last < first
        or length not in (None, last - first + 1)
        or (total is not None and last >= total)
    ):
        raise ChangedVideoError(
            f"the media host sent another part ({content_range!r}) than the one from byte {offset}"
        )
    version = _version_of(headers, total)
    if known.contradicts(version):
        raise ChangedVideoError("the media host sent a part of another version of the video")
    # What the first answer said stays, so that an If-Range of a later attempt is still about it.
    return Part(offset, Version(known.etag, known.modified, total), headers.get("Content-Type"))


def _nothing_left(headers: Message, offset: int, known: Version) -> Part:
    """Read an answer that says that nothing follows; then all is there, if it was cut just before its end."""
    match = re.fullmatch(r"bytes \*/(\d{1,18})", headers.get("Content-Range", "").strip(), re.ASCII)
    version = _version_of(headers, int(match[1]) if match else None)
    if version.size != offset or known.contradicts(version):
        raise ChangedVideoError(f"the media host has nothing from byte {offset} on")
    return Part(offset, Version(known.etag, known.modified, offset), None)


def _version_of(headers: Message, size: int | None) -> Version:
    etag = (headers.get("ETag") or "").strip()
    strong = re.fullmatch(r'"[\x21\x23-\x7e\x80-\xff]*"', etag)
    return Version(etag if strong else None, _strong_date(headers), size)


def _strong_date(headers: Message) -> str | None:
    """Return ``Last-Modified``, unless the video may have changed again within that second (RFC 9110, 8.8.2.2)."""
    try:
        modified, sent = (parsedate_to_datetime(headers[name]) for name in ("Last-Modified", "Date"))
        return str(headers["Last-Modified"]) if (sent - modified).total_seconds() >= 1 else None
    except (TypeError, ValueError, OverflowError):
        return None


def video_type(content_type: str | None) -> str | None:
    """
    Return the media type under which a store may show what was received; None if the host named no video.

    A store that serves a file as a web page would run the scripts in it.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind if re.fullmatch(r"video/[a-z0-9.+-]{1,100}", kind) else None


# --- a whole video --------------------------------------------------------------------------------------


def check_head(head: bytes, content_type: str | None) -> None:
    """
    Tell a video from an error page.

    :param head: the first bytes of the body.
    :param content_type: the media type that it was announced with.
    :raises BrokenTransferError: if they are not the beginning of an MP4.
    """
    if head[4:8] != b"ftyp":
        kind = clean_text(content_type or "no media type")
        what = f"a body that is no MP4 ({kind})" if head else "an empty body"
        raise BrokenTransferError(f"the media host sent {what} instead of the video")


def why_incomplete(read_at: Callable[[int, int], bytes], received: int, announced: int | None) -> str | None:
    """
    Decide whether a body that has ended is the whole video.

    An announced length must be met. That alone does not show a length that was announced too small, so no box
    of the MP4 may reach beyond the end. Where no length was announced, the boxes must tell the end themselves.

    :param read_at: reads so many bytes from a place of the body; fewer at its end.
    :param received: length of the body.
    :param announced: length that it should have, if that is known.
    :return: what is missing; None if nothing is.
    """
    if announced is not None and received != announced:
        return f"the body ended after {received} of {announced} bytes"
    walk = _walk(read_at, received)
    if walk.cut:
        return f"the MP4 is longer than the body, which ended after {received} bytes"
    if announced is None and not (walk.closed and {b"moov", b"mdat"} <= walk.kinds):
        return f"no length was announced, and the MP4 does not end where the body did, after {received} bytes"
    return None


@dataclass(slots=True)
class _Walk:
    kinds: set[bytes]
    cut: bool = False
    closed: bool = False


def _walk(read_at: Callable[[int, int], bytes], size: int) -> _Walk:
    """Go from box to box of the top level (ISO/IEC 14496-12, 4.2)."""
    walk = _Walk(set())
    place = 0
    for _ in range(_MAX_BOXES):
        if place == size:
            walk.closed = True
            break
        head = read_at(place, 16)
        length, kind = int.from_bytes(head[:4]), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:])
        if len(head) >= 8 and (length < 8 or not re.fullmatch(rb"[ -~]{4}", kind)):
            # A last box of an open length (0), or something behind the video that is no box: no end to be seen.
            break
        walk.kinds.add(kind)
        place += length
        if len(head) < 8 or place > size:
            walk.cut = True
            break
    return walk


# --- where a download may go ----------------------------------------------------------------------------


def read_url(url: str) -> SplitResult:
    """
    Take a video's URL apart.

    :return: its parts, with the host in the ASCII form that name servers and proxies are asked for: what is
        checked is then what they see.
    :raises ManxueUnsafeUrlError: if it is not a plain URL of the web.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port, url.encode()
        if not parts.netloc.isascii():
            parts = parts._replace(netloc=parts.netloc.encode("idna").decode("ascii"))
    except ValueError:
        raise ManxueUnsafeUrlError("The URL of the video cannot be read.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ManxueUnsafeUrlError(
            f"The video is at a {parts.scheme!r} URL; only http and https are fetched."
        )
    if "@" in parts.netloc:
        raise ManxueUnsafeUrlError("The URL of the video holds a user name or a password.")
    if not re.fullmatch(r"[a-z0-9_.:-]+", parts.hostname):
        # Not repeated: it may hold what a terminal obeys.
        raise ManxueUnsafeUrlError("The URL of the video names no valid host.")
    return parts


def is_redirect(status: int) -> bool:
    """Return whether an answer sends the client elsewhere."""
    return status in _REDIRECTS


def next_hop(url: str, location: str | None) -> str:
    """
    Return where a redirect leads.

    :param url: the URL that answered with the redirect.
    :param location: its ``Location``.
    :raises ManxueUnsafeUrlError: if it must not be followed.
    """
    if not location:
        raise ManxueUnsafeUrlError("The media host answered with a redirect that leads nowhere.")
    # An absolute URL is kept byte for byte; joining could rewrite it.
    target = location.strip()
    if not re.match(r"[a-z][a-z0-9+.-]*:", target, re.IGNORECASE | re.ASCII):
        target = _joined(url, target)
    if read_url(target).scheme == "http" and read_url(url).scheme == "https":
        raise ManxueUnsafeUrlError("The media host answered with a redirect from https to http.")
    return target


def _joined(url: str, reference: str) -> str:
    try:
        return urljoin(url, reference)
    except ValueError:
        raise ManxueUnsafeUrlError("The media host answered with a redirect that cannot be read.") from None


def request_target(url: str) -> str:
    """
    Return path and query of a URL, byte for byte: a signature may cover its very spelling.

    What cannot stand in a request at all (spaces, characters outside of ASCII) is percent-encoded.
    """
    rest = re.sub(r"^[^:]*://[^/?#]*", "", url).partition("#")[0]
    return quote(rest if rest.startswith("/") else f"/{rest}", safe=_VISIBLE_ASCII)


def literal_address(host: str) -> str | None:
    """Return the address that a host name is, without asking a name server, in any notation systems take."""
    host = host.rstrip(".")
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = _inner_address(ip)
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast


def _inner_address(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


# --- patience -------------------------------------------------------------------------------------------


class Retries:
    """Decides whether a broken download is worth another attempt, and when."""

    def __init__(self) -> None:
        self._most = 0
        self._failures = 0
        self._attempts = 0

    def pause_after(self, error: BrokenTransferError | ManxueTransientError, received: int) -> float:
        """
        Return how long to wait before the next attempt, in seconds.

        :param error: why the last attempt ended. An outage of the service itself is waited out, since nothing
            but the service knows where the video is.
        :param received: how many bytes of the video were there then. More than ever is progress.
        :raises ManxueDownloadError: if it is time to give up.
        """
        if received > self._most:
            self._most, self._failures, self._attempts = received, 0, 0
        self._attempts += 1
        self._failures += isinstance(error, BrokenTransferError)
        if self._failures >= _MAX_ATTEMPTS:
            raise ManxueDownloadError(
                f"The video could not be fetched: {error}. There was no progress in {_MAX_ATTEMPTS} attempts."
            )
        if isinstance(error, DeadUrlError) and self._failures == 1:
            return 0.0
        backoff = min(_MAX_PAUSE, 2.0 ** min(self._attempts - 1, 10)) * random.uniform(0.75, 1.25)  # noqa: S311
        return max(backoff, min(error.retry_after or 0.0, _MAX_RETRY_AFTER))
