"""
Completeness of an MP4: the media data that its tables describe, compared with its end.

The reasons are in the docstring of ``_core/mp4.py``.
"""

from __future__ import annotations

import re
from struct import pack

import pytest

from airflow_provider_manxue._core import mp4
from airflow_provider_manxue._core.mp4 import State, assess_mp4
from airflow_provider_manxue.testing._mp4 import Video

TAILS = {
    "garbage": bytes.fromhex("0138f3a548b59b70") + b"\xff" * 50,
    "zeros": bytes(64),
    "JSON": b'{"AIGC":{"Label":"1"}}',
    "ID3v1": b"TAG" + b"My video title".ljust(125),
    "a few bytes": b"\r\n",
}


def box(kind, *content):
    body = b"".join(content)
    return pack(">I4s", len(body) + 8, kind) + body


def full(kind, flags, *content, version=0):
    return box(kind, pack(">I", version << 24 | flags), *content)


def table(sizes, offsets, runs=((1, 1),), wide=False):
    sized = full(b"stsz", 0, pack(">II", 0, len(sizes)), *(pack(">I", one) for one in sizes))
    return sample_table(sized, offsets, runs, wide)


def equal_sizes(size, count, offsets, runs):
    return sample_table(full(b"stsz", 0, pack(">II", size, count)), offsets, runs)


def compact_sizes(bits, sizes, offsets):
    entries = (pack(">H" if bits == 16 else ">B", one) for one in sizes)
    return sample_table(full(b"stz2", 0, pack(">II", bits, len(sizes)), *entries), offsets, [(1, len(sizes))])


def sample_table(sized, offsets, runs, wide=False):
    code, kind = (">Q", b"co64") if wide else (">I", b"stco")
    return box(
        b"stbl",
        sized,
        full(b"stsc", 0, pack(">I", len(runs)), *(pack(">3I", first, count, 1) for first, count in runs)),
        full(kind, 0, pack(">I", len(offsets)), *(pack(code, one) for one in offsets)),
    )


def moov(*tables, extends=b""):
    return box(b"moov", *(box(b"trak", box(b"mdia", box(b"minf", one))) for one in tables), extends)


FTYP = box(b"ftyp", b"isom", bytes(4))
MDAT = box(b"mdat", bytes(100))
FIRST = len(FTYP) + 8
"""Offset of the media data in a file with ``mdat`` first."""

FAR = 10**6
"""Offset of media data that lies after the end of a file."""

STSZ = full(b"stsz", 0, pack(">III", 0, 1, 100))
SHORT_TABLE = full(b"stsz", 0, pack(">II", 0, 5), bytes(4 * 4))
HUGE_COUNT = full(b"stsz", 0, pack(">II", 0, 2**31))
HUGE_TABLE = full(b"stsz", 0, pack(">II", 0, 3_000_000), bytes(12_000_000))
STSC = full(b"stsc", 0, pack(">4I", 1, 1, 1, 1))
STCO = full(b"stco", 0, pack(">2I", 1, FIRST))

WHOLE = Video("v", 2.0).read(0, 10**9)
EMPTY_MOOV = box(b"moov")


def assess(body):
    return assess_mp4(lambda start, count: body[start : start + count], len(body))


def mdat_first(*tables):
    return FTYP + MDAT + moov(*tables)


def described_end(body):
    """Return the end of the media data that an incomplete file describes."""
    found = assess(body)
    assert found.state is State.INCOMPLETE
    return int(re.search(r"describes media data up to byte (\d+)", found.reason)[1])


