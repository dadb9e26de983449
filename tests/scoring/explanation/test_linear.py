"""Linear explanations: exact terms from the training mean."""

from __future__ import annotations

import numpy as np

from sentinel.scoring.explanation import LinearExplainer, is_additive
from sentinel.scoring.fallback import LinearFallback


def test_contributions_add_up_to_the_score_that_the_fallback_serves() -> None:
    """Clipped features, and a reference point outside of the clip."""
    rng = np.random.default_rng(3)
    model = LinearFallback(
        features=("a", "b", "c"),
        centre=np.array([1.0, -2.0, 0.0]),
        scale=np.array([2.0, 0.5, 1.0]),
        coefficients=np.array([1.5, -0.5, 2.0]),
        lower=np.array([-1.0, -2.0, 0.5]),
        upper=np.array([1.0, 2.0, 3.0]),
        intercept=-0.3,
    )
    explainer = LinearExplainer(model)
    values = rng.normal(0, 3, (100, 3)).astype(np.float32)
    explained = explainer.explain(values).sum(axis=1) + explainer.base
    for number, score in zip(explained.tolist(), model.scores(values).tolist(), strict=True):
        assert is_additive(number, score)
    assert not explainer.explain(np.array([[1.0, -2.0, 0.0]], dtype=np.float32)).any()
