"""Playable MP4 files of any length and size, generated at run time."""

from __future__ import annotations

import hashlib
import math
from struct import pack
from typing import TYPE_CHECKING

from airflow_provider_manxue.testing._pictures import (
    BLACK_SQUARE,
    HEIGHT,
    PICTURE_PARAMETERS,
    SEQUENCE_PARAMETERS,
    WHITE_SQUARE,
    WIDTH,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_TICKS_PER_SECOND = 1000
_TICKS_PER_PICTURE = 100
_CHUNK = 256 * 1024
# A prime, so that a download with an offset wrong by a power of two gets different bytes.
_FILLER_PERIOD = 65521
_UNITY_MATRIX = pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


class Video:
    """
    An MP4 file (H.264, no sound, ``moov`` before ``mdat``) that is never completely in memory.

    :param name: text that makes the content unique; written to the ``udta`` box.
    :param duration: length in seconds, exact to the millisecond.
    :param size: size of the file in bytes; the natural size (about 9 kB a second) if left out. A ``free``
        box at the end is the padding.
    :raises ValueError: if the duration is not positive or the size is too small for it.
    """

    def __init__(self, name: str, duration: float, size: int | None = None) -> None:
        ticks = round(duration * _TICKS_PER_SECOND) if math.isfinite(duration) else 0
        if ticks <= 0:
            raise ValueError(f"duration is {duration!r}. Set a positive number of seconds.")
        movie = _movie(name, ticks)
        self.size = len(movie) if size is None else size
        padding = self.size - len(movie)
        if padding and padding < 16:
            raise ValueError(
                f"size is {size!r} bytes, but {duration} s of video need {len(movie)}."
                f" Set exactly that, or at least {len(movie) + 16}, or leave it out."
            )
        # Size 1 means that a 64-bit length follows, for padding over 4 GiB.
        self._head = movie + (pack(">I4sQ", 1, b"free", padding) if padding else b"")
        self._filler = hashlib.shake_256(name.encode()).digest(_FILLER_PERIOD)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` up to, not including, ``stop``."""
        stop = min(stop, self.size)
        parts = [self._head[start:stop]]
        position = max(start, len(self._head))
        while position < stop:
            offset = (position - len(self._head)) % _FILLER_PERIOD
            parts.append(self._filler[offset : offset + stop - position])
            position += len(parts[-1])
        return b"".join(parts)

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the same bytes as :meth:`read`, in chunks."""
        for position in range(start, stop, _CHUNK):
            yield self.read(position, min(position + _CHUNK, stop))


def _movie(name: str, ticks: int) -> bytes:
    """Return a complete MP4 file with the given length in milliseconds."""
    durations = _picture_durations(ticks)
    pictures = [_picture(number) for number in range(len(durations))]
    header = _box(b"ftyp", b"isom", pack(">I", 512), b"isomiso2avc1mp41")
    # Two passes: the offset of the pictures depends on the length of the table that contains it.
    table = _moov(name, durations, pictures, offset=0)
    table = _moov(name, durations, pictures, offset=len(header) + len(table) + 8)
    return header + table + _box(b"mdat", *pictures)


def _picture_durations(ticks: int) -> list[int]:
    """Split the length into pictures; the last one takes the remainder."""
    count = max(1, ticks // _TICKS_PER_PICTURE)
    return [_TICKS_PER_PICTURE] * (count - 1) + [ticks - _TICKS_PER_PICTURE * (count - 1)]


def _picture(number: int) -> bytes:
    """Return one access unit."""
    # Neighbours must differ in `idr_pic_id`, so the two pictures alternate.
    unit = WHITE_SQUARE if number % 2 == 0 else BLACK_SQUARE
    return pack(">I", len(unit)) + unit


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return pack(">I4s", len(body) + 8, kind) + body


def _full_box(kind: bytes, flags: int, *content: bytes) -> bytes:
    """Return a box with a version (0) and flags."""
    return _box(kind, pack(">I", flags), *content)


def _moov(name: str, durations: list[int], pictures: list[bytes], offset: int) -> bytes:
    ticks = sum(durations)
    # Creation and modification time stay 0: the same task always has the same bytes.
    movie_header = _full_box(
        b"mvhd",
        0,
        pack(">4I", 0, 0, _TICKS_PER_SECOND, ticks),
        pack(">IH10x", 0x10000, 0x100),
        _UNITY_MATRIX,
        bytes(24),
        pack(">I", 2),
    )
    track_header = _full_box(
        b"tkhd",
        3,
        pack(">5I", 0, 0, 1, 0, ticks),
        bytes(16),
        _UNITY_MATRIX,
        pack(">2I", WIDTH << 16, HEIGHT << 16),
    )
    media_header = _full_box(b"mdhd", 0, pack(">4I2H", 0, 0, _TICKS_PER_SECOND, ticks, 0x55C4, 0))
    handler = _full_box(b"hdlr", 0, pack(">I4s12x", 0, b"vide"), b"VideoHandler\0")
    data_information = _box(b"dinf", _full_box(b"dref", 0, pack(">I", 1), _full_box(b"url ", 1)))
    media_information = _box(
        b"minf",
        _full_box(b"vmhd", 1, bytes(8)),
        data_information,
        _sample_table(durations, pictures, offset),
    )
    track = _box(b"trak", track_header, _box(b"mdia", media_header, handler, media_information))
    # The language of the title is `und`, packed as in ISO 14496-12.
    title = _full_box(b"titl", 0, pack(">H", 0x55C4), name.encode(), b"\0")
    return _box(b"moov", movie_header, track, _box(b"udta", title))


def _sample_table(durations: list[int], pictures: list[bytes], offset: int) -> bytes:
    count = len(durations)
    sizes = [len(picture) for picture in pictures]
    return _box(
        b"stbl",
        _full_box(b"stsd", 0, pack(">I", 1), _sample_entry()),
        _full_box(b"stts", 0, pack(">5I", 2, count - 1, _TICKS_PER_PICTURE, 1, durations[-1])),
        _full_box(b"stsc", 0, pack(">4I", 1, 1, count, 1)),
        _full_box(b"stsz", 0, pack(">2I", 0, count), pack(f">{count}I", *sizes)),
        _full_box(b"stco", 0, pack(">2I", 1, offset)),
    )


def _sample_entry() -> bytes:
    configuration = (
        b"\x01" + SEQUENCE_PARAMETERS[1:4] + b"\xff\xe1"
        + pack(">H", len(SEQUENCE_PARAMETERS)) + SEQUENCE_PARAMETERS
        + b"\x01" + pack(">H", len(PICTURE_PARAMETERS)) + PICTURE_PARAMETERS
    )  # fmt: skip
    return _box(
        b"avc1",
        pack(">6xH16x", 1),
        pack(">2H3IH32s2H", WIDTH, HEIGHT, 0x480000, 0x480000, 0, 1, b"", 24, 0xFFFF),
        _box(b"avcC", configuration),
    )
