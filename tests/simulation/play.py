"""
Seeded schedules of the shipped polling, trigger and order code, in virtual time.

One seed is one schedule::

    python -m tests.simulation --count 20000 --jobs 2
    python -m tests.simulation --seed 4711 --count 1 --verbose
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import functools
import gc
import json
import multiprocessing
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, BaseOperator

from airflow_provider_manxue._core.order_record import KEY
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.testing._faults import RANDOM_FAULTS, RandomFaults
from airflow_provider_manxue.testing._script import Script, Step
from tests.simulation import oracle
from tests.simulation.deployment import TaskInstance, Triggerers
from tests.simulation.network import FaultPlan, SimulatedNetwork
from tests.simulation.schedule import KEYS, ON_CREATE, draw
from tests.simulation.simulation import Simulation, current, installed
from tests.support.virtual_time import VirtualLoop

RESULTS = Path(__file__).parent / "results.json"


# --- one schedule -------------------------------------------------------------------------------------------


class Upstream(BaseOperator):
    """Stands in the Dag for the task from which a sensor takes its id."""

    def execute(self, context):
        """Is never run."""


@functools.cache
def _operator(kind, name, deferrable, mode):
    """Return an operator as a Dag file makes it; that takes long, so it is done once for each kind."""
    arguments = {"task_id": name, "deferrable": deferrable, "mode": mode}
    if kind == "order":
        return ManxueCreateVideoOperator(model="sd2_manxue_720p", prompt=name, **arguments)
    with DAG("dag", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
        ids = Upstream(task_id=f"before_{name}").output
        if kind == "batch":
            return ManxueVideoBatchSensor(video_task_ids=ids, **arguments)
        return ManxueVideoSensor(video_task_id=ids, **arguments)


def operator_of(plan):
    """Return the operator of a task."""
    mode = "reschedule" if plan.mode == "reschedule" else "poke"
    operator = copy.copy(_operator(plan.kind, plan.name, plan.deferrable, mode))
    vars(operator).update(
        **({"order_timeout": plan.order_timeout} if plan.kind == "order" else {}),
        poke_interval=plan.interval,
        timeout=plan.timeout,
        execution_timeout=plan.execution_timeout and timedelta(seconds=plan.execution_timeout),
        exponential_backoff=plan.backoff,
        max_wait=plan.max_wait and timedelta(seconds=plan.max_wait),
        soft_fail=plan.soft_fail,
        never_fail=plan.never_fail,
        retries=plan.retries,
        do_xcom_push=plan.do_xcom_push,
        wait_for_completion=plan.waits,
        tolerate_failures=plan.tolerate,
    )
    if plan.mode == "from_trigger":
        field, trigger = _AWAITED[plan.kind]
        operator._begin_and_end_in_triggerer(True, True, trigger, field)
    return operator


_AWAITED = {
    "sensor": ("video_task_id", "ManxueVideoTrigger"),
    "batch": ("video_task_ids", "ManxueVideoBatchTrigger"),
}


def script_of(plan, video):
    """Return what the service does with a video."""
    if plan.on_create == "create_answers_failed":
        return Script((Step(status="failed"),), create=ON_CREATE[plan.on_create])
    return Script(
        (
            Step(status="queued", seconds=video.seconds / 4),
            Step(status="processing", seconds=video.seconds * 3 / 4),
            Step(status="completed" if video.completes else "failed"),
        ),
        create=ON_CREATE.get(plan.on_create),
    )


def _put_videos(plan, instance, service):
    """Let the service have the videos that a sensor waits for; an order brings its own."""
    if plan.kind == "order":
        return
    ids = [
        service.add_task(
            script_of(plan, video), task_id=None, actual_duration=5.0, model="sd2_manxue_720p", size=None
        ).id
        for video in plan.videos
    ]
    instance.videos = dict(zip(ids, plan.videos, strict=True))
    instance.upstream = ids + ids[: plan.named_twice] if plan.kind == "batch" else ids[0]
    vars(instance.task)[_AWAITED[plan.kind][0]] = instance.upstream  # as it is rendered on a worker


async def _play(world, schedule):
    triggerers = world.triggerers = Triggerers(world, schedule.absences)
    loop, service = world.loop, world.wire.service
    instances = []
    for plan in schedule.plans:
        instance = TaskInstance(world, plan, operator_of(plan), triggerers)
        _put_videos(plan, instance, service)
        world.wire.scripts[plan.name] = script_of(plan, plan.videos[0])
        instances.append(instance)
    if schedule.rotation:
        at_service, in_airflow = schedule.rotation
        loop.call_later(at_service, setattr, service, "api_key", KEYS[1])
        loop.call_later(in_airflow, setattr, world.connection, "password", KEYS[1])
    if schedule.move:
        at_service, in_airflow = schedule.move
        loop.call_later(at_service, setattr, world.wire, "gone_host", "service.example")
        loop.call_later(in_airflow, setattr, world.connection, "host", "https://moved.example")
    for at, edit in schedule.edits:
        loop.call_later(at, world.connection.extra_dejson.update, edit)
    await asyncio.gather(*(_live(instance, world) for instance in instances))
    triggerers.close()
    await asyncio.sleep(2000)  # what has been cancelled is gone by then
    return instances


async def _live(instance, world):
    await instance.live()
    if instance.plan.person and instance.state == "failed":
        await asyncio.sleep(600)
        _set_right(instance, world)
        await instance.run_tries()


def _set_right(instance, world):
    """Do what the documentation tells a person to do about an order that has failed."""
    values = instance.store.values if instance.store else {}
    record = json.loads(values[KEY]) if KEY in values else None
    if record is not None and record["state"] == "intent":
        if instance.orders:
            values[KEY] = json.dumps(instance.orders[-1].id)
        else:
            del values[KEY]
    elif record is not None and record["state"] in {"done", "failed"}:
        instance.give_up_orders()
    instance.clear()
    world.note("a person", f"clears {instance.task_id}, with {values}")


@functools.cache
def _loop():
    return VirtualLoop()


def play(seed, schedule=None, prepare=lambda world: None):
    """
    Run a schedule.

    :param seed: its seed.
    :param schedule: the schedule, if it is not the one of the seed.
    :param prepare: called with the world before it begins.
    :return: the schedule, its world, and what is wrong with how it went.
    """
    loop = _loop()
    schedule = schedule or draw(seed)
    weather = FaultPlan(
        schedule.windows, RandomFaults(seed, schedule.fault_rate, RANDOM_FAULTS), random.Random(seed + 1)
    )

    def make_wire(clock):
        return SimulatedNetwork(
            clock,
            weather,
            KEYS[0],
            schedule.rate_limit,
            schedule.per_minute,
            schedule.worker_fault_rate,
            schedule.max_running,
        )

    world = Simulation(loop, schedule.steps, make_wire, KEYS[0], dict(schedule.extra))
    world.look_ups = schedule.look_ups
    world.least = min(schedule.settings("requests_per_second")), min(schedule.settings("max_connections"))
    prepare(world)
    with current(world, seed):
        try:
            instances = loop.run_until_complete(_play(world, schedule))
        except Exception as error:  # noqa: BLE001 - a schedule that does not come to its end is a finding
            _loop.cache_clear()
            return schedule, world, [*world.findings, f"the schedule did not end: {error!r}"]
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        return schedule, world, oracle.findings(world, schedule, instances, [*left, *loop.rewind()])


# --- many of them -------------------------------------------------------------------------------------------


def play_range(seeds):
    """Run schedules; returns the number of runs, and findings by seed."""
    with installed():
        return {seed: found for seed in seeds if (found := play(seed)[2])}


def _settle():
    """Let the garbage collector pass over Airflow's own objects, which stay: that saves a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def _parts(first, count, jobs):
    size = max(1, min(2000, count // jobs))
    return [range(start, min(start + size, first + count)) for start in range(first, first + count, size)]


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="number of schedules")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first one")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--verbose", action="store_true", help="print schedules, and what happened")
    parser.add_argument(
        "--keep", action="store_true", help="write the outcome to tests/simulation/results.json"
    )
    return parser.parse_args()


