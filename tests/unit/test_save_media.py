"""
Responses of media hosts, containers, allowed addresses and retries of a download.

The rules and their reasons are in docs/saving-design.md.
"""

from __future__ import annotations

import io
import ipaddress
from email.message import Message

import pytest

from airflow_provider_manxue._core.containers import (
    Container,
    accepted_containers,
    check_head,
    containers_of,
    judge,
    video_type,
)
from airflow_provider_manxue._core.media import (
    BrokenTransferError,
    ChangedVideoError,
    ExpiredUrlError,
    NoVideoError,
    Retries,
    Validators,
    error_code,
    parse_part,
)
from airflow_provider_manxue._core.media_urls import (
    AddressPolicy,
    is_public,
    is_redirect,
    literal_address,
    next_hop,
    parse_url,
    request_target,
)
from airflow_provider_manxue._core.mp4 import State
from airflow_provider_manxue.exceptions import (
    ManxueDownloadError,
    ManxueInputError,
    ManxueTransientError,
    ManxueUnsafeUrlError,
)
from airflow_provider_manxue.testing._mp4 import Video

OLD = "Tue, 01 Jan 2030 00:00:00 GMT"
NOW = "Tue, 01 Jan 2030 00:00:10 GMT"
KNOWN = Validators('"a"', None, 100)


def headers(**values):
    message = Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


def continued(content_range="bytes 40-99/100", length=60, known=KNOWN, **values):
    return parse_part(206, headers(Content_Range=content_range, **values), length, offset=40, known=known)


class TestResponse:
    def test_response_200_is_the_whole_video(self):
        part = parse_part(200, headers(ETag='"a"', Content_Type="video/mp4"), 100)

        assert (part.start, part.validators, part.content_type) == (0, KNOWN, "video/mp4")

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_response_of_an_expired_url(self, status):
        with pytest.raises(ExpiredUrlError, match=rf"HTTP {status}$"):
            parse_part(status, headers(), None)

    @pytest.mark.parametrize("status", [204, 304, 400, 408, 416, 429, 500, 503])
    def test_response_without_a_video(self, status):
        with pytest.raises(BrokenTransferError, match=str(status)):
            parse_part(status, headers(), None)

    def test_retry_after_seconds_are_parsed(self):
        with pytest.raises(BrokenTransferError) as caught:
            parse_part(503, headers(Retry_After="70"), None)

        assert caught.value.retry_after == 70

    def test_retry_after_date_is_parsed(self):
        with pytest.raises(BrokenTransferError) as caught:
            parse_part(503, headers(Retry_After=NOW), None, now=1_893_456_000)

        assert caught.value.retry_after == 10

    @pytest.mark.parametrize(
        ("named", "coding"),
        [("gzip", "gzip"), ("X, GZip", "gzip"), ("br;q=1, gzip", "br, gzip")]
        + [
            (word, "") for word in ("Identity", "", "aws-chunked", "utf-8", "UTF-8", "binary", "none", "7bit")
        ],
    )
    def test_content_coding_is_parsed(self, named, coding):
        assert parse_part(200, headers(Content_Encoding=named), 100).validators.coding == coding

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (
                b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>m</Message></Error>",
                "ExpiredToken",
            ),
            (b'{"error": "Token_expired", "code": 7}', "Token_expired"),
            (b'{"code": "AccessDenied"}', "AccessDenied"),
            (b"<Code>d2fb3a0c17b58f2ce0b9ab41d8f3a4c9</Code>", ""),
            (b"<html>no</html>", ""),
            (b"", ""),
        ],
    )
    def test_error_code_is_found_in_the_body(self, body, code):
        assert error_code(headers(), body) == code

    def test_error_code_is_found_in_the_azure_header(self):
        assert error_code(headers(x_ms_error_code="AuthenticationFailed"), b"") == "AuthenticationFailed"

    @pytest.mark.parametrize(
        "code", ["ExpiredToken", "RequestExpired", "AuthorizationQueryParametersError", "InvalidToken"]
    )
    def test_response_400_with_expiry_code_needs_a_new_url(self, code):
        with pytest.raises(ExpiredUrlError, match=rf"HTTP 400 \({code}\)"):
            parse_part(400, headers(), None, error_body=f"<Code>{code}</Code>".encode())

    def test_response_400_with_another_code_is_broken(self):
        with pytest.raises(BrokenTransferError, match="InvalidRange") as caught:
            parse_part(400, headers(), None, error_body=b"<Code>InvalidRange</Code>")
        assert not isinstance(caught.value, ExpiredUrlError)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_redirect_statuses(self, status):
        assert is_redirect(status)

    @pytest.mark.parametrize("status", [200, 206, 300, 304, 305, 306, 404])
    def test_statuses_that_are_no_redirect(self, status):
        assert not is_redirect(status)


