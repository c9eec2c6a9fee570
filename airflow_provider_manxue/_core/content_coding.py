"""
Content codings of responses (RFC 9110, section 8.4). No I/O happens here.

Both clients request ``identity``. Some gateways compress nevertheless, and some send tokens in ``Content-Encoding`` that
name no coding. A body that is not compressed is returned unchanged, also if the header names a coding.
"""

from __future__ import annotations

import re
import zlib

from airflow_provider_manxue.exceptions import ManxueTransientError

MAX_CODINGS = 3
"""Maximum number of codings that are undone for one response. Each is bounded, but takes time."""

_MAX_MEMBERS = 10
"""Maximum number of members of a gzip body (RFC 1952, section 2.2). Servers send one. Thousands of empty ones take
long."""

_GZIP = frozenset({"gzip", "x-gzip"})
_UNSUPPORTED = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
_GZIP_MAGIC = b"\x1f\x8b"

_ZLIB_BITS, _RAW_BITS, _GZIP_BITS = 15, -15, 31
"""The argument ``wbits`` of :mod:`zlib` for each format."""


def decode_body(body: bytes, content_encoding: str, limit: int) -> bytes:
    """
    Undo the content codings of a body.

    :param content_encoding: the header ``Content-Encoding``, several values joined by commas; empty if it is absent.
    :param limit: maximum number of bytes that each step may return.
    :raises ManxueTransientError: if the body is longer, cut off, damaged, or in a coding that needs another library.
    """
    codings = real_codings(content_encoding)
    if len(codings) > MAX_CODINGS:
        raise ManxueTransientError(f"the response has a body in {len(codings)} content codings")
    for coding in reversed(codings):
        body = _decode(body, coding, limit)
    return body


def real_codings(content_encoding: str) -> list[str]:
    """Return the codings in ``Content-Encoding``. Some stores send tokens in it that are none, such as ``aws-chunked``."""
    names = (token.partition(";")[0].strip().lower() for token in content_encoding.split(","))
    return [name for name in names if name in _GZIP or name == "deflate" or name in _UNSUPPORTED]


def _decode(body: bytes, coding: str, limit: int) -> bytes:
    if coding in _GZIP:
        return _gunzip(body, limit) if body.startswith(_GZIP_MAGIC) else body
    if _is_text(body):
        return body
    if coding in _UNSUPPORTED:
        raise ManxueTransientError(
            f"the response has a body in the content coding {coding!r}, which was not requested and cannot be decoded"
        )
    try:
        return _inflate(body, _ZLIB_BITS, limit)[0]
    except zlib.error:
        # Some servers leave out the zlib header (RFC 9110, section 8.4.1.2).
        return _decoded_or_error(body, _RAW_BITS, limit)[0]


def _gunzip(body: bytes, limit: int) -> bytes:
    whole = b""
    for _ in range(_MAX_MEMBERS):
        member, body = _decoded_or_error(body, _GZIP_BITS, limit - len(whole), limit)
        whole += member
        if not body.startswith(_GZIP_MAGIC):
            return whole
    raise ManxueTransientError(f"the response has a gzip body of more than {_MAX_MEMBERS} members")


def _decoded_or_error(body: bytes, bits: int, room: int, limit: int | None = None) -> tuple[bytes, bytes]:
    try:
        return _inflate(body, bits, room, limit)
    except zlib.error:
        raise ManxueTransientError("the response has a damaged compressed body") from None


def _inflate(body: bytes, bits: int, room: int, limit: int | None = None) -> tuple[bytes, bytes]:
    """Decompress one stream within ``room`` bytes. Return its data and the bytes after it."""
    stream = zlib.decompressobj(bits)
    decoded = stream.decompress(body, room + 1)
    if len(decoded) > room:
        raise ManxueTransientError(
            f"the response has a compressed body of more than {limit or room} bytes when decoded"
        )
    if not stream.eof:
        raise ManxueTransientError("the response has a compressed body that is cut off")
    return decoded, stream.unused_data


def _is_text(body: bytes) -> bool:
    """Return whether a body is plain text. Compressed data contain control characters, or are not UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text)
