"""Schedules: tasks, settings and faults, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from airflow_provider_manxue.testing._rate import RateLimit
from airflow_provider_manxue.testing._response import Response

KEYS = ("SECRETKEY-of-the-start", "SECRETKEY-after-the-rotation")
"""The API keys. The oracle searches all output for their common part."""

PASSING = {
    name: Response.named(name)
    for name in (
        "http_500", "http_502_html", "http_503_seconds", "http_408", "http_429_seconds", "http_429_date",
        "http_429_junk", "http_429_day", "html_body", "empty_body", "json_broken", "json_list", "json_null", "not_utf8",
        "reset_before_read", "reset_after_read", "truncated_body", "endless_body", "gzip_body", "slow_body", "hang",
        "status_unknown",
    )
}  # fmt: skip
"""Transient faults. None of them may end a wait."""

YOUR_KEY = "YOUR-KEY"
"""In a response: replaced with the API key of the request."""

PASSING |= {
    "http_500_with_key": Response(status=500, json={"message": f"not for Bearer {YOUR_KEY}"}),
    "answer_with_key": Response(overrides={"trace": f"Bearer {YOUR_KEY}", "status": f"odd {YOUR_KEY}"}),
}

ENDING = {
    name: Response.named(name)
    for name in (
        "http_401", "http_403", "http_404", "http_200_business_error", "redirect", "completed_without_url",
        "object_image_generation",
    )
}  # fmt: skip
"""Faults that end a wait, some after a grace period."""

ON_CREATE = {
    name: Response.named(name)
    for name in (
        "create_reset_after_order", "create_http_500_after_order", "create_answers_failed",
        "create_envelope_project_id", "http_202_on_create", "id_space_and_slash", "http_400", "http_429_seconds",
        "html_body", "http_503_seconds", "hang", "truncated_body",
    )
}  # fmt: skip
"""Responses to orders. Only some of them show the outcome of the order."""

BUSY_CODE = 1302
"""The service's code for a full account. Some connections list it in ``busy_codes``."""

BUSY = {
    "busy_code": Response(json={"code": BUSY_CODE, "data": None, "msg": "no room"}, processed=False),
    "code_429": Response(json={"code": 429, "data": None, "msg": "no room"}, processed=False),
    "http_425": Response(status=425),
    "http_429_seconds": PASSING["http_429_seconds"],
    "http_429_cut": Response(status=429, retry_after=90, truncate=5),
}
"""Responses to orders while the account is full."""

MODES = ("deferred", "deferred", "poke", "reschedule", "from_trigger")


@dataclass(frozen=True)
class Video:
    """A video: the seconds until it ends, and whether it completes or fails."""

    seconds: float
    completes: bool


@dataclass(frozen=True)
class Plan:
    """One task, and the faults of this task alone."""

    name: str
    kind: str
    mode: str
    starts_at: float
    videos: tuple[Video, ...]
    interval: float
    timeout: float
    execution_timeout: float | None
    backoff: bool
    max_wait: float | None
    soft_fail: bool
    never_fail: bool
    retries: int
    retry_delay: float
    do_xcom_push: bool
    tolerate: bool = False
    waits: bool = True
    on_create: str | None = None
    has_store: bool = False
    person: bool = False
    kills: frozenset[int] = frozenset()
    interrupts: frozenset[int] = frozenset()
    store_fails_at: frozenset[int] = frozenset()
    xcom_fails_at: frozenset[int] = frozenset()
    resumes_stale: bool = False
    airflow_ends_at: float | None = None
    airflow_reason: str = "Trigger failure"
    has_start_date: bool = True
    named_twice: bool = False
    order_timeout: float | None = None
    cleared_after: float | None = None

    @property
    def is_ordered(self):
        """Whether the task sends a request that may be paid: an order, or an upload of assets."""
        return self.kind in {"order", "assets"}

    @property
    def is_many(self):
        """Whether the task waits for many videos or assets at once."""
        return self.kind in {"batch", "assets"}

    @property
    def files(self):
        """URLs of the files that the task uploads, one for each of its videos."""
        return [f"https://files.example/{self.name}/{number}.png" for number in range(len(self.videos))]

    @property
    def deferrable(self):
        return self.mode in {"deferred", "from_trigger"}

    @property
    def execution_bound(self):
        """``execution_timeout`` in seconds; infinite if there is none."""
        return self.execution_timeout or float("inf")


