"""The clock of the emulator: real time plus an offset that tests move."""

from __future__ import annotations

import math
import threading
import time


class Clock:
    """
    The time of the emulator, in Unix seconds.

    Task scripts, signed URLs and the rate limit read this clock. Delays of responses are in real time.

    :param start: start time in Unix seconds; the real time if left out.
    :param frozen: do not follow the real time; only :meth:`advance` moves the clock.
    """

    def __init__(self, start: float | None = None, *, frozen: bool = False) -> None:
        self._lock = threading.Lock()
        self._frozen = frozen
        self._offset = 0.0 if start is None else start - time.time()
        self._frozen_at = time.time() if start is None else start

    def now(self) -> float:
        """Return the current time in Unix seconds."""
        return self._frozen_at if self._frozen else time.time() + self._offset

    def advance(self, seconds: float) -> float:
        """
        Move the clock forward.

        :param seconds: seconds to move; 0 or more.
        :returns: the new time in Unix seconds.
        :raises ValueError: if ``seconds`` is negative or not finite.
        """
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"seconds is {seconds!r}. Set a finite number, 0 or more.")
        with self._lock:
            self._offset += seconds
            self._frozen_at += seconds
        return self.now()
