"""
The fields of an Airflow connection of type ``manxue``. The only I/O is a check that ``ca_bundle`` is a file.

The functions take plain values, since workers and triggerers load a connection in different ways.
"""

from __future__ import annotations

import ast
import difflib
import ipaddress
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from airflow_provider_manxue.exceptions import ManxueConfigurationError, ManxueConnectionNotFoundError
from airflow_provider_manxue.models import ManxueSettings

DEFAULT_CONN_ID = "manxue_default"
DEFAULT_BASE_URL = "https://zcbservice.aizfw.cn/kyyReactApiServer"
_DEFAULT_PREFIX = "/kyyReactApiServer"
_DEFAULT_PORTS = {"https": 443, "http": 80}
FORM_LABELS = {
    "host": "Base URL",
    "password": "API key",
    "request_timeout": "Request timeout (s)",
    "requests_per_second": "Requests per second",
    "max_connections": "Connections",
    "verify": "Check the certificate",
    "ca_bundle": "CA bundle",
    "proxy": "Proxy",
    "allow_http": "Allow plain HTTP",
    "busy_codes": "Busy codes",
}
"""The labels of the fields in Airflow's form, which are also in the provider's metadata."""

_AUTHORITY = re.compile(r"(\[[\w.:%-]+\]|[\w.-]+)(:\d+)?", re.ASCII)


def parse_connection(
    conn_id: str,
    *,
    host: str | None,
    password: str | None,
    port: int | None = None,
    schema: str | None = None,
    extra: Mapping[str, Any] | str | None = None,
) -> ManxueSettings:
    """
    Check the fields of a connection.

    :param host: base URL of the service, or empty for the public one. Scheme, path prefix, trailing slash and ``/v1`` are
        optional.
    :param password: the API key.
    :param port: port, if it is not part of ``host``.
    :param schema: ``https`` or ``http``, if it is not part of ``host``.
    :param extra: the connection's extra fields, or their JSON text. Pass the text, since Airflow's ``extra_dejson``
        returns no fields for invalid JSON.
    :raises ManxueConfigurationError: naming the field, the problem and the remedy.
    """
    reader = _Reader(conn_id, extra)
    settings = ManxueSettings(
        base_url=reader.base_url(
            host or "", port, schema or "", allow_http=reader.switch("allow_http", False)
        ),
        api_key=reader.api_key(password or ""),
        request_timeout=reader.number("request_timeout", 30.0, minimum=0.1, maximum=600.0),
        requests_per_second=reader.number("requests_per_second", 10.0, minimum=0.01, maximum=10_000.0),
        max_connections=reader.whole_number("max_connections", 10, minimum=1, maximum=1000),
        verify=reader.switch("verify", True),
        ca_bundle=reader.file("ca_bundle"),
        proxy=reader.proxy("proxy"),
        busy_codes=reader.codes("busy_codes"),
    )
    reader.refuse_unknown()
    return settings


def missing_connection(conn_id: str) -> ManxueConnectionNotFoundError:
    """Return the error for a connection that does not exist."""
    return ManxueConnectionNotFoundError(
        f"The connection {conn_id!r} does not exist. Create one of the type 'manxue' with the API key of the service."
    )


