"""Reading the value of one field natively, by its rule, into its column.

A value is judged in this order, and the first that applies is its fault: finite, of its type,
exact, within its bounds. Numbers and texts that cannot be taken leave the column as it was; the
row is not kept.
"""

from __future__ import annotations

import numpy as np

from sentinel.contract import fault_bits
from sentinel.contract import frame as frm
from sentinel.contract import tables as tbl
from sentinel.contract.scan_number import (
    DIGITS_MAX,
    IS_FLOAT,
    IS_NEGATIVE,
    is_finite,
    read_number,
    to_float,
)
from sentinel.contract.scan_text import QUOTE, resolve_escapes, scan_string
from sentinel.contract.scan_time import MALFORMED as MALFORMED_TIME
from sentinel.contract.scan_time import read_time
from sentinel.contract.scan_value import (
    FALSE_BYTES,
    MALFORMED,
    NULL_BYTES,
    TRUE_BYTES,
    is_false,
    is_null,
    is_true,
    non_finite_length,
    skip_value,
)
from sentinel.core import limits
from sentinel.core.native import native, native_inline
from sentinel.core.siphash import siphash_at
from sentinel.core.words import as_int, byte_at, float_of_bits, int_at, put_byte, put_int

_EXACT = np.uint64(limits.FLOAT_EXACT_INTEGER_MAX)
_MINOR_MAX = np.uint64(limits.DECIMAL_MINOR_MAX)
_INT64_MAX = np.uint64((1 << 63) - 1)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_TENS = np.array([10**power for power in range(19)], dtype=np.uint64)

# What a value turned out to be.
PRESENT, UNRESOLVED = 0, 1


@native_inline
def _signed(flags: int, magnitude: np.uint64) -> int:
    return -as_int(magnitude) if flags & IS_NEGATIVE else as_int(magnitude)


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
    shift = int_at(rule, tbl.SCALE) + point
    if shift < 0:
        return fault_bits.TOO_PRECISE, 0
    if n_digits > DIGITS_MAX:
        return fault_bits.OUT_OF_BOUNDS, 0
    if magnitude == _ZERO:
        shift = 0
    if shift > 18 or magnitude > _MINOR_MAX // _TENS[min(shift, 18)]:
        return fault_bits.OUT_OF_BOUNDS, 0
    value = _signed(flags, magnitude * _TENS[shift])
    in_bounds = int_at(rule, tbl.MINIMUM) <= value <= int_at(rule, tbl.MAXIMUM)
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
    low = float_of_bits(int_at(rule, tbl.MINIMUM))
    high = float_of_bits(int_at(rule, tbl.MAXIMUM))
    in_bounds = low <= float_of_bits(bits) <= high
    return (0 if in_bounds else fault_bits.OUT_OF_BOUNDS), bits, PRESENT


@native_inline
def _judge_time(time_ms: int, received_at_ms: int, rule: int) -> int:
    """Return the faults of an instant that could be read."""
    if time_ms < int_at(rule, tbl.MINIMUM) or time_ms > int_at(rule, tbl.MAXIMUM):
        return fault_bits.TIME_OUT_OF_BOUNDS
    skew = int_at(rule, tbl.SKEW)
    if skew < 0 or received_at_ms == frm.NO_TIME:
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
    kind = int_at(rule, tbl.KIND)
    state = PRESENT
    if kind == tbl.INTEGER:
        low, high = int_at(rule, tbl.MINIMUM), int_at(rule, tbl.MAXIMUM)
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
def find(address: int, start: int, end: int, owner: int, frame: int) -> int:
    """Return the index of a name or category value; -1 where the contract has none such."""
    mask = int_at(frame, frm.SLOT_MASK)
    literals = int_at(frame, frm.LITERALS)
    digest = siphash_at(address, start, end) ^ (np.uint64(owner) * tbl.OWNER_FACTOR)
    index = as_int(digest) & mask
    while True:
        slot = int_at(frame, frm.SLOTS) + index * (8 * tbl.N_SLOT_COLUMNS)
        if int_at(slot, tbl.OWNER) < 0:
            return -1
        first = int_at(slot, tbl.START)
        n_bytes = int_at(slot, tbl.END) - first
        if int_at(slot, tbl.OWNER) == owner and n_bytes == end - start:
            n_equal = 0
            while n_equal < n_bytes and byte_at(address, start + n_equal) == byte_at(
                literals, first + n_equal
            ):
                n_equal += 1
            if n_equal == n_bytes:
                return int_at(slot, tbl.INDEX)
        index = (index + 1) & mask


@native_inline
def _store(frame: int, field: int, value: int) -> None:
    place = field * int_at(frame, frm.N_EVENTS) + int_at(frame, frm.N_ROWS)
    put_int(int_at(frame, frm.VALUES), place, value)
    put_byte(int_at(frame, frm.PRESENT), place, 1)


