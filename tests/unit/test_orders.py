"""Orders without I/O: their rules, what became of one that failed, and what a stored one means for a task."""

from __future__ import annotations

import json
import socket
import ssl
from dataclasses import replace

import pytest

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueInputError,
    ManxueOrderMismatchError,
    ManxueOrderNotSentError,
    ManxueOrderRefusedError,
    ManxueOrderUnknownError,
    ManxueRefusedError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.order_record import (
    KEY,
    OrderRecord,
    OrderState,
    Place,
    order_to_go_on_with,
    read_record,
)
from airflow_provider_manxue.orders import (
    MAX_TRIES,
    MODELS,
    Fate,
    fate_of_answer,
    order_error,
    order_without_answer,
    pause_before_next_try,
    read_order,
    read_order_answer,
)

URL = "https://example.com/a"
SIMPLE = {"prompt": "a cat", "model": "sd2_manxue_720p"}


class TestRules:
    def test_whole_order_is_sent_under_the_services_names(self):
        order = read_order(
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
        assert not order.doubts

    @pytest.mark.parametrize("nothing", [None, "", " ", [], ()])
    def test_nothing_is_left_out(self, nothing):
        optional = dict.fromkeys(
            ("duration", "ratio", "first_image", "last_image", "reference_images"), nothing
        )
        assert read_order(**SIMPLE, **optional).fields == SIMPLE

    @pytest.mark.parametrize(("value", "seconds"), [(4, 4), (15, 15), ("8", 8), (8.0, 8), (" 5 ", 5)])
    def test_duration_may_be_text(self, value, seconds):
        assert read_order(**SIMPLE, duration=value).fields["duration"] == seconds

    @pytest.mark.parametrize("value", ["['https://example.com/a']", "[", {"a": URL}, 7, b"x"])
    def test_list_that_cannot_be_read_is_refused(self, value):
        with pytest.raises(ManxueInputError, match=r"reference_images is .*native_obj"):
            read_order(**SIMPLE, reference_images=value)

    def test_list_may_be_json_of_a_template(self):
        assert read_order(**SIMPLE, reference_images=json.dumps([URL])).fields["referenceImages"] == [URL]

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
    def test_each_rule(self, change, words):
        with pytest.raises(ManxueInputError, match=words):
            read_order(**{**SIMPLE, **change})

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
                    "last_image is 'b.png': it must be a URL (https:// or asset://); reference_audios[0] is 'c.mp3': it "
                    "must be a URL (https:// or asset://); reference_audios cannot be combined with first_image and "
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
                    "render_template_as_native_obj=True on the Dag, or pass an XComArg"
                ),
            ),
        ],
    )
    def test_broken_rules_are_read_as_one_sentence(self, change, broken):
        with pytest.raises(ManxueInputError) as caught:
            read_order(**{**SIMPLE, **change})
        assert str(caught.value) == f"The order was not sent. {broken}."

    def test_long_value_is_cut(self):
        with pytest.raises(ManxueInputError, match=f"ratio is '{'9' * 79}: it must"):
            read_order(**SIMPLE, ratio="9" * 1000)

    def test_url_may_be_written_in_capitals(self):
        url = "HTTPS://EXAMPLE.COM/A"
        assert read_order(**SIMPLE, first_image=url).fields["first_image"] == url

    def test_as_many_references_as_are_allowed(self):
        order = read_order(**SIMPLE, reference_images=[URL] * 9, reference_audios=[URL] * 3)
        assert len(order.fields["referenceImages"]) == 9

    def test_all_broken_rules_are_named_at_once(self):
        with pytest.raises(ManxueInputError) as caught:
            read_order(
                prompt="", model="", duration=3, ratio="x", last_image=URL, reference_images=[URL] * 10
            )
        for word in ("prompt", "model", "duration", "ratio", "last_image", "reference_images"):
            assert word in str(caught.value)

    def test_bad_url_counts_as_given_for_the_other_rules(self):
        with pytest.raises(ManxueInputError) as caught:
            read_order(**SIMPLE, first_image="cat.png", last_image=URL, reference_videos=["x"] * 4)
        assert "without first_image" not in str(caught.value)
        for words in ("cannot be combined", "has 4 URLs", "takes none", r"reference_videos[3] is 'x'"):
            assert words in str(caught.value)

    def test_signature_of_a_url_is_not_repeated(self):
        with pytest.raises(ManxueInputError) as caught:
            read_order(**SIMPLE, first_image="https://example.com/a b?signature=secret")
        assert "secret" not in str(caught.value)

    def test_unknown_model_is_doubted_only(self):
        order = read_order(prompt="a cat", model="sd3_manxue_8k", reference_videos=[URL])
        [doubt] = order.doubts
        assert "sd3_manxue_8k" in doubt
        assert all(model in doubt for model in MODELS)


