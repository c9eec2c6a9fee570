"""
Play seeded schedules of the shipped polling, trigger and order code in virtual time.

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

from airflow_provider_manxue.operators.assets import ManxueReviewAssetsOperator
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

REPORT_EVERY = 20_000
"""Schedules between two lines of progress."""

MAX_TURNS = 100_000
"""Iterations of the loop. The longest schedules take some 7,000."""


# --- one schedule -------------------------------------------------------------------------------------------


class Upstream(BaseOperator):
    """The upstream task whose output a sensor waits for. It never runs."""

    def execute(self, context):
        raise NotImplementedError


@functools.cache
def _operator(kind, name, deferrable, mode):
    """Return an operator as parsed from a Dag file. Cached, since its construction is slow."""
    arguments = {"task_id": name, "deferrable": deferrable, "mode": mode}
    if kind == "order":
        return ManxueCreateVideoOperator(model="sd2_manxue_720p", prompt=name, **arguments)
    if kind == "assets":
        return ManxueReviewAssetsOperator(image_urls=["https://files.example/of-the-plan.png"], **arguments)
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
        **({"order_timeout": plan.order_timeout} if plan.is_ordered else {}),
        **({"image_urls": plan.files} if plan.kind == "assets" else {}),
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
    """Return the emulator's script for a video."""
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
    """Add the videos that a sensor waits for to the service. Orders add their own."""
    if plan.is_ordered:
        return
    ids = [
        service.add_task(
            script_of(plan, video), task_id=None, actual_duration=5.0, model="sd2_manxue_720p", size=None
        ).id
        for video in plan.videos
    ]
    instance.videos = dict(zip(ids, plan.videos, strict=True))
    instance.upstream = ids + ids[: plan.named_twice] if plan.kind == "batch" else ids[0]
    vars(instance.task)[_AWAITED[plan.kind][0]] = instance.upstream  # the value after rendering on a worker


async def _play(simulation, schedule):
    triggerers = simulation.triggerers = Triggerers(simulation, schedule.absences)
    loop, service = simulation.loop, simulation.network.service
    instances = []
    for plan in schedule.plans:
        instance = TaskInstance(simulation, plan, operator_of(plan), triggerers)
        _put_videos(plan, instance, service)
        simulation.network.scripts[plan.name] = script_of(plan, plan.videos[0])
        simulation.network.scripts |= {
            url: script_of(plan, video) for url, video in zip(plan.files, plan.videos, strict=True)
        }
        instances.append(instance)
    if schedule.rotation:
        at_service, in_airflow = schedule.rotation
        loop.call_later(at_service, setattr, service, "api_key", KEYS[1])
        loop.call_later(in_airflow, setattr, simulation.connection, "password", KEYS[1])
    if schedule.move:
        at_service, in_airflow = schedule.move
        loop.call_later(at_service, setattr, simulation.network, "gone_host", "service.example")
        loop.call_later(in_airflow, setattr, simulation.connection, "host", "https://moved.example")
    for at, edit in schedule.edits:
        loop.call_later(at, simulation.connection.extra_dejson.update, edit)
    await asyncio.gather(*(_live(instance, simulation) for instance in instances))
    triggerers.close()
    await asyncio.sleep(2000)  # until all cancelled tasks have ended
    return instances


async def _live(instance, simulation):
    await instance.live()
    if instance.plan.person and instance.state == "failed":
        await asyncio.sleep(600)
        _recover_by_hand(instance, simulation)
        await instance.run_tries()


def _recover_by_hand(instance, simulation):
    """Apply the documented recovery steps for a failed order, then clear the task."""
    values, key = instance.store.values if instance.store else {}, instance.order_key
    record = json.loads(values[key]) if key in values else None
    if record is not None and record["state"] == "intent":
        if instance.orders:
            values[key] = json.dumps(instance.orders[-1].id)
        else:
            del values[key]
    elif record is not None and record["state"] in {"done", "failed"}:
        instance.give_up_orders()
    instance.clear()
    simulation.record("a person", f"clears {instance.task_id}, with {values}")


@functools.cache
def _loop():
    return VirtualLoop(MAX_TURNS)


