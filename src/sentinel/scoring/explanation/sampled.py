"""Sampled Shapley values of any model, from its scores alone, with a stated error.

1. A *chain* starts at a background row and takes over the features of the explained row one after
   the other, in a random order. What a step changes in the log-odds is the contribution of its
   feature in that order.
2. The value of a feature is the mean over all chains. Every order is walked forwards and
   backwards from the same background row (antithetic pairs), every background row equally often,
   so the values of a row always add up to its log-odds less the mean of the background's.
3. The error is the standard error of that mean over the pairs, of the feature where it is largest.

The orders are drawn once, from a fixed seed: the same row gets the same explanation.

Source: Mitchell et al., "Sampling Permutations for Shapley Value Estimation", JMLR 23, 2022.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Predict = Callable[[Float32Array], npt.NDArray[np.floating]]

SEED = 20_240_517


class SampledExplainer:
    """Shapley values by antithetic permutations.

    Parameters
    ----------
    predict : callable
        Rows to scores in [0, 1].
    background : ndarray of float32, shape (n_background, n_features)
        Rows of normal traffic.
    n_pairs : int
        Pairs of chains, at least one for every background row; rounded up to a multiple.

    Attributes
    ----------
    base : float
        Mean log-odds of the background.

    Raises
    ------
    SentinelError
        ``explanation-invalid`` without a background row.
    """

    def __init__(
        self,
        predict: Predict,
        background: Float32Array,
        *,
        n_pairs: int = limits.EXPLANATION_PAIRS_DEFAULT,
    ) -> None:
        if background.ndim != 2 or not len(background) or not np.isfinite(background).all():
            raise SentinelError(
                ErrorCode.EXPLANATION_INVALID,
                at="explanation.background",
                expected="finite rows",
                got=f"shape {background.shape}",
            )
        self._predict = predict
        self._background = background
        n_background, n_features = background.shape
        rounds = max(1, -(-n_pairs // n_background))
        generator = np.random.default_rng(SEED)
        self._orders = np.stack(
            [generator.permutation(n_features) for _ in range(rounds * n_background)]
        )
        self._starts = np.tile(np.arange(n_background), rounds)
        self.base = float(self._log_odds(background).mean())

    def explain(self, values: Float32Array) -> Float64Array:
        """Explain rows; shape (n_rows, n_features), log-odds."""
        return self.explain_with_error(values)[0]

    def explain_with_error(self, values: Float32Array) -> tuple[Float64Array, Float64Array]:
        """Explain rows, and say how far the sampling may be off.

        Returns
        -------
        contributions : ndarray of float64, shape (n_rows, n_features)
        error : ndarray of float64, shape (n_rows,)
            Largest standard error of the row's contributions.
        """
        found = [self._explain_row(row) for row in values]
        contributions = np.stack([row for row, _ in found])
        return contributions, np.array([error for _, error in found])

    def _explain_row(self, row: Float32Array) -> tuple[Float64Array, float]:
        orders, starts = self._orders, self._background[self._starts]
        pairs = (self._chains(row, starts, orders) + self._chains(row, starts, orders[:, ::-1])) / 2
        spread = pairs.std(axis=0, ddof=1) if len(pairs) > 1 else np.zeros(len(row))
        return pairs.mean(axis=0), float((spread / np.sqrt(len(pairs))).max())

    def _chains(
        self, row: Float32Array, starts: Float32Array, orders: npt.NDArray[np.int64]
    ) -> Float64Array:
        """Walk a chain from each start; shape (n_chains, n_features)."""
        n_chains, n_features = orders.shape
        place = np.empty_like(orders)
        np.put_along_axis(place, orders, np.arange(n_features)[None, :], axis=1)
        # Step s of a chain has the row's value in the features whose place is below s.
        taken = place[:, None, :] < np.arange(n_features + 1)[None, :, None]
        rows = np.where(taken, row, starts[:, None, :]).reshape(-1, n_features)
        raw = self._log_odds(np.ascontiguousarray(rows, dtype=np.float32))
        steps = np.diff(raw.reshape(n_chains, n_features + 1), axis=1)
        result: Float64Array = np.take_along_axis(steps, place, axis=1)
        return result

    def _log_odds(self, rows: Float32Array) -> Float64Array:
        parts = [
            np.asarray(self._predict(rows[at : at + limits.SCORE_ROWS_MAX]), dtype=np.float64)
            for at in range(0, len(rows), limits.SCORE_ROWS_MAX)
        ]
        return log_odds(np.concatenate(parts))


def log_odds(scores: Float64Array) -> Float64Array:
    """Return the log-odds of probabilities, kept finite at 0 and 1.

    Examples
    --------
    >>> log_odds(np.array([0.5])).tolist()
    [0.0]
    """
    smallest = float(np.finfo(np.float32).tiny)
    # 1 - p has no float32 number below half a unit of the last place.
    inside = np.clip(scores, smallest, 1.0 - float(np.finfo(np.float32).epsneg) / 2)
    result: Float64Array = np.log(inside) - np.log1p(-inside)
    return result
