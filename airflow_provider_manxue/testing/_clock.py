"""The clock of the emulator: real time plus an offset that tests move."""

from __future__ import annotations

import math
import threading
import time


class Clock:
    """
    Tell the time of the emulator, as Unix seconds.

    Task scripts, signed URLs and the rate limit read this clock. Only delays of responses sleep real time.

    :param start: the time to begin with, in Unix seconds; the real time if left out.
    :param frozen: stand still, so that time passes through :meth:`advance` alone.
    """

    def __init__(self, start: float | None = None, *, frozen: bool = False) -> None:
        self._lock = threading.Lock()
        self._frozen = frozen
        self._offset = 0.0 if start is None else start - time.time()
        self._stands_at = time.time() if start is None else start

    def now(self) -> float:
        """Return the current time in Unix seconds."""
        return self._stands_at if self._frozen else time.time() + self._offset

    def advance(self, seconds: float) -> float:
        """
        Move the clock forward.

        :param seconds: how far, in seconds; not negative.
        :returns: the new time in Unix seconds.
        :raises ValueError: if ``seconds`` is negative or not finite.
        """
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"seconds is {seconds!r}; give a finite number that is not negative")
        with self._lock:
            self._offset += seconds
            self._stands_at += seconds
        return self.now()
