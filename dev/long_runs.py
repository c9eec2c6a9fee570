"""Report of the long runs, compared with their targets: ``python -m dev.long_runs``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESULTS = Path(__file__).parent.parent / "tests"
SCHEDULES, EXECUTIONS, CHAOS_RUNS, KINDS, VIDEOS = 1_000_000, 1_000_000, 20, 3, 20
"""Targets: number of schedules; executions per fuzz target; chaos runs, with kinds of fault and videos in each."""

Row = tuple[str, str, str, bool]
"""Figure, target, measured value, and whether the target is reached."""


def rows(results: Path) -> Iterator[Row]:
    """Return the figures of all parts. A part without results misses its target."""
    parts: dict[str, Callable[[Any], Iterator[Row]]] = {
        "simulation": of_simulation,
        "fuzz": of_fuzz,
        "chaos": of_chaos,
    }
    for name, read in parts.items():
        file = results / name / "results.json"
        if file.exists():
            yield from read(json.loads(file.read_text()))
        else:
            yield name, "a result", "has not run to its end", False


def of_simulation(result: dict[str, Any]) -> Iterator[Row]:
    """Return the figures of ``python -m tests.simulation --keep``."""
    count, findings = result["schedules"], result["findings"]
    yield "schedules in virtual time", f"{SCHEDULES:,}", f"{count:,}", count >= SCHEDULES
    yield "seeds that broke an invariant", "none", ", ".join(findings) or "none", not findings


def of_fuzz(result: dict[str, Any]) -> Iterator[Row]:
    """Return the figures of ``python -m tests.fuzz``."""
    for target, figures in sorted(result["targets"].items()):
        executions, finding = figures["executions"], figures["finding"]
        measured = f"{executions:,}, {figures['edges']} edges, {'a finding' if finding else 'no finding'}"
        yield f"fuzz: {target}", f"{EXECUTIONS:,}", measured, executions >= EXECUTIONS and not finding


def of_chaos(runs: list[dict[str, Any]]) -> Iterator[Row]:
    """Return the figures of ``python -m tests.chaos``."""
    full = [run for run in runs if run["kinds"] >= KINDS and run["videos"] >= VIDEOS]
    broken = [str(run["seed"]) for run in runs if run["broken"]]
    target = f"{CHAOS_RUNS}, each with {KINDS} kinds of fault and {VIDEOS} videos"
    yield "chaos runs on the distributed deployment", target, f"{len(full)}", len(full) >= CHAOS_RUNS
    yield "chaos seeds that broke an invariant", "none", ", ".join(broken) or "none", not broken


def as_markdown(figures: list[Row]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        f"| {figure} | {target} | {measured} | {'reached' if reached else '**MISSED**'} |"
        for figure, target, measured, reached in figures
    ]
    return "\n".join(["| figure | target | measured | |", "|---|---|---|---|", *lines]) + "\n"


def main() -> int:
    """Print the report. The exit status is 0 if every target is reached."""
    figures = list(rows(RESULTS))
    print(as_markdown(figures), end="")
    return int(not all(reached for *_, reached in figures))


if __name__ == "__main__":
    sys.exit(main())
