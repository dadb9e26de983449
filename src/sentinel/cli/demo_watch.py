"""What the demo remembers of decisions: enough to hold them against the labels that come later."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sentinel.contract import ContractSchema, FieldKind, TimeUnit
from sentinel.features.matrix import PRESENT
from sentinel.scoring import DecisionBatch, Outcome
from sentinel.scoring.explanation import ScoredRows

if TYPE_CHECKING:
    from sentinel.training.labels import Labels, Verdicts

# Flagged payments that the closing page shows.
N_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagged:
    """One flagged payment, for people.

    Attributes
    ----------
    event_id : str
    event : int
        Hash of the id.
    score : float
    outcome : str
    event_fields : dict of str to str
    features : dict of str to float or None
        None where there was nothing to compute it from.
    scored : ScoredRows
        The one row, as it was scored.
    """

    event_id: str
    event: int
    score: float
    outcome: str
    event_fields: dict[str, str]
    features: dict[str, float | None]
    scored: ScoredRows


@dataclass(frozen=True, slots=True)
class Quality:
    """Decisions of one kind against the labels.

    Attributes
    ----------
    n_flagged : int
        Decisions of that kind whose label is known by now.
    n_hit : int
        Of those, frauds.
    n_frauds : int
        All frauds among the decided events.
    """

    n_flagged: int
    n_hit: int
    n_frauds: int

    @property
    def precision(self) -> float | None:
        """Share of the flagged that were frauds."""
        return self.n_hit / self.n_flagged if self.n_flagged else None

    @property
    def recall(self) -> float | None:
        """Share of the frauds that were flagged."""
        return self.n_hit / self.n_frauds if self.n_frauds else None


@dataclass(slots=True)
class DecisionWatch:
    """Sees every batch of decisions and keeps ids, times, outcomes and the worst payments.

    Parameters
    ----------
    schema : ContractSchema
        Of the events.
    feature_names : tuple of str
    """

    schema: ContractSchema
    feature_names: tuple[str, ...]
    _events: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _times: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _outcomes: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    _worst: dict[int, tuple[float, int, Flagged]] = field(default_factory=dict)

    def see(self, decisions: DecisionBatch) -> None:
        """Remember a batch."""
        rows = np.flatnonzero(decisions.is_decided)
        events = decisions.events
        self._events.append(events.column(self.schema.event_id.name)[rows])
        self._times.append(events.column(self.schema.event_time.name)[rows])
        self._outcomes.append(decisions.outcome[rows])
        self._remember_worst(decisions)

    def flagged(self) -> list[Flagged]:
        """Return the payments with the highest scores, each of another card, highest first."""
        worst = heapq.nlargest(N_SHOWN, self._worst.values(), key=lambda each: each[:2])
        return [each[2] for each in worst]

    def labels(self, verdicts: Verdicts) -> Labels:
        """Join all verdicts, however late they came."""
        from sentinel.training.labels import join_labels

        known_by_ms = int(verdicts.known_at_ms.max(initial=0))
        empty = np.empty(0, dtype=np.int64)
        return join_labels(
            np.concatenate([empty, *self._events]),
            np.concatenate([empty, *self._times]),
            verdicts,
            known_by_ms=known_by_ms,
        )

    def quality(self, labels: Labels, outcomes: tuple[Outcome, ...]) -> Quality:
        """Hold the decisions of some outcomes against the labels."""
        none = np.empty(0, dtype=np.uint8)
        chosen = np.isin(np.concatenate([none, *self._outcomes]), outcomes) & labels.is_known
        return Quality(
            n_flagged=int(chosen.sum()),
            n_hit=int((chosen & labels.is_positive).sum()),
            n_frauds=int(labels.is_positive.sum()),
        )

    def is_fraud(self, labels: Labels, flagged: Flagged) -> bool | None:
        """Say what a flagged payment turned out to be; None while nobody knows."""
        places = np.flatnonzero(np.concatenate(self._events) == flagged.event)
        if not len(places) or not labels.is_known[places[0]]:
            return None
        return bool(labels.is_positive[places[0]])

    def _remember_worst(self, decisions: DecisionBatch) -> None:
        is_flagged = (decisions.outcome == Outcome.DECLINE) | (decisions.outcome == Outcome.REVIEW)
        rows = np.flatnonzero(is_flagged & decisions.is_decided)
        order = rows[np.argsort(-decisions.score[rows], kind="stable")][: 4 * N_SHOWN]
        keys = decisions.events.column(self.schema.keys[0].name)
        for row in order.tolist():
            key, score = int(keys[row]), float(decisions.score[row])
            if score > self._worst.get(key, (-1.0,))[0]:
                self._worst[key] = (score, -row, self._describe(decisions, row))
        if len(self._worst) > 100 * N_SHOWN:
            best = heapq.nlargest(N_SHOWN, self._worst.items(), key=lambda each: each[1][:2])
            self._worst = dict(best)

    def _describe(self, decisions: DecisionBatch, row: int) -> Flagged:
        names = self.feature_names
        return Flagged(
            event_id=_text(decisions, self.schema.event_id.name, row),
            event=int(decisions.events.column(self.schema.event_id.name)[row]),
            score=float(decisions.score[row]),
            outcome=Outcome(int(decisions.outcome[row])).name.lower(),
            event_fields={
                each.name: _shown(decisions, self.schema, each.name, row)
                for each in self.schema.fields
            },
            features={
                name: float(decisions.features[row, i])
                if decisions.feature_status[row, i] == PRESENT
                else None
                for i, name in enumerate(names)
            },
            scored=ScoredRows(
                values=decisions.features,
                status=decisions.feature_status,
                score=decisions.score.astype(np.float64),
                outcome=decisions.outcome,
                served_by=decisions.served_by,
            ).row(row),
        )


def _shown(decisions: DecisionBatch, schema: ContractSchema, name: str, row: int) -> str:
    """Show a field of an event as it was meant."""
    from sentinel.core.clock import instant

    batch, declared = decisions.events, schema.field(name)
    place = batch.names.index(name)
    if not batch.present[place, row]:
        return "–"
    value = int(batch.values[place, row])
    if name in batch.text_fields:
        return _text(decisions, name, row)
    if declared.kind is FieldKind.DECIMAL:
        return f"{value / 10**declared.scale:.{declared.scale}f}"
    if declared.kind is FieldKind.FLOAT:
        return f"{float(batch.floats(name)[row]):g}"
    if declared.kind is FieldKind.BOOLEAN:
        return "yes" if value else "no"
    if declared.kind is FieldKind.CATEGORY:
        return declared.values[value]
    return instant(value) if declared.unit is not TimeUnit.NONE else str(value)


def _text(decisions: DecisionBatch, name: str, row: int) -> str:
    batch = decisions.events
    start, end = batch.text_spans[batch.text_fields.index(name)][row]
    return batch.text_content[start:end].tobytes().decode()
