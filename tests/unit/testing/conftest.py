"""An emulator, and a client with its API key."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from airflow_provider_manxue.testing import Clock, Emulator

HERE = Path(__file__).parent
ORDER = {"prompt": "A cat", "model": "sd2_manxue_720p"}


def pytest_collection_modifyitems(items):
    """The emulator uses nothing of Airflow."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("once")


class Customer(requests.Session):
    """A client of the emulator."""

    def __init__(self, emulator):
        super().__init__()
        self.emulator = emulator
        self.trust_env = False
        self.headers["Authorization"] = f"Bearer {emulator.api_key}"

    def query(self, task_id, **options):
        url = f"{self.emulator.base_url}/v1/result/{quote(task_id, safe='')}"
        return self.get(url, timeout=options.pop("timeout", 10), **options)

    def order(self, **changes):
        body = {name: value for name, value in {**ORDER, **changes}.items() if value is not ...}
        return self.post(f"{self.emulator.base_url}/v1/sd2_manxue/videos", json=body, timeout=10)

    def statuses(self, task_id, count):
        return [self.query(task_id).json()["status"] for _ in range(count)]


@pytest.fixture
def emulator():
    with Emulator(clock=Clock(start=1_800_000_000, frozen=True)) as emulator:
        yield emulator


@pytest.fixture
def make_customer():
    """Create customers, and close their connections at the end."""
    made = []

    def make(emulator):
        made.append(Customer(emulator))
        return made[-1]

    yield make
    for customer in made:
        customer.close()


@pytest.fixture
def customer(emulator, make_customer):
    return make_customer(emulator)
