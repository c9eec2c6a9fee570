"""
Example: join saved clips into a film with ffmpeg, and check its length. Copy this file into Airflow's plugins folder.

Needs ffmpeg: ``pip install imageio-ffmpeg``.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from airflow.providers.common.compat.sdk import ObjectStoragePath

log = logging.getLogger("airflow.task")

# Seconds for each clip. A clip ends with a whole frame of picture and sound, so its length differs a little from the reported
# one. For 40 clips that is 2 s, less than the shortest clip, so that a missing clip is detected.
TOLERANCE = 0.05


def make_film(clips, lengths: list[float | None], destination: str) -> None:
    """
    Join the clips in their order, and store the film.

    :param clips: URIs of the clips.
    :param lengths: length of each clip in seconds; None if the service omitted it.
    :param destination: URI of the film.
    :raises ValueError: if the film is not as long as its clips together.
    """
    with TemporaryDirectory() as folder:
        names = [f"{number}.mp4" for number, _ in enumerate(clips)]
        for name, uri in zip(names, clips, strict=True):
            copy(ObjectStoragePath(uri), Path(folder, name))
        film = join_clips(Path(folder), names)
        check_length(film, lengths)
        copy(film, ObjectStoragePath(destination))
    log.info("%s shots make the film %s.", len(names), destination)


def copy(source, target) -> None:
    """Copy a file from a store or to one."""
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
        log.info(
            "The film is %g s long. The service omitted the length of a shot, so it cannot be checked.",
            seconds,
        )
        return
    if abs(seconds - sum(lengths)) > TOLERANCE * len(lengths):
        raise ValueError(
            f"The film is {seconds:g} s long, but its {len(lengths)} shots are {sum(lengths):g} s long."
        )
    log.info("The film is %g s long, as its shots are.", seconds)


def ffmpeg(*arguments: str | Path) -> str:
    """Run ffmpeg, and return its output."""
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
