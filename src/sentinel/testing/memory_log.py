"""An event log in memory, with a group whose every move a test decides.

Nothing happens by itself: a member learns of a change of its share in its next read, as a consumer
of Kafka does, and :meth:`MemoryGroup.expel` gives the share of a member away behind its back, as a
broker does after a session has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sentinel.contract import RawBatch, Refusal
from sentinel.scoring import DecisionBatch
from sentinel.streaming.stream.event_log import Ends, KeyedBatch, Member, Read
from sentinel.streaming.stream.sink_records import decision_records, quarantine_record


@dataclass(slots=True)
class _Partition:
    """Events of one partition; ``low`` is the position of the first."""

    low: int = 0
    values: list[bytes] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)


class MemoryTopic:
    """The events of a topic.

    Parameters
    ----------
    name : str
    n_partitions : int

    Examples
    --------
    >>> topic = MemoryTopic("payments", 1)
    >>> topic.append(0, [b"a", b"b"])
    0
    >>> log = MemoryLog(topic)
    >>> log.add({0: 1})
    >>> [batch.raw.event_bytes(0) for batch in log.read(10, 0.0).batches]
    [b'b']
    """

    def __init__(self, name: str, n_partitions: int) -> None:
        self.name = name
        self.partitions = [_Partition() for _ in range(n_partitions)]
        self.group = MemoryGroup(n_partitions)

    def append(
        self,
        partition: int,
        values: Sequence[bytes | None],
        *,
        keys: Sequence[bytes | None] | None = None,
        times_ms: Sequence[int] | None = None,
    ) -> int:
        """Append events; return the position of the first."""
        here = self.partitions[partition]
        first = here.low + len(here.values)
        here.values += [value or b"" for value in values]
        here.keys += keys if keys is not None else [None] * len(values)
        here.times_ms += times_ms if times_ms is not None else [-1] * len(values)
        return first

    def forget(self, partition: int, before: int) -> int:
        """Remove events before a position; return where the partition begins now."""
        here = self.partitions[partition]
        n_gone = max(min(before - here.low, len(here.values)), 0)
        del here.values[:n_gone], here.keys[:n_gone], here.times_ms[:n_gone]
        here.low += n_gone
        return here.low

    def ends(self, partition: int) -> Ends:
        """Say where a partition begins and ends."""
        here = self.partitions[partition]
        return Ends(here.low, here.low + len(here.values))


class MemoryGroup:
    """Who of the members has which partition: in turns, in the order in which they joined.

    Parameters
    ----------
    n_partitions : int
    """

    def __init__(self, n_partitions: int) -> None:
        self._n_partitions = n_partitions
        self._logs: list[MemoryLog] = []
        self.owners: dict[int, MemoryLog] = {}

    def add(self, log: MemoryLog) -> None:
        """Take a member in."""
        if log not in self._logs:
            self._logs.append(log)

    def expel(self, log: MemoryLog) -> None:
        """Give away what a member has; it learns of it in its next read."""
        self._logs = [each for each in self._logs if each is not log]
        self.owners = {p: owner for p, owner in self.owners.items() if owner is not log}

    def share(self, log: MemoryLog) -> set[int]:
        """Say which partitions a member is to have."""
        if log not in self._logs:
            return set()
        place, n_members = self._logs.index(log), len(self._logs)
        return {p for p in range(self._n_partitions) if p % n_members == place}


class MemoryLog:
    """One reader of a :class:`MemoryTopic`; a ``GroupLog``.

    Parameters
    ----------
    topic : MemoryTopic
    with_keys : bool
    """

    is_dense = True

    def __init__(self, topic: MemoryTopic, *, with_keys: bool = False) -> None:
        self._topic = topic
        self._with_keys = with_keys
        self._member: Member | None = None
        self._next: dict[int, int] = {}
        self._paused: set[int] = set()
        self._given: set[int] = set()
        self.told: dict[int, int] = {}

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self._topic.name

    def n_partitions(self) -> int:
        """Say how many partitions there are."""
        return len(self._topic.partitions)

    def ends(self, partition: int) -> Ends:
        """Say where a partition begins and ends."""
        return self._topic.ends(partition)

    def known_end(self, partition: int) -> int:
        """Say where a partition ends."""
        return self._topic.ends(partition).high

    def add(self, positions: Mapping[int, int]) -> None:
        """Read these partitions too."""
        self._next.update(positions)

    def remove(self, partitions: Sequence[int]) -> None:
        """Read these no longer."""
        for partition in partitions:
            self._next.pop(partition, None)
            self._paused.discard(partition)

    def seek(self, partition: int, position: int) -> None:
        """Go on elsewhere in a partition."""
        self._next[partition] = position

    def pause(self, partitions: Sequence[int]) -> None:
        """Give nothing of these until they are resumed."""
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        """Go on with paused partitions."""
        self._paused.difference_update(partitions)

    def join(self, member: Member) -> None:
        """Join the topic's group."""
        self._member = member
        self._topic.group.add(self)

    def tell(self, positions: Mapping[int, int]) -> bool:
        """Remember positions for who looks at :attr:`told`."""
        self.told.update(positions)
        return True

    def read(self, n_events_max: int, wait_s: float) -> Read:
        """Take what there is, partition by partition; nothing waits."""
        self._settle()
        batches: list[KeyedBatch] = []
        at_end: dict[int, int] = {}
        out_of_range: list[int] = []
        for partition, position in sorted(self._next.items()):
            if partition in self._paused or n_events_max <= 0:
                continue
            ends = self._topic.ends(partition)
            if not ends.low <= position <= ends.high:
                out_of_range.append(partition)
                continue
            n_events = min(ends.high - position, n_events_max)
            if n_events:
                batches.append(self._batch(partition, position - ends.low, n_events))
                n_events_max -= n_events
                self._next[partition] = position + n_events
            if self._next[partition] == ends.high:
                at_end[partition] = ends.high
        return Read(tuple(batches), at_end, tuple(out_of_range))

    def close(self) -> None:
        """Leave the group."""
        member, self._member = self._member, None
        if member is not None and self._given:
            member.end(sorted(self._given))
        self._topic.group.expel(self)
        self._next.clear()
        self._given.clear()

    def _settle(self) -> None:
        """Give back what is no longer ours, and take what is free."""
        if self._member is None:
            return
        group = self._topic.group
        share = group.share(self)
        lost = {p for p in self._given if group.owners.get(p) is not self}
        gone = sorted((self._given - share) | lost)
        if gone:
            self._member.end(gone)
            self.remove(gone)
            self._given.difference_update(gone)
            for partition in gone:
                if group.owners.get(partition) is self:
                    del group.owners[partition]
        group.add(self)
        new = sorted(p for p in share - self._given if p not in group.owners)
        if new:
            group.owners.update(dict.fromkeys(new, self))
            self._given.update(new)
            for partition, at in self._member.begin(new).items():
                if at is None:
                    self._paused.add(partition)
                else:
                    self._next[partition] = at

    def _batch(self, partition: int, first: int, n_events: int) -> KeyedBatch:
        here = self._topic.partitions[partition]
        part = slice(first, first + n_events)
        times = np.array(here.times_ms[part], dtype=np.int64)
        raw = RawBatch.from_events(
            here.values[part],
            source=self._topic.name,
            partition=partition,
            first_position=here.low + first,
            received_at_ms=times if times.min(initial=0) >= 0 else None,
        )
        return KeyedBatch(raw, tuple(here.keys[part]) if self._with_keys else None)


