"""
Stored forms of all versions of the package, which outlive an upgrade, read by the current code.

``golden/`` has a folder for each version that changed a form: of deferred waits, events, order records, XComs, and of
tasks in stored Dags. These files are never changed. A test fails if the current code writes a form that differs from the
newest one. If the change is intended, add a folder with the number of the coming release:

    python -m pytest tests/unit/test_golden.py --write-golden 0.2.0
"""

from __future__ import annotations

import itertools
import json
import pkgutil
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest
from packaging.version import Version

from airflow.providers.common.compat.sdk import DAG, AirflowException, TaskDeferred

from airflow_provider_manxue import exceptions
from airflow_provider_manxue._airflow import order_store, ordered_wait
from airflow_provider_manxue._airflow.start_from_trigger import CAN_START_AND_END
from airflow_provider_manxue._core.events import batch_event, begin_event, completed_event, error_event
from airflow_provider_manxue._core.uploads import Upload
from airflow_provider_manxue.hooks import manxue as hook_module
from airflow_provider_manxue.models import Asset, TaskStatus, VideoTask
from airflow_provider_manxue.operators.assets import ManxueReviewAssetsOperator
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from tests.support.fake_airflow import START, first_event, trigger_of
from tests.support.serialization import DagSerialization

FOLDER = Path(__file__).with_name("golden")
VERSIONS = sorted((folder.name for folder in FOLDER.iterdir()), key=Version)
GOLDEN = {
    version: {file.stem: json.loads(file.read_text()) for file in sorted((FOLDER / version).glob("*.json"))}
    for version in VERSIONS
}


def golden(kind):
    """Return each form of a kind, of all versions, as a test parameter."""
    return [
        pytest.param(name, form, id=f"{version}-{name}")
        for version, forms in GOLDEN.items()
        for name, form in forms[kind].items()
    ]


def through_json(value):
    return json.loads(json.dumps(value))


def ending(run):
    """Return the outcome of a task: success, or the name of its error."""
    try:
        run()
    except AirflowException as error:
        return type(error).__name__
    return "success"


# --- the tasks ------------------------------------------------------------------------------------------

DONE = {
    "object": "video",
    "created": 1_799_999_990,
    "model": "sd2_manxue_1080p",
    "status": "completed",
    "video_url": "https://cdn.example.com/v.mp4",
    "actualDuration": 5.17,
    "amount": 3,
}


def one(**arguments):
    return ManxueVideoSensor(task_id="one", video_task_id="proj_1", **arguments)


def batch(**arguments):
    return ManxueVideoBatchSensor(task_id="batch", video_task_ids=["proj_1", "proj_2", "proj_1"], **arguments)


def order(**arguments):
    order = {"prompt": "A lighthouse at dawn", "model": "sd2_manxue_1080p", "duration": 5}
    return ManxueCreateVideoOperator(task_id="order", **order | arguments)


def assets(**arguments):
    faces = [
        "https://files.example/a.png",
        "https://files.example/b.png?signature=s",
        "https://files.example/a.png",
    ]
    voice = "https://files.example/c.mp3"
    return ManxueReviewAssetsOperator(
        task_id="assets", image_urls=faces, audio_urls=[voice], tolerate_failures=True, **arguments
    )


@pytest.fixture
def dag():
    """A Dag with tasks of each kind, also those that start in the triggerer, where Airflow supports that."""
    both = {"start_from_trigger": True, "end_from_trigger": True}
    start_date = datetime(2025, 1, 1, tzinfo=UTC)
    with DAG("dag", schedule=None, start_date=start_date, params={"id": "proj_2"}) as dag:
        ordered = order(prompt="A lighthouse on {{ ds }}").output
        with warnings.catch_warnings(action="ignore"):
            ManxueVideoSensor(task_id="first", video_task_id=ordered, **both)
            ManxueVideoBatchSensor(task_id="many", video_task_ids=[ordered["id"], "{{ params.id }}"], **both)
        ManxueVideoSensor(task_id="one", video_task_id="{{ params.id }}", manxue_conn_id="other")
        ManxueVideoBatchSensor(task_id="batch", video_task_ids=["proj_1", "{{ params.id }}"])
        ManxueReviewAssetsOperator(
            task_id="assets", image_urls=["{{ params.id }}"], video_urls=ordered["video_urls"]
        )
        ManxueToObjectStorageOperator(
            task_id="save", video_task_id="{{ params.id }}", destination="s3://films/"
        )
    return dag


