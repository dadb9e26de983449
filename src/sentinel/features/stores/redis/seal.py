"""Checksums over what a store keeps in Redis, whose append-only log has none.

A power cut may leave zeros in the middle of that log, and Redis takes them for data. So every row
carries a hash of its words beside its type, ids are summed by generation, and every other text ends
with a CRC-32. What does not hold is refused as ``state-corrupt``.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.native import native, native_lean_inline

Int64Array = npt.NDArray[np.int64]

_CRC = struct.Struct("<I")
SEAL_BYTES = _CRC.size
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
# The type of a row is in the lowest byte of its second word, and the seal in the others.
_TYPE = np.uint64(0xFF)


@native_lean_inline
def sealed_type(words: Int64Array, at: int, n_words: int, entity: int) -> int:
    """Return the second word of a row as Redis has it: its type, and a hash of all else.

    Each step is a bijection of the hash and of the word: one changed word always changes it, up to
    the lowest byte, which is the type's.
    """
    h = np.uint64(entity)
    for w in range(n_words):
        if w != 1:
            h = (h ^ np.uint64(words[at + w])) * _SPREAD
            h ^= h >> _HALF
    return int(np.int64((h & ~_TYPE) | np.uint64(entity)))


@native
def seal_rows(rows: Int64Array, entity: int) -> None:
    """Seal rows of one type that go to Redis, in place; shape (n_rows, n_words)."""
    words = rows.reshape(-1)
    n_words = rows.shape[1]
    for r in range(rows.shape[0]):
        rows[r, 1] = sealed_type(words, r * n_words, n_words, entity)


@native
def unseal_rows(rows: Int64Array, entity: int, keys: Int64Array) -> bool:
    """Take the seals off rows that come from Redis; False where one is not the row of its key."""
    words = rows.reshape(-1)
    n_words = rows.shape[1]
    is_whole = True
    for r in range(rows.shape[0]):
        seal = sealed_type(words, r * n_words, n_words, entity)
        is_whole = is_whole and rows[r, 0] == keys[r] and rows[r, 1] == seal
        rows[r, 1] = entity
    return is_whole


def sum_of_ids(ids: Int64Array, before: int = 0) -> int:
    """Add ids to a sum, each spread over a word, in any order; zeros add nothing."""
    words = ids.view(np.uint64)
    added = np.add.reduce((words ^ (words >> _HALF)) * _SPREAD, dtype=np.uint64)
    return (before + int(added) + (1 << 63)) % (1 << 64) - (1 << 63)


def sealed(content: bytes) -> bytes:
    """Append a checksum."""
    return content + _CRC.pack(zlib.crc32(content))


def unsealed(content: bytes, at: str) -> bytes:
    """Take the checksum off.

    Raises
    ------
    SentinelError
        ``state-corrupt`` where it does not hold; ``at`` names what it is.
    """
    end = len(content) - _CRC.size
    if end < 0 or zlib.crc32(content[:end]) != _CRC.unpack_from(content, end)[0]:
        raise corrupt(at, "bytes whose checksum holds", f"{len(content)} others")
    return content[:end]


def corrupt(at: str, expected: str, got: object) -> SentinelError:
    """Say that something in Redis is not what was written there."""
    return SentinelError(
        ErrorCode.STATE_CORRUPT,
        at=f"Redis, {at}",
        expected=expected,
        got=got,
        hint="Delete the keys of the store, and replay the source (docs/stores.md).",
    )
