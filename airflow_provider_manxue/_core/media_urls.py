"""
Refusal of unsafe URLs, redirects and addresses of downloads. No I/O happens here.

The ranges of addresses are listed here, since ``ipaddress.is_global`` differs between versions of Python.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from airflow_provider_manxue.exceptions import ManxueInputError, ManxueUnsafeUrlError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any
    from urllib.parse import SplitResult

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_VISIBLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE | re.ASCII)


# --- URLs -----------------------------------------------------------------------------------------------


def unsafe(problem: str) -> ManxueUnsafeUrlError:
    """Return the error for a URL that no argument of the author makes safe."""
    return ManxueUnsafeUrlError(f"{problem}. Report the id of the video to the support of the service.")


def parse_url(url: str) -> SplitResult:
    """
    Parse a video's URL.

    :return: its parts, with the host in the ASCII form that name servers and proxies receive, so that it is checked in
        that form.
    :raises ManxueUnsafeUrlError: if it is not a plain ``http`` or ``https`` URL.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port, url.encode()
        if not parts.netloc.isascii():
            parts = parts._replace(netloc=parts.netloc.encode("idna").decode("ascii"))
    except ValueError:
        raise unsafe("The URL of the video could not be parsed") from None
    if parts.scheme not in {"http", "https"}:
        raise unsafe(f"The video is at a {parts.scheme!r} URL; only http and https are fetched")
    if "@" in parts.netloc:
        raise unsafe("The URL of the video has a user name or a password")
    if not re.fullmatch(r"[a-z0-9_.:-]+", parts.hostname or ""):
        # Not quoted: it may contain control sequences of a terminal.
        raise unsafe("The URL of the video names no valid host")
    return parts


def is_redirect(status: int) -> bool:
    """Return whether an HTTP status is a redirect."""
    return status in _REDIRECTS


def next_hop(url: str, location: str | None) -> str:
    """
    Return the target of a redirect from ``url``.

    :param location: the ``Location`` of the response.
    :raises ManxueUnsafeUrlError: if it must not be followed.
    """
    if not location:
        raise unsafe("The media host responded with a redirect without a target")
    target = _as_in_browsers(location)
    # An absolute URL is not joined, since that could rewrite it.
    if not _SCHEME.match(target):
        try:
            target = urljoin(url, target)
        except ValueError:
            raise unsafe("The media host responded with a redirect that could not be parsed") from None
    if parse_url(target).scheme == "http" and parse_url(url).scheme == "https":
        raise unsafe("The media host responded with a redirect from https to http")
    return target


def _as_in_browsers(location: str) -> str:
    """
    Normalize a ``Location`` as browsers do (WHATWG URL): remove surrounding blanks, line breaks and tabs, and replace
    each backslash before the query by a slash.
    """
    try:
        # http.client decodes headers as Latin-1, but servers send UTF-8.
        location = location.encode("latin-1").decode()
    except UnicodeError:
        location = quote(location.encode("latin-1", "replace"), safe=_VISIBLE_ASCII + " ")
    location = re.sub(r"[\t\r\n]", "", location.strip("".join(map(chr, range(0x21)))))
    path, mark, query = re.fullmatch(r"([^?#]*)([?#]?)(.*)", location).groups()  # type: ignore[union-attr]
    path = path.replace("\\", "/")
    # Any number of slashes begins the host, also without any after the scheme.
    path = re.sub(r"^(https?):/*", r"\1://", path, flags=re.IGNORECASE)
    return re.sub("^/{2,}", "//", path) + mark + query


def request_target(url: str) -> str:
    """
    Return the path and query of a URL unchanged, since a signature may cover their spelling.

    Only characters that a request cannot contain (spaces, characters outside of ASCII) are percent-encoded.
    """
    rest = re.sub(r"^[^:]*://[^/?#]*", "", url).partition("#")[0]
    return quote(rest if rest.startswith("/") else f"/{rest}", safe=_VISIBLE_ASCII)


# --- addresses ------------------------------------------------------------------------------------------

