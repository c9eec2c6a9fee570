"""The MP4 files: structure, length and size."""

from __future__ import annotations

import subprocess
from struct import unpack_from

import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from airflow_provider_manxue.testing._mp4 import Video

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"udta"}


def boxes(data, start=0, stop=None, path=()):
    """Yield the path of each box, and start and stop of its content."""
    position, stop = start, len(data) if stop is None else stop
    while position < stop:
        size, kind = unpack_from(">I4s", data, position)
        header = 8
        if size == 1:
            size, header = unpack_from(">Q", data, position + 8)[0], 16
        assert size >= header
        inside = (*path, kind.decode())
        yield "/".join(inside), position + header, position + size
        if kind in CONTAINERS:
            yield from boxes(data, position + header, position + size, inside)
        position += size
    assert position == stop


def table(video):
    data = video.read(0, video.size)
    return data, {path: (start, stop) for path, start, stop in boxes(data)}


@pytest.mark.parametrize(
    ("duration", "ticks"), [(4.0, 4000), (5.17, 5170), (15, 15000), (0.001, 1), (0.1, 100), (0.199, 199)]
)
def test_length_is_exact_in_every_header(duration, ticks):
    data, found = table(Video("x", duration))

    assert unpack_from(">2I", data, found["moov/mvhd"][0] + 12) == (1000, ticks)
    assert unpack_from(">I", data, found["moov/trak/tkhd"][0] + 20) == (ticks,)
    assert unpack_from(">2I", data, found["moov/trak/mdia/mdhd"][0] + 12) == (1000, ticks)
    times = found["moov/trak/mdia/minf/stbl/stts"][0]
    (entries,) = unpack_from(">I", data, times + 4)
    pairs = [unpack_from(">2I", data, times + 8 + 8 * index) for index in range(entries)]
    assert sum(count * length for count, length in pairs) == ticks


class TestFfmpeg:
    """Players and editors can use the files."""

    @pytest.fixture
    def ffmpeg(self, tmp_path):
        def run(*arguments):
            command = [get_ffmpeg_exe(), "-nostdin", "-loglevel", "warning", *arguments]
            done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
            return done.stdout, done.stderr

        return run

    @pytest.fixture
    def length_of(self, ffmpeg):
        def length(name):
            progress, complaints = ffmpeg("-i", name, "-c", "copy", "-f", "null", "-progress", "-", "-")
            assert complaints == ""
            return int(progress.rpartition("out_time_us=")[2].split()[0]) / 1_000_000

        return length

    @pytest.mark.parametrize(
        ("duration", "size"), [(4.0, None), (5.17, None), (0.199, None), (15, None), (4.567, 1_000_000)]
    )
    def test_ffmpeg_decodes_every_picture(self, tmp_path, ffmpeg, length_of, duration, size):
        video = Video("x", duration, size)
        (tmp_path / "x.mp4").write_bytes(video.read(0, video.size))

        assert ffmpeg("-xerror", "-i", "x.mp4", "-f", "null", "-")[1] == ""
        assert length_of("x.mp4") == duration

    def test_ffmpeg_joins_videos_without_encoding(self, tmp_path, ffmpeg, length_of):
        durations = [5.17, 4.0, 4.567]
        for number, duration in enumerate(durations):
            video = Video(f"shot {number}", duration, 100_000 * (number + 1))
            (tmp_path / f"{number}.mp4").write_bytes(video.read(0, video.size))
        (tmp_path / "playlist").write_text("".join(f"file {number}.mp4\n" for number in range(3)))

        ffmpeg("-f", "concat", "-i", "playlist", "-c", "copy", "film.mp4")
        assert ffmpeg("-xerror", "-i", "film.mp4", "-f", "null", "-")[1] == ""
        assert length_of("film.mp4") == pytest.approx(sum(durations))


def test_pictures_are_at_the_offsets_of_the_table():
    data, found = table(Video("x", 1.0))
    sizes = found["moov/trak/mdia/minf/stbl/stsz"][0]
    (count,) = unpack_from(">I", data, sizes + 8)
    (offset,) = unpack_from(">I", data, found["moov/trak/mdia/minf/stbl/stco"][0] + 8)

    assert count == 10
    assert offset == found["mdat"][0]
    kinds = []
    for index in range(count):
        (size,) = unpack_from(">I", data, sizes + 12 + 4 * index)
        (unit,) = unpack_from(">I", data, offset)
        assert unit == size - 4
        kinds.append(data[offset + 4] & 31)
        offset += size
    assert kinds == [5] * count
    assert offset == found["mdat"][1]


def test_index_comes_before_the_pictures():
    data, found = table(Video("x", 1.0))
    assert found["moov"][1] <= found["mdat"][0]
    assert data[4:8] == b"ftyp"


def test_content_is_unique_and_repeatable():
    video, same, other = Video("task 1", 4.0), Video("task 1", 4.0), Video("task 2", 4.0)

    assert video.read(0, video.size) == same.read(0, same.size) != other.read(0, other.size)
    assert b"task 1" in video.read(0, video.size)


def test_padding_does_not_repeat():
    video = Video("x", 4.0, 1_000_000)
    data, found = table(video)

    assert len(data) == 1_000_000
    assert found["free"][1] == 1_000_000
    start = found["free"][0]
    assert data[start : start + 4096] != data[start + 65536 : start + 65536 + 4096]


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 10), (35_000, 35_200), (100_000, 170_000), (299_990, 300_000)]
)
def test_read_and_chunks_return_the_same_bytes(start, stop):
    video = Video("x", 4.0, 300_000)
    whole = video.read(0, 300_000)

    assert video.read(start, stop) == whole[start:stop] == b"".join(video.chunks(start, stop))


def test_gigabytes_are_never_in_memory():
    video = Video("x", 4.0, 5 * 2**30)

    assert len(video.read(5 * 2**30 - 100, 5 * 2**30)) == 100
    assert len(next(video.chunks(0, video.size))) == 256 * 1024


@pytest.mark.parametrize("duration", [0, -1, 0.0001, float("nan"), float("inf")])
def test_duration_must_be_positive(duration):
    with pytest.raises(ValueError, match="duration"):
        Video("x", duration)


def test_size_must_be_large_enough():
    """The padding is a box, whose head alone has 16 bytes, so a smaller rest cannot be filled."""
    natural = Video("x", 4.0).size
    for size in (0, natural - 1, natural + 15):
        with pytest.raises(ValueError, match=str(natural)):
            Video("x", 4.0, size)
    assert Video("x", 4.0, natural).size == natural
    assert table(Video("x", 4.0, natural + 16))[1]["free"]
