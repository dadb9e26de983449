"""How good scores are, in numbers that may be absent but are never NaN.

1. ``auc_roc`` and ``average_precision``: scikit-learn's, ties included.
2. ``card_precision``: of the k cards with the highest scores of each day, the share that is
   really compromised, cards found on an earlier day left out; mean over the days (Le Borgne et
   al., *Reproducible Machine Learning for Credit Card Fraud Detection*, chapter 4).
3. ``recall_at_share``: the share of frauds among the rows above the threshold that sends at most
   the given share of all rows on.
4. ``cost_share``: what it costs to look at the rows above that threshold plus the amounts of the
   frauds below it, as a share of what all frauds cost when nobody looks. Below 1 is better than
   no model.

A metric without a meaning (one class only, no amounts, no frauds) has the value None and a
reason. Bounds come from a bootstrap over entities: the events of one card stand or fall together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.training.extras import require

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Scored events with their labels.

    Attributes
    ----------
    scores : ndarray of float64, shape (n_rows,)
        Finite; only their order counts.
    is_positive : ndarray of bool, shape (n_rows,)
    times_ms : ndarray of int64, shape (n_rows,)
    entities : ndarray of int64, shape (n_rows,)
        Hashed key of the card (or whatever is looked at as one).
    amounts : ndarray of float64, shape (n_rows,), or None
        In major units.
    """

    scores: Float64Array
    is_positive: BoolArray
    times_ms: Int64Array
    entities: Int64Array
    amounts: Float64Array | None = None

    def __post_init__(self) -> None:
        """Refuse what the caller should never hand over."""
        lengths = {len(self.is_positive), len(self.times_ms), len(self.entities), len(self.scores)}
        if self.amounts is not None:
            lengths.add(len(self.amounts))
        if len(lengths) != 1:
            raise ValueError(f"judged columns of different lengths: {sorted(lengths)}")
        if not np.isfinite(self.scores).all():
            raise ValueError("judged scores must be finite")

    def rows(self, chosen: BoolArray | Int64Array) -> Judged:
        """Take some of the rows."""
        return Judged(
            scores=self.scores[chosen],
            is_positive=self.is_positive[chosen],
            times_ms=self.times_ms[chosen],
            entities=self.entities[chosen],
            amounts=None if self.amounts is None else self.amounts[chosen],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What the metrics are taken at.

    Attributes
    ----------
    cards_a_day : int
        Cards that people can look at in a day.
    flagged_share : float, in (0, 1]
        Share of the traffic that may be sent on.
    review_cost : float
        Of looking at one event, in major units.
    resamples : int
        Of the bootstrap; 0: no bounds.
    seed : int
        Of the bootstrap.
    """

    cards_a_day: int = 100
    flagged_share: float = 0.01
    review_cost: float = 1.0
    resamples: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning: the caller's mistake."""
        if self.cards_a_day < 1 or not 0 < self.flagged_share <= 1 or self.review_cost < 0:
            raise ValueError("cards_a_day >= 1, flagged_share in (0, 1], review_cost >= 0")
        if not 0 <= self.resamples <= limits.BOOTSTRAP_RESAMPLES_MAX:
            raise ValueError(f"resamples: 0 to {limits.BOOTSTRAP_RESAMPLES_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number, or the reason why there is none.

    Attributes
    ----------
    value : float or None
    reason : str
        Why there is no value; empty where there is one.
    low, high : float or None
        95 % bounds, where they were asked for.
    """

    value: float | None
    reason: str = ""
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Show it for people."""
        if self.value is None:
            return f"none ({self.reason})"
        bounds = "" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f}{bounds}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All metrics of one set of scores.

    Attributes
    ----------
    metrics : mapping of str to Metric
        ``auc_roc``, ``average_precision``, ``card_precision``, ``recall_at_share``,
        ``cost_share``.
    n_rows, n_positive : int
    """

    metrics: Mapping[str, Metric]
    n_rows: int
    n_positive: int

    def values(self) -> dict[str, float]:
        """Return the metrics that have a value."""
        return {name: m.value for name, m in self.metrics.items() if m.value is not None}


def evaluate(judged: Judged, settings: EvaluationSettings | None = None) -> Evaluation:
    """Take every metric.

    Parameters
    ----------
    judged : Judged
    settings : EvaluationSettings, optional

    Returns
    -------
    Evaluation

    Raises
    ------
    SentinelError
        ``extra-missing`` without scikit-learn.

    Examples
    --------
    >>> judged = Judged(
    ...     scores=np.array([0.1, 0.9]),
    ...     is_positive=np.array([False, True]),
    ...     times_ms=np.array([0, 1]),
    ...     entities=np.array([1, 2]),
    ... )
    >>> evaluate(judged).metrics["average_precision"].value
    1.0
    >>> print(evaluate(judged).metrics["cost_share"])
    none (no amounts)
    """
    chosen = settings or EvaluationSettings()
    n_positive = int(judged.is_positive.sum())
    metrics = {name: metric(judged, chosen) for name, metric in _METRICS.items()}
    if chosen.resamples:
        metrics |= _bounded(judged, chosen, metrics)
    return Evaluation(metrics=metrics, n_rows=len(judged.scores), n_positive=n_positive)


def evaluate_slices(
    judged: Judged, slices: Mapping[str, BoolArray], settings: EvaluationSettings | None = None
) -> dict[str, Evaluation]:
    """Take every metric of each slice.

    Parameters
    ----------
    judged : Judged
    slices : mapping of str to ndarray of bool, shape (n_rows,)
    settings : EvaluationSettings, optional
    """
    return {name: evaluate(judged.rows(chosen), settings) for name, chosen in slices.items()}


def threshold_at_share(scores: Float64Array, share: float) -> float:
    """Return the smallest score with at most ``share`` of all scores above it.

    Examples
    --------
    >>> threshold_at_share(np.array([0.1, 0.2, 0.3, 0.4]), 0.5)
    0.2
    """
    ordered = np.sort(scores)
    n_above = int(share * len(ordered))
    return float(ordered[len(ordered) - 1 - n_above]) if n_above < len(ordered) else -np.inf


def recall_by_slice(
    judged: Judged, slices: Mapping[str, BoolArray], *, flagged_share: float
) -> dict[str, Metric]:
    """Say how much of each slice's fraud lies above the threshold of the whole traffic."""
    flagged = judged.scores > threshold_at_share(judged.scores, flagged_share)
    result = {}
    for name, chosen in slices.items():
        frauds = judged.is_positive & chosen
        n_frauds = int(frauds.sum())
        result[name] = (
            Metric(value=float((flagged & frauds).sum()) / n_frauds)
            if n_frauds
            else Metric(value=None, reason="no frauds")
        )
    return result


def _one_class(judged: Judged) -> str:
    n_positive = int(judged.is_positive.sum())
    if not len(judged.is_positive):
        return "no events"
    if not n_positive:
        return "no frauds"
    return "frauds only" if n_positive == len(judged.is_positive) else ""


def _auc_roc(judged: Judged, settings: EvaluationSettings) -> Metric:
    if reason := _one_class(judged):
        return Metric(value=None, reason=reason)
    library = require("sklearn.metrics")
    return Metric(value=float(library.roc_auc_score(judged.is_positive, judged.scores)))


def _average_precision(judged: Judged, settings: EvaluationSettings) -> Metric:
    if reason := _one_class(judged):
        return Metric(value=None, reason=reason)
    library = require("sklearn.metrics")
    return Metric(value=float(library.average_precision_score(judged.is_positive, judged.scores)))


def _card_precision(judged: Judged, settings: EvaluationSettings) -> Metric:
    if not len(judged.scores):
        return Metric(value=None, reason="no events")
    days = judged.times_ms // limits.DAY_MS
    found = np.zeros(0, dtype=np.int64)
    precisions = []
    for day in np.unique(days):
        today = (days == day) & ~np.isin(judged.entities, found)
        cards, places = np.unique(judged.entities[today], return_inverse=True)
        highest = np.full(len(cards), -np.inf)
        np.maximum.at(highest, places, judged.scores[today])
        is_compromised = np.zeros(len(cards), dtype=np.bool_)
        np.logical_or.at(is_compromised, places, judged.is_positive[today])
        top = np.argsort(-highest, kind="stable")[: settings.cards_a_day]
        found = np.concatenate([found, cards[top][is_compromised[top]]])
        precisions.append(is_compromised[top].sum() / settings.cards_a_day)
    return Metric(value=float(np.mean(precisions)))


def _recall_at_share(judged: Judged, settings: EvaluationSettings) -> Metric:
    n_positive = int(judged.is_positive.sum())
    if not n_positive:
        return Metric(value=None, reason=_one_class(judged))
    flagged = judged.scores > threshold_at_share(judged.scores, settings.flagged_share)
    return Metric(value=float((flagged & judged.is_positive).sum()) / n_positive)


def _cost_share(judged: Judged, settings: EvaluationSettings) -> Metric:
    if judged.amounts is None:
        return Metric(value=None, reason="no amounts")
    total = float(judged.amounts[judged.is_positive].sum())
    if not total > 0:
        return Metric(value=None, reason="no fraud with an amount")
    flagged = judged.scores > threshold_at_share(judged.scores, settings.flagged_share)
    missed = float(judged.amounts[judged.is_positive & ~flagged].sum())
    return Metric(value=(missed + settings.review_cost * float(flagged.sum())) / total)


_METRICS: Mapping[str, Callable[[Judged, EvaluationSettings], Metric]] = {
    "auc_roc": _auc_roc,
    "average_precision": _average_precision,
    "card_precision": _card_precision,
    "recall_at_share": _recall_at_share,
    "cost_share": _cost_share,
}
# A card drawn twice is one card in the others: only these have bounds from drawing cards.
_BOUNDED = ("auc_roc", "average_precision", "recall_at_share", "cost_share")


def _bounded(
    judged: Judged, settings: EvaluationSettings, metrics: Mapping[str, Metric]
) -> dict[str, Metric]:
    """Give bounds by drawing entities with replacement; O(resamples * n log n)."""
    wanted = [name for name in _BOUNDED if metrics[name].value is not None]
    order = np.argsort(judged.entities, kind="stable")
    starts = np.flatnonzero(np.diff(judged.entities[order], prepend=np.nan))
    groups = np.split(order, starts[1:])
    random = np.random.default_rng(settings.seed)
    drawn: dict[str, list[float]] = {name: [] for name in wanted}
    for _ in range(settings.resamples if wanted else 0):
        chosen = random.integers(0, len(groups), len(groups))
        sample = judged.rows(np.concatenate([groups[place] for place in chosen]))
        for name in wanted:
            value = _METRICS[name](sample, settings).value
            if value is not None:
                drawn[name].append(value)
    result = {}
    for name in wanted:
        if drawn[name]:
            low, high = np.quantile(drawn[name], [0.025, 0.975])
            result[name] = Metric(value=metrics[name].value, low=float(low), high=float(high))
    return result
