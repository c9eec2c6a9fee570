"""What happens in a schedule, drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from airflow_provider_manxue.testing._rate import RateLimit
from airflow_provider_manxue.testing._response import Response

KEYS = ("SECRETKEY-of-the-start", "SECRETKEY-after-the-rotation")
"""The API keys; their common part must turn up nowhere."""

PASSING = {
    name: Response.named(name)
    for name in (
        "http_500", "http_502_html", "http_503_seconds", "http_408", "http_429_seconds", "http_429_date",
        "http_429_junk", "http_429_day", "html_body", "empty_body", "json_broken", "json_list", "json_null", "not_utf8",
        "reset_before_read", "reset_after_read", "truncated_body", "endless_body", "gzip_body", "slow_body", "hang",
        "status_unknown",
    )
}  # fmt: skip
"""Faults that pass; none of them may end a wait."""

YOUR_KEY = "YOUR-KEY"
"""In an answer: the key with which the request came."""

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
"""Faults that end a wait, some after their time of grace."""

ON_CREATE = {
    name: Response.named(name)
    for name in (
        "create_reset_after_order", "create_http_500_after_order", "create_answers_failed",
        "create_envelope_project_id", "http_202_on_create", "id_space_and_slash", "http_400", "http_429_seconds",
        "html_body", "http_503_seconds", "hang", "truncated_body",
    )
}  # fmt: skip
"""Answers to orders; only some of them say what became of the order."""

BUSY_CODE = 1302
"""The code by which the service says that it has no room; some connections name it in ``busy_codes``."""

BUSY = {
    "busy_code": Response(json={"code": BUSY_CODE, "data": None, "msg": "no room"}, processed=False),
    "code_429": Response(json={"code": 429, "data": None, "msg": "no room"}, processed=False),
    "http_425": Response(status=425),
    "http_429_seconds": PASSING["http_429_seconds"],
    "http_429_cut": Response(status=429, retry_after=90, truncate=5),
}
"""Answers to orders for which there is no room."""

MODES = ("deferred", "deferred", "poke", "reschedule", "from_trigger")


@dataclass(frozen=True)
class Video:
    """What becomes of a video: when it is ready, counted from its beginning, and whether there is one."""

    seconds: float
    completes: bool


@dataclass(frozen=True)
class Plan:
    """One task, and what happens to it alone."""

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
    def deferrable(self):
        return self.mode in {"deferred", "from_trigger"}

    @property
    def execution_bound(self):
        """Seconds that a try may take in all, infinite if there is no such limit."""
        return self.execution_timeout or float("inf")


@dataclass(frozen=True)
class Schedule:
    """All that is drawn for one seed."""

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
        """Return the values that a field of the connection has in the course of time."""
        return [self.extra[name], *(edit[name] for _, edit in self.edits if name in edit)]

    def __str__(self):
        lines = [f"seed {self.seed}, connection {self.extra}"]
        lines += [
            f"  from {begin:.0f} s to {end:.0f} s, {target}: {name_of(answer)}"
            for begin, end, target, answer in self.windows
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


def name_of(answer):
    named = {**BUSY, **PASSING, **ENDING}
    return next((name for name in named if named[name] is answer), answer)


def draw(seed):
    """Return the schedule of a seed."""
    # What came later is drawn apart, so that a seed keeps the schedule that it had.
    schedule = _more(random.Random(f"more of {seed}"), _draw(seed))
    # The number leaves alone the seeds that have found something before.
    return _full_account(random.Random(f"room 9 of {seed}"), schedule)


def _draw(seed):
    chance = random.Random(seed)
    plans = tuple(_task(chance, f"task_{number}") for number in range(1, chance.choice((1, 1, 2)) + 1))
    schedule = Schedule(
        seed,
        plans,
        {
            "requests_per_second": chance.choice((0.5, 2.0, 10.0)),
            "max_connections": chance.choice((1, 2, 10)),
            "request_timeout": chance.choice((5.0, 30.0)),
        },
        windows=[_window(chance) for _ in range(chance.choice((0, 0, 1, 1, 2, 3)))],
        fault_rate=chance.choice((0.0, 0.0, 0.0, 0.1, 0.4)),
        absences=[
            [_absence(chance) for _ in range(chance.choice((0, 0, 1, 2)))]
            for _ in range(chance.choice((1, 1, 2)))
        ],
    )
    if chance.random() < 0.1:
        steps = [
            (chance.uniform(0, 600), chance.choice((-3600.0, -60.0, -5.0, 5.0, 60.0, 3600.0)))
            for _ in range(2)
        ]
        schedule = replace(schedule, steps=steps[: chance.choice((1, 2))])
    if chance.random() < 0.1:
        at = chance.uniform(0, 400)
        schedule = replace(schedule, rotation=(at, max(0.0, at + chance.choice((-20.0, 0.0, 0.5, 40.0)))))
    if chance.random() < 0.1:
        limit = RateLimit(
            rate=chance.choice((0.1, 1.0)),
            burst=chance.choice((1, 3)),
            retry_after=chance.choice(("seconds", "date")),
        )
        schedule = replace(schedule, rate_limit=limit)
    return schedule


def _more(chance, schedule):
    """Add a crowd of waits, trouble with the connection, limits by the minute, and what Airflow does to single tasks."""
    plans = tuple(_mishaps(chance, plan) for plan in schedule.plans)
    schedule = replace(schedule, plans=plans)
    if chance.random() < 0.1:
        begin = chance.choice((0.0, chance.uniform(0, 300)))
        kind = chance.choice(("missing", "missing", "error", "hangs"))
        schedule = replace(schedule, look_ups=[(begin, begin + chance.choice((10.0, 60.0, 150.0)), kind)])
    if chance.random() < 0.1:
        edit = chance.choice(
            ({"requests_per_second": 0.5}, {"requests_per_second": 20.0}, {"max_connections": 3}, {"verify": False},
             {"request_timeout": 10.0}, {"allow_http": "no boolean"})
        )  # fmt: skip
        schedule = replace(schedule, edits=[(chance.uniform(0, 300), edit)])
    if chance.random() < 0.05:
        at = chance.uniform(0, 300)
        schedule = replace(schedule, move=(at, max(0.0, at + chance.choice((-20.0, 0.0, 40.0)))))
    if chance.random() < 0.08:
        schedule = replace(schedule, worker_fault_rate=chance.choice((0.2, 0.5)))
    if chance.random() < 0.04 and schedule.rate_limit is None:
        schedule = replace(schedule, per_minute=chance.choice((5, 20)))
    return _crowd(chance, schedule) if chance.random() < 0.05 else schedule


def _mishaps(chance, plan):
    if plan.kind == "batch" and chance.random() < 0.1:
        plan = replace(plan, named_twice=True)
    if plan.mode == "reschedule":
        plan = replace(plan, has_store=chance.random() < 0.5)
    if plan.deferrable and chance.random() < 0.08:
        plan = replace(
            plan,
            airflow_ends_at=chance.uniform(0, 1.2 * plan.timeout),
            airflow_reason=chance.choice(("Trigger failure", "Trigger timeout")),
            has_start_date=chance.random() < 0.7,
        )
    if chance.random() < 0.05:
        first = chance.randrange(1, 6)
        plan = replace(plan, xcom_fails_at=frozenset(range(first, first + chance.choice((1, 3)))))
    if plan.deferrable and chance.random() < 0.05:
        plan = replace(plan, resumes_stale=True)
    return plan


def _crowd(chance, schedule):
    """
    Let many waits share a limit that binds.

    Their number follows from the limit, and is no larger than it takes: a world of this kind costs as much time as ten others.
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
    rate = chance.choice((0.5, 1.0, 1.5))
    tasks = round(10.0 * rate * chance.choice((0.8, 1.2, 2.0)))
    timeout = chance.choice((20.0, 45.0, 120.0))
    crowd = []
    for number in range(1, tasks + 1):
        is_batch = chance.random() < 0.15
        videos = chance.choice((3, 10)) if is_batch else 1
        crowd.append(
            replace(
                template,
                name=f"task_{number}",
                kind="batch" if is_batch else "sensor",
                mode=chance.choice(("deferred", "deferred", "from_trigger")),
                starts_at=chance.choice((0.0, chance.uniform(0, 20))),
                videos=tuple(
                    Video(chance.uniform(0, 1.1 * timeout), completes=chance.random() < 0.9) for _ in range(videos)
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
    extra = {"requests_per_second": rate, "max_connections": chance.choice((1, 10)), "request_timeout": 5.0}
    return replace(
        schedule,
        plans=tuple(crowd),
        extra=extra,
        steps=[],
        fault_rate=chance.choice((0.0, 0.0, 0.03)),
        absences=schedule.absences[:1],
        rate_limit=None,
        is_crowd=True,
    )


def _full_account(chance, schedule):
    """Let several orders share an account that runs a few videos at a time, in one of eight schedules."""
    if chance.random() >= 0.125:
        return schedule
    extra = {**schedule.extra, **chance.choice(({}, {"busy_codes": [BUSY_CODE]}))}
    names = [f"task_{number}" for number in range(1, chance.choice((2, 3, 5)) + 1)]
    return replace(
        schedule,
        extra=extra,
        plans=tuple(_order_that_may_wait(chance, name, extra["request_timeout"]) for name in names),
        max_running=chance.choice((0, 1, 1, 1, 2)),
        windows=[*schedule.windows, *([_busy_window(chance)] if chance.random() < 0.4 else [])],
        is_crowd=False,
    )


def _order_that_may_wait(chance, name, request_timeout):
    plan = _mishaps(chance, _plan(chance, name, "order"))
    plan = replace(
        plan,
        order_timeout=chance.choice((None, 20.0, 90.0, 400.0, 1000.0, 4000.0)),
        execution_timeout=None,
        has_store=chance.random() < 0.6,
        on_create=plan.on_create if chance.random() < 0.3 else None,
    )
    if chance.random() < 0.3:  # around what an attempt needs
        reserve = request_timeout + (2 * plan.interval if plan.waits else 0.0)
        plan = replace(plan, execution_timeout=reserve + chance.choice((-1.0, 1.0, 40.0, 400.0)))
    if chance.random() < 0.3:
        plan = replace(plan, kills=_numbers(chance, chance.choice((20, 60, 120))))
    if chance.random() < 0.3:
        plan = replace(plan, interrupts=_numbers(chance, chance.choice((20, 60, 120))))
    if plan.deferrable and chance.random() < 0.2:
        plan = replace(plan, airflow_ends_at=chance.uniform(0, 150))
    if plan.deferrable and chance.random() < 0.2:
        plan = replace(plan, cleared_after=chance.uniform(0, 150))
    if plan.deferrable and not plan.has_store and chance.random() < 0.4:
        plan = replace(plan, resumes_stale=True)
    return plan


def _busy_window(chance):
    """Return a window in which the service has no room for an order, and says so in one of several ways."""
    begin = chance.choice((0.0, chance.uniform(0, 300)))
    return begin, begin + chance.choice((5.0, 60.0, 400.0)), "create", chance.choice(list(BUSY.values()))


def _window(chance):
    begin = chance.choice((0.0, chance.uniform(0, 500)))
    end = begin + chance.choice((5.0, 40.0, 150.0, 400.0))
    kind = chance.random()
    if kind < 0.15:
        return begin, end, "all", "refused"
    if kind < 0.3:
        return begin, end, "all", "slow"
    table = ENDING if kind > 0.85 else PASSING
    target = "query" if table is ENDING else chance.choice(("query", "query", "create"))
    return begin, end, target, table[chance.choice(list(table))]


def _absence(chance):
    begin = chance.uniform(0, 500)
    return begin, begin + chance.choice((2.0, 30.0, 120.0, 700.0)), chance.random() < 0.3


def _task(chance, name):
    return _plan(chance, name, chance.choice(("sensor", "sensor", "batch", "order", "order")))


def _plan(chance, name, kind):
    interval = chance.choice((10.0, 30.0, 60.0))
    timeout = interval * chance.choice((0.5, 2.0, 5.0, 10.0))
    if chance.random() < 0.01:
        timeout = 3000.0
    plan = Plan(
        name,
        kind,
        chance.choice(MODES),
        chance.choice((0.0, 0.0, chance.uniform(0, 100))),
        tuple(_video(chance, timeout) for _ in range(chance.choice((1, 2, 4)) if kind == "batch" else 1)),
        interval,
        timeout,
        chance.choice((None, None, None, timeout * 0.6, timeout * 3)),
        backoff := chance.random() < 0.2,
        chance.choice((None, 90.0)) if backoff else None,
        soft_fail=chance.random() < 0.1,
        never_fail=chance.random() < 0.1,
        retries=chance.choice((0, 1, 2)),
        retry_delay=chance.choice((5.0, 60.0)),
        do_xcom_push=chance.random() < 0.95,
        tolerate=chance.random() < 0.3,
    )
    if plan.soft_fail and plan.never_fail:  # Airflow allows one of them
        plan = replace(plan, never_fail=False)
    if chance.random() < 0.2:
        plan = replace(plan, kills=_numbers(chance, 40))
    return _order(chance, plan) if kind == "order" else plan


def _order(chance, plan):
    plan = replace(
        plan,
        mode=chance.choice(("deferred", "poke")),
        do_xcom_push=True,  # by which the oracle learns when the wait begins
        waits=chance.random() < 0.85,
        has_store=chance.random() < 0.85,
        person=chance.random() < 0.5,
        retries=chance.choice((1, 2, 3)),
        kills=_numbers(chance, 40) if chance.random() < 0.4 else frozenset(),
        interrupts=_numbers(chance, 40) if chance.random() < 0.1 else frozenset(),
    )
    if chance.random() < 0.3:
        plan = replace(plan, on_create=chance.choice(list(ON_CREATE)))
    if chance.random() < 0.15:
        first = chance.randrange(1, 8)
        plan = replace(plan, store_fails_at=frozenset(range(first, first + chance.choice((1, 3, 6)))))
    return plan


def _numbers(chance, most):
    return frozenset(chance.randrange(most) for _ in range(chance.choice((1, 1, 2))))


def _video(chance, timeout):
    return Video(
        chance.choice((0.0, chance.uniform(0, timeout), chance.uniform(0, 1.3 * timeout))),
        chance.random() < 0.8,
    )
