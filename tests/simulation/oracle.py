"""The oracle: compares the outcome of a schedule with the service's true state, and returns the broken invariants."""

from __future__ import annotations

import heapq
import itertools
import json
from urllib.parse import quote

from airflow.providers.common.compat.sdk import AirflowSkipException, AirflowTaskTimeout

from airflow_provider_manxue._airflow.waiting import END_KEY
from airflow_provider_manxue._client.connection_cache import CONNECTION_TTL, LOOKUP_TIMEOUT
from airflow_provider_manxue._core.batch import OUTCOMES_KEY
from airflow_provider_manxue._core.deadline import FINAL_POLL_WINDOW, MAX_OVERSHOOT
from airflow_provider_manxue._core.polling import (
    GRACE_TIME,
    LATE_PROBE_INTERVAL,
    MIN_INTERVAL,
)
from airflow_provider_manxue._core.worker_pass import MAX_EXTRA_TIME
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConfigurationError,
    ManxueError,
    ManxueFailedError,
    ManxueMediaTypeError,
    ManxueOrderError,
    ManxueOrderNotAcceptedError,
    ManxuePermissionError,
    ManxueRedirectError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTimeoutError,
    ManxueTransientError,
)
from tests.simulation.deployment import Cleared, Killed, Returned
from tests.simulation.order_oracle import order_findings
from tests.simulation.schedule import Video

PROGRESS_INTERVAL = 10.0
"""Seconds: the documented maximum age of the progress in a batch's log."""

EPSILON = 0.01
"""Seconds: the tolerance of all checks. Covers the rounding of times since the epoch."""

CAUSES = {
    ManxueAuthenticationError: {401},
    ManxuePermissionError: {403},
    ManxueRedirectError: {302},
    ManxueRefusedError: {404, 200, 400},
    ManxueResultMissingError: {200},
    ManxueMediaTypeError: {200},
}
"""The statuses of responses that explain each error of a wait."""


def findings(simulation, schedule, instances, left):
    """Return the broken invariants. ``left`` lists the tasks and timers that remain on the loop."""
    found = list(simulation.findings)
    if left:
        found.append(f"left over: {left}")
    if simulation.clients or not all(session.closed for session in simulation.sessions):
        found.append("a session was left open")
    for instance in instances:
        found += [
            f"{instance.task_id}: {text}" for text in _TaskChecks(simulation, schedule, instance).findings()
        ]
    return [
        *found,
        *_secrets(simulation, instances),
        *_rate_limits(simulation, schedule),
        *_pauses(simulation, schedule, instances),
        *_refusals(simulation, schedule),
        *_progress(simulation, schedule),
        *(text for grants in simulation.grants for text in grants.findings),
    ]


