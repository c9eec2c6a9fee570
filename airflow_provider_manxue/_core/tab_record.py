"""
The record of a task for the *Video* tab: its wait, or the reason why it failed. No I/O happens here.

``docs/ui.md`` documents the fields, which the tab's script reads. A record contains no URL, no prompt and no API key.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.exceptions import ManxueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KEY = "manxue_status"
"""XCom key of the record, as documented."""

MAX_IDS = 100
"""Maximum number of ids in a record. A batch can have thousands."""

MAX_MESSAGE = 2000
"""Maximum number of characters of a message. That of a batch names up to 100 videos."""

_QUOTED = 40
"""Number of characters by which a quoted prompt is recognized."""

_URL = re.compile(r"https?:(?:\\?/){2}[^\s\"'<>]*[^\s\"'<>.,;:!)]", re.IGNORECASE)
_USER_INFO = re.compile(r"(://)[^\s/@\"'<>]*@")


def waiting(
    ids: Sequence[str],
    statuses: Mapping[str, int],
    *,
    total: int,
    deadline: float,
    now: float,
    noun: str = "video",
) -> dict[str, Any]:
    """
    Return the record of a wait.

    :param ids: ids of the awaited videos.
    :param statuses: number of videos by status. Videos with the status "" were not polled.
    :param total: number of all videos of the task.
    :param deadline: the deadline of the wait, in seconds since the epoch.
    :param now: the current time.
    :param noun: "video" or "asset".
    """
    return {
        "state": "waiting",
        "video_task_ids" if noun == "video" else "asset_ids": list(ids[:MAX_IDS]),
        f"{noun}s": total,
        "statuses": {status: count for status, count in statuses.items() if status and count},
        "deadline": deadline,
        "updated_at": now,
    }


def waiting_for_room(attempts: int, next_at: float, *, deadline: float, now: float) -> dict[str, Any]:
    """
    Return the record of an order that was not accepted yet.

    :param attempts: how often it was sent.
    :param next_at: when it is sent again, in seconds since the epoch.
    :param deadline: when it is given up.
    :param now: the current time.
    """
    return {
        "state": "waiting_for_room",
        "attempts": attempts,
        "next_at": next_at,
        "deadline": deadline,
        "updated_at": now,
    }


def failed(error: BaseException, *, hide: Iterable[str] = ()) -> dict[str, Any]:
    """
    Return the record of a failed task.

    :param error: the error that ended it. Its message is only recorded if it is one of this package's errors, or if the
        error was raised from one.
    :param hide: texts that must not be recorded, such as the prompt.
    """
    cause = error if isinstance(error, ManxueError) else error.__cause__
    known = isinstance(cause, ManxueError)
    message = str(error) if known else "The task log has the details."
    return {"state": "failed", "error": type(error).__name__, "message": _clean(message, hide)}


def _clean(message: str, hide: Iterable[str]) -> str:
    text = _USER_INFO.sub(r"\1***@", _URL.sub("(URL)", message))
    for secret in hide:
        plain = " ".join(secret.split())
        # A quoted response is JSON, in which some characters are escaped.
        for form in dict.fromkeys((plain, json.dumps(plain, ensure_ascii=False)[1:-1])):
            text = _without(text, form)
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def _without(text: str, prompt: str) -> str:
    """Replace quotations of a prompt. A message may contain only the beginning of a long one."""
    beginning, searched = prompt[:_QUOTED], 0
    while beginning and (at := text.find(beginning, searched)) >= 0:
        end = len(beginning)
        while end < len(prompt) and text.startswith(prompt[: end + 1], at):
            end += 1
        text = f"{text[:at]}(prompt){text[at + end :]}"
        searched = at + len("(prompt)")  # the replacement may contain the prompt
    return text
