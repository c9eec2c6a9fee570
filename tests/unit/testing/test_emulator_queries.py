"""The query endpoint: API key, ids, and scripts that advance by time, by polls and by hand."""

from __future__ import annotations

import pytest
import requests

from airflow_provider_manxue.testing import OMIT, Clock, Emulator, RateLimit, Raw, Response, Script, Step


def test_response_has_the_fields_of_the_sample(emulator, customer):
    task_id = emulator.add_task("processing", model="sd2_manxue_1080p")

    assert customer.query(task_id).json() == {
        "id": task_id,
        "object": "video",
        "created": 1_800_000_000,
        "model": "sd2_manxue_1080p",
        "status": "processing",
        "video_url": None,
        "error": None,
    }


def test_completed_response_has_url_and_length(emulator, customer):
    task = customer.query(emulator.add_task("completed", actual_duration=5.17)).json()

    assert task["status"] == "completed"
    assert task["actualDuration"] == 5.17
    assert task["video_url"].startswith(f"{emulator.url}/media/")


def test_failed_response_has_the_error(emulator, customer):
    task = customer.query(emulator.add_task(Script.failing("Too dark."))).json()

    assert (task["status"], task["error"], task["video_url"]) == ("failed", "Too dark.", None)


@pytest.mark.parametrize("task_id", ["global task/2", "video_1e0c", "a%2Fb", "..", "日本", "a?b#c&d=e+f"])
def test_any_id_is_one_percent_encoded_segment(emulator, customer, task_id):
    emulator.add_task("queued", id=task_id)

    response = customer.query(task_id)

    # requests resolves dot segments, so this id is not sent.
    assert response.status_code == (501 if task_id == ".." else 200)
    if task_id != "..":
        assert response.json()["id"] == task_id
        assert emulator.polls(task_id)[0].raw_path == requests.utils.urlparse(response.url).path


def test_id_without_encoding_is_an_unknown_route(emulator, customer):
    emulator.add_task("queued", id="a/b")

    assert customer.get(f"{emulator.base_url}/v1/result/a/b").status_code == 501


def test_unknown_id_is_not_found(emulator, customer):
    response = customer.query("nobody")

    assert response.status_code == 404
    assert "nobody" in response.json()["msg"]
    assert response.headers["X-Emulator-Origin"] == "assumed"


@pytest.mark.parametrize("authorization", [None, "", "emulator-key", "Bearer wrong", "bearer emulator-key"])
def test_wrong_key_is_rejected_and_is_no_poll(emulator, customer, authorization):
    task_id = emulator.add_task(Script.polls("queued", "completed"))

    response = customer.query(task_id, headers={"Authorization": authorization})

    assert response.status_code == 401
    assert "guess" in response.json()["msg"]
    assert not emulator.requests[-1].authorized
    assert customer.statuses(task_id, 2) == ["queued", "completed"]


def test_rotated_key_is_valid_immediately(emulator, customer):
    task_id = emulator.add_task("queued")
    emulator.api_key = "another-key"

    assert customer.query(task_id).status_code == 401
    assert customer.query(task_id, headers={"Authorization": "Bearer another-key"}).status_code == 200


@pytest.mark.parametrize("key", ["", " key", "key\n"])
def test_key_with_whitespace_is_rejected(key):
    with pytest.raises(ValueError, match="api_key"):
        Emulator(api_key=key)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/kyyReactApiServer/v1/result/"),
        ("POST", "/kyyReactApiServer/v1/result/x"),
        ("GET", "/kyyReactApiServer/v1/sd2_manxue/videos"),
        ("GET", "/kyyReactApiServer/asset/sd2Manxue/assetUpload"),
        ("GET", "/kyyReactApiServer/kyyReactApiServer/v1/result/x"),
        ("POST", "/media/x.mp4"),
        ("DELETE", "/kyyReactApiServer/v1/result/x"),
    ],
)
def test_unknown_route_gets_501(emulator, customer, caplog, method, path):
    response = customer.request(method, emulator.url + path)

    assert response.status_code == 501
    assert f"{method} {path} is not part" in response.json()["error"]
    assert f"{method} {path} is not part" in caplog.text
    assert [(one.place, one.status) for one in emulator.requests] == [("unknown", 501)]


