"""Decoding of bodies that are compressed although the request accepts only ``identity``."""

import gzip
import tracemalloc
import zlib

import pytest

from airflow_provider_manxue._core.content_coding import MAX_CODINGS, decode_body
from airflow_provider_manxue.exceptions import ManxueTransientError

TEXT = b'{"id": "proj_1", "status": "queued"}'
LIMIT = 1000


def raw_deflate(body):
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (gzip.compress(TEXT, mtime=0), "gzip"),
        (gzip.compress(TEXT, mtime=0), " GZip ; q=1"),
        (gzip.compress(TEXT, mtime=0), "x-gzip"),
        (gzip.compress(TEXT, mtime=0), "utf-8, gzip"),
        (gzip.compress(TEXT, mtime=0) + b"\0\0", "gzip"),
        (gzip.compress(TEXT[:9], mtime=0) + gzip.compress(TEXT[9:], mtime=0), "gzip"),
        (zlib.compress(TEXT), "deflate"),
        (raw_deflate(TEXT), "deflate"),
        (gzip.compress(zlib.compress(TEXT), mtime=0), "deflate, gzip"),
        (zlib.compress(gzip.compress(gzip.compress(TEXT, mtime=0), mtime=0)), "gzip,gzip,deflate"),
    ],
)
def test_body_in_a_known_coding_is_decoded(body, header):
    assert decode_body(body, header, LIMIT) == TEXT


@pytest.mark.parametrize("body", [TEXT, b"", "<html>请求</html>".encode(), b"  [1]\r\n"])
@pytest.mark.parametrize(
    "header",
    [
        "", "identity", "utf-8", "aws-chunked", "binary", "none", ",", "gzip", "gzip, gzip", "deflate", "br", "zstd",
        "compress",
    ],
)  # fmt: skip
def test_uncompressed_body_is_returned_unchanged(body, header):
    assert decode_body(body, header, LIMIT) == body


def test_body_without_a_coding_is_returned_unchanged():
    assert decode_body(gzip.compress(TEXT, mtime=0), "utf-8", LIMIT) == gzip.compress(TEXT, mtime=0)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress"])
def test_unsupported_coding_is_reported(coding):
    with pytest.raises(ManxueTransientError, match=f"coding '{coding}', which was not requested"):
        decode_body(b"\x0b\x02\x80ab\x03", coding, LIMIT)


@pytest.mark.parametrize("body", [b"\x0b\x02ab\x03", b"\x8bab\x80"], ids=["UTF-8", "no control characters"])
def test_compressed_body_is_not_mistaken_for_text(body):
    """Short Brotli bodies can be valid UTF-8 or hold no control characters."""
    with pytest.raises(ManxueTransientError, match="coding 'br'"):
        decode_body(body, "br", LIMIT)


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, raw_deflate])
def test_body_at_the_limit_is_decoded(compress):
    header = "gzip" if compress is gzip.compress else "deflate"
    assert decode_body(compress(b"\0" * LIMIT), header, LIMIT) == b"\0" * LIMIT
    with pytest.raises(ManxueTransientError, match="more than 1000 bytes"):
        decode_body(compress(b"\0" * (LIMIT + 1)), header, LIMIT)


def test_limit_covers_all_gzip_members():
    with pytest.raises(ManxueTransientError, match="more than 1000 bytes"):
        decode_body(gzip.compress(b"x" * 600, mtime=0) * 2, "gzip", LIMIT)


def test_too_many_gzip_members_are_rejected():
    """Each of a million empty members would copy all bytes that follow it."""
    with pytest.raises(ManxueTransientError, match="members"):
        decode_body(gzip.compress(b"", mtime=0) * 50_000, "gzip", LIMIT)


def test_nested_bomb_is_rejected():
    body = gzip.compress(gzip.compress(b"\0" * 10_000_000, mtime=0), mtime=0)
    with pytest.raises(ManxueTransientError, match="more than"):
        decode_body(body, "gzip, gzip", LIMIT)


@pytest.mark.parametrize("header", ["gzip", "deflate"])
def test_bomb_uses_bounded_memory(header):
    compress = gzip.compress if header == "gzip" else zlib.compress
    body = compress(b"\0" * 10_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ManxueTransientError, match="more than 1000 bytes"):
            decode_body(body, header, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "header", "problem"),
    [
        (gzip.compress(TEXT, mtime=0)[:-9], "gzip", "a compressed body that is cut off"),
        (gzip.compress(TEXT, mtime=0)[:5], "gzip", "a compressed body that is cut off"),
        (zlib.compress(TEXT)[:-5], "deflate", "a compressed body that is cut off"),
        (gzip.compress(TEXT, mtime=0)[:-8] + b"12345678", "gzip", "a damaged compressed body"),
        (b"\xff\xfe\x00\x01", "deflate", "a damaged compressed body"),
    ],
)
def test_damaged_body_is_transient(body, header, problem):
    with pytest.raises(ManxueTransientError) as caught:
        decode_body(body, header, LIMIT)

    assert str(caught.value) == f"the response has {problem}"


def test_too_many_codings_are_rejected():
    header = ",".join(["gzip"] * (MAX_CODINGS + 1))
    with pytest.raises(ManxueTransientError, match="4 content codings"):
        decode_body(TEXT, header, LIMIT)
