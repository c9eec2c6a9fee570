"""Command line of the chaos runs: ``python -m tests.chaos --seeds 1-20``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.invariants import Invariants, leftovers
from tests.chaos.run import VIDEOS, ChaosRun, deployment
from tests.chaos.schedule import Schedule

if TYPE_CHECKING:
    from airflow_provider_manxue.testing import Emulator
    from dev.distributed_airflow import DistributedAirflow

RESULTS = Path(__file__).parent / "results.json"


def play(seed: int, airflow: DistributedAirflow, emulator: Emulator, folder: Path) -> dict[str, Any]:
    """Play one chaos run and return its record."""
    schedule = Schedule.of(seed)
    say(str(schedule))
    destination = folder / "videos" / str(seed)
    destination.mkdir(parents=True)
    run = ChaosRun(schedule, airflow, emulator, destination, say)
    failures = run.play()
    invariants = Invariants(run)
    broken = [*failures, *invariants.broken()]
    say("\n".join([f"  after {run.took:.0f} s", *(f"  for a person: {text}" for text in invariants.excused)]))
    say("\n".join(f"  BROKEN {text}" for text in broken) or "  no invariant broken")
    return {
        "seed": seed,
        "faults": [str(fault) for fault in schedule.faults],
        "kinds": len({fault.kind for fault in schedule.faults}),
        "videos": VIDEOS,
        "seconds": round(run.took),
        "tries": tries(airflow, run.name),
        "busiest_requests_per_second": invariants.busiest,
        "orders_that_waited_for_room": invariants.waited_for_room,
        "orders_that_need_a_person": invariants.excused,
        "broken": broken,
    }


def tries(airflow: DistributedAirflow, run_id: str) -> dict[str, int]:
    """Return the number of tasks by the number of their last try."""
    rows = airflow.query("SELECT try_number FROM task_instance WHERE run_id = ?", run_id)
    return {str(number): count for number, count in sorted(Counter(number for (number,) in rows).items())}


def write(runs: list[dict[str, Any]], results: Path) -> None:
    """Write the records."""
    results.write_text(json.dumps(runs, indent=1) + "\n")


def play_all(seeds: list[int], results: Path) -> list[dict[str, Any]]:
    """Play chaos runs one after another on one deployment."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="manxue-chaos-") as name:
        folder = Path(name)
        started = time.monotonic()
        with deployment(folder) as (airflow, emulator):
            say(f"ready after {time.monotonic() - started:.0f} s")
            for seed in seeds:
                runs.append(play(seed, airflow, emulator, folder))
                write(runs, results)
        say(f"components that stopped by themselves and were restarted: {len(airflow.ended)}")
        say("\n".join(airflow.ended))
        runs[-1]["broken"] += leftovers(airflow)
    return runs


def say(text: str) -> None:
    """Print a line and flush it."""
    print(text, flush=True)


def seeds_of(text: str) -> list[int]:
    """Parse ``7`` or ``1-20``."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main() -> int:
    """Play the runs and write their records. The exit status is 1 if an invariant was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=[1], help="a seed or a range, such as 1-20")
    parser.add_argument("--show", action="store_true", help="only print the schedules")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="file for the results (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.show:
        say("\n".join(str(Schedule.of(seed)) for seed in arguments.seeds))
        return 0
    runs = play_all(arguments.seeds, arguments.results)
    write(runs, arguments.results)
    broken = sum(bool(run["broken"]) for run in runs)
    say(f"{len(runs)} runs, {broken} with a broken invariant")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
