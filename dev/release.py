"""The facts of a release: version, changelog and tag, and the list of what is not known yet.

``python3 -m dev.release`` prints the changelog's section of the version. It needs only the standard library, since the release
workflow runs it without an environment.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_manxue import __version__

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ROOT = Path(__file__).parent.parent
LIST = "CONTRIBUTING.md"
"""The page with the list of what is not known yet."""

UNRELEASED = "unreleased"
_PLACEHOLDER = re.compile(r"BEFORE-RELEASE\(([a-z-]+)\)")
_ROW = re.compile(rf"^\| `{_PLACEHOLDER.pattern}` \| (.+) \| (.+) \|$", re.MULTILINE)
_HEADING = re.compile(r"^## (\S+) - (\S+)$", re.MULTILINE)


def main() -> None:
    """Print the changelog's section of the version."""
    print(newest_section((ROOT / "CHANGELOG.md").read_text()).text)


@dataclass(frozen=True, slots=True)
class Section:
    """
    A section of the changelog.

    :param date: the day of the release, or ``unreleased``.
    """

    version: str
    date: str
    text: str


def newest_section(changelog: str) -> Section:
    """Return the first section of the changelog."""
    heading = _HEADING.search(changelog)
    if heading is None:
        raise SystemExit("CHANGELOG.md has no heading of the form '## 1.2.3 - 2030-01-31'. Add one.")
    following = _HEADING.search(changelog, heading.end())
    end = following.start() if following else len(changelog)
    return Section(heading[1], heading[2], changelog[heading.end() : end].strip())


@dataclass(frozen=True, slots=True)
class Unknown:
    """
    A row of the list of what is not known yet.

    :param meaning: what has to be filled in.
    :param files: where its placeholder stands.
    """

    meaning: str
    files: frozenset[str]


def listed(page: str) -> dict[str, Unknown]:
    """Return the rows of the list in a page, by the names of the placeholders."""
    rows = _ROW.findall(page)
    return {
        name: Unknown(meaning, frozenset(re.findall(r"`([^`]+)`", files))) for name, meaning, files in rows
    }


def placeholders(texts: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return the name and the file of each placeholder, except those in the list itself."""
    return {
        (name, file) for file, text in texts.items() if file != LIST for name in _PLACEHOLDER.findall(text)
    }


def texts_of_repository() -> dict[str, str]:
    """Return the texts of all files of the repository, by their paths: those that git tracks, and new ones that it does not ignore."""
    texts = {}
    for path in _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        file = ROOT / path
        if file.is_file() and b"\0" not in (content := file.read_bytes()):
            texts[path] = content.decode(errors="replace")
    return texts


def tags_of_commit() -> set[str]:
    """Return the tags of the commit that is checked out."""
    return set(_git("tag", "--points-at", "HEAD").split())


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def disagreements(version: str, section: Section, tags: Collection[str]) -> list[str]:
    """
    Return each contradiction between the version, the newest section of the changelog, and tags.

    :param tags: the tags that must be the version's: those of the commit, and the one to release.
    """
    problems = [
        f"The tag {tag} is not v{version}. Delete it, or set __version__."
        for tag in sorted(tags)
        if tag != f"v{version}"
    ]
    if section.version != version:
        problems.append(
            f"CHANGELOG.md begins with {section.version}, and __version__ is {version}. Give both the same number."
        )
    if section.date != UNRELEASED and not re.fullmatch(r"\d{4}-\d\d-\d\d", section.date):
        problems.append(
            f"The date of {section.version} in CHANGELOG.md is {section.date!r}. Write it as 2030-01-31, or {UNRELEASED!r}."
        )
    return problems


def list_errors(found: Collection[tuple[str, str]], unknowns: Mapping[str, Unknown]) -> list[str]:
    """Return each difference between the placeholders in files and the list."""
    expected = {(name, file) for name, unknown in unknowns.items() for file in unknown.files}
    return [
        *(
            f"{file} has the placeholder {name!r}, which {LIST} does not list for it. Add the file to its row."
            for name, file in sorted(set(found) - expected)
        ),
        *(
            f"{LIST} lists the placeholder {name!r} for {file}, which does not have it. Remove the file from its row."
            for name, file in sorted(expected - set(found))
        ),
    ]


def obstacles(section: Section, unknowns: Mapping[str, Unknown]) -> list[str]:
    """Return what forbids a release, although all facts agree."""
    problems = [f"{name} is not known: {unknown.meaning}." for name, unknown in unknowns.items()]
    if section.date == UNRELEASED:
        problems.append(
            f"The section {section.version} of CHANGELOG.md has no date. Replace {UNRELEASED!r} by the day."
        )
    return problems


def check(tag: str | None) -> list[str]:
    """
    Check the checkout, and return the obstacles to a release. Exits with a message if its facts disagree.

    :param tag: the tag to release; None if there is none yet.
    """
    section = newest_section((ROOT / "CHANGELOG.md").read_text())
    unknowns = listed((ROOT / LIST).read_text())
    versions = {one for one in tags_of_commit() if one.startswith("v")} | ({tag} if tag else set())
    problems = [
        *disagreements(__version__, section, versions),
        *list_errors(placeholders(texts_of_repository()), unknowns),
    ]
    if problems:
        raise SystemExit("\n".join(problems))
    return obstacles(section, unknowns)


if __name__ == "__main__":
    main()
