"""Times of lines in Airflow's log of a task."""

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
    Yield the time, in seconds since the epoch, of each line whose text begins with a match of a pattern.

    :param log: a log of Airflow 3. Each line is a JSON object.
    :param event: the pattern.
    """
    for line in log.splitlines():
        with contextlib.suppress(ValueError):  # the line is not JSON
            entry = json.loads(line)
            if re.match(event, entry["event"]):
                yield datetime.fromisoformat(entry["timestamp"]).timestamp()
