"""How fast work without an end goes on, for people who watch it."""

from __future__ import annotations

from collections import deque

# As often as a bar is drawn.
_EVERY_S = 0.2
# The pace is that of the last seconds: what was an hour ago says nothing about now.
_LOOKS_MAX = 26


class Pace:
    """Events so far, how many of them a second of late, and how many wait.

    Examples
    --------
    >>> pace = Pace()
    >>> pace.note(10.0, 0, None)
    '0 events'
    >>> pace.note(12.0, 5000, 120)
    '5,000 events, 2,500 events/s, 120 wait'
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=_LOOKS_MAX)

    def is_due(self, now_s: float) -> bool:
        """Tell whether it is time to look again."""
        return not self._looks or now_s - self._looks[-1][0] >= _EVERY_S

    def note(self, now_s: float, n_events: int, n_waiting: int | None) -> str:
        """Say in a few words how it goes.

        Parameters
        ----------
        now_s : float
            Of a clock that only goes forward, in seconds.
        n_events : int
            Since the start.
        n_waiting : int or None
            Events that are there and not yet read; None where nobody knows.
        """
        self._looks.append((now_s, n_events))
        began_s, n_before = self._looks[0]
        parts = [f"{n_events:,} events"]
        if now_s > began_s:
            parts.append(f"{(n_events - n_before) / (now_s - began_s):,.0f} events/s")
        if n_waiting is not None:
            parts.append(f"{n_waiting:,} wait")
        return ", ".join(parts)
