"""Requests for a video: rules, references and fingerprints."""

from __future__ import annotations

import json
import socket
from functools import partial

import pytest

from airflow_provider_manxue._core.orders import MODELS, parse_video_request
from airflow_provider_manxue._core.signed_urls import without_signature
from airflow_provider_manxue.exceptions import ManxueInputError
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator

URL = "https://example.com/a"
SIMPLE = {"prompt": "a cat", "model": "sd2_manxue_720p"}


class TestListsThatAreReadOnce:
    def test_generator_is_no_empty_list(self, ordering):
        one = ordering(reference_images=(url for url in [URL]), reference_audios=map(str, [URL]))

        for _ in range(2):  # Airflow reads it when the Dag is parsed, and again when the task runs
            fields = parse_video_request(**one._order_fields).fields
            assert (fields["referenceImages"], fields["referenceAudios"]) == ([URL], [URL])

    def test_set_has_no_order(self, ordering):
        with pytest.raises(ManxueInputError, match="reference_images is a set, which has no order"):
            ordering(reference_images={URL})
        with pytest.raises(ManxueInputError, match="reference_images is"):
            parse_video_request(prompt="a cat", model="m", reference_images={URL})

    def test_empty_generator_is_left_out(self):
        order = parse_video_request(prompt="a cat", model="m", reference_images=iter([]))
        assert "referenceImages" not in order.fields

    @pytest.fixture
    def ordering(self):
        return partial(ManxueCreateVideoOperator, task_id="order", prompt="a cat", model="sd2_manxue_720p")


class TestTextsOfTemplates:
    @pytest.mark.parametrize("text", [f"{URL},{URL}", f"{URL}; {URL}", "asset://a,asset://b"])
    def test_several_urls_in_one_text_are_refused(self, text):
        with pytest.raises(ManxueInputError, match="it must be a list of URLs"):
            parse_video_request(prompt="a cat", model="m", reference_images=text)

    @pytest.mark.parametrize("argument", ["prompt", "model"])
    def test_template_without_a_value_is_refused(self, argument):
        with pytest.raises(ManxueInputError, match=f"{argument} is 'None': a template had no value"):
            parse_video_request(**{"prompt": "a cat", "model": "m", argument: "None"})

    def test_blanks_around_a_model_are_removed(self):
        order = parse_video_request(prompt="a cat", model="sd2_manxue_1080p\n")
        assert (order.fields["model"], order.cautions) == ("sd2_manxue_1080p", ())