class TestValidator:
    @pytest.mark.parametrize(
        ("values", "validator"),
        [
            ({"ETag": '"a"'}, '"a"'),
            ({"ETag": '"a"', "Last_Modified": OLD, "Date": NOW}, '"a"'),
            ({"ETag": 'W/"a"'}, None),
            ({"ETag": 'W/"a"', "Last_Modified": OLD, "Date": NOW}, OLD),
            ({"ETag": "a"}, None),
            ({"Last_Modified": OLD}, None),
            ({"Last_Modified": OLD, "Date": "Tue, 01 Jan 2030 00:00:01 GMT"}, OLD),
            ({"Last_Modified": NOW, "Date": NOW}, None),
            ({"Last_Modified": "yesterday", "Date": NOW}, None),
            ({}, None),
        ],
    )
    def test_if_range_needs_a_strong_validator(self, values, validator):
        """RFC 9110, section 13.1.5."""
        assert parse_part(200, headers(**values), 100).validators.if_range == validator


class TestPartialResponse:
    def test_part_resumes_the_download(self):
        assert continued(ETag='"a"').validators == KNOWN
        assert continued().start == 40

    def test_part_without_headers_keeps_the_known_ones(self):
        part = continued(known=Validators(None, OLD, 100, is_dated=True), Content_Type="video/mp4")

        assert (part.validators, part.content_type) == (
            Validators(None, OLD, 100, is_dated=True),
            "video/mp4",
        )

    def test_part_of_a_single_byte(self):
        assert continued("bytes 40-40/100", 1).start == 40

    def test_part_shorter_than_the_rest(self):
        assert continued("bytes 40-59/100", 20).start == 40

    def test_part_with_a_new_total_size(self):
        assert continued(known=Validators('"a"')).validators.size == 100

    def test_part_without_a_total_size(self):
        assert continued("bytes 40-99/*", None).validators.size == 100
        assert continued("bytes 40-99/*", None, known=Validators('"a"')).validators.size is None
        with pytest.raises(ChangedVideoError):
            continued("bytes 40-109/*", 70)

    @pytest.mark.parametrize(
        ("content_range", "length"),
        [
            ("", 60),
            ("bytes 41-99/100", 59),
            ("bytes 40-99/100", 59),
            ("bytes 40-39/100", 0),
            ("bytes 40-100/100", 61),
            ("bytes 40-109/110", 70),
            ("bytes 40-99/100, 0-1/100", 60),
            ("items 40-99/100", 60),
            ("bytes ٤٠-99/100", 60),
        ],
    )
    def test_part_at_another_offset_restarts(self, content_range, length):
        with pytest.raises(ChangedVideoError):
            continued(content_range, length)

    @pytest.mark.parametrize(
        ("known", "received"),
        [
            (KNOWN, {"ETag": '"b"'}),
            (KNOWN, {"ETag": 'W/"b"'}),
            (
                Validators('W/"a"', OLD, 100, is_dated=True),
                {"ETag": 'W/"b"', "Last_Modified": OLD, "Date": NOW},
            ),
            (Validators(None, OLD, 100, is_dated=True), {"Last_Modified": NOW, "Date": NOW}),
            (Validators(None, OLD, 100, is_dated=True), {"Last_Modified": NOW}),
            (Validators('W/"a"', OLD, 100), {"ETag": 'W/"a"', "Last_Modified": NOW}),
            (Validators('"a"', OLD, 100), {"ETag": 'W/"a"', "Last_Modified": NOW}),
            (KNOWN, {"Content_Encoding": "gzip"}),
        ],
    )
    def test_part_of_another_version_restarts(self, known, received):
        with pytest.raises(
            ChangedVideoError, match=r"^the media host sent a part of another version of the video$"
        ):
            continued(known=known, **received)

    @pytest.mark.parametrize(
        "received", [{"ETag": '"a"', "Last_Modified": NOW}, {"ETag": 'W/"a"'}, {"Last_Modified": NOW}, {}]
    )
    def test_part_of_same_version_with_fewer_headers(self, received):
        assert (
            continued(
                known=Validators(
                    '"a"', OLD if "ETag" in received and received["ETag"][0] == '"' else None, 100
                ),
                **received,
            ).start
            == 40
        )

    def test_part_with_the_same_weak_validator_resumes(self):
        known = Validators('W/"a"', OLD, 100, is_dated=True)

        assert continued(known=known, ETag='W/"a"').start == 40
        assert continued(known=known, ETag='"a"').start == 40

    def test_part_with_a_malformed_validator_resumes(self):
        assert continued(ETag="b").validators == KNOWN

    @pytest.mark.parametrize("offset", [0, 40])
    def test_part_with_the_whole_file_is_accepted(self, offset):
        received = headers(Content_Range="bytes 0-99/100", ETag='"b"', Content_Type="video/webm")
        part = parse_part(206, received, 100, offset=offset, known=KNOWN)

        assert (part.start, part.validators.size, part.validators.etag) == (0, 100, '"b"')
        assert part.content_type == "video/webm"

    @pytest.mark.parametrize(("content_range", "length"), [("bytes 0-100/100", 101), ("bytes 0-99/100", 60)])
    def test_part_with_a_wrong_length_of_the_whole_file_is_refused(self, content_range, length):
        with pytest.raises(ChangedVideoError):
            parse_part(206, headers(Content_Range=content_range), length)

    @pytest.mark.parametrize(
        ("received", "shown"), [({}, "''"), ({"Content_Range": "items 0-9/9"}, "'items 0-9/9'")]
    )
    def test_error_names_an_unreadable_range(self, received, shown):
        """A response with several ranges has no ``Content-Range`` (RFC 9110, section 15.3.7.2)."""
        with pytest.raises(ChangedVideoError, match=rf"not requested \({shown}\)"):
            parse_part(206, headers(**received), 60, offset=40, known=KNOWN)

    def test_part_without_a_range_request_is_refused(self):
        with pytest.raises(ChangedVideoError, match=r"not requested \('bytes 1-99/100'\)"):
            parse_part(206, headers(Content_Range="bytes 1-99/100"), 99)

    def test_error_names_both_offsets_of_a_wrong_part(self):
        with pytest.raises(ChangedVideoError, match=r"part \('bytes 41-99/100'\) than the one from byte 40"):
            continued("bytes 41-99/100", 59)

    def test_response_416_at_the_end_completes(self):
        received = headers(Content_Range="bytes */100", ETag='"a"')

        part = parse_part(416, received, 0, offset=100, known=Validators('"a"', OLD))

        assert (part.start, part.validators) == (100, Validators('"a"', OLD, 100))

    def test_response_416_needs_no_content_coding(self):
        """It has no part of the video, so that it cannot contradict the coding of the first response."""
        known = Validators('"a"', OLD, 100, coding="gzip")

        assert parse_part(416, headers(Content_Range="bytes */100"), 0, offset=100, known=known).start == 100

    def test_response_416_without_a_size_restarts(self):
        with pytest.raises(ChangedVideoError, match="no data from byte 100"):
            parse_part(416, headers(), 0, offset=100, known=KNOWN)

    @pytest.mark.parametrize("content_range", ["bytes */99", "bytes */110", "", "bytes */*", "bytes */١٠٠"])
    def test_response_416_with_another_size_restarts(self, content_range):
        with pytest.raises(ChangedVideoError, match="no data from byte 100"):
            parse_part(416, headers(Content_Range=content_range), 0, offset=100, known=KNOWN)


