"""Lookup of scenarios by name, and errors that suggest similar names."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")


class Registry(Generic[T]):
    """
    Responses or scripts by the name of their scenario.

    A scenario is made of a response and a script, and both classes look up scenarios by name. The registry breaks
    this circle: it knows neither of them, and ``_scenarios`` fills it when the package is imported.

    :param kind: the kind of object, for error messages.
    :param remedy: advice for a scenario that has no such object; ``{name}`` becomes its name.
    """

    def __init__(self, kind: str, remedy: str) -> None:
        self._kind = kind
        self._remedy = remedy
        self._objects: dict[str, T | None] = {}
        self._aliases: dict[str, str] = {}

    def fill(self, objects: Mapping[str, T | None], aliases: Mapping[str, str]) -> None:
        """Add the object of each scenario, None where it has none, and other names for some of them."""
        self._objects.update(objects)
        self._aliases.update(aliases)

    def find(self, name: str) -> T:
        """
        Return the object of a scenario.

        :raises ValueError: if the name is unknown, or the scenario has no such object.
        """
        name = self._aliases.get(name, name)
        if name not in self._objects:
            raise unknown("scenario", name, [*self._objects, *self._aliases])
        found = self._objects[name]
        if found is None:
            raise ValueError(f"{name!r} is not a {self._kind}. {self._remedy.format(name=repr(name))}")
        return found


def unknown(what: str, name: object, known: Iterable[str]) -> ValueError:
    """Return the error for an unknown name, with similar names, or all known names if none is similar."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=4, cutoff=0.5)
    remedy = f"Similar names: {', '.join(near)}." if near else f"Known names: {', '.join(names)}."
    return ValueError(f"unknown {what} {name!r}. {remedy}")
