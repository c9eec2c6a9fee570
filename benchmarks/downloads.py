"""
Outcomes of downloads by several tools during faults of the media host: ``python -m benchmarks.downloads``.

Each run has its own process (``benchmarks.fetch``) and its own emulator. An older file exists at the destination, except
for pooch, which would keep it. Each tool gets the URL of the video, and only the operator can query the service for
another one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import requests

from airflow_provider_manxue.testing import Emulator, Response, Script
from benchmarks.fetch import RETRIES, TIMEOUT, TOOLS
from benchmarks.table import print_table
from benchmarks.waits import NO_LOG, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from urllib.parse import SplitResult

    from airflow_provider_manxue.testing._tasks import Task

SIZE = 32 * 2**20
"""Bytes of the video: some tools write in pieces of 10 MiB."""

OLD = b"an older video"
PATIENCE = TIMEOUT + 60
"""Seconds after which a tool is ended."""

ENDED_BY_TIMEOUT = 124
"""Exit status of the command ``timeout`` after that."""

TASK_ID = "video"
"""The same id in each run, since the content of a video depends on it."""

PRIVATE_ADDRESS = "127.0.0.2"
"""An address that the operator may not request: the connection allows 127.0.0.1 only."""

CURL = (
    "curl",
    "--silent",
    "--show-error",
    "--fail",
    "--location",
    "--retry-all-errors",
    *("--retry", str(RETRIES)),
)
COMMANDS = {
    "curl": '"$0" "$@" --output "$FILE" "$URL"',
    "curl -C -, mv": '"$0" "$@" --continue-at - --output "$FILE.part" "$URL" && mv "$FILE.part" "$FILE"',
}
COLUMNS = (*TOOLS, *COMMANDS)


@dataclass(frozen=True)
class Fault:
    """
    A fault of a download.

    :param name: name in the table.
    :param responses: responses of the media host to the first requests.
    :param always: whether all further requests get the last of these responses.
    :param renewable: whether that ends when the service is queried for a URL during the download.
    :param service: response of the service to each query.
    :param location: function that returns the ``Location`` of a redirect to the URL in its argument.
    :param private: that URL has another address of the loopback network.
    :param expired: the URL has expired before the first request.
    :param silent: the host of the URL does not respond to attempts to connect.
    :param full: the disk has no room for the whole video.
    """

    name: str
    responses: Sequence[Response] = ()
    always: bool = False
    renewable: bool = False
    service: Response | None = None
    location: Callable[[SplitResult], str] | None = None
    private: bool = False
    expired: bool = False
    silent: bool = False
    full: bool = False


@dataclass(frozen=True)
class Content:
    """
    The video that is fetched.

    :param video: the file.
    :param headers: headers that the media host sends with it.
    :param older: the file of another version.
    """

    video: bytes
    headers: dict[str, str]
    older: bytes

    @classmethod
    def read(cls) -> Content:
        """Read the video of a run from an emulator."""
        with Emulator() as service:
            task = service.task(service.add_task("completed", id=TASK_ID, size=SIZE))
            sent = requests.head(service.video_url(TASK_ID), timeout=TIMEOUT).headers
            headers = {name: sent[name] for name in ("Content-Type", "ETag", "Last-Modified")}
            video = task.video.read(0, SIZE)
            service.replace_video(TASK_ID)
            return cls(video, headers, older=task.video.read(0, SIZE))

    def without_moov(self) -> bytes:
        """Return the file with another name for its ``moov`` box."""
        return self.video.replace(b"moov", b"skip", 1)

    def without_media_data(self) -> bytes:
        """Return the file up to the middle of its ``mdat`` box, whose length becomes 0: up to the end of the file."""
        start = self.video.index(b"mdat")
        length = int.from_bytes(self.video[start - 4 : start])
        return self.video[: start - 4] + bytes(4) + self.video[start : start + length // 2]


def _faults(content: Content) -> list[Fault]:
    as_video = {"Content-Type": "video/mp4"}
    no_data, no_moov = content.without_media_data(), content.without_moov()
    page, half = Response.named("media_html"), Response(truncate=SIZE // 2)
    spoilt = {
        **{f"cut at {share * 100:.0f} %": Response(truncate=int(SIZE * share)) for share in (0.1, 0.5, 0.99)},
        "chunked body ends early, no end mark": replace(half, chunked=True),
        "chunked body ends early, with its end mark": Response(body=content.video[: SIZE // 2], chunked=True),
        "`Content-Length` 10 bytes too long": Response(length_error=10),
        "`Content-Length` 10 bytes too short": Response(length_error=-10),
        "media data missing, matching `Content-Length`": Response(body=no_data, headers=as_video),
        "media data missing, chunked": Response(body=no_data, headers=as_video, chunked=True),
        "`moov` missing, matching `Content-Length`": Response(body=no_moov, headers=as_video),
        "`moov` missing, chunked": Response(body=no_moov, headers=as_video, chunked=True),
        "HTML with status 200": page,
        "JSON with status 200": Response(json={"code": "AccessDenied"}),
        "empty body with status 200": Response(body="", headers=as_video),
        "gzip though not asked for": Response(gzip=True),
    }
    # The host ignores `If-Range`, and sends a part of its present version after the first part of an older one.
    mixed = replace(half, body=content.older, headers=content.headers)
    expired = {
        "400 `ExpiredToken`": Response(status=400, body="<Error><Code>ExpiredToken</Code></Error>"),
        **{str(status): Response(status=status) for status in (401, 403, 404, 410)},
        "HTML with status 200": page,
    }
    whole = Response(status=206, headers={"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"}, ignore_range=True)
    return [
        Fault("makes no mistake"),
        *(
            Fault(f"{name}, {'always' if always else 'once'}", [response], always)
            for (name, response), always in product(spoilt.items(), (False, True))
        ),
        Fault("replaced in the middle", [replace(half, then_replace=True)]),
        *(
            Fault(
                f"replaced in the middle, the rest has {name}",
                [mixed, Response(headers=headers)],
                always=True,
            )
            for name, headers in {
                "another weak `ETag`": {"ETag": 'W/"other"'},
                "another `Last-Modified`": {"ETag": "", "Last-Modified": "Tue, 01 Jan 2030 00:00:00 GMT"},
            }.items()
        ),
        Fault("cut at 50 %, then `Range` ignored", [half, Response(ignore_range=True)], always=True),
        Fault("206 with the whole file", [whole], always=True),
        Fault("cut at 50 %, then 206 with the whole file", [half, whole], always=True),
        *(
            Fault(
                f"`Content-Encoding: {coding}` on a plain file",
                [Response(headers={"Content-Encoding": coding})],
                always=True,
            )
            for coding in ("aws-chunked", "utf-8", "gzip")
        ),
        Fault("URL expired", expired=True),
        *(
            Fault(
                f"cut at 50 %, then URL expired: {name}",
                [half, response],
                always=True,
                renewable=True,
                service=Response(delay=0.5),  # so that the fault ends before the tool has the new URL
            )
            for name, response in expired.items()
        ),
        *(
            Fault(f"URL works, the service responds {status}", service=Response(status=status))
            for status in (401, 403, 302)
        ),
        *(
            Fault(f"redirect, {name} in `Location`", location=location)
            for name, location in {
                "no host and no folder": lambda url: f"{url.path.rpartition('/')[2]}?{url.query}",
                "spaces": lambda url: f"{unquote(url.path)}?{url.query}",
                "backslashes": lambda url: url.path.replace("/", "\\") + f"?{url.query}",
            }.items()
        ),
        Fault("redirect to a private address", location=lambda url: url.geturl(), private=True),
        Fault("connecting gets no response", silent=True),
        Fault("full disk", full=True),
        Fault("slow link", [Response(bytes_per_second=SIZE / 4)], always=True),
    ]


def main() -> None:
    """Run all tools with all faults, and print the outcomes as a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downloads", description=__doc__)
    parser.add_argument("--only", default="", help="faults whose name contains this")
    only = parser.parse_args().only
    # The emulators would log each client that closes its connection.
    logging.disable()
    faults = [fault for fault in _faults(Content.read()) if only in fault.name]
    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(lambda pair: attempt(*pair), product(faults, COLUMNS)))
    outcomes = iter(ends)
    print_table(("fault", *COLUMNS), [(fault.name, *islice(outcomes, len(COLUMNS))) for fault in faults])
    curl = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    versions = [f"{name} {version(name)}" for name in ("huggingface_hub", "pooch", "fsspec", "aiohttp")]
    print(", ".join([*versions, f"curl {curl}"]))


