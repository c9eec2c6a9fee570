"""What was ordered, and what of it was billed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Order:
    """
    One create call that the service accepted.

    :param id: id of the task that was created.
    :param time: when, in Unix seconds of the emulator's clock.
    :param request: the JSON body of the create call.
    :param billed: whether it costs money.
    :param units: the ordered length of the video in seconds. Real prices are not known, so there are none.
    """

    id: str
    time: float
    request: dict[str, Any]
    billed: bool
    units: int


@dataclass(frozen=True)
class Ledger:
    """The orders so far, oldest first: a snapshot, taken when it was asked for."""

    orders: tuple[Order, ...] = ()

    @property
    def billed(self) -> int:
        """Number of orders that were billed."""
        return sum(order.billed for order in self.orders)

    @property
    def units(self) -> int:
        """Seconds of video that were billed."""
        return sum(order.units for order in self.orders if order.billed)
