"""Replay: an event log and a feedback log through the same engine that serves.

1. a batch of events is decoded; refused events are counted (and handed on) and take no part;
2. all feedback known by the latest event of the batch is learned;
3. the batch is advanced: each row is read as of just before its event.

The logs are in order of arrival. Feedback in order of known-at gives the same vectors however
both logs are cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch, RawBatch
from sentinel.contract.decoder import Decoded, Decoder
from sentinel.contract.refusal import Refusal
from sentinel.features.engine import Engine, EngineCounts, known_at
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.plan import FeaturePlan

Int64Array = npt.NDArray[np.int64]
T = TypeVar("T")


class FeedbackOrder(Generic[T]):
    """Hands out feedback batches in time for the events that may know them.

    Parameters
    ----------
    batches : iterable
        In order of known-at.
    latest_ms : callable
        The latest known-at of a batch, in milliseconds since the epoch.

    Examples
    --------
    >>> order = FeedbackOrder([[1, 5], [8, 9], [20, 30]], latest_ms=max)
    >>> list(order.due(7)), list(order.due(8)), list(order.due(25))
    ([[1, 5], [8, 9]], [], [[20, 30]])
    """

    def __init__(self, batches: Iterable[T], latest_ms: Callable[[T], int]) -> None:
        self._batches = iter(batches)
        self._latest_ms = latest_ms
        # Everything known before this was handed out.
        self._handed_ms: float = -np.inf

    def due(self, now_ms: int) -> Iterator[T]:
        """Yield what has to be learned before events up to ``now_ms`` are advanced.

        The last batch may reach beyond; the engine keeps its rest until its time has come.
        """
        while self._handed_ms <= now_ms:
            batch = next(self._batches, None)
            if batch is None:
                self._handed_ms = np.inf
                return
            self._handed_ms = max(self._handed_ms, self._latest_ms(batch))
            yield batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """Feature vectors of a log, duplicates left out; row ``i`` of every array is one event.

    Attributes
    ----------
    matrix : FeatureMatrix
    event_ids : ndarray of int64, shape (n_rows,)
        The event id's column (SipHash of its text).
    times_ms : ndarray of int64, shape (n_rows,)
    positions : ndarray of int64, shape (n_rows,)
        Position in the source.
    columns : mapping of str to ndarray of int64, shape (n_rows,)
        The event fields that were asked for (see :class:`~sentinel.contract.EventBatch`).
    present : mapping of str to ndarray of bool, shape (n_rows,)
        Whether those fields had a value.
    n_refused : int
        Events that the contract refused.
    n_feedback_refused : int
        The same of feedback.
    counts : EngineCounts
    """

    matrix: FeatureMatrix
    event_ids: Int64Array
    times_ms: Int64Array
    positions: Int64Array
    columns: Mapping[str, Int64Array]
    present: Mapping[str, npt.NDArray[np.bool_]]
    n_refused: int
    n_feedback_refused: int
    counts: EngineCounts

    @property
    def n_rows(self) -> int:
        """How many events."""
        return len(self.times_ms)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one batch adds."""

    matrix: FeatureMatrix
    event_ids: Int64Array
    times_ms: Int64Array
    positions: Int64Array
    columns: tuple[Int64Array, ...]
    present: tuple[npt.NDArray[np.bool_], ...]


def advance_log(
    engine: Engine, events: Iterable[EventBatch], feedback: Iterable[EventBatch] = ()
) -> Iterator[tuple[EventBatch, FeatureMatrix]]:
    """Advance an engine through decoded logs, feedback before the events that may know it.

    Parameters
    ----------
    engine : Engine
    events : iterable of EventBatch
        In order of arrival.
    feedback : iterable of EventBatch
        In order of known-at.

    Yields
    ------
    tuple of EventBatch and FeatureMatrix
    """
    features = engine.plan.features
    schema = features.feedback

    def latest_ms(batch: EventBatch) -> int:
        known = (
            batch.column(features.events.event_time.name)
            if schema is None
            else known_at(batch, schema)
        )
        return int(known.max(initial=-(1 << 62)))

    order = FeedbackOrder(feedback, latest_ms)
    time_name = features.events.event_time.name
    for batch in events:
        if batch.n_rows:
            now_ms = int(batch.column(time_name).max())
            for known in order.due(max(now_ms, engine.now_ms or now_ms)):
                engine.learn(known)
        yield batch, engine.advance(batch)