class _TaskChecks:
    """The checks of one task instance."""

    def __init__(self, simulation, schedule, instance):
        self.simulation, self.schedule, self.instance, self.plan = (
            simulation,
            schedule,
            instance,
            instance.plan,
        )
        self.orders = instance.orders
        self.videos = dict(instance.videos)
        self.begins = dict.fromkeys(self.videos, 0.0)
        for order in self.orders:
            fails_at_once = self.plan.on_create == "create_answers_failed"
            ids = order.id if isinstance(order.id, list) else [order.id]
            for item, video in zip(ids, self.plan.videos, strict=True):
                self.videos[item] = Video(0.0, completes=False) if fails_at_once else video
                self.begins[item] = order.time - simulation.clock.now() + simulation.loop.time()
        self.exchanges = [
            exchange for exchange in simulation.network.exchanges if exchange.task_id in self.videos
        ]
        self.polls = {}
        for exchange in self.exchanges:
            if exchange.is_poll and exchange.counts:
                self.polls.setdefault(exchange.task_id, []).append(exchange)

    def findings(self):
        for attempt in self.instance.attempts:
            yield from self._end(attempt)
            yield from self._reschedules(attempt)
        if self.instance.state == "success":
            yield from self._result(self.instance.attempts[-1])
        if self.plan.is_ordered:
            yield from order_findings(self.simulation, self.schedule, self.instance)
        yield from self._load()

    # --- the end of a try -----------------------------------------------------------------------------------

    def _end(self, attempt):
        result = attempt.result
        if isinstance(result, (Killed, Cleared)):
            return
        if isinstance(result, Returned):
            yield from self._success(attempt)
            return
        if isinstance(result, AirflowSkipException):
            result = result.__cause__
            yield from self._skip(result)
        if isinstance(result, (ManxueTimeoutError, AirflowTaskTimeout)):
            yield from self._timeout(attempt, result)
        elif isinstance(result, ManxueFailedError):
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
        # A batch raises the same error for an id of another object.
        is_no_video = self.plan.kind == "batch" and any(b"image.gen" in one.body for one in self.exchanges)
        if not has_failed and not is_no_video:
            yield "failed as if its video had"

    def _is_over(self, video, at, *, completes):
        truth = self.videos[video]
        return truth.completes is completes and self.begins[video] + truth.seconds <= at + EPSILON

    def _success(self, attempt):
        if self.plan.is_many and self.plan.tolerate:
            if not self.schedule.steps:
                value = attempt.result.value or ()
                tasks = value["assets"] if isinstance(value, dict) else value
                texts = [task["error"] or "" for task in tasks]
                yield from self._lost(attempt, "\n".join(texts), self._deadline(attempt, attempt.begun_at))
            return
        if not self.plan.waits:
            return
        ids = list(self.instance.videos)
        if self.plan.kind == "assets":
            ids = [asset["assetId"] for asset in attempt.result.value["assets"]]
        elif isinstance(attempt.result.value, dict):
            ids = [attempt.result.value["id"]]
        for video in ids:
            if video not in self.videos or not self._is_over(video, attempt.ended_at, completes=True):
                yield f"false success for {video}"

    def _timeout(self, attempt, error):
        # If a retry would order again, an interrupted order ends with a timeout error that extends Airflow's message.
        if str(error).startswith(("interrupted", "execution_timeout")):
            return
        earliest, latest = self._starts(attempt)
        clock = self.simulation.clock
        deadline = self._deadline(attempt, latest)
        at, steps = attempt.decided_at, self.schedule.steps
        # Airflow's own trigger timeout may fire while its clock is briefly ahead.
        latest_shown = max(
            clock.at(at), *(clock.before(moment) for moment, _ in steps if earliest < moment <= at), 0.0
        )
        if self._airflow_may_end(attempt) or attempt.repeats_unknown_end:
            return
        early = self._deadline(attempt, earliest) - at
        if early > EPSILON and latest_shown < self._deadline(attempt, earliest, clock.at) - EPSILON:
            yield f"timed out {early:.3f} s early"
        if steps:
            return
        late = at - max(self._deadline_to_read(attempt, deadline, at), attempt.decider_since)
        slack = self._overshoot(at)
        if self.plan.mode != "reschedule" and late > slack + EPSILON:
            yield f"timed out {late:.3f} s late"
        yield from self._lost(attempt, str(error), deadline)

    def _deadline_to_read(self, attempt, deadline, at):
        """
        Return the deadline of a wait; for a video that was seen completed, the end of the time for reading it.

        That time begins when a process first sees or reads the video. Without a store, a rescheduled process does not know it.
        """
        if not self._has_seen_the_end(attempt, at):
            return deadline
        if self.plan.mode == "reschedule" and self.instance.store is None:
            return deadline + MAX_OVERSHOOT
        first_seen = {}
        for exchange in self._completed_responses(at):
            first_seen.setdefault(exchange.task_id, exchange.ended_at or exchange.at)
        begins = [
            one.begun_at for one in attempt.workers if one.begun_at <= at and self.plan.mode != "reschedule"
        ]
        latest = max([*begins, *first_seen.values(), attempt.decider_since])
        return max(deadline + GRACE_TIME, min(latest + GRACE_TIME, deadline + MAX_OVERSHOOT))

    def _starts(self, attempt):
        """
        Return the earliest and the latest moment from which the wait of a try can count its time.

        The wait for an order begins when the order is accepted. When Airflow ends a deferral it drops the arguments, and the
        worker gets only the start of the try. The record has the time of the order.
        """
        if not self.plan.is_ordered:
            return attempt.begun_at, attempt.begun_at
        if not attempt.has_lost_its_start:
            return attempt.waits_since, attempt.waits_since
        return attempt.begun_at, attempt.begun_at if self.instance.store is None else attempt.waits_since

    def _deadline(self, attempt, waits_since, shown_at=lambda moment: moment):
        """
        Return the deadline of a wait; ``execution_timeout`` counts from the start of its try.

        :param shown_at: returns what a clock shows at a moment.
        """
        deadline = shown_at(waits_since) + self.plan.timeout
        if not self.plan.deferrable:
            return deadline
        return min(deadline, shown_at(attempt.begun_at) + self.plan.execution_bound)

    def _airflow_may_end(self, attempt):
        """Return whether Airflow ended a deferral of this try with a timeout as the reason."""
        return self.plan.airflow_ends_at is not None and "timeout" in self.plan.airflow_reason.lower()

    def _reschedules(self, attempt):
        for at, moment in attempt.rescheduled if not self.schedule.steps else ():
            # Without steps, Airflow's clock differs from elapsed time by a constant.
            deadline = self._deadline_to_read(attempt, attempt.begun_at + self.plan.timeout, at)
            blocked = [
                one.at
                for one in self.exchanges
                if one.status in {302, 403} and attempt.begun_at <= one.at <= at
            ]
            if blocked:  # a grace period that began late, since the process started late
                deadline = max(deadline, min(blocked) + GRACE_TIME)
            late = moment - attempt.began + attempt.begun_at - deadline
            if late > self._overshoot(at) + EPSILON:
                yield f"rescheduled to {late:.3f} s after the deadline"

    def _has_seen_the_end(self, attempt, at):
        """Return whether a poll saw a completed video, so that its URL may be read after the deadline."""
        return attempt.has_seen_the_end or bool(self._completed_responses(at))

    def _completed_responses(self, at):
        return [
            exchange
            for exchange in self.exchanges
            if exchange.at <= at and exchange.status == 200 and b'"completed"' in exchange.body
        ]

    def _overshoot(self, at):
        """Return the maximum seconds from the deadline to the decision of a timeout (docs/engine.md)."""
        timeout = max(self.schedule.settings("request_timeout"))
        polls = sum(len(plan.videos) for plan in self.schedule.plans)
        each = max(
            1 / self.schedule.extra["requests_per_second"], timeout / self.schedule.extra["max_connections"]
        )
        seen = {exchange.status for exchange in self.simulation.network.exchanges if exchange.at <= at}
        trouble = (
            GRACE_TIME if seen & {302, 401, 403} or self.schedule.look_ups or self.schedule.edits else 0.0
        )
        is_paused = any(one.requested_pause for one in self.simulation.network.exchanges if one.at <= at)
        pause = MAX_OVERSHOOT if is_paused or seen & {429, 503} else trouble
        return 1 + FINAL_POLL_WINDOW + 3 * timeout + 7 * polls * each + pause

    def _lost(self, attempt, text, deadline):
        """No wait times out if its video completed and could be polled before."""
        if self.plan.airflow_ends_at is not None:  # execution_timeout can pass during the poll that follows
            deadline = min(deadline, attempt.decider_since)
        if any("allow_http" in edit for _, edit in self.schedule.edits):
            return  # workers can no longer read the connection
        is_throttled = any(exchange.status == 429 for exchange in self.exchanges)
        if is_throttled and attempt.decided_at > deadline + GRACE_TIME + MAX_OVERSHOOT:
            return  # docs/engine.md limits the delay by a pause
        for video in self.videos:
            if f"The video {video!r} was not ready" not in text:
                continue
            polls = [
                exchange
                for exchange in self.polls.get(video, ())
                if exchange.at >= deadline - EPSILON
                and exchange.ended_at <= attempt.decided_at + EPSILON
                and not self._is_discarded(attempt, exchange)
            ]
            sightings = [
                one for one in polls if b'"completed"' in one.body and b'"video_url": "http' in one.body
            ]
            sightings = [one for one in sightings if one.ended_at > attempt.dropped_at]
            if self.plan.mode == "reschedule":  # Airflow clears what an earlier process has read
                sightings = [one for one in sightings if one.process is attempt.workers[-1]]
            if sightings and not self._could_not_be_read(attempt, sightings, deadline):
                yield f"{video} is lost: a final poll has seen it"
            elif not self._is_troubled(deadline - 1, self._read_until(attempt)) and not any(
                one.status == 200 for one in polls
            ):
                yield f"{video} timed out without a final poll"

    @staticmethod
    def _is_discarded(attempt, exchange):
        """Return whether the triggerer that received this response was lost before it could fire the event."""
        lost_at = exchange.process.lost_at
        is_lost = lost_at is not None and lost_at <= attempt.decided_at
        return is_lost and attempt.deciders.get(exchange.process, 0.0) < exchange.ended_at - EPSILON

    def _could_not_be_read(self, attempt, sightings, deadline):
        """
        Return whether only the triggerer saw the completed video, and the worker's time for reading its URL has passed.

        Events contain no URL, so a worker reads the video again: for five minutes, or as long as a pause may delay a final
        poll. ``execution_timeout`` limits both.
        """
        if any(one.session is None or "worker" in one.process.name for one in sightings):
            return False
        tried_until = min(sightings[-1].ended_at + GRACE_TIME, deadline + MAX_OVERSHOOT)
        tried_until = min(tried_until, attempt.begun_at + self.plan.execution_bound)
        return self._read_until(attempt) >= tried_until - EPSILON

    def _read_until(self, attempt):
        """Return when a try stopped reading. The trigger decides a timeout of a batch while other videos are still to be read."""
        return attempt.ended_at if self.plan.is_many else attempt.decided_at

    def _is_troubled(self, begin, end):
        """Return whether any fault could affect a request in a span of time."""
        schedule = self.schedule
        spans = [(start, stop) for start, stop, *_ in (*schedule.windows, *schedule.look_ups)]
        spans += [span for span in (schedule.rotation, schedule.move) if span]
        spans += [(at, at + 400) for at, edit in schedule.edits if "allow_http" in edit]
        always = (
            schedule.fault_rate or schedule.rate_limit or schedule.per_minute or schedule.worker_fault_rate
        )
        return bool(always) or any(min(span) <= end and max(span) + 2 * GRACE_TIME >= begin for span in spans)

    def _error(self, attempt, error):
        if isinstance(error, (ManxueOrderError, ManxueOrderNotAcceptedError)):
            if not self.plan.is_ordered:
                yield f"a wait ended with {error!r}"
            return
        if isinstance(error, ManxueConfigurationError):
            yield from self._unusable(attempt, error)
        elif not self._is_expected(attempt, error):
            yield from self._caused(attempt, error)

    def _caused(self, attempt, error):
        kinds = [kind for kind in CAUSES if type(error) is kind]
        if not kinds:
            if not self.plan.is_many:
                yield f"ended with {error!r}"
            return
        # A refused key is refused for all waits.
        exchanges = (
            self.simulation.network.exchanges if type(error) is ManxueAuthenticationError else self.exchanges
        )
        seen = {
            exchange.status
            for exchange in exchanges
            if exchange.ended_at is None or exchange.ended_at <= attempt.ended_at + EPSILON
        }
        if not seen & CAUSES[kinds[0]]:
            yield f"ended with {error!r}, and the statuses of the service were {seen}"
        is_missing = type(error) is ManxueResultMissingError
        if is_missing and not any(b'"completed"' in exchange.body for exchange in self.exchanges):
            yield f"ended with {error!r}, and the service never said that it is completed"
        if type(error) in {ManxueAuthenticationError, ManxuePermissionError, ManxueRedirectError}:
            yield from self._within_grace(attempt, error)
        if type(error) in {ManxueRefusedError, ManxueResultMissingError} and not self.schedule.steps:
            first = min(attempt.begun_at, attempt.waits_since or attempt.begun_at)
            if attempt.ended_at < first + GRACE_TIME - EPSILON:
                yield f"ended within the time of grace with {error!r}"

    def _unusable(self, attempt, error):
        troubles = {kind for begin, _, kind in self.schedule.look_ups if begin <= attempt.ended_at}
        is_edited = any("allow_http" in edit for _, edit in self.schedule.edits)
        if not (is_edited or troubles):
            yield f"ended with {error!r}"
        yield from self._within_grace(attempt, error)

    def _is_expected(self, attempt, error):
        if isinstance(error, ManxueTransientError):  # no order is sent over a connection that cannot be read
            return self.plan.is_ordered and attempt.waits_since is None
        # Airflow ended the deferral before the video was ready, perhaps since its clock was ahead, and a retry waits again.
        may_end = self.plan.airflow_ends_at is not None or self.schedule.steps
        return bool(may_end) and "not ready yet" in str(error)

    def _within_grace(self, attempt, error):
        """An error of the connection ends a wait that has worked before only after the grace period."""
        usable = [
            exchange
            for exchange in self.exchanges
            if exchange.method == "GET"
            and exchange.status == 200
            and exchange.counts
            and b'"object": "video"' in exchange.body
            # A completed video without a URL starts a grace period of its id, which a 403 or a redirect continues.
            and (b'"completed"' not in exchange.body or b'"video_url": "http' in exchange.body)
            and attempt.begun_at <= exchange.at
            and exchange.ended_at <= attempt.ended_at
            and not self._is_forgotten(attempt, exchange)
            and not self._is_of_another_run(attempt, exchange)
        ]
        since = [exchange.ended_at for exchange in usable]
        if since and self.plan.is_many:
            # The error of one video may be decided long before another video is read.
            last = {exchange.task_id: exchange.ended_at for exchange in usable}
            since = [min(last.get(video, attempt.begun_at) for video in self.videos)]
        if since and isinstance(error, ManxueConfigurationError):
            # Waits that share a client use its last settings; their grace period begins when Airflow fails.
            is_edited = "allow_http" in str(error)  # otherwise Airflow did not return the connection
            began = [one[0] for one in (self.schedule.edits if is_edited else self.schedule.look_ups)]
            since = [min(max(since), max((at for at in began if at <= attempt.ended_at), default=0.0))]
        if since and not self.schedule.steps and attempt.ended_at < max(since) + GRACE_TIME - EPSILON:
            yield f"worked, and ended within the time of grace with {error!r}"

    def _is_of_another_run(self, attempt, exchange):
        """Return whether a triggerer that took over sent this, while the one that was cut off went on and decided."""
        is_cut_off = any(is_cut for triggerer in self.schedule.absences for *_, is_cut in triggerer)
        is_by_triggerer = exchange.session is not None and "worker" not in exchange.process.name
        return is_cut_off and is_by_triggerer and exchange.process not in attempt.deciders

    def _is_forgotten(self, attempt, exchange):
        """
        Return whether a wait that began in a triggerer lost that triggerer in its first interval.

        Such a wait has stored nothing, so the next triggerer starts it as a new wait.
        """
        lost_at = exchange.process.lost_at
        is_early = lost_at is not None and lost_at <= attempt.begun_at + self.plan.interval
        return self.plan.mode == "from_trigger" and is_early

    # --- results --------------------------------------------------------------------------------------------

    def _result(self, attempt):
        instance, plan = self.instance, self.plan
        if not plan.do_xcom_push:
            if set(instance.xcom) - {OUTCOMES_KEY, END_KEY}:
                yield f"pushed {list(instance.xcom)}"
            return
        pushed = [key for number, key, _ in instance.all_xcoms if number == attempt.number]
        cut_off = any(is_cut for triggerer in self.schedule.absences for *_, is_cut in triggerer)
        # If a triggerer is lost before its event is stored, the next one stores the same XComs again.
        may_repeat = cut_off or plan.mode == "from_trigger"
        if (count := pushed.count("return_value")) != 1 and not (count and may_repeat):
            yield f"handed over {count} times"
        result = instance.xcom.get("return_value")
        if plan.kind == "assets":
            yield from self._asset_result(result)
        elif plan.kind == "batch":
            yield from self._list_result(result)
        elif not plan.waits:
            if result != self.orders[-1].id:
                yield f"returned {result!r}"
        else:
            yield from self._task_result(result, instance.xcom)

    def _task_result(self, task, xcom):
        if self.plan.kind == "order" and task["id"] != xcom.get("video_task_id"):
            yield f"{task['id']} instead of the ordered {xcom.get('video_task_id')}"
        if task["id"] not in self.videos:
            yield f"the video of another task: {task['id']}"
        where = f"/media/{quote(task['id'], safe='')}.mp4"
        if (task["status"], task["actualDuration"]) != ("completed", 5.0) or where not in task["video_url"]:
            yield f"handed over {task}"
        if (xcom.get("video_url"), xcom.get("actualDuration")) != (task["video_url"], task["actualDuration"]):
            yield "its XComs are not those of the task"

    def _asset_result(self, result):
        """All assets of the last upload in the order of the files, but those that are not active, if that is tolerated."""
        ids = [asset["assetId"] for asset in result["assets"]]
        active = [asset["assetId"] for asset in result["assets"] if asset["status"] == "completed"]
        urls = [f"asset://{asset_id}" for asset_id in active]
        if result["image_urls"] != urls or self.instance.xcom.get("image_urls") != urls:
            yield f"{result['image_urls']} instead of {urls}"
        if (
            ids != self.orders[-1].id
            or [asset["originalUrl"] for asset in result["assets"]] != self.plan.files
        ):
            yield f"assets of other files: {result['assets']}"
        if not active or (active != ids and not self.plan.tolerate):
            yield f"succeeded with {result['assets']}"
        for asset_id in active:
            if not self._is_over(asset_id, self.instance.attempts[-1].ended_at, completes=True):
                yield f"false success for {asset_id}"

    def _list_result(self, tasks):
        ids = self.instance.upstream
        ids = [ids] if isinstance(ids, str) else ids  # one id from an XCom becomes a list
        if [task["id"] for task in tasks] != ids:
            yield f"{[task['id'] for task in tasks]} instead of {ids}"
        for task in tasks:
            if task["status"] == "completed":
                xcom = {"video_url": task["video_url"], "actualDuration": task["actualDuration"]}
                yield from self._task_result(task, xcom)
                if not self._is_over(task["id"], self.instance.attempts[-1].ended_at, completes=True):
                    yield f"false success for {task['id']}"
            elif not self.plan.tolerate:
                yield f"succeeded with {task}"

    # --- load -----------------------------------------------------------------------------------------------

    def _held(self):
        """A worker occupies its slot for at most one pass and a minute."""
        longest = (
            MAX_EXTRA_TIME
            + len(self.videos) / min(self.schedule.settings("requests_per_second"))
            + max(self.schedule.settings("request_timeout"))
            + 2.0
            + (61.0 if self.plan.xcom_fails_at else 0.0)
        )
        for seconds in self.instance.held:
            if seconds > longest + EPSILON:
                yield f"held a worker for {seconds:.0f} s"

    def _load(self):
        if self.plan.mode != "poke" and not self.plan.is_ordered:
            yield from self._held()
        last = {}
        for exchange in self.exchanges:
            if not exchange.is_poll:
                continue
            key = exchange.process, exchange.task_id
            before, was_short = last.get(key, (None, False))
            gap = float("inf") if before is None or self._may_repeat(before) else exchange.at - before.at
            is_short = gap < MIN_INTERVAL - EPSILON
            if is_short and was_short:  # a single short gap is the poll at the deadline
                yield f"asked again and again, after {gap:.3f} s"
            last[key] = exchange, is_short
        span = max(attempt.ended_at - attempt.begun_at for attempt in self.instance.attempts)
        # Each worker and each trigger run begins with a few extra polls.
        runs = len(self.instance.held) + self.instance.trigger_runs
        each = 4 + 4 * runs + 2.5 * span / self.plan.interval
        most = len(self.videos) * len(self.instance.attempts) * each
        # Each of these can request a pause, and the window for retries of a final poll begins again after it.
        throttled = sum(
            exchange.status in {429, 503} or exchange.requested_pause > 0 for exchange in self.exchanges
        )
        if len(self.exchanges) - throttled > most:
            yield f"asked {len(self.exchanges)} times in {span:.0f} s, and was turned away {throttled} times"

    def _may_repeat(self, exchange):
        """Return whether a request may be repeated immediately: with a new key, or at the lower rate after a 429."""
        return exchange.status == 401 or (exchange.status == 429 and self.plan.is_many)


