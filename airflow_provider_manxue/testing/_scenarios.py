"""
The scenarios: known behaviours of the service, and faults, by name.

One table for the command line, the control API, the documentation and the tests. It is longer than other modules since
most of it is data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_manxue.testing._response import OMIT, RESPONSES, Raw, Response
from airflow_provider_manxue.testing._script import SCRIPTS, STATUSES, Script, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Origin = Literal["documented", "seen", "assumed"]
Place = Literal["query", "create", "media", "port"]


@dataclass(frozen=True)
class Scenario:
    """
    A named behaviour of the service, or a named fault.

    :param name: name of the scenario.
    :param description: behaviour that a client sees.
    :param origin: source: ``documented`` by the service, ``seen`` in the wild, or ``assumed``.
    :param place: endpoint that it affects: ``query``, ``create`` or ``media``; ``port`` for the socket.
    :param script: script of a task that plays it; None without one.
    :param response: the single response that plays it; None if it takes several.
    """

    name: str
    description: str
    origin: Origin
    place: Place
    script: Script | None = None
    response: Response | None = None


def _flow(response: Response | None, *statuses: str, actual_duration: float | None = None) -> Script:
    """Return a script whose steps last one poll each, with the same response to all."""
    return replace(Script.polls(*statuses, response=response), actual_duration=actual_duration)


def _completing(
    name: str,
    description: str,
    overrides: Mapping[str, Any],
    *,
    origin: Origin = "seen",
    actual_duration: float | None = None,
) -> Scenario:
    """Return a scenario with changed fields in every response of a task that completes."""
    response = Response(overrides=overrides)
    script = _flow(response, "queued", "processing", "completed", actual_duration=actual_duration)
    return Scenario(name, description, origin, "query", script, response)


def _synonym(synonym: str, status: str) -> Scenario:
    """Return a scenario with a synonym of a status."""
    response = Response(overrides={"status": synonym})
    flow = ("queued", "processing", "failed" if status == "failed" else "completed")
    script = Script(
        tuple(Step(status=item, polls=1, response=response if item == status else None) for item in flow)
    )
    return Scenario(
        f"status_{synonym}", f"`status` is `{synonym}`, meaning {status}", "seen", "query", script, response
    )


def _letter_case(name: str, change: Any) -> Scenario:
    """Return a scenario with every status in another letter case."""
    script = Script(
        tuple(
            Step(status=status, polls=1, response=Response(overrides={"status": change(status)}))
            for status in ("queued", "processing", "completed")
        )
    )
    description = f"`status` in other letter case: `{change('queued')}` ... `{change('completed')}`"
    return Scenario(name, description, "seen", "query", script)


def _error(name: str, description: str, error: Any, origin: Origin = "seen") -> Scenario:
    response = Response(overrides={"error": error})
    return Scenario(name, description, origin, "query", _flow(response, "processing", "failed"), response)


def _wrapped(name: str, description: str, envelope: Mapping[str, Any]) -> Scenario:
    response = Response(envelope=envelope)
    return Scenario(
        name, description, "seen", "query", _flow(response, "queued", "processing", "completed"), response
    )


def _fault(name: str, description: str, response: Response, origin: Origin = "assumed") -> Scenario:
    """Return a scenario with the response to two polls. The task is completed after them."""
    steps = (Step(status="processing", polls=2, response=response), Step(status="completed"))
    return Scenario(name, description, origin, "query", Script(steps), response)


def _create(name: str, description: str, response: Response, origin: Origin = "seen") -> Scenario:
    script = replace(Script.polls("queued", "processing", "completed"), create=response)
    return Scenario(name, description, origin, "create", script, response)


def _media(name: str, description: str, response: Response) -> Scenario:
    script = replace(Script.polls("completed"), media=response)
    return Scenario(name, description, "assumed", "media", script, response)


def _flows() -> Iterator[Scenario]:
    for status in STATUSES:
        script = Script((Step(status=status),))
        yield Scenario(status, f"{status}, and nothing else", "documented", "query", script)
    yield Scenario(
        "queued_processing_completed",
        "queued, processing, completed, one poll each",
        "documented",
        "query",
        _flow(None, "queued", "processing", "completed"),
    )
    yield Scenario(
        "queued_processing_failed",
        "queued, processing, failed with an error text",
        "documented",
        "query",
        _flow(None, "queued", "processing", "failed"),
    )
    absent = Response(overrides={"video_url": OMIT, "error": OMIT})
    yield Scenario(
        "fields_absent_before_the_end",
        "`video_url` and `error` are absent, not null, before the end",
        "documented",
        "query",
        Script(
            (
                Step(status="queued", polls=1, response=absent),
                Step(status="processing", polls=1, response=absent),
                Step(status="completed", response=Response(overrides={"error": OMIT})),
            )
        ),
    )
    yield Scenario(
        "completed_without_url",
        "completed, and the URL never comes",
        "seen",
        "query",
        Script.always(Response(overrides={"video_url": None}), status="completed"),
        Response(overrides={"video_url": None}),
    )
    yield Scenario(
        "completed_without_url_lag",
        "completed; the URL comes with the third completed response",
        "seen",
        "query",
        Script(
            (
                Step(status="completed", polls=2, response=Response(overrides={"video_url": OMIT})),
                Step(status="completed"),
            )
        ),
    )


def _fields() -> Iterator[Scenario]:
    image = {"object": "image.generation", "video_url": OMIT}
    yield _completing(
        "object_image_generation",
        "an id of another kind: `object` is `image.generation`, with `image_url`",
        {**image, "image_url": Raw('"{}"', "video_url"), "actualDuration": OMIT},
    )
    yield _completing(
        "object_video_generation", "`object` is `video.generation`", {"object": "video.generation"}
    )
    yield _completing("object_absent", "`object` is absent", {"object": OMIT}, origin="assumed")

    yield _letter_case("status_uppercase", str.upper)
    yield _letter_case("status_capitalized", str.capitalize)
    for status, synonyms in STATUS_SYNONYMS.items():
        for synonym in synonyms:
            yield _synonym(synonym, status)
    yield Scenario(
        "status_unknown",
        "an unknown status (`reviewing`) for two polls, then completed",
        "seen",
        "query",
        Script(
            (
                Step(status="processing", polls=2, response=Response(overrides={"status": "reviewing"})),
                Step(status="completed"),
            )
        ),
        Response(overrides={"status": "reviewing"}),
    )

    for name in ("videoUrl", "result_url", "url"):
        yield _completing(
            f"url_under_{name}",
            f"the URL is in `{name}`, not in `video_url`",
            {"video_url": OMIT, name: Raw('"{}"', "video_url")},
        )
    extra = {
        "amount": 1.25,
        "totalTokens": 108000,
        "progress": 100,
        "last_frame_url": "https://example.com/l.png",
    }
    for name, value in extra.items():
        yield _completing(f"extra_{name}", f"an extra field `{name}`", {name: value})

    yield _error("error_null", "failed, and `error` is null", None)
    yield _error("error_string", "failed, and `error` is a string", "Content policy violation.")
    for name in ("message", "detail", "code"):
        value = "content_policy" if name == "code" else "Content policy violation."
        yield _error(f"error_object_{name}", f"failed, and `error` is an object with `{name}`", {name: value})
    yield _error("error_absent", "failed, and `error` is absent", OMIT, "assumed")

    yield _completing(
        "numbers_as_strings",
        "`created` and `actualDuration` are strings",
        {"created": Raw('"{}"', "created"), "actualDuration": Raw('"{}"', "actualDuration")},
    )
    yield _duration("duration_integer", "`actualDuration` is written as `5`", "{:.0f}", 5.0)
    yield _duration("duration_4.000000", "`actualDuration` is written as `4.000000`", "{:.6f}", 4.0)
    yield _duration("duration_5.17", "`actualDuration` is written as `5.17`", "{:.2f}", 5.17)
    yield _completing(
        "duration_absent",
        "completed, and `actualDuration` is absent",
        {"actualDuration": OMIT},
        origin="assumed",
    )

    yield _wrapped("wrapped_in_data", "the complete response is inside `data`", {})
    yield _wrapped(
        "wrapped_with_code_and_msg",
        'the response is inside `data`, with `code` `"0"` and `msg` null',
        {"code": "0", "msg": None},
    )
    yield _wrapped(
        "wrapped_with_code_number",
        "the response is inside `data`, with `code` as the number `0`",
        {"code": 0, "msg": "success"},
    )


def _duration(name: str, description: str, text: str, actual: float) -> Scenario:
    return _completing(
        name, description, {"actualDuration": Raw(text, "actualDuration")}, actual_duration=actual
    )


def _responses() -> Iterator[Scenario]:
    no_handler = "No handler found for GET /kyyReactApiServer/kyyReactApiServer/v1/result"
    yield _fault(
        "http_200_business_error",
        "HTTP 200 with `code` 500 and `data` null, as for a doubled path prefix",
        Response(json={"code": 500, "data": None, "msg": no_handler}),
        "seen",
    )
    yield _fault(
        "http_404_no_handler",
        "HTTP 404 with `message` `No handler found for GET ...`",
        Response(status=404, json={"message": no_handler}),
        "seen",
    )
    html = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
    as_html = {"Content-Type": "text/html; charset=utf-8"}
    yield _fault("html_body", "HTTP 200 with an HTML page", Response(body=html, headers=as_html), "seen")
    yield _fault("empty_body", "HTTP 200 with an empty body", Response(body=""), "seen")
    yield _fault(
        "http_502_html", "HTTP 502 with an HTML page", Response(status=502, body=html, headers=as_html)
    )
    for status in (400, 401, 403, 404, 408, 425, 429, 500, 502, 503, 504):
        yield _fault(f"http_{status}", f"HTTP {status} with a short JSON error", Response(status=status))
    slow_down = Response(status=429, retry_after=1)
    yield _fault("http_429_seconds", "HTTP 429 with `Retry-After: 1`", slow_down)
    yield _fault(
        "http_429_date",
        "HTTP 429 with `Retry-After` as an HTTP date",
        replace(slow_down, retry_after_as="date"),
    )
    yield _fault(
        "http_429_day", "HTTP 429 with `Retry-After: 86400`", Response(status=429, retry_after=86400)
    )
    yield _fault(
        "http_429_junk",
        "HTTP 429 with an invalid `Retry-After`",
        Response(status=429, headers={"Retry-After": "soon"}),
    )
    yield _fault(
        "http_429_cut",
        "HTTP 429 with `Retry-After: 1`, and a body that breaks off",
        replace(slow_down, truncate=5),
    )
    yield _fault(
        "http_200_code_429",
        "HTTP 200 with `code` 429 and `data` null, and `Retry-After: 1`",
        Response(json={"code": 429, "data": None, "msg": "too many requests"}, headers={"Retry-After": "1"}),
    )
    yield _fault("http_503_seconds", "HTTP 503 with `Retry-After: 1`", Response(status=503, retry_after=1))
    yield _fault(
        "redirect",
        "HTTP 302 to another host",
        Response(status=302, body="", headers={"Location": "https://redirected.invalid/"}),
    )
    yield _fault("json_broken", "a body that is not JSON", Response(body='{"id": "x", "status":'))
    yield _fault("json_list", "a body that is a JSON list", Response(json=[]))
    yield _fault("json_null", "a body that is `null`", Response(json=None))
    yield _fault("not_utf8", "a body that is not UTF-8", Response(body=b'{"status": "\xff\xfe"}'))


def _wire() -> Iterator[Scenario]:
    yield Scenario("refuse", "the port is closed: connections are refused", "assumed", "port")
    yield _fault(
        "reset_before_read", "a TCP reset, before the request is processed", Response(reset="before")
    )
    yield _fault(
        "reset_after_read",
        "a TCP reset instead of the response; the request was processed",
        Response(reset="after"),
    )
    yield _fault("truncated_body", "`Content-Length` is larger than the body", Response(truncate=20))
    yield _fault("chunked_cut_short", "a chunked body without its end", Response(truncate=20, chunked=True))
    yield _fault("endless_body", "a body that never ends", Response(endless=True))
    yield _fault("hang", "no response, and the connection stays open", Response(hang=True))
    yield _fault("slow_body", "the body comes at 200 bytes a second", Response(bytes_per_second=200))
    yield _fault("delayed", "the response comes after half a second", Response(delay=0.5))
    yield _fault("gzip_body", "a compressed body", Response(gzip=True))


def _orders() -> Iterator[Scenario]:
    yield _create(
        "id_proj_sd2manxue", "an id such as `proj_sd2manxue_123`", Response(order_id="proj_sd2manxue_{n}")
    )
    yield _create("id_video_uuid", "an id such as `video_<uuid>`", Response(order_id="video_{uuid}"))
    yield _create("id_space_and_slash", "an id such as `global task/2`", Response(order_id="global task/{n}"))
    yield _create("http_202_on_create", "HTTP 202 on create", Response(status=202))
    yield _create(
        "create_envelope_project_id",
        'the older response `{"code":"0","msg":null,"data":{"projectId":"proj_..."}}`',
        Response(json={"code": "0", "msg": None, "data": {"projectId": Raw('"{}"', "id")}}),
        "documented",
    )
    refused = "The prompt violates the content policy."
    yield Scenario(
        "create_answers_failed",
        "HTTP 200 and `status` `failed` on create; not billed",
        "seen",
        "create",
        Script(
            Script.failing(refused).steps,
            create=Response(overrides={"status": "failed", "error": refused}, bills=False),
        ),
        Response(overrides={"status": "failed", "error": refused}, bills=False),
    )
    yield _create(
        "create_reset_after_order",
        "a TCP reset instead of the response; the order was accepted and billed",
        Response(reset="after"),
        "assumed",
    )
    yield _create(
        "create_http_500_after_order",
        "HTTP 500, but the order was accepted and billed",
        Response(status=500, processed=True),
        "assumed",
    )


def _videos() -> Iterator[Scenario]:
    yield _media("media_cut", "the connection ends after 1000 bytes", Response(truncate=1000))
    yield _media("media_reset", "a TCP reset after 1000 bytes", Response(truncate=1000, reset="after"))
    yield _media("media_chunked_cut", "a chunked body without its end", Response(truncate=1000, chunked=True))
    yield _media("media_chunked", "a chunked body, without `Content-Length`", Response(chunked=True))
    yield _media(
        "media_ignores_range",
        "HTTP 200 and the complete video, in spite of `Range`",
        Response(ignore_range=True),
    )
    yield _media("media_length_too_long", "`Content-Length` is 10 bytes too long", Response(length_error=10))
    yield _media(
        "media_length_too_short", "`Content-Length` is 10 bytes too short", Response(length_error=-10)
    )
    yield _media(
        "media_html",
        "HTTP 200 with an HTML page",
        Response(
            body="<html><body>Not here</body></html>", headers={"Content-Type": "text/html; charset=utf-8"}
        ),
    )
    yield _media("media_empty", "HTTP 200 with an empty body", Response(body=""))
    yield _media("media_gzip", "a compressed body", Response(gzip=True))
    yield _media(
        "media_replaced",
        "cut after 1000 bytes; then the video is replaced, with a new `ETag`",
        Response(truncate=1000, then_replace=True),
    )
    yield _media("media_slow", "100 kB a second", Response(bytes_per_second=100_000))
    yield _media("media_endless", "a body that never ends", Response(endless=True))
    yield _media(
        "media_redirect",
        "HTTP 302 to another host",
        Response(status=302, body="", headers={"Location": "https://redirected.invalid/v.mp4"}),
    )
    yield _media("media_403", "HTTP 403", Response(status=403))
    yield _media("media_404", "HTTP 404", Response(status=404))
    yield _media("media_503", "HTTP 503", Response(status=503))


STATUS_SYNONYMS = {
    "queued": ("pending", "submitted"),
    "processing": ("running", "in_progress", "generating"),
    "completed": ("succeeded", "success", "done"),
    "failed": ("failure", "cancelled", "canceled", "expired"),
}
"""Synonyms of each status that were seen in responses."""

SHORT_NAMES = {
    "reset": "reset_before_read",
    "html": "html_body",
    "empty": "empty_body",
    "truncated": "truncated_body",
    "endless": "endless_body",
    "slow": "slow_body",
}
"""Short names of scenarios, for outages."""


def _table(scenarios: Iterable[Scenario]) -> dict[str, Scenario]:
    return {scenario.name: scenario for scenario in scenarios}


SCENARIOS: dict[str, Scenario] = _table(
    scenario for part in (_flows, _fields, _responses, _wire, _orders, _videos) for scenario in part()
)
"""All scenarios, by name."""

RESPONSES.fill({name: scenario.response for name, scenario in SCENARIOS.items()}, SHORT_NAMES)
SCRIPTS.fill({name: scenario.script for name, scenario in SCENARIOS.items()}, SHORT_NAMES)
