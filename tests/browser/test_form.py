"""The connection form: filled in, saved, opened again, tested."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from airflow_provider_manxue.get_provider_info import CONNECTION_TYPE
from dev.browser import fill_in_connection

FIELDS = CONNECTION_TYPE["conn-fields"]
HTTPS = 443
"""The port that the form recommends for Airflow 3.3.1 and 3.3.2. Like any other, it is ignored if the base URL has one."""


@pytest.fixture(scope="module")
def saved(local_airflow, visitor, connection):
    """A connection created with the form, as returned by Airflow's API."""
    page = visitor.page("admin")
    page.goto(f"{visitor.base_url}/connections")
    form = fill_in_connection(page, "manxue_ui", connection["host"], connection["password"])
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()
    response = page.request.get(f"{visitor.base_url}/api/v2/connections/manxue_ui").json()
    page.context.close()
    return response


@pytest.fixture
def connections(new_page, visitor):
    page = new_page()
    page.goto(f"{visitor.base_url}/connections")
    return page


def test_form_shows_only_the_relevant_fields(connections):
    form = fill_in_connection(connections, "manxue_look", "", "")

    for label in ("Base URL", "Port", "API key"):
        expect(form.get_by_text(label, exact=True)).to_be_visible()
    for label in ("Login", "Schema", "Host", "Password"):
        expect(form.get_by_text(label, exact=True)).to_have_count(0)
    placeholders = CONNECTION_TYPE["ui-field-behaviour"]["placeholders"]
    for name in ("host", "port", "password"):
        expect(form.locator(f"input[name={name}]")).to_have_attribute("placeholder", placeholders[name])
    expect(form.locator("input[name=password]")).to_have_attribute("type", "password")

    form.get_by_role("button", name="Extra Fields", exact=True).click()
    for name, declared in FIELDS.items():
        expect(form.get_by_text(declared["label"], exact=True)).to_be_visible()
        expect(form.get_by_text(declared["description"])).to_be_visible()
        default = declared["schema"].get("default")
        field = form.locator(f"[name=element_{name}]")
        if isinstance(default, bool):
            expect(field).to_be_checked(checked=default)
        else:
            expect(field).to_have_value("" if default is None else str(default))


def test_numbers_are_saved_as_numbers(saved):
    assert json.loads(saved["extra"]) == {
        name: declared["schema"].get("default") for name, declared in FIELDS.items()
    }


def test_saved_key_is_not_shown(saved, connections, connection):
    bodies = []

    def pass_on(route):
        # Read in transit: after a reload the browser has dropped the bodies of earlier responses.
        response = route.fetch()
        bodies.append(response.text())
        route.fulfill(response=response)

    connections.route("**/api/**", pass_on)
    connections.reload()
    connections.get_by_role("button", name="Edit Connection").click()
    form = connections.get_by_role("dialog")

    expect(form.locator("input[name=host]")).to_have_value(connection["host"])
    expect(form.locator("input[name=password]")).to_have_value("***")
    connections.unroute_all(behavior="ignoreErrors")
    assert bodies
    assert connection["password"] not in connections.content() + "".join(bodies)


ENDINGS = {
    "right key": ({}, "Test Connection Successful", "was reached and did not refuse the key"),
    "wrong key": ({"password": "wrong"}, "Test Connection Failed", "refused the API key (HTTP 401"),
    "wrong path": ({"path": "/elsewhere"}, "Test Connection Failed", "/elsewhere: HTTP 501"),
    "wrong host": ({"host": "http://127.0.0.1:1"}, "Test Connection Failed", "no response from 127.0.0.1"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_test_button_shows_the_result(saved, local_airflow, connections, connection, ending):
    change, title, text = ENDINGS[ending]
    host = connection["host"].replace("/kyyReactApiServer", change.get("path", "/kyyReactApiServer"))
    local_airflow.set_connection(
        "manxue_ui",
        conn_type="manxue",
        host=change.get("host", host),
        password=change.get("password", connection["password"]),
        port=HTTPS,
    )
    connections.reload()
    connections.get_by_role("button", name="Test Connection").click()

    expect(connections.get_by_text(title)).to_be_visible()
    expect(connections.get_by_text(text)).to_be_visible()
    expect(connections.get_by_text(connection["password"])).to_have_count(0)


def test_saved_connection_can_be_tested_after_a_port_is_entered(local_airflow, connections, connection):
    """Airflow 3.3.1 and 3.3.2 refuse the test without a port, whatever the type: apache/airflow#73298."""
    local_airflow.set_connection("manxue_ui", **connection)
    connections.reload()
    connections.get_by_role("button", name="Edit Connection").click()
    form = connections.get_by_role("dialog")
    form.locator("input[name=port]").fill(str(HTTPS))
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()

    connections.get_by_role("button", name="Test Connection").click()

    expect(connections.get_by_text("Test Connection Successful")).to_be_visible()
