"""Decoding a batch of JSON events natively, straight into columns.

One pass over the bytes of each event:

1. Size, white space, byte order mark, opening brace.
2. Key by key. The field that followed the last one in the previous event is guessed and compared
   in 8-byte words; only where the guess fails is the key read and looked up.
3. The value is read by the rule of its field, into the column.
4. What is missing is counted; an event without a fault is kept, and the next one takes its row
   where it has any.

A fault sets the bit of its code and reading goes on, so that the set of codes of an event is
whole and the code that is counted is the right one; only malformed text and excess depth end
it. A refused event leaves nothing behind but its bits: the guess changes speed, never a value.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sentinel.contract import fault_bits
from sentinel.contract import tables as tbl
from sentinel.contract.batch import BoolArray, Int64Array
from sentinel.contract.scan_number import (
    DIGITS_MAX,
    IS_FLOAT,
    IS_NEGATIVE,
    is_finite,
    read_number,
    to_float,
)
from sentinel.contract.scan_text import QUOTE, is_utf8, resolve_escapes, scan_string
from sentinel.contract.scan_time import MALFORMED as MALFORMED_TIME
from sentinel.contract.scan_time import read_time
from sentinel.contract.scan_value import (
    FALSE_BYTES,
    MALFORMED,
    NULL_BYTES,
    TOO_DEEP,
    TRUE_BYTES,
    Scratch,
    has_duplicates,
    is_false,
    is_null,
    is_true,
    non_finite_length,
    read_key,
    skip_colon,
    skip_space,
    skip_value,
)
from sentinel.core import limits
from sentinel.core.native import native, native_inline
from sentinel.core.siphash import siphash_at
from sentinel.core.words import address_of, byte_at, float_of_bits, word_at

# In place of a received-at time: nobody knows it.
NO_TIME = -(1 << 62)

_EXACT = np.uint64(limits.FLOAT_EXACT_INTEGER_MAX)
_MINOR_MAX = np.uint64(limits.DECIMAL_MINOR_MAX)
_INT64_MAX = np.uint64((1 << 63) - 1)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_SECONDS_MAX = limits.TIME_MS_MAX // 1000
_TENS = np.array([10**power for power in range(19)], dtype=np.uint64)

# What a value turned out to be.
PRESENT, UNRESOLVED = 0, 1

# How far the kernel is: rows and text bytes that are kept, floats left to Python; within the
# event, unknown keys noted and the first free text byte; and the length of the content.
N_ROWS, N_TEXTS, N_UNRESOLVED, N_KEYS, AT, N_CONTENT, N_PROGRESS = range(7)


class Columns(NamedTuple):
    """Where the kernel writes.

    Attributes
    ----------
    values : ndarray of int64, shape (n_fields, n_events)
    present : ndarray of bool, shape (n_fields, n_events)
    spans : ndarray of int64, shape (n_text_fields, n_events, 2)
    rows : ndarray of int64, shape (n_events,)
    faults : ndarray of int64, shape (n_events,)
        Fault set of each raw event; 0 for an accepted one.
    unresolved : ndarray of int64, shape (n_events * n_float_fields, 4)
        Floats for Python: raw event, field, start and end in the content.
    """

    values: Int64Array
    present: BoolArray
    spans: npt.NDArray[np.int64]
    rows: Int64Array
    faults: Int64Array
    unresolved: Int64Array


@native_inline
def _rule(rule: int, column: int) -> int:
    return np.int64(word_at(rule, 8 * column))


@native_inline
def _signed(flags: int, magnitude: np.uint64) -> int:
    return -np.int64(magnitude) if flags & IS_NEGATIVE else np.int64(magnitude)


@native_inline
def _read_integer(
    flags: int, magnitude: np.uint64, n_digits: int, low: int, high: int, out: int
) -> tuple[int, int]:
    """Judge an integer token against bounds; return its faults and its value."""
    if flags & IS_FLOAT:
        return fault_bits.WRONG_TYPE, 0
    if n_digits > DIGITS_MAX:
        return out, 0
    if magnitude > _INT64_MAX:
        is_lowest = flags & IS_NEGATIVE and magnitude == _INT64_MAX + _ONE
        lowest = -0x7FFFFFFFFFFFFFFF - 1
        return (0 if is_lowest and low == lowest else out), lowest
    value = _signed(flags, magnitude)
    return (0 if low <= value <= high else out), value


@native_inline
def _read_decimal(
    flags: int, magnitude: np.uint64, point: int, n_digits: int, rule: int
) -> tuple[int, int]:
    """Scale a number to minor units exactly; return its faults and its value."""
    shift = _rule(rule, tbl.SCALE) + point
    if shift < 0:
        return fault_bits.TOO_PRECISE, 0
    if n_digits > DIGITS_MAX:
        return fault_bits.OUT_OF_BOUNDS, 0
    if magnitude == _ZERO:
        shift = 0
    if shift > 18 or magnitude > _MINOR_MAX // _TENS[min(shift, 18)]:
        return fault_bits.OUT_OF_BOUNDS, 0
    value = _signed(flags, magnitude * _TENS[shift])
    in_bounds = _rule(rule, tbl.MINIMUM) <= value <= _rule(rule, tbl.MAXIMUM)
    return (0 if in_bounds else fault_bits.OUT_OF_BOUNDS), value


@native_inline
def _read_float(
    flags: int, magnitude: np.uint64, point: int, n_digits: int, rule: int
) -> tuple[int, int, int]:
    """Round a number to float64; return its faults, its bits and ``PRESENT`` or ``UNRESOLVED``."""
    if flags & IS_FLOAT == 0 and (n_digits > DIGITS_MAX or magnitude > _EXACT):
        return fault_bits.INEXACT_INTEGER, 0, PRESENT
    if n_digits > DIGITS_MAX:
        return 0, 0, UNRESOLVED
    is_rounded, bits = to_float(flags, magnitude, point)
    if not is_rounded:
        return 0, 0, UNRESOLVED
    low = float_of_bits(_rule(rule, tbl.MINIMUM))
    high = float_of_bits(_rule(rule, tbl.MAXIMUM))
    in_bounds = low <= float_of_bits(bits) <= high
    return (0 if in_bounds else fault_bits.OUT_OF_BOUNDS), bits, PRESENT


@native_inline
def _judge_time(time_ms: int, received_at_ms: int, rule: int) -> int:
    """Return the faults of an instant that could be read."""
    if time_ms < _rule(rule, tbl.MINIMUM) or time_ms > _rule(rule, tbl.MAXIMUM):
        return fault_bits.TIME_OUT_OF_BOUNDS
    skew = _rule(rule, tbl.SKEW)
    if skew < 0 or received_at_ms == NO_TIME:
        return 0
    return fault_bits.TIME_SKEW if abs(time_ms - received_at_ms) > skew else 0


@native_inline
def _read_numeric(
    address: int, position: int, end: int, rule: int, received_at_ms: int
) -> tuple[int, int, int, int]:
    """Read the value of a numeric field that starts with a digit or a minus.

    Returns
    -------
    position, faults, value, state : int
    """
    after, flags, magnitude, point, n_digits = read_number(address, position, end)
    if after < 0:
        n_bytes = non_finite_length(address, position, end)
        after = position + n_bytes if n_bytes > 0 else MALFORMED
        return after, fault_bits.NON_FINITE, 0, PRESENT
    is_float = flags & IS_FLOAT
    if is_float and not is_finite(address, position, after, magnitude, point, n_digits):
        return after, fault_bits.NON_FINITE, 0, PRESENT
    kind = _rule(rule, tbl.KIND)
    state = PRESENT
    if kind == tbl.INTEGER:
        low, high = _rule(rule, tbl.MINIMUM), _rule(rule, tbl.MAXIMUM)
        faults, value = _read_integer(
            flags, magnitude, n_digits, low, high, fault_bits.OUT_OF_BOUNDS
        )
    elif kind == tbl.DECIMAL:
        faults, value = _read_decimal(flags, magnitude, point, n_digits, rule)
    elif kind == tbl.FLOAT:
        faults, value, state = _read_float(flags, magnitude, point, n_digits, rule)
    else:
        unit = 1000 if kind == tbl.TIME_S else 1
        most = limits.TIME_MS_MAX // unit
        faults, value = _read_integer(
            flags, magnitude, n_digits, -most, most, fault_bits.TIME_OUT_OF_BOUNDS
        )
        value *= unit
        if faults == 0:
            faults = _judge_time(value, received_at_ms, rule)
    return after, faults, value, state


@native_inline
def _read_text(
    address: int, position: int, end: int, texts: npt.NDArray[np.uint8], at: int
) -> tuple[int, int, int, int, int]:
    """Read a string value.

    Returns
    -------
    position : int
        After the closing quote; negative where malformed.
    faults : int
    text_address, start, end : int
        Where its bytes are, escapes resolved.
    """
    close, has_escapes = scan_string(address, position + 1, end)
    if close < 0:
        return MALFORMED, 0, address, 0, 0
    if not has_escapes:
        return close + 1, 0, address, position + 1, close
    last, has_surrogate = resolve_escapes(address, position + 1, close, texts, at)
    fault = fault_bits.LONE_SURROGATE if has_surrogate else 0
    return close + 1, fault, address_of(texts), at, last


@native_inline
def _find(
    address: int,
    start: int,
    end: int,
    owner: int,
    slots: Int64Array,
    literals: npt.NDArray[np.uint8],
) -> int:
    """Return the index of a name or category value; -1 where the contract has none such."""
    mask = np.int64(len(slots) - 1)
    digest = siphash_at(address, start, end) ^ (np.uint64(owner) * tbl.OWNER_FACTOR)
    slot = np.int64(digest) & mask
    literal_address = address_of(literals)
    while slots[slot, tbl.OWNER] >= 0:
        first = slots[slot, tbl.START]
        n_bytes = slots[slot, tbl.END] - first
        if slots[slot, tbl.OWNER] == owner and n_bytes == end - start:
            n_equal = 0
            while n_equal < n_bytes and byte_at(address, start + n_equal) == byte_at(
                literal_address, first + n_equal
            ):
                n_equal += 1
            if n_equal == n_bytes:
                return slots[slot, tbl.INDEX]
        slot = (slot + 1) & mask
    return -1


@native_inline
def _is_guess(address: int, position: int, end: int, names_address: int, rule: int) -> bool:
    """Tell whether the guessed name and its quote stand at ``position``, word by word."""
    n_words = _rule(rule, tbl.NAME_WORDS)
    if position + 8 * n_words > end:
        return False
    last = 8 * (n_words - 1)
    for offset in range(0, last, 8):
        if word_at(address, position + offset) != word_at(names_address, offset):
            return False
    difference = word_at(address, position + last) ^ word_at(names_address, last)
    return difference & word_at(rule, 8 * tbl.NAME_MASK) == _ZERO


@native
def _classify(address: int, start: int, end: int, reason: int) -> int:
    """Return the one code of an event that could not be read to its end."""
    if not is_utf8(address, start, end):
        return fault_bits.INVALID_UTF8
    return fault_bits.TOO_DEEP if reason == TOO_DEEP else fault_bits.MALFORMED_JSON


@native
def _read_other(address: int, start: int, end: int, scratch: Scratch, at: int) -> int:
    """Return the faults of an event that does not start with a brace."""
    position, faults, n_keys = skip_value(address, start, end, 0, scratch, at, 0)
    if position >= 0 and skip_space(address, position, end) < end:
        position = MALFORMED
    if position < 0:
        return _classify(address, start, end, position)
    if has_duplicates(scratch.keys, n_keys):
        faults |= fault_bits.DUPLICATE_KEY
    return faults | fault_bits.NOT_AN_OBJECT


@native_inline
def _read_other_field(
    address: int, position: int, end: int, scratch: Scratch, progress: Int64Array
) -> tuple[int, int]:
    """Read a value that its field cannot take; return where it ends and its faults."""
    byte = byte_at(address, position)
    at, n_keys = progress[AT], progress[N_KEYS]
    position, faults, n_keys = skip_value(address, position, end, 1, scratch, at, n_keys)
    progress[N_KEYS] = n_keys
    is_container = byte == ord("{") or byte == ord("[")
    if is_container or faults & fault_bits.NON_FINITE == 0:
        faults |= fault_bits.WRONG_TYPE
    return position, faults


@native_inline
def _take_text(
    address: int,
    position: int,
    end: int,
    field: int,
    rule: int,
    received_at_ms: int,
    tables: tbl.Tables,
    columns: Columns,
    scratch: Scratch,
    progress: Int64Array,
) -> tuple[int, int]:
    """Read a string into a text, category or time column; return where it ends and its faults."""
    row = progress[N_ROWS]
    position, faults, text_address, first, last = _read_text(
        address, position, end, scratch.texts, progress[AT]
    )
    if position < 0:
        return position, 0
    kind = _rule(rule, tbl.KIND)
    if kind == tbl.TEXT:
        n_bytes = last - first
        if n_bytes < _rule(rule, tbl.BYTES_MIN):
            return position, faults | fault_bits.EMPTY_TEXT
        if n_bytes > _rule(rule, tbl.BYTES_MAX):
            return position, faults | fault_bits.TEXT_TOO_LONG
        columns.values[field, row] = np.int64(siphash_at(text_address, first, last))
        text_row = _rule(rule, tbl.TEXT_ROW)
        base = 0
        if text_address != address:
            base = progress[N_CONTENT]
            progress[AT] = last
        columns.spans[text_row, row, 0] = base + first
        columns.spans[text_row, row, 1] = base + last
    elif kind == tbl.CATEGORY:
        index = _find(text_address, first, last, field + 1, tables.slots, tables.literals)
        columns.values[field, row] = index
        if index < 0:
            faults |= fault_bits.UNKNOWN_CATEGORY
    else:
        time_ms = read_time(text_address, first, last)
        columns.values[field, row] = time_ms
        if time_ms == MALFORMED_TIME:
            faults |= fault_bits.MALFORMED_TIME
        else:
            faults |= _judge_time(time_ms, received_at_ms, rule)
    return position, faults


@native_inline
def _take_value(
    address: int,
    position: int,
    end: int,
    field: int,
    rule: int,
    event: int,
    received_at_ms: int,
    tables: tbl.Tables,
    columns: Columns,
    scratch: Scratch,
    progress: Int64Array,
) -> tuple[int, int]:
    """Read the value of a field into its column; return where it ends and its faults."""
    row = progress[N_ROWS]
    byte = byte_at(address, position)
    kind = _rule(rule, tbl.KIND)
    if byte == ord("n") and is_null(address, position, end):
        columns.values[field, row] = 0
        columns.present[field, row] = False
        if kind == tbl.TEXT:
            columns.spans[_rule(rule, tbl.TEXT_ROW), row, 0] = 0
            columns.spans[_rule(rule, tbl.TEXT_ROW), row, 1] = 0
        is_allowed = _rule(rule, tbl.NULLABLE) != 0
        return position + NULL_BYTES, 0 if is_allowed else fault_bits.NULL_NOT_ALLOWED
    columns.present[field, row] = True
    if byte == QUOTE:
        if kind == tbl.TEXT or kind == tbl.CATEGORY or kind == tbl.TIME_TEXT:
            return _take_text(
                address,
                position,
                end,
                field,
                rule,
                received_at_ms,
                tables,
                columns,
                scratch,
                progress,
            )
    elif kind == tbl.BOOLEAN:
        if is_true(address, position, end):
            columns.values[field, row] = 1
            return position + TRUE_BYTES, 0
        if is_false(address, position, end):
            columns.values[field, row] = 0
            return position + FALSE_BYTES, 0
    elif kind != tbl.TEXT and kind != tbl.CATEGORY and kind != tbl.TIME_TEXT:
        if 48 <= byte <= 57 or byte == ord("-"):
            after, faults, value, state = _read_numeric(
                address, position, end, rule, received_at_ms
            )
            columns.values[field, row] = value
            if state == UNRESOLVED:
                _note_unresolved(columns.unresolved, progress, event, field, position, after)
            return after, faults
    return _read_other_field(address, position, end, scratch, progress)


@native_inline
def _note_unresolved(
    unresolved: Int64Array, progress: Int64Array, event: int, field: int, start: int, end: int
) -> None:
    """Leave a float to Python."""
    index = progress[N_UNRESOLVED]
    unresolved[index, 0] = event
    unresolved[index, 1] = field
    unresolved[index, 2] = start
    unresolved[index, 3] = end
    progress[N_UNRESOLVED] = index + 1


@native_inline
def _fill_absent(
    event: int, marks: Int64Array, tables: tbl.Tables, columns: Columns, row: int
) -> int:
    """Write the fields that the event does not have; return the fault where one is required."""
    faults = 0
    for field in range(len(marks)):
        if marks[field] == event:
            continue
        if tables.rules[field, tbl.REQUIRED] != 0:
            faults = fault_bits.MISSING_FIELD
        columns.values[field, row] = 0
        columns.present[field, row] = False
        if tables.rules[field, tbl.KIND] == tbl.TEXT:
            columns.spans[tables.rules[field, tbl.TEXT_ROW], row, :] = 0
    return faults


@native_inline
def _read_object(
    address: int,
    position: int,
    end: int,
    event: int,
    received_at_ms: int,
    tables: tbl.Tables,
    columns: Columns,
    scratch: Scratch,
    marks: Int64Array,
    following: Int64Array,
    progress: Int64Array,
) -> tuple[int, int]:
    """Read the object after its opening brace; return where it ends and its faults."""
    n_fields = len(marks)
    rules_address = address_of(tables.rules)
    names_address = address_of(tables.names)
    progress[N_KEYS] = 0
    progress[AT] = progress[N_TEXTS]
    faults = 0
    n_seen = 0
    previous = n_fields
    position = skip_space(address, position, end)
    is_open = not (position < end and byte_at(address, position) == ord("}"))
    if not is_open:
        position += 1
    while is_open:
        position = skip_space(address, position, end)
        guess = following[previous]
        field = -1
        if guess < n_fields and position < end and byte_at(address, position) == QUOTE:
            rule = rules_address + guess * (8 * tbl.N_COLUMNS)
            name = names_address + guess * (8 * tbl.N_NAME_WORDS)
            if _is_guess(address, position + 1, end, name, rule):
                field = guess
                position += 1 + _rule(rule, tbl.NAME_BYTES)
        if field < 0:
            position, key_address, first, last, has_surrogate = read_key(
                address, position, end, scratch.texts, progress[AT]
            )
            if position < 0:
                return position, faults
            field = _find(key_address, first, last, tbl.NAMES, tables.slots, tables.literals)
            if has_surrogate:
                faults |= fault_bits.LONE_SURROGATE
            if field >= 0:
                following[previous] = field
            else:
                faults |= fault_bits.UNKNOWN_FIELD
                n_keys = progress[N_KEYS]
                scratch.keys[0, n_keys] = siphash_at(key_address, first, last)
                progress[N_KEYS] = n_keys + 1
        position = skip_colon(address, position, end)
        if position < 0:
            return position, faults
        position = skip_space(address, position, end)
        if position >= end:
            return MALFORMED, faults
        if field >= 0 and marks[field] != event:
            marks[field] = event
            n_seen += 1
            previous = field
            position, fault = _take_value(
                address,
                position,
                end,
                field,
                rules_address + field * (8 * tbl.N_COLUMNS),
                event,
                received_at_ms,
                tables,
                columns,
                scratch,
                progress,
            )
        else:
            at, n_keys = progress[AT], progress[N_KEYS]
            position, fault, n_keys = skip_value(address, position, end, 1, scratch, at, n_keys)
            progress[N_KEYS] = n_keys
            if field >= 0:
                fault |= fault_bits.DUPLICATE_KEY
        faults |= fault
        if position < 0:
            return position, faults
        position = skip_space(address, position, end)
        if position >= end:
            return MALFORMED, faults
        byte = byte_at(address, position)
        if byte != ord(",") and byte != ord("}"):
            return MALFORMED, faults
        is_open = byte == ord(",")
        position += 1
    if n_seen < n_fields:
        faults |= _fill_absent(event, marks, tables, columns, progress[N_ROWS])
    return position, faults


@native_inline
def _has_mark(address: int, start: int, end: int) -> bool:
    """Tell whether the event starts with the UTF-8 byte order mark."""
    return (
        end - start >= 3
        and byte_at(address, start) == 0xEF
        and byte_at(address, start + 1) == 0xBB
        and byte_at(address, start + 2) == 0xBF
    )


@native
def decode_events(
    content: npt.NDArray[np.uint8],
    starts: Int64Array,
    ends: Int64Array,
    received_at_ms: Int64Array,
    tables: tbl.Tables,
    columns: Columns,
    scratch: Scratch,
) -> tuple[int, int, int]:
    """Decode events into columns; linear in the bytes.

    Parameters
    ----------
    content : ndarray of uint8, read-only
    starts, ends : ndarray of int64, shape (n_events,)
        Bounds of each event, checked by the caller.
    received_at_ms : ndarray of int64, shape (n_events,) or (0,)
    tables : Tables
    columns : Columns
    scratch : Scratch

    Returns
    -------
    n_rows : int
        Events accepted; rows from there on mean nothing.
    n_texts : int
        Bytes of ``scratch.texts`` that spans refer to.
    n_unresolved : int
        Rows of ``columns.unresolved``.
    """
    address = address_of(content)
    n_fields = len(tables.rules)
    marks = np.full(n_fields, -1, dtype=np.int64)
    following = np.arange(1, n_fields + 2)
    following[n_fields] = 0
    progress = np.zeros(N_PROGRESS, dtype=np.int64)
    progress[N_CONTENT] = len(content)
    for event in range(len(starts)):
        start, end = starts[event], ends[event]
        if end - start > limits.EVENT_BYTES_MAX:
            columns.faults[event] = fault_bits.BODY_TOO_LARGE
            continue
        first = skip_space(address, start, end)
        if first == end:
            columns.faults[event] = fault_bits.EMPTY_EVENT
            continue
        if byte_at(address, first) != ord("{"):
            columns.faults[event] = (
                fault_bits.BYTE_ORDER_MARK
                if _has_mark(address, start, end)
                else _read_other(address, first, end, scratch, progress[N_TEXTS])
            )
            continue
        received = received_at_ms[event] if len(received_at_ms) > 0 else NO_TIME
        position, faults = _read_object(
            address,
            first + 1,
            end,
            event,
            received,
            tables,
            columns,
            scratch,
            marks,
            following,
            progress,
        )
        if position >= 0 and skip_space(address, position, end) < end:
            position = MALFORMED
        if position < 0:
            faults = _classify(address, first, end, position)
        elif progress[N_KEYS] > 0 and has_duplicates(scratch.keys, progress[N_KEYS]):
            faults |= fault_bits.DUPLICATE_KEY
        columns.faults[event] = faults
        if faults == 0:
            columns.rows[progress[N_ROWS]] = event
            progress[N_ROWS] += 1
            progress[N_TEXTS] = progress[AT]
    return progress[N_ROWS], progress[N_TEXTS], progress[N_UNRESOLVED]