class TestRules:
    def test_full_request_uses_the_field_names_of_the_api(self):
        order = parse_video_request(
            prompt="a cat",
            model="sd2_manxue_video_4k",
            duration="8",
            ratio="9:16",
            reference_images=[URL, "asset://1"],
            reference_videos=(URL,),
            reference_audios=URL,
        )
        assert json.loads(order.body) == {
            "prompt": "a cat",
            "model": "sd2_manxue_video_4k",
            "duration": 8,
            "ratio": "9:16",
            "referenceImages": [URL, "asset://1"],
            "referenceVideos": [URL],
            "referenceAudios": [URL],
        }
        assert not order.cautions

    @pytest.mark.parametrize("nothing", [None, "", " ", [], ()])
    def test_empty_fields_are_omitted(self, nothing):
        optional = dict.fromkeys(
            ("duration", "ratio", "first_image", "last_image", "reference_images"), nothing
        )
        assert parse_video_request(**SIMPLE, **optional).fields == SIMPLE

    @pytest.mark.parametrize(("value", "seconds"), [(4, 4), (15, 15), ("8", 8), (8.0, 8), (" 5 ", 5)])
    def test_duration_may_be_text(self, value, seconds):
        assert parse_video_request(**SIMPLE, duration=value).fields["duration"] == seconds

    @pytest.mark.parametrize("value", ["['https://example.com/a']", "[", {"a": URL}, 7, b"x"])
    def test_unparsable_list_is_rejected(self, value):
        with pytest.raises(ManxueInputError, match=r"reference_images is .*native_obj"):
            parse_video_request(**SIMPLE, reference_images=value)

    def test_list_may_be_json_text(self):
        assert parse_video_request(**SIMPLE, reference_images=json.dumps([URL])).fields[
            "referenceImages"
        ] == [URL]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"prompt": ""}, "prompt is ''"),
            ({"prompt": "  "}, "it is required"),
            ({"prompt": None}, "prompt is None"),
            ({"model": 7}, "model is 7"),
            *(
                ({"duration": value}, "from 4 to 15")
                for value in (3, 16, "abc", 5.5, True, float("nan"), [5])
            ),
            ({"ratio": "2:1"}, "ratio is '2:1': it must be one of 21:9"),
            ({"ratio": 1}, "ratio is 1"),
            ({"first_image": "cat.png"}, "first_image is 'cat.png': it must be a URL"),
            ({"last_image": URL}, "last_image is given without first_image"),
            (
                {"first_image": URL, "reference_images": [URL]},
                "reference_images cannot be combined with first_image",
            ),
            ({"first_image": URL, "reference_audios": [URL]}, "reference_audios cannot be combined"),
            ({"reference_images": [URL] * 10}, "reference_images has 10 URLs: at most 9"),
            ({"reference_audios": [URL] * 4}, "reference_audios has 4 URLs: at most 3"),
            ({"reference_images": [URL, ""]}, "1 of the 2 URLs in reference_images are empty"),
            ({"reference_images": [URL, "x"]}, r"reference_images\[1\] is 'x'"),
            ({"reference_videos": [URL]}, "the model sd2_manxue_720p takes none"),
        ],
    )
    def test_each_broken_rule_is_reported(self, change, words):
        with pytest.raises(ManxueInputError, match=words):
            parse_video_request(**{**SIMPLE, **change})

    @pytest.mark.parametrize(
        ("change", "broken"),
        [
            (
                {"prompt": " ", "duration": "long", "ratio": "2:1"},
                (
                    "prompt is ' ': it is required, as text; duration is 'long': it must be a whole number of seconds "
                    "from 4 to 15; ratio is '2:1': it must be one of 21:9, 16:9, 4:3, 1:1, 3:4, 9:16"
                ),
            ),
            (
                {"first_image": URL, "last_image": "b.png", "reference_audios": ["c.mp3"]},
                (
                    "last_image is 'b.png': it must be a URL that the service can fetch (https:// or asset://); "
                    "reference_audios[0] is 'c.mp3': it must be a URL that the service can fetch (https:// or asset://); reference_audios cannot be combined with first_image and "
                    "last_image"
                ),
            ),
            (
                {"last_image": URL, "reference_images": [URL], "reference_audios": [URL]},
                (
                    "last_image is given without first_image: it needs it; reference_images and reference_audios cannot "
                    "be combined with last_image"
                ),
            ),
            (
                {"reference_images": 7},
                (
                    "reference_images is 7: it must be a list of URLs; for a template that yields a list, set "
                    "render_template_as_native_obj=True on this one task, or pass an XComArg"
                ),
            ),
        ],
    )
    def test_broken_rules_form_one_sentence(self, change, broken):
        with pytest.raises(ManxueInputError) as caught:
            parse_video_request(**{**SIMPLE, **change})
        assert str(caught.value) == f"The order was not sent. {broken}."

    def test_long_value_is_truncated(self):
        with pytest.raises(ManxueInputError, match=f"ratio is '{'9' * 79}: it must"):
            parse_video_request(**SIMPLE, ratio="9" * 1000)

    def test_url_may_be_uppercase(self):
        url = "HTTPS://EXAMPLE.COM/A"
        assert parse_video_request(**SIMPLE, first_image=url).fields["first_image"] == url

    def test_maximum_number_of_references_is_accepted(self):
        order = parse_video_request(**SIMPLE, reference_images=[URL] * 9, reference_audios=[URL] * 3)
        assert len(order.fields["referenceImages"]) == 9

    def test_all_broken_rules_are_reported_together(self):
        with pytest.raises(ManxueInputError) as caught:
            parse_video_request(
                prompt="", model="", duration=3, ratio="x", last_image=URL, reference_images=[URL] * 10
            )
        for word in ("prompt", "model", "duration", "ratio", "last_image", "reference_images"):
            assert word in str(caught.value)

    def test_bad_url_still_counts_for_other_rules(self):
        with pytest.raises(ManxueInputError) as caught:
            parse_video_request(**SIMPLE, first_image="cat.png", last_image=URL, reference_videos=["x"] * 4)
        assert "without first_image" not in str(caught.value)
        for words in ("cannot be combined", "has 4 URLs", "takes none", r"reference_videos[3] is 'x'"):
            assert words in str(caught.value)

    def test_signature_of_a_url_is_not_quoted(self):
        with pytest.raises(ManxueInputError) as caught:
            parse_video_request(**SIMPLE, first_image="https://example.com/a b?signature=secret")
        assert "secret" not in str(caught.value)
        with pytest.raises(ManxueInputError, match=r"first_image is 'cat\.png: it must") as caught:
            parse_video_request(**SIMPLE, first_image="cat.png?signature=secret")
        assert "secret" not in str(caught.value)

    def test_unknown_model_only_causes_a_caution(self):
        order = parse_video_request(prompt="a cat", model="sd3_manxue_8k", reference_videos=[URL])
        [caution] = order.cautions
        assert "sd3_manxue_8k" in caution
        assert all(model in caution for model in MODELS)

    @pytest.mark.parametrize(
        "url",
        ["s3://bucket/a.png", "gs://b/a.png", "file:///tmp/a.png", "ftp://example.com/a.png", "/tmp/a.png",
         "data:image/png;base64,AAAA", "https://", "https://[", "http:///a.png"],
    )  # fmt: skip
    def test_reference_of_another_scheme_is_rejected(self, url):
        for change in ({"first_image": url}, {"reference_images": [url]}):
            with pytest.raises(ManxueInputError, match="it must be a URL that the service can fetch"):
                parse_video_request(**SIMPLE, **change)

    @pytest.mark.parametrize(
        "url",
        [
            "https://example.com/a",
            "http://93.184.215.14/a",
            "asset://a-1",
            "asset:///a-1",
            "ASSET:///A-1",
            "HTTP://EXAMPLE.COM",
        ],
    )
    def test_public_reference_is_accepted(self, url):
        parse_video_request(**SIMPLE, first_image=url).check_references("service.example")


