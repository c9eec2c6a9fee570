"""The orders and uploads that the service accepted, and which of them were billed."""

from __future__ import annotations

from collections import Counter
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
class Upload:
    """
    An accepted upload of assets.

    :param asset_ids: ids of the assets, without those of files that were refused.
    :param time: time of the upload, in Unix seconds of the emulator's clock.
    :param request: the JSON body of the call.
    :param billed: whether it costs money. Whether the real service bills uploads is unknown.
    """

    asset_ids: tuple[str, ...]
    time: float
    request: dict[str, Any]
    billed: bool = True


@dataclass(frozen=True)
class Ledger:
    """A snapshot of the orders and the uploads, oldest first."""

    orders: tuple[Order, ...] = ()
    uploads: tuple[Upload, ...] = ()

    @property
    def billed(self) -> int:
        """Number of orders that were billed."""
        return sum(order.billed for order in self.orders)

    @property
    def units(self) -> int:
        """Seconds of video that were billed."""
        return sum(order.units for order in self.orders if order.billed)

    @property
    def uploaded_twice(self) -> list[str]:
        """URLs of the files that more than one request has uploaded."""
        counts = Counter(
            url
            for upload in self.uploads
            for url in {url for urls in upload.request.values() if isinstance(urls, list) for url in urls}
        )
        return sorted(url for url, count in counts.items() if count > 1)
