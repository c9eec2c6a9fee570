"""Findings of the doctor: levels, the report of one place, the comparison of reports, and their texts."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.exceptions import ManxueInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airflow_provider_manxue.exceptions import ManxueError

PROVIDER = "airflow-provider-manxue"

_FORM = 1
"""Version of the form of a stored report."""

_TEXT_WIDTH = 88
"""Characters of a line of a finding's text, after its level and the name of its check."""

_PASSWORD_IN_URL = re.compile(r"(://[^/@:\s]*):[^/@\s]+@")


class Level(StrEnum):
    """The level of a finding."""

    OK = "ok"
    NOT_CHECKED = "not checked"
    WARNING = "warning"
    ERROR = "error"


_ASCENDING = tuple(Level)


@dataclass(frozen=True, slots=True)
class Finding:
    """
    The result of one check.

    :param level: its level.
    :param text: what was found, or why nothing could be seen.
    :param remedy: what to do; empty if nothing is to be done.
    :param check: name of the check; the doctor fills it in.
    """

    level: Level
    text: str
    remedy: str = ""
    check: str = ""


def ok(text: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(Level.OK, text)


def not_checked(text: str, remedy: str = "") -> Finding:
    """Return a finding of a check that was not possible."""
    return Finding(Level.NOT_CHECKED, text, remedy)


def warning(text: str, remedy: str) -> Finding:
    """Return a finding that can prevent requests, waits or saves later."""
    return Finding(Level.WARNING, text, remedy)


def error(text: str, remedy: str) -> Finding:
    """Return a finding that prevents requests, waits or saves."""
    return Finding(Level.ERROR, text, remedy)


def error_from(cause: ManxueError) -> Finding:
    """
    Return the finding of an error of this package.

    :param cause: the error. The last sentence of its text is the remedy.
    """
    text, _, remedy = without_passwords(str(cause)).rpartition(". ")
    return error(f"{text}.", remedy) if text else error(f"{remedy}.", "See docs/troubleshooting.md.")


def without_passwords(text: str) -> str:
    """Return a text without the passwords of URLs in it."""
    return _PASSWORD_IN_URL.sub(r"\1:***@", text)


def worst_level(findings: Iterable[Finding]) -> Level:
    """Return the worst level of findings; *ok* if there are none."""
    return max((finding.level for finding in findings), key=_ASCENDING.index, default=Level.OK)


def exit_code(findings: Iterable[Finding]) -> int:
    """
    Return the exit code of a command: 0 without an error, 1 with one, 3 if the connection could not be seen.

    2 is that of wrong arguments, in all of Airflow's commands.
    """
    findings = list(findings)
    if worst_level(findings) is Level.ERROR:
        return 1
    is_blind = any(one.check == "connection" and one.level is Level.NOT_CHECKED for one in findings)
    return 3 if is_blind else 0


@dataclass(frozen=True, slots=True)
class Report:
    """
    The findings of the doctor in one place.

    :param place: kind of process: command line, worker or triggerer.
    :param hostname: name of the machine.
    :param versions: versions of the packages that matter, by their names.
    :param findings: one for each check.
    """

    place: str
    hostname: str
    versions: Mapping[str, str]
    findings: Sequence[Finding]

    def to_dict(self) -> dict[str, Any]:
        """Return the report in the form of JSON, as the command line, the event of the trigger and XComs have it."""
        return {
            "form": _FORM,
            "place": self.place,
            "hostname": self.hostname,
            "versions": dict(self.versions),
            "worst": worst_level(self.findings).value,
            "findings": to_dicts(self.findings),
        }

    @classmethod
    def from_dict(cls, fields: Any) -> Report:
        """
        Return the report that :meth:`to_dict` wrote.

        :param fields: its form.
        :raises ManxueInputError: if it is not such a form.
        """
        try:
            if fields["form"] != _FORM:
                raise ValueError
            findings = tuple(
                Finding(Level(one["level"]), one["text"], one["remedy"], one["check"])
                for one in fields["findings"]
            )
            return cls(fields["place"], fields["hostname"], dict(fields["versions"]), findings)
        except (KeyError, TypeError, ValueError):
            raise ManxueInputError(
                "A report of the doctor has a form that this version of the provider does not know. Install one version "
                "of it on workers and triggerers, and restart both."
            ) from None


def to_dicts(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return findings in the form of JSON."""
    return [
        {"check": one.check, "level": one.level.value, "text": one.text, "remedy": one.remedy}
        for one in findings
    ]


def to_text(title: str, findings: Sequence[Finding]) -> str:
    """
    Return findings as text, one line for each, with its remedy below.

    :param title: where they come from.
    :param findings: the findings.
    """
    return "\n".join([f"{title}: {summary(findings)}", *(line for one in findings for line in _lines(one))])


def report_text(report: Report) -> str:
    """Return a report as text."""
    return to_text(f"Doctor on {report.hostname} ({report.place})", report.findings)


def summary(findings: Sequence[Finding]) -> str:
    """Return the number of findings of each level, the worst first."""
    counts = {level: sum(one.level is level for one in findings) for level in reversed(_ASCENDING)}
    return (
        ", ".join(f"{count} {level.value}" for level, count in counts.items() if count) or "nothing checked"
    )


def _lines(finding: Finding) -> Iterator[str]:
    head = f"{finding.level.value:<12} {finding.check:<11} "
    for begin, text in (
        (head, finding.text),
        (f"{'':{len(head)}}", finding.remedy and f"-> {finding.remedy}"),
    ):
        if text:
            yield from textwrap.wrap(
                text,
                len(head) + _TEXT_WIDTH,
                initial_indent=begin,
                subsequent_indent=" " * len(head),
                break_long_words=False,
                break_on_hyphens=False,
            )


# --- several places ---------------------------------------------------------------------------------------


_ONE_VERSION = (
    "Install one version on workers and triggerers, and restart both. A task fails if its worker does not know the event "
    "of a newer triggerer."
)
_ONE_IMAGE = "Use the same image or the same pinned versions for workers and triggerers."


def compare(reports: Mapping[str, Report | None]) -> list[Finding]:
    """
    Compare the reports of several places.

    :param reports: the report of each place, by its name; None for a place that has sent none.
    """
    return [
        *_missing(reports),
        *_differences({name: one for name, one in reports.items() if one is not None}),
    ]


def _missing(reports: Mapping[str, Report | None]) -> Iterator[Finding]:
    for name in (name for name, report in reports.items() if report is None):
        yield Finding(
            Level.ERROR,
            f"There is no report of the {name}.",
            "Look at the log of its task. If it was deferred until its timeout, no triggerer took it: start one with "
            "`airflow triggerer`, and install the provider there.",
            "reports",
        )


def _differences(reports: Mapping[str, Report]) -> Iterator[Finding]:
    if len(reports) < 2:
        yield Finding(Level.NOT_CHECKED, "There are fewer than two reports to compare.", check="versions")
        return
    packages = sorted({package for report in reports.values() for package in report.versions})
    found = {one: {name: _version(report, one) for name, report in reports.items()} for one in packages}
    differing = {package: versions for package, versions in found.items() if len({*versions.values()}) > 1}
    if not differing:
        version = next(iter(reports.values())).versions.get(PROVIDER, "unknown")
        names = " and ".join(reports)
        yield Finding(Level.OK, f"The same on {names}: {PROVIDER} {version}.", check="versions")
    for package, versions in differing.items():
        where = ", ".join(f"{version} on the {name}" for name, version in versions.items())
        is_ours = package == PROVIDER
        level, remedy = (Level.ERROR, _ONE_VERSION) if is_ours else (Level.WARNING, _ONE_IMAGE)
        yield Finding(level, f"{package} differs: {where}.", remedy, "versions")


def _version(report: Report, package: str) -> str:
    version = report.versions.get(package, "none")
    # Patches of Python have no effect here.
    return ".".join(version.split(".")[:2]) if package == "python" else version
