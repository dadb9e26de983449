"""Sampled explanations: they add up always, and are right within the error that they state."""

from __future__ import annotations

import numpy as np
import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.explanation import SampledExplainer
from sentinel.scoring.explanation.sampled import log_odds


def smooth(rows: np.ndarray) -> np.ndarray:
    raw = rows[:, 0] * rows[:, 1] - np.tanh(rows[:, 2]) + 0.2 * rows[:, 3]
    return 1 / (1 + np.exp(-raw.astype(np.float64)))


BACKGROUND = np.random.default_rng(1).normal(0, 1, (8, 4)).astype(np.float32)
ROWS = np.random.default_rng(2).normal(0, 1, (5, 4)).astype(np.float32)


def test_contributions_add_up_and_are_the_same_every_time() -> None:
    """Orders are drawn once."""
    explainer = SampledExplainer(smooth, BACKGROUND, n_pairs=16)
    found, error = explainer.explain_with_error(ROWS)
    assert np.allclose(found.sum(axis=1) + explainer.base, log_odds(smooth(ROWS)), atol=1e-9)
    assert (error > 0).all()
    assert np.array_equal(found, SampledExplainer(smooth, BACKGROUND, n_pairs=16).explain(ROWS))


def test_the_stated_error_holds_the_exact_values() -> None:
    """Many more pairs move no value by more than a few of the stated errors."""
    few, error = SampledExplainer(smooth, BACKGROUND, n_pairs=32).explain_with_error(ROWS)
    many = SampledExplainer(smooth, BACKGROUND, n_pairs=4_000).explain(ROWS)
    assert (np.abs(few - many).max(axis=1) <= 4 * error).all()


def test_a_linear_model_is_explained_exactly_but_for_rounding() -> None:
    """Without interactions every order says the same."""

    def linear(rows: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(rows.astype(np.float64) @ np.array([1.0, -2.0, 0.5, 0.0]))))

    found = SampledExplainer(linear, BACKGROUND, n_pairs=8).explain(ROWS)
    expected = (ROWS - BACKGROUND.mean(axis=0)) * np.array([1.0, -2.0, 0.5, 0.0])
    assert np.allclose(found, expected, atol=1e-5)


def test_scores_at_the_ends_have_finite_log_odds() -> None:
    """0 and 1 are scores too."""
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize("bad", [np.zeros((0, 4)), np.full((2, 4), np.nan), np.zeros(4)])
def test_a_background_without_rows_is_refused(bad: np.ndarray) -> None:
    """There is nothing to start from."""
    with pytest.raises(SentinelError) as caught:
        SampledExplainer(smooth, bad.astype(np.float32))
    assert caught.value.code is ErrorCode.EXPLANATION_INVALID
    assert caught.value.at == "explanation.background"