PRIVATE = [
    "localhost", "LOCALHOST:9000", "a.localhost", "localhost.", "127.0.0.1:9000", "127.1", "0x7f000001", "2130706433", "[::1]",
    "10.0.0.1", "172.16.0.1", "192.168.1.2:9000", "169.254.169.254", "[fd00::1]", "0.0.0.0",
]  # fmt: skip


class TestReferences:
    @pytest.mark.parametrize("host", PRIVATE)
    def test_private_references_are_rejected_without_dns(self, host, monkeypatch):
        monkeypatch.setattr(socket, "getaddrinfo", None)
        request = parse_video_request(**SIMPLE, first_image=f"http://user:secret@{host}/a.png?sig=secret")
        with pytest.raises(
            ManxueInputError, match=r"sent\. first_image is on the host .*not public"
        ) as caught:
            request.check_references("service.example")
        assert "secret" not in str(caught.value)
        lists = parse_video_request(**SIMPLE, reference_images=["asset://1", f"https://{host}/a.png"])
        with pytest.raises(ManxueInputError, match="reference_images is on the host"):
            lists.check_references("service.example")

    @pytest.mark.parametrize("service", ["127.0.0.1", "localhost", "10.1.2.3"])
    def test_private_services_allow_private_references(self, service):
        request = parse_video_request(**SIMPLE, first_image="http://192.168.1.2/a.png")
        request.check_references(service)

    @pytest.mark.parametrize("host", ["minio.internal", "example.com", "8.8.8.8", "[2606:4700::1111]"])
    def test_references_to_named_hosts_are_accepted(self, host):
        parse_video_request(**SIMPLE, first_image=f"https://{host}/a").check_references("service.example")


