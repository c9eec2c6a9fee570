"""Take the screenshots of Airflow's UI for the documentation, with a real Airflow and the emulator."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from airflow_provider_manxue.testing import Emulator, Script
from dev.browser import USERS, VIDEO_TAB, Visitor, fill_in_connection, open_browser, task_page
from dev.local_airflow import LocalAirflow
from dev.tab_states import TabPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "img"
WIDE = {"width": 1200, "height": 720}
SMALL = {"width": 390, "height": 720}
SAVE, SHOTS, WAITING = "manxue_order_wait_save", "manxue_shots", "manxue_wait_for_video"
LINE, CUT = "manxue_production_line", "manxue_production_cut"
LINE_SHOTS = ["Anna climbs the stairs", "Ben lights the lamp", "The two of them look at the sea"]
RUN = "episode_1"


def run_dags(airflow: LocalAirflow, emulator: Emulator, destination: str) -> None:
    """Run the Dags for the screenshots: completed videos, and one wait in progress."""
    emulator.default_script = Script.timed(queued=2, processing=20)
    videos = [emulator.add_task(script="completed", actual_duration=length) for length in (5.17, 4, 8, 6.5)]
    airflow.trigger(SAVE, conf={"destination": destination}, run_id=RUN)
    airflow.trigger(SHOTS, conf={"videos": videos, "destination": destination}, run_id=RUN)
    for dag_id in (SAVE, SHOTS):
        airflow.wait_for_run(dag_id, RUN)
    emulator.default_script = Script.by_hand("processing")
    airflow.trigger(WAITING, run_id=RUN)
    airflow.wait_for_tasks(WAITING, RUN, {"wait": "deferred"})


def take(page: Page, name: str) -> None:
    """Save a screenshot of the page, and close the page."""
    save(page, name)
    page.context.close()


def save(page: Page, name: str) -> None:
    """Save a screenshot of the page."""
    page.screenshot(path=PICTURES / f"{name}.png")
    print(f"{name}.png: {(PICTURES / f'{name}.png').stat().st_size // 1024} KiB")


def show_form(visitor: Visitor) -> None:
    """Take the form of a new connection, with all fields visible."""
    for name, section in (("form", None), ("form-extra", "Extra Fields")):
        page = visitor.page("admin", viewport={"width": 1000, "height": 840 if section is None else 1320})
        page.goto(f"{visitor.base_url}/connections")
        form = fill_in_connection(page, "manxue_default", "", "your-key")
        if section:
            form.get_by_role("button", name=section, exact=True).click()
            form.get_by_text("Allow plain HTTP").wait_for()
        settle(page)
        take(page, name)


def show_connection_test(visitor: Visitor, airflow: LocalAirflow, emulator: Emulator) -> None:
    """Take the result of *Test Connection*."""
    # With a port: without it, Airflow 3.3.1 and 3.3.2 refuse the test.
    airflow.set_connection("manxue_default", **json.loads(emulator.airflow_connection_json()) | {"port": 443})
    page = visitor.page("admin", viewport={"width": 1000, "height": 440})
    page.goto(f"{visitor.base_url}/connections")
    page.get_by_role("button", name="Test Connection").click()
    # The message stays while the pointer is on it.
    page.get_by_text("Test Connection Successful").hover()
    page.wait_for_timeout(1500)
    take(page, "form-test")


def show_task_pages(visitor: Visitor) -> None:
    """Take the page of a task, with its buttons and its tab."""
    page = visitor.page("admin", viewport=WIDE)
    page.goto(visitor.base_url + task_page(SAVE, RUN, "order", tab="/details"))
    page.get_by_role("link", name="Watch video").scroll_into_view_if_needed()
    settle(page)
    take(page, "watch-video")
    for name, place, options in (
        ("video-tab", (SAVE, "order", -1), {}),
        ("video-tab-dark", (SAVE, "order", -1), {"color_scheme": "dark"}),
        ("video-tab-gallery", (SHOTS, "wait", 0), {"viewport": {"width": 1200, "height": 1000}}),
        ("video-tab-waiting", (WAITING, "wait", -1), {"viewport": {"width": 1200, "height": 440}}),
    ):
        show_tab(visitor, name, place, options)


def show_tab(visitor: Visitor, name: str, place: tuple[str, str, int], options: dict[str, Any]) -> None:
    """Take the tab on the page of a task."""
    page = visitor.page("admin", **{"viewport": WIDE, **options})
    dag_id, task_id, map_index = place
    page.goto(visitor.base_url + task_page(dag_id, RUN, task_id, map_index, VIDEO_TAB))
    tab = page.frame_locator("iframe")
    if "waiting" in name:
        tab.get_by_text("waits in the triggerer").wait_for()
    else:
        tab.get_by_text("Saved as").first.wait_for()
    settle(page)
    take(page, name)


def show_small(visitor: Visitor) -> None:
    """Take the tab's own page at the size of a phone. Airflow's page around it needs a larger screen."""
    page = visitor.page("admin", viewport=SMALL)
    query = {"dag_id": SHOTS, "run_id": RUN, "task_id": "batch", "map_index": -1}
    page.goto(f"{visitor.base_url}/manxue-video/?{urlencode(query)}")
    page.get_by_text("Saved as").first.wait_for()
    settle(page)
    take(page, "video-tab-small")


def show_states(browser: Browser) -> None:
    """Take the tab's own page in some of its states, without Airflow."""
    tab = TabPage(browser.new_page())
    pictures: list[tuple[str, str, Any, Any]] = [
        ("video-tab-failed", "single_failed", "light", {"width": 800, "height": 250}),
        ("video-tab-timed-out", "single_timed_out", "dark", {"width": 800, "height": 280}),
        ("video-tab-batch-waiting", "batch_waiting", "light", {"width": 800, "height": 250}),
        ("video-tab-refused", "order_refused", "dark", {"width": 390, "height": 340}),
    ]
    for name, state, scheme, size in pictures:
        tab.page.emulate_media(color_scheme=scheme)
        tab.page.set_viewport_size(size)
        tab.show(state)
        save(tab.page, name)


