"""
The pytest plugin: a fixture with an emulator.

Pytest loads this module in every session, also where nothing uses it. So it is outside of the emulator's package, which
imports asyncio and ssl, and imports the emulator only in the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_manxue.testing import Emulator


@pytest.fixture
def manxue_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """
    Run an emulator during one test, and set the connection ``manxue_default`` to it.

    Each emulator has a separate port, so tests may run in parallel.
    """
    from airflow_provider_manxue.testing import Emulator

    with Emulator() as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", emulator.airflow_connection_json())
        yield emulator