class TestFate:
    @pytest.mark.parametrize(
        ("statuses", "fate"),
        [
            ((425, 429), Fate.NOT_SENT),
            ((400, 401, 402, 403, 404, 405, 413, 422, 451, 499, 301, 307, 308), Fate.REFUSED),
            ((408, 409, 500, 501, 502, 503, 504, 520, 599, 300, 302, 303, 304, 100), Fate.UNKNOWN),
        ],
    )
    def test_of_each_status(self, statuses, fate):
        for status in statuses:
            assert fate_of_answer(status, b'{"code": 0}') is fate, status

    @pytest.mark.parametrize(
        ("code", "fate"),
        [
            (400, Fate.REFUSED),
            ("1", Fate.REFUSED),
            (499, Fate.REFUSED),
            (429, Fate.NOT_SENT),
            (409, Fate.UNKNOWN),
            (500, Fate.UNKNOWN),
            ("1001", Fate.UNKNOWN),
            (-1, Fate.UNKNOWN),
            (0, Fate.UNKNOWN),
            (200, Fate.UNKNOWN),
            ("E_QUOTA", Fate.UNKNOWN),
            (None, Fate.UNKNOWN),
        ],
    )
    def test_of_each_business_error(self, code, fate):
        assert fate_of_answer(200, json.dumps({"code": code, "msg": "no"}).encode()) is fate

    def test_of_an_error_beside_another_status_is_that_of_the_status(self):
        assert fate_of_answer(300, b'{"code": 400}') is Fate.UNKNOWN

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"\xff", b"{}", b"[" * 100_000])
    def test_of_an_unreadable_body(self, body):
        assert fate_of_answer(200, body) is Fate.UNKNOWN

    @pytest.mark.parametrize(
        "error",
        [
            ConnectionResetError(104, "reset"),
            TimeoutError("timed out"),
            socket.gaierror("unknown"),
            ssl.SSLError(1, "alert"),
        ],
    )
    def test_without_an_answer_is_told_by_how_far_the_body_came(self, error):
        assert isinstance(order_without_answer(error, "host", body_left=False), ManxueOrderNotSentError)
        assert isinstance(order_without_answer(error, "host", body_left=True), ManxueOrderUnknownError)

    def test_without_an_answer_says_why(self):
        refused = order_without_answer(ConnectionRefusedError(111, "no"), "media.example", body_left=False)
        assert str(refused) == "The order was not taken: no answer from media.example: connection refused"
        known = order_without_answer(ManxueTransientError("the proxy is away"), "host", body_left=True)
        assert "whether the order was taken: the proxy is away. It may be billed" in str(known)

    def test_unknown_order_is_never_retried_and_says_what_to_check(self):
        error = order_error(Fate.UNKNOWN, ManxueTransientError("HTTP 502"))
        assert isinstance(error, AirflowFailException)
        assert "HTTP 502" in str(error)
        assert "Check with the service" in str(error)

    def test_order_that_was_not_taken_may_be_retried(self):
        error = order_error(Fate.NOT_SENT, ManxueTransientError("HTTP 429", 7.0))
        assert not isinstance(error, AirflowFailException)
        assert error.retry_after == 7.0
        assert str(error) == "The order was not taken: HTTP 429"
        assert order_error(Fate.NOT_SENT, ManxueRefusedError("the code 429")).retry_after is None


