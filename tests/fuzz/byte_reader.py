"""Decoding of a fuzzer's bytes into values. The same bytes always give the same values."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


class ByteReader:
    """
    Reads values from bytes. After the last byte it reads zeros, which decode to the simplest values.

    :param data: the bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether any bytes are left."""
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """Return this number of bytes, or fewer at the end."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def rest(self) -> bytes:
        """Return all bytes that are left."""
        return self.take(len(self._data))

    def number(self, size: int = 1) -> int:
        """Return a number of this size in bytes."""
        return int.from_bytes(self.take(size))

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of the choices."""
        return choices[self.number() % len(choices)]

    def text(self) -> str:
        """Return up to 63 bytes of text, which may hold lone surrogates."""
        return self.take(self.number() % 64).decode("utf-8", "surrogateescape")

    def float(self) -> float:
        """Return any floating-point number, NaN and the infinities among them."""
        number: float = struct.unpack("d", self.take(8).ljust(8, b"\0"))[0]
        return number

    def json(self, words: Sequence[str], depth: int = 4) -> Any:
        """
        Return any JSON value.

        :param words: texts and field names that the parser under test knows.
        :param depth: maximum nesting of lists and objects.
        """
        match self.number() % (9 if depth else 7):
            case 0:
                return None
            case 1:
                return bool(self.number() & 1)
            case 2:
                return self.number()
            case 3:
                return self.number(8) - 2**63
            case 4:
                return self.float()
            case 5:
                return self.text()
            case 6:
                return self.pick(words)
            case 7:
                return [self.json(words, depth - 1) for _ in range(self.number() % 4)]
            case _:
                return {self.name(words): self.json(words, depth - 1) for _ in range(self.number() % 6)}

    def name(self, words: Sequence[str]) -> str:
        """Return a name of a field."""
        return self.pick([*words, ""]) or self.text()


def json_of(data: bytes, words: Sequence[str]) -> Any:
    """Parse JSON text, as in the first inputs. Decode any other bytes into a JSON value."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return ByteReader(data).json(words)
