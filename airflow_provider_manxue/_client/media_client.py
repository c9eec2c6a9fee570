"""
Client for GET requests to media hosts.

Uses ``http.client``, since HTTP libraries normalize the percent-encoding of a URL (RFC 3986, section 6.2.2), which a
signature may cover. The API key is not known here.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy
from urllib3.util import make_headers

from airflow_provider_manxue._client.dialer import dial
from airflow_provider_manxue._client.network import tls_context, user_agent
from airflow_provider_manxue._client.request_deadline import SocketDeadline, setup_deadline
from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue._core.media import BrokenTransferError
from airflow_provider_manxue._core.media_urls import (
    MAX_REDIRECTS,
    is_redirect,
    literal_address,
    next_hop,
    parse_url,
    request_target,
    unsafe,
)
from airflow_provider_manxue._core.network_errors import no_response
from airflow_provider_manxue.exceptions import ManxueConfigurationError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from urllib.parse import SplitResult

    from airflow_provider_manxue._client.downloader import Deadline
    from airflow_provider_manxue._core.media_urls import AddressPolicy
    from airflow_provider_manxue.models import ManxueSettings


class MediaClient:
    """
    Client for GET requests, byte for byte and without credentials, to allowed addresses.

    Each request opens a connection to the address that was checked, so that a second look-up cannot return another
    one. At the deadline the connection is shut down.

    :param settings: the connection: its proxy, authorities and timeout are used.
    :param policy: allowed addresses.
    :param deadline: when to give up.
    """

    def __init__(self, settings: ManxueSettings, *, policy: AddressPolicy, deadline: Deadline) -> None:
        self._settings = settings
        self._policy = policy
        self._deadline = deadline

    @contextlib.contextmanager
    def get(self, url: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        """
        Request a URL, and follow its redirects.

        :param url: the URL. Its query is a secret, and is in no error.
        :param headers: headers for this request.
        :raises BrokenTransferError: if there is no response.
        :raises ManxueUnsafeUrlError: if its address is not allowed.
        """
        for _ in range(MAX_REDIRECTS + 1):
            with self._get_once(url, headers) as response:
                if not is_redirect(response.status):
                    yield response
                    return
                url = next_hop(url, response.headers.get("Location"))
        raise unsafe(f"The media host sent more than {MAX_REDIRECTS} redirects")

    @contextlib.contextmanager
    def _get_once(self, url: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        parts = parse_url(url)
        host = parts.hostname or ""
        self._deadline.check(f"no response from {host} yet")
        with contextlib.ExitStack() as stack:
            try:
                connection = self._connect(url, parts)
                stack.callback(connection.http.close)
                # Read here, since http.client drops the socket while a response is still being read.
                stack.callback(SocketDeadline(connection.http.sock, self._deadline.remaining).cancel)
                _send(connection, {"Host": parts.netloc, **headers})
                response = stack.enter_context(connection.http.getresponse())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise BrokenTransferError(str(no_response(error, host))) from None
            yield response

    def _connect(self, url: str, parts: SplitResult) -> _Connection:
        # The environment is applied as for requests to the service.
        environment = requests.Session().merge_environment_settings(
            url, self._proxies(), None, self._settings.verify, None
        )
        tls = self._tls(environment["verify"]) if parts.scheme == "https" else None
        proxy_url = select_proxy(url, environment["proxies"])
        host, port = parts.hostname or "", parts.port or (443 if tls else 80)
        if proxy_url is None:
            connection = http.client.HTTPConnection(host, port)
            connection.sock = self._dial(host, port, tls)
            return _Connection(connection, request_target(url))
        # The proxy looks the name up, so only an address in the URL itself can be checked.
        literal = literal_address(host)
        if literal is not None:
            self._policy.allowed(host, [literal])
        return self._connect_to_proxy(_Proxy.parse(proxy_url), url, parts, tls)

    def _connect_to_proxy(
        self, proxy: _Proxy, url: str, parts: SplitResult, tls: ssl.SSLContext | None
    ) -> _Connection:
        timeout = self._connect_timeout
        if tls:
            connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=timeout, context=tls)
            connection.set_tunnel(parts.hostname or "", parts.port or 443, proxy.headers)
            opened = _Connection(connection, request_target(url))
        else:
            plain = http.client.HTTPConnection(proxy.host, proxy.port, timeout=timeout)
            opened = _Connection(plain, f"http://{parts.netloc}{request_target(url)}", proxy.headers)
        with contextlib.ExitStack() as setup:

            def dial_proxy(address: tuple[str, int], timeout: float, source: None) -> socket.socket:
                ends_at = time.monotonic() + timeout
                sock = dial(*address, timeout)
                setup.enter_context(setup_deadline(sock, ends_at - time.monotonic()))
                return sock

            # The hook of http.client for creating the socket.
            opened.http._create_connection = dial_proxy  # type: ignore[attr-defined]
            try:
                opened.http.connect()
            except BaseException:
                opened.http.close()
                raise
        return opened

    @property
    def _connect_timeout(self) -> float:
        return max(0.1, min(self._settings.request_timeout, self._deadline.remaining))

    def _dial(self, host: str, port: int, tls: ssl.SSLContext | None) -> socket.socket:
        """Connect to a host, with TLS if there is a context, within one timeout."""
        timeout = self._connect_timeout
        ends_at = time.monotonic() + timeout
        sock = dial(host, port, timeout, lambda found: self._policy.allowed(host, found))
        if tls is None:
            return sock
        try:
            with setup_deadline(sock, ends_at - time.monotonic()):
                return tls.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise

    def _proxies(self) -> dict[str, str]:
        proxy = self._settings.proxy
        return {"http": proxy, "https": proxy} if proxy else {}

    def _tls(self, verify: Any) -> ssl.SSLContext:
        context = tls_context(verify if isinstance(verify, str) else DEFAULT_CA_BUNDLE_PATH)
        if self._settings.ca_bundle:
            context.load_verify_locations(self._settings.ca_bundle)
        if verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True)
class _Connection:
    """An open connection, the request target, and headers for a proxy at its other end."""

    http: http.client.HTTPConnection
    target: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Proxy:
    host: str
    port: int
    headers: dict[str, str]

    @classmethod
    def parse(cls, url: str) -> _Proxy:
        """Parse a proxy's URL. The environment may hold schemes that the connection's field does not accept."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ManxueConfigurationError(
                f"The environment names a {clean_text(parts.scheme)!r} proxy for the media host; only http:// proxies "
                f"can be used. Name one in the connection's extra field 'proxy', or the host in NO_PROXY."
            )
        headers: dict[str, str] = {}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Proxy-Authorization"] = make_headers(proxy_basic_auth=login)["proxy-authorization"]
        return cls(parts.hostname, parts.port or 80, headers)


def _send(connection: _Connection, headers: dict[str, str]) -> None:
    connection.http.putrequest("GET", connection.target, skip_host=True, skip_accept_encoding=True)
    # A compressed body cannot be resumed, and its length is not that of the video.
    usual = {
        "User-Agent": user_agent(),
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    for name, value in {**headers, **usual, **connection.headers}.items():
        connection.http.putheader(name, value)
    connection.http.endheaders()
