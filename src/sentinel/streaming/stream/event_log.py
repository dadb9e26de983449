"""What a stream worker reads: partitions of events with positions, whoever keeps them.

A topic of Kafka, a log of files and, in tests, a log in memory are read through the same calls; one
conformance suite holds all three. A position is never given by who keeps the log: it is the
reader's, who has it from its state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sentinel.contract import RawBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError


@dataclass(frozen=True, slots=True)
class KeyedBatch:
    """Events of one partition, in order.

    Attributes
    ----------
    raw : RawBatch
        ``source`` is the topic; ``received_at_ms`` the stamps of whoever keeps the log. An event
        without a value (a tombstone) has no bytes, and the contract refuses it.
    keys : tuple of bytes or None, or None
        The key of each event; None where the reader was made without ``with_keys``.
    """

    raw: RawBatch
    keys: tuple[bytes | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ends:
    """Where a partition begins and ends.

    Attributes
    ----------
    low : int
        First position that it still holds.
    high : int
        Position that the next event will get.
    """

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Read:
    """What one call gave.

    Attributes
    ----------
    batches : tuple of KeyedBatch
    at_end : mapping of int to int
        Partitions whose end was reached, and the position there.
    out_of_range : tuple of int
        Partitions that do not hold the position that was asked for.
    """

    batches: tuple[KeyedBatch, ...] = ()
    at_end: Mapping[int, int] = field(default_factory=dict)
    out_of_range: tuple[int, ...] = ()


class EventLog(Protocol):
    """One reader of one topic. Not for several threads."""

    @property
    def topic(self) -> str:
        """Its name; the source of its batches."""

    @property
    def is_dense(self) -> bool:
        """Whether positions follow one another without holes, so that a hole is a loss."""

    def n_partitions(self) -> int:
        """Ask how many partitions there are; ``stream-topic-missing`` without the topic."""

    def ends(self, partition: int) -> Ends:
        """Ask where a partition begins and ends now."""

    def add(self, positions: Mapping[int, int]) -> None:
        """Read these partitions too, each from a position."""

    def remove(self, partitions: Sequence[int]) -> None:
        """Read these no longer; those that are not read are passed over."""

    def seek(self, partition: int, position: int) -> None:
        """Go on elsewhere in a partition that is read, forwards or backwards."""

    def pause(self, partitions: Sequence[int]) -> None:
        """Give nothing of these until they are resumed."""

    def resume(self, partitions: Sequence[int]) -> None:
        """Go on with paused partitions, where they were."""

    def read(self, n_events_max: int, wait_s: float) -> Read:
        """Take what there is, at most so many events, waiting so long for the first."""

    def close(self) -> None:
        """Let go of everything. Safe to call twice."""


class Member(Protocol):
    """Who is given partitions, and gives them back; called within ``read`` and ``close``."""

    def begin(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Take partitions; say where each is read from, None: not yet, another has its state."""

    def end(self, partitions: Sequence[int]) -> None:
        """Let go of partitions; when it returns, another may have them."""


class GroupLog(EventLog, Protocol):
    """A reader that shares its topic with others."""

    def join(self, member: Member) -> None:
        """Ask for a share of the partitions; they come with the next reads."""

    def tell(self, positions: Mapping[int, int]) -> bool:
        """Say how far outputs are safe, for people who watch lag; False when it was not heard."""

    def known_end(self, partition: int) -> int:
        """Return the end of a partition as last seen, without asking; -1 when it is not known."""


def cut(batch: KeyedBatch, first: int, end: int) -> KeyedBatch:
    """Take some events of a batch; the bytes are shared."""
    raw, keys = batch.raw, batch.keys
    if first == 0 and end == raw.n_events:
        return batch
    times = raw.received_at_ms
    part = RawBatch(
        content=raw.content,
        starts=raw.starts[first:end],
        ends=raw.ends[first:end],
        source=raw.source,
        partition=raw.partition,
        positions=raw.positions[first:end],
        received_at_ms=None if times is None else times[first:end],
    )
    return KeyedBatch(part, None if keys is None else keys[first:end])


def gap(topic: str, partition: int, first: int, end: int) -> SentinelError:
    """Name what is missing."""
    return SentinelError(
        ErrorCode.SOURCE_GAP,
        at=f"{topic}/{partition}",
        expected=f"position {first}",
        got=f"{end}: positions {first} to {end - 1} are missing",
        hint="Go on without them with --accept-gap; the features then lack these events.",
    )


def behind(topic: str, partition: int, position: int, ends: Ends) -> SentinelError:
    """Say that the partition is shorter than the state."""
    return SentinelError(
        ErrorCode.SOURCE_BEHIND_STATE,
        at=f"{topic}/{partition}",
        expected=f"a partition that reaches position {position}",
        got=f"one that ends at {ends.high}",
        hint="Another cluster or a topic made anew: name another --store.",
    )


def topic_missing(topic: str, got: object) -> SentinelError:
    """Say that there is no such topic."""
    return SentinelError(
        ErrorCode.STREAM_TOPIC_MISSING,
        at=topic,
        expected=f"a topic with 1 to {limits.STREAM_PARTITIONS_MAX} partitions",
        got=got,
        hint="Create it first: the worker makes no topics.",
    )
