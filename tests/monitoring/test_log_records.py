"""Columns of the log are what came in, and the chain covers all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.monitoring import LogContext, LogRecords
from sentinel.monitoring.log_block import to_arrow
from sentinel.monitoring.log_records import arrow_schema, chain, feature_hashes

Make = Callable[..., LogRecords]


@pytest.mark.parametrize(
    "name", [field.name for field in fields(LogRecords) if field.name not in
             {"id_content", "id_spans", "source", "partition"}]
)  # fmt: skip
def test_columns_of_another_length_are_refused(
    context: LogContext, make_records: Make, name: str
) -> None:
    """A defect of the caller is not written down as a decision."""
    records = make_records(5)
    shorter = replace(records, **{name: getattr(records, name)[:-1]})
    with pytest.raises(ValueError, match=name):
        to_arrow(shorter, context)


def test_vectors_of_another_width_are_refused(context: LogContext, make_records: Make) -> None:
    """The names of the context say how wide."""
    records = make_records(5)
    narrow = replace(records, features=records.features[:, :-1])
    with pytest.raises(ValueError, match="features"):
        to_arrow(narrow, context)


def test_no_records_make_an_empty_batch(context: LogContext, make_records: Make) -> None:
    """All columns, no rows."""
    batch = to_arrow(make_records(0), context)
    assert batch.num_rows == 0
    assert batch.schema.equals(arrow_schema(context))
    assert chain(batch, context, first_record=0, previous=0).tolist() == []


def test_ids_of_every_length_are_gathered(context: LogContext, make_records: Make) -> None:
    """Empty, long and beyond ASCII, in any order of their bytes."""
    texts = ["", "a", "größe-€-🙂", "x" * 300, "b"]
    content = "".join(reversed(texts)).encode()
    spans, end = [], len(content)
    for text in texts:
        start = end - len(text.encode())
        spans.append((start, end))
        end = start
    records = replace(
        make_records(5),
        id_content=np.frombuffer(content, dtype=np.uint8),
        id_spans=np.array(spans, dtype=np.int64),
    )
    assert to_arrow(records, context)["event_id"].to_pylist() == texts


@given(cut=st.integers(0, 60))
def test_a_chain_does_not_depend_on_how_records_were_batched(cut: int) -> None:
    """One batch or two, sliced or copied: the same hashes."""
    whole = chain(BATCH, CONTEXT, first_record=100, previous=7)
    first = chain(BATCH.slice(0, cut), CONTEXT, first_record=100, previous=7)
    previous = int(first[-1]) if cut else 7
    second = chain(BATCH.slice(cut), CONTEXT, first_record=100 + cut, previous=previous)
    assert [*first, *second] == whole.tolist()


def test_a_chain_does_not_depend_on_the_order_of_a_dictionary(
    context: LogContext, make_records: Make
) -> None:
    """A file may list its names in another order than the context."""
    batch = to_arrow(make_records(50), context)
    column = batch["outcome"]
    names = column.dictionary.to_pylist()
    turned = pa.DictionaryArray.from_arrays(
        pa.array([len(names) - 1 - i for i in column.indices.to_pylist()], pa.uint8()), names[::-1]
    )
    other = batch.set_column(batch.schema.get_field_index("outcome"), "outcome", turned)
    assert other["outcome"].to_pylist() == column.to_pylist()
    expected = chain(batch, context, first_record=0, previous=0)
    assert chain(other, context, first_record=0, previous=0).tolist() == expected.tolist()


@pytest.mark.parametrize(
    "name", [field.name for field in fields(LogRecords) if field.name != "features"]
)
def test_every_input_takes_part_in_the_chain(
    context: LogContext, make_records: Make, name: str
) -> None:
    """One value of one column changes every hash from there on, and none before.

    Vectors take part through their hash, which verifying recomputes.
    """
    records = make_records(20)
    row = 10 + int(np.argmin(records.is_held[10:]))
    event_id = f"event-{row}".encode()
    change: dict[str, object] = {
        "id_content": np.frombuffer(bytes(records.id_content).replace(event_id, b"event-xx"),
                                    dtype=np.uint8),
        "source": "other",
        "partition": 3,
    }  # fmt: skip
    if name not in change:
        values = getattr(records, name).copy()
        values[row] = ~values[row] if values.dtype == np.bool_ else values[row] + 1
        if name in {"outcome", "served_by", "reason"}:
            values[row] = 1 - min(1, getattr(records, name)[row])
        change[name] = values
    changed = replace(records, **{name: change[name]})
    before = chain(to_arrow(records, context), context, first_record=0, previous=0)
    after = chain(to_arrow(changed, context), context, first_record=0, previous=0)
    first = int(np.argmax(before != after))
    assert first == (0 if name in {"source", "partition"} else row)
    assert (before[first:] != after[first:]).all()


def _batch() -> tuple[LogContext, pa.RecordBatch]:
    context = LogContext("r", "d", "e", "c", {}, ("a",), "h", ("approve",), ("champion",), ("ok",))
    n = 60
    zeros = np.zeros(n, dtype=np.uint8)
    vectors = np.arange(n, dtype=np.float32).reshape(n, 1)
    spans = np.stack([np.arange(n), np.arange(n) + 1 + np.arange(n) % 3], axis=1)
    records = LogRecords(
        id_content=np.full(n + 9, 97, dtype=np.uint8),
        id_spans=spans,
        event_time_ms=np.arange(n),
        decided_at_ms=np.arange(n),
        score=np.linspace(0, 1, n),
        is_held=np.arange(n) % 7 == 0,
        outcome=zeros,
        served_by=zeros,
        reason=zeros,
        features=vectors,
        feature_status=zeros.reshape(n, 1),
        feature_hash=feature_hashes(vectors),
        source="s",
        partition=0,
        positions=np.arange(n),
    )
    return context, to_arrow(records, context)


CONTEXT, BATCH = _batch()
