"""The one kernel that reads and advances feature state, live and in replay.

For each event, in order of arrival:

1. an id that was seen before is marked a duplicate and changes nothing;
2. feedback known by the running maximum of event time is applied, in order of known-at;
3. its entities are seen: what was idle for too long begins anew (:mod:`sentinel.features.living`);
4. the entities' windows are moved to the event time and the feature vector is read;
5. then, and only then, the event is applied to the windows of each of its entities.

The kernel is driven by tables, so one compiled function works for every feature set. It never
allocates: it stops before the first event for which a table might be too small, says which, and
is called again. Step 1 and the look-up of rows run ahead by a block of events, so that the
memory accesses of a block overlap; no result depends on where a block or a batch ends.

State (all int64)
-----------------
``arena``: a scratch block and an empty block for each window, then rows, one a (type, key):
key, type, when it was seen, and the windows of that type (:mod:`sentinel.features.tiles`). One row
is one contiguous piece. ``index`` and ``ids`` are in :mod:`sentinel.features.index`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native_lean, native_lean_inline
from sentinel.core.prefetch import prefetch
from sentinel.features.aggregates import INT64_MAX, INT64_MIN
from sentinel.features.index import call_id_near, call_near, find, insert, is_repeated
from sentinel.features.layout import (
    CACHE_LINE_WORDS,
    E_END_WINDOW,
    E_FEEDBACK_KEY,
    E_FIRST_WINDOW,
    E_FRONT,
    E_KEY,
    E_WORDS,
    F_DEFAULT,
    F_OPCODE,
    HEADER_WORDS,
    NEVER,
    R_ARENA,
    R_COUNT,
    R_DUPLICATES,
    R_ENTITIES,
    R_EVENTS,
    R_FEEDBACK,
    R_FEEDBACK_LATE,
    R_FEEDBACKS,
    R_GENERATION,
    R_HAND,
    R_IDS,
    R_IDS_FULL,
    R_LATE,
    R_LIVING_MAX,
    R_MADE,
    R_NOW,
    R_ONCE_MAX,
    R_RESOLVED,
    R_ROW,
    R_SKIPPED,
    R_TYPES,
    T_COUNT,
    T_END,
    T_FLOOR,
    T_FREE,
    W_AT,
    W_BLOCK,
    W_EMPTY,
    W_ENTITY,
    W_FEED,
    W_HOP,
    W_RING,
    W_TILES,
    Feed,
    State,
    Tables,
    Vectors,
    Work,
)
from sentinel.features.living import (
    admit,
    free_rows,
    look_around,
    see_again,
    see_first,
    turn_clocks,
)
from sentinel.features.matrix import DEFAULTED
from sentinel.features.reading import COUNT, RATIO, read_entity, read_event, read_features
from sentinel.features.tiles import apply_to, copy_block, read_at, tiles_back

Int64Array = npt.NDArray[np.int64]

# Events looked up ahead: their rows' first lines stay in the first-level cache.
BLOCK_EVENTS = 64

# Rows looked at, to free them, for each row that is made: with 3, forgotten ones take at most half
# as much as living ones. And one every so many events besides.
LOOKS_A_ROW = 3
LOOKS_APART = 3

# Where an event's entity has no row.
NO_KEY = -1
NO_ROW = -2

DONE = 0
ARENA_FULL = 1
INDEX_FULL = 2
IDS_FULL = 3


@native_lean_inline
def _empty_row(tables: Tables, arena: Int64Array, entity: int, row: int) -> None:
    """Make the windows of a row those of an entity that was never seen."""
    for w in range(tables.entities[entity, E_FIRST_WINDOW], tables.entities[entity, E_END_WINDOW]):
        window = tables.windows[w]
        at = row + window[W_AT]
        if window[W_HOP] != 0:
            arena[at] = NEVER
            arena[at + 1] = 0
            arena[at + 2] = 0
            at += HEADER_WORDS
        copy_block(arena, at, window[W_EMPTY], window[W_BLOCK])
        at = row + window[W_AT] + window[W_RING]
        for place in range(window[W_TILES]):
            copy_block(arena, at + place * window[W_BLOCK], window[W_EMPTY], window[W_BLOCK])


@native_lean_inline
def _new_row(tables: Tables, state: State, entity: int, key: int) -> int:
    """Make an empty row, a free one or at the arena's end; the caller has made room."""
    registers = state.registers
    free = R_TYPES + entity * T_COUNT + T_FREE
    row = int(registers[free])
    if row > 0:
        registers[free] = state.arena[row]
    else:
        row = int(registers[R_ARENA])
        registers[R_ARENA] += tables.entities[entity, E_WORDS]
    registers[R_ENTITIES] += 1
    registers[R_MADE] += 1
    insert(state.places, entity, key, row)
    state.arena[row] = key
    state.arena[row + 1] = entity
    _empty_row(tables, state.arena, entity, row)
    return row


