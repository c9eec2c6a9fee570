"""How the pages are built; ``make docs`` runs it. Nothing is fetched from a network."""

from __future__ import annotations

from airflow_provider_manxue import __version__

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
