"""Names of the files to save videos in."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

from airflow_provider_manxue.exceptions import ManxueInputError

S3_SCHEMES = frozenset({"s3", "s3a", "s3n"})
GOOGLE_SCHEMES = frozenset({"gs", "gcs"})
UNVERIFIED_SUFFIX = ".unverified"
"""Suffix of the name of a file that may not be a whole video."""


def parse_destination(destination: Any, video_task_id: str) -> str:
    """
    Return the URI of the file for a video.

    :param destination: URI of a file, or of a folder with a trailing slash.
    :param video_task_id: id of the task, the name of a file in a folder.
    :raises ManxueInputError: if it is not the URI of a file or folder.
    """
    if not isinstance(destination, str) or not destination.isprintable():
        raise ManxueInputError(f"destination must be the URI of a file or folder, not {destination!r}.")
    destination = destination.strip()
    scheme, colon, rest = destination.partition("://")
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
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
            f"destination {destination!r} names no file. End it with '/' for a folder. The file is named "
            f"after the id."
        )
    if set("?#") & set(rest):
        # The libraries of stores cut names there, each differently.
        raise ManxueInputError(f"destination {destination!r} holds '?' or '#'. Use another name.")
    if ".." in re.split(r"[/\\]", unquote(rest)):
        # A template may have inserted a text from the service.
        raise ManxueInputError(f"destination {destination!r} holds '..'. Name the folder itself.")
    return f"{destination}{quote(video_task_id, safe='')}.mp4" if destination.endswith("/") else destination


def names_one_file(destination: object) -> bool:
    """Return whether a destination, an argument of ``partial()``, is the same file for each mapped task."""
    return isinstance(destination, str) and "{" not in destination and not destination.strip().endswith("/")


def may_have_web_page(destination: object) -> bool:
    """Return whether a destination may be on a store with a console that shows an object in a browser: AWS or Google Cloud."""
    scheme, colon, _ = destination.strip().partition("://") if isinstance(destination, str) else ("", "", "")
    # A scheme that a template or an XCom inserts is not known yet.
    return not colon or "{" in scheme or scheme in S3_SCHEMES | GOOGLE_SCHEMES


def without_login(uri: str) -> str:
    """Return the URI of a file without the connection id or the login before its host."""
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
