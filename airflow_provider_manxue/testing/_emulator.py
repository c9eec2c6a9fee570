"""The emulator: the service in a thread of its own, for tests in the same process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing._account import Account
from airflow_provider_manxue.testing._clock import Clock
from airflow_provider_manxue.testing._faults import RANDOM_FAULTS, Faults, RandomFaults, check_target
from airflow_provider_manxue.testing._media import UrlSigner
from airflow_provider_manxue.testing._rate import RateLimit
from airflow_provider_manxue.testing._scenarios import SCENARIOS, SHORT_NAMES
from airflow_provider_manxue.testing._script import REJECTED, Script, Step, as_response, as_script
from airflow_provider_manxue.testing._service import PREFIX, Service

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from airflow_provider_manxue.testing._faults import PlayedFault, Target
    from airflow_provider_manxue.testing._ledger import Ledger
    from airflow_provider_manxue.testing._record import RequestRecord
    from airflow_provider_manxue.testing._response import Response
    from airflow_provider_manxue.testing._server import Server
    from airflow_provider_manxue.testing._tasks import Task
    from airflow_provider_manxue.testing._tls import Authority

_PATIENCE = 10.0


class Emulator:
    """
    A stand-in for the service, on a port of this machine.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. All methods may be called from any
    thread. What it knows stays readable after :meth:`stop`.

    :param host: address to listen on.
    :param port: port to listen on; 0 for a free one.
    :param api_key: the key that clients must send.
    :param tls: serve TLS, with the certificate authority in :attr:`ca_bundle`.
    :param seed: seed of the random faults; made up and logged if left out.
    :param fault_rate: share of the requests that meet a random fault, from 0 to 1.
    :param random_faults: names of the faults to choose from.
    :param rate_limit: requests per second (as many may come at once), or a :class:`RateLimit`.
    :param max_running: how many ordered videos the account runs at once; further orders meet a 429. None for no limit.
    :param balance: seconds of video that the account can pay; further orders are rejected. None for no limit.
    :param url_lifetime: how long the URL of a video is valid, in seconds.
    :param exact_urls: refuse the URL of a video if its percent-encoding was changed on the way.
    :param clock: the clock to use.
    :param default_script: what orders follow: a script, or the name of one.
    :param record_requests: keep a record of each request; switch it off for benchmarks.
    :raises ValueError: for a value that makes no sense.
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
        self.clock = clock or Clock()
        self._host = host
        self._port = port
        self._tls = tls
        self._dice = RandomFaults(seed, fault_rate, random_faults)
        self._faults = Faults(self._dice)
        self._signer = UrlSigner(self.clock, url_lifetime, exact=exact_urls)
        if isinstance(rate_limit, int | float):
            rate_limit = RateLimit(rate=rate_limit, burst=max(1, int(rate_limit)))
        self._service = Service(
            clock=self.clock,
            api_key=_checked_key(api_key),
            faults=self._faults,
            signer=self._signer,
            rate_limit=rate_limit,
            record_requests=record_requests,
            account=Account(max_running, balance),
        )
        if default_script is not None:
            self.default_script = default_script
        self._authority: Authority | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server | None = None

    def start(self) -> Self:
        """
        Begin to listen. Started again after :meth:`stop`, it keeps its port and all it knows.

        :raises RuntimeError: if it runs already.
        :raises OSError: if the port cannot be used.
        :raises ModuleNotFoundError: if the packages of the extra ``testing`` are missing.
        """
        if self._thread is not None:
            raise RuntimeError("the emulator runs already")
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
        except Exception as error:  # noqa: BLE001 - it goes to the thread that waits in start()
            ready.set_exception(error)
            return
        self._stopped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._port = server.port
        self._service.origin = self.url
        ready.set_result(None)
        await self._stopped.wait()
        await server.close()

    async def _listening_server(self) -> Server:
        try:
            from airflow_provider_manxue.testing._control import Control
            from airflow_provider_manxue.testing._server import Server
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the emulator needs the package {error.name}: pip install 'airflow-provider-manxue[testing]'"
            ) from error
        server = Server(
            self._service,
            Control(self),
            host=self._host,
            port=self._port,
            ssl_context=self._authority.context if self._authority else None,
        )
        await server.listen()
        return server

    def stop(self) -> None:
        """Close the port and all connections, also those of requests that hang."""
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
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    @property
    def url(self) -> str:
        """
        The server's own URL, without the service's path prefix.

        :raises RuntimeError: if it was never started.
        """
        if not self._port:
            raise RuntimeError("the emulator has no port yet; call start() first")
        # A wildcard address is for listening only.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self._port}"

    @property
    def base_url(self) -> str:
        """The base URL for clients, as it goes into the connection; without ``/v1``."""
        return self.url + PREFIX

    @property
    def ca_bundle(self) -> str | None:
        """Path of the certificate authority's certificate, while it serves TLS."""
        return str(self._authority.ca_bundle) if self._authority else None

    @property
    def api_key(self) -> str:
        """The valid key. Assigning another one makes the old one invalid at once."""
        return self._service.api_key

    @api_key.setter
    def api_key(self, key: str) -> None:
        self._service.api_key = _checked_key(key)

    def airflow_connection_json(self) -> str:
        """Return the value for ``AIRFLOW_CONN_MANXUE_DEFAULT``."""
        extra = {"ca_bundle": self.ca_bundle} if self.ca_bundle else {}
        connection = {"conn_type": "manxue", "host": self.base_url, "password": self.api_key, "extra": extra}
        return json.dumps(connection)

    def add_task(
        self,
        script: Script | str | None = None,
        *,
        id: str | None = None,  # noqa: A002
        actual_duration: float | None = None,
        model: str = "sd2_manxue_720p",
        size: int | None = None,
    ) -> str:
        """
        Add a task that nobody ordered, so it is not in the ledger.

        :param script: what it does: a script, or the name of one; :attr:`default_script` if left out.
        :param id: its id; a new one if left out.
        :param actual_duration: length of its video in seconds; 5, unless the script says otherwise.
        :param model: name of the model.
        :param size: length of its video in bytes; the natural one (some kilobytes) if left out.
        :returns: the id.
        :raises ValueError: if the id is taken, the script unknown, or the video cannot be made.
        """
        script = self.default_script if script is None else as_script(script)
        task = self._service.add_task(
            script, task_id=id, actual_duration=actual_duration, model=model, size=size
        )
        return task.id

    def set_script(self, task_id: str, script: Script | str) -> None:
        """
        Let a task begin another script now.

        :raises KeyError: if there is no such task.
        """
        script = as_script(script)
        with self._service.lock:
            self._service.task(task_id).follow(script)

    def set_status(self, task_id: str, status: str, *, error: str = REJECTED) -> None:
        """
        Put a task into a status, where it stays.

        :param task_id: the task.
        :param status: queued, processing, completed or failed.
        :param error: the text of the field ``error`` if it is failed.
        :raises KeyError: if there is no such task.
        """
        self.set_script(task_id, Script((Step(status=status, error=error),)))

    def advance(self, task_id: str) -> None:
        """
        End the current step of a task.

        :raises KeyError: if there is no such task.
        """
        with self._service.lock:
            self._service.task(task_id).advance()

    def replace_video(self, task_id: str) -> None:
        """
        Put another video in the place of a task's video, with a new ``ETag``.

        :raises KeyError: if there is no such task.
        """
        with self._service.lock:
            self._service.task(task_id).replace_video()

    def video_url(self, task_id: str) -> str:
        """
        Return a newly signed URL of a task's video.

        :raises KeyError: if there is no such task.
        """
        return self.url + self._signer.sign(self._service.task(task_id).id)

    @property
    def default_script(self) -> Script:
        """What orders follow. Assign a script, or the name of one."""
        return self._service.default_script

    @default_script.setter
    def default_script(self, script: Script | str) -> None:
        self._service.default_script = as_script(script)

    @property
    def tasks(self) -> dict[str, Task]:
        """All tasks by id."""
        return dict(self._service.tasks)

    def task(self, task_id: str) -> Task:
        """
        Return a task.

        :raises KeyError: if there is no such task.
        """
        return self._service.task(task_id)

    @property
    def requests(self) -> list[RequestRecord]:
        """All requests so far, in the order they arrived; without those to the control API."""
        return list(self._service.requests)

    def polls(self, task_id: str) -> list[RequestRecord]:
        """Return the status queries of one task."""
        return [one for one in self.requests if one.place == "query" and one.task_id == task_id]

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._service.requests.clear()

    @property
    def ledger(self) -> Ledger:
        """What was ordered and billed so far."""
        return self._service.ledger

    @property
    def seed(self) -> int:
        """Seed of the random faults."""
        return self._dice.seed

    @property
    def faults_played(self) -> list[PlayedFault]:
        """The random faults so far."""
        return list(self._dice.played)

    def fail_next(self, count: int, response: Response | str, *, on: Target | None = None) -> None:
        """
        Give this response to the next requests, after those that wait already.

        :param count: how many requests.
        :param response: a response, or the name of one in the catalogue; three digits are an HTTP status.
        :param on: which requests: ``query``, ``create``, ``media``, ``api`` (all but media) or ``all``. Left
            out: those that a named response is about, otherwise ``api``.
        :raises ValueError: for an unknown name.
        """
        target = _target(response, on, "api")
        with self._service.lock:
            self._faults.respond_to_next(count, target, as_response(response))

    def respond_with(self, response: Response | str | None, *, on: Target | None = None) -> None:
        """
        Give this response to every request, until it is called with None.

        :param response: a response, the name of one, or None.
        :param on: as in :meth:`fail_next`, otherwise ``all``.
        :raises ValueError: for an unknown name.
        """
        with self._service.lock:
            if response is None and on is None:
                self._faults.respond_regularly()
            else:
                chosen = None if response is None else as_response(response)
                self._faults.respond_to_all(_target(response, on, "all"), chosen)

    @contextlib.contextmanager
    def outage(self, kind: Response | str, *, on: Target | None = None) -> Iterator[None]:
        """
        Play an outage as long as the ``with`` block lasts.

        :param kind: ``refuse`` (the port is closed), ``reset``, ``hang``, ``html``, ``empty``, ``truncated``,
            an HTTP status such as ``503``, any other response of the catalogue, or an :class:`Response`.
        :param on: as in :meth:`respond_with`; not for ``refuse``.
        :raises ValueError: for an unknown kind.
        """
        if kind == "refuse":
            self._run(self._running_server().refuse())
            try:
                yield
            finally:
                # It may have been stopped in the meantime.
                if self._server is not None:
                    self._run(self._server.listen())
            return
        target = _target(kind, on, "all")
        before = self._faults.standing(target)
        self.respond_with(kind, on=target)
        try:
            yield
        finally:
            self.respond_with(before, on=target)

    def clear_faults(self) -> None:
        """End all faults but the random ones."""
        with self._service.lock:
            self._faults.clear()

    async def refuse_for(self, seconds: float) -> None:
        """Close the port now, and open it again by itself. For callers in the emulator's own loop."""
        server = self._running_server()
        await server.refuse()
        await asyncio.sleep(seconds)
        await server.listen()

    def _running_server(self) -> Server:
        if self._server is None:
            raise RuntimeError("the emulator does not run; call start() first")
        return self._server

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the emulator's thread, and wait for it."""
        if self._loop is None:
            raise RuntimeError("the emulator does not run; call start() first")
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)


def _checked_key(key: str) -> str:
    if not key or key != key.strip():
        raise ValueError(f"api_key is {key!r}; give a key without spaces around it")
    return key


def _target(response: Response | str | None, on: str | None, otherwise: Target) -> Target:
    """Return which requests a response is for."""
    if on is not None:
        return check_target(on)
    if isinstance(response, str):
        variation = SCENARIOS.get(SHORT_NAMES.get(response, response))
        if variation is not None and variation.place in ("create", "media"):
            return check_target(variation.place)
    return otherwise
