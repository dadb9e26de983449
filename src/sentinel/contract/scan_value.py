"""Reading any JSON value natively, to know where it ends and what is wrong inside.

This is the way of what no column takes: the values of unknown fields, values of the wrong type,
events that are no object. It is iterative, bounded by ``EVENT_DEPTH_MAX``, and linear.

Keys that are no field of the contract are kept as hashes (with the position of their object
mixed in); equal ones are found at the end of the event by a radix sort, so that 10,000 copies of
a key cost no more than 10,000 keys, whatever the keys are.
"""

from __future__ import annotations

import numpy as np

from sentinel.contract import fault_bits
from sentinel.contract import frame as frm
from sentinel.contract.scan_number import IS_FLOAT, is_finite, read_number
from sentinel.contract.scan_text import QUOTE, resolve_escapes, scan_string
from sentinel.contract.tables import OWNER_FACTOR
from sentinel.core.native import native, native_inline
from sentinel.core.siphash import siphash_at
from sentinel.core.words import as_int, byte_at, int_at, put_int

# Returned in place of a position.
MALFORMED = -1
TOO_DEEP = -2

_WHITE_SPACE = 1 << 32 | 1 << 13 | 1 << 10 | 1 << 9
_TRUE = int.from_bytes(b"true", "little")
_FALSE = int.from_bytes(b"false", "little")
_NULL = int.from_bytes(b"null", "little")
_NAN = int.from_bytes(b"NaN", "little")
_INFINITY = int.from_bytes(b"Infinity", "little")
_LOW_BYTE = np.uint64(0xFF)

NULL_BYTES, TRUE_BYTES, FALSE_BYTES = 4, 4, 5


@native_inline
def skip_space(address: int, position: int, end: int) -> int:
    """Return the position of the next byte that is not white space of RFC 8259."""
    while position < end:
        byte = byte_at(address, position)
        if byte > 32 or _WHITE_SPACE >> byte & 1 == 0:
            break
        position += 1
    return position


@native_inline
def _matches(address: int, position: int, end: int, letters: np.uint64, n_bytes: int) -> bool:
    if position + n_bytes > end:
        return False
    for i in range(n_bytes):
        if np.uint64(byte_at(address, position + i)) != letters >> np.uint64(8 * i) & _LOW_BYTE:
            return False
    return True


@native_inline
def is_null(address: int, position: int, end: int) -> bool:
    """Tell whether ``null`` stands here."""
    return _matches(address, position, end, np.uint64(_NULL), NULL_BYTES)


@native_inline
def is_true(address: int, position: int, end: int) -> bool:
    """Tell whether ``true`` stands here."""
    return _matches(address, position, end, np.uint64(_TRUE), TRUE_BYTES)


@native_inline
def is_false(address: int, position: int, end: int) -> bool:
    """Tell whether ``false`` stands here."""
    return _matches(address, position, end, np.uint64(_FALSE), FALSE_BYTES)


@native_inline
def non_finite_length(address: int, position: int, end: int) -> int:
    """Return the length of ``NaN``, ``Infinity`` or ``-Infinity`` here; 0 for anything else."""
    if _matches(address, position, end, np.uint64(_NAN), 3):
        return 3
    n_sign = 1 if byte_at(address, position) == ord("-") else 0
    is_infinity = _matches(address, position + n_sign, end, np.uint64(_INFINITY), 8)
    return n_sign + 8 if is_infinity else 0


@native
def _skip_scalar(address: int, position: int, end: int, frame: int) -> tuple[int, int]:
    """Read a string, number or literal; return where it ends and its faults."""
    byte = byte_at(address, position)
    if byte == QUOTE:
        close, has_escapes = scan_string(address, position + 1, end)
        has_surrogate = False
        if close >= 0 and has_escapes:
            texts, at = int_at(frame, frm.TEXTS), int_at(frame, frm.AT)
            _, has_surrogate = resolve_escapes(address, position + 1, close, texts, at)
        fault = fault_bits.LONE_SURROGATE if has_surrogate else 0
        return (close + 1 if close >= 0 else MALFORMED), fault
    if is_true(address, position, end) or is_null(address, position, end):
        return position + TRUE_BYTES, 0
    if is_false(address, position, end):
        return position + FALSE_BYTES, 0
    n_bytes = non_finite_length(address, position, end)
    if n_bytes > 0:
        return position + n_bytes, fault_bits.NON_FINITE
    after, flags, magnitude, point, n_significant = read_number(address, position, end)
    if after < 0 or flags & IS_FLOAT == 0:
        return after, 0
    finite = is_finite(address, position, after, magnitude, point, n_significant)
    return after, 0 if finite else fault_bits.NON_FINITE


@native
def read_key(address: int, position: int, end: int, frame: int) -> tuple[int, int, int, int, bool]:
    """Read a key; resolve its escapes behind the kept texts where it has any.

    Returns
    -------
    position : int
        After the closing quote; negative where malformed.
    key_address, start, end : int
        Where the bytes of the key are.
    has_lone_surrogate : bool
    """
    if position >= end or byte_at(address, position) != QUOTE:
        return MALFORMED, address, 0, 0, False
    close, has_escapes = scan_string(address, position + 1, end)
    if close < 0:
        return MALFORMED, address, 0, 0, False
    if not has_escapes:
        return close + 1, address, position + 1, close, False
    texts, at = int_at(frame, frm.TEXTS), int_at(frame, frm.AT)
    last, has_surrogate = resolve_escapes(address, position + 1, close, texts, at)
    return close + 1, texts, at, last, has_surrogate