class TestSamples:
    @pytest.mark.parametrize(
        "one",
        [
            table([40, 60], [FIRST, FIRST + 40]),
            table([40, 60], [FIRST], runs=[(1, 2)]),
            table([40, 60], [FIRST, FIRST + 40], wide=True),
            table([10] * 10, [FIRST, FIRST + 20, FIRST + 40], runs=[(1, 2), (3, 6)]),
        ],
    )
    def test_samples_up_to_the_last_byte_are_whole(self, one):
        body = FTYP + MDAT + moov(one)

        assert assess(body).state is State.WHOLE

    @pytest.mark.parametrize(
        "one",
        [
            table([40, 1000], [FIRST, FIRST + 40]),
            table([40, 60], [FIRST, 10**6]),
            table([40, 60], [FIRST, 2**40], wide=True),
            table([400] * 3, [FIRST], runs=[(1, 3)]),
        ],
    )
    def test_samples_beyond_the_end_are_incomplete(self, one):
        found = assess(FTYP + MDAT + moov(table([100], [FIRST]), one))

        assert found.state is State.INCOMPLETE
        assert "describes media data up to byte" in found.reason

    @pytest.mark.parametrize(
        ("one", "end"),
        [
            (table([40, 60], [FAR, FAR + 1000]), FAR + 1060),
            (table([40, 60], [FAR + 1000, FAR]), FAR + 1040),
            (table([10] * 5, [FAR, FAR + 1000], runs=[(1, 2), (2, 3)]), FAR + 1030),
            (table([10] * 5, [FAR, FAR + 1000], runs=[(1, 4)]), FAR + 1010),
            (table([40], [2**63], wide=True), 2**63 + 40),
            (equal_sizes(10, 5, [FAR, FAR + 1000], runs=[(1, 2), (2, 3)]), FAR + 1030),
            (compact_sizes(8, [200, 250], [FAR]), FAR + 450),
            (compact_sizes(16, [2**15, 2**16 - 1], [FAR]), FAR + 2**15 + 2**16 - 1),
        ],
        ids=[
            "one sample in each chunk", "chunks in another order", "runs of chunks", "the last chunk is shorter",
            "64-bit offset", "one size for all samples", "sizes of 8 bits", "sizes of 16 bits",
        ],
    )  # fmt: skip
    def test_end_of_the_samples_is_the_end_of_the_last_chunk(self, one, end):
        assert described_end(mdat_first(one)) == end

    def test_media_data_in_the_first_box_is_whole(self):
        """Old QuickTime files begin with ``mdat``."""
        assert assess(MDAT + moov(table([100], [8]))).state is State.WHOLE

    def test_sample_tables_after_megabytes_of_data_are_read(self):
        """The limit is for the length of a table, not for its position."""
        data = box(b"mdat", bytes(9 * 2**20))

        assert assess(FTYP + data + moov(table([9 * 2**20], [FIRST]))).state is State.WHOLE

    def test_empty_track_beside_another_one_is_whole(self):
        assert assess(mdat_first(table([100], [FIRST]), table([], [FAR]))).state is State.WHOLE

    def test_samples_of_one_size_have_no_size_table(self):
        one = equal_sizes(10, 11, [FIRST + 400], runs=[(1, 11)])

        assert assess(mdat_first(one)).state is State.INCOMPLETE

    @pytest.mark.parametrize("bits", [8, 16])
    def test_samples_with_compact_sizes_are_whole(self, bits):
        assert assess(mdat_first(compact_sizes(bits, [50, 50], [FIRST]))).state is State.WHOLE

    @pytest.mark.parametrize(
        ("one", "reason"),
        [
            (box(b"stbl"), "a track has no sample table"),
            (box(b"stbl", STSC, STCO), "a track has no sample table"),
            (box(b"stbl", STSZ, STCO), "a track has no sample table"),
            (box(b"stbl", STSZ, STSC), "a track has no sample table"),
            (table([40] * 5, [FIRST], runs=[(1, 2)]), "its chunks hold 2 of 5 samples"),
            (table([40] * 5, [FIRST], runs=[]), "its chunks hold 0 of 5 samples"),
            (table([40], [FIRST], runs=[(2, 1)]), "its chunks hold 0 of 1 samples"),
            (table([100], [7]), "its media data would begin before the first box"),
            (box(b"stbl", HUGE_COUNT, STSC, STCO), "a table is shorter than its number of entries"),
            (box(b"stbl", SHORT_TABLE, STSC, STCO), "a table is shorter than its number of entries"),
            (compact_sizes(4, [50, 50], [FIRST]), "its sample sizes have 4 bits"),
            (box(b"stbl", HUGE_TABLE, STSC, STCO), "its 'stsz' table has 12000012 bytes"),
        ],
    )
    def test_samples_in_contradicting_tables_are_unknown(self, one, reason):
        found = assess(mdat_first(one))

        assert found.state is State.UNKNOWN
        assert found.reason == f"the MP4 cannot be read: {reason}"


