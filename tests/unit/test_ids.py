"""Ids of video tasks, as authors and templates pass them. The reasons are in the docstring of ``_core/ids.py``."""

import json
from types import SimpleNamespace

import pytest
from jinja2.nativetypes import NativeEnvironment

from airflow_provider_manxue._core.ids import (
    MAX_TASK_TEXT,
    as_list,
    ids_in,
    names_a_task,
    parse_video_task_id,
    parse_video_task_ids,
)
from airflow_provider_manxue.exceptions import ManxueInputError
from airflow_provider_manxue.models import TaskStatus, VideoTask

VIDEO = "https://cdn.example.com/a.mp4?signature=SECRET"
WHOLE = VideoTask(id="proj_1", status=TaskStatus.COMPLETED, video_url=VIDEO, actual_duration=5.0).to_dict()


@pytest.mark.parametrize(
    "value",
    [
        "proj_1",
        "  proj_1\n",
        {"id": "proj_1", "status": "queued"},
        {"id": "proj_1", "data": {"projectId": "other"}},
        {"projectId": "proj_1"},
        {"code": "0", "msg": None, "data": {"projectId": "proj_1"}},
        {"id": None, "data": {"id": "proj_1"}},
        {"id": "", "projectId": "proj_1"},
        {"task_id": "proj_1"},
        {"taskId": "proj_1"},
        {"code": 0, "data": {"task_id": "proj_1"}},
        {"data": {"taskId": "proj_1"}},
        {"data": [{"id": "proj_1"}]},
        str(WHOLE),
        f" {json.dumps(WHOLE)}\n",
        "{'data': {'projectId': 'proj_1'}}",
        '{"code":"0","msg":null,"data":{"projectId":"proj_1"}}',
        VideoTask(id="proj_1", status=TaskStatus.QUEUED).to_dict(),
    ],
)
def test_id_is_parsed_from_text_or_create_response(value):
    assert parse_video_task_id(value) == "proj_1"


@pytest.mark.parametrize(
    "value",
    [
        "video_550e8400-e29b-41d4-a716-446655440000",
        "global task/2",
        "a/../b",
        "...",
        "任务 1",
        "?#%2e",
        "a" * 1000,
        "{550e8400-e29b-41d4-a716-446655440000}",
        "a{b}",
        "12_34",
        "1e5",
    ],
)
def test_id_is_returned_unchanged(value):
    assert parse_video_task_id(value) == value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "is empty"),
        (" \t\n", "is empty"),
        ({"id": "  "}, "is empty"),
        (None, "NoneType"),
        (17.0, "floating-point"),
        (1e5, "floating-point"),
        pytest.param(10**5000, "int", id="digits"),
        (b"proj_1", "bytes"),
        (True, "bool"),
        (["proj_1", "proj_2"], "list"),
        (("proj_1",), "tuple"),
        ({}, "keys []"),
        ({"status": "queued", "code": 0}, "['code', 'status']"),
        ({"id": None, "data": None}, "['data', 'id']"),
        ({"id": True}, "['id']"),
        ({"data": ["proj_1"]}, "['data']"),
        ({"data": [{"id": "a"}, {"id": "b"}]}, "['data']"),
        ("['proj_1']", "list"),
        ("{}", "keys []"),
        (".", "'.'"),
        ("..", "'..'"),
        (" .. ", "'..'"),
        ("a\nb", "is not an id"),
        ("a\x00b", "is not an id"),
        ("a\x7fb", "is not an id"),
        ("a\u200bb", "is not an id"),
        ("a\ud800", "is not an id"),
        ("a\u202eb", "is not an id"),
        ("a" * 1001, "(a text of 1001 characters) is not an id"),
        pytest.param(10**1001, "(a text of 1002 characters) is not an id", id="long number"),
        ("a" * 99 + "\x7f", f"'{'a' * 99}\\x7f' is not an id"),
        ("a" * 100 + "\x7f", "(a text of 101 characters) is not an id"),
    ],
)
def test_bad_id_is_rejected_with_the_reason(value, problem):
    with pytest.raises(ManxueInputError) as caught:
        parse_video_task_id(value)

    assert problem in str(caught.value)
    assert "create call" in str(caught.value)


def test_list_of_ids_is_rejected_with_a_hint():
    with pytest.raises(ManxueInputError, match="expand"):
        parse_video_task_id(["proj_1"])


@pytest.mark.parametrize(("rendered", "task_id"), [("1234567890", "1234567890"), ("0", "0"), ("007", "007")])
def test_id_of_digits_survives_a_native_template(rendered, task_id):
    value = NativeEnvironment().from_string("{{ x }}").render(x=rendered)

    assert parse_video_task_id(value) == task_id


def test_float_of_a_native_template_is_rejected():
    value = NativeEnvironment().from_string("{{ x }}").render(x="1e5")

    with pytest.raises(ManxueInputError) as caught:
        parse_video_task_id(value)

    assert str(caught.value) == (
        "video_task_id is a floating-point number, so the digits of the id are lost. A template with "
        "render_template_as_native_obj=True does that to an id such as '1e5'. Pass the XComArg or the whole response "
        "of the create call instead."
    )


