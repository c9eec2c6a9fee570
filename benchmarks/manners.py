"""Load on the service: its limits, a restart, and a ``Retry-After`` pause."""

from __future__ import annotations

import bisect
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks.service import service
from benchmarks.waiters import Plan, Report
from benchmarks.waits import START_UP, UNLIMITED, carry_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.service import Request

DEFAULT_LIMIT = 10
"""Requests per second of a connection without extra fields."""

ON_THEIR_WAY = 0.05
"""Seconds: maximum difference in the time that two requests take to the service, such as for a new TLS connection."""


def all_scenarios() -> dict[str, Any]:
    """Run all scenarios at the same time, since none measures speed or needs a whole core."""
    scenarios = (restart, pause, low_limit, look_ups)
    with ThreadPoolExecutor(len(scenarios)) as threads:
        running = [threads.submit(scenario) for scenario in scenarios]
        return {key: value for one in running for key, value in one.result().items()}


def restart() -> dict[str, Any]:
    """Start 10,000 waits together with the default limits, and measure the first minute."""
    requests, _ = _play(waits=10_000, interval=30.0, seconds=60.0)
    most = max(requests_within(requests, 1.0 - ON_THEIR_WAY))
    return {"restart_requests": len(requests), "restart_most_per_second": most}


def pause() -> dict[str, Any]:
    """Ask 1,000 waits for a pause of 10 s by a single 429."""
    requests, report = _play(waits=1_000, interval=5.0, seconds=25.0, extra=UNLIMITED, pause=10.0)
    (refused_at,) = report.refused_at
    during = [one for one in requests if refused_at + ON_THEIR_WAY < one.time < refused_at + 10.0]
    after = [one for one in requests if refused_at + 10.0 <= one.time < refused_at + 11.0]
    return {"pause_requests_during": len(during), "pause_requests_in_second_after": len(after)}


def low_limit() -> dict[str, Any]:
    """Let 1,000 waits meet a service that allows 5 requests per second; the first 60 s do not count."""
    requests, _ = _play(waits=1_000, interval=30.0, seconds=180.0, limit=5.0)
    begin = requests[0].time
    settled = [one for one in requests if one.time >= begin + 60.0]
    refused = sum(one.status == 429 for one in settled)
    # The last windows would end after the measurement.
    rates = [
        sum(start <= one.time < start + 60 for one in settled) / 60
        for start in (begin + 60 + second for second in range(60))
    ]
    return {
        "low_limit_least_rate": min(rates) / 5.0,
        "low_limit_greatest_rate": max(rates) / 5.0,
        "low_limit_refused_share": refused / len(settled),
    }


def look_ups() -> dict[str, Any]:
    """Count look-ups of the connection by 1,000 waits over 10 intervals."""
    requests, report = _play(waits=1_000, interval=10.0, seconds=105.0, extra=UNLIMITED)
    return {"look_ups": report.look_ups, "look_ups_polls": len(requests)}


def _play(
    *,
    waits: int,
    interval: float,
    seconds: float,
    extra: dict[str, Any] | None = None,
    limit: float | None = None,
    pause: float | None = None,
) -> tuple[list[Request], Report]:
    """Run waits for tasks that are not completed; with ``pause``, one 429 comes after 8 s."""
    with service(limit) as running, ThreadPoolExecutor(1) as thread:
        begins_at = time.time() + 2 * START_UP
        ends_at = begins_at + seconds
        plan = Plan(
            "manxue",
            *running.address(),
            tasks=running.add_tasks(waits, ends_at + 3600, ends_at + 7200, hidden=False),
            interval=interval,
            begins_at=begins_at,
            # What they cost is of no interest here.
            measured_from=ends_at,
            measured_until=ends_at,
            ends_at=ends_at,
            extra=extra or {},
        )
        report = thread.submit(carry_out, plan)
        if pause is not None:
            time.sleep(begins_at + 8.0 - time.time())
            running.refuse_next(pause)
        result = report.result()
        return [one for one in running.queries() if one.time < ends_at], result


def requests_within(requests: Sequence[Request], seconds: float) -> list[int]:
    """Return the number of requests in the stretch that begins with each."""
    times = [one.time for one in requests]
    return [bisect.bisect_left(times, moment + seconds) - place for place, moment in enumerate(times)]
