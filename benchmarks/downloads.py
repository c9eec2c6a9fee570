"""
Outcomes of downloads by several tools during faults of the media host: ``python -m benchmarks.downloads``.

Each run has its own process (``benchmarks.fetch``) and its own emulator. An older file exists at the destination, except
for pooch, which would keep it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from airflow_provider_manxue.testing import Emulator, Response
from benchmarks.fetch import RETRIES, TIMEOUT, TOOLS
from benchmarks.table import print_table
from benchmarks.waits import NO_LOG, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZE = 32 * 2**20
"""Bytes of the video: some tools write in pieces of 10 MiB."""

OLD = b"an older video"
PATIENCE = TIMEOUT + 60
"""Seconds after which a tool is taken for one that never ends."""

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
    :param responses: function that returns the faulty responses to the first requests, from the content of the video.
    :param always: whether all further requests get the last of these responses.
    :param expired: the URL has expired before the first request.
    :param full: the disk has no room for the whole video.
    """

    name: str
    responses: Callable[[bytes], Sequence[Response]] = lambda video: ()
    always: bool = False
    expired: bool = False
    full: bool = False


def _cut(share: float) -> Response:
    return Response(truncate=int(SIZE * share))


def _faults() -> list[Fault]:
    spoilt: dict[str, Callable[[bytes], Sequence[Response]]] = {
        **{f"cut at {share:.0%}": lambda _, share=share: [_cut(share)] for share in (0.1, 0.5, 0.99)},
        "chunked body ends early, no end mark": lambda _: [Response(truncate=SIZE // 2, chunked=True)],
        "chunked body ends early, with its end mark": lambda video: [
            Response(body=video[: SIZE // 2], chunked=True)
        ],
        "`Content-Length` 10 bytes too long": lambda _: [Response(length_error=10)],
        "`Content-Length` 10 bytes too short": lambda _: [Response(length_error=-10)],
        "HTML with status 200": lambda _: [Response.named("media_html")],
        "gzip though not asked for": lambda _: [Response(gzip=True)],
    }
    return [
        Fault("none"),
        *(
            Fault(f"{name}, {'always' if always else 'once'}", responses, always)
            for (name, responses), always in product(spoilt.items(), (False, True))
        ),
        Fault("replaced in the middle", lambda _: [Response(truncate=SIZE // 2, then_replace=True)]),
        Fault(
            "cut at 50%, then `Range` ignored",
            lambda _: [_cut(0.5), Response(ignore_range=True)],
            always=True,
        ),
        Fault("URL expired", expired=True),
        Fault("full disk", full=True),
        Fault("slow link", lambda _: [Response(bytes_per_second=SIZE / 4)], always=True),
    ]


def main() -> None:
    """Run all tools with all faults, and print the outcomes as a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downloads", description=__doc__)
    parser.add_argument("--only", default="", help="faults whose name contains this")
    only = parser.parse_args().only
    # The emulators would log each client that closes its connection.
    logging.disable()
    faults = [fault for fault in _faults() if only in fault.name]
    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(lambda pair: attempt(*pair), product(faults, COLUMNS)))
    outcomes = iter(ends)
    print_table(("fault", *COLUMNS), [(fault.name, *islice(outcomes, len(COLUMNS))) for fault in faults])
    curl = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    versions = [f"{name} {version(name)}" for name in ("huggingface_hub", "pooch", "fsspec", "aiohttp")]
    print(", ".join([*versions, f"curl {curl}"]))


def attempt(fault: Fault, tool: str) -> str:
    """Run a tool with a fault, and return the outcome."""
    with Emulator() as service, TemporaryDirectory() as folder:
        path = Path(folder, "videos", "video.mp4")
        path.parent.mkdir()
        old = None if tool == "pooch" else OLD
        if old is not None:
            path.write_bytes(old)
        task_id = service.add_task("completed", size=SIZE)
        video = service.task(task_id).video.read(0, SIZE)
        url = service.video_url(task_id)
        responses = fault.responses(video)
        if fault.expired:
            service.clock.advance(86_401)
        for response in responses[:-1] if fault.always else responses:
            service.fail_next(1, response, on="media")
        if fault.always:
            # Queued responses come after a permanent one, so the permanent one is queued as well.
            service.fail_next(1000, responses[-1], on="media")
        succeeded = _run(tool, {"id": task_id, "video_url": url}, path, service, full=fault.full)
        found = path.read_bytes() if path.exists() else None
        right = found in (video, service.task(task_id).video.read(0, SIZE))
        print(".", end="", file=sys.stderr, flush=True)
        return _end(succeeded, right=right, kept=found == old)


def _run(tool: str, task: dict[str, str], path: Path, service: Emulator, *, full: bool) -> bool | None:
    """Return whether the tool reports success; None if it does not end."""
    if tool in TOOLS:
        command = [sys.executable, "-m", "benchmarks.fetch", tool, json.dumps(task), str(path)]
    else:
        command = ["sh", "-c", COMMANDS[tool], *CURL]
    if full:
        # A limit on the length of files, without the signal that would come with it, fails as a full disk does.
        limit = f'trap "" XFSZ; ulimit -f {SIZE // 4 // 512}; exec "$0" "$@"'
        command = ["sh", "-c", limit, *command]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(path.parent.parent),
        "AIRFLOW_HOME": str(path.parent.parent),
        "AIRFLOW_CONN_MANXUE_DEFAULT": service.airflow_connection_json(),
        "FILE": str(path),
        "URL": task["video_url"],
        **NO_LOG,
    }
    try:
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return ended.returncode == 0


def _end(succeeded: bool | None, *, right: bool, kept: bool) -> str:
    if succeeded:
        return "right" if right else "**wrong file, no error**"
    what = "never ends" if succeeded is None else "error"
    return what if kept else f"{what}, **wrong file left**"


if __name__ == "__main__":
    if shutil.which("curl") is None:
        sys.exit("curl is not installed")
    main()
