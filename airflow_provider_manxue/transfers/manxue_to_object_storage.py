"""Operator that saves a finished video to a store, atomically."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import BaseOperator, XComArg

from airflow_provider_manxue._airflow.rendering import is_rendered_later
from airflow_provider_manxue._airflow.video_tab import recorded_failure
from airflow_provider_manxue._client.store_protocol import Existing, Found
from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID
from airflow_provider_manxue._core.deadline import to_seconds
from airflow_provider_manxue._core.destination import (
    UNVERIFIED_SUFFIX,
    may_have_web_page,
    names_one_file,
    parse_destination,
)
from airflow_provider_manxue._core.ids import inner_object, parse_video_task_id, task_id_in
from airflow_provider_manxue._core.media_urls import AddressPolicy
from airflow_provider_manxue._core.numbers import is_positive
from airflow_provider_manxue._core.responses import video_url_in
from airflow_provider_manxue._core.saved_video import KEY as SAVED_VIDEO_KEY
from airflow_provider_manxue._core.saved_video import SavedVideo, duration_of
from airflow_provider_manxue.exceptions import (
    ManxueExistsError,
    ManxueInputError,
    ManxueUnverifiedVideoError,
)
from airflow_provider_manxue.links.manxue import NO_LINKS, ManxueSavedVideoLink
from airflow_provider_manxue.models import without_url
from airflow_provider_manxue.transfers._video_url import SecretUrl, UrlRefresher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta
    from pathlib import Path

    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_manxue._client.downloader import Deadline, Downloader, PartialDownload
    from airflow_provider_manxue._client.store_protocol import Store
    from airflow_provider_manxue.hooks.manxue import ManxueHook

DEFAULT_TIMEOUT = 60 * 60.0
DEFAULT_MAX_BYTES = 4 * 1024**3
"""Bytes of the longest video that is saved; far above any video of the service. Ends a body without an end."""

_IF_EXISTS = ("overwrite", "skip", "fail")
_CONTAINERS = ("mp4", "quicktime", "webm")


class ManxueToObjectStorageOperator(BaseOperator):
    """
    Operator that saves a finished video of the sd2_manxue service to any store that ``ObjectStoragePath`` reaches.

    Requests a fresh URL from the service, and again when it expires. Resumes a broken download. The video appears under
    its final name only when it is complete; a failed save leaves an older file unchanged.

    XCom: the URI of the saved video as return value; ``video_task_id``, ``size`` (bytes), ``content_type`` and
    ``sha256``. After a skipped save the last two are None. Where the store shows objects in a browser, also
    ``web_address``, the target of the button *Saved video*. ``saved_video`` has all that the next task needs, without a URL
    of the service: ``video_task_id``, ``uri``, ``size`` (bytes), ``duration`` (seconds, None if it is unknown) and ``sha256``.

    Asset events: the ``extra`` of the event of each of ``outlets`` has the fields of ``saved_video``. The event of an
    ``AssetAlias`` is one of the asset with the file's URI. ``docs/asset-events.md`` has examples.

    :param video_task_id: (templated) id of the video's task, or the whole task, as the sensor returns it; then its
        URL is the fallback when the service no longer knows the task.
    :param destination: (templated) URI of the saved video, for example ``s3://bucket/shot.mp4``. One that ends in
        ``/`` is a folder; the file's name is then the percent-encoded id with ``.mp4``.
    :param manxue_conn_id: (templated) id of the Airflow connection of the service.
    :param storage_conn_id: (templated) id of the Airflow connection of the store, if it needs one.
    :param if_exists: what to do if the file already exists: ``overwrite``, ``skip`` or ``fail``. An empty file is
        no video, so ``skip`` replaces it.
    :param containers: kinds of files that are saved: ``mp4``, ``quicktime``, ``webm``. None for MP4, and for another one
        if the media host announces its media type.
    :param max_bytes: bytes of the longest video that is saved; None for no limit.
    :param timeout: seconds (or ``timedelta``) for the whole save.
    :param allow_private_addresses: also fetch from addresses that are not public: True for all, or a list of host names,
        addresses and networks. The connection's host is allowed if it is such an address, or ``localhost``.
    :param do_xcom_push: whether the XComs are pushed.
    :param kwargs: arguments of Airflow's ``BaseOperator``.
    :raises ManxueInputError: if an argument cannot be used.
    """

    template_fields: Sequence[str] = ("video_task_id", "destination", "manxue_conn_id", "storage_conn_id")
    operator_extra_links: Collection[BaseOperatorLink] = (ManxueSavedVideoLink(),)
    ui_color = "#e8e0f7"

    def __init__(
        self,
        *,
        video_task_id: str | dict[str, Any] | XComArg,
        destination: str | XComArg,
        manxue_conn_id: str = DEFAULT_CONN_ID,
        storage_conn_id: str | None = None,
        if_exists: str = "overwrite",
        containers: Collection[str] | None = None,
        max_bytes: int | None = DEFAULT_MAX_BYTES,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        allow_private_addresses: bool | Sequence[str] = False,
        do_xcom_push: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(do_xcom_push=do_xcom_push, **kwargs)
        self._known_url = SecretUrl()
        self.video_task_id = video_task_id
        self.destination = destination
        self.manxue_conn_id = manxue_conn_id
        self.storage_conn_id = storage_conn_id
        self.if_exists = if_exists
        self.containers = containers
        self.max_bytes = max_bytes
        self.timeout = timeout
        self.allow_private_addresses = allow_private_addresses
        self._saved: tuple[dict[str, Any], str, int] | None = None
        if not (do_xcom_push and may_have_web_page(destination)):
            self.operator_extra_links = NO_LINKS
        self._check_arguments()

    @property
    def video_task_id(self) -> Any:
        """The id of the video, or its whole task without the URL, which Airflow and OpenLineage would store."""
        return self._video_task_id

    @video_task_id.setter
    def video_task_id(self, value: Any) -> None:
        if isinstance(value, Mapping) and not is_rendered_later(value):
            inner = inner_object(value)
            if url := video_url_in(value) or video_url_in(inner):
                self._known_url = SecretUrl(url)
            # Any other field may hold a URL. The error for a value without an id names its fields.
            task_id, duration = task_id_in(value), duration_of(value, inner)
            value = {"id": task_id, "actualDuration": duration} if task_id else dict.fromkeys(value)
        self._video_task_id = value

    def _check_arguments(self) -> None:
        """Check at parse time all values that are not rendered later."""
        if not is_rendered_later(self.video_task_id):
            parse_video_task_id(self.video_task_id)
        if not is_rendered_later(self.destination):
            parse_destination(self.destination, "id")
        if self.if_exists not in _IF_EXISTS:
            raise ManxueInputError(
                f"if_exists must be one of {', '.join(map(repr, _IF_EXISTS))}, not {self.if_exists!r}."
            )
        if self.containers is not None and not _is_selection(self.containers, _CONTAINERS):
            raise ManxueInputError(
                f"containers must be some of {', '.join(map(repr, _CONTAINERS))}, or None, not {self.containers!r}."
            )
        AddressPolicy.parse(self.allow_private_addresses)
        if self.max_bytes is not None and not is_positive(self.max_bytes):
            raise ManxueInputError(
                f"max_bytes must be a positive number of bytes, or None, not {self.max_bytes!r}."
            )
        if not is_positive(to_seconds(self.timeout)):
            raise ManxueInputError(f"timeout must be a positive number of seconds, not {self.timeout!r}.")

    @cached_property
    def hook(self) -> ManxueHook:
        """The hook. Imported here, so that parsing a Dag file loads no HTTP library."""
        from airflow_provider_manxue.hooks.manxue import ManxueHook

        return ManxueHook(self.manxue_conn_id)

    @classmethod
    def partial(cls, *, task_id: str, destination: str | XComArg | None = None, **kwargs: Any) -> Any:
        """
        Return the operator for mapping. Warns if all mapped tasks would share one destination.

        :param task_id: id of the mapped task.
        :param destination: as in the constructor.
        :param kwargs: other arguments of the constructor.
        """
        if names_one_file(destination):
            warnings.warn(
                f"Each mapped task saves its video to the one file {destination!r}. End the destination with '/', so that "
                f"each file is named after its id, or map it as well.",
                stacklevel=2,
            )
        if destination is not None:
            kwargs["destination"] = destination
        return super().partial(task_id=task_id, **kwargs)

    def execute(self, context: Context) -> str:
        """
        Save the video.

        :return: the URI of the saved video.
        :raises ManxueError: if it is not stored whole under its name.
        """
        from airflow_provider_manxue._client.downloader import Deadline

        with recorded_failure(context, self.log, enabled=self.do_xcom_push):
            return self._execute(context, Deadline(to_seconds(self.timeout)))

    def _execute(self, context: Context, deadline: Deadline) -> str:
        from airflow_provider_manxue._client.storage import open_store

        video_task_id = parse_video_task_id(self.video_task_id)
        uri = parse_destination(self.destination, video_task_id)
        with open_store(uri, self.storage_conn_id or None) as store:
            existing = self._stat(store)
            if self._should_skip(existing, uri):
                result = self._skip(existing, uri)
            else:
                result = self._save(store, existing, uri, deadline)
            web_address = store.web_address()
        # Outside the block: a failure to push an XCom is no error of the store.
        self._push(context, **result, video_task_id=video_task_id)
        if web_address is not None:
            self._push(context, web_address=web_address)
        duration = duration_of(self._saved and self._saved[0], self.video_task_id)
        self._pass_on(context, SavedVideo(video_task_id, uri, result["size"], duration, result["sha256"]))
        return uri

    def _pass_on(self, context: Context, video: SavedVideo) -> None:
        """Pass the saved video to the next tasks in an XCom, and to other Dags in the events of the outlets."""
        self._push(context, **{SAVED_VIDEO_KEY: video.to_dict()})
        if self.outlets:
            # Imported here, so that parsing a Dag file without outlets loads no assets.
            from airflow_provider_manxue._airflow.asset_events import describe_events

            describe_events(self.outlets, context["outlet_events"], video, self.log)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the saved video and its file. OpenLineage calls it when the task has ended."""
        from airflow_provider_manxue._airflow.lineage import lineage_of

        if self._saved is None:
            return lineage_of([])
        video, uri, size = self._saved
        return lineage_of([video], saved=(uri, size))

    def _stat(self, store: Store) -> Existing:
        """Return the existing object. A store may deny this, which matters only if the object must not be replaced."""
        try:
            return store.stat()
        except PermissionError:
            if self.if_exists != "overwrite":
                raise
            return Existing()

    def _should_skip(self, existing: Existing, uri: str) -> bool:
        """Return whether an existing file ends the task successfully."""
        if self.if_exists == "fail" and existing.found is not Found.NOTHING:
            raise ManxueExistsError(
                f"{uri} already exists ({existing.size} bytes), and if_exists is 'fail'. Set 'skip' or 'overwrite', or remove "
                f"the file."
            )
        return self.if_exists == "skip" and existing.found is Found.FILE

    def _skip(self, existing: Existing, uri: str) -> dict[str, Any]:
        self.log.info("%s already exists (%d bytes); skipped.", uri, existing.size)
        return {"size": existing.size, "content_type": None, "sha256": None}

    def _save(self, store: Store, existing: Existing, uri: str, deadline: Deadline) -> dict[str, Any]:
        url_refresher = UrlRefresher(self.hook, self.video_task_id, self._known_url.value, self.log)
        downloader = self._downloader(url_refresher, deadline)
        create = self.if_exists != "overwrite" and existing.found is Found.NOTHING
        with store.temporary_file() as (file, path):
            download = downloader.fetch(file)
            check = partial(deadline.check, "all was received, and is being stored")
            if download.unverified_reason:
                self._store_unverified(download, path, uri, check)
            try:
                if create and self._should_skip(store.stat(), uri):
                    raise FileExistsError
                store.put(path, download.media_type, check, create=create)
            except FileExistsError:
                # Another task was faster.
                found = store.stat()
                if self._should_skip(found, uri):
                    return self._skip(found, uri)
                raise
        self._saved = without_url(url_refresher.video), uri, download.received
        self.hook.metrics.add_save(self.manxue_conn_id, download.received, deadline.elapsed)
        self.hook.metrics.send()
        self.log.info("Saved %s (%d bytes, SHA-256 %s).", uri, download.received, download.sha256)
        return {"size": download.received, "content_type": download.media_type, "sha256": download.sha256}

    def _downloader(self, url_refresher: UrlRefresher, deadline: Deadline) -> Downloader:
        from airflow_provider_manxue._client.downloader import Downloader
        from airflow_provider_manxue._client.media_client import MediaClient
        from airflow_provider_manxue._client.network import service_host
        from airflow_provider_manxue._core.containers import Container

        settings = self.hook.settings
        policy = AddressPolicy.parse(self.allow_private_addresses, service_host(settings))
        return Downloader(
            refresh_url=url_refresher,
            client=MediaClient(settings, policy=policy, deadline=deadline),
            containers=None if self.containers is None else frozenset(map(Container, self.containers)),
            max_bytes=self.max_bytes,
            deadline=deadline,
            log=self.log,
        )

    def _store_unverified(
        self, download: PartialDownload, path: Path, uri: str, check: Callable[[], None]
    ) -> NoReturn:
        """Store a video that could not be verified under another name, since its URL will expire."""
        from airflow_provider_manxue._client.storage import open_store

        name = uri + UNVERIFIED_SUFFIX
        with open_store(name, self.storage_conn_id or None) as store:
            store.put(path, download.media_type, check, create=False)
        raise ManxueUnverifiedVideoError(
            f"All {download.received} announced bytes were received, but {download.unverified_reason}. They were saved as {name}. "
            f"Check that file, and rename it if it is the video."
        )

    def _push(self, context: Context, **values: Any) -> None:
        if self.do_xcom_push:
            for key, value in values.items():
                context["ti"].xcom_push(key=key, value=value)


def _is_selection(value: Any, names: Sequence[str]) -> bool:
    return (
        not isinstance(value, str)
        and isinstance(value, Collection)
        and bool(value)
        and set(value) <= set(names)
    )