@dataclass(frozen=True)
class Schedule:
    """The tasks, the connection and the faults that were drawn for one seed."""

    seed: int
    plans: tuple[Plan, ...]
    extra: dict
    windows: list = field(default_factory=list)
    fault_rate: float = 0.0
    absences: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    rotation: tuple[float, float] | None = None
    rate_limit: RateLimit | None = None
    per_minute: int | None = None
    look_ups: list = field(default_factory=list)
    edits: list = field(default_factory=list)
    move: tuple[float, float] | None = None
    worker_fault_rate: float = 0.0
    is_crowd: bool = False
    max_running: int | None = None

    def settings(self, name):
        """Return all values that a field of the connection has during the schedule."""
        return [self.extra[name], *(edit[name] for _, edit in self.edits if name in edit)]

    def __str__(self):
        lines = [f"seed {self.seed}, connection {self.extra}"]
        lines += [
            f"  from {begin:.0f} s to {end:.0f} s, {target}: {name_of(response)}"
            for begin, end, target, response in self.windows
        ]
        for name, value in (
            ("random faults", self.fault_rate), ("triggerers away", self.absences), ("clock steps", self.steps),
            ("key rotated at the service and in Airflow", self.rotation), ("limit", self.rate_limit),
            ("requests in each minute", self.per_minute), ("look-ups fail", self.look_ups),
            ("edits of the connection", self.edits), ("service moved, and in Airflow", self.move),
            ("random faults for workers", self.worker_fault_rate), ("videos at a time", self.max_running),
        ):  # fmt: skip
            if value:
                lines.append(f"  {name}: {value}")
        return "\n".join([*lines, *(f"  {plan}" for plan in self.plans)])


def name_of(response):
    named = {**BUSY, **PASSING, **ENDING}
    return next((name for name in named if named[name] is response), response)


def draw(seed):
    """Return the schedule of a seed."""
    # Later additions have random sources of their own, so that the first draws of a seed never change.
    schedule = _more(random.Random(f"more of {seed}"), _draw(seed))
    # With the numbers 9, 1800 and 8, the seeds in tests/unit/test_schedules.py that once broke an invariant are not affected.
    schedule = _full_account(random.Random(f"room 9 of {seed}"), schedule)
    schedule = _reviews(random.Random(f"reviews 1800 of {seed}"), schedule)
    schedule = _broken_errors(random.Random(f"broken errors 8 of {seed}"), schedule)
    return _paused_refusals(random.Random(f"paused refusals of {seed}"), schedule)


def _draw(seed):
    rng = random.Random(seed)
    plans = tuple(_task(rng, f"task_{number}") for number in range(1, rng.choice((1, 1, 2)) + 1))
    schedule = Schedule(
        seed,
        plans,
        {
            "requests_per_second": rng.choice((0.5, 2.0, 10.0)),
            "max_connections": rng.choice((1, 2, 10)),
            "request_timeout": rng.choice((5.0, 30.0)),
        },
        windows=[_window(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 3)))],
        fault_rate=rng.choice((0.0, 0.0, 0.0, 0.1, 0.4)),
        absences=[
            [_absence(rng) for _ in range(rng.choice((0, 0, 1, 2)))] for _ in range(rng.choice((1, 1, 2)))
        ],
    )
    if rng.random() < 0.1:
        steps = [
            (rng.uniform(0, 600), rng.choice((-3600.0, -60.0, -5.0, 5.0, 60.0, 3600.0))) for _ in range(2)
        ]
        schedule = replace(schedule, steps=steps[: rng.choice((1, 2))])
    if rng.random() < 0.1:
        at = rng.uniform(0, 400)
        schedule = replace(schedule, rotation=(at, max(0.0, at + rng.choice((-20.0, 0.0, 0.5, 40.0)))))
    if rng.random() < 0.1:
        limit = RateLimit(
            rate=rng.choice((0.1, 1.0)),
            burst=rng.choice((1, 3)),
            retry_after=rng.choice(("seconds", "date")),
        )
        schedule = replace(schedule, rate_limit=limit)
    return schedule


