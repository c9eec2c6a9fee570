"""The symptoms of ``docs/on-call.md``, each produced once: the metrics and log lines of the page appear on a real Airflow."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_manxue.testing import Emulator, Response, Script
from dev.local_airflow import LocalAirflow
from tests.support.statsd_server import statsd_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.statsd_server import StatsdServer

pytestmark = pytest.mark.heavy

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "example_dags"
PAGE = HERE.parents[1] / "docs/on-call.md"
DAG = "on_call"
FILM = "manxue_alerts"
BY_HAND = Script.by_hand("processing", "completed")
SERVICES = (
    "too_low", "throttled", "away", "refused", "removed", "queue", "full", "lacking", "newer", "holds_slot", "slots",
    "unknown", "expired", "store", "missing", "manxue_default",
)  # fmt: skip
"""Ids of the connections. Each leads to a service of its own, since a fault affects all requests of a service."""

IN_DATABASE = ("refused", "removed")
"""Connections that are edited. That of ``missing`` is created as the remedy."""

METRIC = re.compile(r"`([a-z_]+\.[\w.]+|triggerer_heartbeat|operator_failures)`")

FAULTY = ("throttled", "away", "refused", "removed")
"""Tasks whose trouble begins when they are deferred."""


def sections() -> dict[str, dict[str, str]]:
    """Return the rows of each section of the page."""
    found = re.findall(r"^## (.*)\n\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    return {title: dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", rows, re.MULTILINE)) for title, rows in found}


def quoted(row: str) -> list[re.Pattern[str]]:
    """Return a pattern for each quoted text, with any value in place of ``...``."""
    texts = re.findall(r'"([^"]+)"', row)
    return [re.compile(".*?".join(map(re.escape, text.split("...")))) for text in texts]


@dataclass
class Night:
    """An Airflow, the metrics that it has sent, the services, and a run of the Dag with all symptoms."""

    airflow: LocalAirflow
    statsd: StatsdServer
    services: dict[str, Emulator]
    videos: dict[str, str]
    run_id: str

    def values(self, name: str) -> list[float]:
        """Return the received values of a metric."""
        return [one.value for one in self.statsd.values if one.name == f"airflow.{name}"]

    def gauge(self, name: str, conn_id: str) -> list[float]:
        """Return the received values of a gauge for one connection."""
        prefix = f"airflow.manxue.{name}.{conn_id}."
        return [one.value for one in self.statsd.values if one.name.startswith(prefix)]

    def has_sent(self, name: str) -> bool:
        return any(one.name.startswith(f"airflow.{name}") for one in list(self.statsd.values))

    def log(self, task: str) -> str:
        return self.airflow.task_log(DAG, self.run_id, task)

    def triggerer_log(self) -> str:
        return "".join(file.read_text(errors="replace") for file in self.airflow.home.glob("triggerer*.log"))

    def wait_for(self, what: str, predicate) -> None:
        self.airflow.wait_until(predicate, what)

    def end(self, *tasks: str) -> None:
        """End the trouble of tasks, and complete their videos."""
        for task in tasks:
            service = self.services[task]
            service.respond_with(None)
            if task == "refused":
                self._edit_key(task)
            for video in service.tasks:
                service.set_status(video, "completed")

    def _edit_key(self, conn_id: str) -> None:
        self.airflow._api(
            "PATCH",
            f"/api/v2/connections/{conn_id}?update_mask=password",
            {
                "connection_id": conn_id,
                "conn_type": "manxue",
                "password": self.services[conn_id].api_key,
            },
        )

    def create_connection(self, conn_id: str) -> None:
        connection = json.loads(self.services[conn_id].airflow_connection_json())
        body = {**connection, "connection_id": conn_id, "extra": json.dumps(connection["extra"])}
        self.airflow._api("POST", "/api/v2/connections", body)


def connection_json(name: str, service: Emulator) -> str:
    limits = {"requests_per_second": 1} if name == "too_low" else {}
    return json.dumps({**json.loads(service.airflow_connection_json()), "extra": limits})


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    with contextlib.ExitStack() as stack:
        services = {name: stack.enter_context(Emulator(default_script=BY_HAND)) for name in SERVICES}
        statsd = stack.enter_context(statsd_server())
        dags = tmp_path_factory.mktemp("dags")
        for file in (
            *map((HERE / "dags").joinpath, ("manxue_on_call.py", "on_call_triggers.py", "pull.py")),
            EXAMPLES / f"{FILM}.py",
        ):
            (dags / file.name).symlink_to(file)
        airflow = stack.enter_context(
            LocalAirflow(
                tmp_path_factory.mktemp("airflow"),
                dags_folder=dags,
                env={
                    "PYTHONPATH": str(dags),
                    **{
                        f"AIRFLOW_CONN_{name.upper()}": connection_json(name, service)
                        for name, service in services.items()
                        if name not in (*IN_DATABASE, "missing")
                    },
                },
                pools={"one": 1},
                config={
                    "core.plugins_folder": EXAMPLES / "plugins",
                    "metrics.statsd_on": True,
                    "metrics.statsd_host": "127.0.0.1",
                    "metrics.statsd_port": statsd.port,
                    # The triggerer without --queues takes deadline alerts only.
                    "triggerer.queues_enabled": True,
                },
            )
        )
        airflow.launch("triggerer:default", "--queues", "default")
        yield begin(airflow, statsd, services, tmp_path_factory.mktemp("videos"))


def begin(airflow: LocalAirflow, statsd: StatsdServer, services: dict[str, Emulator], folder: Path) -> Night:
    videos = {name: service.add_task() for name, service in services.items()}
    night = Night(airflow, statsd, services, videos, "")
    for conn_id in IN_DATABASE:
        night.create_connection(conn_id)
    services["unknown"].respond_with(Response(status=500), on="create")
    services["store"].set_status(videos["store"], "completed")
    services["expired"].set_status(videos["expired"], "completed")
    expired = {"id": "proj_gone", "video_url": services["expired"].video_url(videos["expired"])}
    services["expired"].clock.advance(timedelta(days=2).total_seconds())
    too_low = [videos["too_low"], *(services["too_low"].add_task() for _ in range(7))]
    conf = {**videos, "too_low": too_low, "expired": expired, "folder": f"file://{folder}/"}
    night.run_id = airflow.trigger(DAG, conf=conf)
    order_film(airflow)
    airflow.wait_for_tasks(DAG, night.run_id, dict.fromkeys(FAULTY, "deferred"))
    polls = services["removed"].polls
    night.wait_for("the triggerer has read the connection", lambda: len(polls(videos["removed"])) > 1)
    services["throttled"].respond_with(Response(status=429), on="query")
    services["away"].respond_with(Response(status=503), on="query")
    with contextlib.suppress(json.JSONDecodeError):  # a response without a body
        airflow._api("DELETE", "/api/v2/connections/removed")
    return night


def order_film(airflow: LocalAirflow) -> None:
    """Run the example whose film is late, as soon as its deadline has passed."""
    airflow.wait_for_dag(FILM)
    airflow._api("PATCH", f"/api/v2/dags/{FILM}", {"is_paused": False})
    at = datetime.now(UTC) - timedelta(hours=6) + timedelta(seconds=10)
    airflow._api(
        "POST", f"/api/v2/dags/{FILM}/dagRuns", {"dag_run_id": "late", "logical_date": at.isoformat()}
    )


def test_queue_without_a_triggerer(night: Night) -> None:
    waiting = ("queue", "full")
    night.airflow.wait_for_tasks(DAG, night.run_id, dict.fromkeys(waiting, "deferred"))
    for task in waiting:
        assert_shown(night, "No triggerer serves the queue", task)
    assert not any(night.has_sent(f"manxue.waits.{task}.") for task in waiting)


def test_alert_when_the_film_is_late(night: Night) -> None:
    night.wait_for(
        "the alert is sent",
        lambda: re.search(rf"Film alert: The run late of {FILM} has not succeeded by", night.triggerer_log()),
    )
    assert night.airflow.run_state(FILM, "late") == "running"
    service = night.services["manxue_default"]
    for order in service.ledger.orders:
        service.set_status(order.id, "failed", error="the prompt is not allowed")


@pytest.fixture(scope="module")
def films_triggerer(night: Night) -> Night:
    """A triggerer for the queue of some waits, which runs one trigger at a time."""
    night.airflow.launch("triggerer:films", "--queues", "films", "--capacity", "1")
    return night


@pytest.mark.parametrize(
    ("section", "tasks"),
    {
        "The limit is too low": ["too_low"],
        "The service throttles": ["throttled"],
        "The service is away": ["away"],
        "The key is refused": ["refused"],
        "The worker slots are full": ["holds_slot", "slots"],
        "The outcome of an order is unknown": ["unknown"],
        "The URL has expired": ["expired"],
        "The store refuses": ["store"],
        "The connection is missing": ["missing"],
    }.items(),
)
def test_metrics_and_log_of_a_symptom(films_triggerer: Night, section: str, tasks: list[str]) -> None:
    night = films_triggerer
    if section == "The key is refused":  # now, since a refused key ends a wait after 5 minutes
        night.services["refused"].api_key = "the-new-key"
    assert_shown(night, section, *tasks)
    if section == "The limit is too low":
        night.wait_for("the queue is long", lambda: max(night.values("manxue.queue_time"), default=0) > 2000)
        assert max(night.gauge("oldest_poll", "too_low")) > 2
    if section == "The service throttles":
        night.wait_for("the rate is low", lambda: min(night.gauge("rate", "throttled"), default=10) < 10)
        assert set(night.gauge("limit", "throttled")) == {10}
    night.end(*tasks)


def assert_shown(night: Night, section: str, *tasks: str) -> None:
    """Assert that the metrics and the quoted log lines of a section appear."""
    rows = sections()[section]
    for name in METRIC.findall(re.sub(r"`[\w.]+` does not rise", "", rows["metric"])):
        night.wait_for(f"{name} is sent", lambda name=name: night.has_sent(name))
    logs = {"log": lambda: "".join(map(night.log, tasks)), "triggerer's log": night.triggerer_log}
    for row, log in logs.items():
        for text in quoted(rows.get(row, "")):
            night.wait_for(f"{text.pattern} is logged", lambda text=text, log=log: text.search(log()))


def test_triggerer_of_a_queue(films_triggerer: Night) -> None:
    """It takes the waits of its queue only, and no more than it has capacity for."""
    night = films_triggerer
    waiting = ("queue", "full")
    night.wait_for("one is polled", lambda: any(night.has_sent(f"manxue.waits.{task}.") for task in waiting))
    [first] = [task for task in waiting if night.has_sent(f"manxue.waits.{task}.")]
    [second] = set(waiting) - {first}
    assert_shown(night, "The triggerers are full", second)
    night.wait_for(
        "it is full",
        lambda: any(
            one.value == 0
            for one in night.statsd.values
            if one.name.startswith("airflow.triggerer.capacity_left.")
        ),
    )
    assert len(night.services[second].polls(night.videos[second])) == 1, "the worker's"

    night.end(first)

    night.wait_for(
        "the second is polled", lambda: len(night.services[second].polls(night.videos[second])) > 1
    )
    night.end(second)


@pytest.mark.parametrize(
    ("section", "task"), {"The triggerer lacks the package": "lacking", "Versions differ": "newer"}.items()
)
def test_triggerer_with_another_version(films_triggerer: Night, section: str, task: str) -> None:
    assert_shown(films_triggerer, section, task)


def test_slow_service(night: Night) -> None:
    """It follows the outage, at whose end the video was completed."""
    assert_shown(night, "The service is slow", "away")


def test_waits_continue_after_the_remedies(films_triggerer: Night) -> None:
    night = films_triggerer
    for conn_id in ("removed", "missing"):
        night.create_connection(conn_id)
    night.end("removed")

    assert night.airflow.wait_for_run(DAG, night.run_id) == "failed"

    states = night.airflow.task_states(DAG, night.run_id)
    failed = {"lacking", "newer", "unknown", "expired", "store"}
    # The wait for a missing connection fails after 25 s, or goes on if a triggerer began to poll it later than planned.
    assert {task for task, state in states.items() if state != "success"} - {"missing"} == failed


def test_alert_with_the_reason(night: Night) -> None:
    assert night.airflow.wait_for_run(FILM, "late") == "failed"
    log = night.airflow.task_log(FILM, "late", "order")
    assert f"Film alert: The task order of {FILM}, run late, failed. ManxueVideoFailedError: " in log
