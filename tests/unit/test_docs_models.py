"""The page on models, against the rules that the operator checks."""

import re

from airflow_provider_manxue._core.orders import (
    MAX_DURATION,
    MIN_DURATION,
    MODELS,
    RATIOS,
    parse_video_request,
)
from airflow_provider_manxue.exceptions import ManxueInputError
from airflow_provider_manxue.get_provider_info import CONNECTION_TYPE
from tests.support.pages import ROOT

PAGE = (ROOT / "docs/models.md").read_text()
URL = "https://media.example/1"


def rows():
    _, _, rest = PAGE.partition("<!-- models -->\n")
    table, _, _ = rest.partition("<!-- end of models -->")
    return [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


def is_accepted(**order):
    try:
        parse_video_request(prompt="A lighthouse", **order)
    except ManxueInputError:
        return False
    return True


def yes(accepted):
    return "yes" if accepted else "no"


def test_each_model_has_a_row():
    assert len(rows()) == len(MODELS)
    assert {model for model, *_ in rows()} == MODELS


def test_rows_are_what_the_operator_accepts():
    for model, resolution, images_and_audios, videos in rows():
        both = is_accepted(model=model, reference_images=[URL], reference_audios=[URL])
        assert model.endswith(f"_{resolution}")
        assert (images_and_audios, videos) == (
            yes(both),
            yes(is_accepted(model=model, reference_videos=[URL])),
        )


def test_limits_are_those_of_the_operator():
    limits = dict(re.findall(r"^\| ([\w ]+) \| ([^|]+) \| [^|]+ \| `\w+` \|$", PAGE, re.MULTILINE))

    assert limits["duration"] == f"{MIN_DURATION} to {MAX_DURATION} whole seconds"
    assert limits["ratio"] == ", ".join(f"`{ratio}`" for ratio in RATIOS)
    for kind in ("images", "videos", "audios"):
        count = int(re.match(r"at most (\d+) URLs", limits[f"reference {kind}"])[1])
        order = {"model": "sd2_manxue_video_720p", f"reference_{kind}": [URL] * count}
        assert is_accepted(**order)
        assert not is_accepted(**{**order, f"reference_{kind}": [URL] * (count + 1)})


def test_base_url_is_that_of_the_connection():
    assert f"`{CONNECTION_TYPE['ui-field-behaviour']['placeholders']['host']}`" in PAGE
