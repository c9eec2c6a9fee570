"""
The commands ``python -m airflow_provider_manxue`` and ``airflow manxue``.

``airflow`` imports this module at each start (Airflow 3.2 and later), so it imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.cli.cli_config import CLICommand

    from airflow_provider_manxue._core.findings import Report

_HELP = (
    "Check this installation: connection, key, TLS, proxy, clock, triggerer, limits, store, plugin, versions."
)

_DESCRIPTION = (
    f"{_HELP} Sends one query to the service, which is free. With --record, records tasks instead. Exit codes: 0 without an error (warnings are none), 1 with an "
    "error, 2 for wrong arguments, 3 without an error if the connection cannot be seen from here."
)


def _seconds(text: str) -> float:
    """Parse an argument in seconds."""
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")


_ARGUMENTS: dict[str, dict[str, Any]] = {
    "--conn-id": {
        "default": "manxue_default",
        "help": "id of the Airflow connection (default: manxue_default)",
    },
    "--store": {"default": "", "help": "URI of a store of videos to look into, such as s3://bucket/folder/"},
    "--storage-conn-id": {
        "default": None,
        "help": "id of the Airflow connection of the store, if it needs one",
    },
    "--output": {
        "default": "text",
        "choices": ("text", "json"),
        "help": "form of the report (default: text)",
    },
    "--record": {
        "nargs": "+",
        "metavar": "ID",
        "help": "instead of the checks: query these video tasks, and write the responses to a file that the emulator plays, "
        "without key, URLs and texts",
    },
    "--for": {
        "dest": "duration",
        "metavar": "SECONDS",
        "type": _seconds,
        "default": 0.0,
        "help": "with --record: go on for this long, until each task has ended (default: one query of each task)",
    },
    "--every": {
        "dest": "interval",
        "metavar": "SECONDS",
        "type": _seconds,
        "default": 30.0,
        "help": "with --record and --for: seconds between two queries of a task (default: 30)",
    },
    "--file": {
        "metavar": "PATH",
        "help": "with --record: the file to write, which must not exist (default: manxue-record-TIME.json)",
    },
}


def get_cli_commands() -> list[CLICommand]:
    """Return the commands that this provider adds to ``airflow``."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    doctor_command = ActionCommand(
        name="doctor",
        help=_HELP,
        description=_DESCRIPTION,
        func=doctor,
        args=[Arg((flag,), **options) for flag, options in _ARGUMENTS.items()],
    )
    return [
        GroupCommand(name="manxue", help="Commands of the sd2_manxue provider", subcommands=[doctor_command])
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command of ``python -m airflow_provider_manxue``. Exits with its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_manxue", description="Commands of the sd2_manxue provider."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("doctor", help=_HELP, description=_DESCRIPTION)
    for flag, options in _ARGUMENTS.items():
        command.add_argument(flag, **options)
    doctor(parser.parse_args(arguments))


def doctor(options: argparse.Namespace) -> None:
    """Print the report of this place, or record the responses to queries of tasks. Exits with its exit code."""
    if not options.record and (options.duration or options.file):
        sys.stderr.write("--for and --file need --record.\n")
        sys.exit(2)
    output = sys.stdout
    # Airflow's log handlers write to the standard output, which is for the report alone.
    with contextlib.redirect_stdout(sys.stderr):
        # As `airflow connections` does: without it, Airflow 3.1 and later read no connections from the database.
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
        code = (_record if options.record else _check)(options, output)
    sys.exit(code)


def _check(options: argparse.Namespace, output: TextIO) -> int:
    from airflow_provider_manxue._core.findings import exit_code, report_text

    report = _report(options)
    text = json.dumps(report.to_dict(), indent=2) if options.output == "json" else report_text(report)
    output.write(f"{text}\n")
    return exit_code(report.findings)


def _record(options: argparse.Namespace, output: TextIO) -> int:
    from airflow_provider_manxue._client.recorder import Recorder, RecordFile
    from airflow_provider_manxue._core.ids import parse_video_task_id
    from airflow_provider_manxue.exceptions import ManxueError
    from airflow_provider_manxue.hooks.manxue import ManxueHook

    def report(line: str) -> None:
        output.write(f"{line}\n")
        output.flush()

    path = Path(options.file or time.strftime("manxue-record-%Y%m%dT%H%M%SZ.json", time.gmtime()))
    try:
        video_task_ids = list(dict.fromkeys(parse_video_task_id(one) for one in options.record))
        settings = ManxueHook(options.conn_id).read_settings()
        with RecordFile(path) as file:
            report(f"Recording to {path}. Ctrl-C ends it.")
            with contextlib.suppress(KeyboardInterrupt):
                Recorder(settings, video_task_ids, file.save, report).run(options.interval, options.duration)
    except FileExistsError:
        sys.stderr.write(f"{path} exists already. Name another file with --file.\n")
        return 1
    except (ManxueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not path.exists():
        report("Nothing was recorded.")
        return 1
    report(f"Play it: python -m airflow_provider_manxue.testing --replay {shlex.quote(str(path))}")
    return 0


def _report(options: argparse.Namespace) -> Report:
    from airflow_provider_manxue._airflow.doctor import COMMAND_LINE, Examination, examine
    from airflow_provider_manxue.exceptions import ManxueError
    from airflow_provider_manxue.hooks.manxue import ManxueHook

    connection: Any
    try:
        connection = ManxueHook(options.conn_id).read_settings()
    except ManxueError as error:
        connection = error
    return examine(
        Examination(COMMAND_LINE, options.conn_id, connection, options.store, options.storage_conn_id)
    )
