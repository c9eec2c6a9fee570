"""The pytest plugin: a fixture with an emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_manxue.testing._emulator import Emulator


@pytest.fixture
def manxue_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """
    Run an emulator during one test, and set the connection ``manxue_default`` to it.

    Each emulator has a separate port, so tests may run in parallel.
    """
    # Imported here, since pytest loads this module in every session.
    from airflow_provider_manxue.testing._emulator import Emulator

    with Emulator() as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", emulator.airflow_connection_json())
        yield emulator