def _more(rng, schedule):
    """Add faults of the connection, limits per minute, faults of single tasks, and a crowd of waits."""
    plans = tuple(_mishaps(rng, plan) for plan in schedule.plans)
    schedule = replace(schedule, plans=plans)
    if rng.random() < 0.1:
        begin = rng.choice((0.0, rng.uniform(0, 300)))
        kind = rng.choice(("missing", "missing", "error", "hangs"))
        schedule = replace(schedule, look_ups=[(begin, begin + rng.choice((10.0, 60.0, 150.0)), kind)])
    if rng.random() < 0.1:
        edit = rng.choice(
            ({"requests_per_second": 0.5}, {"requests_per_second": 20.0}, {"max_connections": 3}, {"verify": False},
             {"request_timeout": 10.0}, {"allow_http": "no boolean"})
        )  # fmt: skip
        schedule = replace(schedule, edits=[(rng.uniform(0, 300), edit)])
    if rng.random() < 0.05:
        at = rng.uniform(0, 300)
        schedule = replace(schedule, move=(at, max(0.0, at + rng.choice((-20.0, 0.0, 40.0)))))
    if rng.random() < 0.08:
        schedule = replace(schedule, worker_fault_rate=rng.choice((0.2, 0.5)))
    if rng.random() < 0.04 and schedule.rate_limit is None:
        schedule = replace(schedule, per_minute=rng.choice((5, 20)))
    return _crowd(rng, schedule) if rng.random() < 0.05 else schedule


def _mishaps(rng, plan):
    if plan.kind == "batch" and rng.random() < 0.1:
        plan = replace(plan, named_twice=True)
    if plan.mode == "reschedule":
        plan = replace(plan, has_store=rng.random() < 0.5)
    if plan.deferrable and rng.random() < 0.08:
        plan = replace(
            plan,
            airflow_ends_at=rng.uniform(0, 1.2 * plan.timeout),
            airflow_reason=rng.choice(("Trigger failure", "Trigger timeout")),
            has_start_date=rng.random() < 0.7,
        )
    if rng.random() < 0.05:
        first = rng.randrange(1, 6)
        plan = replace(plan, xcom_fails_at=frozenset(range(first, first + rng.choice((1, 3)))))
    if plan.deferrable and rng.random() < 0.05:
        plan = replace(plan, resumes_stale=True)
    return plan


def _crowd(rng, schedule):
    """
    Let many waits share a limit that is too low for them.

    Their number is derived from the limit and kept small: such a schedule takes as long as ten others.
    """
    template = replace(
        schedule.plans[0],
        kind="sensor",
        kills=frozenset(),
        interrupts=frozenset(),
        person=False,
        waits=True,
        on_create=None,
    )
    rate = rng.choice((0.5, 1.0, 1.5))
    tasks = round(10.0 * rate * rng.choice((0.8, 1.2, 2.0)))
    timeout = rng.choice((20.0, 45.0, 120.0))
    crowd = []
    for number in range(1, tasks + 1):
        is_batch = rng.random() < 0.15
        videos = rng.choice((3, 10)) if is_batch else 1
        crowd.append(
            replace(
                template,
                name=f"task_{number}",
                kind="batch" if is_batch else "sensor",
                mode=rng.choice(("deferred", "deferred", "from_trigger")),
                starts_at=rng.choice((0.0, rng.uniform(0, 20))),
                videos=tuple(
                    Video(rng.uniform(0, 1.1 * timeout), completes=rng.random() < 0.9) for _ in range(videos)
                ),
                interval=10.0,
                timeout=timeout,
                execution_timeout=None,
                backoff=False,
                max_wait=None,
                retries=0,
                airflow_ends_at=None,
                named_twice=False,
            )
        )  # fmt: skip
    extra = {"requests_per_second": rate, "max_connections": rng.choice((1, 10)), "request_timeout": 5.0}
    return replace(
        schedule,
        plans=tuple(crowd),
        extra=extra,
        steps=[],
        fault_rate=rng.choice((0.0, 0.0, 0.03)),
        absences=schedule.absences[:1],
        rate_limit=None,
        is_crowd=True,
    )


