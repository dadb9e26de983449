"""Rows of entities in their canonical form: by key, rings from their newest tile on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native
from sentinel.features.index import find, insert
from sentinel.features.layout import (
    E_END_WINDOW,
    E_FIRST_WINDOW,
    E_WORDS,
    R_ARENA,
    W_AT,
    W_BLOCK,
    W_HOP,
    W_RING,
    W_TILES,
    State,
    Tables,
)
from sentinel.features.living import is_living

Int64Array = npt.NDArray[np.int64]


@native
def _row_places(tables: Tables, state: State, first: int, end: int, entity: int) -> Int64Array:
    """Find the living rows of one entity type; rows follow each other without a gap."""
    arena = state.arena
    places = np.empty(max(end - first, 1), dtype=np.int64)
    n = 0
    at = first
    while at < end:
        if arena[at + 1] == entity and is_living(tables, state.registers, entity, arena[at + 2]):
            places[n] = at
            n += 1
        at += tables.entities[arena[at + 1] & 15, E_WORDS]
    return places[:n].copy()


@native
def count_new(tables: Tables, state: State, entity: int, keys: Int64Array) -> int:
    """Count keys that no entity lives by."""
    n = 0
    for key in keys:
        row = find(state.places, entity, key)
        n += row < 0 or not is_living(tables, state.registers, entity, state.arena[row + 2])
    return n


@native
def _turn_rings(tables: Tables, arena: Int64Array, places: Int64Array, entity: int) -> Int64Array:
    """Copy rows out, each ring turned so that its newest tile comes first."""
    n_words = tables.entities[entity, E_WORDS]
    rows = np.empty((len(places), n_words), dtype=np.int64)
    for r in range(len(places)):
        row = places[r]
        for i in range(n_words):
            rows[r, i] = arena[row + i]
        for w in range(
            tables.entities[entity, E_FIRST_WINDOW], tables.entities[entity, E_END_WINDOW]
        ):
            window = tables.windows[w]
            if window[W_HOP] == 0:
                continue
            at = window[W_AT]
            ring = at + window[W_RING]
            n_block = window[W_BLOCK]
            newest = arena[row + at + 1]
            filled = np.int64(0)
            for back in range(window[W_TILES]):
                place = newest - back
                if place < 0:
                    place += window[W_TILES]
                filled |= ((arena[row + at + 2] >> place) & 1) << back
                tile = ring + place * n_block
                turned = ring + back * n_block
                for i in range(n_block):
                    rows[r, turned + i] = arena[row + tile + i]
            rows[r, at + 1] = 0
            rows[r, at + 2] = filled
    return rows


def canonical_rows(tables: Tables, state: State, entity: int) -> Int64Array:
    """Return all living rows of an entity type, sorted by key.

    Returns
    -------
    ndarray of int64, shape (n_rows, n_words)
        Key, type, when it was seen, and the windows; linear in the whole state.
    """
    # The head of the arena ends where the first row may begin.
    first = int(tables.columns[3])
    end = int(state.registers[R_ARENA])
    places = _row_places(tables, state, first, end, entity)
    rows = _turn_rings(tables, state.arena, places, entity)
    return rows[np.argsort(rows[:, 0], kind="stable")]


@native
def index_rows(index: Int64Array, entity: int, rows: Int64Array, first: int) -> None:
    """Enter rows that lie one after the other from ``first`` on; none is there yet."""
    for r in range(len(rows)):
        insert(index, entity, rows[r, 0], first + r * rows.shape[1])
