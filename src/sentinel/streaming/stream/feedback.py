"""Feedback read side by side with events: learned up to the events' time before they are decided.

The topic is read by position like the events, but in no group: the partitions follow those of the
events (or are all of them, where one worker has everything).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sentinel.contract import RawBatch
from sentinel.core import limits
from sentinel.core.clock import Clock
from sentinel.features.engine import known_at
from sentinel.scoring import Scorer
from sentinel.streaming.stream.event_log import EventLog

_LONG_AGO_MS = -(1 << 62)
_POLL_S = 0.02


class StreamFeedback:
    """A reader of the feedback topic.

    Parameters
    ----------
    log : EventLog
    learn : callable
        Takes one raw batch of one partition into the right state; returns the latest known-at.
    on_missing : callable
        Told a partition that does not hold the position asked for; raises or moves on.

    Attributes
    ----------
    next : dict of int to int
        Position that comes next in each partition that is read.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        learn: Callable[[RawBatch], int],
        on_missing: Callable[[int], None],
    ) -> None:
        self.log = log
        self._learn = learn
        self._on_missing = on_missing
        # Of each partition: the latest known-at that was read; infinite at its end.
        self._latest_ms: dict[int, float] = {}
        # Of each partition: the position that comes next.
        self.next: dict[int, int] = {}
        self._paused: set[int] = set()

    @property
    def is_reading(self) -> bool:
        """Whether any partition is read."""
        return bool(self._latest_ms)

    def add(self, positions: dict[int, int]) -> None:
        """Read these partitions too, from these positions."""
        if not positions:
            return
        self._latest_ms.update(dict.fromkeys(positions, float(_LONG_AGO_MS)))
        self.next.update(positions)
        self.log.add(positions)

    def remove(self, partitions: list[int]) -> None:
        """Read these no longer."""
        ours = [p for p in partitions if p in self._latest_ms]
        for partition in ours:
            del self._latest_ms[partition]
            del self.next[partition]
            self._paused.discard(partition)
        if ours:
            self.log.remove(ours)

    def read_until(self, now_ms: float, *, clock: Clock) -> bool:
        """Learn all that is known by an event time, and what else is at hand.

        Returns
        -------
        bool
            False when feedback that should be there kept silent for too long, or took too long.
        """
        waited_s = silent_s = 0.0
        before_s = clock.monotonic_s()
        self._resume(now_ms)
        while True:
            n_read = self._read(_POLL_S if self._is_behind(now_ms) else 0.0)
            self._pause(now_ms)
            now_s = clock.monotonic_s()
            took_s = min(now_s - before_s, limits.STREAM_FEEDBACK_READ_S_MAX)
            before_s = now_s
            waited_s += took_s
            silent_s = 0.0 if n_read else silent_s + took_s
            if not self._is_behind(now_ms):
                if not n_read or waited_s > limits.STREAM_FEEDBACK_WAIT_S:
                    return True
            elif (
                silent_s > limits.STREAM_FEEDBACK_WAIT_S
                or waited_s > limits.STREAM_FEEDBACK_CATCH_UP_S
            ):
                return False

    def close(self) -> None:
        """Let go of the log."""
        self.log.close()

    def _is_behind(self, now_ms: float) -> bool:
        """Say whether any partition was neither read to its end nor up to that time."""
        return any(latest <= now_ms for latest in self._latest_ms.values())

    def _read(self, wait_s: float) -> int:
        read = self.log.read(limits.STREAM_READ_EVENTS, wait_s)
        n_read = 0
        for batch in read.batches:
            partition = batch.raw.partition
            if partition in self._latest_ms:
                known_ms = self._learn(batch.raw)
                self.next[partition] = int(batch.raw.positions[-1]) + 1
                before = self._latest_ms[partition]
                self._latest_ms[partition] = max(known_ms, before if before < np.inf else known_ms)
                n_read += batch.raw.n_events
        for partition in read.at_end:
            if partition in self._latest_ms:
                self._latest_ms[partition] = np.inf
        for partition in read.out_of_range:
            self._on_missing(partition)
        return n_read

    def _pause(self, now_ms: float) -> None:
        """Stop partitions that are ahead, so that what waits in memory stays bounded."""
        ahead = [
            partition
            for partition, latest in self._latest_ms.items()
            if now_ms < latest < np.inf and partition not in self._paused
        ]
        if ahead:
            self._paused.update(ahead)
            self.log.pause(ahead)

    def _resume(self, now_ms: float) -> None:
        due = [p for p in self._paused if self._latest_ms[p] <= now_ms]
        if due:
            self._paused.difference_update(due)
            self.log.resume(due)


def latest_known_ms(scorer: Scorer, raw: RawBatch) -> int:
    """Learn a raw batch and say when its latest feedback became known."""
    schema = scorer.parts.plan.features.feedback
    decoded = scorer.learn(raw)
    if schema is None or not decoded.events.n_rows:
        return _LONG_AGO_MS
    return int(known_at(decoded.events, schema).max())
