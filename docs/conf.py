"""How the pages are built; ``make docs`` runs it. Nothing is fetched from a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_manxue import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "airflow-provider-manxue"
author = "the authors of airflow-provider-manxue"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

# Sphinx copies a picture of an ``<img>`` as well.
myst_enable_extensions = ["html_image"]
# The anchors that a Markdown viewer makes from headings, so that links work in both.
myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True}

# Every name in a docstring or an annotation has to lead somewhere.
nitpicky = True
nitpick_ignore_regex = [
    # Names of other packages, whose pages are on the network; annotations name them in short.
    (r"py:class", r"(airflow|collections|datetime|enum|requests)\..*"),
    (
        r"py:class",
        r"AbstractContextManager|BaseOperator|TaskInstanceKey|TriggerEvent|OperatorLineage|Path|XComArg|timedelta",
    ),
    # Words of the emulator: its page explains them.
    (r"py:class", r"Place|PlayedFault|Target|Task"),
]

html_theme = "furo"
html_title = f"airflow-provider-manxue {version}"
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
# For programs that read the documentation: a list of all pages, at the root of the site.
html_extra_path = ["llms.txt"]

SEARCH_WORDS = {
    "approval": ["HITL", "approve"],
    "asset-events": ["schedule", "outlets"],
    "assets": ["face", "asset://"],
    "capacity": ["429", "rate limit"],
    "connection": ["API key", "proxy", "certificate"],
    "deployments": ["Docker", "Helm", "Kubernetes", "MWAA", "Composer", "Astronomer"],
    "models": ["price", "resolution", "4k"],
    "on-call": ["429", "401", "outage"],
    "ordering": ["duplicate", "retry", "402"],
    "saving": ["S3", "GCS", "Azure", "download", "destination"],
    "testing": ["pytest", "dag.test"],
    "troubleshooting": ["429", "401", "403", "404", "timeout", "deferred", "stuck"],
    "waiting": ["timeout", "deferred", "XCom", "poke", "reschedule"],
}
"""
Index entries of pages, for words that people search for.

Sphinx's search ignores numbers, and ranks a page by its titles; an index entry it finds in any case.
"""


def add_index_entries(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the index entries of a page before its text."""
    if words := SEARCH_WORDS.get(docname):
        source[0] = f"```{{index}} {', '.join(words)}\n```\n\n{source[0]}"


def setup(app: Sphinx) -> None:
    """Connect the functions of this file to Sphinx."""
    app.connect("source-read", add_index_entries)
