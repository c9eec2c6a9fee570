"""Operator that has references with faces reviewed, before an order uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._airflow.asset_review import AssetReviewWait
from airflow_provider_manxue._airflow.task_defaults import EXECUTION_TIMEOUT, RETRIES
from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID
from airflow_provider_manxue._core.ids import as_list
from airflow_provider_manxue._core.polling import DEFAULT_POKE_INTERVAL, DEFAULT_TIMEOUT
from airflow_provider_manxue._core.uploads import URL_LISTS, UploadRequest, parse_upload_request

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context, XComArg


class ManxueReviewAssetsOperator(AssetReviewWait):
    """
    Operator that uploads files as assets, and waits until the service has reviewed them.

    The service refuses references with faces, unless they are reviewed assets. No price of an upload is documented, so that it is
    treated like an order: an upload that may have been accepted is never sent again. With Airflow 3.3 and later it is bound to the
    task instance: an automatic retry continues with it, and so does a clear until the task has succeeded.

    The task waits as ``ManxueVideoBatchSensor`` does: deferred by default (a triggerer must run), or on the worker with
    ``deferrable=False``. XCom: ``image_urls``, ``video_urls`` and ``audio_urls``, each a list of ``asset://`` URLs in the order of
    the argument, for ``reference_images`` and the like of ``ManxueCreateVideoOperator``; ``assets``, one object for each URL with
    ``assetType``, ``originalUrl`` (without its query), ``assetId``, ``status`` and ``error``; and all four as return value.

    A URL that is repeated in an argument is uploaded once. If an asset is not active in the end, the task fails with an error that
    names its argument. The service recommends images with a ratio of 0.4 to 2.5 and sides of 300 to 6,000 pixels.

    :param image_urls: (templated) URLs (``https`` or ``http``) of images.
    :param video_urls: (templated) URLs of videos.
    :param audio_urls: (templated) URLs of audios.
    :param tolerate_failures: succeed although some assets are not active, and leave these out of the lists. Without any active
        asset the task fails nevertheless.
    :param manxue_conn_id: (templated) id of the Airflow connection.
    :param durable: bind the upload to the task instance (Airflow 3.3 and later). If False, each try uploads.
    :param order_timeout: seconds (or ``timedelta``) from the start of a try within which the upload must be accepted; None for
        ``timeout``. After that the task fails with ``ManxueOrderTimeoutError``, and ``retries`` apply.
    :param deferrable: wait in the triggerer, for room and for the review. ``[operators] default_deferrable`` is not consulted.
    :param poke_interval: seconds (or ``timedelta``) between two polls of an asset.
    :param timeout: seconds (or ``timedelta``) from the acceptance of the upload to the deadline of the wait.
    :param execution_timeout: longest time from the start of a try to its end. It bounds ``order_timeout`` and ``timeout``.
    :param exponential_backoff: double the interval from poll to poll, up to ``max_wait``.
    :param max_wait: longest interval in seconds (or ``timedelta``).
    :param soft_fail: skip the task when an asset failed or ``timeout`` or ``execution_timeout`` has passed.
    :param never_fail: skip the task after any error.
    :param retries: number of retries. Below Airflow 3.3 a retry can upload a second time, and a value above 0 warns.
    :param do_xcom_push: push the results to XCom.
    :param kwargs: arguments of ``BaseSensorOperator``. ``mode`` must be ``poke``.
    :raises ManxueInputError: if an argument cannot be used. The error names each broken rule, and nothing is sent.
    """

    template_fields: Sequence[str] = (*URL_LISTS, "manxue_conn_id")

    def __init__(
        self,
        *,
        image_urls: Sequence[str] | XComArg | None = None,
        video_urls: Sequence[str] | XComArg | None = None,
        audio_urls: Sequence[str] | XComArg | None = None,
        tolerate_failures: bool = False,
        manxue_conn_id: str = DEFAULT_CONN_ID,
        durable: bool = True,
        order_timeout: timedelta | float | None = None,
        deferrable: bool = True,
        poke_interval: timedelta | float = DEFAULT_POKE_INTERVAL,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        execution_timeout: timedelta | None = EXECUTION_TIMEOUT,
        exponential_backoff: bool = False,
        max_wait: timedelta | float | None = None,
        soft_fail: bool = False,
        never_fail: bool = False,
        retries: int | None = RETRIES,
        do_xcom_push: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            manxue_conn_id=manxue_conn_id,
            deferrable=deferrable,
            poke_interval=poke_interval,
            timeout=timeout,
            execution_timeout=execution_timeout,
            exponential_backoff=exponential_backoff,
            max_wait=max_wait,
            soft_fail=soft_fail,
            never_fail=never_fail,
            retries=retries,
            do_xcom_push=do_xcom_push,
            **kwargs,
        )
        self.image_urls = as_list(image_urls, "image_urls")
        self.video_urls = as_list(video_urls, "video_urls")
        self.audio_urls = as_list(audio_urls, "audio_urls")
        self.tolerate_failures = tolerate_failures
        self.durable = durable
        self.order_timeout = order_timeout
        self._check_order_arguments(self._url_lists)

    @property
    def _url_lists(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in URL_LISTS}

    def _request(self) -> UploadRequest:
        return parse_upload_request(**self._url_lists)

    def dry_run(self) -> None:
        """
        Check the rules, and log the files without the queries of their URLs. Nothing is sent.

        :raises ManxueInputError: naming each rule that is broken.
        """
        request = self._request()
        self.hook.check_references(request)
        for name, value in request.loggable_fields.items():
            self.log.info("Dry run: %s = %s", name, value)

    def execute(self, context: Context) -> dict[str, list[Any]]:
        """
        Upload the files, or continue with the upload of this task instance, and wait.

        :return: ``image_urls``, ``video_urls``, ``audio_urls`` and ``assets``.
        """
        return self._start(context)  # type: ignore[no-any-return]