def judged(body, *, announced=True, accepted=frozenset({Container.MP4})):
    return judge(
        lambda start, count: body[start : start + count],
        len(body),
        len(body) if announced else None,
        accepted,
    )


EBML = b"\x1a\x45\xdf\xa3\x84" + bytes(4)
SEGMENT = b"\x18\x53\x80\x67"
WEBM = EBML + SEGMENT + b"\x40\x64" + bytes(100)
LONG_WEBM = EBML + SEGMENT + b"\x01" + bytes(6) + b"\x64" + bytes(100)
OPEN_WEBM = EBML + SEGMENT + b"\x01" + b"\xff" * 7 + bytes(100)


class TestHead:
    @pytest.mark.parametrize(
        "head",
        [
            b"<html><body>", b" \n<!DOCTYPE html>", b"<?xml version='1.0'?>", b'{"code":403}', b"[1]", b"Not found",
            "\ufeff<html>".encode(), "<html>".encode("utf-16"), "\ufeff<html>".encode("utf-16-be"),
            "{\"消息\": 1}".encode(), "🎬🎬".encode()[:-1], b"",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("content_type", ["text/html", None, "video/mp4"])
    def test_text_or_empty_head_is_no_video(self, head, content_type):
        with pytest.raises(NoVideoError, match="instead of the video"):
            check_head(head, content_type, "")

    @pytest.mark.parametrize(
        ("content_type", "shown"),
        [("text/html; charset=x", "text/html; charset=x"), (None, "no media type"), ("", "no media type")],
    )
    def test_error_of_a_text_head_names_the_media_type(self, content_type, shown):
        with pytest.raises(NoVideoError, match=rf"no video \({shown}\) instead of the video"):
            check_head(b"<html>", content_type, "")

    def test_error_of_an_empty_body_names_the_cause(self):
        with pytest.raises(NoVideoError, match=r"^the media host sent an empty body instead of the video$"):
            check_head(b"", "video/mp4", "")

    @pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=x", "application/problem+xml"])
    def test_head_with_text_content_type_is_no_video(self, kind):
        with pytest.raises(NoVideoError):
            check_head(b"\0\1\2\3", kind, "")

    def test_compressed_body_is_refused(self):
        """It was not requested, and could unpack to gigabytes."""
        with pytest.raises(BrokenTransferError, match=r"compressed the video \(gzip\)"):
            check_head(b"\x1f\x8b" + bytes(40), "video/mp4", "gzip")

    @pytest.mark.parametrize(
        "head",
        [
            b"\0\0\0\x18ftypisom", b"\x1a\x45\xdf\xa3", b"\0\0\0\x08wide", b"\0\xff\1",
            b"abc\xff\xff\xff\xff", b"abc\x0e", b"abc\x1f",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("content_type", ["video/mp4", None, "application/octet-stream"])
    def test_binary_head_is_accepted_with_any_content_coding(self, head, content_type):
        check_head(head, content_type, "gzip" if containers_of(head) else "")


class TestContainer:
    @pytest.mark.parametrize(
        ("head", "containers"),
        [
            (b"\0\0\0\x18ftypisom\0\0\2\0", {"mp4"}),
            (b"\0\0\0\x14ftypqt  \0\0\2\0", {"mp4", "quicktime"}),
            (b"\0\0\0\x08wide\0\0\2\0mdat", {"quicktime"}),
            (EBML, {"webm"}),
            (b"\0\0\0\x08free"[:7], set()),
            (b"RIFF\0\0\0\0AVI LIST", set()),
            (b"", set()),
        ],
    )
    def test_containers_are_detected_from_the_first_bytes(self, head, containers):
        assert containers_of(head) == containers

    @pytest.mark.parametrize(
        ("wanted", "content_type", "accepted"),
        [
            (None, None, {"mp4"}),
            (None, "video/webm; codecs=vp9", {"mp4", "webm"}),
            (None, "video/quicktime", {"mp4", "quicktime"}),
            (("webm",), "video/mp4", {"webm"}),
        ],
    )
    def test_accepted_containers_depend_on_content_type(self, wanted, content_type, accepted):
        assert accepted_containers(wanted, content_type) == accepted

    @pytest.mark.parametrize(
        ("body", "announced", "state"),
        [
            (WEBM, True, State.WHOLE),
            (WEBM, False, State.WHOLE),
            (WEBM[:-1], True, State.INCOMPLETE),
            (WEBM[:-1], False, State.INCOMPLETE),
            (OPEN_WEBM, True, State.WHOLE),
            (OPEN_WEBM, False, State.INCOMPLETE),
            (LONG_WEBM, False, State.WHOLE),
            (LONG_WEBM[:-1], False, State.INCOMPLETE),
            (EBML + SEGMENT + b"\x01" + bytes(6) + b"\x01", True, State.INCOMPLETE),
        ],
    )
    def test_webm_is_judged_by_its_segment(self, body, announced, state):
        assert judged(body, announced=announced, accepted={Container.WEBM}).state is state

    def test_webm_reason_names_the_length_or_its_absence(self):
        assert judged(WEBM[:-1], accepted={Container.WEBM}).reason == (
            f"the WebM is longer than the body, which ended after {len(WEBM) - 1} bytes"
        )
        assert judged(OPEN_WEBM, announced=False, accepted={Container.WEBM}).reason == (
            "no length was announced, and the WebM does not show where it ends"
        )

    @pytest.mark.parametrize(
        "body",
        [
            EBML + bytes(100),
            EBML[:4],
            EBML[:5],
            EBML[:4] + b"\0" + SEGMENT + b"\x80",
            EBML[:4] + b"\xff" + SEGMENT + b"\x80",
            EBML[:4] + b"\x01" + b"\x7f" * 7 + SEGMENT + b"\x80",
            EBML + SEGMENT,
            EBML + SEGMENT + bytes(100),
            EBML + SEGMENT + b"\x20\x64",
        ],
        ids=[
            "no segment",
            "magic number only",
            "header cut off",
            "zero as length of the header",
            "header of unknown length",
            "header longer than the file",
            "segment without length",
            "zero as length of the segment",
            "length of the segment cut off",
        ],
    )
    def test_webm_without_a_readable_segment_is_unknown(self, body):
        found = judged(body, accepted={Container.WEBM})

        assert found.state is State.UNKNOWN
        assert found.reason == "the WebM has no readable segment"

    def test_mp4_is_judged_by_its_tables(self):
        body = Video("v", 2.0).read(0, 10**9)

        assert judged(body, announced=False).state is State.WHOLE
        assert judged(body[:-1]).state is State.INCOMPLETE

    def test_container_of_another_kind_is_unknown(self):
        found = judged(b"\0\0\0\x14ftypqt  ", accepted={Container.WEBM})

        assert found.state is State.UNKNOWN
        assert found.reason.startswith("the body is a mp4/quicktime file, and accepted are webm.")

    def test_reason_of_another_container_names_the_remedy(self):
        found = judged(WEBM, accepted={Container.MP4, Container.QUICKTIME})

        assert "a webm file, and accepted are mp4, quicktime. Set the argument containers" in found.reason

    def test_unknown_container_needs_an_announced_length(self):
        assert judged(bytes(100)).state is State.UNKNOWN
        assert judged(bytes(100)).reason == "the body is no MP4, QuickTime or WebM file"
        assert judged(bytes(100), announced=False).state is State.INCOMPLETE

    def test_error_names_both_lengths_of_a_short_body(self):
        found = judge(io.BytesIO(WEBM).read, len(WEBM), len(WEBM) + 1, {Container.WEBM})

        assert found.state is State.INCOMPLETE
        assert found.reason == f"the body ended after {len(WEBM)} of {len(WEBM) + 1} bytes"


PASSWORD = "The URL of the video has a user name or a password."
UNREADABLE = "The URL of the video could not be parsed."
NO_HOST = "The URL of the video names no valid host."
REPORT = "Report the id of the video to the support of the service."


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "target"),
        [
            ("https://h/a%2fb%3d.mp4?x=%3D%3d&y=+a%20b", "/a%2fb%3d.mp4?x=%3D%3d&y=+a%20b"),
            ("https://h/a/../b//c/./d;x?q=[1]|{2}", "/a/../b//c/./d;x?q=[1]|{2}"),
            ("https://h:8443?q=1#part", "/?q=1"),
            ("https://h", "/"),
            ("https://h/?", "/?"),
            ("https://h/é b?%", "/%C3%A9%20b?%"),
            ("https://h/a?u=http://x/y", "/a?u=http://x/y"),
            ('https://h/my "a"|\\b.mp4?s=a b%20c%2F', '/my%20"a"|\\b.mp4?s=a%20b%20c%2F'),
        ],
    )
    def test_request_target_has_the_bytes_of_the_url(self, url, target):
        assert request_target(url) == target

    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("ftp://h/a", "The video is at a 'ftp' URL; only http and https are fetched."),
            ("file:///etc/passwd", "The video is at a 'file' URL; only http and https are fetched."),
            ("https://", NO_HOST),
            ("https://user:pw@h/a", PASSWORD),
            ("https://h:x/a", UNREADABLE),
            ("https://[::1/a", UNREADABLE),
            ("https://good.example@evil.example/a", PASSWORD),
            ("https://good.example\\@evil.example/a", PASSWORD),
            ("https://good.example\\.evil.example/a", NO_HOST),
            ("https://good.example%2eevil.example/a", NO_HOST),
            ("https://127%2e0%2e0%2e1/a", NO_HOST),
            ("https://[fe80::1%25eth0]/a", NO_HOST),
            ("https://evil.example\x00.good.example/a", NO_HOST),
            ("https://evil.example\x1b(0/a", NO_HOST),
            ("https://gpj.\u202eexample/a", UNREADABLE),
            ("https://a b/a", NO_HOST),
            ("https://good.example\u2100evil.example/a", UNREADABLE),
            ("https://h:８０/a", UNREADABLE),
        ],
    )
    def test_unsafe_url_is_refused(self, url, problem):
        with pytest.raises(ManxueUnsafeUrlError) as caught:
            parse_url(url)
        assert str(caught.value) == f"{problem} {REPORT}"
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            ("bücher.example:81", "xn--bcher-kva.example:81"),
            ("１２７.0.0.1", "127.0.0.1"),
            ("127。0。0。1", "127.0.0.1"),
            ("ⓛocalhost", "localhost"),
            ("Media.Example", "Media.Example"),
        ],
    )
    def test_host_is_converted_to_ascii(self, host, expected):
        assert parse_url(f"https://{host}/a").netloc == expected

    @pytest.mark.parametrize(
        ("url", "location", "target"),
        [
            ("https://a/x?s=1", "https://b/y%2f?t=%3d", "https://b/y%2f?t=%3d"),
            ("https://a/x/y", "../z?q", "https://a/z?q"),
            ("https://a/x", "HTTPS://b/y?", "HTTPS://b/y?"),
            ("http://a/x", "//b/y", "http://b/y"),
            ("http://a/x", "https://b/y", "https://b/y"),
            ("https://a/x", " \t/y\n", "https://a/y"),
            ("https://a/x", "https:\\\\b\\y?c\\d", "https://b/y?c\\d"),
            ("https://a/x", "/\\b/y", "https://b/y"),
            ("https://a/x", "///b/y", "https://b/y"),
            ("https://a/x", "https:/b/y", "https://b/y"),
            ("https://a/x", "https:b/y", "https://b/y"),
            ("https://a/x", "htt\nps://b/y", "https://b/y"),
            ("https://a/x", "/v\u00c3\u00a9.mp4", "https://a/v\u00e9.mp4"),
            ("https://a/x", "/v\u00e9.mp4", "https://a/v%E9.mp4"),
            ("https://a/x", "/v\u00e9.mp4?s=(1)&t=a b", "https://a/v%E9.mp4?s=(1)&t=a b"),
            ("https://a/x", "/\u20acx", "https://a/?x"),
            ("https://a/x", "HTTPS:/b/y", "HTTPS://b/y"),
            ("https://a/x", "https:\n//b/y", "https://b/y"),
            ("https://a/x", "\x01/y\x1f", "https://a/y"),
            ("https://a/x", "\x01https:/b/y", "https://b/y"),
            ("https://a/x", "/X/yX", "https://a/X/yX"),
            ("https://a/x", "/y!", "https://a/y!"),
        ],
    )
    def test_redirect_target_is_resolved(self, url, location, target):
        assert next_hop(url, location) == target

    @pytest.mark.parametrize(
        ("location", "problem"),
        [
            (None, "The media host responded with a redirect without a target."),
            ("", "The media host responded with a redirect without a target."),
            ("http://b/y", "The media host responded with a redirect from https to http."),
            ("file:///etc/passwd", "The video is at a 'file' URL; only http and https are fetched."),
            ("//[::1/y", "The media host responded with a redirect that could not be parsed."),
            ("javascript:x", "The video is at a 'javascript' URL; only http and https are fetched."),
        ],
    )
    def test_redirect_target_is_refused(self, location, problem):
        with pytest.raises(ManxueUnsafeUrlError) as caught:
            next_hop("https://a/x", location)
        assert str(caught.value) == f"{problem} {REPORT}"


