"""An engine as a cache of the rows of another place, with a way back from each batch.

Before a batch the rows of its entities are brought in, tables are made large enough, and what the
batch can change is noted; after it, the changed rows are known; and it can be undone exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch
from sentinel.core import limits
from sentinel.features import kernel
from sentinel.features.engine import Engine
from sentinel.features.layout import (
    E_FEEDBACK_KEY,
    E_KEY,
    E_WORDS,
    R_ARENA,
    R_ENTITIES,
    R_GENERATION,
    R_HAND,
    R_IDS,
    R_IDS_FULL,
    Feed,
    State,
    Work,
)
from sentinel.features.plan import FeaturePlan
from sentinel.features.stores.redis.rows import (
    copy_rows,
    forget_ids,
    forget_rows,
    index_rows,
    places_of,
    put_rows,
)
from sentinel.features.stores.redis.seal import corrupt, seal_rows, unseal_rows

Array = npt.NDArray[np.generic]
Int64Array = npt.NDArray[np.int64]
Values = list[bytes | None]
# Asks for rows, by entity type; bytes, or None for a row that is not there.
Fetch = Callable[[list[Int64Array]], list[Values]]


@dataclass(frozen=True, slots=True)
class Before:
    """What a batch may change, as it was.

    Attributes
    ----------
    registers : ndarray
    feed : Feed
        Feedback that waited.
    feedback_window : ndarray
    n_feedback_duplicates : int
    keys, places, rows : list of ndarray
        By entity type: keys of the batch, their places (-1: none), the rows of those that had one.
    """

    registers: Int64Array
    feed: Feed
    feedback_window: Int64Array
    n_feedback_duplicates: int
    keys: list[Int64Array]
    places: list[Int64Array]
    rows: list[Int64Array]


class RowCache(Engine):
    """An engine whose rows can be brought in, watched and taken back.

    Its rows are never freed one by one: a batch that is taken back finds them where they were.
    """

    def __init__(self, plan: FeaturePlan, *, n_dedupe_min: int = limits.DEDUPE_EVENTS_MIN) -> None:
        super().__init__(plan, n_dedupe_min=n_dedupe_min)
        self._state.registers[R_HAND] = -1

    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, int]) -> None:
        """Take over a state; see :meth:`Engine.restore`."""
        super().restore(arrays, values)
        self._state.registers[R_HAND] = -1

    @property
    def n_words(self) -> Int64Array:
        """Words of a row, by entity type."""
        return np.ascontiguousarray(self.plan.tables.entities[:, E_WORDS])

    def keys_of(self, events: EventBatch) -> list[Int64Array]:
        """Return the keys that a batch, and the feedback due in it, may touch, by type."""
        due = self._n_due(events)
        feed = self._pending.feed
        found = []
        for row in self.plan.tables.entities:
            parts = [events.values[row[E_KEY], events.present[row[E_KEY]]]]
            if (column := row[E_FEEDBACK_KEY]) >= 0 and due:
                parts.append(feed.values[column, :due][feed.present[column, :due]])
            found.append(np.unique(np.concatenate(parts)))
        return found

    def bring_in(self, keys: list[Int64Array], fetch: Fetch, n_rows_max: int) -> None:
        """Bring in the rows that are not held; all others go first where the bound is passed."""
        absent = [self._absent(entity, wanted) for entity, wanted in enumerate(keys)]
        if self.n_rows + sum(map(len, absent)) > n_rows_max:
            self.drop_rows()
            absent = keys
        if any(map(len, absent)):
            for entity, values in enumerate(fetch(absent)):
                self.hold(entity, absent[entity], values)

    def renew(self, keys: list[Int64Array], fetch: Fetch) -> None:
        """Bring in again the rows that are held and were changed elsewhere."""
        index = self._state.places
        places = [places_of(index, entity, wanted) for entity, wanted in enumerate(keys)]
        held = [wanted[found >= 0] for wanted, found in zip(keys, places, strict=True)]
        if not any(map(len, held)):
            return
        for entity, values in enumerate(fetch(held)):
            if None in values:
                self.drop_rows()
                return
            rows = self.rows_from(entity, held[entity], values)
            put_rows(self._state.arena, places[entity][places[entity] >= 0], rows)

    def make_room(self, events: EventBatch) -> None:
        """Make every table large enough for a batch, so that none grows within it."""
        n_events = events.n_rows
        registers = self._state.registers
        n = n_events + self._n_due(events)
        self._room_for(int(self.n_words.sum()) * n, len(self.n_words) * n)
        n_ids = min(int(registers[R_IDS]) + n_events, int(registers[R_IDS_FULL]))
        while 2 * n_ids > self._state.ids.shape[1]:
            self._grow(kernel.IDS_FULL)

    def note(self, keys: list[Int64Array]) -> Before:
        """Note what a batch of these keys may change."""
        state = self._state
        places = [places_of(state.places, entity, wanted) for entity, wanted in enumerate(keys)]
        rows = [
            copy_rows(state.arena, found[found >= 0], int(words))
            for found, words in zip(places, self.n_words, strict=True)
        ]
        return Before(
            registers=state.registers.copy(),
            feed=self._pending.feed,
            feedback_window=self._feedback_window.copy(),
            n_feedback_duplicates=self._n_feedback_duplicates,
            keys=keys,
            places=places,
            rows=rows,
        )

    def changed(self, before: Before) -> list[tuple[Int64Array, Int64Array]]:
        """Return keys and sealed rows, by type, that are new or no longer as they were."""
        found = []
        for entity, keys in enumerate(before.keys):
            places = places_of(self._state.places, entity, keys)
            is_there = places >= 0
            rows = copy_rows(self._state.arena, places[is_there], int(self.n_words[entity]))
            differs = np.ones(len(rows), dtype=np.bool_)
            was_there = before.places[entity][is_there] >= 0
            differs[was_there] = (rows[was_there] != before.rows[entity]).any(axis=1)
            changed = rows[differs]
            seal_rows(changed, entity)
            found.append((keys[is_there][differs], changed))
        return found

    def undo(self, before: Before, event_ids: Int64Array, feedback_ids: Int64Array) -> bool:
        """Take a batch back, and the ids that it added, given in the order of their adding.

        Returns
        -------
        bool
            False where ids changed generation: then they must be loaded anew.
        """
        state = self._state
        is_whole = state.registers[R_GENERATION] == before.registers[R_GENERATION]
        if is_whole:
            forget_ids(state.ids, int(before.registers[R_GENERATION]), event_ids)
        if self._feedback_window[0] == before.feedback_window[0]:
            forget_ids(self._feedback_ids, int(before.feedback_window[0]), feedback_ids)
        else:
            is_whole = np.False_
        first, end = int(before.registers[R_ARENA]), int(state.registers[R_ARENA])
        forget_rows(state.places, state.arena, self.n_words, first, end)
        for places, rows in zip(before.places, before.rows, strict=True):
            put_rows(state.arena, places[places >= 0], rows)
        state.registers[:] = before.registers
        self._feedback_window[:] = before.feedback_window
        self._n_feedback_duplicates = before.n_feedback_duplicates
        self._pending.feed = before.feed
        return bool(is_whole)

    @property
    def state(self) -> State:
        """What the kernel works on."""
        return self._state

    @property
    def work(self) -> Work:
        """Room of the kernel for one event."""
        return self._work

    def room_behind_head(self, n_words: int) -> int:
        """Make so much room for rows that nobody holds, and return where it begins."""
        self._room_for(n_words, 0)
        return int(self._state.registers[R_ARENA])

    def drop_rows(self) -> None:
        """Forget all rows."""
        state = self._state
        first = len(self.plan.head)
        state.arena[first : int(state.registers[R_ARENA])] = 0
        state.places[:] = 0
        state.registers[R_ARENA] = first
        state.registers[R_ENTITIES] = 0

    def _n_due(self, events: EventBatch) -> int:
        """Count the feedback that a batch may apply."""
        times = events.column(self.plan.features.events.event_time.name)
        return self._pending.n_due(max(int(times.max(initial=-1)), self.now_ms or 0))

    def _absent(self, entity: int, keys: Int64Array) -> Int64Array:
        return keys[places_of(self._state.places, entity, keys) < 0]

    def hold(self, entity: int, keys: Int64Array, values: Values) -> None:
        """Take in rows that are not held; None where there is none."""
        is_there = np.array([value is not None for value in values], dtype=np.bool_)
        rows = self.rows_from(entity, keys[is_there], values)
        self._room_for(rows.size, len(rows))
        state = self._state
        first = int(state.registers[R_ARENA])
        state.arena[first : first + rows.size] = rows.reshape(-1)
        index_rows(state.places, entity, rows, first)
        state.registers[R_ARENA] += rows.size
        state.registers[R_ENTITIES] += len(rows)

    def rows_from(self, entity: int, keys: Int64Array, values: Values) -> Int64Array:
        """Read rows; what is not a row of the type and key asked for is refused."""
        n_words = int(self.n_words[entity])
        content = b"".join(value for value in values if value is not None)
        if len(content) != 8 * n_words * len(keys):
            raise corrupt("rows", f"{8 * n_words} bytes a row", "another length")
        rows = np.frombuffer(content, dtype=np.int64).reshape(len(keys), n_words).copy()
        if not unseal_rows(rows, entity, keys):
            raise corrupt("rows", "rows of their keys whose checksums hold", "another row")
        return rows

    def _room_for(self, n_words: int, n_rows: int) -> None:
        while int(self._state.registers[R_ARENA]) + n_words > len(self._state.arena):
            self._grow(kernel.ARENA_FULL)
        while 2 * (self.n_rows + n_rows) > len(self._state.places):
            self._grow(kernel.INDEX_FULL)
