"""
An emulator of the sd2_manxue video service, to test pipelines without paying.

It never imports Airflow. See ``docs/emulator.md``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_manxue.testing._client import EmulatorClient
    from airflow_provider_manxue.testing._clock import Clock
    from airflow_provider_manxue.testing._emulator import Emulator
    from airflow_provider_manxue.testing._ledger import Ledger, Order
    from airflow_provider_manxue.testing._rate import RateLimit
    from airflow_provider_manxue.testing._record import RequestRecord
    from airflow_provider_manxue.testing._response import OMIT, Raw, Response
    from airflow_provider_manxue.testing._scenarios import SCENARIOS, Scenario
    from airflow_provider_manxue.testing._script import Script, Step

__all__ = [
    "OMIT",
    "SCENARIOS",
    "Clock",
    "Emulator",
    "EmulatorClient",
    "Ledger",
    "Order",
    "RateLimit",
    "Raw",
    "RequestRecord",
    "Response",
    "Scenario",
    "Script",
    "Step",
]

_HOME = {
    "SCENARIOS": "_scenarios",
    "OMIT": "_response",
    "Response": "_response",
    "Clock": "_clock",
    "Emulator": "_emulator",
    "EmulatorClient": "_client",
    "Ledger": "_ledger",
    "Order": "_ledger",
    "RateLimit": "_rate",
    "Raw": "_response",
    "RequestRecord": "_record",
    "Script": "_script",
    "Step": "_script",
    "Scenario": "_scenarios",
}


def __getattr__(name: str) -> Any:
    """Import on first use: pytest loads the plugin in every session, so this package must cost nothing."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
