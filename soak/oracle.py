"""The oracle: knows what was true in a schedule, and says which invariants its outcome breaks."""

from __future__ import annotations

import itertools
import json
from operator import sub
from urllib.parse import quote

from airflow.providers.common.compat.sdk import AirflowSkipException, AirflowTaskTimeout

from airflow_provider_manxue._client.async_client import TURNED_AWAY_PAUSE, TURNED_AWAY_TRIES
from airflow_provider_manxue._client.rate_limiter import MIN_RATE
from airflow_provider_manxue._core.polling import GRACE_TIME, MIN_INTERVAL
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueError,
    ManxueMediaTypeError,
    ManxueOrderError,
    ManxueOrderNotSentError,
    ManxueOrderRefusedError,
    ManxueOrderUnknownError,
    ManxuePermissionError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTimeoutError,
    ManxueVideoFailedError,
)
from airflow_provider_manxue.order_record import KEY
from soak.deployment import Killed, Returned
from soak.plan import PASSING, Video

EPSILON = 0.01
"""Seconds that do not count: times since the epoch are no finer than a part of a microsecond."""

CAUSES = {
    ManxueAuthenticationError: {401},
    ManxuePermissionError: {403},
    ManxueRedirectError: {302},
    ManxueRefusedError: {404, 200, 400},
    ManxueResultMissingError: {200},
    ManxueMediaTypeError: {200},
}
"""What the service must have answered for a wait to end with an error."""


def findings(world, schedule, instances, left):
    """Return what is wrong; ``left`` is what the schedule has left on the loop."""
    found = list(world.findings)
    if left:
        found.append(f"left over: {left}")
    if world.transports or not all(session.closed for session in world.sessions):
        found.append("a session was left open")
    for instance in instances:
        found += [f"{instance.task_id}: {text}" for text in _Judgement(world, schedule, instance).findings()]
    return [*found, *_secrets(world, instances), *_pace(world, schedule)]


