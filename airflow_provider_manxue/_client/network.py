"""
TLS and proxy set-up, and the limits of a response's head, for both clients.

Neither ``requests`` nor ``aiohttp`` reads the environment, so that both clients use the same proxy and
the same certificate authorities. No module of ``requests`` is imported here: its modules import each other in a circle,
and two threads that import two of them at the same time can each get a partially loaded module.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from airflow_provider_manxue import __version__
from airflow_provider_manxue._core.connection import is_loopback, is_proxy_url
from airflow_provider_manxue._core.network_errors import no_response
from airflow_provider_manxue._core.responses import MAX_BODY
from airflow_provider_manxue.exceptions import ManxueConfigurationError, ManxueTransientError

if TYPE_CHECKING:
    from airflow_provider_manxue.models import ManxueSettings

MAX_HEADER_LINE = 65_536
"""Bytes of a status line or a header that are read at most, as in ``http.client``."""

MAX_HEADERS = 99
"""Headers of a response that are read at most. ``http.client`` counts the empty line below them as the hundredth."""

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

_PASSING_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR, errno.ESTALE})
"""Error numbers of opening a file that a later attempt may not have: too many files, no memory, a disk error."""


def service_host(settings: ManxueSettings) -> str:
    """Return the host name of the service."""
    return urlsplit(settings.base_url).hostname or ""


JSON_BODY = {"Content-Type": "application/json"}
"""Headers of a request with a body."""


def request_headers() -> dict[str, str]:
    """Return the headers of each request to the service, without the API key."""
    # A compressed response could be small on the wire and huge in memory.
    return {"User-Agent": user_agent(), "Accept": "application/json", "Accept-Encoding": "identity"}


def append_bounded(body: bytearray, chunk: bytes, http_status: int) -> None:
    """
    Append a chunk to the body of a response.

    :param http_status: the status of the response, for the error.
    :raises ManxueTransientError: if the body is longer than ``MAX_BODY``.
    """
    body += chunk
    if len(body) > MAX_BODY:
        raise ManxueTransientError(f"HTTP {http_status} with a body of more than {MAX_BODY} bytes")


def needs_body(http_status: int) -> bool:
    """
    Return whether a response to a query is only usable with its body.

    An error is usable without: its status may request a pause, or refuse the key.
    """
    return http_status < 300


def no_service_response(settings: ManxueSettings, error: BaseException) -> ManxueTransientError:
    """Return the error for a request to the service without a response."""
    return no_response(error, service_host(settings))


def set_up_error(error: Exception) -> ManxueTransientError:
    """Return the error for an HTTP client that could not be set up just now."""
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number).lower() if number else type(error).__name__
    return ManxueTransientError(f"The HTTP client could not be set up: {reason}")


def unusable_address(settings: ManxueSettings) -> ManxueConfigurationError:
    """Return the error for a base URL or proxy that the HTTP library rejects."""
    return ManxueConfigurationError(
        f"Connection field 'host' (Base URL): no request can be sent to {service_host(settings)!r}. Check the Base URL and, if one is used, the proxy."
    )


@functools.lru_cache(maxsize=1)
def user_agent() -> str:
    """Return the ``User-Agent`` of both clients."""
    # Not from the metadata of the packages: that reads files.
    from airflow import __version__ as airflow_version

    return f"airflow-provider-manxue/{__version__} apache-airflow/{airflow_version}"


# --- proxies ----------------------------------------------------------------------------------------------


def proxy_for(settings: ManxueSettings) -> str | None:
    """
    Return the URL of the proxy for requests to the service; None for a direct connection.

    Without a proxy in the connection the environment decides, by the rules of ``requests``. A service on this machine
    is then reached directly, since its requests may be unencrypted.

    :raises ManxueConfigurationError: if the environment names a proxy that is not supported.
    """
    if settings.proxy:
        return settings.proxy
    url = urlsplit(settings.base_url)
    hostname = service_host(settings)
    proxies = getproxies_environment()
    kind = url.scheme if url.scheme in proxies else "all"
    if (
        kind not in proxies
        or is_loopback(hostname)
        or _bypasses_proxy(hostname, url.port, proxies.get("no", ""))
    ):
        return None
    proxy = proxies[kind].strip()
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not is_proxy_url(proxy):
        raise _proxy_error(kind, proxy)
    return proxy


def _proxy_error(kind: str, proxy: str) -> ManxueConfigurationError:
    """Return the error for a proxy of the environment, without its URL, which may hold a password."""
    scheme = proxy.partition("://")[0].lower()
    problem = (
        f"{scheme}:// proxies are not supported"
        if scheme in {"https", "socks4", "socks4a", "socks5", "socks5h", "socks"}
        else "it is not the URL of an HTTP proxy"
    )
    return ManxueConfigurationError(
        f"Environment variable {_variable_name(kind)!r}: {problem}. Use the form http://proxy.example.com:3128, "
        f"set the connection's extra field 'proxy', or add the service's host to NO_PROXY."
    )


def _variable_name(kind: str) -> str:
    lower = f"{kind}_proxy"
    if lower in os.environ:
        return lower
    return next((name for name in os.environ if name.lower() == lower), lower.upper())


def _bypasses_proxy(hostname: str, port: int | None, no_proxy: str) -> bool:
    """Return whether ``NO_PROXY`` lists a host: by name, suffix, ``name:port``, address or network."""
    entries = [entry for entry in no_proxy.replace(" ", "").split(",") if entry]
    try:
        address = ipaddress.ip_address(hostname)
    except ValueError:
        names = {hostname, f"{hostname}:{port}" if port else hostname}
        suffixes = [entry.lstrip(".").lower() for entry in entries]
        matches = any(name == one or name.endswith(f".{one}") for one in suffixes for name in names)
    else:
        matches = any(_is_in_network(address, entry) for entry in entries)
    return matches or "*" in entries


def _is_in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entry: str) -> bool:
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False


# --- certificate authorities --------------------------------------------------------------------------------


def ca_path(settings: ManxueSettings) -> str | None:
    """
    Return the file or folder of certificate authorities; None if certificates are not verified, or over plain HTTP.

    :raises ManxueConfigurationError: if an environment variable names a file that cannot be read or holds no
        certificate.
    :raises ManxueTransientError: if the file could not be read just now.
    """
    if not _verifies(settings):
        return None
    path, source = _authorities(settings)
    if source:
        # Checked once for each version of the file, since loading it takes milliseconds.
        _check_authorities(path, source, _file_version(path, source))
    return path


def ssl_context(settings: ManxueSettings) -> ssl.SSLContext | bool:
    """
    Build the TLS context: False without verification, True over plain HTTP.

    Trusts the authorities of :func:`ca_path`, so that both clients verify certificates identically. It reads files:
    call it in a thread.

    :raises ManxueConfigurationError: as :func:`ca_path`.
    :raises ManxueTransientError: if TLS could not be set up just now.
    """
    if not _verifies(settings):
        return urlsplit(settings.base_url).scheme != "https"
    return _load_authorities(*_authorities(settings))


def session_key(settings: ManxueSettings) -> tuple[object, ...]:
    """
    Return the key of a session. A different key requires a new session.

    It holds the version of the authorities' file, so that a file that was replaced is read again. It reads the file
    system: call it in a thread.

    :raises ManxueConfigurationError: if the file of authorities cannot be read.
    :raises ManxueTransientError: if it could not be read just now.
    """
    if not _verifies(settings):
        return (urlsplit(settings.base_url).scheme,)
    path, source = _authorities(settings)
    return (path, *_file_version(path, source))


def _verifies(settings: ManxueSettings) -> bool:
    return urlsplit(settings.base_url).scheme == "https" and bool(settings.verify or settings.ca_bundle)


def _authorities(settings: ManxueSettings) -> tuple[str, str]:
    """Return the path of the authorities and its source; the source is empty for the default."""
    if settings.ca_bundle:
        return settings.ca_bundle, "The connection's extra field 'ca_bundle'"
    for name in _CA_VARIABLES:
        if path := os.environ.get(name):
            return path, f"Environment variable {name!r}"
    import certifi

    return certifi.where(), ""


def _file_version(path: str, source: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        raise _authorities_error(path, source, error) from None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=16)
def _check_authorities(path: str, source: str, version: tuple[int, int]) -> None:
    _load_authorities(path, source)


def _load_authorities(path: str, source: str) -> ssl.SSLContext:
    try:
        if not Path(path).is_dir():
            # OpenSSL does not always report why it could not read a file. The system does.
            with Path(path).open("rb"):
                pass
        return tls_context(path)
    except (OSError, ValueError) as error:
        raise _authorities_error(path, source, error) from None


def tls_context(authorities: str) -> ssl.SSLContext:
    """
    Build the TLS context that trusts a file or folder of certificate authorities.

    :param authorities: path of the file or folder.
    :raises OSError: if it cannot be read, or holds no certificate.
    """
    if Path(authorities).is_dir():
        return ssl.create_default_context(capath=authorities)
    return ssl.create_default_context(cafile=authorities)


def _authorities_error(
    path: str, source: str, error: OSError | ValueError
) -> ManxueConfigurationError | ManxueTransientError:
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ssl.SSLError):
        problem = "holds no certificate in the PEM format"
    elif number in _PASSING_ERRORS:
        return ManxueTransientError(f"TLS could not be set up: {os.strerror(number or 0).lower()}")
    elif number:
        problem = f"could not be read: {os.strerror(number).lower()}"
    else:
        problem = "is not the name of a file"
    return ManxueConfigurationError(
        f"{source or 'The package certifi'}: {path!r:.300} {problem}. Give the path of a PEM file that this process "
        f"can read."
    )
