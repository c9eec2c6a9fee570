"""Judgements and texts of the doctor, from plain values."""

from __future__ import annotations

import pytest

from airflow_provider_manxue._core.connection import parse_connection
from airflow_provider_manxue._core.diagnosis import (
    Probe,
    Workload,
    judge_clock,
    judge_key,
    judge_limits,
    judge_plugin,
    judge_proxy,
    judge_service,
    judge_store,
    judge_tls,
    judge_versions,
)
from airflow_provider_manxue._core.findings import (
    Finding,
    Level,
    Report,
    compare,
    error_from,
    exit_code,
    report_text,
    summary,
    without_passwords,
)
from airflow_provider_manxue._core.network_errors import Obstacle
from airflow_provider_manxue.exceptions import (
    ManxueConfigurationError,
    ManxueInputError,
    ManxuePermissionError,
    ManxueStorageError,
    ManxueTransientError,
)
from tests.support.probes import URL, response, settings_of

PROVIDER = "airflow-provider-manxue"


def no_response(text, obstacle=Obstacle.OTHER):
    return Probe(URL, ManxueTransientError(f"no response from service.example.com: {text}"), obstacle)


# --- findings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"password": ""},
        {"password": "two words"},
        {"host": "http://service.example.com"},
        {"host": "a b. c"},
        {"extra": "{"},
        {"extra": {"verify": "perhaps"}},
        {"extra": {"ca_bundle": "/no. such/file"}},
        {"extra": {"proxy": "socks5://h:1"}},
        {"extra": {"busy_codes": {}}},
        {"extra": {"requests_per_secund": 1}},
    ],
    ids=str,
)
def test_last_sentence_of_an_error_is_the_remedy(fields):
    with pytest.raises(ManxueConfigurationError) as raised:
        parse_connection("c", **{"host": URL, "password": "key", **fields})

    finding = error_from(raised.value)

    assert f"{finding.text} {finding.remedy}" == str(raised.value)
    assert finding.text.startswith("Connection 'c', field ")
    assert finding.remedy[0].isupper()
    assert finding.level is Level.ERROR


def test_error_without_a_remedy_leads_to_the_documentation():
    finding = error_from(ManxueTransientError("no response"))

    assert (finding.text, finding.remedy) == ("no response.", "See docs/troubleshooting.md.")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@proxy:1 failed", "http://user:***@proxy:1 failed"),
        ("sftp://:pass@host/", "sftp://:***@host/"),
        ("s3://conn_id@bucket/key", "s3://conn_id@bucket/key"),
        ("http://host:80/a@b", "http://host:80/a@b"),
    ],
)
def test_passwords_of_urls_are_masked(text, shown):
    assert without_passwords(text) == shown


@pytest.mark.parametrize(
    ("levels", "code"),
    [((), 0), (("ok", "warning"), 0), (("warning", "error"), 1), (("not checked", "ok"), 0)],
)
def test_exit_code(levels, code):
    assert exit_code([Finding(Level(level), "") for level in levels]) == code


def test_exit_code_without_a_connection_to_check():
    unseen = Finding(Level.NOT_CHECKED, "", check="connection")

    assert exit_code([unseen]) == 3
    assert exit_code([unseen, Finding(Level.ERROR, "")]) == 1


def test_summary_has_the_worst_level_first():
    levels = [Level.OK, Level.ERROR, Level.OK, Level.NOT_CHECKED, Level.WARNING]

    assert summary([Finding(level, "") for level in levels]) == "1 error, 1 warning, 1 not checked, 2 ok"
    assert summary([]) == "nothing checked"


def test_text_has_a_line_for_each_finding_and_its_remedy():
    findings = [
        Finding(Level.OK, "All is well.", check="tls"),
        Finding(Level.ERROR, "word " * 40, "Do it.", "key"),
    ]

    lines = report_text(Report("worker", "host", {}, findings)).splitlines()

    assert lines[0] == "Doctor on host (worker): 1 error, 1 ok"
    assert lines[1] == "ok           tls         All is well."
    assert lines[2].startswith("error        key         word word")
    assert lines[-1] == f"{'':25}-> Do it."
    assert max(map(len, lines)) <= 113


