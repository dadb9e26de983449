"""Two hash tables of integers: where an entity's row is, and which event ids were seen.

Both are open addressing with linear probing, at most half full; 0 marks an empty place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native, native_lean_inline
from sentinel.core.prefetch import prefetch
from sentinel.features.aggregates import mix

Int64Array = npt.NDArray[np.int64]

# A row's place and its entity type share a word: place * 16 + type. Type 15 stays free.
ENTITY_TYPES_MAX = 15
# Event ids are hashes; the one id that would look like an empty place gets another value.
_ID_FOR_ZERO = 0x5E47
_GOLDEN = 0x9E3779B97F4A7C1


@native_lean_inline
def place_of(entity: int, key: int, n_places: int) -> np.int64:
    """Say where the search for an entity begins."""
    return np.int64(mix(key ^ (entity * _GOLDEN)) & np.uint64(n_places - 1))


@native_lean_inline
def call_near(index: Int64Array, entity: int, key: int) -> None:
    """Bring the place near where :func:`find` will begin."""
    prefetch(index, 2 * place_of(entity, key, len(index)))


@native_lean_inline
def call_id_near(ids: Int64Array, event_id: int) -> None:
    """Bring the places near where :func:`is_repeated` will begin."""
    n_places = ids.shape[1]
    at = np.int64(mix(event_id) & np.uint64(n_places - 1))
    prefetch(ids, at)
    prefetch(ids, n_places + at)


@native_lean_inline
def find(index: Int64Array, entity: int, key: int) -> int:
    """Return the place of an entity's row in the arena, or -1; O(1).

    Parameters
    ----------
    index : ndarray of int64, shape (a power of two, 2)
        Key, and ``place * 16 + type``.
    """
    n_places = len(index)
    at = place_of(entity, key, n_places)
    while index[at, 1] != 0:
        if index[at, 0] == key and index[at, 1] & 15 == entity:
            row: int = index[at, 1] >> 4
            return row
        at = (at + 1) & (n_places - 1)
    return -1


@native_lean_inline
def insert(index: Int64Array, entity: int, key: int, row: int) -> None:
    """Add an entity that is not there; the caller has made room."""
    n_places = len(index)
    at = place_of(entity, key, n_places)
    while index[at, 1] != 0:
        at = (at + 1) & (n_places - 1)
    index[at, 0] = key
    index[at, 1] = row * 16 + entity


@native_lean_inline
def remove(index: Int64Array, entity: int, key: int) -> None:
    """Take out an entity that is there; those behind it move up, so no mark is left."""
    last = len(index) - 1
    hole = place_of(entity, key, len(index))
    while not (index[hole, 0] == key and index[hole, 1] & 15 == entity):
        hole = (hole + 1) & last
    at = (hole + 1) & last
    while index[at, 1] != 0:
        home = place_of(index[at, 1] & 15, index[at, 0], len(index))
        if (at - home) & last >= (at - hole) & last:
            index[hole, 0] = index[at, 0]
            index[hole, 1] = index[at, 1]
            hole = at
        at = (at + 1) & last
    index[hole, 0] = 0
    index[hole, 1] = 0


@native
def rehash(index: Int64Array, larger: Int64Array) -> None:
    """Carry every entity into a larger, empty index."""
    for at in range(len(index)):
        if index[at, 1] != 0:
            insert(larger, index[at, 1] & 15, index[at, 0], index[at, 1] >> 4)


@native_lean_inline
def _holds(ids: Int64Array, generation: int, event_id: int) -> bool:
    n_places = ids.shape[1]
    at = np.int64(mix(event_id) & np.uint64(n_places - 1))
    while ids[generation, at] != 0:
        if ids[generation, at] == event_id:
            return True
        at = (at + 1) & (n_places - 1)
    return False


@native_lean_inline
def _add(ids: Int64Array, generation: int, event_id: int) -> None:
    n_places = ids.shape[1]
    at = np.int64(mix(event_id) & np.uint64(n_places - 1))
    while ids[generation, at] != 0:
        at = (at + 1) & (n_places - 1)
    ids[generation, at] = event_id


@native_lean_inline
def is_repeated(ids: Int64Array, window: Int64Array, event_id: int) -> bool:
    """Whether an event id was seen before, and remember it; O(1).

    Two generations: ids go to the current one; when it is full it becomes the previous one,
    which is forgotten. So the last ``window[2]`` distinct ids are always remembered, at most
    twice as many.

    Parameters
    ----------
    ids : ndarray of int64, shape (2, a power of two)
    window : ndarray of int64, shape (3,)
        Current generation, ids in it, ids that make it full.
    """
    if event_id == 0:
        event_id = _ID_FOR_ZERO
    current = window[0]
    if _holds(ids, current, event_id) or _holds(ids, 1 - current, event_id):
        return True
    if window[1] == window[2]:
        current = 1 - current
        window[0] = current
        window[1] = 0
        for at in range(ids.shape[1]):
            ids[current, at] = 0
    _add(ids, current, event_id)
    window[1] += 1
    return False


@native
def mark_repeated(
    ids: Int64Array, window: Int64Array, event_ids: Int64Array, repeated: npt.NDArray[np.bool_]
) -> None:
    """Mark the ids that were seen before, the first of each excepted; the caller made room."""
    for i in range(len(event_ids)):
        repeated[i] = is_repeated(ids, window, event_ids[i])


@native
def rehash_ids(ids: Int64Array, larger: Int64Array) -> None:
    """Carry both generations into larger, empty ones."""
    for generation in range(2):
        for at in range(ids.shape[1]):
            if ids[generation, at] != 0:
                _add(larger, generation, ids[generation, at])