class TestTime:
    def test_time_ends_a_step(self, emulator, customer):
        task_id = emulator.add_task(Script.timed(queued=10, processing=20))
        seen = []
        for seconds in (0, 9.9, 0.1, 19.9, 0.1, 1e6):
            emulator.clock.advance(seconds)
            seen += customer.statuses(task_id, 1)

        assert seen == ["queued", "queued", "processing", "processing", "completed", "completed"]

    def test_time_may_skip_steps(self, emulator, customer):
        task_id = emulator.add_task(Script.failing(queued=10, processing=20))
        emulator.clock.advance(30)

        assert customer.statuses(task_id, 1) == ["failed"]

    def test_time_of_a_poll_does_not_matter(self, emulator, customer):
        """A late poll must not delay the following steps."""
        task_id = emulator.add_task(Script.timed(queued=10, processing=10))
        emulator.clock.advance(15)
        assert customer.statuses(task_id, 1) == ["processing"]
        emulator.clock.advance(5)

        assert customer.statuses(task_id, 1) == ["completed"]

    def test_status_is_read_without_a_poll(self, emulator):
        task_id = emulator.add_task(Script.timed(queued=10, processing=10))
        assert emulator.task(task_id).status == "queued"
        emulator.clock.advance(10)

        assert emulator.task(task_id).status == "processing"
        assert emulator.tasks[task_id].status == "processing"


def test_polls_end_a_step(emulator, customer):
    task_id = emulator.add_task(Script((Step(status="queued", polls=2), Step(status="completed", polls=1))))

    assert customer.statuses(task_id, 4) == ["queued", "queued", "completed", "completed"]


def test_timed_step_starts_with_the_poll_before_it(emulator, customer):
    steps = (Step(status="queued", polls=1), Step(status="processing", seconds=10), Step(status="completed"))
    task_id = emulator.add_task(Script(steps))
    emulator.clock.advance(100)
    assert customer.statuses(task_id, 2) == ["queued", "processing"]
    emulator.clock.advance(10)

    assert customer.statuses(task_id, 1) == ["completed"]


def test_polls_count_from_the_start_of_their_step(emulator, customer):
    steps = (Step(status="queued", seconds=10), Step(status="processing", polls=2), Step(status="completed"))
    task_id = emulator.add_task(Script(steps))
    assert customer.statuses(task_id, 2) == ["queued", "queued"]
    emulator.clock.advance(10)

    assert customer.statuses(task_id, 3) == ["processing", "processing", "completed"]


def test_advance_ends_a_step(emulator, customer):
    task_id = emulator.add_task(Script.by_hand())
    seen = customer.statuses(task_id, 2)
    for _ in range(3):
        emulator.advance(task_id)
        emulator.clock.advance(1000)
        seen += customer.statuses(task_id, 1)

    assert seen == ["queued", "queued", "processing", "completed", "completed"]


def test_set_status_changes_the_error(emulator, customer):
    task_id = emulator.add_task(Script.by_hand("queued"))
    emulator.set_status(task_id, "failed", error="No.")

    assert customer.query(task_id).json()["error"] == "No."


def test_set_script_restarts_the_task(emulator, customer):
    task_id = emulator.add_task("completed")
    emulator.clock.advance(100)
    emulator.set_script(task_id, Script.timed(queued=10))

    assert customer.statuses(task_id, 1) == ["queued"]


