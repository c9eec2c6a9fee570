"""A stand-in for S3 (moto), in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from dev.local_airflow import LOOPBACK, free_port, tail

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_TIMEOUT = 60.0


@contextlib.contextmanager
def local_s3(log: Path) -> Iterator[str]:
    """
    Run a server that speaks S3, and yield its URL.

    :param log: file for what it prints.
    """
    port = free_port()
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)],
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"moto does not start; its last lines:\n{tail(log)}")
            time.sleep(0.1)
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.terminate()
        server.wait()


def answers(port: int) -> bool:
    """Return whether someone listens at a port."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False
