"""The time-travel test: cut the log just before an event, compute again, compare.

A vector that was computed honestly does not change when everything that came after its event is
taken away: later events, and feedback that was not known yet. So for each sampled event the log
is cut, the vector is computed from what is left, and any differing bit is leakage. It catches
what inspection of the definitions cannot: statistics over the whole log, feedback that is used
before its time, a join with a later version of a table.

:func:`time_travel` tests vectors that were replayed with a plan, in one pass over the log: an
engine is given the log up to each sampled event and nothing after it. :func:`time_travel_of`
tests any computation, and computes anew for each sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import ContractSchema, EventBatch
from sentinel.features.engine import Engine, known_at
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.plan import FeaturePlan

Int64Array = npt.NDArray[np.int64]
Compute = Callable[[EventBatch, EventBatch], FeatureMatrix]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTravelReport:
    """What the test found.

    Attributes
    ----------
    n_checked : int
        Events whose log was cut just before them.
    n_different : int
        Events with any differing feature value or status.
    features : tuple of str
        The features that differed.
    detail : str
        The first difference, for people; empty when there is none.
    """

    n_checked: int
    n_different: int
    features: tuple[str, ...] = ()
    detail: str = ""


class _Findings:
    """Collects differences."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._n_checked = 0
        self._n_different = 0
        self._features: set[int] = set()
        self._detail = ""

    def compare(self, given: FeatureMatrix, row: int, again: FeatureMatrix, event: int) -> None:
        """Compare row ``row`` of what was given with the last row of what was computed again."""
        was, now = given.values[row], again.values[-1]
        differs = was.view(np.uint32) != now.view(np.uint32)
        differs |= given.status[row] != again.status[-1]
        self._n_checked += 1
        self._n_different += bool(differs.any())
        at = np.flatnonzero(differs)
        self._features.update(at.tolist())
        if len(at) and not self._detail:
            self._detail = (
                f"event {event}: {self._names[at[0]]} is {was[at[0]]}, "
                f"and {now[at[0]]} when the log ends with that event"
            )

    def report(self) -> TimeTravelReport:
        """Return what was found."""
        return TimeTravelReport(
            n_checked=self._n_checked,
            n_different=self._n_different,
            features=tuple(self._names[i] for i in sorted(self._features)),
            detail=self._detail,
        )


def sample_rows(n_rows: int, *, n_samples: int, seed: int) -> Int64Array:
    """Draw the rows to test, in order, the last one among them; reproducible.

    Returns
    -------
    ndarray of int64, shape (min(n_samples, n_rows),)
    """
    if n_rows == 0:
        return np.empty(0, dtype=np.int64)
    rng = np.random.default_rng(seed)
    n_before_last = min(n_samples, n_rows) - 1
    drawn = rng.choice(n_rows - 1, size=n_before_last, replace=False)
    return np.sort(np.append(drawn, n_rows - 1)).astype(np.int64)


def time_travel(
    plan: FeaturePlan,
    events: Iterable[EventBatch],
    feedback: Iterable[EventBatch],
    vectors: FeatureMatrix,
    *,
    n_samples: int = 256,
    seed: int = 0,
) -> TimeTravelReport:
    """Test vectors that were replayed from these logs.

    Parameters
    ----------
    plan : FeaturePlan
    events, feedback : iterable of EventBatch
        The decoded logs, as they were replayed.
    vectors : FeatureMatrix
        What the replay gave, duplicates left out (:class:`~sentinel.features.replay.Replayed`).
    n_samples : int
        Events to test.
    seed : int
        Of the draw.

    Returns
    -------
    TimeTravelReport
        Linear in the log, whatever the number of samples.
    """
    rows = sample_rows(vectors.n_rows, n_samples=n_samples, seed=seed)
    findings = _Findings(vectors.names)
    engine = Engine(plan)
    withheld = _Withheld(engine, feedback)
    time_name = plan.features.events.event_time.name
    n_before = 0
    at = 0
    for batch in events:
        times = batch.column(time_name)
        first = 0
        while first < batch.n_rows and at < len(rows):
            # Duplicates have no row, so the row of an event is at most its place in the log:
            # up to this place nothing is skipped.
            end = min(batch.n_rows, first + int(rows[at]) - n_before + 1)
            withheld.learn_until(int(times[first:end].max()))
            part = engine.advance(cut_rows(batch, slice(first, end)))
            n_before += int((~part.is_duplicate).sum())
            first = end
            if n_before == rows[at] + 1:
                findings.compare(vectors, int(rows[at]), part, int(rows[at]))
                at += 1
        if at == len(rows):
            break
    return findings.report()


class _Withheld:
    """Feedback that an engine is given one by one, each when its time has come, not before."""

    def __init__(self, engine: Engine, feedback: Iterable[EventBatch]) -> None:
        self._engine = engine
        self._batches: Iterator[EventBatch] = iter(feedback)
        self._schema = engine.plan.features.feedback
        self._held: list[EventBatch] = []
        self._now_ms = -(1 << 62)

    def learn_until(self, now_ms: int) -> None:
        """Hand over what is known by ``now_ms``; hold back the rest."""
        if self._schema is None:
            return
        self._now_ms = max(self._now_ms, now_ms)
        while not self._is_ahead(self._schema):
            batch = next(self._batches, None)
            if batch is None:
                break
            if batch.n_rows:
                self._held.append(batch)
        still: list[EventBatch] = []
        for batch in self._held:
            is_known = known_at(batch, self._schema) <= self._now_ms
            if is_known.any():
                self._engine.learn(cut_rows(batch, np.flatnonzero(is_known)))
            if not is_known.all():
                still.append(cut_rows(batch, np.flatnonzero(~is_known)))
        self._held = still

    def _is_ahead(self, schema: ContractSchema) -> bool:
        """Whether feedback that is not known yet has been read from the log."""
        return any(known_at(batch, schema).max() > self._now_ms for batch in self._held)


def time_travel_of(
    compute: Compute,
    events: EventBatch,
    feedback: EventBatch,
    *,
    event_schema: ContractSchema,
    feedback_schema: ContractSchema,
    n_samples: int = 16,
    seed: int = 0,
) -> TimeTravelReport:
    """Test any way of computing vectors from an event log and a feedback log.

    Parameters
    ----------
    compute : callable
        Takes both logs; returns a matrix with one row an event, in their order.
    events, feedback : EventBatch
        The logs, whole.
    event_schema, feedback_schema : ContractSchema
    n_samples : int
        Events to test; the computation runs once for each, and once for the whole.
    seed : int
        Of the draw.

    Returns
    -------
    TimeTravelReport
    """
    whole = compute(events, feedback)
    findings = _Findings(whole.names)
    times = np.maximum.accumulate(events.column(event_schema.event_time.name))
    known = known_at(feedback, feedback_schema)
    for row in sample_rows(events.n_rows, n_samples=n_samples, seed=seed).tolist():
        kept = np.flatnonzero(known <= times[row])
        again = compute(cut_rows(events, slice(0, row + 1)), cut_rows(feedback, kept))
        findings.compare(whole, row, again, row)
    return findings.report()


def cut_rows(batch: EventBatch, chosen: slice | Int64Array) -> EventBatch:
    """Return some rows of a batch, as a batch."""
    return dataclasses.replace(
        batch,
        values=np.ascontiguousarray(batch.values[:, chosen]),
        present=np.ascontiguousarray(batch.present[:, chosen]),
        rows=batch.rows[chosen],
        text_spans=batch.text_spans[:, chosen],
    )
