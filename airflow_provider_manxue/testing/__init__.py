"""
An emulator of the sd2_manxue video service, to test pipelines without paying.

It never imports Airflow. See ``docs/emulator.md``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_manxue.testing.answer import OMIT, Answer, Raw
    from airflow_provider_manxue.testing.catalogue import CATALOGUE, Variation
    from airflow_provider_manxue.testing.client import EmulatorClient
    from airflow_provider_manxue.testing.clock import Clock
    from airflow_provider_manxue.testing.emulator import Emulator
    from airflow_provider_manxue.testing.ledger import Ledger, Order
    from airflow_provider_manxue.testing.rate import RateLimit
    from airflow_provider_manxue.testing.record import RequestRecord
    from airflow_provider_manxue.testing.script import Script, Step

__all__ = [
    "CATALOGUE",
    "OMIT",
    "Answer",
    "Clock",
    "Emulator",
    "EmulatorClient",
    "Ledger",
    "Order",
    "RateLimit",
    "Raw",
    "RequestRecord",
    "Script",
    "Step",
    "Variation",
]

_HOME = {
    "CATALOGUE": "catalogue",
    "OMIT": "answer",
    "Answer": "answer",
    "Clock": "clock",
    "Emulator": "emulator",
    "EmulatorClient": "client",
    "Ledger": "ledger",
    "Order": "ledger",
    "RateLimit": "rate",
    "Raw": "answer",
    "RequestRecord": "record",
    "Script": "script",
    "Step": "script",
    "Variation": "catalogue",
}


def __getattr__(name: str) -> Any:
    """Import on first use: pytest loads the plugin in every session, so this package must cost nothing."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
