"""A feature set cut into parts that can be replayed side by side, each over a share of the keys.

What one feature reads is the state of one entity. So a log is replayed by parts:

1. for each entity type a part holds its features, and the features of the event alone go with the
   first part; a part is cut into shards by a hash of the entity key, and every row of the log
   belongs to exactly one shard of each part;
2. features that are made of features of several entity types need them as float64, before they
   are cast: they form one more part, which has all features of those entities and is not cut;
3. what is global is decided once, before: which events are repeated, the running maximum of event
   time, and which feedback is known by then (:class:`GlobalOrder`);
4. the columns of the parts, and their marks of lateness, are put together again by row.

A shard does not see the events of others, which move the running time on. Where feedback that it
owns becomes known, and before an event that is late, it is given a *clock row*: an event without
any key, at the running time, which moves its own on and does nothing else. So at every row its
running time is that of the whole log; each entity sees the same events and feedback in the same
order at the same times as in one process, and its vectors are equal to the last bit.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import ContractSchema, EventBatch, Field, RawBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.checks import entities_of, operands_of
from sentinel.features.definitions import Calendar, EntityFeature, Feature
from sentinel.features.engine import known_at
from sentinel.features.feature_set import FeatureSet
from sentinel.features.index import mark_repeated, rehash_ids
from sentinel.features.replay import FeedbackOrder

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ID_PLACES_FIRST = 1 << 12
LONG_AGO_MS = -(1 << 62)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPart:
    """Features that are replayed together.

    Attributes
    ----------
    name : str
        The entity type; empty for features of several, and where there is none.
    features : FeatureSet
        What is computed: the part's own features, and what they are made of.
    chosen : ndarray of int64, shape (n_own,)
        Columns of ``features`` that are the part's own.
    columns : ndarray of int64, shape (n_own,)
        The same columns in the whole set.
    key : int
        Field of the event contract by which the part is cut; -1 where it is not.
    feedback_key : int
        Field of the feedback contract that names the same entity; -1 where there is none, and
        where the part is not cut.
    keys : tuple of int
        Fields of the event contract that name entities of the part.
    fields : tuple of int
        Fields of the event contract that are read.
    """

    name: str
    features: FeatureSet
    chosen: Int64Array
    columns: Int64Array
    key: int
    feedback_key: int
    keys: tuple[int, ...]
    fields: tuple[int, ...]

    @property
    def marks_late(self) -> bool:
        """Whether its marks of lateness count: the other parts have those of all others."""
        return bool(self.name)


def divide(features: FeatureSet) -> tuple[ReplayPart, ...]:
    """Cut a feature set into parts; every feature is some part's own, and of one only.

    Parameters
    ----------
    features : FeatureSet

    Returns
    -------
    tuple of ReplayPart
        One an entity type, in their order, then the one that is not cut, if it is needed.

    """
    by_name = {feature.name: feature for feature in features.features}
    entities = [entity.name for entity in features.entities]
    own: dict[str, list[str]] = {name: [] for name in entities}
    joint: list[str] = []
    for feature in features.features:
        used = entities_of(feature, by_name)
        if len(used) > 1:
            joint.append(feature.name)
        elif used:
            own[next(iter(used))].append(feature.name)
        else:
            own.setdefault(entities[0] if entities else "", []).append(feature.name)
    parts = [_part(features, name, names) for name, names in own.items()]
    if joint:
        parts.append(_part(features, None, joint))
    return tuple(parts)


def _part(features: FeatureSet, entity: str | None, own: list[str]) -> ReplayPart:
    """Make the part of an entity type; of None, the one that is not cut."""
    by_name = {feature.name: feature for feature in features.features}
    wanted, todo = set(own), list(own)
    while todo:
        operands = _needed_by(by_name[todo.pop()], features, is_joint=entity is None)
        todo += [name for name in operands if name not in wanted]
        wanted |= set(operands)
    kept = features.with_features(f for f in features.features if f.name in wanted)
    schema, reader = features.events, kept.reader()
    keys = tuple(schema.fields.index(each.key) for each in kept.entities)
    key, feedback_key = -1, -1
    if entity is not None:
        key = keys[0] if keys else schema.fields.index(schema.event_id)
        of_feedback = reader.feedback_key(kept.entities[0]) if keys else None
        if of_feedback is not None and features.feedback is not None:
            feedback_key = features.feedback.fields.index(of_feedback)
    names = list(kept.names)
    return ReplayPart(
        name=entity or "",
        features=kept,
        chosen=np.array([names.index(name) for name in own], dtype=np.int64),
        columns=np.array([features.names.index(name) for name in own], dtype=np.int64),
        key=key,
        feedback_key=feedback_key,
        keys=keys,
        fields=_fields_read(kept, keys),
    )


def _needed_by(feature: Feature, features: FeatureSet, *, is_joint: bool) -> tuple[str, ...]:
    """Name what a feature cannot be without: operands; in the joint part all of its entity.

    When an entity is forgotten follows from all of its features.
    """
    if is_joint and isinstance(feature, EntityFeature):
        own = (each for each in features.features if isinstance(each, EntityFeature))
        return tuple(each.name for each in own if each.by.name == feature.by.name)
    return tuple(operands_of(feature))


def _fields_read(features: FeatureSet, keys: tuple[int, ...]) -> tuple[int, ...]:
    """List the fields of the event contract that the features read."""
    schema = features.events
    read = {schema.event_id, schema.event_time, *(schema.fields[key] for key in keys)}
    for feature in features.features:
        for part in dataclasses.fields(feature):
            value = getattr(feature, part.name)
            if isinstance(value, Field) and value.contract == schema.name:
                read.add(value)
        if isinstance(feature, Calendar) and feature.of is None:
            read.add(schema.event_time)
    return tuple(i for i, field in enumerate(schema.fields) if field in read)


def owner_of(keys: Int64Array, n_shards: int) -> Int64Array:
    """Say which shard a key belongs to; a null key is 0 and belongs somewhere too.

    Returns
    -------
    ndarray of int64, shape (n_rows,), 0 to n_shards - 1
    """
    spread = keys.astype(np.int64).view(np.uint64) * _GOLDEN
    owners: Int64Array = ((spread >> np.uint64(33)) % np.uint64(n_shards)).astype(np.int64)
    return owners


class SeenIds:
    """Which ids were seen before, as the engine remembers them.

    Parameters
    ----------
    n_dedupe_min : int
        Distinct ids that are always remembered.
    """

    def __init__(self, n_dedupe_min: int) -> None:
        self._ids = np.zeros((2, _ID_PLACES_FIRST), dtype=np.int64)
        self._window = np.array([0, 0, n_dedupe_min], dtype=np.int64)

    def mark(self, ids: Int64Array) -> BoolArray:
        """Mark the ids that are repeated, and remember the others."""
        full = int(self._window[2])
        while 2 * min(int(self._window[1]) + len(ids), full) > self._ids.shape[1]:
            larger = np.zeros((2, 2 * self._ids.shape[1]), dtype=np.int64)
            rehash_ids(self._ids, larger)
            self._ids = larger
        repeated = np.zeros(len(ids), dtype=np.bool_)
        mark_repeated(self._ids, self._window, np.ascontiguousarray(ids), repeated)
        return repeated

    def forget(self) -> None:
        """Forget all."""
        self._ids[:] = 0
        self._window[1] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Feedback that is learned just before a live row.

    Attributes
    ----------
    at : int
        Index into the live rows.
    batch : EventBatch
        Without what was repeated.
    known_at_ms : ndarray of int64, shape (n_rows,)
    """

    at: int
    batch: EventBatch
    known_at_ms: Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """What is decided of some rows before they are shared out.

    Attributes
    ----------
    live : ndarray of int64, shape (n_live,)
        The rows that are not repeated, ascending.
    now_ms : ndarray of int64, shape (n_live,)
        Running maximum of event time, the row's own included.
    learned : tuple of Learned
    """

    live: Int64Array
    now_ms: Int64Array
    learned: tuple[Learned, ...]


