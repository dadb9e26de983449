"""How definitions, state and batches are laid out for the kernel: plain arrays, and their columns.

A window's place in a row is described in :mod:`sentinel.features.tiles`, the arena in
:mod:`sentinel.features.kernel`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.features.aggregates import INT64_MIN

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Key, type (with 16 added: a free row), and when it was seen (:mod:`sentinel.features.living`).
ROW_HEADER_WORDS = 3
CACHE_LINE_WORDS = 8

# Columns of the table of entities.
(
    E_KEY,
    E_FEEDBACK_KEY,
    E_WORDS,  # of a row: whole cache lines
    E_FRONT,  # words of headers and totals, with which a row begins
    E_FIRST_WINDOW,
    E_END_WINDOW,
    E_SPAN,  # ms of one slice of its life; 0: it is never forgotten
    E_COLUMNS,
) = range(8)

# Registers: the scalars of the state.
(
    R_ROW,  # next event of the batch
    R_RESOLVED,  # events of the batch whose rows are looked up
    R_FEEDBACK,  # next pending feedback
    R_NOW,  # running maximum of event time
    R_ARENA,  # words in use
    R_ENTITIES,  # rows in the arena
    R_GENERATION,  # of event ids: current, how many, how many are enough
    R_IDS,
    R_IDS_FULL,
    R_EVENTS,  # counters from here on
    R_DUPLICATES,
    R_LATE,
    R_FEEDBACKS,
    R_FEEDBACK_LATE,
    R_SKIPPED,
    R_TURNED_AWAY,
    R_FORGOTTEN,
    R_CROWDED_OUT,
    R_LIVING,  # entities by rule; R_ENTITIES counts rows that are held, forgotten ones too
    R_ONCE,  # of them, seen in one event only
    R_LIVING_MAX,
    R_ONCE_MAX,
    R_MADE,  # rows ever made
    R_HAND,  # next row to be looked at for its life; -1: rows are never freed
    R_TYPES,  # first word of the entity types
) = range(25)

# Words of an entity type, behind the registers.
LIFE_SLICES = 8
RING_SLICES = 16
(
    T_SLICE,  # of running event time
    T_START,  # of that slice, ms
    T_END,
    T_FLOOR,  # entities seen once, and not after this slice, are forgotten
    T_FREE,  # first free row; 0: none
    T_ONCE,  # living entities by slice, a ring: seen once, then seen again
) = range(6)
T_AGAIN = T_ONCE + RING_SLICES
T_COUNT = T_AGAIN + RING_SLICES
R_COUNT = R_TYPES + limits.FEATURE_ENTITIES_MAX * T_COUNT

NEVER = INT64_MIN
HEADER_WORDS = 3

# Columns of the table of windows.
(
    W_ENTITY,
    W_FEED,  # 0 events, 1 feedback
    W_HOP,  # ms; 0 for the whole history
    W_TILES,
    W_AT,  # of the header and the total, in the row
    W_RING,  # of the ring's first place, counted from the header
    W_BLOCK,  # words of one block
    W_FIRST,  # first partial result in the table of partials
    W_END,
    W_SCRATCH,  # where a late read is folded, in the arena
    W_EMPTY,  # where the empty block is, in the arena
    W_LINEAR,  # 1 where all partials are linear
    W_COLUMNS,
) = range(13)

# Columns of the table of partial results.
(
    P_OPCODE,
    P_AT,  # in the block
    P_WORDS,
    P_COLUMN,  # of the feed's contract; -1 the time
    P_COLUMN_2,  # longitude
    P_WHERE,  # column of a boolean that must hold; -1 none
    P_FLOAT,  # 1 where the column is read as float64
    P_COLUMNS,
) = range(8)

# Columns of the table of features.
(
    F_OPCODE,
    F_WINDOW,  # whose block is read
    F_A,  # offsets of partial results in the block, by opcode
    F_B,
    F_C,
    F_COLUMN,  # of the event contract
    F_COLUMN_2,
    F_LEFT,  # operand features
    F_RIGHT,
    F_ENCODING,  # calendar: 0 number, 1 sine, 2 cosine; category: first of its table
    F_OFFSET_MS,  # calendar: from UTC
    F_STALE_MS,  # 0: never stale
    F_AGE_WINDOW,  # block and offset of the time that the value dates from
    F_AGE_AT,
    F_COLUMNS,
) = range(15)

# Columns of the table of float parameters of features.
(F_DEFAULT, F_DIVISOR, F_CAP, F_REAL_COLUMNS) = range(4)


class Tables(NamedTuple):
    """A compiled feature set; shapes (n, columns), constants for the kernel."""

    entities: Int64Array
    windows: Int64Array
    partials: Int64Array
    features: Int64Array
    feature_reals: Float64Array
    order: Int64Array  # features, operands before what is made of them
    codes: Float64Array  # encodings of categories, one after the other
    columns: Int64Array  # of event id, event time, feedback id; then where the first row begins


class State(NamedTuple):
    """What the kernel changes; ``reals`` is ``arena`` seen as float64."""

    arena: Int64Array
    reals: Float64Array
    places: Int64Array
    ids: Int64Array
    registers: Int64Array


class Feed(NamedTuple):
    """Columns of a batch; ``reals`` is ``values`` seen as float64."""

    values: Int64Array
    reals: Float64Array
    present: BoolArray
    times: Int64Array


class Vectors(NamedTuple):
    """What the kernel fills, one row an event; ``rows`` is where each entity's row is."""

    values: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    is_late: BoolArray
    is_duplicate: BoolArray
    rows: Int64Array


class Work(NamedTuple):
    """Room for one event: a block for each window, a value and a status for each feature.

    ``forgotten`` is how many rows were found forgotten, and which.
    """

    blocks: Int64Array
    vector: Float64Array
    status: Int64Array
    forgotten: Int64Array