FROM_TRIGGER = ("first", "many")


def stored(dag):
    """Return a Dag as Airflow stores it, and its tasks by their ids."""
    whole = through_json(DagSerialization.to_dict(dag))
    return whole, {task["__var"]["task_id"]: task["__var"] for task in whole["dag"]["tasks"]}


class Stage:
    """The fake Airflow with a task state store, and a service that accepts each order as ``proj_1``."""

    def __init__(self, fake_airflow, service, monkeypatch):
        self.fake_airflow, self.service, self.store = fake_airflow, service, fake_airflow.store
        self.orders_sent = 0
        self.orders_are_lost = False
        for module in (order_store, ordered_wait):
            monkeypatch.setattr(module, "time", fake_airflow.clock)
        monkeypatch.setattr(
            hook_module.ManxueHook, "check_references", lambda hook, request: None, raising=False
        )
        monkeypatch.setattr(hook_module.ManxueHook, "send_order", self._send_order, raising=False)
        monkeypatch.setattr(hook_module.ManxueHook, "send_upload", self._send_upload, raising=False)

    def _send_order(self, request):
        self.orders_sent += 1
        if self.orders_are_lost:
            raise exceptions.ManxueOrderUnknownError("no response")
        return VideoTask(id="proj_1", status=TaskStatus.QUEUED)

    def _send_upload(self, request):
        self.orders_sent += 1
        if self.orders_are_lost:
            raise exceptions.ManxueOrderUnknownError("no response")
        return Upload(
            (
                Asset("asset_1", TaskStatus.QUEUED),
                Asset("", TaskStatus.FAILED, error="too small"),
                Asset("asset_2", TaskStatus.QUEUED),
            )
        )

    def begin(self, *responses):
        """Start without XComs and state, and with these responses of the service."""
        self.fake_airflow.clock.now = START
        self.fake_airflow.ti.xcom.clear()
        self.store.values.clear()
        self.orders_are_lost = False
        self.service.respond_with(*responses)


@pytest.fixture
def stage(fake_airflow, service, monkeypatch):
    return Stage(fake_airflow, service, monkeypatch)


# --- their forms, as the current code writes them -----------------------------------------------------------

UNKNOWN = exceptions.ManxueRefusedError("HTTP 404: no such task")
SLOWER = {"exponential_backoff": True, "max_wait": 600}
ENDS_THERE = {"end_from_trigger": True, "do_xcom_push": False}
DEFERRALS = {
    "one": (one, {}, "processing"),
    "one, asked more and more seldom, not known yet": (one, SLOWER, UNKNOWN),
    "one, ends in the triggerer": (one, ENDS_THERE, "queued"),
    "batch": (batch, SLOWER, "queued"),
    "batch, ends in the triggerer": (batch, ENDS_THERE, "queued"),
    "order": (order, {}, "queued"),
    "assets": (assets, SLOWER, "queued"),
}
"""Tasks that defer on a worker, their arguments, and the response of the service at that time."""

COMPLETED = VideoTask(id="proj_1", status=TaskStatus.COMPLETED)


def ended(second=COMPLETED, **known):
    """Return the event of a batch whose second video has this outcome."""
    return batch_event(["proj_1", "proj_2"], {"proj_1": COMPLETED, "proj_2": second}, **known)