class TestBoxes:
    def test_boxes_of_the_emulator_video_are_whole(self):
        assert assess(WHOLE).state is State.WHOLE

    @pytest.mark.parametrize("share", [0.3, 0.5, 0.99])
    def test_truncated_boxes_are_incomplete(self, share):
        length = int(len(WHOLE) * share)
        found = assess(WHOLE[:length])

        assert found.state is State.INCOMPLETE
        assert found.reason == f"the MP4 is longer than the body, which ended after {length} bytes"

    @pytest.mark.parametrize("name", TAILS)
    def test_trailing_data_is_ignored(self, name):
        assert assess(WHOLE + TAILS[name]).state is State.WHOLE

    def test_boxes_of_64_bit_or_open_length_are_whole(self):
        large = pack(">I4sQ", 1, b"mdat", 116) + bytes(100)
        one = table([100], [len(FTYP) + 16])
        assert assess(FTYP + large + moov(one)).state is State.WHOLE

        head = FTYP + moov(table([100], [0]))
        assert (
            assess(FTYP + moov(table([100], [len(head) + 8])) + pack(">I4s", 0, b"mdat") + bytes(100)).state
            is State.WHOLE
        )

    def test_moov_of_64_bit_or_open_length_is_read(self):
        content = moov(table([100], [FIRST]))[8:]

        assert (
            assess(FTYP + MDAT + pack(">I4sQ", 1, b"moov", len(content) + 16) + content).state is State.WHOLE
        )
        assert assess(FTYP + MDAT + pack(">I4s", 0, b"moov") + content).state is State.WHOLE

    def test_box_of_an_impossible_64_bit_length_is_incomplete(self):
        huge = pack(">I4sQ", 1, b"mdat", 2**60)

        assert assess(mdat_first(table([100], [FIRST])) + huge).state is State.INCOMPLETE

    @pytest.mark.parametrize("name", [b"xml ", b"\xa9nam", b"~~~~"])
    def test_unknown_boxes_in_moov_are_skipped(self, name):
        one = box(b"moov", box(name, bytes(9)), moov(table([100], [FIRST]))[8:])

        assert assess(FTYP + MDAT + one).state is State.WHOLE

    @pytest.mark.parametrize(
        "child",
        [
            box(b"\0\1\2\3"),
            box(b"ab\x7fc"),
            box(b"ab\xaac"),
            pack(">I4s", 0, b"abcd"),
            pack(">I4s", 7, b"abcd"),
        ],
    )
    def test_bytes_in_moov_that_are_no_box_are_unknown(self, child):
        tracks = moov(table([100], [FIRST]))[8:]
        found = assess(FTYP + MDAT + box(b"moov", tracks, child))

        assert found.state is State.UNKNOWN
        assert found.reason == (
            f"the MP4 cannot be read: its 'moov' cannot be read from byte {len(FTYP + MDAT + tracks) + 8} on"
        )

    @pytest.mark.parametrize("cut", [1, 50, 100, 107])
    def test_truncated_64_bit_box_is_incomplete(self, cut):
        large = pack(">I4sQ", 1, b"mdat", 116) + bytes(100)

        assert assess((FTYP + moov(table([1], [0])) + large)[:-cut]).state is State.INCOMPLETE

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (FTYP + MDAT, "has no 'moov' box"),
            (FTYP, "has no 'moov' box"),
            (b"", "has no 'moov' box"),
            (FTYP + b"\xff" * 40, f"cannot be read from byte {len(FTYP)} on"),
            (FTYP + moov(), "describes no track"),
            (FTYP + moov() + box(b"mdat"), "describes no track"),
            (FTYP + moov(table([], [])), "holds no media data"),
        ],
    )
    def test_boxes_without_moov_or_mdat_are_unknown(self, body, reason):
        found = assess(body)

        assert found.state is State.UNKNOWN
        assert found.reason == f"the MP4 {reason}"

    @pytest.mark.parametrize(
        "damaged",
        [
            EMPTY_MOOV,
            box(b"moov", b"y" * 100),
            box(b"moov", bytes(100)),
            box(b"moov", moov(table([100], [FIRST]))[8:], bytes(40)),
            moov(table([40, 60], [0, 0])),
        ],
        ids=["empty", "garbage", "zeros", "zeros behind a track", "zeros as offsets"],
    )
    def test_damaged_moov_is_unknown(self, damaged):
        """Neither an announced length nor text after the last box makes such a body a video."""
        assert assess(FTYP + MDAT + damaged).state is State.UNKNOWN
        assert assess(FTYP + MDAT + damaged + TAILS["JSON"]).state is State.UNKNOWN

    def test_terminator_in_moov_is_accepted(self):
        one = box(b"moov", moov(table([100], [FIRST]))[8:], bytes(4))
        assert assess(FTYP + MDAT + one).state is State.WHOLE

    def test_number_of_boxes_read_is_limited(self, monkeypatch):
        assert assess(FTYP + box(b"free") * 100_001).state is State.UNKNOWN

        monkeypatch.setattr(mp4, "_MAX_BOXES", 20)
        track = moov(table([100], [FIRST]))[8:]  # seven boxes
        assert assess(FTYP + MDAT + box(b"moov", box(b"free") * 13, track)).state is State.WHOLE
        found = assess(FTYP + MDAT + box(b"moov", box(b"free") * 14, track))
        assert found.state is State.UNKNOWN
        assert found.reason == "the MP4 cannot be read: it has more than 20 boxes"

    def test_length_of_a_table_is_limited(self, monkeypatch):
        """The longest one of these is ``stsc``, with 20 bytes."""
        body = mdat_first(table([100], [FIRST]))

        monkeypatch.setattr(mp4, "_MAX_TABLE", 20)
        assert assess(body).state is State.WHOLE
        monkeypatch.setattr(mp4, "_MAX_TABLE", 19)
        assert assess(body).state is State.UNKNOWN


