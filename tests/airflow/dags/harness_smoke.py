"""Dag without the provider: one plain task, one deferred, one mapped."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, BaseOperator, task
from airflow.providers.common.compat.standard.triggers import TimeDeltaTrigger


class WaitOperator(BaseOperator):
    """Task that waits in the triggerer."""

    template_fields = ("seconds",)

    def __init__(self, *, seconds: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds

    def execute(self, context: Any) -> None:
        self.log.info("defer for %s seconds", self.seconds)
        self.defer(
            trigger=TimeDeltaTrigger(timedelta(seconds=float(self.seconds))), method_name=self.resume.__name__
        )

    def resume(self, context: Any, event: object) -> str:
        return "resumed"


with DAG(dag_id="harness_smoke", schedule=None):

    @task
    def plain() -> dict[str, Any]:
        logging.getLogger(__name__).info("hello from the plain task")
        return {"text": "hello", "number": 7, "nothing": None}

    @task
    def double(number: int) -> int:
        return 2 * number

    plain() >> WaitOperator(task_id="wait", seconds="{{ dag_run.conf['seconds'] }}", pool="one")
    double.expand(number=[1, 2])