EVENTS = {
    "completed": completed_event("proj_1", "completed, 5.17 s long"),
    "completed, began in the triggerer": completed_event("proj_1", "processing", started_at=START - 60),
    "a worker has to begin": begin_event("a template could not be rendered ('x' is undefined)"),
    **{
        error.__name__: error_event("proj_1", error("why it ended"))
        for error in (
            exceptions.ManxueVideoFailedError,
            exceptions.ManxueAssetFailedError,
            exceptions.ManxueTimeoutError,
            exceptions.ManxueAuthenticationError,
            exceptions.ManxuePermissionError,
            exceptions.ManxueRedirectError,
            exceptions.ManxueRefusedError,
            exceptions.ManxueResultMissingError,
            exceptions.ManxueMediaTypeError,
            exceptions.ManxueConfigurationError,
            exceptions.ManxueInputError,
            exceptions.ManxueError,
            exceptions.ManxueConnectionNotFoundError,
            exceptions.ManxueInternalError,
        )
    },
    "too late, not polled": error_event(
        "proj_1", exceptions.ManxueTimeoutError("why it ended"), final_poll=False
    ),
    "wrong key, after it had worked": error_event(
        "proj_1", exceptions.ManxueAuthenticationError("refused"), has_worked=True
    ),
    "batch, completed": ended(),
    "batch, began in the triggerer": ended(started_at=START - 60),
    "batch, one failed": ended(exceptions.ManxueVideoFailedError("bad prompt")),
    "batch, one too late": ended(exceptions.ManxueTimeoutError("too late")),
    "batch, one not polled": ended(exceptions.ManxueTimeoutError("too late"), not_polled={"proj_2"}),
    "batch, wrong key": error_event("", exceptions.ManxueAuthenticationError("refused")),
}


def deferral(stage, name):
    make, arguments, response = DEFERRALS[name]
    stage.begin(response)
    with pytest.raises(TaskDeferred) as caught:
        make(**arguments).execute(stage.fake_airflow.context)
    path, kwargs = caught.value.trigger.serialize()
    return {"path": path, "kwargs": kwargs} | {
        "next_method": caught.value.method_name,
        "next_kwargs": caught.value.kwargs,
    }


def resumed(stage, name, event):
    """Return the outcome of a task that resumes with an event, long after the deadline."""
    stage.begin("processing" if "too late" in name or "Timeout" in name or "not polled" in name else DONE)
    stage.fake_airflow.clock.now += 20_000
    task = batch() if name.startswith("batch") else one()
    kwargs = through_json({"started_at": START, "event": event})
    return ending(lambda: task.resume_execution("execute_complete", kwargs, stage.fake_airflow.context))


ORDERS = {
    "done": ("queued", DONE),
    "failed": ("queued", {"status": "failed", "error": "bad prompt"}),
    "ordered": (exceptions.ManxueAuthenticationError("a wrong key"),),
    "intent": (),
    "upload, done": ("queued", DONE),
    "upload, failed": ("queued", {"status": "failed", "error": "bad face"}),
    "upload, ordered": (exceptions.ManxueAuthenticationError("a wrong key"),),
    "upload, intent": (),
}
"""States of an order, and the responses to polls of its video or assets that lead to them."""


def sender(state):
    """Return the task that sends an order, and the key of its record."""
    make = assets if state.startswith("upload") else order
    return make(), make().order_kind.key


def order_record(stage, state):
    stage.begin(*ORDERS[state])
    stage.orders_are_lost = state.endswith("intent")
    task, key = sender(state)
    ending(lambda: stage.fake_airflow.run(task))
    return through_json(stage.store.get(key))


def retried(stage, state, record):
    """Return the outcome of a retry that finds a record. The retry must not order."""
    stage.begin("processing", DONE)
    task, key = sender(state)
    stage.store.set(key, record)
    sent = stage.orders_sent
    ends = ending(lambda: stage.fake_airflow.run(task))
    assert stage.orders_sent == sent
    return ends


XCOMS = {
    "one": (one, {}),
    "batch": (batch, {}),
    "order": (order, {}),
    "order, without waiting": (order, {"wait_for_completion": False}),
    "assets": (assets, {}),
}


def xcom(stage, name):
    make, arguments = XCOMS[name]
    stage.begin("queued", DONE)
    stage.fake_airflow.run(make(**arguments))
    return dict(stage.fake_airflow.ti.xcom)


