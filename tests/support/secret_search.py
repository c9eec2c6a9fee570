"""Search of everything that a real Airflow has written for the API key and for signed URLs."""

from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow

IN_XCOM = {"xcom.value", "rendered_task_instance_fields.rendered_fields"}
"""Columns that may hold the URL of a video. The second has it if the whole result is a templated argument of a task."""


def assert_no_secrets(airflow: LocalAirflow, emulator: Emulator) -> None:
    """Assert that no file and no table holds the key, and that only XComs hold the URL of a video."""
    found = places_of(
        {"key": emulator.api_key.encode(), "url": b"signature="}, airflow.home, airflow.database
    )
    assert found["key"] == set()
    assert found["url"] <= IN_XCOM
    rendered = airflow.query(
        "SELECT DISTINCT task_id FROM rendered_task_instance_fields WHERE rendered_fields LIKE '%signature=%'"
    )
    assert all(task_id.startswith("use_") for (task_id,) in rendered)


def places_of(secrets: dict[str, bytes], home: Path, database: Path) -> dict[str, set[str]]:
    """Return the files and the columns that hold each secret, by its name."""
    found: dict[str, set[str]] = {name: set() for name in secrets}
    for place, content in (*_files(home), *_cells(database)):
        for name, secret in secrets.items():
            if secret in content:
                found[name].add(place)
    return found


def _files(home: Path) -> Iterator[tuple[str, bytes]]:
    for file in home.rglob("*"):
        if file.is_file() and not file.name.startswith("airflow.db"):
            data = file.read_bytes()
            yield str(file.relative_to(home)), gzip.decompress(data) if file.suffix == ".gz" else data


def _cells(database: Path) -> Iterator[tuple[str, bytes]]:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            rows = db.execute(f'SELECT * FROM "{table}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    if isinstance(value, (str, bytes)):
                        yield f"{table}.{column}", value.encode() if isinstance(value, str) else value
