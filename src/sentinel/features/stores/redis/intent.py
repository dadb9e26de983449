"""The rows of a commit in a Cluster, as the head keeps them until they are in their shards."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

_INTENT = struct.Struct("<qI")
_PART = struct.Struct("<HqI")


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one commit in one shard.

    Attributes
    ----------
    shard : int
    before : int
        Number of the last commit that wrote to the shard; 0 for none.
    entities : ndarray of uint8, shape (n_rows,)
    keys : ndarray of int64, shape (n_rows,)
    values : list of bytes
    """

    shard: int
    before: int
    entities: npt.NDArray[np.uint8]
    keys: Int64Array
    values: list[bytes]


@dataclass(frozen=True, slots=True)
class Intent:
    """The rows of one commit."""

    number: int
    parts: list[Part]

    def encode(self) -> bytes:
        """Return the bytes for the head."""
        pieces = [_INTENT.pack(self.number, len(self.parts))]
        for part in self.parts:
            pieces.append(_PART.pack(part.shard, part.before, len(part.keys)))
            pieces += (part.entities.tobytes(), part.keys.tobytes(), *part.values)
        return b"".join(pieces)


def decode_intent(content: bytes, n_words: Int64Array) -> Intent:
    """Decode what :meth:`Intent.encode` gave; ``n_words``: words of a row, by entity type."""
    number, n_parts = _INTENT.unpack_from(content)
    at = _INTENT.size
    parts = []
    for _ in range(n_parts):
        shard, before, n_rows = _PART.unpack_from(content, at)
        at += _PART.size
        entities = np.frombuffer(content, dtype=np.uint8, count=n_rows, offset=at)
        at += n_rows
        keys = np.frombuffer(content, dtype=np.int64, count=n_rows, offset=at)
        at += 8 * n_rows
        values = []
        for n_bytes in (8 * n_words[entities]).tolist():
            values.append(content[at : at + n_bytes])
            at += n_bytes
        parts.append(Part(shard, before, entities, keys, values))
    return Intent(number, parts)
