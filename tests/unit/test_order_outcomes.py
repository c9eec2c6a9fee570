"""
Outcomes of an order, from its response or the lack of one.

An order that was not accepted is sent again, and one of unknown outcome is not, since it may have been accepted and billed.
In doubt the outcome is unknown: docs/decisions.md, "No automatic retry of an order of unknown outcome".
"""

from __future__ import annotations

import json
import socket
import ssl

import pytest

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_manxue._core.order_outcomes import (
    OrderOutcome,
    classify_response,
    order_error,
    order_without_response,
    parse_order_response,
)
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueOrderNotAcceptedError,
    ManxueOrderRejectedError,
    ManxueOrderUnknownError,
    ManxueRefusedError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.models import TaskStatus

NOT_ACCEPTED, REJECTED, UNKNOWN = OrderOutcome.NOT_ACCEPTED, OrderOutcome.REJECTED, OrderOutcome.UNKNOWN


def classify(status, response, **options):
    body = response if isinstance(response, bytes) else json.dumps(response).encode()
    return classify_response(status, body, **options)


class TestClassification:
    @pytest.mark.parametrize(
        ("statuses", "outcome"),
        [
            ((425, 429), NOT_ACCEPTED),
            ((400, 401, 402, 403, 404, 405, 413, 422, 451, 499), REJECTED),
            ((100, 300, 301, 302, 303, 304, 307, 308, 408, 409, 500, 501, 502, 503, 504, 520, 599), UNKNOWN),
        ],
    )
    @pytest.mark.parametrize(
        "body", [b'{"code": 0}', b"", b"<html>", b"\xff\xfe", b'{"id": "cut', b'{"code": 400}']
    )
    def test_error_status_decides_for_any_body(self, statuses, outcome, body):
        """A gateway may replace the body, or cut it off."""
        for status in statuses:
            assert classify(status, body) is outcome, status

    @pytest.mark.parametrize(
        ("code", "outcome"),
        [
            *((code, REJECTED) for code in (400, "402", 499, 1001, "1001", -1)),
            *((code, NOT_ACCEPTED) for code in (425, 429, "429", 429.0)),
            *((code, UNKNOWN) for code in (408, 409, 500, 1, 100, 399, 201, 202, 1002, -2, 0, 200, "E_QUOTA", None, "", True)),
            *((code, UNKNOWN) for code in ("nan", "inf", "1001.5", "9" * 400)),
        ],
    )  # fmt: skip
    def test_error_code_in_a_200_decides(self, code, outcome):
        """Gateways in front of the service report errors in a 200: docs/ordering.md, "When the order fails"."""
        assert classify(200, {"code": code, "msg": "no", "data": None}) is outcome

    @pytest.mark.parametrize("data", [None, "", {}, []])
    def test_error_code_with_empty_data_decides(self, data):
        assert classify(200, {"code": 400, "data": data}) is REJECTED

    @pytest.mark.parametrize("code", [400, 429, 1001, -1])
    @pytest.mark.parametrize("data", [{"x": 1}, "proj_1", [1], 7])
    def test_error_code_with_data_is_unknown(self, code, data):
        """The data may be the id of a task, in a form that this package does not know."""
        assert classify(200, {"code": code, "data": data}) is UNKNOWN

    @pytest.mark.parametrize("status", [200, 400, 404, 429])
    @pytest.mark.parametrize(
        "response",
        [
            {"id": "proj_1", "status": "queued"},
            {"task_id": "t9"},
            {"code": 429, "data": {"taskId": "t9"}},
            {"code": 400, "data": {"task": {"id": "t9"}}},
            {"error": "busy", "output": {"task_id": 7}},
            {"code": 1001, "data": [{"id": "a"}, {"id": "b"}]},
            [{"id": "proj_1"}],
        ],
    )
    def test_error_with_a_task_id_is_unknown(self, status, response):
        """The service may have accepted the order although it reports an error."""
        assert classify(status, response) is UNKNOWN

    def test_id_of_a_request_is_no_task_id(self):
        """Error responses name their request for support. Read as a task, it would make each rejection unknown."""
        assert classify(400, {"error": {"id": "req_1", "message": "no"}}) is REJECTED

    @pytest.mark.parametrize(
        "response",
        [
            {"code": "1302", "data": None},
            {"code": 1302},
            {"error": {"code": "queue_full"}},
            {"error_code": "queue_full"},
        ],
    )
    @pytest.mark.parametrize("status", [200, 400, 503])
    def test_busy_code_is_not_accepted(self, response, status):
        """The author has configured the codes with which the service rejects an order for lack of room."""
        assert classify(status, response, busy_codes={"1302", "queue_full"}) is NOT_ACCEPTED
        assert classify(200, response) is UNKNOWN
        assert classify(status, {**response, "id": "proj_1"}, busy_codes={"1302", "queue_full"}) is UNKNOWN

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"\xff", b"{}", b"[" * 100_000])
    def test_unparsable_200_is_unknown(self, body):
        """The service or a proxy returned success, and the id was lost on the way."""
        assert classify(200, body) is UNKNOWN


