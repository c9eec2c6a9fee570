"""Video tab in a browser: content for each task, permissions, and security policy."""

from __future__ import annotations

import json
from datetime import datetime
from urllib.parse import urlencode, urlsplit
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

from airflow_provider_manxue.testing import Script


def facts(card):
    """Return the names and texts below a player."""
    names, texts = card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts()
    return dict(zip(names, texts, strict=True))


def wait_for_metadata(video):
    """Wait until the browser has begun to load a video."""
    video.evaluate("video => video.readyState || new Promise(done => video.onloadedmetadata = done)")


def address_of(run, task_id, map_index=-1):
    """Return the path of the tab's page, outside of Airflow's frame."""
    query = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": task_id, "map_index": map_index}
    return f"/manxue-video/?{urlencode(query)}"


def test_video_plays(runs, open_tab):
    run = runs["save"]
    video = open_tab(run, "order").locator("video")

    expect(video).to_be_visible()
    video.evaluate(
        "video => new Promise((done, fail) => {"
        "  video.addEventListener('timeupdate', () => video.currentTime > 0.3 && done());"
        "  video.addEventListener('error', () => fail(video.error.message));"
        "  video.muted = true; video.play(); })"
    )
    assert video.evaluate("video => video.duration") == pytest.approx(run.xcom("order", "actualDuration"))
    assert video.evaluate("video => video.videoWidth") > 0


def test_facts_are_those_of_the_task(runs, open_tab):
    run = runs["save"]
    task = run.xcom("order")
    tab = open_tab(run, "order")

    expect(tab.get_by_role("heading", name=task["id"])).to_be_visible()
    expect(tab.get_by_text(run.xcom("save"))).to_be_visible()
    shown = facts(tab.locator("article"))
    assert list(shown) == ["Status", "Length", "Model", "Created", "Waited", "Saved as"]
    assert (shown["Status"], shown["Length"], shown["Model"]) == ("completed", "5 s", task["model"])


def test_save_task_shows_its_file(runs, open_tab):
    run = runs["save"]
    card = open_tab(run, "save").locator("article")

    expect(card.get_by_role("heading")).to_have_text(run.xcom("order", "video_task_id"))
    shown = facts(card)
    assert list(shown) == ["Saved as", "Size", "Type", "SHA-256"]
    assert (shown["Saved as"], shown["SHA-256"]) == (run.xcom("save"), run.xcom("save", "sha256"))


@pytest.mark.parametrize(("task_id", "map_index"), [("wait", 0), ("batch", -1)], ids=["mapped", "batch"])
def test_many_videos_are_shown_as_a_gallery(runs, open_tab, task_id, map_index):
    tab = open_tab(runs["shots"], task_id, map_index)
    cards = tab.locator("#gallery article")

    expect(tab.get_by_role("heading", name="3 videos", level=2)).to_be_visible()
    expect(cards).to_have_count(3)
    for number, length in enumerate((5.17, 4)):
        video = cards.nth(number).locator("video")
        expect(video).to_be_visible()
        wait_for_metadata(video)
        assert video.evaluate("video => video.duration") == pytest.approx(length)
    expect(cards.nth(2).locator("video")).to_be_hidden()
    expect(cards.nth(2)).to_contain_text("the prompt is not allowed" if task_id == "batch" else "was skipped")


def test_wait_shows_state_and_time_and_then_the_video(emulator, start, open_tab):
    emulator.default_script = Script.by_hand("processing")
    video = emulator.add_task(script=Script.by_hand("processing"))
    run = start("manxue_shots", videos=[video], destination="file:///nowhere/")
    run.airflow.wait_until(
        lambda: run.airflow.task_states(run.dag_id, run.run_id).get(("wait", 0)) == "running"
    )
    tab = open_tab(run, "wait", 0)

    expect(tab.get_by_role("status")).to_have_text("The task runs.")
    elapsed = tab.get_by_role("timer")
    expect(elapsed).to_contain_text("so far")
    before = elapsed.inner_text()
    expect(elapsed).not_to_have_text(before)
    expect(tab.locator("#single").get_by_role("heading", name=video)).to_be_visible()
    expect(tab.get_by_role("heading", level=1)).to_have_text("Waiting for the video")
    expect(tab.locator("#single dt", has_text="Deadline")).to_be_visible()

    emulator.set_status(video, "completed")
    expect(tab.locator("#single video")).to_be_visible(timeout=120_000)
    expect(elapsed).to_be_hidden()


def test_expired_url_is_shown_with_the_saved_copy(runs, open_tab):
    def two_days_later(page):
        page.clock.set_fixed_time(page.evaluate("Date.now() + 2 * 86400 * 1000"))
        page.route("**/media/**", lambda route: route.fulfill(status=403))

    notice = open_tab(runs["save"], "order", prepare=two_days_later).locator(".notice")
    expect(notice).to_contain_text("has expired")
    expect(notice).to_contain_text(runs["save"].xcom("save"))

    notice = open_tab(runs["wait"], "wait", prepare=two_days_later).locator(".notice")
    expect(notice).to_contain_text("has expired")
    expect(notice).to_contain_text("No saved copy was found in this run. Clear this task to get a new URL")