def _full_account(rng, schedule):
    """In one of eight schedules, let several orders share an account that runs only a few videos at a time."""
    if rng.random() >= 0.125:
        return schedule
    extra = {**schedule.extra, **rng.choice(({}, {"busy_codes": [BUSY_CODE]}))}
    names = [f"task_{number}" for number in range(1, rng.choice((2, 3, 5)) + 1)]
    return replace(
        schedule,
        extra=extra,
        plans=tuple(_order_that_may_wait(rng, name, extra["request_timeout"]) for name in names),
        max_running=rng.choice((0, 1, 1, 1, 2)),
        windows=[*schedule.windows, *([_busy_window(rng)] if rng.random() < 0.4 else [])],
        is_crowd=False,
    )


def _order_that_may_wait(rng, name, request_timeout):
    plan = _mishaps(rng, _plan(rng, name, "order"))
    plan = replace(
        plan,
        order_timeout=rng.choice((None, 20.0, 90.0, 400.0, 1000.0, 4000.0)),
        execution_timeout=None,
        has_store=rng.random() < 0.6,
        on_create=plan.on_create if rng.random() < 0.3 else None,
    )
    if rng.random() < 0.3:  # close to the seconds that an attempt needs
        reserve = request_timeout + (2 * plan.interval if plan.waits else 0.0)
        plan = replace(plan, execution_timeout=reserve + rng.choice((-1.0, 1.0, 40.0, 400.0)))
    if rng.random() < 0.3:
        plan = replace(plan, kills=_numbers(rng, rng.choice((20, 60, 120))))
    if rng.random() < 0.3:
        plan = replace(plan, interrupts=_numbers(rng, rng.choice((20, 60, 120))))
    if plan.deferrable and rng.random() < 0.2:
        plan = replace(plan, airflow_ends_at=rng.uniform(0, 150))
    if plan.deferrable and rng.random() < 0.2:
        plan = replace(plan, cleared_after=rng.uniform(0, 150))
    if plan.deferrable and not plan.has_store and rng.random() < 0.4:
        plan = replace(plan, resumes_stale=True)
    return plan


def _reviews(rng, schedule):
    """In one of ten schedules, let the tasks that order upload assets instead."""
    if rng.random() >= 0.1:
        return schedule
    return replace(schedule, plans=tuple(_review(rng, plan) for plan in schedule.plans))


def _review(rng, plan):
    if plan.kind != "order" or plan.on_create is not None:
        return plan
    videos = tuple(_video(rng, plan.timeout) for _ in range(rng.choice((0, 1, 3))))
    return replace(plan, kind="assets", videos=(*plan.videos, *videos), waits=True)


def _broken_errors(rng, schedule):
    """In one of ten schedules, let the bodies of the errors that polls receive break off."""
    if rng.random() >= 0.1:
        return schedule
    return replace(schedule, windows=[_with_broken_error(*window) for window in schedule.windows])


def _with_broken_error(begin, end, target, response):
    if target == "query" and isinstance(response, Response) and (response.status or 200) >= 300:
        response = replace(response, truncate=1)
    return begin, end, target, response


def _paused_refusals(rng, schedule):
    """In one of ten schedules, let the refusals and redirects that polls receive request a pause."""
    if rng.random() >= 0.1:
        return schedule
    pause = rng.choice((5, 60, 400))
    return replace(schedule, windows=[_with_pause(pause, *window) for window in schedule.windows])


