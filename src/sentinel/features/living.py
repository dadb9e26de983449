"""How long an entity lives: by event time alone, whatever is in memory.

An entity type has a horizon H: ``forget_after=``, or twice the longest window where only windows
are kept, or none. Event time is cut into slices of H/8. A row remembers the latest slice in which
its entity was seen (events by their time, feedback by its known-at), and whether by more than one
event. With c the slice of the running maximum of event time, and b the entity's:

1. the entity lives while ``c - b <= 8``; so it is forgotten when it was idle for H to 9/8 H;
2. when there are as many living entities as allowed, or as many that were seen once as their share
   of that allows, those seen once in the oldest slice are forgotten (the floor of the type rises);
3. where there are none to forget but those of the current slice, the new entity gets no row: it is
   read as one without a key, and counted. One that was seen again never makes room for another.

What is forgotten is read as an entity that was never seen. Living entities are counted in a ring
of slices, so the rule never looks at memory: it holds the same in every store, however events are
cut into batches, and after any recovery. When the row of a forgotten entity is freed
(:func:`look_around`, :func:`free_rows`) changes no value.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native_lean_inline
from sentinel.core.prefetch import prefetch
from sentinel.features.index import remove
from sentinel.features.layout import (
    E_SPAN,
    E_WORDS,
    LIFE_SLICES,
    NEVER,
    R_ARENA,
    R_CROWDED_OUT,
    R_ENTITIES,
    R_FORGOTTEN,
    R_HAND,
    R_LIVING,
    R_LIVING_MAX,
    R_ONCE,
    R_ONCE_MAX,
    R_TURNED_AWAY,
    R_TYPES,
    RING_SLICES,
    T_AGAIN,
    T_COUNT,
    T_END,
    T_FLOOR,
    T_FREE,
    T_ONCE,
    T_SLICE,
    T_START,
    State,
    Tables,
    Work,
)

Int64Array = npt.NDArray[np.int64]

# A row that is free has this added to its type.
FREE_ROW = 16


@native_lean_inline
def _is_within(registers: Int64Array, base: int, word: int) -> bool:
    """Whether an entity of a type that has a horizon lives, by the word of its row."""
    seen = word >> 1
    is_recent: bool = registers[base + T_SLICE] - seen <= LIFE_SLICES
    return is_recent and (word & 1 == 1 or seen > registers[base + T_FLOOR])


@native_lean_inline
def is_living(tables: Tables, registers: Int64Array, entity: int, word: int) -> bool:
    """Whether an entity lives, by the word of its row."""
    if tables.entities[entity, E_SPAN] == 0:
        return True
    return _is_within(registers, R_TYPES + entity * T_COUNT, word)


@native_lean_inline
def turn_clocks(tables: Tables, registers: Int64Array, now: int) -> None:
    """Bring every entity type to the slice of running time; forget what lived too long ago."""
    for entity in range(len(tables.entities)):
        base = R_TYPES + entity * T_COUNT
        span = tables.entities[entity, E_SPAN]
        if span == 0 or now < registers[base + T_END]:
            continue
        current = now // span
        if registers[base + T_END] != NEVER:
            before = registers[base + T_SLICE]
            for old in range(before - LIFE_SLICES, min(before, current - LIFE_SLICES - 1) + 1):
                at = base + (old & (RING_SLICES - 1))
                n_once = registers[at + T_ONCE]
                n_all = n_once + registers[at + T_AGAIN]
                registers[R_ONCE] -= n_once
                registers[R_LIVING] -= n_all
                registers[R_FORGOTTEN] += n_all
                registers[at + T_ONCE] = 0
                registers[at + T_AGAIN] = 0
        registers[base + T_SLICE] = current
        registers[base + T_START] = current * span
        registers[base + T_END] = (current + 1) * span


@native_lean_inline
def slice_of(tables: Tables, registers: Int64Array, entity: int, time: int) -> int:
    """Return the slice of a time that is not after the running maximum."""
    base = R_TYPES + entity * T_COUNT
    current: int = registers[base + T_SLICE]
    if time >= registers[base + T_START]:
        return current
    earlier: int = time // tables.entities[entity, E_SPAN]
    return earlier


@native_lean_inline
def see_again(
    tables: Tables, state: State, entity: int, row: int, time: int, is_event: bool
) -> bool:
    """Note that an entity with a row was seen; False where it had been forgotten."""
    if tables.entities[entity, E_SPAN] == 0:
        return True
    registers = state.registers
    base = R_TYPES + entity * T_COUNT
    word = state.arena[row + 2]
    if word == (registers[base + T_SLICE] << 1) | 1:
        return True
    if not _is_within(registers, base, word):
        return False
    seen = word >> 1
    was_again = word & 1
    is_again = was_again | np.int64(is_event)
    latest = max(seen, slice_of(tables, registers, entity, time))
    registers[base + T_ONCE + was_again * RING_SLICES + (seen & (RING_SLICES - 1))] -= 1
    registers[base + T_ONCE + is_again * RING_SLICES + (latest & (RING_SLICES - 1))] += 1
    registers[R_ONCE] -= is_again - was_again
    state.arena[row + 2] = (latest << 1) | is_again
    return True


@native_lean_inline
def _forget_oldest(tables: Tables, registers: Int64Array) -> bool:
    """Forget what was seen once in the oldest slice of the type that has most of them."""
    most = np.int64(0)
    chosen = -1
    for entity in range(len(tables.entities)):
        if tables.entities[entity, E_SPAN] == 0:
            continue
        base = R_TYPES + entity * T_COUNT
        n = np.int64(0)
        for back in range(1, LIFE_SLICES + 1):
            seen = registers[base + T_SLICE] - back
            n += registers[base + T_ONCE + (seen & (RING_SLICES - 1))]
        if n > most:
            most = n
            chosen = entity
    if chosen < 0:
        return False
    base = R_TYPES + chosen * T_COUNT
    for back in range(LIFE_SLICES, 0, -1):
        seen = registers[base + T_SLICE] - back
        at = base + T_ONCE + (seen & (RING_SLICES - 1))
        if registers[at] > 0:
            registers[R_ONCE] -= registers[at]
            registers[R_LIVING] -= registers[at]
            registers[R_CROWDED_OUT] += registers[at]
            registers[at] = 0
            registers[base + T_FLOOR] = seen
            break
    return True


@native_lean_inline
def admit(tables: Tables, registers: Int64Array, entity: int) -> bool:
    """Whether one more entity may live; counts it where not."""
    is_spanned = tables.entities[entity, E_SPAN] != 0
    while registers[R_LIVING] >= registers[R_LIVING_MAX] or (
        is_spanned and registers[R_ONCE] >= registers[R_ONCE_MAX]
    ):
        if not _forget_oldest(tables, registers):
            registers[R_TURNED_AWAY] += 1
            return False
    return True


@native_lean_inline
def see_first(tables: Tables, registers: Int64Array, entity: int, time: int) -> int:
    """Count an entity that was admitted; return the word of its row."""
    if tables.entities[entity, E_SPAN] == 0:
        registers[R_LIVING] += 1
        return 0
    base = R_TYPES + entity * T_COUNT
    seen = slice_of(tables, registers, entity, time)
    word = seen << 1
    # One that comes later than its whole life is forgotten as it comes.
    if _is_within(registers, base, word):
        registers[R_LIVING] += 1
        registers[R_ONCE] += 1
        registers[base + T_ONCE + (seen & (RING_SLICES - 1))] += 1
    return word


@native_lean_inline
def look_around(tables: Tables, state: State, work: Work, n_rows: int) -> None:
    """Look at the next rows of the arena, and note those that are forgotten."""
    registers = state.registers
    hand = registers[R_HAND]
    if hand < 0:
        return
    for _ in range(n_rows):
        if hand >= registers[R_ARENA]:
            hand = tables.columns[3]
            if hand >= registers[R_ARENA]:
                break
        kind = state.arena[hand + 1]
        n_noted = work.forgotten[0]
        if (
            kind < FREE_ROW
            and n_noted < len(work.forgotten) - 1
            and not is_living(tables, registers, kind, state.arena[hand + 2])
        ):
            work.forgotten[n_noted + 1] = hand
            work.forgotten[0] = n_noted + 1
        hand += tables.entities[kind & 15, E_WORDS]
        prefetch(state.arena, hand)
    registers[R_HAND] = hand


@native_lean_inline
def free_rows(tables: Tables, state: State, work: Work) -> None:
    """Free the noted rows that are forgotten still; no event may have looked them up."""
    registers = state.registers
    arena = state.arena
    for noted in range(1, work.forgotten[0] + 1):
        row = work.forgotten[noted]
        entity = arena[row + 1]
        if entity >= FREE_ROW or is_living(tables, registers, entity, arena[row + 2]):
            continue
        remove(state.places, entity, arena[row])
        free = R_TYPES + entity * T_COUNT + T_FREE
        arena[row] = registers[free]
        arena[row + 1] = FREE_ROW + entity
        registers[free] = row
        registers[R_ENTITIES] -= 1
    work.forgotten[0] = 0
