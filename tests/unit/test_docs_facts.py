"""Facts in the documentation that another source holds: Airflow's settings and UI, the requirements, limits of the code."""

import configparser
import re
import tomllib
import uuid

import pytest

from airflow_provider_manxue._core.batch import MYSQL_TEXT, stored_length
from tests.support.airflow_settings import AIRFLOW, known_settings, newest, settings_in_environment
from tests.support.pages import PAGES, ROOT, blocks, code_spans


def named_settings(page):
    """Return the settings that a page names: in its text, in blocks and as environment variables."""
    for section, option in re.findall(r"^\[(\w+)\] (\w+)", "\n".join(code_spans(page)), re.MULTILINE):
        yield section, option
    for block in blocks(page, "ini"):
        parser = configparser.ConfigParser()
        parser.read_string(block.code)
        for section in parser.sections():
            yield from ((section, option) for option in parser[section])
    yield from settings_in_environment(page.read_text())
    for span in code_spans(page):
        if re.fullmatch(r"(?:statsd|otel|metrics)_(?!exporter)[a-z_]+", span):
            yield "metrics", span


@newest
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_setting_is_one_of_airflow(page):
    assert set(named_settings(page)) - known_settings() == set()


@newest
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_label_on_a_way_through_the_ui_exists(page):
    labels = {
        label
        for file in (AIRFLOW / "ui/dist/i18n/locales/en").glob("*.json")
        for label in re.findall(r'"((?:[^"\\]|\\.)*)"', file.read_text())
    }
    ways = re.findall(r"\*[^*\n]+\*(?: → \*[^*\n]+\*)+|→ \*[^*\n]+\*|\*[^*\n]+ → [^*\n]+\*", page.read_text())

    assert {name.strip(" *") for way in ways for name in way.split("→")} - labels - {""} == set()


def test_least_versions_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", each).groups() for each in project["dependencies"])
    rows = re.findall(
        r"^\| `([\w-]+)` \|[^|]*\| ([\d.]+):? .*\|$", (ROOT / "docs/security.md").read_text(), re.MULTILINE
    )

    assert dict(rows) == required


FORMS = {"`video_<uuid>`": f"video_{uuid.UUID(int=0)}", "UUIDs": str(uuid.UUID(int=0))}


def test_ids_that_mysql_holds_are_as_many_as_the_page_says():
    text = " ".join((ROOT / "docs/many-videos.md").read_text().split())
    found = re.search(
        r"([\d,]+) ids of the form `video_<uuid>`, ([\d,]+) UUIDs, or ([\d,]+) ids such as `([^`]+)`", text
    )
    *counts, example = found.groups()

    for count, one in zip(counts, [*FORMS.values(), example], strict=True):
        number = int(count.replace(",", ""))
        assert stored_length([one] * number) <= MYSQL_TEXT < stored_length([one] * (number * 11 // 10))


def test_number_of_uuids_is_the_same_on_each_page():
    found = {count for page in PAGES for count in re.findall(r"([\d,]+) UUIDs", page.read_text())}

    assert len(found) == 1