class TestAnswer:
    def read(self, http_status=200, **fields):
        return read_order_answer(
            http_status, json.dumps(fields).encode(), retry_after=(), now=0, secret="key"
        )

    def test_task_is_returned(self):
        assert self.read(id="proj_1", status="queued").id == "proj_1"

    def test_failed_task_is_a_failed_video(self):
        with pytest.raises(ManxueVideoFailedError, match=r"'proj_1': too dark"):
            self.read(id="proj_1", status="failed", error="too dark")

    def test_task_without_an_id_is_unknown(self):
        with pytest.raises(ManxueOrderUnknownError, match="without an id"):
            self.read(status="queued")

    def test_object_of_another_kind_is_unknown(self):
        with pytest.raises(ManxueOrderUnknownError, match=r"image\.generation"):
            self.read(id="proj_1", status="queued", object="image.generation")

    def test_pause_that_is_asked_for_is_known(self):
        asked = {"now": 1_893_456_000.0, "secret": ""}
        for retry_after, pause in (["7"], 7), (["Tue, 01 Jan 2030 00:00:10 GMT"], 10):
            with pytest.raises(ManxueOrderNotSentError) as caught:
                read_order_answer(429, b"{}", retry_after=retry_after, **asked)
            assert caught.value.retry_after == pause

    def test_key_is_not_repeated(self):
        with pytest.raises(ManxueOrderRefusedError, match=r"bad \*\*\*"):
            self.read(400, msg="bad key")

    def test_refusal_says_why(self):
        with pytest.raises(ManxueOrderRefusedError, match=r"nothing was ordered: .*prompt not allowed"):
            self.read(400, msg="prompt not allowed")


def test_pauses_grow_and_end():
    assert [pause_before_next_try(tries, None, 0.0) for tries in range(1, MAX_TRIES + 1)] == [
        2,
        4,
        8,
        16,
        None,
    ]


def test_pause_is_what_the_service_asks_for_up_to_a_cap():
    assert pause_before_next_try(1, 60.0, 0.0) == 60
    assert pause_before_next_try(1, 86_400.0, 0.0) == 900
    assert pause_before_next_try(1, 60.0, 1.0) == 75


# --- the record -----------------------------------------------------------------------------------------

PLACE = Place("my dag", "run/1", "order", -1, max_tries=2)
NOW = {"prompt": "p", "model": "m"}
ORDERED = OrderRecord(OrderState.ORDERED, "proj_1", "2027-01-15T08:00:00+00:00", 2, NOW)
INTENT = replace(ORDERED, state=OrderState.INTENT, id=None)


class TestRecord:
    @pytest.mark.parametrize(
        "record",
        [
            ORDERED,
            INTENT,
            replace(ORDERED, state=OrderState.DONE),
            replace(ORDERED, state=OrderState.FAILED, id=None),
        ],
    )
    def test_survives_json(self, record):
        assert read_record(json.loads(json.dumps(record.as_value()))) == record

    def test_form_is_a_promise(self):
        assert ORDERED.as_value() == {
            "state": "ordered",
            "id": "proj_1",
            "since": "2027-01-15T08:00:00+00:00",
            "max_tries": 2,
            "fingerprint": {"prompt": "p", "model": "m"},
        }
        assert KEY == "manxue_order"

    def test_nothing_is_nothing(self):
        assert read_record(None) is None

    @pytest.mark.parametrize(
        "value",
        [
            "proj_1",
            " proj_1 ",
            {"id": "proj_1"},
            {"id": "proj_1", "state": "intent"},
            {"id": "proj_1", "fingerprint": None},
        ],
    )
    def test_what_a_person_writes_is_understood(self, value):
        record = read_record(value)
        assert (record.state, record.id) == (OrderState.ORDERED, "proj_1")
        assert order_to_go_on_with(record, NOW, PLACE) == "proj_1"

    def test_id_that_was_filled_in_is_gone_on_with(self):
        record = read_record({**INTENT.as_value(), "id": "proj_9"})
        assert order_to_go_on_with(record, NOW, PLACE) == "proj_9"

    @pytest.mark.parametrize(
        "value",
        ["", 7, True, [], ["proj_1"], {}, {"id": ""}, {"id": 7.5}, {"id": "a\nb"}, {"id": "a", "state": "x"},
         {"state": "done"}, {"id": "a", "max_tries": "2"}, {"id": "a", "fingerprint": 3}],
    )  # fmt: skip
    def test_what_cannot_be_understood_stops_and_says_what_to_do(self, value):
        with pytest.raises(
            ManxueInputError, match=r"'manxue_order' .*Nothing was sent\. .*delete the key"
        ) as caught:
            read_record(value)
        shown = {"id": value} if isinstance(value, str) else value
        assert f"holds {shown!r}, which is not an order" in str(caught.value)

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ({"state": "done"}, "(it has no 'id')"),
            ({"id": "a", "max_tries": "2"}, "(its 'max_tries' is not a number)"),
        ],
    )
    def test_what_cannot_be_understood_is_named(self, value, problem):
        with pytest.raises(ManxueInputError) as caught:
            read_record(value)
        assert problem in str(caught.value)

    def test_what_cannot_be_understood_is_shown_within_bounds(self):
        with pytest.raises(ManxueInputError, match=r"holds \[0(, 0){66}, which is"):
            read_record([0] * 1000)


