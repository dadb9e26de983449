"""How a decoded batch is written in the write-ahead log: its columns, and where it came from.

Little-endian: u32 fields, u32 rows, i32 partition, u32 source bytes, i64 next position, source
padded to 8 bytes, row positions, times, values (field by field), then one bit a value for present.
The text of keys and ids is not kept: the engine needs their hashes only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import ContractSchema, EventBatch, RawBatch

EVENTS = 1
FEEDBACK = 2
LIMITS = 3
# How many entities may live, and how many of them that were seen once.
LIMITS_LAYOUT = struct.Struct("<qq")
_HEAD = struct.Struct("<IIiIq")

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AppliedBatch:
    """One batch as it was applied.

    Attributes
    ----------
    events : EventBatch
        Without texts: ``text_spans`` is empty.
    next_position : int
        The position after the last raw event of the batch, refused ones included.
    """

    events: EventBatch
    next_position: int


def encode_batch(batch: EventBatch, *, times: Int64Array, next_position: int) -> bytes:
    """Encode a batch.

    Parameters
    ----------
    batch : EventBatch
    times : ndarray of int64, shape (n_rows,)
        Event time, or for feedback its known-at; milliseconds.
    next_position : int
        The position after the last raw event of the batch.
    """
    source = batch.raw.source.encode()
    head = _HEAD.pack(
        len(batch.names), batch.n_rows, batch.raw.partition, len(source), next_position
    )
    positions = batch.raw.positions[batch.rows]
    return b"".join(
        (
            head,
            source.ljust(_padded(len(source)), b"\0"),
            np.ascontiguousarray(positions).tobytes(),
            np.ascontiguousarray(times).tobytes(),
            np.ascontiguousarray(batch.values).tobytes(),
            np.packbits(batch.present).tobytes(),
        )
    )


def decode_batch(payload: bytes, schema: ContractSchema) -> AppliedBatch:
    """Decode what :func:`encode_batch` wrote; the log's checksum has vouched for the bytes."""
    n_fields, n_rows, partition, n_source, next_position = _HEAD.unpack_from(payload)
    at = _HEAD.size
    source = payload[at : at + n_source].decode()
    at += _padded(n_source)
    words = np.frombuffer(payload, dtype=np.int64, count=(2 + n_fields) * n_rows, offset=at).copy()
    at += words.nbytes
    bits = np.frombuffer(payload, dtype=np.uint8, offset=at)
    present = np.unpackbits(bits, count=n_fields * n_rows).astype(np.bool_)
    raw = RawBatch(
        content=np.empty(0, dtype=np.uint8),
        starts=np.zeros(n_rows, dtype=np.int64),
        ends=np.zeros(n_rows, dtype=np.int64),
        source=source,
        partition=partition,
        positions=words[:n_rows],
        received_at_ms=words[n_rows : 2 * n_rows],
    )
    events = EventBatch(
        names=tuple(field.name for field in schema.fields),
        values=words[2 * n_rows :].reshape(n_fields, n_rows),
        present=present.reshape(n_fields, n_rows),
        rows=np.arange(n_rows, dtype=np.int64),
        raw=raw,
        text_fields=(),
        text_spans=np.empty((0, n_rows, 2), dtype=np.int64),
        text_content=raw.content,
    )
    return AppliedBatch(events, next_position)


def select_rows(batch: EventBatch, chosen: npt.NDArray[np.bool_]) -> EventBatch:
    """Return a batch of the chosen rows, in order."""
    return EventBatch(
        names=batch.names,
        values=np.ascontiguousarray(batch.values[:, chosen]),
        present=np.ascontiguousarray(batch.present[:, chosen]),
        rows=batch.rows[chosen],
        raw=batch.raw,
        text_fields=batch.text_fields,
        text_spans=batch.text_spans[:, chosen],
        text_content=batch.text_content,
    )


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // 8) * 8
