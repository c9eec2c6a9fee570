"""
The polling engine: times of polls, tolerated errors, and ends of waits. No I/O happens here.

Theory of operation: see ``docs/engine.md``. Each video has the moment of its next poll in a heap. A driver polls the
videos that are due. An outcome either ends the wait for its video or schedules the next poll. Trouble with the
connection postpones all polls. A *video* is here whatever the subject of the wait is, so also an asset.

Longer than 350 lines: the effects of outcomes and the times of polls change the same state.
"""

from __future__ import annotations

import heapq
import logging
import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue._core.deadline import (
    FINAL_POLL_WINDOW,
    deadline_to_read,
    latest_final_poll,
)
from airflow_provider_manxue._core.polling import (
    CREDENTIAL_PROBES,
    GRACE_TIME,
    JITTER,
    MIN_INTERVAL,
    NOT_FOUND_GRACE_TIME,
    PollPolicy,
    bounded_pause,
    next_credential_probe,
    quick_retry_delay,
)
from airflow_provider_manxue._core.status_log import BatchLog, LogLine, StatusLog, describe
from airflow_provider_manxue._core.subjects import VIDEO, Polled, Subject
from airflow_provider_manxue._core.wait_errors import BLOCKED, affects_all_videos
from airflow_provider_manxue.exceptions import (
    ManxueAuthenticationError,
    ManxueConnectionNotFoundError,
    ManxueError,
    ManxueInternalError,
    ManxueRateLimitError,
    ManxueRefusedError,
    ManxueResultMissingError,
    ManxueTimeoutError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Outcome = Polled | ManxueError
"""The end of the wait for a video: the completed task, or an error."""

CONNECTION = ""
"""Key of the connection in :attr:`Poller.grace`. No video has an empty id."""

_URL_OF = "url of "
"""Prefix of the key of a missing URL in :attr:`Poller.grace`, before the id of the video."""

_OF_ONE_VIDEO = (ManxueRefusedError, ManxueResultMissingError, *BLOCKED)
"""
Errors of one video that are tolerated for ``GRACE_TIME``: a refused id (404, other 4xx), a missing URL, a 403, a redirect.
"""


def grace_of(video_task_id: str, since: float | None, last_status: str) -> dict[str, float]:
    """
    Return :attr:`Poller.grace` from what a trigger stores of it.

    :param since: from :meth:`Poller.grace_since`.
    :param last_status: from :meth:`Poller.last_status`.
    """
    key = _URL_OF + video_task_id if last_status.startswith(TaskStatus.COMPLETED) else video_task_id
    return {} if since is None else {key: since}


@dataclass(slots=True)
class _Video:
    """
    A video that is still awaited.

    :param due_at: when its next poll is due.
    :param deadline: the moment after which no regular poll of it begins.
    :param to_read: whether it has ended at the service, so that only its URL or its reason is missing.
    :param status: the last status that the service reported, as logged.
    :param trouble: the last error, unless a usable response followed.
    :param seen_at: when this process received its last usable response; None if it received none.
    :param grace_since: start of the grace period for a refused or forbidden id.
    :param missing_since: start of that for a missing URL. A video that is completed is no longer refused.
    :param refused_since: start of the refusals of the API key for this video, even if it is accepted for other videos.
    :param url_since: start of an unknown status together with a URL.
    :param final_time: seconds that final polls without a usable response have been in flight, with the delays between
        them. The time in the queue of the rate limiter is not counted, since it can be longer than the window.
    :param final_pauses: final polls in a row that were followed by a pause of the service or of the rate limiter.
    :param paused_until: end of the pause that the last error requested.
    """

    id: str
    due_at: float
    deadline: float
    to_read: bool = False
    status: str = ""
    trouble: str = ""
    seen_at: float | None = None
    failures: int = 0
    grace_since: float | None = None
    missing_since: float | None = None
    refused_since: float | None = None
    url_since: float | None = None
    final_time: float = 0.0
    final_pauses: int = 0
    paused_until: float = 0.0

    def grace_start(self, error: ManxueError, now: float) -> float:
        """Return the start of the grace period for an error of this video, which may begin now."""
        if isinstance(error, ManxueResultMissingError):
            self.missing_since = now if self.missing_since is None else self.missing_since
            return self.missing_since
        self.grace_since = now if self.grace_since is None else self.grace_since
        return self.grace_since


class Poller:
    """
    Engine of a wait for one video or many.

    A driver polls the videos that :meth:`take_due` returns, passes each outcome to :meth:`handle`, and repeats that at
    :attr:`next_due` until the poller is :attr:`done`. Times are seconds since the epoch, since a wait outlives the
    process that began it.

    :param video_task_ids: ids of the videos. Duplicates are polled once.
    :param policy: the intervals between polls.
    :param started_at: when the wait began.
    :param deadline: the moment after which no regular poll begins; see ``docs/engine.md``.
    :param first_poll_at: when the first polls are due.
    :param first_polls_until: end of the first polls. They are spread, so that waits that start together do not poll
        together.
    :param has_worked: whether a response of this wait, or of its connection, was parsed as a task before.
    :param to_read: ids of the videos that have ended at the service.
    :param grace: starts of grace periods, from :attr:`grace` of an earlier poller.
    :param grace_ends: whether grace periods end. A rescheduled process without a state store does not know their
        starts, so that trouble is tolerated until the deadline there.
    :param last_statuses: the last known status of each video by its id, as logged; empty for none.
    :param quick_retries: whether to retry each transient error quickly, for a worker that holds a slot meanwhile.
    :param holds_slot: whether a worker slot is held to the end, as in poke mode. Then only a pause that the service
        requested moves the final poll.
    :param log: selects the log lines; None for the default one.
    :param chance: source of numbers from 0 to 1, for the jitter.
    :param subject: what is polled.
    """

    def __init__(
        self,
        video_task_ids: Iterable[str],
        policy: PollPolicy,
        *,
        started_at: float,
        deadline: float,
        first_poll_at: float,
        first_polls_until: float | None = None,
        has_worked: bool = False,
        to_read: Iterable[str] = (),
        grace: Mapping[str, float] | None = None,
        grace_ends: bool = True,
        last_statuses: Mapping[str, str] | None = None,
        quick_retries: bool = False,
        holds_slot: bool = False,
        log: StatusLog | BatchLog | None = None,
        chance: Callable[[], float] | None = None,
        subject: Subject = VIDEO,
    ) -> None:
        ended = frozenset(to_read)
        ids = list(dict.fromkeys(video_task_ids))
        statuses = dict.fromkeys(ids, "") | dict(last_statuses or {})
        self.subject = subject
        self.policy = policy
        self.started_at = started_at
        self.deadline = deadline
        self._first_poll_at = first_poll_at
        self.has_worked = has_worked
        self.outcomes: dict[str, Outcome] = {}
        self.ended_at: dict[str, float] = {}
        self.final_status = ""
        """The last status in the log of the video that ended last."""
        self.not_polled: set[str] = set()
        """Ids of the videos that ended in a timeout without a final poll."""
        self._quick_retries = quick_retries
        self._holds_slot = holds_slot
        self._grace_ends = grace_ends
        self._chance = chance or random.random
        spread = (first_polls_until or first_poll_at) - first_poll_at
        self._waiting = {
            video: _Video(
                video,
                first_poll_at + (spread and spread * self._chance()),
                deadline_to_read(deadline, first_poll_at) if video in ended else deadline,
                video in ended,
                statuses[video],
                grace_since=(grace or {}).get(video),
                missing_since=(grace or {}).get(_URL_OF + video),
            )
            for video in ids
        }
        self._heap = [(video.due_at, number, video.id) for number, video in enumerate(self._waiting.values())]
        heapq.heapify(self._heap)
        self._pushed = len(ids)
        self._retrying: set[str] = set()
        self._retries_connection = False
        self._not_before = self._lifted_pause = 0.0
        self._connection_failures = 0
        self._connection_trouble_since = (grace or {}).get(CONNECTION)
        self._internal_since: float | None = None
        self._blocked: set[str] = set()
        self._log = log or (
            StatusLog(ids[0], started_at, statuses[ids[0]])
            if len(ids) == 1
            else BatchLog(statuses, started_at, noun=subject.noun)
        )
        self._lines: list[LogLine] = []
        self._warned_of_other_id = False

    # --- state, for a driver ---------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the wait for each video has ended."""
        return not self._waiting

    @property
    def is_retrying(self) -> bool:
        """Whether a quick retry is pending. A worker holds its slot for it."""
        return self._retries_connection or bool(self._retrying)

    @property
    def remaining(self) -> list[str]:
        """Ids of the videos that are still awaited."""
        return list(self._waiting)

    @property
    def next_due(self) -> float | None:
        """Moment of the next poll; None if all that remain are in flight."""
        return max(self._heap[0][0], self._not_before) if self._heap else None

    @property
    def resumes_at(self) -> float:
        """
        Moment of the next poll of the remaining videos, if the polls in flight are lost.

        Another process does not know for which of them a pause was requested, so that the pause holds for all of them there.
        """
        return max(
            self._not_before,
            self._lifted_pause,
            max((video.paused_until for video in self._waiting.values()), default=0.0),
            min((video.due_at for video in self._waiting.values()), default=0.0),
        )

    @property
    def next_line_at(self) -> float:
        """Moment of the next log line without another response."""
        return self._log.next_line_at

    @property
    def grace(self) -> dict[str, float]:
        """Starts of grace periods, by the id of a video, by ``_URL_OF`` and an id, and by :data:`CONNECTION`."""
        starts = {CONNECTION: self._connection_trouble_since}
        for video in self._waiting.values():
            starts |= {video.id: video.grace_since, _URL_OF + video.id: video.missing_since}
        return {key: since for key, since in starts.items() if since is not None}

    def grace_since(self, video_task_id: str) -> float | None:
        """Return the start of the grace period of a video: that of a missing URL if it is completed."""
        video = self._waiting[video_task_id]
        return video.grace_since if video.missing_since is None else video.missing_since

    def last_status(self, video_task_id: str) -> str:
        """Return the last reported status of a video that is still awaited; empty if there is none."""
        return self._waiting[video_task_id].status

    def unfinished_at(self, video_task_id: str) -> float | None:
        """Return when this process last saw a video unfinished; None if it did not, or if the video has ended since."""
        video = self._waiting.get(video_task_id)
        return None if video is None or video.to_read else video.seen_at

    @property
    def oldest_response(self) -> float:
        """The moment of the last usable response of the video that has been without one for longest, or of the first poll."""
        return min(
            (video.seen_at or self._first_poll_at for video in self._waiting.values()), default=math.inf
        )

    def take_due(self, now: float, limit: int | None = None) -> list[tuple[str, bool]]:
        """Take the polls that are due, at most ``limit``: ids, each with whether it is a final poll."""
        due: list[tuple[str, bool]] = []
        if now < self._not_before:
            return due
        while self._heap and self._heap[0][0] <= now and (limit is None or len(due) < limit):
            _, _, video_task_id = heapq.heappop(self._heap)
            if (video := self._waiting.get(video_task_id)) is not None:
                due.append((video_task_id, now >= video.deadline))
        return due

    def lift_pause(self) -> None:
        """End the pause of the connection here, since the rate limiter of this process holds the polls back."""
        self._lifted_pause, self._not_before = self._not_before, 0.0

    def hold_until(self, moment: float) -> None:
        """Poll nothing before a moment, the end of a pause of the connection."""
        self._not_before = max(self._not_before, moment)

    def pop_lines(self, now: float) -> list[LogLine]:
        """Return and remove the log lines that are due."""
        if now >= self._log.next_line_at:
            self._lines += self._log.progress(now)
        lines, self._lines = self._lines, []
        return lines

    # --- outcomes of polls -------------------------------------------------------------------------------------

    def handle(self, video_task_id: str, outcome: Outcome, *, sent_at: float, now: float) -> None:
        """Process the outcome of a poll. A request that was sent at or after the deadline was a final poll."""
        video = self._waiting.get(video_task_id)
        if video is None:
            return
        self._retrying.discard(video.id)
        self._retries_connection = False
        if isinstance(outcome, ManxueError):
            video.paused_until = now + bounded_pause(outcome.retry_after)
            self._handle_error(video, outcome, sent_at, now)
        else:
            self._lines += self._log.lines_for(video_task_id, outcome, now)
            self._handle_task(video, outcome, sent_at, now)

    def connection_failed(self, error: ManxueError, now: float) -> None:
        """Process an error of the connection. Nothing was sent."""
        if self.done:  # the final polls were given up while the connection was looked up
            return
        self._lines += self._log.lines_for(next(iter(self._waiting)), error, now)
        self._connection_failures += 1
        is_quick = self._quick_retries or not self.has_worked
        if isinstance(error, ManxueTransientError):
            self._retries_connection = self._quick_retries
            delay = self._connection_delay(is_quick=self._quick_retries)
            self._postpone(now + max(delay, bounded_pause(error.retry_after)), error, now)
            return
        since = self._trouble_since(error, now)
        is_endless = self.has_worked and not self._grace_ends
        ends_at = math.inf if is_endless else since + self._grace_time(error)
        if now >= ends_at:
            self._end_all(error)
        elif isinstance(error, ManxueAuthenticationError):
            probe = next_credential_probe(now - since) or now - since + CREDENTIAL_PROBES[-1]
            self._postpone(since + probe, error, now)
        else:
            self._retries_connection = is_quick
            self._postpone(min(now + self._connection_delay(is_quick=is_quick), ends_at), error, now)

    def _trouble_since(self, error: ManxueError, now: float) -> float:
        """Return the start of the connection's grace period: of its first error, but not before this wait began."""
        known = [self._connection_trouble_since or now, now if error.since is None else error.since]
        self._connection_trouble_since = max(min(known), self.started_at)
        return self._connection_trouble_since

    def _connection_delay(self, *, is_quick: bool) -> float:
        failures = self._connection_failures
        return quick_retry_delay(failures + 2) if is_quick else self.policy.error_interval(failures)

    def give_up(self, now: float) -> None:
        """End the remaining videos with a timeout and without a final poll."""
        for video in list(self._waiting.values()):
            self.not_polled.add(video.id)
            self._end(video, self._timed_out(video), now)

    def give_up_overdue(self, now: float) -> None:
        """End the videos with a timeout whose next poll a pause moves beyond the latest final poll."""
        at = max(now, self.resumes_at)
        for video in list(self._waiting.values()):
            if at > latest_final_poll(video.deadline):
                self._end(video, self._timed_out(video), now)

    def _handle_task(self, video: _Video, task: Polled, sent_at: float, now: float) -> None:
        self.has_worked = True
        self._connection_failures, self._connection_trouble_since, self._internal_since = 0, None, None
        self._lifted_pause = 0.0
        video.failures, video.final_time, video.final_pauses, video.grace_since = 0, 0.0, 0, None
        video.status, video.trouble, video.refused_since, video.seen_at = describe(task), "", None, now
        if task.reported_id is not None and not self._warned_of_other_id:
            self._warned_of_other_id = True
            text = (
                f"The service responded with the id {clean_text(task.reported_id)!r} to a poll of the video {video.id!r}. The "
                f"requested id is used."
            )
            self._lines.append(LogLine(logging.WARNING, text))
        if task.status is TaskStatus.FAILED:
            self._end(video, self.subject.failed(video.id, task.error or f"status {task.status_word!r}"), now)
        elif task.status is TaskStatus.COMPLETED and task.has_result:
            self._end(video, task, now)
        elif task.status is TaskStatus.COMPLETED:
            if not video.to_read:
                video.to_read, video.deadline = True, deadline_to_read(video.deadline, now)
            self._handle_error(video, self.subject.result_missing(video.id, task.error), sent_at, now)
        else:
            video.missing_since = None
            self._handle_unfinished(video, task, sent_at, now)

    def _handle_unfinished(self, video: _Video, task: Polled, sent_at: float, now: float) -> None:
        has_url = task.status is TaskStatus.UNKNOWN and task.has_result
        video.url_since = (now if video.url_since is None else video.url_since) if has_url else None
        is_final = sent_at >= video.deadline
        # The trigger has already decided that a video to be read is completed.
        if has_url and (is_final or video.to_read or (video.url_since or now) + GRACE_TIME <= now):
            self._end(video, replace(task, status=TaskStatus.COMPLETED), now)
        elif is_final:
            self._end(video, self._timed_out(video), now)
        else:
            self._schedule(video, now + self._interval(now), now)

    def _handle_error(self, video: _Video, error: ManxueError, sent_at: float, now: float) -> None:
        video.trouble = str(error)
        if isinstance(error, ManxueInternalError):
            self._handle_internal(video, error, sent_at, now)
        elif affects_all_videos(error):
            self._handle_connection_error(video, error, now)
        else:
            if not isinstance(error, ManxueResultMissingError) or not video.missing_since:
                self._lines += self._log.lines_for(video.id, error, now)
            if isinstance(error, ManxueTransientError):
                self._handle_transient(video, error, sent_at, now)
            elif isinstance(error, _OF_ONE_VIDEO):
                self._handle_in_grace(video, error, sent_at, now)
            else:
                self._end(video, error, now)

    def _handle_connection_error(self, video: _Video, error: ManxueError, now: float) -> None:
        if isinstance(error, ManxueAuthenticationError):
            video.refused_since = now if video.refused_since is None else video.refused_since
            # Usable responses for other videos reset the trouble of the connection each time.
            if self.has_worked and self._grace_ends and now - video.refused_since >= GRACE_TIME:
                self._end(video, error, now)
                return
        self._push(video)
        self.connection_failed(error, now)

    def _handle_transient(
        self, video: _Video, error: ManxueTransientError, sent_at: float, now: float
    ) -> None:
        is_throttled = isinstance(error, ManxueRateLimitError)
        pause = bounded_pause(error.retry_after)
        if sent_at >= video.deadline:
            self._retry_final(video, now, sent_at, pause, is_throttled=is_throttled)
            return
        video.failures += 1
        if video.to_read or self._quick_retries:
            delay = quick_retry_delay(video.failures)
            self._retrying.add(video.id)
        elif is_throttled:
            # The rate limiter slows all polls down. A longer interval in addition would leave the service idle afterwards.
            delay = self._interval(now)
        else:
            delay = self.policy.error_interval(video.failures)
            delay = max(delay * (1 + self._spread()), MIN_INTERVAL)
        self._schedule(video, now + self._after_pause(pause, delay), now, floor=now + pause)

    def _after_pause(self, pause: float, delay: float) -> float:
        """Return the seconds to the next poll. A pause delays all waits, so their polls are spread after it."""
        return max(delay, pause + self._chance() * self.policy.interval * JITTER) if pause else delay

    def _retry_final(
        self, video: _Video, now: float, sent_at: float, pause: float, *, is_throttled: bool
    ) -> None:
        """Retry a final poll without a usable response: after a pause, or within ``FINAL_POLL_WINDOW``."""
        video.failures = video.failures + 1 if video.final_time else 1
        waits_for_service = pause > 0 or (is_throttled and not self._holds_slot)
        video.final_pauses += waits_for_service
        # The window begins again after each pause. Repeated short pauses make the delay grow.
        delay = max(pause, quick_retry_delay(video.final_pauses if waits_for_service else video.failures))
        video.final_time = 0.0 if waits_for_service else video.final_time + max(0.0, now - sent_at) + delay
        at = now + delay
        is_too_late = waits_for_service and at > latest_final_poll(video.deadline)
        if is_too_late or video.final_time > FINAL_POLL_WINDOW:
            self._end(video, self._timed_out(video), now)
            return
        self._retrying.add(video.id)
        self._schedule(video, at, now, floor=at)

    def _handle_in_grace(self, video: _Video, error: ManxueError, sent_at: float, now: float) -> None:
        """Tolerate a 404 and the other errors of ``_OF_ONE_VIDEO`` during the grace period, and end the wait after it."""
        video.failures = 0
        pause = bounded_pause(error.retry_after)
        is_blocked = isinstance(error, BLOCKED)
        if is_blocked:
            self._blocked.add(video.id)
            # A process that does not know the start of the trouble could not end it after the pause.
            is_first_pause = pause > 0 and video.grace_since is None and self._grace_ends
            is_tolerated = self.has_worked or is_first_pause
            if not is_tolerated and self._blocked.issuperset(self._waiting):
                self._end_all(error)
                return
        since = video.grace_start(error, now)
        ends_at = since + GRACE_TIME if self._grace_ends else math.inf
        at = now + self._after_pause(pause, min(self._interval(now), ends_at - now))
        if now >= ends_at:
            self._end(video, self.subject.with_likely_causes(error, video.id), now)
        elif sent_at < video.deadline:
            self._schedule(video, at, now, floor=now + pause)
        elif pause:
            self._retry_final(video, now, sent_at, pause, is_throttled=False)
        elif is_blocked and self._grace_ends and not self._holds_slot:
            self._schedule(video, at, now, floor=at)
        else:
            self._end(video, self._timed_out(video), now)

    def _handle_internal(self, video: _Video, error: ManxueError, sent_at: float, now: float) -> None:
        if self._internal_since is None:
            self._internal_since = now
        if now - self._internal_since >= GRACE_TIME:
            self._end_all(error)
        elif sent_at >= video.deadline:
            self._retry_final(video, now, sent_at, 0.0, is_throttled=False)
        else:
            video.failures += 1
            self._schedule(video, now + min(self.policy.error_interval(video.failures), GRACE_TIME / 4), now)

    # --- schedule and end ---------------------------------------------------------------------------------------

    def _grace_time(self, error: ManxueError) -> float:
        if self.has_worked or isinstance(error, ManxueInternalError):
            return GRACE_TIME
        return NOT_FOUND_GRACE_TIME if isinstance(error, ManxueConnectionNotFoundError) else 0.0

    def _interval(self, now: float) -> float:
        """Return the seconds to the next regular poll, with jitter."""
        return max(self.policy.next_interval(now - self.started_at) * (1 + self._spread()), MIN_INTERVAL)

    def _spread(self) -> float:
        return (2 * self._chance() - 1) * JITTER

    def _schedule(self, video: _Video, at: float, now: float, floor: float = 0.0) -> None:
        """Schedule the next poll of a video: at its deadline at the latest, unless a pause ends later."""
        video.due_at = max(min(at, video.deadline), floor, now + MIN_INTERVAL)
        self._push(video)

    def _push(self, video: _Video) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (video.due_at, self._pushed, video.id))

    def _postpone(self, until: float, error: ManxueError, now: float) -> None:
        """Poll nothing before a moment, since the connection is not usable."""
        latest_to_read = max(video.deadline for video in self._waiting.values())
        ends_at = max(self.deadline + GRACE_TIME, latest_to_read)
        if now >= ends_at:
            self.give_up(now)
            return
        self._not_before = max(min(until, ends_at), now + MIN_INTERVAL)
        for video in self._waiting.values():
            video.trouble = str(error)

    def _end(self, video: _Video, outcome: Outcome, now: float) -> None:
        self._retrying.discard(video.id)
        del self._waiting[video.id]
        self.outcomes[video.id] = outcome
        self.ended_at[video.id] = now
        self.final_status = video.status
        error = outcome if isinstance(outcome, ManxueError) else None
        self._lines += self._log.lines_for_end(video.id, error, now)

    def _end_all(self, error: ManxueError) -> None:
        self.outcomes |= dict.fromkeys(self._waiting, error)
        self._retrying.clear()
        self._waiting.clear()

    def _timed_out(self, video: _Video) -> ManxueTimeoutError:
        return self.subject.timed_out(video.id, self.deadline - self.started_at, video.status, video.trouble)
