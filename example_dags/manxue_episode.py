"""
Example: order the shots of an episode, wait for all of them with one task, save each, and join them into one film.

The connection ``manxue_default`` leads to the service or to its emulator. The destination is a local folder or a bucket such
as ``s3://aws_default@films/episode-7/``, which names the store's connection.

Needs ffmpeg: ``pip install imageio-ffmpeg``.
"""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

# Seconds for each clip. A clip ends with a whole frame of picture and sound, so its length differs a little from the reported
# one. For 40 clips that is 2 s, less than the shortest clip, so that a missing clip is detected.
TOLERANCE = 0.05


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    params={
        "shots": ["A lighthouse at dawn", "The keeper climbs the stairs", "The lamp is lit"],
        "destination": "file:///tmp/manxue/episode/",
    },
    tags=["manxue", "example"],
)
def manxue_episode():
    @task
    def shots(params=None) -> list[str]:
        return params["shots"]

    # One task for each order, so that a retry sends no other order again. None of them waits.
    orders = ManxueCreateVideoOperator.partial(
        task_id="order", model="sd2_manxue_720p", wait_for_completion=False, retries=2
    ).expand(prompt=shots())

    wait = ManxueVideoBatchSensor(task_id="wait", video_task_ids=orders.output)

    saved = ManxueToObjectStorageOperator.partial(
        task_id="save", destination="{{ params.destination }}", retries=3
    ).expand(video_task_id=orders.output)

    # Airflow passes the URIs of the clips in the order of the shots.
    @task(retries=1)
    def join(clips, params=None, ti=None) -> str:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        with TemporaryDirectory() as folder:
            names = [f"{number}.mp4" for number, _ in enumerate(clips)]
            for name, uri in zip(names, clips, strict=True):
                copy(ObjectStoragePath(uri), Path(folder, name))
            film = join_clips(Path(folder), names)
            check_length(film, ti.xcom_pull(task_ids="wait", key="actualDuration"))
            destination = ObjectStoragePath(params["destination"]) / "film.mp4"
            copy(film, destination)
        print(f"{len(names)} shots make the film {destination}.")
        return str(destination)

    wait >> saved
    join(saved.output)


def copy(source, target) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)


def join_clips(folder: Path, names: list[str]) -> Path:
    """Join the clips without encoding them again."""
    playlist, film = folder / "playlist.txt", folder / "film.mp4"
    playlist.write_text("".join(f"file '{name}'\n" for name in names))
    ffmpeg("-f", "concat", "-i", playlist, "-c", "copy", film)
    return film


def check_length(film: Path, lengths: list[float | None]) -> None:
    """Fail if the film is not as long as its shots together."""
    # ffmpeg reads the whole film, discards it, and reports its length.
    progress = ffmpeg("-i", film, "-c", "copy", "-f", "null", "-progress", "-", "-")
    seconds = int(progress.rpartition("out_time_us=")[2].split()[0]) / 1_000_000
    if None in lengths:
        print(
            f"The film is {seconds:g} s long. The service omitted the length of a shot, so it cannot be checked."
        )
        return
    if abs(seconds - sum(lengths)) > TOLERANCE * len(lengths):
        raise ValueError(
            f"The film is {seconds:g} s long, but its {len(lengths)} shots are {sum(lengths):g} s long."
        )
    print(f"The film is {seconds:g} s long, as its shots are.")


def ffmpeg(*arguments: str | Path) -> str:
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


manxue_episode()
