"""Airflow's own defaults of the arguments that our tasks read as well."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperator

if TYPE_CHECKING:
    from datetime import timedelta

# Both follow options of Airflow's configuration. A default of our own would override them: Airflow collects the defaults
# of a mapped task from the signatures of its classes (`_get_operator_defaults` in Airflow 3.3.2).
_PARAMETERS = inspect.signature(BaseOperator.__init__).parameters

EXECUTION_TIMEOUT: timedelta | None = _PARAMETERS["execution_timeout"].default
"""Default of ``execution_timeout``, which follows ``[core] default_task_execution_timeout``."""

RETRIES: int | None = _PARAMETERS["retries"].default
"""Default of ``retries``, which follows ``[core] default_task_retries``."""
