"""Which partitions give nothing, and why: one goes on when the last of its reasons is gone."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from sentinel.streaming.stream.event_log import EventLog


class Why(Enum):
    """Why a partition is paused."""

    STATE = "another has its state, or its outputs are undecided"
    ROOM = "too much waits in the sink"
    AHEAD = "others are behind it in the time of their events"


class Pauses:
    """The one place that pauses and resumes partitions of a log.

    Parameters
    ----------
    log : EventLog
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._reasons: dict[int, set[Why]] = {}

    def begin(self, partition: int, *, is_waiting: bool) -> None:
        """Take a partition that the log is just told of; where it waits, the log pauses it."""
        self._reasons[partition] = {Why.STATE} if is_waiting else set()

    def end(self, partition: int) -> None:
        """Let go of a partition: the log has forgotten it, and that it was paused."""
        self._reasons.pop(partition, None)

    def add(self, why: Why, partitions: Iterable[int]) -> None:
        """Pause partitions for a reason, those too that have it already."""
        new = [p for p in partitions if why not in self._reasons[p]]
        free = [p for p in new if not self._reasons[p]]
        for partition in new:
            self._reasons[partition].add(why)
        if free:
            self._log.pause(free)

    def remove(self, why: Why, partitions: Iterable[int]) -> None:
        """Take a reason away, and resume those that have no other."""
        had = [p for p in partitions if why in self._reasons[p]]
        for partition in had:
            self._reasons[partition].discard(why)
        free = [p for p in had if not self._reasons[p]]
        if free:
            self._log.resume(free)

    def say_again(self, partition: int) -> None:
        """Pause one anew that was placed elsewhere, where a reason holds: logs may forget it."""
        if self._reasons[partition]:
            self._log.pause([partition])