MVEX = box(b"mvex", full(b"trex", 0, pack(">5I", 1, 1, 0, 25, 0)))


def fragment(*, default=None, base=None, sizes=None, count=4, data=100, offset=True, cut=0):
    """Return a ``moof`` of one track, and its ``mdat``."""

    def moof(data_offset):
        flags = (1 if base is not None else 0x20000) | (0x10 if default is not None else 0)
        fields = (pack(">Q", base) if base is not None else b"") + (
            pack(">I", default) if default is not None else b""
        )
        header = full(b"tfhd", flags, pack(">I", 1), fields)
        run_flags = (0x1 if offset else 0) | (0x300 if sizes else 0)
        entries = b"".join(pack(">2I", 1, size) for size in sizes or ())
        run = full(
            b"trun",
            run_flags,
            pack(">I", len(sizes or ()) or count),
            pack(">i", data_offset) if offset else b"",
            entries,
        )
        return box(b"moof", full(b"mfhd", 0, pack(">I", 1)), box(b"traf", header, run))

    body = moof(len(moof(0)) + 8) + box(b"mdat", bytes(data))
    return body[: len(body) - cut]


def run(count, *, offset=None, first_flags=None, durations=None, sizes=None, flags=None, times=None):
    """Return a ``trun``. The lists have a number for each sample."""
    fields = {0x1: (">i", offset), 0x4: (">I", first_flags)}
    lists = {0x100: durations, 0x200: sizes, 0x400: flags, 0x800: times}
    given = {flag: values for flag, values in lists.items() if values}
    return full(
        b"trun",
        sum(flag for flag, (_, value) in fields.items() if value is not None) | sum(given),
        pack(">I", count),
        *(pack(code, value) for code, value in fields.values() if value is not None),
        *(pack(">I", one) for sample in zip(*given.values(), strict=True) for one in sample),
    )


def moof(*runs, base=FAR, description=None, duration=None, default=None):
    fields = {0x1: (">Q", base), 0x2: (">I", description), 0x8: (">I", duration), 0x10: (">I", default)}
    given = {flag: pack(code, value) for flag, (code, value) in fields.items() if value is not None}
    header = full(b"tfhd", sum(given), pack(">I", 1), *given.values())
    return box(b"moof", full(b"mfhd", 0, pack(">I", 1)), box(b"traf", header, *runs))


INIT = FTYP + moov(table([], []), extends=MVEX)
INDEX = box(b"mfra", bytes(8))


