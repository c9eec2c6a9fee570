"""
The downloader: moves the bytes of a video from a media host into a file, and stays until they are all there.

It speaks HTTP through the standard library, since HTTP libraries rewrite a URL's percent-encoding, and a
signature may cover it. The API key is not known here.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
import ssl
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy
from urllib3.util import make_headers

from airflow_provider_manxue._client.request_deadline import SocketDeadline
from airflow_provider_manxue._core.responses import clean_text, no_answer, user_agent
from airflow_provider_manxue.exceptions import (
    ManxueConfigurationError,
    ManxueDownloadError,
    ManxueStorageError,
    ManxueTransientError,
    ManxueUnsafeUrlError,
)
from airflow_provider_manxue.media import (
    HEAD_BYTES,
    MAX_REDIRECTS,
    BrokenTransferError,
    ChangedVideoError,
    DeadUrlError,
    Part,
    Retries,
    Version,
    check_head,
    is_public,
    is_redirect,
    literal_address,
    next_hop,
    read_part,
    read_url,
    request_target,
    video_type,
    why_incomplete,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from io import FileIO
    from typing import Self
    from urllib.parse import SplitResult

    from airflow_provider_manxue.models import ManxueSettings

_CHUNK = 1024 * 1024
_MOST_UNHASHED = 8
"""Chunks that may wait for their checksum; together with their length, the bound of the memory."""

_REPORT_EVERY = 10.0
"""Seconds between two lines in the log about the progress."""


class Deadline:
    """
    The moment at which all of a save must be done.

    :param timeout: seconds from now.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._ends_at = time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds that are left; negative when it has passed."""
        return self._ends_at - time.monotonic()

    def check(self, doing: str) -> None:
        """
        Refuse to go on after the deadline.

        :param doing: what is going on, for the error text.
        :raises ManxueDownloadError: if it has passed.
        """
        if self.left <= 0:
            raise ManxueDownloadError(f"The video was not saved within timeout={self.timeout:g} s: {doing}.")


class Checksum:
    """
    The SHA-256 of what is received, computed by a thread of its own: it takes as long as network and disk do.

    The thread ends with the ``with`` block.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, "manxue-sha256")
        self._unhashed: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        """Nothing is begun before the first chunk."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Let the few chunks that still wait pass, and end the thread."""
        self._thread.shutdown()

    def begin(self) -> None:
        """Forget all chunks so far; those that still wait go to the old digest."""
        self._digest = hashlib.sha256()

    def update(self, chunk: bytes) -> None:
        """Append a chunk; waits if too many of them do."""
        if len(self._unhashed) >= _MOST_UNHASHED:
            self._unhashed.popleft().result()
        self._unhashed.append(self._thread.submit(self._digest.update, chunk))

    def hexdigest(self) -> str:
        """Return the checksum of all chunks."""
        while self._unhashed:
            self._unhashed.popleft().result()
        return self._digest.hexdigest()


@dataclass
class Copy:
    """
    The copy of the video that is under way.

    :param file: where it is written to, unbuffered; nobody else writes to it.
    :param checksum: takes the checksum of it.
    :param version: the version of the video that it is a copy of.
    :param content_type: the media type that it was announced with.
    :param received: its length so far.
    """

    file: FileIO
    checksum: Checksum
    version: Version = field(default_factory=Version)
    content_type: str | None = None
    received: int = 0

    @property
    def sha256(self) -> str:
        """The checksum of what was received."""
        return self.checksum.hexdigest()

    def begin(self, part: Part) -> None:
        """Make place for a part: behind what is there, or instead of it."""
        self.version = part.version
        if part.start == 0:
            self.content_type = video_type(part.content_type)
            self.received = 0
            self.checksum.begin()
            self.file.seek(0)
            self.file.truncate()

    def forget_version(self) -> None:
        """Let the next attempt start anew."""
        self.version = Version()

    def write(self, chunk: bytes) -> None:
        """
        Append a chunk.

        :raises ManxueStorageError: if there is no place for it.
        """
        left = memoryview(chunk)
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise ManxueStorageError(
                f"The video could not be written to {Path(self.file.name).parent} after {self.received} bytes: "
                f"{error.strerror or error}. There must be room for the whole video."
            ) from error
        self.checksum.update(chunk)
        self.received += len(chunk)

    def read_at(self, place: int, count: int) -> bytes:
        """Return so many bytes from a place of it."""
        return os.pread(self.file.fileno(), count, place)