class TestResponse:
    def test_response_changes_the_regular_body(self, emulator, customer):
        response = Response(overrides={"status": "DONE", "error": OMIT, "more": {"n": Raw("1.50")}})
        task_id = emulator.add_task(Script.always(response, status="completed"))

        got = customer.query(task_id)

        assert '"more": {"n": 1.50}' in got.text
        assert got.json()["status"] == "DONE"
        assert "error" not in got.json()
        assert got.json()["actualDuration"] == 5.0

    def test_response_may_be_anything(self, emulator, customer):
        response = Response(
            status=418, body=b"\xff", headers={"X-Tea": "yes", "Content-Type": ""}, retry_after=2.5
        )
        task_id = emulator.add_task(Script.always(response))

        got = customer.query(task_id)

        assert (got.status_code, got.content) == (418, b"\xff")
        assert (got.headers["X-Tea"], got.headers["Retry-After"]) == ("yes", "3")

    def test_text_with_quotes_stays_json(self, emulator, customer):
        error = 'It said "no"\\.'
        response = Response(overrides={"why": Raw('"{}"', "error"), "error": None})
        task_id = emulator.add_task(Script((Step(status="failed", error=error, response=response),)))

        assert customer.query(task_id).json()["why"] == error

    @pytest.mark.parametrize(
        "response", [Response(status=503), Response(reset="before"), Response(status=404)]
    )
    def test_response_that_is_not_processed_is_no_poll(self, emulator, customer, response):
        task_id = emulator.add_task(Script.polls("queued", "completed"))
        emulator.fail_next(1, response)
        try:
            customer.query(task_id)
        except requests.ConnectionError:
            assert response.reset

        assert customer.statuses(task_id, 2) == ["queued", "completed"]
        assert len(emulator.polls(task_id)) == 3

    @pytest.mark.parametrize("response", [Response(body="<html>"), Response(status=503, processed=True)])
    def test_response_that_is_processed_is_a_poll(self, emulator, customer, response):
        task_id = emulator.add_task(Script.polls("queued", "completed"))
        emulator.fail_next(1, response)
        customer.query(task_id)

        assert customer.statuses(task_id, 1) == ["completed"]

    @pytest.mark.parametrize(
        "fields",
        [
            {"status": 99},
            {"status": 600},
            {"json": {}, "body": ""},
            {"reset": "later"},
            {"retry_after": -1},
            {"retry_after_as": "weeks"},
            {"delay": -0.1},
            {"delay": float("inf")},
            {"truncate": -1},
            {"bytes_per_second": 0},
        ],
    )
    def test_response_that_cannot_be_sent_is_rejected(self, fields):
        with pytest.raises(ValueError, match=next(iter(fields))):
            Response(**fields)


@pytest.mark.parametrize(
    "fields",
    [{"status": "done"}, {"status": "queued", "seconds": 1, "polls": 1}, {"status": "queued", "polls": 0},
     {"status": "queued", "seconds": -1}],
)  # fmt: skip
def test_invalid_step_is_rejected(fields):
    with pytest.raises(ValueError, match=r"status|seconds|polls"):
        Step(**fields)


def test_empty_script_is_rejected():
    with pytest.raises(ValueError, match="at least one step"):
        Script(())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Script.named("status_upercase"), "Similar names: status_uppercase"),
        (lambda: Response.named("htm_body"), "Similar names: html_body"),
        (lambda: Script.polls("complete"), "Similar names: completed"),
        (lambda: Response.named("status_uppercase"), "Script.named"),
        (lambda: Script.named("refuse"), "outage"),
        (lambda: Response.from_json({"statsu": 1}), "Similar names: status"),
        (lambda: Script.from_json({"steps": [{"status": "queued", "pols": 1}]}), "Similar names: polls"),
    ],
)
def test_unknown_name_suggests_similar_names(call, text):
    with pytest.raises(ValueError, match=text):
        call()


