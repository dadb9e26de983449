"""Columns of integers become lines of strict JSON, digit for digit."""

from __future__ import annotations

import decimal
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.data.json_lines import Form, LineEncoder, LineField

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
NATURAL = st.integers(0, (1 << 63) - 2)


def _lines(
    encoder: LineEncoder, values: np.ndarray, present: np.ndarray | None = None
) -> list[str]:
    encoded = encoder.encode(values, present)
    content = encoded.content.tobytes()
    lines = [content[a:b].decode() for a, b in zip(encoded.starts, encoded.ends, strict=True)]
    assert content == "".join(line + "\n" for line in lines).encode()
    return lines


@settings(max_examples=200, deadline=None)
@given(
    numbers=st.lists(st.tuples(INT64, INT64, NATURAL, st.booleans()), min_size=1, max_size=20),
    digits=st.integers(0, 18),
    width=st.integers(0, 18),
)
def test_every_number_is_read_back_exactly(
    numbers: list[tuple[int, int, int, bool]], digits: int, width: int
) -> None:
    encoder = LineEncoder(
        [
            LineField.integer("a"),
            LineField.fixed("b", digits=digits),
            LineField.key("c", "k-", digits=width),
            LineField.boolean("d"),
        ]
    )
    lines = _lines(encoder, np.array(numbers, dtype=np.int64).T.copy())
    for line, (a, b, c, d) in zip(lines, numbers, strict=True):
        read = json.loads(line, parse_float=decimal.Decimal, parse_int=decimal.Decimal)
        assert read["a"] == a
        with decimal.localcontext(decimal.Context(prec=40)):
            assert read["b"] == decimal.Decimal(b).scaleb(-digits)
        assert read["c"] == f"k-{c:0{width}d}"
        assert read["d"] is d


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=8), data=st.data())
def test_any_text_is_escaped_and_any_value_can_be_null(
    texts: list[str], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.tuples(st.integers(0, len(texts) - 1), st.booleans()), max_size=9))
    encoder = LineEncoder([LineField.text('a "name"', texts)])
    values = np.array([[index for index, _ in rows]], dtype=np.int64)
    present = np.array([[is_present for _, is_present in rows]], dtype=np.bool_)
    read = [json.loads(line)['a "name"'] for line in _lines(encoder, values, present)]
    assert read == [texts[index] if is_present else None for index, is_present in rows]


def test_rows_of_several_turns_are_joined_in_order() -> None:
    n_rows = 40_000
    lines = _lines(LineEncoder([LineField.integer("n")]), np.arange(n_rows)[None, :])
    assert lines == [f'{{"n":{i}}}' for i in range(n_rows)]


def test_a_line_without_fields_or_rows_is_plain() -> None:
    assert _lines(LineEncoder([LineField.integer("n")]), np.empty((1, 0), dtype=np.int64)) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (LineField.text("a", ["x", "y"]), 2),
        (LineField.text("a", ["x", "y"]), -1),
        (LineField.text("a", []), 0),
        (LineField.boolean("a"), 2),
        (LineField.key("a", "k"), -1),
    ],
)
def test_an_index_outside_its_table_is_refused_before_it_is_read(
    field: LineField, value: int
) -> None:
    with pytest.raises(ValueError, match="a: expected 0 to"):
        LineEncoder([field]).encode(np.array([[value]]))


def test_an_index_that_is_null_need_not_be_in_the_table() -> None:
    encoder = LineEncoder([LineField.key("a", "k")])
    assert _lines(encoder, np.array([[-1]]), np.array([[False]])) == ['{"a":null}']


def test_columns_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="values: expected 1 rows, got 2"):
        LineEncoder([LineField.integer("a")]).encode(np.zeros((2, 3), dtype=np.int64))


@pytest.mark.parametrize("digits", [-1, 19])
def test_more_digits_than_a_number_has_are_refused(digits: int) -> None:
    with pytest.raises(ValueError, match="digits: expected 0 to 18"):
        LineEncoder([LineField("a", Form.FIXED, digits)])
