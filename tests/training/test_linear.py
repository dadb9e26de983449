"""The fallback is fitted on the training part's statistics and becomes plain data."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.training.linear import fit_linear
from sentinel.training.rows import LabelledRows
from sentinel.training.settings import ModelSettings


def rows(n_rows: int = 2_000, seed: int = 1) -> LabelledRows:
    random = np.random.default_rng(seed)
    values = random.normal(size=(n_rows, 3)).astype(np.float32)
    values[:, 1] = values[:, 1] * 50 + 1_000
    chance = 1 / (1 + np.exp(3 - 2 * values[:, 0] - 0.02 * (values[:, 1] - 1_000)))
    return LabelledRows(
        names=("near", "far", "idle"), values=values, is_positive=random.random(n_rows) < chance
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_no_number_stops_the_fit_by_name(bad: float) -> None:
    given = rows()
    given.values[7, 1] = bad
    with pytest.raises(SentinelError) as caught:
        fit_linear(given, ModelSettings())
    assert caught.value.code is ErrorCode.TRAINING_NOT_FINITE
    assert caught.value.at == "train: far"


@pytest.mark.parametrize("label", [True, False])
def test_one_class_cannot_be_learned_from(label: bool) -> None:
    given = rows()
    given.is_positive[:] = label
    with pytest.raises(SentinelError) as caught:
        fit_linear(given, ModelSettings())
    assert caught.value.code is ErrorCode.TRAINING_ONE_CLASS
    assert caught.value.at == "train"


def test_the_fallback_answers_what_scikit_learn_answers_where_nothing_is_clipped() -> None:
    """Inside the clip bounds both are one and the same logistic regression."""
    given = rows()
    model = fit_linear(given, ModelSettings(fallback_strength=1e6))
    standard = StandardScaler().fit(given.values)
    rival = LogisticRegression(C=1e6, max_iter=2_000).fit(
        standard.transform(given.values), given.is_positive
    )
    inside = (np.abs(standard.transform(given.values)) < 1.5).all(axis=1)
    expected = rival.predict_proba(standard.transform(given.values[inside]))[:, 1]
    actual = model.scores(given.values[inside])
    assert np.abs(expected - actual).max() < 0.02
    assert roc_auc_score(given.is_positive, model.scores(given.values)) > 0.85


def test_a_column_without_spread_has_no_say() -> None:
    given = rows()
    given.values[:, 2] = 5.0
    model = fit_linear(given, ModelSettings())
    assert model.coefficients[2] == 0.0
    changed = given.values.copy()
    changed[:, 2] = 1e30
    np.testing.assert_array_equal(model.scores(changed), model.scores(given.values))


def test_one_wild_value_moves_a_score_no_further_than_the_tail() -> None:
    given = rows()
    model = fit_linear(given, ModelSettings())
    wild = given.values[:1].copy()
    wild[0, 1] = 1e30
    tail = given.values[:1].copy()
    tail[0, 1] = given.values[:, 1].max() * 10
    assert model.scores(wild) == model.scores(tail)


def test_the_same_rows_give_the_same_numbers() -> None:
    first, second = (fit_linear(rows(), ModelSettings()) for _ in range(2))
    assert first.to_data() == second.to_data()
