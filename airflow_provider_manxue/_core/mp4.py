"""
Assessment of MP4 and QuickTime files (ISO/IEC 14496-12): whether bytes are missing. No I/O happens here.

Theory of operation: walk the boxes of the top level, then read the positions of the samples from ``moov`` and from each
``moof``. The file is whole if every sample ends inside of it. The media data is not decoded, and bytes after the last
known box are ignored. Numbers in parentheses are sections of the standard.

Longer than 350 lines: one file format.
"""

from __future__ import annotations

import enum
import sys
from array import array
from collections import defaultdict, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    ReadAt = Callable[[int, int], bytes]
    """Function that returns up to a number of bytes from a position of the file: position, number."""

_MAX_BOXES = 100_000
"""Maximum number of boxes of a file. A real one has hundreds; with a fragment for each frame, thousands."""

_MIN_BOX = 8
"""Bytes of the shortest box, only a header."""

_MAX_TABLE = 8 * 2**20
"""Maximum size of one table in bytes: two million samples, nine hours at 60 frames a second."""

_TOP_LEVEL = frozenset(
    {
        b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"imda", b"free", b"skip", b"wide", b"uuid", b"meta", b"udta",
        b"pdin", b"sidx", b"ssix", b"prft", b"emsg", b"mfra", b"meco", b"pnot",
    }
)  # fmt: skip
"""Boxes of the top level. Another name after them may be appended text."""


