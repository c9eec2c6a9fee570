"""Judgements of the doctor: the finding of each check, from plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_manxue._core.connection import is_loopback
from airflow_provider_manxue._core.findings import (
    PROVIDER,
    Finding,
    Level,
    error,
    error_from,
    not_checked,
    ok,
    warning,
    without_passwords,
)
from airflow_provider_manxue._core.network_errors import Obstacle
from airflow_provider_manxue._core.polling import DEFAULT_POKE_INTERVAL
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueError,
    ManxuePermissionError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueTransientError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_manxue.models import ManxueSettings

PROBE_ID = "airflow-connection-test"
"""Id of a task that does not exist. A query for it costs nothing."""

_CLOCK_WARNING = 30.0
"""Seconds between the clocks of this machine and of the service. A deadline travels from a worker to a triggerer."""

_CLOCK_ERROR = 300.0
"""Seconds. Stores such as S3 refuse requests with a signature that is about this old."""

_BUSY = frozenset({408, 425, 429})
"""HTTP statuses, beside 5xx, that waits survive."""

_NO_RESPONSE = "The service sent no response, see above."


@dataclass(frozen=True, slots=True)
class Probe:
    """
    The one request of a diagnosis, a query of a task that does not exist: its response, or why there is none.

    :param url: the service's base URL.
    :param error: the error that the response, or the lack of one, is for a wait; None for a task.
    :param obstacle: the part of the connection that failed, if there was no response.
    :param http_status: status of the response; None if there was none.
    :param is_json: whether the body of the response is JSON, as all known bodies of the service are.
    :param date: its header ``Date``; empty if it has none.
    :param sent_at: time when the request was sent, in seconds since the epoch.
    :param received_at: time when the response was read.
    """

    url: str
    error: ManxueError | None
    obstacle: Obstacle | None = None
    http_status: int | None = None
    is_json: bool = False
    date: str = ""
    sent_at: float = 0.0
    received_at: float = 0.0


def is_wrong_path(cause: ManxueError) -> bool:
    """Return whether a response says that the service does not know the path of the base URL."""
    return isinstance(cause, ManxueRefusedError) and "no handler" in str(cause).lower()


# --- installation -----------------------------------------------------------------------------------------


def judge_versions(versions: Mapping[str, str], code: str, unmet: Sequence[str]) -> Finding:
    """
    Judge the versions of the packages.

    :param versions: the installed versions.
    :param code: version of the provider's code that runs.
    :param unmet: requirements of the provider that are not met, such as ``aiohttp>=3.13.5``.
    """
    installed = versions.get(PROVIDER)
    if installed is None:
        return error(
            f"The package {PROVIDER} is on the import path, but not installed, so Airflow does not know the provider.",
            f"Install it here: pip install {PROVIDER}",
        )
    if installed != code:
        return error(
            f"{PROVIDER} {installed} is installed, but the code of {code} runs.",
            "Remove the other copy from the import path, or install the package again.",
        )
    if unmet:
        quoted = " ".join(f"'{one}'" for one in unmet)
        return error(f"Requirements are not met: {', '.join(unmet)}.", f"Install them: pip install {quoted}")
    return ok(", ".join(f"{name} {version}" for name, version in versions.items()) + ".")


def judge_plugin(*, enabled: bool, airflow: tuple[int, ...], problem: str) -> Finding:
    """
    Judge the plugin with the *Video* tab.

    :param enabled: whether it is switched on here.
    :param airflow: version of Airflow.
    :param problem: why the plugin cannot be loaded; empty if it can.
    """
    if problem:
        return error(
            f"The plugin cannot be loaded: {problem}.", f"Install the package again: pip install {PROVIDER}"
        )
    if not enabled:
        return ok("The Video tab is switched off ([manxue] video_tab).")
    if airflow < (3, 1, 1):
        return warning(
            "The Video tab is switched on ([manxue] video_tab), but has no effect on this Airflow.",
            "Use Airflow 3.1.1 or newer for it, or switch it off.",
        )
    return ok("The Video tab is switched on here; the API server needs the same setting.")


# --- connection -------------------------------------------------------------------------------------------


def judge_connection(conn_id: str, settings: ManxueSettings) -> Finding:
    """Judge a connection that can be used."""
    return ok(
        f"{conn_id!r} leads to {settings.base_url}; request_timeout {settings.request_timeout:g} s, "
        f"requests_per_second {settings.requests_per_second:g}, max_connections {settings.max_connections}."
    )


def judge_tls(settings: ManxueSettings, authorities: str | None, probe: Probe) -> Finding:
    """
    Judge the encryption.

    :param settings: the connection.
    :param authorities: path of the certificate authorities; None if none are used.
    :param probe: the request.
    """
    if probe.obstacle is Obstacle.TLS:
        return _tls_error(probe)
    url = urlsplit(settings.base_url)
    if url.scheme == "http":
        if is_loopback(url.hostname or ""):
            return ok("Not used: plain HTTP, on this machine.")
        return warning(
            f"The API key travels to {url.hostname} unencrypted.",
            "Use https:// in the connection's field 'host' (Base URL), unless that network is trusted.",
        )
    if authorities is None:
        return warning(
            f"The certificate of {url.hostname} is not verified, so another host can receive the API key.",
            "Set the connection's field 'verify' (Check the certificate) to true. For an authority of your own, set "
            "'ca_bundle' (CA bundle).",
        )
    if probe.http_status is None:
        return not_checked(_NO_RESPONSE)
    return ok(f"The certificate of {url.hostname} was verified with {authorities}.")


def _tls_error(probe: Probe) -> Finding:
    cause = probe.error
    if isinstance(cause, ManxueConfigurationError):
        return error_from(cause)
    text = str(cause)
    if "expired" in text or "not yet valid" in text:
        remedy = "Check the clock of this machine; if it is right, the service has to renew its certificate."
    elif "mismatch" in text.lower() or "not valid for" in text:
        remedy = "Check the host name in the connection's field 'host' (Base URL)."
    elif "certificate" in text:
        remedy = (
            "Set the connection's field 'ca_bundle' (CA bundle) to a PEM file with the authority that signed it, on workers "
            "and triggerers. It is missing if a proxy opens TLS, too."
        )
    else:
        remedy = "Check the port and the scheme in the connection's field 'host' (Base URL)."
    return error(f"{text[:1].upper()}{text[1:]}.", remedy)


def judge_proxy(proxy: str | None, source: str, probe: Probe) -> Finding:
    """
    Judge the proxy of the connection.

    :param proxy: host and port of the proxy; None for a direct connection.
    :param source: where the proxy is set.
    :param probe: the request.
    """
    if probe.obstacle is Obstacle.PROXY and isinstance(probe.error, ManxueConfigurationError):
        return error_from(probe.error)
    if proxy is None:
        return ok("None: requests go directly to the service.")
    if probe.obstacle is Obstacle.PROXY or probe.http_status == 407:
        return error(
            f"The proxy {proxy}, from {source}, refused or failed: {probe.error}.",
            f"Check its address, user name and password in {source}, and whether it allows {urlsplit(probe.url).hostname}. "
            f"If none is needed, remove it, or add that host to NO_PROXY.",
        )
    if probe.http_status is None:
        return not_checked(f"{proxy}, from {source}. {_NO_RESPONSE}")
    return ok(f"{proxy}, from {source}.")


def judge_service(probe: Probe) -> Finding:
    """Judge whether the service responds, and whether it is the service."""
    cause, status = probe.error, probe.http_status
    if probe.obstacle is not None and probe.obstacle is not Obstacle.OTHER:
        return not_checked(f"The request ended at the {probe.obstacle.value}, see above.")
    if status is None and cause is not None:
        return _unreachable(str(cause))
    if isinstance(cause, ManxueRedirectError):
        return error_from(cause)
    if status is None or status == 407:
        return not_checked("The request ended at the proxy, see above.")
    if status in _BUSY or status >= 500 or (probe.is_json and isinstance(cause, ManxueTransientError)):
        return warning(
            f"{probe.url} was reached, but responded: {cause}.",
            "Waits survive this until their timeout, so look again in a few minutes. If it stays, look at the status of the "
            "service, and at a gateway in front of it.",
        )
    if cause is not None and is_wrong_path(cause):
        return error(
            f"{probe.url} was reached, but does not know the path ({cause}).",
            "Leave the connection's field 'host' (Base URL) empty, or give the base URL that the service named.",
        )
    if not probe.is_json and status not in {401, 403}:
        return error(
            f"{probe.url} was reached, but does not respond like the service: HTTP {status} with a body that is not JSON.",
            "Check the connection's field 'host' (Base URL), and for a login page or a firewall in between.",
        )
    seconds = max(0.0, probe.received_at - probe.sent_at)
    return ok(
        f"{probe.url} responded to the query of a task that does not exist with HTTP {status}, in {seconds:.2f} s."
    )


def _unreachable(text: str) -> Finding:
    return error(
        f"{text[:1].upper()}{text[1:]}.",
        "Check the connection's field 'host' (Base URL), and that this machine resolves and reaches that host: DNS, firewall. "
        "Where only a proxy leads out, set the field 'proxy' (Proxy).",
    )


def judge_key(probe: Probe) -> Finding:
    """Judge the API key, from the response."""
    cause = probe.error
    if isinstance(cause, ManxueAuthenticationError):
        return error_from(cause)
    if isinstance(cause, ManxuePermissionError):
        finding = error_from(cause)
        between = (
            ""
            if probe.is_json
            else " The response is no JSON, so it may come from a firewall or proxy in between."
        )
        return error(finding.text + between, finding.remedy)
    if probe.http_status is None:
        return not_checked(_NO_RESPONSE)
    if judge_service(probe).level is not Level.OK:
        return not_checked("The response does not show whether the key is valid, see above.")
    return ok(
        "The service did not refuse the key. It documents no more than that; an order is the only proof."
    )


def judge_clock(probe: Probe) -> Finding:
    """Compare the clock of this machine with the header ``Date`` of the response."""
    if probe.http_status is None:
        return not_checked(_NO_RESPONSE)
    seconds = _clock_error(probe)
    if seconds is None:
        return not_checked("The response has no usable header Date.")
    if abs(seconds) <= _CLOCK_WARNING:
        bound = math.ceil(abs(seconds) + probe.received_at - probe.sent_at + 1)
        return ok(f"Less than {bound} s from the clock of the service.")
    direction = "ahead of" if seconds > 0 else "behind"
    text = f"The clock of this machine is {_duration(abs(seconds))} {direction} that of the service."
    remedy = (
        "Synchronize the clock of this machine with NTP. Workers and triggerers exchange deadlines, and stores refuse "
        "signatures of another time."
    )
    return (error if abs(seconds) > _CLOCK_ERROR else warning)(text, remedy)


def _clock_error(probe: Probe) -> float | None:
    """Return by how many seconds this clock is ahead; None if that is unknown. A ``Date`` holds whole seconds."""
    try:
        date = parsedate_to_datetime(probe.date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if probe.sent_at > date + 1:
        return probe.sent_at - (date + 1)
    return min(0.0, probe.received_at - date)


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


# --- Airflow ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Workload:
    """
    What Airflow's database holds about triggerers.

    :param triggerers: host names of the live triggerers.
    :param waits: triggers of this package that are stored, each for one wait.
    :param triggers: triggers of all packages that are stored.
    :param capacity: triggers that one triggerer runs at most.
    """

    triggerers: Sequence[str]
    waits: int
    triggers: int
    capacity: int


def judge_triggerers(workload: Workload) -> Finding:
    """Judge whether a triggerer is live."""
    if workload.triggerers:
        return ok(f"{len(workload.triggerers)} live: {', '.join(workload.triggerers)}.")
    return error(
        "There is no live triggerer, so deferred tasks do not resume.",
        "Start one: `airflow triggerer`. Without one, use deferrable=False.",
    )


def judge_limits(settings: ManxueSettings, workload: Workload) -> Finding:
    """Compare the limits of the connection and the capacity of the triggerers with the waits."""
    count, rate = len(workload.triggerers), settings.requests_per_second
    if not count:
        return not_checked("There is no live triggerer, see above.")
    if workload.triggers > count * workload.capacity:
        return warning(
            f"{workload.triggers} deferred tasks exceed the capacity of the live triggerers: {count} x {workload.capacity}.",
            "Raise [triggerer] capacity, or start another triggerer.",
        )
    if workload.waits > count * rate * DEFAULT_POKE_INTERVAL:
        seconds = workload.waits / count / rate
        return warning(
            f"{workload.waits} waits at {rate:g} requests per second on each of {count} triggerers: each is polled every "
            f"{seconds:.0f} s.",
            "Raise the connection's field 'requests_per_second' (Requests per second) if the service allows it, start another "
            "triggerer, or use a longer poke_interval.",
        )
    return ok(
        f"At most {rate * count:g} requests per second ({rate:g} for each live triggerer), enough for "
        f"{count * rate * DEFAULT_POKE_INTERVAL:.0f} videos at the default interval; {workload.waits} waits now."
    )


# --- store ------------------------------------------------------------------------------------------------


def judge_store(store: str, cause: ManxueError | None) -> Finding:
    """
    Judge the store of videos.

    :param store: its URI.
    :param cause: why it cannot be used; None if it can.
    """
    if cause is None:
        return ok(
            f"{without_passwords(store)} was reached. Nothing was written, so permission to write is not proven."
        )
    text = without_passwords(str(cause))
    if "Install" in text:
        return error_from(cause)
    return error(
        f"{text}.", "Check the URI, the Airflow connection of the store, and its permissions for this place."
    )
