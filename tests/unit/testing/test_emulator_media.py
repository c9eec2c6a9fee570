"""The media host: signatures, expiry, ranges, and faults of downloads."""

from __future__ import annotations

import hashlib

import pytest
import requests

from airflow_provider_manxue.testing import Clock, Emulator, Response, Script


@pytest.fixture
def task_id(emulator):
    return emulator.add_task("completed", id="global task/2")


@pytest.fixture
def url(emulator, task_id):
    return emulator.video_url(task_id)


@pytest.fixture
def content(emulator, task_id):
    video = emulator.task(task_id).video
    return video.read(0, video.size)


def get(url, **headers):
    return requests.get(url, headers=headers, timeout=10, allow_redirects=False)


def test_video_comes_whole(emulator, url, content):
    response = get(url)

    assert (response.status_code, response.content) == (200, content)
    assert response.headers["Content-Length"] == str(len(content))
    assert response.headers["Content-Type"] == "video/mp4"
    assert response.headers["Accept-Ranges"] == "bytes"
    (record,) = emulator.requests
    assert (record.place, record.task_id, record.carries_key) == ("media", "global task/2", False)
    assert record.raw_path == url.removeprefix(emulator.url)


def test_query_has_the_video_url(customer, task_id, content):
    assert get(customer.query(task_id).json()["video_url"]).content == content


def test_head_has_the_size(emulator, url, content):
    response = requests.head(url, timeout=10)

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Length"] == str(len(content))


def test_every_query_returns_a_new_signature(emulator, customer, task_id):
    first = customer.query(task_id).json()["video_url"]
    emulator.clock.advance(1)

    assert customer.query(task_id).json()["video_url"] != first


class TestSignature:
    @pytest.mark.parametrize(
        "change",
        [
            lambda url: url.partition("?")[0],
            lambda url: url.replace("expires=1800", "expires=1900"),
            lambda url: url.replace("expires=", "expires=x"),
            lambda url: url.replace("signature=", "signature=A"),
            lambda url: url.replace("global", "local"),
            lambda url: url.partition("&")[0],
        ],
    )
    def test_signature_rejects_a_changed_url(self, url, change):
        assert change(url) != url
        assert get(change(url)).status_code == 403

    def test_signature_expires_by_the_emulators_clock(self, emulator, url):
        emulator.clock.advance(86399)
        assert get(url).status_code == 200
        emulator.clock.advance(1)
        assert get(url).status_code == 403

    def test_signature_lives_as_long_as_url_lifetime(self):
        with Emulator(url_lifetime=60, clock=Clock(frozen=True)) as emulator:
            url = emulator.video_url(emulator.add_task("completed"))
            emulator.clock.advance(58)
            assert get(url).status_code == 200
            emulator.clock.advance(2)
            assert get(url).status_code == 403

    def test_signature_allows_another_encoding_unless_exact(self, url):
        """Stores differ: some verify the decoded URL, others its bytes."""
        assert get_unchanged(url.replace("%3D", "=")) == 200

    def test_signature_may_be_exact(self):
        with Emulator(exact_urls=True) as emulator:
            url = emulator.video_url(emulator.add_task("completed"))
            assert get_unchanged(url) == 200
            assert get_unchanged(url.replace("%3D", "=")) == 403

    def test_signature_of_another_emulator_is_wrong(self, url):
        with Emulator() as other:
            other.add_task("completed", id="global task/2")
            assert get(other.url + "/media" + url.partition("/media")[2]).status_code == 403


def get_unchanged(url):
    """Request a URL without normalization, and return the status."""
    request = requests.Request("GET", url).prepare()
    request.url = url
    with requests.Session() as session:
        return session.send(request, timeout=10).status_code


def test_record_of_a_key_sent_to_the_media_host(emulator, url):
    """A test of a pipeline can assert that the API key is sent to no media host."""
    get(url)
    get(url, Authorization="Bearer something")
    get(url, **{"X-Token": f"<{emulator.api_key}>"})
    get(f"{url}&key={emulator.api_key}")

    assert [record.carries_key for record in emulator.requests] == [False, True, True, True]


def test_record_of_an_old_key(emulator, url):
    old, emulator.api_key = emulator.api_key, "another-key"
    get(url, **{"X-Token": old})

    assert emulator.requests[-1].carries_key


