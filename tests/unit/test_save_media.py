"""What an answer of a media host means, what a whole video is, and where a download may go."""

from __future__ import annotations

import io
import ipaddress
from email.message import Message

import pytest

from airflow_provider_manxue.exceptions import (
    ManxueDownloadError,
    ManxueTransientError,
    ManxueUnsafeUrlError,
)
from airflow_provider_manxue.media import (
    BrokenTransferError,
    ChangedVideoError,
    DeadUrlError,
    Retries,
    Version,
    check_head,
    is_public,
    is_redirect,
    literal_address,
    next_hop,
    read_part,
    read_url,
    request_target,
    video_type,
    why_incomplete,
)

OLD = "Tue, 01 Jan 2030 00:00:00 GMT"
NOW = "Tue, 01 Jan 2030 00:00:10 GMT"
KNOWN = Version('"a"', None, 100)


def headers(**values):
    message = Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


def continued(content_range="bytes 40-99/100", length=60, known=KNOWN, **values):
    return read_part(206, headers(Content_Range=content_range, **values), length, offset=40, known=known)


class TestAnswer:
    def test_brings_the_whole(self):
        part = read_part(200, headers(ETag='"a"', Content_Type="video/mp4"), 100)

        assert (part.start, part.version, part.content_type) == (0, KNOWN, "video/mp4")

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_of_a_dead_url(self, status):
        with pytest.raises(DeadUrlError, match=str(status)):
            read_part(status, headers(), None)

    @pytest.mark.parametrize("status", [204, 304, 400, 408, 416, 429, 500, 503])
    def test_without_a_video(self, status):
        with pytest.raises(BrokenTransferError, match=str(status)):
            read_part(status, headers(), None)

    def test_may_ask_for_patience(self):
        with pytest.raises(BrokenTransferError) as caught:
            read_part(503, headers(Retry_After="70"), None)

        assert caught.value.retry_after == 70

    def test_may_ask_for_patience_until_a_moment(self):
        with pytest.raises(BrokenTransferError) as caught:
            read_part(503, headers(Retry_After=NOW), None, now=1_893_456_000)

        assert caught.value.retry_after == 10

    @pytest.mark.parametrize("status", [200, 206])
    def test_in_a_coding_is_refused(self, status):
        with pytest.raises(BrokenTransferError, match=r"compressed the video \(gzip\)"):
            read_part(status, headers(Content_Encoding="gzip"), 100)

    @pytest.mark.parametrize("coding", ["Identity", ""])
    def test_may_say_that_there_is_no_coding(self, coding):
        assert read_part(200, headers(Content_Encoding=coding), 100).start == 0

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_may_lead_elsewhere(self, status):
        assert is_redirect(status)

    @pytest.mark.parametrize("status", [200, 206, 300, 304, 305, 306, 404])
    def test_may_lead_nowhere_else(self, status):
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
    def test_is_strong(self, values, validator):
        assert read_part(200, headers(**values), 100).version.validator == validator


