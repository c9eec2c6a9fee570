"""
Metadata of this provider, which Airflow reads without importing its other modules.

Airflow 3.2 and later build the connection form from it. Older versions call methods of the hook, which return it.
"""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "manxue",
    "hook-class-name": "airflow_provider_manxue.hooks.manxue.ManxueHook",
    "hook-name": "sd2_manxue",
    "ui-field-behaviour": {
        # The port may be part of the host. The field is there for Airflow 3.3.1 and 3.3.2, which refuse to test a saved connection
        # without a port: https://github.com/apache/airflow/pull/73298
        "hidden-fields": ["login", "schema", "extra"],
        "relabeling": {"host": "Base URL", "password": "API key"},
        "placeholders": {
            "host": "https://zcbservice.aizfw.cn/kyyReactApiServer",
            "password": "without the word Bearer",
            "port": "443, if Test Connection says Bad Request",
        },
    },
    "conn-fields": {
        "request_timeout": {
            "label": "Request timeout (s)",
            "description": "Timeout of one request, in seconds.",
            "schema": {"type": ["number", "null"], "default": 30, "minimum": 0.1, "maximum": 600},
        },
        "requests_per_second": {
            "label": "Requests per second",
            "description": "Maximum rate of one triggerer, for all waits together.",
            "schema": {"type": ["number", "null"], "default": 10, "minimum": 0.01, "maximum": 10000},
        },
        "max_connections": {
            "label": "Connections",
            "description": "Maximum number of requests that one triggerer has in flight.",
            "schema": {"type": ["integer", "null"], "default": 10, "minimum": 1, "maximum": 1000},
        },
        "verify": {
            "label": "Check the certificate",
            "description": "Turn this off only for tests.",
            "schema": {"type": ["boolean", "null"], "default": True},
        },
        "ca_bundle": {
            "label": "CA bundle",
            "description": (
                "Path of a PEM file with certificate authorities, on workers and triggerers, for example "
                "/etc/ssl/certs/company.pem."
            ),
            "schema": {"type": ["string", "null"]},
        },
        "proxy": {
            "label": "Proxy",
            "description": (
                "URL of an HTTP proxy, for example http://proxy.company:3128. If empty, the environment variables "
                "HTTPS_PROXY and NO_PROXY apply."
            ),
            "schema": {"type": ["string", "null"]},
        },
        "allow_http": {
            "label": "Allow plain HTTP",
            "description": "Allow sending the API key unencrypted to hosts other than this machine.",
            "schema": {"type": ["boolean", "null"], "default": False},
        },
        "busy_codes": {
            "label": "Busy codes",
            "description": (
                "Error codes of the service that mean a lack of capacity for an order, separated by commas. "
                "Such an order is delayed and sent again."
            ),
            "schema": {"type": ["string", "null"]},
        },
    },
}


def _modules(kind: str, *names: str) -> dict[str, Any]:
    modules = [f"airflow_provider_manxue.{kind}.{name}" for name in names]
    return {"integration-name": "sd2_manxue", "python-modules": modules}


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
        **{kind: [_modules(kind, "manxue")] for kind in ("hooks", "sensors")},
        "operators": [_modules("operators", "manxue", "assets", "doctor")],
        "triggers": [_modules("triggers", "manxue", "doctor")],
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
        # Read by Airflow 3.2 and later.
        "cli": ["airflow_provider_manxue.cli.get_cli_commands"],
        "config": {
            "manxue": {
                "description": "Settings of the sd2_manxue provider.",
                "options": {
                    "video_tab": {
                        "description": (
                            "Show a *Video* tab on the page of task instances (Airflow 3.1.1 and later). The default is "
                            "True for Airflow 3.4 and later, which shows it on the tasks of this provider only. Older "
                            "versions show it on all tasks of all Dags, hence the default is False there."
                        ),
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": None,
                        "default": None,
                    }
                },
            }
        },
    }
