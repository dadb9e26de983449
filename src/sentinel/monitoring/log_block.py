"""Where decisions wait for their segment: plain columns, and the Arrow batch that they become.

A batch is copied into the open block when it is taken: few microseconds for one decision, and
nothing of what scoring works on is kept alive. Arrow is for the thread that writes: it turns a
whole block at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sentinel.core.native import frozen, native
from sentinel.monitoring.log_records import LogContext, LogRecords, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

# Bytes of an event id that a block first makes room for.
_ID_BYTES_FIRST = 40
# Sources that one block can name: the column is a byte wide.
_SOURCES_MAX = 256
_ROWS_OF_TILE = 64
# What :func:`_admit` finds wrong, other than a code without a name.
_NO_ROOM, _BAD_SCORE = -1, -2
_CODES = ("outcome", "served_by", "reason")


class LogBlock:
    """Room for the decisions of many batches, as columns. Not for several threads at once.

    Parameters
    ----------
    context : LogContext
        Its names of codes and features shape the columns.
    n_records_max : int

    Attributes
    ----------
    context : LogContext
    n_records : int
        How many it holds.
    is_sealed : bool
        Nothing is added any more.
    """

    __slots__ = (
        "_codes",
        "_decided_at_ms",
        "_event_time_ms",
        "_feature_hash",
        "_features",
        "_held_and_codes",
        "_id_bytes",
        "_id_offsets",
        "_is_held",
        "_n_names",
        "_partitions",
        "_positions",
        "_score",
        "_source_codes",
        "_sources",
        "_status",
        "context",
        "is_sealed",
        "n_records",
        "n_records_max",
    )

    def __init__(self, context: LogContext, *, n_records_max: int) -> None:
        n, n_features = n_records_max, len(context.feature_names)
        self.n_records = 0
        self.n_records_max = n
        self.is_sealed = False
        self.context = context
        self._id_offsets = np.zeros(n + 1, dtype=np.int32)
        self._id_bytes = np.empty(max(1, n * _ID_BYTES_FIRST), dtype=np.uint8)
        self._event_time_ms = np.empty(n, dtype=np.int64)
        self._decided_at_ms = np.empty(n, dtype=np.int64)
        self._score = np.empty(n, dtype=np.float64)
        self._held_and_codes = np.empty((1 + len(_CODES), n), dtype=np.uint8)
        self._is_held = self._held_and_codes[0].view(np.bool_)
        self._codes = self._held_and_codes[1:]
        self._features = np.empty((n, n_features), dtype=np.float32)
        self._status = np.empty((n, n_features), dtype=np.uint8)
        self._feature_hash = np.empty(n, dtype=np.uint64)
        self._partitions = np.empty(n, dtype=np.int32)
        self._positions = np.empty(n, dtype=np.int64)
        self._source_codes = np.empty(n, dtype=np.uint8)
        self._sources: list[str] = []
        self._n_names = (len(context.outcomes), len(context.served_by), len(context.reasons))

    def has_room(self, records: LogRecords) -> bool:
        """Whether a batch can still be put into this block."""
        if self.is_sealed or self.n_records + len(records.id_spans) > self.n_records_max:
            return False
        return len(self._sources) < _SOURCES_MAX or records.source in self._sources

    def put(self, records: LogRecords) -> None:
        """Copy a batch in; the caller has asked whether there is room.

        Raises
        ------
        ValueError
            When shapes do not agree, a code has no name or a score is not finite: our own
            invariants, never input. Then nothing was put in.
        """
        self._check_shapes(records)
        at = self.n_records
        end = at + len(records.id_spans)
        self._event_time_ms[at:end] = records.event_time_ms
        self._decided_at_ms[at:end] = records.decided_at_ms
        self._score[at:end] = records.score
        self._is_held[at:end] = records.is_held
        codes = self._codes
        codes[0, at:end] = records.outcome
        codes[1, at:end] = records.served_by
        codes[2, at:end] = records.reason
        self._features[at:end] = records.features
        self._status[at:end] = records.feature_status
        self._feature_hash[at:end] = records.feature_hash
        self._partitions[at:end] = records.partition
        self._positions[at:end] = records.positions
        self._take_ids(records, at)
        if records.source not in self._sources:
            self._sources.append(records.source)
        self._source_codes[at:end] = self._sources.index(records.source)
        self.n_records = end

    def to_arrow(self) -> pa.RecordBatch:
        """Return all columns of a segment except those of the chain; the block is sealed by it.

        Returns
        -------
        pyarrow.RecordBatch
            Over the block's own memory.
        """
        import pyarrow as pa

        self.is_sealed = True
        n, context = self.n_records, self.context
        offsets = self._id_offsets[: n + 1]
        is_held = self._is_held[:n]
        features, raw = self._feature_columns()
        status = pa.py_buffer(self._status[:n])
        outcome, served_by, reason = self._codes[:, :n]
        columns = {
            "event_id": pa.StringArray.from_buffers(
                n, pa.py_buffer(offsets), pa.py_buffer(self._id_bytes[: int(offsets[-1])])
            ),
            "event_time": _instants(self._event_time_ms[:n]),
            "decided_at": _instants(self._decided_at_ms[:n]),
            "score": pa.array(self._score[:n], mask=is_held if is_held.any() else None),
            "outcome": _codes(outcome, context.outcomes),
            "served_by": _codes(served_by, context.served_by),
            "reason": _codes(reason, context.reasons),
            "feature_hash": pa.array(self._feature_hash[:n]),
            "source": _codes(self._source_codes[:n], tuple(self._sources)),
            "partition": pa.array(self._partitions[:n]),
            "position": pa.array(self._positions[:n]),
            "features": features,
            "feature_status": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(len(context.feature_names)), n, [None, status]
            ),
            "features_raw": raw,
        }
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=arrow_schema(context))

    # --- private -----------------------------------------------------------------------------

    def _take_ids(self, records: LogRecords, at: int) -> None:
        """Copy the event ids, and judge what stands in the columns beside them."""
        content, spans = frozen(records.id_content), frozen(records.id_spans)
        while True:
            found = _admit(
                content,
                spans,
                self._id_offsets,
                self._id_bytes,
                self._score,
                self._held_and_codes,
                self._n_names,
                at,
            )
            if found != _NO_ROOM:
                break
            n_bytes = int(self._id_offsets[at]) + int((spans[:, 1] - spans[:, 0]).sum())
            larger = np.empty(2 * n_bytes, dtype=np.uint8)
            larger[: self._id_offsets[at]] = self._id_bytes[: self._id_offsets[at]]
            self._id_bytes = larger
        if found == _BAD_SCORE:
            raise self._unfit(records, ["score"])
        if found:
            raise self._unfit(records, [_CODES[found - 1]])

    def _check_shapes(self, records: LogRecords) -> None:
        n = len(records.id_spans)
        one, vector = (n,), (n, self._status.shape[1])
        if not (
            records.event_time_ms.shape
            == records.decided_at_ms.shape
            == records.score.shape
            == records.is_held.shape
            == records.outcome.shape
            == records.served_by.shape
            == records.reason.shape
            == records.feature_hash.shape
            == records.positions.shape
            == one
            and records.features.shape == records.feature_status.shape == vector
        ):
            shapes = {
                name: getattr(records, name).shape
                for name in LogRecords.__dataclass_fields__
                if isinstance(getattr(records, name), np.ndarray)
                and name not in {"id_content", "id_spans"}
            }
            wide = {"features", "feature_status"}
            wrong = [
                name for name, shape in shapes.items() if shape != (vector if name in wide else one)
            ]
            raise self._unfit(records, wrong)

    def _unfit(self, records: LogRecords, names: list[str]) -> ValueError:
        n, n_features = len(records.id_spans), self._status.shape[1]
        return ValueError(f"log records of {n} rows and {n_features} features: {names} do not fit")

    def _feature_columns(self) -> tuple[pa.StructArray, pa.Array]:
        """Turn the vectors into columns; those that are not finite are kept whole beside them."""
        import pyarrow as pa

        n = self.n_records
        vectors, names = self._features[:n], self.context.feature_names
        columns, n_not_finite = _turned(vectors)
        raw = pa.nulls(n, pa.binary())
        fields = [pa.field(name, pa.float32()) for name in names]
        if not n_not_finite:
            arrays = [pa.array(column) for column in columns]
        else:
            is_finite = np.isfinite(columns)
            arrays = [
                pa.array(column, mask=~finite)
                for column, finite in zip(columns, is_finite, strict=True)
            ]
            whole: list[bytes | None] = [None] * n
            for row in np.flatnonzero(~is_finite.all(axis=0)):
                whole[row] = vectors[row].tobytes()
            raw = pa.array(whole, pa.binary())
        return pa.StructArray.from_arrays(arrays, fields=fields), raw


def to_arrow(records: LogRecords, context: LogContext) -> pa.RecordBatch:
    """Turn the decisions of one batch into an Arrow batch.

    Parameters
    ----------
    records : LogRecords
    context : LogContext

    Raises
    ------
    ValueError
        As :meth:`LogBlock.put`.
    """
    block = LogBlock(context, n_records_max=records.n_records)
    block.put(records)
    return block.to_arrow()


def _instants(milliseconds: npt.NDArray[np.int64]) -> pa.Array:
    import pyarrow as pa

    buffer = pa.py_buffer(milliseconds)
    return pa.Array.from_buffers(pa.timestamp("ms", "UTC"), len(milliseconds), [None, buffer])


def _codes(codes: npt.NDArray[np.uint8], names: tuple[str, ...]) -> pa.DictionaryArray:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names, pa.string()), safe=False)


@native
def _admit(  # noqa: PLR0913, PLR0917 -- a kernel takes columns
    content: npt.NDArray[np.uint8],
    spans: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int32],
    id_bytes: npt.NDArray[np.uint8],
    score: npt.NDArray[np.float64],
    held_and_codes: npt.NDArray[np.uint8],
    n_names: tuple[int, int, int],
    at: int,
) -> int:
    """Gather ids behind those that are there; 0, or what is wrong with the rows from ``at``."""
    n_bytes = offsets[at]
    for i in range(len(spans)):
        row = at + i
        if held_and_codes[0, row] == 0 and not np.isfinite(score[row]):
            return _BAD_SCORE
        for code in range(3):
            if held_and_codes[1 + code, row] >= n_names[code]:
                return 1 + code
        start = spans[i, 0]
        length = spans[i, 1] - start
        if n_bytes + length > len(id_bytes):
            return _NO_ROOM
        for k in range(length):
            id_bytes[n_bytes + k] = content[start + k]
        n_bytes += length
        offsets[row + 1] = n_bytes
    return 0


@native
def _turned(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], int]:
    """Turn rows into columns, tile by tile; also count values that are not finite."""
    n, n_features = vectors.shape
    columns = np.empty((n_features, n), dtype=np.float32)
    bits = vectors.view(np.uint32)
    n_not_finite = 0
    for first in range(0, n, _ROWS_OF_TILE):
        last = min(first + _ROWS_OF_TILE, n)
        for feature in range(n_features):
            for row in range(first, last):
                columns[feature, row] = vectors[row, feature]
                exponent = bits[row, feature] & np.uint32(0x7F800000)
                n_not_finite += exponent == np.uint32(0x7F800000)
    return columns, n_not_finite