def test_failed_video_is_shown_with_its_reason(runs, open_tab):
    tab = open_tab(runs["shots"], "wait", 2)

    expect(tab.get_by_role("heading", level=1)).to_have_text("The video failed")
    expect(tab.get_by_role("status")).to_have_text("The task was skipped.")
    expect(tab.locator("#single dt", has_text="What to do")).to_be_visible()
    shown = facts(tab.locator("#single article"))
    assert shown["Status"] == "failed"
    assert "the prompt is not allowed" in shown["Message"]
    assert "order" in shown["What to do"]


def test_dates_have_the_form_and_the_time_zone_of_airflow(runs, new_page, visitor):
    run = runs["save"]
    page = new_page()
    page.add_init_script("localStorage.setItem('timezone', '\"Asia/Tokyo\"')")
    page.goto(visitor.base_url + address_of(run, "order"))
    expect(page.locator("article dt", has_text="Created")).to_be_visible()

    created = datetime.fromtimestamp(run.xcom("order")["created"], tz=ZoneInfo("Asia/Tokyo"))
    assert facts(page.locator("article"))["Created"] == f"{created:%Y-%m-%d %H:%M:%S}"


def test_unplayable_video_is_reported(runs, open_tab):
    tab = open_tab(
        runs["wait"], "wait", prepare=lambda page: page.route("**/media/**", lambda route: route.abort())
    )

    expect(tab.locator(".notice")).to_contain_text("This video does not play.")
    expect(tab.locator("video")).to_be_hidden()


def test_other_task_shows_one_line(runs, open_tab):
    main = open_tab(runs["shots"], "shots").locator("main")

    expect(main).to_have_text(
        "Video This is no task of the sd2_manxue provider with a video, so there is no video to show.",
        use_inner_text=True,
    )


def test_viewer_sees_the_video(runs, open_tab):
    expect(open_tab(runs["save"], "order", user="guest").locator("video")).to_be_visible()


@pytest.mark.parametrize(("user", "status"), [("nobody", 403), (None, 401)])
def test_user_without_permission_sees_nothing(runs, new_page, visitor, user, status):
    run = runs["save"]
    page = new_page(user)
    responses = []
    page.on("response", lambda response: "/api/" in response.url and responses.append(response))
    page.goto(visitor.base_url + address_of(run, "order"))

    expect(page.locator("main")).to_have_text(
        f"Video Airflow does not let you read the results of this task (HTTP {status}).", use_inner_text=True
    )
    assert {response.status for response in responses} == {status}
    assert run.xcom("order", "video_task_id") not in page.content()


def test_foreign_html_is_shown_as_text(runs, open_tab):
    hostile = "<img src=x onerror=\"document.title='caught'\">"
    task = {
        "id": hostile,
        "status": hostile,
        "model": hostile,
        "video_url": "javascript:alert(1)",
        "created": hostile,
    }

    def prepare(page):
        entry = {"key": "return_value", "value": json.dumps(task)}
        page.route("**/xcomEntries/return_value?*", lambda route: route.fulfill(json=entry))

    tab = open_tab(runs["wait"], "wait", prepare=prepare)

    expect(tab.locator("article")).to_contain_text(hostile)
    expect(tab.locator("img")).to_have_count(0)
    expect(tab.locator("video")).to_be_hidden()
    assert tab.locator("video").get_attribute("src") is None


def test_nothing_is_loaded_from_other_hosts(runs, new_page, visitor, emulator):
    page = new_page()
    urls, messages = [], []
    page.on("request", lambda request: urls.append(request.url))
    page.on("console", lambda message: message.type in {"error", "warning"} and messages.append(message.text))
    page.goto(visitor.base_url + address_of(runs["save"], "order"))
    wait_for_metadata(page.locator("video"))

    assert {urlsplit(url).netloc for url in urls} == {
        urlsplit(visitor.base_url).netloc,
        urlsplit(emulator.url).netloc,
    }
    assert messages == []


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tab_supports_small_screens_themes_and_keyboard(runs, new_page, visitor, width, scheme):
    page = new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
    page.goto(visitor.base_url + address_of(runs["shots"], "wait", 0))
    expect(page.locator("#gallery article")).to_have_count(3)

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    light = page.evaluate(
        "getComputedStyle(document.body).color.match(/[0-9.]+/g).slice(0, 3).every(c => c > 127)"
    )
    assert light == (scheme == "dark")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "VIDEO"


def test_theme_of_airflow_overrides_the_browser(runs, new_page, visitor):
    page = new_page(color_scheme="light")
    page.add_init_script("localStorage.setItem('theme', 'dark')")
    page.goto(visitor.base_url + address_of(runs["save"], "order"))

    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
