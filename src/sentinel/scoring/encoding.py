"""Decisions as JSON lines: strict, one line a decision, the same bytes every time.

``{"event_id":"…","score":0.125,"outcome":"approve","served_by":"champion","reason":"ok",
"feature_hash":"0123456789abcdef"}``

A held decision has ``"score":null``. A score is a float32 number and is written with at most nine
significant digits, which read back as float32 are the same number (IEEE 754-2019, 5.12.2); no
spelling of NaN or infinity can be written, because digits are all the writer has. The event id is
escaped as RFC 8259 asks, so an id cannot end its line. Duplicates are no decisions: no line.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.native import frozen, native, native_inline
from sentinel.scoring.decision import DecisionBatch, Outcome, Reason, ServedBy, code_names

Bytes = npt.NDArray[np.uint8]

_HELD = int(Outcome.HELD)
_QUOTE, _BACKSLASH, _SPACE, _ZERO, _U = (ord(c) for c in '"\\ 0u')
_POINT, _MINUS, _E = (ord(c) for c in ".-e")
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_N_DIGITS = 9
_EXPONENT_FIXED_MIN = -5  # 0.00001…: smaller numbers are written as 1.5e-06


def _table(texts: list[str]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Put texts one after another, with where each starts and the last one ends."""
    parts = [text.encode() for text in texts]
    offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
    return np.frombuffer(b"".join(parts), dtype=np.uint8), offsets


# Every piece of a line that is not the id, the number or the hash, in one table.
_PIECES = [
    '{"event_id":"',
    '","score":',
    "null",
    *(f',"outcome":"{name}","served_by":"' for name in code_names(Outcome)),
    *(f'{name}","reason":"' for name in code_names(ServedBy)),
    *(f'{name}","feature_hash":"' for name in code_names(Reason)),
    '"}\n',
]
_OUTCOMES_AT = 3
_SERVED_AT = _OUTCOMES_AT + len(Outcome)
_REASONS_AT = _SERVED_AT + len(ServedBy)
_END_AT = _REASONS_AT + len(Reason)
# Arguments of the kernel and not constants in it: they follow enumerations of another file.
_TEXT, _OFFSETS = _table(_PIECES)
_PLACES = np.array([_OUTCOMES_AT, _SERVED_AT, _REASONS_AT, _END_AT], dtype=np.int64)
_NUMBER_BYTES_MAX = 16
_HASH_BYTES = 16
_FIXED_BYTES_MAX = sum(
    max(len(piece) for piece in group)
    for group in (
        _PIECES[0:1],
        _PIECES[1:2],
        _PIECES[_OUTCOMES_AT:_SERVED_AT],
        _PIECES[_SERVED_AT:_REASONS_AT],
        _PIECES[_REASONS_AT:_END_AT],
        _PIECES[_END_AT:],
    )
)
_LINE_BYTES_MAX = _FIXED_BYTES_MAX + _NUMBER_BYTES_MAX + _HASH_BYTES
_ESCAPED_BYTES_MAX = 6  # \u001f
_LENGTH = np.array([-1, 1], dtype=np.int64)
_POWERS = np.array([10.0**k for k in range(60)], dtype=np.float64)


def encode(decisions: DecisionBatch, *, event_id: str) -> bytes:
    """Write decisions as JSON lines; linear, about 0.2 us a decision.

    Parameters
    ----------
    decisions : DecisionBatch
    event_id : str
        The field that holds the event id.

    Returns
    -------
    bytes
        UTF-8, one line for every row that is decided or held, in the order of the batch.
    """
    batch = decisions.events
    spans = batch.text_spans[batch.text_fields.index(event_id)]
    n_id_bytes = int(spans[0, 1] - spans[0, 0] if len(spans) == 1 else (spans @ _LENGTH).sum())
    room = decisions.n_rows * _LINE_BYTES_MAX + n_id_bytes * _ESCAPED_BYTES_MAX
    buffer = np.empty(room, dtype=np.uint8)
    n_bytes = _write_lines(
        buffer,
        _TEXT,
        _OFFSETS,
        _PLACES,
        frozen(batch.text_content),
        frozen(spans),
        decisions.is_decided,
        decisions.score,
        decisions.outcome == _HELD,
        decisions.outcome,
        decisions.served_by,
        decisions.reason,
        decisions.feature_hash,
    )
    return buffer[:n_bytes].tobytes()


@native_inline
def _copy(buffer: Bytes, at: int, content: Bytes, start: int, end: int) -> int:
    for i in range(start, end):
        buffer[at] = content[i]
        at += 1
    return at


@native_inline
def _piece(buffer: Bytes, at: int, text: Bytes, offsets: npt.NDArray[np.int64], number: int) -> int:
    return _copy(buffer, at, text, offsets[number], offsets[number + 1])