class State(enum.Enum):
    """The state of a file, according to its structure."""

    WHOLE = enum.auto()
    """Nothing is missing."""

    PLAUSIBLE = enum.auto()
    """Nothing is known to be missing, but only an announced length can show that."""

    UNKNOWN = enum.auto()
    """The structure cannot be read, or describes no video."""

    INCOMPLETE = enum.auto()
    """Bytes are missing."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """The state of a file. The reason names the missing or unreadable part; it is empty for a whole file."""

    state: State
    reason: str = ""


class _UnreadableError(Exception):
    """A box or a table contradicts another one, or is too long to be read."""


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    start: int
    body: int
    end: int


@dataclass(slots=True)
class _TopLevel:
    boxes: defaultdict[bytes, list[_Box]] = field(default_factory=lambda: defaultdict(list))
    position: int = 0
    cut: bool = False
    readable: bool = True


def assess_mp4(read_at: ReadAt, size: int) -> Assessment:
    """Assess whether a file of ``size`` bytes is whole."""
    top = _walk(read_at, size)
    if top.cut:
        return Assessment(
            State.INCOMPLETE, f"the MP4 is longer than the body, which ended after {size} bytes"
        )
    if not top.boxes[b"moov"]:
        where = "has no 'moov' box" if top.readable else f"cannot be read from byte {top.position} on"
        return Assessment(State.UNKNOWN, f"the MP4 {where}")
    try:
        return _assess_samples(_Reader(read_at), top, size)
    except _UnreadableError as error:
        return Assessment(State.UNKNOWN, f"the MP4 cannot be read: {error}")


def _assess_samples(reader: _Reader, top: _TopLevel, size: int) -> Assessment:
    movie = _read_movie(reader, top.boxes[b"moov"][0])
    fragments = [_read_fragment(reader, box, movie.default_sizes) for box in top.boxes[b"moof"]]
    end = max(
        [movie.end, *(one.end for one in fragments), *(_index_end(reader, box) for box in top.boxes[b"sidx"])]
    )
    if end > size:
        return Assessment(
            State.INCOMPLETE,
            f"the MP4 describes media data up to byte {end}, the body ended after {size} bytes",
        )
    if movie.samples or sum(one.samples for one in fragments):
        if movie.is_fragmented and not fragments:
            return Assessment(State.UNKNOWN, "the MP4 has none of the fragments that it announces")
        if fragments and not (top.boxes[b"sidx"] or top.boxes[b"mfra"]):
            return Assessment(State.PLAUSIBLE, "a fragmented MP4 without an index may have further fragments")
        return Assessment(State.WHOLE)
    return Assessment(
        State.UNKNOWN, "the MP4 holds no media data" if movie.has_tracks else "the MP4 describes no track"
    )


def _walk(read_at: ReadAt, size: int) -> _TopLevel:
    """Read the headers of the top level up to the end, a cut box, or bytes that are not a box."""
    top = _TopLevel()
    for _ in range(_MAX_BOXES):
        if top.position == size:
            return top
        box = _header(read_at, top.position, size)
        if box is None:
            break
        if box.end > size:
            # Appended text can look like the header of a box of gigabytes.
            top.cut = box.kind in _TOP_LEVEL
            break
        top.boxes[box.kind].append(box)
        top.position = box.end
    top.readable = False
    return top


def _header(read_at: ReadAt, start: int, limit: int) -> _Box | None:
    """Read the header of a box (4.2); None if there is none. A length of 0 means up to the limit."""
    head = read_at(start, 16)[: limit - start]
    length, kind, body = int.from_bytes(head[:4]), head[4:8], start + 8
    if len(head) < 8 or not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind):
        return None
    if length == 0 and kind in _TOP_LEVEL:
        return _Box(kind, start, body, limit)
    if length == 1:
        if len(head) < 16:
            return _Box(kind, start, body, limit + 1)
        length, body = int.from_bytes(head[8:]), start + 16
    return _Box(kind, start, body, start + length) if start + length >= body else None


# --- samples --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Samples:
    """The number of samples in a part of the file, and the end of the last one in bytes."""

    samples: int = 0
    end: int = 0

    def add(self, samples: int, end: int) -> None:
        self.samples += samples
        self.end = max(self.end, end) if samples else self.end


@dataclass(slots=True)
class _Movie(_Samples):
    has_tracks: bool = False
    is_fragmented: bool = False
    default_sizes: dict[int, int] = field(default_factory=dict)


class _Reader:
    """Reader of nested boxes and their tables, within the limits."""

    def __init__(self, read_at: ReadAt) -> None:
        self._read_at = read_at
        self._boxes_left = _MAX_BOXES

    def children(self, box: _Box, kind: bytes | None = None) -> Iterator[_Box]:
        """Yield the boxes inside of a box, all or those of one kind, up to the first bytes that are not a box."""
        position = box.body
        while position < box.end:
            self._boxes_left -= 1
            if self._boxes_left < 0:
                raise _UnreadableError(f"it has more than {_MAX_BOXES} boxes")
            child = _header(self._read_at, position, box.end)
            if child is None or child.end > box.end:
                return
            if kind in (None, child.kind):
                yield child
            position = child.end

    def find(self, box: _Box, *path: bytes) -> _Box | None:
        """Return the first box at a path of names."""
        found: _Box | None = box
        for kind in path:
            found = next(self.children(found, kind), None) if found else None
        return found

    def fields(self, box: _Box) -> bytes:
        """Return the body of a box that is not too long."""
        if box.end - box.body > _MAX_TABLE:
            raise _UnreadableError(f"its {box.kind.decode('latin-1')!r} table has {box.end - box.body} bytes")
        return self._read_at(box.body, box.end - box.body)


def _numbers(data: bytes, start: int, count: int, width: int) -> array[int]:
    """Return a number of unsigned integers of 1, 2, 4 or 8 bytes."""
    part = data[start : start + count * width]
    if len(part) < count * width:
        raise _UnreadableError("a table is shorter than its number of entries")
    numbers = array({1: "B", 2: "H", 4: "I", 8: "Q"}[width], part)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _number(data: bytes, start: int, width: int = 4) -> int:
    return _numbers(data, start, 1, width)[0]


def _read_movie(reader: _Reader, moov: _Box) -> _Movie:
    movie = _Movie()
    position = moov.body
    for box in reader.children(moov):
        position = box.end
        if box.kind == b"trak":
            movie.has_tracks = True
            movie.add(*_read_track(reader, box))
        elif box.kind == b"mvex":
            movie.is_fragmented = True
            for trex in reader.children(box, b"trex"):
                values = reader.fields(trex)
                movie.default_sizes[_number(values, 4)] = _number(values, 16)
    if moov.end - position >= _MIN_BOX:
        raise _UnreadableError(f"its 'moov' cannot be read from byte {position} on")
    return movie


def _read_track(reader: _Reader, trak: _Box) -> tuple[int, int]:
    """Return the number of samples of a track, and the end of the last one (8.7.3 to 8.7.5)."""
    table = reader.find(trak, b"mdia", b"minf", b"stbl")
    boxes = {box.kind: box for box in reader.children(table)} if table else {}
    sizes_box, runs_box = boxes.get(b"stsz") or boxes.get(b"stz2"), boxes.get(b"stsc")
    offsets_box = boxes.get(b"stco") or boxes.get(b"co64")
    if sizes_box is None or runs_box is None or offsets_box is None:
        raise _UnreadableError("a track has no sample table")
    count, sizes = _sample_sizes(sizes_box.kind, reader.fields(sizes_box))
    offsets_data = reader.fields(offsets_box)
    offsets = _numbers(offsets_data, 8, _number(offsets_data, 4), 4 if offsets_box.kind == b"stco" else 8)
    if not count:
        return 0, 0
    runs_data = reader.fields(runs_box)
    runs = _numbers(runs_data, 8, 3 * _number(runs_data, 4), 4)
    return count, _chunks_end(count, sizes, offsets, list(zip(runs[::3], runs[1::3], strict=True)))


def _sample_sizes(kind: bytes, data: bytes) -> tuple[int, int | Sequence[int]]:
    """Return the number of samples, and one size for all or a list of sizes."""
    size, count = _number(data, 4), _number(data, 8)
    if kind == b"stz2":
        if size not in (8, 16):
            raise _UnreadableError(f"its sample sizes have {size} bits")
        return count, _numbers(data, 12, count, size // 8)
    return count, size or _numbers(data, 12, count, 4)


def _chunks_end(
    count: int, sizes: int | Sequence[int], offsets: Sequence[int], runs: list[tuple[int, int]]
) -> int:
    """Return the end of the last chunk. A run applies from its first chunk to the first chunk of the next run."""
    end, samples_left = 0, count
    each = iter(sizes) if not isinstance(sizes, int) else iter(())
    waiting, per_chunk = deque(runs), 0
    for number, offset in enumerate(offsets, 1):
        while waiting and waiting[0][0] <= number:
            per_chunk = waiting.popleft()[1]
        here = min(per_chunk, samples_left)
        samples_left -= here
        length = here * sizes if isinstance(sizes, int) else sum(islice(each, here))
        if length and offset < _MIN_BOX:
            raise _UnreadableError("its media data would begin before the first box")
        end = max(end, offset + length)
    if samples_left:
        raise _UnreadableError(f"its chunks hold {count - samples_left} of {count} samples")
    return end


# --- fragments ------------------------------------------------------------------------------------------

_BASE_OFFSET, _DESCRIPTION, _DURATION, _SIZE = 0x1, 0x2, 0x8, 0x10
"""Flags of ``tfhd`` for its optional fields (8.8.7)."""

_DATA_OFFSET, _FIRST_FLAGS, _SAMPLE_SIZE, _SAMPLE_FIELDS = 0x1, 0x4, 0x200, (0x100, 0x200, 0x400, 0x800)
"""Flags of ``trun`` (8.8.8)."""


def _read_fragment(reader: _Reader, moof: _Box, default_sizes: dict[int, int]) -> _Samples:
    found = _Samples()
    for traf in reader.children(moof, b"traf"):
        header = reader.find(traf, b"tfhd")
        if header is None:
            raise _UnreadableError("a fragment has no header")
        base, default = _fragment_defaults(reader.fields(header), moof.start, default_sizes)
        position = base
        for run in reader.children(traf, b"trun"):
            samples, start, length = _read_run(reader.fields(run), default)
            position = (position if start is None else base + start) + length
            found.add(samples, position)
    return found


def _fragment_defaults(data: bytes, moof_start: int, default_sizes: dict[int, int]) -> tuple[int, int]:
    """Return the base offset of the runs of a fragment, and the size of their samples."""
    flags, track = _number(data, 0) & 0xFFFFFF, _number(data, 4)
    base = _number(data, 8, 8) if flags & _BASE_OFFSET else moof_start
    widths = {_BASE_OFFSET: 8, _DESCRIPTION: 4, _DURATION: 4}
    size_at = 8 + sum(width for flag, width in widths.items() if flags & flag)
    return base, _number(data, size_at) if flags & _SIZE else default_sizes.get(track, 0)


def _read_run(data: bytes, default: int) -> tuple[int, int | None, int]:
    """Return the number of samples of a run, the start of their data if it is given, and its length."""
    flags, count = _number(data, 0) & 0xFFFFFF, _number(data, 4)
    start = int.from_bytes(data[8:12], signed=True) if flags & _DATA_OFFSET else None
    entries_at = 8 + (4 if flags & _DATA_OFFSET else 0) + (4 if flags & _FIRST_FLAGS else 0)
    if not flags & _SAMPLE_SIZE:
        return count, start, count * default
    width = sum(bool(flags & one) for one in _SAMPLE_FIELDS)
    entries = _numbers(data, entries_at, count * width, 4)
    return count, start, sum(entries[bool(flags & _SAMPLE_FIELDS[0]) :: width])


def _index_end(reader: _Reader, sidx: _Box) -> int:
    """Return the end of the last range of a segment index (8.16.3)."""
    data = reader.fields(sidx)
    width = 4 if _number(data, 0) >> 24 == 0 else 8
    first = _number(data, 12 + width, width)
    count_at = 12 + 2 * width + 2
    count = _number(data, count_at, 2)
    references = _numbers(data, count_at + 2, 3 * count, 4)
    return sidx.end + first + sum(one & 0x7FFFFFFF for one in references[::3])
