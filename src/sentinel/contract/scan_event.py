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

import numpy as np
import numpy.typing as npt

from sentinel.contract import fault_bits
from sentinel.contract import frame as frm
from sentinel.contract import tables as tbl
from sentinel.contract.batch import Int64Array
from sentinel.contract.scan_field import find, store_absent, take_value
from sentinel.contract.scan_text import QUOTE, is_utf8
from sentinel.contract.scan_value import (
    MALFORMED,
    TOO_DEEP,
    has_duplicates,
    note_key,
    read_key,
    skip_colon,
    skip_space,
    skip_value,
)
from sentinel.core import limits
from sentinel.core.native import native, native_inline
from sentinel.core.words import address_of, as_int, byte_at, int_at, put_int, word_at


@native_inline
def _is_guess(address: int, position: int, end: int, name: int, rule: int) -> bool:
    """Tell whether the guessed name and its quote stand at ``position``, word by word."""
    n_words = int_at(rule, tbl.NAME_WORDS)
    if position + 8 * n_words > end:
        return False
    last = 8 * (n_words - 1)
    for offset in range(0, last, 8):
        if word_at(address, position + offset) != word_at(name, offset):
            return False
    difference = as_int(word_at(address, position + last) ^ word_at(name, last))
    return difference & int_at(rule, tbl.NAME_MASK) == 0


@native
def _classify(address: int, start: int, end: int, reason: int) -> int:
    """Return the one code of an event that could not be read to its end."""
    if not is_utf8(address, start, end):
        return fault_bits.INVALID_UTF8
    return fault_bits.TOO_DEEP if reason == TOO_DEEP else fault_bits.MALFORMED_JSON


@native
def _fill_absent(frame: int) -> int:
    """Write the fields that the event does not have; return the fault where one is required."""
    faults = 0
    event = int_at(frame, frm.EVENT)
    for field in range(int_at(frame, frm.N_FIELDS)):
        if int_at(int_at(frame, frm.MARKS), field) == event:
            continue
        rule = int_at(frame, frm.RULES) + field * (8 * tbl.N_COLUMNS)
        if int_at(rule, tbl.REQUIRED) != 0:
            faults = fault_bits.MISSING_FIELD
        store_absent(frame, field, rule)
    return faults


@native_inline
def _guess_field(address: int, position: int, end: int, guess: int, frame: int) -> int:
    """Return the position after the guessed key, or -1 where another stands here."""
    if guess >= int_at(frame, frm.N_FIELDS) or position >= end:
        return -1
    rule = int_at(frame, frm.RULES) + guess * (8 * tbl.N_COLUMNS)
    name = int_at(frame, frm.NAMES) + guess * (8 * tbl.N_NAME_WORDS)
    is_guess = byte_at(address, position) == QUOTE and _is_guess(
        address, position + 1, end, name, rule
    )
    return position + 1 + int_at(rule, tbl.NAME_BYTES) if is_guess else -1


@native
def _look_up_field(
    address: int, position: int, end: int, previous: int, frame: int
) -> tuple[int, int, int]:
    """Read a key that was not guessed; return where it ends, its field and its faults."""
    position, key_address, first, last, has_surrogate = read_key(address, position, end, frame)
    if position < 0:
        return position, -1, 0
    faults = fault_bits.LONE_SURROGATE if has_surrogate else 0
    field = find(key_address, first, last, tbl.NAMES, frame)
    if field >= 0:
        put_int(int_at(frame, frm.FOLLOWING), previous, field)
    else:
        faults |= fault_bits.UNKNOWN_FIELD
        note_key(key_address, first, last, frame, -1)
    return position, field, faults


@native_inline
def _read_member(
    address: int, position: int, end: int, previous: int, frame: int
) -> tuple[int, int, int]:
    """Read a key and its value.

    Parameters
    ----------
    position : int
        Where the key starts, white space skipped.
    previous : int
        The field before it, or ``N_FIELDS``.

    Returns
    -------
    position : int
        After the value; negative where malformed or too deep.
    field : int
        The field that was taken; -1 for an unknown key and for a duplicate.
    faults : int
    """
    faults = 0
    field = int_at(int_at(frame, frm.FOLLOWING), previous)
    after = _guess_field(address, position, end, field, frame)
    if after < 0:
        after, field, faults = _look_up_field(address, position, end, previous, frame)
    position = skip_colon(address, after, end) if after >= 0 else after
    if position < 0:
        return position, -1, faults
    position = skip_space(address, position, end)
    if position >= end:
        return MALFORMED, -1, faults
    marks, event = int_at(frame, frm.MARKS), int_at(frame, frm.EVENT)
    if field >= 0 and int_at(marks, field) != event:
        put_int(marks, field, event)
        rule = int_at(frame, frm.RULES) + field * (8 * tbl.N_COLUMNS)
        position, fault = take_value(address, position, end, field, rule, frame)
        return position, field, faults | fault
    position, fault = skip_value(address, position, end, 1, frame)
    if field >= 0:
        fault |= fault_bits.DUPLICATE_KEY
    return position, -1, faults | fault


