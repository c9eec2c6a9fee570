"""Play nights: ``python -m tests.chaos --seeds 1-20``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.invariants import Invariants, what_is_left
from tests.chaos.run import VIDEOS, ChaosRun, stage
from tests.chaos.schedule import Schedule

if TYPE_CHECKING:
    from airflow_provider_manxue.testing import Emulator
    from dev.distributed_airflow import DistributedAirflow

RESULTS = Path(__file__).parent / "results.json"


def play(seed: int, airflow: DistributedAirflow, emulator: Emulator, folder: Path) -> dict[str, Any]:
    """Play one night and return its record."""
    schedule = Schedule.of(seed)
    say(str(schedule))
    destination = folder / "videos" / str(seed)
    destination.mkdir(parents=True)
    night = ChaosRun(schedule, airflow, emulator, destination, say)
    never_ended = night.play()
    aftermath = Invariants(night)
    broken = [*never_ended, *aftermath.broken()]
    say(
        "\n".join([f"  after {night.took:.0f} s", *(f"  for a person: {text}" for text in aftermath.excused)])
    )
    say("\n".join(f"  BROKEN {text}" for text in broken) or "  no invariant broken")
    return {
        "seed": seed,
        "faults": [str(fault) for fault in schedule.faults],
        "kinds": len({fault.kind for fault in schedule.faults}),
        "videos": VIDEOS,
        "seconds": round(night.took),
        "tries": tries(airflow, night.name),
        "busiest_requests_per_second": aftermath.busiest,
        "orders_that_waited_for_room": aftermath.waited_for_room,
        "orders_that_need_a_person": aftermath.excused,
        "broken": broken,
    }


def tries(airflow: DistributedAirflow, run_id: str) -> dict[str, int]:
    """Count the tasks by the number of their last try."""
    rows = airflow.query("SELECT try_number FROM task_instance WHERE run_id = ?", run_id)
    return {str(number): count for number, count in sorted(Counter(number for (number,) in rows).items())}


def write(nights: list[dict[str, Any]], results: Path) -> None:
    """Write what is known so far."""
    results.write_text(json.dumps(nights, indent=1) + "\n")


def play_all(seeds: list[int], results: Path) -> list[dict[str, Any]]:
    """Play nights on one deployment, one after another."""
    nights = []
    with tempfile.TemporaryDirectory(prefix="manxue-nights-") as name:
        folder = Path(name)
        started = time.monotonic()
        with stage(folder) as (airflow, emulator):
            say(f"ready after {time.monotonic() - started:.0f} s")
            for seed in seeds:
                nights.append(play(seed, airflow, emulator, folder))
                write(nights, results)
        say(f"components that ended by themselves and were started again: {len(airflow.ended)}")
        say("\n".join(airflow.ended))
        nights[-1]["broken"] += what_is_left(airflow)
    return nights


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def seeds_of(text: str) -> list[int]:
    """Read ``7`` or ``1-20``."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main() -> int:
    """Play, write the results, and return 1 if anything was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=[1], help="one seed or a range, such as 1-20")
    parser.add_argument("--show", action="store_true", help="print the schedules, and play nothing")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="file for the results (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.show:
        say("\n".join(str(Schedule.of(seed)) for seed in arguments.seeds))
        return 0
    nights = play_all(arguments.seeds, arguments.results)
    write(nights, arguments.results)
    broken = sum(bool(night["broken"]) for night in nights)
    say(f"{len(nights)} nights, {broken} with a broken invariant")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
