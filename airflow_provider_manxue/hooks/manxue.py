"""The hook: what a worker says to the service, over ``requests``."""

from __future__ import annotations

import itertools
import random
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.auth import AuthBase

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_manxue._client.connection_cache import unreadable_connection
from airflow_provider_manxue._client.network import ca_path, proxy_for, unusable_address
from airflow_provider_manxue._client.request_deadline import DeadlineAdapter, SocketDeadline
from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID, missing_connection, parse_connection
from airflow_provider_manxue._core.content_coding import decode_body
from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue._core.responses import (
    MAX_BODY,
    create_url,
    no_answer,
    parse_task,
    result_url,
    user_agent,
)
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueOrderError,
    ManxueOrderNotSentError,
    ManxueRefusedError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.get_provider_info import CONNECTION_TYPE
from airflow_provider_manxue.orders import (
    Order,
    order_without_answer,
    pause_before_next_try,
    read_order,
    read_order_answer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from requests import PreparedRequest, Response

    from airflow_provider_manxue.models import ManxueSettings, VideoTask

_NO_ANSWER = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What the libraries raise when a request gets no answer."""

_BAD_ADDRESS = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError)
"""What the libraries raise for a host or proxy to which no request can be sent."""

_PROBE_ID = "airflow-connection-test"
"""An id that no task has: asking for it costs nothing."""


class BearerAuth(AuthBase):
    """
    Puts the API key into the one header where it belongs.

    :param api_key: the key.
    """

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the header to a request."""
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


class ManxueHook(BaseHook):
    """
    Talks to the sd2_manxue video-generation service.

    One call is one request, with two exceptions: a query that was refused for its key (401) is repeated if the
    connection meanwhile holds another key, and an order if it surely was not taken. Redirects are not followed,
    since the key would travel.

    :param manxue_conn_id: id of the Airflow connection, of type ``manxue``.
    """

    conn_name_attr = "manxue_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = CONNECTION_TYPE["connection-type"]
    hook_name = CONNECTION_TYPE["hook-name"]

    def __init__(self, manxue_conn_id: str = DEFAULT_CONN_ID) -> None:
        super().__init__()
        self.manxue_conn_id = manxue_conn_id
        self._settings: ManxueSettings | None = None

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form of the connection, for Airflow below 3.2; later ones read the provider's metadata."""
        behaviour = CONNECTION_TYPE["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra fields of the form, for Airflow below 3.2; needs the form library of its web server."""
        from airflow_provider_manxue.hooks._form import widgets

        return widgets(CONNECTION_TYPE["conn-fields"])

    @property
    def settings(self) -> ManxueSettings:
        """
        The connection, read at first use.

        :raises ManxueConfigurationError: if it is missing or a field of it cannot be used.
        """
        if self._settings is None:
            self._settings = self.read_settings()
        return self._settings

    def read_settings(self) -> ManxueSettings:
        """
        Read the connection again.

        :raises ManxueConfigurationError: if it is missing or a field of it cannot be used.
        :raises ManxueTransientError: if Airflow could not be asked.
        """
        try:
            connection = self.get_connection(self.manxue_conn_id)
            # For the sake of Airflow, which masks the values in its logs. It reads a text that is no JSON as no fields.
            _ = connection.extra_dejson
        except AirflowNotFoundException:
            raise missing_connection(self.manxue_conn_id) from None
        except Exception as error:  # noqa: BLE001 - as in the async client
            raise unreadable_connection(self.manxue_conn_id, error) from None
        return parse_connection(
            self.manxue_conn_id,
            host=connection.host,
            password=connection.password,
            port=connection.port,
            schema=connection.schema,
            extra=connection.extra,
        )

    @cached_property
    def _session(self) -> requests.Session:
        return self._new_session()

    @staticmethod
    def _new_session() -> requests.Session:
        session = requests.Session()
        # Proxy and authorities are passed with each request. Its entry in .netrc would replace the API key.
        session.trust_env = False
        for scheme in ("http://", "https://"):
            session.mount(scheme, DeadlineAdapter())
        # Cookies would be kept for as long as the session is, however many come.
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        # A compressed answer could be small on the wire and huge in memory; a task's answer needs none.
        session.headers.update(
            {"User-Agent": user_agent(), "Accept": "application/json", "Accept-Encoding": "identity"}
        )
        return session

    def get_conn(self) -> requests.Session:
        """
        Return the session, which keeps its connections open between calls.

        It holds no key, and takes neither a proxy nor a CA bundle from the environment.
        """
        return self._session

    def get_video_task(self, video_task_id: str) -> VideoTask:
        """
        Ask for the state of a task: ``GET {base}/v1/result/{id}``.

        :param video_task_id: id of the task, or the whole answer of the create call.
        :raises ManxueInputError: if the id cannot be one; nothing was sent.
        :raises ManxueConfigurationError: if the connection is missing or cannot be used; nothing was sent.
        :raises ManxueTransientError: if there was no usable answer (no connection, timeout, 408, 425, 429, 5xx).
        :raises ManxueError: of another kind for any other answer that is not a task.
        """
        task_id = parse_video_task_id(video_task_id)
        settings = self.settings
        try:
            return self._query(settings, task_id)
        except ManxueAuthenticationError:
            self._settings = self.read_settings()
            if self._settings == settings:
                raise
            self.log.info(
                "The API key was refused, but the connection was edited meanwhile; using its new values."
            )
            return self._query(self._settings, task_id)

    def _query(self, settings: ManxueSettings, task_id: str) -> VideoTask:
        try:
            answer = _exchange(self._session, settings, "GET", result_url(settings.base_url, task_id))
        # The library's own texts repeat the whole request, so the cause is not chained.
        except _BAD_ADDRESS:
            raise unusable_address(settings) from None
        except _NO_ANSWER as error:
            raise no_answer(error, urlsplit(settings.base_url).hostname or "") from None
        return parse_task(
            answer.http_status,
            answer.body,
            video_task_id=task_id,
            retry_after=answer.retry_after,
            now=time.time(),
            secret=settings.api_key,
        )

    def create_video(
        self,
        *,
        prompt: str,
        model: str,
        duration: int | None = None,
        ratio: str | None = None,
        first_image: str | None = None,
        last_image: str | None = None,
        reference_images: Sequence[str] | None = None,
        reference_videos: Sequence[str] | None = None,
        reference_audios: Sequence[str] | None = None,
    ) -> VideoTask:
        """
        Order a video: ``POST {base}/v1/sd2_manxue/videos``. **This costs money.**

        An order that surely was not taken (no connection, 429, 425) is sent again, up to five times in all. One
        that may have been taken never is.

        :param prompt: what the video shows.
        :param model: name of the model, which decides the resolution, for example ``sd2_manxue_1080p``.
        :param duration: length in seconds, 4 to 15; the service's default is 5.
        :param ratio: ``21:9``, ``16:9``, ``4:3``, ``1:1``, ``3:4`` or ``9:16``; the service's default is ``16:9``.
        :param first_image: URL of the first frame.
        :param last_image: URL of the last frame; only together with ``first_image``.
        :param reference_images: URLs of reference images.
        :param reference_videos: URLs of reference videos.
        :param reference_audios: URLs of reference audios.
        :return: the new task.
        :raises ManxueInputError: naming each rule that the order breaks; nothing was sent.
        :raises ManxueConfigurationError: if the connection is missing or cannot be used; nothing was sent.
        :raises ManxueOrderNotSentError: if the service could not be reached, or was too busy.
        :raises ManxueOrderRefusedError: if the service refused the order.
        :raises ManxueOrderUnknownError: if the order may have been taken: look it up before ordering again.
        :raises ManxueVideoFailedError: if the video failed at once.
        """
        return self.place_order(
            read_order(
                prompt=prompt,
                model=model,
                duration=duration,
                ratio=ratio,
                first_image=first_image,
                last_image=last_image,
                reference_images=reference_images,
                reference_videos=reference_videos,
                reference_audios=reference_audios,
            )
        )

    def place_order(
        self, order: Order, sending: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> VideoTask:
        """
        Order a video as :meth:`create_video` does.

        :param order: the order.
        :param sending: entered around each request: what must happen right before and right after it.
        """
        settings = self.settings
        for doubt in order.doubts:
            self.log.warning("%s", doubt)
        for tries in itertools.count(1):
            try:
                with sending():
                    task = self._send_order(settings, order)
                break
            except ManxueOrderNotSentError as error:
                pause = pause_before_next_try(tries, error.retry_after, random.random())  # noqa: S311
                if pause is None:
                    raise
                asked = f" (the service asked for {error.retry_after:g} s)" if error.retry_after else ""
                self.log.warning("%s. It is sent again in %.0f s%s.", error, pause, asked)
            time.sleep(pause)
        self.log.info("Ordered the video %s (model %s).", task.id, order.fields["model"])
        return task

    def _send_order(self, settings: ManxueSettings, order: Order) -> VideoTask:
        """Send an order exactly once."""
        body = _WatchedBody(order.body)
        try:
            # A connection of its own: one that was kept open may have been closed by the service, and the order
            # would be lost on it in a way that cannot be told from one that was taken.
            with self._new_session() as session:
                answer = _exchange(session, settings, "POST", create_url(settings.base_url), body)
            return read_order_answer(
                answer.http_status,
                answer.body,
                retry_after=answer.retry_after,
                now=time.time(),
                secret=settings.api_key,
            )
        except (ManxueOrderNotSentError, ManxueOrderError, ManxueVideoFailedError):
            raise
        except BaseException as error:
            # Whatever went wrong once the body has left, be it a timeout or a signal of Airflow's, which are no
            # Exceptions: the order may have been taken.
            if body.left or isinstance(error, _NO_ANSWER):
                hostname = urlsplit(settings.base_url).hostname or ""
                raise order_without_answer(error, hostname, body_left=body.left) from None
            raise

    def test_connection(self) -> tuple[bool, str]:
        """
        Ask for a task that does not exist, and report what was seen; nothing is ordered.

        :return: whether the service was reached and did not refuse the key, and what it answered.
        """
        try:
            settings = self.settings
        except ManxueError as error:
            return False, str(error)
        try:
            self._query(settings, _PROBE_ID)
        except ManxueRefusedError as error:
            if "no handler" in str(error).lower():
                return (
                    False,
                    f"{settings.base_url} was reached, but it does not know the path ({error}). Check the host.",
                )
            return True, (
                f"{settings.base_url} was reached and did not refuse the key. It answered to the question for a "
                f"task that does not exist: {error}."
            )
        except ManxueError as error:
            return False, f"{settings.base_url}: {error}"
        return True, f"{settings.base_url} was reached and accepted the key."


class _WatchedBody:
    """
    A request's body that knows whether any of it was handed to a connection.

    HTTP libraries ask for it only when the connection is made, the proxy passed and the TLS handshake done.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.left = False

    def __len__(self) -> int:
        return len(self._content)

    def __iter__(self) -> Iterator[bytes]:
        self.left = True
        yield self._content


@dataclass(frozen=True, slots=True)
class _Answer:
    http_status: int
    body: bytes
    retry_after: Sequence[str]


def _exchange(
    session: requests.Session,
    settings: ManxueSettings,
    method: str,
    url: str,
    body: _WatchedBody | None = None,
) -> _Answer:
    """Send one request and read its answer, within bounds: ``request_timeout`` is for all of it."""
    ends_at = time.monotonic() + settings.request_timeout
    with session.request(
        method,
        url,
        data=body,
        headers={"Content-Type": "application/json"} if body else None,
        auth=BearerAuth(settings.api_key),
        # That of the wait for the head is what the connection has left of it.
        timeout=urllib3.Timeout(total=settings.request_timeout),  # type: ignore[arg-type] # unknown to its types
        allow_redirects=False,
        stream=True,
        verify=ca_path(settings) or False,
        proxies=_proxies(settings),
    ) as response:
        return _Answer(
            response.status_code,
            _read_body(response, settings.request_timeout, ends_at),
            response.raw.headers.getlist("Retry-After"),
        )


def _proxies(settings: ManxueSettings) -> dict[str, str]:
    proxy = proxy_for(settings)
    return {"http": proxy, "https": proxy} if proxy else {}


def _read_body(response: Response, timeout: float, ends_at: float) -> bytes:
    """Read a body that may be endless, slow or compressed against our wish, within bounds."""
    raw: Any = response.raw
    cutoff = SocketDeadline(raw.sock, ends_at - time.monotonic())
    try:
        body = _read_bounded(response, cutoff)
    except _NO_ANSWER:
        if not cutoff.expired:
            raise
    finally:
        cutoff.cancel()
    if cutoff.expired:
        raise ManxueTransientError(
            f"HTTP {response.status_code} with an answer that took longer than {timeout:g} s"
        )
    return decode_body(body, response.headers.get("Content-Encoding", ""), MAX_BODY)


def _read_bounded(response: Response, cutoff: SocketDeadline) -> bytes:
    body = bytearray()
    # What the system has received before the cut could still be read, and be a million chunks of one byte.
    while not cutoff.expired and (chunk := response.raw.read1(65536, decode_content=False)):
        body += chunk
        if len(body) > MAX_BODY:
            raise ManxueTransientError(
                f"HTTP {response.status_code} with a body of more than {MAX_BODY} bytes"
            )
    return bytes(body)
