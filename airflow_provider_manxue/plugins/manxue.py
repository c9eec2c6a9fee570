"""
Plugin for the *Video* tab on a task instance's page (Airflow 3.1.1 and later).

The tab is a static page without data. Its script sends requests to Airflow's public REST API with the session of the user,
so that the permissions of the user apply.

Airflow loads this module in each of its processes, so it imports as little as possible. It is an entry point of the group
``airflow.plugins``, since Airflow loads the plugins in a provider's metadata only with
``[core] lazy_discover_providers = False``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import AirflowPlugin, conf

if TYPE_CHECKING:
    from starlette.staticfiles import StaticFiles
    from starlette.types import Receive, Scope, Send

_PREFIX = "/manxue-video"

_OPERATORS = [
    "ManxueVideoSensor",
    "ManxueVideoBatchSensor",
    "ManxueCreateVideoOperator",
    "ManxueToObjectStorageOperator",
]
"""Classes of the tasks with a tab. Importing them here would slow down each of Airflow's processes."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src http: https:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    # Hides Airflow's address from the host of the video.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def _can_be_limited() -> bool:
    """Return whether this Airflow can show a tab on the tasks of some classes only."""
    return Version(airflow_version).release >= (3, 4)


def is_enabled() -> bool:
    """Return whether the tab is switched on, by ``[manxue] video_tab``. By default it is where it can be limited."""
    return bool(conf.getboolean("manxue", "video_tab", fallback=_can_be_limited()))


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the page. An ASGI application."""
    await _files()(scope, receive, send)


@cache
def _files() -> StaticFiles:
    from starlette.staticfiles import StaticFiles

    class GuardedFiles(StaticFiles):
        def file_response(self, *args: Any, **kwargs: Any) -> Any:
            response = super().file_response(*args, **kwargs)
            response.headers.update(_HEADERS)
            return response

    return GuardedFiles(directory=Path(__file__).parent / "static", html=True)


class ManxueVideoTab(AirflowPlugin):
    """
    Plugin that adds the tab, as ``[manxue] video_tab`` says.

    Airflow 3.4 and later can limit a tab to the tasks of some classes (https://github.com/apache/airflow/pull/74278), so it is
    on by default there. Older versions show a tab on each task, so it is off by default.
    """

    name = "manxue_video_tab"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Read the configuration, and add the tab."""
        if not is_enabled():
            return
        cls.fastapi_apps = [{"app": page, "url_prefix": _PREFIX, "name": "sd2_manxue video"}]
        cls.external_views = [
            {
                "name": "Video",
                "destination": "task_instance",
                "url_route": "manxue_video",
                # A relative address, since Airflow may be served below a path.
                "href": (
                    f"{_PREFIX.lstrip('/')}/?dag_id={{DAG_ID}}&run_id={{RUN_ID}}&task_id={{TASK_ID}}"
                    "&map_index={MAP_INDEX}"
                ),
                **({"applies_to": {"operator": list(_OPERATORS)}} if _can_be_limited() else {}),
            }
        ]
