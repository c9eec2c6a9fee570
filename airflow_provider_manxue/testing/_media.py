"""The media host: signed URLs, validators and ranges."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_manxue.testing._clock import Clock
    from airflow_provider_manxue.testing._tasks import Task


class UrlSigner:
    """
    Signer of video URLs.

    :param clock: the emulator's clock.
    :param lifetime: seconds from the signing of a URL to its expiry.
    :param exact: reject a URL if its percent-encoding was changed.
    """

    def __init__(self, clock: Clock, lifetime: float, *, exact: bool) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self._exact = exact
        self._secret = secrets.token_bytes(32)

    def sign(self, task_id: str) -> str:
        """Return path and query string of a newly signed URL of a task's video."""
        return self._signed(f"/media/{quote(task_id, safe='')}.mp4", int(self._clock.now() + self.lifetime))

    def _signed(self, path: str, expires: int) -> str:
        digest = hmac.digest(self._secret, f"{path}\n{expires}".encode(), hashlib.sha256)
        # 32 bytes of Base64 always end in "=", so the URL has percent-encoding that a client may change.
        return f"{path}?expires={expires}&signature={quote(base64.b64encode(digest), safe='')}"

    def objection(self, raw_path: str) -> str | None:
        """Return the reason to reject a URL, or None if it is valid."""
        url = urlsplit(raw_path)
        query = parse_qs(url.query)
        expires = query.get("expires", [""])[0]
        if not re.fullmatch(r"[0-9]{1,15}", expires):
            return "the URL is not signed"
        signed = self._signed(url.path, int(expires))
        if self._exact:
            genuine = hmac.compare_digest(signed.encode(), raw_path.encode())
        else:
            signature = parse_qs(urlsplit(signed).query)["signature"][0]
            genuine = hmac.compare_digest(signature.encode(), query.get("signature", [""])[0].encode())
        if not genuine:
            return "the signature is wrong"
        return "the URL has expired" if self._clock.now() >= int(expires) else None


def entity_tag(task: Task) -> str:
    """Return the strong ``ETag`` of a task's video."""
    name = f"{task.id}\n{task.version}\n{task.actual_duration}\n{task.size}"
    return f'"{hashlib.sha256(name.encode()).hexdigest()[:32]}"'


def last_modified(task: Task) -> str:
    """Return ``Last-Modified`` of a task's video; each version is a second newer."""
    return formatdate(task.created + task.version - 1, usegmt=True)


def wanted_range(headers: Mapping[str, str], task: Task, size: int) -> tuple[int, int] | None:
    """
    Return the requested part of the file, as ``(start, stop)``.

    None for the whole file: no ``Range``, an ``If-Range`` for another version, several ranges, or an invalid
    range (RFC 9110, section 14.2).

    :raises ValueError: if the range lies outside the file. Its text is the ``Content-Range`` of the response.
    """
    condition = headers.get("If-Range")
    if condition is not None and condition not in (entity_tag(task), last_modified(task)):
        return None
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range", "").replace(" ", ""))
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        raise ValueError(f"bytes */{size}")
    return start, stop
