"""A distributed Airflow: PostgreSQL, Celery on Redis, two workers and two triggerers, each a process.

    with distributed_airflow(home, dags_folder=dags) as airflow:
        airflow.lose("triggerer:1")

It differs from a production deployment in two ways only: all processes run on one machine, and they share one folder of
logs instead of using remote logging.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dev.local_airflow import (
    COMPONENT,
    SWEEP_INTERVAL,
    LocalAirflow,
    LocalAirflowError,
    environment_of,
)
from dev.servers import PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WORKERS = ("worker:1", "worker:2")
TRIGGERERS = ("triggerer:1", "triggerer:2")
ENDLESS_LOOP = 5
LOOP_WINDOW = 120.0
"""A component that stops by itself so many times within so many seconds is no longer restarted."""
DATABASE_PATIENCE = 60.0


class DistributedAirflow(LocalAirflow):
    """
    Airflow with the CeleryExecutor. A component that stops by itself is restarted, as by systemd or Kubernetes.

    :param home: folder for everything that Airflow writes.
    :param postgres: the running database server.
    :param redis: the running broker.
    :param concurrency: tasks that a worker runs at once.
    :param config: further settings, as ``{"section.option": value}``.
    :param env: further environment variables of all components.
    :param options: those of :class:`LocalAirflow`.
    """

    def __init__(
        self,
        home: Path | str,
        *,
        postgres: PostgresServer,
        redis: RedisServer,
        concurrency: int = 4,
        config: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.servers = {"postgres": postgres, "redis": redis}
        self.ended: list[str] = []
        self._ended_at: dict[str, list[float]] = {}
        celery = {
            "core.executor": "CeleryExecutor",
            "core.parallelism": concurrency * len(WORKERS),
            "celery.broker_url": redis.url,
            "celery.result_backend": f"db+{postgres.url}",
            "celery.worker_concurrency": concurrency,
            "celery_broker_transport_options.visibility_timeout": 3600,
        }
        self.temporary = Path(home).absolute() / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        env = {"TMPDIR": str(self.temporary), **(env or {})}
        super().__init__(home, postgres=postgres.url, config={**celery, **(config or {})}, env=env, **options)

    def lose(self, name: str) -> None:
        """Kill a component with all its child processes, including tasks, as if its machine had failed."""
        self.kill(name)
        while remains := self._processes_of(name):
            for pid in remains:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(SWEEP_INTERVAL)

    def put_connection(self, conn_id: str, **fields: Any) -> None:
        """Write a connection through the API, which is faster than the command line."""
        body = {"connection_id": conn_id, **fields}
        known = self.query("SELECT 1 FROM connection WHERE conn_id = ?", conn_id)
        if known:
            self._api("PATCH", f"/api/v2/connections/{conn_id}", body)
        else:
            self._api("POST", "/api/v2/connections", body)

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read from the metadata database. Waits while its server restarts."""
        from psycopg2 import OperationalError

        deadline = time.monotonic() + DATABASE_PATIENCE
        while True:
            try:
                return super().query(sql, *values)
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _processes_of(self, name: str) -> list[int]:
        return [
            pid
            for pid in self.leftover_processes()
            if f"{COMPONENT}={name}\0".encode() in environment_of(pid)
        ]

    def _component_names(self, triggerer: bool) -> list[str]:
        return ["api-server", "scheduler", "dag-processor", *TRIGGERERS, *WORKERS]

    def _arguments_of(self, name: str) -> list[str]:
        if name not in WORKERS:
            return super()._arguments_of(name)
        host = name.replace(":", "-")
        return [
            *("celery", "worker", "--skip-serve-logs", "--without-mingle", "--without-gossip"),
            *("--celery-hostname", host, "--pid", str(self.home / f"{host}.pid")),
        ]

    def _is_ready(self, name: str) -> bool:
        if name in WORKERS:
            return b" ready." in self.processes[name].printed()
        return super()._is_ready(name)

    def _check_components(self) -> None:
        if not self.servers["postgres"].is_running:
            return  # no component starts without the database
        for name, component in list(self.processes.items()):
            if failure := component.failure():
                self.ended.append(failure)
                now = time.monotonic()
                recent = [moment for moment in self._ended_at.get(name, ()) if moment > now - LOOP_WINDOW]
                self._ended_at[name] = [*recent, now]
                if len(recent) + 1 >= ENDLESS_LOOP:
                    raise LocalAirflowError(failure)
                self.lose(name)
                self.launch(name)


@contextlib.contextmanager
def distributed_airflow(home: Path | str, **options: Any) -> Iterator[DistributedAirflow]:
    """
    Run a deployment with its own PostgreSQL and Redis servers.

    :param home: folder for everything that Airflow writes.
    :param options: those of :class:`DistributedAirflow`.
    """
    with (
        PostgresServer() as postgres,
        RedisServer() as redis,
        DistributedAirflow(home, postgres=postgres, redis=redis, **options) as airflow,
    ):
        yield airflow
