"""The Video tab without a browser."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_manxue import exceptions
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.plugins import manxue as plugin
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

TASKS = [ManxueVideoSensor, ManxueVideoBatchSensor, ManxueCreateVideoOperator, ManxueToObjectStorageOperator]
STATIC = Path(plugin.__file__).parent / "static"


@pytest.fixture
def load(monkeypatch):
    """Load the plugin with a configuration, as Airflow does."""

    def run(value=None, version="3.3.2"):
        monkeypatch.setattr(plugin, "airflow_version", version)
        if value is not None:
            monkeypatch.setenv("AIRFLOW__MANXUE__VIDEO_TAB", value)
        fresh = type("ManxueVideoTab", (plugin.ManxueVideoTab,), {"fastapi_apps": [], "external_views": []})
        fresh.on_load()
        return fresh

    return run


@pytest.mark.parametrize("version", ["2.11.0", "3.1.8", "3.3.2"])
def test_tab_is_off_by_default_below_3_4(load, version):
    """Airflow loads the plugin of each installed provider, and would show the tab on all tasks."""
    assert (load(version=version).fastapi_apps, load(version=version).external_views) == ([], [])


@pytest.mark.parametrize("version", ["3.3.2", "3.4.0"])
def test_tab_can_be_turned_off(load, version):
    assert (load("False", version).fastapi_apps, load("False", version).external_views) == ([], [])


@pytest.mark.parametrize("version", ["3.4.0rc1", "3.4.0", "3.5.1", "4.0.0"])
@pytest.mark.parametrize("value", [None, "True"])
def test_tab_is_limited_to_our_tasks_from_3_4_on(load, version, value):
    [view] = load(value, version).external_views

    assert view == {
        "name": "Video",
        "destination": "task_instance",
        "url_route": "manxue_video",
        "href": view["href"],
        # A path into the task instance of Airflow's API, and the values that it may have.
        "applies_to": {"operator": [task.__name__ for task in TASKS]},
    }


def test_tab_is_not_limited_below_3_4(load):
    assert "applies_to" not in load("True").external_views[0]


def test_tab_is_on_the_task_instance_page(load):
    loaded = load("True")
    [app], [view] = loaded.fastapi_apps, loaded.external_views

    assert view["destination"] == "task_instance"
    path, _, query = view["href"].partition("?")
    assert path == f"{app['url_prefix'].strip('/')}/"
    assert dict(pair.split("=") for pair in query.split("&")) == {
        "dag_id": "{DAG_ID}",
        "run_id": "{RUN_ID}",
        "task_id": "{TASK_ID}",
        "map_index": "{MAP_INDEX}",
    }


def test_plugin_import_loads_no_web_framework():
    """Each component of Airflow imports the plugins, also the workers."""
    code = (
        "import sys\n"
        "from airflow_provider_manxue.plugins.manxue import ManxueVideoTab\n"
        "before = set(sys.modules)\n"
        "ManxueVideoTab.on_load()\n"
        "print(*{'fastapi', 'starlette.staticfiles', 'requests', 'aiohttp'} & (set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert run.stdout.split() == []


class TestPage:
    @pytest.fixture
    def get(self):
        """Return a function that requests a file of the page, mounted as in Airflow's API server."""
        reason = "the web framework is part of Airflow 3"
        fastapi = pytest.importorskip("fastapi", reason=reason)
        client = pytest.importorskip("fastapi.testclient", reason=reason)
        app = fastapi.FastAPI()
        app.mount("/manxue-video", plugin.page)
        return lambda path: client.TestClient(app).get(f"/manxue-video/{path}")

    @pytest.mark.parametrize(
        ("path", "kind"), [("", "text/html"), ("video.css", "text/css"), ("video.js", "javascript")]
    )
    def test_page_has_a_strict_security_policy(self, get, path, kind):
        """The page is served from Airflow's origin, where an injected script could use the session of the user."""
        response = get(path)
        policy = dict(one.split(" ", 1) for one in response.headers["content-security-policy"].split("; "))

        assert response.status_code == 200
        assert kind in response.headers["content-type"]
        assert response.text == (STATIC / (path or "index.html")).read_text()
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'self'"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize("path", ["%2e%2e/manxue.py", "..%2Fmanxue.py", "nothing.html"])
    def test_other_paths_are_not_served(self, get, path):
        """The plugin's Python files lie next to the folder of the page."""
        assert get(path).status_code == 404


def test_page_loads_nothing_from_other_hosts():
    """An Airflow without internet access shows the page, too, and no other host learns of its users."""
    for file in STATIC.iterdir():
        assert re.findall(r"https?://|//[a-z]+\.|@import|url\(", file.read_text()) == []


def test_page_has_no_inline_script_or_style():
    """The security policy of the page forbids both, so a browser would ignore them."""
    html = (STATIC / "index.html").read_text()

    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", html) == []


def test_script_never_inserts_text_as_html():
    """XComs have texts of the service, which could otherwise run scripts (docs/threat-model.md)."""
    script = (STATIC / "video.js").read_text()

    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|DOMParser", script) == []
    )


def test_script_knows_the_tasks_and_their_links():
    """The tab finds the tasks of this package by the names of their classes and links, which the script repeats."""
    script = (STATIC / "video.js").read_text()
    known = set(re.findall(r'"(Manxue\w+)"', script))
    links = set(re.findall(r'"([^"]+)"', re.search(r"LINKS = \[(.*)\]", script)[1]))

    assert known == {task.__name__ for task in TASKS}
    assert links == {link.name for task in TASKS for link in task.operator_extra_links}


def test_script_knows_the_errors_of_a_task():
    """The record of a failed task names the class of its error."""
    script = (STATIC / "video.js").read_text()
    table = script[script.index("const ERRORS") : script.index("\n};", script.index("const ERRORS"))]
    known = set(re.findall(r"^  (\w+): \[", table, re.MULTILINE))
    # Bases, errors of the hook, and errors that end no task.
    others = {"ManxueError", "ManxueInternalError", "ManxueTransientError", "ManxueRateLimitError"}
    # No task with a tab ends with these.
    others |= {
        "ManxueOrderNotAcceptedError",
        "ManxueDoctorError",
        "ManxueFailedError",
        "ManxueAssetFailedError",
    }

    assert (
        known - {"AirflowTaskTimeout"}
        == {
            name
            for name, value in vars(exceptions).items()
            if getattr(value, "__module__", "") == exceptions.__name__
        }
        - others
    )
