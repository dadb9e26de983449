"""From partial results and event fields to one feature vector: the reading half of the kernel.

A feature is a row of a table: an opcode and where its operands stand. Arithmetic is float64; the
vector is cast to float32 at the end, so a ratio of two features is a ratio of float64.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native_lean_inline
from sentinel.features.aggregates import (
    INT64_MAX,
    INT64_MIN,
    deviation_finish,
    distance_km,
    distinct_finish,
)
from sentinel.features.layout import (
    F_A,
    F_AGE_AT,
    F_AGE_WINDOW,
    F_B,
    F_C,
    F_CAP,
    F_COLUMN,
    F_COLUMN_2,
    F_DEFAULT,
    F_DIVISOR,
    F_ENCODING,
    F_LEFT,
    F_OFFSET_MS,
    F_OPCODE,
    F_RIGHT,
    F_STALE_MS,
    F_WINDOW,
    Feed,
    State,
    Tables,
    Work,
)
from sentinel.features.matrix import DEFAULTED, PRESENT, STALE

Int64Array = npt.NDArray[np.int64]

# Features of the event alone.
VALUE_INT = 0
VALUE_FLOAT = 1
HOUR = 2
WEEKDAY = 3
CATEGORY = 4
# Features of other features.
RATIO = 5
DIFFERENCE = 6
# Features of an entity's partial results, from here on.
COUNT = 7
SUM_INT = 8
SUM_FLOAT = 9
MEAN_INT = 10
MEAN_FLOAT = 11
EXTREME_INT = 12
EXTREME_FLOAT = 13
DEVIATION_INT = 14
DEVIATION_FLOAT = 15
DISTINCT = 16
LAST_INT = 17
LAST_FLOAT = 18
SINCE = 19
AGE = 20
DISTANCE = 21
VELOCITY = 22

_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_FULL_TURN = 2.0 * math.pi


@native_lean_inline
def _turn(share: float, encoding: int) -> float:
    """Put a share of a cycle on a circle."""
    if encoding == 1:
        return math.sin(_FULL_TURN * share)
    return math.cos(_FULL_TURN * share)


@native_lean_inline
def _calendar(opcode: int, encoding: int, time: int) -> float:
    """Hour of the day 0 to 23, day of the week 0 (Monday) to 6, or the place in that cycle."""
    of_day = time % _DAY_MS
    if opcode == HOUR:
        if encoding == 0:
            return float(of_day // _HOUR_MS)
        return _turn(of_day / _DAY_MS, encoding)
    day = (time // _DAY_MS + 3) % 7
    if encoding == 0:
        return float(day)
    return _turn((day + of_day / _DAY_MS) / 7.0, encoding)


@native_lean_inline
def read_event(tables: Tables, f: int, feed: Feed, i: int) -> tuple[float, int]:
    """Compute a feature of the event alone: value and status."""
    feature = tables.features[f]
    column = feature[F_COLUMN]
    if not feed.present[column, i]:
        return tables.feature_reals[f, F_DEFAULT], DEFAULTED
    opcode = feature[F_OPCODE]
    if opcode == VALUE_INT:
        return feed.values[column, i] / tables.feature_reals[f, F_DIVISOR], PRESENT
    if opcode == VALUE_FLOAT:
        return feed.reals[column, i], PRESENT
    if opcode == CATEGORY:
        return tables.codes[feature[F_ENCODING] + feed.values[column, i]], PRESENT
    time = feed.values[column, i] + feature[F_OFFSET_MS]
    return _calendar(opcode, feature[F_ENCODING], time), PRESENT


@native_lean_inline
def read_features(tables: Tables, f: int, work: Work) -> tuple[float, int]:
    """Compute a ratio or a difference of two features that were computed before."""
    left = tables.features[f, F_LEFT]
    right = tables.features[f, F_RIGHT]
    default = tables.feature_reals[f, F_DEFAULT]
    worst = max(work.status[left], work.status[right])
    if worst != PRESENT:
        return default, worst
    if tables.features[f, F_OPCODE] == DIFFERENCE:
        return work.vector[left] - work.vector[right], PRESENT
    if work.vector[right] == 0.0:
        return default, DEFAULTED
    return work.vector[left] / work.vector[right], PRESENT


@native_lean_inline
def _read_movement(
    tables: Tables, f: int, state: State, at: int, feed: Feed, i: int
) -> tuple[float, int]:
    """Distance in km from the last position, or velocity in km/h, capped, finite at once."""
    feature = tables.features[f]
    latitude, longitude = feature[F_COLUMN], feature[F_COLUMN_2]
    if not (feed.present[latitude, i] and feed.present[longitude, i]):
        return tables.feature_reals[f, F_DEFAULT], DEFAULTED
    d = distance_km(
        state.reals[at + 2],
        state.reals[at + 3],
        feed.reals[latitude, i],
        feed.reals[longitude, i],
    )
    if feature[F_OPCODE] == DISTANCE or d == 0.0:
        return d, PRESENT
    hours = abs(feed.times[i] - state.arena[at]) / _HOUR_MS
    cap = tables.feature_reals[f, F_CAP]
    if d >= cap * hours:
        return cap, PRESENT
    return d / hours, PRESENT


@native_lean_inline
def _read_statistic(
    feature: Int64Array, divisor: float, state: State, block: int
) -> tuple[float, bool]:
    """Finish an aggregate with a count of its own at ``F_B``: value, and whether there is one."""
    arena, reals = state.arena, state.reals
    opcode = feature[F_OPCODE]
    at = block + feature[F_A]
    n = arena[block + feature[F_B]]
    if n < 1:
        return 0.0, False
    if opcode == MEAN_INT:
        return arena[at] / n / divisor, True
    if opcode in (SUM_INT, EXTREME_INT):
        return arena[at] / divisor, True
    if opcode == MEAN_FLOAT:
        return reals[at] / n, True
    if opcode in (SUM_FLOAT, EXTREME_FLOAT):
        return reals[at], True
    if n < 2:
        return 0.0, False
    if opcode == DEVIATION_INT:
        c = block + feature[F_C]
        return deviation_finish(n, arena[at], arena[c], arena[c + 1]) / divisor, True
    return math.sqrt(max(reals[at + 2], 0.0) / (n - 1)), True


@native_lean_inline
def read_entity(
    tables: Tables, f: int, state: State, blocks: Int64Array, feed: Feed, i: int
) -> tuple[float, int]:
    """Compute a feature of an entity's partial results: value and status.

    ``blocks`` holds, for each window, where its block as of the event time stands; -1 where the
    entity key is null.
    """
    feature = tables.features[f]
    arena = state.arena
    default = tables.feature_reals[f, F_DEFAULT]
    opcode = feature[F_OPCODE]
    block = blocks[feature[F_WINDOW]]
    if block < 0:
        return default, DEFAULTED
    time = feed.times[i]
    if feature[F_STALE_MS] > 0:
        since = arena[blocks[feature[F_AGE_WINDOW]] + feature[F_AGE_AT]]
        if since != INT64_MIN and time - since > feature[F_STALE_MS]:
            return default, STALE
    at = block + feature[F_A]
    if opcode == COUNT:
        return float(arena[at]), PRESENT
    if opcode == DISTINCT:
        return distinct_finish(arena, at), PRESENT
    if opcode <= DEVIATION_FLOAT:
        divisor = tables.feature_reals[f, F_DIVISOR]
        value, is_there = _read_statistic(feature, divisor, state, block)
        return (value, PRESENT) if is_there else (default, DEFAULTED)
    if arena[at] in (INT64_MIN, INT64_MAX):
        return default, DEFAULTED
    if opcode == LAST_INT:
        return arena[at + 2] / tables.feature_reals[f, F_DIVISOR], PRESENT
    if opcode == LAST_FLOAT:
        return state.reals[at + 2], PRESENT
    if opcode <= AGE:
        return max(0, time - arena[at]) / 1000.0, PRESENT
    return _read_movement(tables, f, state, at, feed, i)
