"""The sync client: one request and its response over ``requests``, for the hook."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.auth import AuthBase

from airflow_provider_manxue._client.network import (
    JSON_BODY,
    append_bounded,
    ca_path,
    needs_body,
    proxy_for,
    request_headers,
)
from airflow_provider_manxue._client.request_deadline import DeadlineAdapter, SocketDeadline
from airflow_provider_manxue._core.content_coding import decode_body
from airflow_provider_manxue._core.responses import MAX_BODY, parse_task
from airflow_provider_manxue.exceptions import ManxueTransientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from requests import PreparedRequest, Response

    from airflow_provider_manxue.models import ManxueSettings, VideoTask

NO_RESPONSE = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""Exceptions of the libraries for a request without a response."""

UNUSABLE_ADDRESS = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError)
"""Exceptions of the libraries for a host or proxy that cannot be used."""


class BearerAuth(AuthBase):
    """
    Authentication with the API key in a request header.

    :param api_key: the key.
    """

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the header to a request."""
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


def new_session() -> requests.Session:
    session = requests.Session()
    # Proxy and authorities are passed with each request. An entry in .netrc would replace the API key.
    session.trust_env = False
    for scheme in ("http://", "https://"):
        session.mount(scheme, DeadlineAdapter())
    # No cookies: the session would store any number of them.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.headers.update(request_headers())
    return session


class TrackedBody:
    """
    Body of a request that records whether a connection has read any of it.

    HTTP libraries read the body after connecting, the proxy's response and the TLS handshake.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.started = False

    def __len__(self) -> int:
        return len(self._content)

    def __iter__(self) -> Iterator[bytes]:
        self.started = True
        yield self._content


@dataclass(frozen=True, slots=True)
class ServiceResponse:
    """
    A response of the service, perhaps with a body that broke off.

    :param body: the body, or its part that was read.
    :param body_error: why the body could not be read to its end; None if it was.
    :param date: the header ``Date``; empty if there is none.
    """

    http_status: int
    body: bytes
    retry_after: Sequence[str]
    body_error: BaseException | None = None
    date: str = ""


def exchange(
    session: requests.Session,
    settings: ManxueSettings,
    method: str,
    url: str,
    body: TrackedBody | None = None,
) -> ServiceResponse:
    """Send one request and read its response. ``request_timeout`` bounds both together."""
    ends_at = time.monotonic() + settings.request_timeout
    with session.request(
        method,
        url,
        data=body,
        headers=JSON_BODY if body else None,
        auth=BearerAuth(settings.api_key),
        # The wait for the head gets the time that connecting has left.
        timeout=urllib3.Timeout(total=settings.request_timeout),  # type: ignore[arg-type] # unknown to its types
        allow_redirects=False,
        stream=True,
        verify=ca_path(settings) or False,
        proxies=_proxies(settings),
    ) as response:
        content = bytearray()
        body_error: BaseException | None = None
        try:
            _read_body(response, content, settings.request_timeout, ends_at)
            encoding = response.headers.get("Content-Encoding", "")
            content = bytearray(decode_body(bytes(content), encoding, MAX_BODY))
        except BaseException as error:  # noqa: BLE001 - raised by the caller, which may decide by the status
            body_error = error
        return ServiceResponse(
            response.status_code,
            bytes(content),
            response.raw.headers.getlist("Retry-After"),
            body_error,
            response.headers.get("Date", ""),
        )


def _proxies(settings: ManxueSettings) -> dict[str, str]:
    proxy = proxy_for(settings)
    return {"http": proxy, "https": proxy} if proxy else {}


def _read_body(response: Response, content: bytearray, timeout: float, ends_at: float) -> None:
    """Read a body up to ``MAX_BODY``, until ``ends_at`` at the latest."""
    raw: Any = response.raw
    deadline = SocketDeadline(raw.sock, ends_at - time.monotonic())
    try:
        _read_bounded(response, content, deadline)
    except NO_RESPONSE:
        if not deadline.expired:
            raise
    finally:
        deadline.cancel()
    if deadline.expired:
        raise ManxueTransientError(
            f"HTTP {response.status_code} with a response that took longer than {timeout:g} s"
        )


def response_to_query(response: ServiceResponse) -> ServiceResponse:
    """
    Return the response to a query, if it can be parsed: with its body, or as an error without it.

    Otherwise raises why the body could not be read.
    """
    error = response.body_error
    if error is None:
        return response
    if needs_body(response.http_status) or not isinstance(error, (*NO_RESPONSE, ManxueTransientError)):
        raise error
    return replace(response, body=b"", body_error=None)


def parse_query_response(
    response: ServiceResponse, settings: ManxueSettings, video_task_id: str
) -> VideoTask:
    """
    Parse the response to a query of a task.

    :raises ManxueError: if it does not describe a task.
    """
    return parse_task(
        response.http_status,
        response.body,
        video_task_id=video_task_id,
        retry_after=response.retry_after,
        now=time.time(),
        secret=settings.api_key,
    )


def _read_bounded(response: Response, content: bytearray, deadline: SocketDeadline) -> None:
    # The buffer of the system can still be read after the cut, and may hold a million chunks of one byte.
    while not deadline.expired and (chunk := response.raw.read1(65536, decode_content=False)):
        append_bounded(content, chunk, response.status_code)
