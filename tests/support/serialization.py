"""Dags as Airflow stores them."""

try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # its name before 3.1
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

__all__ = ["DagSerialization", "stored_tasks"]


def stored_tasks(dag):
    """Return the tasks of a Dag as Airflow stores them, by their ids."""
    return {task["__var"]["task_id"]: task["__var"] for task in DagSerialization.to_dict(dag)["dag"]["tasks"]}
