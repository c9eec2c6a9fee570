"""
The record of an order: its form, and the decision of a task that starts.

The rules and their reasons are in docs/ordering.md.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import ClassVar

import pytest

from airflow_provider_manxue._core.order_record import (
    KEY,
    OrderRecord,
    OrderState,
    ResumableOrder,
    TaskInstanceRef,
    parse_record,
    resumable_order,
)
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueInputError,
    ManxueOrderMismatchError,
    ManxueOrderUnknownError,
    ManxueVideoFailedError,
)

REF = TaskInstanceRef("my dag", "run/1", "order", -1, max_tries=2)
NOW = {"prompt": "p", "model": "m"}
ORDERED = OrderRecord(OrderState.ORDERED, "proj_1", "2027-01-15T08:00:00+00:00", 2, NOW, 2)
INTENT = replace(ORDERED, state=OrderState.INTENT, id=None)


def resume(record, now, ref, not_accepted_since=None):
    return resumable_order(record, lambda scheme: now, ref, not_accepted_since)


def resumed(record, now, ref):
    order = resume(record, now, ref)
    return order and order.id


class TestRecord:
    @pytest.mark.parametrize(
        "record",
        [
            ORDERED,
            INTENT,
            replace(ORDERED, state=OrderState.DONE),
            replace(INTENT, state=OrderState.NOT_ACCEPTED),
            replace(ORDERED, scheme=1),
            replace(ORDERED, state=OrderState.FAILED, id=None),
        ],
    )
    def test_record_survives_json(self, record):
        assert parse_record(json.loads(json.dumps(record.to_dict()))) == record

    def test_form_is_unchanged(self):
        """Records outlive an upgrade, and the documentation describes them for operators."""
        assert ORDERED.to_dict() == {
            "state": "ordered",
            "id": "proj_1",
            "since": "2027-01-15T08:00:00+00:00",
            "max_tries": 2,
            "fingerprint": {"prompt": "p", "model": "m"},
            "scheme": 2,
        }
        assert KEY == "manxue_order"

    def test_none_is_no_record(self):
        assert parse_record(None) is None

    @pytest.mark.parametrize(
        "value",
        [
            "proj_1",
            " proj_1 ",
            {"id": "proj_1"},
            {"id": "proj_1", "state": "intent"},
            {"id": "proj_1", "state": "not_accepted"},
            {"id": "proj_1", "fingerprint": None},
        ],
    )
    def test_record_written_by_a_person_is_parsed(self, value):
        record = parse_record(value)
        assert (record.state, record.id) == (OrderState.ORDERED, "proj_1")
        assert resumed(record, NOW, REF) == "proj_1"

    def test_record_without_details_matches_any_request(self):
        """A person who writes an id does not know the fingerprint."""
        record = parse_record({"id": "proj_1", "since": 7})
        assert record == OrderRecord(OrderState.ORDERED, "proj_1", since=None, scheme=1)
        assert resume(record, NOW, REF) == ResumableOrder("proj_1")
        assert resume(replace(record, max_tries=2), NOW, TestDecision.CLEARED) == ResumableOrder("proj_1")

    def test_id_filled_in_by_a_person_is_resumed(self):
        """This is the documented remedy for an order of unknown outcome."""
        record = parse_record({**INTENT.to_dict(), "id": "proj_9"})
        assert resumed(record, NOW, REF) == "proj_9"

    def test_unknown_field_of_a_newer_version_is_ignored(self):
        record = parse_record({**ORDERED.to_dict(), "field_of_a_newer_version": {"a": 1}})
        assert record == ORDERED

    @pytest.mark.parametrize(
        "value",
        ["", 7, True, [], ["proj_1"], {}, {"id": ""}, {"id": 7.5}, {"id": "a\nb"}, {"id": "a", "state": "x"},
         {"state": "done"}, {"id": "a", "max_tries": "2"}, {"id": "a", "fingerprint": 3},
         {"id": "a", "fingerprint": {"prompt": 1}}],
    )  # fmt: skip
    def test_bad_record_sends_nothing_and_states_the_remedy(self, value):
        """The record may have been the proof of a paid order, so the task must not order."""
        with pytest.raises(
            ManxueInputError, match=r"'manxue_order' .*Nothing was sent\. .*delete the key"
        ) as caught:
            parse_record(value)
        shown = {"id": value} if isinstance(value, str) else value
        assert f"holds {shown!r}, which is not an order" in str(caught.value)

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ({"state": "done"}, "(it has no 'id')"),
            ({"id": "a", "max_tries": "2"}, "(its 'max_tries' or 'scheme' is not a number)"),
            ({"id": "a", "fingerprint": ["b"]}, "(its 'fingerprint' is not an object of texts)"),
            ({"id": "a", "fingerprint": {"b": 1}}, "(its 'fingerprint' is not an object of texts)"),
        ],
    )
    def test_bad_record_error_names_the_problem(self, value, problem):
        """A person edits the record by hand, and has to know which field is wrong."""
        with pytest.raises(ManxueInputError) as caught:
            parse_record(value)
        assert problem in str(caught.value)

    def test_bad_record_is_quoted_within_bounds(self):
        """The error is logged, and a person may have stored a value of any size."""
        with pytest.raises(ManxueInputError, match=r"holds \[0(, 0){66}, which is"):
            parse_record([0] * 1000)


class TestDecision:
    """
    Decisions of a starting task: resume the recorded order, order, or stop.

    A retry has the ``max_tries`` of the record, and a clear has another one. Each order is billed, so a task orders again
    only if no video can be lost or paid twice: docs/ordering.md, "Pay once", has the table of decisions.
    """

    CLEARED = replace(REF, max_tries=3)

    @pytest.mark.parametrize("ref", [REF, CLEARED])
    def test_task_without_a_record_orders(self, ref):
        assert resumed(None, NOW, ref) is None

    @pytest.mark.parametrize("ref", [REF, CLEARED])
    def test_ordered_video_is_resumed(self, ref):
        assert resumed(ORDERED, NOW, ref) == "proj_1"

    def test_done_order_resumes_on_retry_and_reorders_on_clear(self):
        done = replace(ORDERED, state=OrderState.DONE)
        assert resumed(done, NOW, REF) == "proj_1"
        assert resumed(done, NOW, self.CLEARED) is None

    @pytest.mark.parametrize(("video_task_id", "name"), [("proj_1", "'proj_1'"), (None, "of this task")])
    def test_failed_order_fails_on_retry_and_reorders_on_clear(self, video_task_id, name):
        failed = replace(ORDERED, state=OrderState.FAILED, id=video_task_id)
        with pytest.raises(ManxueVideoFailedError, match=f"the video {name}, as .*Clear the task"):
            resumed(failed, NOW, REF)
        assert resumed(failed, NOW, self.CLEARED) is None

    @pytest.mark.parametrize("ref", [REF, CLEARED])
    def test_intent_without_an_id_is_unknown(self, ref):
        """The order may have been accepted and billed, so only a person decides. The error names the time and the remedy."""
        with pytest.raises(ManxueOrderUnknownError) as caught:
            resumed(INTENT, NOW, ref)
        text = str(caught.value)
        assert "2027-01-15T08:00:00+00:00" in text
        assert "/api/v2/dags/my%20dag/dagRuns/run%2F1/taskInstances/order/state-store/manxue_order:" in text
        assert '{"value": "<id>"}' in text

    def test_recovery_hint_names_the_map_index(self):
        assert "manxue_order?map_index=7:" in replace(REF, map_index=7).recovery_hint

    @pytest.mark.parametrize("ref", [REF, CLEARED])
    def test_unaccepted_order_is_sent_again(self, ref):
        record = replace(INTENT, state=OrderState.NOT_ACCEPTED)
        assert resumed(record, {}, ref) is None

    def test_intent_known_as_not_accepted_is_sent_again(self):
        """The deferral knows the outcome where the update of the record failed."""
        assert resume(INTENT, NOW, REF, INTENT.since) is None
        for other in ("2027-01-15T08:00:02+00:00", None):
            with pytest.raises(ManxueOrderUnknownError):
                resume(INTENT, NOW, REF, other)
        with pytest.raises(ManxueOrderUnknownError):
            resume(replace(INTENT, since=None), NOW, REF, None)

    def test_known_order_overrides_the_deferral(self):
        """An id in the record is newer than a deferral for an order that was not accepted."""
        assert resume(ORDERED, NOW, REF, ORDERED.since).id == "proj_1"

    OTHER: ClassVar = {"prompt": "other", "model": "m", "ratio": "r"}

    def test_clear_with_a_changed_request_raises(self):
        """The author wants another video, but the recorded one is paid for and not delivered. A person decides."""
        with pytest.raises(
            ManxueOrderMismatchError, match=r"'proj_1'.*: prompt, ratio changed since\. Nothing was"
        ):
            resumed(ORDERED, self.OTHER, self.CLEARED)

    def test_retry_with_a_changed_request_warns(self):
        """No person is there, so the retry takes the video that is paid for."""
        order = resume(ORDERED, self.OTHER, REF)
        assert order.id == "proj_1"
        assert "although prompt, ratio changed" in order.caution

    def test_retry_with_the_same_request_does_not_warn(self):
        assert resume(ORDERED, NOW, REF) == ResumableOrder("proj_1")

    def test_clear_after_lowered_retries_warns(self):
        # retries=3 and one try: max_tries is 3. With retries=2, a clear sets it to 1 + 2.
        record = replace(ORDERED, state=OrderState.DONE, max_tries=3)
        order = resume(record, NOW, replace(REF, max_tries=1 + 2))
        assert order.id == "proj_1"
        assert "'retries' was lowered" in order.caution

    def test_fingerprint_uses_the_scheme_of_the_record(self):
        """Otherwise each clear after an upgrade of the package would stop with a changed request."""
        by_scheme = {1: {"first_image": "new"}, 2: {"first_image": "same"}}
        stored = replace(ORDERED, fingerprint={"first_image": "same"})
        assert resumable_order(stored, by_scheme.get, self.CLEARED).id == "proj_1"
        with pytest.raises(ManxueOrderMismatchError):
            resumable_order(replace(stored, scheme=1), by_scheme.get, self.CLEARED)

    def test_record_cannot_forge_a_log_line(self):
        """The record can be edited in Airflow's UI, and its texts are in errors (docs/threat-model.md)."""
        hostile = "x\nERROR forged \x1b[2J"
        lost = OrderRecord(OrderState.INTENT, since=hostile, max_tries=2)
        other = OrderRecord(OrderState.ORDERED, id="proj_1", max_tries=2, fingerprint={hostile: "0"})
        for record in (lost, other):
            with pytest.raises(ManxueError) as caught:
                resumed(record, {"prompt": "1"}, self.CLEARED)
            assert str(caught.value).isprintable()

    def test_clear_of_a_done_order_allows_another_request(self):
        assert resumed(replace(ORDERED, state=OrderState.DONE), {}, self.CLEARED) is None
