"""
CPU time per poll, compared with ``aiohttp`` and ``HttpSensorTrigger``: ``python -m benchmarks.cpu_per_poll``.

The figures are medians of seven runs. Each run measures the kinds of waits at the same time, so that other load
on the machine does not change the ratios. ``--metrics`` compares our waits with Airflow's metrics on and off instead.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import median

from benchmarks.table import print_table
from benchmarks.waits import SIZES, Size, compare

RUNS = 7
TARGETS = {("manxue", "aiohttp"): 1.30, ("manxue", "http_sensor"): 0.30}
"""Highest ratio that is good enough, by the two kinds of waits."""

METRICS_TARGETS = {("manxue_metrics", "manxue"): 1.03}

SIZE = next(size for size in SIZES if set(size.kinds) == {"manxue", "aiohttp", "http_sensor"})
METRICS_SIZE = replace(SIZE, kinds=("manxue", "manxue_metrics"))


def main() -> int:
    """Measure, and print the ratios of each run; the exit status is 0 if the medians reach their targets."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_per_poll", description=__doc__)
    parser.add_argument("--metrics", action="store_true", help="compare our waits with metrics on and off")
    size, targets = (METRICS_SIZE, METRICS_TARGETS) if parser.parse_args().metrics else (SIZE, TARGETS)
    runs = [measure(size) for _ in range(RUNS)]
    ratios = {pair: [run[pair[0]] / run[pair[1]] for run in runs] for pair in targets}
    rows = [
        (
            f"{kind} beside {peer}",
            f"{target:.2f}",
            f"{median(ratios[kind, peer]):.3f}",
            " ".join(f"{ratio:.3f}" for ratio in ratios[kind, peer]),
        )
        for (kind, peer), target in targets.items()
    ]
    print_table(("CPU per poll", "at most", "median", "runs"), rows)
    kinds = ", ".join(f"{kind} {median(run[kind] for run in runs):.2f} ms" for kind in runs[0])
    print(f"Medians of CPU time per poll: {kinds}.")
    return int(any(median(ratios[pair]) > target for pair, target in targets.items()))


def measure(size: Size) -> dict[str, float]:
    """Return the CPU time per poll in milliseconds, by the kind of wait, and print it."""
    cpu = {one.kind: one.cpu_per_poll for one in compare([size])}
    print(cpu, flush=True)
    return cpu


if __name__ == "__main__":
    raise SystemExit(main())
