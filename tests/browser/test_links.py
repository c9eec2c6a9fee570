"""Buttons on a task's page."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

SHAPES = {
    "sensor": ("wait", "wait", -1),
    "create operator": ("save", "order", -1),
    "mapped sensor": ("shots", "wait", 1),
}


@pytest.fixture
def details(new_page, visitor):
    def open_details(run, task_id, map_index=-1):
        page = new_page()
        page.goto(visitor.base_url + run.page(task_id, map_index, "/details"))
        expect(page.get_by_text("Task ID")).to_be_visible()
        return page

    return open_details


@pytest.mark.parametrize("shape", SHAPES)
def test_watch_video_opens_the_video(runs, details, shape):
    name, task_id, map_index = SHAPES[shape]
    run = runs[name]
    page = details(run, task_id, map_index)
    link = page.get_by_role("link", name="Watch video")

    expect(link).to_have_attribute("href", run.xcom(task_id, "video_url", map_index))
    with page.expect_popup() as opened:
        link.click()
    length = run.xcom(task_id, "actualDuration", map_index)
    opened.value.wait_for_function(
        "length => Math.abs(document.querySelector('video')?.duration - length) < 0.001", arg=length
    )


@pytest.mark.parametrize(
    ("task_id", "map_index"),
    [("wait", 2), ("batch", -1), ("save", 0), ("shots", -1)],
    ids=["failed video", "batch", "store without a web address", "not ours"],
)
def test_no_button_without_a_video(runs, details, task_id, map_index):
    page = details(runs["shots"], task_id, map_index)

    expect(page.get_by_role("link", name="Watch video")).to_have_count(0)
    expect(page.get_by_role("link", name="Saved video")).to_have_count(0)


def test_order_without_a_wait_has_no_heading_for_links(runs, details):
    """Airflow shows the heading for each task that declares a link, also if there is no address."""
    heading = "Extra Links"

    expect(details(runs["wait"], "wait").get_by_role("heading", name=heading)).to_be_visible()
    expect(details(runs["shots"], "order").get_by_role("heading", name=heading)).to_have_count(0)