def test_report_survives_its_form():
    report = Report("worker", "host", {PROVIDER: "1"}, (Finding(Level.WARNING, "a", "b", "c"),))

    assert Report.from_dict(report.to_dict()) == report
    assert report.to_dict()["worst"] == "warning"


@pytest.mark.parametrize("fields", [None, [], {}, {"form": 2}, {"form": 1, "findings": [{"level": "bad"}]}])
def test_unknown_form_is_refused(fields):
    with pytest.raises(ManxueInputError, match="Install one version"):
        Report.from_dict(fields)


# --- comparison -------------------------------------------------------------------------------------------


def report_with(**versions):
    return Report(
        "worker", "host", {name.replace("_", "-"): version for name, version in versions.items()}, ()
    )


def test_difference_names_each_place():
    ours = "airflow_provider_manxue"
    places = {
        "worker": report_with(**{ours: "1"}),
        "gpu": report_with(),
        "triggerer": report_with(**{ours: "1"}),
    }

    [finding] = compare(places)

    assert finding.level is Level.ERROR
    assert finding.text == f"{PROVIDER} differs: 1 on the worker, none on the gpu, 1 on the triggerer."


def test_one_report_is_not_compared():
    missing, versions = compare({"worker": report_with(), "triggerer": None})

    assert (missing.level, missing.check) == (Level.ERROR, "reports")
    assert (versions.level, versions.check) == (Level.NOT_CHECKED, "versions")


# --- judgements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "level"),
    [
        (0, Level.OK),
        (31, Level.OK),  # Date holds whole seconds
        (31.1, Level.WARNING),
        (-30.4, Level.OK),
        (-30.6, Level.WARNING),
        (301, Level.WARNING),
        (301.1, Level.ERROR),
        (-300.6, Level.ERROR),
    ],
)
def test_clock_levels(ahead, level):
    assert judge_clock(response(ahead=ahead)).level is level


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (3601, "60 minutes ahead of"),
        (-3600.5, "60 minutes behind"),
        (86_401, "24.0 hours ahead of"),
        (61, "60 seconds ahead of"),
    ],
)
def test_clock_names_the_direction(ahead, words):
    assert (
        f"The clock of this machine is {words} that of the service."
        == judge_clock(response(ahead=ahead)).text
    )


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Jan 2026 00:00:00 GMT"])
def test_clock_without_a_date_is_not_checked(date):
    assert judge_clock(Probe(URL, None, None, 404, date=date)).level is Level.NOT_CHECKED


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("its certificate was not accepted (certificate has expired)", "clock"),
        (
            "its certificate was not accepted (Hostname mismatch, certificate is not valid for 'a'.)",
            "host name",
        ),
        (
            "its certificate was not accepted (IP address mismatch, certificate is not valid for '1.2.3.4'.)",
            "host name",
        ),
        ("its certificate was not accepted (unable to get local issuer certificate)", "'ca_bundle'"),
        ("its certificate was not accepted (self-signed certificate)", "'ca_bundle'"),
        ("TLS failed (WRONG_VERSION_NUMBER)", "port"),
    ],
)
def test_tls_remedy_fits_the_reason(text, remedy):
    finding = judge_tls(settings_of(), None, no_response(text, Obstacle.TLS))

    assert finding.level is Level.ERROR
    assert text in finding.text
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("settings", "authorities", "level"),
    [
        (settings_of(), "ca.pem", Level.OK),
        (settings_of(verify=False), None, Level.WARNING),
        (settings_of("http://service.example.com", allow_http=True), None, Level.WARNING),
        (settings_of("http://localhost"), None, Level.OK),
    ],
)
def test_tls_levels(settings, authorities, level):
    assert judge_tls(settings, authorities, response()).level is level


