"""Probes of the doctor, as plain values."""

from __future__ import annotations

from email.utils import formatdate

from airflow_provider_manxue._core.connection import parse_connection
from airflow_provider_manxue._core.diagnosis import Probe

URL = "https://service.example.com/api"
NOW = 1_800_000_000


def settings_of(host=URL, **extra):
    return parse_connection("c", host=host, password="key", extra=extra)


def response(status=404, error=None, *, is_json=True, ahead=0.0, took=0.5):
    """Return the probe of a response whose ``Date`` is ``ahead`` seconds before this machine's clock."""
    date = formatdate(NOW, usegmt=True)
    return Probe(URL, error, None, status, is_json, date, sent_at=NOW + ahead, received_at=NOW + ahead + took)
