"""What Airflow has written into the log of a task, and when."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def moments(log: str, event: str) -> Iterator[float]:
    """
    Yield when each line was written, in seconds since the epoch, whose text begins as a pattern says.

    :param log: the log of Airflow 3, in which each line is a JSON object.
    :param event: the pattern.
    """
    for line in log.splitlines():
        with contextlib.suppress(ValueError):  # a line that is no JSON
            entry = json.loads(line)
            if re.match(event, entry["event"]):
                yield datetime.fromisoformat(entry["timestamp"]).timestamp()
