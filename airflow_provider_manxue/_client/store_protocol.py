"""The protocol of a store of videos, and the code that all stores share."""

from __future__ import annotations

import contextlib
import enum
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from io import FileIO
    from pathlib import Path


class Found(enum.Enum):
    """Kind of object at the destination."""

    NOTHING = enum.auto()
    EMPTY = enum.auto()
    """An empty file, for example of an interrupted program. It is no video."""

    FILE = enum.auto()


@dataclass(frozen=True, slots=True)
class Existing:
    """
    The object at the destination.

    :param found: its kind. A folder, or a prefix of other names, counts as nothing.
    :param size: its length in bytes.
    """

    found: Found = Found.NOTHING
    size: int = 0

    @classmethod
    def file(cls, size: int) -> Existing:
        """Return an object that is a file of ``size`` bytes."""
        return cls(Found.FILE if size else Found.EMPTY, size)


class Store(Protocol):
    """The destination of one video in a store."""

    def temporary_file(self) -> AbstractContextManager[tuple[FileIO, Path]]:
        """Open a new unbuffered file. Removes it at the end, unless it was moved."""

    def stat(self) -> Existing:
        """
        Return the object at the destination.

        :raises OSError: if it is a folder of a store that has folders.
        """

    def put(self, path: Path, content_type: str, check: Callable[[], None], *, create: bool) -> None:
        """
        Store a complete file under its final name.

        :param path: the temporary file.
        :param content_type: its media type.
        :param check: raises an error after the deadline.
        :param create: never replace a file, as far as the store can guarantee that.
        :raises FileExistsError: if there is a file already, and ``create``.
        :raises OSError: if the final name does not hold the file afterwards.
        """

    def web_address(self) -> str | None:
        """Return the URL of the video's page in a browser; None if there is none."""


@contextlib.contextmanager
def temporary_file(folder: Path, kind: Callable[[Path, str], FileIO]) -> Iterator[tuple[FileIO, Path]]:
    # Not with tempfile: the file may become the final one, so it needs the default mode. The suffix hides it from searches
    # for videos.
    path = folder / f".manxue-{secrets.token_hex(8)}.part"
    with kind(path, "x+") as file:
        try:
            yield file, path
        finally:
            path.unlink(missing_ok=True)
