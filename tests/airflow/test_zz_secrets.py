"""Search of all files and tables of the test run for secrets. The module name sorts last, so that it runs last."""

from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_manxue.testing import Emulator
    from dev.local_airflow import LocalAirflow


def test_key_is_nowhere_and_url_only_in_xcom(local_airflow: LocalAirflow, emulator: Emulator) -> None:
    """Covers everything that the tests before have written."""
    secrets = {"key": emulator.api_key.encode(), "url": b"signature="}
    found = {name: [] for name in secrets}
    for file in local_airflow.home.rglob("*"):
        if file.is_file() and not file.name.startswith("airflow.db"):
            content = content_of(file)
            for name, secret in secrets.items():
                if secret in content:
                    found[name].append(str(file.relative_to(local_airflow.home)))
    for table, column, content in cells(local_airflow.database):
        for name, secret in secrets.items():
            if secret in content:
                found[name].append(f"{table}.{column}")
    assert found["key"] == []
    # `Pull` has the whole task as a templated argument, and Airflow stores rendered arguments.
    assert set(found["url"]) <= {"xcom.value", "rendered_task_instance_fields.rendered_fields"}
    rendered = local_airflow.query(
        "SELECT DISTINCT task_id FROM rendered_task_instance_fields WHERE rendered_fields LIKE '%signature=%'"
    )
    assert all(task_id.startswith("use_") for (task_id,) in rendered)


def content_of(file: Path) -> bytes:
    data = file.read_bytes()
    return gzip.decompress(data) if file.suffix == ".gz" else data


def cells(database: Path):
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            rows = db.execute(f'SELECT * FROM "{table}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    if isinstance(value, (str, bytes)):
                        yield table, column, value.encode() if isinstance(value, str) else value
