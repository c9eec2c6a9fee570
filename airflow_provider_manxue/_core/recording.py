"""
The record of an incident: responses to queries of real tasks, in the form that the emulator plays. No I/O happens here.

``docs/doctor.md`` documents the form. The emulator reads it with code of its own.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue import __version__
from airflow_provider_manxue._core.ids import inner_object
from airflow_provider_manxue._core.reduction import Reducer, reduce_response

if TYPE_CHECKING:
    from collections.abc import Sequence

FORM = 1
"""Version of the form of a record file."""


class Recording:
    """
    The reduced responses of some tasks. Equal responses in a row are one entry, with the times of the first and the last.

    :param video_task_ids: ids of the tasks. The record has ``task-1``, ``task-2`` ... instead.
    :param started_at: start of the recording, in seconds since the epoch.
    """

    def __init__(self, video_task_ids: Sequence[str], started_at: float) -> None:
        self._started_at = started_at
        self._reducers = {one: Reducer(one, f"task-{number}") for number, one in enumerate(video_task_ids, 1)}
        self._entries: dict[str, list[dict[str, Any]]] = {one: [] for one in video_task_ids}

    def alias(self, video_task_id: str) -> str:
        """Return the id of a task in the record."""
        return self._reducers[video_task_id].alias

    def add_response(
        self,
        video_task_id: str,
        at: float,
        *,
        http_status: int,
        body: bytes,
        retry_after: Sequence[str] = (),
        now: float = 0.0,
        secret: str = "",
    ) -> str:
        """
        Add a response to a query.

        :param at: when the query was sent, in seconds since the start of the recording.
        :param body: the response's body, decoded from any transfer coding.
        :param retry_after: values of the ``Retry-After`` headers.
        :param now: seconds since the epoch, for a ``Retry-After`` that is a date.
        :param secret: the API key.
        :return: its description; empty if the response equals the one before.
        """
        reducer = self._reducers[video_task_id]
        entry = reduce_response(http_status, body, retry_after, reducer, now=now, secret=secret)
        return self._add(video_task_id, at, entry)

    def add_trouble(self, video_task_id: str, at: float, trouble: str) -> str:
        """
        Add a query without a response.

        :param trouble: kind of the trouble.
        :return: as :meth:`add_response`.
        """
        return self._add(video_task_id, at, {"no_response": trouble})

    def _add(self, video_task_id: str, at: float, entry: dict[str, Any]) -> str:
        entries, at = self._entries[video_task_id], round(at, 1)
        if entries and entries[-1] == {"at": entries[-1]["at"], "until": entries[-1]["until"], **entry}:
            entries[-1]["until"] = at
            return ""
        entries.append({"at": at, "until": at, **entry})
        return describe(entry)

    def retry_after(self, video_task_id: str) -> float:
        """Return the pause that the last response to a task requested, in seconds; 0 for none."""
        pause = self._entries[video_task_id][-1].get("retry_after")
        return pause if isinstance(pause, int) else 0

    def to_json(self) -> str:
        """Return the content of the record file."""
        record = {
            "form": FORM,
            "provider": __version__,
            "recorded_at": datetime.fromtimestamp(self._started_at, UTC).isoformat(timespec="seconds"),
            "tasks": {self.alias(one): entries for one, entries in self._entries.items()},
        }
        return json.dumps(record, indent=1) + "\n"


def describe(entry: dict[str, Any]) -> str:
    """Return a description of an entry in a few words."""
    if "no_response" in entry:
        return f"no response ({entry['no_response']})"
    if "body" in entry:
        return f"HTTP {entry['status']}, no JSON ({entry['body']['kind']})"
    task = entry["json"] if isinstance(entry["json"], dict) else {}
    status = task.get("status", inner_object(task).get("status"))
    return f"HTTP {entry['status']}, {status}" if isinstance(status, str) else f"HTTP {entry['status']}"
