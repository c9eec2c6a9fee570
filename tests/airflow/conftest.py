"""One running Airflow and one emulator of the service for the tests of each process of the test run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dev.local_airflow import LocalAirflow
from dev.servers import S3Server
from tests.support.secret_search import assert_no_secrets
from tests.support.statsd_server import statsd_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_manxue.testing import Emulator
    from tests.support.statsd_server import StatsdServer

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


@pytest.fixture(autouse=True)
def default_script(emulator: Emulator) -> Iterator[None]:
    """Restore the scripts of new videos and assets after each test, since the emulator is shared."""
    before, before_of_assets = emulator.default_script, emulator.default_asset_script
    yield
    emulator.default_script, emulator.default_asset_script = before, before_of_assets


@pytest.fixture(scope="session")
def statsd() -> Iterator[StatsdServer]:
    """The server that `local_airflow` sends its metrics to."""
    with statsd_server() as server:
        yield server


@pytest.fixture(scope="session")
def local_airflow(
    emulator: Emulator, statsd: StatsdServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalAirflow]:
    """
    A running Airflow with the Dags of the folder ``dags``. Shared, since it takes half a minute to start.

    At its end, everything that the tests have made it write is searched for secrets.
    """
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
        config={
            "metrics.statsd_on": True,
            "metrics.statsd_host": "127.0.0.1",
            "metrics.statsd_port": statsd.port,
        },
    ) as airflow:
        yield airflow
        assert_no_secrets(airflow, emulator)


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a stand-in for S3."""
    with S3Server() as server:
        yield server.url