class TestTasks:
    def test_ids_are_like_the_documented_ones(self, emulator):
        assert [emulator.add_task(), emulator.add_task()] == ["proj_sd2manxue_1", "proj_sd2manxue_2"]

    def test_ids_are_unique(self, emulator):
        emulator.add_task(id="x")
        with pytest.raises(ValueError, match="'x' exists already"):
            emulator.add_task(id="x")

    def test_unknown_id_is_in_the_error(self, emulator):
        with pytest.raises(KeyError, match="'x' does not exist"):
            emulator.set_status("x", "completed")

    def test_added_task_is_no_order(self, emulator):
        """Only orders are billed. Otherwise a test could not count the orders of its pipeline."""
        emulator.add_task()
        assert emulator.ledger.orders == ()

    def test_task_needs_a_script(self, emulator):
        with pytest.raises(TypeError, match="Set a Script or the name"):
            emulator.add_task(script=7)


class TestRateLimit:
    def test_rate_limit_allows_a_burst_and_then_its_rate(self, make_customer):
        clock = Clock(start=1_800_000_000, frozen=True)
        with Emulator(clock=clock, rate_limit=RateLimit(rate=0.5, burst=2)) as emulator:
            customer = make_customer(emulator)
            task_id = emulator.add_task("queued")
            responses = [customer.query(task_id) for _ in range(3)]
            clock.advance(1.5)
            responses.append(customer.query(task_id))
            clock.advance(0.5)
            responses += [customer.query(task_id), customer.query(task_id)]

        assert [response.status_code for response in responses] == [200, 200, 429, 429, 200, 429]
        assert [response.headers.get("Retry-After") for response in responses] == [
            None,
            None,
            "2",
            "1",
            None,
            "2",
        ]

    def test_rate_limit_accumulates_at_most_a_burst(self, make_customer):
        with Emulator(rate_limit=2, clock=Clock(frozen=True)) as emulator:
            customer = make_customer(emulator)
            task_id = emulator.add_task("queued")
            emulator.clock.advance(1000)
            assert [customer.query(task_id).status_code for _ in range(3)] == [200, 200, 429]

    def test_rate_limit_may_send_a_date(self, make_customer):
        limit = RateLimit(rate=0.001, burst=1, retry_after="date")
        with Emulator(rate_limit=limit) as emulator:
            customer = make_customer(emulator)
            task_id = emulator.add_task("queued")
            customer.query(task_id)
            assert customer.query(task_id).headers["Retry-After"].endswith("GMT")

    def test_rate_limit_may_be_a_number(self, make_customer):
        with Emulator(rate_limit=2, clock=Clock(frozen=True)) as emulator:
            customer = make_customer(emulator)
            task_id = emulator.add_task("queued")
            assert [customer.query(task_id).status_code for _ in range(3)] == [200, 200, 429]

    def test_rate_limit_ignores_requests_with_a_wrong_key(self, make_customer):
        with Emulator(rate_limit=1, clock=Clock(frozen=True)) as emulator:
            customer = make_customer(emulator)
            task_id = emulator.add_task("queued")
            customer.query(task_id, headers={"Authorization": "Bearer wrong"})
            assert customer.query(task_id).status_code == 200

    @pytest.mark.parametrize("limit", [{"rate": 0}, {"rate": 1, "burst": 0}, {"rate": 1, "retry_after": "x"}])
    def test_rate_limit_out_of_range_is_rejected(self, limit):
        with pytest.raises(ValueError, match=r"rate|burst|retry_after"):
            RateLimit(**limit)


class TestClock:
    def test_clock_runs_with_real_time(self):
        clock = Clock(start=100)
        assert 100 <= clock.now() < 110
        assert clock.advance(50) >= 150

    def test_clock_may_be_frozen(self):
        clock = Clock(start=100, frozen=True)
        assert clock.advance(1.5) == clock.now() == 101.5

    @pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
    def test_clock_rejects_a_move_back(self, seconds):
        with pytest.raises(ValueError, match="seconds"):
            Clock().advance(seconds)
