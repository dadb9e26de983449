"""The two ends of a simulated stream: what a broker and a slow network may do to a worker.

A read comes late or not at all, gives events again, leaves some out, is cut short, and mixes the
partitions; what was sent is taken late, in part, or refused. A seed decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from random import Random

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.streaming.stream.event_log import Read
from sentinel.testing.memory_log import MemoryLog, MemorySink, MemoryTopic


@dataclass(slots=True, kw_only=True)
class Faults:
    """How often each fault happens, as a probability a turn, or a call where it says so.

    Attributes
    ----------
    kill, power_cut : float
        Of one process, at a commit step or a call to the disk; of all of them.
    disk_error, disk_full : float
        ``EIO`` of a call; a disk that has room for little, for a while.
    freeze, expel : float
        A process that stands still; one whose partitions are given to others behind its back.
    join : float
        A further process starts, or one is asked to end.
    clock : float
        The wall clock jumps by an hour, a day, a year, either way.
    read_late, read_again, read_gap, sink_late, sink_refuses : float
        A call.
    forgets_syncs : bool
        Every sync of the disk is a lie.
    """

    kill: float = 0.0
    power_cut: float = 0.0
    disk_error: float = 0.0
    disk_full: float = 0.0
    freeze: float = 0.0
    expel: float = 0.0
    join: float = 0.0
    clock: float = 0.0
    read_late: float = 0.0
    read_again: float = 0.0
    read_gap: float = 0.0
    sink_late: float = 0.0
    sink_refuses: float = 0.0
    forgets_syncs: bool = False

    @classmethod
    def draw(cls, rng: Random) -> Faults:
        """Draw about half of the faults, each seldom or often."""
        rates = {
            field.name: rng.choice([0.02, 0.06, 0.15]) * (rng.random() < 0.5)
            for field in fields(cls)
            if field.name != "forgets_syncs"
        }
        return cls(**rates, forgets_syncs=rng.random() < 0.1)


class SimulatedLog(MemoryLog):
    """A reader of a topic whose reads go wrong.

    Parameters
    ----------
    topic : MemoryTopic
    faults : Faults
    rng : Random
    """

    def __init__(self, topic: MemoryTopic, faults: Faults, rng: Random) -> None:
        super().__init__(topic, with_keys=True)
        self.faults = faults
        self._rng = rng
        self.has_skipped = False

    @property
    def reading(self) -> Mapping[int, int]:
        """The next position of every partition that is read."""
        return self._next

    def read(self, n_events_max: int, wait_s: float) -> Read:
        """Take what there is, unless the network is against it."""
        rng, faults = self._rng, self.faults
        if rng.random() < faults.read_late:
            n_events_max = 0
        for partition, position in sorted(self._next.items()):
            ends = self.ends(partition)
            if rng.random() < faults.read_again:
                self._next[partition] = rng.randint(ends.low, position)
            elif rng.random() < faults.read_gap and ends.high - position > 3:
                self._next[partition] = position + rng.randint(1, 3)
                self.has_skipped = True
        read = super().read(min(n_events_max, rng.randint(1, 30)), wait_s)
        batches = list(read.batches)
        rng.shuffle(batches)
        return Read(tuple(batches), read.at_end, read.out_of_range)

    def tell(self, positions: Mapping[int, int]) -> bool:
        """Remember positions, unless nobody hears it."""
        return self._rng.random() >= self.faults.read_late and super().tell(positions)


class SimulatedSink(MemorySink):
    """A producer whose broker is slow, takes a part, or refuses.

    Parameters
    ----------
    decisions, refusals : list of (bytes, bytes)
        What has arrived, of all workers.
    faults : Faults
    rng : Random
    """

    def __init__(
        self,
        decisions: list[tuple[bytes, bytes]],
        refusals: list[tuple[bytes, bytes]],
        faults: Faults,
        rng: Random,
    ) -> None:
        super().__init__()
        self.decisions = decisions
        self.refusals = refusals
        self.faults = faults
        self._rng = rng

    def poll(self, wait_s: float = 0.0) -> None:
        """Let some of it arrive."""
        self._arrive(self._rng.randint(0, len(self._waiting)))

    def flush(self, wait_s: float) -> bool:
        """Let all of it arrive; False when it takes longer.

        Raises
        ------
        SentinelError
            ``stream-failed``.
        """
        if self._rng.random() < self.faults.sink_refuses:
            self.crash()
            raise SentinelError(
                ErrorCode.STREAM_FAILED, at="decisions", expected="a broker", got="none"
            )
        if self._rng.random() < self.faults.sink_late:
            self.poll()
            return False
        return super().flush(wait_s)

    def crash(self) -> None:
        """Lose what is not safe; a part of it had arrived."""
        self.poll()
        super().crash()

    def _arrive(self, n_records: int) -> None:
        for is_decision, key, value in self._waiting[:n_records]:
            (self.decisions if is_decision else self.refusals).append((key, value))
        del self._waiting[:n_records]
