"""Messages of a consumer as raw batches: one join of the values, columns for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import confluent_kafka as kafka
import numpy as np

from sentinel.contract import RawBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.streaming.stream.event_log import KeyedBatch, Read

# The client's own codes, as librdkafka numbers them (rdkafka.h, rd_kafka_resp_err_t).
PARTITION_END = -191
OUT_OF_RANGE = -140
QUEUE_FULL = -184
# Transport, resolve, all brokers down, timed out, too long between two reads: the client gets
# over these by itself, with pauses of its own. So it does over what brokers say of themselves:
# not the leader, not available, coordinator loading or moved, not enough replicas.
_TRANSIENT = frozenset({-195, -193, -187, -185, -147, 3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 74, 75})


def read_messages(messages: Iterable[kafka.Message], topic: str, *, with_keys: bool) -> Read:
    """Sort what a consumer gave.

    Raises
    ------
    SentinelError
        ``stream-failed`` for an error that the client cannot get over.
    """
    by_partition: dict[int, list[kafka.Message]] = {}
    at_end: dict[int, int] = {}
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
            at_end[partition] = int(message.offset() or 0)
        elif code == OUT_OF_RANGE and partition is not None:
            out_of_range.append(partition)
        elif code not in _TRANSIENT:
            raise SentinelError(
                ErrorCode.STREAM_FAILED, at=topic, expected="events", got=error.name()
            )
    batches = tuple(
        KeyedBatch(_raw(topic, partition, found), tuple(map(_key, found)) if with_keys else None)
        for partition, found in sorted(by_partition.items())
    )
    return Read(batches, at_end, tuple(out_of_range))


def _key(message: kafka.Message) -> bytes | None:
    key = message.key()
    return key.encode() if isinstance(key, str) else key


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