class TestContinuation:
    def test_goes_on(self):
        assert continued(ETag='"a"').version == KNOWN
        assert continued().start == 40

    def test_keeps_what_the_first_answer_said(self):
        part = continued(known=Version(None, OLD, 100), Content_Type="video/mp4")

        assert (part.version, part.content_type) == (Version(None, OLD, 100), "video/mp4")

    def test_may_be_a_single_byte(self):
        assert continued("bytes 40-40/100", 1).start == 40

    def test_may_be_a_part_of_the_rest(self):
        assert continued("bytes 40-59/100", 20).start == 40

    def test_may_tell_the_length_that_was_not_known(self):
        assert continued(known=Version('"a"')).version.size == 100

    def test_may_leave_out_the_length(self):
        assert continued("bytes 40-99/*", None).version.size == 100
        assert continued("bytes 40-99/*", None, known=Version('"a"')).version.size is None

    @pytest.mark.parametrize(
        ("content_range", "length"),
        [
            ("", 60),
            ("bytes 0-99/100", 100),
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
    def test_at_another_place_starts_anew(self, content_range, length):
        with pytest.raises(ChangedVideoError):
            continued(content_range, length)

    def test_of_another_version_starts_anew(self):
        with pytest.raises(
            ChangedVideoError, match=r"^the media host sent a part of another version of the video$"
        ):
            continued(ETag='"b"')
        with pytest.raises(ChangedVideoError, match="another version"):
            continued(known=Version(None, OLD, 100), Last_Modified=NOW, Date="Tue, 01 Jan 2030 00:01:00 GMT")

    def test_that_was_not_asked_for_is_refused(self):
        with pytest.raises(ChangedVideoError, match=r"not asked for \('bytes 0-99/100'\)"):
            read_part(206, headers(Content_Range="bytes 0-99/100"), 100)

    def test_at_another_place_is_told_with_both(self):
        with pytest.raises(ChangedVideoError, match=r"part \('bytes 41-99/100'\) than the one from byte 40"):
            continued("bytes 41-99/100", 59)

    def test_at_the_very_end_completes(self):
        said = headers(Content_Range="bytes */100", ETag='"a"')

        part = read_part(416, said, 0, offset=100, known=Version('"a"', OLD))

        assert (part.start, part.version) == (100, Version('"a"', OLD, 100))

    @pytest.mark.parametrize("content_range", ["bytes */99", "bytes */110", "", "bytes */*", "bytes */١٠٠"])
    def test_beyond_the_end_starts_anew(self, content_range):
        with pytest.raises(ChangedVideoError, match="nothing from byte 100"):
            read_part(416, headers(Content_Range=content_range), 0, offset=100, known=KNOWN)


def box(kind, size=8):
    return size.to_bytes(4) + kind + bytes(max(0, size - 8))


FTYP, MOOV, MDAT = box(b"ftyp", 24), box(b"moov", 40), box(b"mdat", 100)
WHOLE = FTYP + MOOV + MDAT
LARGE = b"\0\0\0\1mdat" + (116).to_bytes(8) + bytes(100)
OPEN = b"\0\0\0\0mdat" + bytes(100)


def incomplete(body, announced=None):
    file = io.BytesIO(body)

    def read_at(place, count):
        file.seek(place)
        return file.read(count)

    return why_incomplete(read_at, len(body), announced)


class TestWholeVideo:
    @pytest.mark.parametrize(
        "body", [WHOLE, FTYP + MDAT + MOOV, FTYP + LARGE + MOOV, WHOLE + box(b"free"), MOOV + MDAT]
    )
    def test_ends_with_its_last_box(self, body):
        assert incomplete(body) is None
        assert incomplete(body, len(body)) is None

    @pytest.mark.parametrize("announced", [True, False])
    @pytest.mark.parametrize("cut", [1, 7, 8, 50, 92, 99])
    def test_does_not_end_within_a_box(self, cut, announced):
        body = (FTYP + MOOV + LARGE)[:-cut]

        assert "longer than the body" in incomplete(body, len(body) if announced else None)

    @pytest.mark.parametrize("cut", range(1, 8))
    def test_does_not_end_within_a_header(self, cut):
        assert "longer than the body" in incomplete(WHOLE + box(b"free")[:-cut])

    def test_does_not_end_within_a_box_of_any_length(self):
        body = FTYP + MOOV + b"\0\0\0\1mdat" + (2**56).to_bytes(8) + bytes(100)

        assert "longer than the body" in incomplete(body, len(body))

    def test_meets_its_announced_length(self):
        assert (
            incomplete(WHOLE, len(WHOLE) + 1)
            == f"the body ended after {len(WHOLE)} of {len(WHOLE) + 1} bytes"
        )

    @pytest.mark.parametrize(
        "tail", [OPEN, MDAT + bytes(20), MDAT + b"\0\0\0\7free", MDAT + b"\0\0\0\x20\1\2\3\4" + bytes(24)]
    )
    def test_without_a_visible_end_needs_an_announced_length(self, tail):
        body = FTYP + MOOV + tail

        assert incomplete(body, len(body)) is None
        assert "no length was announced" in incomplete(body)

    @pytest.mark.parametrize("body", [FTYP, FTYP + MDAT, FTYP + MOOV, b""])
    def test_has_more_than_its_first_boxes(self, body):
        assert "no length was announced" in incomplete(body)

    def test_of_countless_boxes_is_not_walked_for_ever(self):
        assert "no length was announced" in incomplete(WHOLE + box(b"free") * 100_000)

    @pytest.mark.parametrize("head", [b"<html><body>", b'{"code":403}', bytes(12), b"\0\0\0\x18"])
    @pytest.mark.parametrize(
        ("content_type", "kind"), [("text/html", "text/html"), (None, "no media type"), ("a\nb", "a b")]
    )
    def test_is_no_error_page(self, head, content_type, kind):
        with pytest.raises(
            BrokenTransferError, match=rf"sent a body that is no MP4 \({kind}\) instead of the"
        ):
            check_head(head, content_type)

    def test_is_not_empty(self):
        with pytest.raises(BrokenTransferError, match="sent an empty body instead of the video"):
            check_head(b"", "video/mp4")

    def test_that_begins_as_one_is_taken_for_one(self):
        check_head(WHOLE[:12], None)


PASSWORD = "The URL of the video holds a user name or a password."
UNREADABLE = "The URL of the video cannot be read."
NO_HOST = "The URL of the video names no valid host."


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
    def test_is_asked_for_byte_for_byte(self, url, target):
        assert request_target(url) == target

    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("ftp://h/a", "The video is at a 'ftp' URL; only http and https are fetched."),
            ("file:///etc/passwd", "The video is at a 'file' URL; only http and https are fetched."),
            ("https://", "The video is at a 'https' URL; only http and https are fetched."),
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
    def test_must_be_one_of_the_web(self, url, problem):
        with pytest.raises(ManxueUnsafeUrlError) as caught:
            read_url(url)
        assert str(caught.value) == problem
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        ("host", "asked"),
        [
            ("bücher.example:81", "xn--bcher-kva.example:81"),
            ("１２７.0.0.1", "127.0.0.1"),
            ("127。0。0。1", "127.0.0.1"),
            ("ⓛocalhost", "localhost"),
            ("Media.Example", "Media.Example"),
        ],
    )
    def test_names_its_host_as_name_servers_and_proxies_are_asked(self, host, asked):
        assert read_url(f"https://{host}/a").netloc == asked

    @pytest.mark.parametrize(
        ("url", "location", "target"),
        [
            ("https://a/x?s=1", "https://b/y%2f?t=%3d", "https://b/y%2f?t=%3d"),
            ("https://a/x/y", "../z?q", "https://a/z?q"),
            ("https://a/x", "HTTPS://b/y?", "HTTPS://b/y?"),
            ("http://a/x", "//b/y", "http://b/y"),
            ("http://a/x", "https://b/y", "https://b/y"),
        ],
    )
    def test_of_a_redirect(self, url, location, target):
        assert next_hop(url, location) == target

    @pytest.mark.parametrize(
        ("location", "problem"),
        [
            (None, "The media host answered with a redirect that leads nowhere."),
            ("", "The media host answered with a redirect that leads nowhere."),
            ("http://b/y", "The media host answered with a redirect from https to http."),
            ("file:///etc/passwd", "The video is at a 'file' URL; only http and https are fetched."),
            ("javascript:x", "The video is at a 'javascript' URL; only http and https are fetched."),
        ],
    )
    def test_of_a_redirect_that_is_not_followed(self, location, problem):
        with pytest.raises(ManxueUnsafeUrlError) as caught:
            next_hop("https://a/x", location)
        assert str(caught.value) == problem


class TestAddress:
    @pytest.mark.parametrize(
        "address", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"]
    )
    def test_is_public(self, address):
        assert is_public(address)

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
            "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1",
            "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::127.0.0.1", "::ffff:0:127.0.0.1",
            "64:ff9b:1::a9fe:a9fe", "fec0::1", "5f00::1", "2001:0:7f00:1::",
        ],
    )  # fmt: skip
    def test_is_not_public(self, address):
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
    def test_may_stand_in_a_name(self, host, address):
        found = literal_address(host)
        assert found if address else found is None
        # Versions of Python differ in how they write an IPv6 address that wraps an IPv4 one.
        assert not address or ipaddress.ip_address(found) == ipaddress.ip_address(address)


