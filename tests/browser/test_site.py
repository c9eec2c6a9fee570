"""The built documentation: accessibility and width of its main pages, in both themes and on a narrow screen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

DOCS = Path(__file__).parents[2] / "docs"
LOOKS = {
    "light": ("light", {"width": 1200, "height": 900}),
    "dark": ("dark", {"width": 1200, "height": 900}),
    "narrow": ("light", {"width": 390, "height": 900}),
}
# Of each kind: a list of links, code, tables, signatures, pictures.
PAGES = ["index", "quickstart", "ordering", "connection", "troubleshooting", "api", "ui", "threat-model"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-d", folder / "trees", DOCS, folder / "html"]
    env = {**os.environ, "AIRFLOW_HOME": str(folder / "airflow")}
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    page.set_default_timeout(30_000)
    yield page
    page.close()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible(site, page, name, look):
    scheme, size = LOOKS[look]
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(size)
    page.goto((site / f"{name}.html").as_uri())

    # The article: the theme's navigation around it has findings of its own.
    results = Axe().run(page, context="article")
    assert results.violations_count == 0, results.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
