"""Replayed feature vectors as Arrow: the same columns that the decision log has for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sentinel.features.feature_set import FeatureSet
from sentinel.features.history.parallel import ReplayedRows
from sentinel.features.history.slots import copy_spans

if TYPE_CHECKING:
    import pyarrow as pa


def feature_schema(features: FeatureSet, metadata: dict[str, str]) -> pa.Schema:
    """Return the columns of a table of feature vectors.

    ========================= =============================================================
    column                    what it holds
    ========================= =============================================================
    ``event_id``              text
    ``event_time``            instant, milliseconds, UTC
    ``position``              line of the event in its source
    ``is_late``               no longer applied to some window
    ``features``              struct of float32, one field a feature, as the scorer gets them
    ``feature_status``        one byte a feature: 0 present, 1 default, 2 stale
    ========================= =============================================================

    Parameters
    ----------
    features : FeatureSet
        Whose name, version, identity and contracts are kept as metadata.
    metadata : dict of str to str
        More of it.
    """
    import pyarrow as pa

    own = {
        "sentinel.feature_set": f"{features.name} {features.version}",
        "sentinel.feature_set_identity": features.identity,
        "sentinel.schema_hash": features.events.schema_hash,
        "sentinel.feedback_schema_hash": features.feedback.schema_hash if features.feedback else "",
    }
    columns = [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("event_time", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("is_late", pa.bool_(), nullable=False),
        pa.field(
            "features",
            pa.struct([pa.field(name, pa.float32(), nullable=False) for name in features.names]),
            nullable=False,
        ),
        pa.field("feature_status", pa.binary(len(features.names)), nullable=False),
    ]
    return pa.schema(columns, metadata={**own, **metadata})


def to_table(rows: ReplayedRows, schema: pa.Schema) -> pa.Table:
    """Turn replayed rows into a table without a Python loop over them.

    Parameters
    ----------
    rows : ReplayedRows
    schema : pyarrow.Schema
        As :func:`feature_schema` makes it.
    """
    import pyarrow as pa

    n = rows.n_rows
    spans = np.empty((n, 2), dtype=np.int64)
    content = np.empty(int((rows.id_spans[:, 1] - rows.id_spans[:, 0]).sum()), dtype=np.uint8)
    copy_spans(rows.id_content, rows.id_spans, content, 0, spans)
    offsets = np.zeros(n + 1, dtype=np.int32)
    offsets[1:] = spans[:, 1]
    struct = schema.field("features").type
    vectors = [pa.array(np.ascontiguousarray(column)) for column in rows.values]
    status = np.ascontiguousarray(rows.status.T)
    times = pa.py_buffer(np.ascontiguousarray(rows.times_ms))
    columns = [
        pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(content)),
        pa.Array.from_buffers(pa.timestamp("ms", "UTC"), n, [None, times]),
        pa.array(rows.positions),
        pa.array(rows.is_late),
        pa.StructArray.from_arrays(vectors, fields=[struct.field(i) for i in range(len(vectors))]),
        pa.FixedSizeBinaryArray.from_buffers(
            schema.field("feature_status").type, n, [None, pa.py_buffer(status)]
        ),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