_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            # IANA's registry of special-purpose IPv4 addresses (RFC 6890), whole blocks.
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
            "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
            "168.63.129.16/32",  # Azure's host agent, which returns credentials of the machine
            # IANA's registry of special-purpose IPv6 addresses, the blocks in 2000::/3.
            "2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20",
        ),
    )
)  # fmt: skip
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""The only block of IPv6 that IANA assigns to public hosts (RFC 4291, section 2.4)."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_6TO4 = ipaddress.ip_network("2002::/16")
_LOCALHOST = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """
    The addresses that downloads may use: public ones, and those that the author allows. Others are refused.

    :param everything: whether all addresses are allowed.
    :param hosts: names of hosts with any address.
    :param networks: networks that are allowed.
    """

    everything: bool = False
    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, value: bool | Sequence[str], connection_host: str = "") -> AddressPolicy:
        """
        Parse the argument ``allow_private_addresses``.

        :param value: True, False, or names of hosts, addresses and networks.
        :param connection_host: host of the service. It is allowed if it is an address. A name is not resolved, since
            its name server could return any address.
        :raises ManxueInputError: if the argument is not usable.
        """
        if isinstance(value, bool):
            entries: Sequence[Any] = ()
        elif isinstance(value, (list, tuple, set, frozenset)) and all(_is_entry(one) for one in value):
            entries = tuple(value)
        else:
            raise ManxueInputError(
                f"allow_private_addresses must be True, False, or a list of host names, addresses and networks such as "
                f"'10.0.0.0/8', not {value!r:.200}."
            )
        parsed = map(_network, [*entries, *_own_addresses(connection_host)])
        networks = [network for network in parsed if network is not None]
        names = frozenset(_host_key(one) for one in entries if _network(one) is None)
        return cls(value is True, names, tuple(networks))

    def allowed(self, host: str, addresses: list[str]) -> list[str]:
        """
        Return the allowed ones of the resolved addresses of a host, at least one.

        :raises ManxueUnsafeUrlError: if there is none.
        """
        found = [one for one in addresses if self._allows(host, one)]
        if not found:
            raise ManxueUnsafeUrlError(
                f"The video is on {host}, whose address ({', '.join(addresses)}) is not public, so it is not fetched. "
                f"Set allow_private_addresses=[{host!r}] if you trust it."
            )
        return found

    def _allows(self, host: str, address: str) -> bool:
        if self.everything or _host_key(host) in self.hosts or is_public(address):
            return True
        ip = _parse_address(address)
        return any(ip in network for network in self.networks)


def _is_entry(value: object) -> bool:
    return isinstance(value, str) and bool(_network(value) or re.fullmatch(r"[A-Za-z0-9_.-]+", value.strip()))


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text.strip().strip("[]"), strict=False)
    except ValueError:
        return None


def _host_key(host: str) -> str:
    return host.strip().rstrip(".").lower()


def _own_addresses(connection_host: str) -> tuple[str, ...]:
    literal = literal_address(connection_host)
    if literal is None:
        return ()
    return _LOCALHOST if "localhost" in connection_host.lower() else (literal,)


def literal_address(host: str) -> str | None:
    """Parse a host name that is an address, in each notation that systems accept, without resolving it."""
    host = host.rstrip(".")
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet."""
    ip = _parse_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in _GLOBAL_UNICAST or _is_isatap(ip)):
        return False
    return not any(ip in network for network in _NOT_PUBLIC)


def _parse_address(address: str) -> Address:
    """Parse an address. An IPv6 address with an IPv4 one in it is converted: mapped, NAT64 (RFC 6052), 6to4 (RFC 3056)."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip in _6TO4:
        return ipaddress.IPv4Address(int(ip) >> 80 & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip


def _is_isatap(ip: ipaddress.IPv6Address) -> bool:
    """Return whether an IPv6 address wraps an IPv4 one for a tunnel inside of a site (RFC 5214)."""
    return int(ip) >> 32 & 0xFCFFFFFF == 0x00005EFE
