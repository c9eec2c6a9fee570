"""A complete Airflow in one folder, for tests, the demo and benchmarks.

Scheduler, triggerer, Dag processor and API server are real processes, with an SQLite or PostgreSQL metadata database,
free ports and random secrets. Any number of instances can run at the same time. The module needs only the standard
library (and psycopg2 for PostgreSQL), so it can drive an Airflow in another environment.

    with LocalAirflow(home, dags_folder=dags) as airflow:
        run_id = airflow.trigger("my_dag")
        assert airflow.wait_for_run("my_dag", run_id) == "success"
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType, TracebackType

TaskKey = str | tuple[str, int]
"""A task id, or a task id and a map index."""

LOOPBACK = "127.0.0.1"
FINISHED = frozenset({"success", "failed"})
OCCUPYING = ("queued", "running")
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
MARK = "LOCAL_AIRFLOW_MARK"
COMPONENT = "LOCAL_AIRFLOW_COMPONENT"
POLL_INTERVAL = 0.2
SWEEP_INTERVAL = 0.05
START_TIMEOUT = 400.0
"""Seconds. Several Airflows can start together, beside the unit tests, on two cores."""
PATIENCE = 600.0
"""Seconds until a wait gives up. What takes two seconds alone took two minutes beside other suites on two cores."""
SERVER_PORTS = range(20_000, 32_000)
"""Below the ports that systems choose themselves (from 32,768 on Linux), which another process may get in the meantime."""
SIMPLE_AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"

_EMPTY_HOMES: dict[str, dict[str, bytes]] = {}
"""What `airflow db migrate` has written, by interpreter: the files of an Airflow without Dags. Copied, since it takes 6 s of CPU."""

# The row that a component adds to the table of jobs when it is ready.
JOB_TYPES = {
    "scheduler": "SchedulerJob",
    "dag-processor": "DagProcessorJob",
    "triggerer": "TriggererJob",
}


class LocalAirflowError(Exception):
    """Airflow failed or timed out. The message contains its output."""


@dataclass
class Component:
    """A running Airflow component, which leads its own process group."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    output_before: int
    last_job_before: int

    def printed(self) -> bytes:
        """Return the output since the last start."""
        return self.output.read_bytes()[self.output_before :]

    def failure(self) -> str | None:
        """Return the reason why the component ended; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        return f"{self.name} ended with exit code {code}. Its last lines:\n{tail(self.output)}"


class LocalAirflow:
    """An Airflow that runs inside the ``with`` block and leaves no process behind.

    :param home: folder for everything that Airflow writes; created if missing.
    :param python: interpreter of the environment that Airflow is installed in.
    :param dags_folder: folder with Dag files.
    :param env: further environment variables of all components, such as connections.
    :param triggerer: whether to start a triggerer.
    :param triggerer_queues: queues that triggerers serve (Airflow 3.2 and later); empty for all queues.
    :param pools: further pools, as name and number of slots.
    :param pools_include_deferred: whether deferred tasks take slots of these pools.
    :param config: further settings, as ``{"section.option": value}``.
    :param postgres: URL of an empty PostgreSQL database to use instead of SQLite.
    :param users: user names and their roles (Airflow 3); the first is an administrator, and each password is the name.
        Without users no login is needed, and every visitor is an administrator.
    """

    def __init__(
        self,
        home: Path | str,
        *,
        dags_folder: Path | str,
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        triggerer: bool = True,
        triggerer_queues: Sequence[str] = (),
        pools: Mapping[str, int] | None = None,
        pools_include_deferred: bool = False,
        config: Mapping[str, object] | None = None,
        postgres: str | None = None,
        users: Mapping[str, str] | None = None,
    ) -> None:
        self.home = Path(home).absolute()
        self.python = python
        self.version = installed_version(python)
        self.is_3 = self.version >= (3,)
        self.base_url = f"http://{LOOPBACK}:{free_port()}" if self.is_3 else None
        self.log_folder = self.home / "logs"
        self.database = self.home / "airflow.db"
        self.postgres = postgres
        self.processes: dict[str, Component] = {}
        self._pools = dict(pools or {})
        self._pools_include_deferred = pools_include_deferred
        self._users = dict(users or {})
        self._triggerer_queues = ",".join(triggerer_queues)
        self._names = self._component_names(triggerer)
        self._mark = secrets.token_hex(16)
        self._environment = self._build_environment(Path(dags_folder).absolute(), config or {}, env or {})
        self._token: str | None = None
        self._previous_handlers: dict[signal.Signals, Any] = {}

    # --- life cycle ---------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._handle_signals()
        try:
            self._create_database()
            for name in self._names:
                self.launch(name)
            for name in self._names:
                self._wait_until_ready(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str) -> None:
        """
        Start a component that was killed, or a further one of its kind, and wait until it is ready.

        :param name: name of the component; a second triggerer is ``triggerer:2``.
        """
        self.launch(name)
        self._wait_until_ready(name)

    def kill(self, name: str, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to a component and its children, and wait until it has ended."""
        component = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(component.process.pid, signal_number)
        component.process.wait(timeout=60)

    def stop(self) -> None:
        """Kill all processes of this Airflow."""
        if self._previous_handlers:
            ignore_ending_signals()
        for name in list(self.processes):
            self.kill(name)
        # Task processes have their own process groups, so killing the components' groups is not enough. The pause
        # comes first, since a process that is just being started has its mark only a moment later.
        time.sleep(SWEEP_INTERVAL)
        while leftovers := self.leftover_processes():
            for pid in leftovers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(SWEEP_INTERVAL)
        self._restore_signals()

    def leftover_processes(self) -> list[int]:
        """Return the processes of this Airflow, including its tasks (Linux only; elsewhere empty)."""
        return [pid for pid in all_processes() if f"{MARK}={self._mark}".encode() in environment_of(pid)]

    def _handle_signals(self) -> None:
        """Raise KeyboardInterrupt at the first SIGINT or SIGTERM, so that `stop` runs, and ignore further ones.

        By default SIGTERM ends Python without cleanup. On Ctrl-C, `make` sends its children a second signal after the
        terminal's.
        """
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {number: signal.signal(number, interrupt) for number in ENDING_SIGNALS}

    def _restore_signals(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}

    # --- runs, tasks, XComs -------------------------------------------------------------------------------

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None) -> str:
        """Wait until a Dag is parsed, trigger a run of it, and return the run's id."""
        run_id = run_id or f"run_{secrets.token_hex(6)}"
        self.wait_for_dag(dag_id)
        if self.is_3:
            body = {"dag_run_id": run_id, "conf": dict(conf or {}), "logical_date": None}
            self._api("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)
        else:
            self._airflow(
                "dags", "trigger", dag_id, "--run-id", run_id, "--conf", json.dumps(dict(conf or {}))
            )
        return run_id

    def set_connection(self, conn_id: str, extra: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Write a connection into the metadata database. Replaces an existing one."""
        file = self.home / f"connection-{conn_id}.json"
        file.write_text(json.dumps({conn_id: {**fields, "extra": json.dumps(extra or {})}}))
        try:
            self._airflow("connections", "import", "--overwrite", str(file))
        finally:
            file.unlink()

    def wait_for_dag(self, dag_id: str) -> None:
        """Wait until Airflow has parsed the Dag. Raises immediately if any file cannot be imported."""

        def known() -> bool:
            if errors := self.query("SELECT filename, stacktrace FROM import_error"):
                reports = [f"cannot import {filename}:\n{trace}" for filename, trace in errors]
                raise LocalAirflowError("\n".join(reports))
            return bool(self.query("SELECT 1 FROM serialized_dag WHERE dag_id = ?", dag_id))

        self.wait_until(known, f"the Dag {dag_id} is parsed")

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = PATIENCE) -> str:
        """Wait until the run has ended, and return its final state."""
        try:
            self.wait_until(lambda: self.run_state(dag_id, run_id) in FINISHED, "the run has ended", timeout)
        except LocalAirflowError as error:
            raise LocalAirflowError(f"{error}\n\n{self.describe_run(dag_id, run_id)}") from None
        return str(self.run_state(dag_id, run_id))

    def wait_for_tasks(
        self, dag_id: str, run_id: str, expected: Mapping[Any, str], timeout: float = PATIENCE
    ) -> None:
        """Wait until each of these tasks has its state. The error names the states of those that have another."""

        def others() -> dict[TaskKey, str | None]:
            states = self.task_states(dag_id, run_id)
            return {key: states.get(key) for key, state in expected.items() if states.get(key) != state}

        try:
            self.wait_until(lambda: not others(), "all tasks have their state", timeout)
        except LocalAirflowError as error:
            raise LocalAirflowError(f"{error}; others: {others()}") from None

    def wait_until(
        self, predicate: Callable[[], object], what: str = "it was true", timeout: float = PATIENCE
    ) -> None:
        """Wait until the predicate is true. Raises immediately if a component has ended."""
        deadline = time.monotonic() + timeout
        while not predicate():
            self._check_components()
            if time.monotonic() > deadline:
                raise LocalAirflowError(f"Timed out after {timeout:g} s: waited until {what}")
            time.sleep(POLL_INTERVAL)

    def run_state(self, dag_id: str, run_id: str) -> str | None:
        """Return the state of a run; None if the run does not exist."""
        rows = self.query("SELECT state FROM dag_run WHERE dag_id = ? AND run_id = ?", dag_id, run_id)
        return rows[0][0] if rows else None

    def task_states(self, dag_id: str, run_id: str) -> dict[TaskKey, str | None]:
        """Return the state of each task of a run; the key of a mapped task is ``(task_id, map_index)``."""
        rows = self.query(
            "SELECT task_id, map_index, state FROM task_instance WHERE dag_id = ? AND run_id = ?"
            " ORDER BY task_id, map_index",
            dag_id,
            run_id,
        )
        return {task_id if index < 0 else (task_id, index): state for task_id, index, state in rows}

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return the stored value of an XCom. Raises KeyError if the task pushed no such key."""
        where = "FROM xcom WHERE dag_id = ? AND run_id = ? AND task_id = ? AND map_index = ?"
        rows = dict(self.query(f"SELECT key, value {where}", dag_id, run_id, task_id, map_index))
        if key not in rows:
            raise KeyError(f"{task_id} has no XCom {key!r}, but {sorted(rows)}")
        # psycopg2 decodes JSON.
        return rows[key] if self.postgres else decode_xcom(rows[key])

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, try_number: int | None = 1, map_index: int = -1
    ) -> str:
        """Return the log of one try, or of all tries (None): the worker's part, then the triggerer's."""
        folder = self.log_folder / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        if map_index >= 0:
            folder /= f"map_index={map_index}"
        files = sorted(folder.glob(f"attempt={try_number or '*'}.log*"))
        return "".join(file.read_text(errors="replace") for file in files)

    def question(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> dict[str, Any]:
        """Return what a mapped human-in-the-loop task asks (Airflow 3.1 and later)."""
        return dict(self._api("GET", self._question_path(dag_id, run_id, task_id, map_index)))

    def respond(
        self, dag_id: str, run_id: str, task_id: str, map_index: int, option: str, **values: object
    ) -> None:
        """
        Respond to a mapped human-in-the-loop task as its form does.

        :param values: fields of the form that a person changes. The others keep their values; on Airflow 3.1 these include
            the Dag's params.
        """
        fields = self.question(dag_id, run_id, task_id, map_index)["params"]
        shown = {name: field["value"] if isinstance(field, dict) else field for name, field in fields.items()}
        body = {"chosen_options": [option], "params_input": {**shown, **values}}
        self._api("PATCH", self._question_path(dag_id, run_id, task_id, map_index), body)

    @staticmethod
    def _question_path(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
        return f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/{map_index}/hitlDetails"

    def occupied_slots(self, pool: str = "default_pool") -> int:
        """Return the number of occupied slots of a pool, as Airflow counts them."""
        [(include_deferred,)] = self.query("SELECT include_deferred FROM slot_pool WHERE pool = ?", pool)
        states = (*OCCUPYING, "deferred") if include_deferred else OCCUPYING
        marks = ", ".join("?" * len(states))
        sql = f"SELECT coalesce(sum(pool_slots), 0) FROM task_instance WHERE pool = ? AND state IN ({marks})"  # noqa: S608 - marks are question marks
        return int(self.query(sql, pool, *states)[0][0])

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read from the metadata database."""
        if self.postgres:
            return query_postgres(self.postgres, sql, values)
        with contextlib.closing(
            sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True, timeout=60)
        ) as db:
            return db.execute(sql, values).fetchall()

    def run_python(self, *arguments: str) -> None:
        """Run a Python script or module with the settings of this Airflow, and wait for its end."""
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.home,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LocalAirflowError(f"python {' '.join(arguments)} failed:\n{last_lines(done.stdout)}")

    def output_of(self, *arguments: str) -> tuple[int, str]:
        """Run a Python script or module as :meth:`run_python`. Returns its exit code and its standard output."""
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.home,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def describe_run(self, dag_id: str, run_id: str) -> str:
        """Return the states of a run and its tasks, with the end of the log of each task that did not succeed."""
        lines = [f"{dag_id} {run_id}: {self.run_state(dag_id, run_id)}"]
        for key, state in self.task_states(dag_id, run_id).items():
            lines.append(f"--- {key}: {state}")
            if state != "success":
                task_id, index = (key, -1) if isinstance(key, str) else key
                lines.append(last_lines(self.task_log(dag_id, run_id, task_id, map_index=index)))
        return "\n".join(lines)

    # --- components ---------------------------------------------------------------------------------------

    def _component_names(self, triggerer: bool) -> list[str]:
        names = ["api-server", "scheduler", "dag-processor"] if self.is_3 else ["scheduler"]
        return [*names, "triggerer"] if triggerer else names

    @property
    def _passwords(self) -> Path:
        return self.home / "passwords.json"

    def launch(self, name: str, *arguments: str) -> None:
        """
        Start a component without waiting until it is ready.

        :param arguments: further arguments of its command, such as ``--capacity``.
        """
        output = self.home / f"{name}.log"
        last_job = self._last_job(name)
        with output.open("ab") as stream:
            output_before = stream.tell()
            process = subprocess.Popen(
                [self.python, "-m", "airflow", *self._arguments_of(name), *arguments],
                cwd=self.home,
                env={**self._environment, COMPONENT: name},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = Component(name, process, output, output_before, last_job)

    def _arguments_of(self, name: str) -> list[str]:
        """Return the arguments of the ``airflow`` command that starts a component."""
        command = kind_of(name)
        # Logs are read from the folder, so no web server has to serve them.
        if command in ("api-server", "dag-processor"):
            return [command]
        serves = command == "triggerer" and self._triggerer_queues
        return [command, "--skip-serve-logs", *(["--queues", self._triggerer_queues] if serves else [])]

    def _wait_until_ready(self, name: str) -> None:
        self.wait_until(lambda: self._is_ready(name), f"{name} is ready", timeout=START_TIMEOUT)

    def _is_ready(self, name: str) -> bool:
        if name == "api-server":
            return self._api_responds()
        kind, component = kind_of(name), self.processes[name]
        # Components of one kind that start together add their rows in any order, so each waits for all rows.
        twins = [
            other
            for other in self.processes.values()
            if kind_of(other.name) == kind and other.last_job_before == component.last_job_before
        ]
        sql = "SELECT count(*) FROM job WHERE job_type = ? AND id > ?"
        return int(self.query(sql, JOB_TYPES[kind], component.last_job_before)[0][0]) >= len(twins)

    def _check_components(self) -> None:
        for component in self.processes.values():
            if failure := component.failure():
                raise LocalAirflowError(failure)

    def _last_job(self, name: str) -> int:
        """Return the id of the newest job of a component."""
        kind = JOB_TYPES.get(kind_of(name), "")
        rows = self.query("SELECT coalesce(max(id), 0) FROM job WHERE job_type = ?", kind)
        return int(rows[0][0])

    def _create_database(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self._passwords.write_text(json.dumps({user: user for user in self._users}))
        self._migrate()
        add_pool = "INSERT INTO slot_pool (pool, slots, description, include_deferred) VALUES (?, ?, '', ?)"
        if self.postgres:
            for name, slots in self._pools.items():
                query_postgres(self.postgres, add_pool, (name, slots, self._pools_include_deferred))
            return
        with contextlib.closing(sqlite3.connect(self.database)) as db, db:
            # With a write-ahead log, readers and the writer do not block each other.
            db.execute("PRAGMA journal_mode = WAL")
            db.executemany(
                add_pool, [(name, slots, self._pools_include_deferred) for name, slots in self._pools.items()]
            )

    def _migrate(self) -> None:
        """Create the tables. A second Airflow of this process with an SQLite database gets a copy of the first one's files."""
        if self.postgres:
            self._airflow("db", "migrate")
            return
        if self.python not in _EMPTY_HOMES:
            self._airflow("db", "migrate")
            files = (self.database, self.home / "airflow.cfg")
            _EMPTY_HOMES[self.python] = {file.name: file.read_bytes() for file in files}
        for name, content in _EMPTY_HOMES[self.python].items():
            (self.home / name).write_bytes(content)

    def _airflow(self, *arguments: str) -> None:
        """Run an ``airflow`` command and wait for its end."""
        self.run_python("-m", "airflow", *arguments)

    # --- configuration ------------------------------------------------------------------------------------

    def _build_environment(
        self, dags_folder: Path, config: Mapping[str, object], env: Mapping[str, str]
    ) -> dict[str, str]:
        settings = self._common_settings(dags_folder)
        settings |= self._settings_of_3() if self.is_3 else self._settings_of_2()
        if self._triggerer_queues:
            settings["triggerer.queues_enabled"] = True
        settings |= config
        return {
            **inherited_environment(),
            # Airflow 2 starts tasks with the command `airflow`, so this environment's folder must come first.
            "PATH": os.pathsep.join([str(Path(self.python).parent), os.environ.get("PATH", os.defpath)]),
            "PYTHONUNBUFFERED": "1",
            "SCARF_ANALYTICS": "false",
            # Otherwise process titles overwrite the environment that `leftover_processes` reads.
            "SPT_NOENV": "1",
            MARK: self._mark,
            "AIRFLOW_HOME": str(self.home),
            **{f"AIRFLOW__{key.replace('.', '__').upper()}": str(value) for key, value in settings.items()},
            **env,
        }

    def _common_settings(self, dags_folder: Path) -> dict[str, object]:
        return {
            "core.dags_folder": dags_folder,
            "core.load_examples": False,
            "core.dags_are_paused_at_creation": False,
            "core.fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "core.hostname_callable": "socket.gethostname",
            "core.parallelism": 8,
            "core.test_connection": "Enabled",
            "database.sql_alchemy_conn": self.postgres or f"sqlite:///{self.database}?timeout=60",
            "logging.base_log_folder": self.log_folder,
            "logging.colored_console_log": False,
            "scheduler.scheduler_idle_sleep_time": 0.5,
            "scheduler.trigger_timeout_check_interval": 2,
            # A trigger moves to another triggerer when the last heartbeat of its own is older than the threshold.
            "triggerer.job_heartbeat_sec": 2,
            "triggerer.triggerer_health_check_threshold": 10,
            "usage_data_collection.enabled": False,
        }

    def _settings_of_3(self) -> dict[str, object]:
        assert self.base_url
        return {
            "core.executor": "LocalExecutor",
            "core.execution_api_server_url": f"{self.base_url}/execution/",
            "core.auth_manager": SIMPLE_AUTH_MANAGER,
            "core.simple_auth_manager_all_admins": not self._users,
            "core.simple_auth_manager_users": ",".join(
                f"{user}:{role}" for user, role in self._users.items()
            ),
            "core.simple_auth_manager_passwords_file": self._passwords,
            "api.host": LOOPBACK,
            "api.port": self.base_url.rpartition(":")[2],
            "api.base_url": self.base_url,
            "api.workers": 1,
            "api.secret_key": secrets.token_hex(32),
            "api_auth.jwt_secret": secrets.token_hex(32),
            # The default is 5 s. A loaded machine takes longer, and Airflow then fails a task that has not even begun.
            "workers.execution_api_timeout": 60,
            # New and changed files are found quickly; unchanged files are not parsed again.
            "dag_processor.refresh_interval": 5,
            "dag_processor.min_file_process_interval": 3600,
            "dag_processor.parsing_processes": 1,
        }

    def _settings_of_2(self) -> dict[str, object]:
        return {
            # With SQLite, Airflow 2 supports only the executor that runs one task at a time.
            "core.executor": "LocalExecutor" if self.postgres else "SequentialExecutor",
            "webserver.secret_key": secrets.token_hex(32),
            "scheduler.dag_dir_list_interval": 5,
            "scheduler.min_file_process_interval": 3600,
            "scheduler.parsing_processes": 1,
        }

    # --- REST API (Airflow 3) -----------------------------------------------------------------------------

    def _api_responds(self) -> bool:
        try:
            self._api("GET", "/api/v2/version")
        except OSError:
            return False
        return True

    def _api(self, method: str, path: str, body: object = None) -> Any:
        if self._token is None:
            # Without users, Airflow issues a token without a login.
            user = next(iter(self._users), None)
            login = {"username": user, "password": user} if user else None
            self._token = self._http("POST" if user else "GET", "/auth/token", login)["access_token"]
        return self._http(method, path, body)

    def _http(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(f"{self.base_url}{path}", method=method)
        request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, data, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise LocalAirflowError(f"{method} {path}: {error.code} {error.read().decode()}") from error


def query_postgres(url: str, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """Run a statement on a PostgreSQL server, and return its rows; an empty list if it returns none."""
    import psycopg2

    with contextlib.closing(psycopg2.connect(url.replace("+psycopg2", ""))) as db:
        db.autocommit = True
        with db.cursor() as cursor:
            cursor.execute(sql.replace("?", "%s"), values)
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def postgres_database(server: str) -> Iterator[str]:
    """
    Create an empty database on a PostgreSQL server, yield its URL, and drop it.

    :param server: URL of the server, without a database.
    """
    name = f"manxue_{secrets.token_hex(6)}"
    query_postgres(f"{server}/postgres", f"CREATE DATABASE {name}")
    try:
        yield f"{server}/{name}"
    finally:
        query_postgres(f"{server}/postgres", f"DROP DATABASE {name} WITH (FORCE)")


def installed_version(python: str) -> tuple[int, ...]:
    """Return the major and minor version of the Airflow installed for an interpreter."""
    script = "from importlib.metadata import version; print(version('apache-airflow-core'))"
    fallback = script.replace("-core", "")
    for source in (script, fallback):
        done = subprocess.run([python, "-c", source], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return tuple(int(part) for part in done.stdout.split(".")[:2])
    raise LocalAirflowError(f"Airflow is not installed for {python}.")


def kind_of(name: str) -> str:
    """Return the kind of a component: ``triggerer`` for ``triggerer:2``."""
    return name.partition(":")[0]


def inherited_environment() -> dict[str, str]:
    """Return this process's environment for a process with an Airflow of its own, without the settings of another Airflow."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return {**inherited, "NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}


def free_port() -> int:
    """Return a port that is currently free, and that the system gives to nobody who asks for any port."""
    while True:
        port = secrets.choice(SERVER_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((LOOPBACK, port))
            return port


def is_listening(port: int) -> bool:
    """Return whether a local port accepts connections."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def decode_xcom(stored: str | bytes | float) -> Any:
    """Decode a stored XCom: JSON, except that SQLite returns numbers from Airflow 3's JSON column as numbers."""
    return json.loads(stored) if isinstance(stored, str | bytes) else stored


def all_processes() -> list[int]:
    """Return the ids of all processes of the machine (Linux only; elsewhere empty)."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def environment_of(pid: int) -> bytes:
    """Return a process's environment; empty if the process has ended or belongs to another user."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def tail(file: Path) -> str:
    """Return the end of a file."""
    return last_lines(file.read_text(errors="replace"))


def last_lines(text: str, count: int = 40) -> str:
    """Return the last lines of a text."""
    return "\n".join(text.splitlines()[-count:])


def ignore_ending_signals() -> None:
    """Ignore further signals during cleanup."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def interrupt(signal_number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, and ignore further signals."""
    ignore_ending_signals()
    raise KeyboardInterrupt