def _with_pause(pause, begin, end, target, response):
    if target == "query" and isinstance(response, Response) and response.status in {302, 403, 404}:
        response = replace(response, retry_after=pause)
    return begin, end, target, response


def _busy_window(rng):
    """Return a window in which the account is full, with one of the service's responses for it."""
    begin = rng.choice((0.0, rng.uniform(0, 300)))
    return begin, begin + rng.choice((5.0, 60.0, 400.0)), "create", rng.choice(list(BUSY.values()))


def _window(rng):
    begin = rng.choice((0.0, rng.uniform(0, 500)))
    end = begin + rng.choice((5.0, 40.0, 150.0, 400.0))
    kind = rng.random()
    if kind < 0.15:
        return begin, end, "all", "refused"
    if kind < 0.3:
        return begin, end, "all", "slow"
    table = ENDING if kind > 0.85 else PASSING
    target = "query" if table is ENDING else rng.choice(("query", "query", "create"))
    return begin, end, target, table[rng.choice(list(table))]


def _absence(rng):
    begin = rng.uniform(0, 500)
    return begin, begin + rng.choice((2.0, 30.0, 120.0, 700.0)), rng.random() < 0.3


def _task(rng, name):
    return _plan(rng, name, rng.choice(("sensor", "sensor", "batch", "order", "order")))


def _plan(rng, name, kind):
    interval = rng.choice((10.0, 30.0, 60.0))
    timeout = interval * rng.choice((0.5, 2.0, 5.0, 10.0))
    if rng.random() < 0.01:
        timeout = 3000.0
    plan = Plan(
        name,
        kind,
        rng.choice(MODES),
        rng.choice((0.0, 0.0, rng.uniform(0, 100))),
        tuple(_video(rng, timeout) for _ in range(rng.choice((1, 2, 4)) if kind == "batch" else 1)),
        interval,
        timeout,
        rng.choice((None, None, None, timeout * 0.6, timeout * 3)),
        backoff := rng.random() < 0.2,
        rng.choice((None, 90.0)) if backoff else None,
        soft_fail=rng.random() < 0.1,
        never_fail=rng.random() < 0.1,
        retries=rng.choice((0, 1, 2)),
        retry_delay=rng.choice((5.0, 60.0)),
        do_xcom_push=rng.random() < 0.95,
        tolerate=rng.random() < 0.3,
    )
    if plan.soft_fail and plan.never_fail:  # Airflow allows one of them
        plan = replace(plan, never_fail=False)
    if rng.random() < 0.2:
        plan = replace(plan, kills=_numbers(rng, 40))
    return _order(rng, plan) if kind == "order" else plan


def _order(rng, plan):
    plan = replace(
        plan,
        mode=rng.choice(("deferred", "poke")),
        do_xcom_push=True,  # the oracle takes the start of the wait from the XCom
        waits=rng.random() < 0.85,
        has_store=rng.random() < 0.85,
        person=rng.random() < 0.5,
        retries=rng.choice((1, 2, 3)),
        kills=_numbers(rng, 40) if rng.random() < 0.4 else frozenset(),
        interrupts=_numbers(rng, 40) if rng.random() < 0.1 else frozenset(),
    )
    if rng.random() < 0.3:
        plan = replace(plan, on_create=rng.choice(list(ON_CREATE)))
    if rng.random() < 0.15:
        first = rng.randrange(1, 8)
        plan = replace(plan, store_fails_at=frozenset(range(first, first + rng.choice((1, 3, 6)))))
    return plan


def _numbers(rng, most):
    return frozenset(rng.randrange(most) for _ in range(rng.choice((1, 1, 2))))


def _video(rng, timeout):
    return Video(
        rng.choice((0.0, rng.uniform(0, timeout), rng.uniform(0, 1.3 * timeout))),
        rng.random() < 0.8,
    )