class Downloader:
    """
    Fetches a video, in as many attempts as it takes.

    :param fresh_url: asks for a URL of the video; called at the start, and again when a URL has died.
    :param wire: sends the requests.
    :param max_bytes: a longer video is refused; None for no limit.
    :param deadline: when to give up.
    :param log: the task's logger, where the progress is told.
    """

    def __init__(
        self,
        *,
        fresh_url: Callable[[], str],
        wire: Wire,
        max_bytes: int | None,
        deadline: Deadline,
        log: Any,
    ) -> None:
        self._fresh_url = fresh_url
        self._wire = wire
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._log = log
        self._retries = Retries()

    def fetch(self, file: FileIO) -> Copy:
        """
        Fetch the whole video into a file.

        :param file: an empty file, open for reading and writing without a buffer.
        :raises ManxueDownloadError: if it cannot be had.
        :raises ManxueStorageError: if the file cannot take it.
        """
        with Checksum() as checksum:
            copy = Copy(file, checksum)
            url: str | None = None
            while True:
                try:
                    if url is None:
                        url = self._fresh_url()
                    self._attempt(url, copy)
                    return copy
                except (BrokenTransferError, ManxueTransientError) as error:
                    if isinstance(error, DeadUrlError):
                        url = None
                    self._pause(error, copy)

    def _attempt(self, url: str, copy: Copy) -> None:
        asks_for_rest = bool(copy.received and copy.version.validator)
        headers = _range_headers(copy) if asks_for_rest else {}
        try:
            with self._wire.get(url, headers) as response:
                part = read_part(
                    response.status,
                    response.headers,
                    response.length,
                    offset=copy.received if asks_for_rest else 0,
                    known=copy.version,
                    now=time.time(),
                )
                self._refuse_too_long(part.version.size or 0)
                # Nothing follows a 416, whatever its body says.
                chunks = _chunks(response) if response.status != 416 else iter(())
                self._receive(chunks, part, copy)
            missing = why_incomplete(copy.read_at, copy.received, copy.version.size)
            if missing is not None:
                # With all bytes there, those of a later answer cannot mend it.
                kind = ChangedVideoError if copy.received == copy.version.size else BrokenTransferError
                raise kind(missing)
        except ChangedVideoError:
            copy.forget_version()
            raise

    def _receive(self, chunks: Iterator[bytes], part: Part, copy: Copy) -> None:
        if part.start == 0:
            # Before anything that is there already is given up.
            head = _at_least(HEAD_BYTES, chunks)
            check_head(head, part.content_type)
            if copy.received:
                self._log.info("The download starts anew.")
            copy.begin(part)
            copy.write(head)
        else:
            copy.begin(part)
        reported_at = time.monotonic()
        for chunk in chunks:
            self._deadline.check(f"received {_progress(copy)}")
            self._refuse_too_long(copy.received + len(chunk))
            copy.write(chunk)
            if time.monotonic() - reported_at >= _REPORT_EVERY:
                reported_at = time.monotonic()
                self._log.info("Received %s.", _progress(copy))

    def _refuse_too_long(self, length: int) -> None:
        if self._max_bytes is not None and length > self._max_bytes:
            raise ManxueDownloadError(
                f"The video is longer than max_bytes={self._max_bytes} (at least {length} bytes). Raise the limit "
                f"if that is right."
            )

    def _pause(self, error: BrokenTransferError | ManxueTransientError, copy: Copy) -> None:
        self._deadline.check(f"{error}, received {_progress(copy)}")
        pause = self._retries.pause_after(error, copy.received)
        if pause >= self._deadline.left:
            raise ManxueDownloadError(
                f"The video was not saved within timeout={self._deadline.timeout:g} s: {error}, received "
                f"{_progress(copy)}."
            ) from None
        self._log.warning("%s; received %s. Next attempt in %.0f s.", error, _progress(copy), pause)
        time.sleep(pause)


def _range_headers(copy: Copy) -> dict[str, str]:
    return {"Range": f"bytes={copy.received}-", "If-Range": copy.version.validator or ""}


def _progress(copy: Copy) -> str:
    size = copy.version.size
    if not size:
        return f"{copy.received} bytes"
    return f"{copy.received} of {size} bytes ({100 * copy.received // size} %)"


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            # Whatever is there at once, so that nothing is lost with a connection that breaks.
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BrokenTransferError(f"the transfer broke off ({_reason(error)})") from None
        if not chunk:
            return
        yield chunk


def _at_least(count: int, chunks: Iterator[bytes]) -> bytes:
    """Return the first chunks in one, of at least so many bytes if there are any."""
    head = b""
    while len(head) < count and (chunk := next(chunks, b"")):
        head += chunk
    return head


def _reason(error: BaseException) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the body ended before its last chunk"
    return str(no_answer(error, "the media host"))


# --- requests -------------------------------------------------------------------------------------------


