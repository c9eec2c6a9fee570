"""Checks of numbers in arguments."""

from __future__ import annotations

import math
from typing import Any


def is_positive(value: Any) -> bool:
    """Return whether a value is a positive, finite number. A boolean is none."""
    return is_number(value) and value > 0


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number. A boolean is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