@pytest.mark.parametrize(
    "value",
    [
        str(WHOLE)[:-5],
        json.dumps(WHOLE)[:-5],
        f"{{'at': datetime.datetime(2027, 1, 1), 'video_url': '{VIDEO}'}}",
        str({**WHOLE, "id": None}),
        str([WHOLE]),
        str({**WHOLE, "x": "y" * 100_000}),
        VIDEO,
        f"proj_1 {VIDEO}",
        {VIDEO: 1},
        {"id": VIDEO},
        "[" * 99_999 + f"'{VIDEO}'",
        "{'a': " + "-" * 90_000 + f"'{VIDEO}'}}",
        f"{'a' * 101}\nSECRET",
        "a\nb{SECRET}",
    ],
)
@pytest.mark.parametrize("parse", [parse_video_task_id, lambda value: parse_video_task_ids([value])])
def test_rejected_value_is_not_quoted(parse, value):
    """It may hold a signed URL of the video, and errors are logged."""
    with pytest.raises(ManxueInputError) as caught:
        parse(value)

    assert "SECRET" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_unparsable_task_text_is_rejected_with_a_hint():
    with pytest.raises(
        ManxueInputError, match=r"wait\.output.*\['id'\].*render_template_as_native_obj"
    ) as caught:
        parse_video_task_id("{'id': ")

    assert "a text of 7 characters that looks like an object or a list" in str(caught.value)


def test_task_text_is_parsed_up_to_its_limit():
    text = '{"id": "proj_1"}'
    text += " " * (MAX_TASK_TEXT - len(text))

    assert parse_video_task_id(text) == "proj_1"
    with pytest.raises(ManxueInputError, match="cannot be parsed"):
        parse_video_task_id(f"{text} ")


@pytest.mark.parametrize(
    ("value", "is_named"), [("proj_1", True), ({"id": 5}, True), ({}, False), (VIDEO, False), (None, False)]
)
def test_names_a_task_requires_a_usable_id(value, is_named):
    assert names_a_task(value) is is_named


# --- several ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        ["a", "5"],
        ("a", 5),
        {"a": 1, "5": 2}.keys(),
        "['a', 5]",
        ' ["a", "5"]\n',
        str([{**WHOLE, "id": "a"}, {**WHOLE, "id": "5"}]),
        json.dumps([{"id": "a"}, {"id": 5}]),
    ],
)
def test_ids_are_parsed_from_any_list(values):
    """Templates render a list as text: in Python's notation, or as JSON with the filter ``tojson``."""
    assert parse_video_task_ids(values) == ["a", "5"]


def test_ids_are_parsed_from_iterators():
    assert parse_video_task_ids(iter(["a", "5"])) == ["a", "5"]
    assert parse_video_task_ids(text for text in ("a", "5")) == ["a", "5"]


@pytest.mark.parametrize(
    "values",
    [
        "a",
        "a,b",
        b"a",
        None,
        5,
        {"id": "a"},
        str(WHOLE),
        "[",
        f"['{VIDEO}'",
        f"['{VIDEO}']",
        VIDEO,
        "[]",
        {"a"},
    ],
)
def test_bad_list_of_ids_is_rejected_without_quote(values):
    """The value may hold a signed URL of the video."""
    with pytest.raises(ManxueInputError, match="video_task_ids") as caught:
        parse_video_task_ids(values)

    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (text for text in "ab"),
        lambda: map(str, "ab"),
        lambda: iter("ab"),
        lambda: filter(None, "ab"),
        lambda: {"a": 1, "b": 2}.keys(),
        lambda: {1: "a", 2: "b"}.values(),
    ],
)
def test_iterator_becomes_a_list(make):
    assert as_list(make()) == ["a", "b"]


@pytest.mark.parametrize(
    "values", [["a"], ("a",), "{{ params.ids }}", {"id": "a"}, None, 5, SimpleNamespace(resolve=1)]
)
def test_other_arguments_are_unchanged(values):
    assert as_list(values) is values


@pytest.mark.parametrize("values", [{"a", "b"}, frozenset("ab")])
def test_set_is_rejected(values):
    """A set has no order, but results follow the order of the ids."""
    with pytest.raises(ManxueInputError, match="sorted"):
        as_list(values)


def nested(levels, wrap):
    response = {"id": "t9"}
    for _ in range(levels):
        response = {"data": wrap(response)}
    return response


@pytest.mark.parametrize("wrap", [lambda inner: inner, lambda inner: [inner]], ids=["objects", "lists"])
def test_ids_are_found_up_to_four_levels_deep(wrap):
    """A response of a hostile server must not take long."""
    assert list(ids_in(nested(4, wrap))) == ["t9"]
    assert list(ids_in(nested(5, wrap))) == []


@pytest.mark.parametrize(
    ("parse", "value", "argument"),
    [
        (parse_video_task_id, "{broken: 1", "video_task_id"),
        (parse_video_task_ids, "[broken", "video_task_ids"),
        (parse_video_task_ids, "{broken: 1", "video_task_ids"),
    ],
)
def test_error_of_unparsable_text_names_the_argument(parse, value, argument):
    with pytest.raises(
        ManxueInputError, match=rf"^{argument} is a text of {len(value)} characters that looks"
    ):
        parse(value)
