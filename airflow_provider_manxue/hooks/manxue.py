"""The hook: the requests of a worker."""

from __future__ import annotations

import random
import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

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
    response_to_query,
)
from airflow_provider_manxue._core.assets import parse_asset_ids, parse_assets, query_assets, upload_url
from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID, missing_connection
from airflow_provider_manxue._core.diagnosis import PROBE_ID, is_wrong_path
from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue._core.order_outcomes import order_without_response, parse_order_response
from airflow_provider_manxue._core.order_timing import MAX_ATTEMPTS, quick_resend_delay
from airflow_provider_manxue._core.orders import OrderRequest, VideoRequest, parse_video_request
from airflow_provider_manxue._core.responses import create_url, result_url
from airflow_provider_manxue._core.uploads import (
    Upload,
    UploadRequest,
    parse_upload_request,
    parse_upload_response,
)
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueFailedError,
    ManxueOrderError,
    ManxueOrderNotAcceptedError,
    ManxueRefusedError,
)
from airflow_provider_manxue.get_provider_info import CONNECTION_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import requests

    from airflow_provider_manxue._client.sync_client import ServiceResponse
    from airflow_provider_manxue.models import Asset, ManxueSettings, VideoTask

T = TypeVar("T")


class ManxueHook(BaseHook):
    """
    Client of the sd2_manxue video-generation service.

    One call is one request, with two exceptions: a query that was refused for its key (401) is repeated if the
    connection meanwhile holds another key, and ``create_video`` and ``upload_assets`` if the service certainly did not accept it.
    Redirects are not followed, since the key would travel.

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
        return self._with_edited_key(lambda settings: self._query(settings, task_id))

    def get_assets(self, asset_ids: Sequence[str]) -> list[Asset]:
        """
        Query the state of assets with one request: ``POST {base}/asset/sd2Manxue/assetStatus``.

        :param asset_ids: ids of the assets, or their ``asset://`` URLs.
        :return: the assets, in the order of the ids. One of which the response has no state has the status ``unknown``, an empty
            ``status_word``, and the reason in ``error``.
        :raises ManxueInputError: if an id cannot be one; nothing was sent.
        :raises ManxueError: of the other kinds that :meth:`get_video_task` raises; ``ManxueRefusedError`` for an unknown asset.
        """
        ids = parse_asset_ids(asset_ids)
        return self._with_edited_key(lambda settings: self._query_assets(settings, ids))

    def _query_assets(self, settings: ManxueSettings, ids: list[str]) -> list[Asset]:
        query = query_assets(settings.base_url, ids)
        response = self._exchange(settings, query.method, query.url, query.body)
        return parse_assets(
            response.http_status,
            response.body,
            ids,
            retry_after=response.retry_after,
            now=time.time(),
            secret=settings.api_key,
        )

    def _with_edited_key(self, query: Callable[[ManxueSettings], T]) -> T:
        """Send a query. If its key is refused, send it again if the connection was edited meanwhile."""
        settings = self.settings
        try:
            return query(settings)
        except ManxueAuthenticationError:
            self.settings = self.read_settings()
            if self.settings == settings:
                raise
            self.log.info(
                "The API key was refused, but the connection was edited meanwhile; using its new values."
            )
            return query(self.settings)

    def _query(self, settings: ManxueSettings, task_id: str) -> VideoTask:
        response = self._exchange(settings, "GET", result_url(settings.base_url, task_id))
        return parse_query_response(response, settings, task_id)

    def _exchange(
        self, settings: ManxueSettings, method: str, url: str, body: bytes | None = None
    ) -> ServiceResponse:
        try:
            content = None if body is None else TrackedBody(body)
            return response_to_query(exchange(self._session, settings, method, url, content))
        # The library's texts repeat the whole request, so the cause is not chained.
        except UNUSABLE_ADDRESS:
            raise unusable_address(settings) from None
        except NO_RESPONSE as error:
            raise no_service_response(settings, error) from None

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
        return self._resend(lambda: self.send_order(request))

    def upload_assets(
        self,
        *,
        image_urls: Sequence[str] | None = None,
        video_urls: Sequence[str] | None = None,
        audio_urls: Sequence[str] | None = None,
    ) -> list[Asset]:
        """
        Upload files for the review: ``POST {base}/asset/sd2Manxue/assetUpload``. **This may cost money**: no price is documented.

        An upload that certainly was not accepted is sent again, as an order is. One that may have been accepted is never sent again.
        The service recommends images with a ratio of 0.4 to 2.5 and sides of 300 to 6,000 pixels.

        :param image_urls: URLs (``https`` or ``http``) of images. A repeated URL is uploaded once.
        :param video_urls: URLs of videos.
        :param audio_urls: URLs of audios.
        :return: one asset for each URL: of the images, then the videos, then the audios. One that the service did not accept has an
            empty ``id``, the status ``failed``, and the reason in ``error``.
        :raises ManxueInputError: naming each rule that the upload breaks; nothing was sent.
        :raises ManxueConfigurationError: if the connection is missing or cannot be used; nothing was sent.
        :raises ManxueOrderNotAcceptedError: if the service could not be reached, or has no room.
        :raises ManxueOrderRejectedError: if the service rejected the upload.
        :raises ManxueOrderUnknownError: if the upload may have been accepted: look for its assets before uploading again.
        """
        request = parse_upload_request(image_urls=image_urls, video_urls=video_urls, audio_urls=audio_urls)
        upload = self._resend(lambda: self.send_upload(request))
        return [asset for row in request.for_each_url(upload.assets).values() for asset in row]

    def _resend(self, send: Callable[[], T]) -> T:
        """Send a request again that certainly was not accepted, up to ``MAX_ATTEMPTS`` times in all."""
        attempts = 0
        try:
            while True:
                try:
                    return send()
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

    def check_references(self, request: OrderRequest) -> None:
        """
        Refuse URLs that the service cannot fetch.

        :param request: the request.
        :raises ManxueInputError: naming each such URL.
        """
        request.check_references(service_host(self.settings))

    def send_order(self, request: VideoRequest) -> VideoTask:
        """
        Order a video with exactly one request. **This costs money.** Raises the errors of :meth:`create_video`.

        :param request: the request. It is not sent if :meth:`check_references` refuses it.
        :return: the new task.
        """
        return self._send_once(
            request,
            create_url(self.settings.base_url),
            parse_order_response,
            lambda task: ("Ordered the video %s (model %s).", task.id, request.fields["model"]),
            partial(self.metrics.add_order, self.manxue_conn_id, request),
        )

    def send_upload(self, request: UploadRequest) -> Upload:
        """
        Upload files with exactly one request. **This may cost money.** Raises the errors of :meth:`upload_assets`.

        :param request: the request. It is not sent if :meth:`check_references` refuses it.
        :return: the assets of its distinct files.
        """
        upload = self._send_once(
            request,
            upload_url(self.settings.base_url),
            partial(parse_upload_response, request),
            _describe_upload,
            partial(self.metrics.add_upload, self.manxue_conn_id),
        )
        if upload.unexpected:
            self.log.warning(
                "The response to the upload has assets that were not requested: %s.",
                ", ".join(upload.unexpected),
            )
        return upload

    def _send_once(
        self,
        request: OrderRequest,
        url: str,
        parse: Callable[..., T],
        describe: Callable[[T], tuple[Any, ...]],
        count: Callable[..., None],
    ) -> T:
        """
        Send a request exactly once, and raise the error of its outcome.

        :param parse: parses the response; see ``parse_order_response``.
        :param describe: returns the log line of the result, as a format and its arguments.
        :param count: counts the outcome; with its error, if it has one.
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
                response = exchange(session, settings, "POST", url, body)
            result = parse(
                response.http_status,
                response.body,
                retry_after=response.retry_after,
                now=time.time(),
                secret=settings.api_key,
                busy_codes=settings.busy_codes,
                failure=self._body_error(response, settings),
            )
            self.log.info(*describe(result))
            count()
            return result
        except (ManxueOrderNotAcceptedError, ManxueOrderError, ManxueFailedError) as error:
            count(error)
            raise
        except BaseException as error:  # noqa: BLE001 - raised again as the outcome of the order
            # Once the body was sent, the order may have been accepted, after any error. Timeouts and signals of Airflow are
            # no subclasses of Exception.
            is_expected = isinstance(error, NO_RESPONSE)
            outcome = order_without_response(
                error, service_host(settings), body_started=body.started, kind=request.kind
            )
            count(outcome)
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


def _describe_upload(upload: Upload) -> tuple[Any, ...]:
    ids = [asset.id for asset in upload.assets if asset.id]
    return (
        "Uploaded %d of %d files as the assets %s.",
        len(ids),
        len(upload.assets),
        ", ".join(ids) or "(none)",
    )
