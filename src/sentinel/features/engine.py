"""The engine that holds feature state in memory and advances it, batch by batch.

Nothing depends on how events are cut into batches: the same events and feedback in the same order
give the same vectors and the same state, to the last bit.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sentinel.contract import ContractSchema, EventBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import kernel
from sentinel.features.index import mark_repeated, rehash, rehash_ids
from sentinel.features.layout import (
    E_FEEDBACK_KEY,
    E_KEY,
    F_DEFAULT,
    R_ARENA,
    R_CROWDED_OUT,
    R_DUPLICATES,
    R_ENTITIES,
    R_EVENTS,
    R_FEEDBACK,
    R_FEEDBACK_LATE,
    R_FEEDBACKS,
    R_FORGOTTEN,
    R_LATE,
    R_LIVING,
    R_LIVING_MAX,
    R_NOW,
    R_ONCE_MAX,
    R_RESOLVED,
    R_ROW,
    R_SKIPPED,
    R_TURNED_AWAY,
    R_TYPES,
    T_COUNT,
    T_FLOOR,
    Feed,
    State,
    Vectors,
    Work,
)
from sentinel.features.matrix import DEFAULTED, FeatureMatrix
from sentinel.features.pending import Pending
from sentinel.features.plan import FeaturePlan
from sentinel.features.rows import canonical_rows, count_new

Array = npt.NDArray[np.generic]
Int64Array = npt.NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)
_INT64, _BOOL = np.dtype(np.int64), np.dtype(np.bool_)

_INDEX_PLACES_FIRST = 1 << 12
_ID_PLACES_FIRST = 1 << 12
_ARENA_WORDS_FIRST = 1 << 16
_FORGOTTEN_NOTED_MAX = 1 << 12
_NO_LIMIT = (1 << 63) - 1


class OnFull(enum.StrEnum):
    """What happens to a new entity when there are as many as may be.

    ``DEFAULTS``: those seen once, longest ago, make room; where there are none, its features are
    the declared defaults, and it is counted. Known entities are never touched, events go on.
    ``REFUSE``: the whole batch is refused.
    """

    DEFAULTS = "defaults"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityLimits:
    """How many entities may live, and what happens to a new one when there are so many."""

    n_max: int = limits.ENTITIES_MAX
    on_full: OnFull = OnFull.DEFAULTS

    def words(self) -> tuple[int, int]:
        """Return the limits of the kernel: all living entities; of them, those seen once."""
        if self.on_full is OnFull.REFUSE:
            return _NO_LIMIT, _NO_LIMIT
        return self.n_max, max(1, int(self.n_max * limits.ENTITIES_ONCE_SHARE))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCounts:
    """What an engine has seen; every number only grows.

    Attributes
    ----------
    events : int
        Applied, late ones included.
    duplicates : int
        Not applied: the id was seen before.
    late_events : int
        Too late for at least one window of one of their entities; not applied there.
    feedback, feedback_duplicates, late_feedback : int
        The same of feedback that became known.
    values_skipped : int
        Values that were not finite, by partial result; the contract lets none in.
    entities_forgotten : int
        Idle for longer than their horizon.
    entities_crowded_out : int
        Forgotten before that, to make room: they had been seen in one event only.
    entities_turned_away : int
        Times that a new entity found no room and was read as absent.
    """

    events: int
    duplicates: int
    late_events: int
    feedback: int
    feedback_duplicates: int
    late_feedback: int
    values_skipped: int
    entities_forgotten: int = 0
    entities_crowded_out: int = 0
    entities_turned_away: int = 0


class Engine:
    """Feature state in memory.

    Parameters
    ----------
    plan : FeaturePlan
    n_entities_max : int
        Living entities of all types together.
    on_full : OnFull
        What happens to a new one when there are so many.
    n_dedupe_min : int
        Distinct event ids that are always remembered (at most twice as many are).

    Examples
    --------
    >>> from sentinel.features import Count, Engine, Entity, FeatureSet, compile_plan
    >>> from sentinel.contract import Contract, EventId, EventTime, Key
    >>> class Payment(Contract, name="payment", version="1"):
    ...     payment_id = EventId(bytes_max=36)
    ...     paid_at = EventTime(unit="ms")
    ...     card_id = Key(bytes_max=32)
    >>> card = Entity("card", key=Payment.card_id)
    >>> features = FeatureSet(
    ...     "demo", version="1", events=Payment, features=[Count("n_1h", by=card, over="1h")])
    >>> engine = Engine(compile_plan(features))
    >>> engine.n_entities
    0
    """

    def __init__(
        self,
        plan: FeaturePlan,
        *,
        n_entities_max: int = limits.ENTITIES_MAX,
        n_dedupe_min: int = limits.DEDUPE_EVENTS_MIN,
        on_full: OnFull = OnFull.DEFAULTS,
    ) -> None:
        self.plan = plan
        self._names = plan.names
        self._fields = _field_names(plan.features.events)
        self.limits = EntityLimits(n_max=n_entities_max, on_full=on_full)
        arena = np.zeros(max(_ARENA_WORDS_FIRST, 2 * len(plan.head)), dtype=np.int64)
        arena[: len(plan.head)] = plan.head
        self._state = State(
            arena=arena,
            reals=arena.view(np.float64),
            places=np.zeros((_INDEX_PLACES_FIRST, 2), dtype=np.int64),
            ids=np.zeros((2, _ID_PLACES_FIRST), dtype=np.int64),
            registers=kernel.new_registers(n_dedupe_min, len(plan.head)),
        )
        self._work = Work(
            blocks=np.empty(len(plan.tables.windows), dtype=np.int64),
            vector=np.empty(len(plan.names), dtype=np.float64),
            status=np.empty(len(plan.names), dtype=np.int64),
            forgotten=np.zeros(1 + _FORGOTTEN_NOTED_MAX, dtype=np.int64),
        )
        self._state.registers[[R_LIVING_MAX, R_ONCE_MAX]] = self.limits.words()
        self._feedback_ids = np.zeros((2, _ID_PLACES_FIRST), dtype=np.int64)
        self._feedback_window = np.array([0, 0, n_dedupe_min], dtype=np.int64)
        self._n_feedback_duplicates = 0
        n_fields = 0 if plan.features.feedback is None else len(plan.features.feedback.fields)
        self._pending = Pending(n_fields)

    def use_plan(self, plan: FeaturePlan) -> None:
        """Go on with the same state by another plan: one whose encodings were fitted again.

        Raises
        ------
        SentinelError
            ``state-of-another-feature-set`` for a plan that keeps other state.
        """
        if plan.identity != self.plan.identity:
            expected, got = self.plan.features.state_identity, plan.features.state_identity
            if expected != got:
                raise SentinelError(
                    ErrorCode.STATE_OF_ANOTHER_FEATURE_SET,
                    at="engine",
                    expected=f"state {expected[:16]}…",
                    got=f"{got[:16]}…",
                )
        self.plan = plan
        self._names = plan.names
        self._fields = _field_names(plan.features.events)

    def advance(self, events: EventBatch) -> FeatureMatrix:
        """Read the features of each event as of just before it, then apply it; in order.

        Parameters
        ----------
        events : EventBatch
            Decoded with the event contract of the plan.

        Returns
        -------
        FeatureMatrix
            One row an event; a duplicate has the defaults and is marked.

        Raises
        ------
        SentinelError
            ``feature-batch-mismatch``; ``entities-too-many`` where a full state refuses, and
            then nothing was applied.
        """
        schema = self.plan.features.events
        feed = _feed(events, schema, self._fields)
        self._check_entities(feed)
        n_rows, n_features = events.n_rows, len(self._names)
        out = Vectors(
            values=np.empty((n_rows, n_features), dtype=np.float32),
            status=np.empty((n_rows, n_features), dtype=np.uint8),
            is_late=np.zeros(n_rows, dtype=np.bool_),
            is_duplicate=np.zeros(n_rows, dtype=np.bool_),
            rows=np.empty((n_rows, len(self.plan.tables.entities)), dtype=np.int64),
        )
        registers = self._state.registers
        registers[R_ROW] = registers[R_RESOLVED] = registers[R_FEEDBACK] = 0
        pending = self._pending.feed
        tables, work = self.plan.tables, self._work
        while short := kernel.advance_rows(tables, self._state, feed, pending, out, work):
            self._grow(short)
        self._pending.drop(int(registers[R_FEEDBACK]))
        return FeatureMatrix(
            names=self._names,
            values=out.values,
            status=out.status,
            is_late=out.is_late,
            is_duplicate=out.is_duplicate,
        )

    def learn(self, feedback: EventBatch) -> None:
        """Take feedback; each is applied before the first event that could know it.

        Known-at is the feedback's event time, or when it was received if that is later. It is
        applied just before the first event at which the running maximum of event time has
        reached its known-at. A feedback id that was seen before is left out.

        Raises
        ------
        SentinelError
            ``feature-batch-mismatch``; ``feedback-too-much``, and then none was taken.
        """
        self._take_feedback(feedback)

    def _take_feedback(self, feedback: EventBatch) -> npt.NDArray[np.bool_]:
        """Put feedback into the queue; return which rows were not seen before."""
        schema = self.plan.features.feedback
        if schema is None:
            raise SentinelError(
                ErrorCode.FEATURE_BATCH_MISMATCH,
                at="feedback",
                expected="no feedback: the feature set declares none",
                got=f"{feedback.n_rows} rows",
            )
        feed = _feed(feedback, schema, _field_names(schema), is_feedback=True)
        self._pending.check_room(feedback.n_rows)
        while 2 * (int(self._feedback_window[1]) + feedback.n_rows) > self._feedback_ids.shape[1]:
            self._feedback_ids = _larger_ids(self._feedback_ids)
        ids = feedback.column(schema.event_id.name)
        repeated = np.zeros(feedback.n_rows, dtype=np.bool_)
        mark_repeated(self._feedback_ids, self._feedback_window, ids, repeated)
        self._n_feedback_duplicates += int(repeated.sum())
        self._pending.add(feed, ~repeated)
        return ~repeated

    @property
    def n_entities(self) -> int:
        """Living entities, of all types together."""
        return int(self._state.registers[R_LIVING])

    @property
    def n_rows(self) -> int:
        """Rows in memory: those of forgotten entities that are not yet freed, too."""
        return int(self._state.registers[R_ENTITIES])

    @property
    def n_feedback_pending(self) -> int:
        """Feedback that waits for its known-at time."""
        return self._pending.n_rows

    @property
    def now_ms(self) -> int | None:
        """Running maximum of event time; None before the first event."""
        return int(self._state.registers[R_NOW]) if self.counts().events else None

    @property
    def state_bytes(self) -> int:
        """Memory that the state takes: rows, index, remembered ids; unused room included."""
        state = self._state
        parts = (state.arena, state.places, state.ids, self._feedback_ids)
        return sum(part.nbytes for part in parts) + self._pending.n_bytes

    def counts(self) -> EngineCounts:
        """Return what was seen so far."""
        registers = self._state.registers
        return EngineCounts(
            events=int(registers[R_EVENTS]),
            duplicates=int(registers[R_DUPLICATES]),
            late_events=int(registers[R_LATE]),
            feedback=int(registers[R_FEEDBACKS]),
            feedback_duplicates=self._n_feedback_duplicates,
            late_feedback=int(registers[R_FEEDBACK_LATE]),
            values_skipped=int(registers[R_SKIPPED]),
            entities_forgotten=int(registers[R_FORGOTTEN]),
            entities_crowded_out=int(registers[R_CROWDED_OUT]),
            entities_turned_away=int(registers[R_TURNED_AWAY]),
        )

    def state_digest(self) -> str:
        """Hash the state: entities, their windows, feedback that waits, running time.

        Neither the order of rows nor where a ring begins has a part in it, nor have the
        remembered event ids: two engines that will answer alike have one digest.
        """
        digest = hashlib.sha256(self.plan.identity.encode())
        digest.update(self._state.registers[R_NOW : R_NOW + 1].tobytes())
        digest.update(self._state.registers[R_TYPES:].reshape(-1, T_COUNT)[:, T_FLOOR].tobytes())
        for entity in range(len(self.plan.tables.entities)):
            rows = canonical_rows(self.plan.tables, self._state, entity)
            digest.update(rows.tobytes())
        self._pending.update(digest)
        return digest.hexdigest()

    def check_room(self, events: EventBatch) -> None:
        """Refuse a batch that the state cannot take, before anything is changed.

        Raises
        ------
        SentinelError
            ``feature-batch-mismatch``; ``entities-too-many``.
        """
        schema = self.plan.features.events
        self._check_entities(_feed(events, schema, self._fields))

    def defaults(self, n_rows: int) -> FeatureMatrix:
        """Return rows of declared defaults, marked as duplicates: what a repeated event gets."""
        plan = self.plan
        values = plan.tables.feature_reals[:, F_DEFAULT].astype(np.float32)
        return FeatureMatrix(
            names=plan.names,
            values=np.tile(values, (n_rows, 1)),
            status=np.full((n_rows, len(plan.names)), DEFAULTED, dtype=np.uint8),
            is_late=np.zeros(n_rows, dtype=np.bool_),
            is_duplicate=np.ones(n_rows, dtype=np.bool_),
        )

    def capture(self) -> tuple[dict[str, Array], dict[str, int]]:
        """Return the whole state as arrays and small integers, for :meth:`restore`.

        The arrays are the engine's own: write them out before the next batch.
        """
        state, pending = self._state, self._pending.feed
        n_used = int(state.registers[R_ARENA])
        arrays: dict[str, Array] = {
            "arena": state.arena[:n_used],
            "places": state.places,
            "ids": state.ids,
            "registers": state.registers,
            "feedback_ids": self._feedback_ids,
            "feedback_window": self._feedback_window,
            "pending_values": pending.values,
            "pending_present": pending.present,
            "pending_times": pending.times,
        }
        return arrays, {"n_feedback_duplicates": self._n_feedback_duplicates}

    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, int]) -> None:
        """Take over a state that :meth:`capture` returned, of the same plan."""
        n_used = len(arrays["arena"])
        arena = np.zeros(max(_ARENA_WORDS_FIRST, 2 * n_used), dtype=np.int64)
        arena[:n_used] = arrays["arena"]
        self._state = State(
            arena=arena,
            reals=arena.view(np.float64),
            places=_own(arrays["places"]),
            ids=_own(arrays["ids"]),
            registers=_own(arrays["registers"]),
        )
        self._work.forgotten[0] = 0
        self._feedback_ids = _own(arrays["feedback_ids"])
        self._feedback_window = _own(arrays["feedback_window"])
        self._n_feedback_duplicates = values["n_feedback_duplicates"]
        self._pending.restore(
            _own(arrays["pending_values"]),
            arrays["pending_present"].astype(np.bool_),
            _own(arrays["pending_times"]),
        )

    def _grow(self, short: int) -> None:
        """Double the table that the kernel found short."""
        state = self._state
        if short == kernel.ARENA_FULL:
            arena = np.zeros(2 * len(state.arena), dtype=np.int64)
            n_used = int(state.registers[R_ARENA])
            arena[:n_used] = state.arena[:n_used]
            self._state = state._replace(arena=arena, reals=arena.view(np.float64))
        elif short == kernel.INDEX_FULL:
            index = np.zeros((2 * len(state.places), 2), dtype=np.int64)
            rehash(state.places, index)
            self._state = state._replace(places=index)
        else:
            self._state = state._replace(ids=_larger_ids(state.ids))

    def _check_entities(self, events: Feed) -> None:
        """Refuse a batch that could need more entities than the limit; nothing is changed."""
        if self.limits.on_full is not OnFull.REFUSE:
            return
        entities = self.plan.tables.entities
        due = self._pending.n_due(max(int(events.times.max(initial=-1)), self.now_ms or 0))
        n_most = self.n_entities + (len(events.times) + due) * len(entities)
        if n_most <= self.limits.n_max:
            return
        n_all = self.n_entities
        for entity, row in enumerate(entities):
            parts = [events.values[row[E_KEY], events.present[row[E_KEY]]]]
            if (column := row[E_FEEDBACK_KEY]) >= 0:
                feed = self._pending.feed
                parts.append(feed.values[column, :due][feed.present[column, :due]])
            keys = np.unique(np.concatenate(parts))
            n_all += count_new(self.plan.tables, self._state, entity, keys)
        if n_all > self.limits.n_max:
            raise SentinelError(
                ErrorCode.ENTITIES_TOO_MANY,
                at="feature state",
                expected=f"at most {self.limits.n_max} entities",
                got=n_all,
                hint="Raise n_entities_max, or leave out an entity that has too many names.",
            )


def _own(array: Array) -> Int64Array:
    return np.array(array, dtype=np.int64, order="C")


def known_at(feedback: EventBatch, schema: ContractSchema) -> Int64Array:
    """Say when each feedback became known: its event time, or when it was received if later.

    Returns
    -------
    ndarray of int64, shape (n_rows,)
        Milliseconds since the epoch.
    """
    times = feedback.column(schema.event_time.name)
    received_at_ms = feedback.raw.received_at_ms
    if received_at_ms is None:
        return times
    return np.maximum(times, received_at_ms[feedback.rows])


def _field_names(schema: ContractSchema) -> tuple[str, ...]:
    return tuple(field.name for field in schema.fields)


def _feed(
    batch: EventBatch,
    schema: ContractSchema,
    names: tuple[str, ...],
    *,
    is_feedback: bool = False,
) -> Feed:
    """Bring a batch into the one layout that the kernel is compiled for."""
    if batch.names != names:
        raise SentinelError(
            ErrorCode.FEATURE_BATCH_MISMATCH,
            at=f"batch of {schema.name}",
            expected=f"the fields {', '.join(names)}",
            got=", ".join(batch.names),
        )
    times = known_at(batch, schema) if is_feedback else batch.column(schema.event_time.name)
    values, times = _plain(batch.values, _INT64), _plain(times, _INT64)
    present = _plain(batch.present, _BOOL)
    return Feed(values, values.view(np.float64), present, times)


def _plain(array: npt.NDArray[Scalar], dtype: np.dtype[Scalar]) -> npt.NDArray[Scalar]:
    """Return an array of this type that is contiguous and writable; itself where it is."""
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.writeable:
        return array
    plain: npt.NDArray[Scalar] = np.require(array, dtype=dtype, requirements=["C", "W"])
    return plain


def _larger_ids(ids: Int64Array) -> Int64Array:
    larger = np.zeros((2, 2 * ids.shape[1]), dtype=np.int64)
    rehash_ids(ids, larger)
    return larger
