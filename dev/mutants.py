"""
Mutation testing of the core: the share of code changes that the tests detect.

mutmut changes the code and runs the tests, as configured in ``[tool.mutmut]`` in ``pyproject.toml``. This module adds the
score of each module, and a file with all changes that no test detected.

    python -m dev.mutants            # run mutmut; an interrupted run continues
    python -m dev.mutants --report   # report the last run
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files

if TYPE_CHECKING:
    from collections.abc import Iterable

LEAST_SCORE = 0.95
NOTICED = {"killed", "timeout"}
"""Results of mutmut that count as detected. On a busy machine a timeout may be false."""

RESULTS = Path("benchmarks/mutants.json")


def main() -> None:
    """Run mutmut and report. Exits with a message if the score is too low."""
    parser = argparse.ArgumentParser(prog="python -m dev.mutants", description=__doc__.splitlines()[1])
    parser.add_argument("--report", action="store_true", help="only report the last run")
    if not parser.parse_args().report:
        subprocess.run([str(Path(sys.executable).with_name("mutmut")), "run"], check=True)
    counts: dict[str, Counter[str]] = {}
    others: dict[str, dict[str, list[str]]] = {}
    for path in walk_mutatable_files():
        found = SourceFileMutationData(path=path)
        found.load()
        statuses = {
            name: status_by_exit_code[code]
            for name, code in found.exit_code_by_key.items()
            if code is not None  # None if mutmut was interrupted
        }
        if statuses:
            counts[path.stem] = Counter(statuses.values())
        for name, status in statuses.items():
            if status != "killed":
                others.setdefault(status, {})[name] = changed_lines(get_diff_for_mutant(name, path=path))
    write(counts, others)
    score = print_scores(counts)
    if score < LEAST_SCORE:
        sys.exit(
            f"The tests detected less than {LEAST_SCORE:.0%} of the changes. See {RESULTS} for the others."
        )


def changed_lines(diff: str) -> list[str]:
    """Return the added and removed lines of a diff."""
    lines = [line for line in diff.splitlines() if line.startswith(("-", "+"))]
    return [line for line in lines if not line.startswith(("---", "+++"))]


def noticed(statuses: Counter[str]) -> int:
    """Return the number of detected changes."""
    return sum(count for status, count in statuses.items() if status in NOTICED)


def write(counts: dict[str, Counter[str]], others: dict[str, dict[str, list[str]]]) -> None:
    """Write the numbers, and each change that no test detected."""
    modules = {
        module: {"mutants": statuses.total(), "noticed": noticed(statuses)}
        for module, statuses in counts.items()
    }
    RESULTS.write_text(json.dumps({"modules": modules, **others}, indent=1, ensure_ascii=False) + "\n")


def print_scores(counts: dict[str, Counter[str]]) -> float:
    """Print a table of the scores, and return the score of all modules together."""
    print("| module | mutants | noticed | score |\n|---|---|---|---|")
    for module, statuses in counts.items():
        print(row(f"`{module}`", [statuses]))
    print(row("**all**", counts.values()))
    return noticed(sum(counts.values(), Counter())) / sum(map(Counter.total, counts.values()))


def row(name: str, statuses: Iterable[Counter[str]]) -> str:
    """Return a row of the table."""
    together = sum(statuses, Counter[str]())
    return f"| {name} | {together.total():,} | {noticed(together):,} | {noticed(together) / together.total():.1%} |"


if __name__ == "__main__":
    main()
