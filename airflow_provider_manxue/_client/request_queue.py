"""The queue of a rate limiter."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

# Theory of operation
#
# A request that cannot be granted immediately waits in one of two lanes: regular polls and final polls. A lane
# serves two orders in alternation: the next task instance in round-robin order, and the oldest request over all.
# With n task instances queued, a task is thus served within 2 n grants of its lane, even beside one with 10,000
# videos; with m requests queued, a request is granted within 2 m grants of its lane, even if its task has most of
# them. Final polls have precedence, but get at most every second grant while regular polls are queued.


class Request:
    """
    A request in the queue of a rate limiter.

    :param task: the task instance that it belongs to.
    :param start: sends the request; called once, when it is granted.
    :param final: whether it is a final poll.
    :ivar queued_at: loop time at which it was queued.
    """

    __slots__ = ("final", "queued_at", "start", "task")

    def __init__(self, task: Hashable, start: Callable[[], None], final: bool) -> None:
        self.task = task
        self.start = start
        self.final = final
        self.queued_at = 0.0


class Lane:
    """Requests of one priority in two orders: by task, and by age."""

    __slots__ = ("_by_age", "_by_task", "_next_by_age")

    def __init__(self) -> None:
        self._by_age: OrderedDict[Request, None] = OrderedDict()
        self._by_task: OrderedDict[Hashable, OrderedDict[Request, None]] = OrderedDict()
        self._next_by_age = False

    def __len__(self) -> int:
        return len(self._by_age)

    def push(self, request: Request) -> None:
        self._by_age[request] = None
        of_task = self._by_task.get(request.task)
        if of_task is None:
            of_task = self._by_task[request.task] = OrderedDict()
        of_task[request] = None

    def pop(self) -> Request:
        """Remove and return the next request, from both orders in alternation."""
        if self._next_by_age:
            request = next(iter(self._by_age))
        else:
            task = next(iter(self._by_task))
            self._by_task.move_to_end(task)
            request = next(iter(self._by_task[task]))
        self._next_by_age = not self._next_by_age
        self.remove(request)
        return request

    def remove(self, request: Request) -> bool:
        """Remove a request. Return whether it was queued."""
        if request not in self._by_age:
            return False
        del self._by_age[request]
        of_task = self._by_task[request.task]
        del of_task[request]
        if not of_task:
            del self._by_task[request.task]
        return True
