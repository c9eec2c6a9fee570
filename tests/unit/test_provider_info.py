"""What Airflow reads about the provider, and that it agrees with the code."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest

from airflow.providers_manager import ProvidersManager

from airflow_provider_manxue._core.connection import DEFAULT_BASE_URL, DEFAULT_CONN_ID, parse_connection
from airflow_provider_manxue.exceptions import ManxueConfigurationError
from airflow_provider_manxue.get_provider_info import CONNECTION_TYPE, get_provider_info
from airflow_provider_manxue.hooks.manxue import ManxueHook
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

ROOT = Path(__file__).parents[2]
AIRFLOW = Path(find_spec("airflow").origin).parent
FIELDS = CONNECTION_TYPE["conn-fields"]
TASKS = [
    ManxueVideoSensor,
    ManxueVideoBatchSensor,
    ManxueCreateVideoOperator,
    ManxueToObjectStorageOperator,
]


def settings_of(**extra):
    return parse_connection("test", host=None, password="key", extra=extra)


def modules_of(info):
    for kind in ("hooks", "operators", "sensors", "triggers"):
        for entry in info.get(kind, []):
            yield from entry["python-modules"]
    yield from (entry["python-module"] for entry in info.get("transfers", []))


# --- the metadata ---------------------------------------------------------------------------------------


def test_the_metadata_follows_airflows_own_schema():
    schema = json.loads((AIRFLOW / "provider_info.schema.json").read_text())

    jsonschema.validate(get_provider_info(), schema)


def test_the_connection_form_follows_airflows_own_schema():
    path = AIRFLOW / "provider.yaml.schema.json"
    if not path.exists():
        pytest.skip("this version of Airflow does not describe the fields of a connection form")
    schema = json.loads(path.read_text())["properties"]["connection-types"]

    jsonschema.validate([CONNECTION_TYPE], schema)


def test_the_metadata_is_plain_data():
    assert json.loads(json.dumps(get_provider_info())) == get_provider_info()


def test_the_package_has_the_name_of_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert get_provider_info()["package-name"] == project["name"]


def test_airflow_finds_the_metadata_through_the_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["apache_airflow_provider"]["provider_info"].partition(":")

    assert getattr(importlib.import_module(module), function) is get_provider_info


def test_every_module_named_in_the_metadata_exists():
    modules = list(modules_of(get_provider_info()))

    assert modules
    for module in modules:
        importlib.import_module(module)


def test_every_module_of_hooks_sensors_triggers_operators_and_transfers_is_named_in_the_metadata():
    package = ROOT / "airflow_provider_manxue"
    files = [
        path
        for kind in ("hooks", "operators", "sensors", "triggers", "transfers")
        for path in (package / kind).glob("[!_]*.py")
    ]

    assert files
    assert {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files} == set(
        modules_of(get_provider_info())
    )


def test_every_link_named_in_the_metadata_is_on_a_task_and_the_other_way_round():
    links = {
        f"{type(link).__module__}.{type(link).__name__}"
        for task in TASKS
        for link in task.operator_extra_links
    }

    assert set(get_provider_info()["extra-links"]) == links


def test_the_video_tab_is_declared_as_an_option_and_off_by_default():
    option = get_provider_info()["config"]["manxue"]["options"]["video_tab"]

    assert (option["type"], option["default"]) == ("boolean", "False")


def test_each_named_integration_is_declared():
    info = get_provider_info()
    declared = {entry["integration-name"] for entry in info["integrations"]}

    for kind in ("hooks", "operators", "sensors", "triggers"):
        assert {entry["integration-name"] for entry in info.get(kind, [])} <= declared
    for entry in info.get("transfers", []):
        assert {entry["source-integration-name"], entry["target-integration-name"]} <= declared


def test_reading_the_metadata_imports_nothing_but_the_standard_library():
    code = (
        "import sys; before = set(sys.modules)\n"
        "from airflow_provider_manxue.get_provider_info import get_provider_info\n"
        "get_provider_info()\n"
        "print(*sorted(set(sys.modules) - before))"
    )

    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    imported = {name.partition(".")[0] for name in run.stdout.split()}
    assert imported - sys.stdlib_module_names == {"airflow_provider_manxue"}
    assert not imported & {"asyncio", "http", "socket", "ssl", "logging", "email"}


# --- the connection -------------------------------------------------------------------------------------


def test_the_connection_type_leads_to_the_hook():
    module, _, name = CONNECTION_TYPE["hook-class-name"].rpartition(".")

    assert getattr(importlib.import_module(module), name) is ManxueHook
    assert (ManxueHook.conn_type, ManxueHook.hook_name) == (
        CONNECTION_TYPE["connection-type"],
        CONNECTION_TYPE["hook-name"],
    )
    assert ManxueHook.default_conn_name == DEFAULT_CONN_ID


def test_airflow_knows_the_connection_type():
    """It drops a type whose form it cannot draw, and says so in its log only."""
    assert ProvidersManager().hooks["manxue"].package_name == "airflow-provider-manxue"


def test_the_form_shows_the_default_address():
    assert CONNECTION_TYPE["ui-field-behaviour"]["placeholders"]["host"] == DEFAULT_BASE_URL


def test_both_ways_of_drawing_the_form_agree_on_its_fixed_fields():
    behaviour = CONNECTION_TYPE["ui-field-behaviour"]

    assert ManxueHook.get_ui_field_behaviour() == {
        "hidden_fields": behaviour["hidden-fields"],
        "relabeling": behaviour["relabeling"],
        "placeholders": behaviour["placeholders"],
    }


def test_the_form_offers_exactly_the_extra_fields_that_are_understood():
    with pytest.raises(ManxueConfigurationError) as caught:
        settings_of(zzz=1)
    understood = re.search(r"Known fields are (.*)\.$", str(caught.value))[1].split(", ")

    assert sorted(FIELDS) == understood


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_left_alone_or_emptied_changes_nothing(name):
    default = FIELDS[name]["schema"].get("default")

    assert settings_of(**{name: default}) == settings_of(**{name: None}) == settings_of()
    assert "null" in FIELDS[name]["schema"]["type"]


@pytest.mark.parametrize("name", [name for name in FIELDS if hasattr(settings_of(), name)])
def test_the_form_shows_the_default_that_applies(name):
    applied = getattr(settings_of(), name)
    assert (None if applied == frozenset() else applied) == FIELDS[name]["schema"].get("default")


def test_plain_http_is_off_by_default_in_the_form_too():
    assert FIELDS["allow_http"]["schema"]["default"] is False


@pytest.mark.parametrize("bound", ["minimum", "maximum"])
@pytest.mark.parametrize("name", [name for name in FIELDS if "minimum" in FIELDS[name]["schema"]])
def test_the_form_bounds_a_number_as_the_code_does(name, bound):
    value = FIELDS[name]["schema"][bound]
    beyond = value * (0.99 if bound == "minimum" else 1.01)

    assert getattr(settings_of(**{name: value}), name) == value
    with pytest.raises(ManxueConfigurationError, match="is not a number from"):
        settings_of(**{name: beyond})


def test_every_number_of_the_form_is_bounded():
    kinds = {name: declared["schema"]["type"][0] for name, declared in FIELDS.items()}

    for name in (name for name, kind in kinds.items() if kind in {"number", "integer"}):
        assert {"minimum", "maximum", "default"} <= FIELDS[name]["schema"].keys()


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_explains_itself(name):
    assert FIELDS[name]["label"]
    assert FIELDS[name]["description"].endswith(".")


def test_the_form_of_older_versions_has_the_same_fields():
    reason = "the form library is part of Airflow's web server below 3.0"
    pytest.importorskip("flask_appbuilder", reason=reason)
    pytest.importorskip("flask_babel", reason=reason)
    wtforms = pytest.importorskip("wtforms", reason=reason)

    class Form(wtforms.Form):
        pass

    widgets = ManxueHook.get_connection_form_widgets()
    for name, widget in widgets.items():
        setattr(Form, name, widget)
    form = Form()

    kinds = {
        "boolean": wtforms.BooleanField,
        "integer": wtforms.IntegerField,
        "number": wtforms.StringField,
        "string": wtforms.StringField,
    }
    assert list(widgets) == list(FIELDS)
    for name, declared in FIELDS.items():
        field = form[name]
        assert type(field) is kinds[declared["schema"]["type"][0]]
        assert field.data == declared["schema"].get("default")
        assert field.description == declared["description"]
        assert any(isinstance(check, wtforms.validators.Optional) for check in field.validators)