class TestAddress:
    @pytest.mark.parametrize(
        "address", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
    )
    def test_public_address(self, address):
        assert is_public(address)

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
            "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1",
            "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::127.0.0.1", "::ffff:0:127.0.0.1",
            "100.100.100.200", "192.0.0.192", "192.0.0.9", "192.88.99.1", "168.63.129.16", "198.18.0.1", "203.0.113.1",
            "fd00:ec2::254", "64:ff9b::a00:1", "2002:a9fe:a9fe::", "3fff::1", "2620:4f:8000::1", "2a00::5efe:10.0.0.1",
            "2001:db8::1", "2001:20::1", "64:ff9b:1::a9fe:a9fe", "fec0::1", "5f00::1", "2001:0:7f00:1::",
        ],
    )  # fmt: skip
    def test_non_public_address(self, address):
        assert not is_public(address)

    @pytest.mark.parametrize(
        ("host", "address"),
        [
            ("127.0.0.1", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("0x7f000001", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("LOCALHOST", "127.0.0.1"),
            ("a.localhost", "127.0.0.1"),
            ("localhost.", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("0177.0.0.1", "127.0.0.1"),
            ("0", "0.0.0.0"),
            ("::ffff:127.0.0.1", "::ffff:7f00:1"),
            ("::1", "::1"),
            ("media.example.com", None),
            ("127.0.0.1X", None),
            ("bücher.example", None),
        ],
    )
    def test_address_is_found_in_a_host_name(self, host, address):
        found = literal_address(host)
        assert found if address else found is None
        # Python versions write an IPv6 address that contains an IPv4 address differently.
        assert not address or ipaddress.ip_address(found) == ipaddress.ip_address(address)


class TestPolicy:
    @pytest.mark.parametrize("value", [None, 1, "10.0.0.0/8", ["http://a/"], [1], ["10.0.0.0/40"], [""]])
    def test_invalid_policy_is_refused(self, value):
        with pytest.raises(ManxueInputError, match="allow_private_addresses must be"):
            AddressPolicy.parse(value)

    def test_policy_true_allows_every_address(self):
        assert AddressPolicy.parse(True).allowed("h", ["10.0.0.1"]) == ["10.0.0.1"]

    def test_policy_of_ipv4_network_covers_mapped_ipv6(self):
        assert AddressPolicy.parse(["10.0.0.0/8"]).allowed("h", ["::ffff:10.0.0.1", "::1"]) == [
            "::ffff:10.0.0.1"
        ]

    @pytest.mark.parametrize(
        ("entry", "host"),
        [
            ("Media.Internal_1", "media.internal_1"),
            ("media", "MEDIA."),
            (" media. ", "media"),
        ],
    )
    def test_policy_of_host_names_ignores_case_and_final_dot(self, entry, host):
        assert AddressPolicy.parse([entry]).allowed(host, ["10.0.0.1"]) == ["10.0.0.1"]

    @pytest.mark.parametrize("host", ["other", "medi", "x.media", ".media"])
    def test_policy_of_a_host_name_covers_no_other_host(self, host):
        with pytest.raises(ManxueUnsafeUrlError):
            AddressPolicy.parse(["media", "mediX"]).allowed(host, ["10.0.0.1"])

    @pytest.mark.parametrize(
        ("entry", "address"),
        [("10.1.2.3/8", "10.9.9.9"), ("[fd00::1]", "fd00::1"), (" 10.0.0.1 ", "10.0.0.1")],
    )
    def test_policy_of_an_address_in_its_usual_spellings(self, entry, address):
        assert AddressPolicy.parse((entry,)).allowed("h", [address]) == [address]

    @pytest.mark.parametrize(
        ("service", "address"),
        [
            ("10.0.0.5", "10.0.0.5"),
            ("127.1", "127.0.0.1"),
            ("Localhost", "127.0.0.1"),
            ("localhost", "::1"),
            ("fd00::1", "fd00::1"),
        ],
    )
    def test_policy_allows_the_address_of_the_service(self, service, address):
        assert AddressPolicy.parse(False, service).allowed("h", [address]) == [address]

    @pytest.mark.parametrize(
        ("service", "address"),
        [("10.0.0.5", "10.0.0.6"), ("10.0.0.5", "127.0.0.1"), ("127.0.0.1", "::1"), ("service", "10.0.0.5")],
    )
    def test_policy_allows_no_other_private_address(self, service, address):
        with pytest.raises(ManxueUnsafeUrlError):
            AddressPolicy.parse(False, service).allowed("service", [address])

    def test_error_of_a_policy_names_the_addresses_and_the_remedy(self):
        with pytest.raises(
            ManxueUnsafeUrlError,
            match=r"on h, whose address \(10\.0\.0\.1, ::1\) is not public.*allow_private_addresses=\['h'\]",
        ):
            AddressPolicy().allowed("h", ["10.0.0.1", "::1"])


class TestMediaType:
    @pytest.mark.parametrize("named", ["video/mp4", "Video/MP4; codecs=avc1", " video/quicktime "])
    def test_media_type_of_a_video_is_returned(self, named):
        assert video_type(named) == named.partition(";")[0].strip().lower()

    @pytest.mark.parametrize(
        "named",
        [
            None,
            "",
            "text/html",
            "image/svg+xml",
            "video/",
            "video/mp4\r\n X: y",
            "video/\x00",
            f"video/{'a' * 101}",
        ],
    )
    def test_media_type_of_anything_else_is_none(self, named):
        assert video_type(named) is None


class TestRetries:
    def test_delays_double_and_end(self):
        retries = Retries()
        pauses = [retries.pause_after(BrokenTransferError("cut"), 0) for _ in range(9)]

        assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60], rel=0.25)
        with pytest.raises(ManxueDownloadError, match=r"cut\. There was no progress in 10 attempts\. Retry"):
            retries.pause_after(BrokenTransferError("cut"), 0)

    @pytest.mark.parametrize(("edge", "first"), [(min, 0.75), (max, 1.25)])
    def test_delays_have_jitter(self, monkeypatch, edge, first):
        """Tasks whose downloads broke at the same time must not retry at the same time."""
        monkeypatch.setattr("random.uniform", lambda *bounds: edge(bounds))
        retries = Retries()

        assert [retries.pause_after(BrokenTransferError("cut"), 0) for _ in range(3)] == [
            first,
            2 * first,
            4 * first,
        ]

    def test_delays_restart_after_the_first_byte(self):
        """A received byte shows that the media host works again, so that earlier failures no longer count."""
        retries = Retries()
        for _ in range(9):
            retries.pause_after(BrokenTransferError("cut"), 0)

        assert retries.pause_after(BrokenTransferError("cut"), 1) < 2

    def test_delays_restart_with_progress(self):
        """A connection that breaks often must not end a download that proceeds."""
        retries = Retries()
        for received in range(1, 100):
            assert retries.pause_after(BrokenTransferError("cut"), received) < 2

    def test_repeated_bytes_are_no_progress(self):
        """Otherwise a host that ignores ranges and always breaks off would be retried until the timeout."""
        retries = Retries()
        for received in [50, 30, 40, 50, 20, 50, 50, 50, 50]:
            retries.pause_after(BrokenTransferError("cut"), received)
        with pytest.raises(ManxueDownloadError):
            retries.pause_after(BrokenTransferError("cut"), 50)

    def test_new_url_is_used_without_delay(self):
        """An expired URL is no sign of an overloaded host. If its successor is refused as well, delays begin."""
        retries = Retries()

        assert retries.pause_after(ExpiredUrlError("403"), 0) == 0
        assert retries.pause_after(ExpiredUrlError("403"), 0) > 1

    def test_page_counts_as_an_expired_url_once(self):
        """Some hosts respond to an expired URL with a page. A page from a new URL has another cause."""
        retries = Retries()

        assert retries.pause_after(NoVideoError("a page"), 0) == 0
        with pytest.raises(ManxueDownloadError, match=r"a page, also from a new URL\. Retry"):
            retries.pause_after(NoVideoError("a page"), 0)

    def test_page_after_progress_counts_as_an_expired_url(self):
        retries = Retries()
        retries.pause_after(NoVideoError("a page"), 0)

        assert retries.pause_after(NoVideoError("a page"), 10) == 0

    def test_retry_after_is_respected_up_to_a_cap(self):
        assert Retries().pause_after(BrokenTransferError("429", 70), 0) == 70
        assert Retries().pause_after(BrokenTransferError("429", 86400), 0) == 900

    def test_outage_of_the_service_has_no_attempt_limit(self):
        retries = Retries()
        for _ in range(2000):
            assert retries.pause_after(ManxueTransientError("503"), 0) < 80
        assert retries.pause_after(BrokenTransferError("cut"), 0) > 1