class TestWithoutResponse:
    @pytest.mark.parametrize(
        "error",
        [
            ConnectionResetError(104, "reset"),
            TimeoutError("timed out"),
            socket.gaierror("unknown"),
            ssl.SSLError(1, "alert"),
        ],
    )
    def test_outcome_depends_on_whether_the_body_was_sent(self, error):
        """Without the first byte of the body, the service cannot have accepted the order."""
        early = order_without_response(error, "host", body_started=False)
        assert isinstance(early, ManxueOrderNotAcceptedError)
        assert isinstance(order_without_response(error, "host", body_started=True), ManxueOrderUnknownError)

    def test_error_gives_the_reason(self):
        refused = order_without_response(
            ConnectionRefusedError(111, "no"), "media.example", body_started=False
        )
        assert (
            str(refused) == "The order was not accepted: no response from media.example: connection refused"
        )
        known = order_without_response(ManxueTransientError("the proxy is away"), "host", body_started=True)
        assert "outcome of the order is unknown: the proxy is away. It may have been accepted" in str(known)


class TestErrors:
    def test_unknown_outcome_is_never_retried(self):
        error = order_error(UNKNOWN, ManxueTransientError("HTTP 502"))
        assert isinstance(error, AirflowFailException)
        assert "HTTP 502" in str(error)
        assert "Check with the service" in str(error)

    def test_unknown_outcome_quotes_the_response_once(self):
        reason = ManxueTransientError("HTTP 502: no room")
        assert str(order_error(UNKNOWN, reason, "no room")).count("no room") == 1
        assert "unknown: HTTP 502: no room (response: <html>)." in str(order_error(UNKNOWN, reason, "<html>"))
        assert "(response:" not in str(order_error(UNKNOWN, reason))

    def test_unaccepted_order_may_be_retried(self):
        error = order_error(NOT_ACCEPTED, ManxueTransientError("HTTP 429"), retry_after=7.0)
        assert not isinstance(error, AirflowFailException)
        assert error.retry_after == 7.0
        assert str(error) == "The order was not accepted: HTTP 429"
        assert order_error(NOT_ACCEPTED, ManxueRefusedError("the code 429")).retry_after is None

    def test_interrupt_as_the_cause_is_raised(self):
        """Airflow's timeout of the task must end it, also if the order is certainly not accepted."""
        error = ManxueOrderNotAcceptedError("no")
        error.raise_cause()
        error.__cause__ = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            error.raise_cause()


