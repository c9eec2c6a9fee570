"""The endpoint of a connection: its settings, and an HTTP session that was set up from them."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_manxue._client.background import spawn_background

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import ClientSession, ClientTimeout
    from yarl import URL

    from airflow_provider_manxue.models import ManxueSettings


class Session:
    """
    HTTP session that closes once it is retired and its last request has ended.

    :param client: the session of the HTTP library.
    :param key: identifies the settings and files that it was set up from.
    """

    __slots__ = ("_closing", "client", "in_flight", "key", "retired")

    def __init__(self, client: ClientSession, key: tuple[object, ...]) -> None:
        self.client = client
        self.key = key
        self.in_flight = 0
        self.retired = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the session has finished closing."""
        return self._closing is not None and self._closing.done()

    def retire(self) -> None:
        """Mark the session as replaced."""
        self.retired = True
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """Close the session in the background if it is retired and nothing is in flight."""
        if self.retired and not self.in_flight and self._closing is None:
            self._closing = spawn_background(self.client.close())

    async def close(self) -> None:
        """Close the session, requests in flight included."""
        if self._closing is None:
            self._closing = spawn_background(self.client.close())
        await asyncio.gather(self._closing, return_exceptions=True)


@dataclass(slots=True, eq=False)
class Endpoint:
    """
    Prepared parts of each request over a connection.

    :param settings: the connection.
    :param session: the session set up from it.
    :param headers: headers of each request besides those of the session: the API key.
    :param proxy: the proxy, if one is used.
    :param timeout: the request timeout in the HTTP library's form.
    :param has_worked: whether a response was parsed as a task.
    :param key_refused: whether the last response was a 401.
    """

    settings: ManxueSettings
    session: Session
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    proxy: URL | None = dataclasses.field(repr=False)
    timeout: ClientTimeout
    has_worked: bool = False
    key_refused: bool = False
