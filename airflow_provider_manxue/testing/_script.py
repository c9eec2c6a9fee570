"""Scripts of tasks: steps that end by time, after a number of polls, or by hand."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing._names import Registry, unknown
from airflow_provider_manxue.testing._recorded import read_record
from airflow_provider_manxue.testing._response import Response, from_fields

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from airflow_provider_manxue.testing._recorded import RecordedResponse

STATUSES = ("queued", "processing", "completed", "failed")

REJECTED = "The prompt or a reference asset was rejected."
"""Default error text of a failed task."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """
    One step of a script.

    :param status: ``queued``, ``processing``, ``completed`` or ``failed``.
    :param seconds: length in seconds of the emulator's clock.
    :param polls: length in polls. Without ``seconds`` and ``polls`` the step lasts until ``Emulator.advance``.
    :param response: response to the polls in this step; the regular one if left out.
    :param error: text of the field ``error`` if the status is ``failed``.
    :raises ValueError: for an unknown status, two lengths, or a length out of range.
    """

    status: str
    seconds: float | None = None
    polls: int | None = None
    response: Response | None = None
    error: str = REJECTED

    def __post_init__(self) -> None:
        """Reject an invalid step."""
        if self.status not in STATUSES:
            error = unknown("status", self.status, STATUSES)
            raise ValueError(
                f"{error} Set a synonym in the response: Step(status='completed',"
                " response=Response(overrides={'status': 'succeeded'}))"
            )
        if self.seconds is not None and self.polls is not None:
            raise ValueError("seconds and polls exclude each other. Set one of them, or neither.")
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(f"seconds is {self.seconds!r}. Set 0 or more.")
        if self.polls is not None and self.polls < 1:
            raise ValueError(f"polls is {self.polls!r}. Set 1 or more.")


@dataclass(frozen=True)
class Script:
    """
    The steps of a task, in order. The last step never ends.

    :param steps: at least one step.
    :param create: response to an order with this script; the regular one if left out.
    :param media: response to a request for the task's video; the regular one if left out.
    :param actual_duration: length of the video in seconds, if the script sets it.
    :raises ValueError: for an empty script.
    """

    steps: tuple[Step, ...]
    create: Response | None = None
    media: Response | None = None
    actual_duration: float | None = None

    def __post_init__(self) -> None:
        """Convert the steps to a tuple, and reject an empty script."""
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps:
            raise ValueError("steps is empty. Set at least one step.")

    @classmethod
    def timed(
        cls, *, queued: float = 0, processing: float = 0, then: str = "completed", error: str = REJECTED
    ) -> Self:
        """
        Return a script whose steps end by the emulator's clock.

        :param queued: seconds in ``queued``.
        :param processing: seconds in ``processing``.
        :param then: the status after that.
        :param error: text of the field ``error`` if that is ``failed``.
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
        Return a script whose steps last one poll each.

        :param statuses: such as ``"queued", "queued", "completed"``.
        :param response: response to all polls.
        """
        return cls(tuple(Step(status=status, polls=1, response=response) for status in statuses))

    @classmethod
    def by_hand(cls, *statuses: str) -> Self:
        """Return a script whose steps end with ``Emulator.advance``. Default statuses: queued, processing, completed."""
        return cls(tuple(Step(status=status) for status in statuses or STATUSES[:3]))

    @classmethod
    def failing(cls, message: str = REJECTED, *, queued: float = 0, processing: float = 0) -> Self:
        """Return a script that fails with this message, immediately or after some seconds of the emulator's clock."""
        return cls.timed(queued=queued, processing=processing, then="failed", error=message)

    @classmethod
    def always(cls, response: Response | str, *, status: str = "processing") -> Self:
        """
        Return a script with the same response to every poll.

        :param response: a response, or the name of a scenario.
        :param status: status of the regular body that the response changes.
        """
        return cls((Step(status=status, response=as_response(response)),))

    @classmethod
    def recorded(cls, path: str | Path, task_id: str | None = None) -> Script:
        """
        Return a script that plays a task of a record file, which ``doctor --record`` has written.

        Its time starts with the first poll. A response changes in the middle of the two polls that the doctor has seen
        it change between. The last response never ends.

        :param path: path of the file.
        :param task_id: id of the task in the file; it may be left out if there is only one.
        :raises ValueError: if the file is no such record, or has no such task.
        :raises OSError: if it cannot be read.
        """
        scripts = recorded_scripts(path)
        if task_id is None and len(scripts) == 1:
            [task_id] = scripts
        if task_id not in scripts:
            raise unknown("recorded task", task_id, scripts)
        return scripts[task_id]

    @classmethod
    def named(cls, name: str) -> Script:
        """
        Return the script of a scenario.

        :raises ValueError: if the name is unknown, or the scenario has no script.
        """
        return SCRIPTS.find(name)

    def to_json(self) -> dict[str, Any]:
        """Return the script as JSON values."""
        value = {item.name: _encode(getattr(self, item.name)) for item in dataclasses.fields(self)}
        return {name: item for name, item in value.items() if item is not None}

    @classmethod
    def from_json(cls, value: object) -> Script:
        """
        Parse the result of :meth:`to_json`, or the name of a scenario.

        :raises TypeError: if it is neither an object nor a name.
        :raises ValueError: if the name or a field is unknown, or a value is out of range.
        """
        if isinstance(value, str):
            return cls.named(value)
        return from_fields(cls, value, _decode)


def recorded_scripts(path: str | Path) -> dict[str, Script]:
    """Return the scripts of all tasks of a record file by their ids; see :meth:`Script.recorded`."""
    return {task_id: _recorded_script(responses) for task_id, responses in read_record(path).items()}


def _recorded_script(responses: list[RecordedResponse]) -> Script:
    steps = [Step(status=one.status, response=one.response) for one in responses]
    # The first poll starts the time.
    timed, begins = [dataclasses.replace(steps[0], polls=1)], responses[0].at
    for step, one, following in zip(steps, responses, responses[1:], strict=False):
        ends = (one.until + following.at) / 2
        timed.append(dataclasses.replace(step, seconds=ends - begins))
        begins = ends
    durations = [one.actual_duration for one in responses if one.actual_duration]
    return Script((*timed, steps[-1]), actual_duration=durations[-1] if durations else None)


SCRIPTS: Registry[Script] = Registry("script", "Play it with Emulator.outage({name}).")
"""The script of each scenario, by its name."""


def as_response(value: Response | str) -> Response:
    """Return a response unchanged, or find it by the name of its scenario."""
    return Response.named(value) if isinstance(value, str) else value


def as_script(value: Script | str) -> Script:
    """
    Return a script unchanged, or find it by the name of its scenario.

    :raises TypeError: if it is neither.
    """
    if isinstance(value, str):
        return Script.named(value)
    if not isinstance(value, Script):
        raise TypeError(f"script is {value!r}. Set a Script or the name of a scenario.")
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
