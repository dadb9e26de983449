"""Make a candidate of a fit: thresholds, and the rows and events that travel with a release."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.features.matrix import DEFAULTED, FeatureMatrix
from sentinel.features.record import record_of
from sentinel.release.candidate import LaterPart, ParitySample, ReferenceRows
from sentinel.scoring.policy import Policy
from sentinel.training.evaluation import EvaluationSettings, evaluate
from sentinel.training.fitting import Fitted
from sentinel.training.history import History

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

# Fewer rows than this say too little about a share of a percent.
_THRESHOLD_ROWS_MIN = 1_000
_CANARY_CARDS = 16
_WITHOUT_COMPROMISED = ("auc_roc", "average_precision", "card_precision")


def evenly(rows: Int64Array, n_rows_max: int) -> Int64Array:
    """Take at most so many rows, spread over all of them; the same ones each time.

    Examples
    --------
    >>> evenly(np.arange(10), 4).tolist()
    [0, 3, 6, 9]
    """
    if len(rows) <= n_rows_max:
        return rows
    chosen: Int64Array = rows[np.linspace(0, len(rows) - 1, n_rows_max).astype(np.int64)]
    return chosen


def resolve_policy(history: History, fitted: Fitted) -> Policy:
    """Turn the policy's shares into thresholds, on traffic that taught the model nothing.

    That is the ``waiting`` part: the newest events before the cut, whose labels are on their way.
    A share needs no label. Where it is too small, the validation part stands in, with the
    scores of the trees that had not seen it.
    """
    values = history.replayed.matrix.values
    rows = fitted.parts.waiting
    if len(rows) >= _THRESHOLD_ROWS_MIN:
        champion = fitted.boosted.scores(values[rows])
    else:
        rows, champion = fitted.parts.validation, fitted.boosted.validation_scores
    return history.pipeline.policy.resolve(champion, fitted.fallback.scores(values[rows]))


def later_part(history: History, fitted: Fitted, policy: Policy) -> LaterPart:
    """Judge both models on the later part."""
    settings = EvaluationSettings(flagged_share=max(policy.decline_share or 0.0, 1e-6))
    metrics: dict[str, dict[str, float]] = {}
    for model, scores in (
        ("champion", fitted.champion_scores),
        ("fallback", fitted.fallback_scores),
    ):
        metrics[model] = evaluate(fitted.judged(history, scores), settings).values()
        rest = evaluate(fitted.judged(history, scores, without_compromised=True), settings)
        for name in _WITHOUT_COMPROMISED:
            if name in rest.values():
                metrics[model][f"{name}_without_compromised"] = rest.values()[name]
    return LaterPart(
        labels=fitted.labels.is_positive[fitted.judged_rows],
        champion_scores=fitted.champion_scores,
        fallback_scores=fitted.fallback_scores,
        from_ms=fitted.split.cut_ms,
        until_ms=fitted.split.until_ms,
        trained_until_ms=fitted.split.train_until_ms,
        metrics=metrics,
    )


def parity_sample(history: History, fitted: Fitted) -> ParitySample:
    """Take rows of the later part with the answers of the library that fitted the trees."""
    inputs = history.replayed.matrix.values[evenly(fitted.parts.later, limits.PARITY_ROWS_MAX)]
    return ParitySample(inputs=inputs, scores=fitted.boosted.scores(inputs))


def reference_rows(history: History, fitted: Fitted) -> ReferenceRows:
    """Take rows of the later part, labelled or not, as normal traffic."""
    rows = evenly(fitted.parts.later, limits.REFERENCE_ROWS_MAX)
    values = history.replayed.matrix.values[rows]
    return ReferenceRows(
        values=values,
        scores=fitted.boosted.scores(values),
        status=history.replayed.matrix.status[rows],
    )


def null_counts(history: History, fitted: Fitted) -> dict[str, int]:
    """Count the training rows in which each feature had nothing to compute from."""
    status = history.replayed.matrix.status[fitted.parts.train]
    counts = (status == DEFAULTED).sum(axis=0)
    return {
        name: int(count) for name, count in zip(history.replayed.matrix.names, counts, strict=True)
    }


def feature_set_record(history: History, fitted: Fitted) -> dict[str, object]:
    """Describe the training rows of the feature set, as of the moment of the cut."""
    matrix = history.replayed.matrix
    rows = fitted.parts.train
    trained = FeatureMatrix(
        names=matrix.names,
        values=matrix.values[rows],
        status=matrix.status[rows],
        is_late=matrix.is_late[rows],
        is_duplicate=matrix.is_duplicate[rows],
    )
    record = record_of(
        history.features, trained, source=history.events.name, at_ms=fitted.split.cut_ms
    )
    return record.to_data()


def canary_positions(history: History, fitted: Fitted, n_events: int) -> Int64Array:
    """Choose events that move state and scores: a few cards from high scores to low, and others.

    Half of them are events of the cards of the highest and of ordinary scores, so that windows
    fill from empty state; the rest is spread over the later part.

    Returns
    -------
    ndarray of int64
        Positions in the event log, ascending.
    """
    later = fitted.parts.later
    by_score = fitted.judged_rows[np.argsort(-fitted.champion_scores, kind="stable")]
    keys = history.entities[
        np.concatenate([by_score[: _CANARY_CARDS // 2], evenly(by_score, _CANARY_CARDS // 2)])
    ]
    of_cards = later[np.isin(history.entities[later], keys)][: n_events // 2]
    others = np.setdiff1d(later, of_cards)
    rows = np.concatenate([of_cards, evenly(others, n_events - len(of_cards))])
    return np.sort(history.replayed.positions[rows])