class TestRange:
    """Range requests, as RFC 9110, section 14, defines them."""

    @pytest.mark.parametrize(
        ("wanted", "start", "stop"),
        [
            ("0-0", 0, 1),
            ("100-199", 100, 200),
            ("1000-", 1000, None),
            ("-10", -10, None),
            ("5-99999999", 5, None),
        ],
    )
    def test_range_returns_a_part(self, url, content, wanted, start, stop):
        response = get(url, Range=f"bytes={wanted}")
        part = content[start:stop]
        first = start % len(content)

        assert (response.status_code, response.content) == (206, part)
        assert response.headers["Content-Length"] == str(len(part))
        expected = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        assert response.headers["Content-Range"] == expected

    @pytest.mark.parametrize("wanted", ["99999999-", "-0"])
    def test_outside_the_file_is_rejected(self, url, content, wanted):
        """RFC 9110, section 14.1.2: a suffix of no bytes is not satisfiable either."""
        response = get(url, Range=f"bytes={wanted}")

        assert (response.status_code, response.content) == (416, b"")
        assert response.headers["Content-Range"] == f"bytes */{len(content)}"

    @pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "bytes=9-5", "bytes=-", "lines=1-2", "bytes=a-b"])
    def test_that_is_invalid_is_ignored(self, url, content, wanted):
        """RFC 9110, section 14.2, also of several ranges, which a server may ignore."""
        response = get(url, Range=wanted)
        assert (response.status_code, len(response.content)) == (200, len(content))

    @pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
    def test_range_with_if_range_needs_the_same_version(self, emulator, task_id, url, validator):
        """RFC 9110, section 13.1.5: another version is sent whole, so that a client does not mix two versions."""
        known = get(url).headers[validator]
        assert get(url, Range="bytes=5-9", **{"If-Range": known}).status_code == 206
        emulator.replace_video(task_id)
        changed = get(url, Range="bytes=5-9", **{"If-Range": known})

        assert changed.status_code == 200
        assert changed.headers[validator] != known

    def test_range_without_if_range_is_of_any_version(self, emulator, task_id, url):
        """A client that does not send a validator would mix two versions, as with a real host."""
        emulator.replace_video(task_id)
        assert get(url, Range="bytes=5-9").status_code == 206


def test_replaced_video_has_other_bytes(emulator, task_id, url, content):
    emulator.replace_video(task_id)
    assert len(get(url).content) == len(content)
    assert get(url).content != content


def test_large_video_is_streamed(emulator):
    size = 20 * 2**20
    task_id = emulator.add_task("completed", size=size)
    digest = hashlib.sha256()
    with requests.get(emulator.video_url(task_id), stream=True, timeout=10) as response:
        for chunk in response.iter_content(2**20):
            digest.update(chunk)

    expected = hashlib.sha256()
    for chunk in emulator.task(task_id).video.chunks(0, size):
        expected.update(chunk)
    assert response.headers["Content-Length"] == str(size)
    assert digest.digest() == expected.digest()


def test_range_of_gigabytes_is_immediate(emulator):
    task_id = emulator.add_task("completed", size=3 * 2**30)
    assert len(get(emulator.video_url(task_id), Range="bytes=-1000").content) == 1000


def test_impossible_video_is_rejected(emulator):
    with pytest.raises(ValueError, match="size"):
        emulator.add_task(size=10, id="small")
    assert emulator.tasks == {}


def test_video_of_an_unknown_task_is_not_found(emulator):
    assert get(emulator.url + emulator._service.signer.sign("nobody")).status_code == 404


def test_api_fault_does_not_affect_media(emulator, customer, task_id, url):
    emulator.fail_next(1, "http_503")
    emulator.respond_with("http_500", on="api")

    assert get(url).status_code == 200
    assert customer.query(task_id).status_code == 500


def test_media_fault_does_not_affect_the_api(emulator, customer, task_id, url):
    emulator.fail_next(1, Response(status=503), on="media")

    assert customer.query(task_id).status_code == 200
    assert get(url).status_code == 503
    assert get(url).status_code == 200


def test_download_is_resumed_after_a_cut(emulator, url, content):
    emulator.fail_next(1, Response(truncate=1000), on="media")
    with requests.get(url, stream=True, timeout=10) as response:
        first = response.raw.read(1000)
        tag = response.headers["ETag"]
    rest = get(url, Range="bytes=1000-", **{"If-Range": tag})

    assert rest.status_code == 206
    assert first + rest.content == content


def test_media_script_affects_one_task_only(emulator, url):
    """A test can spoil one video of a batch and download the others."""
    spoilt = emulator.add_task(Script.named("media_404"))

    assert get(emulator.video_url(spoilt)).status_code == 404
    assert get(url).status_code == 200
