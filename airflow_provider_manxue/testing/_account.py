"""The limits of an account: running videos and balance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_manxue.testing._tasks import Task


@dataclass(frozen=True)
class Account:
    """
    The limits of an account. The real responses at a limit are unknown; both are assumed.

    :param max_running: maximum of ordered videos that run at the same time; None for no limit.
    :param balance: seconds of video that the account can pay in total; None for no limit.
    :raises ValueError: for a negative limit.
    """

    max_running: int | None = None
    balance: int | None = None

    def __post_init__(self) -> None:
        if self.max_running is not None and self.max_running < 0:
            raise ValueError(f"max_running is {self.max_running}. Set 0 or more, or None.")
        if self.balance is not None and self.balance < 0:
            raise ValueError(f"balance is {self.balance}. Set 0 or more seconds, or None.")

    def objection(self, ordered: Iterable[Task], billed: int, seconds: int) -> tuple[int, str] | None:
        """
        Return HTTP status and text of a rejection, or None to accept an order.

        :param ordered: tasks of the orders so far.
        :param billed: seconds of video that were billed so far.
        :param seconds: length of the new video.
        """
        if self.balance is not None and billed + seconds > self.balance:
            return 402, f"the balance pays {max(0, self.balance - billed)} s of video"
        if self.max_running is None:
            return None
        running = sum(task.status in {"queued", "processing"} for task in ordered)
        return (429, f"{running} videos are running") if running >= self.max_running else None


NO_LIMITS = Account()
"""An account without limits."""
