"""The service without a socket: the state, and the reply to each request."""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from typing import TYPE_CHECKING
from urllib.parse import unquote

from airflow_provider_manxue.testing import _orders
from airflow_provider_manxue.testing._account import NO_LIMITS, Account
from airflow_provider_manxue.testing._assets import Review
from airflow_provider_manxue.testing._ledger import Ledger, Order
from airflow_provider_manxue.testing._media import entity_tag, last_modified, wanted_range
from airflow_provider_manxue.testing._rate import TokenBucket
from airflow_provider_manxue.testing._record import RequestRecord
from airflow_provider_manxue.testing._reply import Reply, VideoPart
from airflow_provider_manxue.testing._response import Response, retry_after
from airflow_provider_manxue.testing._script import Script
from airflow_provider_manxue.testing._tasks import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_manxue.testing._clock import Clock
    from airflow_provider_manxue.testing._faults import Faults
    from airflow_provider_manxue.testing._media import UrlSigner
    from airflow_provider_manxue.testing._progress import Scripted
    from airflow_provider_manxue.testing._rate import RateLimit
    from airflow_provider_manxue.testing._record import Place

log = logging.getLogger(__name__)

PREFIX = "/kyyReactApiServer"
_QUERY = re.compile(re.escape(f"{PREFIX}/v1/result/") + "([^/]+)")
_CREATE = f"{PREFIX}/v1/sd2_manxue/videos"
_POSTS: dict[str, Place] = {
    _CREATE: "create",
    f"{PREFIX}/asset/sd2Manxue/assetUpload": "upload",
    f"{PREFIX}/asset/sd2Manxue/assetStatus": "asset_status",
}
_MEDIA = re.compile(r"/media/([^/]+)\.mp4")
_GUESS = " (the emulator's guess: the real text is not known)"


