"""How much of each source is refused: an upstream change must be loud.

Per source, one bucket a second for the last minute, each with the events read and refused. A
source is degraded while the refused share of the minute is above the policy's limit; it is so
again by itself when the minute is better. The process stays ready: one bad producer must not take
the others' decisions away.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sentinel.core import limits

_WINDOW_S = 60
# Where the events of all sources beyond the bound are counted together.
OTHER_SOURCES = "(other sources)"


@dataclass(slots=True)
class _Minute:
    """One source's last minute: second -> (read, refused), oldest first."""

    buckets: dict[int, tuple[int, int]] = field(default_factory=dict)

    def totals(self, second: int) -> tuple[int, int]:
        """Drop what is older than a minute, and sum the rest."""
        for old in [s for s in self.buckets if s <= second - _WINDOW_S]:
            del self.buckets[old]
        counted = self.buckets.values()
        return sum(read for read, _ in counted), sum(refused for _, refused in counted)


class SourceWatch:
    """Mark sources whose refused share is too large.

    Parameters
    ----------
    refused_share_max : float
    events_min : int
        Fewer events in the minute say nothing.

    Examples
    --------
    >>> watch = SourceWatch(refused_share_max=0.2, events_min=10)
    >>> watch.observe("tills", n_read=100, n_refused=90, now_s=0.0)
    >>> watch.degraded(now_s=1.0)
    ('tills',)
    >>> watch.degraded(now_s=61.0)
    ()
    """

    def __init__(self, *, refused_share_max: float, events_min: int) -> None:
        self._refused_share_max = refused_share_max
        self._events_min = events_min
        self._minutes: dict[str, _Minute] = {}
        self._second = 0

    def observe(self, source: str, *, n_read: int, n_refused: int, now_s: float) -> None:
        """Count one batch of one source."""
        self._second = max(self._second, int(now_s))
        is_known = source in self._minutes or len(self._minutes) < limits.SOURCES_WATCHED_MAX
        minute = self._minutes.setdefault(source if is_known else OTHER_SOURCES, _Minute())
        read, refused = minute.buckets.get(self._second, (0, 0))
        minute.buckets[self._second] = (read + n_read, refused + n_refused)

    def degraded(self, *, now_s: float) -> tuple[str, ...]:
        """Name the sources whose last minute was too bad, in order of name."""
        self._second = max(self._second, int(now_s))
        return tuple(
            sorted(name for name, minute in self._minutes.items() if self._is_degraded(minute))
        )

    def _is_degraded(self, minute: _Minute) -> bool:
        read, refused = minute.totals(self._second)
        return read >= self._events_min and refused > self._refused_share_max * read