class _Judgement:
    """Judges one task instance."""

    def __init__(self, world, schedule, instance):
        self.world, self.schedule, self.instance, self.plan = world, schedule, instance, instance.plan
        self.orders = [
            order for order in world.wire.service.orders if order.request["prompt"] == instance.task_id
        ]
        self.videos = dict(instance.videos)
        self.begins = dict.fromkeys(self.videos, 0.0)
        for order in self.orders:
            fails_at_once = self.plan.on_create == "create_answers_failed"
            self.videos[order.id] = Video(0.0, completes=False) if fails_at_once else self.plan.videos[0]
            self.begins[order.id] = order.time - world.clock.now() + world.loop.time()
        self.asked = [exchange for exchange in world.wire.exchanges if exchange.task_id in self.videos]

    def findings(self):
        for attempt in self.instance.attempts:
            yield from self._end(attempt)
        if self.instance.state == "success":
            yield from self._handed_over(self.instance.attempts[-1])
        if self.plan.kind == "order":
            yield from self._money()
        yield from self._manners()

    # --- how a try has ended --------------------------------------------------------------------------------

    def _end(self, attempt):
        result = attempt.result
        if isinstance(result, Killed):
            return
        if isinstance(result, Returned):
            yield from self._success(attempt)
            return
        if isinstance(result, AirflowSkipException):
            result = result.__cause__
            yield from self._skip(result)
        if isinstance(result, (ManxueTimeoutError, AirflowTaskTimeout)):
            yield from self._timeout(attempt, result)
        elif isinstance(result, ManxueVideoFailedError):
            yield from self._failed_video(attempt)
        elif isinstance(result, ManxueError):
            yield from self._error(attempt, result)
        elif not (isinstance(result, RuntimeError) and self.plan.store_fails_at):
            yield f"ended with {result!r}"

    def _skip(self, error):
        if not (self.plan.never_fail or self.plan.soft_fail):
            yield f"skipped although nobody wants it: {error}"
        elif not self.plan.never_fail and not _may_be_skipped(error):
            yield f"soft_fail has skipped {error!r}"

    def _failed_video(self, attempt):
        has_failed = any(self._is_over(video, attempt.ended_at, completes=False) for video in self.videos)
        # A batch says the same of an id that belongs to no video.
        is_no_video = self.plan.kind == "batch" and any(b"image.gen" in one.body for one in self.asked)
        if not has_failed and not is_no_video:
            yield "failed as if its video had"

    def _is_over(self, video, at, *, completes):
        truth = self.videos[video]
        return truth.completes is completes and self.begins[video] + truth.seconds <= at + EPSILON

    def _success(self, attempt):
        if self.plan.kind == "batch" and self.plan.tolerate:
            return
        if not self.plan.waits:
            return
        ids = (
            [attempt.result.value["id"]]
            if isinstance(attempt.result.value, dict)
            else list(self.instance.videos)
        )
        for video in ids:
            if video not in self.videos or not self._is_over(video, attempt.ended_at, completes=True):
                yield f"false success for {video}"

    def _timeout(self, attempt, error):
        if isinstance(error, AirflowTaskTimeout) and str(error) in {"interrupted", "execution_timeout"}:
            return
        waits_since = attempt.waits_since if self.plan.kind == "order" else attempt.begun_at
        clock = self.world.clock
        patience = self.plan.patience + (GRACE_TIME if attempt.has_seen_the_end else 0.0)
        wall_deadline = clock.at(waits_since) + self.plan.patience
        deadline = waits_since + patience
        at, steps = attempt.decided_at, self.schedule.steps
        # Airflow's own timeout of the trigger may strike while its clock is ahead for a moment.
        latest_shown = max(
            clock.at(at), *(clock.before(moment) for moment, _ in steps if waits_since < moment <= at), 0.0
        )
        if at < waits_since + self.plan.patience - EPSILON and latest_shown < wall_deadline - EPSILON:
            yield f"timed out {waits_since + self.plan.patience - at:.3f} s early"
        if steps:
            return
        late = at - max(deadline, attempt.decider_since)
        slack = 1 + self._request_timeout(attempt, waits_since + self.plan.patience)
        # A batch that is read on a worker in the end is read as a whole, as fast as the service lets it.
        reads_all = self._leaves_workers and attempt.decided_on_worker
        if self.plan.mode != "reschedule" and not reads_all and late > slack + EPSILON:
            yield f"timed out {late:.3f} s late"
        if self._must_have_seen_the_end(waits_since + self.plan.patience, waits_since):
            yield f"timed out although the video was over long before: {error}"

    def _request_timeout(self, attempt, deadline):
        late_look = 10.0 if attempt.decider_since > deadline else 0.0
        return max(self.schedule.extra["request_timeout"], late_look)

    def _must_have_seen_the_end(self, deadline, since):
        """Return whether all was well, and all videos over, for so long that any wait must have noticed."""
        if self.schedule.rate_limit or self.schedule.fault_rate or self.instance.lost_workers:
            return False
        times = [since, *(end for _, end, _, _ in self.schedule.windows), *(self.schedule.rotation or ())]
        times += [end + 60 for triggerer in self.schedule.absences for _, end, _ in triggerer]
        times += [self.begins[video] + truth.seconds for video, truth in self.videos.items()]
        plan = self.plan
        longest = plan.interval + (plan.patience if plan.backoff else 0.0)
        if self.schedule.windows:
            longest = max(longest, 300.0)
        longest = min(longest, plan.max_wait or longest)
        if any(answer is PASSING["http_429_day"] for *_, answer in self.schedule.windows):
            longest += 900.0
        return deadline - max(times) > 1.2 * longest + 60.0

    def _error(self, attempt, error):
        if isinstance(error, (ManxueOrderError, ManxueOrderNotSentError)):
            if self.plan.kind != "order":
                yield f"a wait ended with {error!r}"
            return
        kinds = [kind for kind in CAUSES if type(error) is kind]
        if not kinds:
            if self.plan.kind != "batch":
                yield f"ended with {error!r}"
            return
        seen = {
            exchange.status
            for exchange in self.asked
            if exchange.ended_at is None or exchange.ended_at <= attempt.ended_at + EPSILON
        }
        if not seen & CAUSES[kinds[0]]:
            yield f"ended with {error!r}, and the service has answered {seen}"
        if type(error) in {ManxueRefusedError, ManxueResultMissingError} and not self.schedule.steps:
            first = min(attempt.begun_at, attempt.waits_since or attempt.begun_at)
            if attempt.ended_at < first + GRACE_TIME - EPSILON:
                yield f"ended within the time of grace with {error!r}"

    # --- what it hands over ---------------------------------------------------------------------------------

    def _handed_over(self, attempt):
        instance, plan = self.instance, self.plan
        if not plan.do_xcom_push:
            if instance.xcom:
                yield f"pushed {list(instance.xcom)}"
            return
        pushed = [key for number, key, _ in instance.all_xcoms if number == attempt.number]
        cut_off = any(is_cut for triggerer in self.schedule.absences for *_, is_cut in triggerer)
        # A triggerer that is gone before it has told the end leaves the same XComs to be stored once more.
        may_repeat = cut_off or plan.mode == "from_trigger"
        if (count := pushed.count("return_value")) != 1 and not (count and may_repeat):
            yield f"handed over {count} times"
        result = instance.xcom.get("return_value")
        if plan.kind == "batch":
            yield from self._list_handed_over(result)
        elif not plan.waits:
            if result != self.orders[-1].id:
                yield f"returned {result!r}"
        else:
            yield from self._task_handed_over(result, instance.xcom)

    def _task_handed_over(self, task, xcom):
        if self.plan.kind == "order" and task["id"] != xcom.get("video_task_id"):
            yield f"{task['id']} instead of the ordered {xcom.get('video_task_id')}"
        if task["id"] not in self.videos:
            yield f"the video of another task: {task['id']}"
        where = f"/media/{quote(task['id'], safe='')}.mp4"
        if (task["status"], task["actualDuration"]) != ("completed", 5.0) or where not in task["video_url"]:
            yield f"handed over {task}"
        if (xcom.get("video_url"), xcom.get("actualDuration")) != (task["video_url"], task["actualDuration"]):
            yield "its XComs are not those of the task"

    def _list_handed_over(self, tasks):
        ids = list(self.instance.videos)
        if [task["id"] for task in tasks] != ids:
            yield f"{[task['id'] for task in tasks]} instead of {ids}"
        for task in tasks:
            if task["status"] == "completed":
                xcom = {"video_url": task["video_url"], "actualDuration": task["actualDuration"]}
                yield from self._task_handed_over(task, xcom)
                if not self._is_over(task["id"], self.instance.attempts[-1].ended_at, completes=True):
                    yield f"false success for {task['id']}"
            elif not self.plan.tolerate:
                yield f"succeeded with {task}"

    # --- money ----------------------------------------------------------------------------------------------

    def _money(self):
        instance = self.instance
        allowed = 1 + instance.reorders
        if instance.store is None:
            allowed += sum(
                isinstance(attempt.result, (Killed, AirflowTaskTimeout)) for attempt in instance.attempts
            )
        billed = sum(order.billed for order in self.orders)
        if billed > allowed:
            yield f"bought {billed} times"
        if instance.store is not None and self.orders and self.orders[-1].id not in instance.settled:
            yield from self._is_not_lost(self.orders[-1])

    def _is_not_lost(self, order):
        value = self.instance.store.values.get(KEY)
        record = json.loads(value) if value else {}
        if isinstance(record, str):
            record = {"id": record}
        if record.get("id") == order.id or record.get("state") == "failed":
            return
        is_told = any(repr(order.id) in line and "By hand" in line for line in self.world.lines)
        result = self.instance.attempts[-1].result
        stops = record.get("state") == "intent" and self.instance.state != "success"
        if not (stops or is_told or isinstance(result, ManxueOrderUnknownError)):
            yield f"the order {order.id} is lost: {record}, {result!r}"
        if isinstance(result, ManxueOrderUnknownError) and "Check with the service" not in str(result):
            yield f"the error does not say what to check: {result}"
        if isinstance(result, ManxueOrderRefusedError) and order.billed:
            yield f"refused, but it was taken: {result}"

    # --- manners --------------------------------------------------------------------------------------------

    @property
    def _leaves_workers(self):
        """Whether it is a batch that is asked for on workers now and then, and awaited elsewhere."""
        return self.plan.kind == "batch" and self.plan.mode != "poke"

    def _held(self):
        """A worker of such a batch may pause for a moment, but makes way where the service wants a long pause."""
        longest = TURNED_AWAY_PAUSE + 1 / MIN_RATE + self.schedule.extra["request_timeout"] + 1.0
        for process in {exchange.process for exchange in self.asked if "worker" in exchange.process.name}:
            # Those without an answer name no task.
            times = [exchange.at for exchange in self.world.wire.exchanges if exchange.process is process]
            if (pause := max(map(sub, times[1:], times), default=0.0)) > longest:
                yield f"held a worker for {pause:.0f} s"

    def _manners(self):
        if self._leaves_workers:
            yield from self._held()
        last = {}
        for exchange in self.asked:
            if exchange.method != "GET":
                continue
            key = exchange.process, exchange.task_id
            before, was_short = last.get(key, (None, False))
            gap = float("inf") if before is None or self._may_repeat(before) else exchange.at - before.at
            is_short = gap < MIN_INTERVAL - EPSILON
            if is_short and was_short:  # a single one is the poll at the deadline
                yield f"asked again and again, after {gap:.3f} s"
            last[key] = exchange, is_short
        span = max(attempt.ended_at - attempt.begun_at for attempt in self.instance.attempts)
        processes = len({exchange.process for exchange in self.asked})
        each = 4 + 4 * processes + 2.5 * span / self.plan.interval
        most = len(self.videos) * len(self.instance.attempts) * each
        turned_away = sum(map(self._is_turned_away, self.asked))
        if len(self.asked) - turned_away > most or turned_away > TURNED_AWAY_TRIES * most:
            yield f"asked {len(self.asked)} times in {span:.0f} s, and was turned away {turned_away} times"

    def _may_repeat(self, exchange):
        """Whether a request may be sent anew at once: with a new key, or at the pace that a 429 has taught."""
        return exchange.status == 401 or self._is_turned_away(exchange)

    def _is_turned_away(self, exchange):
        return exchange.status == 429 and self.plan.kind == "batch"