SIGNED = {
    "Amazon S3": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date={n}&X-Amz-Signature=abc{n}",
    "Amazon S3, version 2": "AWSAccessKeyId=k{n}&Expires={n}&Signature=s{n}",
    "CloudFront": "Policy=p{n}&Signature=s{n}&Key-Pair-Id=k{n}",
    "Google Cloud Storage": "X-Goog-Credential=c{n}&X-Goog-Signature=s{n}",
    "Azure": "sv=2025&st={n}&se={n}&sr=b&sp=r&sig=s{n}",
    "Alibaba Cloud OSS": "OSSAccessKeyId=k{n}&Expires={n}&Signature=s{n}&security-token=t{n}",
    "Tencent Cloud COS": "q-sign-algorithm=sha1&q-sign-time={n}&q-signature=s{n}",
}


class TestFingerprint:
    def of(self, scheme=2, **change):
        return parse_video_request(**{**SIMPLE, **change}).fingerprint(scheme)

    def test_fingerprint_differs_by_value_without_containing_it(self):
        one, two = self.of(prompt="a secret prompt", model="m"), self.of(prompt="another prompt", model="m")
        assert one["model"] == two["model"] == "1d576f473e30e1b5"
        assert one["prompt"] != two["prompt"]
        assert "secret" not in json.dumps(one)

    @pytest.mark.parametrize("store", SIGNED)
    def test_fingerprint_ignores_signatures_of_urls(self, store):
        one, two = (f"{URL}.png?v=3&{SIGNED[store].format(n=n)}" for n in (1, 2))
        for field, values in (("first_image", (one, two)), ("reference_images", ([one], [two]))):
            assert self.of(**{field: values[0]}) == self.of(**{field: values[1]}) != self.of(**{field: URL})
            assert self.of(1, **{field: values[0]}) != self.of(1, **{field: values[1]})
        assert without_signature(one) == f"{URL}.png?v=3"

    def test_fingerprint_includes_all_other_parts_of_a_url(self):
        for url in (URL, f"{URL}?", f"{URL}?se=1&sp=2&b=%41", "asset://1"):
            assert without_signature(url).removesuffix("?") == url.removesuffix("?")

    def test_fingerprint_ignores_a_signature_with_padding(self):
        assert without_signature(f"{URL}?a=b==&Signature=Zm9v==") == f"{URL}?a=b=="

    def test_url_of_only_a_signature_is_equal_to_the_plain_url(self):
        assert without_signature(f"{URL}?Signature=s") == without_signature(URL) == URL

    def test_fingerprint_of_plain_values_is_equal_in_both_schemes(self):
        assert self.of(1, model="m") == self.of(2, model="m")


def test_loggable_fields_hide_queries_and_long_text():
    request = parse_video_request(
        prompt="cat " * 100, model="m", first_image=f"{URL}?sig=secret", last_image="asset://1"
    )
    shown = request.loggable_fields
    assert shown["first_image"] == f"{URL}?***"
    assert shown["last_image"] == "asset://1"
    assert len(shown["prompt"]) == 200
    assert shown["prompt"].endswith("…")


def test_loggable_fields_have_short_text_in_full():
    request = parse_video_request(prompt="x" * 200, model="m")
    assert request.loggable_fields["prompt"] == "x" * 200