def our_fields(name, task):
    """
    Return the fields of a stored task that belong to this package.

    Versions of Airflow store the class, references to XComs, and unset fields differently.
    """
    fields = {"start_from_trigger", "start_trigger_args"}
    if name not in FROM_TRIGGER:
        fields |= {"template_fields", *task["template_fields"]}
    ours = {field: value for field, value in task.items() if field in fields and value}
    name_of_class = task.get("task_type") or task["_task_type"]
    return {"class": f"{task['_task_module']}.{name_of_class}"} | ours


@pytest.fixture
def current(stage, dag):
    """The forms that the current code writes, by kind and name."""
    events = {name: {"event": event, "ends": resumed(stage, name, event)} for name, event in EVENTS.items()}
    records = {state: order_record(stage, state) for state in ORDERS}
    _, tasks = stored(dag)
    return through_json(
        {
            "deferrals": {name: deferral(stage, name) for name in DEFERRALS},
            "events": events,
            "order_records": {
                state: {"record": record, "retry_ends": retried(stage, state, record)}
                for state, record in records.items()
            },
            "tasks": {name: our_fields(name, task) for name, task in tasks.items()},
            "xcoms": {name: xcom(stage, name) for name in XCOMS},
        }
    )


# --- compatibility -----------------------------------------------------------------------------------


def test_current_code_writes_the_newest_forms(current, request):
    if version := request.config.getoption("write_golden", None):
        write(version, current)
    elif CAN_START_AND_END:
        assert current == GOLDEN[VERSIONS[-1]]
    else:
        assert without_3_3(current) == without_3_3(GOLDEN[VERSIONS[-1]])


def write(version, forms):
    assert CAN_START_AND_END, "some forms are written on Airflow 3.3 and later only"
    (FOLDER / version).mkdir()  # fails if the folder exists, so nothing is overwritten
    for kind, cases in forms.items():
        (FOLDER / version / f"{kind}.json").write_text(f"{json.dumps(cases, indent=2)}\n")


def without_3_3(forms):
    """Leave out the forms that only Airflow 3.3 and later can create."""
    left_out = {*FROM_TRIGGER, *(name for name in DEFERRALS if "ends in the triggerer" in name)}
    return {
        kind: {name: form for name, form in cases.items() if name not in left_out}
        for kind, cases in forms.items()
    }


BATCHES = ("completed", "began in the triggerer", "one failed", "one too late")
CHANGED = {
    "0.2.0": {
        # The event of 10,000 videos has to stay below 64 KiB; the old form is still parsed.
        *(("events", f"batch, {name}", "event", "status") for name in BATCHES),
        *(("events", f"batch, {name}", "event", "errors") for name in BATCHES),
        # An error is not a status of the service.
        ("deferrals", "one, asked more and more seldom, not known yet", "kwargs", "last_answer"),
        # Airflow's own timeout of a deferral follows DEFER_TIMEOUT_MARGIN, which the arguments name.
        *(("tasks", name, "start_trigger_args", "timeout") for name in FROM_TRIGGER),
    },
}
"""Values that a version has changed on purpose. The old values are still parsed."""


def test_newer_versions_only_add_fields():
    for older, newer in itertools.pairwise(VERSIONS):
        assert changes(GOLDEN[newer], GOLDEN[older]) == CHANGED.get(newer, set())


def changes(newer, older, path=()):
    """Return the paths of removed and changed values. Additions do not count."""
    if not (isinstance(older, dict) and isinstance(newer, dict)):
        return set() if newer == older else {path}
    found = {(*path, name) for name in set(older) - set(newer)}
    return found.union(
        *(changes(newer[name], older[name], (*path, name)) for name in set(older) & set(newer))
    )


def test_changes_ignores_additions():
    older = {"a": {"b": [1], "c": None}}
    assert not changes({"a": {"b": [1], "c": None, "d": 2}, "e": 3}, older)
    assert changes({"a": {"b": [1]}}, older) == {("a", "c")}
    assert changes({"a": {"b": [1, 2], "c": None}}, older) == {("a", "b")}


