"""The built wheel: its files, its metadata, its entry points."""

import configparser
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from airflow_provider_manxue import __version__
from dev import dist

pytestmark = pytest.mark.once

ROOT, PACKAGE = dist.ROOT, dist.PACKAGE
DESCRIPTION = runpy.run_path(str(ROOT / "setup.py"))["description"]
DIST_INFO = f"{PACKAGE}-{__version__}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel from a copy of the repository, free of files from earlier builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    )
    subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('..')"],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def metadata(files):
    return Parser().parsestr(files[f"{DIST_INFO}/METADATA"].decode())


@pytest.fixture(scope="module")
def entry_points(files):
    parser = configparser.ConfigParser(delimiters="=")
    parser.optionxform = str
    parser.read_string(files[f"{DIST_INFO}/entry_points.txt"].decode())
    return {group: dict(parser[group]) for group in parser.sections()}


def test_wheel_name_has_version_and_pure_python_tag(wheel):
    assert wheel.name == f"{PACKAGE}-{__version__}-py3-none-any.whl"


def test_wheel_has_exactly_the_files_of_the_package(wheel):
    """The check of `make dist`."""
    dist.check_wheel(wheel)


def test_error_names_missing_and_unexpected_files(wheel, tmp_path):
    changed = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(changed, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name.replace("video.css", "other.css"), archive.read(name))

    with pytest.raises(SystemExit, match=r"missing \['\S+/video.css'\], unexpected \['\S+/other.css'\]"):
        dist.check_wheel(changed)


def test_folders_with_modules_have_an_init_file():
    folders = {path.parent for path in (ROOT / PACKAGE).rglob("*.py")}

    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_wheel_contains_py_typed(files):
    assert f"{PACKAGE}/py.typed" in files


def test_wheel_contains_the_license(files, metadata):
    assert files[f"{DIST_INFO}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert metadata["License-Expression"] == "Apache-2.0"


def test_wheel_description_is_the_readme(metadata):
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    expected = DESCRIPTION((ROOT / "README.md").read_text(), urls.get("Repository"), __version__)

    assert metadata.get_payload().strip() == expected.strip()
    assert metadata["Description-Content-Type"] == "text/markdown"


@pytest.mark.parametrize(
    ("text", "absolute"),
    [
        ("[a](docs/a.md#b)", "[a](https://forge.example/o/r/blob/v1.2.3/docs/a.md#b)"),
        ("![a](docs/a.svg)", "![a](https://forge.example/o/r/raw/v1.2.3/docs/a.svg)"),
        (
            "[![a](a.png)](b.md)",
            "[![a](https://forge.example/o/r/raw/v1.2.3/a.png)](https://forge.example/o/r/blob/v1.2.3/b.md)",
        ),
        ('<img src="a.png" alt="a">', '<img src="https://forge.example/o/r/raw/v1.2.3/a.png" alt="a">'),
        ("[a](https://a.example/b) [c](#d)", "[a](https://a.example/b) [c](#d)"),
    ],
)
def test_description_has_absolute_links_once_the_repository_is_known(text, absolute):
    """A package index resolves no relative ones."""
    assert DESCRIPTION(text, "https://forge.example/o/r", "1.2.3") == absolute
    assert DESCRIPTION(text, None, "1.2.3") == text


def test_wheel_metadata_has_name_and_version(metadata):
    assert (metadata["Name"], metadata["Version"]) == (dist.NAME, __version__)


def test_wheel_declares_the_entry_points(entry_points):
    assert entry_points == {
        "airflow.plugins": {"manxue_video_tab": f"{PACKAGE}.plugins.manxue:ManxueVideoTab"},
        "apache_airflow_provider": {"provider_info": f"{PACKAGE}.get_provider_info:get_provider_info"},
        "pytest11": {"manxue": f"{PACKAGE}._pytest_plugin"},
    }


def test_entry_points_load_from_the_wheel(wheel, entry_points, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import importlib, sys\n"
        "for target in sys.argv[1:]:\n"
        "    module, _, name = target.partition(':')\n"
        "    module = importlib.import_module(module)\n"
        "    if name: getattr(module, name)\n"
        "    print(module.__file__)"
    )
    targets = [target for group in entry_points.values() for target in group.values()]

    run = subprocess.run(
        [sys.executable, "-c", code, *targets],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )

    loaded = [Path(line) for line in run.stdout.splitlines()[-len(targets) :]]
    assert len(loaded) == 3
    assert all(path.is_relative_to(tmp_path) for path in loaded)
