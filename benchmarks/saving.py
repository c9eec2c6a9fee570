"""
Saving a video of the largest usual size, compared with curl on the same disk: ``python -m benchmarks.saving``.

The emulator sends it at 50 MB a second, in this process, which only waits meanwhile. Both save by turns, since other
programs load the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from airflow_provider_manxue.testing import Emulator, Response
from benchmarks.table import print_table
from benchmarks.waits import NO_LOG, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
SIZE = 100 * 10**6
BYTES_PER_SECOND = 50e6
ROUNDS = 5
LEAST_SHARE = 0.95
MOST_MEMORY = 32


@dataclass(frozen=True)
class Round:
    """
    One video, saved by both.

    :param ours: seconds of the operator, from the question for the URL to the file that survives a loss of power.
    :param curl: seconds of ``curl``, whose bytes may be in memory only by then.
    :param curl_and_sync: the same, and until they are on the disk.
    :param memory: by how much the operator's process grew at its peak, in MiB.
    """

    ours: float
    curl: float
    curl_and_sync: float
    memory: float


def main() -> int:
    """Measure and print the figures. The exit status is 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saving", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="on the disk to use; by default the one for temporary files"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    if shutil.which("curl") is None:
        parser.error("curl is not installed")
    with TemporaryDirectory(dir=arguments.folder) as folder:
        return 0 if _report(list(measure(Path(folder), arguments.rounds))) else 1


def measure(folder: Path, rounds: int) -> Iterator[Round]:
    """Save the video with the operator and with curl, in alternating order."""
    with Emulator() as service:
        task_id = service.add_task("completed", size=SIZE)
        service.respond_with(Response(bytes_per_second=BYTES_PER_SECOND), on="media")
        path = folder / "video.mp4"
        for number in range(rounds):
            curl_first = number % 2 == 0
            if curl_first:
                curl = _curl(service.video_url(task_id), path)
            ours, memory = _ours(service, task_id, path)
            if not curl_first:
                curl = _curl(service.video_url(task_id), path)
            yield Round(ours, *curl, memory)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def _ours(service: Emulator, task_id: str, path: Path) -> tuple[float, float]:
    with _room_for(path), TemporaryDirectory() as home:
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.fetch", "manxue", json.dumps({"id": task_id}), path],
            cwd=ROOT,
            env={
                "AIRFLOW_HOME": home,
                "AIRFLOW_CONN_MANXUE_DEFAULT": service.airflow_connection_json(),
                **NO_LOG,
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    figures = json.loads(ended.stdout.splitlines()[-1])
    return figures["seconds"], figures["mebibytes"]


def _curl(url: str, path: Path) -> tuple[float, float]:
    with _room_for(path):
        began = time.perf_counter()
        subprocess.run(["curl", "--silent", "--show-error", "--fail", "--output", path, url], check=True)
        fetched = time.perf_counter() - began
        subprocess.run(["sync", path], check=True)
        return fetched, time.perf_counter() - began


@contextlib.contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Flush the disk before the download; check the size of the file afterwards, and delete it."""
    os.sync()
    yield
    if path.stat().st_size != SIZE:
        raise RuntimeError(f"{path} has {path.stat().st_size} bytes instead of {SIZE}")
    path.unlink()


# --- the report -----------------------------------------------------------------------------------------


def _report(rounds: list[Round]) -> bool:
    """Print the figures and their targets. Return whether all targets are reached."""
    curl, ours, synced = (
        statistics.median(getattr(one, name) for one in rounds) for name in ("curl", "ours", "curl_and_sync")
    )
    share = curl / ours
    shares = sorted(one.curl / one.ours for one in rounds)
    memory = max(one.memory for one in rounds)
    print(f"{SIZE / 1e6:.0f} MB at {BYTES_PER_SECOND / 1e6:.0f} MB/s, medians of {len(rounds)} rounds")
    medians = (("the operator", ours), ("curl", curl), ("curl && sync", synced))
    print_table(
        ("download", "seconds", "MiB/s"),
        [(name, f"{seconds:.2f}", f"{SIZE / MIB / seconds:.0f}") for name, seconds in medians],
    )
    fast, small = share >= LEAST_SHARE, memory < MOST_MEMORY
    print_table(
        ("figure", "target", "measured", ""),
        [
            (
                "throughput relative to curl (rounds)",
                f"at least {LEAST_SHARE:.0%}",
                f"{share:.0%} ({shares[0]:.0%} to {shares[-1]:.0%})",
                _verdict(fast),
            ),
            ("throughput relative to curl && sync", "", f"{synced / ours:.0%}", ""),
            ("peak growth of memory", f"under {MOST_MEMORY} MiB", f"{memory:.1f} MiB", _verdict(small)),
        ],
    )
    return fast and small


def _verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
