"""The fallback: a logistic regression that is arithmetic in this process and calls nothing.

1. ``z_j = clip((x_j - centre_j) / scale_j, lower_j, upper_j)`` in float64.
2. ``r = intercept + sum of coefficient_j * z_j``, summed in the order of the features, so that
   the sum of a row does not depend on the batch it came in.
3. ``score = 1 / (1 + exp(-r))``, rounded to float32.

Coefficients, centres, scales and bounds are finite and the sum of the largest terms is checked to
be finite once, so a finite row always has a finite score in [0, 1]: it cannot fail over again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

Float64Array = npt.NDArray[np.float64]


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data form, field by field."""

    features: list[str]
    centre: list[float]
    scale: list[float]
    coefficients: list[float]
    lower: list[float]
    upper: list[float]
    intercept: float


# Standardised inputs beyond ten deviations say "far out" and nothing more: the clip keeps one
# wild value from outvoting all others.
CLIP_DEFAULT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearFallback:
    """A linear model over standardised, clipped features.

    Attributes
    ----------
    features : tuple of str
        Feature names, in the order of the columns.
    centre, scale, coefficients, lower, upper : ndarray of float64, shape (n_features,)
        All finite; ``scale`` above 0, ``lower`` below ``upper``.
    intercept : float

    Raises
    ------
    SentinelError
        ``fallback-invalid`` at the first array that is wrong.

    Examples
    --------
    >>> model = LinearFallback.of(("a",), centre=[1.0], scale=[2.0], coefficients=[0.0])
    >>> model.scores(np.array([[7.0]], dtype=np.float32))
    array([0.5])
    """

    features: tuple[str, ...]
    centre: Float64Array
    scale: Float64Array
    coefficients: Float64Array
    lower: Float64Array
    upper: Float64Array
    intercept: float

    def __post_init__(self) -> None:
        """Refuse what could ever give a score that is no probability."""
        n_features = len(self.features)
        if not 1 <= n_features <= limits.FEATURES_MAX:
            raise _invalid("features", f"1 to {limits.FEATURES_MAX} features", n_features)
        if len(set(self.features)) != n_features:
            raise _invalid("features", "distinct names", "a name twice")
        for name in ("centre", "scale", "coefficients", "lower", "upper"):
            array: Float64Array = getattr(self, name)
            if array.dtype != np.float64 or array.shape != (n_features,):
                raise _invalid(name, f"{n_features} float64 numbers", array.shape)
            if not np.isfinite(array).all():
                raise _invalid(name, "finite numbers", array[~np.isfinite(array)][0])
        if not np.isfinite(self.intercept):
            raise _invalid("intercept", "a finite number", self.intercept)
        # A scale far below float32's smallest difference could make (x - centre) / scale infinite;
        # infinity is clipped like any large number, so only its sign matters.
        if not (self.scale > 0).all():
            raise _invalid("scale", "numbers above 0", self.scale.min())
        if not (self.lower < self.upper).all():
            raise _invalid("lower", "numbers below upper", self.lower.max())
        with np.errstate(over="ignore"):
            widest = np.abs(self.coefficients) * np.maximum(np.abs(self.lower), np.abs(self.upper))
            total = widest.sum() + abs(self.intercept)
        if not np.isfinite(total):
            raise _invalid("coefficients", "a sum of largest terms that is finite", total)

    @classmethod
    def of(
        cls,
        features: Sequence[str],
        *,
        centre: Sequence[float] | Float64Array,
        scale: Sequence[float] | Float64Array,
        coefficients: Sequence[float] | Float64Array,
        intercept: float = 0.0,
        clip: float = CLIP_DEFAULT,
    ) -> LinearFallback:
        """Build one with the same clip bounds, ``-clip`` to ``clip``, for every feature."""
        n_features = len(features)
        return cls(
            features=tuple(features),
            centre=np.array(centre, dtype=np.float64),
            scale=np.array(scale, dtype=np.float64),
            coefficients=np.array(coefficients, dtype=np.float64),
            lower=np.full(n_features, -clip),
            upper=np.full(n_features, clip),
            intercept=float(intercept),
        )

    def to_data(self) -> dict[str, object]:
        """Return plain data: what ``fallback.json`` holds."""
        return {
            "features": list(self.features),
            "centre": self.centre.tolist(),
            "scale": self.scale.tolist(),
            "coefficients": self.coefficients.tolist(),
            "lower": self.lower.tolist(),
            "upper": self.upper.tolist(),
            "intercept": self.intercept,
        }

    @classmethod
    def from_data(cls, data: object) -> LinearFallback:
        """Build one from plain data; the same numbers to the last bit.

        Raises
        ------
        SentinelError
            ``fallback-invalid`` for a missing or unknown key, a wrong type, a wrong number.
        """
        try:
            plain = msgspec.convert(data, _Data)
        except msgspec.ValidationError as error:
            raise _invalid("", "features, centre, scale, coefficients, …", error) from error
        return cls(
            features=tuple(plain.features),
            centre=np.array(plain.centre, dtype=np.float64),
            scale=np.array(plain.scale, dtype=np.float64),
            coefficients=np.array(plain.coefficients, dtype=np.float64),
            lower=np.array(plain.lower, dtype=np.float64),
            upper=np.array(plain.upper, dtype=np.float64),
            intercept=plain.intercept,
        )

    def scores(self, values: npt.NDArray[np.float32]) -> Float64Array:
        """Score rows; O(n_rows * n_features), no allocation beyond two columns.

        Parameters
        ----------
        values : ndarray of float32, shape (n_rows, n_features)
            Columns in the order of ``features``. Finite rows get a finite score; a row with NaN
            gets NaN, and is the caller's to hold.

        Returns
        -------
        ndarray of float64, shape (n_rows,)
            float32 numbers in [0, 1].
        """
        raw = np.full(len(values), self.intercept, dtype=np.float64)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for j in range(len(self.features)):
                standard = (values[:, j].astype(np.float64) - self.centre[j]) / self.scale[j]
                np.clip(standard, self.lower[j], self.upper[j], out=standard)
                standard *= self.coefficients[j]
                raw += standard
            small = np.exp(-np.abs(raw))
            scores = np.where(raw >= 0, 1.0, small) / (1.0 + small)
            # Subnormal float32 numbers are outside of what may leave: they become 0.
            rounded = scores.astype(np.float32)
            rounded[rounded < np.finfo(np.float32).tiny] = 0.0
        return rounded.astype(np.float64)


def _invalid(name: str, expected: str, got: object) -> SentinelError:
    at = f"fallback.{name}" if name else "fallback"
    return SentinelError(ErrorCode.FALLBACK_INVALID, at=at, expected=expected, got=got)
