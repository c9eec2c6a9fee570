"""The transfer: saves a finished video to a store, whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from airflow.providers.common.compat.sdk import BaseOperator, XComArg

from airflow_provider_manxue._core.connection import DEFAULT_CONN_ID
from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue._core.rendering import is_rendered_later
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueExistsError,
    ManxueInputError,
    ManxueNotCompletedError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTransientError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.links.manxue import ManxueSavedVideoLink
from airflow_provider_manxue.models import TaskStatus, VideoTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_manxue.download import Deadline
    from airflow_provider_manxue.hooks.manxue import ManxueHook
    from airflow_provider_manxue.storage import Store

DEFAULT_TIMEOUT = 60 * 60.0
DEFAULT_MAX_BYTES = 4 * 1024**3
"""Far above any video of the service; a body that never ends stops here."""

_IF_EXISTS = ("overwrite", "skip", "fail")


class ManxueToObjectStorageOperator(BaseOperator):
    """
    Saves a finished video of the sd2_manxue service to any store that ``ObjectStoragePath`` reaches.

    The service is asked for a fresh URL first, and again when that one dies. A transfer that breaks goes on where
    it stopped. The video appears under its final name only when it is complete; a failed save leaves whatever was
    there before.

    XCom: the URI of the saved video as return value; ``video_task_id``, ``size`` (bytes), ``content_type`` and
    ``sha256``. After a skipped save the last two are None. Where the store shows objects in a browser, also
    ``web_address``, to which the button *Saved video* leads.

    :param video_task_id: (templated) id of the video's task, or the whole task, as the sensor returns it; then its
        URL is the fallback when the service no longer knows the task.
    :param destination: (templated) URI of the video to be, for example ``s3://bucket/shot.mp4``. One that ends in
        ``/`` is a folder; the file's name is then the percent-encoded id with ``.mp4``.
    :param manxue_conn_id: (templated) id of the Airflow connection of the service.
    :param storage_conn_id: (templated) id of the Airflow connection of the store, if it needs one.
    :param if_exists: what to do if there is such an object already: ``overwrite``, ``skip`` or ``fail``.
    :param max_bytes: a longer video is refused; None for no limit.
    :param timeout: seconds (or ``timedelta``) within which all must be done.
    :param allow_private_addresses: also fetch from addresses that are not public. They are allowed as well if the
        connection's host is such an address, or ``localhost``.
    :raises ManxueInputError: if an argument cannot be used.
    """

    template_fields: Sequence[str] = ("video_task_id", "destination", "manxue_conn_id", "storage_conn_id")
    operator_extra_links = (ManxueSavedVideoLink(),)
    ui_color = "#e8e0f7"

    def __init__(
        self,
        *,
        video_task_id: str | dict[str, Any] | XComArg,
        destination: str | XComArg,
        manxue_conn_id: str = DEFAULT_CONN_ID,
        storage_conn_id: str | None = None,
        if_exists: str = "overwrite",
        max_bytes: int | None = DEFAULT_MAX_BYTES,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        allow_private_addresses: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.video_task_id = video_task_id
        self.destination = destination
        self.manxue_conn_id = manxue_conn_id
        self.storage_conn_id = storage_conn_id
        self.if_exists = if_exists
        self.max_bytes = max_bytes
        self.timeout = timeout
        self.allow_private_addresses = allow_private_addresses
        self._saved: tuple[dict[str, Any], str, int] | None = None
        self._check_arguments()

    def _check_arguments(self) -> None:
        """Refuse at parse time what rendering cannot cure."""
        if not is_rendered_later(self.video_task_id):
            parse_video_task_id(self.video_task_id)
        if not is_rendered_later(self.destination):
            read_destination(self.destination, "id")
        if self.if_exists not in _IF_EXISTS:
            raise ManxueInputError(
                f"if_exists must be one of {', '.join(map(repr, _IF_EXISTS))}, not {self.if_exists!r}."
            )
        if self.max_bytes is not None and not _is_positive(self.max_bytes):
            raise ManxueInputError(
                f"max_bytes must be a positive number of bytes, or None, not {self.max_bytes!r}."
            )
        if not _is_positive(_seconds(self.timeout)):
            raise ManxueInputError(f"timeout must be a positive number of seconds, not {self.timeout!r}.")

    @cached_property
    def hook(self) -> ManxueHook:
        """The hook; imported here, since a Dag file that is parsed needs no HTTP library."""
        from airflow_provider_manxue.hooks.manxue import ManxueHook

        return ManxueHook(self.manxue_conn_id)

    def execute(self, context: Context) -> str:
        """
        Save the video.

        :return: the URI of the saved video.
        """
        from airflow_provider_manxue.download import Deadline
        from airflow_provider_manxue.storage import open_store

        deadline = Deadline(_seconds(self.timeout))
        video_task_id = parse_video_task_id(self.video_task_id)
        uri = read_destination(self.destination, video_task_id)
        with open_store(uri, self.storage_conn_id or None) as store:
            found = self._size_of_existing(store, uri)
            if found is None:
                self._save(context, store, uri, deadline)
            else:
                self.log.info("%s is there already (%d bytes); nothing is fetched.", uri, found)
                self._push(context, size=found, content_type=None, sha256=None)
            self._push(context, video_task_id=video_task_id)
            if (web_address := store.web_address()) is not None:
                self._push(context, web_address=web_address)
        return uri

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """
        Tell OpenLineage, if it is installed and asks, which video was saved, and where.

        :param task_instance: the task instance, which has ended.
        """
        from airflow_provider_manxue.lineage import lineage_of

        if self._saved is None:
            return lineage_of([])
        video, uri, size = self._saved
        return lineage_of([video], saved=(uri, size))

    def _size_of_existing(self, store: Store, uri: str) -> int | None:
        """Return the length of an object that stands in the way; None if there is none, or it may be replaced."""
        if self.if_exists == "overwrite":
            return None
        found = store.size()
        if found is not None and self.if_exists == "fail":
            raise ManxueExistsError(f"{uri} is there already ({found} bytes), and if_exists is 'fail'.")
        return found

    def _save(self, context: Context, store: Store, uri: str, deadline: Deadline) -> None:
        from airflow_provider_manxue.download import Downloader, Wire

        fresh_url = FreshUrl(self.hook, self.video_task_id, self.log)
        downloader = Downloader(
            fresh_url=fresh_url,
            wire=Wire(
                self.hook.settings,
                allow_private_addresses=self.allow_private_addresses,
                deadline=deadline,
            ),
            max_bytes=self.max_bytes,
            deadline=deadline,
            log=self.log,
        )
        with store.temporary_file() as (file, path):
            copy = downloader.fetch(file)
            content_type, sha256 = copy.content_type or "video/mp4", copy.sha256
            # Another task may have been faster.
            if self._size_of_existing(store, uri) is None:
                store.put(path, content_type, lambda: deadline.check("all is received, and is being stored"))
        self._saved = fresh_url.video, uri, copy.received
        self.log.info("Saved %s (%d bytes, SHA-256 %s).", uri, copy.received, sha256)
        self._push(context, size=copy.received, content_type=content_type, sha256=sha256)

    def _push(self, context: Context, **values: Any) -> None:
        if self.do_xcom_push:
            for key, value in values.items():
                context["ti"].xcom_push(key=key, value=value)


class FreshUrl:
    """
    Asks the service where a video is; each answer may sign the URL anew.

    :param hook: asks the service.
    :param video_task_id: the id, or a whole task. Its URL is given out once, when the service has none.
    :param log: the task's logger, where it is told that this URL is used.
    """

    def __init__(self, hook: ManxueHook, video_task_id: Any, log: Any) -> None:
        self._hook = hook
        self._video_task_id = parse_video_task_id(video_task_id)
        self._known_url = video_task_id.get("video_url") if isinstance(video_task_id, Mapping) else None
        self._log = log
        self.video: dict[str, Any] = {"id": self._video_task_id}
        """What is known of the video, under the service's field names."""

    def __call__(self) -> str:
        """
        Return a URL of the video.

        :raises ManxueError: if there is none.
        """
        problem: ManxueError
        try:
            task = self._hook.get_video_task(self._video_task_id)
        except (ManxueRefusedError, ManxueTransientError) as error:
            problem = error
        else:
            self.video = task.to_dict()
            if task.status is TaskStatus.COMPLETED and task.video_url:
                return task.video_url
            problem = _why_there_is_none(task)
        if not self._known_url:
            raise problem
        self._log.warning("%s The URL that was passed on is used instead.", problem)
        url, self._known_url = self._known_url, None
        return str(url)