def _may_be_skipped(error):
    return isinstance(error, (ManxueVideoFailedError, ManxueTimeoutError, AirflowTaskTimeout))


def _secrets(world, instances):
    texts = list(world.lines)
    for instance in instances:
        texts += instance.stored
        texts += [
            str(attempt.result) for attempt in instance.attempts if not isinstance(attempt.result, Returned)
        ]
        texts += instance.store.values.values() if instance.store else []
    for text in texts:
        if "SECRETKEY" in text or "signature=" in text:
            yield f"a secret in {text!r}"
    for instance in instances:
        for _, key, value in instance.all_xcoms:
            if "SECRETKEY" in json.dumps(value):
                yield f"the key in the XCom {key}"


def _pace(world, schedule):
    """Check the limits of the connection, which hold for all waits that share a transport."""
    limit, at_once = schedule.extra["requests_per_second"], schedule.extra["max_connections"]
    for session in world.sessions:
        for before, after in itertools.pairwise(session.exchanges):
            if after.at - before.at < 1 / limit - EPSILON:
                yield f"{after.process.name}: {after.at - before.at:.3f} s between two requests"
        for exchange in session.exchanges:
            under_way = sum(one.at <= exchange.at < (one.ended_at or one.at) for one in session.exchanges)
            if under_way > at_once:
                yield f"{exchange.process.name}: {under_way} requests at a time"