class Service:
    """
    The state of the service, and the regular reply to each request.

    All public methods may be called from any thread.

    :param clock: the emulator's clock.
    :param api_key: the valid key.
    :param faults: faults that requests meet.
    :param signer: signer of video URLs.
    :param rate_limit: limit of requests with a valid key; None for no limit.
    :param record_requests: record each request.
    :param account: the limits of the account.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        api_key: str,
        faults: Faults,
        signer: UrlSigner,
        rate_limit: RateLimit | None,
        record_requests: bool,
        account: Account = NO_LIMITS,
    ) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.faults = faults
        self.origin = ""
        self.default_script = Script.timed(queued=2, processing=8)
        self.tasks: dict[str, Task] = {}
        self.requests: list[RequestRecord] = []
        self.orders: list[Order] = []
        self.review = Review(clock)
        self._account = account
        self.signer = signer
        self._bucket = TokenBucket(rate_limit, clock) if rate_limit else None
        self._record_requests = record_requests
        self._arrived = 0
        self._ids = 0
        self._keys = [_checked_key(api_key)]

    @property
    def api_key(self) -> str:
        """The valid API key. Assign a new key to rotate it; the old key is rejected from then on."""
        return self._keys[-1]

    @api_key.setter
    def api_key(self, key: str) -> None:
        _checked_key(key)
        with self.lock:
            self._keys = [known for known in self._keys if known != key] + [key]

    @property
    def ledger(self) -> Ledger:
        """The orders and uploads so far."""
        return Ledger(tuple(self.orders), tuple(self.review.uploads))

    def add_task(
        self,
        script: Script,
        *,
        task_id: str | None,
        actual_duration: float | None,
        model: str,
        size: int | None,
    ) -> Task:
        """
        Add a task, by default with a new id, and with the duration of the script or 5 s.

        :raises ValueError: if the id exists already, or the video cannot be made.
        """
        if actual_duration is None:
            actual_duration = 5.0 if script.actual_duration is None else script.actual_duration
        with self.lock:
            task = Task(
                self._new_id(task_id or "proj_sd2manxue_{n}"),
                clock=self.clock,
                script=script,
                model=model,
                actual_duration=actual_duration,
                size=size,
            )
            # Rejects an impossible size now instead of at the download.
            task.video  # noqa: B018
            self.tasks[task.id] = task
        return task

    def _new_id(self, pattern: str) -> str:
        self._ids += 1
        task_id = pattern.replace("{n}", str(self._ids)).replace("{uuid}", str(uuid.uuid4()))
        if task_id in self.tasks:
            raise ValueError(f"Task {task_id!r} exists already. Set another id.")
        return task_id

    def task(self, task_id: str) -> Task:
        """
        Return a task.

        :raises KeyError: if there is no such task.
        """
        try:
            return self.tasks[task_id]
        except KeyError:
            raise KeyError(f"Task {task_id!r} does not exist. Add it with add_task(id=...).") from None

    def scripted(self, item_id: str) -> Scripted:
        """
        Return a task or an asset.

        :raises KeyError: if there is neither.
        """
        return self.review.assets[item_id] if item_id in self.review.assets else self.task(item_id)

    def arrive(
        self, method: str, raw_path: str, headers: Mapping[str, str], connection_id: int
    ) -> tuple[RequestRecord, Response | None]:
        """Record a request, and return the record and the fault that the request meets, if any."""
        path = raw_path.partition("?")[0]
        place, task_id = _route(method, path)
        authorization = headers.get("Authorization", "")
        with self.lock:
            self._arrived += 1
            record = RequestRecord(
                number=self._arrived,
                time=self.clock.now(),
                monotonic=time.monotonic(),
                method=method,
                path=unquote(path),
                raw_path=raw_path,
                headers=headers,
                connection_id=connection_id,
                place=place,
                task_id=task_id,
                authorized=authorization == f"Bearer {self.api_key}",
                carries_key=bool(authorization) or self._key_in(raw_path, *headers.values()),
            )
            if self._record_requests:
                self.requests.append(record)
            return record, self.faults.meet(record)

    def _key_in(self, *texts: str) -> bool:
        return any(key in text for key in self._keys for text in texts)

    def reply(self, record: RequestRecord, fault: Response | None) -> tuple[Reply, Response | None]:
        """Return the reply to a request, and the fault or scripted response that changed it, if any."""
        if fault is not None and not fault.acted_upon:
            return Reply(fault.status or 200).changed_by(fault), fault
        with self.lock:
            regular, scripted = self._act(record, fault)
        response = fault or scripted
        return (regular, None) if response is None else (regular.changed_by(response), response)

    def _act(self, record: RequestRecord, fault: Response | None) -> tuple[Reply, Response | None]:
        """Process a request; return the regular reply, and the response of the task's script, if any."""
        if record.place == "media":
            return self._send_video(record, fault)
        if record.place == "unknown":
            return _not_emulated(record), None
        refusal = self._refusal(record)
        if refusal is not None:
            return refusal, None
        if record.place == "query":
            return self._query(record)
        try:
            if record.place == "create":
                return self._create(record, fault)
            if record.place == "upload":
                return self.review.upload(record.body or b"", record.time, fault), None
            ids, reply, scripted = self.review.query(record.body or b"")
        except ValueError as error:
            return _error(400, str(error) + _GUESS), None
        record.task_id = ids[0]
        return reply, scripted

    def _refusal(self, record: RequestRecord) -> Reply | None:
        """Return the reply for a wrong key or an exceeded rate limit, if any."""
        if not record.authorized:
            return _error(401, "invalid API key" + _GUESS)
        wait = self._bucket.take() if self._bucket else 0.0
        if self._bucket and wait:
            reply = _error(429, "too many requests" + _GUESS)
            reply.headers["Retry-After"] = retry_after(wait, self._bucket.limit.retry_after)
            return reply
        return None

    def _query(self, record: RequestRecord) -> tuple[Reply, Response | None]:
        task = self.tasks.get(record.task_id or "")
        if task is None:
            return _error(404, f"no task {record.task_id!r}" + _GUESS), None
        step = task.poll()
        # Each poll gets a newly signed URL.
        video_url = self.origin + self.signer.sign(task.id) if step.status == "completed" else ""
        return Reply(200, task.body(step, video_url)), step.response

    def _create(self, record: RequestRecord, fault: Response | None) -> tuple[Reply, Response | None]:
        order = _orders.read(record.body or b"")
        seconds = order.get("duration", _orders.DEFAULT_DURATION)
        if self._account != NO_LIMITS:
            ordered = (self.tasks[placed.id] for placed in self.orders)
            objection = self._account.objection(ordered, self.ledger.units, seconds)
            if objection is not None:
                return _error(objection[0], objection[1] + _GUESS), None
        scripted = self.default_script.create
        if fault is None and scripted is not None and not scripted.acted_upon:
            return Reply(200), scripted
        response = fault or scripted or Response()
        is_rejected = fault is not None and not fault.bills
        script = Script.failing() if is_rejected else self.default_script
        if (problem := self.review.objection(order)) is not None:
            script = Script.failing(problem)
        task = self.add_task(
            script,
            task_id=response.order_id,
            actual_duration=float(seconds) if script.actual_duration is None else None,
            model=order["model"],
            size=None,
        )
        record.task_id = task.id
        self.orders.append(Order(task.id, record.time, order, billed=response.bills, units=seconds))
        body = {"id": task.id, "object": "video", "created": task.created, "model": task.model}
        return Reply(200, {**body, "status": "queued", "video_url": None, "error": None}), scripted

    def _send_video(self, record: RequestRecord, fault: Response | None) -> tuple[Reply, Response | None]:
        objection = self.signer.objection(record.raw_path)
        if objection is not None:
            return _error(403, objection + _GUESS), None
        task = self.tasks.get(record.task_id or "")
        if task is None:
            return _error(404, "no such video" + _GUESS), None
        scripted = task.script.media
        response = fault or scripted or Response()
        reply = _video_reply(record.headers, task, ignore_range=response.ignore_range)
        if response.then_replace:
            task.replace_video()
        return reply, scripted


