"""Containers of videos: their kinds, and whether a body is a complete file. No I/O happens here."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue._core.media import BrokenTransferError, NoVideoError
from airflow_provider_manxue._core.mp4 import Assessment, State, assess_mp4

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow_provider_manxue._core.mp4 import ReadAt

HEAD_BYTES = 512
"""Bytes from the start of a body that distinguish a video from an error page."""


class Container(StrEnum):
    """Container formats of videos."""

    MP4 = "mp4"
    QUICKTIME = "quicktime"
    WEBM = "webm"


_EBML_MAGIC = b"\x1a\x45\xdf\xa3"
_SEGMENT_ID = b"\x18\x53\x80\x67"
_OPEN_END = 2**64
"""End of an EBML element of unknown length. It is higher than any known one."""

_QUICKTIME_FIRST = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_TEXT_TYPE = re.compile(
    r"text/.*|application/(.*\+)?(json|xml)|image/svg\+xml|application/xhtml\+xml", re.IGNORECASE
)


def containers_of(head: bytes) -> frozenset[Container]:
    """Detect the possible containers of a body from its first bytes; empty if it is none of them."""
    if head[4:8] == b"ftyp":
        is_quicktime = head[8:12] == b"qt  "
        return frozenset({Container.MP4, Container.QUICKTIME} if is_quicktime else {Container.MP4})
    if head[4:8] in _QUICKTIME_FIRST:
        return frozenset({Container.QUICKTIME})
    return frozenset({Container.WEBM} if head.startswith(_EBML_MAGIC) else ())


def accepted_containers(
    wanted: Collection[Container] | None, content_type: str | None
) -> frozenset[Container]:
    """
    Return the containers that are saved.

    :param wanted: those that the author named; None for MP4 and the one that the host announces.
    """
    if wanted is not None:
        return frozenset(wanted)
    announced = video_type(content_type)
    return frozenset({Container.MP4, *(one for one in Container if f"video/{one}" == announced)})


def check_head(head: bytes, content_type: str | None, coding: str) -> None:
    """
    Check that a body is a video, not an error page.

    :param head: the first bytes of the body.
    :param coding: the content codings that the response names.
    :raises NoVideoError: if the body is a text or empty.
    :raises BrokenTransferError: if the body is compressed.
    """
    if containers_of(head):
        # Some stores name a Content-Encoding that the body does not have.
        return
    if not head:
        raise NoVideoError("the media host sent an empty body instead of the video")
    if coding:
        raise BrokenTransferError(
            f"the media host compressed the video ({coding}), although that was not requested"
        )
    announced = content_type or "no media type"
    if _is_text(head) or _TEXT_TYPE.fullmatch(announced.partition(";")[0].strip()):
        raise NoVideoError(
            f"the media host sent a body that is no video ({clean_text(announced)}) instead of the video"
        )


def _is_text(head: bytes) -> bool:
    """Return whether a body begins as HTML, XML, JSON or plain text does, in any encoding of Unicode."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    # The last character may be cut off.
    text = head.decode(encoding, "ignore")
    return len(text.encode(encoding)) >= len(head) - 3 and re.search(r"[\0-\x08\x0e-\x1f]", text) is None


def judge(
    read_at: ReadAt, received: int, announced: int | None, accepted: Collection[Container]
) -> Assessment:
    """
    Assess whether a received body is the complete video.

    The length must be the announced one. Since that may be too small, the container must not describe more data than the
    body has. Without an announced length, the container itself must show its end.

    :param read_at: returns up to a number of bytes from a position of the body.
    :param received: length of the body in bytes.
    :param announced: announced length in bytes, if there is one.
    :param accepted: containers that are saved.
    """
    if announced is not None and received != announced:
        return Assessment(State.INCOMPLETE, f"the body ended after {received} of {announced} bytes")
    found = _judge_container(read_at, received, accepted)
    if found.state is State.INCOMPLETE or (announced is None and found.state is State.WHOLE):
        return found
    if announced is None:
        return Assessment(State.INCOMPLETE, f"no length was announced, and {found.reason}")
    return found if found.state is State.UNKNOWN else Assessment(State.WHOLE)


def _judge_container(read_at: ReadAt, size: int, accepted: Collection[Container]) -> Assessment:
    kinds = containers_of(read_at(0, HEAD_BYTES))
    if not kinds:
        return Assessment(State.UNKNOWN, "the body is no MP4, QuickTime or WebM file")
    if not kinds & set(accepted):
        names = ", ".join(sorted(accepted))
        return Assessment(
            State.UNKNOWN,
            f"the body is a {'/'.join(sorted(kinds))} file, and accepted are {names}. Set the argument containers",
        )
    return _assess_webm(read_at, size) if Container.WEBM in kinds else assess_mp4(read_at, size)


def _assess_webm(read_at: ReadAt, size: int) -> Assessment:
    """Compare the end of the ``Segment`` with the size. It contains all media data of a WebM file (RFC 8794, RFC 9559)."""
    segment, end = _element_end(read_at, 4), None
    if segment is not None and read_at(segment, 4) == _SEGMENT_ID:
        end = _element_end(read_at, segment + 4)
    if end is None:
        return Assessment(State.UNKNOWN, "the WebM has no readable segment")
    if end == _OPEN_END:
        return Assessment(State.PLAUSIBLE, "the WebM does not show where it ends")
    if end > size:
        return Assessment(
            State.INCOMPLETE, f"the WebM is longer than the body, which ended after {size} bytes"
        )
    return Assessment(State.WHOLE)


def _element_end(read_at: ReadAt, position: int) -> int | None:
    """Return the end of the EBML element whose length is at a position; None if the length cannot be read."""
    data = read_at(position, 8)
    width = 9 - int.from_bytes(data[:1]).bit_length()
    if len(data) < width:
        return None
    unknown = (1 << 7 * width) - 1
    length = int.from_bytes(data[:width]) & unknown
    return _OPEN_END if length == unknown else position + width + length


def video_type(content_type: str | None) -> str | None:
    """
    Return the media type to store a video with; None if the host announced another one.

    A file that a store serves as a web page could run scripts in the store's origin.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind if re.fullmatch(r"video/[a-z0-9.+-]{1,100}", kind) else None
