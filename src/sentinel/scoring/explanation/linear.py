"""Exact Shapley values of linear models: each term less what it is at the training mean.

For ``r = intercept + sum of coefficient_j * clip((x_j - centre_j) / scale_j)`` the features do not
interact, so a feature's value is its term less the term at the reference point. That point is the
centre, the mean of the training part, where every standardised feature is 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.scoring.fallback import LinearFallback

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


class LinearExplainer:
    """Exact contributions of a linear model over standardised, clipped features.

    Parameters
    ----------
    model : LinearFallback
        Bounds of infinite size stand for a model that does not clip.

    Attributes
    ----------
    base : float
        Log-odds at the training mean.

    Examples
    --------
    >>> model = LinearFallback.of(("a",), centre=[1.0], scale=[2.0], coefficients=[3.0])
    >>> LinearExplainer(model).explain(np.array([[7.0]], dtype=np.float32)).tolist()
    [[9.0]]
    """

    def __init__(self, model: LinearFallback) -> None:
        self._model = model
        self._at_mean = model.coefficients * np.clip(0.0, model.lower, model.upper)
        self.base = model.intercept + float(self._at_mean.sum())

    def explain(self, values: Float32Array) -> Float64Array:
        """Explain rows; shape (n_rows, n_features), log-odds."""
        model = self._model
        with np.errstate(over="ignore"):
            standard = (values.astype(np.float64) - model.centre) / model.scale
        result: Float64Array = (
            np.clip(standard, model.lower, model.upper) * model.coefficients - self._at_mean
        )
        return result
