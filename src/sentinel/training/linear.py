"""Fit the fallback: a logistic regression over standardised, clipped features.

1. Centre and scale are the mean and the standard deviation of the training part, and of nothing
   else; a column without spread gets scale 1 and coefficient 0.
2. Standardised values are clipped at the training part's 0.1 % and 99.9 % quantiles (and never
   further out than ten deviations), so that one wild value cannot outvote the others.
3. scikit-learn fits coefficients with a squared penalty (L-BFGS), in float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.fallback import CLIP_DEFAULT, LinearFallback
from sentinel.training.extras import require
from sentinel.training.rows import LabelledRows
from sentinel.training.settings import ModelSettings

Float64Array = npt.NDArray[np.float64]

_TAIL = 0.001
_ITERATIONS_MAX = 2_000


def fit_linear(rows: LabelledRows, settings: ModelSettings) -> LinearFallback:
    """Fit a logistic regression as the data of a fallback.

    Parameters
    ----------
    rows : LabelledRows
        The training part.
    settings : ModelSettings
        ``fallback_strength`` and nothing else is used: the fit draws no random number.

    Returns
    -------
    LinearFallback

    Raises
    ------
    SentinelError
        ``extra-missing``, ``training-one-class``, ``training-not-finite``.
    """
    library = require("sklearn.linear_model")
    rows.check("train")
    values = rows.values.astype(np.float64)
    centre = values.mean(axis=0)
    spread = values.std(axis=0)
    has_spread = spread > np.finfo(np.float32).eps * np.maximum(np.abs(centre), 1e-30)
    scale = np.where(has_spread, spread, 1.0)
    standard = (values - centre) / scale
    lower, upper = _clip_bounds(standard)
    np.clip(standard, lower, upper, out=standard)
    standard[:, ~has_spread] = 0.0
    model = library.LogisticRegression(C=settings.fallback_strength, max_iter=_ITERATIONS_MAX)
    model.fit(standard, rows.is_positive)
    coefficients: Float64Array = np.where(has_spread, model.coef_[0], 0.0)
    intercept = float(model.intercept_[0])
    if not (np.isfinite(coefficients).all() and np.isfinite(intercept)):
        raise SentinelError(
            ErrorCode.TRAINING_NOT_FINITE,
            at="fallback",
            expected="finite coefficients",
            got=coefficients,
            hint="Nothing was saved.",
        )
    return LinearFallback(
        features=rows.names,
        centre=centre,
        scale=scale,
        coefficients=coefficients,
        lower=lower,
        upper=upper,
        intercept=intercept,
    )


def _clip_bounds(standard: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Quantiles of the tails, at least one deviation from the centre, at most ten."""
    low, high = np.quantile(standard, [_TAIL, 1 - _TAIL], axis=0)
    lower: Float64Array = np.clip(low, -CLIP_DEFAULT, -1.0)
    upper: Float64Array = np.clip(high, 1.0, CLIP_DEFAULT)
    return lower, upper
