"""Decisions as the log takes them: columns in, their Arrow schema, and their chained hashes.

The chain, for record ``k`` of the log::

    hash(k) = SipHash-2-4(hash(k - 1), k, times, score, codes, feature hash, source, position,
                          status of each feature, event id)

so a record that is changed, removed, moved or added no longer fits the hash that is stored with
it. SipHash has a public key here: it names the place. What proves the content is the SHA-256 of
each segment, which the next segment and the head of the log carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sentinel.core.native import frozen, native
from sentinel.core.siphash import siphash, siphash_rows

if TYPE_CHECKING:
    import pyarrow as pa

# Fixed part of the hashed content of one record: ten words of eight bytes.
_N_WORDS = 10
_UNKNOWN_CODE = 255


@dataclass(frozen=True, slots=True)
class LogContext:
    """What is the same for every record of a segment, and is needed to reproduce a decision.

    Attributes
    ----------
    release, release_digest : str
        Name and manifest digest of the release that decided.
    environment_digest : str
        Digest of the software it ran on (:mod:`sentinel.environment.fingerprint`).
    execution_provider : str
        What ran the champion, such as ``CPUExecutionProvider``.
    thresholds : dict of str to float
        The thresholds of the policy, by name; finite.
    feature_names : tuple of str
        Column order of the feature vectors.
    contract_hash : str
        ``schema_hash`` of the contract of the events.
    outcomes, served_by, reasons : tuple of str
        Names of the codes 0, 1, 2 … in the columns of the same name.
    """

    release: str
    release_digest: str
    environment_digest: str
    execution_provider: str
    thresholds: dict[str, float]
    feature_names: tuple[str, ...]
    contract_hash: str
    outcomes: tuple[str, ...]
    served_by: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogRecords:
    """Decisions of one batch, as columns. The arrays are handed over: do not change them after.

    Attributes
    ----------
    id_content : ndarray of uint8
        Bytes that hold the event ids, UTF-8.
    id_spans : ndarray of int64, shape (n, 2)
        Event id ``i`` is ``id_content[id_spans[i, 0]:id_spans[i, 1]]``.
    event_time_ms, decided_at_ms : ndarray of int64, shape (n,)
        Milliseconds since the epoch.
    score : ndarray of float64, shape (n,)
        Finite wherever ``is_held`` is False.
    is_held : ndarray of bool, shape (n,)
        True where there is no score: the log holds null there.
    outcome, served_by, reason : ndarray of uint8, shape (n,)
        Codes; :class:`LogContext` has their names.
    features : ndarray of float32, shape (n, n_features), C order
        The vectors that were scored. Values that are not finite are null in the log's columns,
        and the whole vector of such a row is kept as bytes beside them.
    feature_status : ndarray of uint8, shape (n, n_features), C order
    feature_hash : ndarray of uint64, shape (n,)
        SipHash-2-4 of each vector's bytes.
    source : str
        File or topic the events came from.
    partition : int
    positions : ndarray of int64, shape (n,)
        Position of each event in its partition.
    """

    id_content: npt.NDArray[np.uint8]
    id_spans: npt.NDArray[np.int64]
    event_time_ms: npt.NDArray[np.int64]
    decided_at_ms: npt.NDArray[np.int64]
    score: npt.NDArray[np.float64]
    is_held: npt.NDArray[np.bool_]
    outcome: npt.NDArray[np.uint8]
    served_by: npt.NDArray[np.uint8]
    reason: npt.NDArray[np.uint8]
    features: npt.NDArray[np.float32]
    feature_status: npt.NDArray[np.uint8]
    feature_hash: npt.NDArray[np.uint64]
    source: str
    partition: int
    positions: npt.NDArray[np.int64]

    @property
    def n_records(self) -> int:
        """How many decisions."""
        return len(self.id_spans)


def arrow_schema(context: LogContext, *, is_chained: bool = False) -> pa.Schema:
    """Return the columns of a batch; with those of the chain around them in a segment."""
    import pyarrow as pa

    instant, code = pa.timestamp("ms", "UTC"), pa.dictionary(pa.uint8(), pa.string())
    features = pa.struct([pa.field(name, pa.float32()) for name in context.feature_names])
    columns = {
        "event_id": pa.string(),
        "event_time": instant,
        "decided_at": instant,
        "score": pa.float64(),
        "outcome": code,
        "served_by": code,
        "reason": code,
        "feature_hash": pa.uint64(),
        "source": code,
        "partition": pa.int32(),
        "position": pa.int64(),
        "features": features,
        "feature_status": pa.binary(len(context.feature_names)),
        "features_raw": pa.binary(),
    }
    if is_chained:
        columns = {"record": pa.int64(), **columns, "record_hash": pa.uint64()}
    nullable = {"score", "features_raw"}
    return pa.schema([pa.field(name, kind, name in nullable) for name, kind in columns.items()])


def chain(
    batch: pa.RecordBatch, context: LogContext, *, first_record: int, previous: int
) -> npt.NDArray[np.uint64]:
    """Compute the chained hash of every record of a batch.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        As :meth:`LogBlock.to_arrow` makes it; further columns are ignored.
    context : LogContext
        Its names of codes; the columns may hold their dictionaries in any order.
    first_record : int
        Number of the first record in the log.
    previous : int
        Hash of the record before it; 0 at the start of a log.

    Returns
    -------
    ndarray of uint64, shape (n,)
    """
    ids = batch.column("event_id")
    offsets = np.frombuffer(ids.buffers()[1], dtype=np.int32)[
        ids.offset : ids.offset + len(ids) + 1
    ]
    id_bytes = ids.buffers()[2]
    score = batch.column("score")
    flags: npt.NDArray[np.uint64] = score.is_null().to_numpy(zero_copy_only=False).astype(np.uint64)
    for shift, name, names in (
        (8, "outcome", context.outcomes),
        (16, "served_by", context.served_by),
        (24, "reason", context.reasons),
    ):
        flags |= code_values(batch, name, names).astype(np.uint64) << np.uint64(shift)
    partitions = batch.column("partition").to_numpy().astype(np.int64)
    words = (
        _words(batch, "event_time"),
        _words(batch, "decided_at"),
        score.fill_null(0.0).to_numpy(zero_copy_only=False).view(np.uint64),
        flags,
        _words(batch, "feature_hash"),
        _source_hashes(batch),
        partitions.view(np.uint64),
        _words(batch, "position"),
    )
    return _chain_hashes(
        tuple(frozen(column) for column in words),
        frozen(fixed_bytes(batch, "feature_status")),
        frozen(offsets),
        frozen(np.frombuffer(id_bytes or b"", dtype=np.uint8)),
        np.uint64(first_record),
        np.uint64(previous),
    )


def feature_vectors(batch: pa.RecordBatch) -> npt.NDArray[np.float32]:
    """Rebuild the vectors that were scored, to the last bit.

    Returns
    -------
    ndarray of float32, shape (n, n_features), C order
    """
    columns = batch.column("features").flatten()
    vectors = np.empty((batch.num_rows, len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        vectors[:, index] = column.to_numpy(zero_copy_only=False)
    raw = batch.column("features_raw")
    if raw.null_count < len(raw):
        for row in np.flatnonzero(raw.is_valid().to_numpy(zero_copy_only=False)):
            vectors[row] = np.frombuffer(raw[int(row)].as_py(), dtype=np.float32)
    return vectors


def feature_hashes(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Hash each vector: SipHash-2-4 of its bytes.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n, n_features)
    """
    contiguous = np.ascontiguousarray(vectors)
    return siphash_rows(contiguous.view(np.uint8).reshape(vectors.shape[0], 4 * vectors.shape[1]))


