"""The four stores, each with its real client library. Their content is read and written without that library."""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from urllib.parse import quote

import asyncssh
import requests
from adlfs import AzureBlobFileSystem
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, ContentSettings
from fsspec.implementations.webhdfs import WebHDFS
from gcsfs import GCSFileSystem
from sshfs import SSHFileSystem

from airflow.sdk.io import attach

from dev.local_airflow import LOOPBACK
from tests.stores.servers import AzuriteServer

FOLDER = "films"


class TestedStore(ABC):
    """
    A store with an empty folder for one test.

    :cvar create_only: whether the store can refuse to replace an object.
    :cvar media_types: whether the store stores media types.
    """

    __test__ = False
    scheme: str
    create_only = media_types = False

    def attach(self) -> None:
        """Open a new connection with the client library, as each task does."""
        self.conn_id = f"store-{uuid.uuid4()}"
        attach(protocol=self.scheme, conn_id=self.conn_id, fs=self.connect())

    @abstractmethod
    def connect(self):
        """Return a file system of the client library."""

    @abstractmethod
    def uri(self, name):
        """Return the URI of a file."""

    @abstractmethod
    def write(self, name, body):
        """Write a file."""

    @abstractmethod
    def names(self):
        """Return the names of all files."""

    @abstractmethod
    def content(self, name):
        """Return the content of a file; None if there is none."""

    def break_final_step(self, fault=None, *, before=lambda: None, times=1000):
        """
        Make the final steps of saves fail.

        :param fault: ``error`` for a response that names an error, ``lost response`` for an effect without a response,
            ``no server`` for a connection that ends before an effect; None for a success.
        :param before: called before the first final step.
        :param times: number of final steps.
        """
        raise NotImplementedError


class HttpStore(TestedStore):
    """A store behind a `FaultProxy`."""

    def __init__(self, proxy):
        self.proxy = proxy

    @abstractmethod
    def is_final(self, request):
        """Return whether a request is the final step of a save."""

    def break_final_step(self, fault=None, *, before=lambda: None, times=1000):
        steps = []

        def respond(request, forward):
            if not self.is_final(request) or len(steps) >= times:
                return self.refuse(request) or forward()
            steps.append(request)
            if len(steps) == 1:
                before()
            if fault == "error":
                return 500, {}, b""
            if fault == "no server":
                return None
            response = self.refuse(request) or forward()
            return None if fault == "lost response" else response

        self.proxy.fault = respond

    def refuse(self, request):
        """Return the response to a request that the server would grant, and the real service refuses; None for others."""

    def deny_reading(self):
        """Deny all requests that read, as for credentials that may only create."""
        self.proxy.fault = lambda request, forward: (
            forward() if request.method not in ("GET", "HEAD") else (403, {}, b"")
        )


class AzureStore(HttpStore):
    scheme = "abfs"
    create_only = media_types = True

    def __init__(self, proxy, server):
        super().__init__(proxy)
        proxy.backend = server.port
        self._container = f"c{uuid.uuid4().hex}"
        self._client = self._service(server.port).create_container(self._container)

    def _service(self, port):
        return BlobServiceClient.from_connection_string(self._connection_string(port))

    def _connection_string(self, port):
        return (
            f"DefaultEndpointsProtocol=http;AccountName={AzuriteServer.ACCOUNT};AccountKey={AzuriteServer.KEY};"
            f"BlobEndpoint=http://{LOOPBACK}:{port}/{AzuriteServer.ACCOUNT};"
        )

    def connect(self):
        return AzureBlobFileSystem(
            connection_string=self._connection_string(self.proxy.port), skip_instance_cache=True
        )

    def uri(self, name):
        return f"abfs://{self._container}/{FOLDER}/{name}"

    def write(self, name, body):
        settings = ContentSettings(content_type="text/plain")
        self._client.upload_blob(f"{FOLDER}/{name}", body, overwrite=True, content_settings=settings)

    def names(self):
        return [blob.name.removeprefix(f"{FOLDER}/") for blob in self._client.list_blobs()]

    def content(self, name):
        try:
            return self._client.download_blob(f"{FOLDER}/{name}").readall()
        except ResourceNotFoundError:
            return None

    def media_type(self, name):
        return (
            self._client.get_blob_client(f"{FOLDER}/{name}")
            .get_blob_properties()
            .content_settings.content_type
        )

    def is_final(self, request):
        return request.method == "PUT" and request.query.get("comp", "blocklist") == "blocklist"


