"""One frame of a file log: a batch of events as columns, with a checksum over all of it.

Little-endian: u32 magic, u32 events, u64 first position, u32 bytes of values, u32 bytes of keys,
u32 CRC-32 of the head before it and of all that follows, u32 zero; then i32 value lengths, i32 key
lengths (-1: none), i64 stamps in milliseconds (-1: unknown), values, keys, padding to 8 bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core import limits

_HEAD = struct.Struct("<IIQIIII")
_CHECKED = struct.Struct("<IIQII")
_MAGIC = 0x474C4553
HEAD_BYTES = _HEAD.size
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FrameHead:
    """What a frame says of itself.

    Attributes
    ----------
    first_position, n_events : int
    n_bytes : int
        Of the whole frame, head and padding included.
    """

    first_position: int
    n_events: int
    n_bytes: int
    n_value_bytes: int
    n_key_bytes: int
    checksum: int

    @property
    def next_position(self) -> int:
        """Position after its last event."""
        return self.first_position + self.n_events


@dataclass(frozen=True, slots=True)
class Frame:
    """Events of a frame, as columns.

    Attributes
    ----------
    first_position : int
    lengths, key_lengths : ndarray of int64, shape (n_events,)
        -1: there is none.
    times_ms : ndarray of int64, shape (n_events,)
        -1: unknown.
    values, keys : ndarray of uint8
        One after another.
    """

    first_position: int
    lengths: Int64Array
    key_lengths: Int64Array
    times_ms: Int64Array
    values: npt.NDArray[np.uint8]
    keys: npt.NDArray[np.uint8]


def encode_frame(
    first_position: int,
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None,
    times_ms: Sequence[int] | Int64Array | None,
) -> bytes:
    """Write events as a frame."""
    n_events = len(values)
    lengths = np.fromiter((-1 if v is None else len(v) for v in values), np.int32, n_events)
    key_lengths = np.full(n_events, -1, dtype=np.int32)
    key_bytes = b""
    if keys is not None:
        key_lengths = np.fromiter((-1 if k is None else len(k) for k in keys), np.int32, n_events)
        key_bytes = b"".join(k for k in keys if k is not None)
    value_bytes = b"".join(v for v in values if v is not None)
    times = np.full(n_events, -1, dtype=np.int64)
    if times_ms is not None:
        times[:] = times_ms
    checked = _CHECKED.pack(_MAGIC, n_events, first_position, len(value_bytes), len(key_bytes))
    parts = (lengths.tobytes(), key_lengths.tobytes(), times.tobytes(), value_bytes, key_bytes)
    n_bytes = HEAD_BYTES + sum(map(len, parts))
    body = b"".join((*parts, b"\0" * (-n_bytes % 8)))
    checksum = zlib.crc32(body, zlib.crc32(checked))
    return b"".join((checked, struct.pack("<II", checksum, 0), body))


def read_head(content: memoryview) -> FrameHead | None:
    """Read the head of a frame; None where there is none, or one that cannot be true."""
    if len(content) < HEAD_BYTES:
        return None
    magic, n_events, first, n_values, n_keys, checksum, zero = _HEAD.unpack_from(content)
    n_bytes = HEAD_BYTES + 16 * n_events + n_values + n_keys
    n_bytes += -n_bytes % 8
    is_sound = (
        magic == _MAGIC
        and zero == 0
        and 0 < n_events <= limits.FILE_LOG_FRAME_EVENTS_MAX
        and n_bytes <= limits.FILE_LOG_FRAME_BYTES_MAX
    )
    return FrameHead(first, n_events, n_bytes, n_values, n_keys, checksum) if is_sound else None


def decode_frame(head: FrameHead, content: memoryview) -> Frame | None:
    """Read a whole frame; None where its checksum does not hold.

    Parameters
    ----------
    head : FrameHead
    content : memoryview
        ``head.n_bytes`` bytes.
    """
    checked = content[: _CHECKED.size]
    if zlib.crc32(content[HEAD_BYTES:], zlib.crc32(checked)) != head.checksum:
        return None
    n_events, at = head.n_events, HEAD_BYTES
    lengths = np.frombuffer(content, np.int32, n_events, at).astype(np.int64)
    key_lengths = np.frombuffer(content, np.int32, n_events, at + 4 * n_events).astype(np.int64)
    times = np.frombuffer(content, np.int64, n_events, at + 8 * n_events)
    at += 16 * n_events
    values = np.frombuffer(content, np.uint8, head.n_value_bytes, at)
    keys = np.frombuffer(content, np.uint8, head.n_key_bytes, at + head.n_value_bytes)
    is_whole = (
        int(np.maximum(lengths, 0).sum()) == head.n_value_bytes
        and int(np.maximum(key_lengths, 0).sum()) == head.n_key_bytes
        and int(min(lengths.min(), key_lengths.min())) >= -1
    )
    if not is_whole:
        return None
    return Frame(head.first_position, lengths, key_lengths, times, values, keys)