class _Reader:
    """Reader of one connection's fields. Each method returns a valid value, or raises an error that names the field."""

    def __init__(self, conn_id: str, extra: Any) -> None:
        self.conn_id = conn_id
        self.extra = self._parse_extra(extra)
        self.known: set[str] = set()

    def error(self, name: str, problem: str, remedy: str) -> ManxueConfigurationError:
        label = f" ({FORM_LABELS[name]})" if name in FORM_LABELS else ""
        return ManxueConfigurationError(
            f"Connection {self.conn_id!r}, field {name!r}{label}: {problem}. {remedy}"
        )

    def _parse_extra(self, extra: Any) -> Mapping[str, Any]:
        remedy = 'Use the form {"request_timeout": 30}.'
        if isinstance(extra, str) and extra.strip():
            try:
                extra = json.loads(extra)
            except (ValueError, RecursionError):
                # The text is not quoted, since it may contain a password.
                raise self.error("extra", "it is not JSON", remedy) from None
        if not extra or (isinstance(extra, str) and not extra.strip()):
            return {}
        if not isinstance(extra, Mapping):
            raise self.error("extra", "it is not a JSON object", remedy)
        return extra

    # Columns of the connection

    def api_key(self, password: str) -> str:
        key = password.strip()
        if not key:
            raise self.error("password", "no API key is set", "Put the service's API key there.")
        if not re.fullmatch(r"[!-~]+", key):
            # A line break would end the header and begin another one.
            raise self.error(
                "password",
                "the API key holds a space, a line break or a character outside of ASCII",
                "Copy the key again, without the word 'Bearer'.",
            )
        return key

    def base_url(self, host: str, port: int | None, schema: str, *, allow_http: bool) -> str:
        host = host.strip()
        if not host and (not port or port == _DEFAULT_PORTS["https"]):
            return DEFAULT_BASE_URL
        url = self._split(host, schema)
        if port is not None and not 0 <= port <= 65535:
            raise self.error(
                "port", f"{port!r} is not a number from 1 to 65535", "Leave it empty for the default port."
            )
        if port and not url.port and port != _DEFAULT_PORTS[url.scheme]:
            url = url._replace(netloc=f"{url.netloc}:{port}")
        if url.scheme == "http" and not allow_http and not is_loopback(url.hostname or ""):
            raise self.error(
                "host",
                f"{url.scheme}://{url.hostname} would send the API key unencrypted",
                "Use https://, or set the field 'allow_http' (Allow plain HTTP) to true if that network is trusted.",
            )
        path = re.sub(r"/+(v1(/+result(/[^/]*)?|/+sd2_manxue/+videos)?)?/*$", "", url.path)
        return f"{url.scheme}://{url.netloc}{path or _DEFAULT_PREFIX}"

    def _split(self, host: str, schema: str) -> SplitResult:
        remedy = f"Use the base URL, for example {DEFAULT_BASE_URL}, or leave it empty."
        if schema and schema.lower() not in {"http", "https"}:
            raise self.error("schema", f"{schema!r} is neither 'https' nor 'http'", "Leave it empty.")
        if "@" in host:
            # Not quoted: the part before the @ may be a password.
            raise self.error(
                "host", "it holds a user name or a password", "Put the API key into its own field."
            )
        text = host if "://" in host else f"{schema or 'https'}://{host}"
        if "?" in host or "#" in host:
            # Not quoted: the query may contain the key.
            raise self.error("host", "it holds more than a base URL", remedy)
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError:
            raise self.error("host", f"{host!r} is not a URL", remedy) from None
        if url.scheme not in {"http", "https"}:
            raise self.error("host", f"{url.scheme!r} is not a scheme of the service", remedy)
        # Not only the host name: urlsplit also accepts "https://host:" and "https://a [::1] b".
        if not _AUTHORITY.fullmatch(url.netloc) or port == 0 or not is_host_name(url.hostname or ""):
            raise self.error("host", f"{host!r} names no valid host", remedy)
        if re.search(r"[^!-~]|\\|/\.{1,2}(/|$)", url.path):
            raise self.error("host", f"{host!r} holds more than a base URL", remedy)
        return url

    # Extra fields. The connection form saves an emptied field as null or "".

    def _extra(self, name: str) -> Any:
        self.known.add(name)
        value = self.extra.get(name)
        return None if value == "" else value

    def switch(self, name: str, default: bool) -> bool:
        value = self._extra(name)
        if value is None:
            return default
        text = str(value).strip().lower()
        if text in {"true", "false"}:
            return text == "true"
        remedy = f"Set one of them, or leave it empty for {str(default).lower()}."
        raise self.error(name, f"{value!r} is neither true nor false", remedy)

    def number(self, name: str, default: float, *, minimum: float, maximum: float) -> float:
        value = self._extra(name)
        if value is None:
            return default
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if minimum <= number <= maximum:
            return number
        problem = f"{value!r} is not a number from {minimum:g} to {maximum:g}"
        raise self.error(name, problem, f"Set such a number, or leave it empty for {default:g}.")

    def whole_number(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        number = self.number(name, default, minimum=minimum, maximum=maximum)
        if number == int(number):
            return int(number)
        remedy = f"Set a whole number, or leave it empty for {default}."
        raise self.error(name, f"{number:g} is not a whole number", remedy)

    def file(self, name: str) -> str | None:
        value = self._extra(name)
        if value is None:
            return None
        try:
            if isinstance(value, str) and Path(value).is_file():
                return value
        except OSError:
            pass  # no permission for the folder, or a name that is too long
        raise self.error(
            name,
            f"{value!r} is not a file here",
            "Give the path of a PEM file that workers and triggerers can read.",
        )

    def proxy(self, name: str) -> str | None:
        value = self._extra(name)
        if value is None:
            return None
        # Not quoted: the value may contain a password.
        if isinstance(value, str) and is_proxy_url(value.strip()):
            return value.strip()
        raise self.error(
            name, "it is not the URL of an HTTP proxy", "Use the form http://proxy.example.com:3128."
        )

    def codes(self, name: str) -> frozenset[str]:
        value = self._extra(name)
        items = _parse_codes(value) if isinstance(value, str) else value
        if items is None:
            return frozenset()
        if isinstance(items, int):
            items = [items]
        if isinstance(items, list) and all(
            isinstance(item, (str, int)) and not isinstance(item, bool) for item in items
        ):
            return frozenset(str(item).strip() for item in items) - {""}
        raise self.error(
            name, "it is not a list of error codes", "Use the form 1302, 1303 or [1302, 'queue_full']."
        )

    def refuse_unknown(self) -> None:
        unknown = next((str(name) for name in self.extra if name not in self.known), None)
        if unknown is not None:
            hint = f"Remove it, or use one of: {', '.join(sorted(self.known))}."
            if near := difflib.get_close_matches(unknown, self.known):
                hint = f"Remove it, or rename it to {near[0]!r}."
            raise self.error(unknown, "this extra field is unknown", hint)


def _parse_codes(text: str) -> Any:
    """Parse codes from a form's text: separated by commas or spaces, or a list in JSON or in Python's notation."""
    if not text.lstrip().startswith("["):
        return re.split(r"[,\s]+", text)
    try:
        codes = ast.literal_eval(text.strip())
        str(codes)  # Python does not convert numbers of more than 4,300 digits
        return codes
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text


def is_host_name(hostname: str) -> bool:
    """
    Return whether a host name in ASCII can be resolved (RFC 1035, section 2.3.4), or is an address.

    A trailing dot is allowed.
    """
    name = hostname.removesuffix(".")
    return len(name) <= 253 and all(1 <= len(label) <= 63 for label in name.split("."))


def is_proxy_url(url: str) -> bool:
    """Return whether both clients support the URL of a proxy: only plain HTTP between a client and its proxy."""
    if not re.fullmatch(r"http://[^\s/?#]+/?", url):
        return False
    try:
        parts = urlsplit(url)
        port, hostname = parts.port, parts.hostname or ""
    except ValueError:
        return False
    authority = parts.netloc.rpartition("@")[2]
    return _AUTHORITY.fullmatch(authority) is not None and port != 0 and is_host_name(hostname)


def is_loopback(hostname: str) -> bool:
    """Return whether a host name means this machine, without resolving it."""
    if hostname.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False
