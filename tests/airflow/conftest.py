"""One running Airflow and one emulator of the service for all tests in this folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dev.local_airflow import LocalAirflow
from dev.servers import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_manxue.testing import Emulator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("airflow")


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """The emulator behind the connection ``manxue_default`` of `local_airflow`."""
    from airflow_provider_manxue.testing import Emulator

    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def local_airflow(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """A running Airflow with the Dags of the folder ``dags``. Shared, since it takes half a minute to start."""
    with LocalAirflow(
        tmp_path_factory.mktemp("airflow"),
        dags_folder=HERE / "dags",
        env={
            "AIRFLOW_CONN_MANXUE_DEFAULT": emulator.airflow_connection_json(),
            # The triggerer imports a trigger of the tests, and its import path does not include the Dag folder.
            "PYTHONPATH": os.pathsep.join([str(HERE / "dags"), os.environ.get("PYTHONPATH", "")]).strip(
                os.pathsep
            ),
        },
        pools={"one": 1},
    ) as airflow:
        yield airflow


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a stand-in for S3."""
    with S3Server() as server:
        yield server.url