def play(seed, schedule=None, prepare=lambda simulation: None):
    """
    Play a schedule.

    :param seed: seed of the schedule and of the random faults.
    :param schedule: a schedule to play instead of the one drawn from the seed.
    :param prepare: called with the simulation before it starts.
    :return: the schedule, its simulation, and the findings.
    """
    loop = _loop()
    schedule = schedule or draw(seed)
    fault_plan = FaultPlan(
        schedule.windows, RandomFaults(seed, schedule.fault_rate, RANDOM_FAULTS), random.Random(seed + 1)
    )

    def make_network(clock):
        return SimulatedNetwork(
            clock,
            fault_plan,
            KEYS[0],
            schedule.rate_limit,
            schedule.per_minute,
            schedule.worker_fault_rate,
            schedule.max_running,
        )

    simulation = Simulation(loop, schedule.steps, make_network, KEYS[0], dict(schedule.extra))
    simulation.look_ups = schedule.look_ups
    simulation.least = (
        min(schedule.settings("requests_per_second")),
        min(schedule.settings("max_connections")),
    )
    prepare(simulation)
    with current(simulation, seed):
        try:
            instances = loop.run_until_complete(_play(simulation, schedule))
        except Exception as error:  # noqa: BLE001 - a schedule that does not end is a finding
            _loop.cache_clear()
            return schedule, simulation, [*simulation.findings, f"the schedule did not end: {error!r}"]
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        return schedule, simulation, oracle.findings(simulation, schedule, instances, [*left, *loop.rewind()])


# --- many schedules -----------------------------------------------------------------------------------------


def play_range(seeds):
    """Play schedules and return the findings by seed."""
    with installed():
        return {seed: found for seed in seeds if (found := play(seed)[2])}


def _freeze_imports():
    """Exclude Airflow's own objects from garbage collection, which saves a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def _parts(first, count, jobs):
    size = max(1, min(2000, count // jobs))
    return [range(start, min(start + size, first + count)) for start in range(first, first + count, size)]


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="number of schedules")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--jobs", type=int, default=2, help="number of processes")
    parser.add_argument("--verbose", action="store_true", help="print each schedule and its trace")
    parser.add_argument(
        "--keep", action="store_true", help="write the result to tests/simulation/results.json"
    )
    return parser.parse_args()


def _play_verbosely(seed):
    with installed():
        schedule, simulation, found = play(seed)
    print(schedule)
    for at, who, what in simulation.trace:
        print(f"{at:9.3f}  {who}: {what}")
    for instance in simulation.instances.values():
        print(
            f"{instance.task_id}: {instance.state} after {instance.try_number} tries, XComs {instance.xcom}"
        )
    for finding in found:
        print(f"FINDING: {finding}")
    return len(found)


def main():
    """Play schedules and print the findings. The exit status is 1 if there are any."""
    arguments = _arguments()
    if arguments.verbose:
        seeds = range(arguments.seed, arguments.seed + arguments.count)
        sys.exit(sum(map(_play_verbosely, seeds)) > 0)
    begun_at = time.monotonic()
    findings, done = {}, 0
    parts = _parts(arguments.seed, arguments.count, arguments.jobs)
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, _freeze_imports) as pool:
        for part, found in zip(parts, pool.imap(play_range, parts), strict=True):
            findings |= found
            done += len(part)
            for seed, texts in found.items():  # at once, since a run can take an hour
                print(f"seed {seed}: {'; '.join(texts)}", flush=True)
            # Lines, so that the log of a run that was stopped tells how far it came.
            if done // REPORT_EVERY > (done - len(part)) // REPORT_EVERY:
                print(f"{done} of {arguments.count}, {len(findings)} with findings", flush=True)
    seconds = time.monotonic() - begun_at
    result = {
        "schedules": done,
        "first_seed": arguments.seed,
        "last_seed": arguments.seed + done - 1,
        "jobs": arguments.jobs,
        "seconds": round(seconds, 1),
        "findings": {str(seed): found for seed, found in findings.items()},
    }
    print(f"{done} schedules in {seconds:.0f} s, {len(findings)} with findings")
    if arguments.keep:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(bool(findings))
