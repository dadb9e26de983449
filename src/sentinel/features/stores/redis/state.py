"""What a store keeps in Redis beside rows, as bytes.

All little-endian, but for the number that sorts feedback of one instant.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch
from sentinel.features.layout import R_COUNT, Feed
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.stores.redis.link import Reply
from sentinel.features.stores.redis.seal import corrupt, sealed, unsealed

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

FORMAT = b"3"
N_ID_SUMS = 4
_N_SCALARS = R_COUNT + 7 + N_ID_SUMS
_ANSWER = struct.Struct("<IIiI")
_SEQUENCE = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Scalars:
    """The scalars of a state.

    Attributes
    ----------
    registers : ndarray of int64, shape (R_COUNT,)
    feedback_window : ndarray of int64, shape (3,)
    n_feedback_duplicates : int
    feedback_sequence : int
        Number of the next feedback.
    turns : tuple of int
        How often the ids of events and of feedback have changed generation.
    id_sums : ndarray of int64, shape (N_ID_SUMS,)
        Of both generations of the ids of events, then of feedback.
    """

    registers: Int64Array
    feedback_window: Int64Array
    n_feedback_duplicates: int
    feedback_sequence: int
    turns: tuple[int, int]
    id_sums: Int64Array

    def encode(self) -> bytes:
        """Return the bytes for the head."""
        rest = [self.n_feedback_duplicates, self.feedback_sequence, *self.turns]
        parts = (self.registers, self.feedback_window, np.array(rest, dtype=np.int64), self.id_sums)
        return sealed(np.concatenate(parts).tobytes())


def decode_scalars(content: bytes) -> Scalars:
    """Decode what :meth:`Scalars.encode` gave."""
    content = unsealed(content, "head")
    if len(content) != 8 * _N_SCALARS:
        raise corrupt("head", f"{8 * _N_SCALARS} bytes", f"{len(content)} bytes")
    words = np.frombuffer(content, dtype=np.int64).copy()
    duplicates, sequence, *turns = words[R_COUNT + 3 : -N_ID_SUMS].tolist()
    window = words[R_COUNT : R_COUNT + 3]
    sums = words[-N_ID_SUMS:]
    return Scalars(words[:R_COUNT], window, duplicates, sequence, (turns[0], turns[1]), sums)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the load function answered.

    Attributes
    ----------
    version, epoch, identity, format, state : bytes
    turns : tuple of int
    pending_mark : bytes
    positions : dict of (str, int) to int
    changes : list of bytes
        Of the last commits, oldest first.
    ids, feedback_ids : tuple of (bool, bytes, bytes)
        Whether they are all, and the ids of both generations, or those that were added.
    pending : list of bytes or None
        None where it has not changed.
    shards : bytes
        Number of the last commit of each shard; empty for a single node.
    intents : list of bytes
        Rows of commits that may not be in their shards yet, oldest first.
    writer : bytes
        Number and version of this writer's last commit; empty for none.
    """

    version: bytes
    epoch: bytes
    identity: bytes
    format: bytes
    state: bytes
    turns: tuple[int, int]
    pending_mark: bytes
    positions: dict[tuple[str, int], int]
    changes: list[bytes]
    ids: tuple[bool, bytes, bytes]
    feedback_ids: tuple[bool, bytes, bytes]
    pending: list[bytes] | None
    shards: bytes
    intents: list[bytes]
    writer: bytes


def decode_loaded(reply: Reply) -> Loaded | None:
    """Read the answer of the load function; None where there is no state."""
    if not isinstance(reply, list) or len(reply) == 0:
        return None
    try:
        return _decode_loaded(reply)
    except ValueError as error:
        raise corrupt("head or positions", "texts and numbers", "others") from error


def _decode_loaded(reply: list[Reply]) -> Loaded:
    head = [_bytes(part) for part in _list(reply[0])]
    flat = [_bytes(part) for part in _list(reply[1])]
    positions = {}
    for name, position in zip(flat[::2], flat[1::2], strict=True):
        partition, source = name.decode().split("/", 1)
        positions[source, int(partition)] = int(position)
    # A table of the script ends at its first nil.
    rest: list[Reply] = [*reply[3:], None]
    waiting = [_bytes(part) for part in _list(rest[2])]
    return Loaded(
        version=head[0], epoch=head[1], identity=head[2], format=head[3], state=head[4],
        turns=(int(head[5]), int(head[6])),
        pending_mark=head[7],
        positions=positions,
        changes=[_bytes(part) for part in _list(reply[2])],
        ids=_ids(rest[0]),
        feedback_ids=_ids(rest[1]),
        pending=waiting[1:] if waiting[0] == b"all" else None,
        shards=head[8],
        intents=[_bytes(part) for part in _list(rest[3])],
        writer=_bytes(rest[4]),
    )  # fmt: skip


def _list(reply: Reply) -> list[Reply]:
    return reply if isinstance(reply, list) else []