@native_inline
def _store_span(frame: int, rule: int, start: int, end: int) -> None:
    text_row = int_at(rule, tbl.TEXT_ROW)
    place = 2 * (text_row * int_at(frame, frm.N_EVENTS) + int_at(frame, frm.N_ROWS))
    put_int(int_at(frame, frm.SPANS), place, start)
    put_int(int_at(frame, frm.SPANS), place + 1, end)


@native_inline
def store_absent(frame: int, field: int, rule: int) -> None:
    """Write that a field has no value: 0, not present, an empty span."""
    place = field * int_at(frame, frm.N_EVENTS) + int_at(frame, frm.N_ROWS)
    put_int(int_at(frame, frm.VALUES), place, 0)
    put_byte(int_at(frame, frm.PRESENT), place, 0)
    if int_at(rule, tbl.KIND) == tbl.TEXT:
        _store_span(frame, rule, 0, 0)


@native
def _take_text(
    address: int, position: int, end: int, field: int, rule: int, frame: int
) -> tuple[int, int]:
    """Read a string into a text, category or time column; return where it ends and its faults."""
    first = position + 1
    last, has_escapes = scan_string(address, first, end)
    if last < 0:
        return MALFORMED, 0
    position = last + 1
    text_address, base, faults = address, 0, 0
    if has_escapes:
        text_address, base = int_at(frame, frm.TEXTS), int_at(frame, frm.N_CONTENT)
        at = int_at(frame, frm.AT)
        last, has_surrogate = resolve_escapes(address, first, last, text_address, at)
        first = at
        put_int(frame, frm.AT, last)
        faults = fault_bits.LONE_SURROGATE if has_surrogate else 0
    kind = int_at(rule, tbl.KIND)
    if kind == tbl.TEXT:
        n_bytes = last - first
        if n_bytes < int_at(rule, tbl.BYTES_MIN):
            return position, faults | fault_bits.EMPTY_TEXT
        if n_bytes > int_at(rule, tbl.BYTES_MAX):
            return position, faults | fault_bits.TEXT_TOO_LONG
        _store(frame, field, as_int(siphash_at(text_address, first, last)))
        _store_span(frame, rule, base + first, base + last)
    elif kind == tbl.CATEGORY:
        index = find(text_address, first, last, field + 1, frame)
        _store(frame, field, index)
        if index < 0:
            faults |= fault_bits.UNKNOWN_CATEGORY
    else:
        time_ms = read_time(text_address, first, last)
        _store(frame, field, time_ms)
        if time_ms == MALFORMED_TIME:
            faults |= fault_bits.MALFORMED_TIME
        else:
            faults |= _judge_time(time_ms, int_at(frame, frm.RECEIVED), rule)
    return position, faults


@native
def _take_number(
    address: int, position: int, end: int, field: int, rule: int, frame: int
) -> tuple[int, int]:
    """Read a number into its column; return where it ends and its faults."""
    received_at_ms = int_at(frame, frm.RECEIVED)
    after, faults, value, state = _read_numeric(address, position, end, rule, received_at_ms)
    _store(frame, field, value)
    if state == UNRESOLVED:
        index = int_at(frame, frm.N_UNRESOLVED)
        unresolved = int_at(frame, frm.UNRESOLVED) + 32 * index
        put_int(unresolved, 0, int_at(frame, frm.EVENT))
        put_int(unresolved, 1, field)
        put_int(unresolved, 2, position)
        put_int(unresolved, 3, after)
        put_int(frame, frm.N_UNRESOLVED, index + 1)
    return after, faults


@native
def _refuse_value(address: int, position: int, end: int, frame: int) -> tuple[int, int]:
    """Read a value that its field cannot take; return where it ends and its faults."""
    byte = byte_at(address, position)
    position, faults = skip_value(address, position, end, 1, frame)
    is_container = byte == ord("{") or byte == ord("[")
    if is_container or faults & fault_bits.NON_FINITE == 0:
        faults |= fault_bits.WRONG_TYPE
    return position, faults


@native_inline
def take_value(
    address: int, position: int, end: int, field: int, rule: int, frame: int
) -> tuple[int, int]:
    """Read the value of a field into its column; return where it ends and its faults."""
    byte = byte_at(address, position)
    kind = int_at(rule, tbl.KIND)
    is_text = kind >= tbl.TEXT
    if byte == QUOTE:
        if is_text:
            return _take_text(address, position, end, field, rule, frame)
    elif byte == ord("n"):
        if is_null(address, position, end):
            store_absent(frame, field, rule)
            is_allowed = int_at(rule, tbl.NULLABLE) != 0
            return position + NULL_BYTES, 0 if is_allowed else fault_bits.NULL_NOT_ALLOWED
    elif kind == tbl.BOOLEAN:
        if is_true(address, position, end):
            _store(frame, field, 1)
            return position + TRUE_BYTES, 0
        if is_false(address, position, end):
            _store(frame, field, 0)
            return position + FALSE_BYTES, 0
    elif not is_text and (48 <= byte <= 57 or byte == ord("-")):
        return _take_number(address, position, end, field, rule, frame)
    return _refuse_value(address, position, end, frame)
