"""
The commands ``python -m airflow_provider_manxue`` and ``airflow manxue``.

``airflow`` imports this module at each start (Airflow 3.2 and later), so it imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.cli.cli_config import CLICommand

    from airflow_provider_manxue._core.findings import Report

_HELP = (
    "Check this installation: connection, key, TLS, proxy, clock, triggerer, limits, store, plugin, versions."
)

_DESCRIPTION = (
    f"{_HELP} Sends one query to the service, which is free. Exit codes: 0 without an error (warnings are none), 1 with an "
    "error, 2 for wrong arguments, 3 without an error if the connection cannot be seen from here."
)

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
    """Print the report of this place, and exit with its exit code."""
    # Airflow's log handlers write to the standard output, which is for the report alone.
    with contextlib.redirect_stdout(sys.stderr):
        from airflow_provider_manxue._core.findings import exit_code, report_text

        report = _report(options)
        text = json.dumps(report.to_dict(), indent=2) if options.output == "json" else report_text(report)
    sys.stdout.write(f"{text}\n")
    sys.exit(exit_code(report.findings))


def _report(options: argparse.Namespace) -> Report:
    # As `airflow connections` does: without it, Airflow 3.1 and later read no connections from the database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
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
