"""Fixtures: the servers of the stores, and a store for each test."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import gcsfs.retry
import pytest
from azure.core.pipeline.transport import AsyncHttpTransport
from gcsfs import GCSFileSystem
from gcsfs.extended_gcsfs import BucketType

from airflow_provider_manxue.testing import Emulator
from tests.stores.servers import AzuriteServer, FaultProxy, GoogleServer, SftpServer, WebHdfsServer
from tests.stores.stores import AzureStore, GoogleStore, SftpStore, WebHdfsStore
from tests.support.temporary_folder import own_temporary_folder, running_outside_of_tests

SCHEMES = ("abfs", "gs", "sftp", "webhdfs")


@pytest.fixture(scope="session")
def azurite(tmp_path_factory):
    with running_outside_of_tests(AzuriteServer(), tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def google_proxy():
    with FaultProxy() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def google(google_proxy, tmp_path_factory):
    with running_outside_of_tests(
        GoogleServer(google_proxy.url), tmp_path_factory.mktemp("google")
    ) as server:
        yield server


@pytest.fixture
def proxy():
    with FaultProxy() as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path):
    with own_temporary_folder(tmp_path / "tmp"):
        yield


@pytest.fixture(autouse=True)
def immediate_retries(monkeypatch):
    """The libraries of Azure and Google wait up to a minute between attempts."""

    async def sleep(*_):
        await asyncio.sleep(0)

    monkeypatch.setattr(AsyncHttpTransport, "sleep", sleep)
    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=sleep))


@pytest.fixture(autouse=True)
def ordinary_bucket(monkeypatch):
    """gcsfs requests the type of a bucket over gRPC, which the emulator does not have."""

    async def bucket_type(*_):
        return BucketType.NON_HIERARCHICAL

    monkeypatch.setattr(GCSFileSystem, "_get_bucket_type", bucket_type)


@pytest.fixture(params=SCHEMES)
def store(request, tmp_path):
    if request.param == "abfs":
        store = AzureStore(request.getfixturevalue("proxy"), request.getfixturevalue("azurite"))
    elif request.param == "gs":
        proxy, server = request.getfixturevalue("google_proxy"), request.getfixturevalue("google")
        proxy.fault, proxy.requests = None, []
        store = GoogleStore(proxy, server)
    else:
        folder = tmp_path / "store"
        folder.mkdir()
        if request.param == "sftp":
            server = SftpServer(folder)
            store_class, arguments = SftpStore, ()
        else:
            server = WebHdfsServer(folder)
            store_class, arguments = WebHdfsStore, (request.getfixturevalue("proxy"),)
        with server:
            store = store_class(*arguments, server)
            store.attach()
            yield store
        return
    store.attach()
    yield store


@pytest.fixture
def emulator(monkeypatch):
    with Emulator() as running:
        monkeypatch.setenv("AIRFLOW_CONN_MANXUE_DEFAULT", running.airflow_connection_json())
        yield running
