"""The tile ring of one window of one entity: move in time, apply a value, fold for a late read.

A window W of N tiles has hop h = W/N. In an entity's row it is

    start   first millisecond of the newest tile, a multiple of h; ``NEVER`` before the first event
    newest  place of the newest tile in the ring
    filled  bit p is set where ring place p holds anything
    total   partial results of all living tiles together: what an event on time reads, O(1)

and, behind the headers and totals of all windows of the entity, the ring: N blocks of partial
results. So one or two cache lines hold all that is read.

At event time t with c = ⌊t/h⌋ and the newest tile n:

1. c > n: the ring moves on; each tile older than c-N+1 leaves the total, by subtraction where that
   is exact, else the total is folded anew, oldest tile first;
2. c = n: the read is the total;
3. n-N < c < n, a late event: its read folds the living tiles up to c; it is applied to tile c;
4. c ≤ n-N, too late: nothing covers it; it is not applied.

The whole history of an entity (no window) is a total without a ring: nothing leaves it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native_lean_inline
from sentinel.features.aggregates import (
    DISTINCT,
    LAST,
    is_later,
    merge,
    subtract,
    update,
)
from sentinel.features.layout import (
    HEADER_WORDS,
    NEVER,
    P_AT,
    P_COLUMN,
    P_COLUMN_2,
    P_FLOAT,
    P_OPCODE,
    P_WHERE,
    P_WORDS,
    W_AT,
    W_BLOCK,
    W_EMPTY,
    W_END,
    W_FIRST,
    W_HOP,
    W_LINEAR,
    W_RING,
    W_SCRATCH,
    W_TILES,
    Feed,
    State,
)

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]


@native_lean_inline
def copy_block(arena: Int64Array, at: int, other: int, n_words: int) -> None:
    """Copy words within the arena."""
    for i in range(n_words):
        arena[at + i] = arena[other + i]


@native_lean_inline
def merge_block(
    window: Int64Array,
    partials: Int64Array,
    arena: Int64Array,
    reals: Float64Array,
    at: int,
    other: int,
) -> None:
    """Merge the block at ``other`` into the block at ``at``."""
    for p in range(window[W_FIRST], window[W_END]):
        offset = partials[p, P_AT]
        merge(partials[p, P_OPCODE], arena, reals, at + offset, other + offset)


@native_lean_inline
def _leave(
    window: Int64Array, partials: Int64Array, arena: Int64Array, total: int, tile: int
) -> None:
    """Take a tile out of the total where that is exact, and empty it."""
    for p in range(window[W_FIRST], window[W_END]):
        if partials[p, P_OPCODE] <= 2:
            offset = partials[p, P_AT]
            subtract(partials[p, P_OPCODE], arena, total + offset, tile + offset)
    copy_block(arena, tile, window[W_EMPTY], window[W_BLOCK])


@native_lean_inline
def _fold_rest(
    window: Int64Array, partials: Int64Array, arena: Int64Array, reals: Float64Array, at: int
) -> None:
    """Fold anew, oldest tile first, the totals that a tile cannot be taken out of."""
    n_tiles = window[W_TILES]
    total = at + HEADER_WORDS
    newest = arena[at + 1]
    filled = arena[at + 2]
    for p in range(window[W_FIRST], window[W_END]):
        opcode = partials[p, P_OPCODE]
        if opcode <= 2:
            continue
        offset = partials[p, P_AT]
        copy_block(arena, total + offset, window[W_EMPTY] + offset, partials[p, P_WORDS])
        for back in range(n_tiles - 1, -1, -1):
            place = newest - back
            if place < 0:
                place += n_tiles
            if (filled >> place) & 1:
                tile = at + window[W_RING] + place * window[W_BLOCK]
                merge(opcode, arena, reals, total + offset, tile + offset)


@native_lean_inline
def _move_on(
    window: Int64Array,
    partials: Int64Array,
    arena: Int64Array,
    reals: Float64Array,
    at: int,
    n_steps: int,
) -> None:
    """Move the ring by tiles, emptying those that leave the window."""
    n_tiles = window[W_TILES]
    n_words = window[W_BLOCK]
    total = at + HEADER_WORDS
    ring = at + window[W_RING]
    filled = arena[at + 2]
    if n_steps >= n_tiles:
        if filled != 0:
            for place in range(n_tiles):
                if (filled >> place) & 1:
                    copy_block(arena, ring + place * n_words, window[W_EMPTY], n_words)
            copy_block(arena, total, window[W_EMPTY], n_words)
        arena[at + 1] = 0
        arena[at + 2] = 0
        return
    newest = arena[at + 1]
    has_left = False
    for _ in range(n_steps):
        newest += 1
        if newest == n_tiles:
            newest = 0
        if (filled >> newest) & 1:
            has_left = True
            filled &= ~(1 << newest)
            _leave(window, partials, arena, total, ring + newest * n_words)
    arena[at + 1] = newest
    arena[at + 2] = filled
    if has_left and window[W_LINEAR] == 0:
        _fold_rest(window, partials, arena, reals, at)


@native_lean_inline
def _fold_late(
    window: Int64Array,
    partials: Int64Array,
    arena: Int64Array,
    reals: Float64Array,
    at: int,
    n_back: int,
) -> int:
    """Fold the living tiles up to ``n_back`` tiles before the newest into the scratch block."""
    n_tiles = window[W_TILES]
    scratch: int = window[W_SCRATCH]
    copy_block(arena, scratch, window[W_EMPTY], window[W_BLOCK])
    for back in range(n_tiles - 1, n_back - 1, -1):
        place = arena[at + 1] - back
        if place < 0:
            place += n_tiles
        if (arena[at + 2] >> place) & 1:
            tile = at + window[W_RING] + place * window[W_BLOCK]
            merge_block(window, partials, arena, reals, scratch, tile)
    return scratch


@native_lean_inline
def tiles_back(start: int, time: int, hop: int) -> int:
    """How many tiles before the one that begins at ``start`` a time lies; 0 or less: none."""
    return (start - time + hop - 1) // hop


@native_lean_inline
def read_at(
    window: Int64Array,
    partials: Int64Array,
    arena: Int64Array,
    reals: Float64Array,
    row: int,
    time: int,
) -> int:
    """Move the window to ``time`` and return where in the arena its block as of then is."""
    at: int = row + window[W_AT]
    hop = window[W_HOP]
    if hop == 0:
        return at
    start = arena[at]
    if time >= start:
        if start == NEVER:
            arena[at] = time - time % hop
        elif time - start >= hop:
            n_steps = (time - start) // hop
            arena[at] = start + n_steps * hop
            _move_on(window, partials, arena, reals, at, n_steps)
        return at + HEADER_WORDS
    n_back = tiles_back(start, time, hop)
    return _fold_late(window, partials, arena, reals, at, n_back)


@native_lean_inline
def _tile_of(window: Int64Array, arena: Int64Array, at: int, time: int) -> int:
    """Find the tile of a time, marked as filled; -1 where it no longer lives."""
    place = arena[at + 1]
    if time < arena[at]:
        n_back = tiles_back(arena[at], time, window[W_HOP])
        if n_back >= window[W_TILES]:
            return -1
        place -= n_back
        if place < 0:
            place += window[W_TILES]
    arena[at + 2] |= 1 << place
    tile: int = at + window[W_RING] + place * window[W_BLOCK]
    return tile


@native_lean_inline
def _is_finite(real: float) -> bool:
    return real - real == 0.0


@native_lean_inline
def _update_last(partial: Int64Array, state: State, at: int, feed: Feed, i: int, tie: int) -> None:
    """Keep a value, or a position, if it comes after the one that is kept."""
    arena = state.arena
    if not is_later(arena, at, feed.times[i], tie):
        return
    arena[at] = feed.times[i]
    arena[at + 1] = tie
    if partial[P_OPCODE] == LAST:
        arena[at + 2] = feed.values[partial[P_COLUMN], i]
    else:
        state.reals[at + 2] = feed.reals[partial[P_COLUMN], i]
        state.reals[at + 3] = feed.reals[partial[P_COLUMN_2], i]


@native_lean_inline
def _is_usable(partial: Int64Array, feed: Feed, i: int) -> int:
    """1: to be applied; 0: null, or its condition does not hold; -1: not finite."""
    where = partial[P_WHERE]
    if where >= 0 and not (feed.present[where, i] and feed.values[where, i] != 0):
        return 0
    column = partial[P_COLUMN]
    if column < 0:
        return 1
    if not feed.present[column, i]:
        return 0
    column_2 = partial[P_COLUMN_2]
    if column_2 >= 0 and not feed.present[column_2, i]:
        return 0
    if partial[P_FLOAT] == 0:
        return 1
    is_finite = _is_finite(feed.reals[column, i])
    if column_2 >= 0:
        is_finite = is_finite and _is_finite(feed.reals[column_2, i])
    return 1 if is_finite else -1


@native_lean_inline
def apply_to(
    window: Int64Array, partials: Int64Array, state: State, row: int, feed: Feed, i: int, tie: int
) -> int:
    """Apply event ``i`` of a batch to a window that was moved to its time.

    Returns
    -------
    int
        -1 where the event's tile no longer lives; else how many values were not finite.
    """
    arena, reals = state.arena, state.reals
    at = row + window[W_AT]
    total = at
    tile = -1
    if window[W_HOP] != 0:
        total = at + HEADER_WORDS
        tile = _tile_of(window, arena, at, feed.times[i])
        if tile < 0:
            return -1
    n_skipped = 0
    for p in range(window[W_FIRST], window[W_END]):
        partial = partials[p]
        usable = _is_usable(partial, feed, i)
        if usable != 1:
            n_skipped -= usable
            continue
        opcode = partial[P_OPCODE]
        offset = partial[P_AT]
        if opcode > DISTINCT:
            _update_last(partial, state, total + offset, feed, i, tie)
            if tile >= 0:
                _update_last(partial, state, tile + offset, feed, i, tie)
            continue
        value = feed.times[i]
        real = 0.0
        if partial[P_COLUMN] >= 0:
            value = feed.values[partial[P_COLUMN], i]
            real = feed.reals[partial[P_COLUMN], i] + 0.0
        update(opcode, arena, reals, total + offset, value, real)
        if tile >= 0:
            update(opcode, arena, reals, tile + offset, value, real)
    return n_skipped
