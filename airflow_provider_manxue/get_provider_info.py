"""
What Airflow reads about this provider, without importing anything of it.

Airflow 3.2 and later draw the connection form from this; below, from the methods of the hook, which read it here.
"""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "manxue",
    "hook-class-name": "airflow_provider_manxue.hooks.manxue.ManxueHook",
    "hook-name": "sd2_manxue",
    "ui-field-behaviour": {
        "hidden-fields": ["login", "port", "schema", "extra"],
        "relabeling": {"host": "Base URL", "password": "API key"},
        "placeholders": {
            "host": "https://zcbservice.aizfw.cn/kyyReactApiServer",
            "password": "without the word Bearer",
        },
    },
    "conn-fields": {
        "request_timeout": {
            "label": "Request timeout (s)",
            "description": "How long one request may take, in seconds.",
            "schema": {"type": ["number", "null"], "default": 30, "minimum": 0.1, "maximum": 600},
        },
        "requests_per_second": {
            "label": "Requests per second",
            "description": "How many requests one triggerer sends at most, for all waits together.",
            "schema": {"type": ["number", "null"], "default": 10, "minimum": 0.01, "maximum": 10000},
        },
        "max_connections": {
            "label": "Connections",
            "description": "How many requests one triggerer has under way at most at the same time.",
            "schema": {"type": ["integer", "null"], "default": 10, "minimum": 1, "maximum": 1000},
        },
        "verify": {
            "label": "Check the certificate",
            "description": "Turn this off only for a test.",
            "schema": {"type": ["boolean", "null"], "default": True},
        },
        "ca_bundle": {
            "label": "CA bundle",
            "description": (
                "Path of a PEM file with the authorities to trust, on workers and triggerers, for example "
                "/etc/ssl/certs/company.pem."
            ),
            "schema": {"type": ["string", "null"]},
        },
        "proxy": {
            "label": "Proxy",
            "description": (
                "URL of an HTTP proxy, for example http://proxy.company:3128. If empty, the environment decides "
                "(HTTPS_PROXY, NO_PROXY)."
            ),
            "schema": {"type": ["string", "null"]},
        },
        "allow_http": {
            "label": "Allow plain HTTP",
            "description": "Let the API key travel unencrypted to a host other than this machine.",
            "schema": {"type": ["boolean", "null"], "default": False},
        },
        "busy_codes": {
            "label": "Busy codes",
            "description": (
                "Error codes by which the service says that it has no room for an order now, separated by commas. Such an "
                "order waits and is sent again."
            ),
            "schema": {"type": ["string", "null"]},
        },
    },
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, as Airflow's ``provider_info.schema.json`` describes it."""
    return {
        "package-name": "airflow-provider-manxue",
        "name": "sd2_manxue",
        "description": "Waits for, orders and saves videos of the sd2_manxue video-generation service.",
        "integrations": [
            {
                "integration-name": "sd2_manxue",
                "external-doc-url": "https://zcbservice.aizfw.cn/kyyReactApiServer",
                "tags": ["service"],
            },
            {
                "integration-name": "Object Storage",
                "external-doc-url": "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/objectstorage.html",
                "tags": ["software"],
            },
        ],
        "hooks": [
            {"integration-name": "sd2_manxue", "python-modules": ["airflow_provider_manxue.hooks.manxue"]}
        ],
        "operators": [
            {"integration-name": "sd2_manxue", "python-modules": ["airflow_provider_manxue.operators.manxue"]}
        ],
        "sensors": [
            {"integration-name": "sd2_manxue", "python-modules": ["airflow_provider_manxue.sensors.manxue"]}
        ],
        "triggers": [
            {"integration-name": "sd2_manxue", "python-modules": ["airflow_provider_manxue.triggers.manxue"]}
        ],
        "transfers": [
            {
                "source-integration-name": "sd2_manxue",
                "target-integration-name": "Object Storage",
                "python-module": "airflow_provider_manxue.transfers.manxue_to_object_storage",
            }
        ],
        "connection-types": [CONNECTION_TYPE],
        "extra-links": [
            "airflow_provider_manxue.links.manxue.ManxueVideoLink",
            "airflow_provider_manxue.links.manxue.ManxueSavedVideoLink",
        ],
        "config": {
            "manxue": {
                "description": "Settings of the sd2_manxue provider.",
                "options": {
                    "video_tab": {
                        "description": (
                            "Show a *Video* tab on the page of each task instance (Airflow 3.1.1 and later). "
                            "Airflow shows such a tab on all tasks of all Dags, hence it is off by default."
                        ),
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": None,
                        "default": "False",
                    }
                },
            }
        },
    }
