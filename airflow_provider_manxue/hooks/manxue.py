"""The hook: the requests of a worker."""

from __future__ import annotations

import random
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_manxue._client.airflow_metrics import SentMetrics, worker_stats
from airflow_provider_manxue._client.connection_loader import to_settings, unreadable_connection
from airflow_provider_manxue._client.network import no_service_response, service_host, unusable_address
from airflow_provider_manxue._client.sync_client import (
    NO_RESPONSE,
    UNUSABLE_ADDRESS,
    TrackedBody,
    exchange,
    new_session,
    parse_query_response,
)
from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID, missing_connection
from airflow_provider_manxue._core.diagnosis import PROBE_ID, is_wrong_path
from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue._core.order_outcomes import order_without_response, parse_order_response
from airflow_provider_manxue._core.order_timing import MAX_ATTEMPTS, quick_resend_delay
from airflow_provider_manxue._core.orders import VideoRequest, parse_video_request
from airflow_provider_manxue._core.responses import (
    create_url,
    result_url,
)
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueOrderError,
    ManxueOrderNotAcceptedError,
    ManxueRefusedError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.get_provider_info import CONNECTION_TYPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import requests

    from airflow_provider_manxue._client.sync_client import ServiceResponse
    from airflow_provider_manxue.models import ManxueSettings, VideoTask