def show_production_line(visitor: Visitor, airflow: LocalAirflow, emulator: Emulator, folder: Path) -> None:
    """Run the production line, and take a question, and the run with the Dag that it has started."""
    emulator.default_script = emulator.default_asset_script = Script.timed(processing=1)
    face = "https://example.com/anna.png"
    shots = [{"prompt": prompt, "references": [face]} for prompt in LINE_SHOTS]
    conf = {"faces": [face], "shots": shots, "destination": f"{folder.as_uri()}/"}
    airflow.trigger(LINE, conf=conf, run_id=RUN)
    asked = {("shot.approve", number): "awaiting_input" for number in range(len(shots))}
    airflow.wait_for_tasks(LINE, RUN, asked)
    page = visitor.page("admin", viewport=WIDE)
    page.goto(visitor.base_url + task_page(LINE, RUN, "shot.approve", 1, "/required_actions"))
    page.get_by_role("button", name="Order again").wait_for()
    settle(page)
    take(page, "approval")
    for number, option in enumerate(["Approve", "Order again", "Approve"]):
        airflow.respond(LINE, RUN, "shot.approve", number, option, prompt="Brighter")
    airflow.wait_for_run(LINE, RUN)
    airflow.wait_until(
        lambda: airflow.query("SELECT 1 FROM dag_run WHERE dag_id = ? AND state = 'success'", CUT)
    )
    page = visitor.page("admin", viewport={"width": 1200, "height": 900})
    page.goto(f"{visitor.base_url}/dags/{LINE}/runs/{RUN}")
    page.get_by_text("publish").first.wait_for()
    settle(page)
    take(page, "production-line")


def settle(page: Page) -> None:
    """Wait until all animations have ended."""
    page.wait_for_load_state("networkidle")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)


def main() -> None:
    """Take all screenshots."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="manxue-") as folder, Emulator() as emulator:
        saved = Path("/tmp/manxue")  # noqa: S108 - the path in the examples; the screenshots show no path of this machine
        airflow = LocalAirflow(
            Path(folder) / "airflow",
            dags_folder=ROOT / "tests" / "browser" / "dags",
            config={"manxue.video_tab": True},
            users=USERS,
        )
        with airflow, open_browser() as browser:
            assert airflow.base_url
            visitor = Visitor(browser, airflow.base_url)
            show_form(visitor)
            show_connection_test(visitor, airflow, emulator)
            run_dags(airflow, emulator, f"{saved.as_uri()}/")
            show_task_pages(visitor)
            show_small(visitor)
            show_states(browser)
            show_production_line(visitor, airflow, emulator, Path("/tmp/manxue/line"))  # noqa: S108 - as above


if __name__ == "__main__":
    main()