@native
def _read_object(address: int, position: int, end: int, frame: int) -> tuple[int, int]:
    """Read the object after its opening brace; return where it ends and its faults."""
    n_fields = int_at(frame, frm.N_FIELDS)
    faults = 0
    n_seen = 0
    previous = n_fields
    position = skip_space(address, position, end)
    if position < end and byte_at(address, position) == ord("}"):
        return position + 1, _fill_absent(frame)
    while True:
        position = skip_space(address, position, end)
        position, field, fault = _read_member(address, position, end, previous, frame)
        faults |= fault
        if position < 0:
            return position, faults
        if field >= 0:
            n_seen += 1
            previous = field
        position = skip_space(address, position, end)
        if position >= end:
            return MALFORMED, faults
        byte = byte_at(address, position)
        position += 1
        if byte == ord(","):
            continue
        if byte != ord("}"):
            return MALFORMED, faults
        if n_seen < n_fields:
            faults |= _fill_absent(frame)
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
def _read_event(address: int, start: int, end: int, frame: int) -> int:
    """Read one event into the next row; return its faults."""
    if end - start > limits.EVENT_BYTES_MAX:
        return fault_bits.BODY_TOO_LARGE
    first = skip_space(address, start, end)
    if first == end:
        return fault_bits.EMPTY_EVENT
    if _has_mark(address, start, end):
        return fault_bits.BYTE_ORDER_MARK
    put_int(frame, frm.N_KEYS, 0)
    put_int(frame, frm.AT, int_at(frame, frm.N_TEXTS))
    if byte_at(address, first) == ord("{"):
        position, faults = _read_object(address, first + 1, end, frame)
    else:
        position, faults = skip_value(address, first, end, 0, frame)
        faults |= fault_bits.NOT_AN_OBJECT
    if position >= 0 and skip_space(address, position, end) < end:
        position = MALFORMED
    if position < 0:
        return _classify(address, first, end, position)
    if int_at(frame, frm.N_KEYS) > 0 and has_duplicates(frame):
        faults |= fault_bits.DUPLICATE_KEY
    return faults


@native
def decode_events(
    content: npt.NDArray[np.uint8],
    starts: Int64Array,
    ends: Int64Array,
    received_at_ms: Int64Array,
    tables: tbl.Tables,
    columns: frm.Columns,
    scratch: frm.Scratch,
) -> tuple[int, int, int]:
    """Decode events into columns; linear in the bytes.

    Parameters
    ----------
    content : ndarray of uint8, read-only
    starts, ends : ndarray of int64, shape (n_events,)
        Bounds of each event.
    received_at_ms : ndarray of int64, shape (n_events,) or (0,)
    tables : Tables
    columns : Columns
    scratch : Scratch

    Returns
    -------
    n_rows : int
        Events accepted, rows from there on mean nothing; -1 where a bound is outside the content.
    n_texts : int
        Bytes of ``scratch.texts`` that spans refer to.
    n_unresolved : int
        Rows of ``columns.unresolved``.
    """
    n_fields = len(tables.rules)
    # One array, so that what is reached by address lives as long as what is used by name.
    fields = np.zeros(frm.N_FRAME + 2 * n_fields + 1, dtype=np.int64)
    fields[frm.N_FRAME : frm.N_FRAME + n_fields] = -1
    fields[frm.N_FRAME + n_fields : -1] = np.arange(1, n_fields + 1)
    fields[frm.N_CONTENT] = len(content)
    fields[frm.N_EVENTS] = len(starts)
    fields[frm.N_FIELDS] = n_fields
    fields[frm.SLOT_MASK] = len(tables.slots) - 1
    fields[frm.CONTENT] = address_of(content)
    fields[frm.RULES] = address_of(tables.rules)
    fields[frm.NAMES] = address_of(tables.names)
    fields[frm.SLOTS] = address_of(tables.slots)
    fields[frm.LITERALS] = address_of(tables.literals)
    fields[frm.VALUES] = address_of(columns.values)
    fields[frm.PRESENT] = address_of(columns.present)
    fields[frm.SPANS] = address_of(columns.spans)
    fields[frm.UNRESOLVED] = address_of(columns.unresolved)
    fields[frm.TEXTS] = address_of(scratch.texts)
    fields[frm.KEYS] = address_of(scratch.keys)
    fields[frm.OPEN_OBJECTS] = address_of(scratch.open_objects)
    address, frame = address_of(content), address_of(fields)
    fields[frm.MARKS] = frame + 8 * frm.N_FRAME
    fields[frm.FOLLOWING] = frame + 8 * (frm.N_FRAME + n_fields)
    for event in range(len(starts)):
        if not 0 <= starts[event] <= ends[event] <= len(content):
            return -1, 0, 0
        fields[frm.EVENT] = event
        fields[frm.RECEIVED] = received_at_ms[event] if len(received_at_ms) > 0 else frm.NO_TIME
        faults = _read_event(address, starts[event], ends[event], frame)
        columns.faults[event] = faults
        if faults == 0:
            columns.rows[fields[frm.N_ROWS]] = event
            fields[frm.N_ROWS] += 1
            fields[frm.N_TEXTS] = fields[frm.AT]
    return fields[frm.N_ROWS], fields[frm.N_TEXTS], fields[frm.N_UNRESOLVED]
