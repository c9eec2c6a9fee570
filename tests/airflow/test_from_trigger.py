"""Waits without any worker process, on a real Airflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from airflow_provider_manxue.testing import Emulator, Script
from dev.local_airflow import LocalAirflow
from dev.servers import PostgresServer
from tests.support.airflow_runs import VIDEO_URL

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.heavy

DAG = "start_and_end_in_the_triggerer"
BAD = "end_badly_from_the_triggerer"
BATCH = "batch_from_the_triggerer"
HUNDRED = "hundred_from_the_triggerer"
MAPPED = "mapped_from_the_triggerer"
WAYS = ("argument", "template", "pull")


@pytest.fixture
def airflow(local_airflow: LocalAirflow) -> LocalAirflow:
    if local_airflow.version < (3, 3):
        pytest.skip("this Airflow cannot start a task in the triggerer")
    return local_airflow


def worker_starts(airflow: LocalAirflow, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> int:
    """Count the worker processes of a task's first try. Each logs that it loads the Dag bundles."""
    log = airflow.task_log(dag_id, run_id, task_id, map_index=map_index)
    return sum("DAG bundles loaded" in line for line in log.splitlines())


def test_each_shape_has_the_same_result_with_fewest_workers(
    airflow: LocalAirflow, emulator: Emulator, tmp_path: Path
) -> None:
    shapes = {"start": 1, "end": 1, "both": 0, "neither": 2}
    tasks = {f"{shape}_{way}": starts for shape, starts in shapes.items() for way in WAYS}
    video = emulator.add_task(script=Script.by_hand("processing", "completed"), actual_duration=5.17)
    run_id = airflow.trigger(DAG, conf={"video": video, "callbacks": str(tmp_path)})
    airflow.wait_for_tasks(DAG, run_id, dict.fromkeys([*tasks, "callback", "outlet"], "deferred"))
    emulator.set_status(video, "completed")
    assert airflow.wait_for_run(DAG, run_id) == "success"
    seen = {}
    for task in tasks:
        result = airflow.xcom(DAG, run_id, f"use_{task}")
        # Each response has a URL with another signature.
        url = result.pop("video_url")
        assert VIDEO_URL.fullmatch(url)
        assert result["task"].pop("video_url") == result["by_argument"].pop("video_url") == url
        seen[task] = result
    assert seen["neither_template"]["actualDuration"] == 5.17
    assert seen["neither_template"]["task"]["id"] == video
    assert seen == dict.fromkeys(tasks, seen["neither_template"])
    assert {task: worker_starts(airflow, DAG, run_id, task) for task in tasks} == tasks
    for task in tasks:
        links = airflow._api("GET", f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances/{task}/links")
        assert VIDEO_URL.fullmatch(links["extra_links"]["Watch video"]), task
    assert {task: worker_starts(airflow, DAG, run_id, task) for task in ("callback", "outlet")} == {
        "callback": 1,
        "outlet": 1,
    }
    assert [file.name for file in tmp_path.iterdir()] == ["callback"]
    [(events,)] = airflow.query("SELECT count(*) FROM asset_event WHERE source_run_id = ?", run_id)
    assert events == 1


class Hundred:
    """A hundred waits without a worker. On exit, checks that all have succeeded with one XCom of each key."""

    def __init__(self, airflow: LocalAirflow, emulator: Emulator) -> None:
        self.airflow = airflow
        self.emulator = emulator
        script = Script.by_hand("processing", "completed")
        self.videos = [emulator.add_task(script=script, actual_duration=4 + n / 100) for n in range(100)]

    def __enter__(self) -> Self:
        self.run_id = self.airflow.trigger(HUNDRED, conf={"videos": self.videos})
        self.airflow.wait_for_tasks(HUNDRED, self.run_id, {f"wait_{n}": "deferred" for n in range(100)})
        return self

    def complete(self, count: int) -> None:
        for video in self.videos[:count]:
            self.emulator.set_status(video, "completed")

    def ended(self) -> int:
        return list(self.airflow.task_states(HUNDRED, self.run_id).values()).count("success") - 1

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            return
        assert self.airflow.wait_for_run(HUNDRED, self.run_id) == "success"
        rows = self.airflow.query(
            "SELECT task_id, key FROM xcom WHERE run_id = ? AND task_id LIKE ? ORDER BY task_id, key",
            self.run_id,
            "wait_%",
        )
        kinds = ("actualDuration", "return_value", "video_url")
        # The link to the video and the record for the Video tab are XComs too.
        assert sorted(row for row in rows if not row[1].startswith(("_link", "manxue_status"))) == sorted(
            (f"wait_{n}", key) for n in range(100) for key in kinds
        )
        for n, video in enumerate(self.videos):
            assert self.airflow.xcom(HUNDRED, self.run_id, f"wait_{n}")["id"] == video
            assert self.airflow.xcom(HUNDRED, self.run_id, f"wait_{n}", "actualDuration") == 4 + n / 100
            assert worker_starts(self.airflow, HUNDRED, self.run_id, f"wait_{n}") == 0


@pytest.mark.parametrize("ending", ["failed", "timeout", "wrong kind"])
def test_bad_ending_resumes_on_a_worker_with_its_error(
    airflow: LocalAirflow, emulator: Emulator, tmp_path: Path, ending: str
) -> None:
    scripts = {
        "failed": Script.failing("the prompt is not allowed"),
        "timeout": Script.by_hand("processing"),
        "wrong kind": Script.named("object_image_generation"),
    }
    video = emulator.add_task(script=scripts[ending])
    run_id = airflow.trigger(BAD, conf={"video": video, "callbacks": str(tmp_path)})
    airflow.wait_for_run(BAD, run_id)
    seen = airflow.task_states(BAD, run_id)
    skips = "failed" if ending == "wrong kind" else "skipped"
    execution_timeout = "failed"
    assert seen == {
        "nothing": "success",
        "plain": "failed",
        "soft_fail": skips,
        "never_fail": "skipped",
        "execution_timeout": execution_timeout,
        "unknown_xcom": "failed",
        "macro": "failed",
    }, airflow.describe_run(BAD, run_id)
    messages = {
        "failed": "the prompt is not allowed",
        "timeout": "ManxueTimeoutError",
        "wrong kind": "ManxueMediaTypeError",
    }
    assert messages[ending] in airflow.task_log(BAD, run_id, "plain")
    if ending == "timeout":
        assert "AirflowTaskTimeout" in airflow.task_log(BAD, run_id, "execution_timeout")
    assert "The triggerer could not start the task" in airflow.task_log(BAD, run_id, "unknown_xcom")
    assert "ManxueInputError" in airflow.task_log(BAD, run_id, "unknown_xcom")
    assert messages[ending] in airflow.task_log(BAD, run_id, "macro"), (
        "its template is rendered on the worker"
    )
    assert {"plain", "unknown_xcom"} <= {file.name for file in tmp_path.iterdir()}


def test_batch_has_the_same_result_without_a_worker(airflow: LocalAirflow, emulator: Emulator) -> None:
    videos = [
        emulator.add_task(script=Script.by_hand("processing", "completed"), actual_duration=4.0 + n)
        for n in range(3)
    ]
    videos.append(videos[0])
    run_id = airflow.trigger(BATCH, conf={"videos": videos})
    tasks = {
        f"{shape}_{way}": starts
        for shape, starts in (("both", 0), ("neither", 2))
        for way in ("list", "template", "mapped")
    }
    airflow.wait_for_tasks(BATCH, run_id, dict.fromkeys([*tasks, "mapped_over"], "deferred"))
    for video in videos[:3]:
        emulator.set_status(video, "completed")
    assert airflow.wait_for_run(BATCH, run_id) == "success"
    for task in tasks:
        result = airflow.xcom(BATCH, run_id, f"use_{task}")
        assert [one["id"] for one in result["task"]] == videos
        assert [one["video_url"] for one in result["task"]] == result["video_url"]
        assert result["actualDuration"] == [4.0, 5.0, 6.0, 4.0]
        assert result["by_template"] == [4.0, 5.0, 6.0, 4.0]
        assert result["by_argument"] == result["task"]
    assert {task: worker_starts(airflow, BATCH, run_id, task) for task in tasks} == tasks
    assert worker_starts(airflow, BATCH, run_id, "mapped_over") == 1, "a worker stores the length to map over"
    assert [airflow.xcom(BATCH, run_id, "use_each", map_index=n) for n in range(4)] == videos


@pytest.mark.parametrize("native", ["text", "native"])
def test_templates_are_equal_on_worker_and_triggerer(airflow: LocalAirflow, native: str) -> None:
    dag_id = f"templates_of_both_sides_{native}"
    airflow.wait_for_dag(dag_id)
    body = {
        "logical_date": "2026-03-28T23:59:58.123456Z",
        "conf": {"video": "proj_7", "list": [1, None, {"a": 1.5}]},
    }
    run_id = airflow._api("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"]
    assert airflow.wait_for_run(dag_id, run_id) == "success"
    seen = airflow.xcom(dag_id, run_id, "render")
    assert seen["error"] == "None"
    assert seen["triggerer"] == seen["worker"]
    assert len(seen["worker"]) == 20
    assert "proj_7" in seen["worker"]["params"]


def test_worker_only_template_starts_on_a_worker(airflow: LocalAirflow, emulator: Emulator) -> None:
    video = emulator.add_task(script=Script.polls("processing", "completed"))
    run_id = airflow.trigger("template_of_a_worker", conf={"video": video})
    assert airflow.wait_for_run("template_of_a_worker", run_id) == "success"
    assert airflow.xcom("template_of_a_worker", run_id, "wait")["id"] == video
    assert worker_starts(airflow, "template_of_a_worker", run_id, "wait") == 1


def test_mapped_tasks_defer_on_a_worker_with_one_warning(airflow: LocalAirflow, emulator: Emulator) -> None:
    videos = [emulator.add_task(script=Script.by_hand("processing", "completed")) for _ in range(2)]
    run_id = airflow.trigger(MAPPED, conf={"videos": videos})
    airflow.wait_for_tasks(MAPPED, run_id, {("wait", n): "deferred" for n in range(2)})
    for video in videos:
        emulator.set_status(video, "completed")
    assert airflow.wait_for_run(MAPPED, run_id) == "success"
    for n, video in enumerate(videos):
        assert airflow.xcom(MAPPED, run_id, "wait", map_index=n)["id"] == video
        assert worker_starts(airflow, MAPPED, run_id, "wait", map_index=n) == 2
        log = airflow.task_log(MAPPED, run_id, "wait", map_index=n)
        assert log.count("A mapped task can neither start nor end in the triggerer") == 1


def test_killed_triggerer_loses_none_of_a_hundred_waits(airflow: LocalAirflow, emulator: Emulator) -> None:
    with Hundred(airflow, emulator) as waits:
        waits.complete(50)
        airflow.wait_until(lambda: waits.ended() >= 10, "some have ended")
        airflow.kill("triggerer")
        waits.complete(100)
        airflow.start("triggerer")


def test_clear_removes_the_result_of_the_earlier_run(airflow: LocalAirflow, emulator: Emulator) -> None:
    video = emulator.add_task(script=Script.polls("completed"))
    run_id = airflow.trigger(BAD, conf={"video": video})
    airflow.wait_for_run(BAD, run_id)
    assert airflow.xcom(BAD, run_id, "plain")["id"] == video
    emulator.set_status(video, "failed")
    body = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["plain"], "only_failed": False}
    airflow._api("POST", f"/api/v2/dags/{BAD}/clearTaskInstances", body)
    airflow.wait_for_tasks(BAD, run_id, {"plain": "failed"})
    for key in ("return_value", "video_url", "actualDuration"):
        with pytest.raises(KeyError):
            airflow.xcom(BAD, run_id, "plain", key=key)


