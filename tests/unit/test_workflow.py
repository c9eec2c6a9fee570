"""The workflow files of GitHub and the CI script: all run only targets of the Makefile."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
NAMED = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
CELL = r"(unit|examples)-([0-9.]+|lowest)-py([0-9.]+)"
CELLS = {match[0] for match in re.finditer(CELL, MAKEFILE)}
SCRIPT = (ROOT / ".ci/run").read_text().replace("\\\n", " ")
STAGES = set(
    " ".join(re.findall(r"^(?:make|lane [a-z]+) ([a-z][a-z0-9. -]+)$", SCRIPT, re.MULTILINE)).split()
)
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob(".github/workflows/*.yml")}
JOB = WORKFLOWS["ci"]["jobs"]["checks"]
MATRIX = JOB["strategy"]["matrix"]
CALLED = {*MATRIX["target"], *(entry["target"] for entry in MATRIX["include"])}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
(VERSIONS,) = re.findall(r"^AIRFLOWS = (.*)$", MAKEFILE, re.MULTILINE)
AIRFLOWS = {version.rpartition(".")[0] for version in VERSIONS.split()}
NEWEST, OLDEST = max(AIRFLOWS, key=Version), min(AIRFLOWS, key=Version)


def cells(kind, names):
    """Return the Airflow and Python versions of each cell of a kind."""
    return {match.groups()[1:] for name in names if (match := re.fullmatch(CELL, name)) and match[1] == kind}


def test_workflow_runs_only_makefile_targets():
    install, run = [step["run"] for step in JOB["steps"] if "run" in step]

    assert install.startswith("sudo apt-get")
    assert run == "make ${{ matrix.target }}"
    assert CALLED <= NAMED | CELLS


def test_workflow_runs_each_declared_python():
    assert MATRIX["python"] == PYTHONS


def test_workflow_covers_the_stages_of_the_script():
    ((first, second),) = re.findall(
        r"^test: ([a-z -]+) ##.*\n(?:\t@echo .*\n)?\t@\$\(MAKE\) [-=a-z0-9 ]*target ([a-z -]+)$",
        MAKEFILE,
        re.MULTILINE,
    )
    parts = f"{first} {second}"

    # The script runs without a network, so without the vulnerability database, and on one machine, so without the volumes.
    left_out = {"audit", "volume-tests"}
    assert (STAGES - CELLS - {"test"}) | set(parts.split()) == CALLED - CELLS - left_out
    assert STAGES & CELLS <= CALLED


def test_workflow_runs_the_matrix():
    """With the newest Airflow, each Python runs all tests anyway."""
    assert {cell for cell in CELLS if f"-{NEWEST}-" not in cell} == CALLED & CELLS
    for entry in MATRIX["include"]:
        assert entry["target"] not in CELLS or entry["target"].endswith(f"-py{entry['python']}")


def test_matrix_has_each_airflow_and_python():
    unit = cells("unit", CELLS)

    assert {airflow for airflow, _ in unit} == AIRFLOWS | {"lowest"}
    assert {python for _, python in unit} == set(PYTHONS)
    assert {airflow for airflow, _ in cells("examples", CELLS)} == {"2.11", "3.1", NEWEST}


def test_script_runs_each_airflow_python_and_lowest_versions():
    """`make test` covers the newest Airflow, on the Python that is installed, and `make coverage` a cell of the matrix."""
    (covered,) = re.findall(r"^coverage: \.venv-(\S+)/\.ready", MAKEFILE, re.MULTILINE)
    tried = cells("unit", {*STAGES, f"unit-{covered}"})

    assert "coverage" in STAGES

    # The lowest versions include the oldest Airflow.
    assert pinned("lowest")["apache-airflow"].startswith(f"{OLDEST}.")
    assert {airflow for airflow, _ in tried} == AIRFLOWS - {NEWEST, OLDEST} | {"lowest"}
    assert {python for _, python in tried} == set(PYTHONS)


def test_script_installs_shared_packages_before_the_lanes():
    """Two lanes that install into one environment at once break it."""
    before, *lanes = re.split(r"^lane [a-z]+ ", SCRIPT, flags=re.MULTILINE)
    environments = [{match[0].partition("-")[2] for match in re.finditer(CELL, lane)} for lane in lanes]
    shared = {name for name in set().union(*environments) if sum(name in lane for lane in environments) > 1}

    assert shared
    assert {f".venv-{name}/.ready" for name in shared} <= set(before.split())


def pinned(name):
    lines = (ROOT / f"constraints/airflow-{name}.txt").read_text().splitlines()
    return dict(line.partition(" ;")[0].split("==") for line in lines)


@pytest.mark.parametrize("version", VERSIONS.split())
def test_constraints_are_of_the_newest_patch_version(version):
    assert pinned(version.rpartition(".")[0])["apache-airflow"] == version


def test_lowest_versions_equal_the_declared_ones():
    """Each declared lower bound is thus a version that was tested."""
    lowest = pinned("lowest")
    declared = [Requirement(line) for line in PROJECT["dependencies"]]

    assert {one.name: Version(lowest[one.name]) for one in declared} == {
        one.name: Version(str(one.specifier).removeprefix(">=")) for one in declared
    }


def test_error_names_the_missing_python_and_remedy():
    """No other Python is used instead."""
    run = subprocess.run([ROOT / "dev/python", "3.99"], capture_output=True, text=True, check=False)

    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("Python 3.99 is needed here and was not found: put a python3.99 on PATH")


def test_phony_targets_are_complete():
    """A file of the same name must not prevent a target from running."""
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)

    assert sorted(" ".join(phony).split()) == sorted({*NAMED, "$(UNIT_CELLS)", "$(EXAMPLE_CELLS)"})


def test_each_tool_of_make_lint_is_pinned():
    """For the newest Airflow only, which lint runs with."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    assert {Requirement(line).name for line in groups["lint"]} <= pinned(NEWEST).keys()


