"""Metrics agree with slow and plain statements of themselves, and are never NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.training.evaluation import (
    EvaluationSettings,
    Judged,
    evaluate,
    evaluate_slices,
    recall_by_slice,
    threshold_at_share,
)

DAY = 86_400_000


def judged(
    scores: list[float],
    labels: list[int],
    *,
    days: list[int] | None = None,
    cards: list[int] | None = None,
    amounts: list[float] | None = None,
) -> Judged:
    n_rows = len(scores)
    return Judged(
        scores=np.array(scores, dtype=np.float64),
        is_positive=np.array(labels, dtype=np.bool_),
        times_ms=np.array(days or [0] * n_rows, dtype=np.int64) * DAY,
        entities=np.array(cards or range(n_rows), dtype=np.int64),
        amounts=None if amounts is None else np.array(amounts, dtype=np.float64),
    )


@pytest.mark.parametrize(
    ("labels", "reason"), [([], "no events"), ([0, 0], "no frauds"), ([1, 1], "frauds only")]
)
def test_one_class_gives_no_number_and_says_why(labels: list[int], reason: str) -> None:
    metrics = evaluate(judged([0.5] * len(labels), labels)).metrics
    assert metrics["auc_roc"].value is None
    assert metrics["auc_roc"].reason == reason
    assert metrics["average_precision"].reason == reason


def test_scores_that_are_no_numbers_are_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="finite"):
        judged([np.nan], [1])


def test_columns_of_different_lengths_are_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        judged([0.5], [1], amounts=[1.0, 2.0])


@pytest.mark.parametrize(
    "wrong",
    [{"cards_a_day": 0}, {"flagged_share": 0.0}, {"review_cost": -1.0}, {"resamples": 1_000_000}],
)
def test_settings_without_a_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"resamples|cards_a_day"):
        EvaluationSettings(**wrong)  # type: ignore[arg-type]


def test_a_card_found_on_one_day_is_not_looked_for_on_the_next() -> None:
    """Day 0 finds card 1; on day 1 the place goes to card 2, which is compromised too."""
    given_rows = judged([0.9, 0.1, 0.9, 0.5], [1, 0, 1, 1], days=[0, 0, 1, 1], cards=[1, 2, 1, 2])
    metric = evaluate(given_rows, EvaluationSettings(cards_a_day=1)).metrics["card_precision"]
    assert metric.value == 1.0


def test_a_day_with_fewer_cards_than_places_counts_the_empty_places() -> None:
    metric = evaluate(judged([0.9, 0.1], [1, 0]), EvaluationSettings(cards_a_day=4))
    assert metric.metrics["card_precision"].value == 0.25


def test_a_card_counts_once_by_its_highest_score() -> None:
    given_rows = judged([0.9, 0.8, 0.7], [0, 0, 1], cards=[1, 1, 2])
    metric = evaluate(given_rows, EvaluationSettings(cards_a_day=2)).metrics["card_precision"]
    assert metric.value == 0.5


def test_cost_weighs_what_is_missed_against_what_is_looked_at() -> None:
    """One of two rows may be flagged: the large fraud is caught, the small one missed."""
    given_rows = judged([0.9, 0.1], [1, 1], amounts=[90.0, 10.0])
    asked = EvaluationSettings(flagged_share=0.5, review_cost=5.0)
    assert evaluate(given_rows, asked).metrics["cost_share"].value == pytest.approx(0.15)


def test_ties_never_send_more_on_than_the_share() -> None:
    scores = np.array([0.5, 0.5, 0.5, 0.1])
    assert (scores > threshold_at_share(scores, 0.5)).sum() == 0


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3), st.integers(0, 4)),
        min_size=1,
        max_size=40,
    )
)
@settings(deadline=None)
def test_ranking_metrics_are_what_counting_pairs_and_ranks_gives(
    rows: list[tuple[int, bool, int, int]],
) -> None:
    scores, labels = [row[0] / 5 for row in rows], [int(row[1]) for row in rows]
    given_rows = judged(scores, labels, days=[r[2] for r in rows], cards=[r[3] for r in rows])
    metrics = evaluate(given_rows, EvaluationSettings(flagged_share=0.3)).metrics
    json.dumps({name: metric.value for name, metric in metrics.items()}, allow_nan=False)
    frauds = [score for score, label in zip(scores, labels, strict=True) if label]
    genuine = [score for score, label in zip(scores, labels, strict=True) if not label]
    if frauds and genuine:
        pairs = [(f > g) + 0.5 * (f == g) for f in frauds for g in genuine]
        assert metrics["auc_roc"].value == pytest.approx(np.mean(pairs))
        precision = [sum(f >= s for f in frauds) / sum(x >= s for x in scores) for s in frauds]
        assert metrics["average_precision"].value == pytest.approx(np.mean(precision))
    recall = metrics["recall_at_share"].value
    assert (recall is None) == (not frauds)


def test_bounds_hold_the_value_and_come_from_cards() -> None:
    random = np.random.default_rng(3)
    labels = random.random(800) < 0.2
    scores = random.random(800) * 0.7 + labels * 0.3
    given_rows = judged(
        scores.tolist(), labels.astype(int).tolist(), cards=random.integers(0, 90, 800).tolist()
    )
    asked = EvaluationSettings(resamples=100)
    metric = evaluate(given_rows, asked).metrics["average_precision"]
    assert metric.low is not None
    assert metric.high is not None
    assert metric.value is not None
    assert metric.low < metric.value < metric.high
    assert evaluate(given_rows, asked).metrics == evaluate(given_rows, asked).metrics


def test_bounds_are_not_made_up_where_there_is_no_value() -> None:
    metric = evaluate(judged([0.5], [0]), EvaluationSettings(resamples=10)).metrics["auc_roc"]
    assert metric.low is None
    assert str(metric) == "none (no frauds)"


def test_slices_are_judged_alone_and_recall_by_the_common_threshold() -> None:
    given_rows = judged([0.9, 0.8, 0.1, 0.2], [1, 0, 1, 0])
    slices = {"first": np.array([1, 1, 0, 0], bool), "last": np.array([0, 0, 1, 1], bool)}
    by_slice = evaluate_slices(given_rows, slices)
    assert by_slice["first"].metrics["auc_roc"].value == 1.0
    assert by_slice["last"].metrics["auc_roc"].value == 0.0
    recall = recall_by_slice(given_rows, slices, flagged_share=0.5)
    assert (recall["first"].value, recall["last"].value) == (1.0, 0.0)
    none = recall_by_slice(given_rows, {"none": np.zeros(4, bool)}, flagged_share=0.5)
    assert none["none"].reason == "no frauds"
