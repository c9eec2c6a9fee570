"""Background tasks on an event loop, which belong to no single wait."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine

T = TypeVar("T")


def spawn_background(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """
    Start a task in an empty context.

    Airflow binds the task log of a trigger to the context that the trigger runs in. A task started in that context
    would write into that log for as long as it lives.
    """
    task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def cancel_and_wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel background tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
