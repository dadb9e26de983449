"""State of an earlier format, brought into today's layout: version N reads what N - 1 wrote.

Format 1: a row had key and type before its windows, and nothing else; entities were never
forgotten, which holds for every feature set that such a state can be of. So each row gets one word
more, and the index is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sentinel.features.kernel import new_registers
from sentinel.features.layout import (
    CACHE_LINE_WORDS,
    E_FRONT,
    E_WORDS,
    R_ARENA,
    R_ENTITIES,
    R_HAND,
    R_IDS_FULL,
    R_LIVING,
    R_MADE,
    R_SKIPPED,
    W_AT,
    W_BLOCK,
    W_ENTITY,
    W_RING,
    W_TILES,
)
from sentinel.features.plan import FeaturePlan
from sentinel.features.rows import index_rows
from sentinel.features.stores.embedded.snapshot import FORMAT, Snapshot

Array = npt.NDArray[np.generic]
Int64Array = npt.NDArray[np.int64]

_HEADER_WORDS_1 = 2


def arrays_of(plan: FeaturePlan, snapshot: Snapshot) -> Mapping[str, Array]:
    """Return the arrays of a snapshot in today's layout; linear in the state."""
    if snapshot.format == FORMAT:
        return snapshot.arrays
    old = snapshot.arrays["arena"].astype(np.int64)
    first = len(plan.head)
    by_type = _places_1(plan, old, first)
    places = np.zeros_like(snapshot.arrays["places"], dtype=np.int64)
    arena = [old[:first]]
    end = first
    for entity, at in enumerate(by_type):
        n_words = int(plan.tables.entities[entity, E_WORDS])
        n_held = _words(plan, entity)
        rows = np.zeros((len(at), n_words), dtype=np.int64)
        taken = np.arange(n_held - 1)
        if len(at):
            of_old = old[at[:, np.newaxis] + taken]
            rows[:, :_HEADER_WORDS_1] = of_old[:, :_HEADER_WORDS_1]
            rows[:, _HEADER_WORDS_1 + 1 : n_held] = of_old[:, _HEADER_WORDS_1:]
            index_rows(places, entity, rows, end)
        arena.append(rows.reshape(-1))
        end += rows.size
    registers_1 = snapshot.arrays["registers"].astype(np.int64)
    registers = new_registers(int(registers_1[R_IDS_FULL]), end)
    registers[: R_SKIPPED + 1] = registers_1[: R_SKIPPED + 1]
    registers[R_ARENA] = end
    registers[R_HAND] = first
    registers[[R_LIVING, R_MADE]] = registers_1[R_ENTITIES]
    return {
        **snapshot.arrays,
        "arena": np.concatenate(arena),
        "places": places,
        "registers": registers,
    }


def _words(plan: FeaturePlan, entity: int) -> int:
    """Words that a row of today holds, without what fills its last cache line."""
    windows = plan.tables.windows[plan.tables.windows[:, W_ENTITY] == entity]
    ends = windows[:, W_AT] + windows[:, W_RING] + windows[:, W_TILES] * windows[:, W_BLOCK]
    return int(max([int(plan.tables.entities[entity, E_FRONT]), *ends.tolist()]))


def _places_1(plan: FeaturePlan, arena: Int64Array, first: int) -> list[Int64Array]:
    """Find the rows of format 1, by entity type."""
    n_words = [
        -(-(_words(plan, entity) - 1) // CACHE_LINE_WORDS) * CACHE_LINE_WORDS
        for entity in range(len(plan.tables.entities))
    ]
    found: list[list[int]] = [[] for _ in n_words]
    at = first
    while at < len(arena):
        entity = int(arena[at + 1])
        found[entity].append(at)
        at += n_words[entity]
    return [np.array(places, dtype=np.int64) for places in found]
