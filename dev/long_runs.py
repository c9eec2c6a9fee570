"""What the long runs have shown, beside what they must show: ``python -m dev.long_runs``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).parent.parent / "tests"
SCHEDULES, EXECUTIONS, NIGHTS, KINDS, VIDEOS = 1_000_000, 1_000_000, 20, 3, 20
"""The targets: schedules; executions of each of the fuzzer's; nights, each with so many kinds of fault and videos."""

Row = tuple[str, str, str, bool]
"""A figure, its target, what was measured, and whether the target is reached."""


def rows(results: Path) -> Iterator[Row]:
    """Return the figures of all parts; one that has not run has reached nothing."""
    parts = {"simulation": of_simulation, "fuzz": of_fuzz, "chaos": of_chaos}
    for name, read in parts.items():
        file = results / name / "results.json"
        if file.exists():
            yield from read(json.loads(file.read_text()))
        else:
            yield name, "a result", "has not run to its end", False


def of_simulation(result: dict[str, Any]) -> Iterator[Row]:
    """Read what ``tests.simulation.play --keep`` has written."""
    count, findings = result["schedules"], result["findings"]
    yield "schedules in virtual time", f"{SCHEDULES:,}", f"{count:,}", count >= SCHEDULES
    yield "seeds that broke an invariant", "none", ", ".join(findings) or "none", not findings


def of_fuzz(result: dict[str, Any]) -> Iterator[Row]:
    """Read what ``tests.fuzz`` has written."""
    for target, figures in sorted(result["targets"].items()):
        executions, finding = figures["executions"], figures["finding"]
        measured = f"{executions:,}, {figures['edges']} edges, {'a finding' if finding else 'no finding'}"
        yield f"fuzz: {target}", f"{EXECUTIONS:,}", measured, executions >= EXECUTIONS and not finding


def of_chaos(nights: list[dict[str, Any]]) -> Iterator[Row]:
    """Read what ``tests.chaos`` has written."""
    full = [night for night in nights if night["kinds"] >= KINDS and night["videos"] >= VIDEOS]
    broken = [str(night["seed"]) for night in nights if night["broken"]]
    target = f"{NIGHTS}, each with {KINDS} kinds of fault and {VIDEOS} videos"
    yield "nights on the distributed deployment", target, f"{len(full)}", len(full) >= NIGHTS
    yield "seeds of nights that broke an invariant", "none", ", ".join(broken) or "none", not broken


def as_markdown(figures: list[Row]) -> str:
    """Return the figures as a table."""
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