class ManxueHook(BaseHook):
    """
    Client of the sd2_manxue video-generation service.

    One call is one request, with two exceptions: a query that was refused for its key (401) is repeated if the
    connection meanwhile holds another key, and ``create_video`` if the order certainly was not accepted. Redirects are not followed,
    since the key would travel.

    :param manxue_conn_id: id of the Airflow connection, of type ``manxue``.
    :param kwargs: arguments of Airflow's ``BaseHook``.
    """

    conn_name_attr = "manxue_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = CONNECTION_TYPE["connection-type"]
    hook_name = CONNECTION_TYPE["hook-name"]

    def __init__(self, manxue_conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.manxue_conn_id = manxue_conn_id
        self.metrics = SentMetrics(worker_stats)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form of the connection, for Airflow below 3.2; later versions read the provider's metadata."""
        behaviour = CONNECTION_TYPE["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra fields of the form, for Airflow below 3.2; needs the form library of its web server."""
        from airflow_provider_manxue.hooks._form import widgets

        return widgets(CONNECTION_TYPE["conn-fields"])

    @cached_property
    def settings(self) -> ManxueSettings:
        """The connection, read at first use. Raises the errors of :meth:`read_settings`."""
        return self.read_settings()

    def read_settings(self) -> ManxueSettings:
        """
        Read the connection again.

        :raises ManxueConfigurationError: if it is missing or a field of it cannot be used.
        :raises ManxueTransientError: if the connection could not be loaded from Airflow just now.
        """
        try:
            connection = self.get_connection(self.manxue_conn_id)
            # Makes Airflow mask the values in its logs. It reads text that is not JSON as no fields.
            _ = connection.extra_dejson
        except AirflowNotFoundException:
            raise missing_connection(self.manxue_conn_id) from None
        except Exception as error:  # noqa: BLE001 - as in the async client
            raise unreadable_connection(self.manxue_conn_id, error) from None
        return to_settings(self.manxue_conn_id, connection)

    @cached_property
    def _session(self) -> requests.Session:
        return new_session()

    def get_conn(self) -> requests.Session:
        """
        Return the session. Its connections stay open between calls.

        It holds no key, and takes neither a proxy nor a CA bundle from the environment.
        """
        return self._session

    def get_video_task(self, video_task_id: str) -> VideoTask:
        """
        Query the state of a task: ``GET {base}/v1/result/{id}``.

        :param video_task_id: id of the task, or the whole response of the create call.
        :raises ManxueInputError: if the id cannot be one; nothing was sent.
        :raises ManxueConfigurationError: if the connection is missing or cannot be used; nothing was sent.
        :raises ManxueTransientError: if there was no usable response (no connection, timeout, 408, 425, 429, 5xx).
        :raises ManxueError: of another kind for any other response that is not a task.
        """
        task_id = parse_video_task_id(video_task_id)
        settings = self.settings
        try:
            return self._query(settings, task_id)
        except ManxueAuthenticationError:
            self.settings = self.read_settings()
            if self.settings == settings:
                raise
            self.log.info(
                "The API key was refused, but the connection was edited meanwhile; using its new values."
            )
            return self._query(self.settings, task_id)

    def _query(self, settings: ManxueSettings, task_id: str) -> VideoTask:
        try:
            response = exchange(self._session, settings, "GET", result_url(settings.base_url, task_id))
            if response.body_error is not None:
                raise response.body_error
        # The library's texts repeat the whole request, so the cause is not chained.
        except UNUSABLE_ADDRESS:
            raise unusable_address(settings) from None
        except NO_RESPONSE as error:
            raise no_service_response(settings, error) from None
        return parse_query_response(response, settings, task_id)

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

        An order that certainly was not accepted (no connection, 429, 425, a code in ``busy_codes``) is sent again, up
        to five times in all. An order that may have been accepted is never sent again.

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
        :raises ManxueOrderNotAcceptedError: if the service could not be reached, or has no room.
        :raises ManxueOrderRejectedError: if the service rejected the order.
        :raises ManxueOrderUnknownError: if the order may have been accepted: look it up before ordering again.
        :raises ManxueVideoFailedError: if the video failed at once.
        """
        request = parse_video_request(
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
        attempts = 0
        try:
            while True:
                try:
                    return self.send_order(request)
                except ManxueOrderNotAcceptedError as error:
                    error.raise_cause()
                    attempts += 1
                    if attempts == MAX_ATTEMPTS:
                        raise
                    delay = quick_resend_delay(attempts, error.retry_after, random.random())  # noqa: S311
                    self.log.warning("%s. Sending it again in %.0f s.", error, delay)
                time.sleep(delay)
        finally:
            self.metrics.send()

    def check_references(self, request: VideoRequest) -> None:
        """
        Refuse references that the service cannot fetch.

        :param request: the request.
        :raises ManxueInputError: naming each such reference.
        """
        request.check_references(service_host(self.settings))

    def send_order(self, request: VideoRequest) -> VideoTask:
        """
        Order a video with exactly one request. **This costs money.** Raises the errors of :meth:`create_video`.

        :param request: the request. It is not sent if :meth:`check_references` refuses it.
        :return: the new task.
        """
        settings = self.settings
        self.check_references(request)
        for caution in request.cautions:
            self.log.warning("%s", caution)
        body = TrackedBody(request.body)
        try:
            # A new connection: the service may have closed an idle one, and an order that is lost on it looks like an
            # accepted one.
            with new_session() as session:
                response = exchange(session, settings, "POST", create_url(settings.base_url), body)
            task = parse_order_response(
                response.http_status,
                response.body,
                retry_after=response.retry_after,
                now=time.time(),
                secret=settings.api_key,
                busy_codes=settings.busy_codes,
                failure=self._body_error(response, settings),
            )
            self.log.info("Ordered the video %s (model %s).", task.id, request.fields["model"])
            self.metrics.add_order(self.manxue_conn_id, request)
            return task
        except (ManxueOrderNotAcceptedError, ManxueOrderError, ManxueVideoFailedError) as error:
            self.metrics.add_order(self.manxue_conn_id, request, error)
            raise
        except BaseException as error:  # noqa: BLE001 - raised again as the outcome of the order
            # Once the body was sent, the order may have been accepted, after any error. Timeouts and signals of Airflow are
            # no subclasses of Exception.
            is_expected = isinstance(error, NO_RESPONSE)
            outcome = order_without_response(error, service_host(settings), body_started=body.started)
            self.metrics.add_order(self.manxue_conn_id, request, outcome)
            raise outcome from (None if is_expected or body.started else error)

    @staticmethod
    def _body_error(response: ServiceResponse, settings: ManxueSettings) -> ManxueError | None:
        """Return the error for a body that could not be read, without the library's text."""
        if response.body_error is None or isinstance(response.body_error, ManxueError):
            return response.body_error
        return no_service_response(settings, response.body_error)

    def test_connection(self) -> tuple[bool, str]:
        """
        Query a task that does not exist, and report the response. Nothing is ordered.

        :return: whether the service was reached and did not refuse the key, and its response.
        """
        try:
            settings = self.settings
        except ManxueError as error:
            return False, str(error)
        try:
            self._query(settings, PROBE_ID)
        except ManxueRefusedError as error:
            if is_wrong_path(error):
                return False, (
                    f"{settings.base_url} was reached, but it does not know the path ({error}). Check the Base URL."
                )
            return True, (
                f"{settings.base_url} was reached and did not refuse the key. Its response to a query of a "
                f"task that does not exist: {error}."
            )
        except ManxueError as error:
            return False, f"{settings.base_url}: {error}"
        return True, f"{settings.base_url} was reached and accepted the key."
