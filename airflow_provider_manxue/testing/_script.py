"""What a task does: one step after the other, by time, by number of polls, or by hand."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing._names import Registry, unknown
from airflow_provider_manxue.testing._response import Response, from_fields

if TYPE_CHECKING:
    from typing import Self

STATUSES = ("queued", "processing", "completed", "failed")

REJECTED = "The prompt or a reference asset was rejected."


@dataclass(frozen=True, kw_only=True)
class Step:
    """
    One stretch of a task's life.

    :param status: ``queued``, ``processing``, ``completed`` or ``failed``: decides the regular body.
    :param seconds: how long it lasts, in seconds of the emulator's clock.
    :param polls: how many polls it lasts. With neither, it lasts until it is ended by hand.
    :param response: how the polls in this step are responded to; regularly if left out.
    :param error: the text of the field ``error`` if the status is ``failed``.
    :raises ValueError: for an unknown status, for both lengths at once, or for an impossible length.
    """

    status: str
    seconds: float | None = None
    polls: int | None = None
    response: Response | None = None
    error: str = REJECTED

    def __post_init__(self) -> None:
        """Refuse a step that cannot be played."""
        if self.status not in STATUSES:
            error = unknown("status", self.status, STATUSES)
            raise ValueError(
                f"{error} Other words go into the response: Step(status='completed',"
                " response=Response(overrides={'status': 'succeeded'}))"
            )
        if self.seconds is not None and self.polls is not None:
            raise ValueError("seconds and polls are both given; give one of them, or neither")
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(f"seconds is {self.seconds!r}; give a number that is not negative")
        if self.polls is not None and self.polls < 1:
            raise ValueError(f"polls is {self.polls!r}; give a positive number")


@dataclass(frozen=True)
class Script:
    """
    The steps of a task, in order. The last one stays, whatever its length.

    :param steps: at least one step.
    :param create: how an order that follows this script is responded to; regularly if left out.
    :param media: how a request for the task's video is responded to; regularly if left out.
    :param actual_duration: length of the video in seconds, if the script depends on it.
    :raises ValueError: if there is no step.
    """

    steps: tuple[Step, ...]
    create: Response | None = None
    media: Response | None = None
    actual_duration: float | None = None

    def __post_init__(self) -> None:
        """Accept any sequence of steps, but not an empty one."""
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps:
            raise ValueError("a script needs at least one step")

    @classmethod
    def timed(
        cls, *, queued: float = 0, processing: float = 0, then: str = "completed", error: str = REJECTED
    ) -> Self:
        """
        Advance with the emulator's clock.

        :param queued: seconds in ``queued``.
        :param processing: seconds in ``processing``.
        :param then: the status after that.
        :param error: the text of the field ``error`` if that is ``failed``.
        """
        return cls(
            (
                Step(status="queued", seconds=queued),
                Step(status="processing", seconds=processing),
                Step(status=then, error=error),
            )
        )

    @classmethod
    def polls(cls, *statuses: str, response: Response | None = None) -> Self:
        """
        Give each poll the next status; the last one stays.

        :param statuses: such as ``"queued", "queued", "completed"``.
        :param response: how all the polls are responded to.
        """
        return cls(tuple(Step(status=status, polls=1, response=response) for status in statuses))

    @classmethod
    def by_hand(cls, *statuses: str) -> Self:
        """Stay until ``Emulator.advance`` is called. Without statuses: queued, processing, completed."""
        return cls(tuple(Step(status=status) for status in statuses or STATUSES[:3]))

    @classmethod
    def failing(cls, message: str = REJECTED, *, queued: float = 0, processing: float = 0) -> Self:
        """Fail with this message, at once or after some seconds of the emulator's clock."""
        return cls.timed(queued=queued, processing=processing, then="failed", error=message)

    @classmethod
    def always(cls, response: Response | str, *, status: str = "processing") -> Self:
        """
        Give every poll the same response.

        :param response: a response, or the name of one in the catalogue.
        :param status: the status of the regular body that the response changes.
        """
        return cls((Step(status=status, response=as_response(response)),))

    @classmethod
    def named(cls, name: str) -> Script:
        """
        Return the script of a named variation of the catalogue.

        :raises ValueError: if there is no variation of that name, or a task cannot play it.
        """
        return SCRIPTS.find(name)

    def to_json(self) -> dict[str, Any]:
        """Return the script as JSON values."""
        value = {item.name: _encode(getattr(self, item.name)) for item in dataclasses.fields(self)}
        return {name: item for name, item in value.items() if item is not None}

    @classmethod
    def from_json(cls, value: object) -> Script:
        """
        Return the script that :meth:`to_json` wrote, or the one of that name.

        :raises ValueError: if it is neither, or a part of it cannot be played.
        """
        if isinstance(value, str):
            return cls.named(value)
        return from_fields(cls, value, _decode)


SCRIPTS: Registry[Script] = Registry("script", "Play it with Emulator.outage({name}).")
"""The script of each scenario, by its name."""


def as_response(value: Response | str) -> Response:
    """Return the response itself, or the one of that name."""
    return Response.named(value) if isinstance(value, str) else value


def as_script(value: Script | str) -> Script:
    """
    Return the script itself, or the one of that name.

    :raises TypeError: if it is neither.
    """
    if isinstance(value, str):
        return Script.named(value)
    if not isinstance(value, Script):
        raise TypeError(f"script is {value!r}; give a Script or the name of a variation")
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, Response):
        return value.to_json()
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, Step):
        fields = {item.name: _encode(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return {name: item for name, item in fields.items() if item is not None}
    return value


def _decode(name: str, value: Any) -> Any:
    if name in ("response", "create", "media"):
        return Response.named(value) if isinstance(value, str) else Response.from_json(value)
    if name == "steps" and isinstance(value, list):
        return tuple(from_fields(Step, step, _decode) for step in value)
    return value
