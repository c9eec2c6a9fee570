"""
The states of the Video tab: the tab's page in a browser, with Airflow's API answered from data of this module.

A real Airflow would need hours for some of them. ``tests/browser/test_video_tab.py`` shows that a real one returns such data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from airflow_provider_manxue.plugins import manxue as plugin
from airflow_provider_manxue.testing import Emulator

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

STATIC = Path(plugin.__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
BASE = "http://airflow.test"
PAGE = f"{BASE}/manxue-video/?dag_id=film&run_id=episode_1&task_id=task&map_index={{MAP_INDEX}}"
NOW = 1_790_000_000.0
"""The time in all states, in seconds since the epoch: 2026-09-21 14:13:20 UTC."""

SENSOR, BATCH = "ManxueVideoSensor", "ManxueVideoBatchSensor"
ORDER, SAVE = "ManxueCreateVideoOperator", "ManxueToObjectStorageOperator"
ID = "proj_7f3a9c2e"
MODEL = "sd2_manxue_720p"


@dataclass
class State:
    """
    A state of the tab.

    :param operator: class of the task.
    :param state: state of the task instance; None for a mapped task as a whole.
    :param title: the page's title.
    :param texts: other texts on the page.
    :param xcoms: XComs of the task by key.
    :param saved: URI of the saved copy in the same run.
    :param media: HTTP status of the media host.
    :param ended_ago: seconds since the end of the task.
    :param took: seconds from the start of the task to its end.
    """

    operator: str
    state: str | None
    title: str
    texts: tuple[str, ...]
    xcoms: dict[str, Any] = field(default_factory=dict)
    saved: str | None = None
    media: int = 200
    ended_ago: float = 60.0
    took: float = 372.0

    def instance(self) -> dict[str, Any]:
        """Return the task instance as Airflow's API does."""
        is_done = self.state in {"success", "failed", "skipped"}
        return {
            "task_id": "task",
            "map_index": -1,
            "operator": self.operator,
            "state": self.state,
            "try_number": 1,
            "start_date": _iso(NOW - self.ended_ago - self.took),
            "end_date": _iso(NOW - self.ended_ago) if is_done else None,
            "rendered_fields": {"model": MODEL} if self.operator == ORDER else {"video_task_id": ID},
        }


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, tz=UTC).isoformat()


def _waiting(ids: list[str], videos: int = 1, **statuses: int) -> dict[str, Any]:
    return {
        "manxue_status": {
            "state": "waiting",
            "video_task_ids": ids,
            "videos": videos,
            "statuses": statuses,
            "deadline": NOW + 9_800,
            "updated_at": NOW - 40,
        }
    }


def _failed(error: str, message: str) -> dict[str, Any]:
    return {"manxue_status": {"state": "failed", "error": error, "message": message}}


def _video(video: str = ID, **fields: Any) -> dict[str, Any]:
    return {
        "id": video,
        "object": "video",
        "created": int(NOW - 500),
        "model": MODEL,
        "status": "completed",
        "video_url": f"{BASE}/media/{video}.mp4?signature=x",
        "actualDuration": 5.17,
        "error": None,
        **fields,
    }


def _without_video(video: str, status: str, error: str) -> dict[str, Any]:
    return _video(
        video, status=status, error=error, video_url=None, actualDuration=None, model=None, created=None
    )


_FAILED = (
    f"The service could not generate the video {ID!r}: the prompt is not allowed. Usual causes are a prompt that is not "
    f"allowed and reference material that is not supported; a new order is needed."
)
_TIMED_OUT = (
    f"The video {ID!r} was not ready after 3:00:00. Last status from the service: processing. The video may still be "
    f"completed: increase 'timeout', or wait for the same id with another sensor."
)
_REFUSED = "The order was rejected: HTTP 400: the balance is too low. Nothing was ordered."
_MANY = [f"proj_{number:02}" for number in range(1, 7)]
_MIXED = [
    _video("proj_01"),
    _without_video("proj_02", "failed", _FAILED.replace(ID, "proj_02")),
    _without_video("proj_03", "unknown", _TIMED_OUT.replace(ID, "proj_03")),
]

