"""
Lets a coverage-guided fuzzer loose on every place where foreign bytes come in: ``python -m tests.fuzz``.

Each target of ``tests/fuzz/targets.py`` runs in a process of its own, whose modules are instrumented by atheris. A run ends
at the first input that breaks a property, and prints it; the same seed makes the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fuzz.inputs import FINDINGS, SEEDS

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results.json"
CORPUS = ROOT / ".fuzz"
"""Inputs that reach something new, by target, and what was found; made anew by each run."""

MODULES = (
    "_airflow/start_from_trigger", "_airflow/templates", "_airflow/xcoms", "_core/batch", "_core/bodies",
    "_core/connection", "_core/containers", "_core/content_coding", "_core/deadline", "_core/events", "_core/ids",
    "_core/media", "_core/media_urls", "_core/mp4", "_core/order_outcomes", "_core/order_record", "_core/orders",
    "_core/poller", "_core/polling", "_core/reasons", "_core/responses", "_core/signed_urls", "_core/status_log",
)  # fmt: skip
"""Those that read what comes from outside."""

LIMITS = {"max_len": 4096, "timeout": 25, "report_slow_units": 25, "rss_limit_mb": 1024}
"""Bytes of an input; seconds after which it counts as endless; MiB after which it counts as taking all memory."""


def main() -> None:
    """Run the targets that are asked for, one after the other, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=SEEDS, action="append", help="a target; all if it is left out")
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of each target")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--step", choices=["fuzz", "coverage"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "fuzz":
        fuzz(arguments.target[0], arguments.runs, arguments.seed)
    elif arguments.step == "coverage":
        print(json.dumps(coverage_of_corpus()))
    else:
        sys.exit(run(arguments.target or list(SEEDS), arguments.runs, arguments.seed))


def run(targets: list[str], runs: int, seed: int) -> int:
    """Run each target in a process of its own, keep its figures in the results, and return the exit status."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"targets": {}}
    found = False
    for target in targets:
        _begin_corpus(target)
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = _child("--step", "fuzz", "--target", target, "--runs", str(runs), "--seed", str(seed))
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - cpu
        finding = next(CORPUS.glob(f"{target}-*"), None)
        if done.returncode:
            found = True
            print(*(line for line in done.stderr.splitlines() if line[:1] != "#"), sep="\n", file=sys.stderr)
        results["targets"][target] = figures = {
            **read_figures(done.stderr),
            "cpu_seconds": round(cpu),
            "seed": seed,
            "finding": repr(finding.read_bytes()) if finding else None,
        }
        print(f"{target}: {json.dumps(figures)}", flush=True)
        _write(results)
    results["python"] = platform.python_version()
    results["coverage"] = json.loads(_child("--step", "coverage").stdout)
    _write(results)
    return int(found)


def _write(results: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def _begin_corpus(target: str) -> None:
    folder = CORPUS / target
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for old in CORPUS.glob(f"{target}-*"):
        old.unlink()
    for number, data in enumerate([*SEEDS[target], *FINDINGS.get(target, {}).values()]):
        (folder / f"seed-{number}").write_bytes(data)


def _child(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        cwd=ROOT,
        env={**os.environ, "AIRFLOW_HOME": str(CORPUS / "airflow")},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def read_figures(output: str) -> dict[str, int]:
    """Read what libFuzzer has printed: its executions, and how many edges and features of the code it has seen."""
    progress = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)/", output)
    edges, features, corpus = map(int, progress[-1]) if progress else (0, 0, 0)
    return {
        "executions": _statistic("number_of_executed_units", output),
        "edges": edges,
        "features": features,
        "corpus": corpus,
        "peak_rss_mib": _statistic("peak_rss_mb", output),
    }


def _statistic(name: str, output: str) -> int:
    match = re.search(rf"stat::{name}: +(\d+)", output)
    return int(match[1]) if match else 0


# --- in processes of their own --------------------------------------------------------------------------


def fuzz(target: str, runs: int, seed: int) -> None:
    """Run one target in this process, which ends with it."""
    import atheris
    import requests  # noqa: F401 - large, and not ours: not instrumented
    import yarl  # noqa: F401

    import airflow.providers.common.compat.sdk  # noqa: F401

    with atheris.instrument_imports(include=["airflow_provider_manxue"]):
        from tests.fuzz.targets import TARGETS

    def tried(data: bytes) -> None:
        try:
            TARGETS[target](data)
        except BaseException:
            # Before libFuzzer does it, whose timer may end the process first.
            (CORPUS / f"{target}-finding").write_bytes(data)
            raise

    options = {
        **LIMITS,
        "runs": runs,
        "seed": seed,
        "artifact_prefix": f"{CORPUS / target}-",
        "print_final_stats": 1,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], str(CORPUS / target), *flags], tried)
    atheris.Fuzz()


def coverage_of_corpus() -> dict[str, float]:
    """Return how much of each module, lines and branches, the inputs of all corpora reach together, in percent."""
    from coverage import Coverage

    report = CORPUS / "coverage.json"
    measured = Coverage(
        branch=True, source_pkgs=["airflow_provider_manxue"], data_file=None, config_file=False
    )
    with measured.collect():
        from tests.fuzz.targets import TARGETS

        for name, target in TARGETS.items():
            for path in (CORPUS / name).glob("*"):
                target(path.read_bytes())
    measured.json_report(outfile=str(report))
    files = json.loads(report.read_text())["files"]
    return {
        module: round(files[f"airflow_provider_manxue/{module}.py"]["summary"]["percent_covered"], 1)
        for module in MODULES
    }


if __name__ == "__main__":
    main()