@pytest.fixture
def on_postgres(emulator: Emulator, tmp_path: Path) -> Iterator[LocalAirflow]:
    """An Airflow with two triggerers and a separate PostgreSQL database."""
    with (
        PostgresServer() as server,
        LocalAirflow(
            tmp_path / "airflow",
            dags_folder=Path(__file__).parent / "dags",
            env={"AIRFLOW_CONN_MANXUE_DEFAULT": emulator.airflow_connection_json()},
            # Each triggerer takes a few triggers at a time, so that both have some.
            config={"triggerer.max_trigger_to_select_per_loop": 5},
            pools={},
            postgres=server.url,
        ) as airflow,
    ):
        airflow.start("triggerer:2")
        yield airflow


@pytest.mark.services
def test_two_triggerers_on_postgresql_share_the_waits(on_postgres: LocalAirflow, emulator: Emulator) -> None:
    airflow = on_postgres
    with Hundred(airflow, emulator) as waits:
        count = "SELECT count(DISTINCT triggerer_id) FROM trigger WHERE triggerer_id IS NOT NULL"
        airflow.wait_until(lambda: airflow.query(count) == [(2,)], "both triggerers have taken some")
        waits.complete(50)
        airflow.wait_until(lambda: waits.ended() >= 10, "some have ended")
        airflow.kill("triggerer:2")
        waits.complete(100)
