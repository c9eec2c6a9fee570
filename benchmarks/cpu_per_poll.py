"""
CPU time per poll, compared with ``aiohttp`` and ``HttpSensorTrigger``: ``python -m benchmarks.cpu_per_poll``.

The figures are medians of seven runs. Each run measures the three kinds of waits at the same time, so that other load
on the machine does not change the ratios.
"""

from __future__ import annotations

from statistics import median

from benchmarks.table import print_table
from benchmarks.waits import SIZES, compare

RUNS = 7
TARGETS = {"aiohttp": 1.30, "http_sensor": 0.30}
"""Highest ratio that is good enough, by the kind of wait that ours is compared with."""

SIZE = next(size for size in SIZES if set(TARGETS) < set(size.kinds) and "threads" not in size.kinds)


def main() -> int:
    """Measure, and print the ratios of each run; the exit status is 0 if the medians reach their targets."""
    runs = [measure() for _ in range(RUNS)]
    ratios = {peer: [run["manxue"] / run[peer] for run in runs] for peer in TARGETS}
    rows = [
        (
            f"beside {peer}",
            f"{target:.2f}",
            f"{median(ratios[peer]):.2f}",
            " ".join(f"{ratio:.2f}" for ratio in ratios[peer]),
        )
        for peer, target in TARGETS.items()
    ]
    print_table(("CPU per poll", "at most", "median", "runs"), rows)
    kinds = ", ".join(f"{kind} {median(run[kind] for run in runs):.2f} ms" for kind in runs[0])
    print(f"Medians of CPU time per poll: {kinds}.")
    return int(any(median(ratios[peer]) > target for peer, target in TARGETS.items()))


def measure() -> dict[str, float]:
    """Return the CPU time per poll in milliseconds, by the kind of wait, and print it."""
    cpu = {one.kind: one.cpu_per_poll for one in compare([SIZE])}
    print(cpu, flush=True)
    return cpu


if __name__ == "__main__":
    raise SystemExit(main())
