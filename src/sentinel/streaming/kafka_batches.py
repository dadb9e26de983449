"""Messages of a consumer as raw batches: one join of the values, columns for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import confluent_kafka as kafka
import numpy as np

from sentinel.contract import RawBatch
from sentinel.core.errors import ErrorCode, SentinelError

# What the client gets over by itself, with pauses of its own.
# The client's own codes, as librdkafka numbers them (rdkafka.h, rd_kafka_resp_err_t).
PARTITION_END = -191
OUT_OF_RANGE = -140
QUEUE_FULL = -184
# Transport, resolve, all brokers down, timed out, too long between two reads: the client gets
# over these by itself, with pauses of its own.
_TRANSIENT = frozenset({-195, -193, -187, -185, -147})


@dataclass(frozen=True, slots=True)
class KeyedBatch:
    """Events of one partition, in order.

    Attributes
    ----------
    raw : RawBatch
        Positions are offsets, ``received_at_ms`` the message's timestamps. A tombstone is an
        event of no bytes, which the contract refuses.
    messages : sequence of Message
        For the keys; one an event.
    """

    raw: RawBatch
    messages: Sequence[kafka.Message]


@dataclass(frozen=True, slots=True)
class Read:
    """What one call of a consumer gave.

    Attributes
    ----------
    batches : tuple of KeyedBatch
    at_end : tuple of int
        Partitions whose end was reached.
    out_of_range : tuple of int
        Partitions that do not hold the position that was asked for.
    """

    batches: tuple[KeyedBatch, ...]
    at_end: tuple[int, ...]
    out_of_range: tuple[int, ...]


def read_messages(messages: Iterable[kafka.Message], topic: str) -> Read:
    """Sort what a consumer gave.

    Raises
    ------
    SentinelError
        ``stream-failed`` for an error that the client cannot get over.
    """
    by_partition: dict[int, list[kafka.Message]] = {}
    at_end: list[int] = []
    out_of_range: list[int] = []
    for message in messages:
        error = message.error()
        partition = message.partition()
        if error is None and partition is not None:
            by_partition.setdefault(partition, []).append(message)
            continue
        if error is None:
            continue
        code = error.code()
        if code == PARTITION_END and partition is not None:
            at_end.append(partition)
        elif code == OUT_OF_RANGE and partition is not None:
            out_of_range.append(partition)
        elif code not in _TRANSIENT:
            raise SentinelError(
                ErrorCode.STREAM_FAILED, at=topic, expected="events", got=error.name()
            )
    batches = tuple(
        KeyedBatch(_raw(topic, partition, found), found)
        for partition, found in sorted(by_partition.items())
    )
    return Read(batches, tuple(at_end), tuple(out_of_range))


def _raw(topic: str, partition: int, messages: Sequence[kafka.Message]) -> RawBatch:
    n_events = len(messages)
    values = [message.value() or b"" for message in messages]
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=n_events)
    ends = np.cumsum(lengths)
    offsets = np.fromiter((m.offset() for m in messages), dtype=np.int64, count=n_events)
    times = np.fromiter((m.timestamp()[1] for m in messages), dtype=np.int64, count=n_events)
    return RawBatch(
        content=np.frombuffer(b"".join(values), dtype=np.uint8),
        starts=ends - lengths,
        ends=ends,
        source=topic,
        partition=partition,
        positions=offsets,
        received_at_ms=times if times.min(initial=0) >= 0 else None,
    )


def cut(batch: RawBatch, first: int, end: int) -> RawBatch:
    """Take some events of a batch; the bytes are shared."""
    times = batch.received_at_ms
    return RawBatch(
        content=batch.content,
        starts=batch.starts[first:end],
        ends=batch.ends[first:end],
        source=batch.source,
        partition=batch.partition,
        positions=batch.positions[first:end],
        received_at_ms=None if times is None else times[first:end],
    )