def replay(
    plan: FeaturePlan,
    events: Iterable[RawBatch],
    feedback: Iterable[RawBatch] = (),
    *,
    keep: Iterable[str] = (),
    engine: Engine | None = None,
    on_refusals: Callable[[tuple[Refusal, ...]], None] | None = None,
) -> Replayed:
    """Compute the feature vectors of an event log, as they would have been when it happened.

    Parameters
    ----------
    plan : FeaturePlan
    events, feedback : iterable of RawBatch
        In order of arrival.
    keep : iterable of str
        Event fields to return beside the vectors.
    engine : Engine, optional
        State to go on from, advanced in place; a fresh one by default.
    on_refusals : callable, optional
        Gets the refusals of each batch of either log, as a quarantine does.

    Returns
    -------
    Replayed
        Memory is linear in the events: 5 bytes a feature and 24 a row.

    Raises
    ------
    SentinelError
        As :meth:`Engine.advance` and :meth:`Engine.learn` do.
    """
    engine = engine or Engine(plan)
    kept = tuple(keep)
    refused = _Refused(on_refusals)
    feedback_refused = _Refused(on_refusals)
    decoded = _decode(Decoder(plan.features.events), events, refused)
    learned: Iterable[EventBatch] = ()
    if plan.features.feedback is not None:
        learned = _decode(Decoder(plan.features.feedback), feedback, feedback_refused)
    parts = [
        _part(plan, batch, matrix, kept) for batch, matrix in advance_log(engine, decoded, learned)
    ]
    empty = np.empty(0, dtype=np.int64)
    return Replayed(
        matrix=_join([part.matrix for part in parts], plan),
        event_ids=np.concatenate([empty, *(part.event_ids for part in parts)]),
        times_ms=np.concatenate([empty, *(part.times_ms for part in parts)]),
        positions=np.concatenate([empty, *(part.positions for part in parts)]),
        columns={
            name: np.concatenate([empty, *(part.columns[i] for part in parts)])
            for i, name in enumerate(kept)
        },
        present={
            name: np.concatenate([empty.astype(np.bool_), *(part.present[i] for part in parts)])
            for i, name in enumerate(kept)
        },
        n_refused=refused.n,
        n_feedback_refused=feedback_refused.n,
        counts=engine.counts(),
    )


class _Refused:
    """Counts refusals and hands them on."""

    def __init__(self, on_refusals: Callable[[tuple[Refusal, ...]], None] | None) -> None:
        self.n = 0
        self._on_refusals = on_refusals

    def take(self, decoded: Decoded) -> EventBatch:
        """Count the refusals of a batch and return what was accepted."""
        self.n += len(decoded.refusals)
        if decoded.refusals and self._on_refusals is not None:
            self._on_refusals(decoded.refusals)
        return decoded.events


def _decode(
    decoder: Decoder, batches: Iterable[RawBatch], refused: _Refused
) -> Iterator[EventBatch]:
    for raw in batches:
        yield refused.take(decoder.decode(raw))


def _part(
    plan: FeaturePlan, batch: EventBatch, matrix: FeatureMatrix, keep: tuple[str, ...]
) -> _Part:
    """Take what is kept of a batch; without duplicates."""
    schema = plan.features.events
    once = ~matrix.is_duplicate
    at = [schema.fields.index(schema.field(name)) for name in keep]
    return _Part(
        matrix=matrix if once.all() else _chosen(matrix, once),
        event_ids=batch.column(schema.event_id.name)[once],
        times_ms=batch.column(schema.event_time.name)[once],
        positions=batch.raw.positions[batch.rows][once],
        columns=tuple(batch.values[i][once] for i in at),
        present=tuple(batch.present[i][once] for i in at),
    )


def _chosen(matrix: FeatureMatrix, chosen: npt.NDArray[np.bool_]) -> FeatureMatrix:
    return FeatureMatrix(
        names=matrix.names,
        values=matrix.values[chosen],
        status=matrix.status[chosen],
        is_late=matrix.is_late[chosen],
        is_duplicate=matrix.is_duplicate[chosen],
    )


def _join(parts: list[FeatureMatrix], plan: FeaturePlan) -> FeatureMatrix:
    n_features = len(plan.names)
    none = np.empty(0, dtype=np.bool_)
    return FeatureMatrix(
        names=plan.names,
        values=np.concatenate(
            [np.empty((0, n_features), dtype=np.float32), *(part.values for part in parts)]
        ),
        status=np.concatenate(
            [np.empty((0, n_features), dtype=np.uint8), *(part.status for part in parts)]
        ),
        is_late=np.concatenate([none, *(part.is_late for part in parts)]),
        is_duplicate=np.concatenate([none, *(part.is_duplicate for part in parts)]),
    )