class MemorySink:
    """Keeps decisions and refusals in lists; a :class:`~sentinel.streaming.stream.ends.StreamSink`.

    What was not flushed is lost with :meth:`crash`, as in a producer's memory.

    Attributes
    ----------
    decisions, refusals : list of (bytes, bytes)
        Key and value of what is safe, in order.
    is_stuck : bool
        Nothing becomes safe.
    """

    def __init__(self) -> None:
        self.decisions: list[tuple[bytes, bytes]] = []
        self.refusals: list[tuple[bytes, bytes]] = []
        self._waiting: list[tuple[bool, bytes, bytes]] = []
        self.n_decisions = 0
        self.n_refusals = 0
        self.is_stuck = False

    @property
    def n_waiting(self) -> int:
        """Records that are not safe yet."""
        return len(self._waiting)

    def put(self, refusals: Sequence[Refusal]) -> None:
        """Take refusals."""
        self._waiting += [(False, *quarantine_record(refusal, 0)) for refusal in refusals]
        self.n_refusals += len(refusals)

    def write(self, decisions: DecisionBatch, lines: bytes, *, event_id: str) -> None:
        """Take decisions."""
        if not lines:
            return
        keys, values = decision_records(decisions, lines, event_id=event_id)
        self._waiting += [(True, *pair) for pair in zip(keys, values, strict=True)]
        self.n_decisions += len(keys)

    def poll(self, wait_s: float = 0.0) -> None:
        """Make everything safe where the worker waits for it; otherwise the next flush does."""
        if wait_s > 0:
            self.flush(wait_s)

    def flush(self, wait_s: float) -> bool:
        """Make everything safe, unless it ``is_stuck``."""
        if self.is_stuck:
            return False
        for is_decision, key, value in self._waiting:
            (self.decisions if is_decision else self.refusals).append((key, value))
        self._waiting.clear()
        return True

    def crash(self) -> None:
        """Lose what is not safe."""
        self._waiting.clear()

    def close(self) -> None:
        """Do nothing."""
