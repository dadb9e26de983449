"""What a batch changed, in the form in which a commit takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch
from sentinel.features.stores.redis.cache import Before
from sentinel.features.stores.redis.script import EVENT_IDS
from sentinel.features.stores.redis.seal import sum_of_ids

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Undo:
    """How a batch is taken back."""

    before: Before
    event_ids: Int64Array
    feedback_ids: Int64Array
    turns: tuple[int, int]
    id_sums: Int64Array
    feedback_sequence: int


def is_same(left: EventBatch, right: EventBatch) -> bool:
    """Whether two batches hold the same rows of the same place."""
    return left is right or (
        left.names == right.names
        and (left.raw.source, left.raw.partition) == (right.raw.source, right.raw.partition)
        and np.array_equal(left.values, right.values)
        and np.array_equal(left.raw.positions, right.raw.positions)
    )


def split_rows(rows: Int64Array) -> list[bytes]:
    """Return the bytes of each row."""
    content = rows.tobytes()
    n_bytes = 8 * rows.shape[1]
    return [content[at : at + n_bytes] for at in range(0, len(content), n_bytes)]


def id_changes(
    window: Int64Array, ids: Int64Array, places: tuple[int, int]
) -> tuple[list[tuple[int, bool, bytes]], int]:
    """Say what is appended to which generation, and how often the generation changes.

    Parameters
    ----------
    window : ndarray of int64, shape (3,)
        Current generation, ids in it, ids that make it full; before the batch.
    ids : ndarray of int64
        Those that are new, in order.
    places : tuple of int
        Of the two generations' keys.
    """
    generation, n_held, n_full = (int(part) for part in window)
    changes: list[tuple[int, bool, bytes]] = []
    n_turns = at = 0
    while at < len(ids):
        is_fresh = n_held == n_full
        if is_fresh:
            generation, n_held, n_turns = 1 - generation, 0, n_turns + 1
        n_taken = min(n_full - n_held, len(ids) - at)
        changes.append((places[generation], is_fresh, ids[at : at + n_taken].tobytes()))
        n_held += n_taken
        at += n_taken
    return changes, n_turns


def sums_after(sums: Int64Array, changes: list[tuple[int, bool, bytes]]) -> Int64Array:
    """Return the sums of all generations of ids, once changes of :func:`id_changes` are made."""
    sums = sums.copy()
    for place, is_fresh, content in changes:
        generation = place - EVENT_IDS[0]
        ids = np.frombuffer(content, dtype=np.int64)
        sums[generation] = sum_of_ids(ids, 0 if is_fresh else int(sums[generation]))
    return sums