def _may_be_skipped(error):
    return isinstance(error, (ManxueFailedError, ManxueTimeoutError, AirflowTaskTimeout))


def _secrets(simulation, instances):
    texts = list(simulation.lines)
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


def _rate_limits(simulation, schedule):
    """Check the limits of the connection across all waits that share a client."""
    limit, max_concurrency = (
        max(schedule.settings("requests_per_second")),
        max(schedule.settings("max_connections")),
    )
    repeated = set(_repeated(simulation.network.exchanges))
    for session in simulation.sessions:
        paced = [exchange for exchange in session.exchanges if exchange not in repeated]
        for before, after in itertools.pairwise(paced):
            if after.at - before.at < 1 / limit - EPSILON:
                yield f"{after.process.name}: {after.at - before.at:.3f} s between two requests"
        ends = []
        for exchange in session.exchanges:
            while ends and ends[0] <= exchange.at:
                heapq.heappop(ends)
            heapq.heappush(ends, exchange.ended_at or exchange.at)
            if len(ends) > max_concurrency:
                yield f"{exchange.process.name}: {len(ends)} requests at a time"


def _repeated(exchanges):
    """Return the requests that a process repeated immediately after a 401, with an edited connection or a new session."""
    refused = {}
    for exchange in sorted(exchanges, key=lambda one: one.at):
        of_process = refused.setdefault(exchange.process, {})
        task_id = exchange.task_id
        if not task_id:  # the service sets the id, and this request never reached it
            ended = {one: at for one, at in of_process.items() if at is not None and at <= exchange.at}
            task_id = max(ended, key=ended.get, default=None)
        ended_at = of_process.pop(task_id, None)
        if ended_at is not None and exchange.at <= ended_at + LOOKUP_TIMEOUT:
            yield exchange
        if exchange.status == 401:
            of_process[exchange.task_id] = exchange.ended_at


