"""Errors of requests that got no response, from the exceptions of both HTTP libraries. No I/O happens here."""

from __future__ import annotations

import os
import re
import socket
import ssl
from enum import StrEnum

from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue.exceptions import ManxueTransientError

_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
"""Text of ``http.client`` for the response of a proxy to ``CONNECT``; the exception has no other field for the status."""


class Obstacle(StrEnum):
    """The part of a connection that failed, so that there was no response."""

    TLS = "encryption"
    PROXY = "proxy"
    OTHER = "network"


def obstacle_of(error: BaseException) -> Obstacle:
    """
    Return the part of a connection that failed.

    :param error: the exception of the HTTP library.
    """
    chain = _chain(error)
    if any(isinstance(cause, ssl.SSLError) for cause in chain):
        return Obstacle.TLS
    return Obstacle.PROXY if any("ProxyError" in type(cause).__name__ for cause in chain) else Obstacle.OTHER


def trouble_of(error: BaseException) -> str:
    """
    Return the kind of trouble of a request without a response, as a record file names it.

    :param error: the exception of the HTTP library.
    """
    obstacle = obstacle_of(error)
    if obstacle is not Obstacle.OTHER:
        return obstacle.value
    for cause in _chain(error):
        if _is_timeout(cause):
            return "timeout"
        if isinstance(cause, ConnectionRefusedError):
            return "refused"
        if isinstance(cause, ConnectionError):
            return "reset"
    return obstacle.value


def no_response(error: BaseException, hostname: str) -> ManxueTransientError:
    """Return the error for a request to a host that got no response, from the exception of the HTTP library."""
    return ManxueTransientError(f"no response from {hostname}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """Find the reason in the chain of causes. The texts of the HTTP libraries' own exceptions contain the whole URL."""
    chain = _chain(error)
    for cause in chain:
        # Exceptions of aiohttp derive from these, too, but only those of Python have the details.
        if isinstance(cause, ssl.SSLCertVerificationError) and hasattr(cause, "verify_message"):
            return f"its certificate was not accepted ({clean_text(cause.verify_message)})"
        if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", None):
            return f"TLS failed ({clean_text(cause.reason)})"
        if isinstance(cause, socket.gaierror):
            return "the host name was not found"
        if _is_timeout(cause):
            return "timed out"
        if tunnel := _TUNNEL.search(str(cause)):
            return f"its proxy responded with HTTP {tunnel[1]}"
    numbers = (cause.errno for cause in chain if isinstance(cause, OSError) and cause.errno)
    return next((os.strerror(number).lower() for number in numbers), type(error).__name__)


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or "Timeout" in type(error).__name__


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain
