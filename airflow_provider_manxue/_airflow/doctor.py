"""
Doctor: the checks of an installation, in the place where they run.

Each check is one function with the decorator ``check``, in the order of the report. It reads what it needs from the
:class:`Examination`, which does all I/O and each part of it once, and returns the finding of a judgement in
``_core/diagnosis``. Libraries for HTTP and stores, and the models of Airflow, are imported when a check needs them.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import socket
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_manxue import __version__
from airflow_provider_manxue._core import diagnosis
from airflow_provider_manxue._core.destination import parse_destination
from airflow_provider_manxue._core.findings import (
    PROVIDER,
    Finding,
    Report,
    error,
    error_from,
    not_checked,
    ok,
    warning,
)
from airflow_provider_manxue.exceptions import (
    ManxueConnectionNotFoundError,
    ManxueError,
    ManxueStorageError,
    ManxueTransientError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_manxue._core.diagnosis import Probe, Workload
    from airflow_provider_manxue.models import ManxueSettings

COMMAND_LINE, WORKER, TRIGGERER = "command line", "worker", "triggerer"

_PACKAGES = (
    PROVIDER,
    "apache-airflow",
    "apache-airflow-providers-common-compat",
    "aiohttp",
    "requests",
    "urllib3",
    "fsspec",
)
"""Packages whose versions a report has, as far as they are installed."""

_CHECKS: dict[str, Callable[[Examination], Finding]] = {}


class CannotSeeError(Exception):
    """A check cannot see what it needs from here."""


def check(name: str) -> Callable[[Callable[[Examination], Finding]], Callable[[Examination], Finding]]:
    """Add a check to the doctor."""

    def add(function: Callable[[Examination], Finding]) -> Callable[[Examination], Finding]:
        _CHECKS[name] = function
        return function

    return add


class Examination:
    """
    What the checks of one report need.

    :param place: kind of process: command line, worker or triggerer.
    :param conn_id: id of the Airflow connection.
    :param connection: its settings, or why there are none.
    :param store: URI of a file or folder for videos; empty for none.
    :param storage_conn_id: id of the Airflow connection of the store.
    """

    def __init__(
        self,
        place: str,
        conn_id: str,
        connection: ManxueSettings | ManxueError,
        store: str = "",
        storage_conn_id: str | None = None,
    ) -> None:
        self.place = place
        self.conn_id = conn_id
        self.connection = connection
        self.store = store
        self.storage_conn_id = storage_conn_id

    @property
    def settings(self) -> ManxueSettings:
        """The connection."""
        if isinstance(self.connection, ManxueError):
            raise CannotSeeError("There is no usable connection, see above.")
        return self.connection

    @cached_property
    def probe(self) -> Probe:
        """The outcome of the one request."""
        from airflow_provider_manxue._client.probe import probe_service

        return probe_service(self.settings)

    @cached_property
    def versions(self) -> dict[str, str]:
        """The versions of the packages, and of Python."""
        versions = {}
        for package in _PACKAGES:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return {**versions, "python": platform.python_version()}

    @cached_property
    def workload(self) -> Workload:
        """What Airflow's database holds about triggerers."""
        loaded = self._workload
        if isinstance(loaded, str):
            raise CannotSeeError(loaded)
        return loaded

    @property
    def database_is_readable(self) -> bool:
        """Whether Airflow's database can be read from here."""
        return not isinstance(self._workload, str)

    @cached_property
    def _workload(self) -> Workload | str:
        """The workload, or why it cannot be seen."""
        if self.place != COMMAND_LINE and airflow_version() >= (3,):
            return f"A {self.place} of Airflow 3 has no access to Airflow's database."
        try:
            return load_workload()
        except Exception as cause:  # noqa: BLE001 - its text may hold the password of the database
            return f"Airflow's database cannot be read from here ({type(cause).__name__})."


def examine(examination: Examination) -> Report:
    """
    Run all checks, and return the report. Sends one request to the service, which is free.

    :param examination: the place and the connection.
    """
    findings = [
        dataclasses.replace(_run(function, examination), check=name) for name, function in _CHECKS.items()
    ]
    return Report(examination.place, socket.gethostname(), examination.versions, tuple(findings))


def _run(function: Callable[[Examination], Finding], examination: Examination) -> Finding:
    try:
        return function(examination)
    except CannotSeeError as reason:
        return not_checked(str(reason))
    except Exception as cause:  # noqa: BLE001 - a check that fails must not hide the others; its text may hold a secret
        return warning(
            f"The check failed with an unexpected {type(cause).__name__}.",
            "Please report it, with all versions.",
        )


def airflow_version() -> tuple[int, ...]:
    """Return the version of Airflow, without suffixes such as ``rc1``."""
    from packaging.version import Version

    from airflow import __version__ as version

    return Version(version).release


