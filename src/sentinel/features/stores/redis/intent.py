"""The rows of a commit in a Cluster, as the head keeps them until they are in their shards."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.features.stores.redis.seal import SEAL_BYTES, corrupt, sealed, unsealed

Int64Array = npt.NDArray[np.int64]

_HEAD = struct.Struct("<I")
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
            pieces += (part.entities.tobytes(), part.keys.tobytes())
        # Rows have seals of their own.
        rows = [value for part in self.parts for value in part.values]
        head = b"".join(pieces)
        return b"".join((_HEAD.pack(len(head)), sealed(head), *rows))


def decode_intent(content: bytes, n_words: Int64Array) -> Intent:
    """Decode what :meth:`Intent.encode` gave; ``n_words``: words of a row, by entity type."""
    if len(content) < _HEAD.size:
        raise corrupt("intents", "a head", f"{len(content)} bytes")
    (n_head,) = _HEAD.unpack_from(content)
    end = _HEAD.size + n_head + SEAL_BYTES
    head = unsealed(content[_HEAD.size : end], "intents")
    number, n_parts = _INTENT.unpack_from(head)
    at = _INTENT.size
    parts = []
    for _ in range(n_parts):
        shard, before, n_rows = _PART.unpack_from(head, at)
        at += _PART.size
        entities = np.frombuffer(head, dtype=np.uint8, count=n_rows, offset=at)
        at += n_rows
        keys = np.frombuffer(head, dtype=np.int64, count=n_rows, offset=at)
        at += 8 * n_rows
        values = []
        for n_bytes in (8 * n_words[entities]).tolist():
            values.append(content[end : end + n_bytes])
            end += n_bytes
        parts.append(Part(shard, before, entities, keys, values))
    return Intent(number, parts)
