"""Columns of integers written as lines of JSON, about as fast as memory is copied.

Everything that is written is an int64 with a form: an integer; a number with a fixed count of
digits after the point (so money is exact); a key, which is a prefix and a padded number; or a
literal, which is an index into a table of ready JSON. One kernel writes every set of fields: the
fields are tables that it is given, so there is one machine code for all of them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract.batch import BoolArray, Int64Array
from sentinel.core.hashing import canonical_json
from sentinel.core.native import native, native_inline

ByteArray = npt.NDArray[np.uint8]

# An int64 has at most 19 digits; a sign and a point come on top.
_NUMBER_BYTES_MAX = 21
_DIGITS_MAX = 18
# Rows written at a time: the output of one turn stays a few megabytes.
_ROWS_A_TURN = 1 << 14
_INT64_MAX = (1 << 63) - 1


class Form(enum.IntEnum):
    """How an int64 is written."""

    INTEGER = 0
    FIXED = 1
    KEY = 2
    LITERAL = 3


@dataclass(frozen=True, slots=True)
class LineField:
    """One member of the JSON object of a line.

    Attributes
    ----------
    name : str
        Its key.
    form : Form
        How the int64 is written.
    digits : int
        0 to 18. ``FIXED``: digits after the point. ``KEY``: least digits, padded with zeros.
    literals : tuple of bytes
        ``LITERAL``: JSON by index. ``KEY``: one text, the prefix (plain, without quotes).
    """

    name: str
    form: Form
    digits: int = 0
    literals: tuple[bytes, ...] = ()

    @classmethod
    def integer(cls, name: str) -> LineField:
        """Write the number as it is."""
        return cls(name, Form.INTEGER)

    @classmethod
    def fixed(cls, name: str, *, digits: int) -> LineField:
        """Write ``1234`` at 2 digits as ``12.34``."""
        return cls(name, Form.FIXED, digits)

    @classmethod
    def key(cls, name: str, prefix: str, *, digits: int = 0) -> LineField:
        """Write ``7`` with prefix ``c`` at 3 digits as ``"c007"``; the number is 0 or more."""
        return cls(name, Form.KEY, digits, (prefix.encode("ascii"),))

    @classmethod
    def text(cls, name: str, texts: Sequence[str]) -> LineField:
        """Write the text with that index."""
        return cls(name, Form.LITERAL, 0, tuple(canonical_json(text) for text in texts))

    @classmethod
    def boolean(cls, name: str) -> LineField:
        """Write 0 as ``false`` and 1 as ``true``."""
        return cls(name, Form.LITERAL, 0, (b"false", b"true"))


@dataclass(frozen=True, slots=True)
class EncodedLines:
    """Lines as bytes: line ``i`` is ``content[starts[i]:ends[i]]``, a line feed behind it."""

    content: ByteArray
    starts: Int64Array
    ends: Int64Array


class LineEncoder:
    r"""Writes rows of columns as lines of JSON.

    Parameters
    ----------
    fields : sequence of LineField
        The members of each object, in order.

    Examples
    --------
    >>> fields = [LineField.key("card", "c", digits=3), LineField.fixed("eur", digits=2)]
    >>> LineEncoder(fields).encode(np.array([[7], [1250]])).content.tobytes()
    b'{"card":"c007","eur":12.50}\n'
    """

    def __init__(self, fields: Sequence[LineField]) -> None:
        self.fields = tuple(fields)
        if any(not 0 <= field.digits <= _DIGITS_MAX for field in self.fields):
            raise ValueError(f"digits: expected 0 to {_DIGITS_MAX}")
        text = bytearray()
        spans: list[tuple[int, int]] = []
        table: list[tuple[int, int, int, int]] = []
        row_bytes_max = 2
        for i, field in enumerate(self.fields):
            label = (b"," if i else b"{") + canonical_json(field.name) + b":"
            first = len(spans)
            for part in (label, *field.literals):
                spans.append((len(text), len(text) + len(part)))
                text += part
            table.append((int(field.form), field.digits, first, len(field.literals)))
            widest = max((len(literal) for literal in field.literals), default=0)
            row_bytes_max += len(label) + max(widest, 4)
            row_bytes_max += max(field.digits, _NUMBER_BYTES_MAX) + 2
        self._row_bytes_max = row_bytes_max
        self._table = np.array(table, dtype=np.int64).reshape(len(self.fields), 4)
        self._text = np.frombuffer(bytes(text) or b"\0", dtype=np.uint8).copy()
        self._spans = np.array(spans, dtype=np.int64).reshape(len(spans), 2)

    def encode(self, values: Int64Array, present: BoolArray | None = None) -> EncodedLines:
        """Write every row.

        Parameters
        ----------
        values : ndarray of int64, shape (n_fields, n_rows)
        present : ndarray of bool, shape (n_fields, n_rows), optional
            False is written as ``null``; all are present by default.

        Returns
        -------
        EncodedLines

        Raises
        ------
        ValueError
            For a literal index that the table does not have, a negative key, or columns of
            another shape: the caller's mistake.
        """
        n_fields, n_rows = values.shape
        if n_fields != len(self.fields):
            raise ValueError(f"values: expected {len(self.fields)} rows, got {n_fields}")
        if present is None:
            present = np.ones(values.shape, dtype=np.bool_)
        self._check(values, present)
        parts: list[ByteArray] = []
        ends = np.empty(n_rows, dtype=np.int64)
        n_bytes = 0
        for first in range(0, n_rows, _ROWS_A_TURN):
            rows = slice(first, min(first + _ROWS_A_TURN, n_rows))
            out = np.empty((rows.stop - rows.start) * self._row_bytes_max, dtype=np.uint8)
            n_written = _write_lines(
                np.ascontiguousarray(values[:, rows]),
                np.ascontiguousarray(present[:, rows]),
                self._table,
                self._text,
                self._spans,
                out,
                ends[rows],
            )
            ends[rows] += n_bytes
            n_bytes += n_written
            parts.append(out[:n_written])
        content = parts[0] if len(parts) == 1 else np.concatenate([*parts, _NO_BYTES])
        starts = np.zeros_like(ends)
        starts[1:] = ends[:-1] + 1
        return EncodedLines(content, starts, ends)

    def _check(self, values: Int64Array, present: BoolArray) -> None:
        """Hold what the kernel takes as given; an index out of a table would read anything."""
        if not values.shape[1]:
            return
        for field, column, is_present in zip(self.fields, values, present, strict=True):
            if field.form in {Form.INTEGER, Form.FIXED}:
                continue
            shown = column if is_present.all() else column[is_present]
            end = len(field.literals) if field.form is Form.LITERAL else _INT64_MAX
            if shown.size and (shown.min() < 0 or shown.max() >= end):
                raise ValueError(f"{field.name}: expected 0 to {end - 1}")


_NO_BYTES = np.empty(0, dtype=np.uint8)


@native_inline
def _copy(source: ByteArray, start: int, end: int, out: ByteArray, at: int) -> int:
    for i in range(end - start):
        out[at + i] = source[start + i]
    return at + end - start


@native_inline
def _write_digits(value: np.uint64, n_least: int, out: ByteArray, at: int) -> int:
    """Write a number with at least ``n_least`` digits."""
    ten = np.uint64(10)
    n_digits = 1
    rest = value // ten
    while rest:
        n_digits += 1
        rest = rest // ten
    n_digits = max(n_digits, n_least)
    rest = value
    for i in range(n_digits):
        quotient = rest // ten
        out[at + n_digits - 1 - i] = np.uint8(48 + rest - quotient * ten)
        rest = quotient
    return at + n_digits


@native_inline
def _write_fixed(value: np.int64, digits: int, out: ByteArray, at: int) -> int:
    """Write a number with ``digits`` digits after the point; none and no point for 0."""
    if value < 0:
        out[at] = 45
        at += 1
        # The magnitude of the least int64 is only there as an unsigned number.
        magnitude = np.uint64(0) - np.uint64(value)
    else:
        magnitude = np.uint64(value)
    if digits == 0:
        return _write_digits(magnitude, 1, out, at)
    unit = np.uint64(1)
    for _ in range(digits):
        unit = unit * np.uint64(10)
    whole = magnitude // unit
    at = _write_digits(whole, 1, out, at)
    out[at] = 46
    return _write_digits(magnitude - whole * unit, digits, out, at + 1)


@native_inline
def _write_quoted(
    value: np.int64,
    digits: int,
    text: ByteArray,
    span: Int64Array,
    out: ByteArray,
    at: int,
) -> int:
    out[at] = 34
    at = _copy(text, span[0], span[1], out, at + 1)
    at = _write_digits(np.uint64(value), digits, out, at)
    out[at] = 34
    return at + 1


@native
def _write_lines(
    values: Int64Array,
    present: BoolArray,
    table: Int64Array,
    text: ByteArray,
    spans: Int64Array,
    out: ByteArray,
    ends: Int64Array,
) -> int:
    n_fields, n_rows = values.shape
    at = 0
    for row in range(n_rows):
        for i in range(n_fields):
            form, digits, first = table[i, 0], table[i, 1], table[i, 2]
            value = values[i, row]
            at = _copy(text, spans[first, 0], spans[first, 1], out, at)
            if not present[i, row]:
                out[at] = 110
                out[at + 1] = 117
                out[at + 2] = 108
                out[at + 3] = 108
                at += 4
            elif form == 2:
                at = _write_quoted(value, digits, text, spans[first + 1], out, at)
            elif form == 3:
                span = spans[first + 1 + value]
                at = _copy(text, span[0], span[1], out, at)
            else:
                at = _write_fixed(value, digits, out, at)
        out[at] = 125
        ends[row] = at + 1
        out[at + 1] = 10
        at += 2
    return at
