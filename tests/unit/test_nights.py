"""The schedules of nights: drawn from the seed and nothing else, and rich enough."""

from collections import Counter
from itertools import pairwise

import pytest

from soak.nights.night import VIDEOS
from soak.nights.schedule import DEPLOYMENT, SERVICE, Schedule

NIGHTS = [Schedule.of(seed) for seed in range(1, 21)]


def test_a_seed_replays_its_night():
    assert [Schedule.of(seed) for seed in range(1, 21)] == NIGHTS
    assert len({str(night.faults) for night in NIGHTS}) == len(NIGHTS)


def test_each_night_has_twenty_videos_and_at_least_three_kinds_of_fault():
    assert VIDEOS == 20
    assert all(len({fault.kind for fault in night.faults}) >= 3 for night in NIGHTS)


def test_twenty_nights_meet_each_kind_of_fault():
    met = Counter(fault.kind for night in NIGHTS for fault in night.faults)

    assert set(met) == {*DEPLOYMENT, *SERVICE}


@pytest.mark.parametrize("kinds", [DEPLOYMENT, SERVICE], ids=["deployment", "service"])
def test_faults_of_one_side_do_not_overlap(kinds):
    """What mends the first one would mend the second one as well."""
    for night in NIGHTS:
        faults = [fault for fault in night.faults if fault.kind in kinds]
        assert all(one.until < other.at for one, other in pairwise(faults))
