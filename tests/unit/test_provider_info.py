"""Provider metadata that Airflow reads, compared with the code."""

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

from airflow_provider_manxue._core.connection import (
    DEFAULT_BASE_URL,
    DEFAULT_CONN_ID,
    FORM_LABELS,
    parse_connection,
)
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


def test_metadata_follows_the_schema_of_airflow():
    schema = json.loads((AIRFLOW / "provider_info.schema.json").read_text())

    jsonschema.validate(get_provider_info(), schema)


def test_connection_form_follows_the_schema_of_airflow():
    path = AIRFLOW / "provider.yaml.schema.json"
    if not path.exists():
        pytest.skip("this version of Airflow does not describe the fields of a connection form")
    schema = json.loads(path.read_text())["properties"]["connection-types"]

    jsonschema.validate([CONNECTION_TYPE], schema)


def test_metadata_survives_json():
    assert json.loads(json.dumps(get_provider_info())) == get_provider_info()


def test_metadata_names_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert get_provider_info()["package-name"] == project["name"]


def test_metadata_is_the_target_of_the_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["apache_airflow_provider"]["provider_info"].partition(":")

    assert getattr(importlib.import_module(module), function) is get_provider_info


def test_metadata_modules_exist():
    modules = list(modules_of(get_provider_info()))

    assert modules
    for module in modules:
        importlib.import_module(module)


def test_metadata_lists_every_public_module():
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


def test_metadata_links_are_those_of_the_tasks():
    links = {
        f"{type(link).__module__}.{type(link).__name__}"
        for task in TASKS
        for link in task.operator_extra_links
    }

    assert set(get_provider_info()["extra-links"]) == links


def test_video_tab_option_has_no_fixed_default():
    """The default depends on the version of Airflow."""
    option = get_provider_info()["config"]["manxue"]["options"]["video_tab"]

    assert (option["type"], option["default"]) == ("boolean", None)


def test_metadata_integrations_are_declared():
    info = get_provider_info()
    declared = {entry["integration-name"] for entry in info["integrations"]}

    for kind in ("hooks", "operators", "sensors", "triggers"):
        assert {entry["integration-name"] for entry in info.get(kind, [])} <= declared
    for entry in info.get("transfers", []):
        assert {entry["source-integration-name"], entry["target-integration-name"]} <= declared


def test_metadata_imports_only_the_standard_library():
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


def test_connection_type_names_the_hook():
    module, _, name = CONNECTION_TYPE["hook-class-name"].rpartition(".")

    assert getattr(importlib.import_module(module), name) is ManxueHook
    assert (ManxueHook.conn_type, ManxueHook.hook_name) == (
        CONNECTION_TYPE["connection-type"],
        CONNECTION_TYPE["hook-name"],
    )
    assert ManxueHook.default_conn_name == DEFAULT_CONN_ID


def test_connection_type_is_registered_by_airflow():
    """Airflow drops a connection type whose form it cannot build, and only logs that."""
    assert ProvidersManager().hooks["manxue"].package_name == "airflow-provider-manxue"


def test_form_placeholder_is_the_default_base_url():
    assert CONNECTION_TYPE["ui-field-behaviour"]["placeholders"]["host"] == DEFAULT_BASE_URL


def test_form_of_hook_and_metadata_have_equal_behaviour():
    behaviour = CONNECTION_TYPE["ui-field-behaviour"]

    assert ManxueHook.get_ui_field_behaviour() == {
        "hidden_fields": behaviour["hidden-fields"],
        "relabeling": behaviour["relabeling"],
        "placeholders": behaviour["placeholders"],
    }


def test_form_has_exactly_the_known_extra_fields():
    with pytest.raises(ManxueConfigurationError) as caught:
        settings_of(zzz=1)
    understood = re.search(r"use one of: (.*)\.$", str(caught.value))[1].split(", ")

    assert sorted(FIELDS) == understood


@pytest.mark.parametrize("name", FIELDS)
def test_form_field_with_default_or_null_has_no_effect(name):
    default = FIELDS[name]["schema"].get("default")

    assert settings_of(**{name: default}) == settings_of(**{name: None}) == settings_of()
    assert "null" in FIELDS[name]["schema"]["type"]


@pytest.mark.parametrize("name", [name for name in FIELDS if hasattr(settings_of(), name)])
def test_form_default_is_the_default_of_the_settings(name):
    applied = getattr(settings_of(), name)
    assert (None if applied == frozenset() else applied) == FIELDS[name]["schema"].get("default")


def test_form_default_of_allow_http_is_false():
    assert FIELDS["allow_http"]["schema"]["default"] is False


@pytest.mark.parametrize("bound", ["minimum", "maximum"])
@pytest.mark.parametrize("name", [name for name in FIELDS if "minimum" in FIELDS[name]["schema"]])
def test_form_bounds_equal_those_of_the_code(name, bound):
    value = FIELDS[name]["schema"][bound]
    beyond = value * (0.99 if bound == "minimum" else 1.01)

    assert getattr(settings_of(**{name: value}), name) == value
    with pytest.raises(ManxueConfigurationError, match="is not a number from"):
        settings_of(**{name: beyond})


def test_form_numbers_have_bounds():
    kinds = {name: declared["schema"]["type"][0] for name, declared in FIELDS.items()}

    for name in (name for name, kind in kinds.items() if kind in {"number", "integer"}):
        assert {"minimum", "maximum", "default"} <= FIELDS[name]["schema"].keys()


@pytest.mark.parametrize("name", FIELDS)
def test_form_fields_have_label_and_description(name):
    assert FIELDS[name]["label"]
    assert FIELDS[name]["description"].endswith(".")


def test_form_of_airflow_2_has_the_same_fields():
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


def test_errors_name_the_labels_of_the_form():
    """Who fills in the form does not know the names of the extra fields."""
    relabeled = CONNECTION_TYPE["ui-field-behaviour"]["relabeling"]

    assert relabeled | {name: field["label"] for name, field in FIELDS.items()} == FORM_LABELS
    with pytest.raises(ManxueConfigurationError, match=r"field 'verify' \(Check the certificate\)"):
        parse_connection("service", host="", password="key", extra={"verify": "perhaps"})
