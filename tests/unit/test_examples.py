"""The example Dags on each Airflow: they import, and the notifier has a reason also without a record."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "example_dags"


@pytest.fixture(autouse=True)
def plugins_folder(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "plugins")


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_has_a_dag_of_its_name(example):
    names = runpy.run_path(str(example))
    if names.get("HITLOperator", True) is None:
        pytest.skip("this Airflow has no human-in-the-loop tasks")
    dag = names[example.stem]()

    assert dag.dag_id == example.stem
    assert dag.tasks


def test_late_film_is_detected_where_airflow_has_deadlines():
    names = runpy.run_path(str(EXAMPLES / "manxue_alerts.py"))
    try:
        import airflow.sdk.definitions.deadline  # noqa: F401
    except ImportError:
        assert names["deadline"] == {}
        return

    alert = names["deadline"]["deadline"]
    assert alert.interval.total_seconds() == 6 * 3600
    assert alert.callback.path == "film_alerts.FilmAlert"


class Ti:
    """A task instance with one XCom."""

    dag_id, task_id, run_id, map_index = "films", "order", "run_1", -1

    def __init__(self, xcom):
        self.xcom = xcom

    def xcom_pull(self, **_):
        if isinstance(self.xcom, Exception):
            raise self.xcom
        return self.xcom


@pytest.mark.parametrize(
    ("xcom", "reason"),
    [
        (
            {"state": "failed", "error": "ManxueVideoFailedError", "message": "Too dark."},
            "ManxueVideoFailedError: Too dark.",
        ),
        ({"state": "waiting"}, "ValueError. The task log has the details."),
        (None, "ValueError. The task log has the details."),
        (RuntimeError("Airflow is away"), "ValueError. The task log has the details."),
    ],
)
def test_alert_has_the_recorded_reason_or_the_class_of_the_error(xcom, reason):
    from film_alerts import FilmAlert

    alerts = []
    notifier = FilmAlert()
    notifier.send = alerts.append

    notifier.notify({"ti": Ti(xcom), "exception": ValueError("a secret")})

    assert alerts == [f"The task order of films, run run_1, failed. {reason}"]


async def test_alert_of_a_late_run_names_run_and_time():
    from film_alerts import FilmAlert

    alerts = []
    notifier = FilmAlert()
    notifier.send = alerts.append

    await notifier.async_notify(
        {"dag_run": {"dag_id": "films", "dag_run_id": "run_1"}, "deadline": {"deadline_time": "06:00"}}
    )

    assert alerts == ["The run run_1 of films has not succeeded by 06:00."]
