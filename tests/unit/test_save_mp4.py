"""Completeness of an MP4: the media data that its tables describe, compared with its end."""

from __future__ import annotations

from struct import pack

import pytest

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

WHOLE = Video("v", 2.0).read(0, 10**9)
EMPTY_MOOV = box(b"moov")


def assess(body):
    return assess_mp4(lambda start, count: body[start : start + count], len(body))


def mdat_first(*tables):
    return FTYP + MDAT + moov(*tables)


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

    def test_samples_of_one_size_have_no_size_table(self):
        sizes = full(b"stsz", 0, pack(">II", 10, 11))
        runs = full(b"stsc", 0, pack(">4I", 1, 1, 11, 1))
        at = full(b"stco", 0, pack(">2I", 1, FIRST + 400))

        assert assess(mdat_first(box(b"stbl", sizes, runs, at))).state is State.INCOMPLETE

    @pytest.mark.parametrize(("bits", "state"), [(8, State.WHOLE), (16, State.WHOLE), (4, State.UNKNOWN)])
    def test_samples_with_compact_sizes(self, bits, state):
        sizes = full(b"stz2", 0, pack(">II", bits, 2), pack({8: ">2B", 16: ">2H", 4: ">2B"}[bits], 50, 50))
        runs, at = full(b"stsc", 0, pack(">4I", 1, 1, 2, 1)), full(b"stco", 0, pack(">2I", 1, FIRST))

        assert assess(mdat_first(box(b"stbl", sizes, runs, at))).state is State(state)

    @pytest.mark.parametrize(
        "one",
        [
            box(b"stbl"),
            table([40] * 5, [FIRST], runs=[(1, 2)]),
            table([40] * 5, [FIRST], runs=[]),
            box(
                b"stbl",
                full(b"stsz", 0, pack(">II", 0, 2**31)),
                full(b"stsc", 0, bytes(4)),
                full(b"stco", 0, bytes(4)),
            ),
        ],
    )
    def test_samples_in_contradicting_tables_are_unknown(self, one):
        assert assess(mdat_first(one)).state is State.UNKNOWN

    def test_huge_sample_table_is_not_read(self):
        huge = full(b"stsz", 0, pack(">II", 0, 3_000_000), bytes(12_000_000))
        one = box(b"stbl", huge, full(b"stsc", 0, bytes(4)), full(b"stco", 0, bytes(4)))

        assert assess(mdat_first(one)).state is State.UNKNOWN


class TestBoxes:
    def test_boxes_of_the_emulator_video_are_whole(self):
        assert assess(WHOLE).state is State.WHOLE

    @pytest.mark.parametrize("share", [0.3, 0.5, 0.99])
    def test_truncated_boxes_are_incomplete(self, share):
        assert assess(WHOLE[: int(len(WHOLE) * share)]).state is State.INCOMPLETE

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

    @pytest.mark.parametrize("cut", [1, 50, 100, 107])
    def test_truncated_64_bit_box_is_incomplete(self, cut):
        large = pack(">I4sQ", 1, b"mdat", 116) + bytes(100)

        assert assess((FTYP + moov(table([1], [0])) + large)[:-cut]).state is State.INCOMPLETE

    @pytest.mark.parametrize(
        "body", [FTYP + MDAT, FTYP, FTYP + moov(), FTYP + moov() + box(b"mdat"), FTYP + b"\xff" * 40, b""]
    )
    def test_boxes_without_moov_or_mdat_are_unknown(self, body):
        assert assess(body).state is State.UNKNOWN

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

    def test_number_of_boxes_read_is_limited(self):
        assert assess(FTYP + box(b"free") * 100_001).state is State.UNKNOWN
        assert assess(FTYP + box(b"moov", box(b"free") * 100_001) + MDAT).state is State.UNKNOWN


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


INIT = FTYP + moov(table([], []), extends=MVEX)
INDEX = box(b"mfra", bytes(8))


class TestFragments:
    @pytest.mark.parametrize("one", [fragment(), fragment(default=25), fragment(sizes=[40, 60])])
    def test_complete_fragments_need_an_index_or_length(self, one):
        assert assess(INIT + one).state is State.PLAUSIBLE
        assert assess(INIT + one + one + INDEX).state is State.WHOLE

    @pytest.mark.parametrize(
        "one", [fragment(default=1000), fragment(sizes=[40, 6000]), fragment(base=10**6)]
    )
    def test_fragments_beyond_the_end_are_incomplete(self, one):
        assert assess(INIT + one).state is State.INCOMPLETE

    def test_truncated_fragments_are_incomplete(self):
        assert assess(INIT + fragment() + fragment(cut=1)).state is State.INCOMPLETE

    def test_missing_fragments_are_unknown(self):
        assert assess(INIT).state is State.UNKNOWN
        assert assess(FTYP + MDAT + moov(table([100], [FIRST]), extends=MVEX)).state is State.UNKNOWN

    def test_fragments_of_an_index_must_be_complete(self):
        one = fragment()
        for version, wide in ((0, ">II"), (1, ">QQ")):
            fields = pack(">II", 1, 1) + pack(wide, 0, 0) + pack(">HH", 0, 2)
            references = pack(">3I", len(one), 1, 0) * 2
            index = full(b"sidx", 0, fields, references, version=version)

            assert assess(INIT + index + one + one).state is State.WHOLE
            assert assess(INIT + index + one).state is State.INCOMPLETE

    def test_fragment_without_header_is_unknown(self):
        assert assess(INIT + box(b"moof", box(b"traf"))).state is State.UNKNOWN


@pytest.mark.parametrize("position", range(0, 400, 3))
def test_single_wrong_byte_never_raises(position):
    """A hostile file is judged in bounded time, regardless of its tables."""
    body = bytearray(mdat_first(table([40, 60], [FIRST, FIRST + 40])) + fragment(sizes=[1, 2]) + INDEX)
    body[position % len(body)] ^= 0xFF
    assert assess(bytes(body)).state in State
