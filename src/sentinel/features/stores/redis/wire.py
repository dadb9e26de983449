"""Rows on the wire of Redis, in native code: the request for them, and the reply to it.

The protocol is RESP 2 (redis.io, "Redis serialization protocol"): a request is an array of texts
with their lengths, the reply to ``MGET`` an array of texts or of ``$-1``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native, native_lean, native_lean_inline
from sentinel.core.siphash import siphash_at
from sentinel.core.words import address_of, word_at
from sentinel.features.kernel import _empty_row, _read
from sentinel.features.layout import E_SPAN, LIFE_SLICES, NEVER, Feed, State, Tables, Vectors, Work
from sentinel.features.stores.redis.seal import sealed_type

Bytes = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_CR, _LF, _STAR, _DOLLAR, _MINUS, _ZERO, _NINE = (ord(c) for c in "\r\n*$-09")

# What a reply is.
MORE = 0
WHOLE = 1
STRANGE = 2


@native
def hash_texts_in(content: Bytes, keys: Int64Array) -> bool:
    """Hash texts that stand in ``content`` with one zero byte between; False for another count."""
    address = address_of(content)
    n, start = 0, 0
    for at in range(len(content) + 1):
        if at == len(content) or content[at] == 0:
            if n == len(keys):
                return False
            keys[n] = np.int64(siphash_at(address, start, at))
            n += 1
            start = at + 1
    return n == len(keys)


@native
def ask_for(item: Bytes, entity: int, keys: Int64Array) -> Bytes:
    """Write the names of rows: ``item`` (length and prefix), type, key, end of line each."""
    n_item = len(item)
    n_bytes = n_item + 11
    request = np.empty(n_bytes * len(keys), dtype=np.uint8)
    for i in range(len(keys)):
        at = i * n_bytes
        for b in range(n_item):
            request[at + b] = item[b]
        at += n_item
        request[at] = entity
        key = np.uint64(keys[i])
        for b in range(8):
            request[at + 1 + b] = np.uint8((key >> np.uint64(8 * b)) & np.uint64(0xFF))
        request[at + 9] = _CR
        request[at + 10] = _LF
    return request


@native
def set_rows(start: Bytes, middle: Bytes, end: Bytes, keys: Int64Array, rows: Int64Array) -> Bytes:
    """Write a command for each row: ``start``, key, ``middle``, row, ``end``."""
    n_words = rows.shape[1]
    n_bytes = len(start) + 8 + len(middle) + 8 * n_words + len(end)
    request = np.empty(n_bytes * len(keys), dtype=np.uint8)
    for i in range(len(keys)):
        at = i * n_bytes
        request[at : at + len(start)] = start
        at += len(start)
        key = np.uint64(keys[i])
        for b in range(8):
            request[at + b] = np.uint8((key >> np.uint64(8 * b)) & np.uint64(0xFF))
        at += 8
        request[at : at + len(middle)] = middle
        at += len(middle)
        for w in range(n_words):
            word = np.uint64(rows[i, w])
            for b in range(8):
                request[at + b] = np.uint8((word >> np.uint64(8 * b)) & np.uint64(0xFF))
            at += 8
        request[at : at + len(end)] = end
    return request


class Where(NamedTuple):
    """Where rows of one entity type lie in the arena: one after the other from ``first`` on."""

    first: int
    n_words: int
    entity: int


class Found(NamedTuple):
    """What was found of each key.

    ``is_known`` says whether there is a row; ``ages`` how long before the event the newest tile of
    any of the windows began that stand at ``marks`` in a row, -1 where there is none.
    """

    is_known: BoolArray
    ages: Int64Array
    marks: Int64Array


@native_lean_inline
def _end_of_line(reply: Bytes, at: int, end: int) -> int:
    """Return where the next line begins; beyond ``end`` where it has not come."""
    while at < end and reply[at] != _CR:
        at += 1
    return at + 2


@native_lean_inline
def _number(reply: Bytes, at: int, next_line: int) -> int:
    """Read the number of a line behind its first byte; -1 for -1, -2 for none."""
    if reply[at + 1] == _MINUS:
        return -1
    number = np.int64(0)
    for b in range(at + 1, next_line - 2):
        if reply[b] < _ZERO or reply[b] > _NINE:
            return -2
        number = number * 10 + (reply[b] - _ZERO)
    return int(number)


@native_lean
def take_rows(
    reply: Bytes, end: int, arena: Int64Array, where: Where, keys: Int64Array, is_known: BoolArray
) -> int:
    """Copy the rows of a reply into the arena, one for each key.

    Parameters
    ----------
    reply : ndarray of uint8
    end : int
        Bytes of it that have come.
    arena : ndarray of int64
    where : Where
    keys : ndarray of int64
    is_known : ndarray of bool
        Filled: whether there is a row.

    Returns
    -------
    int
        ``MORE`` where bytes are missing; ``STRANGE`` for anything but rows of these keys.
    """
    address = address_of(reply)
    if reply[0] != _STAR:
        return STRANGE
    at = _end_of_line(reply, 1, end)
    if at > end:
        return MORE
    if _number(reply, 0, at) != len(keys):
        return STRANGE
    for i in range(len(keys)):
        content = _end_of_line(reply, at, end)
        if content > end:
            return MORE
        number = _number(reply, at, content)
        if reply[at] != _DOLLAR or (number != -1 and number != 8 * where.n_words):
            return STRANGE
        is_known[i] = number >= 0
        at = content
        if number < 0:
            continue
        if at + number + 2 > end:
            return MORE
        place = where.first + i * where.n_words
        for w in range(where.n_words):
            arena[place + w] = np.int64(word_at(address, at + 8 * w))
        seal = sealed_type(arena, place, where.n_words, where.entity)
        if arena[place] != keys[i] or arena[place + 1] != seal:
            return STRANGE
        arena[place + 1] = where.entity
        at += number + 2
    return WHOLE if at == end else STRANGE


@native_lean
def read_places(
    tables: Tables, state: State, events: Feed, out: Vectors, work: Work, where: Where, found: Found
) -> None:
    """Read the features of rows as of the events' times, and note each one's newest tile.

    A key without a row is read as an entity that was never seen, and so is one that is forgotten.
    """
    arena = state.arena
    span = tables.entities[where.entity, E_SPAN]
    for i in range(len(events.times)):
        row = where.first + i * where.n_words
        latest = NEVER
        is_empty = not found.is_known[i]
        if not is_empty:
            for mark in found.marks:
                latest = max(latest, arena[row + mark])
            age = events.times[i] // span - (arena[row + 2] >> 1) if span != 0 else 0
            is_empty = age > LIFE_SLICES
        found.ages[i] = events.times[i] - latest if latest != NEVER else -1
        if is_empty:
            arena[row + 2] = 0
            _empty_row(tables, arena, where.entity, row)
        for other in range(len(tables.entities)):
            out.rows[i, other] = -1
        out.rows[i, where.entity] = row
        _read(tables, state, events, out, work, i)
