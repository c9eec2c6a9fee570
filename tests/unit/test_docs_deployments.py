"""The page on deployments: its Compose file parses, and its settings and commands are those of Airflow."""

import json
import re

import pytest
import yaml

from airflow.cli import cli_parser

from airflow_provider_manxue import __version__
from tests.support.airflow_settings import known_settings, newest, settings_in_environment
from tests.support.pages import ROOT

TEXT = (ROOT / "docs/deployments/compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
PAGE = (ROOT / "docs/deployments.md").read_text()
OF_AIRFLOW = {name: each for name, each in COMPOSE["services"].items() if "command" in each}


def test_file_says_that_it_was_not_run():
    assert TEXT.startswith("# Not run here.")


def test_all_parts_of_airflow_have_one_image_and_one_environment():
    assert {each["command"] for each in OF_AIRFLOW.values()} == {
        f"airflow {part}" for part in ("db migrate", "api-server", "scheduler", "dag-processor", "triggerer")
    }
    for each in OF_AIRFLOW.values():
        for shared in ("build", "environment", "volumes"):
            assert each[shared] == COMPOSE["x-airflow"][shared]


def test_image_has_this_version():
    assert f"airflow-provider-manxue[s3]=={__version__}" in COMPOSE["x-airflow"]["build"]["dockerfile_inline"]


def test_each_volume_is_declared():
    named = {volume.partition(":")[0] for each in COMPOSE["services"].values() for volume in each["volumes"]}

    assert {name for name in named if not name.startswith(".")} == set(COMPOSE["volumes"])


@newest
def test_settings_are_those_of_airflow():
    assert set(settings_in_environment(TEXT)) - known_settings() == set()


@newest
@pytest.mark.parametrize("command", sorted(each["command"] for each in OF_AIRFLOW.values()))
def test_command_is_one_of_airflow(command):
    cli_parser.get_parser().parse_args(command.split()[1:])


def test_variables_are_named_at_the_head():
    head = TEXT.partition("x-airflow")[0]

    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) == set(re.findall(r"\b[A-Z][A-Z_]{5,}\b", head))


def test_connection_has_the_key():
    fields = json.loads(COMPOSE["x-airflow"]["environment"]["AIRFLOW_CONN_MANXUE_DEFAULT"])

    assert (fields["conn_type"], fields["password"]) == ("manxue", "${MANXUE_API_KEY}")


def test_each_citation_has_a_source():
    cited = set(re.findall(r"\[(\d+)\]\(#sources\)", PAGE))
    sources = re.findall(r"^\| (\d+) \| <https://.*> \| \S.* \|$", PAGE, re.MULTILINE)

    assert sorted(cited, key=int) == sources