def load_workload() -> Workload:
    """Read from Airflow's database what it holds about triggerers."""
    from sqlalchemy import func, select

    from airflow.jobs.job import Job
    from airflow.models.trigger import Trigger
    from airflow.providers.common.compat.sdk import conf
    from airflow.utils.session import create_session

    ours = Trigger.classpath.startswith("airflow_provider_manxue.triggers.manxue.", autoescape=True)
    with create_session() as session:
        jobs = session.scalars(select(Job).where(Job.job_type == "TriggererJob", Job.state == "running"))
        alive = sorted(str(job.hostname) for job in jobs if job.is_alive())
        waits = session.scalar(select(func.count()).select_from(Trigger).where(ours))
        triggers = session.scalar(select(func.count()).select_from(Trigger))
    option = "capacity" if airflow_version() >= (3,) else "default_capacity"
    return diagnosis.Workload(
        alive, waits or 0, triggers or 0, conf.getint("triggerer", option, fallback=1000)
    )


# --- the checks, in the order of the report ---------------------------------------------------------------


@check("versions")
def _check_versions(examination: Examination) -> Finding:
    return diagnosis.judge_versions(examination.versions, __version__, _unmet_requirements())


def _unmet_requirements() -> list[str]:
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(PROVIDER) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    unmet = []
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        if not version or not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement.name}{requirement.specifier}")
    return unmet


@check("plugin")
def _check_plugin(examination: Examination) -> Finding:
    from pathlib import Path

    enabled, problem = False, ""
    try:
        [entry] = importlib.metadata.entry_points(group="airflow.plugins", name="manxue_video_tab")
        module = importlib.import_module(entry.module)
        enabled = module.is_enabled()
        if not Path(str(module.__file__)).with_name("static").joinpath("index.html").is_file():
            problem = "its page is missing"
    except ValueError:
        problem = "its entry point is missing, or there several times"
    except ImportError as cause:
        problem = f"it cannot be imported ({type(cause).__name__})"
    return diagnosis.judge_plugin(enabled=enabled, airflow=airflow_version(), problem=problem)


@check("connection")
def _check_connection(examination: Examination) -> Finding:
    connection = examination.connection
    if not isinstance(connection, ManxueError):
        return diagnosis.judge_connection(examination.conn_id, connection)
    is_missing = isinstance(connection, ManxueConnectionNotFoundError)
    if is_missing and examination.place == COMMAND_LINE and not examination.database_is_readable:
        return not_checked(
            f"The connection {examination.conn_id!r} is not in the environment, nor in a secrets backend, and Airflow's "
            f"database cannot be read from here.",
            "Run the example Dag manxue_doctor, whose tasks read the connection as all tasks do.",
        )
    if isinstance(connection, ManxueTransientError):
        return error(
            f"{connection}.",
            "Check Airflow's database, its API server and the secrets backend, and try again.",
        )
    return error_from(connection)


@check("tls")
def _check_tls(examination: Examination) -> Finding:
    from airflow_provider_manxue._client.network import ca_path

    probe = examination.probe
    authorities = None if probe.obstacle else ca_path(examination.settings)
    return diagnosis.judge_tls(examination.settings, authorities, probe)


@check("proxy")
def _check_proxy(examination: Examination) -> Finding:
    from airflow_provider_manxue._client.network import proxy_for

    settings, probe = examination.settings, examination.probe
    proxy = None
    try:
        if url := proxy_for(settings):
            parts = urlsplit(url)
            proxy = f"{parts.hostname}:{parts.port or 80}"  # without user name and password
    except ManxueError as cause:
        return error_from(cause)
    source = (
        "the connection's field 'proxy' (Proxy)"
        if settings.proxy
        else "the environment (HTTPS_PROXY, HTTP_PROXY)"
    )
    return diagnosis.judge_proxy(proxy, source, probe)


@check("service")
def _check_service(examination: Examination) -> Finding:
    return diagnosis.judge_service(examination.probe)


@check("key")
def _check_key(examination: Examination) -> Finding:
    return diagnosis.judge_key(examination.probe)


@check("clock")
def _check_clock(examination: Examination) -> Finding:
    return diagnosis.judge_clock(examination.probe)


@check("triggerer")
def _check_triggerer(examination: Examination) -> Finding:
    if examination.place == TRIGGERER:
        return ok("This check runs in one.")
    return diagnosis.judge_triggerers(examination.workload)


@check("limits")
def _check_limits(examination: Examination) -> Finding:
    return diagnosis.judge_limits(examination.settings, examination.workload)


@check("store")
def _check_store(examination: Examination) -> Finding:
    if examination.place == TRIGGERER:
        return not_checked("Workers save videos, a triggerer does not.")
    if not examination.store:
        return not_checked("No store was named.", "Name one, for example s3://bucket/folder/.")
    from airflow_provider_manxue._client.storage import probe_store

    try:
        probe_store(parse_destination(examination.store, "manxue-doctor"), examination.storage_conn_id)
    except ManxueStorageError as cause:
        return diagnosis.judge_store(examination.store, cause)
    except ManxueError as cause:
        return error_from(cause)
    return diagnosis.judge_store(examination.store, None)
