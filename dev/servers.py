"""PostgreSQL and Redis of one's own: private data, free ports of this machine, random passwords.

The programs are those that the system has installed (on Debian: ``postgresql`` and ``redis-server``). Nothing of a
server that the system runs itself is touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dev.local_airflow import LOOPBACK, free_port, tail
from dev.local_s3 import answers

if TYPE_CHECKING:
    from types import TracebackType

START_TIMEOUT = 60.0
PAUSE = 0.05
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
SERVER_USER = "postgres"


class ServerError(Exception):
    """A server is not installed, or does not start; the message says what it printed."""


class Server(ABC):
    """
    One server process with a temporary folder, which is there while the ``with`` block lasts.

    :param name: what it is, for messages and the folder's name.
    """

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
        """The file with what it printed."""
        return self.folder / "log"

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
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
                raise ServerError(f"{self.name} does not start; its last lines:\n{tail(self.log)}")
            time.sleep(PAUSE)

    def stop(self, signal_number: int = signal.SIGQUIT) -> None:
        """Send a signal that ends it, and wait until it has ended; what it stores stays for :meth:`start`."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal_number)
            self._process.wait(timeout=START_TIMEOUT)
            self._process = None

    @abstractmethod
    def _prepare(self) -> None:
        """Write what it needs before its first start."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return its command line."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Return whether it accepts connections."""


class PostgresServer(Server):
    """A PostgreSQL server with one empty database; as it refuses to run as root, root starts it as ``postgres``."""

    DATABASE = "airflow"

    def __init__(self) -> None:
        super().__init__("postgres")
        self.user = SERVER_USER if os.geteuid() == 0 else None
        self._programs = postgres_programs()

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database."""
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
        # In single-user mode, before anyone can connect.
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
            # Its data need not outlive a loss of power, only of its process.
            "fsync": "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self._programs / "postgres"), "-D", "data", "-p", str(self.port), *options]

    def _is_ready(self) -> bool:
        # It listens before it lets anyone in.
        probe = [str(self._programs / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port)]
        return subprocess.run(probe, check=False).returncode == 0


class RedisServer(Server):
    """A Redis server that writes each change to its folder, so that a restart loses no message."""

    def __init__(self) -> None:
        super().__init__("redis")
        self._program = found("redis-server")

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Send a signal that ends it, and wait until it has ended; what it stores stays for :meth:`start`."""
        super().stop(signal_number)

    def _prepare(self) -> None:
        # In a file, since a command line is for all to read.
        (self.folder / "redis.conf").write_text(
            f'bind {LOOPBACK}\nport {self.port}\nrequirepass {self.password}\nappendonly yes\nsave ""\n'
        )

    def _command(self) -> list[str]:
        return [self._program, "redis.conf"]

    def _is_ready(self) -> bool:
        return answers(self.port)


def postgres_programs() -> Path:
    """
    Return the folder of PostgreSQL's programs: of the newest version that Debian has, or where the path leads.

    :raises ServerError: if there is none.
    """
    versions = sorted(DEBIAN_POSTGRES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else Path(found("initdb")).parent


def found(program: str) -> str:
    """
    Return the path of a program.

    :raises ServerError: if it is not installed.
    """
    path = shutil.which(program)
    if path is None:
        raise ServerError(f"{program} is not installed; on Debian: apt-get install postgresql redis-server")
    return path