class TestFragments:
    @pytest.mark.parametrize("one", [fragment(), fragment(default=25), fragment(sizes=[40, 60])])
    def test_complete_fragments_need_an_index_or_length(self, one):
        found = assess(INIT + one)
        assert found.state is State.PLAUSIBLE
        assert found.reason == "a fragmented MP4 without an index may have further fragments"
        assert assess(INIT + one + one + INDEX).state is State.WHOLE

    @pytest.mark.parametrize(
        "one", [fragment(default=1000), fragment(sizes=[40, 6000]), fragment(base=10**6)]
    )
    def test_fragments_beyond_the_end_are_incomplete(self, one):
        assert assess(INIT + one).state is State.INCOMPLETE

    @pytest.mark.parametrize(
        ("one", "end"),
        [
            (moof(run(4)), FAR + 100),
            (moof(run(4), default=30), FAR + 120),
            (moof(run(4), description=7, default=30), FAR + 120),
            (moof(run(4), duration=7, default=30), FAR + 120),
            (moof(run(4), description=7, duration=8, default=30), FAR + 120),
            (moof(run(4, offset=20_000_000), base=None, duration=8, default=30), len(INIT) + 20_000_120),
            (moof(run(4, offset=500)), FAR + 600),
            (moof(run(4, offset=-500)), FAR - 400),
            (moof(run(4), run(2), run(1)), FAR + 175),
            (moof(run(4, offset=500), run(2)), FAR + 650),
            (moof(run(4, offset=500), run(2, offset=0)), FAR + 600),
            (moof(run(2, sizes=[40, 61])), FAR + 101),
            (moof(run(2, offset=500, sizes=[40, 61])), FAR + 601),
            (moof(run(2, first_flags=9, sizes=[40, 61])), FAR + 101),
            (moof(run(2, offset=500, first_flags=9, sizes=[40, 61])), FAR + 601),
            (moof(run(2, durations=[7, 8], sizes=[40, 61], flags=[1, 2], times=[3, 4])), FAR + 101),
            (moof(run(2, sizes=[40, 61], flags=[1, 2])), FAR + 101),
            (moof(run(2, durations=[7, 8], first_flags=9)), FAR + 50),
        ],
    )
    def test_end_of_fragments_depends_on_their_optional_fields(self, one, end):
        """ISO/IEC 14496-12, 8.8.7 and 8.8.8."""
        assert described_end(INIT + one) == end

    def test_end_of_a_fragment_of_open_length_counts_from_its_start(self):
        one = bytes(4) + moof(run(4, offset=FAR), base=None)[4:]

        assert described_end(INIT + one) == len(INIT) + FAR + 100

    def test_end_of_samples_without_a_size_is_their_start(self):
        init = FTYP + moov(table([], []), extends=box(b"mvex"))

        assert described_end(init + moof(run(4))) == FAR

    def test_fragment_without_samples_needs_no_data(self):
        assert assess(INIT + moof(run(0)) + fragment()).state is State.PLAUSIBLE

    def test_truncated_fragments_are_incomplete(self):
        assert assess(INIT + fragment() + fragment(cut=1)).state is State.INCOMPLETE

    def test_missing_fragments_are_unknown(self):
        assert assess(INIT).state is State.UNKNOWN
        found = assess(FTYP + MDAT + moov(table([100], [FIRST]), extends=MVEX))
        assert found.state is State.UNKNOWN
        assert found.reason == "the MP4 has none of the fragments that it announces"

    def test_fragments_of_an_index_must_be_complete(self):
        one = fragment()
        for version, wide in ((0, ">II"), (1, ">QQ")):
            fields = pack(">II", 1, 1) + pack(wide, 0, 0) + pack(">HH", 0, 2)
            references = pack(">3I", len(one), 1, 0) * 2
            index = full(b"sidx", 0, fields, references, version=version)

            assert assess(INIT + index + one + one).state is State.WHOLE
            assert assess(INIT + index + one).state is State.INCOMPLETE

    @pytest.mark.parametrize(("version", "code", "flags"), [(0, ">II", 0), (1, ">QQ", 0), (0, ">II", 1)])
    def test_end_of_an_index_includes_its_first_offset(self, version, code, flags):
        """A reference of type 1, the highest bit, is another index with the same kind of length."""
        references = pack(">9I", 500, 1, 2, 2**31 | 70, 3, 4, 30_000, 5, 6)
        index = full(
            b"sidx",
            flags,
            pack(">II", 1, 1) + pack(code, 9, FAR) + pack(">HH", 0, 3),
            references,
            version=version,
        )

        assert described_end(INIT + index + fragment()) == len(INIT + index) + FAR + 30_570

    def test_fragment_without_header_is_unknown(self):
        found = assess(INIT + box(b"moof", box(b"traf")))

        assert found.state is State.UNKNOWN
        assert found.reason == "the MP4 cannot be read: a fragment has no header"


@pytest.mark.parametrize("position", range(0, 400, 3))
def test_single_wrong_byte_never_raises(position):
    """A hostile file is judged in bounded time, regardless of its tables."""
    body = bytearray(mdat_first(table([40, 60], [FIRST, FIRST + 40])) + fragment(sizes=[1, 2]) + INDEX)
    body[position % len(body)] ^= 0xFF
    assert assess(bytes(body)).state in State
