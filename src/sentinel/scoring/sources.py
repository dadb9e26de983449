"""How much of each source is refused: an upstream change must be loud.

Per source, one bucket a second for the last minute, each with the events read and refused. A
source is degraded while the refused share of the minute is above the policy's limit; it is so
again by itself when the minute is better. The process stays ready: one bad producer must not take
the others' decisions away.

One thread counts; any other may ask meanwhile.
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

    def add(self, second: int, n_read: int, n_refused: int) -> None:
        """Count, and drop what is older than a minute."""
        buckets = self.buckets
        read, refused = buckets.get(second, (0, 0))
        if not read:
            for old in [s for s in buckets if s <= second - _WINDOW_S]:
                del buckets[old]
        buckets[second] = (read + n_read, refused + n_refused)

    def totals(self, second: int) -> tuple[int, int]:
        """Sum what is not older than a minute."""
        # A copy is made at once: another thread may count meanwhile.
        counted = [n for at, n in list(self.buckets.items()) if at > second - _WINDOW_S]
        return sum(read for read, _ in counted), sum(refused for _, refused in counted)

    def is_silent(self, second: int) -> bool:
        """Whether nothing came in the last minute."""
        return all(at <= second - _WINDOW_S for at in self.buckets)


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
        self._looked = -1

    def observe(self, source: str, *, n_read: int, n_refused: int, now_s: float) -> None:
        """Count one batch of one source."""
        self._second = max(self._second, int(now_s))
        minute = self._minutes.get(source)
        if minute is None:
            is_room = len(self._minutes) < limits.SOURCES_WATCHED_MAX or self._make_room()
            minute = self._minutes.setdefault(source if is_room else OTHER_SOURCES, _Minute())
        minute.add(self._second, n_read, n_refused)

    def degraded(self, *, now_s: float) -> tuple[str, ...]:
        """Name the sources whose last minute was too bad, in order of name."""
        self._second = max(self._second, int(now_s))
        return tuple(
            sorted(
                name for name, minute in list(self._minutes.items()) if self._is_degraded(minute)
            )
        )

    def _make_room(self) -> bool:
        """Forget sources that are silent, once a second at most; say whether any was."""
        if self._looked == self._second:
            return False
        self._looked = self._second
        silent = [name for name, each in self._minutes.items() if each.is_silent(self._second)]
        for name in silent:
            del self._minutes[name]
        return bool(silent)

    def _is_degraded(self, minute: _Minute) -> bool:
        read, refused = minute.totals(self._second)
        return read >= self._events_min and refused > self._refused_share_max * read