def _tell(seed):
    with installed():
        schedule, world, found = play(seed)
    print(schedule)
    for at, who, what in world.notes:
        print(f"{at:9.3f}  {who}: {what}")
    for instance in world.instances.values():
        print(
            f"{instance.task_id}: {instance.state} after {instance.try_number} tries, XComs {instance.xcom}"
        )
    for finding in found:
        print(f"FINDING: {finding}")
    return len(found)


def main():
    """Run schedules, and say what was found."""
    arguments = _arguments()
    if arguments.verbose:
        seeds = range(arguments.seed, arguments.seed + arguments.count)
        sys.exit(sum(map(_tell, seeds)) > 0)
    begun_at = time.monotonic()
    findings, done = {}, 0
    parts = _parts(arguments.seed, arguments.count, arguments.jobs)
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, _settle) as pool:
        for part, found in zip(parts, pool.imap(play_range, parts), strict=True):
            findings |= found
            done += len(part)
            if sys.stderr.isatty():
                print(
                    f"\r{done} of {arguments.count}, {len(findings)} with findings", end="", file=sys.stderr
                )
    seconds = time.monotonic() - begun_at
    for seed, found in findings.items():
        print(f"seed {seed}: {'; '.join(found)}")
    outcome = {
        "schedules": done,
        "first_seed": arguments.seed,
        "last_seed": arguments.seed + done - 1,
        "jobs": arguments.jobs,
        "seconds": round(seconds, 1),
        "findings": {str(seed): found for seed, found in findings.items()},
    }
    print(f"{done} schedules in {seconds:.0f} s, {len(findings)} with findings")
    if arguments.keep:
        RESULTS.write_text(json.dumps(outcome, indent=2) + "\n")
    sys.exit(bool(findings))