def _bytes(reply: Reply) -> bytes:
    return reply if isinstance(reply, bytes) else b""


def _ids(reply: Reply) -> tuple[bool, bytes, bytes]:
    mode, first, second = (_bytes(part) for part in _list(reply))
    return mode == b"all", first, second


def words_of(content: bytes) -> Int64Array:
    """Read ids."""
    return np.frombuffer(content, dtype=np.int64)


# --- feedback that waits -------------------------------------------------------------------------


def encode_pending(
    feedback: EventBatch, times: Int64Array, chosen: BoolArray, first: int
) -> list[tuple[int, bytes]]:
    """Encode feedback for the queue: known-at, and number, known-at, values, present."""
    members = []
    for n, row in enumerate(np.flatnonzero(chosen)):
        time_ms = int(times[row])
        content = (
            _SEQUENCE.pack(first + n),
            struct.pack("<q", time_ms),
            feedback.values[:, row].tobytes(),
            feedback.present[:, row].tobytes(),
        )
        members.append((time_ms, sealed(b"".join(content))))
    return members


def decode_pending(members: list[bytes], n_fields: int) -> Feed:
    """Decode the queue, in its order."""
    n_bytes = 16 + 9 * n_fields
    members = [unsealed(member, "pending") for member in members]
    if any(len(member) != n_bytes for member in members):
        raise corrupt("pending", f"members of {n_bytes} bytes", "another length")
    table = np.frombuffer(b"".join(members), dtype=np.uint8).reshape(len(members), n_bytes).copy()
    times = np.ascontiguousarray(table[:, 8:16]).view(np.int64).reshape(-1)
    words = np.ascontiguousarray(table[:, 16 : 16 + 8 * n_fields]).view(np.int64)
    values = np.ascontiguousarray(words.reshape(len(members), n_fields).T)
    present = np.ascontiguousarray(table[:, 16 + 8 * n_fields :].T).astype(np.bool_)
    return Feed(values, values.view(np.float64), present, times)


# --- answers that were given ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answers:
    """The vectors of one commit, by position of their source."""

    source: str
    partition: int
    positions: Int64Array
    matrix: FeatureMatrix


def encode_answers(events: EventBatch, matrix: FeatureMatrix) -> bytes:
    """Encode the vectors of a batch."""
    source = events.raw.source.encode()
    head = _ANSWER.pack(matrix.n_rows, len(matrix.names), events.raw.partition, len(source))
    positions = np.ascontiguousarray(events.raw.positions[events.rows], dtype=np.int64)
    flags = (matrix.is_late.tobytes(), matrix.is_duplicate.tobytes())
    content = (positions.tobytes(), matrix.values.tobytes(), matrix.status.tobytes(), *flags)
    return sealed(b"".join((head, source, *content)))


def decode_answers(content: bytes, names: tuple[str, ...]) -> Answers:
    """Decode what :func:`encode_answers` gave."""
    content = unsealed(content, "answers")
    n_rows, n_features, partition, n_source = _ANSWER.unpack_from(content)
    at = _ANSWER.size
    source = content[at : at + n_source].decode()
    at += n_source
    n_values = n_rows * n_features
    positions = np.frombuffer(content, dtype=np.int64, count=n_rows, offset=at)
    at += positions.nbytes
    values = np.frombuffer(content, dtype=np.float32, count=n_values, offset=at)
    at += values.nbytes
    status = np.frombuffer(content, dtype=np.uint8, count=n_values, offset=at)
    at += status.nbytes
    flags = np.frombuffer(content, dtype=np.bool_, count=2 * n_rows, offset=at)
    matrix = FeatureMatrix(
        names=names,
        values=values.reshape(n_rows, n_features),
        status=status.reshape(n_rows, n_features),
        is_late=flags[:n_rows],
        is_duplicate=flags[n_rows:],
    )
    return Answers(source, partition, positions, matrix)


# --- changed rows --------------------------------------------------------------------------------


def encode_changes(version: bytes, changed: list[Int64Array]) -> bytes:
    """Encode the keys that a commit changed, by entity type."""
    counts = np.array([len(keys) for keys in changed], dtype="<i4").tobytes()
    keys = (keys.tobytes() for keys in changed)
    return sealed(b"".join((struct.pack("<H", len(version)), version, counts, *keys)))


def version_of(change: bytes) -> bytes:
    """Return the version that a commit made."""
    change = unsealed(change, "changes")
    (n_version,) = struct.unpack_from("<H", change)
    return change[2 : 2 + n_version]


def decode_changes(change: bytes, n_entities: int) -> Iterator[Int64Array]:
    """Yield the changed keys of each entity type."""
    at = 2 + len(version_of(change))
    counts = np.frombuffer(change, dtype="<i4", count=n_entities, offset=at)
    at += counts.nbytes
    for count in counts:
        yield np.frombuffer(change, dtype=np.int64, count=count, offset=at)
        at += 8 * int(count)
