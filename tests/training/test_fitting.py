"""A fit knows what was known at its cut, and is judged by what became known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.training.evaluation import evaluate
from sentinel.training.fitting import Fitted, fit
from sentinel.training.history import History, default_split
from sentinel.training.settings import ModelSettings

SETTINGS = ModelSettings(n_rounds_max=30, stop_after_rounds=10, n_leaves=7)


@pytest.fixture(scope="module")
def fitted(history: History) -> Fitted:
    return fit(history, default_split(history.pipeline, history.replayed.times_ms), SETTINGS)


def test_a_later_part_without_any_verdict_cannot_judge(history: History) -> None:
    split = default_split(history.pipeline, history.replayed.times_ms)
    early = history.verdicts.known_at_ms <= split.cut_ms
    times = history.replayed.times_ms
    ids_later = history.replayed.event_ids[times >= split.cut_ms]
    early &= ~np.isin(history.verdicts.events, ids_later)
    blind = replace(
        history,
        verdicts=replace(
            history.verdicts,
            events=history.verdicts.events[early],
            is_positive=history.verdicts.is_positive[early],
            known_at_ms=history.verdicts.known_at_ms[early],
        ),
    )
    with pytest.raises(SentinelError) as caught:
        fit(blind, split, SETTINGS)
    assert caught.value.code is ErrorCode.TRAINING_SPLIT_EMPTY
    assert caught.value.at == "later"


def test_a_vector_that_is_no_number_stops_the_run_even_outside_training(
    history: History,
) -> None:
    split = default_split(history.pipeline, history.replayed.times_ms)
    matrix = history.replayed.matrix
    values = matrix.values.copy()
    values[-1, 2] = np.inf
    broken = replace(
        history, replayed=replace(history.replayed, matrix=replace(matrix, values=values))
    )
    with pytest.raises(SentinelError) as caught:
        fit(broken, split, SETTINGS)
    assert caught.value.code is ErrorCode.TRAINING_NOT_FINITE
    assert caught.value.at == f"later: {matrix.names[2]}"


def test_no_fraud_at_all_is_one_class(history: History) -> None:
    genuine = np.zeros_like(history.verdicts.is_positive)
    clean = replace(history, verdicts=replace(history.verdicts, is_positive=genuine))
    with pytest.raises(SentinelError) as caught:
        fit(clean, default_split(history.pipeline, history.replayed.times_ms), SETTINGS)
    assert caught.value.code is ErrorCode.TRAINING_ONE_CLASS
    assert caught.value.at == "fit"


def test_verdicts_from_after_the_cut_do_not_change_the_models(
    history: History, fitted: Fitted
) -> None:
    """Flip every verdict known later: the same trees, the same coefficients."""
    late = history.verdicts.known_at_ms > fitted.split.cut_ms
    changed = replace(
        history,
        verdicts=replace(history.verdicts, is_positive=history.verdicts.is_positive ^ late),
    )
    again = fit(changed, fitted.split, SETTINGS)
    np.testing.assert_array_equal(again.boosted.trees.value, fitted.boosted.trees.value)
    assert again.fallback.to_data() == fitted.fallback.to_data()


def test_the_champion_finds_the_frauds_of_the_later_part(history: History, fitted: Fitted) -> None:
    judged = fitted.judged(history, fitted.champion_scores)
    chance = judged.is_positive.mean()
    precision = evaluate(judged).metrics["average_precision"].value
    assert precision is not None
    assert precision > 5 * chance


def test_removing_compromised_cards_removes_only_cards_with_a_known_fraud(
    history: History, fitted: Fitted
) -> None:
    removed = fitted.compromised(history)
    assert removed.any()
    assert not removed.all()
    frauds = fitted.labels.is_positive & (history.replayed.times_ms >= fitted.split.train_from_ms)
    cards = set(history.entities[frauds].tolist())
    assert set(history.entities[fitted.judged_rows][removed].tolist()) <= cards
    rest = fitted.judged(history, fitted.champion_scores, without_compromised=True)
    assert len(rest.scores) == int((~removed).sum())
