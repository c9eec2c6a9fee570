"""The common arguments of both triggers. No I/O happens here."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from airflow_provider_manxue._core.deadline import (
    LEGACY_DEFER_TIMEOUT_MARGIN,
    PollTimes,
    latest_in_trigger,
)
from airflow_provider_manxue._core.polling import PollPolicy

_LEGACY_ARGUMENTS = (
    "poke_interval",
    "started_at",
    "deadline",
    "first_poll_at",
    "exponential_backoff",
    "max_wait",
)
"""The arguments of version 0.1.0. Its triggerer accepts no other ones, so that others are only stored if they differ from
the default."""

_WORKER_ARGUMENTS = ("started_at", "deadline", "first_poll_at", "has_worked")
"""The arguments that only a worker passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitArguments:
    """
    The arguments of a wait in the triggerer, without the connection and the ids. Those may be templates.

    A worker that defers passes the times of the wait. A wait that begins in the triggerer has ``timeout`` and
    ``execution_timeout`` instead: its arguments are part of the Dag and the same for each run, so that its times follow
    from the end of the trigger by Airflow. For the arguments see the triggers.
    """

    poke_interval: float
    started_at: float | None = None
    deadline: float | None = None
    first_poll_at: float | None = None
    exponential_backoff: bool = False
    max_wait: float | None = None
    has_worked: bool = False
    defer_timeout_margin: float = LEGACY_DEFER_TIMEOUT_MARGIN
    timeout: float | None = None
    execution_timeout: float | None = None
    end_from_trigger: bool = False
    do_xcom_push: bool = True

    def to_kwargs(self) -> dict[str, Any]:
        """Return the arguments of a trigger."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {
            name: value
            for name, (value, default) in values.items()
            if name in _LEGACY_ARGUMENTS or value != default
        }

    def to_start_kwargs(self) -> dict[str, Any]:
        """Return the arguments of a trigger that begins a task."""
        names = (field.name for field in fields(self))
        return {name: getattr(self, name) for name in names if name not in _WORKER_ARGUMENTS}

    @property
    def policy(self) -> PollPolicy:
        """The intervals between polls."""
        return PollPolicy(self.poke_interval, self.exponential_backoff, self.max_wait)

    def given_times(self, now: float) -> PollTimes | None:
        """Return the times from a worker for a trigger that starts now; None if the wait begins in the triggerer."""
        if self.started_at is None or self.deadline is None or self.first_poll_at is None:
            return None
        return PollTimes(self.started_at, self.deadline, self.first_poll_at, resumed_at=now)

    def times_from_end(self, now: float, ends_at: float | None) -> PollTimes:
        """
        Return the times of a wait that begins in the triggerer, counted back from its end by Airflow.

        :param now: when the trigger starts. Within one interval of the start, the first poll is due at once.
        :param ends_at: when Airflow ends the trigger: the start plus ``timeout`` and the margin, or plus
            ``execution_timeout`` if that is shorter. None if Airflow does not end it.
        """
        timeout = self.timeout or 0.0
        bound = math.inf if self.execution_timeout is None else self.execution_timeout
        if ends_at is None:
            ends_at = now + timeout + self.defer_timeout_margin
        started_at = ends_at - min(timeout + self.defer_timeout_margin, bound)
        is_new = now <= started_at + self.poke_interval
        first_poll = max(now, started_at) if is_new else started_at
        return PollTimes(started_at, started_at + min(timeout, bound), first_poll, resumed_at=now)

    def gives_up_at(self, times: PollTimes, ends_at: float | None) -> float:
        """
        Return the end of the final polls of the trigger.

        Airflow ends a task that began in the triggerer at ``execution_timeout``, without a margin. A worker polls then.

        :param ends_at: when Airflow ends the trigger; None if it does not.
        """
        if ends_at is None or self.given_times(times.resumed_at) is not None:
            ends_at = times.deadline + self.defer_timeout_margin
        return latest_in_trigger(times.deadline, ends_at, times.resumed_at)
