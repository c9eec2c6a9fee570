"""Each state of the Video tab: its texts, in both themes and on a narrow screen, and its accessibility."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from dev.tab_states import STATES, TabPage

LOOKS = {
    "light": ("light", {"width": 1000, "height": 700}),
    "dark": ("dark", {"width": 1000, "height": 700}),
    "narrow": ("light", {"width": 320, "height": 700}),
}


@pytest.fixture(scope="module")
def tab(browser):
    page = browser.new_page(timezone_id="Asia/Shanghai")
    page.set_default_timeout(30_000)
    yield TabPage(page)
    page.close()


@pytest.mark.parametrize("name", STATES)
def test_state_says_what_happened_and_what_to_do(tab, name):
    page, state, problems = tab.page, STATES[name], []

    def note(message):
        expected = "403" in message.text or "404" in message.text
        if message.type in {"error", "warning"} and not expected:
            problems.append(message.text)

    page.on("console", note)
    tab.show(name)
    page.remove_listener("console", note)

    expect(page.get_by_role("heading", level=1)).to_have_text(state.title)
    for text in state.texts:
        expect(page.locator("main")).to_contain_text(text)
    assert problems == []


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", STATES)
def test_state_is_accessible(tab, name, look):
    scheme, size = LOOKS[look]
    tab.page.emulate_media(color_scheme=scheme)
    tab.page.set_viewport_size(size)
    tab.show(name)

    results = Axe().run(tab.page)
    assert results.violations_count == 0, results.generate_report()
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
