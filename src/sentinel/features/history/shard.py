"""One shard of one part of a feature set: an engine, and the order that it must see things in."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch
from sentinel.core import limits
from sentinel.features.engine import Engine, OnFull
from sentinel.features.history.partition import (
    LONG_AGO_MS,
    Int64Array,
    Learned,
    ReplayPart,
    SeenIds,
    batch_of,
    owner_of,
)
from sentinel.features.layout import E_FEEDBACK_KEY, R_IDS, R_ONCE
from sentinel.features.plan import compile_plan
from sentinel.features.time_travel import cut_rows

BoolArray = npt.NDArray[np.bool_]

# Ids of clock rows count up from here; no hash of a text is expected there, and one that is there
# is found as any other repetition within a shard.
_CLOCK_IDS_FROM = -(1 << 62)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """What a shard is given, in the order of the log.

    Attributes
    ----------
    values : ndarray of int64, shape (n_fields, n_rows)
        Fields of the event contract; those that the part does not read hold anything.
    present : ndarray of bool, shape (n_fields, n_rows)
    clock_ms : ndarray of int64, shape (n_rows,)
        Of a clock row, the time that it moves the running time on to; else ``NOT_A_CLOCK``.
    learned : tuple of Learned
        Feedback that the shard owns; ``at`` counts these rows.
    """

    values: Int64Array
    present: BoolArray
    clock_ms: Int64Array
    learned: tuple[Learned, ...] = ()


NOT_A_CLOCK = -(1 << 63)


class Shard:
    """Replays the rows that one shard of a part owns.

    Parameters
    ----------
    part : ReplayPart
    index, n_shards : int
        Which shard; a part that is not cut is wholly its first.
    n_entities_max : int
    """

    def __init__(
        self,
        part: ReplayPart,
        *,
        index: int = 0,
        n_shards: int = 1,
        n_entities_max: int = limits.ENTITIES_MAX,
    ) -> None:
        self.part = part
        self.index = index
        self.n_shards = n_shards
        plan = compile_plan(part.features)
        # What is repeated was left out before: a small memory does, and is kept clear of ids
        # that come again after they were rightly forgotten.
        n_ids = limits.REPLAY_SHARD_IDS
        # Who makes room when the state is full follows from all entities: no shard decides it.
        self._engine = Engine(
            plan, n_entities_max=n_entities_max, n_dedupe_min=n_ids, on_full=OnFull.REFUSE
        )
        self._seen = SeenIds(n_ids)
        self._seen_feedback = SeenIds(n_ids)
        self._n_clock_rows = 0
        self.keeps_feedback = bool((plan.tables.entities[:, E_FEEDBACK_KEY] >= 0).any())
        schema = part.features.events
        self._id_at = schema.fields.index(schema.event_id)
        self._time_at = schema.fields.index(schema.event_time)

    @property
    def engine(self) -> Engine:
        """The engine, for its counts; its events are those of this shard, clock rows included."""
        return self._engine

    @property
    def n_once(self) -> int:
        """Living entities that were seen in one event only."""
        arrays, _ = self._engine.capture()
        return int(arrays["registers"][R_ONCE])

    def owns(self, keys: Int64Array) -> BoolArray:
        """Tell which rows of the log are its own, by the column of the part's key."""
        if self.part.key < 0:
            return np.full(len(keys), self.index == 0)
        owned: BoolArray = owner_of(keys, self.n_shards) == self.index
        return owned

    def own_feedback(self, learned: Learned) -> Learned | None:
        """Keep the feedback that is its own; None where there is none."""
        if not self.keeps_feedback:
            return None
        batch = learned.batch
        if self.part.key < 0:
            mine = np.full(batch.n_rows, self.index == 0)
        else:
            at = self.part.feedback_key
            owners = owner_of(batch.values[at], self.n_shards)
            mine = (owners == self.index) & batch.present[at]
        if not mine.any():
            return None
        chosen = np.flatnonzero(mine)
        known = learned.known_at_ms[chosen]
        return Learned(at=learned.at, batch=_cut(batch, chosen), known_at_ms=known)

    def advance(
        self, rows: ShardRows
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], BoolArray]:
        """Replay the next rows; those of clock rows are left out.

        Returns
        -------
        tuple of three ndarrays
            Values (float32) and status (uint8) of the part's own features, shape
            (n_rows, n_own); whether each row is late (bool).
        """
        self._set_clock_rows(rows)
        schema = self.part.features.events
        batch = batch_of(schema, rows.values, rows.present)
        learned: dict[int, list[Learned]] = defaultdict(list)
        for each in rows.learned:
            learned[each.at].append(each)
        cuts = sorted({0, *learned, batch.n_rows})
        parts = []
        for first, end in itertools.pairwise([*cuts, batch.n_rows]):
            for each in learned.get(first, ()):
                self._learn(each.batch)
            for start, stop in self._fresh(batch.values[self._id_at], first, end):
                parts.append(self._engine.advance(cut_rows(batch, slice(start, stop))))
        kept = rows.clock_ms == NOT_A_CLOCK
        chosen = self.part.chosen
        n_all = len(self.part.features.names)
        values = np.concatenate(
            [np.empty((0, n_all), dtype=np.float32), *(each.values for each in parts)]
        )
        status = np.concatenate(
            [np.empty((0, n_all), dtype=np.uint8), *(each.status for each in parts)]
        )
        is_late = np.concatenate([np.empty(0, dtype=np.bool_), *(p.is_late for p in parts)])
        if kept.all() and len(chosen) == n_all:
            return values[:, chosen], status[:, chosen], is_late
        return values[np.ix_(kept, chosen)], status[np.ix_(kept, chosen)], is_late[kept]

    def _set_clock_rows(self, rows: ShardRows) -> None:
        """Give clock rows their time and an id, and take their keys."""
        clocks = np.flatnonzero(rows.clock_ms != NOT_A_CLOCK)
        if not len(clocks):
            return
        first = _CLOCK_IDS_FROM + self._n_clock_rows
        self._n_clock_rows += len(clocks)
        rows.values[self._id_at, clocks] = np.arange(first, first + len(clocks))
        rows.values[self._time_at, clocks] = rows.clock_ms[clocks]
        for key in self.part.keys:
            rows.present[key, clocks] = False

    def _learn(self, feedback: EventBatch) -> None:
        schema = self.part.features.feedback
        if schema is None:
            return
        ids = feedback.column(schema.event_id.name)
        at = 0
        for end in self._cuts(self._seen_feedback, ids, is_feedback=True):
            self._engine.learn(_cut(feedback, np.arange(at, end)))
            at = end

    def _fresh(self, ids: Int64Array, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut rows where the engine would take an id for a repeated one, and let it forget."""
        at = first
        for cut in self._cuts(self._seen, ids[first:end], is_feedback=False):
            yield at, first + cut
            at = first + cut

    def _cuts(self, seen: SeenIds, ids: Int64Array, *, is_feedback: bool) -> Iterator[int]:
        at = 0
        while at < len(ids):
            hits = np.flatnonzero(seen.mark(ids[at:]))
            if not len(hits):
                yield len(ids)
                return
            if hits[0]:
                at += int(hits[0])
                yield at
            seen.forget()
            self._forget(is_feedback=is_feedback)

    def _forget(self, *, is_feedback: bool) -> None:
        """Let the engine forget ids; the arrays are its own."""
        arrays, _ = self._engine.capture()
        arrays["feedback_ids" if is_feedback else "ids"][:] = 0
        if is_feedback:
            arrays["feedback_window"][1] = 0
        else:
            arrays["registers"][R_IDS] = 0


class Cutter:
    """Cuts what a shard owns out of rows of the log, clock rows put in where it needs them.

    Parameters
    ----------
    shard : Shard
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._waiting = np.empty(0, dtype=np.int64)
        self._now_ms = LONG_AGO_MS
        self._time_at = shard.part.features.events.fields.index(
            shard.part.features.events.event_time
        )

    def cut(
        self,
        values: Int64Array,
        present: BoolArray,
        live: Int64Array,
        now_ms: Int64Array,
        learned: tuple[Learned, ...],
    ) -> tuple[Int64Array, ShardRows]:
        """Cut the next rows.

        Parameters
        ----------
        values, present : ndarray, shape (n_fields, n_rows)
        live, now_ms : ndarray of int64, shape (n_live,)
            Rows that count, and the running time of each.
        learned : tuple of Learned
            All feedback; ``at`` counts live rows.

        Returns
        -------
        tuple of ndarray of int64 and ShardRows
            Which of the rows it owns, and what it is given.
        """
        shard = self._shard
        part = shard.part
        mine = np.flatnonzero(shard.owns(values[max(part.key, 0)][live]))
        own = [each for each in map(shard.own_feedback, learned) if each is not None]
        clocks = np.union1d(
            self._clock_rows(now_ms, own), self._late_rows(values, live, now_ms, mine)
        )
        # A clock row stands before the row of the same place.
        at = np.concatenate([clocks, mine])
        is_clock = np.arange(len(at)) < len(clocks)
        order = np.argsort(2 * at + ~is_clock, kind="stable")
        at, is_clock = at[order], is_clock[order]
        rows = live[at]
        cut_values = np.zeros((len(values), len(rows)), dtype=np.int64)
        cut_present = np.zeros((len(values), len(rows)), dtype=np.bool_)
        for field in part.fields:
            cut_values[field] = values[field][rows]
            cut_present[field] = present[field][rows]
        given = ShardRows(
            values=cut_values,
            present=cut_present,
            clock_ms=np.where(is_clock, now_ms[at], NOT_A_CLOCK),
            learned=tuple(
                Learned(
                    at=int(np.searchsorted(at, each.at)),
                    batch=each.batch,
                    known_at_ms=each.known_at_ms,
                )
                for each in own
            ),
        )
        return live[mine], given

    def _late_rows(
        self, values: Int64Array, live: Int64Array, now_ms: Int64Array, mine: Int64Array
    ) -> Int64Array:
        """Find its own rows that are late, and before which the running time has moved on.

        And the last row of all, where it is not its own: all shards end a round at one time.
        """
        if not len(now_ms):
            return mine
        now = now_ms[mine]
        before = np.concatenate([[self._now_ms], now])
        self._now_ms = int(now_ms[-1])
        late: Int64Array = mine[(values[self._time_at][live[mine]] < now) & (before[:-1] < now)]
        if before[-1] < self._now_ms:
            late = np.append(late, len(now_ms) - 1)
        return late

    def _clock_rows(self, now_ms: Int64Array, own: list[Learned]) -> Int64Array:
        """Find the live rows at which feedback of its own becomes known."""
        found = []
        starts = [0, *(each.at for each in own)]
        for i, start in enumerate(starts):
            if i:
                known = own[i - 1].known_at_ms
                self._waiting = np.sort(np.concatenate([self._waiting, known]))
            end = starts[i + 1] if i + 1 < len(starts) else len(now_ms)
            if start >= end or not len(self._waiting):
                continue
            n_due = int(np.searchsorted(self._waiting, now_ms[end - 1], side="right"))
            due = self._waiting[:n_due]
            self._waiting = self._waiting[n_due:]
            found.append(start + np.searchsorted(now_ms[start:end], due))
        return np.concatenate([np.empty(0, dtype=np.int64), *found]).astype(np.int64)


def _cut(batch: EventBatch, chosen: Int64Array) -> EventBatch:
    return cut_rows(batch, chosen)
