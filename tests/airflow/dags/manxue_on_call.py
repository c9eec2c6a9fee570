"""A task for each symptom of ``docs/on-call.md``. A connection of the same name leads to a service of its own."""

from __future__ import annotations

from on_call_triggers import MovedTrigger

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from pull import dag


class WithOtherTrigger(ManxueVideoSensor):
    """
    Sensor that defers with a trigger of another class path.

    :param path: the class path.
    """

    def __init__(self, *, path: str, **kwargs):
        super().__init__(**kwargs)
        self.path = path

    def defer(self, *, trigger, **kwargs):
        super().defer(trigger=MovedTrigger(self.path, trigger.serialize()[1]), **kwargs)


def settings(name: str, **kwargs):
    return {"task_id": name, "manxue_conn_id": name, **kwargs}


def wait(name: str, **kwargs):
    return settings(name, video_task_id=f"{{{{ dag_run.conf['{name}'] }}}}", poke_interval=2, **kwargs)


def save(name: str, destination: str):
    return settings(name, video_task_id=f"{{{{ dag_run.conf['{name}'] }}}}", destination=destination)


with dag("on_call", render_template_as_native_obj=True):
    ManxueVideoBatchSensor(
        **settings("too_low"), video_task_ids="{{ dag_run.conf['too_low'] }}", poke_interval=2
    )
    for connection in ("removed", "throttled", "away", "refused", "missing"):
        ManxueVideoSensor(**wait(connection, priority_weight=5))

    # No triggerer serves this queue at first.
    ManxueVideoSensor(**wait("queue", queue="films"))
    ManxueVideoSensor(**wait("full", queue="films"))
    WithOtherTrigger(
        **wait("lacking", queue="films", priority_weight=3), path="airflow_provider_manxue.of_a_newer.Trigger"
    )
    WithOtherTrigger(**wait("newer", queue="films", priority_weight=2), path="on_call_triggers.NewerTrigger")

    ManxueVideoSensor(**wait("holds_slot", deferrable=False, pool="one", priority_weight=2))
    ManxueVideoSensor(**wait("slots", pool="one"))

    ManxueCreateVideoOperator(**settings("unknown"), prompt="a fox", model="sd2_manxue_720p")
    ManxueToObjectStorageOperator(**save("expired", "{{ dag_run.conf['folder'] }}"))
    ManxueToObjectStorageOperator(**save("store", "file:///dev/null/films/"))
