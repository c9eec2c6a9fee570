"""
Each text of the doctor, as it is shown: ``texts/doctor.txt`` has them all, so that a change of one is read in a review.

After a change: ``python -m tests.unit.test_doctor_texts`` writes the file again.
"""

from __future__ import annotations

from pathlib import Path

from airflow_provider_manxue._core.diagnosis import (
    Probe,
    Workload,
    judge_clock,
    judge_connection,
    judge_key,
    judge_limits,
    judge_plugin,
    judge_proxy,
    judge_service,
    judge_store,
    judge_tls,
    judge_triggerers,
    judge_versions,
)
from airflow_provider_manxue._core.findings import (
    PROVIDER,
    Finding,
    Level,
    Report,
    compare,
    not_checked,
    report_text,
    warning,
)
from airflow_provider_manxue._core.network_errors import Obstacle
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxuePermissionError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueStorageError,
    ManxueTransientError,
)
from tests.support.probes import URL, response, settings_of

TEXTS = Path(__file__).parent / "texts" / "doctor.txt"


def no_response(text, obstacle=Obstacle.OTHER, kind=ManxueTransientError):
    return Probe(URL, kind(text), obstacle)


def tls_error(reason):
    return judge_tls(settings_of(), "ca.pem", no_response(f"tls failed ({reason})", Obstacle.TLS))


def limits(triggerers=2, waits=0, triggers=0, rate=10):
    load = Workload([f"host-{number}" for number in range(triggerers)], waits, triggers, capacity=1000)
    return judge_limits(settings_of(requests_per_second=rate), load)


REFUSED = ManxueAuthenticationError("The service refused the API key (HTTP 401). Put a valid key in.")
FORBIDDEN = ManxuePermissionError("The service forbids this (HTTP 403). Check the key.")
BUSY = ManxueTransientError("HTTP 503: busy")
REDIRECT = ManxueRedirectError("HTTP 302. Give the final address.")
WRONG_PATH = ManxueRefusedError("HTTP 404: No handler for /x")
UNKNOWN_ID = ManxueRefusedError("HTTP 404: no such task")