@native_lean_inline
def _see(
    tables: Tables, state: State, entity: int, key: int, row: int, time: int, is_event: bool
) -> int:
    """Return the row of an entity that is seen now: its own, or an empty one; -1 for no room."""
    if row < 0:
        row = find(state.places, entity, key)
    if row >= 0 and see_again(tables, state, entity, row, time, is_event):
        return row
    if not admit(tables, state.registers, entity):
        return -1
    if row >= 0:
        _empty_row(tables, state.arena, entity, row)
    else:
        row = _new_row(tables, state, entity, key)
    state.arena[row + 2] = see_first(tables, state.registers, entity, time)
    return row


@native_lean_inline
def _room(tables: Tables, state: State, n_events: int) -> int:
    """Whether a number of events fits, were all their entities new."""
    registers = state.registers
    n_words = 0
    for entity in range(len(tables.entities)):
        n_words += tables.entities[entity, E_WORDS]
    if registers[R_ARENA] + n_events * n_words > len(state.arena):
        return ARENA_FULL
    if 2 * (registers[R_ENTITIES] + n_events * len(tables.entities)) > len(state.places):
        return INDEX_FULL
    n_ids = min(registers[R_IDS] + n_events, registers[R_IDS_FULL])
    if 2 * n_ids > state.ids.shape[1]:
        return IDS_FULL
    return DONE


@native_lean_inline
def _call_near(tables: Tables, state: State, events: Feed, first: int, end: int) -> None:
    """Bring near what the look-up of a block of events will probe."""
    for i in range(first, end):
        call_id_near(state.ids, events.values[tables.columns[0], i])
        for entity in range(len(tables.entities)):
            call_near(state.places, entity, events.values[tables.entities[entity, E_KEY], i])


@native_lean_inline
def _resolve(
    tables: Tables, state: State, events: Feed, out: Vectors, first: int, end: int
) -> None:
    """Mark duplicates, look up rows, and bring near what of them will be read."""
    generation = state.registers[R_GENERATION : R_IDS_FULL + 1]
    for i in range(first, end):
        repeated = is_repeated(state.ids, generation, events.values[tables.columns[0], i])
        out.is_duplicate[i] = repeated
        for entity in range(len(tables.entities)):
            row = NO_KEY
            column = tables.entities[entity, E_KEY]
            if not repeated and events.present[column, i]:
                row = find(state.places, entity, events.values[column, i])
                if row < 0:
                    row = NO_ROW
                else:
                    for at in range(0, tables.entities[entity, E_FRONT], CACHE_LINE_WORDS):
                        prefetch(state.arena, row + at)
            out.rows[i, entity] = row


@native_lean_inline
def _call_tiles_near(tables: Tables, state: State, out: Vectors, first: int, end: int) -> None:
    """Bring the newest tiles of a block's rows near."""
    for i in range(first, end):
        for w in range(len(tables.windows)):
            row = out.rows[i, tables.windows[w, W_ENTITY]]
            if row >= 0 and tables.windows[w, W_HOP] != 0:
                at = row + tables.windows[w, W_AT]
                newest = state.arena[at + 1] * tables.windows[w, W_BLOCK]
                prefetch(state.arena, at + tables.windows[w, W_RING] + newest)


@native_lean_inline
def _apply_feedback(tables: Tables, state: State, feedback: Feed, i: int) -> None:
    """Apply one feedback event to the feedback windows of its entities, as of its known-at."""
    registers = state.registers
    time = feedback.times[i]
    tie = feedback.values[tables.columns[2], i]
    is_late = False
    for entity in range(len(tables.entities)):
        column = tables.entities[entity, E_FEEDBACK_KEY]
        if column < 0 or not feedback.present[column, i]:
            continue
        key = feedback.values[column, i]
        row = _see(tables, state, entity, key, NO_ROW, time, False)
        if row < 0:
            continue
        for w in range(
            tables.entities[entity, E_FIRST_WINDOW], tables.entities[entity, E_END_WINDOW]
        ):
            window = tables.windows[w]
            if window[W_FEED] != 1:
                continue
            at = row + window[W_AT]
            hop = window[W_HOP]
            is_behind = hop != 0 and state.arena[at] != NEVER and time < state.arena[at]
            if not is_behind:
                read_at(window, tables.partials, state.arena, state.reals, row, time)
            elif tiles_back(state.arena[at], time, hop) >= window[W_TILES]:
                is_late = True
                continue
            registers[R_SKIPPED] += apply_to(window, tables.partials, state, row, feedback, i, tie)
    registers[R_FEEDBACKS] += 1
    registers[R_FEEDBACK_LATE] += is_late