STATES = {
    "single_waiting": State(
        SENSOR,
        "deferred",
        "Waiting for the video",
        (ID, "queued (at 2026-09-21 14:12:40)", "2026-09-21 16:56:40", "waits in the triggerer"),
        _waiting([ID], queued=1),
    ),
    "single_completed": State(
        SENSOR,
        "success",
        "Video completed",
        (ID, "5.17 s", "2026-09-21 14:05:00"),
        {"return_value": _video()},
    ),
    "single_failed": State(
        SENSOR,
        "failed",
        "The video failed",
        (ID, "the prompt is not allowed", "Change the prompt"),
        _failed("ManxueVideoFailedError", _FAILED),
    ),
    "single_timed_out": State(
        SENSOR,
        "failed",
        "The wait timed out",
        ("not completed in time", "Last status from the service: processing", "Clear this task to wait on"),
        _failed("ManxueTimeoutError", _TIMED_OUT),
        took=3 * 3_600 + 4,
    ),
    "single_skipped": State(
        SENSOR,
        "skipped",
        "The video failed",
        ("was skipped", "the prompt is not allowed"),
        _failed("ManxueVideoFailedError", _FAILED),
    ),
    "single_expired": State(
        SENSOR,
        "success",
        "Video completed",
        ("has expired", "Clear this task to get a new URL"),
        {"return_value": _video()},
        media=403,
        ended_ago=2 * 86_400,
    ),
    "single_expired_saved": State(
        SENSOR,
        "success",
        "Video completed",
        ("has expired", "Use the saved copy: s3://films/episode-7/shot-1.mp4"),
        {"return_value": _video()},
        saved="s3://films/episode-7/shot-1.mp4",
        media=403,
        ended_ago=2 * 86_400,
    ),
    "failed_without_a_reason": State(SENSOR, "failed", "No video", ("Its log has the reason.",)),
    "batch_waiting": State(
        BATCH,
        "deferred",
        "12 of 40 videos completed",
        ("20 processing", "proj_01, proj_02", "and 21 more", "2026-09-21 16:56:40"),
        _waiting(_MANY, 40, completed=12, processing=20, queued=7, failed=1),
    ),
    "batch_completed": State(
        BATCH,
        "success",
        "3 of 3 videos completed",
        ("#1 proj_01", "#3 proj_03"),
        {"return_value": [_video("proj_01"), _video("proj_02"), _video("proj_03")]},
    ),
    "batch_failed": State(
        BATCH,
        "failed",
        "1 of 3 videos completed",
        ("the wait timed out", "the prompt is not allowed", "not completed", "was not ready"),
        {"return_value": _MIXED, **_failed("ManxueTimeoutError", "2 of the videos were not completed.")},
        took=3 * 3_600 + 4,
    ),
    "batch_tolerated": State(
        BATCH, "success", "1 of 3 videos completed", ("the prompt is not allowed",), {"return_value": _MIXED}
    ),
    "batch_skipped": State(
        BATCH,
        "skipped",
        "1 of 3 videos completed",
        ("was skipped: the wait timed out",),
        {"return_value": _MIXED, **_failed("ManxueTimeoutError", "2 of the videos were not completed.")},
        took=3 * 3_600 + 4,
    ),
    "order_waiting": State(
        ORDER,
        "deferred",
        "Waiting for the video",
        (ID, "processing", "2026-09-21 16:56:40", MODEL),
        {"video_task_id": ID, **_waiting([ID], processing=1)},
    ),
    "order_waiting_for_room": State(
        ORDER,
        "deferred",
        "The order waits for room",
        ("Attempts", "2026-09-21 14:15:00", "2026-09-21 16:56:40"),
        {
            "manxue_status": {
                "state": "waiting_for_room",
                "attempts": 3,
                "next_at": NOW + 100,
                "deadline": NOW + 9_800,
                "updated_at": NOW - 40,
            }
        },
    ),
    "order_completed": State(
        ORDER, "success", "Video completed", (ID,), {"video_task_id": ID, "return_value": _video()}
    ),
    "order_not_awaited": State(
        ORDER, "success", "Video ordered", (ID, MODEL), {"video_task_id": ID, "return_value": ID}
    ),
    "order_expired": State(
        ORDER,
        "success",
        "Video completed",
        ("has expired", "a clear of this one orders another video"),
        {"video_task_id": ID, "return_value": _video()},
        media=403,
        ended_ago=2 * 86_400,
    ),
    "order_failed": State(
        ORDER,
        "failed",
        "The video failed",
        (ID, "the prompt is not allowed"),
        {"video_task_id": ID, **_failed("ManxueVideoFailedError", _FAILED)},
    ),
    "order_timed_out": State(
        ORDER,
        "failed",
        "The wait timed out",
        ("The video is ordered and may be completed by now",),
        {"video_task_id": ID, **_failed("ManxueTimeoutError", _TIMED_OUT)},
        took=3 * 3_600 + 40,
    ),
    "order_refused": State(
        ORDER,
        "failed",
        "The order was refused",
        ("not ordered", "the balance is too low", "Nothing was ordered"),
        _failed("ManxueOrderRejectedError", _REFUSED),
    ),
    "order_unknown": State(
        ORDER,
        "failed",
        "The outcome of the order is unknown",
        ("Look for the video in the list of the service",),
        _failed("ManxueOrderUnknownError", "The outcome of the order is unknown: the connection was closed."),
    ),
    "save_running": State(SAVE, "running", "Saving the video", ("The task runs.",)),
    "save_completed": State(
        SAVE,
        "success",
        "Video saved",
        ("s3://films/episode-7/shot-1.mp4", "1,234,567 bytes"),
        {
            "return_value": "s3://films/episode-7/shot-1.mp4",
            "video_task_id": ID,
            "size": 1_234_567,
            "content_type": "video/mp4",
            "sha256": "9f" * 32,
        },
    ),
    "save_failed": State(
        SAVE,
        "failed",
        "The store refused the video",
        ("not saved", "no permission", "clear this task soon"),
        _failed("ManxueStorageError", "s3://films/episode-7/shot-1.mp4 could not be written: no permission."),
    ),
    "save_expired": State(
        SAVE,
        "failed",
        "The service does not return the video",
        ("stores a video for about a day",),
        _failed("ManxueRefusedError", f"The service does not return the video {ID!r}: HTTP 404."),
    ),
}


