"""What a release needs: version, changelog and tag agree, and the list of what is not known yet equals the files."""

import re

import pytest

from airflow_provider_manxue import __version__
from dev import dist, release

PAGE = (release.ROOT / release.LIST).read_text()
UNRELEASED = release.Section("1.2.0", release.UNRELEASED, "text")
RELEASED = release.Section("1.2.0", "2030-01-31", "text")
CHANGELOG = """# Changelog

## 1.2.0 - 2030-01-31

### Added

- A thing.

## 1.1.0 - 2029-12-31

- An older thing.
"""


def placeholder(name):
    """Return a placeholder that this file does not contain."""
    return f"BEFORE-{'RELEASE'}({name})"


def row(name, meaning, *files):
    return f"| `{placeholder(name)}` | {meaning} | {', '.join(f'`{file}`' for file in files)} |\n"


# --- this checkout ----------------------------------------------------------------------------------------


def test_list_and_files_agree():
    found = release.placeholders(release.texts_of_repository())

    assert release.list_errors(found, release.listed(PAGE)) == []


def test_each_row_of_the_list_is_read():
    assert len(release.listed(PAGE)) == len(re.findall(rf"^\| `{placeholder('')[:-2]}", PAGE, re.MULTILINE))


def test_version_and_changelog_agree():
    section = release.newest_section((release.ROOT / "CHANGELOG.md").read_text())

    assert release.disagreements(__version__, section, ()) == []
    assert section.text


# --- the list ---------------------------------------------------------------------------------------------


def test_list_is_read_from_its_rows():
    page = f"text\n\n| placeholder | meaning | files |\n|---|---|---|\n{row('owners', 'who', 'a.yml', 'b.toml')}\n"

    assert release.listed(page) == {"owners": release.Unknown("who", frozenset({"a.yml", "b.toml"}))}


def test_placeholder_is_found_in_each_file_except_the_list():
    texts = {"a.yml": f"* @{placeholder('owners')}", "b.md": "nothing", release.LIST: placeholder("contact")}

    assert release.placeholders(texts) == {("owners", "a.yml")}


@pytest.mark.parametrize(
    ("found", "files", "message"),
    [
        ({("owners", "a.yml")}, [], "a.yml has the placeholder 'owners'"),
        ({("owners", "a.yml"), ("owners", "b.md")}, ["a.yml"], "b.md has the placeholder 'owners'"),
        (set(), ["a.yml"], "lists the placeholder 'owners' for a.yml, which does not have it"),
    ],
    ids=["no row", "another file", "filled in"],
)
def test_difference_of_list_and_files_names_both(found, files, message):
    unknowns = {"owners": release.Unknown("who", frozenset(files))} if files else {}

    [error] = release.list_errors(found, unknowns)

    assert message in error


# --- version, changelog, tag ------------------------------------------------------------------------------


def test_newest_section_ends_before_the_next():
    assert release.newest_section(CHANGELOG) == release.Section(
        "1.2.0", "2030-01-31", "### Added\n\n- A thing."
    )


def test_changelog_without_a_version_is_an_error():
    with pytest.raises(SystemExit, match="no heading of the form"):
        release.newest_section("# Changelog\n\n## Unreleased\n")


@pytest.mark.parametrize(
    ("version", "date", "tags", "message"),
    [
        ("1.2.0", "2030-01-31", {"v1.3.0"}, "The tag v1.3.0 is not v1.2.0"),
        ("1.2.0", "2030-01-31", {"v1.2.0", "v1.2"}, "The tag v1.2 is not v1.2.0"),
        ("1.3.0", "2030-01-31", {"v1.3.0"}, "CHANGELOG.md begins with 1.2.0, and __version__ is 1.3.0"),
        ("1.2.0", "tomorrow", {"v1.2.0"}, "'tomorrow'"),
    ],
)
def test_disagreement_names_both_sides(version, date, tags, message):
    [problem] = release.disagreements(version, release.Section("1.2.0", date, "text"), tags)

    assert message in problem


@pytest.mark.parametrize("section", [UNRELEASED, RELEASED])
def test_tag_of_the_version_agrees(section):
    assert release.disagreements("1.2.0", section, {"v1.2.0"}) == []


def test_obstacles_are_what_is_unknown_and_the_missing_date():
    unknowns = {"owners": release.Unknown("who reviews", frozenset({"a.yml"}))}

    assert release.obstacles(RELEASED, {}) == []
    assert release.obstacles(RELEASED, unknowns) == ["owners is not known: who reviews."]
    [problem] = release.obstacles(UNRELEASED, {})
    assert problem.startswith("The section 1.2.0 of CHANGELOG.md has no date")


# --- the tool ---------------------------------------------------------------------------------------------


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """Run the tool without a build and an installation. Returns the Airflows that the wheel was tried with."""
    tried = []
    monkeypatch.setattr(dist, "build", lambda: (dist.DIST / "a.whl", dist.DIST / "a.tar.gz"))
    monkeypatch.setattr(dist, "check_readme", lambda wheel: [])
    monkeypatch.setattr(dist, "try_with", lambda airflow, wheel: tried.append(airflow))
    monkeypatch.setattr(release, "check", lambda tag: ["owners is not known: who reviews."])
    return lambda *arguments: (dist.main(arguments), tried)[1]


def test_release_check_passes_and_prints_the_list(tool, capsys):
    assert tool("--release", "") == list(dist.AIRFLOWS)
    assert "No tag can be released yet:\nowners is not known" in capsys.readouterr().out


def test_release_of_a_tag_fails_while_something_is_unknown(tool):
    with pytest.raises(SystemExit, match=r"v1.2.0 cannot be released:\nowners is not known"):
        tool("--release", "v1.2.0")


def test_release_of_a_tag_fails_while_links_are_relative(tool, monkeypatch):
    monkeypatch.setattr(release, "check", lambda tag: [])
    monkeypatch.setattr(dist, "check_readme", lambda wheel: ["README.md has relative links: docs/a.md."])

    with pytest.raises(SystemExit, match=r"docs/a.md"):
        tool("--release", "v1.2.0")


def test_plain_build_needs_no_list(tool, capsys):
    assert tool() == list(dist.AIRFLOWS)
    assert "not known" not in capsys.readouterr().out


def test_links_that_an_index_cannot_follow_are_relative():
    html = (
        '<a href="docs/a.md">a</a> <a href="https://example.com/b">b</a> <img src="docs/c.svg"/>'
        '<a href="#d">d</a> <a>no target</a>'
    )

    assert dist.relative_links(html) == ["docs/a.md", "docs/c.svg"]
