"""
An emulator of the sd2_manxue video service, to test pipelines at no cost.

It never imports Airflow, and aiohttp only when an emulator starts. See ``docs/emulator.md``.
"""

from __future__ import annotations

from airflow_provider_manxue.testing._client import EmulatorClient
from airflow_provider_manxue.testing._clock import Clock
from airflow_provider_manxue.testing._emulator import Emulator
from airflow_provider_manxue.testing._ledger import Ledger, Order, Upload
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
    "Upload",
]