def test_tls_without_a_response_is_not_checked():
    assert judge_tls(settings_of(), "ca.pem", no_response("timed out")).level is Level.NOT_CHECKED


@pytest.mark.parametrize(
    ("probe", "level"),
    [
        (response(), Level.OK),
        (response(407), Level.ERROR),
        (no_response("timed out", Obstacle.PROXY), Level.ERROR),
        (no_response("timed out"), Level.NOT_CHECKED),
    ],
)
def test_proxy_levels(probe, level):
    finding = judge_proxy("proxy:3128", "the environment", probe)

    assert finding.level is level
    assert "proxy:3128, from the environment" in finding.text
    assert ("service.example.com" in finding.remedy) == (level is Level.ERROR)


def test_direct_connection_is_ok():
    assert judge_proxy(None, "", no_response("timed out")).level is Level.OK


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_busy_service_is_a_warning(status):
    assert judge_service(response(status, error=ManxueTransientError("busy"))).level is Level.WARNING


def test_response_of_an_unknown_form_is_a_warning():
    unknown = response(
        200, error=ManxueTransientError("HTTP 200 with a JSON body that does not describe a task")
    )

    assert judge_service(unknown).level is Level.WARNING
    assert judge_key(unknown).level is Level.NOT_CHECKED


def test_forbidden_page_may_come_from_a_firewall():
    forbidden = ManxuePermissionError("Forbidden (HTTP 403). Check what the key is allowed to do.")

    assert judge_key(response(403, error=forbidden)).text == "Forbidden (HTTP 403)."
    assert "firewall" in judge_key(response(403, error=forbidden, is_json=False)).text


@pytest.mark.parametrize(
    ("installed", "unmet", "problem", "remedy"),
    [
        ({}, [], "not installed", "pip install airflow-provider-manxue"),
        ({PROVIDER: "0.9"}, [], "0.9 is installed, but the code of 1.0 runs", "Remove the other copy"),
        (
            {PROVIDER: "1.0"},
            ["aiohttp>=3", "fsspec>=2"],
            "aiohttp>=3, fsspec>=2",
            "pip install 'aiohttp>=3' 'fsspec>=2'",
        ),
    ],
)
def test_broken_package_is_an_error(installed, unmet, problem, remedy):
    finding = judge_versions(installed, "1.0", unmet)

    assert finding.level is Level.ERROR
    assert problem in finding.text
    assert remedy in finding.remedy


def test_sound_package_lists_its_versions():
    assert judge_versions({PROVIDER: "1.0", "aiohttp": "3"}, "1.0", []).text == f"{PROVIDER} 1.0, aiohttp 3."


@pytest.mark.parametrize(
    ("enabled", "airflow", "problem", "level"),
    [
        (False, (2, 11), "", Level.OK),
        (True, (3, 1, 0), "", Level.WARNING),
        (True, (3, 1, 1), "", Level.OK),
        (False, (3, 3), "its page is missing", Level.ERROR),
    ],
)
def test_plugin_levels(enabled, airflow, problem, level):
    assert judge_plugin(enabled=enabled, airflow=airflow, problem=problem).level is level


@pytest.mark.parametrize(
    ("waits", "triggers", "level"),
    [(600, 600, Level.OK), (601, 601, Level.WARNING), (0, 2001, Level.WARNING)],
)
def test_limits_levels(waits, triggers, level):
    found = Workload(["a", "b"], waits, triggers, 1000)

    assert judge_limits(settings_of(), found).level is level


def test_store_shows_no_password():
    failed = judge_store(
        "sftp://u:pass@h/", ManxueStorageError("The store of sftp://u:pass@h/a cannot be used: no")
    )

    assert failed.level is Level.ERROR
    assert "pass@" not in failed.text + judge_store("sftp://u:pass@h/", None).text