@pytest.mark.parametrize(("name", "form"), golden("deferrals"))
@pytest.mark.parametrize("later", [0, 5000, 20_000])
def test_stored_deferral_completes(stage, name, form, later):
    make, arguments, _ = DEFERRALS[name]
    ends_there = form["kwargs"].get("end_from_trigger", False)
    if ends_there and not CAN_START_AND_END:
        pytest.skip("this Airflow ends tasks on workers only")
    stage.begin(DONE)
    stage.fake_airflow.clock.now += later
    trigger = trigger_of(form["path"], form["kwargs"])
    deferral = TaskDeferred(trigger=trigger, method_name=form["next_method"], kwargs=form["next_kwargs"])
    stage.fake_airflow.run_deferred(make(**arguments), deferral)
    expected = {**GOLDEN[VERSIONS[-1]]["xcoms"][make.__name__]}
    for key in ("video_task_id", "manxue_upload"):  # pushed before the wait began
        expected.pop(key, None)
    assert stage.fake_airflow.worker_starts == (0 if ends_there else 1)
    assert through_json(stage.fake_airflow.ti.xcom) == ({} if ends_there else expected)


@pytest.mark.parametrize(("name", "form"), golden("deferrals"))
def test_stored_deferral_preserves_its_deadline(stage, name, form):
    stage.begin("processing")
    stage.fake_airflow.clock.now = form["kwargs"]["deadline"] - 50
    deadline, trigger = form["kwargs"]["deadline"], trigger_of(form["path"], form["kwargs"])
    event = stage.fake_airflow.run_loop(first_event(trigger))
    assert "not ready after 3:00:00" in json.dumps(event)
    assert deadline <= stage.fake_airflow.clock.now <= deadline + 1


@pytest.mark.parametrize(("name", "form"), golden("events"))
def test_stored_event_ends_the_task_as_before(stage, name, form):
    assert resumed(stage, name, form["event"]) == form["ends"]


@pytest.mark.parametrize(("name", "form"), golden("order_records"))
def test_retry_resumes_a_stored_order(stage, name, form):
    assert retried(stage, name, form["record"]) == form["retry_ends"]


@pytest.mark.parametrize(("name", "form"), [one for one in golden("xcoms") if not one.id.endswith("-assets")])
def test_stored_result_is_accepted_as_ids(stage, name, form):
    stage.begin(DONE)
    result = form["return_value"]
    if isinstance(result, list):
        task = ManxueVideoBatchSensor(task_id="next", video_task_ids=result)
        assert [video["id"] for video in stage.fake_airflow.run(task)] == ["proj_1", "proj_2", "proj_1"]
    else:
        task = ManxueVideoSensor(task_id="next", video_task_id=result)
        assert stage.fake_airflow.run(task)["id"] == "proj_1"


@pytest.mark.parametrize(("name", "form"), golden("tasks"))
def test_task_of_a_stored_dag_still_runs(stage, dag, name, form):
    kind = pkgutil.resolve_name(form["class"])
    if name not in FROM_TRIGGER:
        fields = {field: form[field] for field in form["template_fields"] if field in form}
        assert type(kind(task_id=f"{name}_again", **fields)) is type(dag.get_task(name))
    elif not CAN_START_AND_END:
        pytest.skip("this Airflow starts tasks on workers only")
    else:
        stage.begin("queued", DONE)
        stage.fake_airflow.upstream |= {("order", -1, key): "proj_1" for key in ("return_value", "id")}
        whole, tasks = stored(dag)
        tasks[name]["start_trigger_args"] = form["start_trigger_args"]
        stage.fake_airflow.run_stored(dag.get_task(name), DagSerialization.from_dict(whole).get_task(name))
        assert stage.fake_airflow.worker_starts == 0
        assert stage.fake_airflow.ti.xcom["video_url"] in (DONE["video_url"], [DONE["video_url"]] * 2)
