"""Errors about names: what is unknown, and what may have been meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def unknown(what: str, name: object, known: Iterable[str]) -> ValueError:
    """Return the error for an unknown name, with the near names, or all if none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=4, cutoff=0.5)
    remedy = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names)}"
    return ValueError(f"unknown {what} {name!r}; {remedy}")
