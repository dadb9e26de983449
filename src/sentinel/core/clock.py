"""Time comes in as an argument: wall time for stamps, monotonic time for durations."""

from __future__ import annotations

import datetime as dt
import time
from typing import Protocol


class Clock(Protocol):
    """Where a component reads the time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z, wall clock; it may jump."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start that never go back."""


class SystemClock:
    """The clock of the machine."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


def instant(at_ms: int) -> str:
    """Show an instant, to the minute, in UTC.

    Examples
    --------
    >>> instant(1_533_686_400_000)
    '2018-08-08 00:00 UTC'
    """
    try:
        moment = dt.datetime.fromtimestamp(at_ms / 1000, tz=dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"
    return f"{moment:%Y-%m-%d %H:%M} UTC"
