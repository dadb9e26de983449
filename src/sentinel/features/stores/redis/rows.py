"""Rows and ids moved in and out of an engine, and taken back exactly where a commit is refused.

Both hash tables probe linearly and only ever fill empty places. So what was added last can be
taken out again, last first, by emptying its place: the table is then as it was.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native, native_inline
from sentinel.features.aggregates import mix
from sentinel.features.index import find, insert, place_of

Int64Array = npt.NDArray[np.int64]

# As in sentinel.features.index: the one id that would look like an empty place.
_ID_FOR_ZERO = 0x5E47


@native
def places_of(index: Int64Array, entity: int, keys: Int64Array) -> Int64Array:
    """Return where the rows of keys are in the arena; -1 for a key without a row."""
    places = np.empty(len(keys), dtype=np.int64)
    for i in range(len(keys)):
        places[i] = find(index, entity, keys[i])
    return places


@native
def copy_rows(arena: Int64Array, places: Int64Array, n_words: int) -> Int64Array:
    """Copy rows of one entity type out of the arena; shape (n_rows, n_words)."""
    rows = np.empty((len(places), n_words), dtype=np.int64)
    for r in range(len(places)):
        for i in range(n_words):
            rows[r, i] = arena[places[r] + i]
    return rows


@native
def put_rows(arena: Int64Array, places: Int64Array, rows: Int64Array) -> None:
    """Copy rows into the arena."""
    for r in range(len(places)):
        for i in range(rows.shape[1]):
            arena[places[r] + i] = rows[r, i]


@native
def index_rows(index: Int64Array, entity: int, rows: Int64Array, first: int) -> None:
    """Enter rows that lie one after the other from ``first`` on; none is there yet."""
    for r in range(len(rows)):
        insert(index, entity, rows[r, 0], first + r * rows.shape[1])


@native
def forget_rows(
    index: Int64Array, arena: Int64Array, entities_words: Int64Array, first: int, end: int
) -> None:
    """Take out the rows from ``first`` to ``end``: those made last; the arena is zero there."""
    n = 0
    at = first
    while at < end:
        n += 1
        at += entities_words[arena[at + 1]]
    places = np.empty(n, dtype=np.int64)
    at = first
    for r in range(n):
        places[r] = at
        at += entities_words[arena[at + 1]]
    for r in range(n - 1, -1, -1):
        row = places[r]
        key, entity = arena[row], arena[row + 1]
        place = place_of(entity, key, len(index))
        while not (index[place, 0] == key and index[place, 1] == row * 16 + entity):
            place = (place + 1) & (len(index) - 1)
        index[place, 0] = 0
        index[place, 1] = 0
    for i in range(first, end):
        arena[i] = 0


@native_inline
def _known(event_id: int) -> int:
    """Give the one id that would look like an empty place its other value."""
    return event_id if event_id != 0 else _ID_FOR_ZERO


@native
def remember_ids(ids: Int64Array, generation: int, event_ids: Int64Array) -> None:
    """Add ids, none of which is there; the caller has made room."""
    n_places = ids.shape[1]
    for event_id in event_ids:
        known = _known(event_id)
        at = np.int64(mix(known) & np.uint64(n_places - 1))
        while ids[generation, at] != 0:
            at = (at + 1) & (n_places - 1)
        ids[generation, at] = known


@native
def forget_ids(ids: Int64Array, generation: int, event_ids: Int64Array) -> None:
    """Take out the ids that were added last, given in the order in which they were added."""
    n_places = ids.shape[1]
    for i in range(len(event_ids) - 1, -1, -1):
        known = _known(event_ids[i])
        at = np.int64(mix(known) & np.uint64(n_places - 1))
        while ids[generation, at] != known:
            at = (at + 1) & (n_places - 1)
        ids[generation, at] = 0
