"""
Run the coverage-guided fuzzer atheris on all code that parses foreign input: ``python -m tests.fuzz``.

Each target of ``tests/fuzz/targets.py`` runs in a separate process with instrumented modules. The run of a target ends at
the first input that breaks a property, and prints this input. The same seed repeats the same run.
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
"""Folder for the inputs that reached new code, and for findings. Each run replaces it."""

MODULES = (
    "_airflow/start_from_trigger", "_airflow/templates", "_airflow/xcoms", "_core/batch", "_core/bodies",
    "_core/connection", "_core/containers", "_core/content_coding", "_core/deadline", "_core/events", "_core/ids",
    "_core/media", "_core/media_urls", "_core/mp4", "_core/order_outcomes", "_core/order_record", "_core/orders",
    "_core/poller", "_core/polling", "_core/reasons", "_core/responses", "_core/signed_urls", "_core/status_log",
)  # fmt: skip
"""Modules that parse foreign input, whose coverage is reported."""

LIMITS = {"max_len": 4096, "timeout": 25, "report_slow_units": 25, "rss_limit_mb": 1024}
"""Limits of an input: its length in bytes, seconds of run time, and MiB of memory. Exceeding the last two is a finding."""


def main() -> None:
    """Run the selected targets one after another, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=SEEDS, action="append", help="a target; default: all targets")
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
    """Run each target in a separate process, write its figures to the results, and return the exit status."""
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
    """Parse libFuzzer's output: the numbers of executions and of reached edges and features."""
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


# --- in child processes ---------------------------------------------------------------------------------


def fuzz(target: str, runs: int, seed: int) -> None:
    """Run one target, and end the process."""
    import atheris
    import requests  # noqa: F401 - imported before, so that it is not instrumented
    import yarl  # noqa: F401

    import airflow.providers.common.compat.sdk  # noqa: F401

    with atheris.instrument_imports(include=["airflow_provider_manxue"]):
        from tests.fuzz.targets import TARGETS

    def tried(data: bytes) -> None:
        try:
            TARGETS[target](data)
        except BaseException:
            # libFuzzer's timer may end the process before it writes the input itself.
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
    """Return the line and branch coverage of each module by the inputs of all targets, in percent."""
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