class GlobalOrder:
    """Decides what no shard can know: repetition, running time, what feedback is learned when.

    Parameters
    ----------
    features : FeatureSet
    feedback : iterable of EventBatch
        In order of known-at.
    n_dedupe_min : int
    """

    def __init__(
        self,
        features: FeatureSet,
        feedback: Iterable[EventBatch] = (),
        *,
        n_dedupe_min: int = limits.DEDUPE_EVENTS_MIN,
    ) -> None:
        self._schema = features.feedback
        self._seen = SeenIds(n_dedupe_min)
        self._seen_feedback = SeenIds(n_dedupe_min)
        self._order = FeedbackOrder(self._known(feedback), lambda pair: pair[1])
        self._pending = np.empty(0, dtype=np.int64)
        self._now_ms = LONG_AGO_MS
        self.n_events = 0
        self.n_duplicates = 0
        self.n_feedback = 0
        self.n_feedback_duplicates = 0

    def take(self, ids: Int64Array, times_ms: Int64Array, edges: Iterable[int]) -> Ordered:
        """Decide of the next rows.

        Parameters
        ----------
        ids, times_ms : ndarray of int64, shape (n_rows,)
        edges : iterable of int
            Where batches begin, ascending, 0 the first; feedback is learned between batches.
        """
        repeated = self._seen.mark(ids)
        live = np.flatnonzero(~repeated)
        self.n_events += len(live)
        self.n_duplicates += len(ids) - len(live)
        now = np.maximum.accumulate(times_ms[live])
        now = np.maximum(now, self._now_ms)
        learned: list[Learned] = []
        bounds = [*edges, len(ids)]
        for first, end in itertools.pairwise(bounds):
            if first == end:
                continue
            at, at_end = np.searchsorted(live, [first, end]).tolist()
            latest = int(times_ms[first:end].max())
            learned += self._learn(max(latest, int(now[at - 1]) if at else self._now_ms), at)
            if at_end > at:
                self._apply(int(now[at_end - 1]))
        if len(now):
            self._now_ms = int(now[-1])
        return Ordered(live=live, now_ms=now, learned=tuple(learned))

    def _known(self, feedback: Iterable[EventBatch]) -> Iterator[tuple[EventBatch, int]]:
        if self._schema is None:
            return
        for batch in feedback:
            yield batch, int(known_at(batch, self._schema).max(initial=LONG_AGO_MS))

    def _learn(self, now_ms: int, at: int) -> Iterator[Learned]:
        if self._schema is None:
            return
        for batch, _ in self._order.due(now_ms):
            if len(self._pending) + batch.n_rows > limits.FEEDBACK_PENDING_MAX:
                raise SentinelError(
                    ErrorCode.FEEDBACK_TOO_MUCH,
                    at="feedback",
                    expected=f"at most {limits.FEEDBACK_PENDING_MAX} waiting",
                    got=len(self._pending) + batch.n_rows,
                    hint="Feed events and feedback side by side, in order of time.",
                )
            repeated = self._seen_feedback.mark(batch.column(self._schema.event_id.name))
            self.n_feedback_duplicates += int(repeated.sum())
            known = known_at(batch, self._schema)[~repeated]
            self._pending = np.sort(np.concatenate([self._pending, known]))
            values, present = batch.values[:, ~repeated], batch.present[:, ~repeated]
            fresh = batch_of(self._schema, values, present, received_at_ms=known)
            yield Learned(at=at, batch=fresh, known_at_ms=known)

    def _apply(self, now_ms: int) -> None:
        n_due = int(np.searchsorted(self._pending, now_ms, side="right"))
        self.n_feedback += n_due
        self._pending = self._pending[n_due:]


def batch_of(
    schema: ContractSchema,
    values: Int64Array,
    present: BoolArray,
    *,
    received_at_ms: Int64Array | None = None,
) -> EventBatch:
    """Make a decoded batch of columns alone, without the text that they came from."""
    n_rows = values.shape[1]
    nothing = np.zeros(n_rows, dtype=np.int64)
    content = np.zeros(0, dtype=np.uint8)
    rows = np.arange(n_rows, dtype=np.int64)
    raw = RawBatch(content, nothing, nothing, "columns", 0, rows, received_at_ms)
    return EventBatch(
        names=tuple(field.name for field in schema.fields),
        values=np.ascontiguousarray(values),
        present=np.ascontiguousarray(present),
        rows=rows,
        raw=raw,
        text_fields=(),
        text_spans=np.zeros((0, n_rows, 2), dtype=np.int64),
        text_content=content,
    )