class TabPage:
    """
    Shows states of the tab in a browser page.

    :param page: the page of the browser. It needs no network.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self._state = STATES["single_waiting"]
        with Emulator() as emulator:
            task = emulator.task(emulator.add_task("completed", actual_duration=5.17))
            assert task.video is not None
            self._video = task.video.read(0, task.video.size)
        page.clock.set_fixed_time(datetime.fromtimestamp(NOW, tz=UTC))
        page.add_init_script("localStorage.setItem('timezone', '\"UTC\"')")
        page.route(f"{BASE}/**", self._respond)

    def show(self, name: str) -> None:
        """Open the page in a state, and wait until it is shown."""
        self._state = STATES[name]
        self.page.goto(PAGE.replace("{MAP_INDEX}", "%7BMAP_INDEX%7D"))
        self.page.locator("#message", has_text="Loading").wait_for(state="detached")
        self.page.wait_for_load_state("networkidle")

    def _respond(self, route: Route) -> None:
        url = urlsplit(route.request.url)
        path = unquote(url.path)
        if path.startswith("/manxue-video/"):
            file = STATIC / (path.removeprefix("/manxue-video/") or "index.html")
            headers = {**plugin._HEADERS, "Content-Type": TYPES[file.suffix]}
            route.fulfill(body=file.read_bytes(), headers=headers)
        elif path.startswith("/media/"):
            found = self._state.media == 200
            route.fulfill(
                status=self._state.media, body=self._video if found else "", content_type="video/mp4"
            )
        else:
            answer = self._answer(path.partition("/taskInstances/")[2], parse_qs(url.query))
            route.fulfill(status=404 if answer is None else 200, body=json.dumps(answer or {}))

    def _answer(self, path: str, query: dict[str, list[str]]) -> Any:
        """Return the answer of Airflow's API; None for a 404."""
        task, _, rest = path.partition("/")
        xcoms = (
            self._state.xcoms if task == "task" else {"video_task_id": ID, "return_value": self._state.saved}
        )
        if not rest:
            return self._state.instance()
        if rest == "links":
            return {"extra_links": {}}
        if rest == "xcomEntries":
            keys = ["sha256"] * bool(self._state.saved) if task == "~" else list(xcoms)
            entries = [
                {"key": key, "task_id": "save" if task == "~" else task, "map_index": -1} for key in keys
            ]
            return {"xcom_entries": entries, "total_entries": len(entries)}
        key = rest.removeprefix("xcomEntries/")
        return {"key": key, "value": json.dumps(xcoms[key])} if key in xcoms else None