def fixed_bytes(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.uint8]:
    """Return a column of fixed-size binary as a matrix of bytes, shape (n, n_bytes)."""
    column = batch.column(name)
    width = column.type.byte_width
    if not len(column) or not width:
        return np.zeros((len(column), width), dtype=np.uint8)
    flat = np.frombuffer(column.buffers()[1], dtype=np.uint8)
    flat = flat[column.offset * width : (column.offset + len(column)) * width]
    return flat.reshape(len(column), width)


def code_values(batch: pa.RecordBatch, name: str, names: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """Return a column of names as codes; 255 for a name that is not among ``names``."""
    column = batch.column(name)
    texts = column.dictionary.to_pylist()
    codes = np.full(len(texts), _UNKNOWN_CODE, dtype=np.uint8)
    for index, text in enumerate(texts):
        if text in names:
            codes[index] = names.index(text)
    found: npt.NDArray[np.uint8] = codes[column.indices.to_numpy()]
    return found


def _words(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.uint64]:
    values: npt.NDArray[np.int64] = batch.column(name).to_numpy(zero_copy_only=False)
    return values.view(np.uint64)


def _source_hashes(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    column = batch.column("source")
    texts = [text.encode() for text in column.dictionary.to_pylist()]
    hashes = np.zeros(len(texts), dtype=np.uint64)
    for index, text in enumerate(texts):
        hashes[index] = siphash(np.frombuffer(bytearray(text), dtype=np.uint8), 0, len(text))
    found: npt.NDArray[np.uint64] = hashes[column.indices.to_numpy()]
    return found


@native
def _chain_hashes(
    columns: tuple[npt.NDArray[np.uint64], ...],
    status: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int32],
    ids: npt.NDArray[np.uint8],
    first_record: np.uint64,
    previous: np.uint64,
) -> npt.NDArray[np.uint64]:
    """Chain the records: each record's words are the hash before it, its number, its columns."""
    n, n_status = status.shape
    id_bytes_max = 0
    for row in range(n):
        id_bytes_max = max(id_bytes_max, offsets[row + 1] - offsets[row])
    scratch = np.empty(_N_WORDS * 8 + n_status + id_bytes_max, dtype=np.uint8)
    head = scratch[: _N_WORDS * 8].view(np.uint64)
    hashes = np.empty(n, dtype=np.uint64)
    for row in range(n):
        head[0] = previous
        head[1] = first_record + np.uint64(row)
        for i in range(len(columns)):
            head[2 + i] = columns[i][row]
        end = _N_WORDS * 8
        for i in range(n_status):
            scratch[end + i] = status[row, i]
        end += n_status
        first = offsets[row]
        for i in range(offsets[row + 1] - first):
            scratch[end + i] = ids[first + i]
        end += offsets[row + 1] - first
        previous = siphash(scratch, 0, end)
        hashes[row] = previous
    return hashes
