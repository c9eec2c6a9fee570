"""
Kills of a process at each of its suspension points.

These points are found in the source, so a new one without a kill fails here.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_provider_manxue._airflow import start_from_trigger as from_trigger
from airflow_provider_manxue.testing import Response
from tests.simulation.play import play
from tests.simulation.schedule import Plan, Schedule, Video
from tests.simulation.simulation import installed

PACKAGE = Path(from_trigger.__file__).parents[1]
TRIGGERER_SIDE = (
    "triggers/manxue.py",
    "_airflow/task_trigger.py",
    "_airflow/xcoms.py",
    "_client/async_client.py",
    "_client/connection_cache.py",
    "_client/connection_loader.py",
    "_client/endpoint.py",
    "_client/credentials.py",
    "_client/drivers.py",
    "_client/background.py",
)
ORDER_SIDE = (
    "operators/manxue.py",
    "_airflow/ordered_wait.py",
    "_airflow/ordered_video_wait.py",
    "_airflow/order_life.py",
    "_airflow/order_store.py",
    "hooks/manxue.py",
    "_client/sync_client.py",
    "_airflow/single_wait.py",
    "_airflow/waiting.py",
    "operators/assets.py",
    "_airflow/asset_review.py",
    "_airflow/batch_wait.py",
)

IO = {
    "get",
    "set",
    "delete",
    "xcom_push",
    "sleep",
    "get_connection",
    "defer",
    "request",
    "read1",
    "log",
    "info",
}
"""Methods that leave the worker process, if called on one of the owners below."""
OWNERS = {"_store", "ti", "time", "session", "raw", "self", "log", "_log"}

NO_PART_OF_A_TASK = {"_resend", "dry_run"}
"""Functions that tasks do not call."""

needs_3_3 = pytest.mark.skipif(
    not from_trigger.CAN_START_AND_END, reason="this Airflow starts and ends tasks on workers only"
)


# --- suspension points in the source ------------------------------------------------------------------------------------


def suspensions(file):
    """Return the lines on which code of the triggerer can be suspended, and thus killed."""
    text = (PACKAGE / file).read_text()
    tree, lines = ast.parse(text), text.splitlines()
    return {
        (file, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith))
        and not _is_timeout(node)
        and "_cache.current"
        not in lines[node.lineno - 1]  # the drivers await the limiter, and thus the look-up, before
    }


def _is_timeout(node):
    """Return whether a block is one of asyncio.timeout, which itself never waits."""
    return isinstance(node, ast.AsyncWith) and ast.unparse(node.items[0]).startswith("asyncio.timeout")


def calls(file):
    """Return the lines on which code of a worker leaves its process."""
    tree = ast.parse((PACKAGE / file).read_text())
    return {
        (file, node.lineno)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name not in NO_PART_OF_A_TASK
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in IO
        and _name(node.func.value) in OWNERS
    }


def _name(node):
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        return ast.literal_eval(node.slice) if isinstance(node.slice, ast.Constant) else ""
    return getattr(node, "id", "")


# --- current position of a process -------------------------------------------------------------------------------------------


def line_of(code, line):
    """Return file and line, if they are in the package."""
    path = Path(code.co_filename)
    return {(str(path.relative_to(PACKAGE)), line)} if path.is_relative_to(PACKAGE) else set()


def suspended_at(awaitable):
    """Return all lines on which a coroutine is suspended, from its outermost frame to its innermost."""
    places = set()
    while awaitable is not None:
        if type(awaitable).__name__ in {"async_generator_asend", "async_generator_athrow"}:
            held = gc.get_referents(awaitable)
            awaitable = next((item for item in held if isinstance(item, types.AsyncGeneratorType)), None)
            continue
        kind = "ag" if isinstance(awaitable, types.AsyncGeneratorType) else "cr"
        frame = getattr(awaitable, f"{kind}_frame", None)
        if frame is not None:
            places |= line_of(frame.f_code, frame.f_lineno)
        awaitable = getattr(awaitable, f"{kind}_await", None)
    return places


def all_suspension_points(loop):
    return set().union(*(suspended_at(task.get_coro()) for task in asyncio.all_tasks(loop)))


def stack_and(what):
    """Return the lines on the stack, and those of the traceback of an error."""
    places, frame = set(), sys._getframe(1)
    while frame is not None:
        places |= line_of(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    trace = what.__traceback__ if isinstance(what, BaseException) else None
    while isinstance(trace, types.TracebackType):
        places |= line_of(trace.tb_frame.f_code, trace.tb_lineno)
        trace = trace.tb_next
    return places


# --- the triggerer ------------------------------------------------------------------------------------------------

PLAN = Plan(
    "task_1",
    kind="sensor",
    mode="from_trigger",
    starts_at=1.0,
    videos=(Video(25.0, completes=True),),
    interval=10.0,
    timeout=100.0,
    execution_timeout=None,
    backoff=False,
    max_wait=None,
    soft_fail=False,
    never_fail=False,
    retries=2,
    retry_delay=5.0,
    do_xcom_push=True,
)
FOUR = tuple(Video(seconds, completes=True) for seconds in (0.0, 5.0, 15.0, 15.0))
EXTRA = {"requests_per_second": 2.0, "max_connections": 2, "request_timeout": 5.0}
REFERENCE = {"xcom_task_id": "before_task_1", "xcom_key": "return_value", "xcom_is_mapped": False}


def one_task(plan, **options):
    return Schedule(1, (plan,), EXTRA, absences=[[]], **options)


BATCH = replace(PLAN, kind="batch", videos=FOUR)
AGING = replace(BATCH, videos=(FOUR[0], Video(330.0, completes=True)), interval=60.0, timeout=600.0)

ORDER = replace(
    PLAN, kind="order", mode="deferred", videos=(Video(5.0, completes=True),), has_store=True, person=True
)
UPLOAD = replace(ORDER, kind="assets", videos=FOUR)
BUSY = (0.0, 8.0, "create", Response.named("http_429_seconds"))
FULL = (0.0, 30.0, "create", Response.named("http_429_seconds"))

TRIGGERS = {
    "a video": one_task(PLAN),
    "a deferred wait": one_task(replace(PLAN, mode="deferred")),
    "a key that is rotated": one_task(PLAN, rotation=(5.0, 5.5)),
    "a second try": one_task(PLAN, windows=[(0.0, 6.0, "query", Response.named("http_403"))]),
    "a pause beyond the deadline": one_task(
        PLAN, windows=[(0.0, 50.0, "query", Response.named("http_429_day"))]
    ),
    "a batch": one_task(BATCH),
    "a batch whose URLs age": one_task(AGING),
    "a batch of a mapped task": one_task(replace(BATCH, videos=FOUR[:2])),
    "a batch of create responses": one_task(replace(BATCH, videos=FOUR[:1])),
    "an order that waits for room": one_task(ORDER, windows=[FULL]),
    "an upload": one_task(UPLOAD),
}


def of_a_mapped_task(instance, arguments):
    arguments["video_task_ids"] = {**REFERENCE, "xcom_is_mapped": True}


def of_a_create_response(instance, arguments):
    instance.upstream = instance.upstream[0]
    arguments |= {"video_task_ids": [{"id": REFERENCE}], "manxue_conn_id": REFERENCE}


ARGUMENTS = {
    "a batch of a mapped task": of_a_mapped_task,
    "a batch of create responses": of_a_create_response,
}


def change_arguments(simulation, name):
    if name in ARGUMENTS:
        instance = simulation.instances["task_1"]
        ARGUMENTS[name](instance, instance.task.start_trigger_args.trigger_kwargs)


def kill_triggerer_after(turn, schedule, name):
    """Kill the triggerer after a turn of its loop. Return its suspension points, the violations and the simulation."""
    places, ended = set(), []

    def prepare(simulation):
        def look():
            # What a killed process would still do has no effect, so these points count as killed, too.
            places.update(all_suspension_points(simulation.loop))

        def kill():
            look()
            simulation.triggerers.kill(20.0)
            simulation.loop.after_turn.update({turn + later: look for later in range(1, 6)})

        simulation.loop.after_turn = {turn: kill}
        if schedule.rotation:  # the new key comes with another TLS setting
            simulation.connection.extra_dejson = dict(schedule.extra)
            simulation.loop.call_later(5.5, simulation.connection.extra_dejson.update, {"verify": False})
        simulation.loop.after_turn[1] = lambda: change_arguments(simulation, name)
        ended.append(simulation)

    found = play(1, schedule, prepare)[2]
    return places, found, ended[0]


def turns_of(schedule, name):
    """Return the number of turns of the loop until all tasks have ended."""
    last = 0

    def prepare(simulation):
        def count():
            nonlocal last
            if simulation.loop.turns == 1:
                change_arguments(simulation, name)
            running = [instance.state in {None, "up_for_retry"} for instance in simulation.instances.values()]
            if any(running) or not running:
                last = simulation.loop.turns
            simulation.loop.after_turn[simulation.loop.turns + 1] = count

        simulation.loop.after_turn = {1: count}

    play(1, schedule, prepare)
    return last


@needs_3_3
def test_triggerer_survives_a_kill_at_each_await():
    """
    Kills the triggerer after each turn of its event loop.

    A new one takes over the triggers, and each wait must still succeed.
    """
    seen, wrong = set(), {}
    with installed():
        for name, schedule in TRIGGERS.items():
            for turn in range(2, turns_of(schedule, name) + 1):
                places, found, simulation = kill_triggerer_after(turn, schedule, name)
                seen |= places
                state = simulation.instances["task_1"].state
                # A restarted triggerer does not know the pause, and polls.
                if found or (state != "success" and "pause" not in name):
                    wrong[name, turn] = (state, found)
    in_source = set().union(*map(suspensions, TRIGGERER_SIDE))
    assert wrong == {}
    assert sorted(in_source - seen) == []


# --- the worker, mostly with orders --------------------------------------------------------------------------

ORDERS = {
    "an order": one_task(ORDER),
    "an order that a worker awaits": one_task(replace(ORDER, mode="poke")),
    "an order alone": one_task(replace(ORDER, waits=False)),
    "an order of an unknown model": one_task(ORDER),
    "an order that is throttled": one_task(ORDER, windows=[BUSY]),
    "an order that waits for room": one_task(ORDER, windows=[FULL]),
    "an order that waits for room on a worker": one_task(replace(ORDER, mode="poke"), windows=[FULL]),
    "an order that waits for room without a store": one_task(replace(ORDER, has_store=False), windows=[FULL]),
    "a stale deferral of an order that waits for room": one_task(
        replace(ORDER, resumes_stale=True, has_store=False, order_timeout=40.0),
        windows=[(0.0, 60.0, *FULL[2:])],
    ),
    "an order that is rejected": one_task(replace(ORDER, on_create="http_400")),
    "an order without a response": one_task(replace(ORDER, on_create="create_reset_after_order")),
    "an order that fails immediately": one_task(replace(ORDER, on_create="create_answers_failed")),
    "an order that fails later": one_task(replace(ORDER, videos=(Video(5.0, completes=False),))),
    "an order that cannot be stored": one_task(replace(ORDER, store_fails_at=frozenset(range(3, 7)))),
    "an order without a store": one_task(replace(ORDER, has_store=False)),
    "an order whose XComs fail": one_task(replace(ORDER, mode="poke", xcom_fails_at=frozenset({1, 3}))),
    "a stale deferral of a wait": one_task(
        replace(PLAN, mode="deferred", resumes_stale=True),
        windows=[(8.0, 316.0, "query", Response.named("redirect"))],
    ),
    "an order whose deferral Airflow ends": one_task(
        replace(ORDER, airflow_ends_at=3.0, airflow_reason="Trigger failure")
    ),
    "an order and a key that is rotated": one_task(replace(ORDER, mode="poke"), rotation=(5.0, 5.5)),
    "a batch whose connection is missing": one_task(
        replace(BATCH, mode="deferred"), look_ups=[(0.0, 12.0, "missing")]
    ),
    "an upload": one_task(UPLOAD),
    "an upload that a worker awaits": one_task(replace(UPLOAD, mode="poke")),
    "an upload that is throttled": one_task(UPLOAD, windows=[BUSY]),
    "an upload that waits for room": one_task(UPLOAD, windows=[FULL]),
    "an upload that is rejected": one_task(
        UPLOAD, windows=[(0.0, 8.0, "create", Response.named("http_400"))]
    ),
    "an upload without a response": one_task(
        UPLOAD, windows=[(0.0, 8.0, "create", Response.named("reset_after_read"))]
    ),
    "an upload whose review fails": one_task(
        replace(UPLOAD, videos=(Video(5.0, completes=True), Video(5.0, completes=False)))
    ),
    "an upload that cannot be stored": one_task(replace(UPLOAD, store_fails_at=frozenset(range(3, 7)))),
    "an upload without a store": one_task(replace(UPLOAD, has_store=False)),
    "an upload whose XComs fail": one_task(replace(UPLOAD, mode="poke", xcom_fails_at=frozenset({1, 3}))),
    "an upload whose deferral Airflow ends": one_task(
        replace(UPLOAD, airflow_ends_at=3.0, airflow_reason="Trigger failure")
    ),
    "a wait on a worker": one_task(replace(PLAN, mode="poke")),
    "a wait that is rescheduled": one_task(replace(PLAN, mode="reschedule")),
}


def play_order(name, number=None, **changes):
    """Play a schedule. Return the position of the task at one of its boundaries, the violations, and the task."""
    schedule = ORDERS[name]
    schedule = replace(schedule, plans=(replace(schedule.plans[0], **changes),))
    places, simulations = set(), []

    def look(at, what):
        if at == number:
            places.update(stack_and(what))

    def prepare(simulation):
        simulation.at_boundary = look
        if "unknown model" in name:
            simulation.loop.after_turn[1] = lambda: setattr(
                simulation.instances["task_1"].task, "model", "sd2_new"
            )
        simulations.append(simulation)

    found = play(1, schedule, prepare)[2]
    return places, found, simulations[0].instances["task_1"]


@pytest.mark.parametrize("how", ["kills", "interrupts"])
def test_worker_survives_a_kill_at_each_external_call(how):
    """Kills or interrupts the worker at each call that leaves the process. No order may be paid twice or lost."""
    seen, wrong = set(), {}
    with installed():
        for name in ORDERS:
            for number in range(play_order(name)[2].boundaries):
                places, found, task = play_order(name, number, **{how: frozenset({number})})
                seen |= places
                if found:
                    wrong[name, number] = (task.state, found)
    assert wrong == {}
    assert set().union(*map(calls, ORDER_SIDE)) - seen == set()
