"""Debian's Chromium, controlled by Playwright."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
"""Milliseconds: timeout of each action on a page."""
VIDEO_TAB = "/plugin/manxue_video"
USERS = {"admin": "admin", "guest": "viewer", "nobody": ""}


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start the browser, and close it at the end of the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visitor:
    """
    Opens pages of a running Airflow, each in its own session.

    :param browser: the browser.
    :param base_url: Airflow's address.
    """

    browser: Browser
    base_url: str
    sessions: dict[str, Any] = field(default_factory=dict)

    def page(self, user: str | None, **options: Any) -> Page:
        """
        Open an empty page.

        :param user: user to log in, whose password is the name; None for no login.
        :param options: Playwright's options of the session.
        """
        if user is not None and user not in self.sessions:
            self.sessions[user] = self._log_in(user)
        return self._new_page(storage_state=self.sessions.get(user or ""), **options)

    def _new_page(self, **options: Any) -> Page:
        page = self.browser.new_context(**options).new_page()
        page.set_default_timeout(PATIENCE_MS)
        return page

    def _log_in(self, user: str) -> Any:
        page = self._new_page()
        page.goto(f"{self.base_url}/auth/login")
        page.locator("input[name=username]").fill(user)
        page.locator("input[name=password]").fill(user)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "/auth/" not in url)
        state = page.context.storage_state()
        page.context.close()
        return state


def task_page(dag_id: str, run_id: str, task_id: str, map_index: int = -1, tab: str = "") -> str:
    """Return the path of a task instance's page in Airflow's UI."""
    mapped = "" if map_index < 0 else f"/mapped/{map_index}"
    return f"/dags/{dag_id}/runs/{run_id}/tasks/{task_id}{mapped}{tab}"


def fill_in_connection(page: Page, conn_id: str, base_url: str, api_key: str) -> Locator:
    """Fill in the form for a new connection, and return the form without saving it."""
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.locator("input[name=connection_id]").fill(conn_id)
    form.get_by_role("combobox").click()
    page.get_by_role("option", name="sd2_manxue").click()
    form.locator("input[name=host]").fill(base_url)
    form.locator("input[name=password]").fill(api_key)
    return form
