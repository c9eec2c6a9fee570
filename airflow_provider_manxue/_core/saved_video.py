"""A saved video, in the form in which tasks and asset events pass it on. No I/O happens here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airflow_provider_manxue._core.destination import without_login
from airflow_provider_manxue._core.numbers import is_number

KEY = "saved_video"
"""XCom key of the form, as documented."""


@dataclass(frozen=True, slots=True)
class SavedVideo:
    """
    A saved video, without any URL of the service.

    :param video_task_id: id of the video task.
    :param uri: URI of the file. May name the Airflow connection of the store.
    :param size: length of the file in bytes.
    :param duration: length of the video in seconds, as the service reported it; None if it is unknown.
    :param sha256: checksum of the saved bytes, in hexadecimal; None after a skipped save.
    """

    video_task_id: str
    uri: str
    size: int
    duration: float | None
    sha256: str | None

    @property
    def asset_uri(self) -> str:
        """URI of the file as an asset: the same for all connections to its store."""
        return without_login(self.uri)

    def to_dict(self) -> dict[str, Any]:
        """Serialize to plain JSON, as documented. A login with a password is left out of the URI."""
        login, _, _ = self.uri.partition("://")[2].partition("/")[0].rpartition("@")
        return {**asdict(self), "uri": self.asset_uri if ":" in login else self.uri}


def duration_of(*tasks: Any) -> float | None:
    """
    Return the length of a video in seconds, from the first source that knows it.

    :param tasks: whole tasks under the service's field names. A source of another type is ignored.
    """
    for task in tasks:
        duration: Any = task.get("actualDuration") if isinstance(task, Mapping) else None
        if is_number(duration):
            return float(duration)
    return None