class GoogleStore(HttpStore):
    scheme = "gs"
    create_only = media_types = True

    def __init__(self, proxy, server):
        super().__init__(proxy)
        proxy.backend = server.port
        self._url = f"http://{LOOPBACK}:{server.port}"
        self._bucket = f"b{uuid.uuid4().hex}"
        self._call("POST", "/storage/v1/b?project=test", json.dumps({"name": self._bucket}).encode())

    def _call(self, method, path, body=None, content_type="application/json"):
        headers = {"Content-Type": content_type}
        response = requests.request(method, self._url + path, data=body, headers=headers, timeout=30)
        response.raise_for_status()
        return response.content

    def connect(self):
        return GCSFileSystem(token="anon", endpoint_url=self.proxy.url, skip_instance_cache=True)

    def uri(self, name):
        return f"gs://{self._bucket}/{FOLDER}/{name}"

    def _path(self, name):
        return f"/storage/v1/b/{self._bucket}/o/{quote(f'{FOLDER}/{name}', safe='')}"

    def write(self, name, body):
        path = f"/upload/storage/v1/b/{self._bucket}/o?uploadType=media&name={quote(f'{FOLDER}/{name}', safe='')}"
        self._call("POST", path, body, "text/plain")

    def names(self):
        found = json.loads(self._call("GET", f"/storage/v1/b/{self._bucket}/o")).get("items", [])
        return [item["name"].removeprefix(f"{FOLDER}/") for item in found]

    def content(self, name):
        return self._call("GET", f"{self._path(name)}?alt=media") if name in self.names() else None

    def media_type(self, name):
        return json.loads(self._call("GET", self._path(name)))["contentType"]

    def refuse(self, request):
        """
        Check the precondition of a resumable upload at its end as well, as Google does.

        See https://github.com/googleapis/google-cloud-java/issues/201. The emulator checks it at the start only.
        """
        create = any(one.query.get("ifGenerationMatch") == "0" for one in self.proxy.requests)
        if create and "content-range" in request.headers and self.is_final(request) and self.names():
            return 412, {}, b""
        if request.method == "DELETE" and "upload_id" in request.query:
            return 499, {}, b""  # the documented response to a cancellation, which the emulator does not know
        return None

    def is_final(self, request):
        if request.query.get("uploadType") == "multipart":
            return True
        _, _, length = request.headers.get("content-range", "").partition("/")
        return bool(length) and f"-{int(length) - 1}/" in request.headers["content-range"]


class FolderStore(TestedStore):
    """A store whose server serves a folder of this machine."""

    folder: object

    def write(self, name, body):
        path = self.folder / FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def names(self):
        root = self.folder / FOLDER
        return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]

    def content(self, name):
        path = self.folder / FOLDER / name
        return path.read_bytes() if path.is_file() else None


class SftpStore(FolderStore):
    scheme = "sftp"

    def __init__(self, server):
        self._server = server
        self.folder = server.folder

    def connect(self):
        return SSHFileSystem(
            LOOPBACK, port=self._server.port, username="airflow", config=None, client_keys=None, agent_path=None,
            skip_instance_cache=True,
        )  # fmt: skip

    def uri(self, name):
        return f"sftp://{LOOPBACK}/{FOLDER}/{name}"

    def break_final_step(self, fault=None, *, before=lambda: None, times=1000):
        steps = []

        def respond(connection, rename):
            steps.append(connection)
            if len(steps) > times:
                rename()
                return
            if len(steps) == 1:
                before()
            if fault == "error":
                raise asyncssh.SFTPFailure("No space left on device")
            if fault != "no server":
                rename()
            if fault is not None:
                connection.abort()

        self._server.on_rename = respond


class WebHdfsStore(HttpStore, FolderStore):
    scheme = "webhdfs"

    def __init__(self, proxy, server):
        super().__init__(proxy)
        proxy.backend = server.port
        self.folder = server.folder

    def connect(self):
        return WebHDFS(LOOPBACK, port=self.proxy.port, user="airflow", skip_instance_cache=True)

    def uri(self, name):
        return f"webhdfs://{LOOPBACK}/{FOLDER}/{name}"

    def is_final(self, request):
        return request.query.get("op") == "RENAME"
