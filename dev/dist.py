"""Build the release files, check them, and install them as a user does, with the oldest and the newest Airflow.

With ``--release``, first check what else a release needs, and print what is not known yet; with ``--release TAG``, fail if
anything stands in the way of releasing that tag.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from email.parser import BytesParser
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

from dev import release

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = release.ROOT
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, check and install the release files. Exits with a message if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m dev.dist", description=__doc__)
    parser.add_argument("--release", nargs="?", const="", metavar="TAG")
    tag = parser.parse_args(arguments).release
    obstacles = [] if tag is None else release.check(tag)
    wheel, sdist = build()
    obstacles += check_readme(wheel)
    if tag and obstacles:
        raise SystemExit("\n".join([f"{tag} cannot be released:", *obstacles]))
    for version in AIRFLOWS:
        try_with(version, wheel)
    say(f"{wheel.name} and {sdist.name} are ready in {DIST.relative_to(ROOT)}/")
    if tag is not None and obstacles:
        say("\n".join(["All checks passed. No tag can be released yet:", *obstacles]))
    return 0


def build() -> tuple[Path, Path]:
    """Build wheel and sdist, check what they contain, and return their paths."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    say("twine check --strict: passed")
    return wheel, sdist


def check_wheel(wheel: Path) -> None:
    """Exit if the wheel lacks a file of the package or its metadata, or holds another file."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    compare(wheel, {name for name in names if not name.startswith(info)}, files_of(PACKAGE))
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
        files_of(PACKAGE)
        | files_of("example_dags", "*.py")
        | {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg", "setup.py"},
    )


def files_of(folder: str, pattern: str = "*") -> set[str]:
    """Return the files of a folder of the repository except caches."""
    paths = (path for path in (ROOT / folder).rglob(pattern) if path.is_file())
    return {str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts}


def compare(archive: Path, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise SystemExit(
            f"{archive.name}: missing {sorted(expected - found)}, unexpected {sorted(found - expected)}"
        )
    say(f"{archive.name}: {len(found)} files, as expected")


class _Links(HTMLParser):
    """Collects the targets of links and images."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for name, value in attrs if name in {"href", "src"} and value]


def relative_links(html: str) -> list[str]:
    """Return the targets of links and images that are neither absolute nor on the page itself."""
    links = _Links()
    links.feed(html)
    return sorted({target for target in links.targets if not target.startswith(("https://", "http://", "#"))})


def check_readme(wheel: Path) -> list[str]:
    """Render the description as a package index does, and return what would be wrong there."""
    from readme_renderer import markdown

    html = markdown.render(description(wheel))
    if not html:
        raise SystemExit("README.md: a package index cannot render it. Check that it is Markdown.")
    links = relative_links(html)
    say(f"README.md: rendered as on a package index, {len(links)} of its links are relative")
    return (
        [f"README.md has relative links, which lead nowhere on a package index: {', '.join(links)}."]
        if links
        else []
    )


def description(wheel: Path) -> str:
    """Return the long description in the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        payload = BytesParser().parsebytes(archive.read(name)).get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


def try_with(airflow: str, wheel: Path) -> None:
    """Install the wheel into an environment with one version of Airflow, and check what that Airflow lists."""
    say(f"Installing {wheel.name} with Airflow {airflow} ...")
    examples = sorted((ROOT / "example_dags").glob("*.py"))
    with tempfile.TemporaryDirectory(prefix="manxue-dist-") as folder:
        python = Path(folder, "venv/bin/python")
        install(airflow, wheel, python)
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


def install(airflow: str, wheel: Path, python: Path) -> None:
    """
    Install Airflow with its constraints, then the wheel as a user does: with pip, and without constraints.

    Exits with a message if that replaces Airflow, or if the extras do not fit.

    :param python: the interpreter of the new environment.
    """
    uv = ROOT / "dev/uv"
    constraints = ROOT / f"constraints/airflow-{airflow}.txt"
    pinned = re.search(r"^apache-airflow==(\S+)", constraints.read_text(), re.MULTILINE)
    assert pinned
    run(sys.executable, "-m", "venv", python.parents[1])
    run(uv, "pip", "install", "--quiet", "--python", python, "--constraints", constraints, "apache-airflow")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    run(python, "-m", "pip", "check")
    code = "from importlib.metadata import version; print(version('apache-airflow'))"
    if (found := run(python, "-c", code).strip()) != pinned[1]:
        raise SystemExit(
            f"Installing {wheel.name} replaced Airflow {pinned[1]} by {found}. Loosen its requirements."
        )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ",".join(project["optional-dependencies"])
    # Resolved only, since the libraries of the stores are large. The constraints are made without Airflow's providers of stores.
    wanted = [f"{NAME}[{extras}] @ {wheel.as_uri()}", f"apache-airflow=={found}"]
    run(uv, "pip", "install", "--dry-run", "--python", python, *wanted)
    say(f"Airflow {found}: kept, and the extras {extras} fit")


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
