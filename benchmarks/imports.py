"""Cost of importing a sensor in the Dag processor, in addition to Airflow's own imports."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.waits import ROOT

MODULES = {
    "manxue": "airflow_provider_manxue.sensors.manxue",
    "http_sensor": "airflow.providers.http.sensors.http",
}

_SCRIPT = """
import json, sys, time
from airflow.sdk import DAG, BaseSensorOperator, Connection, Variable, task
from airflow.triggers.base import BaseTrigger
from benchmarks.waiters import resident_memory

loaded, memory, begin = set(sys.modules), resident_memory(), time.perf_counter()
__import__({module!r})
seconds, memory = time.perf_counter() - begin, resident_memory() - memory
heavy = [name for name in ("aiohttp", "requests", "fsspec") if name in set(sys.modules) - loaded]
print(json.dumps([1000 * seconds, memory / 2**20, len(set(sys.modules) - loaded), heavy]))
"""


def cost_of_imports(repetitions: int) -> dict[str, dict[str, Any]]:
    """Import each sensor in fresh interpreters, in turn, and return the medians."""
    runs: dict[str, list[Any]] = {kind: [] for kind in MODULES}
    for _ in range(repetitions):
        for kind, module in MODULES.items():
            runs[kind].append(_import(module))
    return {
        kind: {
            "milliseconds": median(run[0] for run in results),
            "mebibytes": median(run[1] for run in results),
            "modules": results[0][2],
            "http_libraries": results[0][3],
        }
        for kind, results in runs.items()
    }


def _import(module: str) -> Any:
    with TemporaryDirectory() as home:
        ended = subprocess.run(
            [sys.executable, "-c", _SCRIPT.format(module=module)],
            cwd=ROOT,
            env={"AIRFLOW_HOME": home},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(ended.stdout.splitlines()[-1])
