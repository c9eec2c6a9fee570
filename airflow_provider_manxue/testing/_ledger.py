"""The orders that the service accepted, and which of them were billed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Order:
    """
    An accepted order.

    :param id: id of its task.
    :param time: time of the order, in Unix seconds of the emulator's clock.
    :param request: the JSON body of the create call.
    :param billed: whether it costs money.
    :param units: ordered length of the video in seconds. There is no price, since real prices are unknown.
    """

    id: str
    time: float
    request: dict[str, Any]
    billed: bool
    units: int


@dataclass(frozen=True)
class Ledger:
    """A snapshot of the orders, oldest first."""

    orders: tuple[Order, ...] = ()

    @property
    def billed(self) -> int:
        """Number of orders that were billed."""
        return sum(order.billed for order in self.orders)

    @property
    def units(self) -> int:
        """Seconds of video that were billed."""
        return sum(order.units for order in self.orders if order.billed)