def attempt(fault: Fault, tool: str) -> str:
    """Run a tool with a fault, and return the outcome."""
    with ExitStack() as stack:
        service = stack.enter_context(Emulator())
        path = Path(stack.enter_context(TemporaryDirectory()), "videos", "video.mp4")
        path.parent.mkdir()
        old = None if tool == "pooch" else OLD
        if old is not None:
            path.write_bytes(old)
        service.add_task("completed", id=TASK_ID, size=SIZE)
        place, task = _prepare_media(fault, service, stack)
        url = _prepare_service(fault, service, stack)
        video = task.video.read(0, SIZE)
        succeeded = _run(fault, tool, url, path, service)
        print(".", end="", file=sys.stderr, flush=True)
        if fault.private and place.requests:
            return "**private address requested**"
        if path.with_name(f"{path.name}.unverified").exists():
            return "error, saved as `.unverified`"
        found = path.read_bytes() if path.exists() else None
        right = found in (video, task.video.read(0, SIZE))
        return _end(succeeded, right=right, kept=found == old)


def _prepare_media(fault: Fault, service: Emulator, stack: ExitStack) -> tuple[Emulator, Task]:
    """Queue the responses to downloads. Return the emulator that sends the video, and its task."""
    for response in fault.responses[:-1] if fault.always else fault.responses:
        service.fail_next(1, response, on="media")
    if fault.always:
        # Queued responses come after a permanent one, so the permanent one is queued as well.
        service.fail_next(1000, fault.responses[-1], on="media")
    if fault.location is None:
        return service, service.task(TASK_ID)
    place = stack.enter_context(Emulator(host=PRIVATE_ADDRESS)) if fault.private else service
    task = place.task(place.add_task("completed", id="moved video", size=SIZE))
    location = fault.location(urlsplit(place.video_url(task.id)))
    moved = Response(status=302, body="", headers={"Location": location})
    service.set_script(TASK_ID, replace(Script.polls("completed"), media=moved))
    return place, task


