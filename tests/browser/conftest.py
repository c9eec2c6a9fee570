"""One running Airflow with the Video tab, some Dag runs, and a browser."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from airflow_provider_manxue.testing import Emulator, Script
from dev.browser import PATIENCE_MS, USERS, VIDEO_TAB, Visitor, open_browser, task_page
from dev.local_airflow import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, FrameLocator, Page

HERE = Path(__file__).parent
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def connection(emulator: Emulator) -> dict[str, Any]:
    """The fields of a connection to the emulator."""
    return json.loads(emulator.airflow_connection_json())


@pytest.fixture(scope="session")
def local_airflow(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    with LocalAirflow(
        tmp_path_factory.mktemp("airflow"),
        dags_folder=HERE / "dags",
        env={"AIRFLOW_CONN_MANXUE_DEFAULT": emulator.airflow_connection_json()},
        config={"manxue.video_tab": True},
        users=USERS,
    ) as airflow:
        yield airflow


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser of all tests. Playwright cannot start a second one in the same thread."""
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def visitor(local_airflow: LocalAirflow, browser: Browser) -> Visitor:
    return Visitor(browser, local_airflow.base_url)


@dataclass
class Run:
    """A run of a Dag."""

    dag_id: str
    run_id: str
    airflow: LocalAirflow

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        return self.airflow.xcom(self.dag_id, self.run_id, task_id, key, map_index)

    def page(self, task_id: str, map_index: int = -1, tab: str = "") -> str:
        return task_page(self.dag_id, self.run_id, task_id, map_index, tab)


@pytest.fixture(scope="session")
def start(local_airflow: LocalAirflow):
    def start(dag_id: str, **conf: Any) -> Run:
        return Run(dag_id, local_airflow.trigger(dag_id, conf=conf), local_airflow)

    return start


@pytest.fixture(scope="session")
def runs(local_airflow: LocalAirflow, emulator: Emulator, start, tmp_path_factory) -> dict[str, Run]:
    """Finished runs. Started together, since each takes some time."""
    emulator.default_script = Script.timed(queued=1, processing=4)
    videos = [
        emulator.add_task(script="completed", actual_duration=5.17),
        emulator.add_task(script="completed", actual_duration=4),
        emulator.add_task(script=Script.failing("the prompt is not allowed")),
    ]
    destination = f"{tmp_path_factory.mktemp('saved').as_uri()}/"
    runs = {
        "wait": start("manxue_wait_for_video"),
        "save": start("manxue_order_wait_save", destination=destination),
        "shots": start("manxue_shots", videos=videos, destination=destination),
    }
    for run in runs.values():
        local_airflow.wait_for_run(run.dag_id, run.run_id)
    return runs


@pytest.fixture
def open_tab(visitor: Visitor):
    """Return a function that opens the Video tab of a task."""
    pages: list[Page] = []

    def open_tab(
        run: Run, task_id: str, map_index: int = -1, user: str = "admin", prepare=None
    ) -> FrameLocator:
        page = visitor.page(user)
        pages.append(page)
        if prepare:
            prepare(page)
        page.goto(visitor.base_url + run.page(task_id, map_index, VIDEO_TAB))
        return page.frame_locator("iframe")

    yield open_tab
    for page in pages:
        page.context.close()


@pytest.fixture
def new_page(visitor: Visitor):
    """Return a function that opens an empty page for a user."""
    pages: list[Page] = []

    def new_page(user: str | None = "admin", **options: Any) -> Page:
        pages.append(visitor.page(user, **options))
        return pages[-1]

    yield new_page
    for page in pages:
        page.context.close()
