"""A clock that a test sets by hand."""

from __future__ import annotations

# 2025-01-06T00:00:00Z: the first day of the simulator.
_START_MS = 1_736_121_600_000


class ManualClock:
    """A :class:`~sentinel.core.clock.Clock` that stands still until it is told otherwise.

    Wall time and monotonic time move together with :meth:`advance`, as they do in a healthy
    machine; :meth:`jump` moves wall time alone, as a correction by NTP or an operator does.

    Parameters
    ----------
    now_ms : int
        Wall time at the start, milliseconds since the epoch.
    monotonic_s : float
        Monotonic time at the start.

    Examples
    --------
    >>> clock = ManualClock(now_ms=1_000)
    >>> clock.advance(0.5)
    >>> clock.jump(-60.0)
    >>> clock.now_ms(), clock.monotonic_s()
    (-58500, 0.5)
    """

    def __init__(self, now_ms: int = _START_MS, *, monotonic_s: float = 0.0) -> None:
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s

    def now_ms(self) -> int:
        """Wall time, milliseconds since the epoch."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let time pass, at least 0 seconds.

        Raises
        ------
        ValueError
            For a negative duration: monotonic time never goes back.
        """
        if seconds < 0:
            raise ValueError("seconds: expected 0 or more; use jump() to set the wall clock back")
        self._monotonic_s += seconds
        self._now_ms += round(seconds * 1000)

    def jump(self, seconds: float) -> None:
        """Set the wall clock on, or back, while monotonic time stands."""
        self._now_ms += round(seconds * 1000)

    def set_now_ms(self, now_ms: int) -> None:
        """Set the wall clock to an instant while monotonic time stands."""
        self._now_ms = now_ms