def _why_there_is_none(task: VideoTask) -> ManxueError:
    if task.status is TaskStatus.COMPLETED:
        return ManxueResultMissingError(
            f"The video {task.id} is completed, but the answer holds no URL of it."
        )
    if task.status is TaskStatus.FAILED:
        return ManxueVideoFailedError(
            f"There is no video {task.id} to save, it {task.status_word}: {task.error or 'no reason was given'}."
        )
    return ManxueNotCompletedError(
        f"The video {task.id} is not completed, its status is {task.status_word!r}. Wait for it with "
        f"ManxueVideoSensor first."
    )


def read_destination(destination: Any, video_task_id: str) -> str:
    """
    Return the URI of the video to be.

    :param destination: what the author passed.
    :param video_task_id: id of the task, for the name of a file in a folder.
    :raises ManxueInputError: if it is not the URI of a file or folder.
    """
    if not isinstance(destination, str) or not destination.isprintable():
        raise ManxueInputError(f"destination must be the URI of a file or folder, not {destination!r}.")
    destination = destination.strip()
    scheme, colon, rest = destination.partition("://")
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme, re.ASCII):
        raise ManxueInputError(
            f"destination {destination!r} has no scheme. Use for example s3://bucket/folder/ or, for a local path, "
            f"file:///data/videos/."
        )
    host, slash, name = rest.partition("/")
    if scheme in {"file", "local"} and host:
        raise ManxueInputError(
            f"destination {destination!r} is not the absolute path of a local file. Use three slashes: "
            f"file:///data/videos/."
        )
    if not slash or not (name or host):
        raise ManxueInputError(
            f"destination {destination!r} names no file. End it with '/' for a folder, in which the file is named "
            f"after the id."
        )
    if ".." in re.split(r"[/\\]", unquote(rest)):
        # A part of it may come from the service, by a template.
        raise ManxueInputError(f"destination {destination!r} holds '..'. Name the folder itself.")
    return f"{destination}{quote(video_task_id, safe='')}.mp4" if destination.endswith("/") else destination


def _seconds(span: timedelta | float) -> float:
    return span.total_seconds() if isinstance(span, timedelta) else span


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
