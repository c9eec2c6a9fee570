"""
The *Video* tab on a task instance's page, for Airflow 3.1.1 and later.

It is a static page, the same for everyone. Its script asks Airflow's public REST API with the session of the person
who looks at it, so that nobody sees here what they may not see elsewhere.

Airflow loads this module through the entry point ``airflow.plugins``, in each of its processes, hence so little is
imported. (The plugins in a provider's metadata are loaded only with ``[core] lazy_discover_providers = False``.)
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowPlugin, conf

if TYPE_CHECKING:
    from starlette.staticfiles import StaticFiles
    from starlette.types import Receive, Scope, Send

_PREFIX = "/manxue-video"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src http: https:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    # The host of the video learns nothing of Airflow's address.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the page, as an ASGI application; it holds no data."""
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
    """Adds the tab, if an administrator has set ``[manxue] video_tab = True``."""

    name = "manxue_video_tab"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Read the configuration, once."""
        if not conf.getboolean("manxue", "video_tab", fallback=False):
            return
        cls.fastapi_apps = [{"app": page, "url_prefix": _PREFIX, "name": "sd2_manxue video"}]
        cls.external_views = [
            {
                "name": "Video",
                "destination": "task_instance",
                "url_route": "manxue_video",
                # Without a leading slash, so that it also fits an Airflow below a path.
                "href": (
                    f"{_PREFIX.lstrip('/')}/?dag_id={{DAG_ID}}&run_id={{RUN_ID}}&task_id={{TASK_ID}}"
                    "&map_index={MAP_INDEX}"
                ),
            }
        ]
