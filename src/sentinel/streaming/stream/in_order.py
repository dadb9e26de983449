"""Batches of several partitions, carried in the order of their events as far as that matters.

A batch that goes on for longer than its partition may be ahead is cut, and what is beyond is kept
until the others have come near: it does not matter how much time one read covers. A partition of
which enough is kept is paused until half of that was carried. So pauses are rare, and over before
they are felt: a client of Kafka throws away what it has fetched of a partition that is paused, and
asks for it again. :mod:`sentinel.streaming.stream.alignment` says how far each may go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch, RawBatch
from sentinel.core import limits
from sentinel.streaming.stream.alignment import (
    N_AROUND,
    Alignment,
    medians_around,
    time_of_last,
)
from sentinel.streaming.stream.event_log import KeyedBatch, cut
from sentinel.streaming.stream.pauses import Pauses, Why

Int64Array = npt.NDArray[np.int64]

_NONE = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class _Kept:
    """What was read and is beyond its time, and about when each of its events was."""

    batch: KeyedBatch
    times_ms: Int64Array


class InOrder:
    """Keeps back what is too far ahead; nothing at all with one partition.

    Parameters
    ----------
    pauses : Pauses
    alignment : Alignment
    event_time : str
        The field that holds it.
    look : callable
        Takes raw events, returns rows and times of those that keep the contract; no effect.
    n_behind : callable
        Events of a partition that were not carried yet; None where nobody knows.
    n_events_batch : int
        Events of one read at most.
    """

    def __init__(
        self,
        pauses: Pauses,
        alignment: Alignment,
        *,
        event_time: str,
        look: Callable[[RawBatch], tuple[Int64Array, Int64Array]],
        n_behind: Callable[[int], int | None],
        n_events_batch: int,
    ) -> None:
        self._pauses = pauses
        self._alignment = alignment
        self._event_time = event_time
        self._look = look
        self._n_behind = n_behind
        self._n_events_batch = n_events_batch
        # Of each partition that is held what was read of it, in order.
        self._kept: dict[int, deque[_Kept]] = {}
        # Partitions of which enough is kept.
        self._full: set[int] = set()
        # Ends behind what is kept.
        self._ends: dict[int, int] = {}
        # Of each partition the times of the last events that were carried.
        self._last_ms: dict[int, Int64Array] = {}
        # Ends that this turn has passed.
        self._passed: dict[int, int] = {}

    @property
    def n_waiting(self) -> int:
        """How many partitions wait for others."""
        return self._alignment.n_held

    @property
    def n_events_read(self) -> int:
        """Events that may be read at once: so that there is room for a read of each partition."""
        return min(self._n_events_batch, self._share)

    @property
    def _share(self) -> int:
        """Events that may be kept of each partition."""
        return max(limits.STREAM_KEPT_MAX // max(self._alignment.n_partitions, 1), 1)

    # --- coming and going --------------------------------------------------------------------

    def begin(self, partition: int) -> None:
        """Take a partition, which is read from now on."""
        self._forget(partition)
        self._last_ms[partition] = _NONE
        self._alignment.begin(partition)

    def end(self, partition: int) -> None:
        """Let go of a partition; what was kept of it was never read."""
        self._forget(partition)
        self._last_ms.pop(partition, None)
        self._alignment.end(partition)

    def placed(self, partition: int) -> None:
        """Forget what was kept of a partition that is read from elsewhere now."""
        self.begin(partition)
        self._pauses.remove(Why.AHEAD, [partition])

    def _forget(self, partition: int) -> None:
        self._kept.pop(partition, None)
        self._full.discard(partition)
        self._ends.pop(partition, None)

    def turn(self, now_s: float, *, is_reading: bool) -> None:
        """Let time pass."""
        self._alignment.turn(now_s, is_reading=is_reading)

    # --- what may be carried -----------------------------------------------------------------

    def gave(self, partition: int) -> None:
        """Note that something came of a partition."""
        self._alignment.gave(partition)

    def admit(self, batch: KeyedBatch) -> KeyedBatch | None:
        """Return what may be carried now of a batch that was read, None: nothing; keep the rest.

        Where nobody is behind that costs nothing; else the last events are looked at, and all of
        them where those are too far ahead.
        """
        raw = batch.raw
        partition = raw.partition
        if self._alignment.is_held(partition):
            self._ends.pop(partition, None)
            self._append(batch)
            return None
        if not self._alignment.is_needed or self._alignment.limit_ms(partition) is None:
            return batch
        if raw.n_events > 2 * N_AROUND:
            _, last_ms = self._look(_last_of(raw, N_AROUND))
            if len(last_ms) and not self._is_beyond(partition, time_of_last(last_ms)):
                return batch
        times_ms = self._times(raw, self._last_ms[partition])
        if times_ms is None or not self._is_beyond(partition, int(times_ms.max())):
            return batch
        n_now = _n_within(times_ms, self._alignment.limit_ms(partition))
        self._alignment.hold(partition, int(times_ms[n_now]))
        rest = _Kept(cut(batch, n_now, raw.n_events), times_ms[n_now:])
        self._kept[partition] = deque([rest])
        return cut(batch, 0, n_now) if n_now else None

    def due(self) -> Iterator[KeyedBatch]:
        """Give what was kept and may be carried now, the earliest first.

        What is given is no longer kept: it must be carried.
        """
        while (partition := self._alignment.earliest_held()) is not None:
            if self._alignment.is_due(partition):
                yield self._next_of(partition)
            elif not self._is_news(partition):
                return

    def carried(self, events: EventBatch) -> None:
        """Note how far the events go that were carried."""
        partition = events.raw.partition
        if not events.n_rows or not self._alignment.is_needed:
            return
        last = np.concatenate([self._last_ms[partition], self._column(events)[-N_AROUND:]])
        self._last_ms[partition] = last[-N_AROUND:]
        self._alignment.carried(partition, time_of_last(last))

    def reached_end(self, at_end: Mapping[int, int]) -> None:
        """Take the ends that a read has reached; one is passed when nothing before it is kept."""
        for partition, position in at_end.items():
            if not self._alignment.is_held(partition):
                self._pass_end(partition, position)
            elif partition not in self._full:
                self._ends[partition] = position

    def settle(self) -> dict[int, int]:
        """Pause and resume, at the end of a turn; return the ends that were passed in it."""
        n_max = min(self._share, limits.STREAM_KEPT_READS_MAX * self._n_events_batch)
        for partition, kept in self._kept.items():
            n_events = sum(len(each.times_ms) for each in kept)
            if n_events >= n_max:
                self._full.add(partition)
            elif n_events <= n_max // 2:
                self._full.discard(partition)
        self._pauses.add(Why.AHEAD, self._full)
        self._pauses.remove(Why.AHEAD, self._kept.keys() - self._full)
        passed, self._passed = self._passed, {}
        return passed

    # --- private -----------------------------------------------------------------------------

    def _next_of(self, partition: int) -> KeyedBatch:
        """Take what may be carried now out of what is kept."""
        pieces = self._kept[partition]
        kept = pieces.popleft()
        batch, n_events = kept.batch, kept.batch.raw.n_events
        n_now = _n_within(kept.times_ms, self._alignment.limit_ms(partition))
        if n_now < n_events:
            pieces.appendleft(_Kept(cut(batch, n_now, n_events), kept.times_ms[n_now:]))
            batch = cut(batch, 0, n_now)
        if pieces:
            self._alignment.hold(partition, int(pieces[0].times_ms[0]))
        else:
            self._let_go(partition)
        return batch

    def _let_go(self, partition: int) -> None:
        end = self._ends.get(partition)
        self._forget(partition)
        self._alignment.let_go(partition)
        self._pauses.remove(Why.AHEAD, [partition])
        if end is not None:
            self._pass_end(partition, end)

    def _append(self, batch: KeyedBatch) -> None:
        """Keep more of a partition of which something is kept."""
        partition = batch.raw.partition
        before_ms = self._kept[partition][-1].times_ms
        times_ms = self._times(batch.raw, before_ms)
        if times_ms is None:
            times_ms = np.full(batch.raw.n_events, before_ms[-1], dtype=np.int64)
        self._kept[partition].append(_Kept(batch, times_ms))

    def _pass_end(self, partition: int, position: int) -> None:
        self._passed[partition] = position
        self._alignment.reached_end(partition)

    def _column(self, events: EventBatch) -> Int64Array:
        return events.column(self._event_time)

    def _times(self, raw: RawBatch, before_ms: Int64Array) -> Int64Array | None:
        """Say of each event about when it was; a refused one has the time of a neighbour."""
        rows, known_ms = self._look(raw)
        if not len(rows):
            return None
        times_ms = medians_around(known_ms, before_ms)
        row = np.searchsorted(rows, np.arange(raw.n_events), side="right") - 1
        return times_ms[np.maximum(row, 0)]

    def _is_beyond(self, partition: int, time_ms: int) -> bool:
        """Say whether a time is further than a partition may be carried now."""
        while True:
            limit_ms = self._alignment.limit_ms(partition)
            if limit_ms is None or time_ms <= limit_ms:
                return False
            if not self._is_news(partition):
                return True

    def _is_news(self, partition: int) -> bool:
        """Look whether who holds a partition is at its end, and nobody has said so yet.

        A log says it when it has asked once more, which takes half a second at a broker.
        """
        slowest = self._alignment.slowest(partition)
        if slowest is None or self._alignment.is_held(slowest) or self._n_behind(slowest) != 0:
            return False
        self._alignment.reached_end(slowest)
        return True


def _n_within(times_ms: Int64Array, limit_ms: int | None) -> int:
    """Count the events before the first that is beyond a limit."""
    if limit_ms is None:
        return len(times_ms)
    is_beyond = times_ms > limit_ms
    return int(is_beyond.argmax()) if is_beyond.any() else len(times_ms)


def _last_of(raw: RawBatch, n_events: int) -> RawBatch:
    """Take the last events alone, without the bytes of the others."""
    starts, ends = raw.starts[-n_events:], raw.ends[-n_events:]
    first = int(starts[0])
    return replace(
        raw,
        content=raw.content[first : int(ends[-1])],
        starts=starts - first,
        ends=ends - first,
        positions=raw.positions[-n_events:],
        received_at_ms=None if raw.received_at_ms is None else raw.received_at_ms[-n_events:],
    )