class TestResponse:
    def parse(self, http_status=200, body=None, failure=None, **fields):
        body = json.dumps(fields).encode() if body is None else body
        return parse_order_response(http_status, body, retry_after=(), now=0, secret="key", failure=failure)

    def test_response_with_a_task_returns_the_task(self):
        task = self.parse(id="proj_1", status="processing")
        assert (task.id, task.status) == ("proj_1", TaskStatus.PROCESSING)

    @pytest.mark.parametrize(
        "response",
        [
            {"task_id": "t9", "status": "queued"},
            {"taskId": "t9"},
            {"code": 0, "msg": "success", "data": {"task_id": "t9", "task_status": "submitted"}},
            {"code": 0, "data": [{"id": "t9"}]},
            {"code": "00000", "data": {"taskId": "t9"}},
            {"code": 201, "data": {"taskId": "t9"}},
            {"code": 0, "data": {"task": {"id": "t9", "status": "queued"}}},
            {"output": {"task_id": "t9"}},
            {"code": 200, "result": {"data": {"projectId": "t9"}}},
            {"status": "queued", "data": {"task": {"task_id": "t9"}}},
        ],
    )
    def test_another_or_nested_id_field_is_accepted(self, response):
        task = self.parse(**response)
        assert (task.id, task.status) == ("t9", TaskStatus.QUEUED)
        assert task.status_word in {"", "queued", "submitted"}

    @pytest.mark.parametrize(
        "response",
        [
            {"code": 1, "msg": "success", "data": {"task_id": "proj_1"}},
            {"code": 100, "msg": "ok", "data": "proj_1"},
            {"code": 1, "data": [{"id": "proj_1"}]},
            {"code": 0, "data": [{"id": "proj_1"}, {"id": "proj_2"}]},
            {"code": 0, "data": {"task": {"id": "proj_1\n"}, "result": {"id": "b"}}},
        ],
    )
    def test_ambiguous_id_is_unknown_and_quoted(self, response):
        with pytest.raises(ManxueOrderUnknownError, match="proj_1"):
            self.parse(**response)

    @pytest.mark.parametrize(
        ("status", "error"),
        [(300, ManxueOrderUnknownError), (400, ManxueOrderUnknownError), (502, ManxueOrderUnknownError)],
    )
    def test_nested_id_with_an_error_status_is_unknown(self, status, error):
        with pytest.raises(error, match="t9"):
            self.parse(status, output={"task_id": "t9"})

    def test_key_in_a_nested_id_is_masked(self):
        task = self.parse(output={"task_id": "key-1"})
        assert (task.id, task.status_word) == ("***-1", "queued")

    def test_response_with_a_busy_code_is_not_accepted(self):
        body = b'{"code": 1302, "msg": "no room"}'
        with pytest.raises(ManxueOrderNotAcceptedError, match="no room"):
            parse_order_response(200, body, retry_after=(), now=0, secret="", busy_codes={"1302"})

    def test_failed_task_raises_a_failed_video(self):
        with pytest.raises(ManxueVideoFailedError, match=r"'proj_1': too dark"):
            self.parse(id="proj_1", status="failed", error="too dark")

    @pytest.mark.parametrize(
        "response",
        [
            {"id": "req-1", "status": "success", "data": {"projectId": "proj_1"}},
            {"id": 77, "projectId": "proj_1"},
            {"id": "proj_1", "error": {"message": "insufficient balance"}},
            {"id": "proj_1", "status": "queued", "error": "insufficient balance"},
            {"data": {"task": {"id": "proj_1"}}, "error": "insufficient balance"},
            {"status": "failed", "code": 500, "message": "internal error of proj_1", "data": None},
            {"status": "failed", "model": "proj_1"},
        ],
    )
    def test_id_that_is_not_certain_is_unknown_and_quoted(self, response):
        """Another id would be awaited, and the paid video lost."""
        with pytest.raises(ManxueOrderUnknownError, match="proj_1"):
            self.parse(**response)

    @pytest.mark.parametrize(
        "response",
        [
            {"id": "p1", "status": "success", "message": "Task submitted"},
            {"code": 0, "message": "Task submitted", "data": {"id": "p1", "status": "success"}},
            {"code": 200, "msg": "submitted", "data": {"id": "p1", "status": "init"}},
            {"id": "p1", "status": 1, "message": "任务已提交"},
            {"id": "p1", "status": "queued", "error": {"code": 0, "message": "success"}},
            {"id": "p1", "status": "queued", "error": False},
            {"id": "p1 ", "task_id": "p1", "status": "queued"},
            {"data": {"task": {"id": "p1"}}, "error": {"code": "0", "message": ""}},
        ],
    )
    def test_acknowledgement_is_no_error(self, response):
        assert self.parse(**response).id == "p1"

    def test_the_number_0_is_no_id(self):
        assert self.parse(id=0, projectId="proj_1", status="queued").id == "proj_1"

    def test_response_with_a_task_without_an_id_is_unknown(self):
        with pytest.raises(ManxueOrderUnknownError, match=r"without an id \(response: .*queued"):
            self.parse(status="queued")

    def test_object_of_another_kind_is_unknown(self):
        with pytest.raises(ManxueOrderUnknownError, match=r"image\.generation"):
            self.parse(id="proj_1", status="queued", object="image.generation")

    @pytest.mark.parametrize(
        ("status", "error"),
        [(429, ManxueOrderNotAcceptedError), (400, ManxueOrderRejectedError), (503, ManxueOrderUnknownError),
         (200, ManxueOrderUnknownError)],
    )  # fmt: skip
    @pytest.mark.parametrize("body", [b"", b'{"id": "proj_1"'])
    def test_truncated_response_is_decided_by_its_status(self, status, error, body):
        with pytest.raises(error, match="it broke"):
            self.parse(status, body, failure=ManxueTransientError("it broke"))

    @pytest.mark.parametrize("failure", [None, ManxueTransientError("it broke")])
    def test_truncated_429_has_its_retry_after(self, failure):
        with pytest.raises(ManxueOrderNotAcceptedError) as raised:
            parse_order_response(429, b"", retry_after=["90"], now=0, secret="key", failure=failure)
        assert raised.value.retry_after == 90

    def test_response_cut_after_a_task_is_unknown_and_quoted(self):
        with pytest.raises(ManxueOrderUnknownError, match=r"it broke.*proj_1"):
            self.parse(id="proj_1", failure=ManxueTransientError("it broke"))

    def test_unparsable_response_is_quoted_without_secrets(self):
        url = "https://cdn.example/v.mp4?sig=secret"
        for body in (
            json.dumps({"task": "t9", "url": url, "note": "key", "rest": "x" * 500}).encode(),
            f'{{"task": "t9", "url": "{url}", "note": "key'.encode(),
            b'{"task": "t9", "url": "https://cdn.example/v.mp4\\u003fsig=secret", "note": "key"',
            f"task t9 at {url} for key".encode(),
        ):
            with pytest.raises(ManxueOrderUnknownError, match=r"task.*t9") as caught:
                self.parse(body=body)
            text = str(caught.value)
            assert "secret" not in text
            assert "key" not in text.replace("key=", "")
            quoted = text.partition("(response: ")[2].partition(")")[0]
            assert len(quoted) <= 200

    def test_429_has_its_retry_after(self):
        options = {"now": 1_893_456_000.0, "secret": ""}
        for retry_after, pause in (["7"], 7), (["Tue, 01 Jan 2030 00:00:10 GMT"], 10):
            with pytest.raises(ManxueOrderNotAcceptedError) as caught:
                parse_order_response(429, b"{}", retry_after=retry_after, **options)
            assert caught.value.retry_after == pause

    def test_error_hides_the_key(self):
        with pytest.raises(ManxueOrderRejectedError, match=r"bad \*\*\*"):
            self.parse(400, msg="bad key")

    def test_rejection_gives_the_reason(self):
        with pytest.raises(ManxueOrderRejectedError, match=r"nothing was ordered: .*prompt not allowed"):
            self.parse(400, msg="prompt not allowed")

    @pytest.mark.parametrize(
        ("code", "msg"), [(1001, "素材 URL 无法访问"), (-1, "余额不足"), (402, "余额不足")]
    )
    def test_documented_error_samples_reject(self, code, msg):
        with pytest.raises(ManxueOrderRejectedError, match=msg):
            self.parse(code=code, msg=msg, data=None)

    def test_errors_derive_from_manxue_error(self):
        for error in (ManxueOrderNotAcceptedError, ManxueOrderRejectedError, ManxueOrderUnknownError):
            assert issubclass(error, ManxueError)
