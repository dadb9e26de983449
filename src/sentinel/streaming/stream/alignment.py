"""Partitions of one topic go on at the same time of their events: who waits, and for whom.

Of each partition there is one time: that of its next event where one is known, else of the last
that was carried; before any of them, the beginning of all times. With a bound B

1. partition p may be carried up to ``min(time of q) + B``, over every other q that holds it;
2. q holds others while it has, or may have, something to give: not at its end, and not silent;
3. p, once held, goes on when its next event is no later than ``min(time of q) + B/2``.

The one with the earliest next event is never held by others that are held, so something always goes
on. One that is waited for and gives nothing for a bounded time is silent, and holds nobody until it
gives something again.

A time is the median of five events, of which it is the middle: two garbage times that follow one
another move nothing. The latest time of a batch would let one event of next week, as a broken clock
writes it, carry its partition past all the others; the earliest, one of last week stop them all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.features.layout import W_FEED, W_HOP, W_TILES
from sentinel.features.plan import FeaturePlan

Int64Array = npt.NDArray[np.int64]

# Before the first event of a partition; no bound added to it reaches an event.
BEGINNING_MS = -(1 << 62)
# Events that a time is the median of.
N_AROUND = 5
# A turn counts for so long at most: a process that was frozen has not waited.
_TURN_S_MAX = 1.0


class Alignment:
    """Says how far each partition may go; knows neither a log nor a clock.

    Parameters
    ----------
    bound_ms : int
        How far a partition may be ahead of the slowest.
    silence_s : float
        How long a partition that gives nothing is waited for.

    Examples
    --------
    >>> alignment = Alignment(60_000, 3.0)
    >>> for partition in (0, 1):
    ...     alignment.begin(partition)
    >>> alignment.carried(0, 1_000_000)
    >>> alignment.limit_ms(1), alignment.slowest(0)
    (1060000, 1)
    >>> alignment.reached_end(1)
    >>> alignment.limit_ms(0) is None
    True
    """

    def __init__(self, bound_ms: int, silence_s: float) -> None:
        self._bound_ms = bound_ms
        self._silence_s = silence_s
        self._times_ms: dict[int, int] = {}
        # Those that hold others: neither at their end nor silent.
        self._giving: set[int] = set()
        self._heard_s: dict[int, float] = {}
        self._held: set[int] = set()
        # Runs while partitions are read.
        self._now_s = 0.0
        self._turned_s: float | None = None

    @property
    def is_needed(self) -> bool:
        """Whether there are several partitions."""
        return len(self._times_ms) > 1

    def begin(self, partition: int) -> None:
        """Take a partition: it holds others as if it stood at the beginning of all times."""
        self._times_ms[partition] = BEGINNING_MS
        self._held.discard(partition)
        self.gave(partition)

    def end(self, partition: int) -> None:
        """Let go of a partition; it may be one that was never taken."""
        self._times_ms.pop(partition, None)
        self._heard_s.pop(partition, None)
        self._giving.discard(partition)
        self._held.discard(partition)

    def turn(self, now_s: float, *, is_reading: bool) -> None:
        """Let time pass; while nothing is read nobody is silent."""
        before_s, self._turned_s = self._turned_s, now_s
        if before_s is not None and is_reading:
            self._now_s += min(max(now_s - before_s, 0.0), _TURN_S_MAX)
            heard_s = self._now_s - self._silence_s
            silent = [p for p in self._giving - self._held if self._heard_s[p] < heard_s]
            self._giving.difference_update(silent)

    def gave(self, partition: int) -> None:
        """Note that a partition gave something."""
        self._heard_s[partition] = self._now_s
        self._giving.add(partition)

    def carried(self, partition: int, time_ms: int) -> None:
        """Note how far a partition is; of one that is held its next event says that."""
        if partition not in self._held:
            self._times_ms[partition] = time_ms

    def reached_end(self, partition: int) -> None:
        """Note that a partition has nothing to give now."""
        self._giving.discard(partition)

    def hold(self, partition: int, next_ms: int) -> None:
        """Hold a partition, whose next event is of this time; it has more to give, then."""
        self._giving.add(partition)
        self._held.add(partition)
        self._times_ms[partition] = next_ms

    def let_go(self, partition: int) -> None:
        """Let a partition go on."""
        self._held.discard(partition)
        self._heard_s[partition] = self._now_s

    def is_held(self, partition: int) -> bool:
        """Say whether a partition is held."""
        return partition in self._held

    @property
    def n_partitions(self) -> int:
        """How many partitions there are."""
        return len(self._times_ms)

    @property
    def n_held(self) -> int:
        """How many partitions are held."""
        return len(self._held)

    def earliest_held(self) -> int | None:
        """Return the one that goes on first of all that are held."""
        return min(self._held, key=self._place, default=None)

    def slowest(self, partition: int) -> int | None:
        """Return who holds a partition back the most; None: nobody."""
        return min(self._giving - {partition}, key=self._place, default=None)

    def limit_ms(self, partition: int) -> int | None:
        """Say up to which time a partition may be carried; None: as far as it likes."""
        slowest = self.slowest(partition)
        return None if slowest is None else self._times_ms[slowest] + self._bound_ms

    def is_due(self, partition: int) -> bool:
        """Say whether one that is held may go on."""
        slowest = self.slowest(partition)
        if slowest is None:
            return True
        return self._times_ms[partition] <= self._times_ms[slowest] + self._bound_ms // 2

    def _place(self, partition: int) -> tuple[int, int]:
        return self._times_ms[partition], partition


def bound_of(plan: FeaturePlan) -> int | None:
    """Return how far partitions may be apart, ms; None where nothing comes too late.

    A window of N slices of h each takes an event that is no more than (N-1)h behind. Partitions may
    be apart by half of the least of these: the other half is for disorder within each of them.
    Where a window is one slice no bound is small enough; half a slice is what is left then.
    """
    windows = plan.tables.windows
    spans = [
        int(hop_ms) * max(int(n_tiles) - 1, 1)
        for feed, hop_ms, n_tiles in windows[:, [W_FEED, W_HOP, W_TILES]]
        if feed == 0 and hop_ms > 0
    ]
    return min(spans) // 2 if spans else None


def medians_around(times_ms: Int64Array, before_ms: Int64Array) -> Int64Array:
    """Return, at each time, the median of the five around it; of fewer at both ends.

    Parameters
    ----------
    times_ms : ndarray of int64, shape (n,)
    before_ms : ndarray of int64, shape (m,)
        Times that came before them, of which the last two count.

    Examples
    --------
    >>> medians_around(np.array([3, 900, 5, 6, 7]), np.array([1, 2])).tolist()
    [3, 5, 6, 7, 6]
    """
    reach = N_AROUND // 2
    before_ms = before_ms[-reach:]
    # What is missing is behind all times as often as before them; the first of both, behind.
    around = [[-BEGINNING_MS, BEGINNING_MS], before_ms, times_ms, [-BEGINNING_MS, BEGINNING_MS]]
    known = np.concatenate([np.asarray(part, dtype=np.int64) for part in around])
    windows = np.lib.stride_tricks.sliding_window_view(known, N_AROUND)
    medians: Int64Array = np.sort(windows[len(before_ms) :], axis=1)[:, reach]
    return medians


def time_of_last(times_ms: Int64Array) -> int:
    """Return how far events go, one at least: the median of their last five times."""
    last = np.sort(times_ms[-N_AROUND:])
    return int(last[(len(last) - 1) // 2])