def _pauses(simulation, schedule, instances):
    """No request is sent during a pause that the service requested from this process."""
    paused, worked = {}, set()
    retried_at = [attempt.ended_at for instance in instances for attempt in instance.attempts]
    for exchange in sorted(simulation.network.exchanges, key=lambda one: one.at):
        if not exchange.is_poll:
            continue
        for key in ((exchange.process, None), (exchange.process, exchange.task_id)):
            for received_at, until in paused.get(key, ()):
                # The pause of one video, not that of a rate limiter, ends by Airflow's clock: another process may end it. It
                # belongs to the wait, and a retry is another one.
                ends = [*(moment for moment, _ in schedule.steps), *retried_at] if key[1] is not None else []
                has_ended = any(received_at < moment <= exchange.at for moment in ends)
                if received_at + EPSILON < exchange.at < until - EPSILON and not has_ended:
                    yield f"{exchange.process.name}: {exchange.task_id} was polled {until - exchange.at:.1f} s before a pause ended"
        if exchange.counts and exchange.status == 200:
            worked.add(exchange.process)
        # A redirect or a 403 ends a wait that has not worked. A worker may begin another one.
        ends_wait = exchange.status in {302, 403} and exchange.process not in worked
        if not ends_wait and (pause := exchange.requested_pause):
            received_at = exchange.ended_at
            # Another error pauses one video. A 429 pauses all videos that share a rate limiter.
            is_shared = exchange.status == 429 and exchange.session is not None
            key = exchange.process, None if is_shared else exchange.task_id
            paused.setdefault(key, []).append((received_at, received_at + pause))