def _checked_key(key: str) -> str:
    if not key or key != key.strip():
        raise ValueError(f"api_key is {key!r}. Set a key without whitespace around it.")
    return key


def _route(method: str, path: str) -> tuple[Place, str | None]:
    """Return the endpoint of a request and its task id. The path is percent-encoded."""
    if method == "POST" and path in _POSTS:
        return _POSTS[path], None
    routes: tuple[tuple[Place, re.Pattern[str], tuple[str, ...]], ...] = (
        ("query", _QUERY, ("GET",)),
        ("media", _MEDIA, ("GET", "HEAD")),
    )
    for place, pattern, methods in routes:
        match = pattern.fullmatch(path)
        if match and method in methods:
            return place, unquote(match[1])
    return "unknown", None


def _error(status: int, text: str) -> Reply:
    return Reply.assumed(status, {"code": status, "data": None, "msg": text})


def _not_emulated(record: RequestRecord) -> Reply:
    text = (
        f"{record.method} {record.raw_path} is not part of the emulated service."
        f" Use GET {PREFIX}/v1/result/{{id}} (the id percent-encoded), POST {', POST '.join(_POSTS)},"
        " GET and HEAD /media/{id}.mp4, or the control API under /_emulator/."
    )
    log.error("Request rejected with 501: %s", text)
    return Reply.assumed(501, {"error": text})


def _video_reply(headers: Mapping[str, str], task: Task, *, ignore_range: bool) -> Reply:
    """Return the reply with the video, or with the requested part of it."""
    video = task.video
    sent = {
        "Content-Type": "video/mp4",
        "Accept-Ranges": "bytes",
        "ETag": entity_tag(task),
        "Last-Modified": last_modified(task),
    }
    try:
        part = None if ignore_range else wanted_range(headers, task, video.size)
    except ValueError as error:
        return Reply(416, content=b"", headers={**sent, "Content-Range": str(error)})
    if part is None:
        return Reply(200, content=VideoPart(video, 0, video.size), headers=sent)
    sent["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{video.size}"
    return Reply(206, content=VideoPart(video, *part), headers=sent)