@native_inline
def _escaped(buffer: Bytes, at: int, content: Bytes, start: int, end: int) -> int:
    for i in range(start, end):
        byte = content[i]
        if byte in (_QUOTE, _BACKSLASH):
            buffer[at] = _BACKSLASH
            buffer[at + 1] = byte
            at += 2
        elif byte < _SPACE:
            buffer[at] = _BACKSLASH
            buffer[at + 1] = _U
            buffer[at + 2] = _ZERO
            buffer[at + 3] = _ZERO
            buffer[at + 4] = _HEX[byte >> 4]
            buffer[at + 5] = _HEX[byte & 15]
            at += 6
        else:
            buffer[at] = byte
            at += 1
    return at


@native
def write_number(buffer: Bytes, at: int, value: float) -> int:
    """Write a float32 number in [0, 1] with at most nine significant digits.

    Parameters
    ----------
    buffer : ndarray of uint8
        With at least 16 bytes of room from ``at``.
    at : int
    value : float
        A float32 number, 0 or from 2^-126 to 1; anything else is written as 0 or 1.

    Returns
    -------
    int
        Where the number ends.
    """
    if not value > 0.0 or value >= 1.0:
        buffer[at] = _ZERO + 1 if value >= 1.0 else _ZERO
        buffer[at + 1] = _POINT
        buffer[at + 2] = _ZERO
        return at + 3
    exponent = -1
    while value * _POWERS[-exponent] < 1.0:
        exponent -= 1
    # Nine digits: an error of one unit in the last of 53 bits cannot reach the ninth digit of a
    # number with 24 bits.
    digits = np.int64(np.rint(value * _POWERS[_N_DIGITS - 1 - exponent]))
    if digits >= np.int64(10**_N_DIGITS):
        digits = np.int64(10 ** (_N_DIGITS - 1))
        exponent += 1
    n_digits = _N_DIGITS
    while n_digits > 1 and digits % 10 == 0:
        digits //= 10
        n_digits -= 1
    if exponent >= 0:
        buffer[at] = _ZERO + 1
        buffer[at + 1] = _POINT
        buffer[at + 2] = _ZERO
        return at + 3
    if exponent >= _EXPONENT_FIXED_MIN:
        buffer[at] = _ZERO
        buffer[at + 1] = _POINT
        at += 2
        for _ in range(-exponent - 1):
            buffer[at] = _ZERO
            at += 1
        for i in range(n_digits - 1, -1, -1):
            buffer[at + i] = _ZERO + digits % 10
            digits //= 10
        return at + n_digits
    for i in range(n_digits - 1, 0, -1):
        buffer[at + 1 + i] = _ZERO + digits % 10
        digits //= 10
    buffer[at] = _ZERO + digits
    if n_digits > 1:
        buffer[at + 1] = _POINT
        at += n_digits + 1
    else:
        at += 1
    buffer[at] = _E
    buffer[at + 1] = _MINUS
    buffer[at + 2] = _ZERO + (-exponent) // 10
    buffer[at + 3] = _ZERO + (-exponent) % 10
    return at + 4


@native
def _write_lines(  # noqa: PLR0913, PLR0917 -- a kernel takes columns
    buffer: Bytes,
    text: Bytes,
    offsets: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    content: Bytes,
    spans: npt.NDArray[np.int64],
    is_decided: npt.NDArray[np.bool_],
    score: npt.NDArray[np.float64],
    is_held: npt.NDArray[np.bool_],
    outcome: npt.NDArray[np.uint8],
    served_by: npt.NDArray[np.uint8],
    reason: npt.NDArray[np.uint8],
    feature_hash: npt.NDArray[np.uint64],
) -> int:
    at = 0
    for row in range(len(score)):
        if not is_decided[row]:
            continue
        at = _piece(buffer, at, text, offsets, 0)
        at = _escaped(buffer, at, content, spans[row, 0], spans[row, 1])
        at = _piece(buffer, at, text, offsets, 1)
        if is_held[row]:
            at = _piece(buffer, at, text, offsets, 2)
        else:
            at = write_number(buffer, at, score[row])
        at = _piece(buffer, at, text, offsets, places[0] + outcome[row])
        at = _piece(buffer, at, text, offsets, places[1] + served_by[row])
        at = _piece(buffer, at, text, offsets, places[2] + reason[row])
        for i in range(_HASH_BYTES):
            shift = np.uint64(4 * (_HASH_BYTES - 1 - i))
            buffer[at + i] = _HEX[(feature_hash[row] >> shift) & np.uint64(15)]
        at = _piece(buffer, at + _HASH_BYTES, text, offsets, places[3])
    return at
