"""A chaos run, and its invariants on damaged results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import requests

from tests.chaos.invariants import Invariants, leftovers
from tests.chaos.run import ChaosRun, deployment
from tests.chaos.schedule import Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_manxue.testing import Emulator

SEED = 1


def order(emulator: Emulator, prompt: str) -> None:
    requests.post(
        f"{emulator.base_url}/v1/sd2_manxue/videos",
        json={"prompt": prompt, "model": "sd2_manxue_720p"},
        headers={"Authorization": f"Bearer {emulator.api_key}"},
        timeout=60,
    ).raise_for_status()


@pytest.mark.services
def test_chaos_run_passes_and_invariants_find_damage(tmp_path: Path) -> None:
    """After the run, each kind of damage is made by hand, so that the invariants are themselves tested."""
    videos = tmp_path / "videos"
    videos.mkdir()
    output: list[str] = []
    with deployment(tmp_path) as (airflow, emulator):
        run = ChaosRun(Schedule.of(SEED), airflow, emulator, videos, output.append)
        assert run.play() == [], output
        assert Invariants(run).broken() == []

        # A component that exits is restarted.
        ended = airflow.processes["dag-processor"].process
        ended.kill()
        airflow.wait_until(lambda: airflow.processes["dag-processor"].process is not ended)

        first = next(video for video in run.videos if video.group == "single")
        file = videos / f"{first.id}.mp4"
        file.write_bytes(file.read_bytes()[:-1])
        (videos / ".manxue-0.mp4").touch()
        (airflow.home / "some.log").write_text(f"Bearer {run.keys[-1]}")
        for _ in range(2):  # twice, since the run may have prevented the first order
            order(emulator, run.prompt(run.videos[0]))
        airflow.query("UPDATE task_instance SET state = 'failed' WHERE task_id = 'all_in_triggerer.wait'")
        airflow.query("DELETE FROM xcom WHERE task_id = 'end_in_triggerer.wait' AND key = 'video_url'")
        broken = "\n".join(Invariants(run).broken())

    for sign in (
        "single[0] is not saved completely",
        "in the folder for the videos: ['.manxue-0.mp4']",
        "a key is in ",
        f"{run.prompt(run.videos[0])} was bought ",
        "all_in_triggerer[0].wait is failed, not success",
        "end_in_triggerer[0].wait has",
    ):
        assert sign in broken
    assert leftovers(airflow) == []
