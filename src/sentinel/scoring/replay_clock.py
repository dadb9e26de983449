"""The clock of a replay: it shows the event time, and no time passes within a call.

A breaker that is fed with measured latencies makes decisions depend on how busy the machine was.
A replay must give the same decisions twice, so there the breaker's time is the running maximum of
event time and every call takes none: it can open for failures, never for slowness.
"""

from __future__ import annotations


class ReplayClock:
    """A clock that is moved by the events that are scored.

    Examples
    --------
    >>> clock = ReplayClock()
    >>> clock.advance_to(5_000)
    >>> clock.advance_to(3_000)
    >>> clock.now_ms(), clock.monotonic_s()
    (5000, 5.0)
    """

    def __init__(self) -> None:
        self._now_ms = 0

    def advance_to(self, event_time_ms: int) -> None:
        """Show this event time; an older one changes nothing."""
        self._now_ms = max(self._now_ms, event_time_ms)

    def now_ms(self) -> int:
        """Latest event time, in milliseconds since the epoch."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """Return the same in seconds."""
        return self._now_ms / 1000