@native_lean_inline
def _read(tables: Tables, state: State, events: Feed, out: Vectors, work: Work, i: int) -> None:
    """Move the entities' windows to the event time and read the feature vector."""
    blocks, vector, status = work.blocks, work.vector, work.status
    time = events.times[i]
    for entity in range(len(tables.entities)):
        row = out.rows[i, entity]
        for w in range(
            tables.entities[entity, E_FIRST_WINDOW], tables.entities[entity, E_END_WINDOW]
        ):
            blocks[w] = -1
            if row >= 0:
                blocks[w] = read_at(
                    tables.windows[w], tables.partials, state.arena, state.reals, row, time
                )
    for f in tables.order:
        opcode = tables.features[f, F_OPCODE]
        if opcode >= COUNT:
            vector[f], status[f] = read_entity(tables, f, state, blocks, events, i)
        elif opcode < RATIO:
            vector[f], status[f] = read_event(tables, f, events, i)
        else:
            vector[f], status[f] = read_features(tables, f, work)
    for f in range(len(tables.features)):
        out.values[i, f] = np.float32(vector[f])
        out.status[i, f] = status[f]


@native_lean_inline
def _apply(tables: Tables, state: State, events: Feed, out: Vectors, i: int) -> None:
    """Apply an event to the windows of its entities that its tile still lives in."""
    registers = state.registers
    tie = events.values[tables.columns[0], i]
    is_late = False
    for entity in range(len(tables.entities)):
        row = out.rows[i, entity]
        if row < 0:
            continue
        for w in range(
            tables.entities[entity, E_FIRST_WINDOW], tables.entities[entity, E_END_WINDOW]
        ):
            window = tables.windows[w]
            if window[W_FEED] != 0:
                continue
            n_skipped = apply_to(window, tables.partials, state, row, events, i, tie)
            if n_skipped < 0:
                is_late = True
            else:
                registers[R_SKIPPED] += n_skipped
    out.is_late[i] = is_late
    registers[R_EVENTS] += 1
    registers[R_LATE] += is_late


@native_lean_inline
def _see_all(tables: Tables, state: State, events: Feed, out: Vectors, i: int) -> None:
    """Note that the entities of an event were seen; from here on its rows are known."""
    for entity in range(len(tables.entities)):
        row = out.rows[i, entity]
        if row != NO_KEY:
            key = events.values[tables.entities[entity, E_KEY], i]
            out.rows[i, entity] = _see(tables, state, entity, key, row, events.times[i], True)


@native_lean_inline
def _leave_out(tables: Tables, out: Vectors, i: int) -> None:
    """Give a duplicate the vector of defaults."""
    for f in range(len(tables.features)):
        out.values[i, f] = np.float32(tables.feature_reals[f, F_DEFAULT])
        out.status[i, f] = DEFAULTED
    out.is_late[i] = False


@native_lean
def advance_rows(
    tables: Tables, state: State, events: Feed, feedback: Feed, out: Vectors, work: Work
) -> int:
    """Advance through the batch from register ``R_ROW`` on; linear in its events.

    Returns
    -------
    int
        ``DONE``; or which table must be larger before the next call.
    """
    registers = state.registers
    n_events = len(events.times)
    n_feedback = len(feedback.times)
    while registers[R_ROW] < n_events:
        i = registers[R_ROW]
        if i == registers[R_RESOLVED]:
            end = min(i + BLOCK_EVENTS, n_events)
            short = _room(tables, state, end - i)
            if short != DONE:
                return short
            free_rows(tables, state, work)
            _call_near(tables, state, events, i, end)
            _resolve(tables, state, events, out, i, end)
            _call_tiles_near(tables, state, out, i, end)
            registers[R_RESOLVED] = end
        if out.is_duplicate[i]:
            registers[R_DUPLICATES] += 1
            _leave_out(tables, out, i)
            registers[R_ROW] += 1
            continue
        if events.times[i] > registers[R_NOW]:
            registers[R_NOW] = events.times[i]
            turn_clocks(tables, registers, events.times[i])
        n_made = registers[R_MADE]
        while (
            registers[R_FEEDBACK] < n_feedback
            and feedback.times[registers[R_FEEDBACK]] <= registers[R_NOW]
        ):
            short = _room(tables, state, 1)
            if short in (ARENA_FULL, INDEX_FULL):
                return short
            _apply_feedback(tables, state, feedback, registers[R_FEEDBACK])
            registers[R_FEEDBACK] += 1
        _see_all(tables, state, events, out, i)
        _read(tables, state, events, out, work, i)
        _apply(tables, state, events, out, i)
        n_rows = LOOKS_A_ROW * (registers[R_MADE] - n_made) + (i & LOOKS_APART == 0)
        if n_rows > 0:
            look_around(tables, state, work, n_rows)
        registers[R_ROW] += 1
    return DONE


def new_registers(n_ids_full: int, n_arena_words: int) -> Int64Array:
    """Return the registers of an engine that has seen nothing."""
    registers = np.zeros(R_COUNT, dtype=np.int64)
    registers[[R_LIVING_MAX, R_ONCE_MAX]] = INT64_MAX
    registers[R_HAND] = n_arena_words
    types = registers[R_TYPES:].reshape(-1, T_COUNT)
    types[:, [T_END, T_FLOOR]] = NEVER
    registers[R_NOW] = INT64_MIN
    registers[R_IDS_FULL] = n_ids_full
    registers[R_ARENA] = n_arena_words
    return registers
