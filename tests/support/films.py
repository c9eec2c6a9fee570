"""Films that ffmpeg has joined from the emulator's videos."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from imageio_ffmpeg import get_ffmpeg_exe

if TYPE_CHECKING:
    from pathlib import Path


def shots_of(film: Path) -> list[float]:
    """
    Return the durations of a film's shots in seconds.

    The emulator's videos have ten pictures a second. The last picture takes the rest, which in these tests is never
    a tenth of a second, so it marks the end of a shot.
    """
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-i", film, "-c", "copy", "-f", "framecrc", "-"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    [scale] = [int(line.rpartition("/")[2]) for line in lines if line.startswith("#tb 0:")]
    pictures = [int(line.split(",")[3]) / scale for line in lines if not line.startswith("#")]
    lengths = [0.0]
    for picture in pictures:
        lengths[-1] = round(lengths[-1] + picture, 3)
        if picture != 0.1:
            lengths.append(0.0)
    return lengths[:-1]
