"""Events of a file into a topic of a file log, each to the partition of its key.

A partition is the CRC-32 of the key modulo their number, as librdkafka's own partitioner has it, so
a topic that was filled here and one that was filled through Kafka lie alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from sentinel.contract import RawBatch
from sentinel.streaming.file_log.log import FileLogWriter


@dataclass(slots=True)
class Filled:
    """What was appended.

    Attributes
    ----------
    n_events : int
    n_without_key : int
        Of those, events in which the key's field is missing, null or neither text nor integer: they
        lie in the first partition, and have no key.
    next_positions : dict of int to int
        Of each partition that got events.
    """

    n_events: int = 0
    n_without_key: int = 0
    next_positions: dict[int, int] = field(default_factory=dict)


def fill_topic(writer: FileLogWriter, batches: Iterable[RawBatch], *, key: str = "") -> Filled:
    """Append events; those of one batch and one partition together, whole or not at all.

    Parameters
    ----------
    writer : FileLogWriter
    batches : iterable of RawBatch
        Of at most ``FILE_LOG_FRAME_EVENTS_MAX`` events each.
    key : str
        Field of the events that is the key; without it batches go to the partitions in turn, and
        have none.

    Raises
    ------
    SentinelError
        ``file-unwritable``; what reading the batches raises. Batches before it are there.
    """
    filled = Filled()
    for n_batch, batch in enumerate(batches):
        events = [batch.event_bytes(i) for i in range(batch.n_events)]
        keys = [key_of(event, key) for event in events] if key else None
        parts = _parts(keys, writer.n_partitions) if keys else {n_batch: range(len(events))}
        for partition, places in parts.items():
            at = partition % writer.n_partitions
            first = writer.append(
                at,
                [events[i] for i in places],
                keys=[keys[i] for i in places] if keys else None,
            )
            filled.next_positions[at] = first + len(places)
        filled.n_events += len(events)
        filled.n_without_key += keys.count(None) if keys else 0
    writer.sync()
    return filled


def key_of(event: bytes, name: str) -> bytes | None:
    """Return the bytes of an event's key; None where it has none.

    Examples
    --------
    >>> key_of(b'{"card_id": "c-7"}', "card_id"), key_of(b"[]", "card_id")
    (b'c-7', None)
    """
    try:
        whole = msgspec.json.decode(event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    value = whole.get(name) if isinstance(whole, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).encode("utf-8", "surrogatepass")


def _parts(keys: list[bytes | None], n_partitions: int) -> dict[int, list[int]]:
    """Sort events into partitions, in their order."""
    found: dict[int, list[int]] = {}
    for i, key in enumerate(keys):
        partition = 0 if key is None else zlib.crc32(key) % n_partitions
        found.setdefault(partition, []).append(i)
    return found