def _prepare_service(fault: Fault, service: Emulator, stack: ExitStack) -> str:
    """Set the response to queries. Return the URL for the tools."""
    url = service.video_url(TASK_ID)
    if fault.silent:
        url = url.replace(service.url, stack.enter_context(_silent_host()))
        service.respond_with(Response(overrides={"video_url": url}), on="query")
    if fault.service is not None:
        service.respond_with(fault.service, on="query")
    if fault.expired:
        service.clock.advance(86_401)
    return url


@contextmanager
def _silent_host() -> Iterator[str]:
    """Open a port whose queue of connections is full. Yield the URL of its host."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        socket.create_connection(server.getsockname()),
    ):
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _run(fault: Fault, tool: str, url: str, path: Path, service: Emulator) -> bool | None:
    """Return whether the tool reports success; None if it does not end."""
    if tool in TOOLS:
        task = json.dumps({"id": TASK_ID, "video_url": url})
        command = [sys.executable, "-m", "benchmarks.fetch", tool, task, str(path)]
    else:
        command = ["sh", "-c", COMMANDS[tool], *CURL]
    if fault.full:
        # A limit on the length of files, without the signal that would come with it, fails as a full disk does.
        limit = f'trap "" XFSZ; ulimit -f {SIZE // 4 // 512}; exec "$0" "$@"'
        command = ["sh", "-c", limit, *command]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(path.parent.parent),
        "AIRFLOW_HOME": str(path.parent.parent),
        "AIRFLOW_CONN_MANXUE_DEFAULT": service.airflow_connection_json(),
        "FILE": str(path),
        "URL": url,
        **NO_LOG,
    }
    # `timeout` ends the children of a shell as well.
    command = ["timeout", f"{PATIENCE:g}", *command]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            if fault.renewable and len(service.polls(TASK_ID)) > 1:
                service.clear_faults()
            time.sleep(0.02)
    return None if process.returncode == ENDED_BY_TIMEOUT else process.returncode == 0


def _end(succeeded: bool | None, *, right: bool, kept: bool) -> str:
    if succeeded:
        return "right" if right else "**wrong file, no error**"
    what = "never ends" if succeeded is None else "error"
    return what if kept else f"{what}, **wrong file left**"


if __name__ == "__main__":
    if shutil.which("curl") is None:
        sys.exit("curl is not installed")
    main()
