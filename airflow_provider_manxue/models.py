"""Values of the public interface: a task of the service, its status, an asset, the settings of a connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class TaskStatus(StrEnum):
    """
    The status of a video generation task: the service's four documented ones, and ``unknown`` for any other.

    The review of an asset has the same ones, under other words: ``submitted``, ``Processing``, ``Active``, ``Failed``.
    """

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class VideoTask:
    """
    A video generation task, parsed from a response.

    :param id: id of the task. For a query it is the requested id.
    :param status: the status.
    :param status_word: the status as the service wrote it.
    :param object: object type, ``video``; None if the service left it out.
    :param created: creation time, in seconds since the epoch.
    :param model: name of the model, for example ``sd2_manxue_1080p``.
    :param video_url: URL of the finished video. It is temporary. It needs no credentials, so treat it as a secret.
    :param actual_duration: length of the finished video in seconds; None if the service left it out.
    :param error: the service's reason why the task failed, or why a completed one has no URL.
    :param extra: the other fields of the response, unchanged.
    :param reported_id: the id in the response, if it differs from the requested one; None otherwise.
    """

    id: str
    status: TaskStatus
    status_word: str = ""
    object: str | None = None
    created: int | None = None
    model: str | None = None
    video_url: str | None = field(default=None, repr=False)
    actual_duration: float | None = None
    error: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    reported_id: str | None = None

    @property
    def has_result(self) -> bool:
        """Whether the response has the URL of the video."""
        return bool(self.video_url)

    def to_dict(self) -> dict[str, Any]:
        """Return the task under the service's own field names: the eight documented ones first."""
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "status": self.status.value,
            "video_url": self.video_url,
            "actualDuration": self.actual_duration,
            "error": self.error,
            **self.extra,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> VideoTask:
        """Return the task from the fields that :meth:`to_dict` returns."""
        known = {"id", "object", "created", "model", "status", "video_url", "actualDuration", "error"}
        return cls(
            id=fields["id"],
            status=TaskStatus(fields["status"]),
            status_word=fields["status"],
            object=fields.get("object"),
            created=fields.get("created"),
            model=fields.get("model"),
            video_url=fields.get("video_url"),
            actual_duration=fields.get("actualDuration"),
            error=fields.get("error"),
            extra={name: value for name, value in fields.items() if name not in known},
        )

    def to_xcoms(self) -> dict[str, Any]:
        """Return the XComs of a wait for this video by key, without its return value."""
        return {"video_url": self.video_url, "actualDuration": self.actual_duration}


class AssetType(StrEnum):
    """The type of an asset, under the service's word."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


@dataclass(frozen=True, slots=True)
class Asset:
    """
    An asset: a reference that the service reviews before an order may use it.

    :param id: id of the asset; empty if the service made none of an uploaded file.
    :param status: ``completed`` means that the service calls the asset *Active*. Only then an order may use it.
    :param status_word: the status as the service wrote it; empty if the response has none.
    :param asset_type: the type; None if the response has none, as that to a query.
    :param original_url: URL of the uploaded file; None if the response has none. It may be signed, so treat it as a secret.
    :param error: the service's reason why the asset failed.
    """

    id: str
    status: TaskStatus
    status_word: str = ""
    asset_type: AssetType | None = None
    original_url: str | None = field(default=None, repr=False)
    error: str | None = None

    @property
    def url(self) -> str | None:
        """The URL for the references of an order, ``asset://{id}``; None if there is no asset."""
        return f"asset://{self.id}" if self.id else None

    @property
    def has_result(self) -> bool:
        """Whether an order may use the asset."""
        return self.status is TaskStatus.COMPLETED

    @property
    def reported_id(self) -> None:
        """None: a response is searched for the requested id, so that it has no other one."""
        return

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that a query reads, under the service's names and with the status of a task."""
        return {"assetId": self.id, "status": self.status.value, "error": self.error}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Asset:
        """Return the asset from the fields that :meth:`to_dict` returns."""
        status = TaskStatus(fields["status"])
        return cls(fields["assetId"], status, status_word=fields["status"], error=fields.get("error"))


def without_url(video: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a task that are not secret. Argument and result have the service's field names."""
    names = ("id", "model", "status", "actualDuration")
    return {name: video[name] for name in names if video.get(name) is not None}


@dataclass(frozen=True, slots=True)
class ManxueSettings:
    """
    The valid settings of a connection.

    :param base_url: the service's base URL, without a trailing slash and without ``/v1``.
    :param api_key: the API key. It is left out of the representation.
    :param request_timeout: timeout of one request, in seconds.
    :param requests_per_second: maximum rate of requests of a triggerer, for all waits together.
    :param max_connections: maximum number of requests of a triggerer in flight.
    :param verify: whether the service's certificate is verified.
    :param ca_bundle: path of a PEM file with certificate authorities, used instead of the default ones.
    :param proxy: URL of an HTTP proxy; None leaves it to the environment (``HTTPS_PROXY``, ``NO_PROXY``).
    :param busy_codes: error codes of the service that mean a lack of capacity for an order.
    """

    base_url: str
    api_key: str = field(repr=False)
    request_timeout: float
    requests_per_second: float
    max_connections: int
    verify: bool
    ca_bundle: str | None
    proxy: str | None = field(repr=False)
    busy_codes: frozenset[str] = frozenset()