def findings() -> dict[str, dict[str, Finding]]:
    """Return a finding of each kind, by its check and its situation."""
    return {
        "versions": {
            "sound": judge_versions({PROVIDER: "1.0", "aiohttp": "3"}, "1.0", []),
            "not installed": judge_versions({}, "1.0", []),
            "two copies": judge_versions({PROVIDER: "0.9"}, "1.0", []),
            "requirements": judge_versions({PROVIDER: "1.0"}, "1.0", ["aiohttp>=3", "fsspec>=2"]),
        },
        "plugin": {
            "on": judge_plugin(enabled=True, airflow=(3, 1, 1), problem=""),
            "off": judge_plugin(enabled=False, airflow=(3, 3), problem=""),
            "old Airflow": judge_plugin(enabled=True, airflow=(3, 1, 0), problem=""),
            "broken": judge_plugin(enabled=True, airflow=(3, 3), problem="its page is missing"),
        },
        "connection": {"usable": judge_connection("c", settings_of())},
        "tls": {
            "verified": judge_tls(settings_of(), "ca.pem", response()),
            "not verified": judge_tls(settings_of(verify=False), None, response()),
            "no response": judge_tls(settings_of(), "ca.pem", no_response("timed out")),
            "plain": judge_tls(settings_of("http://service.example.com", allow_http=True), None, response()),
            "plain, loopback": judge_tls(settings_of("http://localhost"), None, response()),
            "expired": tls_error("certificate has expired"),
            "not yet valid": tls_error("certificate is not yet valid"),
            "mismatch": tls_error("Hostname Mismatch"),
            "not valid for": tls_error("certificate is not valid for 'a'"),
            "authority": tls_error("unable to get the certificate of the issuer"),
            "no TLS": tls_error("WRONG_VERSION_NUMBER"),
            "configuration": judge_tls(
                settings_of(),
                None,
                no_response("No CA file. Add it.", Obstacle.TLS, ManxueConfigurationError),
            ),
        },
        "proxy": {
            "none": judge_proxy(None, "", response()),
            "used": judge_proxy("proxy:3128", "HTTPS_PROXY", response()),
            "refused": judge_proxy("proxy:3128", "HTTPS_PROXY", response(407, BUSY)),
            "failed": judge_proxy("proxy:3128", "HTTPS_PROXY", no_response("refused", Obstacle.PROXY)),
            "no response": judge_proxy("proxy:3128", "HTTPS_PROXY", no_response("timed out")),
            "configuration": judge_proxy(
                None, "", no_response("Wrong scheme. Use http.", Obstacle.PROXY, ManxueConfigurationError)
            ),
        },
        "service": {
            "responds": judge_service(response(error=UNKNOWN_ID)),
            "clock set back": judge_service(response(error=UNKNOWN_ID, took=-2.0)),
            "unreachable": judge_service(no_response("no response from h: timed out")),
            "ended at TLS": judge_service(no_response("tls failed", Obstacle.TLS)),
            "ended at the proxy": judge_service(response(407, BUSY)),
            "nothing": judge_service(Probe(URL, None)),
            "redirect": judge_service(response(302, REDIRECT)),
            "408": judge_service(response(408, BUSY, is_json=False)),
            "425": judge_service(response(425, BUSY, is_json=False)),
            "429": judge_service(response(429, BUSY, is_json=False)),
            "500": judge_service(response(500, BUSY, is_json=False)),
            "200, unknown form": judge_service(response(200, BUSY)),
            "200, a page": judge_service(response(200, BUSY, is_json=False)),
            "404, a page": judge_service(response(404, UNKNOWN_ID, is_json=False)),
            "401, a page": judge_service(response(401, REFUSED, is_json=False)),
            "403, a page": judge_service(response(403, FORBIDDEN, is_json=False)),
            "wrong path": judge_service(response(404, WRONG_PATH)),
            "text of another error": judge_service(response(403, ManxuePermissionError("No handler"))),
        },
        "key": {
            "not refused": judge_key(response(error=UNKNOWN_ID)),
            "refused": judge_key(response(401, REFUSED)),
            "forbidden": judge_key(response(403, FORBIDDEN)),
            "forbidden by a page": judge_key(response(403, FORBIDDEN, is_json=False)),
            "no response": judge_key(no_response("timed out")),
            "busy": judge_key(response(503, BUSY)),
        },
        "clock": {
            "same": judge_clock(response()),
            "0.8 s ahead": judge_clock(response(ahead=0.8)),
            "1.9 s ahead": judge_clock(response(ahead=1.9)),
            "31 s ahead": judge_clock(response(ahead=31)),
            "31.6 s ahead": judge_clock(response(ahead=31.6)),
            "91 s ahead": judge_clock(response(ahead=91)),
            "301 s ahead": judge_clock(response(ahead=301)),
            "5401 s ahead": judge_clock(response(ahead=5401)),
            "10 days ahead": judge_clock(response(ahead=864_001)),
            "10 s behind": judge_clock(response(ahead=-10)),
            "1 h behind": judge_clock(response(ahead=-3600)),
            "no response": judge_clock(no_response("timed out")),
            "no date": judge_clock(Probe(URL, None, None, 404)),
        },
        "triggerer": {
            "two": judge_triggerers(Workload(["host-0", "host-1"], 0, 0, 1000)),
            "none": judge_triggerers(Workload([], 0, 0, 1000)),
        },
        "limits": {
            "enough": limits(waits=600, triggers=2000),
            "capacity": limits(triggers=2001),
            "rate": limits(waits=601, triggers=601),
            "fractions": limits(triggerers=3, waits=10, rate=0.5),
            "slow": limits(triggerers=4, waits=900, rate=0.5),
            "no triggerer": limits(triggerers=0),
        },
        "store": {
            "reached": judge_store("sftp://u:pass@h/", None),
            "no library": judge_store("s3://b/", ManxueStorageError("No library for s3://. Install s3fs.")),
            "failed": judge_store(
                "sftp://u:pass@h/", ManxueStorageError("The store sftp://u:pass@h/a cannot be used: no")
            ),
        },
    }


def report_with(**versions):
    return Report("worker", "host", versions, ())


PLACES = {
    "missing": {"worker": report_with(**{PROVIDER: "1"}), "triggerer": None},
    "none": {},
    "same": {
        "worker": report_with(**{PROVIDER: "1", "python": "3.12.1"}),
        "triggerer": report_with(**{PROVIDER: "1", "python": "3.12.9"}),
    },
    "same, unknown": {"worker": report_with(), "gpu": report_with(), "triggerer": report_with()},
    "different": {
        "worker": report_with(**{PROVIDER: "1", "aiohttp": "3", "python": "3.12.1", "fsspec": "2"}),
        "triggerer": report_with(**{PROVIDER: "2", "aiohttp": "4", "python": "3.13.1", "fsspec": "2"}),
    },
}


def texts() -> str:
    """Return the report of each situation, as the command line prints it."""
    situations = {
        (check, name): [Finding(one.level, one.text, one.remedy, check)]
        for check, situation in findings().items()
        for name, one in situation.items()
    }
    situations |= {("several places", name): compare(places) for name, places in PLACES.items()}
    situations["any", "levels"] = [
        Finding(Level.OK, "ok"),
        not_checked("not checked"),
        not_checked("not checked", "remedy"),
        warning("warning", "remedy"),
    ]
    situations["any", "long words"] = [warning(f"text {'a' * 99}", f"{'well-' * 30}known")]
    return "\n\n".join(
        f"# {check}: {name}\n{report_text(Report('worker', 'host', {}, found))}"
        for (check, name), found in situations.items()
    )


def test_texts_are_those_of_the_file():
    assert texts() == TEXTS.read_text(encoding="utf-8").removesuffix("\n")


if __name__ == "__main__":
    TEXTS.write_text(f"{texts()}\n", encoding="utf-8")