@native_inline
def skip_colon(address: int, position: int, end: int) -> int:
    """Return the position after the colon; negative where there is none."""
    position = skip_space(address, position, end)
    if position >= end or byte_at(address, position) != ord(":"):
        return MALFORMED
    return position + 1


@native_inline
def note_key(address: int, start: int, end: int, frame: int, brace: int) -> None:
    """Keep the hash of a key that is no field, with the object that it stands in."""
    digest = siphash_at(address, start, end) ^ (np.uint64(brace + 1) * OWNER_FACTOR)
    n_keys = int_at(frame, frm.N_KEYS)
    put_int(int_at(frame, frm.KEYS), n_keys, as_int(digest))
    put_int(frame, frm.N_KEYS, n_keys + 1)


@native
def _skip_key(address: int, position: int, end: int, frame: int, brace: int) -> tuple[int, int]:
    """Read a key of a nested object with its colon."""
    position = skip_space(address, position, end)
    position, key_address, key_start, key_end, has_surrogate = read_key(
        address, position, end, frame
    )
    if position < 0:
        return MALFORMED, 0
    note_key(key_address, key_start, key_end, frame, brace)
    fault = fault_bits.LONE_SURROGATE if has_surrogate else 0
    return skip_colon(address, position, end), fault


@native
def skip_value(address: int, position: int, end: int, depth: int, frame: int) -> tuple[int, int]:
    """Read one JSON value of any kind and depth.

    Parameters
    ----------
    address, position, end : int
        The buffer, where the value starts (white space allowed), the end of the event.
    depth : int
        How many containers are open around it.
    frame : int

    Returns
    -------
    position : int
        After the value; ``MALFORMED`` or ``TOO_DEEP``.
    faults : int
    """
    faults = 0
    n_open = 0
    open_objects = int_at(frame, frm.OPEN_OBJECTS)
    while True:
        position = skip_space(address, position, end)
        if position >= end:
            return MALFORMED, faults
        byte = byte_at(address, position)
        is_object = byte == ord("{")
        if is_object or byte == ord("["):
            if depth + n_open >= frm.DEPTH_MAX:
                return TOO_DEEP, faults
            brace = position if is_object else -1
            put_int(open_objects, n_open, brace)
            n_open += 1
            position = skip_space(address, position + 1, end)
            if position >= end:
                return MALFORMED, faults
            # "{" and "}", "[" and "]" are two apart.
            if byte_at(address, position) != byte + 2:
                if is_object:
                    position, fault = _skip_key(address, position, end, frame, brace)
                    faults |= fault
                if position < 0:
                    return position, faults
                continue
        else:
            position, fault = _skip_scalar(address, position, end, frame)
            faults |= fault
        if position >= 0:
            position, fault, n_open = _after_value(address, position, end, frame, n_open)
            faults |= fault
        if position < 0 or n_open == 0:
            return position, faults


@native
def _after_value(
    address: int, position: int, end: int, frame: int, n_open: int
) -> tuple[int, int, int]:
    """Close what closes here, up to the comma before the next value.

    An empty container that was just opened counts as open: its closing bracket stands here.
    """
    open_objects = int_at(frame, frm.OPEN_OBJECTS)
    while n_open > 0:
        position = skip_space(address, position, end)
        if position >= end:
            return MALFORMED, 0, n_open
        byte = byte_at(address, position)
        brace = int_at(open_objects, n_open - 1)
        if byte == ord(","):
            if brace < 0:
                return position + 1, 0, n_open
            position, fault = _skip_key(address, position + 1, end, frame, brace)
            return position, fault, n_open
        if byte != (ord("]") if brace < 0 else ord("}")):
            return MALFORMED, 0, n_open
        n_open -= 1
        position += 1
    return position, 0, n_open


@native
def has_duplicates(frame: int) -> bool:
    """Tell whether two of the noted hashes are equal.

    A radix sort by bytes: always eight passes, whatever the hashes are.
    """
    n_keys = int_at(frame, frm.N_KEYS)
    source = int_at(frame, frm.KEYS)
    target = source + 8 * frm.KEYS_MAX
    counts = np.zeros(257, dtype=np.int64)
    for digit in range(8):
        shift = np.uint64(8 * digit)
        counts[:] = 0
        for i in range(n_keys):
            bucket = as_int(np.uint64(int_at(source, i)) >> shift & _LOW_BYTE)
            counts[bucket + 1] += 1
        for i in range(256):
            counts[i + 1] += counts[i]
        for i in range(n_keys):
            value = int_at(source, i)
            bucket = as_int(np.uint64(value) >> shift & _LOW_BYTE)
            put_int(target, counts[bucket], value)
            counts[bucket] += 1
        source, target = target, source
    n_equal = 0
    for i in range(1, n_keys):
        n_equal += int_at(source, i) == int_at(source, i - 1)
    return n_equal > 0