class Wire:
    """
    Sends GET requests, byte for byte and without credentials, to hosts that may be asked.

    Each request has a connection of its own, to the very address that was checked, so that a name server cannot
    change its mind in between. At the deadline the connection is cut, whatever it is waiting for.

    :param settings: the connection, for its proxy, its authorities and its timeout.
    :param allow_private_addresses: also go to addresses that are not public. They are allowed as well if the
        connection's host is such an address, or ``localhost``.
    :param deadline: when to give up.
    """

    def __init__(
        self, settings: ManxueSettings, *, allow_private_addresses: bool, deadline: Deadline
    ) -> None:
        self._settings = settings
        self._allowed = allow_private_addresses
        self._deadline = deadline

    @contextlib.contextmanager
    def get(self, url: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        """
        Ask for a URL, and follow its redirects.

        :param url: the URL. Its query is a secret, and is in no error.
        :param headers: headers for this request.
        :raises BrokenTransferError: if there is no answer.
        :raises ManxueUnsafeUrlError: if it leads to where a download must not go.
        """
        for _ in range(MAX_REDIRECTS + 1):
            with self._get_once(url, headers) as response:
                if not is_redirect(response.status):
                    yield response
                    return
                url = next_hop(url, response.headers.get("Location"))
        raise ManxueUnsafeUrlError(f"The media host answered with more than {MAX_REDIRECTS} redirects.")

    @contextlib.contextmanager
    def _get_once(self, url: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        parts = read_url(url)
        host = parts.hostname or ""
        self._deadline.check(f"no answer from {host} yet")
        with contextlib.ExitStack() as stack:
            try:
                road = self._connect(url, parts)
                stack.callback(road.connection.close)
                # Taken now, since http.client forgets it while a response is still being read.
                stack.callback(SocketDeadline(road.connection.sock, self._deadline.left).cancel)
                _send(road, {"Host": parts.netloc, **headers})
                response = stack.enter_context(road.connection.getresponse())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise BrokenTransferError(str(no_answer(error, host))) from None
            yield response

    def _connect(self, url: str, parts: SplitResult) -> _Road:
        # The environment counts as it does for requests to the service.
        environment = requests.Session().merge_environment_settings(
            url, self._proxies(), None, self._settings.verify, None
        )
        tls = self._tls(environment["verify"]) if parts.scheme == "https" else None
        proxy_url = select_proxy(url, environment["proxies"])
        timeout = max(0.1, min(self._settings.request_timeout, self._deadline.left))
        host, port = parts.hostname or "", parts.port or (443 if tls else 80)
        if proxy_url is None:
            connection = http.client.HTTPConnection(host, port)
            sock = self._dial(host, port, timeout)
            connection.sock = tls.wrap_socket(sock, server_hostname=host) if tls else sock
            return _Road(connection, request_target(url))
        # The proxy looks the name up, so all that can be checked is an address that stands in the URL itself.
        literal = literal_address(host)
        if literal is not None:
            self._allowed_of(host, [literal])
        proxy = _Proxy.read(proxy_url)
        if tls:
            connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=timeout, context=tls)
            connection.set_tunnel(host, port, proxy.headers)
            road = _Road(connection, request_target(url))
        else:
            connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=timeout)
            road = _Road(connection, f"http://{parts.netloc}{request_target(url)}", proxy.headers)
        connection.connect()
        return road

    def _proxies(self) -> dict[str, str]:
        proxy = self._settings.proxy
        return {"http": proxy, "https": proxy} if proxy else {}

    def _tls(self, verify: Any) -> ssl.SSLContext:
        authorities = verify if isinstance(verify, str) else DEFAULT_CA_BUNDLE_PATH
        if Path(authorities).is_dir():
            context = ssl.create_default_context(capath=authorities)
        else:
            context = ssl.create_default_context(cafile=authorities)
        if self._settings.ca_bundle:
            context.load_verify_locations(self._settings.ca_bundle)
        if verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _dial(self, host: str, port: int, timeout: float) -> socket.socket:
        failure: OSError = OSError("the host has no address")
        for address in self._allowed_of(host, _addresses(host, port)):
            try:
                return socket.create_connection((address, port), timeout)
            except OSError as error:
                failure = error
        raise failure

    def _allowed_of(self, host: str, addresses: list[str]) -> list[str]:
        """Return those addresses of a host that may be asked; there is at least one."""
        allowed = [address for address in addresses if is_public(address)]
        if len(allowed) < len(addresses) and self._private_allowed:
            return addresses
        if not allowed:
            raise ManxueUnsafeUrlError(
                f"The video is on {host}, whose address ({', '.join(addresses)}) is not public, so it is not fetched. "
                f"Set allow_private_addresses=True if that is right."
            )
        return allowed

    @cached_property
    def _private_allowed(self) -> bool:
        # By what stands in the connection, not by a name server: the service's own could say anything.
        service = literal_address(urlsplit(self._settings.base_url).hostname or "")
        return self._allowed or (service is not None and not is_public(service))


@dataclass(frozen=True, slots=True)
class _Road:
    """An open connection, what to ask it for, and the headers for whoever is at its other end."""

    connection: http.client.HTTPConnection
    target: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Proxy:
    host: str
    port: int
    headers: dict[str, str]

    @classmethod
    def read(cls, url: str) -> _Proxy:
        """Read a proxy's URL; the environment also knows kinds that the connection's field does not take."""
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


def _send(road: _Road, headers: dict[str, str]) -> None:
    road.connection.putrequest("GET", road.target, skip_host=True, skip_accept_encoding=True)
    # A compressed body could not be continued, and its length would say nothing about the video's.
    usual = {
        "User-Agent": user_agent(),
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    for name, value in {**headers, **usual, **road.headers}.items():
        road.connection.putheader(name, value)
    road.connection.endheaders()


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
