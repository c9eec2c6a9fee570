"""Run the emulator from the command line: ``python -m airflow_provider_manxue.testing``."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_manxue.testing._emulator import Emulator
from airflow_provider_manxue.testing._rate import RateLimit
from airflow_provider_manxue.testing._scenarios import SCENARIOS
from airflow_provider_manxue.testing._script import Script, recorded_scripts

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an emulator until SIGINT or SIGTERM, and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        for scenario in SCENARIOS.values():
            _print(f"{scenario.name:30} {scenario.place:7} {scenario.origin:11} {scenario.description}")
        return 0
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO, format="%(asctime)s %(message)s"
    )
    _allow_many_connections()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        emulator = _emulator(options).start()
    except (OSError, ValueError, ModuleNotFoundError) as error:
        parser.error(str(error))
    try:
        _announce(emulator, options.control_file)
        stopped.wait()
    finally:
        emulator.stop()
        if options.control_file:
            options.control_file.unlink(missing_ok=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_manxue.testing",
        description="Run an emulator of the sd2_manxue video service.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--api-key", default="emulator-key", help="the valid API key (default: %(default)s)")
    parser.add_argument("--tls", action="store_true", help="serve TLS")
    parser.add_argument("--seed", type=int, help="seed of the random faults")
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of requests that meet a fault")
    parser.add_argument(
        "--queued", type=float, default=2.0, help="seconds in status queued (default: %(default)s)"
    )
    parser.add_argument(
        "--processing", type=float, default=8.0, help="seconds in status processing (default: %(default)s)"
    )
    parser.add_argument(
        "--script",
        help="script of each order: a scenario from --list, or a task of --replay (its default: the first one)",
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="add the tasks of a record file, which `doctor --record` wrote",
    )
    parser.add_argument("--rate-limit", type=float, help="requests per second")
    parser.add_argument(
        "--retry-after",
        choices=("seconds", "date"),
        default="seconds",
        help="format of Retry-After (default: %(default)s)",
    )
    parser.add_argument(
        "--max-running", type=int, help="running videos of the account; more orders get a 429 (assumed)"
    )
    parser.add_argument(
        "--balance",
        type=int,
        help="seconds of video that the account can pay; more orders get a 402 (assumed)",
    )
    parser.add_argument(
        "--url-lifetime",
        type=float,
        default=86400.0,
        help="seconds to the expiry of a video URL (default: %(default)s)",
    )
    parser.add_argument(
        "--control-file", type=Path, help="write base URL, connection and process id to this file as JSON"
    )
    parser.add_argument("--quiet", action="store_true", help="do not log each request")
    parser.add_argument("--list", action="store_true", help="list the scenarios and exit")
    return parser


def _emulator(options: argparse.Namespace) -> Emulator:
    limit = None
    if options.rate_limit is not None:
        burst = max(1, int(options.rate_limit))
        limit = RateLimit(rate=options.rate_limit, burst=burst, retry_after=options.retry_after)
    scripts = recorded_scripts(options.replay) if options.replay else {}
    name = options.script or next(iter(scripts), "")
    timed = Script.timed(queued=options.queued, processing=options.processing)
    emulator = Emulator(
        host=options.host,
        port=options.port,
        api_key=options.api_key,
        tls=options.tls,
        seed=options.seed,
        fault_rate=options.fault_rate,
        rate_limit=limit,
        max_running=options.max_running,
        balance=options.balance,
        url_lifetime=options.url_lifetime,
        default_script=scripts.get(name) or name or timed,
    )
    for task_id, script in scripts.items():
        emulator.add_task(script, id=task_id)
    return emulator


def _announce(emulator: Emulator, control_file: Path | None) -> None:
    """Write the control file, then print URLs and connection. A program that reads them can open the file."""
    connection = emulator.airflow_connection_json()
    if control_file:
        content = {"base_url": emulator.base_url, "connection": json.loads(connection), "pid": os.getpid()}
        # Written atomically: a program that waits for the file must not read half of it.
        draft = control_file.with_name(f"{control_file.name}.part")
        draft.write_text(json.dumps(content))
        draft.replace(control_file)
    _print(f"base URL: {emulator.base_url}")
    _print(f"control API: {emulator.url}/_emulator/")
    if emulator.tasks:
        _print(f"recorded tasks: {', '.join(emulator.tasks)}")
    _print(f"export AIRFLOW_CONN_MANXUE_DEFAULT={shlex.quote(connection)}")


def _print(line: str) -> None:
    # Flushed for a parent process that reads a pipe.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _allow_many_connections() -> None:
    """Raise the soft limit of open files, often 1024, to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems reject their own hard limit.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
