"""The limits of an account: how many videos it runs at once, and what it can pay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_manxue.testing._tasks import Task


@dataclass(frozen=True)
class Account:
    """
    The limits of an account. What the service does at a limit is not known; both responses are assumed.

    :param max_running: how many ordered videos run at once; None for no limit.
    :param balance: seconds of video that it can pay in all; None for no limit.
    :raises ValueError: for a limit that makes no sense.
    """

    max_running: int | None = None
    balance: int | None = None

    def __post_init__(self) -> None:
        if self.max_running is not None and self.max_running < 0:
            raise ValueError(f"max_running is {self.max_running}; give 0 or more, or None")
        if self.balance is not None and self.balance < 0:
            raise ValueError(f"balance is {self.balance}; give 0 or more seconds, or None")

    def objection(self, ordered: Iterable[Task], billed: int, seconds: int) -> tuple[int, str] | None:
        """
        Return the HTTP status and the text that turn an order away; None to accept it.

        :param ordered: the videos that were ordered so far.
        :param billed: seconds of video that were billed so far.
        :param seconds: length of the video that is ordered now.
        """
        if self.balance is not None and billed + seconds > self.balance:
            return 402, f"the balance pays {max(0, self.balance - billed)} s of video"
        if self.max_running is None:
            return None
        running = sum(task.status in {"queued", "processing"} for task in ordered)
        return (429, f"{running} videos are running") if running >= self.max_running else None


NO_LIMITS = Account()
"""An account that runs and pays any number of videos."""
