"""The reports of a driver about its wait: log lines of the engine, and unexpected exceptions."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.exceptions import ManxueInternalError

if TYPE_CHECKING:
    from airflow_provider_manxue._core.poller import Poller


def frames_of(error: BaseException) -> str:
    """Return the stack frames of an exception, without its message, which may hold a header or a URL."""
    frames = traceback.extract_tb(error.__traceback__)
    return "; ".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-12:])


class WaitReporter:
    """Log of a wait, and conversion of unexpected exceptions into ``ManxueInternalError``."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._reported: set[str] = set()

    def write_lines(self, poller: Poller, now: float) -> None:
        for line in poller.pop_lines(now):
            self._log.log(line.level, "%s", line.text)

    def unexpected(self, error: BaseException) -> ManxueInternalError:
        """
        Log an unexpected exception, once for each kind, and return the error for it.

        Neither its message nor its cause is logged: those of HTTP libraries hold headers and URLs.
        """
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        if kind not in self._reported:
            self._reported.add(kind)
            self._log.error("Unexpected %s while polling, at: %s", kind, frames_of(error))
        return ManxueInternalError(f"unexpected {kind} while polling; report its frames in the task log")
