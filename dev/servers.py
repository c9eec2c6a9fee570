"""Temporary servers for tests and the demo: PostgreSQL, Redis, S3 and Prometheus, each with private data and a free local port.

PostgreSQL, Redis and Prometheus are the system's programs (on Debian: ``postgresql``, ``redis-server`` and ``prometheus``).
Servers that the system itself runs are not touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dev.local_airflow import LOOPBACK, free_port, is_listening, tail

if TYPE_CHECKING:
    from types import TracebackType

START_TIMEOUT = 120.0
PAUSE = 0.05
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
SERVER_USER = "postgres"


class ServerError(Exception):
    """A server is not installed or failed to start. The message contains its output."""


class Server(ABC):
    """
    A server process with a temporary folder. Both exist inside the ``with`` block.

    :param name: name in messages and in the folder's name.
    """

    STOP_SIGNAL = signal.SIGTERM

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self.user: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix=f"manxue-{self.name}-"))
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    @property
    def log(self) -> Path:
        """The file with the server's output."""
        return self.folder / "log"

    @property
    def is_running(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=self.user,
                group=self.user,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if not self.is_running or time.monotonic() > deadline:
                raise ServerError(f"{self.name} failed to start. Its last lines:\n{tail(self.log)}")
            time.sleep(PAUSE)

    def stop(self, signal_number: int | None = None) -> None:
        """
        Stop the server, and wait until it has ended. Its data are kept for :meth:`start`.

        :param signal_number: signal to send instead of :attr:`STOP_SIGNAL`.
        """
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal_number or self.STOP_SIGNAL)
            self._process.wait(timeout=START_TIMEOUT)
            self._process = None

    def _prepare(self) -> None:  # noqa: B027 - optional
        """Write files that the server needs before its first start."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command line."""

    def _is_ready(self) -> bool:
        """Return whether the server accepts connections."""
        return is_listening(self.port)


class PostgresServer(Server):
    """A PostgreSQL server with one empty database. It refuses to run as root, so root starts it as ``postgres``."""

    DATABASE = "airflow"
    STOP_SIGNAL = signal.SIGQUIT

    def __init__(self) -> None:
        super().__init__("postgres")
        self.user = SERVER_USER if os.geteuid() == 0 else None
        self._programs = postgres_programs()

    @property
    def url(self) -> str:
        """URL of the database for SQLAlchemy."""
        return f"postgresql+psycopg2://{self.DATABASE}:{self.password}@{LOOPBACK}:{self.port}/{self.DATABASE}"

    def _prepare(self) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        if self.user:
            for path in (self.folder, password):
                shutil.chown(path, self.user, self.user)
        self._run(
            "initdb",
            "--pgdata=data",
            f"--username={self.DATABASE}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        )
        password.unlink()
        # In single-user mode, since the server does not run yet.
        self._run("postgres", "--single", "-D", "data", "postgres", text=f"CREATE DATABASE {self.DATABASE}\n")

    def _run(self, program: str, *arguments: str, text: str = "") -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self.folder,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            user=self.user,
            group=self.user,
        )
        if done.returncode:
            raise ServerError(f"{program} failed:\n{done.stdout}{done.stderr}")

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": self.folder,
            "max_connections": 200,
            # The data must survive a crash of the process, not a loss of power.
            "fsync": "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self._programs / "postgres"), "-D", "data", "-p", str(self.port), *options]

    def _is_ready(self) -> bool:
        # PostgreSQL listens before it accepts logins.
        probe = [str(self._programs / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port)]
        return subprocess.run(probe, check=False).returncode == 0


class RedisServer(Server):
    """A Redis server that writes each change to its folder, so that a restart loses no message."""

    def __init__(self) -> None:
        super().__init__("redis")
        self._program = found("redis-server")

    @property
    def url(self) -> str:
        """URL of the server."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def _prepare(self) -> None:
        # In a file, since every user can read a command line.
        (self.folder / "redis.conf").write_text(
            f'bind {LOOPBACK}\nport {self.port}\nrequirepass {self.password}\nappendonly yes\nsave ""\n'
        )

    def _command(self) -> list[str]:
        return [self._program, "redis.conf"]


class S3Server(Server):
    """An emulated S3 service (moto)."""

    def __init__(self) -> None:
        super().__init__("s3")

    @property
    def url(self) -> str:
        """URL of the server."""
        return f"http://{LOOPBACK}:{self.port}"

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self.port)]


class PrometheusServer(Server):
    """
    A Prometheus server that scrapes one target on this machine and evaluates alert rules.

    :param target: port of the target.
    :param rules: the rules, as the text of a file.
    :param interval: seconds between two scrapes, and between two evaluations.
    """

    def __init__(self, target: int, rules: str, interval: float) -> None:
        super().__init__("prometheus")
        self._program = found("prometheus", "prometheus")
        self._target = f"{LOOPBACK}:{target}"
        self._rules = rules
        self._interval = f"{interval * 1000:.0f}ms"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the present result of an expression: a list of samples with ``metric`` and ``value``."""
        return list(self._get("query", query=expression)["result"])

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the results of an expression from start to end: a list of series with ``metric`` and ``values``."""
        return list(self._get("query_range", query=expression, start=start, end=end, step=step)["result"])

    def alerts(self, state: str = "firing") -> set[str]:
        """Return the names of the alerts in a state: ``pending`` or ``firing``."""
        return {one["labels"]["alertname"] for one in self._get("alerts")["alerts"] if one["state"] == state}

    def _get(self, endpoint: str, **parameters: object) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://{LOOPBACK}:{self.port}/api/v1/{endpoint}?{urllib.parse.urlencode(parameters)}"
        try:
            with opener.open(url, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise ServerError(f"{parameters}: {error.read().decode()}") from None

    def _prepare(self) -> None:
        (self.folder / "rules.yml").write_text(self._rules)
        times = ("scrape_interval", "scrape_timeout", "evaluation_interval")
        config = {
            "global": dict.fromkeys(times, self._interval),
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "statsd", "static_configs": [{"targets": [self._target]}]}],
        }
        # A JSON document is a YAML document.
        (self.folder / "prometheus.yml").write_text(json.dumps(config))

    def _command(self) -> list[str]:
        return [
            self._program,
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={LOOPBACK}:{self.port}",
            "--log.level=warn",
        ]

    def _is_ready(self) -> bool:
        try:
            self._get("query", query="1")
        except (OSError, ServerError):
            return False
        return True


def postgres_programs() -> Path:
    """
    Return the folder of PostgreSQL's programs: the newest version in Debian's folder, otherwise the one on ``PATH``.

    :raises ServerError: if PostgreSQL is not installed.
    """
    versions = sorted(DEBIAN_POSTGRES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else Path(found("initdb")).parent


def found(program: str, packages: str = "postgresql redis-server") -> str:
    """
    Return the path of a program.

    :param packages: Debian's packages to name if the program is missing.
    :raises ServerError: if the program is not installed.
    """
    path = shutil.which(program)
    if path is None:
        raise ServerError(f"{program} is not installed. On Debian: apt-get install {packages}")
    return path
