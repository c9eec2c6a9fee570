"""
Connecting to a host within one timeout.

``socket.create_connection`` applies the whole timeout to each address of a name, and none to the look-up. The caller
selects the addresses: ``_core/media_urls.py`` has those that are refused for downloads.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ADDRESSES = 4
"""Addresses of a name that are tried at most. If these fail, further ones usually fail for the same reason."""

_Found = list[str] | Exception


def dial(
    host: str, port: int, timeout: float, select: Callable[[list[str]], list[str]] = list
) -> socket.socket:
    """
    Connect to a host.

    :param host: its name or address.
    :param port: its port.
    :param timeout: seconds for looking the name up and for connecting, over all addresses.
    :param select: returns the addresses that may be used.
    :raises OSError: if there is no connection.
    """
    ends_at = time.monotonic() + timeout
    addresses = select(_look_up(host, port, timeout))[:MAX_ADDRESSES]
    failure: OSError = OSError("the host has no address")
    for number, address in enumerate(addresses):
        remaining = ends_at - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        try:
            # A silent address leaves time for the next ones.
            sock = socket.create_connection((address, port), remaining / (len(addresses) - number))
        except OSError as error:
            failure = error
        else:
            sock.settimeout(timeout)
            return sock
    raise failure


def _look_up(host: str, port: int, timeout: float) -> list[str]:
    """Look a name up in a thread, since a name server that is silent cannot be interrupted."""
    results: queue.SimpleQueue[_Found] = queue.SimpleQueue()
    threading.Thread(
        target=_put_addresses, args=(host, port, results), name="manxue-look-up", daemon=True
    ).start()
    try:
        found = results.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError(f"the name {host} could not be looked up in time") from None
    if isinstance(found, Exception):
        raise found
    return found


def _put_addresses(host: str, port: int, results: queue.SimpleQueue[_Found]) -> None:
    found: _Found
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = list(dict.fromkeys(str(address[0]) for *_, address in infos))
    except Exception as error:  # noqa: BLE001  # raised again by the caller's thread
        found = error
    with contextlib.suppress(RuntimeError):  # the interpreter is ending
        results.put(found)
