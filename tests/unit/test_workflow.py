"""The workflow file for a public forge, and the script for any other: thin callers of targets that exist."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
JOB = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["checks"]
MATRIX = JOB["strategy"]["matrix"]


def test_the_workflow_calls_one_target_of_the_makefile_and_nothing_else():
    assert [step["run"] for step in JOB["steps"] if "run" in step] == ["make ${{ matrix.target }}"]
    assert {*MATRIX["target"], *(entry["target"] for entry in MATRIX["include"])} <= TARGETS


def test_the_workflow_tries_each_python_that_is_declared():
    classifiers = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text()
    )

    assert MATRIX["python"] == classifiers


def test_the_workflow_covers_what_the_script_does():
    stages = set(re.findall(r"^stage ([a-z0-9-]+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    (parts,) = re.findall(r"^test: ([a-z -]+) ##", (ROOT / "Makefile").read_text(), re.MULTILINE)

    covered = {*MATRIX["target"], *(entry["target"] for entry in MATRIX["include"])}
    # The database of vulnerabilities is on the network, which the script does without.
    covered.remove("audit")
    # The browser and the database server are Debian's, which the forge's machines do not have.
    assert (stages - {"test"}) | set(parts.split()) == covered | (
        {"browser-tests", "services-tests"} & stages
    )


def test_the_list_of_phony_targets_is_complete():
    """A file of that name must not keep a target from running."""
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert sorted(" ".join(phony).split()) == sorted(TARGETS)