class TestMediaType:
    @pytest.mark.parametrize("named", ["video/mp4", "Video/MP4; codecs=avc1", " video/quicktime "])
    def test_of_a_video_is_kept(self, named):
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
    def test_of_anything_else_is_not(self, named):
        assert video_type(named) is None


class TestRetries:
    def test_wait_longer_each_time_and_end(self):
        retries = Retries()
        pauses = [retries.pause_after(BrokenTransferError("cut"), 0) for _ in range(9)]

        assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60], rel=0.25)
        with pytest.raises(ManxueDownloadError, match=r"cut\. There was no progress in 10 attempts"):
            retries.pause_after(BrokenTransferError("cut"), 0)

    @pytest.mark.parametrize(("edge", "first"), [(min, 0.75), (max, 1.25)])
    def test_spread_their_pauses(self, monkeypatch, edge, first):
        monkeypatch.setattr("random.uniform", lambda *bounds: edge(bounds))
        retries = Retries()

        assert [retries.pause_after(BrokenTransferError("cut"), 0) for _ in range(3)] == [
            first,
            2 * first,
            4 * first,
        ]

    def test_begin_again_with_the_first_byte(self):
        retries = Retries()
        for _ in range(9):
            retries.pause_after(BrokenTransferError("cut"), 0)

        assert retries.pause_after(BrokenTransferError("cut"), 1) < 2

    def test_begin_again_with_progress(self):
        retries = Retries()
        for received in range(1, 100):
            assert retries.pause_after(BrokenTransferError("cut"), received) < 2

    def test_take_no_repetition_for_progress(self):
        retries = Retries()
        for received in [50, 30, 40, 50, 20, 50, 50, 50, 50]:
            retries.pause_after(BrokenTransferError("cut"), received)
        with pytest.raises(ManxueDownloadError):
            retries.pause_after(BrokenTransferError("cut"), 50)

    def test_use_a_new_url_at_once(self):
        retries = Retries()

        assert retries.pause_after(DeadUrlError("403"), 0) == 0
        assert retries.pause_after(DeadUrlError("403"), 0) > 1

    def test_heed_the_server_within_limits(self):
        assert Retries().pause_after(BrokenTransferError("429", 70), 0) == 70
        assert Retries().pause_after(BrokenTransferError("429", 86400), 0) == 900

    def test_wait_out_an_outage_of_the_service(self):
        retries = Retries()
        for _ in range(2000):
            assert retries.pause_after(ManxueTransientError("503"), 0) < 80
        assert retries.pause_after(BrokenTransferError("cut"), 0) > 1
