"""The emulator: the service on a socket, in its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing._account import Account
from airflow_provider_manxue.testing._base import BaseEmulator
from airflow_provider_manxue.testing._clock import Clock
from airflow_provider_manxue.testing._faults import RANDOM_FAULTS, Faults, RandomFaults
from airflow_provider_manxue.testing._media import UrlSigner
from airflow_provider_manxue.testing._rate import RateLimit
from airflow_provider_manxue.testing._service import Service

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from airflow_provider_manxue.testing._faults import Target
    from airflow_provider_manxue.testing._response import Response
    from airflow_provider_manxue.testing._script import Script
    from airflow_provider_manxue.testing._server import Server
    from airflow_provider_manxue.testing._tls import Authority

_THREAD_TIMEOUT = 10.0
"""Timeout in seconds of a call into the emulator's thread."""


class Emulator(BaseEmulator):
    """
    An emulator of the service, on a port of this machine.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. All methods may be called from any
    thread. Tasks, requests and the ledger stay readable after :meth:`stop`.

    :param host: address to listen on.
    :param port: port to listen on; 0 for a free one.
    :param api_key: the valid API key.
    :param tls: serve TLS, with the certificate authority in :attr:`ca_bundle`.
    :param seed: seed of the random faults; generated and logged if left out.
    :param fault_rate: share of the requests that meet a random fault, from 0 to 1.
    :param random_faults: names of the random faults' scenarios.
    :param rate_limit: requests per second (the burst has the same size), or a :class:`RateLimit`.
    :param max_running: ordered videos that the account runs at the same time; more orders get a 429. None for no
        limit.
    :param balance: seconds of video that the account can pay; more orders get a 402. None for no limit.
    :param url_lifetime: seconds from the signing of a video URL to its expiry.
    :param exact_urls: reject a video URL if its percent-encoding was changed.
    :param clock: the clock of the service.
    :param default_script: script of each order, or its name.
    :param record_requests: record each request; switch it off for benchmarks.
    :raises ValueError: for a value out of range, or an unknown name.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = "emulator-key",
        tls: bool = False,
        seed: int | None = None,
        fault_rate: float = 0.0,
        random_faults: Sequence[str] = RANDOM_FAULTS,
        rate_limit: float | RateLimit | None = None,
        max_running: int | None = None,
        balance: int | None = None,
        url_lifetime: float = 86400.0,
        exact_urls: bool = False,
        clock: Clock | None = None,
        default_script: Script | str | None = None,
        record_requests: bool = True,
    ) -> None:
        clock = clock or Clock()
        if isinstance(rate_limit, int | float):
            rate_limit = RateLimit(rate=rate_limit, burst=max(1, int(rate_limit)))
        super().__init__(
            Service(
                clock=clock,
                api_key=api_key,
                faults=Faults(RandomFaults(seed, fault_rate, random_faults)),
                signer=UrlSigner(clock, url_lifetime, exact=exact_urls),
                rate_limit=rate_limit,
                record_requests=record_requests,
                account=Account(max_running, balance),
            )
        )
        if default_script is not None:
            self.default_script = default_script
        self._host = host
        self._tls = tls
        self._set_port(port)
        self._authority: Authority | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server | None = None

    def _set_port(self, port: int) -> None:
        self._port = port
        if port:
            # Clients cannot connect to a wildcard address.
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104
            authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self._service.origin = f"{'https' if self._tls else 'http'}://{authority}"

    def start(self) -> Self:
        """
        Start to listen. A restart after :meth:`stop` keeps the port and all state.

        :raises RuntimeError: if the emulator is running.
        :raises OSError: if the port cannot be opened.
        :raises ModuleNotFoundError: if a package of the extra ``testing`` is missing.
        """
        if self._thread is not None:
            raise RuntimeError("The emulator is already running. Call stop() before a second start().")
        if self._tls:
            from airflow_provider_manxue.testing._tls import Authority

            self._authority = Authority(self._host)
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="manxue-emulator", daemon=True
        )
        self._thread.start()
        try:
            ready.result()
        except Exception:
            self._clean_up()
            raise
        return self

    async def _serve(self, ready: Future[None]) -> None:
        try:
            server = await self._listening_server()
        except Exception as error:  # noqa: BLE001 - raised in start() by the calling thread
            ready.set_exception(error)
            return
        self._stopped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._set_port(server.port)
        ready.set_result(None)
        await self._stopped.wait()
        await server.close()

    async def _listening_server(self) -> Server:
        try:
            from airflow_provider_manxue.testing._control import Control
            from airflow_provider_manxue.testing._server import Server
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"The emulator could not start: package {error.name} is missing."
                " Install it with: pip install 'airflow-provider-manxue[testing]'"
            ) from error
        server = Server(
            self._service,
            Control(self, self.refuse_for),
            host=self._host,
            port=self._port,
            ssl_context=self._authority.context if self._authority else None,
        )
        await server.listen()
        return server

    def stop(self) -> None:
        """Close the port and all connections, including those with a hanging response."""
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._clean_up()

    def _clean_up(self) -> None:
        if self._thread is not None:
            self._thread.join()
        if self._authority is not None:
            self._authority.close()
        self._thread = self._loop = self._server = self._authority = None

    def __enter__(self) -> Self:
        """Start the emulator."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the emulator."""
        self.stop()

    @property
    def ca_bundle(self) -> str | None:
        """Path of the certificate authority's certificate, while the emulator serves TLS."""
        return str(self._authority.ca_bundle) if self._authority else None

    @contextlib.contextmanager
    def outage(self, kind: Response | str, *, on: Target | None = None) -> Iterator[None]:
        """
        Emulate an outage during the ``with`` block.

        :param kind: ``refuse`` (the port is closed), ``reset``, ``hang``, ``html``, ``empty``, ``truncated``,
            an HTTP status such as ``503``, the name of a scenario, or a :class:`Response`.
        :param on: as in :meth:`respond_with`; ignored for ``refuse``.
        :raises ValueError: for an unknown name or target.
        """
        if kind != "refuse":
            with super().outage(kind, on=on):
                yield
            return
        self._run(self._running_server().refuse())
        try:
            yield
        finally:
            # Unless the emulator was stopped during the block.
            if self._server is not None:
                self._run(self._server.listen())

    async def refuse_for(self, seconds: float) -> None:
        """Close the port for some real seconds. Call it from the emulator's event loop."""
        server = self._running_server()
        await server.refuse()
        await asyncio.sleep(seconds)
        await server.listen()

    def _running_server(self) -> Server:
        if self._server is None:
            raise RuntimeError("The emulator is not running. Call start() first.")
        return self._server

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the emulator's thread, and wait for its end."""
        if self._loop is None:
            raise RuntimeError("The emulator is not running. Call start() first.")
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_THREAD_TIMEOUT)