class TestDecision:
    """A retry has the number of the record, a clear has another one."""

    CLEARED = replace(PLACE, max_tries=3)

    @pytest.mark.parametrize("place", [PLACE, CLEARED])
    def test_without_a_record_it_orders(self, place):
        assert order_to_go_on_with(None, NOW, place) is None

    @pytest.mark.parametrize("place", [PLACE, CLEARED])
    def test_order_on_its_way_is_gone_on_with(self, place):
        assert order_to_go_on_with(ORDERED, NOW, place) == "proj_1"

    def test_retry_goes_on_with_a_done_order_and_a_clear_orders_anew(self):
        done = replace(ORDERED, state=OrderState.DONE)
        assert order_to_go_on_with(done, NOW, PLACE) == "proj_1"
        assert order_to_go_on_with(done, NOW, self.CLEARED) is None

    @pytest.mark.parametrize(("video_task_id", "name"), [("proj_1", "'proj_1'"), (None, "of this task")])
    def test_retry_of_a_failed_order_fails_again_and_a_clear_orders_anew(self, video_task_id, name):
        failed = replace(ORDERED, state=OrderState.FAILED, id=video_task_id)
        with pytest.raises(ManxueVideoFailedError, match=f"the video {name}, as .*Clear the task"):
            order_to_go_on_with(failed, NOW, PLACE)
        assert order_to_go_on_with(failed, NOW, self.CLEARED) is None

    @pytest.mark.parametrize("place", [PLACE, CLEARED])
    def test_intent_without_an_id_is_unknown(self, place):
        with pytest.raises(ManxueOrderUnknownError) as caught:
            order_to_go_on_with(INTENT, NOW, place)
        text = str(caught.value)
        assert "2027-01-15T08:00:00+00:00" in text
        assert "/api/v2/dags/my%20dag/dagRuns/run%2F1/taskInstances/order/state-store/manxue_order:" in text
        assert '{"value": "<id>"}' in text

    def test_ways_out_name_the_map_index(self):
        assert "manxue_order?map_index=7:" in replace(PLACE, map_index=7).ways_out

    @pytest.mark.parametrize("place", [PLACE, CLEARED])
    def test_other_request_stops_and_names_what_differs(self, place):
        now = {"prompt": "other", "model": "m", "ratio": "r"}
        with pytest.raises(
            ManxueOrderMismatchError, match=r"'proj_1'.*: prompt, ratio changed since\. Nothing was"
        ):
            order_to_go_on_with(ORDERED, now, place)

    def test_what_a_person_wrote_forges_no_line_of_a_log(self):
        hostile = "x\nERROR forged \x1b[2J"
        lost = OrderRecord(OrderState.INTENT, since=hostile)
        other = OrderRecord(OrderState.ORDERED, id="proj_1", fingerprint={hostile: "0"})
        for record in (lost, other):
            with pytest.raises(ManxueError) as caught:
                order_to_go_on_with(record, {"prompt": "1"}, PLACE)
            assert str(caught.value).isprintable()

    def test_other_request_is_fine_once_a_clear_orders_anew(self):
        assert order_to_go_on_with(replace(ORDERED, state=OrderState.DONE), {}, self.CLEARED) is None

    def test_fingerprint_tells_fields_apart_without_holding_them(self):
        one = read_order(prompt="a secret prompt", model="m").fingerprint
        two = read_order(prompt="another prompt", model="m").fingerprint
        assert one["model"] == two["model"] == "1d576f473e30e1b5"
        assert one["prompt"] != two["prompt"]
        assert "secret" not in json.dumps(one)
