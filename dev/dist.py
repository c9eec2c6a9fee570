"""Build the release files, and install them in clean environments with the oldest and the newest Airflow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
PACKAGE = "airflow_provider_manxue"
NAME = "airflow-provider-manxue"
AIRFLOWS = ("3.3", "2.11")

IMPORTS = f"""
import runpy, sys
import {PACKAGE}

assert "site-packages" in {PACKAGE}.__file__, {PACKAGE}.__file__
for path in sys.argv[1:]:
    runpy.run_path(path)
"""


def main() -> int:
    """Build, check and install the release files. Exits with a message if a check fails."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    say("twine check --strict: passed")
    for version in AIRFLOWS:
        try_with(version, wheel)
    say(f"{wheel.name} and {sdist.name} are ready in {DIST.relative_to(ROOT)}/")
    return 0


def check_wheel(wheel: Path) -> None:
    """Exit if the wheel lacks a file of the package or its metadata, or holds another file."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    compare(wheel, {name for name in names if not name.startswith(info)}, files_of_package())
    compare(
        wheel,
        {name.removeprefix(f"{info}/") for name in names if name.startswith(info)},
        {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"},
    )


def check_sdist(sdist: Path) -> None:
    """Exit if the sdist lacks a file of the package or of its build, or holds another file."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    generated = {name for name in names if name.startswith(f"{PACKAGE}.egg-info/") or name == "PKG-INFO"}
    compare(
        sdist,
        names - generated,
        files_of_package() | {"LICENSE", "README.md", "pyproject.toml", "setup.cfg", "setup.py"},
    )


def files_of_package() -> set[str]:
    """Return all files of the package except caches."""
    paths = (path for path in (ROOT / PACKAGE).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts}


def compare(archive: Path, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise SystemExit(
            f"{archive.name}: missing {sorted(expected - found)}, unexpected {sorted(found - expected)}"
        )
    say(f"{archive.name}: {len(found)} files, as expected")


def try_with(airflow: str, wheel: Path) -> None:
    """Install the wheel with one version of Airflow, and check what that Airflow lists."""
    say(f"Installing {wheel.name} with Airflow {airflow} ...")
    examples = sorted((ROOT / "example_dags").glob("*.py"))
    with tempfile.TemporaryDirectory(prefix="manxue-dist-") as folder:
        python = Path(folder, "venv/bin/python")
        uv = ROOT / "dev/uv"
        constraints = ROOT / f"constraints/airflow-{airflow}.txt"
        run(uv, "venv", "--quiet", "--python", sys.executable, python.parents[1])
        run(uv, "pip", "install", "--quiet", "--python", python, "--constraints", constraints, wheel)
        run(uv, "pip", "check", "--quiet", "--python", python)
        # Without this checkout and the caller's environment.
        clean = {
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": folder,
            "AIRFLOW_HOME": f"{folder}/airflow",
        }

        def inside(*command: object) -> str:
            return run(python.parent / str(command[0]), *command[1:], cwd=folder, env=clean)

        providers = json.loads(inside("airflow", "providers", "list", "--output", "json"))
        if NAME not in {provider["package_name"] for provider in providers}:
            raise SystemExit(f"Airflow {airflow}: 'airflow providers list' does not contain {NAME}")
        hooks = json.loads(inside("airflow", "providers", "hooks", "--output", "json"))
        # For a type that Airflow cannot load, the list contains an error instead of its name.
        if [hook["hook_name"] for hook in hooks if hook["connection_type"] == "manxue"] != ["sd2_manxue"]:
            raise SystemExit(
                f"Airflow {airflow}: 'airflow providers hooks' does not contain the type 'manxue'"
            )
        clean["PYTHONPATH"] = str(ROOT / "example_dags/plugins")  # as Airflow's plugins folder
        inside("python", "-c", IMPORTS, *examples)
        inside("python", "-m", f"{PACKAGE}.testing", "--list")
        inside("python", "-m", PACKAGE, "doctor", "--help")
        if airflow != "2.11":  # reads no commands of providers
            inside("airflow", "manxue", "doctor", "--help")
    say(f"Airflow {airflow}: provider listed, connection type known, {len(examples)} example Dags import")


def run(*command: object, cwd: str | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command, and return its output. Exits with the output if the command fails."""
    process = subprocess.run(
        [str(argument) for argument in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    if process.returncode:
        command_line = " ".join(map(str, command[:4]))
        raise SystemExit(
            f"{process.stdout}{process.stderr}{command_line} ... ended with exit code {process.returncode}"
        )
    return process.stdout


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