def _refusals(simulation, schedule):
    """
    A process sends at most five requests with a refused key during the grace period, and one a minute after it.

    Those in flight come on top, and an edit of the connection restarts the count.
    """
    edited_at = [moment for span in (schedule.rotation, schedule.move) if span for moment in span]
    edited_at += [at for at, _ in schedule.edits]
    most = 5 + max(schedule.settings("max_connections")) - 1
    counts = {}
    for exchange in sorted(simulation.network.exchanges, key=lambda one: one.ended_at or 0.0):
        if exchange.session is None or not exchange.counts:
            continue
        since, count = counts.get(exchange.session, (exchange.at, 0))
        is_over = exchange.status != 401 or any(
            since <= at + LOOKUP_TIMEOUT + CONNECTION_TTL and at <= exchange.at for at in edited_at
        )
        since, count = (exchange.at, 0) if is_over else (since, count)
        count += exchange.status == 401
        counts[exchange.session] = since, count
        late_probes = max(0.0, exchange.at - since - GRACE_TIME) / LATE_PROBE_INTERVAL
        if count > most + late_probes * max(schedule.settings("max_connections")):
            yield f"{exchange.process.name}: {count} requests with a key that is refused"


def _progress(simulation, schedule):
    """The progress in the log of a batch is true and at most ten seconds old."""
    for process, lines in simulation.progress.items():
        videos = simulation.instances[process.task_id].videos
        for at, done, total in lines:
            if total != len(videos):
                yield f"{process.name}: progress of {total} videos, and there are {len(videos)}"
            over = sum(video.completes and video.seconds <= at + EPSILON for video in videos.values())
            if done > over:
                yield f"{process.name}: {done} videos completed in its log, and {over} are"
    for process, seen in _sightings(simulation).items() if not schedule.steps else ():
        lines = _lines_of_try(simulation, process)
        for number, at in enumerate(sorted(seen.values()), 1):
            until = at + PROGRESS_INTERVAL + EPSILON
            is_logged = any(done >= number and received_at <= until for received_at, done, _ in lines)
            if until < process.ended_at and not is_logged:
                yield f"{process.name}: {number} videos were seen completed at {at:.1f} s, and no line says so within 10 s"


def _lines_of_try(simulation, process):
    """Return the progress lines of this try. A process continues the log of the process before it."""
    attempts = simulation.instances[process.task_id].attempts
    began_at = max(attempt.begun_at for attempt in attempts if attempt.begun_at <= process.begun_at)
    return [
        line
        for other, lines in simulation.progress.items()
        if other.task_id == process.task_id
        for line in lines
        if line[0] >= began_at
    ]


def _sightings(simulation):
    """Return, for each process that waited, when it first saw each video of its batch completed."""
    sightings = {}
    for exchange in simulation.network.exchanges:
        process = exchange.waits_in
        if (
            exchange.counts
            and exchange.status == 200
            and b'"completed"' in exchange.body
            and b'"object": "video"' in exchange.body
            and b'"video_url": "http' in exchange.body
            and len(simulation.instances[process.task_id].videos) > 1
        ):
            sightings.setdefault(process, {}).setdefault(exchange.task_id, exchange.ended_at)
    return sightings