def test_the_hooks_call_targets_of_the_makefile():
    """A hook from a repository would need the network."""
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for repository in repositories for hook in repository["hooks"]]

    assert {repository["repo"] for repository in repositories} == {"local"}
    assert {entry.removeprefix("make ") for entry in entries} == {"lint", "types"} <= NAMED


def steps():
    """Return each step of each workflow, with the name of the workflow."""
    return [
        (name, step)
        for name, workflow in WORKFLOWS.items()
        for job in workflow["jobs"].values()
        for step in job.get("steps", [])
    ]


def test_actions_are_pinned_by_commit():
    """A tag of an action can be moved."""
    actions = {step["uses"] for _, step in steps() if "uses" in step}

    assert [action for action in actions if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []


def test_each_action_is_pinned_once():
    actions = {step["uses"] for _, step in steps() if "uses" in step}

    assert len({action.partition("@")[0] for action in actions}) == len(actions)


def test_release_runs_code_only_without_rights():
    """A job that may sign or publish downloads what was built, and runs nothing of the repository."""
    for name, job in WORKFLOWS["release"]["jobs"].items():
        commands = [step["run"] for step in job.get("steps", []) if "run" in step]
        if job["permissions"] != {"contents": "read"}:
            assert [one for one in commands if not one.startswith("gh release create ")] == [], name
            assert "checkout" not in str(job.get("steps", "")), name


def test_release_checks_the_tag_before_all_else():
    jobs = WORKFLOWS["release"]["jobs"]

    assert 'make release-check TAG="$GITHUB_REF_NAME"' in [step.get("run") for step in jobs["build"]["steps"]]
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "build": None,
        "attest": "build",
        "pypi": "attest",
        "github": "pypi",
        "pages": "pypi",
    }


def test_workflows_have_no_rights_of_their_own():
    assert {name: workflow["permissions"] for name, workflow in WORKFLOWS.items()} == {
        "ci": {"contents": "read"},
        "pages": {},
        "release": {},
    }


@pytest.mark.parametrize(
    "form", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")), ids=lambda path: path.stem
)
def test_issue_form_has_fields_with_unique_ids(form):
    fields = yaml.safe_load(form.read_text()).get("body", [])
    ids = [field["id"] for field in fields if field["type"] != "markdown"]

    assert len(set(ids)) == len(ids)
    assert {field["type"] for field in fields} <= {"markdown", "textarea", "input"}
